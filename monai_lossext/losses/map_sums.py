"""Sums of probabilities or errors times a constant map, without volumes between the logits and their gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .compiled import map_slopes, map_sums
from .parts import parts, spread
from .paths import compiled, fused
from .precision import (
    STEEPEST_LOGIT,
    Activation,
    accumulator_dtype,
    narrowed,
    probabilities,
    times_slope_of_sigmoid,
)


@dataclass(frozen=True)
class MapSum:
    """Sum over the voxels of each class of a map times the probability, or with a target times the squared error.

    The first class is the one that the map begins with.
    """

    activation: Activation
    first: int = 0
    shift: float = 0.0  # added to the map where it is below 0
    labels: bool = False  # whether the target holds class indices

    def __call__(self, input: Tensor, phi: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the sums, with gradient to ``input``.

        Args:
            input: (B, C, *S) logits, or probabilities without an activation; any floating dtype.
            phi: (B, C - first, *S), the map, a constant of any floating dtype.
            target: (B, 1, *S) class indices with ``labels``, else (B, C, *S) in [0, 1], or None.

        Returns:
            (B, C - first) in float64.
        """
        if self.activation in ("sigmoid", "softmax") and fused():
            total: Tensor = SumOfParts.apply(input, phi, target, self)  # type: ignore[no-untyped-call]
            return total
        return self.plain(input, phi, target)

    def plain(self, input: Tensor, phi: Tensor, target: Tensor | None) -> Tensor:
        """Return the sums by way of whole volumes, which can be compiled and differentiated twice."""
        p = probabilities(input, self.activation)[:, self.first :]
        return self.sums(p if target is None else (p - self.channels(target, p)).square(), phi)

    def loops_fit(self, input: Tensor, phi: Tensor) -> bool:
        """Return whether compiled loops can add up a map times the probabilities, and are there."""
        return (
            compiled()
            and input.device.type == "cpu"
            and all(x.dtype == torch.float32 and x.numel() > 0 and not x.is_neg() for x in (input, phi))
            and input.is_contiguous()
            and phi.shape[1:] == (input.shape[1] - self.first, *input.shape[2:])
            and all(sample.is_contiguous() for sample in phi[:2])  # channels may have been left out of each
            and phi.stride(0) % phi[0, 0].numel() == 0
        )

    def sums(self, x: Tensor, phi: Tensor) -> Tensor:
        """Return the sums of the shifted map times ``x``."""
        return (x * shifted(phi.to(x.dtype), self.shift)).flatten(2).sum(2, dtype=accumulator_dtype(x))

    def channels(self, target: Tensor, p: Tensor) -> Tensor:
        """Return the target of each class in the type and shape of the probabilities."""
        if self.labels:
            channel = torch.arange(self.first, self.first + p.shape[1], device=p.device, dtype=p.dtype)
            return (target.to(p.dtype) == spread(channel, p.ndim - 1)).to(p.dtype)
        return target[:, self.first :].to(p.dtype)

    def gradient(self, z: Tensor, phi: Tensor, target: Tensor | None, upstream: Tensor) -> Tensor:
        """Return the gradient of logits in at least float32, given that of the sums."""
        p = torch.softmax(z, 1) if self.activation == "softmax" else torch.sigmoid(z)
        weight = shifted(phi.to(z.dtype), self.shift) * spread(upstream.to(z.dtype), z.ndim)
        if target is not None:
            error = p[:, self.first :] - self.channels(target, weight)
            weight.mul_(error).mul_(2)
        if self.first:
            weight = torch.cat([torch.zeros_like(p[:, : self.first]), weight], 1)
        if self.activation == "sigmoid":
            return times_slope_of_sigmoid(weight, z)
        step = weight.mul_(p.clamp_(min=math.exp(-STEEPEST_LOGIT)))
        return step.addcmul_(p, step.sum(1, keepdim=True), value=-1)


class SumOfParts(Function):
    """:class:`MapSum` part by part: both directions walk over the logits and compute the probabilities anew."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, phi: Tensor, target: Tensor | None, recipe: MapSum) -> Tensor:
        """Return the sums; keep only what was given."""
        ctx.save_for_backward(input, phi, target)
        ctx.recipe, ctx.compiled = recipe, target is None and recipe.loops_fit(input, phi)
        if ctx.compiled:
            assert isinstance(recipe.activation, str)
            return map_sums(input, phi, recipe.activation, recipe.first, recipe.shift)
        total = torch.zeros(phi.shape[:2], dtype=accumulator_dtype(input), device=input.device)
        for where in parts(input):
            z = widened(input[where])
            p = (torch.softmax(z, 1) if recipe.activation == "softmax" else torch.sigmoid(z))[:, recipe.first :]
            x = p if target is None else p.sub_(recipe.channels(target[where], p)).square_()
            total[where[0]] += recipe.sums(x, phi[where])
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input; one that is to be differentiated again comes from the plain path."""
        input, phi, target = ctx.saved_tensors
        if torch.is_grad_enabled():
            total = ctx.recipe.plain(input, phi, target)
            return *torch.autograd.grad(total, input, upstream, create_graph=True), None, None, None
        if ctx.compiled:
            recipe = ctx.recipe
            gradient = map_slopes(input, phi, recipe.activation, recipe.first, recipe.shift, upstream[0])
            return gradient, None, None, None
        gradient = torch.empty_like(input)
        for where in parts(input):
            part = None if target is None else target[where]
            slope = ctx.recipe.gradient(widened(input[where]), phi[where], part, upstream[0][where[0]])
            gradient[where] = narrowed(slope, input.dtype)
        return gradient, None, None, None


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def shifted(distances: Tensor, shift: float) -> Tensor:
    """Return signed distances with those inside, which are negative, nearer to 0 by ``shift``."""
    return torch.sub(distances, distances.sign().clamp_(max=0), alpha=shift) if shift else distances  # where is slow


def above(input: Tensor, activation: Activation, threshold: float = 0.5) -> Tensor:
    """Return where the probability is above a threshold, (B, C, *S) bool."""
    input = input.detach()
    if activation == "sigmoid":
        return input > 0 if threshold == 0.5 else torch.sigmoid(widened(input)) > threshold
    p = torch.softmax(widened(input), 1) if activation == "softmax" else probabilities(input, activation)
    return p > threshold
