"""The compiled loops over tensors that they can read. Imports Numba when the first loop is wanted, and not before."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import paths
from ..plain import FURTHER, KINDS, LIKELIHOODS, Wanted
from ..reading import Rules
from . import codes

if TYPE_CHECKING:
    from .runtime import Loop

DTYPES = {getattr(torch, name): code for code, name in enumerate(codes.DTYPES)}
ACTIVATIONS = {None: codes.PROBABILITIES, "sigmoid": codes.SIGMOID, "softmax": codes.SOFTMAX}
LARGEST_INDEX = 2**24  # labels are compared as float32
ELEMENTS = 2**16  # that a thread takes on at a time
LARGEST_GAMMA = 5.0  # a float32 logarithm times a larger one loses digits

FEWEST_TO_SORT, MOST_TO_SORT = 2**10, 2**31  # a shorter row is sorted before its digits are counted

_loops: dict[tuple[str, torch.dtype], Loop] = {}
_lock = threading.RLock()  # Numba compiles one function at a time, and its first import has to end before a second


def loop_of(name: str, dtype: torch.dtype) -> Loop | None:
    """Return a loop that computes in a type, or None where it cannot be compiled."""
    found = _loops.get((name, dtype))
    if found is None:
        with _lock:
            found = _loops.get((name, dtype))
            if found is None and paths.kernels_available():
                try:
                    found = _loops[name, dtype] = compiled(name, dtype)
                except Exception as error:  # Numba, LLVM and NumPy have many ways of not fitting together
                    paths.kernels_are_broken(error)
    return found


def compiled(name: str, dtype: torch.dtype) -> Loop:
    """Compile a loop, or read it from disk."""
    import numpy as np
    from numba import config

    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    from . import memory, parts, sorting, walk
    from .runtime import Loop, link

    real = np.float64 if dtype == torch.float64 else np.float32
    for part, function in memory.FUNCTIONS.items():
        if (part, dtype) not in _loops:
            _loops[part, dtype] = link(part, function, real)
    return Loop({**walk.LOOPS, **sorting.LOOPS, **parts.LOOPS}[name](real), f"{name}_{np.dtype(real)}")


def readable(*tensors: Tensor | None) -> bool:
    """Return whether tensors have memory on the processor that loops can read.

    Raises:
        RuntimeError: when the memory of one was freed.
    """
    for x in tensors:
        if x is None:
            continue
        if type(x) not in (Tensor, torch.nn.Parameter) or x.device.type != "cpu" or x.layout != torch.strided:
            return False
        if x.dtype not in DTYPES or x.is_neg() or x.is_conj():  # whose memory holds the opposite
            return False
        if x.numel() and x.untyped_storage().nbytes() < x.element_size() * (x.storage_offset() + 1 + reach(x)):
            raise RuntimeError("a tensor that the loss needs has no memory any more: its storage was resized.")
    return True


def reach(x: Tensor) -> int:
    """Return how far the last element of a tensor is behind the first one, in elements."""
    return sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))


def fits(rules: Rules, wanted: Wanted, *tensors: Tensor | None) -> bool:
    """Return whether the loops can compute this, and are there."""
    powers = wanted.likelihood != "focal" or wanted.gamma == 0 or 1 <= wanted.gamma <= LARGEST_GAMMA
    roots = wanted.likelihood != "power" or 0 < wanted.gamma <= 1
    index = rules.ignore_index
    small = (index is None or abs(index) < LARGEST_INDEX) and rules.channels < LARGEST_INDEX
    return powers and roots and small and paths.kernels_available() and readable(*tensors)


def sums(
    rules: Rules,
    wanted: Wanted,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
) -> tuple[Tensor, tuple[float, float, float]] | None:
    """Return :func:`..plain.sums`, and how many values of target, weights and input are out of range.

    None where that cannot be compiled.
    """
    pair = is_pair(rules, wanted, mask, classes)
    batch, channels = input.shape[:2]
    classwise, pieces = 1 if pair else channels, pieces_of(input)
    shares = torch.zeros(pieces, classwise, codes.ROWS, dtype=torch.float64, device="cpu")
    call = Call(rules, wanted, pair, codes.WEIGHED, input, target, mask, classes)
    call.numbers[codes.SUMS] = shares.data_ptr()
    if not call.run("sums", shares):
        return None
    total = shares.view(batch, -1, classwise, codes.ROWS).sum(1).permute(2, 0, 1)
    bad = total[codes.BAD_TARGET :].sum((1, 2)).tolist()
    total = total[:KINDS]
    if wanted.further is None and not pair:
        total[codes.FIRST] = 0
    return (both_of_pair(total) if pair else total.contiguous()), (bad[0], bad[1], bad[2])


def gradient(
    rules: Rules,
    wanted: Wanted,
    upstream: Tensor,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
) -> Tensor | None:
    """Return :func:`..plain.gradient`, or None where that cannot be compiled."""
    pair = is_pair(rules, wanted, mask, classes)
    upstream = upstream.to(torch.float64)
    if pair:
        upstream = of_second(upstream)
    upstream = upstream.transpose(0, 1).contiguous()  # (B, KINDS, C)
    unused = torch.zeros(pieces_of(input), codes.ROWS, dtype=torch.float64, device="cpu")
    out = torch.empty_like(input)
    call = Call(rules, wanted, pair, codes.UNCHECKED, input, target, mask, classes, out)
    call.numbers[codes.UPSTREAM], call.numbers[codes.SUMS] = upstream.data_ptr(), unused.data_ptr()
    return out if call.run("gradient", upstream, unused) else None


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
) -> tuple[Tensor, tuple[float, float, float]] | None:
    """Return :func:`..plain.values`, and what :func:`sums` returns beside the sums."""
    batch, channels, *space = input.shape
    dtype = torch.promote_types(input.dtype, torch.float32)
    out = torch.empty(batch, 1 if exclusive else channels, *space, dtype=dtype, device="cpu")
    inside, outside = (x.to(torch.float64).expand(batch, channels).contiguous() for x in (inside, outside))
    shares = torch.zeros(pieces_of(input), channels, codes.ROWS, dtype=torch.float64, device="cpu")
    call = Call(rules, wanted, False, codes.WEIGHED, input, target, mask, classes, out)
    call.numbers[codes.INNER_FACTORS], call.numbers[codes.OUTER_FACTORS] = inside.data_ptr(), outside.data_ptr()
    call.numbers[codes.SUMS], call.numbers[codes.EXCLUSIVE] = shares.data_ptr(), int(exclusive)
    if not call.run("values", inside, outside, shares):
        return None
    bad = shares[..., codes.BAD_TARGET :].sum((0, 1)).tolist()
    return out, (bad[0], bad[1], bad[2])


def lovasz(
    errors: Tensor, target: Tensor, mask: Tensor | None, labels: bool, first: int, penalize: bool
) -> tuple[Tensor, Tensor] | None:
    """Return :func:`..sorting.lovasz`, or None where that cannot be compiled."""
    errors = errors.contiguous()
    batch, channels, count = errors.shape
    slopes = torch.empty_like(errors)
    results = torch.empty(batch, channels, 3, dtype=torch.float64, device="cpu")
    threads = min(torch.get_num_threads(), batch * channels)
    shares = not labels and target.is_floating_point()
    numbers, rows = [0] * codes.TENSORS, 3 + int(shares) + int(mask is not None)
    size = (rows * count + 1) // 2 * 2 + codes.BLOCK_OF_FEW + 2 * codes.DIGIT_STARTS
    scratch = torch.empty(threads * size, dtype=torch.float32, device="cpu")
    numbers[codes.COUNT], numbers[codes.STEP] = batch * channels, 1
    numbers[codes.BATCH], numbers[codes.CHANNELS], numbers[codes.VOXELS] = batch, channels, count
    numbers[codes.MIDDLE], numbers[codes.INNER], numbers[codes.BLOCK] = 1, count, codes.BLOCK_OF_FEW
    numbers[codes.SCRATCH], numbers[codes.LABELS], numbers[codes.FIRST_CLASS] = scratch.data_ptr(), int(labels), first
    numbers[codes.PENALIZE], numbers[codes.SHARES_AT_HAND], numbers[codes.WORK_ROWS] = int(penalize), int(shares), rows
    numbers[codes.WEIGHTS] = codes.NO_WEIGHTS if mask is None else codes.WEIGHED
    numbers[codes.ERRORS_AT], numbers[codes.SLOPES_AT] = errors.data_ptr(), slopes.data_ptr()
    numbers[codes.RESULTS] = results.data_ptr()
    for x in (errors, target, errors if mask is None else mask, slopes):
        numbers += record(x)
    loop = loop_of("lovasz", torch.float32)
    if loop is None:
        return None
    from .runtime import call

    call(loop, numbers, threads, (errors, target, mask, slopes, results, scratch))
    return slopes, results


def part_sums(
    input: Tensor,
    parts: Tensor,
    mask: Tensor | None,
    activation: str | None,
    first: int,
    most: int,
    nearest: bool,
    entropy: bool,
) -> Tensor | None:
    """Return :func:`..segments.sums_of_parts`, or None where that cannot be compiled."""
    call = call_of_parts(input, parts, mask, activation, first, most, nearest, entropy)
    blocks = -(-math.prod(input.shape[2:]) // call.numbers[codes.BLOCK])
    strip = -(-blocks // codes.STRIPS) * call.numbers[codes.BLOCK]
    strips = -(-math.prod(input.shape[2:]) // strip)
    shape = (input.shape[0], strips, parts.shape[1], 2 * most + 1, codes.OF_PART)
    tables = torch.zeros(shape, dtype=torch.float64, device="cpu")
    call.numbers[codes.STRIP], call.numbers[codes.SUMS] = strip, tables.data_ptr()
    if not call.run("part_sums", tables, pieces=input.shape[0] * strips):
        return None
    return tables.sum(1).permute(3, 0, 1, 2)[: 2 + int(entropy)].contiguous()


def part_gradient(
    upstream: Tensor,
    input: Tensor,
    parts: Tensor,
    mask: Tensor | None,
    activation: str | None,
    first: int,
    most: int,
    nearest: bool,
    entropy: bool,
) -> Tensor | None:
    """Return the gradient of the input, given that of :func:`part_sums`; None where it cannot be compiled."""
    out = torch.empty_like(input)
    call = call_of_parts(input, parts, mask, activation, first, most, nearest, entropy, out)
    slopes = upstream[1:].to(call.real).contiguous()  # (1 or 2, B, C - first, 2 most + 1)
    call.numbers[codes.UPSTREAM] = slopes.data_ptr()
    return out if call.run("part_gradient", slopes) else None


def call_of_parts(
    input: Tensor,
    parts: Tensor,
    mask: Tensor | None,
    activation: str | None,
    first: int,
    most: int,
    nearest: bool,
    entropy: bool,
    out: Tensor | None = None,
) -> Call:
    """Return a call of the loops over parts, which stand in the target's place."""
    rules = Rules(False, input.shape[1], None, activation)  # type: ignore[arg-type]
    pair = activation == "softmax" and input.shape[1] == 2
    call = Call(rules, Wanted(), pair, codes.WEIGHED, input, parts, mask, None, out)
    call.numbers[codes.FIRST_CLASS], call.numbers[codes.MOST_PARTS] = first, most
    call.numbers[codes.NEAREST], call.numbers[codes.ENTROPY] = int(nearest), int(entropy)
    return call


