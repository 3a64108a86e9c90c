"""How volumes are cut into parts that are worked on one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of the input in one part. On a CPU each thread's share of it and of what is made of it stays in its cache,
# but each operation still takes much longer than its call; on a GPU each has to be large enough to fill the device.
LARGEST_PART_OF_A_THREAD = 2**17
LARGEST_PART_ELSEWHERE = 2**22
SMALLEST_PART = 2**17

Slices = tuple[slice, ...]


def parts(x: Tensor, at_least: int = 10) -> Iterator[Slices]:
    """Yield indices that cut (B, C, *S) into parts: several samples, one sample, or slabs or blocks of one sample.

    Args:
        x: what to cut.
        at_least: how many parts to make of all but small volumes, so that what is made of one is small beside them.
    """
    on_cpu = x.device.type == "cpu"
    largest = LARGEST_PART_OF_A_THREAD * torch.get_num_threads() if on_cpu else LARGEST_PART_ELSEWHERE
    limit = max(1, min(max(x.numel() // at_least, SMALLEST_PART), largest) // max(x.shape[1], 1))
    for samples, *space in blocks((x.shape[0], *x.shape[2:]), limit):
        yield (samples, slice(None), *space)


def blocks(shape: tuple[int, ...], limit: int) -> Iterator[Slices]:
    """Yield slices that cut a block of this shape into blocks of at most ``limit`` elements, the last axes whole."""
    size, rest = shape[0], math.prod(shape[1:])
    step = max(1, limit // max(rest, 1))
    for start in range(0, size, step):
        here = slice(start, min(start + step, size))
        if rest <= limit or len(shape) == 1:
            yield (here, *(slice(None) for _ in shape[1:]))
        else:
            yield from ((here, *others) for others in blocks(shape[1:], limit))


def spread(x: Tensor, ndim: int) -> Tensor:
    """Append axes of size 1 until there are ``ndim``."""
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))
