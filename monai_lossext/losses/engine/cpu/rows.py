"""Rows of voxels in a thread's memory: targets, weights and logits that are read, and what becomes of these.

A row stays in the innermost cache, where torch's operations read and write each intermediate result.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .arithmetic import HALF, ONE, ZERO, Number, bounded_exp, log, smaller_probability
from .codes import (
    A_CHANNEL,
    A_VALUE,
    ACTIVATION,
    ADDRESS,
    BAD_INPUT,
    BAD_TARGET,
    BAD_WEIGHT,
    CHANNELS,
    CLASSES,
    DTYPE,
    EVEN,
    HINGE,
    IGNORED,
    IGNORING,
    LABELS,
    LIKELIHOOD,
    MERGING,
    NO_IGNORING,
    NO_WEIGHTS,
    OF_INNER,
    PAIR,
    RECORD,
    SIGMOID,
    SIGNED,
    SINGLE_ROWS,
    SIZES,
    SOFTMAX,
    TARGET,
    TENSORS,
    WEIGHED,
    WEIGHT,
    WEIGHTS,
    WIDTH,
    Z,
)
from .memory import Row, native, place_of, read
from .runtime import array_at, compiled, sums_over

Numbers = Any  # what describes a call, int64
Sums = Any  # the sums of a piece and class, (ROWS,) in float64

ROUNDING = np.float32(1e-6)  # how far a probability may lie outside of [0, 1]
INFINITE = np.float32(np.inf)

# Rows of a thread's memory; from LOGITS on, three for each channel: logits, probabilities, gradients.
T, W, OWN_WEIGHT, HIGHEST, INVERSE, OWN, OTHERS, SLOPE, Q, NLL, NLL_NOT, RISE, RISE_NOT, SPARE = range(14)
BACKGROUND, PARTS, LOGITS = range(14, SINGLE_ROWS + 1)
MEAN, SUM_OF_SLOPES = NLL_NOT, RISE_NOT  # which a softmax does not need


# -------------------------------------------------------------------------------------------------------------- reading


@compiled
def row_of(numbers: Numbers, which: int, b: int, c: int, v: int, n: int, row: Row) -> Row:
    """Return voxels where they are, if loops can work on them there, or else the row that they may be copied to."""
    at = TENSORS + RECORD * which
    if numbers[at + EVEN] and numbers[at + OF_INNER] == 1 and numbers[at + DTYPE] == native(row[0]):
        place = numbers[at + ADDRESS] + (place_of(numbers, at, b, c) + v) * SIZES[numbers[at + DTYPE]]
        return array_at(place, n, row.dtype)
    return row


@compiled
def is_copy(row: Row, of: Row) -> bool:
    """Return whether :func:`row_of` gave the row itself."""
    return row.ctypes.data == of.ctypes.data


@compiled
def fill(row: Row, n: int, value: Number) -> None:
    """Fill n numbers of a row."""
    for i in range(n):
        row[i] = value


@compiled
def copy(x: Row, n: int, to: Row) -> None:
    """Copy n numbers; Numba's own way of it brings the making of an error's text into each loop."""
    for i in range(n):
        to[i] = x[i]


@sums_over
def total(row: Row, n: int) -> Number:
    """Return the sum of n numbers."""
    found = ZERO
    for i in range(n):
        found += row[i]
    return found


@sums_over
def bad_labels(t: Row, n: int, classes: int) -> Number:
    """Return how many of n labels are not among 0, 1, ..., classes - 1."""
    wrong, last = ZERO, np.float32(classes - 1)
    for i in range(n):
        wrong += ZERO if (t[i] >= ZERO) & (t[i] <= last) & (t[i] == np.floor(t[i])) else ONE
    return wrong


@sums_over
def bad_shares(t: Row, n: int) -> Number:
    """Return how many of n shares are outside of [0, 1]."""
    wrong = ZERO
    for i in range(n):
        wrong += ZERO if (t[i] >= -ROUNDING) & (t[i] <= ONE + ROUNDING) else ONE
    return wrong


@sums_over
def bad_probabilities(p: Row, n: int) -> Number:
    """Return how many of n probabilities are outside of [0, 1]; NaN is not."""
    wrong = ZERO
    for i in range(n):
        wrong += ONE if (p[i] < -ROUNDING) | (p[i] > ONE + ROUNDING) else ZERO
    return wrong


@sums_over
def bad_weights(w: Row, n: int) -> Number:
    """Return how many of n weights are negative, infinite or NaN."""
    wrong = ZERO
    for i in range(n):
        wrong += ZERO if (w[i] >= ZERO) & (w[i] < INFINITE) else ONE
    return wrong


@compiled
def leave_out(t: Row, w: Row, n: int, ignored: Number) -> None:
    """Set the weight of ignored voxels to 0, and their label too."""
    for i in range(n):
        seen = t[i] != ignored
        w[i] = w[i] if seen else ZERO
        t[i] = t[i] if seen else ZERO


@compiled
def leave_out_of(channel: Row, w: Row, n: int) -> None:
    """Set the weight of voxels to 0 that belong to a channel."""
    for i in range(n):
        w[i] = ZERO if channel[i] > HALF else w[i]


@compiled
def hide(z: Row, w: Row, n: int) -> None:
    """Make logits neutral where nothing weighs; not even NaN gets through."""
    for i in range(n):
        z[i] = z[i] if w[i] != ZERO else ZERO


@compiled
def relabel(t: Row, n: int, label: Number) -> None:
    """Take a label for background."""
    for i in range(n):
        t[i] = ZERO if t[i] == label else t[i]


@compiled
def add_shares(x: Row, y: Row, n: int) -> None:
    """Add n shares to those of the background; together they are at most 1."""
    for i in range(n):
        both = x[i] + y[i]
        x[i] = ONE if both > ONE else both


@compiled
def multiply(x: Row, y: Row, n: int) -> None:
    """Multiply n numbers in place."""
    for i in range(n):
        x[i] *= y[i]


@compiled
def is_merged(numbers: Numbers, b: int, c: int) -> bool:
    """Return whether a class of a sample was not annotated, and counts as background."""
    if numbers[MERGING] == 0 or c == 0:
        return False
    channels = numbers[CHANNELS]
    return array_at(numbers[CLASSES] + b * channels, channels, np.uint8)[c] == 0


@compiled
def merges(numbers: Numbers, b: int) -> bool:
    """Return whether any class of a sample is merged."""
    found = False
    for c in range(numbers[CHANNELS]):
        found |= is_merged(numbers, b, c)
    return found


@compiled
def weighs(numbers: Numbers) -> bool:
    """Return whether voxels may weigh other than 1."""
    return (numbers[WEIGHTS] != NO_WEIGHTS) | (numbers[IGNORING] != NO_IGNORING)


@compiled
def hides(numbers: Numbers) -> bool:
    """Return whether voxels that weigh 0 must not be looked at."""
    return weighs(numbers) & (numbers[WEIGHTS] != SIGNED)


@compiled
def read_labels(numbers: Numbers, b: int, v: int, n: int, s: Any) -> Number:
    """Read labels and weights of the voxels; return how many labels are out of range."""
    t, w = s[T], s[W]
    read(numbers, TARGET, b, 0, v, n, t)
    if numbers[IGNORING] == A_VALUE:
        leave_out(t, w, n, np.float32(numbers[IGNORED]))
    wrong = bad_labels(t, n, numbers[CHANNELS])
    for c in range(1, numbers[CHANNELS]):
        if is_merged(numbers, b, c):
            relabel(t, n, np.float32(c))
    return wrong


@compiled
def read_weights(numbers: Numbers, b: int, v: int, n: int, s: Any) -> Number:
    """Read what all channels of the voxels weigh; return how many weights are out of range."""
    w, wrong = s[W], ZERO
    if numbers[WEIGHTS] == NO_WEIGHTS or numbers[TENSORS + RECORD * WEIGHT + WIDTH] > 1:
        if numbers[IGNORING] != NO_IGNORING:  # else nobody writes there, and the row was filled before
            fill(w, n, ONE)
    else:
        read(numbers, WEIGHT, b, 0, v, n, w)
        if numbers[WEIGHTS] == WEIGHED:
            wrong = bad_weights(w, n)
    if numbers[IGNORING] == A_CHANNEL:
        read(numbers, TARGET, b, numbers[IGNORED], v, n, s[SPARE])
        leave_out_of(s[SPARE], w, n)
    return wrong


@compiled
def read_channel(numbers: Numbers, b: int, c: int, v: int, n: int, s: Any, sums: Sums) -> Row:
    """Read target and weights of a class, unless all share them; return the row of its weights."""
    w, t = s[W], s[T]
    labels, apart = numbers[LABELS] != 0, numbers[TENSORS + RECORD * WEIGHT + WIDTH] > 1
    if not labels:
        read(numbers, TARGET, b, c, v, n, t)
    if apart | (not labels and numbers[IGNORING] == A_VALUE):
        own = s[OWN_WEIGHT]
        if apart:
            read(numbers, WEIGHT, b, c, v, n, own)
            if numbers[WEIGHTS] == WEIGHED:
                sums[BAD_WEIGHT] += bad_weights(own, n)
            multiply(own, w, n)
        else:
            copy(w, n, own)
        if not labels and numbers[IGNORING] == A_VALUE:
            leave_out(t, own, n, np.float32(numbers[IGNORED]))
        w = own
    if not labels:
        sums[BAD_TARGET] += bad_shares(t, n)
        if is_merged(numbers, b, c):
            fill(t, n, ZERO)
        for other in range(1, numbers[CHANNELS] if c == 0 else 1):
            if is_merged(numbers, b, other):
                read(numbers, TARGET, b, other, v, n, s[SPARE])
                if numbers[IGNORING] == A_VALUE:
                    relabel(s[SPARE], n, np.float32(numbers[IGNORED]))
                add_shares(t, s[SPARE], n)
    return w


@compiled
def mark_visible(numbers: Numbers, b: int, v: int, n: int, s: Any) -> Row:
    """Return a row that is not 0 where any channel of a voxel weighs."""
    seen, one = s[SLOPE], s[OWN_WEIGHT]
    apart = numbers[TENSORS + RECORD * WEIGHT + WIDTH] > 1
    by_value = (numbers[LABELS] == 0) & (numbers[IGNORING] == A_VALUE)
    if not (apart | by_value):
        return s[W]
    fill(seen, n, ZERO)
    for c in range(numbers[CHANNELS]):
        fill(one, n, ONE)
        if apart:
            read(numbers, WEIGHT, b, c, v, n, one)
        if by_value:
            read(numbers, TARGET, b, c, v, n, s[SPARE])
            leave_out(s[SPARE], one, n, np.float32(numbers[IGNORED]))
        for i in range(n):
            seen[i] = ONE if (one[i] != ZERO) & (s[W, i] != ZERO) else seen[i]
    return seen


@compiled
def value_of(t: Number, labels: bool, this: Number) -> Number:
    """Return the share of a class, for a label whether it is this class, as 0..1."""
    if labels:
        return ONE if t == this else ZERO
    return t


@compiled
def error_of(p: Number, q: Number, g: Number) -> Number:
    """Return p - g, without loss of digits where p is nearly 1."""
    return -q if g == ONE else p - g


# ----------------------------------------------------------------------------------------------------------- activation


@compiled
def take_higher(z: Row, n: int, highest: Row) -> None:
    """Raise n numbers to those of another channel."""
    for i in range(n):
        highest[i] = z[i] if z[i] > highest[i] else highest[i]


@compiled
def exp_of_gaps(z: Row, highest: Row, n: int, p: Row, sums: Row) -> None:
    """Write exp(z - highest) of a channel, and add it to the channels' sum."""
    for i in range(n):
        p[i] = bounded_exp(z[i] - highest[i])
        sums[i] += p[i]


