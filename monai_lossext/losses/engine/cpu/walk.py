"""The walk through a volume: sums of probabilities and likelihoods, their gradient, and the values of voxels.

Each loop reads a block of voxels once, into rows that stay in the innermost cache, where torch's operations read and
write each intermediate result. What is computed is that of :mod:`..plain`, number for number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.numpy_support import carray

from .arithmetic import (
    HALF,
    LOWEST,
    ONE,
    SMALLEST_POWER,
    STEEPEST,
    TWO,
    ZERO,
    Number,
    bounded_exp,
    exp_of_negative,
    exponent,
    highest_given,
    least,
    ln_2,
    log,
    log_of_ratio,
    lowest_given,
    mantissa,
    smaller_probability,
)
from .codes import (
    A_CHANNEL,
    A_VALUE,
    ACTIVATION,
    ADDRESS,
    BAD_INPUT,
    BAD_TARGET,
    BAD_WEIGHT,
    BATCH,
    BLOCK,
    CHANNELS,
    CLASSES,
    COUNT,
    COUNTS,
    CROSS_ENTROPY,
    DTYPE,
    ENDS,
    ERRORS,
    EVEN,
    EXCLUSIVE,
    FIRST,
    FN,
    FOCAL,
    FP,
    FURTHER,
    GAMMA,
    HINGE,
    IGNORED,
    IGNORING,
    INNER_FACTORS,
    INSIDE,
    LABELS,
    LIKELIHOOD,
    MERGING,
    NEGATIVES,
    NO_COUNTS,
    NO_IGNORING,
    NO_LIKELIHOOD,
    NO_MORE,
    NO_WEIGHTS,
    OF_INNER,
    OUT,
    OUTER_FACTORS,
    OUTSIDE,
    PAIR,
    PIECE,
    POWER,
    PROBABILITIES,
    PRODUCTS,
    RECORD,
    ROWS,
    SCRATCH,
    SECOND,
    SIGMOID,
    SIGNED,
    SINGLE_ROWS,
    SIZES,
    SOFTMAX,
    SQUARES,
    SUMS,
    TAKEN,
    TARGET,
    TENSORS,
    TP,
    UPSTREAM,
    VOXELS,
    WEIGHED,
    WEIGHT,
    WEIGHTS,
    WIDTH,
    G,
    N,
    Z,
)
from .memory import Row, native, place_of, read, write
from .runtime import array_at, compiled, fetch_add, sums_over, take

Numbers = Any  # what describes a call, int64
Sums = Any  # the sums of a piece and class, (ROWS,) in float64

ROUNDING = np.float32(1e-6)  # how far a probability may lie outside of [0, 1]
INFINITE = np.float32(np.inf)

# Rows of a thread's memory; from LOGITS on, three for each channel: logits, probabilities, gradients.
T, W, OWN_WEIGHT, HIGHEST, INVERSE, OWN, OTHERS, SLOPE, Q, NLL, NLL_NOT, RISE, RISE_NOT, SPARE = range(14)
BACKGROUND, PARTS, LOGITS = range(14, SINGLE_ROWS + 1)
MEAN, SUM_OF_SLOPES = NLL_NOT, RISE_NOT  # which a softmax does not need


# ------------------------------------------------------------------------------------------------------------ reading


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


# --------------------------------------------------------------------------------------------------------- activation


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


# --------------------------------------------------------------------------------------------------------- likelihoods


@compiled
def nll_of_sigmoid(z: Row, p: Row, q: Row, n: int, nll: Row, nll_not: Row) -> None:
    """Write -log p and -log(1 - p) of n logits."""
    for i in range(n):
        smaller = p[i] if z[i] < ZERO else q[i]
        rest = log_of_ratio(smaller / (TWO - smaller))
        positive = z[i] > ZERO
        nll[i] = rest - (ZERO if positive else z[i])
        nll_not[i] = rest + (z[i] if positive else ZERO)


@compiled
def nll_of_given(p: Row, n: int, nll: Row, nll_not: Row) -> None:
    """Write -log p and -log(1 - p) of n probabilities, which are clamped."""
    for i in range(n):
        low, high = lowest_given(p[i]), highest_given(p[i])
        inside = low if p[i] < low else (high if p[i] > high else p[i])
        outside = ONE - inside
        near = inside > HALF
        smaller = outside if near else inside
        small, large = log_of_ratio(smaller / (TWO - smaller)), -log(smaller)  # exact, however small
        nll[i], nll_not[i] = small if near else large, large if near else small


@compiled
def nll_of_hinge(z: Row, n: int, nll: Row, nll_not: Row) -> None:
    """Write the hinge errors of n logits, inside and outside of a class."""
    for i in range(n):
        nll[i] = ONE - z[i] if z[i] < ONE else (ZERO if z[i] >= ONE else z[i])
        nll_not[i] = ONE + z[i] if z[i] > -ONE else (ZERO if z[i] <= -ONE else z[i])


@compiled
def nll_of_softmax(z: Row, highest: Row, inverse: Row, n: int, nll: Row) -> None:
    """Write -log p of n logits of a channel."""
    for i in range(n):
        nll[i] = (highest[i] - z[i]) - log(inverse[i])


@compiled
def add_own(x: Row, t: Row, n: int, c: int, own: Row) -> None:
    """Add what voxels of a class have."""
    this = np.float32(c)
    for i in range(n):
        own[i] += x[i] if t[i] == this else ZERO


@compiled
def add_others(p: Row, t: Row, n: int, c: int, others: Row) -> None:
    """Add the probability of a class for voxels of other classes."""
    this = np.float32(c)
    for i in range(n):
        others[i] += ZERO if t[i] == this else p[i]


@compiled
def nll_of_labels(highest: Row, inverse: Row, own: Row, others: Row, n: int, nll: Row) -> None:
    """Write -log p of n voxels' own classes; where others have little, these hold the digits of the logarithm."""
    for i in range(n):
        q, e = others[i], mantissa(inverse[i]) - ONE
        near = q < HALF
        # one logarithm for both: of 1 + q / (1 - q), or of what is left of 1 / the sum without its power of two
        found = log_of_ratio((q if near else e) / (TWO - (q if near else -e)))
        far = (highest[i] - own[i]) - (exponent(inverse[i]) * ln_2(e) + found)
        nll[i] = found if near else (far if q == q else q)


