"""What each operation computes, in torch's own operations.

It is the oracle of the compiled loops, what runs where there are none, and what is differentiated twice or looked at by
``torch.func``. The gradient stands here too, so that nothing of the volume's size is kept for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..paths import waits
from .distributed import refuse_spread
from .precision import (
    SMALLEST_PROBABILITY,
    STEEPEST_LOGIT,
    accumulator_dtype,
    both_probabilities,
    computing_dtype,
    narrowed,
    promoted,
)
from .reading import Rules, spread

# Sums of a sample and class. FIRST and SECOND are those that are asked for: TN; or the squares of p and g; or the
# squared errors on the class and on the rest. The last two are the likelihoods inside and outside of the class.
N, G, TP, FP, FN, FIRST, SECOND, INSIDE, OUTSIDE = range(9)
KINDS = 9

FURTHER = (None, "negatives", "squares", "errors")
LIKELIHOODS = (None, "cross_entropy", "focal", "power", "hinge")
SMALLEST_POWER = 1e-6  # below it, powers with an infinite slope at 0 go on as straight lines
MOST_EXACT = 127  # channels whose numbers every other type holds
LARGEST_TAME = 100.0  # logits of which no power overflows
LARGEST_COUNT = 2**23  # float32 counts voxels exactly up to here and a little further
BLOCK = 2**17  # numbers of a block for each thread: they stay in its cache, and torch is called seldom enough


@dataclass(frozen=True)
class Wanted:
    """Which sums are wanted."""

    counts: bool = False  # TP, FP and FN
    products: bool = False  # of p and g, in the place of the smaller one of them
    further: str | None = None
    likelihood: str | None = None
    gamma: float = 0.0  # exponent of the likelihood, where it is "focal" or "power"

    def __or__(self, other: Wanted) -> Wanted | None:
        """Return what holds the sums of both, or None where one walk cannot find both."""
        further, likelihood = {self.further, other.further} - {None}, {self.likelihood, other.likelihood} - {None}
        counts = [x.products for x in (self, other) if x.counts]
        gamma = {x.gamma for x in (self, other) if x.likelihood}
        if max(len(further), len(likelihood), len(set(counts)), len(gamma)) > 1:
            return None
        return Wanted(
            bool(counts), any(counts), next(iter(further), None), next(iter(likelihood), None), next(iter(gamma), 0.0)
        )


@dataclass(frozen=True)
class View:
    """Probabilities, shares and weights of all voxels, as (B, C, *S) in at least float32."""

    z: Tensor  # logits, or probabilities
    p: Tensor
    q: Tensor  # 1 - p
    g: Tensor  # shares of the classes, see :func:`shares`
    w: Tensor | None  # (B, 1 or C, *S)
    hard: bool = False  # whether all shares are 0 or 1

    @property
    def rest(self) -> Tensor:
        """1 - g."""
        return ~self.g if self.g.dtype == torch.bool else 1 - self.g

    def total(self, x: Tensor) -> Tensor:
        """Return the weighted sum over the voxels, (B, C)."""
        return total(x if self.w is None else x * self.w)

    def of(self, inside: Tensor | None, outside: Tensor | None) -> Tensor:
        """Return the first where the class is, the second where it is not, and the mixture where it has a share.

        None is 0; infinity times a share of 0 does not count.
        """
        found = None if inside is None else part(self.g, inside)
        if outside is None:
            assert found is not None
            return found
        more = part(self.rest, outside)
        return more if found is None else found + more


def part(share: Tensor, x: Tensor) -> Tensor:
    """Return the product, in which infinity times a share of 0 does not count."""
    if not waits(x) and bool(x.detach().abs().amax() < torch.inf):
        return share * x
    return (share * x).masked_fill(share <= 0, 0)


def where(compare: Callable[..., Tensor], x: Tensor, y: Tensor, like: Tensor) -> Tensor:
    """Return where a comparison holds, as bool; or, where processors do little to many bool at once, as 1 and 0 in the
    type and shape of ``like``.
    """
    if waits(like):
        return compare(x, y)
    return compare(x.detach(), y.detach(), out=torch.empty(like.shape, dtype=like.dtype, device=like.device))


def total(x: Tensor) -> Tensor:
    """Return the sum over the voxels, (B, C) in float64; float32 is enough for a block, which torch adds by halves."""
    dtype, space = accumulator_dtype(x), list(range(2, x.ndim))
    if waits(x) or (torch.is_grad_enabled() and x.requires_grad) or x.shape[2:].numel() > LARGEST_COUNT:
        return x.sum(space, dtype=dtype)
    return x.sum(space).to(dtype)


def shares(rules: Rules, target: Tensor, like: Tensor) -> Tensor:
    """Return the share of each class in each voxel, (B, C, *S) in the type of ``like``, which has this shape or that of
    the last classes alone; of labels as :func:`where` does.
    """
    if not rules.labels:
        return target.to(like.dtype)
    if target.dtype == torch.bool or rules.channels > MOST_EXACT or not waits(target):
        target = target.to(like.dtype)
    channel = torch.arange(rules.channels - like.shape[1], rules.channels, device=target.device, dtype=target.dtype)
    return where(torch.eq, target, spread(channel, target.ndim - 1), like)


def viewed(
    rules: Rules,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
    rest: bool = True,
) -> View:
    """Read all voxels; without ``rest``, p may stand in the place of 1 - p."""
    hard = is_hard(rules, target)
    if not waits(input):
        target = target.to(computing_dtype(input))
    if (mask is None and rules.ignore_index is None) or not is_tame(input):
        z, target, mask = rules.neutral(input, target, mask, classes)
    else:
        z, (target, mask) = input, rules.weigh(target, mask)
        if classes is not None and rules.activation == "softmax":
            z, target = rules.merged(promoted(z), target, classes)
    z = promoted(z)
    p, q = both_probabilities(z, rules.activation) if rest else (torch.softmax(z, 1),) * 2
    return View(z, p, q, shares(rules, target, p), None if mask is None else mask.to(p.dtype), hard)


def is_hard(rules: Rules, target: Tensor) -> bool:
    """Return whether all shares are known to be 0 or 1."""
    return rules.labels or not target.is_floating_point()


def is_tame(z: Tensor) -> bool:
    """Return whether whatever is computed of logits is finite, so that a weight of 0 leaves nothing of it."""
    return not waits(z) and all(bool(x.abs() < LARGEST_TAME) for x in z.detach().aminmax())


def blocks_of(x: Tensor) -> list[tuple[slice, slice]]:
    """Return the samples, and the places on the first spatial axis, of each block that a volume is computed in.

    Where nothing else looks on, the intermediate results of a block are read again before they leave the cache, and
    nothing of the volume's size is held.
    """
    if waits(x) or (torch.is_grad_enabled() and x.requires_grad):
        return [(slice(None), slice(None))]
    size = BLOCK * torch.get_num_threads()
    if x.numel() <= size:
        return [(slice(None), slice(None))]
    samples, length = x.shape[0], x.shape[2]
    sample = x.numel() // samples
    some, part = max(1, size // sample), max(1, min(length, length * size // sample))
    return [(slice(b, b + some), slice(i, i + part)) for b in range(0, samples, some) for i in range(0, length, part)]


def cut(block: tuple[slice, slice], *volumes: Tensor | None) -> list[Any]:
    """Return a block of volumes, (B, C, *S), and the samples of what has no volume, (B, C)."""
    return [None if x is None else x[block[0]] if x.ndim == 2 else x[block[0], :, block[1]] for x in volumes]


def sums(
    rules: Rules, wanted: Wanted, input: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor | None
) -> list[Tensor | None]:
    """Return the sums of each sample and class, KINDS times (B, C) in float64; None for those that are not wanted.

    TP and TN count the smaller ones of p and g and of 1 - p and 1 - g; FP and FN the rest of p and of 1 - p.

    Args:
        rules: how to read the values.
        wanted: which sums.
        input: (B, C, *S).
        target: (B, 1, *S) class indices with ``rules.labels``, else (B, C, *S) in [0, 1].
        mask: (B, 1, *S) or (B, C, *S) voxel weights, or None.
        classes: (B, C) bool, which classes were annotated, or None.
    """
    return added_up(partial(sums_of, rules, wanted), input, target, mask, classes)


def added_up(sums: Callable[..., Sequence[Tensor | None]], input: Tensor, *data: Tensor | None) -> list[Tensor | None]:
    """Return sums of each sample and class, given a function that finds those of a block of the input and the data."""
    blocks = blocks_of(input)
    if len(blocks) == 1:
        return list(sums(input, *data))
    found: list[Tensor | None] = []
    for block in blocks:
        rows = sums(*cut(block, input, *data))
        found = found or [None if x is None else x.new_zeros(input.shape[:2]) for x in rows]
        for whole, x in zip(found, rows, strict=True):
            if whole is not None:
                whole[block[0]] += x  # type: ignore[arg-type]
    return found


def sums_of(
    rules: Rules, wanted: Wanted, input: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor | None
) -> list[Tensor | None]:
    """Return :func:`sums` of a block."""
    v = viewed(rules, input, target, mask, classes)
    found: list[Tensor | None] = [None] * KINDS
    found[N], found[G] = sizes_of(v)
    if wanted.counts:
        p, q = (x if v.w is None else x * v.w for x in (v.p, v.q))
        if v.hard or wanted.products:
            both, missed = p * v.g, q * v.g
        else:
            g, rest = (x if v.w is None else x * v.w for x in (v.g, v.rest))
            both = torch.minimum(p, g)
            missed = q - torch.minimum(q, rest)
            del g, rest
        found[TP], found[FP], found[FN] = total(both), total(p - both), total(missed)
        if wanted.further == "negatives":
            found[FIRST] = total(q - missed)
        del p, q, both, missed
    if wanted.further == "squares":
        found[FIRST], found[SECOND] = v.total(v.p * v.p), found[G] if v.hard else v.total(v.g * v.g)
    elif wanted.further == "errors":
        square = errors(v).square()
        found[FIRST], found[SECOND] = v.total(v.of(square, None)), v.total(v.of(None, square))
    if wanted.likelihood:
        inside, outside = likelihoods(v, rules, wanted)
        found[INSIDE] = v.total(v.of(inside, None))
        if outside is not None:
            found[OUTSIDE] = v.total(v.of(None, outside))
    return found


def sums_with_slopes(
    rules: Rules, wanted: Wanted, input: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor | None
) -> tuple[list[Tensor | None], Tensor] | None:
    """Return :func:`sums` and the weight times p (1 - p) of each voxel, for :func:`gradient_by_slopes`: for the counts
    of a sigmoid whose shares are all 0 or 1, or of two exclusive classes, whose second one is the sigmoid of the
    difference of their logits. None elsewhere.

    Here the mathematics take so little that the rest counts: each block is computed in the same few rooms, and the
    slopes are written where the gradient will be, for new memory takes as long as the exponential.
    """
    counts = wanted.counts and not wanted.likelihood and wanted.further in (None, "negatives")
    two = is_pair(rules) and classes is None and (mask is None or mask.shape[1] == 1)
    if waits(input) or not counts or not (two or rules.activation == "sigmoid"):
        return None
    dtype, blocks = computing_dtype(input), blocks_of(input)
    if dtype == input.dtype and input.is_contiguous():
        whole = torch.empty_like(input)
    else:
        whole = torch.empty(input.shape[0], 1 if two else input.shape[1], *input.shape[2:], dtype=dtype)
    slopes = whole[:, -1:] if two else whole
    rooms = slopes.new_empty(3, max(cut(block, slopes)[0].numel() for block in blocks))
    parts = slopes.new_zeros(len(blocks), KINDS, *slopes.shape[:2])
    weighs, looks = mask is not None or rules.ignore_index is not None, not is_hard(rules, target)
    space = tuple(range(2, input.ndim))
    for block, part in zip(blocks, parts, strict=True):
        z, t, w, slope = cut(block, input, target, mask, slopes)
        p, q, room = (x[: slope.numel()].view(slope.shape) for x in rooms)
        n, g, tp, fp, fn, tn, rest, *_ = part[:, block[0]].unbind()
        t = numbers(t, dtype)
        if weighs:
            t, w = rules.weigh(t, w)
            w = None if w is None else numbers(w, dtype)
        share = shares(rules, t, p)
        z = torch.clamp(gap(z) if two else promoted(z), -STEEPEST_LOGIT, STEEPEST_LOGIT, out=q)
        torch.exp(z, out=p)
        torch.add(p, 1, out=q).reciprocal_()
        torch.mul(p.mul_(q), q, out=slope)
        if w is not None:
            torch.sum(w.expand_as(p), space, out=n)
            for x in (slope, p, q):
                x.mul_(w)
            torch.sum(torch.mul(share, w, out=room), space, out=g)
            torch.sum(torch.sub(w, room, out=room), space, out=rest)
        else:
            n.fill_(math.prod(z.shape[2:]))
            torch.sum(share, space, out=g)
        if looks and (share.sum() if weighs else g.sum()) != share.view(-1).dot(share.view(-1)):
            return None
        torch.sum(torch.mul(p, share, out=room), space, out=tp)
        torch.sum(p.sub_(room), space, out=fp)
        torch.sum(torch.mul(q, share, out=room), space, out=fn)
        if wanted.further or two:
            torch.sum(q.sub_(room), space, out=tn)
    if weighs and not bool(parts.isfinite().all()):
        return None  # of what weighs nothing, not even NaN counts
    n, g, tp, fp, fn, tn, rest, *_ = parts.sum(0, dtype=torch.float64)
    found = [n, g, tp, fp, fn, tn]
    if two:
        rest = rest if weighs else n - g
        found = [torch.cat(x, 1) for x in ((n, n), (rest, g), (tn, tp), (fn, fp), (fp, fn), (tp, tn))]
    known = FIRST + bool(wanted.further)
    return [*found[:known], *[None] * (KINDS - known)], whole


def gradient_by_slopes(
    rules: Rules, upstream: Sequence[Tensor | None], target: Tensor, found: Tensor, like: Tensor
) -> Tensor:
    """Return :func:`gradient` of an input that is like another one, in the place of what :func:`sums_with_slopes` has
    found, if it fits there.
    """
    two = is_pair(rules)
    fits = found.dtype == like.dtype and found.shape == like.shape and found.stride() == like.stride()
    whole = found if fits else torch.empty_like(like)
    slopes, zero = found[:, -1:] if two else found, found.new_zeros(like.shape[:2])
    tp, fp, fn, tn = (zero if x is None else x for x in upstream[TP : FIRST + 1])
    a, b = tp - fn, fp - tn
    if two:
        a, b = a[:, 1:] - b[:, :1], b[:, 1:] - a[:, :1]
    inside, outside = (spread(x.to(slopes.dtype), slopes.ndim) for x in (a, b))
    one = bool((inside.abs() >= outside.abs()).all())  # whether the difference keeps the digits of both
    for block in blocks_of(like):
        t, slope, h = cut(block, target, slopes, whole)
        a, b = inside[block[0]], outside[block[0]]
        g = shares(rules, numbers(t, slope.dtype), slope)
        factor = (g * (a - b)).add_(b) if one else (g * a).add_((1 - g).mul_(b))
        last = h[:, 1:] if two else h
        if h.dtype == slope.dtype:
            torch.mul(factor, slope, out=last)
        else:
            last.copy_(narrowed(factor.mul_(slope), h.dtype))
        if two:
            torch.neg(last, out=h[:, :1])
    return whole


def is_pair(rules: Rules) -> bool:
    """Return whether the target labels two exclusive classes."""
    return rules.labels and rules.channels == 2 and rules.activation == "softmax"


def gap(z: Tensor) -> Tensor:
    """Return by how much the logit of the second one of two classes is larger, (B, 1, *S)."""
    z = promoted(z)
    return z[:, 1:] - z[:, :1]


def numbers(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return labels or weights in a type to compute in; bool as bytes, of which torch takes many at once."""
    return (x.view(torch.uint8).clamp(max=1) if x.dtype == torch.bool else x).to(dtype)


