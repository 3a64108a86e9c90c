"""Sums over parts of a volume: components of a class and the regions around them, or bins of probabilities.

What is needed of a part is a row of a table, so that one pass over the volume is enough whatever the number of parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import SMALLEST_PROBABILITY, Activation, accumulator_dtype, probabilities, promoted


def added(x: Tensor, part: Tensor, parts: int) -> Tensor:
    """Return the sums of each part of each sample and class, (B, C, parts) in float64, with gradient.

    Args:
        x: (B, C, *S).
        part: (B, C, *S) int64, the number of the part of each voxel, 0 ... parts - 1.
        parts: how many there are.
    """
    rows = x.shape[0] * x.shape[1]
    shift = parts * torch.arange(rows, device=x.device).view(rows, 1)
    table = torch.zeros(rows * parts, dtype=accumulator_dtype(x), device=x.device)
    table = table.index_add(0, (part.reshape(rows, -1) + shift).flatten(), x.to(table.dtype).flatten())
    return table.view(*x.shape[:2], parts)


def sums_of_parts(
    input: Tensor,
    parts: Tensor,
    mask: Tensor | None,
    activation: Activation,
    first: int,
    most: int,
    nearest: bool,
    entropy: bool,
) -> Tensor:
    """Return the sums of each part of each class from the first on.

    Args:
        input: (B, C, *S).
        parts: (B, C - first, *S) integers from -most to most; those above 0 lie inside of the class.
        mask: (B, 1, *S) or (B, C, *S) voxel weights, or None.
        activation: what turns the input into probabilities, by name or None.
        first: the class that the parts begin with.
        most: the largest number of a part there can be.
        nearest: whether parts below 0 are to be told apart; otherwise they count as part 0.
        entropy: whether the cross-entropies are wanted.

    Returns:
        (2 or 3, B, C - first, 2 most + 1) in float64, of which the part p is at p + most: the weights of the voxels,
        the weighted probabilities, and with ``entropy`` the weighted -log p inside and -log(1 - p) outside of the
        class. All but the first have a gradient.
    """
    count, inside = 2 * most + 1, parts > 0
    place = (parts if nearest else parts.clamp(min=0)).to(torch.int64) + most
    p = same_probabilities(input, activation)[:, first:]
    found = [torch.ones_like(p), p]
    if entropy:
        found.append(entropies(input, inside, activation, first))
    if mask is not None:
        w = mask.to(p.dtype).expand_as(input)[:, first:]
        found = [w, *(w * x for x in found[1:])]
    return torch.stack([added(x, place, count) for x in found])


def same_probabilities(input: Tensor, activation: Activation) -> Tensor:
    """Return the probabilities, (B, C, *S), of which no bit depends on whether there is a gradient."""
    if torch.is_grad_enabled() and input.requires_grad:
        return probabilities(input, activation)
    with torch.enable_grad():
        return probabilities(input.detach().requires_grad_(), activation).detach()


def entropies(input: Tensor, inside: Tensor, activation: Activation, first: int) -> Tensor:
    """Return -log p of voxels inside of a class and -log(1 - p) of those outside, (B, C - first, *S)."""
    z = promoted(input)
    if activation == "sigmoid":
        z = z[:, first:]
        return -torch.nn.functional.logsigmoid(torch.where(inside, z, -z))
    if activation == "softmax":
        own = z.log_softmax(1)
        others = own.flip(1) if z.shape[1] == 2 else log_of_others(own)
        return -torch.where(inside, own[:, first:], others[:, first:])
    low, high = SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY
    p = z[:, first:]
    p = torch.where(p < low, low, torch.where(p > high, high, p))
    return -torch.where(inside, p.log(), torch.log1p(-p))


def log_of_others(log_p: Tensor) -> Tensor:
    """Return the logarithm of the other classes' probability together, exact also of next to nothing."""
    channels = range(log_p.shape[1])
    each = [torch.cat([log_p[:, :c], log_p[:, c + 1 :]], 1).logsumexp(1) for c in channels]
    return torch.stack(each, 1)
