"""The walk through a volume: sums of probabilities and likelihoods, their gradient, and the values of voxels.

Each loop reads a block of voxels once. What is computed is that of :mod:`..plain`, number for number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.numpy_support import carray

from .arithmetic import ONE
from .codes import (
    ACTIVATION,
    BAD_TARGET,
    BATCH,
    BLOCK,
    CHANNELS,
    COUNT,
    ENDS,
    GAMMA,
    INNER_FACTORS,
    OUTER_FACTORS,
    PAIR,
    PIECE,
    ROWS,
    SCRATCH,
    SUMS,
    TAKEN,
    UPSTREAM,
    VOXELS,
)
from .gradients import gradient_of_block
from .rows import LOGITS, Numbers, W, fill
from .runtime import array_at, compiled, fetch_add, take
from .sums import sums_of_block
from .values import values_of_block


@compiled
def stretch(piece: int, voxels: int) -> tuple[int, int, int]:
    """Return the sample of a piece, its first voxel there and the one after its last."""
    of_sample = (voxels + PIECE - 1) // PIECE
    first = piece % of_sample * PIECE
    return piece // of_sample, first, min(first + PIECE, voxels)


def sums_loop(real: Any) -> Any:
    """Return the loop of the sums, (P, C, ROWS), in a type."""

    def sums(work: Any) -> None:
        numbers = carray(work, (ENDS,))
        s = scratch(numbers, work)
        gamma = real(np.int64(numbers[GAMMA]).view(np.float64))
        classes = 1 if numbers[ACTIVATION] == PAIR else numbers[CHANNELS]
        shares = array_at(numbers[SUMS], (numbers[COUNT], classes, ROWS), np.float64)
        start, stop = take(numbers, work)
        while start < stop:
            for piece in range(start, stop):
                b, first, end = stretch(piece, numbers[VOXELS])
                for v in range(first, end, numbers[BLOCK]):
                    sums_of_block(numbers, b, v, min(numbers[BLOCK], end - v), gamma, s, shares[piece])
            start, stop = take(numbers, work)

    scratch = scratch_in(real)
    return sums


def gradient_loop(real: Any) -> Any:
    """Return the loop of the gradient, given that of the sums, (ROWS without faults, B, C), in a type."""

    def gradient(work: Any) -> None:
        numbers = carray(work, (ENDS,))
        s = scratch(numbers, work)
        gamma = real(np.int64(numbers[GAMMA]).view(np.float64))
        upstream = array_at(numbers[UPSTREAM], (numbers[BATCH], BAD_TARGET, numbers[CHANNELS]), np.float64)
        unused = array_at(numbers[SUMS], (numbers[COUNT], ROWS), np.float64)
        start, stop = take(numbers, work)
        while start < stop:
            for piece in range(start, stop):
                b, first, end = stretch(piece, numbers[VOXELS])
                for v in range(first, end, numbers[BLOCK]):
                    gradient_of_block(numbers, b, v, min(numbers[BLOCK], end - v), gamma, s, upstream[b], unused[piece])
            start, stop = take(numbers, work)

    scratch = scratch_in(real)
    return gradient


def values_loop(real: Any) -> Any:
    """Return the loop of the values of voxels in a type."""

    def values(work: Any) -> None:
        numbers = carray(work, (ENDS,))
        s = scratch(numbers, work)
        gamma = real(np.int64(numbers[GAMMA]).view(np.float64))
        shape = numbers[BATCH], numbers[CHANNELS]
        inside = array_at(numbers[INNER_FACTORS], shape, np.float64)
        outside = array_at(numbers[OUTER_FACTORS], shape, np.float64)
        shares = array_at(numbers[SUMS], (numbers[COUNT], numbers[CHANNELS], ROWS), np.float64)
        start, stop = take(numbers, work)
        while start < stop:
            for piece in range(start, stop):
                b, first, end = stretch(piece, numbers[VOXELS])
                for v in range(first, end, numbers[BLOCK]):
                    n = min(numbers[BLOCK], end - v)
                    values_of_block(numbers, b, v, n, gamma, s, inside, outside, shares[piece])
            start, stop = take(numbers, work)

    scratch = scratch_in(real)
    return values


def scratch_in(real: Any) -> Any:
    """Return a function that finds a thread's own memory, (rows, BLOCK), in a type."""
    size = np.dtype(real).itemsize

    @compiled
    def scratch(numbers: Numbers, work: Any) -> Any:
        rows, block = LOGITS + 3 * numbers[CHANNELS], numbers[BLOCK]
        mine = fetch_add(work, TAKEN, 1)
        s = array_at(numbers[SCRATCH] + mine * rows * block * size, (rows, block), real)
        fill(s[W], block, ONE)
        return s

    return scratch


LOOPS = {"sums": sums_loop, "gradient": gradient_loop, "values": values_loop}
