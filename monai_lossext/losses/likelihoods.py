"""Likelihoods: how improbable a prediction finds each voxel's true class, of which every voxel loss is a function.

:func:`read_voxels` turns logits (or probabilities) and labels into negative logarithms; voxel losses weigh and add up
these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .counts import Activation, promoted

SMALLEST_PROBABILITY = 1e-7  # below it, and above 1 minus it, given probabilities are clamped before the logarithm


@dataclass(frozen=True)
class Voxels:
    """The negative log-likelihoods of one call.

    With exclusive classes, every voxel has one class: ``inside`` is -log p of the own class, (B, 1, *S), where the
    target holds labels, and of each class, (B, C, *S), where it holds shares; ``outside`` is None. Otherwise every
    channel is a problem of its own, with -log p in ``inside`` and -log(1 - p) in ``outside``, both (B, C, *S).
    """

    inside: Tensor
    outside: Tensor | None
    target: Tensor  # labels (B, 1, *S) if labels, else bool or shares of each class, (B, C, *S)
    labels: bool
    weight: Tensor  # of each voxel in the sums, broadcasts over the values
    classes: int

    @property
    def exclusive(self) -> bool:
        """Whether a voxel belongs to one class only."""
        return self.outside is None

    def per_class(self, foreground: float, background: float) -> tuple[Tensor, Tensor]:
        """Return factors of what is inside and outside of each class, (1, C); exclusive class 0 is the background."""
        inside = self.inside.new_full((1, self.classes), foreground)
        if self.exclusive:
            inside[:, 0] = background
        return inside, torch.full_like(inside, background)

    def map(self, function: Callable[[Tensor], Tensor]) -> Voxels:
        """Return the voxels with a function of their negative log-likelihoods in the place of these."""
        outside = None if self.outside is None else function(self.outside)
        return replace(self, inside=function(self.inside), outside=outside)

    def own(self, per_class: Tensor) -> Tensor:
        """Spread values of each sample and class, (B or 1, C), over the voxels of ``inside``."""
        if self.labels:
            label = self.target.long()
            return per_class.expand(label.shape[0], -1).gather(1, label.flatten(1)).view_as(label)
        return _spread(per_class, self.inside.ndim)

    def total(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Return each voxel's factor times likelihood of the class that it has, (B, 1, *S) or (B, C, *S).

        Args:
            inside: factor of each class, (B or 1, C).
            outside: factor of what is not of the class, (B or 1, C); not used for exclusive classes.
        """
        own = self.own(inside) * self.inside
        if self.outside is not None:
            return mixed(self.target, own, self.own(outside) * self.outside)
        return own if self.labels else (self.target * own).sum(1, keepdim=True)


def mixed(target: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Return what is inside where the target is 1, what is outside where it is 0, and the mixture between."""
    if target.dtype == torch.bool:
        return torch.where(target, inside, outside)
    return target * inside + (1 - target) * outside


def read_voxels(
    input: Tensor,
    target: Tensor,
    *,
    activation: Activation,
    exclusive: bool,
    labels: bool,
    mask: Tensor | None,
    kept: Tensor | None,
    first: int,
) -> Voxels:
    """Compute the negative log-likelihoods, with gradient to ``input``, and the weight of each voxel.

    Args:
        input: (B, C, *S) logits, or probabilities when ``activation`` is None; any floating dtype.
        target: (B, 1, *S) class indices 0..C-1 when ``labels`` is True, else (B, C, *S) in [0, 1].
        activation: what turns ``input`` into probabilities.
        exclusive: whether the classes of a voxel exclude each other.
        labels: whether ``target`` holds class indices; exclusive ones are never expanded to one-hot.
        mask: (B, 1, *S) or (B, C, *S) non-negative voxel weights, or None.
        kept: (B, C) bool, the classes that count, or None for all.
        first: channel from which on classes count: 1 leaves out the background. With exclusive classes, voxels of a
            class that does not count are left out; otherwise its channel is.
    """
    z = promoted(input)
    weight = torch.ones((1,) * z.ndim, dtype=z.dtype, device=z.device) if mask is None else mask.to(z.dtype)
    channel = torch.arange(z.shape[1], device=z.device)
    if exclusive and first > 0:
        kept = channel >= first if kept is None else kept & (channel >= first)
    if kept is not None:
        weight = weight * _spread(kept.expand(z.shape[:2]), z.ndim)
    if not exclusive:
        target = target == _spread(channel, z.ndim - 1) if labels else target
        target = target if target.dtype == torch.bool else target.to(z.dtype)
        if activation == "softmax":
            z, activation = _one_against_the_rest(z), "sigmoid"
        inside, outside = _logarithms(z, activation)
        weight = weight if weight.shape[1] == 1 else weight[:, first:]
        return Voxels(-inside[:, first:], -outside[:, first:], target[:, first:], False, weight, z.shape[1] - first)

    log_p = torch.log_softmax(z, 1) if activation == "softmax" else _logarithms(z, activation)[0]
    if labels:
        label = target.long()
        weight = weight if weight.shape[1] == 1 else weight.expand(z.shape).gather(1, label)
        return Voxels(-log_p.gather(1, label), None, target, True, weight, z.shape[1])
    target = target.to(z.dtype)
    if weight.shape[1] > 1:  # a voxel counts as far as its classes count
        shares = target * weight
        seen = (weight > 0).any(1, keepdim=True)
        weight = (1 - (target - shares).sum(1, keepdim=True)).clamp(min=0) * seen
        target = shares / torch.where(weight > 0, weight, 1.0)
    return Voxels(-log_p, None, target, False, weight, z.shape[1])


def _spread(x: Tensor, ndim: int) -> Tensor:
    """Append axes of size 1 until there are ``ndim``."""
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))


def _logarithms(z: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """Return log p and log(1 - p)."""
    if activation == "sigmoid":
        return torch.nn.functional.logsigmoid(z), torch.nn.functional.logsigmoid(-z)
    p = z if activation is None else promoted(activation(z))  # type: ignore[operator]
    low, high = SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY
    p = torch.where(p < low, low, torch.where(p > high, high, p))
    return p.log(), torch.log1p(-p)


def _one_against_the_rest(z: Tensor) -> Tensor:
    """Return the logits whose sigmoid is the softmax of z."""
    rest = [torch.cat([z[:, :c], z[:, c + 1 :]], 1).logsumexp(1) for c in range(z.shape[1])]
    return z - torch.stack(rest, 1)
