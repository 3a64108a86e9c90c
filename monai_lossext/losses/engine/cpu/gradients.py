"""The gradient of the sums, in a block of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arithmetic import (
    HALF,
    ONE,
    STEEPEST,
    TWO,
    ZERO,
    Number,
    highest_given,
    least,
    log_of_ratio,
    lowest_given,
    smaller_probability,
)
from .codes import (
    ACTIVATION,
    CHANNELS,
    COUNTS,
    ERRORS,
    FIRST,
    FN,
    FOCAL,
    FP,
    FURTHER,
    HINGE,
    INSIDE,
    LABELS,
    LIKELIHOOD,
    NEGATIVES,
    NO_COUNTS,
    NO_LIKELIHOOD,
    OUT,
    OUTSIDE,
    PAIR,
    PROBABILITIES,
    PRODUCTS,
    SECOND,
    SOFTMAX,
    SQUARES,
    TP,
)
from .likelihoods import likelihood_of_channel, likelihood_of_labels
from .memory import Row, write
from .rows import (
    BACKGROUND,
    LOGITS,
    MEAN,
    OTHERS,
    PARTS,
    RISE,
    RISE_NOT,
    SLOPE,
    SUM_OF_SLOPES,
    Numbers,
    Q,
    Sums,
    T,
    activate,
    copy,
    error_of,
    fill,
    is_copy,
    is_merged,
    logits_of,
    merges,
    multiply,
    read_channel,
    read_labels,
    read_softmax,
    read_weights,
    row_of,
    value_of,
)
from .runtime import compiled
from .sums import is_usual


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
