"""How volumes are cut into parts that are worked on one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

# Elements of the input in one part. On a CPU each thread's share of it and of what is made of it stays in its cache,
# but each operation still takes much longer than its call; on a GPU each has to be large enough to fill the device.
LARGEST_PART_OF_A_THREAD = 2**17
LARGEST_PART_ELSEWHERE = 2**22
SMALLEST_PART = 2**16
# With a halo, a part's neighbours are computed with it: slabs should not be too thin, and functions of neighbourhoods
# make some thirty times as much as a part holds.
PARTS_WITH_HALO = 32
SMALLEST_PART_WITH_HALO = 2**13
LARGEST_PART_WITH_HALO = 2**22

Slices = tuple[slice, ...]


def parts(x: Tensor, at_least: int = 10, halo: int = 0) -> Iterator[Slices]:
    """Yield indices that cut (B, C, *S) into parts: several samples, one sample, or slabs or blocks of one sample.

    Args:
        x: what to cut.
        at_least: how many parts to make of all but small volumes, so that what is made of one is small beside them.
        halo: how many voxels around a part are computed with it.
    """
    on_cpu = x.device.type == "cpu"
    smallest, largest = SMALLEST_PART, LARGEST_PART_ELSEWHERE
    if halo:
        at_least, largest = PARTS_WITH_HALO, LARGEST_PART_WITH_HALO
        smallest = max(SMALLEST_PART_WITH_HALO, (8 * halo) ** (x.ndim - 2)) if on_cpu else SMALLEST_PART
    elif on_cpu:
        largest = LARGEST_PART_OF_A_THREAD * torch.get_num_threads()
    limit = max(1, min(max(x.numel() // at_least, smallest), largest) // max(x.shape[1], 1))
    cut = cubes if halo else blocks
    for samples, *space in cut((x.shape[0], *x.shape[2:]), limit):
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


def cubes(shape: tuple[int, ...], limit: int) -> Iterator[Slices]:
    """Yield slices that cut a batch of samples of this shape into samples, or into blocks whose sides differ little.

    Blocks have about ``limit`` elements at most, and so few neighbours around them as that allows.
    """
    size, *space = shape
    if math.prod(space) <= limit:
        yield from blocks(shape, limit)
        return
    steps, room = [1] * len(space), limit
    shortest_first = sorted(range(len(space)), key=space.__getitem__)  # short axes leave more to the others
    for left, axis in zip(range(len(space), 0, -1), shortest_first, strict=True):
        number = -(-space[axis] // max(1, round(room ** (1 / left))))
        steps[axis] = -(-space[axis] // number)
        room = max(1, room // steps[axis])
    starts = (range(0, n, step) for n, step in zip(space, steps, strict=True))
    for sample, *corner in product(range(size), *starts):
        yield (slice(sample, sample + 1), *(slice(at, at + step) for at, step in zip(corner, steps, strict=True)))


def spread(x: Tensor, ndim: int) -> Tensor:
    """Append axes of size 1 until there are ``ndim``."""
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))
