"""Order of large tensors, and the slopes of Lovasz losses, which hang on it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .. import paths
from .precision import accumulator_dtype

INDEX_BITS = 32  # of a key's 64, the rest are those of a float32
COUNTS_IN_FLOAT32 = 2**24  # float32 cannot count further


@torch.no_grad()
def descending(x: Tensor) -> Tensor:
    """Return the indices that sort the last axis from large to small, NaN first, equal numbers in their order; int64.

    On a CPU, NumPy sorts numbers with vector instructions, many times faster than torch. A float32 and its index make
    one integer, and sorting these integers is the same stable sort.
    """
    if paths.waits(x) or x.dtype != torch.float32 or x.shape[-1] >= 2**INDEX_BITS:
        return x.sort(dim=-1, descending=True, stable=True).indices
    bits = x.contiguous().view(torch.int32)
    # the bits of negative numbers grow the other way; ~ turns the order around, so that the index may ascend
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).bitwise_not_().to(torch.int64).bitwise_left_shift_(INDEX_BITS)
    keys.add_(torch.arange(x.shape[-1], device="cpu")).numpy().sort(axis=-1)
    return keys.bitwise_and_(2**INDEX_BITS - 1)


@torch.no_grad()
def largest(x: Tensor, n: int) -> Tensor:
    """Return where the ``n`` largest numbers are, bool of the shape of ``x``: NaN first, of equal ones the first."""
    flat = x.flatten()
    n = max(0, min(n, flat.numel()))
    if n == 0:
        return torch.zeros_like(x, dtype=torch.bool)
    rank = flat.numel() - n
    if paths.waits(flat):
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        return chosen.scatter(0, descending(flat)[:n], True).view_as(x)
    smallest = float(np.partition(flat.numpy(), rank)[rank])
    if math.isnan(smallest):
        chosen, ties = torch.zeros_like(flat, dtype=torch.bool), flat.isnan()
    else:
        chosen, ties = (flat <= smallest).logical_not_(), flat == smallest
    first = ties.nonzero()[: n - int(chosen.count_nonzero()), 0]
    return chosen.index_fill_(0, first, True).view_as(x)


@torch.no_grad()
def lovasz(
    errors: Tensor, target: Tensor, mask: Tensor | None, labels: bool, first: int, penalize: bool
) -> tuple[Tensor, Tensor]:
    """Find by how much the Jaccard loss grows as each voxel joins the wrong ones, from the largest error on.

    Args:
        errors: (B, C, N), at least 0.
        target: (B, 1, N) class indices with ``labels``, else (B, C, N) in [0, 1].
        mask: (B, 1, N) or (B, C, N) voxel weights, or None.
        labels: what the target holds.
        first: class of the first channel.
        penalize: whether the value of a class without voxels is the mean error.

    Returns:
        The slope of each voxel, (B, C, N), 0 where the weight is; and (B, C, 3): the value, which is the sum of slopes
        times errors, and the weighted numbers of voxels and of voxels of the class.
    """
    exact, count = accumulator_dtype(errors), errors.shape[-1]
    dtype = exact if count >= COUNTS_IN_FLOAT32 else errors.dtype
    if labels:
        channel = torch.arange(first, first + errors.shape[1], device=errors.device)
        target = target.to(torch.int64) == channel[:, None]
    g = target.to(dtype).expand_as(errors)
    w = None if mask is None else mask.to(dtype).expand_as(errors)
    weighted = g if w is None else w * g
    size = weighted.sum(-1, dtype=exact)
    number = torch.full_like(size, count) if w is None else w.sum(-1, dtype=exact)
    order = descending(errors)
    found = weighted.gather(2, order).cumsum(-1)
    if w is None:
        joined = torch.arange(1, count + 1, device=errors.device, dtype=dtype)
    else:
        w = w.gather(2, order)
        joined = w.cumsum(-1)
    g = g.gather(2, order)
    # Delta_k - Delta_(k-1) in closed form: the difference of two numbers near 1 would lose all digits of a slope.
    # (g union + (1 - g) left) / (before union)
    left = (size[..., None].to(dtype) - found).clamp(min=0)
    union = left + joined
    before = union - (1 - g if w is None else (1 - g) * w)
    step = torch.addcmul(left, g, joined.expand_as(g)).div_(union).div_(before)
    step = step if w is None else step.mul_(w)
    step = torch.where(before > 0, step, 1.0 if w is None else (w > 0).to(dtype))
    slopes = errors.scatter(2, order, step.to(errors.dtype))
    if penalize:
        each = torch.ones((), dtype=errors.dtype, device=errors.device) if mask is None else mask.to(errors.dtype)
        each = each / number.clamp(min=1e-30).to(errors.dtype)[..., None]
        slopes = torch.where(size[..., None] > 0, slopes, each)
    value = torch.where(slopes == 0, 0.0, errors * slopes).sum(-1, dtype=exact)
    return slopes, torch.stack([value, number, size], -1)
