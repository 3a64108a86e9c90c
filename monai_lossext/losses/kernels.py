"""The loops of the soft counts compiled for processors, by Numba where it is installed.

Each loop reads a stretch of voxels once, into buffers that stay in the innermost cache, where torch's operations read
and write each intermediate result. What is computed is that of :class:`.Part`, number for number.
Nothing here knows of tensors; :mod:`.compiled` calls these functions.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from .codes import (
    BATCH,
    CHANNELS,
    COUNT,
    ERRORS,
    FLOATING_LABELS,
    IN_CHANNELS,
    NEGATIVES,
    NEXT,
    NO_MORE,
    OPTIONS,
    PAIR,
    PIECE,
    PROBABILITIES,
    SIGMOID,
    SOFTMAX,
    SQUARES,
    SUMS,
    VOXELS,
)
from .entries import Entry, array_of, compiled, entry, numbers_of, sums_over, take, volume_of
from .precision import STEEPEST_LOGIT

Floats = NDArray[np.float32]
Number = Any  # a float32 of its own, whose operations numpy's types do not tell apart
Line = tuple[Number, Number, Number, Number, Number]

BLOCK = 512  # voxels in a buffer: of a few channels, buffers fit into 48 KiB

LOWEST = np.float32(-86)  # exp of it is normal
STEEPEST = np.float32(STEEPEST_LOGIT)
LEAST = np.float32(math.exp(-STEEPEST_LOGIT))
ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
LOG2_E = np.float32(1 / math.log(2))
LN_2_HIGH = np.float32(0.693359375)  # has few digits: its multiples are exact
LN_2_LOW = np.float32(math.log(2) - 0.693359375)
# exp(r) for |r| <= ln(2) / 2, Taylor's series: the next term is below a tenth of float32's precision.
E_2, E_3, E_4, E_5, E_6, E_7 = (np.float32(1 / math.factorial(n)) for n in range(2, 8))


@compiled
def pieces(voxels: int) -> int:
    """Return into how many pieces a sample is cut."""
    return (voxels + PIECE - 1) // PIECE


@compiled
def stretch(piece: int, voxels: int) -> tuple[int, int, int]:
    """Return the sample of a piece, its first voxel there and the one after its last."""
    of_sample = pieces(voxels)
    first = piece % of_sample * PIECE
    return piece // of_sample, first, min(first + PIECE, voxels)


@compiled
def exp_of_negative(x: Number) -> Number:
    """Return exp(x) for -87 < x <= 0 to two units in the last place, in operations that run on many numbers at once."""
    k = np.int32(x * LOG2_E - HALF)
    n = np.float32(k)
    r = (x - n * LN_2_HIGH) - n * LN_2_LOW
    series = ((((E_7 * r + E_6) * r + E_5) * r + E_4) * r + E_3) * r + E_2
    power = np.int32(np.int32(k + np.int32(127)) << np.int32(23)).view(np.float32)
    return ((series * r) * r + r + ONE) * power


@compiled
def copy(x: Any, n: int, out: Floats) -> None:
    """Copy n numbers of any type; an assignment of slices would also look whether they overlap."""
    for i in range(n):
        out[i] = np.float32(x[i])


def in_float32(x: Any, n: int, out: Floats) -> Floats:
    """Return n numbers of any type in float32, if they are not, written to ``out``.

    So all sums of targets are compiled once: code for another type might add in another order.
    """
    if x.dtype == np.float32:
        return x  # type: ignore[no-any-return]
    copy(x, n, out)
    return out


@overload(in_float32, strict=False)  # about annotations
def _in_float32(x: Any, n: Any, out: Any) -> Any:
    """Decide in advance, while the types are known."""
    if x.dtype == out.dtype:
        return lambda x, n, out: x

    def copied(x: Any, n: int, out: Floats) -> Floats:
        copy(x, n, out)
        return out

    return copied


@compiled
def subtract(x: Floats, y: Floats, n: int, out: Floats) -> None:
    """Write the differences of n numbers."""
    for i in range(n):
        out[i] = x[i] - y[i]


@compiled
def smaller_probability(z: Number) -> Number:
    """Return the smaller one of p and 1 - p for the sigmoid p of a logit, held beyond the steepest."""
    e = exp_of_negative(-min(abs(z), STEEPEST))
    return e / (ONE + e)


@compiled
def take_higher(z: Floats, n: int, highest: Floats) -> None:
    """Raise n numbers to those of another channel."""
    for i in range(n):
        highest[i] = z[i] if z[i] > highest[i] else highest[i]


@compiled
def exp_of_gaps(p: Floats, highest: Floats, n: int, total: Floats) -> None:
    """Replace n logits of a channel by exp(z - highest), and add it to the channels' total."""
    for i in range(n):
        gap = p[i] - highest[i]
        p[i] = exp_of_negative(LOWEST if gap < LOWEST else gap)
        total[i] += p[i]


