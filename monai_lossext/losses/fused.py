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

from .parts import Slices, parts, spread
from .precision import STEEPEST_LOGIT, accumulator_dtype, narrowed
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

    def __init__(self, input: Tensor, elements: int) -> None:
        self.dtype = torch.promote_types(input.dtype, torch.float32)
        self.like, self.elements = input, elements
        self.blocks: dict[str, Tensor] = {}
        self.views: dict[tuple[str, torch.Size], Tensor] = {}
        self.classes = spread(torch.arange(input.shape[1], dtype=self.dtype, device=input.device), input.ndim - 1)

    def take(self, name: str, shape: torch.Size) -> Tensor:
        """Return the tensor of this name, contiguous, in at least float32."""
        if name not in self.blocks:
            self.blocks[name] = self.like.new_empty(self.elements, dtype=self.dtype)
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
        self.recipe, self.scratch = recipe, scratch
        input, target, weight = recipe.rules.read(input, target, mask, check=empty is None)
        self.w = None if weight is None else weight.to(scratch.dtype)
        if empty is None:
            alone = recipe.activation == "pair" or not recipe.rules.labels  # no class but those in channels
            empty = alone and recipe.extra != "errors" and self.w is None and not bool(target.amax())
        self.empty = empty
        if recipe.activation == "pair":
            self.z = scratch.take("z", input[:, 1:].shape).copy_(input[:, 1:]).sub_(input[:, :1])
        else:
            self.z = input if input.dtype == scratch.dtype else scratch.take("z", input.shape).copy_(input)
        self.g = self.z if empty else self.in_channels(target)

    def in_channels(self, target: Tensor) -> Tensor:
        """Return the target with a channel a class, in floating point."""
        target = target.view(torch.uint8) if target.dtype == torch.bool else target  # to convert bool is slow
        if not self.recipe.rules.labels and target.dtype == self.scratch.dtype:
            return target
        g = self.scratch.take("g", self.z.shape)
        if self.recipe.rules.labels and self.recipe.activation != "pair":
            g[:, :1] = target
            g[:, 1:] = g[:, :1]
            return g.eq_(self.scratch.classes)
        return g.copy_(target)  # of two classes, the label is the second one's channel

    def probabilities(self) -> Tensor:
        """Return the probabilities of the part."""
        if self.recipe.activation is None:
            return self.z
        p = self.scratch.take("p", self.z.shape)
        return torch.softmax(self.z, 1, out=p) if self.recipe.activation == "softmax" else torch.sigmoid(self.z, out=p)

    def total(self, x: Tensor) -> Tensor:
        """Return the weighted sum of (B, C, *S) over the voxels: float32 will do, where no term is negative."""
        return (x if self.w is None else x * self.w).flatten(2).sum(2)

    def sums(self) -> Tensor:
        """Return the part's share of the sums, (5 to 7, B, C)."""
        g, p, extra, more = self.g, self.probabilities(), self.recipe.extra, []
        if self.empty:
            return self.sums_of_background(p)
        n = g.new_full(g.shape[:2], math.prod(g.shape[2:])) if self.w is None else self.total(torch.ones_like(g))
        if extra == "squares":
            more = [self.total(p * p), self.total(g * g)]
        elif extra == "errors":
            errors = (p - g).square_()
            missed = errors * g
            more = [self.total(missed), self.total(errors.sub_(missed))]
        product = torch.mul(p, g, out=self.scratch.take("product", p.shape))
        tp = self.total(product)
        added = torch.sub(p, product, out=self.scratch.take("p", p.shape))
        fp = self.total(added)
        fn = self.total(torch.sub(g, product, out=product))
        if extra == "negatives":
            more = [self.total(torch.add(g, added, out=product).neg_().add_(1))]
        return torch.stack([n, self.total(g), tp, fp, fn, *more])

    def sums_of_background(self, p: Tensor) -> Tensor:
        """Return the sums of a part without foreground."""
        n, fp = p.new_full(p.shape[:2], math.prod(p.shape[2:])), self.total(p)
        zero, more = torch.zeros_like(fp), []
        if self.recipe.extra == "squares":
            more = [self.total(p * p), zero]
        elif self.recipe.extra == "negatives":
            more = [self.total(torch.neg(p, out=self.scratch.take("p", p.shape)).add_(1))]
        return torch.stack([n, zero, zero, fp, zero, *more])

    def gradient(self, upstream: Tensor, out: Tensor) -> None:
        """Write the gradient of the part's logits, given that of the sums, (5 to 7, B, C)."""
        h, activation, first = self.gradient_of_probabilities(upstream), self.recipe.activation, None
        if activation == "pair":
            first, out = out[:, :1], out[:, 1:]
        into = out if out.dtype == h.dtype and activation is not None else h
        if activation == "softmax":
            p = self.probabilities().clamp_(min=math.exp(-STEEPEST_LOGIT))
            mean = torch.sum(h.mul_(p), 1, keepdim=True, out=self.scratch.take("mean", h[:, :1].shape))
            torch.addcmul(h, p, mean, value=-1, out=into)
        elif activation is not None:
            # The slope p (1 - p) is exact on both sides for the p of minus the logit's size.
            p = torch.abs(self.z, out=self.scratch.take("p", h.shape)).neg_().clamp_(min=-STEEPEST_LOGIT).sigmoid_()
            torch.ops.aten.sigmoid_backward.grad_input(h, p, grad_input=into)
        if into is h:
            out.copy_(narrowed(h, out.dtype))
        if first is not None:
            torch.neg(out, out=first)

    def gradient_of_probabilities(self, upstream: Tensor) -> Tensor:
        """Return the gradient of the part's probabilities, given that of the sums."""
        extra, g, more = self.recipe.extra, self.g, []
        h = self.scratch.take("g", g.shape)
        _, _, of_tp, of_fp, of_fn, *of_more = spread(upstream, g.ndim + 1)
        foreground, background = of_tp - of_fn, of_fp - of_more[0] if extra == "negatives" else of_fp
        if extra == "errors":
            missed, added = (x.to(h.dtype) for x in of_more)
            more = [torch.lerp(added, missed, g).mul_(self.probabilities() - g)]
        if self.empty:
            h[:] = background
        else:
            # A line in g through the smaller of its two ends, which would drown in rounding errors of the larger one.
            origin = background.abs() > foreground.abs()
            line = (origin, foreground - background, torch.where(origin, foreground, background))
            start, slope, offset = (x.to(h.dtype) for x in line)
            torch.sub(g, start, out=h).mul_(slope).add_(offset)
        if extra == "squares":
            h.addcmul_(self.probabilities(), of_more[0].to(h.dtype), value=2)
        for term in more:
            h.add_(term, alpha=2)
        return h if self.w is None else h.mul_(self.w)


