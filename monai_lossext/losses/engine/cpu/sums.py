"""Sums of probabilities and likelihoods over a block of voxels."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arithmetic import ONE, TWO, ZERO, Number, log_of_ratio, smaller_probability
from .codes import (
    ACTIVATION,
    BAD_TARGET,
    BAD_WEIGHT,
    CHANNELS,
    COUNTS,
    CROSS_ENTROPY,
    ERRORS,
    FIRST,
    FN,
    FOCAL,
    FP,
    FURTHER,
    INSIDE,
    LABELS,
    LIKELIHOOD,
    NEGATIVES,
    NO_COUNTS,
    NO_LIKELIHOOD,
    NO_MORE,
    OUTSIDE,
    PAIR,
    PRODUCTS,
    SECOND,
    SIGMOID,
    SOFTMAX,
    SQUARES,
    TP,
    G,
    N,
)
from .likelihoods import likelihood_of_channel, likelihood_of_labels
from .memory import Row
from .rows import (
    LOGITS,
    NLL,
    NLL_NOT,
    Numbers,
    Q,
    Sums,
    T,
    activate,
    error_of,
    is_merged,
    logits_of,
    read_channel,
    read_labels,
    read_softmax,
    read_weights,
    total,
    value_of,
    weighs,
)
from .runtime import compiled, sums_over


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
