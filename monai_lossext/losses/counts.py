"""Soft counts: the few sums per sample and class of which every region loss is a function.

:func:`soft_counts` is the only place that walks a volume for a region loss. It takes logits (or probabilities) and
labels, and returns sums in float64; all that comes after it is arithmetic on a few numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

Activation = Literal["sigmoid", "softmax"] | Callable[[Tensor], Tensor] | None

# exp(-60) is about 1e-26: still far from float32's underflow once divided by the number of voxels.
STEEPEST_LOGIT = 60.0


class FromFloat16(Function):
    """Widen float16; on the way back, round gradients that it cannot hold away from zero and not to it.

    The gradient of one voxel is divided by the number of voxels and soon smaller than float16's smallest number, 6e-8.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return ``x`` in float32."""
        return x.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient in float16, of at least the smallest size where it is not 0."""
        gradient = gradients[0].half()
        smallest = torch.finfo(torch.float16).smallest_normal * torch.finfo(torch.float16).eps
        lost = (gradient == 0) & (gradients[0] != 0)
        return torch.where(
            lost, torch.copysign(torch.full_like(gradient, smallest), gradients[0].sign().half()), gradient
        )


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
        return torch.softmax(held(z - z.detach().amax(1, keepdim=True), -STEEPEST_LOGIT), 1)
    assert not isinstance(activation, str)
    return promoted(activation(z))


@dataclass(frozen=True)
class Counts:
    """Soft confusion counts, each of shape (B, C) in float64; voxel weights (masks) are already in them.

    ``n`` is the (weighted) number of voxels, ``p`` the sum of predicted probabilities, ``g`` the size of the
    reference, ``tp`` the sum of their product. When asked for, there are ``pp`` and ``gg``, the sums of squares, or
    ``missed`` and ``added``, the sums of the squared errors (p - g)^2 on g and on 1 - g.
    """

    n: Tensor
    p: Tensor
    g: Tensor
    tp: Tensor
    pp: Tensor | None = None
    gg: Tensor | None = None
    missed: Tensor | None = None
    added: Tensor | None = None

    @property
    def fp(self) -> Tensor:
        """False positives, sum of p (1 - g)."""
        return held(self.p - self.tp, 0.0)

    @property
    def fn(self) -> Tensor:
        """False negatives, sum of (1 - p) g."""
        return held(self.g - self.tp, 0.0)

    @property
    def tn(self) -> Tensor:
        """True negatives, sum of (1 - p) (1 - g)."""
        return held(self.n - self.p - self.g + self.tp, 0.0)

    def size(self, squared: bool) -> Tensor:
        """Return the size of prediction and reference together: sum p + sum g, or sum p^2 + sum g^2."""
        if not squared:
            return self.p + self.g
        assert self.pp is not None
        assert self.gg is not None
        return self.pp + self.gg


def soft_counts(
    input: Tensor,
    target: Tensor,
    *,
    activation: Activation,
    labels: bool,
    mask: Tensor | None,
    squares: bool = False,
    errors: bool = False,
) -> Tensor:
    """Sum up what region losses need, for all classes, with gradient to ``input``.

    Args:
        input: (B, C, *S) logits, or probabilities when ``activation`` is None; any floating dtype.
        target: (B, 1, *S) class indices 0..C-1 when ``labels`` is True, else (B, C, *S) in [0, 1].
        activation: what turns ``input`` into probabilities.
        labels: whether ``target`` holds class indices; they are never expanded to one-hot.
        mask: (B, 1, *S) or (B, C, *S) non-negative voxel weights, or None.
        squares: whether the sums of squares are wanted as well.
        errors: whether, in their place, the sums of squared errors are wanted.

    Returns:
        (4, B, C), or (6, B, C) with squares or errors, in float64, in the order of the fields of :class:`Counts`.
    """
    p = probabilities(input, activation)
    shape, total_dtype = p.shape[:2], accumulator_dtype(p)
    p = p.flatten(2)
    w = None if mask is None else mask.flatten(2).to(p.dtype)

    def total(x: Tensor) -> Tensor:
        return (x if w is None else x * w).sum(-1, dtype=total_dtype).expand(shape)

    if w is None:
        n = torch.full(shape, float(p.shape[-1]), dtype=total_dtype, device=p.device)
    else:
        n = w.sum(-1, dtype=total_dtype).expand(shape)

    if labels:
        label = target.flatten(2).long()
        w_label = None if w is None else w if w.shape[1] == 1 else w.gather(1, label)

        def total_at_label(x: Tensor) -> Tensor:
            x = (x if w_label is None else x * w_label).to(total_dtype)
            return torch.zeros(shape, dtype=total_dtype, device=p.device).scatter_add(1, label[:, 0], x[:, 0])

        p_label = p.gather(1, label)
        g = total_at_label(torch.ones_like(p_label))
        sums = [n, total(p), g, total_at_label(p_label)]
        if squares:
            sums += [total(p * p), g]
        elif errors:
            sums += [total_at_label((1 - p_label).square()), total(p.scatter(1, label, 0.0).square())]
    else:
        t = target.flatten(2).to(p.dtype)
        sums = [n, total(p), total(t), total(p * t)]
        if squares:
            sums += [total(p * p), total(t * t)]
        elif errors:
            error = (p - t).square()
            sums += [total(error * t), total(error * (1 - t))]
    return torch.stack(sums)


class SumOverProcesses(Function):
    """Sum over all processes, in both directions.

    Every process computes the loss from the same total. Summing the gradients again makes up for the division by the
    number of processes in DistributedDataParallel, so that N processes train exactly like one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the total of ``x`` over all processes."""
        x = x.clone()
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the total of the gradient over all processes."""
        gradient = gradients[0].clone()
        torch.distributed.all_reduce(gradient)
        return gradient
