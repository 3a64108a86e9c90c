"""Numbers: which precision losses compute in, and probabilities whose gradient does not vanish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from .paths import fused

Activation = Literal["sigmoid", "softmax"] | Callable[[Tensor], Tensor] | None

# exp(-60) is about 1e-26: still far from float32's underflow once divided by the number of voxels.
STEEPEST_LOGIT = 60.0


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


def promoted(x: Tensor) -> Tensor:
    """Return ``x`` in at least float32: half precision can neither sum nor square counts."""
    if x.dtype == torch.float16:
        widened: Tensor = FromFloat16.apply(x)  # type: ignore[no-untyped-call]
        return widened
    return x.to(torch.promote_types(x.dtype, torch.float32))


def accumulator_dtype(x: Tensor) -> torch.dtype:
    """Return float64, or float32 on devices that have no float64 (Apple's MPS)."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def held(x: Tensor, low: float, high: float = float("inf")) -> Tensor:
    """Clamp the value but pass the gradient, so that a saturated logit keeps the slope it has at the bound."""
    limits = torch.finfo(x.dtype)
    if fused() and not (torch.is_grad_enabled() and x.requires_grad):  # there is no gradient to pass
        return x.clamp(max(low, limits.min), min(high, limits.max))
    x = x.clamp(limits.min, limits.max)  # inf - inf would be NaN
    passing = x - x.detach()
    return torch.where(x < low, low + passing, torch.where(x > high, high + passing, x))


def probabilities(logits: Tensor, activation: Activation) -> Tensor:
    """Apply the activation to (B, C, *S) logits in at least float32.

    Values are torch's own. The gradient does not vanish where float32 rounds a probability to 0 or 1: the slope of
    the sigmoid is the exact ``p * (1 - p)`` on both sides, and beyond logits (softmax: gaps) of 60 it is held at its
    value there, where torch returns exactly 0 and a confident, wrong network could not be moved any more.
    """
    z = promoted(logits)
    if activation is None:
        return z
    if activation == "sigmoid":
        z = held(z, -STEEPEST_LOGIT, STEEPEST_LOGIT)
        return torch.where(z > 0, 1 - torch.sigmoid(-z), torch.sigmoid(z))
    if activation == "softmax":
        return torch.softmax(held(z - z.detach().logsumexp(1, keepdim=True), -STEEPEST_LOGIT), 1)
    assert not isinstance(activation, str)
    return promoted(activation(z))


def softmax_into(p: Tensor, z: Tensor, scratch: Tensor) -> Tensor:
    """Write the softmax over the channels of (B, C, *S) logits into ``p``, by steps that torch does faster on a CPU.

    Args:
        p: of the shape and dtype of ``z``, at least float32.
        z: logits.
        scratch: memory for (B, 1, *S) to compute in.
    """
    torch.amax(z, 1, keepdim=True, out=scratch)
    torch.sub(z, scratch, out=p).exp_()
    torch.sum(p, 1, keepdim=True, out=scratch)
    return p.mul_(scratch.reciprocal_())


def times_slope_of_sigmoid(h: Tensor, z: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Multiply ``h`` in place with p (1 - p), exact on both sides and held beyond the steepest logit.

    Args:
        h: any shape, at least float32.
        z: logits, of the same shape and dtype.
        scratch: memory of that shape and dtype to compute in, or None.
    """
    # p of minus the logit's size is the smaller of p and 1 - p, and neither is rounded to 1.
    p = torch.abs(z, out=scratch).neg_().clamp_(min=-STEEPEST_LOGIT).sigmoid_()
    torch.ops.aten.sigmoid_backward.grad_input(h, p, grad_input=h)
    return h