@compiled
def shape_focal(gamma: Number, q: Row, n: int, nll: Row, rise: Row) -> None:
    """Replace n values of -log p by (1 - p)^gamma times them, and write the slope; q is 1 - p."""
    for i in range(n):
        damped = bounded_exp(gamma * log(q[i]))
        p = ONE - q[i] if q[i] < HALF else bounded_exp(-nll[i])
        rise[i] = damped + gamma * p * nll[i] * (damped / q[i] if q[i] > ZERO else ZERO)
        nll[i] = damped * nll[i]


@compiled
def shape_focal_of_two(q: Row, n: int, nll: Row, rise: Row) -> None:
    """Do the same for gamma = 2, which needs no logarithm."""
    for i in range(n):
        p = ONE - q[i] if q[i] < HALF else bounded_exp(-nll[i])
        rise[i] = q[i] * (q[i] + TWO * p * nll[i])
        nll[i] = q[i] * q[i] * nll[i]


@compiled
def shape_power(gamma: Number, n: int, nll: Row, rise: Row) -> None:
    """Replace n values of -log p by their power, 0 < gamma <= 1, and write the slope."""
    line = nll.dtype.type(SMALLEST_POWER ** (np.float64(gamma) - 1.0))
    for i in range(n):
        x = nll[i]
        far = x if x > SMALLEST_POWER else (SMALLEST_POWER if x <= SMALLEST_POWER else x)
        exponent = gamma * log(far)
        whole = exp_of_negative(-abs(exponent) if abs(exponent) < -LOWEST else LOWEST)
        whole = ONE / whole if exponent > ZERO else whole
        rise[i] = line if x < SMALLEST_POWER else gamma * whole / far
        nll[i] = x * line if x < SMALLEST_POWER else whole


@compiled
def shape(kind: int, gamma: Number, q: Row, n: int, nll: Row, rise: Row) -> None:
    """Replace n values of -log p by a function of them, and write its slope; q is 1 - p."""
    if kind == FOCAL and gamma == TWO:
        shape_focal_of_two(q, n, nll, rise)
    elif kind == FOCAL:
        shape_focal(gamma, q, n, nll, rise)
    elif kind == POWER:
        shape_power(gamma, n, nll, rise)
    else:
        fill(rise, n, ONE)


@compiled
def likelihood_of_labels(numbers: Numbers, b: int, v: int, n: int, gamma: Number, slopes: bool, s: Any) -> None:
    """Write for the voxels' own classes: likelihood, its slope, weight, and the probability of other classes.

    Where ``slopes`` alone are wanted, those of the plain cross-entropy need no logarithm.
    """
    channels, own, others, weight = numbers[CHANNELS], s[OWN], s[OTHERS], s[SLOPE]
    values = not (slopes and numbers[LIKELIHOOD] == CROSS_ENTROPY)
    fill(own, n, ZERO)
    fill(others, n, ZERO)
    apart = numbers[TENSORS + RECORD * WEIGHT + WIDTH] > 1
    if apart:
        fill(weight, n, ZERO)
    else:
        copy(s[W], n, weight)
    for c in range(channels):
        if values:
            add_own(s[LOGITS + c], s[T], n, c, own)
        add_others(s[LOGITS + channels + c], s[T], n, c, others)
        if apart:
            read(numbers, WEIGHT, b, c, v, n, s[OWN_WEIGHT])
            multiply(s[OWN_WEIGHT], s[W], n)
            add_own(s[OWN_WEIGHT], s[T], n, c, weight)
    if values:
        nll_of_labels(s[HIGHEST], s[INVERSE], s[OWN], s[OTHERS], n, s[NLL])
    shape(numbers[LIKELIHOOD], gamma, s[OTHERS], n, s[NLL], s[RISE])


