"""The Triton kernels over tensors that they can read. Imports Triton when the first one is wanted, and not before."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import paths
from .. import arithmetic, checks
from ..cpu import codes
from ..cpu.kernels import ACTIVATIONS, DTYPES, LARGEST_GAMMA, record
from ..plain import FURTHER, KINDS, LIKELIHOODS, Wanted
from ..reading import Rules

MOST_CHANNELS = 256
TILE = 2048  # numbers of a tile, eight for each thread of a program, which keeps what it makes of them in registers
NARROWEST = 16  # voxels of a tile, or memory would be read in pieces that are too short
WARPS = 8
PROGRAMS = 2048  # at most so many and one a sample, or their sums would take memory
MOST_NUMBERS = 1024  # samples times classes that one program computes with
FAULTS = 6  # the least and the largest value out of range of target, weights and input

Found = tuple[Tensor, Tensor]


def walk() -> ModuleType | None:
    """Return the kernels, or None where Triton does not work."""
    try:
        from . import walk as found
    except Exception as error:  # Triton, torch and a driver have many ways of not fitting together
        paths.triton_is_broken(error)
        return None
    return found


def fits(rules: Rules, wanted: Wanted, input: Tensor, *others: Tensor | None) -> bool:
    """Return whether the kernels can compute this, and are there."""
    powers = wanted.likelihood != "focal" or wanted.gamma == 0 or 1 <= wanted.gamma <= LARGEST_GAMMA
    roots = wanted.likelihood != "power" or 0 < wanted.gamma <= 1
    return powers and roots and takes(input) and all(x is None or readable(x) for x in (input, *others))


def takes(input: Tensor) -> bool:
    """Return whether there are kernels for a device, a type and a number of channels."""
    narrow = input.dtype in (torch.float16, torch.bfloat16, torch.float32)
    return narrow and input.shape[1] <= MOST_CHANNELS and paths.triton_available(input)


def readable(x: Tensor) -> bool:
    """Return whether a tensor's memory holds its values."""
    usual = type(x) in (Tensor, torch.nn.Parameter) and x.layout == torch.strided
    return usual and x.dtype in DTYPES and not (x.is_neg() or x.is_conj())


