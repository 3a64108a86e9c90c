"""The Lovasz extension of the Jaccard loss: errors sorted by their digits, and walked from the largest on.

Each row, a class of a sample, is the work of one thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from .arithmetic import HALF, ONE, ZERO, Number
from .codes import (
    BLOCK,
    CHANNELS,
    ENDS,
    ERRORS_AT,
    FIRST_CLASS,
    LABELS,
    NO_WEIGHTS,
    PENALIZE,
    RESULTS,
    SCRATCH,
    SHARES_AT_HAND,
    SLOPES_AT,
    TAKEN,
    TARGET,
    VOXELS,
    WEIGHT,
    WEIGHTS,
    WORK_ROWS,
)
from .memory import Row, read
from .runtime import array_at, compiled, fetch_add, take

Keys = NDArray[np.uint32]

DIGIT = 11  # bits that one pass of a radix sort looks at: three passes for 32 bits
DIGITS = 2**DIGIT
PASSES = 3
IN_CLASS = np.uint32(2**31)


@compiled
def key_of(error: Number) -> Any:
    """Return an unsigned integer that is the smaller the larger a number is; NaN comes before infinity."""
    bits = np.float32(error).view(np.uint32)
    # the bits of negative numbers grow the other way
    return np.uint32(bits if bits >> np.uint32(31) else ~bits & np.uint32(0x7FFFFFFF))


@compiled
def number_of_key(key: Any) -> Number:
    """Return the number of a key."""
    key = np.uint32(key)
    return np.uint32(key if key >> np.uint32(31) else ~key & np.uint32(0x7FFFFFFF)).view(np.float32)


@compiled
def digit_of(key: Any, which: int) -> Any:
    """Return a digit of a key, the last one first."""
    return np.uint64((key >> np.uint32(which * DIGIT)) & np.uint32(DIGITS - 1))


@compiled
def starts_of_digits(errors: Row, starts: Any) -> None:
    """Write where keys with each digit begin in order, (PASSES, DIGITS)."""
    starts[:] = np.uint64(0)
    for i in range(len(errors)):
        key = key_of(errors[i])
        for which in range(PASSES):
            starts[which, digit_of(key, which)] += np.uint64(1)
    for which in range(PASSES):
        start = np.uint64(0)
        for digit in range(DIGITS):
            count = starts[which, digit]
            starts[which, digit] = start
            start += count


@compiled
def to_shares(t: Row, n: int, label: Number) -> None:
    """Turn n labels into whether each is of a class."""
    for i in range(n):
        t[i] = ONE if t[i] == label else ZERO


@compiled
def read_shares(numbers: Any, b: int, c: int, v: int, n: int, row: Row) -> None:
    """Read the share of a class in n voxels."""
    read(numbers, TARGET, b, c, v, n, row)
    if numbers[LABELS]:
        to_shares(row, n, np.float32(numbers[FIRST_CLASS] + c))


@compiled
def sort_descending(
    numbers: Any, b: int, c: int, errors: Row, block: Row, starts: Any, keys: Keys, order: Keys, more: Keys, rest: Keys
) -> None:
    """Sort numbers from large to small, equal ones in their order, NaN first.

    Args:
        numbers: what describes the call.
        b: the sample.
        c: the class.
        errors: (N,).
        block: (BLOCK,), to read the target into.
        starts: (PASSES, DIGITS), to work in.
        keys: (N,), where to write the keys in order, as :func:`number_of_key` reads them.
        order: (N,), where to write which number each is, with :data:`IN_CLASS` if its voxel belongs to the class.
        more: (N,), to work in.
        rest: (N,), to work in.
    """
    starts_of_digits(errors, starts)
    for v in range(0, len(errors), numbers[BLOCK]):
        n = min(numbers[BLOCK], len(errors) - v)
        read_shares(numbers, b, c, v, n, block)
        for i in range(n):
            key, mark = key_of(errors[v + i]), np.uint32(v + i)
            if block[i] > HALF:
                mark |= IN_CLASS
            to = starts[0, digit_of(key, 0)]
            starts[0, digit_of(key, 0)] = to + np.uint64(1)
            keys[to], order[to] = key, mark
    for i in range(len(errors)):
        to = starts[1, digit_of(keys[i], 1)]
        starts[1, digit_of(keys[i], 1)] = to + np.uint64(1)
        more[to], rest[to] = keys[i], order[i]
    for i in range(len(errors)):
        to = starts[2, digit_of(more[i], 2)]
        starts[2, digit_of(more[i], 2)] = to + np.uint64(1)
        keys[to], order[to] = more[i], rest[i]


@compiled
def size_of(numbers: Any, b: int, c: int, count: int, block: Row, g: Row, w: Row) -> tuple[float, float]:
    """Return the weighted numbers of voxels and of voxels of a class, and keep shares and weights."""
    number = size = 0.0
    for v in range(0, count, numbers[BLOCK]):
        n = min(numbers[BLOCK], count - v)
        read_shares(numbers, b, c, v, n, block)
        for i in range(n if len(g) else 0):
            g[v + i] = block[i]
        if len(w):
            read(numbers, WEIGHT, b, c, v, n, w[v : v + n])
        for i in range(n):
            weight = w[v + i] if len(w) else ONE
            number += weight
            size += weight * block[i]
    return number, size


@compiled
def extension_of_row(
    numbers: Any, b: int, c: int, errors: Row, block: Row, starts: Any, work: Any, g: Row, w: Row, slope: Row
) -> tuple[float, float, float]:
    """Write the slopes of the Lovasz extension of a row; return its value, and the weighted numbers of voxels.

    Args:
        numbers: what describes the call.
        b: the sample.
        c: the class.
        errors: (N,), N at most 2^31.
        block: (BLOCK,), to work in.
        starts: (PASSES, DIGITS), to work in.
        work: (3, N) uint32, to work in.
        g: (N,) to keep shares in, or (0,) if all are 0 or 1.
        w: (N,) to keep weights in, or (0,) if all are 1.
        slope: (N,), where to write the slope of each error.
    """
    count, value = len(errors), 0.0
    number, size = size_of(numbers, b, c, count, block, g, w)
    if numbers[PENALIZE] and size == 0.0:
        each = 1.0 / number if number > 0.0 else 0.0
        for i in range(count):
            slope[i] = np.float32(each * w[i] if len(w) else each)
            value += slope[i] * errors[i] if slope[i] != ZERO else 0.0
        return value, number, size
    keys, order = work[0], work[1]
    sort_descending(numbers, b, c, errors, block, starts, keys, order, slope.view(np.uint32), work[2])
    found = joined = 0.0  # of the class, and of all, among those with errors as large or larger
    for k in range(count):
        mark = order[k]
        i = mark & ~IN_CLASS
        share = np.float64(g[i]) if len(g) else (1.0 if mark & IN_CLASS else 0.0)
        weight = np.float64(w[i]) if len(w) else 1.0
        found += weight * share
        joined += weight
        # Delta_k - Delta_(k-1) in closed form: the difference of two numbers near 1 would lose all digits of a slope.
        left = max(size - found, 0.0)
        union = left + joined
        before = union - (1.0 - share) * weight
        first = 1.0 if weight > 0.0 else 0.0
        step = np.float32(weight * ((left + share * joined) / (union * before)) if before > 0.0 else first)
        value += np.float64(number_of_key(keys[k])) * step if weight > 0.0 else 0.0
        slope[i] = step
    return value, number, size


def lovasz_loop(real: Any) -> Any:
    """Return the loop over the rows of (B, C, N), which is there for float32 alone."""

    def lovasz(work: Any) -> None:
        numbers = carray(work, (ENDS,))
        count, channels = numbers[VOXELS], numbers[CHANNELS]
        start, stop = take(numbers, work)
        if start == stop:
            return
        size = (numbers[WORK_ROWS] * count + 1) // 2 * 2 + numbers[BLOCK] + 2 * PASSES * DIGITS
        at = numbers[SCRATCH] + 4 * fetch_add(work, TAKEN, 1) * size
        starts = array_at(at, (PASSES, DIGITS), np.uint64)
        block = array_at(at + 8 * PASSES * DIGITS, numbers[BLOCK], np.float32)
        at += 8 * PASSES * DIGITS + 4 * numbers[BLOCK]
        memory = array_at(at, (3, count), np.uint32)
        g = array_at(at + 12 * count, count if numbers[SHARES_AT_HAND] else 0, np.float32)
        w = array_at(at + 12 * count + 4 * len(g), 0 if numbers[WEIGHTS] == NO_WEIGHTS else count, np.float32)
        while start < stop:
            for row in range(start, stop):
                errors = array_at(numbers[ERRORS_AT] + 4 * row * count, count, np.float32)
                slope = array_at(numbers[SLOPES_AT] + 4 * row * count, count, np.float32)
                result = array_at(numbers[RESULTS] + 24 * row, 3, np.float64)
                b, c = row // channels, row % channels
                result[0], result[1], result[2] = extension_of_row(
                    numbers, b, c, errors, block, starts, memory, g, w, slope
                )
            start, stop = take(numbers, work)

    return lovasz


LOOPS = {"lovasz": lovasz_loop}