@compiled
def likelihood_of_channel(numbers: Numbers, c: int, n: int, gamma: Number, slopes: bool, s: Any) -> None:
    """Write likelihoods inside and outside of a class, and their slopes, given p and 1 - p; ``slopes`` as above."""
    channels, kind, activation = numbers[CHANNELS], numbers[LIKELIHOOD], numbers[ACTIVATION]
    z, p, q = s[LOGITS + c], s[LOGITS + channels + c], s[Q]
    if slopes and kind == CROSS_ENTROPY:
        fill(s[RISE], n, ONE)
        if activation != SOFTMAX:
            fill(s[RISE_NOT], n, ONE)
        return
    if kind == HINGE:
        nll_of_hinge(z, n, s[NLL], s[NLL_NOT])
        return
    if activation == SOFTMAX:
        nll_of_softmax(z, s[HIGHEST], s[INVERSE], n, s[NLL])
        shape(kind, gamma, q, n, s[NLL], s[RISE])
        return
    if activation == PROBABILITIES:
        nll_of_given(p, n, s[NLL], s[NLL_NOT])
    else:
        nll_of_sigmoid(z, p, q, n, s[NLL], s[NLL_NOT])
    shape(kind, gamma, q, n, s[NLL], s[RISE])
    shape(kind, gamma, p, n, s[NLL_NOT], s[RISE_NOT])


# ---------------------------------------------------------------------------------------------------------------- sums


@compiled
def value_of(t: Number, labels: bool, this: Number) -> Number:
    """Return the share of a class, for a label whether it is this class, as 0..1."""
    if labels:
        return ONE if t == this else ZERO
    return t


@sums_over
def add_counts(
    p: Row, q: Row, t: Row, w: Row, n: int, this: Number, labels: bool, products: bool, further: Any, sums: Sums
) -> None:
    """Add the counts of n voxels, none of them a difference of sums: that would drown in rounding errors.

    TP and TN have the smaller ones of p and g and of 1 - p and 1 - g, or their products; FP and FN have the rest.
    ``further`` is None for no more, True for TN; Numba leaves out what is not asked for.
    """
    size = tp = fp = fn = tn = ZERO
    for i in range(n):
        g = value_of(t[i], labels, this)
        rest = ONE - g
        both = p[i] * g if products else (g if g < p[i] else p[i])
        neither = q[i] * rest if products else (rest if rest < q[i] else q[i])
        size += w[i] * g
        tp += w[i] * both
        fp += w[i] * (p[i] - both)
        fn += w[i] * (q[i] - neither)
        if further is not None:
            tn += w[i] * neither
    sums[G] += size
    sums[TP] += tp
    sums[FP] += fp
    sums[FN] += fn
    sums[FIRST] += tn


@sums_over
def add_sigmoid(
    z: Row,
    t: Row,
    w: Row,
    n: int,
    this: Number,
    labels: bool,
    products: bool,
    counts: Any,
    entropy: Any,
    focal: Any,
    sums: Sums,
) -> None:
    """Add counts and likelihoods of n logits at once; what is asked for is True, all else None, which costs nothing."""
    size = tp = fp = fn = tn = inside = outside = ZERO
    for i in range(n):
        smaller = smaller_probability(z[i])
        larger = ONE - smaller
        p, q = (smaller, larger) if z[i] < ZERO else (larger, smaller)
        g = value_of(t[i], labels, this)
        rest = ONE - g
        size += w[i] * g
        if counts is not None:
            both = p * g if products else (g if g < p else p)
            neither = q * rest if products else (rest if rest < q else q)
            tp += w[i] * both
            fp += w[i] * (p - both)
            fn += w[i] * (q - neither)
            tn += w[i] * neither
        if entropy is not None:
            near = log_of_ratio(smaller / (TWO - smaller))
            positive = z[i] > ZERO
            nll, nll_not = near - (ZERO if positive else z[i]), near + (z[i] if positive else ZERO)
            if focal is not None:
                nll, nll_not = q * q * nll, p * p * nll_not
            # infinity times 0 does not count; to choose between sums would keep them from being many at once
            inside += w[i] * (g * (nll if g > ZERO else ZERO))
            outside += w[i] * (rest * (nll_not if g < ONE else ZERO))
    sums[G] += size
    sums[TP] += tp
    sums[FP] += fp
    sums[FN] += fn
    sums[FIRST] += tn
    sums[INSIDE] += inside
    sums[OUTSIDE] += outside


