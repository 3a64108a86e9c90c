"""Soft counts without a copy of the volume: sums and their gradient, computed part by part in the processor's cache.

Saved for the backward pass are the logits and the labels that the caller holds anyway. Both passes walk through the
volume in parts of some hundred thousand elements and apply the activation to each; nothing of the volume's size is made
but the gradient. The sums are those of :func:`.plain_counts`, which is the oracle of this module.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .compiled import Loops, loops_fit
from .parts import Slices, parts, spread
from .precision import STEEPEST_LOGIT, accumulator_dtype, narrowed, softmax_into, times_slope_of_sigmoid
from .reading import Rules


@dataclass(frozen=True)
class Recipe:
    """What to sum up."""

    rules: Rules
    activation: str | None  # "sigmoid", "softmax" or "pair": softmax over two channels, of which channel 1 counts
    extra: str | None  # further sums, see :data:`.EXTRA`

    @property
    def parts(self) -> int:
        """Into how many parts to cut a volume at least, so that what is made of one takes a quarter of its memory."""
        return 16 if self.extra == "errors" else 10


class Scratch:
    """Memory for what is made of one part, taken once for all parts: fresh memory costs more than the arithmetic."""

    def __init__(self, input: Tensor) -> None:
        self.dtype = torch.promote_types(input.dtype, torch.float32)
        self.like = input
        self.blocks: dict[str, Tensor] = {}
        self.views: dict[tuple[str, torch.Size], Tensor] = {}
        self.classes = spread(torch.arange(input.shape[1], dtype=self.dtype, device=input.device), input.ndim - 1)

    def take(self, name: str, shape: torch.Size) -> Tensor:
        """Return the tensor of this name, contiguous, in at least float32; no later shape may be larger."""
        if name not in self.blocks:
            self.blocks[name] = self.like.new_empty(shape.numel(), dtype=self.dtype)
        if (name, shape) not in self.views:
            self.views[name, shape] = self.blocks[name][: shape.numel()].view(shape)
        return self.views[name, shape]


class Part:
    """Logits z, target g with a channel a class, and voxel weights w of one part of the volume."""

    def __init__(
        self,
        recipe: Recipe,
        scratch: Scratch,
        input: Tensor,
        target: Tensor,
        mask: Tensor | None,
        empty: bool | None = None,
    ) -> None:
        """Read a part.

        Args:
            recipe: how to read it.
            scratch: where to write what is made of it.
            input: (B, C, *S).
            target: (B, 1, *S) or (B, C, *S).
            mask: (B, 1, *S) or (B, C, *S), or None.
            empty: whether it holds background only, as far as that spares work, or None if it was not read before.
        """
        self.recipe, self.scratch, rules = recipe, scratch, recipe.rules
        self.axes = list(range(2, input.ndim))
        target, kept = rules.without_ignored(target)
        if empty is None:
            highest = rules.check(target, mask)
            alone = recipe.activation == "pair" or not rules.labels  # no class but those in channels
            weighed = mask is not None or kept is not None
            empty = (
                alone
                and not weighed
                and recipe.extra != "errors"
                and not (target.any() if highest is None else highest)
            )
        self.empty = empty
        input, weight = rules.weigh(input, mask, kept)
        self.w = None if weight is None else weight.to(scratch.dtype)
        if recipe.activation == "pair":
            self.z = scratch.take("z", input[:, 1:].shape).copy_(input[:, 1:]).sub_(input[:, :1])
        else:
            self.z = input if input.dtype == scratch.dtype else scratch.take("z", input.shape).copy_(input)
        self.g = self.z if empty else self.in_channels(target)

    def in_channels(self, target: Tensor) -> Tensor:
        """Return the target with a channel a class, in floating point."""
        target = target.view(torch.uint8) if target.dtype == torch.bool else target  # to convert bool is slow
        labels = self.recipe.rules.labels and self.recipe.activation != "pair"  # of two, the second one's channel
        if target.dtype != self.scratch.dtype:
            target = self.scratch.take("voxels" if labels else "g", target.shape).copy_(target)
        return torch.eq(target, self.scratch.classes, out=self.scratch.take("g", self.z.shape)) if labels else target

    def probabilities(self) -> Tensor:
        """Return the probabilities of the part."""
        if self.recipe.activation is None:
            return self.z
        p = self.scratch.take("p", self.z.shape)
        if self.recipe.activation == "softmax":
            return softmax_into(p, self.z, self.scratch.take("voxels", self.z[:, :1].shape))
        return torch.sigmoid(self.z, out=p)

    def total(self, x: Tensor) -> Tensor:
        """Return the weighted sum of (B, C, *S) over the voxels: float32 will do, where no term is negative."""
        x = x if self.w is None else torch.mul(x, self.w, out=self.scratch.take("weighted", x.shape))
        return x.sum(self.axes)

    def sums(self) -> Tensor:
        """Return the part's share of the sums, (5 to 7, B, C)."""
        g, p, extra = self.g, self.probabilities(), self.recipe.extra
        n = (
            p.new_full(p.shape[:2], math.prod(p.shape[2:]))
            if self.w is None
            else self.w.sum(self.axes).expand(p.shape[:2])
        )
        if self.empty:
            return self.sums_of_background(p, n)
        size, predicted, more = self.total(g), self.total(p), []
        if extra == "squares":
            more = [self.total(p * p), self.total(g * g)]
        elif extra == "errors":
            errors = (p - g).square_()
            missed = errors * g
            more = [self.total(missed), self.total(errors.sub_(missed))]
        product = torch.mul(p, g, out=self.scratch.take("product", p.shape))
        tp = self.total(product)
        fp, fn = predicted - tp, size - tp
        tn = [n - size - fp] if extra == "negatives" else []
        if self.may_have_cancelled([fp, fn, *tn], [tp, tp, n][: 2 + len(tn)]):
            added = torch.sub(p, product, out=self.scratch.take("p", p.shape))
            fp, fn = self.total(added), self.total(torch.sub(g, product, out=product))
            tn = [self.total(torch.add(g, added, out=product).neg_().add_(1))] if tn else []
        return torch.stack([n, size, tp, fp, fn, *tn, *more])

    def may_have_cancelled(self, differences: list[Tensor], terms: list[Tensor]) -> bool:
        """Return whether a difference of float32 sums may be too small beside its terms to be exact."""
        if self.z.device.type != "cpu":  # where to look takes longer than to add up once more
            return True
        return bool((torch.stack(differences) < torch.stack(terms) / 16).any())

    def sums_of_background(self, p: Tensor, n: Tensor) -> Tensor:
        """Return the sums of a part without foreground."""
        fp, more = self.total(p), []
        zero = torch.zeros_like(fp)
        if self.recipe.extra == "squares":
            more = [self.total(p * p), zero]
        elif self.recipe.extra == "negatives":
            more = [n - fp]
            if self.may_have_cancelled(more, [n]):
                more = [self.total(torch.neg(p, out=self.scratch.take("p", p.shape)).add_(1))]
        return torch.stack([n, zero, zero, fp, zero, *more])

    def gradient(self, slopes: Slopes, out: Tensor) -> None:
        """Write the gradient of the part's logits."""
        activation, pair = self.recipe.activation, self.recipe.activation == "pair"
        both, out = out, out[:, 1:] if pair else out
        h = out if out.dtype == self.scratch.dtype else self.scratch.take("h", out.shape)
        self.gradient_of_probabilities(slopes, h)
        if activation == "softmax":
            p = self.probabilities().clamp_(min=math.exp(-STEEPEST_LOGIT))
            mean = torch.sum(h.mul_(p), 1, keepdim=True, out=self.scratch.take("voxels", h[:, :1].shape))
            h.addcmul_(p, mean, value=-1)
        elif activation is not None:
            times_slope_of_sigmoid(h, self.z, self.scratch.take("p", h.shape))
        if h is not out:
            out.copy_(narrowed(h, out.dtype))
        if pair:
            torch.neg(out, out=both[:, :1])

    def gradient_of_probabilities(self, slopes: Slopes, h: Tensor) -> None:
        """Write the gradient of the part's probabilities into ``h``."""
        extra, g = self.recipe.extra, self.g
        if self.empty:
            h[:] = slopes.background
        else:
            ahead = g if slopes.start is None else torch.sub(g, slopes.start, out=h)
            torch.mul(ahead, slopes.rise, out=h).add_(slopes.offset)
        if extra == "squares":
            h.addcmul_(self.probabilities(), slopes.more[0], value=2)
        elif extra == "errors":
            missed, added = slopes.more
            h.add_(torch.lerp(added, missed, g).mul_(self.probabilities() - g), alpha=2)
        if self.w is not None:
            h.mul_(self.w)