@compiled
def softmax(z: Any, b: int, v: int, n: int, p: Floats, highest: Floats, total: Floats) -> None:
    """Write the softmax over the channels of n voxels from v on into (C, BLOCK)."""
    for c in range(len(p)):
        copy(z[b, c, v : v + n], n, p[c])  # a slice of several channels would not be known to be contiguous in voxels
    copy(p[0], n, highest)
    total[:n] = ZERO
    for c in range(1, len(p)):
        take_higher(p[c], n, highest)
    for c in range(len(p)):
        exp_of_gaps(p[c], highest, n, total)
    for i in range(n):
        total[i] = ONE / total[i]
    for c in range(len(p)):
        multiply(p[c], total, n)


@compiled
def multiply(x: Floats, factor: Floats, n: int) -> None:
    """Multiply n numbers in place."""
    for i in range(n):
        x[i] *= factor[i]


@compiled
def value_of(value: Number, reading: int, this: Number) -> Number:
    """Return the value of a class in the target, for a label whether it is this class, as 0..1."""
    if reading == IN_CHANNELS:
        return value
    return ONE if value == this else ZERO


@compiled
def is_outside(value: Number, last: Number) -> Number:
    """Return 1 where a value of the target is not in 0..last, else 0."""
    return ZERO if (value >= ZERO) & (value <= last) else ONE


@sums_over
def fractions(target: Floats, n: int, reading: int) -> Number:
    """Return how many of n labels are no integers."""
    wrong = ZERO
    if reading == FLOATING_LABELS:
        for i in range(n):
            wrong += ZERO if target[i] == np.floor(target[i]) else ONE
    return wrong


@sums_over
def out_of_range(target: Floats, n: int, reading: int, highest: int) -> Number:
    """Return how many of n values of a target are not what they can be."""
    wrong, last = fractions(target, n, reading), last_of(reading, highest)
    for i in range(n):
        wrong += is_outside(target[i], last)
    return wrong


@compiled
def last_of(reading: int, highest: int) -> Number:
    """Return the highest value that a target can have, given the highest label."""
    return ONE if reading == IN_CHANNELS else np.float32(highest)


@sums_over
def add(p: Floats, target: Floats, n: int, c: int, reading: int, further: int, sums: NDArray[np.float64]) -> None:
    """Add the sums of n voxels, none of them a difference of sums: that would drown in rounding errors."""
    size = tp = fp = fn = first = second = ZERO
    this = np.float32(c)
    for i in range(n):
        g = value_of(target[i], reading, this)
        both = p[i] * g
        size += g
        tp += both
        fp += p[i] - both
        fn += g - both
    if further == NEGATIVES:
        for i in range(n):
            first += (ONE - p[i]) * (ONE - value_of(target[i], reading, this))
    elif further == SQUARES:
        for i in range(n):
            g = value_of(target[i], reading, this)
            first += p[i] * p[i]
            second += g * g
    elif further == ERRORS:
        for i in range(n):
            g = value_of(target[i], reading, this)
            error = (p[i] - g) * (p[i] - g)
            first += error * g
            second += error * (ONE - g)
    add_up(sums, size, tp, fp, fn, first, second)