@compiled
def is_usual(numbers: Numbers, gamma: Number) -> bool:
    """Return whether :func:`add_sigmoid` and :func:`gradient_of_sigmoid` can do all that is asked for."""
    activation, further, kind = numbers[ACTIVATION], numbers[FURTHER], numbers[LIKELIHOOD]
    return (
        ((activation == SIGMOID) | (activation == PAIR))
        & ((further == NO_MORE) | (further == NEGATIVES))
        & ((kind == NO_LIKELIHOOD) | (kind == CROSS_ENTROPY) | ((kind == FOCAL) & (gamma == TWO)))
        & ((numbers[COUNTS] != NO_COUNTS) | (kind != NO_LIKELIHOOD))
    )


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


@compiled
def add_usual(numbers: Numbers, b: int, c: int, v: int, n: int, t: Row, w: Row, s: Any, sums: Sums) -> None:
    """Add the sums of a class by :func:`add_sigmoid`."""
    z, kind, labels = logits_of(numbers, b, c, v, n, w, s), numbers[LIKELIHOOD], numbers[LABELS] != 0
    this, products = np.float32(1 if numbers[ACTIVATION] == PAIR else c), numbers[COUNTS] == PRODUCTS
    if numbers[COUNTS] == NO_COUNTS:
        if kind == FOCAL:
            add_sigmoid(z, t, w, n, this, labels, products, None, True, True, sums)
        else:
            add_sigmoid(z, t, w, n, this, labels, products, None, True, None, sums)
    elif kind == NO_LIKELIHOOD:
        add_sigmoid(z, t, w, n, this, labels, products, True, None, None, sums)
    elif kind == FOCAL:
        add_sigmoid(z, t, w, n, this, labels, products, True, True, True, sums)
    else:
        add_sigmoid(z, t, w, n, this, labels, products, True, True, None, sums)


@sums_over
def add_size(t: Row, w: Row, n: int, this: Number, labels: bool, sums: Sums) -> None:
    """Add the size of a class."""
    size = ZERO
    for i in range(n):
        size += w[i] * value_of(t[i], labels, this)
    sums[G] += size


@sums_over
def add_squares(p: Row, t: Row, w: Row, n: int, this: Number, labels: bool, sums: Sums) -> None:
    """Add the squares of probabilities and shares."""
    first = second = ZERO
    for i in range(n):
        g = value_of(t[i], labels, this)
        first += w[i] * (p[i] * p[i])
        second += w[i] * (g * g)
    sums[FIRST] += first
    sums[SECOND] += second


@compiled
def error_of(p: Number, q: Number, g: Number) -> Number:
    """Return p - g, without loss of digits where p is nearly 1."""
    return -q if g == ONE else p - g


@sums_over
def add_errors(p: Row, q: Row, t: Row, w: Row, n: int, this: Number, labels: bool, sums: Sums) -> None:
    """Add the squared errors on a class and on what is not of it."""
    first = second = ZERO
    for i in range(n):
        g = value_of(t[i], labels, this)
        error = error_of(p[i], q[i], g)
        first += w[i] * (error * error * g)
        second += w[i] * (error * error * (ONE - g))
    sums[FIRST] += first
    sums[SECOND] += second


@sums_over
def add_likelihoods(nll: Row, nll_not: Row, t: Row, w: Row, n: int, this: Number, labels: bool, sums: Sums) -> None:
    """Add the likelihoods inside and outside of a class; neither infinity times 0 counts."""
    inside = outside = ZERO
    for i in range(n):
        g = value_of(t[i], labels, this)
        inside += w[i] * (g * (nll[i] if g > ZERO else ZERO))
        outside += w[i] * ((ONE - g) * (nll_not[i] if g < ONE else ZERO))
    sums[INSIDE] += inside
    sums[OUTSIDE] += outside


@sums_over
def add_likelihoods_inside(nll: Row, t: Row, w: Row, n: int, this: Number, labels: bool, sums: Sums) -> None:
    """Add the likelihoods inside of a class."""
    inside = ZERO
    for i in range(n):
        g = value_of(t[i], labels, this)
        inside += w[i] * (g * (nll[i] if g > ZERO else ZERO))
    sums[INSIDE] += inside