@dataclass(frozen=True)
class Slopes:
    """The gradient of a voxel's probability as a function of its target g, (g - start) rise + offset.

    The line starts at the smaller of its two ends, which would drown in rounding errors of the larger one.
    """

    start: Tensor | None  # 0 where the line starts at the background; None for 0 everywhere
    rise: Tensor
    offset: Tensor
    background: Tensor
    more: Sequence[Tensor]  # gradient of the squares or errors

    @classmethod
    def of(cls, upstream: Tensor, recipe: Recipe, like: Tensor) -> Slopes:
        """Read the gradient of the sums, (5 to 7, B, C), for volumes like ``like``."""
        _, _, of_tp, of_fp, of_fn, *more = spread(upstream, like.ndim + 1)
        foreground, background = of_tp - of_fn, of_fp - more[0] if recipe.extra == "negatives" else of_fp
        at_foreground = background.abs() > foreground.abs()
        values = (foreground - background, torch.where(at_foreground, foreground, background), background, *more)
        dtype = torch.promote_types(like.dtype, torch.float32)
        rise, offset, background, *more = (x.to(dtype) for x in values)
        none = like.device.type == "cpu" and not bool(at_foreground.any())  # elsewhere the question costs more
        return cls(None if none else at_foreground.to(dtype), rise, offset, background, more)

    def __getitem__(self, samples: slice) -> Slopes:
        start = None if self.start is None else self.start[samples]
        more = [x[samples] for x in self.more]
        return Slopes(start, self.rise[samples], self.offset[samples], self.background[samples], more)


