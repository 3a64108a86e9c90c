"""Likelihoods of rows of voxels, and their slopes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arithmetic import (
    HALF,
    LOWEST,
    ONE,
    SMALLEST_POWER,
    TWO,
    ZERO,
    Number,
    bounded_exp,
    exp_of_negative,
    exponent,
    highest_given,
    ln_2,
    log,
    log_of_ratio,
    lowest_given,
    mantissa,
)
from .codes import (
    ACTIVATION,
    CHANNELS,
    CROSS_ENTROPY,
    FOCAL,
    HINGE,
    LIKELIHOOD,
    POWER,
    PROBABILITIES,
    RECORD,
    SOFTMAX,
    TENSORS,
    WEIGHT,
    WIDTH,
)
from .memory import Row, read
from .rows import (
    HIGHEST,
    INVERSE,
    LOGITS,
    NLL,
    NLL_NOT,
    OTHERS,
    OWN,
    OWN_WEIGHT,
    RISE,
    RISE_NOT,
    SLOPE,
    Numbers,
    Q,
    T,
    W,
    copy,
    fill,
    multiply,
)
from .runtime import compiled


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