@compiled
def sums_of_block(numbers: Numbers, b: int, v: int, n: int, gamma: Number, s: Any, sums: Any) -> None:
    """Add up a block of voxels; sums are (C, ROWS)."""
    channels, activation, labels = numbers[CHANNELS], numbers[ACTIVATION], numbers[LABELS] != 0
    counts, further, kind = numbers[COUNTS], numbers[FURTHER], numbers[LIKELIHOOD]
    usual, real = is_usual(numbers, gamma), s.dtype.type
    joint = (activation == SOFTMAX) | ((activation == PAIR) & (not usual))
    sums[0, BAD_WEIGHT] += read_weights(numbers, b, v, n, s)
    if labels:
        sums[0, BAD_TARGET] += read_labels(numbers, b, v, n, s)
    if joint:
        read_softmax(numbers, b, v, n, s)
    of_labels = labels & (activation == SOFTMAX) & (kind != NO_LIKELIHOOD)
    if of_labels:
        likelihood_of_labels(numbers, b, v, n, gamma, False, s)
    for c in range(len(sums)):
        own, this = sums[c], np.float32(1 if activation == PAIR else c)
        w = read_channel(numbers, b, c, v, n, s, own)
        size = total(w, n) if weighs(numbers) else real(n)
        own[N] += size
        if is_merged(numbers, b, c):  # there is nothing of it, neither in p nor in g
            own[FIRST] += size if further == NEGATIVES else ZERO
            continue
        if usual:
            add_usual(numbers, b, c, v, n, s[T], w, s, own)
            continue
        activate(numbers, b, c, v, n, w, s, own)
        p, q, t = s[LOGITS + channels + c], s[Q], s[T]
        if counts == NO_COUNTS:
            add_size(t, w, n, this, labels, own)
        elif further == NEGATIVES:
            add_counts(p, q, t, w, n, this, labels, counts == PRODUCTS, True, own)
        else:
            add_counts(p, q, t, w, n, this, labels, counts == PRODUCTS, None, own)
        if further == SQUARES:
            add_squares(p, t, w, n, this, labels, own)
        elif further == ERRORS:
            add_errors(p, q, t, w, n, this, labels, own)
        if of_labels:
            add_likelihoods_inside(s[NLL], t, w, n, this, True, own)
        elif kind != NO_LIKELIHOOD:
            likelihood_of_channel(numbers, c, n, gamma, False, s)
            if activation == SOFTMAX:
                add_likelihoods_inside(s[NLL], t, w, n, this, labels, own)
            else:
                add_likelihoods(s[NLL], s[NLL_NOT], t, w, n, this, labels, own)


# ------------------------------------------------------------------------------------------------------------ gradient


@compiled
def gradient_of_counts(
    p: Row,
    q: Row,
    t: Row,
    w: Row,
    n: int,
    this: Number,
    labels: bool,
    products: bool,
    inside: Number,
    outside: Number,
    h: Row,
) -> None:
    """Write the gradient of n probabilities: one slope where p is below g, another where it is above, or a mixture."""
    for i in range(n):
        g = value_of(t[i], labels, this)
        if products:
            h[i] = w[i] * (
                g * inside + (ONE - g) * outside if (g > ZERO) & (g < ONE) else (inside if g > ZERO else outside)
            )
        else:
            h[i] = w[i] * (inside if (p[i] < g) | (g >= ONE) else outside)


@compiled
def gradient_of_sigmoid(
    z: Row,
    t: Row,
    w: Row,
    n: int,
    this: Number,
    labels: bool,
    products: bool,
    counts: Any,
    entropy: Any,
    focal: Any,
    inside: Number,
    outside: Number,
    of_nll: Number,
    of_nll_not: Number,
    h: Row,
) -> None:
    """Write the gradient of what :func:`add_sigmoid` adds, exact on both sides and held beyond the steepest logit."""
    for i in range(n):
        smaller = smaller_probability(z[i])
        larger = ONE - smaller
        p, q = (smaller, larger) if z[i] < ZERO else (larger, smaller)
        g = value_of(t[i], labels, this)
        found = ZERO
        if counts is not None:
            mixed = g * inside + (ONE - g) * outside
            whole = inside if (p < g) | (g >= ONE) else outside
            found = (mixed if products & (g > ZERO) & (g < ONE) else whole) * (smaller * larger)
        if entropy is not None:
            up, down = q, p
            if focal is not None:
                near = log_of_ratio(smaller / (TWO - smaller))
                positive = z[i] > ZERO
                nll, nll_not = near - (ZERO if positive else z[i]), near + (z[i] if positive else ZERO)
                # p is held beyond the steepest logit, where p times the likelihood is nothing any more
                nll, nll_not = (STEEPEST if nll > STEEPEST else nll), (STEEPEST if nll_not > STEEPEST else nll_not)
                up, down = q * q * (q + TWO * p * nll), p * p * (p + TWO * q * nll_not)
            found += (ONE - g) * of_nll_not * (down if g < ONE else ZERO) - g * of_nll * (up if g > ZERO else ZERO)
        h[i] = w[i] * found