@sums_over
def add_four_counts(
    z: Floats,
    target: Floats,
    n: int,
    c: int,
    reading: int,
    highest: int,
    negatives: Any,
    sums: NDArray[np.float64],
) -> None:
    """Add the sums of the sigmoid of n logits, negatives among them unless that is None, and what is out of range."""
    size = tp = fp = fn = tn = wrong = ZERO
    this, last = np.float32(c), last_of(reading, highest)
    for i in range(n):
        smaller = smaller_probability(z[i])
        q = smaller if z[i] < ZERO else ONE - smaller
        g = value_of(target[i], reading, this)
        both = q * g
        size += g
        tp += both
        fp += q - both
        fn += g - both
        wrong += is_outside(target[i], last)
        if negatives is not None:  # Numba leaves this out where it is None
            tn += (ONE - q) * (ONE - g)
    add_up(sums, size, tp, fp, fn, tn, ZERO)
    sums[SUMS - 1] += wrong + fractions(target, n, reading)


@compiled
def add_sigmoid(
    z: Floats,
    target: Floats,
    n: int,
    c: int,
    reading: int,
    highest: int,
    further: int,
    p: Floats,
    sums: NDArray[np.float64],
) -> None:
    """Add the sums of the sigmoid of n logits, an array for rarer sums alone, and what is out of range."""
    if further == NO_MORE:
        add_four_counts(z, target, n, c, reading, highest, None, sums)
    elif further == NEGATIVES:
        add_four_counts(z, target, n, c, reading, highest, True, sums)
    else:
        for i in range(n):
            smaller = smaller_probability(z[i])
            p[i] = smaller if z[i] < ZERO else ONE - smaller
        add(p, target, n, c, reading, further, sums)
        sums[SUMS - 1] += out_of_range(target, n, reading, highest)


@compiled
def add_up(
    sums: NDArray[np.float64],
    size: Number,
    tp: Number,
    fp: Number,
    fn: Number,
    first: Number,
    second: Number,
) -> None:
    """Add float32 sums of some hundred voxels to those of all."""
    sums[0] += size
    sums[1] += tp
    sums[2] += fp
    sums[3] += fn
    sums[4] += first
    sums[5] += second


@compiled
def sums_of(
    z: Any, target: Any, activation: int, reading: int, further: int, sums: NDArray[np.float64], start: int, stop: int
) -> None:
    """Add up the pieces start..stop-1 of a volume.

    Args:
        z: (B, C, V) logits or probabilities.
        target: (B, 1, V) labels or (B, C, V) values.
        activation: what makes probabilities of logits.
        reading: how the target is to be read.
        further: which further sums are wanted.
        sums: (P, C or for a pair 1, SUMS), of all pieces; zeros where this writes.
        start: number of the first piece; the pieces of a sample follow each other.
        stop: number of the piece after the last one.
    """
    channels, voxels = z.shape[1], z.shape[2]
    classes = sums.shape[1]
    p, values = np.empty((classes, BLOCK), np.float32), np.empty(BLOCK, np.float32)
    one, other, row = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), values
    for piece in range(start, stop):
        b, first, end = stretch(piece, voxels)
        for v in range(first, end, BLOCK):
            n = min(BLOCK, end - v)
            here = slice(v, v + n)
            if activation == SOFTMAX:
                softmax(z, b, v, n, p, one, other)
            for c in range(classes):
                if c < target.shape[1]:
                    row = in_float32(target[b, c, here], n, values)
                if activation == SIGMOID:
                    add_sigmoid(z[b, c, here], row, n, c, reading, channels - 1, further, p[c], sums[piece, c])
                    continue
                if activation == PAIR:
                    subtract(z[b, 1, here], z[b, 0, here], n, one)
                    add_sigmoid(one, row, n, 1, reading, 1, further, p[c], sums[piece, c])
                    continue
                if c < target.shape[1]:
                    sums[piece, c, SUMS - 1] += out_of_range(row, n, reading, channels - 1)
                if activation == PROBABILITIES:
                    add(z[b, c, here], row, n, c, reading, further, sums[piece, c])
                else:
                    add(p[c], row, n, c, reading, further, sums[piece, c])


