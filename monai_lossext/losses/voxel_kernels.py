"""Compiled loops like those of :mod:`.kernels` for what is computed of each voxel by itself.

Cross-entropies and their gradient, in one walk; the sum of a map times the probability, and its gradient.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codes import BATCH, CHANNELS, COUNT, OPTIONS, SOFTMAX
from .entries import Entry, array_of, compiled, entry, number_of, numbers_of, sums_over, take, volume_of
from .kernels import (
    BLOCK,
    HALF,
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

LN_2 = np.float32(math.log(2))
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


@compiled
def log(x: Number) -> Number:
    """Return the logarithm of a positive number that is not denormal, with the absolute error of a float32 near 1."""
    bits = np.float32(x).view(np.int32)
    exponent = (bits >> np.int32(23)) - np.int32(127)
    mantissa = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)
    return np.float32(exponent) * LN_2 + log_one_plus(mantissa - ONE)


@compiled
def power(x: Number, log_x: Number, gamma: Number) -> Number:
    """Return x ** gamma for x in [0, 1], given also its logarithm."""
    if gamma == TWO:
        return x * x
    exponent = gamma * log_x
    return exp_of_negative(exponent if exponent > LOWEST else LOWEST)


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
    gamma: Number | None,
    scale: Number,
    out: Floats,
) -> Number:
    """Return the sum of the cross-entropies of n logits of a class, and write its gradient times a scale.

    With gamma, each is damped by (1 - p)^gamma, p being the probability of what the voxel is. Neither infinity times 0
    nor the comparison with a NaN hides what a logit is.
    """
    total, this = ZERO, np.float32(c)
    for i in range(n):
        logit = z[i]
        size = abs(logit)
        e = exp_of_negative(-size if size < -LOWEST else LOWEST)
        rest, less = log_one_plus(e), e / (ONE + e)
        g = value_of(target[i], reading, this)
        positive = logit > ZERO
        nll, nll_not = rest - (ZERO if positive else logit), rest + (logit if positive else ZERO)
        p, q = (ONE - less, less) if positive else (less, ONE - less)
        slope, slope_not = q, p
        if gamma is not None:  # Numba leaves this out where it is None
            damped, damped_not = power(q, -nll_not, gamma), power(p, -nll, gamma)
            slope, slope_not = damped * (gamma * p * nll + q), damped_not * (gamma * q * nll_not + p)
            nll, nll_not = damped * nll, damped_not * nll_not
        in_class, uphill = (g * inside * nll, g * inside * slope) if g > ZERO else (ZERO, ZERO)
        beside, downhill = ((ONE - g) * outside * nll_not, (ONE - g) * outside * slope_not) if g < ONE else (ZERO, ZERO)
        weight = base + factor[i] if emphasised else base
        total += (in_class + beside if logit == logit else logit) * weight
        out[i] = (downhill - uphill if logit == logit else logit) * (weight * scale)
    return total


@compiled
def take_label(
    p: Floats, z: Floats, target: Floats, n: int, c: int, inside: Number, own: Floats, others: Floats, weight: Floats
) -> None:
    """Sort n probabilities of a class into those of the voxels' own classes and those of others.

    Args:
        p: the probabilities.
        z: the logits.
        target: the labels.
        n: how many.
        c: the class.
        inside: factor of the class.
        own: logit of a voxel's own class, written where that is this one.
        others: sum of the probabilities of other classes, added to where it is not.
        weight: factor of a voxel's own class, written as ``own``.
    """
    this = np.float32(c)
    for i in range(n):
        mine = target[i] == this
        own[i] = z[i] if mine else own[i]
        others[i] += ZERO if mine else p[i]
        weight[i] = inside if mine else weight[i]


@compiled
def nll_of_label(highest: Number, inverse: Number, own: Number, others: Number) -> Number:
    """Return -log p of a voxel's own class; arguments as for :func:`cross_entropy_of_labels`.

    The order of its operations matters, other than in sums.
    """
    if others < HALF:  # which hold the digits of the logarithm then
        return log_one_plus(others / (ONE - others))
    return (highest - own) - log(inverse)


@sums_over
def cross_entropy_of_labels(
    highest: Floats,
    inverse: Floats,
    own: Floats,
    others: Floats,
    factor: Floats,
    n: int,
    emphasised: bool,
    base: Number,
    gamma: Number | None,
    scale: Number,
    weight: Floats,
) -> Number:
    """Return the sum of the cross-entropies of n voxels of a softmax, and replace their weights by its slopes.

    Args:
        highest: highest logit of each voxel.
        inverse: 1 / the sum of exp(logit - highest).
        own: logit of the voxel's own class.
        others: sum of the probabilities of the other classes.
        factor: of each voxel, if ``emphasised``.
        n: how many.
        emphasised: whether there are factors.
        base: added to them.
        gamma: as for :func:`cross_entropy_of_row`.
        scale: multiplies the slopes.
        weight: factor of the voxel's own class; replaced by what multiplies p for other classes, p - 1 for its own.
    """
    total = ZERO
    for i in range(n):
        q = others[i]
        nll = nll_of_label(highest[i], inverse[i], own[i], q)
        value, slope = nll, ONE
        if gamma is not None:  # Numba leaves this out where it is None
            p = ONE - q if q < HALF else exp_of_negative(-nll if nll < -LOWEST else LOWEST)
            damped = power(q, log(q), gamma)
            value, slope = damped * nll, damped + gamma * p * nll * (damped / q if q > ZERO else ZERO)
        w = weight[i] * (base + factor[i] if emphasised else base)
        total += w * value
        weight[i] = w * scale * slope
    return total


@compiled
def slope_of_label(p: Floats, target: Floats, others: Floats, slope: Floats, n: int, c: int, out: Floats) -> None:
    """Write the gradient of n logits of a class."""
    this = np.float32(c)
    for i in range(n):
        out[i] = slope[i] * (-others[i] if target[i] == this else p[i])


@compiled
def cross_entropy_of(
    z: Any,
    target: Any,
    factor: Any,
    exclusive: bool,
    reading: int,
    emphasised: bool,
    base: Number,
    inside: Floats,
    outside: Floats,
    gamma: Number,
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
        exclusive: whether to take a softmax, which needs labels, instead of sigmoids.
        reading: how the target is to be read, one of those of :mod:`.kernels`.
        emphasised: whether there are factors of voxels.
        base: added to them.
        inside: (B, C), factors of what is inside of a class.
        outside: (B, C), factors of what is not, for sigmoids.
        gamma: as for :func:`cross_entropy_of_row`.
        scale: multiplies the gradient.
        sums: (P, 2), of all pieces: sum, and how many values of the target are out of range; zeros where this writes.
        out: (B, C, V), the gradient; if not ``wanted``, anything of this type.
        wanted: whether the gradient is.
        start: number of the first piece; the pieces of a sample follow each other.
        stop: number of the piece after the last one.
    """
    classes, voxels = z.shape[1], z.shape[2]
    values, nowhere = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    p, highest, inverse = (
        np.empty((classes, BLOCK), np.float32),
        np.empty(BLOCK, np.float32),
        np.empty(BLOCK, np.float32),
    )
    own, others, slope = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    row = values
    for piece in range(start, stop):
        b, first, end = stretch(piece, voxels)
        for v in range(first, end, BLOCK):
            n = min(BLOCK, end - v)
            here = slice(v, v + n)
            if exclusive:
                row = in_float32(target[b, 0, here], n, values)
                sums[piece, 1] += out_of_range(row, n, reading, classes - 1)
                softmax(z, b, v, n, p, highest, inverse)
                own[:n] = others[:n] = slope[:n] = ZERO
                for c in range(classes):
                    take_label(p[c], z[b, c, here], row, n, c, inside[b, c], own, others, slope)
                of_voxels = factor[b, 0, here] if emphasised else nowhere
                if gamma == ZERO:
                    sums[piece, 0] += cross_entropy_of_labels(
                        highest, inverse, own, others, of_voxels, n, emphasised, base, None, scale, slope
                    )
                else:
                    sums[piece, 0] += cross_entropy_of_labels(
                        highest, inverse, own, others, of_voxels, n, emphasised, base, gamma, scale, slope
                    )
                if wanted:
                    for c in range(classes):
                        slope_of_label(p[c], row, others, slope, n, c, out[b, c, here])
                continue
            for c in range(classes):
                if c < target.shape[1]:
                    row = in_float32(target[b, c, here], n, values)
                    sums[piece, 1] += out_of_range(row, n, reading, classes - 1)
                one, to = z[b, c, here], out[b, c, here] if wanted else nowhere
                of_voxels = factor[b, min(c, factor.shape[1] - 1), here] if emphasised else nowhere
                if gamma == ZERO:
                    sums[piece, 0] += cross_entropy_of_row(
                        one,
                        row,
                        of_voxels,
                        n,
                        c,
                        reading,
                        emphasised,
                        base,
                        inside[b, c],
                        outside[b, c],
                        None,
                        scale,
                        to,
                    )
                else:
                    sums[piece, 0] += cross_entropy_of_row(
                        one,
                        row,
                        of_voxels,
                        n,
                        c,
                        reading,
                        emphasised,
                        base,
                        inside[b, c],
                        outside[b, c],
                        gamma,
                        scale,
                        to,
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

    The arrays are input, target, factors of voxels, those inside and outside of classes, base, gamma, scale, sums, and
    the gradient; the options are channels of the target and of the factors, reading, whether there are factors, whether
    the gradient is wanted, and whether classes exclude each other.
    """

    of_values = np.dtype(dtype)

    def loop(work: Any) -> None:
        n = numbers_of(work)
        z, out = volume_of(work, 1, n[CHANNELS], np.float32), volume_of(work, 10, n[CHANNELS], np.float32)
        target, factor = volume_of(work, 2, n[OPTIONS], of_values), volume_of(work, 3, n[OPTIONS + 1], np.float32)
        reading, emphasised = n[OPTIONS + 2], n[OPTIONS + 3] != 0
        wanted, exclusive = n[OPTIONS + 4] != 0, n[OPTIONS + 5] != 0
        inside = array_of(work, 4, (n[BATCH], n[CHANNELS]), np.float32)
        outside = array_of(work, 5, (n[BATCH], n[CHANNELS]), np.float32)
        base, gamma, scale = number_of(work, 6), number_of(work, 7), number_of(work, 8)
        sums = array_of(work, 9, (n[COUNT], 2), np.float64)
        start, stop = take(work)
        while start < stop:
            cross_entropy_of(
                z,
                target,
                factor,
                exclusive,
                reading,
                emphasised,
                base,
                inside,
                outside,
                gamma,
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