def is_pair(rules: Rules, wanted: Wanted, mask: Tensor | None, classes: Tensor | None) -> bool:
    """Return whether one class of two tells all of the other: p of one is 1 - p of the other."""
    return (
        rules.activation == "softmax"
        and rules.channels == 2
        and rules.labels
        and classes is None
        and wanted.further in (None, "negatives")
        and not rules.weighs_channels(mask)
    )


def both_of_pair(sums: Tensor) -> Tensor:
    """Return the sums of two classes that exclude each other, (KINDS, B, 2), from the second's, (KINDS, B, 1)."""
    n, g, tp, fp, fn, tn, nothing, inside, outside = sums
    first = torch.stack([n, n - g, tn, fn, fp, tp, nothing, outside, nothing])
    return torch.cat([first, torch.stack([n, g, tp, fp, fn, tn, nothing, inside, nothing])], 2)


def of_second(upstream: Tensor) -> Tensor:
    """Return the gradient of the sums of the second of two classes, where those of the first are made of them."""
    _, _, tp, fp, fn, tn, _, inside, _ = upstream
    zero = torch.zeros_like(tp[:, :1])
    first, second = (lambda x: x[:, :1]), (lambda x: x[:, 1:])
    rows = [
        zero,
        zero,
        second(tp) + first(tn),
        second(fp) + first(fn),
        second(fn) + first(fp),
        second(tn) + first(tp),
        zero,
        second(inside),
        first(inside),
    ]
    return torch.cat([torch.zeros_like(upstream[:, :, :1]), torch.stack(rows)], 2)