def sizes_of(v: View) -> tuple[Tensor, Tensor]:
    """Return the weighted numbers of voxels, and of voxels of each class, (B, C)."""
    size = v.total(v.g)
    if v.w is None:
        return torch.full_like(size, math.prod(v.g.shape[2:])), size
    return total(v.w).expand_as(size), size


@torch.no_grad()
def sizes(
    rules: Rules, input: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the first two of :func:`sums` without a look at the input."""
    refuse_spread(input)
    dtype, merges = computing_dtype(input), classes is not None and rules.activation == "softmax"

    def of_block(input: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        target, mask = rules.weigh(target, mask)
        target = rules.merged_target(target, classes) if merges else target  # type: ignore[arg-type]
        w = None if mask is None else mask.to(dtype)
        return sizes_of(View(input, input, input, shares(rules, target, input), w))

    no_input = torch.zeros(1, rules.channels, *[1] * (input.ndim - 2), device=input.device, dtype=dtype)
    number, size = added_up(of_block, no_input.expand(input.shape), target, mask, classes)  # expanding takes no memory
    assert number is not None
    assert size is not None
    return number, size


def below(v: View) -> Tensor:
    """Return where p is below g; where both are 1 as well, so that the slope is that of the product there."""
    if v.hard:
        return v.g
    rest = (1 - v.g).sub_(torch.finfo(v.g.dtype).tiny)  # below 0 where g is 1, else as it was
    return where(torch.lt, rest, v.q, v.p)


def errors(v: View) -> Tensor:
    """Return p - g, without loss of digits where p is nearly 1."""
    if v.hard:
        return v.p * v.rest - v.q * v.g
    return torch.where(v.g == 1, -v.q, v.p - v.g)


def likelihoods(v: View, rules: Rules, wanted: Wanted) -> tuple[Tensor, Tensor | None]:
    """Return the functions of -log p and of -log(1 - p), (B, C, *S); of exclusive classes the first alone."""
    if wanted.likelihood == "hinge":
        return (1 - v.z).relu(), (1 + v.z).relu()
    if rules.activation == "softmax":
        return shaped(-v.z.log_softmax(1), wanted), None
    if rules.activation == "sigmoid":
        log_p, log_q = torch.nn.functional.logsigmoid(v.z), torch.nn.functional.logsigmoid(-v.z)
    else:
        low, high = SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY
        clamped = torch.where(v.p < low, low, torch.where(v.p > high, high, v.p))
        log_p, log_q = clamped.log(), torch.log1p(-clamped)
    return shaped(-log_p, wanted), shaped(-log_q, wanted)


def shaped(nll: Tensor, wanted: Wanted) -> Tensor:
    """Return a function of -log p."""
    if wanted.likelihood == "focal" and wanted.gamma:
        return safe_pow(-torch.expm1(-nll), wanted.gamma) * nll
    return safe_pow(nll, wanted.gamma) if wanted.likelihood == "power" else nll


def rise(nll: Tensor, wanted: Wanted) -> Tensor | float:
    """Return the slope of :func:`shaped`."""
    gamma = wanted.gamma
    if wanted.likelihood == "focal" and gamma:
        q, p = -torch.expm1(-nll), torch.exp(-nll)
        return safe_pow(q, gamma) + slope_of_pow(q, gamma) * p * nll
    return slope_of_pow(nll, gamma) if wanted.likelihood == "power" else 1.0


def safe_pow(x: Tensor, exponent: float) -> Tensor:
    """Return x ** exponent for x of at least 0; below 1e-6 a line through 0, whose slope is finite there."""
    if exponent >= 1:
        return x**exponent
    x = torch.where(x < 0, 0.0, x)  # a smoothed index may exceed 1
    steep = x < SMALLEST_POWER
    return torch.where(steep, x * SMALLEST_POWER ** (exponent - 1), torch.where(steep, 1.0, x) ** exponent)


def slope_of_pow(x: Tensor, exponent: float) -> Tensor:
    """Return the slope of :func:`safe_pow`."""
    if exponent >= 1:
        return exponent * x ** (exponent - 1)
    steep = x < SMALLEST_POWER
    line = SMALLEST_POWER ** (exponent - 1)
    return torch.where(steep, line, exponent * torch.where(steep, 1.0, x) ** (exponent - 1))


def gradient(
    rules: Rules,
    wanted: Wanted,
    upstream: Sequence[Tensor | None],
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
) -> Tensor:
    """Return the gradient of the input, given that of :func:`sums`, of which None is 0; arguments as there."""
    blocks = blocks_of(input)
    if len(blocks) == 1:
        h = gradient_of(rules, wanted, upstream, input, target, mask, classes)
        return h if h.stride() == input.stride() else torch.empty_like(input).copy_(h)
    whole = torch.empty_like(input)
    for block in blocks:
        data = cut(block, input, target, mask, classes)
        cut(block, whole)[0].copy_(gradient_of(rules, wanted, cut(block, *upstream), *data))
    return whole


def gradient_of(
    rules: Rules,
    wanted: Wanted,
    upstream: Sequence[Tensor | None],
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
) -> Tensor:
    """Return :func:`gradient` of a block, in the type that it was computed in or narrowed to that of the input."""
    soft = wanted.counts and not (wanted.products or is_hard(rules, target))
    rest = rules.activation != "softmax" or wanted.further == "errors" or soft
    v = viewed(rules, input, target, mask, classes, rest)

    def of(a: Tensor | None, b: Tensor | None = None) -> Tensor:
        """Return the gradient of a sum, less that of another, as a factor of voxels."""
        if a is None or b is None:
            x = torch.zeros(v.p.shape[:2], device=v.p.device) if a is b else a if b is None else -b  # type: ignore[arg-type]
        else:
            x = a - b
        return spread(x.to(v.p.dtype), v.p.ndim)  # type: ignore[union-attr]

    h = None
    if wanted.counts:
        inside = of(upstream[TP], upstream[FN])
        outside = of(upstream[FP], upstream[FIRST] if wanted.further == "negatives" else None)
        low = v.g if wanted.products else below(v)
        h = torch.where(low, inside, outside) if low.dtype == torch.bool else (low * inside).addcmul_(1 - low, outside)
    if wanted.further == "squares":
        more = v.p * (2 * of(upstream[FIRST]))
        h = more if h is None else h.add_(more)
    elif wanted.further == "errors":
        more = errors(v).mul_(v.of(2 * of(upstream[FIRST]), 2 * of(upstream[SECOND])))
        h = more if h is None else h.add_(more)
    if h is not None and v.w is not None:
        h.mul_(v.w)
    if h is not None and rules.activation == "sigmoid":
        h.mul_(v.p).mul_(v.q)
    if wanted.likelihood and rules.activation != "softmax":
        more = slopes_of_channels(v, rules, wanted, of(upstream[INSIDE]), of(upstream[OUTSIDE]))
        h = more if h is None else h.add_(more)
    if rules.activation == "softmax":
        # p (h - mean) and, of the likelihoods, p times the sum of the slopes less the slope
        p = v.p.clamp_(min=math.exp(-STEEPEST_LOGIT)) if v.p is not v.z else v.p
        h = None if h is None else h.mul_(p)
        if wanted.likelihood:
            slope = slopes_of_classes(v, wanted, of(upstream[INSIDE]))
            h = slope.neg_() if h is None else h.sub_(slope)
        if h is not None:
            if h.shape[1] == 2:  # whose slopes are exact where p is nearly 1
                h = p.flip(1).mul_(h).addcmul_(p, h.flip(1), value=-1)
            else:
                h = h.addcmul_(p, h.sum(1, keepdim=True), value=-1)
    if h is None:
        return torch.zeros_like(input)
    if classes is not None and rules.activation == "softmax":
        h = share_of_merged(h, rules, input, target, mask, classes)
    return h if h.dtype == input.dtype else narrowed(h, input.dtype)


def slopes_of_classes(v: View, wanted: Wanted, inside: Tensor) -> Tensor:
    """Return by how much -log p of each exclusive class counts in each voxel."""
    if wanted.likelihood == "cross_entropy":
        slope = v.g * inside
    else:
        slope = v.of(rise(-v.z.log_softmax(1), wanted) * inside, None)
    return slope if v.w is None else slope.mul_(v.w)


def slopes_of_channels(v: View, rules: Rules, wanted: Wanted, inside: Tensor, outside: Tensor) -> Tensor:
    """Return the gradient of logits, or of given probabilities, given that of the likelihoods of each channel."""
    if wanted.likelihood == "hinge":
        slope = v.of((v.z < 1) * -inside, (v.z > -1) * outside)
    elif rules.activation == "sigmoid":
        up, down = v.q * -inside, v.p * outside
        if wanted.likelihood != "cross_entropy":
            up = up * rise(-torch.nn.functional.logsigmoid(v.z), wanted)
            down = down * rise(-torch.nn.functional.logsigmoid(-v.z), wanted)
        slope = v.of(up, down)
    else:
        low, high = SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY
        p = v.p.clamp(low, high)
        slope = v.of(-inside * rise(-p.log(), wanted) / p, outside * rise(-torch.log1p(-p), wanted) / (1 - p))
        slope = slope.masked_fill((v.p < low) | (v.p > high), 0)
    return slope if v.w is None else slope * v.w


def share_of_merged(
    h: Tensor, rules: Rules, input: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor
) -> Tensor:
    """Hand the gradient of the merged background to the logits that it was made of, by their shares."""
    z = promoted(rules.neutral(input, target, mask, None)[0])
    merged = torch.cat([torch.ones_like(classes[:, :1]), ~classes[:, 1:]], 1)
    merged = merged.reshape(*merged.shape, *[1] * (z.ndim - 2))
    share = z.masked_fill(~merged, -torch.inf).softmax(1)
    return torch.where(merged, h[:, :1] * share, h)


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
) -> Tensor:
    """Return the likelihood of each voxel times its weight, (B, 1, *S) for exclusive classes, else (B, C, *S).

    Args:
        rules, wanted, input, target, mask, classes: as for :func:`sums`.
        exclusive: whether to add up over the classes.
        inside: (B, C), factors of what is inside of a class.
        outside: (B, C), factors of what is not, unless classes are exclusive.
    """
    blocks, whole = blocks_of(input), None
    for block in blocks:
        factors = cut(block, inside, outside)
        found = values_of(rules, wanted, exclusive, *factors, *cut(block, input, target, mask, classes))
        if len(blocks) == 1:
            return found
        whole = found.new_empty((input.shape[0], found.shape[1], *input.shape[2:])) if whole is None else whole
        cut(block, whole)[0].copy_(found)
    assert whole is not None
    return whole


def values_of(
    rules: Rules,
    wanted: Wanted,
    exclusive: bool,
    inside: Tensor,
    outside: Tensor,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
) -> Tensor:
    """Return :func:`values` of a block."""
    v = viewed(rules, input, target, mask, classes)
    inside, outside = (spread(x.to(v.p.dtype), v.p.ndim) for x in (inside, outside))
    nll, nll_not = likelihoods(v, rules, wanted)
    each = v.of(inside * nll, None if exclusive or nll_not is None else outside * nll_not)
    each = each if v.w is None else each * v.w
    return each.sum(1, keepdim=True) if exclusive else each
