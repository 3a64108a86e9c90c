"""Compiled loops like those of :mod:`.kernels` for the Lovasz losses.

The extension, whose rows are sorted and walked by a thread each, and the gradient of the errors of probabilities. The
errors themselves are torch's to the last bit, since that decides the order of those that are nearly equal.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codes import BATCH, CHANNELS, IN_CHANNELS, OPTIONS, SIGMOID, SOFTMAX, VOXELS
from .entries import Entry, array_of, compiled, entry, fetch_add, numbers_of, sums_over, take, volume_of
from .kernels import (
    BLOCK,
    LEAST,
    ONE,
    ZERO,
    Floats,
    Number,
    hold,
    in_float32,
    smaller_probability,
    softmax,
    stretch,
    subtract_mean,
    value_of,
)

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
def starts_of_digits(errors: Floats) -> Any:
    """Return where keys with each digit begin in order, (PASSES, DIGITS)."""
    starts = np.zeros((PASSES, DIGITS), np.uint64)
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
    return starts


@sums_over
def size_of(target: Any, this: Number, reading: int) -> float:
    """Return how many voxels belong to a class."""
    size = 0.0
    for i in range(len(target)):
        size += value_of(np.float32(target[i]), reading, this)
    return size


@compiled
def is_binary(target: Any, reading: int) -> bool:
    """Return whether each voxel of a target is of a class or not, and nothing between."""
    if reading == IN_CHANNELS:
        for i in range(len(target)):
            if (target[i] != 0) & (target[i] != 1):
                return False
    return True


@compiled
def sort_descending(
    errors: Floats,
    target: Any,
    this: Number,
    reading: int,
    keys: Keys,
    order: Keys,
    other_keys: Keys,
    other_order: Keys,
) -> None:
    """Sort numbers from large to small, equal ones in their order, NaN first.

    Args:
        errors: (N,).
        target: (N,), labels or values.
        this: label of the class.
        reading: how the target is to be read.
        keys: (N,), where to write the keys in order, as :func:`number_of_key` reads them.
        order: (N,), where to write which number each is, with :data:`IN_CLASS` if its voxel belongs to the class.
        other_keys: (N,), to work in.
        other_order: (N,), to work in.
    """
    starts = starts_of_digits(errors)
    for i in range(len(errors)):
        key, mark = key_of(errors[i]), np.uint32(i)
        if value_of(np.float32(target[i]), reading, this) == ONE:
            mark |= IN_CLASS
        to = starts[0, digit_of(key, 0)]
        starts[0, digit_of(key, 0)] = to + np.uint64(1)
        keys[to], order[to] = key, mark
    for i in range(len(errors)):
        to = starts[1, digit_of(keys[i], 1)]
        starts[1, digit_of(keys[i], 1)] = to + np.uint64(1)
        other_keys[to], other_order[to] = keys[i], order[i]
    for i in range(len(errors)):
        to = starts[2, digit_of(other_keys[i], 2)]
        starts[2, digit_of(other_keys[i], 2)] = to + np.uint64(1)
        keys[to], order[to] = other_keys[i], other_order[i]


@compiled
def extension_of_row(
    errors: Floats,
    target: Any,
    this: Number,
    reading: int,
    penalize: bool,
    work: Any,
    slope: Floats,
    result: NDArray[np.float64],
) -> None:
    """Write the Lovasz extension of the Jaccard loss of a row and its slopes.

    Args:
        errors: (N,), N at most 2^31.
        target: (N,), labels or values.
        this: label of the class.
        reading: how the target is to be read.
        penalize: whether the value of a class without voxels is the mean error.
        work: (3, N) uint32, to work in.
        slope: (N,), where to write the slope of each error.
        result: (2,), where to write the value and the number of the class's voxels.
    """
    count, size, value = len(errors), size_of(target, this, reading), 0.0
    result[1] = size
    if penalize and size == 0.0:
        for i in range(count):
            value += errors[i]
            slope[i] = np.float32(1.0 / count)
        result[0] = value / count
        return
    keys, order, binary = work[0], work[1], is_binary(target, reading)
    sort_descending(errors, target, this, reading, keys, order, slope.view(np.uint32), work[2])
    found = 0.0  # of the class, among those with errors as large or larger
    for k in range(count):
        mark = order[k]
        i, g = mark & ~IN_CLASS, 1.0 if mark & IN_CLASS else 0.0
        if not binary:
            g = np.float64(value_of(np.float32(target[i]), reading, this))
        found += g
        left, joined = max(size - found, 0.0), k + 1.0
        # Delta_k - Delta_(k-1) in closed form: the difference of two numbers near 1 would lose all digits of a slope.
        union = left + joined
        before = union - (1.0 - g)
        step = np.float32((left + g * joined) / (union * before) if before > 0.0 else 1.0)
        value += np.float64(number_of_key(keys[k])) * step
        slope[i] = step
    result[0] = value


@compiled
def direction(p: Number, g: Number, reading: int) -> Number:
    """Return the gradient of an error; with labels, that of a probability that was rounded to 0 or 1 as well."""
    if reading == IN_CHANNELS:
        return ONE if p > g else (-ONE if p < g else ZERO)
    return -ONE if g == ONE else ONE


@compiled
def slope_of_sigmoid(z: Floats, target: Floats, upstream: Floats, n: int, c: int, reading: int, out: Floats) -> None:
    """Write the gradient of n logits, given that of their errors; held beyond the steepest logit."""
    this = np.float32(c)
    for i in range(n):
        smaller = smaller_probability(z[i])
        p = smaller if z[i] < ZERO else ONE - smaller
        towards = direction(p, value_of(target[i], reading, this), reading)
        out[i] = towards * upstream[i] * (smaller * (ONE - smaller))


@compiled
def slope_through_softmax(
    p: Floats, target: Floats, upstream: Floats, n: int, c: int, reading: int, h: Floats, mean: Floats
) -> None:
    """Write the gradients of n probabilities of a channel times these, and add them to the mean."""
    this = np.float32(c)
    for i in range(n):
        h[i] = direction(p[i], value_of(target[i], reading, this), reading) * upstream[i] * max(p[i], LEAST)
        mean[i] += h[i]


@compiled
def slopes_of(
    z: Any,
    target: Any,
    activation: int,
    reading: int,
    lead: int,
    upstream: Any,
    out: Any,
    start: int,
    stop: int,
) -> None:
    """Write the gradient of the pieces start..stop-1 of a volume.

    Args:
        z: (B, C, V) logits.
        target: (B, 1, V) labels or (B, C, V) values.
        activation: sigmoid or softmax.
        reading: how the target is to be read.
        lead: the first class that has errors.
        upstream: (B, C - lead, V), gradient of the errors.
        out: (B, C, V), where to write.
        start: number of the first piece; the pieces of a sample follow each other.
        stop: number of the piece after the last one.
    """
    classes, voxels = z.shape[1], z.shape[2]
    p, h = np.empty((classes, BLOCK), np.float32), np.zeros((classes, BLOCK), np.float32)
    one, other, values = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    row = values
    for piece in range(start, stop):
        b, first, end = stretch(piece, voxels)
        for v in range(first, end, BLOCK):
            n = min(BLOCK, end - v)
            here = slice(v, v + n)
            if activation == SOFTMAX:
                softmax(z, b, v, n, p, one, other)
                other[:n] = ZERO
            for c in range(classes):
                if c < target.shape[1]:
                    row = in_float32(target[b, c, here], n, values)
                if activation == SIGMOID and c >= lead:
                    slope_of_sigmoid(z[b, c, here], row, upstream[b, c - lead, here], n, c, reading, out[b, c, here])
                elif activation == SIGMOID:
                    out[b, c, here] = ZERO
                elif c >= lead:
                    slope_through_softmax(p[c], row, upstream[b, c - lead, here], n, c, reading, h[c], other)
            if activation == SOFTMAX:
                for c in range(classes):
                    hold(p[c], n)
                    subtract_mean(h[c], p[c], other, n, out[b, c, here])


@compiled
def options_of(n: Any) -> tuple[int, int, int, int]:
    """Return channels of the target, activation, reading and first class with errors."""
    return n[OPTIONS], n[OPTIONS + 1], n[OPTIONS + 2], n[OPTIONS + 3]


@lru_cache
def slopes_entry(dtype: str) -> Entry:
    """Return :func:`slopes_of`; the arrays are input, target, gradient of the errors, and of the input."""

    of_values = np.dtype(dtype)

    def loop(work: Any) -> None:
        n = numbers_of(work)
        of_target, activation, reading, lead = options_of(n)
        z, target = volume_of(work, 1, n[CHANNELS], np.float32), volume_of(work, 2, of_target, of_values)
        upstream = volume_of(work, 3, n[CHANNELS] - lead, np.float32)
        out = volume_of(work, 4, n[CHANNELS], np.float32)
        start, stop = take(work)
        while start < stop:
            slopes_of(z, target, activation, reading, lead, upstream, out, start, stop)
            start, stop = take(work)

    return entry(loop)


@lru_cache
def extension_entry(dtype: str) -> Entry:
    """Return :func:`extension_of_row` for targets of a dtype and the rows of (B, C, N); a piece is a row.

    The arrays are errors, target, slopes, results (B, C, 2), memory to work in (threads, 3, N), and how many threads
    have taken theirs; the options are channels of the target, classes, the label of the first, reading, and whether
    to penalize.
    """

    of_values = np.dtype(dtype)

    def loop(work: Any) -> None:
        n = numbers_of(work)
        of_target, classes, first, reading, penalize = (
            n[OPTIONS],
            n[OPTIONS + 1],
            n[OPTIONS + 2],
            n[OPTIONS + 3],
            n[OPTIONS + 4] != 0,
        )
        errors, slopes = volume_of(work, 1, classes, np.float32), volume_of(work, 3, classes, np.float32)
        target = volume_of(work, 2, of_target, of_values)
        results = array_of(work, 4, (n[BATCH], classes, 2), np.float64)
        start, stop = take(work)
        if start == stop:
            return
        mine = fetch_add(work[6], 1)
        memory = array_of(work, 5, (mine + 1, 3, n[VOXELS]), np.uint32)[mine]
        while start < stop:
            for row in range(start, stop):
                b, c = row // classes, row % classes
                extension_of_row(
                    errors[b, c],
                    target[b, min(c, of_target - 1)],
                    np.float32(first + c),
                    reading,
                    penalize,
                    memory,
                    slopes[b, c],
                    results[b, c],
                )
            start, stop = take(work)

    return entry(loop)