@compiled
def write_usual(
    numbers: Numbers, b: int, c: int, v: int, n: int, t: Row, w: Row, s: Any, up: Any, inside: Any, outside: Any
) -> None:
    """Write the gradient of a class by :func:`gradient_of_sigmoid`."""
    z, kind, labels = logits_of(numbers, b, c, v, n, w, s), numbers[LIKELIHOOD], numbers[LABELS] != 0
    pair, products, real = numbers[ACTIVATION] == PAIR, numbers[COUNTS] == PRODUCTS, s.dtype.type
    at = 1 if pair else c
    this, row = np.float32(at), s[LOGITS + 2 * numbers[CHANNELS]]
    h = row_of(numbers, OUT, b, at, v, n, row)
    a, o, x, y = real(inside), real(outside), real(up[INSIDE, at]), real(up[OUTSIDE, at])
    if numbers[COUNTS] == NO_COUNTS:
        if kind == FOCAL:
            gradient_of_sigmoid(z, t, w, n, this, labels, products, None, True, True, a, o, x, y, h)
        else:
            gradient_of_sigmoid(z, t, w, n, this, labels, products, None, True, None, a, o, x, y, h)
    elif kind == NO_LIKELIHOOD:
        gradient_of_sigmoid(z, t, w, n, this, labels, products, True, None, None, a, o, x, y, h)
    elif kind == FOCAL:
        gradient_of_sigmoid(z, t, w, n, this, labels, products, True, True, True, a, o, x, y, h)
    else:
        gradient_of_sigmoid(z, t, w, n, this, labels, products, True, True, None, a, o, x, y, h)
    if is_copy(h, row):
        write(numbers, OUT, b, at, v, n, h)
    if pair:
        negative = row_of(numbers, OUT, b, 0, v, n, s[LOGITS])
        for i in range(n):
            negative[i] = -h[i]
        if is_copy(negative, s[LOGITS]):
            write(numbers, OUT, b, 0, v, n, negative)


@compiled
def add_gradient_of_squares(p: Row, w: Row, n: int, first: Number, h: Row) -> None:
    """Add the gradient of squared probabilities."""
    for i in range(n):
        h[i] += w[i] * (TWO * p[i] * first)


@compiled
def add_gradient_of_errors(
    p: Row, q: Row, t: Row, w: Row, n: int, this: Number, labels: bool, first: Number, second: Number, h: Row
) -> None:
    """Add the gradient of squared errors."""
    for i in range(n):
        g = value_of(t[i], labels, this)
        h[i] += w[i] * (TWO * (g * first + (ONE - g) * second) * error_of(p[i], q[i], g))


@compiled
def through_sigmoid(h: Row, p: Row, q: Row, n: int) -> None:
    """Turn the gradients of n probabilities into those of logits, exact on both sides, held beyond the steepest."""
    for i in range(n):
        h[i] = h[i] * (p[i] * q[i])


@compiled
def add_slopes(
    rise: Row,
    rise_not: Row,
    p: Row,
    q: Row,
    t: Row,
    w: Row,
    n: int,
    this: Number,
    labels: bool,
    inside: Number,
    outside: Number,
    h: Row,
) -> None:
    """Add the gradient of the likelihoods of a sigmoid."""
    for i in range(n):
        g = value_of(t[i], labels, this)
        up = g * inside * (rise[i] * q[i] if g > ZERO else ZERO)
        down = (ONE - g) * outside * (rise_not[i] * p[i] if g < ONE else ZERO)
        h[i] += w[i] * (down - up)


@compiled
def add_slopes_of_given(
    rise: Row,
    rise_not: Row,
    p: Row,
    t: Row,
    w: Row,
    n: int,
    this: Number,
    labels: bool,
    inside: Number,
    outside: Number,
    h: Row,
) -> None:
    """Add the gradient of the likelihoods of given probabilities, 0 where these are clamped."""
    for i in range(n):
        g = value_of(t[i], labels, this)
        clamped = (p[i] < lowest_given(p[i])) | (p[i] > highest_given(p[i]))
        at = HALF if clamped else p[i]
        up = g * inside * rise[i] / at if g > ZERO else ZERO
        down = (ONE - g) * outside * rise_not[i] / (ONE - at) if g < ONE else ZERO
        h[i] += ZERO if clamped else w[i] * (down - up)


@compiled
def add_slopes_of_hinge(
    z: Row, t: Row, w: Row, n: int, this: Number, labels: bool, inside: Number, outside: Number, h: Row
) -> None:
    """Add the gradient of the hinge errors."""
    for i in range(n):
        g = value_of(t[i], labels, this)
        up = g * inside if z[i] < ONE else ZERO
        down = (ONE - g) * outside if z[i] > -ONE else ZERO
        h[i] += w[i] * (down - up)


@compiled
def add_to_mean(h: Row, p: Row, n: int, mean: Row) -> None:
    """Multiply n gradients of a channel with probabilities, held at the steepest gap, and add them to the mean."""
    for i in range(n):
        q = least(p[i]) if p[i] < least(p[i]) else p[i]
        h[i] = h[i] * q
        p[i] = q
        mean[i] += h[i]


@compiled
def subtract_mean(h: Row, p: Row, mean: Row, n: int) -> None:
    """Turn n gradients of a channel into those of logits."""
    for i in range(n):
        h[i] = h[i] - p[i] * mean[i]


@compiled
def difference_of_two(p: Row, q: Row, h: Row, k: Row, n: int) -> None:
    """Turn n gradients of two channels, times their probabilities, into those of logits, though one is nearly 1."""
    for i in range(n):
        k[i] = p[i] * k[i] - q[i] * h[i]
        h[i] = -k[i]