class FusedCounts(Function):
    """The sums of a volume, part by part."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, mask: Tensor | None, recipe: Recipe, plain: Callable[..., Tensor]
    ) -> Tensor:
        """Return the sums, (5 to 7, B, C)."""
        ctx.save_for_backward(input, target, mask)
        ctx.recipe, ctx.plain = recipe, plain
        if (
            loops_fit(input, target, mask, recipe.rules)
            and (sums := Loops.over(input, target, recipe).sums()) is not None
        ):
            ctx.compiled = True
            return sums
        ctx.compiled = False
        tensors = in_rows(input, target, mask)
        ctx.parts = list(parts(tensors[0], recipe.parts))  # another thread might cut otherwise
        shares, ctx.empty = [], []
        for _, part in walk(tensors, recipe, ctx.parts):
            shares.append(part.sums())
            ctx.empty.append(part.empty)
        kinds, _, classes = shares[0].shape
        total = torch.zeros(kinds, input.shape[0], classes, dtype=accumulator_dtype(input), device=input.device)
        for (samples, *_), share in zip(ctx.parts, shares, strict=True):
            total[:, samples].add_(share)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input."""
        input, target, mask = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants to differentiate the gradient
            sums = ctx.plain(input, target, mask, extra=ctx.recipe.extra)[:, :, -upstream[0].shape[2] :]
            (gradient,) = torch.autograd.grad(sums, input, upstream, create_graph=True)
            return gradient, None, None, None, None
        gradient = torch.empty_like(input)
        if ctx.compiled:
            Loops.over(input, target, ctx.recipe).gradient(upstream[0], gradient)
            return gradient, None, None, None, None
        *tensors, into = in_rows(input, target, mask, gradient)
        slopes = Slopes.of(upstream[0], ctx.recipe, into)
        for where, part in walk(tensors, ctx.recipe, ctx.parts, ctx.empty):
            part.gradient(slopes if len(input) == 1 else slopes[where[0]], into[where])
        return gradient, None, None, None, None


def in_rows(*tensors: Tensor | None) -> list[Any]:
    """Return views (B, C, N) of (B, C, *S), which are cheaper to cut, or the tensors where not all are contiguous."""
    if all(x is None or x.is_contiguous() for x in tensors):
        return [None if x is None else x.flatten(2) for x in tensors]
    return list(tensors)


def walk(
    tensors: Sequence[Any], recipe: Recipe, parts: Sequence[Slices], empty: Sequence[bool] | None = None
) -> Iterator[tuple[Slices, Part]]:
    """Yield where each part of input, target and mask is, and the part, which lives until the next one.

    In a second walk it is known which parts are empty.
    """
    input, target, mask = tensors
    scratch = Scratch(input)
    for where, known in zip(parts, empty or itertools.repeat(None), strict=False):
        of_mask = None if mask is None else mask[where]
        yield where, Part(recipe, scratch, input[where], target[where], of_mask, known)
