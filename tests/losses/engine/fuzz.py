"""Random calls of all losses, by kernels and in torch's own operations: ``python -m tests.losses.engine.fuzz``.

With ``--triton`` these are Triton's kernels, on a CPU with ``TRITON_INTERPRET=1``. Each number is one call, the same
on every machine: ``case(7)`` is what ``--seed 7 --cases 1`` runs.
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    DistanceMapCrossEntropyLoss,
    ExponentialLogarithmicLoss,
    HausdorffDistanceLoss,
)
from monai_lossext.losses.paths import plain_path, triton_path

from .. import cases

INPUTS = [torch.float32] * 4 + [torch.float64, torch.float16, torch.bfloat16]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
LAYOUTS = ["contiguous"] * 3 + ["channels last", "crop", "step", "turned", "repeated"]


@dataclass
class Case:
    """One call: a loss, its options and what it is called with."""

    cls: type
    options: dict[str, Any]
    x: Tensor
    target: Any
    mask: Tensor | None
    told: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return what tells this case from others."""
        told = {"input": (self.x.dtype, tuple(self.x.shape)), **self.told}
        return f"{self.cls.__name__}({self.options}) {told}"

    def result(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return value and gradient, weighed at random where there are several values."""
        loss = self.cls(**self.options)

        def weighed(z: Tensor) -> Tensor:
            value = loss(z, self.target, self.mask)
            return value * torch.rand(value.shape, generator=torch.Generator().manual_seed(1)) + 0.5 * value

        return cases.value_and_gradient(weighed, x)


def case(seed: int, cls: type | None = None) -> Case:
    """Return the call of that number, of the losses in turn or of one of them."""
    choose = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    cls = cls or cases.CLASSES[seed % len(cases.CLASSES)]
    spatial = cases.entry_of(cls).spatial
    shape = _shape(choose, spatial)
    b, c, *space = shape
    options, told = _options(choose, cls, c), {}
    softmax = options.get("softmax", False)

    kind = choose.choice(["labels", "labels", "one-hot", "soft"]) if c > 1 else choose.choice(["one-hot", "soft"])
    options["to_onehot_y"] = kind == "labels"
    label = torch.randint(0, choose.randint(1, max(c, 2)), (b, 1, *space), generator=generator)
    target = label if kind == "labels" else cases.one_hot(label, c) if c > 1 else label
    if kind == "soft":
        soft = torch.rand(target.shape, generator=generator).round(decimals=choose.choice([1, 6]))
        target = target * soft if choose.random() < 0.5 else soft
        target = target / target.sum(1, keepdim=True).clamp(min=1) if softmax else target
    if choose.random() < 0.2 and (kind == "labels" or not options.get("multiclass")):
        options["ignore_index"] = choose.choice([0, c - 1, 255, 300, -1])
        if options["ignore_index"] == 255 and kind != "soft":
            away = torch.rand(target.shape, generator=generator) < 0.2
            target = torch.where(away, 255, target.long())
    target = _of_some_dtype(choose, target, kind)

    scale = choose.choice([0.1, 1.0, 4.0, 4.0, 30.0])
    x = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    if choose.random() < 0.15:
        x = x.round()
    if not (softmax or options.get("sigmoid")) and cases.entry_of(cls).activation:
        x = x.softmax(1) if c > 1 else x.sigmoid()
    told["layout"] = choose.choice(LAYOUTS)
    x = _laid_out(x.to(choose.choice(INPUTS)), told["layout"])

    mask = _mask(choose, generator, shape, bool(options.get("multiclass")))
    given: dict[str, Any] = {"label": target}
    if choose.random() < 0.25 and not options.get("multiclass"):
        given["classes"] = torch.rand(b, c, generator=generator) < 0.7
    if cls in (BoundaryDistanceLoss, HausdorffDistanceLoss, DistanceMapCrossEntropyLoss) and choose.random() < 0.6:
        maps = torch.randn(shape, generator=generator).mul(3).to(choose.choice(FLOATS))
        penalties = cls is DistanceMapCrossEntropyLoss
        given["penalty_map" if penalties else "distance_map"] = maps.abs() if penalties else maps
    told |= {"target": (kind, target.dtype, tuple(target.shape)), "also": sorted(given)[:-1]}
    told["mask"] = None if mask is None else (mask.dtype, tuple(mask.shape))
    return Case(cls, options, x, given if len(given) > 1 else target, mask, told)


def _shape(choose: random.Random, spatial: bool) -> tuple[int, ...]:
    b, c, dimensions = choose.randint(1, 3), choose.choice([1, 1, 2, 2, 3, 4, 5, 9]), choose.randint(1, 3)
    longest = {1: 300, 2: 24, 3: 9} if spatial else {1: 3000, 2: 60, 3: 17}
    longest = {1: 9, 2: 5, 3: 4} if choose.random() < 0.25 else longest
    return b, c, *(choose.randint(1, longest[dimensions]) for _ in range(dimensions))


def _options(choose: random.Random, cls: type, c: int) -> dict[str, Any]:
    activation = choose.choice(["softmax"] * 4 + ["sigmoid"] * 3 + ["none", "other"])
    if c == 1 and activation == "softmax":
        activation = "sigmoid"
    options: dict[str, Any] = dict(cases.row_of(cls).base)
    options |= choose.choice([{}, {}, *cases.row_of(cls).variants])
    if options.get("classes") == [0] or (options.get("multiclass") and (c == 1 or activation == "sigmoid")):
        options = dict(cases.row_of(cls).base)
    if cases.entry_of(cls).activation:
        options |= {"softmax": {"softmax": True}, "sigmoid": {"sigmoid": True}}.get(activation, {})
        if activation == "other":
            options["other_act"] = _act
    joined = options.get("multiclass", False)
    scalars = cases.entry_of(cls).family == "compound"
    rare = {
        "reduction": ["sum"] if scalars else ["sum", "none"],
        "include_background": [] if joined else [False],
        "weight": [] if joined else [[1.0, 0.0, 2.0, 0.5, 3.0, 1.0, 1.0, 2.0, 0.25]],
        "empty": ["formula", "skip"],
        "batch": [True],
        "per_image": [False],
        "soft_label": [False],
    }
    for name, values in rare.items():
        if values and cases.accepts(cls, name) and choose.random() < 0.3:
            options[name] = choose.choice(values)
    if "weight" in options:
        options["weight"] = options["weight"][: c - 1 if not options.get("include_background", True) and c > 1 else c]
    return options


def _act(x: Tensor) -> Tensor:
    return 0.5 + torch.atan(x) / torch.pi


def _of_some_dtype(choose: random.Random, target: Tensor, kind: str) -> Tensor:
    if kind == "soft":
        return target.to(choose.choice(FLOATS))
    if int(target.max()) > 1:
        room = [dtype for dtype in INTEGERS if target.max() <= torch.iinfo(dtype).max]
        return target.to(choose.choice(room + FLOATS[2:]))
    dtype = choose.choice([*INTEGERS, *FLOATS, torch.bool, "bytes"])
    return (
        target.to(torch.uint8).mul(choose.choice([2, 255])).view(torch.bool) if dtype == "bytes" else target.to(dtype)
    )


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """Return the same numbers in memory of another order."""
    if layout == "channels last" and x.ndim > 3:
        return x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d)
    if layout == "crop":
        wide = torch.full([n + 2 for n in x.shape], 0.5, dtype=x.dtype)
        wide[tuple(slice(1, -1) for _ in x.shape)] = x
        return wide[tuple(slice(1, -1) for _ in x.shape)]
    if layout == "step":
        return torch.stack([x, x.neg()], -1)[..., 0]
    if layout == "turned":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "repeated":
        return x[..., :1].expand(x.shape)
    return x.contiguous()


def _mask(choose: random.Random, generator: torch.Generator, shape: tuple[int, ...], joined: bool) -> Tensor | None:
    kind = choose.choice([None, None, "bool", "weights", "a sample", "ones"])
    if kind is None:
        return None
    channels = 1 if joined else choose.choice([1, 1, shape[1]])
    mask = torch.rand(shape[0], channels, *shape[2:], generator=generator)
    if kind == "bool":
        return mask < choose.choice([0.1, 0.9])
    if kind == "ones":
        return torch.ones_like(mask, dtype=choose.choice([torch.bool, torch.float32]))
    if kind == "a sample":
        mask[0] = 0
    return torch.where(mask < 0.3, 0.0, 2 * mask).to(choose.choice(FLOATS))


def disagreement(one: Case, way: Callable[[], AbstractContextManager[None]] = nullcontext) -> str:
    """Return in what a way, by default that of the CPU's kernels, and the plain one differ, or "" if they agree."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "single channel prediction")
        with way():
            found = one.result(one.x)
        with plain_path():
            wrong = difference(one, found, one.result(one.x))
            if wrong and one.cls is ExponentialLogarithmicLoss:  # steep powers ask for more digits than float32 has
                wrong = difference(one, found, one.result(one.x.double()))
    return wrong


def difference(one: Case, found: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> str:
    """Return in what value and gradient differ from the right ones, which may be of a wider type, or ""."""
    value, gradient = found
    expected, slope = right[0].to(torch.promote_types(one.x.dtype, torch.float32)), right[1].to(one.x.dtype)
    if not torch.isfinite(expected).all():
        return f"the plain way is not finite: {expected.flatten()[:3]}"
    if value.dtype != expected.dtype or gradient.dtype != one.x.dtype:
        return f"dtypes {value.dtype}, {gradient.dtype}"
    rounding = torch.finfo(one.x.dtype).eps
    exact = 1e-9 if one.x.dtype == torch.float64 else 1e-5
    steep = 100 if one.cls is ExponentialLogarithmicLoss else 1  # a power below 1 of what is nearly 0
    if not value.numel():
        return "" if value.shape == expected.shape else f"shapes {value.shape}, {expected.shape}"
    largest = steep * max(slope[torch.isfinite(slope)].abs().max().item(), 1 / slope.numel())
    try:
        torch.testing.assert_close(value, expected, rtol=exact, atol=exact)
        torch.testing.assert_close(
            gradient.double(),
            slope.double(),
            rtol=max(steep * exact, rounding),
            atol=exact * largest + (1.2e-7 if one.x.dtype == torch.float16 else 0),  # twice its smallest number
        )
    except AssertionError as error:
        return str(error)
    return ""


def main() -> None:
    """Run many cases and print those that fail."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first")
    parser.add_argument("--triton", action="store_true", help="Triton's kernels and not those of the CPU")
    asked = parser.parse_args()
    way = triton_path if asked.triton else nullcontext
    failed, start = 0, time.perf_counter()
    for seed in range(asked.seed, asked.seed + asked.cases):
        one = case(seed)
        try:
            wrong = disagreement(one, way)
        except Exception as error:
            wrong = repr(error)
        if wrong:
            failed += 1
            print(f"seed {seed}: {one}\n    {wrong}", flush=True)
    print(f"{failed} of {asked.cases} cases failed, {time.perf_counter() - start:.0f} s")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