@compiled
def slopes_of_labels(t: Row, rise: Row, n: int, c: int, inside: Number, slope: Row) -> None:
    """Multiply the weight of the voxels of a class with the slope of their likelihood."""
    this = np.float32(c)
    for i in range(n):
        slope[i] = slope[i] * (rise[i] * inside) if t[i] == this else slope[i]


@compiled
def add_slopes_of_labels(p: Row, t: Row, others: Row, slope: Row, n: int, c: int, h: Row) -> None:
    """Add the gradient of the likelihoods of voxels' own classes."""
    this = np.float32(c)
    for i in range(n):
        h[i] += slope[i] * (-others[i] if t[i] == this else p[i])


@compiled
def slopes_of_shares(
    rise: Row, t: Row, w: Row, n: int, this: Number, labels: bool, inside: Number, h: Row, sums: Row
) -> None:
    """Subtract the slopes of the likelihoods of a softmax's channel, and add them up over channels."""
    for i in range(n):
        g = value_of(t[i], labels, this)
        slope = w[i] * (g * inside * rise[i]) if g > ZERO else ZERO
        h[i] -= slope
        sums[i] += slope


@compiled
def add_product(h: Row, p: Row, x: Row, n: int) -> None:
    """Add n products."""
    for i in range(n):
        h[i] += p[i] * x[i]


@compiled
def share_of_merged(numbers: Numbers, b: int, n: int, s: Any) -> None:
    """Hand the gradient of the merged background to the logits that it was made of, by their shares of it."""
    channels = numbers[CHANNELS]
    rest = s[LOGITS + 2 * channels]
    for i in range(n):
        rest[i] /= s[PARTS, i]
    for c in range(1, channels):
        if is_merged(numbers, b, c):
            copy(s[LOGITS + c], n, s[LOGITS + 2 * channels + c])
            multiply(s[LOGITS + 2 * channels + c], rest, n)
    multiply(rest, s[BACKGROUND], n)


@compiled
def gradient_of_block(numbers: Numbers, b: int, v: int, n: int, gamma: Number, s: Any, up: Any, unused: Sums) -> None:
    """Write the gradient of a block of voxels, given that of the sums of its sample, (ROWS, C)."""
    channels, activation, labels = numbers[CHANNELS], numbers[ACTIVATION], numbers[LABELS] != 0
    counts, further, kind = numbers[COUNTS], numbers[FURTHER], numbers[LIKELIHOOD]
    usual, real = is_usual(numbers, gamma), s.dtype.type
    joint = (activation == SOFTMAX) | ((activation == PAIR) & (not usual))
    read_weights(numbers, b, v, n, s)
    if labels:
        read_labels(numbers, b, v, n, s)
    if joint:
        read_softmax(numbers, b, v, n, s)
    of_softmax = (activation == SOFTMAX) & (kind != NO_LIKELIHOOD)
    of_labels, of_shares = of_softmax & labels, of_softmax & (not labels)
    if of_labels:
        likelihood_of_labels(numbers, b, v, n, gamma, True, s)
        for c in range(channels):
            slopes_of_labels(s[T], s[RISE], n, c, real(up[INSIDE, c]), s[SLOPE])
    mean, slopes = s[MEAN], s[SUM_OF_SLOPES]
    fill(mean, n, ZERO)
    fill(slopes, n, ZERO)
    for c in range(1 if activation == PAIR else channels):
        at = 1 if activation == PAIR else c
        this = np.float32(at)
        if is_merged(numbers, b, c):
            fill(s[LOGITS + 2 * channels + c], n, ZERO)
            continue
        w = read_channel(numbers, b, c, v, n, s, unused)
        whole, rest = up[TP, at] - up[FN, at], up[FP, at] - (up[FIRST, at] if further == NEGATIVES else 0.0)
        if usual:
            write_usual(numbers, b, c, v, n, s[T], w, s, up, whole, rest)
            continue
        activate(numbers, b, c, v, n, w, s, unused)
        z, p, h, q, t = s[LOGITS + c], s[LOGITS + channels + c], s[LOGITS + 2 * channels + c], s[Q], s[T]
        first, second = real(up[FIRST, at]), real(up[SECOND, at])
        if counts == NO_COUNTS:
            fill(h, n, ZERO)
        else:
            gradient_of_counts(p, q, t, w, n, this, labels, counts == PRODUCTS, real(whole), real(rest), h)
        if further == SQUARES:
            add_gradient_of_squares(p, w, n, first, h)
        elif further == ERRORS:
            add_gradient_of_errors(p, q, t, w, n, this, labels, first, second, h)
        inside, outside = real(up[INSIDE, at]), real(up[OUTSIDE, at])
        if (kind != NO_LIKELIHOOD) & (not of_labels):
            likelihood_of_channel(numbers, c, n, gamma, True, s)
        if activation == SOFTMAX:
            add_to_mean(h, p, n, mean)
            if of_shares:
                slopes_of_shares(s[RISE], t, w, n, this, labels, inside, h, slopes)
            continue
        if activation != PROBABILITIES:
            through_sigmoid(h, p, q, n)
        if kind == HINGE:
            add_slopes_of_hinge(z, t, w, n, this, labels, inside, outside, h)
        elif kind != NO_LIKELIHOOD and activation == PROBABILITIES:
            add_slopes_of_given(s[RISE], s[RISE_NOT], p, t, w, n, this, labels, inside, outside, h)
        elif kind != NO_LIKELIHOOD:
            add_slopes(s[RISE], s[RISE_NOT], p, q, t, w, n, this, labels, inside, outside, h)
        write(numbers, OUT, b, at, v, n, h)
        if activation == PAIR:
            for i in range(n):
                h[i] = -h[i]
            write(numbers, OUT, b, 0, v, n, h)
    if activation != SOFTMAX:
        return
    if channels == 2:
        difference_of_two(s[LOGITS + 2], s[LOGITS + 3], s[LOGITS + 4], s[LOGITS + 5], n)
    for c in range(channels):
        p, h = s[LOGITS + channels + c], s[LOGITS + 2 * channels + c]
        if channels != 2:
            subtract_mean(h, p, mean, n)
        if of_labels:
            add_slopes_of_labels(p, s[T], s[OTHERS], s[SLOPE], n, c, h)
        elif of_shares and channels != 2:
            add_product(h, p, slopes, n)
    if merges(numbers, b):
        share_of_merged(numbers, b, n, s)
    for c in range(channels):
        write(numbers, OUT, b, c, v, n, s[LOGITS + 2 * channels + c])


