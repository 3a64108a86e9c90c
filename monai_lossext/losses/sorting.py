"""Order of large tensors. On a CPU, NumPy sorts numbers with vector instructions, many times faster than torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .paths import fused

INDEX_BITS = 32  # of a key's 64, the rest are those of a float32
AT_ONCE = 2**16  # numbers of a row, so that what is made of them on the way is small beside the row


def pieces(n: int) -> Iterator[slice]:
    """Yield slices that cut ``n`` numbers in a row into pieces; where parts are not wanted, the one piece is all."""
    step = AT_ONCE if fused() else max(n, 1)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


@torch.no_grad()
def descending(x: Tensor) -> Tensor:
    """Return the indices that sort the last axis from large to small, NaN first, equal numbers in their order; int64.

    A float32 and its index make one integer, and sorting these integers is the same stable sort.
    """
    if not (fused() and x.device.type == "cpu" and x.dtype == torch.float32 and x.shape[-1] < 2**INDEX_BITS):
        return x.sort(dim=-1, descending=True, stable=True).indices
    bits, keys = x.contiguous().view(torch.int32), torch.empty(x.shape, dtype=torch.int64, device=x.device)
    for some in pieces(x.shape[-1]):
        part = bits[..., some]
        # the bits of negative numbers grow the other way; ~ turns the order around, so that the index may ascend
        keys[..., some] = (part ^ ((part >> 31) & 0x7FFFFFFF)).bitwise_not_()
        keys[..., some].bitwise_left_shift_(INDEX_BITS).add_(torch.arange(some.start, some.stop, device=x.device))
    keys.numpy().sort(axis=-1)
    return keys.bitwise_and_(2**INDEX_BITS - 1)


@torch.no_grad()
def largest(x: Tensor, n: int) -> Tensor:
    """Return where the ``n`` largest numbers are, bool of the shape of ``x``: NaN first, of equal ones the first."""
    flat = x.flatten()
    n = max(0, min(n, flat.numel()))
    if n == 0:
        return torch.zeros_like(x, dtype=torch.bool)
    rank = flat.numel() - n
    if flat.device.type == "cpu":
        smallest = float(np.partition(flat.numpy(), rank)[rank])
    else:
        smallest = flat.kthvalue(rank + 1).values.item()
    if math.isnan(smallest):
        chosen, ties = torch.zeros_like(flat, dtype=torch.bool), flat.isnan()
    else:
        chosen, ties = (flat <= smallest).logical_not_(), flat == smallest
    first = ties.nonzero()[: n - int(chosen.count_nonzero()), 0]
    return chosen.index_fill_(0, first, True).view_as(x)