@compiled
def merge(numbers: Numbers, b: int, n: int, s: Any) -> None:
    """Replace the background's logit by log(sum of exp) over all merged classes, and theirs by exp(logit - highest of
    them); that of the background itself and the sum are in rows of their own.
    """
    whole, highest, sums = s[LOGITS], s[HIGHEST], s[PARTS]
    copy(whole, n, highest)
    fill(sums, n, ZERO)
    for c in range(1, numbers[CHANNELS]):
        if is_merged(numbers, b, c):
            take_higher(s[LOGITS + c], n, highest)
    exp_of_gaps(whole, highest, n, s[BACKGROUND], sums)
    for c in range(1, numbers[CHANNELS]):
        if is_merged(numbers, b, c):
            part = s[LOGITS + c]
            for i in range(n):  # a row under two names, read and written, would not be done many numbers at once
                part[i] = bounded_exp(part[i] - highest[i])
                sums[i] += part[i]
    for i in range(n):
        whole[i] = highest[i] + log(sums[i])


@compiled
def softmax(numbers: Numbers, b: int, n: int, s: Any) -> None:
    """Write probabilities, the highest logit of each voxel, and 1 / the sum of exp(logit - highest)."""
    channels, highest, inverse = numbers[CHANNELS], s[HIGHEST], s[INVERSE]
    copy(s[LOGITS], n, highest)
    fill(inverse, n, ZERO)
    for c in range(1, channels):
        if not is_merged(numbers, b, c):
            take_higher(s[LOGITS + c], n, highest)
    for c in range(channels):
        if is_merged(numbers, b, c):
            fill(s[LOGITS + channels + c], n, ZERO)
        else:
            exp_of_gaps(s[LOGITS + c], highest, n, s[LOGITS + channels + c], inverse)
    for i in range(n):
        inverse[i] = ONE / inverse[i]
    for c in range(channels):
        multiply(s[LOGITS + channels + c], inverse, n)


