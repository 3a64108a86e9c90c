"""What each operation computes, in torch's own operations.

It is the oracle of the compiled loops, what runs where there are none, and what is differentiated twice or looked at by
``torch.func``. The gradient stands here too, so that nothing of the volume's size is kept for the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..paths import waits
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
ROW = 1024  # float32 numbers that are added up before float64 takes over


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
    g: Tensor  # (B, C, *S) bool of labels, else shares
    w: Tensor | None  # (B, 1 or C, *S)

    def total(self, x: Tensor) -> Tensor:
        """Return the weighted sum over the voxels, (B, C)."""
        return total(x if self.w is None else x * self.w)

    def of(self, inside: Tensor | None, outside: Tensor | None) -> Tensor:
        """Return the first where the class is, the second where it is not, and the mixture where it has a share.

        None is 0; infinity times a share of 0 does not count.
        """
        if self.g.dtype == torch.bool:
            if inside is None or outside is None:
                return inside.masked_fill(~self.g, 0) if outside is None else outside.masked_fill(self.g, 0)  # type: ignore[union-attr]
            return torch.where(self.g, inside, outside)
        found = None if inside is None else (self.g * inside).masked_fill(self.g <= 0, 0)
        if outside is None:
            assert found is not None
            return found
        more = ((1 - self.g) * outside).masked_fill(self.g >= 1, 0)
        return more if found is None else found + more


def total(x: Tensor) -> Tensor:
    """Return the sum over the voxels, (B, C) in float64."""
    dtype, space = accumulator_dtype(x), list(range(2, x.ndim))
    if not waits(x) and x.dtype == torch.float32 and not x.requires_grad:
        x = x.flatten(2)  # to convert a volume would take as long as all else
        rows = x.shape[-1] // ROW * ROW
        summed = x[..., :rows].unflatten(-1, (-1, ROW)).sum(-1).sum(-1, dtype=dtype)
        return summed + x[..., rows:].sum(-1, dtype=dtype) if rows < x.shape[-1] else summed
    return x.sum(space, dtype=dtype)


def shares(rules: Rules, target: Tensor, like: Tensor) -> Tensor:
    """Return the share of each class in each voxel, (B, C, *S): bool of labels, else in the type of ``like``."""
    if not rules.labels:
        return target.to(like.dtype)
    if target.dtype in (torch.bool, torch.uint16, torch.uint32, torch.uint64):
        target = target.to(torch.int64)
    channel = torch.arange(rules.channels, device=target.device, dtype=target.dtype)
    if target.dtype == torch.int8 and rules.channels > 128:
        target, channel = target.to(torch.int16), torch.arange(rules.channels, device=target.device)
    return target == channel.view(-1, *[1] * (target.ndim - 2))


def viewed(
    rules: Rules,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
    rest: bool = True,
) -> View:
    """Read all voxels; without ``rest``, p may stand in the place of 1 - p."""
    z, target, mask = rules.neutral(input, target, mask, classes)
    z = promoted(z)
    p, q = both_probabilities(z, rules.activation) if rest else (torch.softmax(z, 1),) * 2
    return View(z, p, q, shares(rules, target, p), None if mask is None else mask.to(p.dtype))


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
    v = viewed(rules, input, target, mask, classes)
    found: list[Tensor | None] = [None] * KINDS
    found[N], found[G] = sizes_of(v)
    if wanted.counts:
        if v.g.dtype == torch.bool:
            added, neither = v.p.masked_fill(v.g, 0), v.q.masked_fill(v.g, 0)
            both, missed = v.p - added, v.q - neither
        else:
            low = below(v)
            both = v.p * v.g if wanted.products else torch.where(low, v.p, v.g)
            neither = v.q * (1 - v.g) if wanted.products else torch.where(low, 1 - v.g, v.q)
            added, missed = v.p - both, v.q - neither
        found[TP], found[FP], found[FN] = v.total(both), v.total(added), v.total(missed)
        if wanted.further == "negatives":
            found[FIRST] = v.total(neither)
        del both, added, missed, neither
    if wanted.further == "squares":
        found[FIRST], found[SECOND] = v.total(v.p * v.p), v.total(v.g * v.g) if v.g.dtype != torch.bool else found[G]
    elif wanted.further == "errors":
        square = errors(v).square()
        found[FIRST], found[SECOND] = v.total(v.of(square, None)), v.total(v.of(None, square))
    if wanted.likelihood:
        inside, outside = likelihoods(v, rules, wanted)
        found[INSIDE] = v.total(v.of(inside, None))
        if outside is not None:
            found[OUTSIDE] = v.total(v.of(None, outside))
    return found


def sizes_of(v: View) -> tuple[Tensor, Tensor]:
    """Return the weighted numbers of voxels, and of voxels of each class, (B, C)."""
    dtype = accumulator_dtype(v.p)
    if v.w is None:
        size = v.g.sum(list(range(2, v.g.ndim)), dtype=dtype) if v.g.dtype == torch.bool else total(v.g)
        return torch.full_like(size, math.prod(v.g.shape[2:])), size
    size = v.total(v.g)
    return total(v.w).expand_as(size), size


@torch.no_grad()
def sizes(
    rules: Rules, input: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the first two of :func:`sums` without a look at the input."""
    no_input = torch.zeros(1, rules.channels, *[1] * (input.ndim - 2), device=input.device)
    dtype = computing_dtype(input)
    no_input = no_input.to(dtype).expand(input.shape)  # takes no memory
    target, mask = rules.weigh(target, mask)
    if classes is not None and rules.activation == "softmax":
        target = rules.merged_target(target, classes)
    g = shares(rules, target, no_input)
    w = None if mask is None else mask.to(dtype)
    return sizes_of(View(no_input, no_input, no_input, g, w))


def below(v: View) -> Tensor:
    """Return where p is below g; where both are 1 as well, so that the slope is that of the product there."""
    return v.g if v.g.dtype == torch.bool else (v.p < v.g) | (v.g >= 1)


def errors(v: View) -> Tensor:
    """Return p - g, without loss of digits where p is nearly 1."""
    if v.g.dtype == torch.bool:
        return torch.where(v.g, -v.q, v.p)
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
    v = viewed(rules, input, target, mask, classes, rest=rules.activation != "softmax" or wanted.further == "errors")

    def of(a: Tensor | None, b: Tensor | None = None) -> Tensor:
        """Return the gradient of a sum, less that of another, as a factor of voxels."""
        if a is None or b is None:
            x = torch.zeros(v.p.shape[:2], device=v.p.device) if a is b else a if b is None else -b  # type: ignore[operator]
        else:
            x = a - b
        return spread(x.to(v.p.dtype), v.p.ndim)  # type: ignore[union-attr]

    h = None
    if wanted.counts:
        inside = of(upstream[TP], upstream[FN])
        outside = of(upstream[FP], upstream[FIRST] if wanted.further == "negatives" else None)
        if wanted.products and v.g.dtype != torch.bool:
            h = v.of(inside, outside)
        else:
            h = torch.where(below(v), inside, outside)
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
    if h.dtype == input.dtype and h.stride() == input.stride():
        return h
    return torch.empty_like(input).copy_(narrowed(h, input.dtype))


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
    v = viewed(rules, input, target, mask, classes)
    inside, outside = (spread(x.to(v.p.dtype), v.p.ndim) for x in (inside, outside))
    nll, nll_not = likelihoods(v, rules, wanted)
    each = v.of(inside * nll, None if exclusive or nll_not is None else outside * nll_not)
    each = each if v.w is None else each * v.w
    return each.sum(1, keepdim=True) if exclusive else each
