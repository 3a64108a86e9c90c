"""Numbers: which precision losses compute in, and probabilities whose gradient does not vanish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

Activation = Literal["sigmoid", "softmax"] | Callable[[Tensor], Tensor] | None

# exp(-60) is about 1e-26: still far from float32's underflow once divided by the number of voxels.
STEEPEST_LOGIT = 60.0
SMALLEST_PROBABILITY = 1e-7  # below it, and above 1 minus it, given probabilities are clamped before the logarithm


def narrowed(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a gradient in the input's dtype; what float16 cannot hold is rounded away from zero and not to it.

    The gradient of one voxel is divided by the number of voxels and soon smaller than float16's smallest number, 6e-8.
    """
    narrow = gradient.to(dtype)
    if dtype != torch.float16:
        return narrow
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    lost = (narrow == 0) & (gradient != 0)
    return torch.where(lost, torch.copysign(torch.full_like(narrow, smallest), gradient.sign().to(dtype)), narrow)


class FromFloat16(Function):
    """Widen float16, and narrow its gradient with :func:`narrowed`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return ``x`` in float32."""
        return x.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient in float16."""
        return narrowed(gradients[0], torch.float16)


def computing_dtype(x: Tensor) -> torch.dtype:
    """Return the type of ``x``, or float32 for half precision, which can neither sum nor square counts."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) or not x.is_floating_point() else x.dtype


def promoted(x: Tensor) -> Tensor:
    """Return ``x`` in :func:`computing_dtype`."""
    if x.dtype == torch.float16:
        widened: Tensor = FromFloat16.apply(x) if x.requires_grad else x.float()  # type: ignore[no-untyped-call]
        return widened
    return x.to(computing_dtype(x))


def accumulator_dtype(x: Tensor) -> torch.dtype:
    """Return float64, or float32 on devices that have no float64 (Apple's MPS)."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def held(x: Tensor, low: float, high: float = float("inf")) -> Tensor:
    """Clamp the value but pass the gradient, so that a saturated logit keeps the slope it has at the bound."""
    limits = torch.finfo(x.dtype)
    if not (torch.is_grad_enabled() and x.requires_grad):  # there is no gradient to pass
        return x.clamp(max(low, limits.min), min(high, limits.max))
    x = x.clamp(limits.min, limits.max)  # inf - inf would be NaN
    passing = x - x.detach()
    return torch.where(x < low, low + passing, torch.where(x > high, high + passing, x))


def probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Return the probabilities of (B, C, *S) logits, as :func:`both_probabilities` computes them."""
    return both_probabilities(logits, activation)[0]


def both_probabilities(logits: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """Apply the activation to (B, C, *S) logits in at least float32, and return p and 1 - p.

    Values are torch's own. The gradient does not vanish where float32 rounds a probability to 0 or 1: the slope of
    the sigmoid is the exact ``p * (1 - p)`` on both sides, and beyond logits (softmax: gaps) of 60 it is held at its
    value there, where torch returns exactly 0 and a confident, wrong network could not be moved any more. Of a sigmoid
    and of two classes, neither p nor 1 - p is rounded to 1 beside the other.
    """
    z = promoted(logits)
    graph = torch.is_grad_enabled() and z.requires_grad
    if activation == "sigmoid" and not graph:
        z = z.clamp(-STEEPEST_LOGIT, STEEPEST_LOGIT)
        p = torch.sigmoid(z)
        return p, z.neg_().sigmoid_()
    if activation == "sigmoid":
        z = held(z, -STEEPEST_LOGIT, STEEPEST_LOGIT)
        positive = z > 0
        smaller = torch.sigmoid(torch.where(positive, -z, z))  # abs() would have no slope at 0
        larger = 1 - smaller
        return torch.where(positive, larger, smaller), torch.where(positive, smaller, larger)
    if activation == "softmax" and not graph:
        p = torch.softmax(z, 1)
        return p, p.flip(1) if p.shape[1] == 2 else 1 - p
    if activation == "softmax":
        p = torch.softmax(held(z - z.detach().logsumexp(1, keepdim=True), -STEEPEST_LOGIT), 1)
        return p, p.flip(1) if p.shape[1] == 2 else 1 - p
    p = promoted(activation(z)) if callable(activation) else z
    return p, 1 - p