@compiled
def sigmoid(z: Row, n: int, p: Row, q: Row) -> None:
    """Write p and 1 - p, neither of which is rounded to 1 beside the other."""
    for i in range(n):
        smaller = smaller_probability(z[i])
        larger = ONE - smaller
        p[i] = smaller if z[i] < ZERO else larger
        q[i] = larger if z[i] < ZERO else smaller


@compiled
def read_softmax(numbers: Numbers, b: int, v: int, n: int, s: Any) -> None:
    """Read all logits of the voxels, and write their probabilities."""
    channels = numbers[CHANNELS]
    for c in range(channels):
        read(numbers, Z, b, c, v, n, s[LOGITS + c])
    if hides(numbers):
        seen = mark_visible(numbers, b, v, n, s)
        for c in range(channels):
            hide(s[LOGITS + c], seen, n)
    if numbers[ACTIVATION] == PAIR:
        difference, p = s[LOGITS], s[LOGITS + channels]
        for i in range(n):
            difference[i] = s[LOGITS + 1, i] - s[LOGITS, i]
        sigmoid(difference, n, p, s[Q])
    else:
        if merges(numbers, b):
            merge(numbers, b, n, s)
        softmax(numbers, b, n, s)


@compiled
def activate(numbers: Numbers, b: int, c: int, v: int, n: int, w: Row, s: Any, sums: Sums) -> None:
    """Write p and 1 - p of a class; for those of a softmax 1 - p alone."""
    channels, activation = numbers[CHANNELS], numbers[ACTIVATION]
    z, p, q = s[LOGITS + c], s[LOGITS + channels + c], s[Q]
    if activation == PAIR:
        return
    if activation == SOFTMAX:
        if channels == 2:  # exact where 1 - p is not
            copy(s[LOGITS + 3 - c], n, q)
        else:
            for i in range(n):
                q[i] = ONE - p[i]
        return
    read(numbers, Z, b, c, v, n, z)
    if hides(numbers):
        hide(z, w, n)
    if activation == SIGMOID:
        sigmoid(z, n, p, q)
        return
    if numbers[LIKELIHOOD] != HINGE:
        sums[BAD_INPUT] += bad_probabilities(z, n)
    copy(z, n, p)
    for i in range(n):
        q[i] = ONE - p[i]


@compiled
def logits_of(numbers: Numbers, b: int, c: int, v: int, n: int, w: Row, s: Any) -> Row:
    """Return the logits of a channel, or the differences of a pair's."""
    row = s[LOGITS]
    if numbers[ACTIVATION] == PAIR:
        second = s[LOGITS + 1]
        read(numbers, Z, b, 0, v, n, row)
        read(numbers, Z, b, 1, v, n, second)
        if hides(numbers):
            hide(row, w, n)
            hide(second, w, n)
        for i in range(n):
            row[i] = second[i] - row[i]
        return row
    if hides(numbers):
        read(numbers, Z, b, c, v, n, row)
        hide(row, w, n)
        return row
    there = row_of(numbers, Z, b, c, v, n, row)
    if is_copy(there, row):
        read(numbers, Z, b, c, v, n, row)
    return there
