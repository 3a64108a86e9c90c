"""Values that cannot be: labels, shares and probabilities out of range, and weights below 0.

Where to look at a value makes nobody wait, it raises at once. On devices that compute on their own, the loss becomes
NaN at once, its gradient 0, and what was found is copied to the processor without waiting for it; the next call of any
loss looks at it and raises.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..paths import is_fake, transformed, waits
from .distributed import refuse_spread
from .plain import blocks_of, cut
from .reading import Reading, Rules

ROUNDING = 1e-6  # how far a share or a probability may lie outside of [0, 1]
LARGEST_WHOLE = 2**24  # float32 holds every whole number below it
VALIDATE = ("auto", "now", "never")


@dataclass(frozen=True)
class Kind:
    """What values there may be of a tensor."""

    name: str
    low: float
    high: float
    expected: str
    whole: bool = False  # whether a floating type could hold fractions

    def wrong(self, low: float, high: float, fraction: float) -> float | None:
        """Return a value that cannot be, or None: the least and the largest one, and one that is no whole number."""
        if not low >= self.low:
            return low
        if not high <= self.high:
            return high
        return fraction if self.whole and fraction else None


@dataclass
class Found:
    """The least and the largest value of some tensors, on their way to the processor."""

    kinds: list[Kind]
    values: Tensor  # (kinds, 3) or (3,), as :func:`extremes` gives them
    event: torch.Event | None

    def raise_(self) -> None:
        """Wait for the values, which were asked for a call ago, and raise ValueError if one cannot be."""
        if self.event is not None:
            self.event.synchronize()
        values = self.values.tolist()
        for kind, found in zip(self.kinds, values if self.values.ndim == 2 else [values], strict=True):
            raise_if(kind, *found)


_pending: deque[Found] = deque()
_within: list[OneCall] = []


def raise_if(kind: Kind, *values: float) -> None:
    """Raise ValueError if one of the extremes cannot be."""
    value = kind.wrong(*values)
    if value is not None:
        whole = not math.isnan(value) and abs(value) < 2**53 and value == int(value)
        raise ValueError(f"{kind.name} holds {int(value) if whole else value}, expected {kind.expected}.")


def of_target(rules: Rules) -> Kind:
    """Return what a target may hold."""
    beside = f"for an input of {rules.channels} channel(s)"
    if rules.labels:
        return Kind("target", 0, rules.channels - 1, f"integer labels 0..{rules.channels - 1} {beside}")
    return Kind("target", -ROUNDING, 1 + ROUNDING, f"values in [0, 1] {beside}")


def of_mask() -> Kind:
    """Return what voxel weights may be."""
    return Kind("mask", 0, torch.finfo(torch.float32).max, "finite weights of at least 0")


def of_probabilities() -> Kind:
    """Return what an input may hold that takes no activation."""
    return Kind("input", -ROUNDING, 1 + ROUNDING, "probabilities in [0, 1] (logits need sigmoid=True or softmax=True)")


def looked_at(reading: Reading, probabilities: bool = True) -> list[tuple[Kind, Tensor]]:
    """Return for what values are looked, and the extremes of those that there are."""
    rules, target, mask = reading.rules, reading.target, reading.mask
    found = []
    if target.dtype != torch.bool:
        whole = rules.labels and target.is_floating_point()
        kind = replace(of_target(rules), whole=whole)
        found.append(
            (kind, extremes(kind, target) if rules.ignore_index is None else extremes_of_kept(kind, rules, target))
        )
    if mask is not None and mask.dtype != torch.bool and not rules.signed:
        found.append((of_mask(), extremes(of_mask(), mask)))
    if probabilities and rules.activation is None:
        input = reading.input.detach()
        if mask is not None or rules.ignore_index is not None:
            input = rules.neutral(input, target, mask, None)[0]
        kind = of_probabilities()
        found.append((kind, extremes(kind, input.nan_to_num(0.0, torch.inf, -torch.inf))))
    return found


def extremes_of_kept(kind: Kind, rules: Rules, target: Tensor) -> Tensor:
    """Return :func:`extremes` of a target without ignored labels; part by part where nobody else looks on."""
    index = rules.ignore_index
    if waits(target) or index is None:
        return extremes(kind, rules.without_ignored(target)[0])
    found = []
    for block in blocks_of(target):
        (part,) = cut(block, target)
        if part.dtype in (torch.int32, torch.int64) and abs(index) < LARGEST_WHOLE:
            part = part.float()  # which torch compares many of at once; no other label is rounded to this one
        found.append(extremes(kind, rules.without_ignored(part)[0]))
    low, high, fraction = torch.stack(found).unbind(1)
    return torch.stack([low.amin(), high.amax(), fraction.amax()])


def extremes(kind: Kind, x: Tensor) -> Tensor:
    """Return the least and the largest value, NaN if there is one, and the largest one that is no whole number, (3,).

    The last is any value of ``x`` where nobody asks for it.
    """
    x = x.to(torch.int64) if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x
    low, high = x.aminmax()
    if x.dtype in (torch.float16, torch.bfloat16):  # which hold not every bound
        low, high = low.float(), high.float()
    if not kind.whole:
        return torch.stack([low, high, low])
    if not waits(x) and (x - x.round()).abs().amax() == 0:  # the sooner way to say so
        return torch.stack([low, high, torch.zeros_like(low)])
    return torch.stack([low, high, x.masked_fill(x == x.round(), 0).amax().to(low.dtype)])


def check(reading: Reading, probabilities: bool = True) -> Tensor | None:
    """Look for values out of range.

    Args:
        reading: a call's input and target.
        probabilities: whether an input without activation holds probabilities.

    Returns:
        A bool on the input's device that says whether there are such, or None where there are none.

    Raises:
        ValueError: when there are, where to look makes nobody wait, or ``validate`` is ``"now"``.
        TypeError: when the input is a DTensor, of which the operators of the walk alone know how to compute.
    """
    refuse_spread(reading.input)
    if reading.validate == "never" or reading.input.numel() == 0:
        return None
    wait = waits(reading.input)
    found = looked_at(reading, probabilities)
    if not found:
        return None
    if reading.validate == "now" and not torch.compiler.is_compiling() and not is_fake(reading.input):
        wait = False
    if not wait:
        for kind, values in found:
            raise_if(kind, *values.tolist())
        return None
    # NaN is not itself, and of whole numbers the last is 0
    bad = [
        (values != torch.cat([values[:2].clamp(kind.low, kind.high), values[2:] * 0])).any()
        if kind.whole
        else (values != values.clamp(kind.low, kind.high)).any()
        for kind, values in found
    ]
    if not torch.compiler.is_compiling() and not transformed() and not is_fake(reading.input):
        send([kind for kind, _ in found], [values for _, values in found])
    any_bad = torch.stack(bad).any() if len(bad) > 1 else bad[0]
    if torch.compiler.is_compiling() and reading.input.device.type == "cpu":  # a graph cannot branch, but it can stop
        names = " or ".join(kind.name for kind, _ in found)
        torch._assert_async(~any_bad, f"{names} holds a value out of range")
    return any_bad


def send(kinds: list[Kind], values: list[Tensor]) -> None:
    """Send what was found to the processor, which looks at it in the next call."""
    dtype = torch.float32 if values[0].device.type == "mps" else torch.float64
    together = torch.stack([x.to(dtype) for x in values]) if len(values) > 1 else values[0]
    if together.device.type == "cpu":
        _pending.append(Found(kinds, together, None))
        return
    there = torch.empty(together.shape, dtype=together.dtype, device="cpu", pin_memory=together.device.type == "cuda")
    there.copy_(together, non_blocking=True)
    event = torch.Event(device=together.device)
    event.record()
    _pending.append(Found(kinds, there, event))


def look_back() -> None:
    """Raise ValueError if a call before this one had a value out of range that was not looked at yet."""
    while _pending and not _within:
        found = _pending.popleft()
        try:
            found.raise_()
        except ValueError:
            _pending.clear()  # the same call may have found more
            raise


class OneCall:
    """A call of several losses that counts as one: what the first finds is not for the second to raise."""

    def __enter__(self) -> None:
        """Look back once."""
        look_back()
        _within.append(self)

    def __exit__(self, *_: object) -> None:
        """Let the next call look back."""
        _within.pop()


def settle(reading: Reading, bad: Tensor, x: Tensor) -> Tensor:
    """Return what all processes found, NaN if one of them had a value out of range.

    Args:
        reading: this process's input and target.
        bad: how many values are out of range in all processes.
        x: what they found, (sums, B, C), sizes of samples and classes first.

    Raises:
        ValueError: when there are such values, and it is known already.
    """
    if not waits(reading.input) or reading.validate == "now":
        if bad.item() > 0:
            check(replace(reading, validate="now"))
            raise ValueError("a target, mask or input of another process holds a value out of range.")
        return x
    if not torch.compiler.is_compiling() and not transformed() and not is_fake(x):
        others = Kind("target, mask or input of a process", 0, 0, "none of its values out of range")
        send([others], [bad.expand(3)])
    return torch.cat([x[:2], x[2:].masked_fill(bad > 0, torch.nan)])  # the sizes say which classes count


def checked(reading: Reading, probabilities: bool = True) -> tuple[Reading, Tensor | None]:
    """Return a reading of which voxels without weight are neutral, and what :func:`check` says."""
    bad = check(reading, probabilities)
    return reading.neutral(), bad