@compiled
def line_of(upstream: NDArray[np.float64], b: int, c: int, further: int) -> Line:
    """Return the gradient of a probability as a function of its target, as :class:`.Slopes` does.

    Args:
        upstream: (5 to 7, B, C), gradient of the sums: of n, size, tp, fp, fn and the further ones.
        b: the sample.
        c: the class.
        further: which the further sums are.

    Returns:
        Start, rise and offset, and the gradients of the squares or errors.
    """
    foreground = upstream[2, b, c] - upstream[4, b, c]
    background = upstream[3, b, c] - upstream[5, b, c] if further == NEGATIVES else upstream[3, b, c]
    at_foreground = abs(background) > abs(foreground)
    start, offset = (ONE, foreground) if at_foreground else (ZERO, background)
    first, second = (upstream[5, b, c], upstream[6, b, c]) if further in (SQUARES, ERRORS) else (0.0, 0.0)
    return start, np.float32(foreground - background), np.float32(offset), np.float32(first), np.float32(second)


@compiled
def gradient_at(p: Number, g: Number, further: int, line: Line) -> Number:
    """Return the gradient of a probability, (g - start) rise + offset and that of its square or error."""
    start, rise, offset, first, second = line
    h = (g - start) * rise + offset
    if further == SQUARES:
        return h + TWO * p * first
    if further == ERRORS:
        return h + TWO * (second + g * (first - second)) * (p - g)
    return h


@compiled
def gradient_of_given(
    p: Floats, target: Floats, n: int, c: int, reading: int, further: int, line: Line, out: Floats
) -> None:
    """Write the gradient of n probabilities."""
    this = np.float32(c)
    for i in range(n):
        out[i] = gradient_at(p[i], value_of(target[i], reading, this), further, line)


@compiled
def gradient_of_sigmoid(
    z: Floats, target: Floats, n: int, c: int, reading: int, further: int, line: Line, out: Floats
) -> None:
    """Write the gradient of n logits; the slope is exact on both sides and held beyond the steepest logit."""
    this = np.float32(c)
    for i in range(n):
        smaller = smaller_probability(z[i])
        p = smaller if z[i] < ZERO else ONE - smaller
        h = gradient_at(p, value_of(target[i], reading, this), further, line)
        out[i] = h * (smaller * (ONE - smaller))


@compiled
def through_softmax(
    p: Floats, target: Floats, n: int, c: int, reading: int, further: int, line: Line, h: Floats, mean: Floats
) -> None:
    """Write n gradients of a channel times their probabilities, held at the steepest gap, and add them to the mean."""
    this = np.float32(c)
    for i in range(n):
        q = LEAST if p[i] < LEAST else p[i]
        h[i] = gradient_at(p[i], value_of(target[i], reading, this), further, line) * q
        p[i] = q
        mean[i] += h[i]


@compiled
def hold(p: Floats, n: int) -> None:
    """Raise n probabilities to that of the steepest gap."""
    for i in range(n):
        p[i] = LEAST if p[i] < LEAST else p[i]


@compiled
def negate(x: Floats, n: int, out: Floats) -> None:
    """Write n numbers with the opposite sign."""
    for i in range(n):
        out[i] = -x[i]


@compiled
def subtract_mean(h: Floats, p: Floats, mean: Floats, n: int, out: Floats) -> None:
    """Write the gradient of n logits of a channel."""
    for i in range(n):
        out[i] = h[i] - p[i] * mean[i]