def sums(
    rules: Rules,
    wanted: Wanted,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
    looks: bool,
) -> Found | None:
    """Return :func:`..plain.sums`, NaN if a value is out of range, and which of target, weights and input holds such.

    Args:
        rules, wanted, input, target, mask, classes: as there.
        looks: whether to look for values out of range, which the next call raises for.
    """
    call = Call(rules, wanted, input, target, mask, classes)
    programs, batch = call.programs, call.batch
    shares = input.new_empty((KINDS, batch, programs, call.channels), dtype=torch.float64)
    faults = call.room_for_faults(looks)
    if not call.run("SUMS", sums_at=shares, faults_at=faults, CHECKS=looks):
        return None
    bad = call.judged(faults)
    if bad is None:
        return None
    out = input.new_empty((KINDS, batch, call.channels), dtype=torch.float64)
    chunk = max(1, min(TILE // call.padded, power_of_two(programs)))
    given = shares, bad if looks else None, out, programs, call.channels, call.padded, chunk
    return (out, bad) if launch("finish", input, KINDS * batch, *given) else None


def gradient(
    rules: Rules,
    wanted: Wanted,
    upstream: Tensor,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
    bad: Tensor | None,
) -> Tensor | None:
    """Return :func:`..plain.gradient`, 0 if a value is out of range, as :func:`sums` has found."""
    out = torch.empty_like(input)
    call = Call(rules, wanted, input, target, mask, classes, out)
    given = {"upstream_at": upstream.to(torch.float64).contiguous(), "bad_at": bad}
    return out if call.run("GRADIENT", **given) else None


def values(
    rules: Rules,
    wanted: Wanted,
    exclusive: bool,
    inside: Tensor,
    outside: Tensor,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
    looks: bool,
) -> Found | None:
    """Return :func:`..plain.values`, and what :func:`sums` returns beside the sums."""
    batch, channels, *space = input.shape
    out = input.new_empty((batch, 1 if exclusive else channels, *space), dtype=torch.float32)
    factors = torch.stack([x.to(torch.float64).expand(batch, channels) for x in (inside, outside)])
    call = Call(rules, wanted, input, target, mask, classes, out)
    faults = call.room_for_faults(looks)
    if not call.run("VALUES", upstream_at=factors, faults_at=faults, EXCLUSIVE=exclusive, CHECKS=looks):
        return None
    bad = call.judged(faults)
    if bad is None or (looks and not launch("spoil", input, -(-out.numel() // TILE), out, bad, out.numel(), TILE)):
        return None
    return out, bad


def compute(program: arithmetic.Program, sums: Tensor, given: Tensor | None, slopes: bool) -> Found | None:
    """Return :func:`..arithmetic.by_torch`, and its slopes by the sums, (KINDS, B, width), or nothing instead."""
    batch, channels = sums.shape[1:]
    size = power_of_two(batch), power_of_two(program.width)
    if size[0] * size[1] > MOST_NUMBERS:
        return None
    out = sums.new_empty(program.shape, dtype=program.dtype)
    of_sums = sums.new_empty((KINDS, batch, program.width) if slopes else 0)
    data = sums, given, out, of_sums if slopes else None, batch, channels, program.width, *(program.shape or (1, 1))
    lines = program.lines, program.constants, len(program.lines) // arithmetic.WORDS
    return (out, of_sums) if launch("compute", sums, 1, *data, *lines, *size) else None


class Call:
    """A call of the walk: what describes it, and the tensors that it reads."""

    def __init__(
        self,
        rules: Rules,
        wanted: Wanted,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None,
        classes: Tensor | None,
        out: Tensor | None = None,
    ) -> None:
        self.rules, self.wanted, self.input, self.mask = rules, wanted, input, mask
        self.batch, self.channels, *space = input.shape
        self.voxels, self.padded = math.prod(space), power_of_two(self.channels)
        block = min(max(NARROWEST, TILE // self.padded), power_of_two(self.voxels))
        tiles = -(-self.voxels // block)
        steps = -(-self.batch * tiles // PROGRAMS)
        self.programs = -(-tiles // steps)
        merges = classes is not None and rules.activation == "softmax"
        focal = wanted.likelihood == "focal" and wanted.gamma != 0
        likelihood = "cross_entropy" if wanted.likelihood == "focal" and not focal else wanted.likelihood
        ignoring = codes.A_VALUE if rules.ignores_values else codes.A_CHANNEL
        self.tensors = {"input": input, "target": target, "weight": mask, "out": out}
        records = [(0,) * codes.RECORD if x is None else record(x) for x in self.tensors.values()]
        self.described: dict[str, Any] = {
            **{f"{name}_at": x for name, x in self.tensors.items()},
            **{
                f"{name}_strides": tuple(told[codes.OF_SAMPLE :])
                for name, told in zip(self.tensors, records, strict=True)
            },
            "classes_at": classes.contiguous() if classes is not None and merges else None,
            **dict.fromkeys(("upstream_at", "bad_at", "sums_at", "faults_at")),
            "batch": self.batch,
            "voxels": self.voxels,
            "middle": space[-2] if len(space) > 1 else 1,
            "inner": space[-1],
            "programs": self.programs,
            "ignored": rules.ignore_index or 0,
            "C": self.channels,
            "CHANNELS": self.padded,
            "BLOCK": block,
            "STEPS": steps,
            "EVEN": tuple(bool(told[codes.EVEN]) for told in records),
            "ACTIVATION": ACTIVATIONS[rules.activation],  # type: ignore[index]
            "LABELS": rules.labels,
            "COUNTS": codes.NO_COUNTS if not wanted.counts else codes.PRODUCTS if wanted.products else codes.SHARED,
            "FURTHER": FURTHER.index(wanted.further),
            "LIKELIHOOD": LIKELIHOODS.index(likelihood),
            "GAMMA": wanted.gamma,
            "IGNORING": codes.NO_IGNORING if rules.ignore_index is None else ignoring,
            "WEIGHTS": codes.NO_WEIGHTS if mask is None else codes.SIGNED if rules.signed else codes.WEIGHED,
            "APART": mask is not None and mask.shape[1] > 1,
            "MERGING": merges,
            "EXCLUSIVE": False,
            "CHECKS": False,
        }

    def run(self, task: str, **given: Any) -> bool:
        """Run the walk; return False where it cannot be compiled."""
        kernels = walk()
        if kernels is None:
            return False
        described = {**self.described, "TASK": getattr(kernels, task).value, **given, "num_warps": WARPS}
        return launch("walk", self.input, self.batch * self.programs, **described)

    def room_for_faults(self, looks: bool) -> Tensor | None:
        """Return memory for what is out of range, if anybody looks."""
        return self.input.new_empty((self.batch * self.programs, FAULTS), dtype=torch.float64) if looks else None

    def judged(self, faults: Tensor | None) -> Tensor | None:
        """Return which of target, weights and input hold values out of range, (3,), for which the next call raises.

        None where that cannot be compiled.
        """
        if faults is None:
            return self.input.new_zeros(3, dtype=torch.float64)
        bad = self.input.new_empty(3, dtype=torch.float64)
        extremes = self.input.new_empty((3, 3), dtype=torch.float64)
        chunk = min(TILE // 8, power_of_two(len(faults)))
        if not launch("judge", self.input, 1, faults, extremes, bad, len(faults), chunk):
            return None
        if not (self.input.is_cuda and torch.cuda.is_current_stream_capturing()):  # a graph tells by NaN alone
            target = replace(checks.of_target(self.rules), whole=self.rules.labels)
            checks.send([target, checks.of_mask(), checks.of_probabilities()], [extremes])
        return bad


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def launch(name: str, like: Tensor, programs: int, /, *args: Any, **named: Any) -> bool:
    """Run programs of a kernel on a tensor's device; return False where it cannot be compiled."""
    kernels = walk()
    if kernels is None:
        return False
    device = torch.cuda.device(like.device) if like.device.type == "cuda" else contextlib.nullcontext()
    try:
        with device:
            # as by default, of which Triton 3.9 warns
            getattr(kernels, name)[(programs,)](*args, **named, enable_fp_fusion=True)
    except Exception as error:  # no compiler of C on this machine, no driver that fits, an older Triton
        paths.triton_is_broken(error)
        return False
    return True