class FusedCounts(Function):
    """The sums of a volume, part by part."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, mask: Tensor | None, recipe: Recipe, plain: Callable[..., Tensor]
    ) -> Tensor:
        """Return the sums, (5 to 7, B, C)."""
        ctx.save_for_backward(input, target, mask)
        ctx.recipe, ctx.plain = recipe, plain
        shares = [(where[0], part.sums(), part.empty) for where, part in walk(input, target, mask, recipe)]
        ctx.empty = [empty for *_, empty in shares]
        kinds, _, classes = shares[0][1].shape
        total = torch.zeros(kinds, input.shape[0], classes, dtype=accumulator_dtype(input), device=input.device)
        for samples, share, _ in shares:
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
        for where, part in walk(input, target, mask, ctx.recipe, ctx.empty):
            part.gradient(upstream[0][:, where[0]], gradient[where])
        return gradient, None, None, None, None


def walk(
    input: Tensor, target: Tensor, mask: Tensor | None, recipe: Recipe, empty: Sequence[bool] | None = None
) -> Iterator[tuple[Slices, Part]]:
    """Yield where each part is and the part, which lives until the next one; ``empty`` is known in a second walk."""
    scratch = None
    for where, known in zip(parts(input, recipe.parts), empty or itertools.repeat(None), strict=False):
        scratch = scratch or Scratch(input, input[where].numel())  # the first part is the largest
        of_mask = None if mask is None else mask[where]
        yield where, Part(recipe, scratch, input[where], target[where], of_mask, known)