# -------------------------------------------------------------------------------------------------------------- values


@compiled
def values_of_labels(t: Row, nll: Row, n: int, c: int, inside: Number, weight: Row, out: Row) -> None:
    """Write the weighed likelihoods of voxels of a class."""
    this = np.float32(c)
    for i in range(n):
        out[i] = weight[i] * (inside * nll[i]) if t[i] == this else out[i]


@compiled
def values_of_shares(nll: Row, t: Row, w: Row, n: int, this: Number, labels: bool, inside: Number, out: Row) -> None:
    """Add the weighed likelihoods of voxels by their share of a class."""
    for i in range(n):
        g = value_of(t[i], labels, this)
        out[i] += w[i] * (inside * g * nll[i]) if g > ZERO else ZERO


@compiled
def values_of_channel(
    nll: Row,
    nll_not: Row,
    t: Row,
    w: Row,
    n: int,
    this: Number,
    labels: bool,
    inside: Number,
    outside: Number,
    out: Row,
) -> None:
    """Write the weighed likelihoods of the voxels of a channel."""
    for i in range(n):
        g = value_of(t[i], labels, this)
        up = inside * g * nll[i] if g > ZERO else ZERO
        down = outside * (ONE - g) * nll_not[i] if g < ONE else ZERO
        out[i] = w[i] * (up + down)


@compiled
def values_of_block(
    numbers: Numbers, b: int, v: int, n: int, gamma: Number, s: Any, inside: Any, outside: Any, sums: Any
) -> None:
    """Write the likelihoods of a block of voxels, times the factors (B, C) of what is inside and outside of a class."""
    channels, activation, labels = numbers[CHANNELS], numbers[ACTIVATION], numbers[LABELS] != 0
    exclusive, real = numbers[EXCLUSIVE] != 0, s.dtype.type
    sums[0, BAD_WEIGHT] += read_weights(numbers, b, v, n, s)
    if labels:
        sums[0, BAD_TARGET] += read_labels(numbers, b, v, n, s)
    if activation == SOFTMAX:
        read_softmax(numbers, b, v, n, s)
    out = s[LOGITS + 2 * channels]
    fill(out, n, ZERO)
    of_labels = labels & (activation == SOFTMAX)
    if of_labels:
        likelihood_of_labels(numbers, b, v, n, gamma, False, s)
    for c in range(channels):
        if of_labels:
            values_of_labels(s[T], s[NLL], n, c, real(inside[b, c]), s[SLOPE], out)
            continue
        this = np.float32(c)
        w = read_channel(numbers, b, c, v, n, s, sums[c])
        activate(numbers, b, c, v, n, w, s, sums[c])
        likelihood_of_channel(numbers, c, n, gamma, False, s)
        if exclusive:
            values_of_shares(s[NLL], s[T], w, n, this, labels, real(inside[b, c]), out)
        else:
            row = s[LOGITS + 2 * channels + c]
            values_of_channel(
                s[NLL],
                s[NLL_NOT],
                s[T],
                w,
                n,
                this,
                labels,
                real(inside[b, c]),
                real(outside[b, c]),
                row,
            )
            write(numbers, OUT, b, c, v, n, row)
    if exclusive:
        write(numbers, OUT, b, 0, v, n, out)


# --------------------------------------------------------------------------------------------------------------- loops


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
