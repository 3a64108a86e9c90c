"""Likelihoods of each voxel of a block."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arithmetic import ONE, ZERO, Number
from .codes import ACTIVATION, BAD_TARGET, BAD_WEIGHT, CHANNELS, EXCLUSIVE, LABELS, OUT, SOFTMAX
from .likelihoods import likelihood_of_channel, likelihood_of_labels
from .memory import Row, write
from .rows import (
    LOGITS,
    NLL,
    NLL_NOT,
    SLOPE,
    Numbers,
    T,
    activate,
    fill,
    read_channel,
    read_labels,
    read_softmax,
    read_weights,
    value_of,
)
from .runtime import compiled


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
                s[NLL], s[NLL_NOT], s[T], w, n, this, labels, real(inside[b, c]), real(outside[b, c]), row
            )
            write(numbers, OUT, b, c, v, n, row)
    if exclusive:
        write(numbers, OUT, b, 0, v, n, out)