@compiled
def gradient_of(
    z: Any,
    target: Any,
    activation: int,
    reading: int,
    further: int,
    upstream: NDArray[np.float64],
    out: Any,
    start: int,
    stop: int,
) -> None:
    """Write the gradient of the pieces start..stop-1 of a volume; arguments as of :func:`sums_of`, and

    Args:
        upstream: (5 to 7, B, C or for a pair 1), gradient of the sums.
        out: (B, C, V), where to write.
    """
    voxels = z.shape[2]
    classes = upstream.shape[2]
    p, h = np.empty((classes, BLOCK), np.float32), np.empty((classes, BLOCK), np.float32)
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
                line = line_of(upstream, b, c, further)
                if activation == SIGMOID:
                    gradient_of_sigmoid(z[b, c, here], row, n, c, reading, further, line, out[b, c, here])
                elif activation == PAIR:
                    subtract(z[b, 1, here], z[b, 0, here], n, one)
                    gradient_of_sigmoid(one, row, n, 1, reading, further, line, out[b, 1, here])
                    negate(out[b, 1, here], n, out[b, 0, here])
                elif activation == PROBABILITIES:
                    gradient_of_given(z[b, c, here], row, n, c, reading, further, line, out[b, c, here])
                else:
                    through_softmax(p[c], row, n, c, reading, further, line, h[c], other)
            if activation == SOFTMAX:
                for c in range(classes):
                    subtract_mean(h[c], p[c], other, n, out[b, c, here])


@compiled
def totals_of(sums: NDArray[np.float64], voxels: int, total: NDArray[np.float64]) -> int:
    """Add up the pieces of each sample.

    Args:
        sums: (P, C, SUMS), of all pieces.
        voxels: how many a sample has.
        total: (SUMS, B, C), where to write the number of voxels and the sums; zeros.

    Returns:
        How many values of the target are out of range.
    """
    of_sample, wrong = pieces(voxels), 0.0
    for b in range(total.shape[1]):
        for c in range(total.shape[2]):
            total[0, b, c] = voxels
            for piece in range(b * of_sample, (b + 1) * of_sample):
                for k in range(1, SUMS):
                    total[k, b, c] += sums[piece, c, k - 1]
                wrong += sums[piece, c, SUMS - 1]
    return int(wrong)


@compiled
def options_of(n: Any) -> tuple[int, int, int, int, int]:
    """Return channels of the target and of the sums, activation, reading and further sums."""
    return n[OPTIONS], n[OPTIONS + 1], n[OPTIONS + 2], n[OPTIONS + 3], n[OPTIONS + 4]


@lru_cache
def sums_entry(dtype: str) -> Entry:
    """Return :func:`sums_of` for targets of a dtype; the arrays are input, target and sums."""

    of_values = np.dtype(dtype)

    def loop(work: Any) -> None:
        n = numbers_of(work)
        of_target, classes, activation, reading, further = options_of(n)
        z = volume_of(work, 1, n[CHANNELS], np.float32)
        target = volume_of(work, 2, of_target, of_values)
        sums = array_of(work, 3, (n[COUNT], classes, SUMS), np.float64)
        start, stop = take(work)
        while start < stop:
            sums_of(z, target, activation, reading, further, sums, start, stop)
            start, stop = take(work)

    return entry(loop)


@lru_cache
def gradient_entry(dtype: str) -> Entry:
    """Return :func:`gradient_of`; the arrays are input, target, gradient of the sums, and of the input."""

    of_values = np.dtype(dtype)

    def loop(work: Any) -> None:
        n = numbers_of(work)
        of_target, classes, activation, reading, further = options_of(n)
        z, out = volume_of(work, 1, n[CHANNELS], np.float32), volume_of(work, 4, n[CHANNELS], np.float32)
        target = volume_of(work, 2, of_target, of_values)
        upstream = array_of(work, 3, (SUMS, n[BATCH], classes), np.float64)
        start, stop = take(work)
        while start < stop:
            gradient_of(z, target, activation, reading, further, upstream, out, start, stop)
            start, stop = take(work)

    return entry(loop)


@lru_cache
def totals_entry() -> Entry:
    """Return :func:`totals_of`; the arrays are sums and totals, and what it returns is the first number afterwards."""

    def add_up_all(work: Any) -> None:
        n = numbers_of(work)
        sums = array_of(work, 1, (n[COUNT], n[CHANNELS], SUMS), np.float64)
        n[NEXT] = totals_of(sums, n[VOXELS], array_of(work, 2, (SUMS, n[BATCH], n[CHANNELS]), np.float64))

    return entry(add_up_all)