class Call:
    """A call of a loop of the walk: the numbers that describe it, and what they hold addresses of."""

    def __init__(
        self,
        rules: Rules,
        wanted: Wanted,
        pair: bool,
        weighed: int,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None,
        classes: Tensor | None,
        out: Tensor | None = None,
    ) -> None:
        batch, channels, *space = input.shape
        self.input, self.real = input, torch.promote_types(input.dtype, torch.float32)
        self.classes = None if classes is None else classes.contiguous()
        self.tensors = (input, target, input if mask is None else mask, input if out is None else out)
        self.keeps = mask
        block = codes.BLOCK_OF_FEW if channels <= codes.FEW else codes.BLOCK_OF_MANY
        self.numbers = numbers = [0] * codes.TENSORS
        numbers[codes.BATCH], numbers[codes.CHANNELS], numbers[codes.VOXELS] = batch, channels, math.prod(space)
        numbers[codes.MIDDLE], numbers[codes.INNER] = space[-2] if len(space) > 1 else 1, space[-1]
        numbers[codes.BLOCK] = block
        numbers[codes.ACTIVATION] = codes.PAIR if pair else ACTIVATIONS[rules.activation]  # type: ignore[index]
        numbers[codes.LABELS] = int(rules.labels)
        if wanted.counts:
            numbers[codes.COUNTS] = codes.PRODUCTS if wanted.products else codes.SHARED
        # Of a pair the counts of the first class need the second's true negatives.
        further = "negatives" if pair and wanted.counts else wanted.further
        numbers[codes.FURTHER] = FURTHER.index(further)
        numbers[codes.LIKELIHOOD] = LIKELIHOODS.index(wanted.likelihood)
        if wanted.likelihood == "focal" and wanted.gamma == 0:
            numbers[codes.LIKELIHOOD] = codes.CROSS_ENTROPY
        (numbers[codes.GAMMA],) = struct.unpack("q", struct.pack("d", wanted.gamma))
        if rules.ignore_index is not None:
            numbers[codes.IGNORING] = codes.A_VALUE if rules.ignores_values else codes.A_CHANNEL
            numbers[codes.IGNORED] = rules.ignore_index
        if mask is not None:
            numbers[codes.WEIGHTS] = codes.SIGNED if rules.signed else weighed
        if self.classes is not None and rules.activation == "softmax":
            numbers[codes.MERGING], numbers[codes.CLASSES] = 1, self.classes.data_ptr()
        for x in self.tensors:
            numbers += record(x)
        if mask is None:
            numbers[codes.TENSORS + codes.RECORD * codes.WEIGHT + codes.WIDTH] = 0

    def run(self, name: str, *alive: Tensor, pieces: int | None = None) -> bool:
        """Run a loop over all pieces, or so many; return False where it cannot be compiled."""
        loop = loop_of(name, self.real)
        if loop is None:
            return False
        from .runtime import call

        numbers, count = self.numbers, pieces_of(self.input) if pieces is None else pieces
        shares = max(1, min(count, self.input.numel() // ELEMENTS))
        threads = min(torch.get_num_threads(), shares)
        rows = codes.SINGLE_ROWS + 3 * self.input.shape[1]
        scratch = torch.empty(threads * rows * numbers[codes.BLOCK], dtype=self.real, device="cpu")
        numbers[codes.COUNT], numbers[codes.STEP] = count, -(-count // shares)
        numbers[codes.SCRATCH] = scratch.data_ptr()
        call(loop, numbers, threads, (self.tensors, self.classes, scratch, alive))
        return True


def pieces_of(input: Tensor) -> int:
    """Return into how many pieces a volume is cut. It does not depend on the number of threads."""
    return input.shape[0] * -(-math.prod(input.shape[2:]) // codes.PIECE)


def record(x: Tensor) -> Sequence[int]:
    """Return what tells a loop where the elements of a (B, C, *S) are."""
    sizes, strides = tuple(x.shape[2:]), x.stride()[2:]
    sizes, strides = (1,) * (3 - len(sizes)) + tuple(sizes), (0,) * (3 - len(strides)) + tuple(strides)
    # One stride leads from voxel to voxel where each axis begins where the one inside of it ends.
    even, first, step = True, 1, None
    for n, stride in zip(sizes[::-1], strides[::-1], strict=True):
        if n == 1:
            continue
        even = even and (step is None or stride == step)
        first = stride if step is None else first
        step = stride * n
    inner = first if even else strides[2]
    return (x.data_ptr(), DTYPES[x.dtype], x.shape[1], int(even), *x.stride()[:2], strides[0], strides[1], inner)
