"""Compiled loops like those of :mod:`.kernels` for what is computed of each voxel of a sigmoid by itself.

The cross-entropy and its gradient, in one walk; the sum of a map times the probability, and its gradient.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codes import BATCH, CHANNELS, COUNT, OPTIONS, SOFTMAX
from .entries import Entry, array_of, compiled, entry, number_of, numbers_of, sums_over, take, volume_of
from .kernels import (
    BLOCK,
    LOWEST,
    ONE,
    TWO,
    ZERO,
    Floats,
    Number,
    exp_of_negative,
    hold,
    in_float32,
    out_of_range,
    smaller_probability,
    softmax,
    stretch,
    subtract_mean,
    value_of,
)

# log(1 + e) = 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = e / (2 + e), at most 1/3: the next term is below a tenth of
# float32's precision.
L_3, L_5, L_7, L_9, L_11, L_13 = (np.float32(1 / n) for n in range(3, 15, 2))


@compiled
def log_one_plus(e: Number) -> Number:
    """Return log(1 + e) for 0 <= e <= 1 to two units in the last place, however small."""
    s = e / (TWO + e)
    q = s * s
    series = (((((L_13 * q + L_11) * q + L_9) * q + L_7) * q + L_5) * q + L_3) * q
    return TWO * (s + s * series)


@sums_over
def cross_entropy_of_row(
    z: Floats,
    target: Floats,
    factor: Floats,
    n: int,
    c: int,
    reading: int,
    emphasised: bool,
    base: Number,
    inside: Number,
    outside: Number,
    scale: Number,
    out: Floats,
) -> Number:
    """Return the sum of the cross-entropies of n logits of a class, and write its gradient times a scale.

    Neither infinity times 0 nor the comparison with a NaN hides what a logit is.
    """
    total, this = ZERO, np.float32(c)
    for i in range(n):
        logit = z[i]
        size = abs(logit)
        e = exp_of_negative(-size if size < -LOWEST else LOWEST)
        rest, less = log_one_plus(e), e / (ONE + e)
        g = value_of(target[i], reading, this)
        positive = logit > ZERO
        in_class = g * inside * (rest - (ZERO if positive else logit)) if g > ZERO else ZERO
        beside = (ONE - g) * outside * (rest + (logit if positive else ZERO)) if g < ONE else ZERO
        p, q = (ONE - less, less) if positive else (less, ONE - less)
        slope = (ONE - g) * outside * p - g * inside * q
        weight = base + factor[i] if emphasised else base
        total += (in_class + beside if logit == logit else logit) * weight
        out[i] = (slope if logit == logit else logit) * (weight * scale)
    return total


@compiled
def cross_entropy_of(
    z: Any,
    target: Any,
    factor: Any,
    reading: int,
    emphasised: bool,
    base: Number,
    inside: Floats,
    outside: Floats,
    scale: Number,
    sums: NDArray[np.float64],
    out: Any,
    wanted: bool,
    start: int,
    stop: int,
) -> None:
    """Add up the pieces start..stop-1 of a volume, and write the gradient.

    Args:
        z: (B, C, V) logits.
        target: (B, 1, V) labels or (B, C, V) values.
        factor: (B, 1 or C, V), of each voxel; if not ``emphasised``, anything of this type.
        reading: how the target is to be read, one of those of :mod:`.kernels`.
        emphasised: whether there are factors of voxels.
        base: added to them.
        inside: (B, C), factors of what is inside of a class.
        outside: (B, C), factors of what is not.
        scale: multiplies the gradient.
        sums: (P, 2), of all pieces: sum, and how many values of the target are out of range; zeros where this writes.
        out: (B, C, V), the gradient; if not ``wanted``, anything of this type.
        wanted: whether the gradient is.
        start: number of the first piece; the pieces of a sample follow each other.
        stop: number of the piece after the last one.
    """
    classes, voxels = z.shape[1], z.shape[2]
    values, nowhere = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    row = values
    for piece in range(start, stop):
        b, first, end = stretch(piece, voxels)
        for v in range(first, end, BLOCK):
            n = min(BLOCK, end - v)
            here = slice(v, v + n)
            for c in range(classes):
                if c < target.shape[1]:
                    row = in_float32(target[b, c, here], n, values)
                    sums[piece, 1] += out_of_range(row, n, reading, classes - 1)
                sums[piece, 0] += cross_entropy_of_row(
                    z[b, c, here],
                    row,
                    factor[b, min(c, factor.shape[1] - 1), here] if emphasised else nowhere,
                    n,
                    c,
                    reading,
                    emphasised,
                    base,
                    inside[b, c],
                    outside[b, c],
                    scale,
                    out[b, c, here] if wanted else nowhere,
                )


@compiled
def shifted(distance: Number, shift: Number) -> Number:
    """Return a signed distance, inside of an object, where it is negative, nearer to 0."""
    return distance + shift if distance < ZERO else distance


@sums_over
def map_sum_of_row(z: Floats, phi: Floats, n: int, shift: Number) -> Number:
    """Return the sum of a map times the sigmoid of n logits."""
    total = ZERO
    for i in range(n):
        less = smaller_probability(z[i])
        total += (less if z[i] < ZERO else ONE - less) * shifted(phi[i], shift)
    return total


@sums_over
def map_sum_of_given(p: Floats, phi: Floats, n: int, shift: Number) -> Number:
    """Return the sum of a map times n probabilities."""
    total = ZERO
    for i in range(n):
        total += p[i] * shifted(phi[i], shift)
    return total


@compiled
def slope_of_row(z: Floats, phi: Floats, n: int, shift: Number, upstream: Number, out: Floats) -> None:
    """Write the gradient of :func:`map_sum_of_row` times that of the sum; held beyond the steepest logit."""
    for i in range(n):
        less = smaller_probability(z[i])
        out[i] = shifted(phi[i], shift) * upstream * (less * (ONE - less))


@compiled
def slope_through_softmax(
    p: Floats, phi: Floats, n: int, shift: Number, upstream: Number, h: Floats, mean: Floats
) -> None:
    """Write the gradients of n probabilities of a channel times these, and add them to the mean."""
    for i in range(n):
        h[i] = shifted(phi[i], shift) * upstream * p[i]
        mean[i] += h[i]


@compiled
def map_sums_of(
    z: Any, phi: Any, activation: int, lead: int, shift: Number, sums: NDArray[np.float64], start: int, stop: int
) -> None:
    """Add up the pieces start..stop-1 of a volume.

    Args:
        z: (B, C, V) logits.
        phi: (B, at least C - lead, V), the map, which begins with a later class.
        activation: sigmoid or softmax.
        lead: the class that the map begins with.
        shift: added to the map where it is negative.
        sums: (P, C - lead), of all pieces; zeros where this writes.
        start: number of the first piece; the pieces of a sample follow each other.
        stop: number of the piece after the last one.
    """
    classes, voxels = z.shape[1], z.shape[2]
    p, one, other = np.empty((classes, BLOCK), np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for piece in range(start, stop):
        b, first, end = stretch(piece, voxels)
        for v in range(first, end, BLOCK):
            n = min(BLOCK, end - v)
            here = slice(v, v + n)
            if activation == SOFTMAX:
                softmax(z, b, v, n, p, one, other)
            for c in range(lead, classes):
                row = phi[b, c - lead, here]
                if activation == SOFTMAX:
                    sums[piece, c - lead] += map_sum_of_given(p[c], row, n, shift)
                else:
                    sums[piece, c - lead] += map_sum_of_row(z[b, c, here], row, n, shift)


@compiled
def map_slopes_of(
    z: Any, phi: Any, activation: int, lead: int, shift: Number, upstream: Floats, out: Any, start: int, stop: int
) -> None:
    """Write the gradient of the pieces start..stop-1 of a volume; arguments as of :func:`map_sums_of`, and

    Args:
        upstream: (B, C - lead), gradient of the sums.
        out: (B, C, V), where to write.
    """
    classes, voxels = z.shape[1], z.shape[2]
    p, h = np.empty((classes, BLOCK), np.float32), np.zeros((classes, BLOCK), np.float32)
    one, other = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for piece in range(start, stop):
        b, first, end = stretch(piece, voxels)
        for v in range(first, end, BLOCK):
            n = min(BLOCK, end - v)
            here = slice(v, v + n)
            if activation == SOFTMAX:
                softmax(z, b, v, n, p, one, other)
                other[:n] = ZERO
            for c in range(classes):
                if activation == SOFTMAX:
                    hold(p[c], n)
                    if c >= lead:
                        slope = upstream[b, c - lead]
                        slope_through_softmax(p[c], phi[b, c - lead, here], n, shift, slope, h[c], other)
                elif c >= lead:
                    slope_of_row(
                        z[b, c, here], phi[b, c - lead, here], n, shift, upstream[b, c - lead], out[b, c, here]
                    )
                else:
                    out[b, c, here] = ZERO
            if activation == SOFTMAX:
                for c in range(classes):
                    subtract_mean(h[c], p[c], other, n, out[b, c, here])


@lru_cache
def cross_entropy_entry(dtype: str) -> Entry:
    """Return :func:`cross_entropy_of` for targets of a dtype.

    The arrays are input, target, factors of voxels, those inside and outside of classes, base, scale, sums, and the
    gradient; the options are channels of the target and of the factors, reading, whether there are factors, and whether
    the gradient is wanted.
    """

    of_values = np.dtype(dtype)

    def loop(work: Any) -> None:
        n = numbers_of(work)
        z, out = volume_of(work, 1, n[CHANNELS], np.float32), volume_of(work, 9, n[CHANNELS], np.float32)
        target, factor = volume_of(work, 2, n[OPTIONS], of_values), volume_of(work, 3, n[OPTIONS + 1], np.float32)
        reading, emphasised, wanted = n[OPTIONS + 2], n[OPTIONS + 3] != 0, n[OPTIONS + 4] != 0
        inside = array_of(work, 4, (n[BATCH], n[CHANNELS]), np.float32)
        outside = array_of(work, 5, (n[BATCH], n[CHANNELS]), np.float32)
        base, scale = number_of(work, 6), number_of(work, 7)
        sums = array_of(work, 8, (n[COUNT], 2), np.float64)
        start, stop = take(work)
        while start < stop:
            cross_entropy_of(
                z,
                target,
                factor,
                reading,
                emphasised,
                base,
                inside,
                outside,
                scale,
                sums,
                out,
                wanted,
                start,
                stop,
            )
            start, stop = take(work)

    return entry(loop)


@lru_cache
def map_sums_entry() -> Entry:
    """Return :func:`map_sums_of`.

    The arrays are input, map, shift and sums; the options, here and below, are the channels of the map's memory, the
    activation, and the class that the map begins with.
    """

    def loop(work: Any) -> None:
        n = numbers_of(work)
        activation, lead = n[OPTIONS + 1], n[OPTIONS + 2]
        z, phi = volume_of(work, 1, n[CHANNELS], np.float32), volume_of(work, 2, n[OPTIONS], np.float32)
        shift, sums = number_of(work, 3), array_of(work, 4, (n[COUNT], n[CHANNELS] - lead), np.float64)
        start, stop = take(work)
        while start < stop:
            map_sums_of(z, phi, activation, lead, shift, sums, start, stop)
            start, stop = take(work)

    return entry(loop)


@lru_cache
def map_slopes_entry() -> Entry:
    """Return :func:`map_slopes_of`; the arrays are input, map, shift, and gradients of sums and input."""

    def loop(work: Any) -> None:
        n = numbers_of(work)
        activation, lead = n[OPTIONS + 1], n[OPTIONS + 2]
        z, phi = volume_of(work, 1, n[CHANNELS], np.float32), volume_of(work, 2, n[OPTIONS], np.float32)
        shift, upstream = number_of(work, 3), array_of(work, 4, (n[BATCH], n[CHANNELS] - lead), np.float32)
        out = volume_of(work, 5, n[CHANNELS], np.float32)
        start, stop = take(work)
        while start < stop:
            map_slopes_of(z, phi, activation, lead, shift, upstream, out, start, stop)
            start, stop = take(work)

    return entry(loop)
