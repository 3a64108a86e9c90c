"""Sums over parts of a volume, and their gradient: one walk, whatever the number of parts.

Parts lie together: of most short runs of voxels all belong to one, and are added up many at once. What is computed is
that of :mod:`..segments`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.numpy_support import carray

from .arithmetic import (
    ONE,
    TWO,
    ZERO,
    Number,
    bounded_exp,
    highest_given,
    least,
    log,
    log_of_ratio,
    lowest_given,
    smaller_probability,
)
from .codes import (
    ACTIVATION,
    BATCH,
    BLOCK,
    CHANNELS,
    COUNT,
    ENDS,
    ENTROPY,
    FIRST_CLASS,
    MOST_PARTS,
    NEAREST,
    NO_WEIGHTS,
    OF_PART,
    OUT,
    PAIR,
    RECORD,
    SIGMOID,
    SOFTMAX,
    STRIP,
    SUMS,
    TARGET,
    TENSORS,
    UPSTREAM,
    VOXELS,
    WEIGHT,
    WEIGHTS,
    WIDTH,
    Z,
)
from .likelihoods import nll_of_given, nll_of_sigmoid, nll_of_softmax
from .memory import Row, read, write
from .rows import (
    HIGHEST,
    INVERSE,
    LOGITS,
    NLL,
    NLL_NOT,
    OTHERS,
    OWN_WEIGHT,
    RISE,
    RISE_NOT,
    SLOPE,
    Numbers,
    Q,
    T,
    W,
    fill,
    is_copy,
    row_of,
    sigmoid,
    softmax,
)
from .runtime import array_at, compiled, sums_over, take
from .walk import scratch_in, stretch

RUN = 32  # voxels that are added up at once, if all belong to one part
NEXT_TO_NOTHING = np.float32(1e-18)  # what other channels have together below it is taken anew from their logits


# ------------------------------------------------------------------------------------------------------------ reading


@compiled
def read_weights(numbers: Numbers, b: int, c: int, v: int, n: int, s: Any) -> Row:
    """Return the row of what the voxels weigh for a class; without weights it holds ones."""
    if numbers[WEIGHTS] == NO_WEIGHTS:
        return s[W]
    if numbers[TENSORS + RECORD * WEIGHT + WIDTH] == 1 and c > numbers[FIRST_CLASS]:
        return s[OWN_WEIGHT]  # that all classes share, and that was read for the first one
    read(numbers, WEIGHT, b, c, v, n, s[OWN_WEIGHT])
    return s[OWN_WEIGHT]


@compiled
def read_logits(numbers: Numbers, b: int, v: int, n: int, s: Any) -> None:
    """Read the logits of exclusive classes, and write their probabilities."""
    channels = numbers[CHANNELS]
    for c in range(channels):
        read(numbers, Z, b, c, v, n, s[LOGITS + c])
    if numbers[ACTIVATION] == SOFTMAX:
        softmax(numbers, b, n, s)
        return
    for i in range(n):
        s[LOGITS, i] = s[LOGITS + 1, i] - s[LOGITS, i]
    sigmoid(s[LOGITS], n, s[LOGITS + 3], s[LOGITS + 2])


@compiled
def logits_of(numbers: Numbers, b: int, c: int, v: int, n: int, s: Any) -> Row:
    """Return the logits of a channel, where they are if loops can work on them there."""
    row = s[LOGITS + c]
    there = row_of(numbers, Z, b, c, v, n, row)
    if is_copy(there, row):
        read(numbers, Z, b, c, v, n, row)
    return there


@compiled
def activate(numbers: Numbers, b: int, c: int, v: int, n: int, s: Any) -> None:
    """Read a channel that is for itself, and write p and 1 - p."""
    channels = numbers[CHANNELS]
    z, p, q = s[LOGITS + c], s[LOGITS + channels + c], s[Q]
    read(numbers, Z, b, c, v, n, z)
    if numbers[ACTIVATION] == SIGMOID:
        sigmoid(z, n, p, q)
        return
    for i in range(n):
        p[i] = z[i]
        q[i] = ONE - z[i]


@compiled
def add_later(s: Any, channels: int, n: int, at: int) -> None:
    """Write the sum of the probabilities of all later channels of each channel, from a row on."""
    fill(s[at + channels - 1], n, ZERO)
    for k in range(1, channels):
        c = channels - 1 - k
        later, p, sums = s[at + c + 1], s[LOGITS + channels + c + 1], s[at + c]
        for i in range(n):
            sums[i] = later[i] + p[i]


@compiled
def highest_of_others(s: Any, at: int, channels: int, c: int, i: int) -> tuple[Number, Number]:
    """Return the highest logit of the other channels of a voxel, which stand from a row on, and the sum of exp of the
    gaps to it.
    """
    highest = s[at + (1 if c == 0 else 0), i]
    for j in range(channels):
        highest = s[at + j, i] if (j != c) & (s[at + j, i] > highest) else highest
    sums = ZERO
    for j in range(channels):
        sums += bounded_exp(s[at + j, i] - highest) if j != c else ZERO
    return highest, sums


@compiled
def nll_of_others(s: Any, channels: int, c: int, n: int, t: Row, q: Row, nll_not: Row) -> None:
    """Write -log of the other channels' probability for voxels outside; of next to nothing, from their logits."""
    tiny = False
    for i in range(n):
        nothing = (q[i] <= NEXT_TO_NOTHING) & (t[i] <= ZERO)
        tiny |= nothing
        nll_not[i] = -log(ONE if nothing | (t[i] > ZERO) else q[i])
    if tiny:
        for i in range(n):
            if (q[i] <= NEXT_TO_NOTHING) & (t[i] <= ZERO):
                highest, sums = highest_of_others(s, LOGITS, channels, c, i)
                nll_not[i] = (s[HIGHEST, i] - highest) - log(s[INVERSE, i]) - log(sums)


# ---------------------------------------------------------------------------------------------------------------- sums


@sums_over
def of_one(t: Row, start: int, stop: int) -> bool:
    """Return whether voxels belong to one part."""
    other, one = ZERO, t[start]
    for i in range(start, stop):
        other += ONE if t[i] != one else ZERO
    return other == ZERO


@compiled
def join_outside(t: Row, n: int) -> None:
    """Take all that lies outside of a class for one part."""
    for i in range(n):
        t[i] = ZERO if t[i] < ZERO else t[i]


@compiled
def read_parts(numbers: Numbers, b: int, c: int, v: int, n: int, t: Row) -> bool:
    """Read the parts of a class; return whether the voxels belong to one."""
    read(numbers, TARGET, b, c - numbers[FIRST_CLASS], v, n, t)
    if not numbers[NEAREST]:
        join_outside(t, n)
    return of_one(t, 0, n)


@compiled
def write_sigmoid_rows(z: Row, t: Row, n: int, entropy: Any, p: Row, nll: Row) -> None:
    """Write p of n logits and, where it is wanted, the cross-entropy; ``entropy`` is None where it is not."""
    for i in range(n):
        smaller = smaller_probability(z[i])
        p[i] = smaller if z[i] < ZERO else ONE - smaller
        if entropy is not None:
            near = log_of_ratio(smaller / (TWO - smaller))
            wrong = -z[i] if t[i] > ZERO else z[i]
            nll[i] = near + (wrong if wrong > ZERO else (ZERO if wrong <= ZERO else wrong))


@compiled
def weigh(w: Row, x: Row, n: int, found: Row) -> None:
    """Write n products with the weights."""
    for i in range(n):
        found[i] = w[i] * x[i]


@compiled
def weigh_losses(t: Row, w: Row, nll: Row, nll_not: Row, n: int, found: Row) -> None:
    """Write the weighted cross-entropy of n voxels, given those inside and outside of the class."""
    for i in range(n):
        found[i] = w[i] * (nll[i] if t[i] > ZERO else nll_not[i])


@sums_over
def add_stretch(x: Row, start: int, stop: int) -> Number:
    """Return the sum over a stretch of voxels."""
    found = ZERO
    for i in range(start, stop):
        found += x[i]
    return found


@compiled
def add_each(t: Row, w: Row, p: Row, nll: Row, start: int, stop: int, most: int, entropy: Any, table: Any) -> None:
    """Add a stretch of voxels to its parts, of which there are several."""
    last, size, total, loss = t[start], 0.0, 0.0, 0.0
    for i in range(start, stop):
        if t[i] != last:
            row = table[int(last) + most]
            row[0] += size
            row[1] += total
            row[2] += loss
            last, size, total, loss = t[i], 0.0, 0.0, 0.0
        size += w[i]
        total += p[i]
        if entropy is not None:
            loss += nll[i]
    row = table[int(last) + most]
    row[0] += size
    row[1] += total
    row[2] += loss


@compiled
def add_parts(t: Row, w: Row, p: Row, nll: Row, n: int, most: int, entropy: Any, table: Any) -> None:
    """Add n voxels to their parts' weights, weighted probabilities and weighted cross-entropies."""
    start = 0
    while start < n:
        stop = min(start + RUN, n)
        if of_one(t, start, stop):
            while stop < n and t[stop] == t[start] and of_one(t, stop, min(stop + RUN, n)):
                stop = min(stop + RUN, n)
            row = table[int(t[start]) + most]
            row[0] += add_stretch(w, start, stop)
            row[1] += add_stretch(p, start, stop)
            if entropy is not None:
                row[2] += add_stretch(nll, start, stop)
        else:
            add_each(t, w, p, nll, start, stop, most, entropy, table)
        start = stop


@compiled
def sums_of_block(numbers: Numbers, b: int, v: int, n: int, s: Any, tables: Any) -> None:
    """Add a block of voxels to the tables (C, parts, OF_PART)."""
    channels, first, activation = numbers[CHANNELS], numbers[FIRST_CLASS], numbers[ACTIVATION]
    entropy, most = numbers[ENTROPY] != 0, numbers[MOST_PARTS]
    joint = (activation == SOFTMAX) | (activation == PAIR)
    nll, nll_not = s[NLL], s[NLL_NOT]
    if joint:
        read_logits(numbers, b, v, n, s)
        if entropy and activation == SOFTMAX:
            add_later(s, channels, n, LOGITS + 2 * channels)
            fill(s[OTHERS], n, ZERO)
            for c in range(first):
                for i in range(n):
                    s[OTHERS, i] += s[LOGITS + channels + c, i]
        if entropy and activation == PAIR:
            nll_of_sigmoid(s[LOGITS], s[LOGITS + 3], s[LOGITS + 2], n, nll, nll_not)
    for c in range(first, channels):
        p = s[LOGITS + channels + c]
        read_parts(numbers, b, c, v, n, s[T])
        if (activation == SIGMOID) & (numbers[WEIGHTS] == NO_WEIGHTS):
            z = logits_of(numbers, b, c, v, n, s)
            if entropy:
                write_sigmoid_rows(z, s[T], n, True, p, nll)
                add_parts(s[T], s[W], p, nll, n, most, True, tables[c - first])
            else:
                write_sigmoid_rows(z, s[T], n, None, p, nll)
                add_parts(s[T], s[W], p, nll, n, most, None, tables[c - first])
            continue
        if not joint:
            activate(numbers, b, c, v, n, s)
            if entropy and activation == SIGMOID:
                nll_of_sigmoid(s[LOGITS + c], p, s[Q], n, nll, nll_not)
            elif entropy:
                nll_of_given(p, n, nll, nll_not)
        elif entropy and activation == SOFTMAX:
            q, before, later = s[Q], s[OTHERS], s[LOGITS + 2 * channels + c]
            for i in range(n):
                q[i] = before[i] + later[i]
                before[i] += p[i]
            nll_of_softmax(s[LOGITS + c], s[HIGHEST], s[INVERSE], n, nll)
            nll_of_others(s, channels, c, n, s[T], q, nll_not)
        w, weighed, losses = read_weights(numbers, b, c, v, n, s), s[SLOPE], s[RISE]
        weigh(w, p, n, weighed)
        if not entropy:
            add_parts(s[T], w, weighed, losses, n, most, None, tables[c - first])
            continue
        swapped = (activation == PAIR) & (c == 0)
        weigh_losses(s[T], w, nll_not if swapped else nll, nll if swapped else nll_not, n, losses)
        add_parts(s[T], w, weighed, losses, n, most, True, tables[c - first])


# ------------------------------------------------------------------------------------------------------------ gradient


@compiled
def slopes_of(t: Row, w: Row, n: int, most: int, table: Any, slope: Row) -> None:
    """Write the weighted slope of each voxel's part. Unsigned places are many at once."""
    shift = np.int32(most)
    for i in range(n):
        slope[i] = w[i] * table[np.uint32(np.int32(t[i]) + shift)]


@compiled
def gradient_of_logits(z: Row, a: Row, u: Row, t: Row, n: int, entropy: Any, h: Row) -> None:
    """Write the gradient of n logits under a sigmoid; ``entropy`` is None where it is not wanted."""
    for i in range(n):
        smaller = smaller_probability(z[i])
        larger = ONE - smaller
        found = a[i] * (smaller * larger)
        if entropy is not None:
            p, q = (smaller, larger) if z[i] < ZERO else (larger, smaller)
            found += u[i] * (-q if t[i] > ZERO else p)
        h[i] = found


@compiled
def gradient_of_even(z: Row, a: Number, u: Number, inside: bool, n: int, entropy: Any, h: Row) -> None:
    """Write the same for logits that belong to one part."""
    for i in range(n):
        smaller = smaller_probability(z[i])
        larger = ONE - smaller
        found = a * (smaller * larger)
        if entropy is not None:
            p, q = (smaller, larger) if z[i] < ZERO else (larger, smaller)
            found += u * (-q if inside else p)
        h[i] = found


@compiled
def write_sigmoid(numbers: Numbers, b: int, c: int, v: int, n: int, s: Any, upstream: Any) -> None:
    """Write the gradient of a channel under a sigmoid."""
    first, most, entropy = numbers[FIRST_CLASS], numbers[MOST_PARTS], numbers[ENTROPY] != 0
    row = s[LOGITS + numbers[CHANNELS] + c]
    h = row_of(numbers, OUT, b, c, v, n, row)
    if c < first:
        fill(h, n, ZERO)
    else:
        t, a, u = s[T], s[RISE], s[RISE_NOT]
        even = read_parts(numbers, b, c, v, n, t) & (numbers[WEIGHTS] == NO_WEIGHTS)
        z, w = logits_of(numbers, b, c, v, n, s), read_weights(numbers, b, c, v, n, s)
        of_p, of_nll = upstream[0, b, c - first], upstream[int(entropy), b, c - first]
        if even:
            at, inside = int(t[0]) + most, t[0] > ZERO
            if entropy:
                gradient_of_even(z, of_p[at], of_nll[at], inside, n, True, h)
            else:
                gradient_of_even(z, of_p[at], of_nll[at], inside, n, None, h)
        else:
            slopes_of(t, w, n, most, of_p, a)
            if entropy:
                slopes_of(t, w, n, most, of_nll, u)
                gradient_of_logits(z, a, u, t, n, True, h)
            else:
                gradient_of_logits(z, a, a, t, n, None, h)
    if is_copy(h, row):
        write(numbers, OUT, b, c, v, n, h)


@compiled
def gradient_of_one(a: Row, u: Row, t: Row, p: Row, q: Row, n: int, h: Row) -> None:
    """Write the gradient of n logits of one of two exclusive classes, given its p and 1 - p."""
    for i in range(n):
        h[i] = a[i] * (p[i] * q[i]) + u[i] * (-q[i] if t[i] > ZERO else p[i])


@compiled
def gradient_of_given(a: Row, u: Row, t: Row, p: Row, n: int, h: Row) -> None:
    """Write the gradient of n given probabilities; that of the entropy is 0 where these are clamped."""
    for i in range(n):
        low, high = lowest_given(p[i]), highest_given(p[i])
        clamped = (p[i] < low) | (p[i] > high)
        at = low if p[i] < low else (high if p[i] > high else p[i])
        rise = -u[i] / at if t[i] > ZERO else u[i] / (ONE - at)
        h[i] = a[i] + (ZERO if clamped else rise)


@compiled
def hold(p: Row, n: int) -> None:
    """Hold n probabilities at that of the steepest gap, so that the gradient does not vanish."""
    for i in range(n):
        p[i] = least(p[i]) if p[i] < least(p[i]) else p[i]


@compiled
def gradient_of_channel(
    a: Row, u: Row, t: Row, p: Row, q: Row, n: int, c: int, own: Row, other: Row, left: Any
) -> bool:
    """Write the gradient of a channel's logits by its own sums, and the factor of that of the other channels' logits.

    No number is the difference of two that are nearly equal, though p or 1 - p may be next to nothing. Where the others
    have next to nothing of a voxel outside, their share is left to :func:`add_left`; return whether there is such.
    """
    found = False
    this = np.float32(c)
    for i in range(n):
        inside = t[i] > ZERO
        nothing = (q[i] <= NEXT_TO_NOTHING) & (not inside)
        own[i] = a[i] * (p[i] * q[i]) + (-u[i] * q[i] if inside else u[i] * p[i])
        other[i] = (u[i] if inside else (ZERO if nothing else -u[i] * (p[i] / q[i]))) - a[i] * p[i]
        left[0][i] = this if nothing else left[0][i]
        left[1][i] = -u[i] if nothing else left[1][i]
        found |= nothing
    return found


@compiled
def add_left(numbers: Numbers, b: int, v: int, n: int, s: Any, left: Any) -> None:
    """Hand on what :func:`gradient_of_channel` left, by the shares of the other channels' logits."""
    channels = numbers[CHANNELS]
    for c in range(channels):
        read(numbers, Z, b, c, v, n, s[LOGITS + channels + c])
    for i in range(n):
        c = int(left[0][i])
        if c >= 0:
            highest, sums = highest_of_others(s, LOGITS + channels, channels, c, i)
            for j in range(channels):
                if j != c:
                    share = bounded_exp(s[LOGITS + channels + j, i] - highest) / sums
                    s[LOGITS + j, i] += left[1][i] * share


@compiled
def add_products_and_sum(h: Row, p: Row, x: Row, n: int, sums: Row) -> None:
    """Add the products of n probabilities with the sum so far, and then to the sum."""
    for i in range(n):
        h[i] += p[i] * sums[i]
        sums[i] += x[i]


@compiled
def gradient_of_block(numbers: Numbers, b: int, v: int, n: int, s: Any, upstream: Any) -> None:
    """Write the gradient of a block of voxels, given that of the tables, (1 or 2, B, C, parts)."""
    channels, first, activation = numbers[CHANNELS], numbers[FIRST_CLASS], numbers[ACTIVATION]
    entropy, most = numbers[ENTROPY] != 0, numbers[MOST_PARTS]
    joint = (activation == SOFTMAX) | (activation == PAIR)
    if activation == SIGMOID:
        for c in range(channels):
            write_sigmoid(numbers, b, c, v, n, s, upstream)
        return
    a, u, q, before, left = s[RISE], s[RISE_NOT], s[Q], s[OTHERS], (s[NLL], s[NLL_NOT])
    if joint:
        read_logits(numbers, b, v, n, s)
    if activation == SOFTMAX:
        for c in range(channels):
            hold(s[LOGITS + channels + c], n)
        add_later(s, channels, n, LOGITS)
        fill(before, n, ZERO)
        fill(left[0], n, -ONE)
    if not entropy:
        fill(u, n, ZERO)
    tiny = False
    for c in range(channels):
        p, h, x = s[LOGITS + channels + c], s[LOGITS + c], s[LOGITS + 2 * channels + c]
        if not joint and c >= first:
            activate(numbers, b, c, v, n, s)
        if c < first:
            fill(a, n, ZERO)
            fill(u, n, ZERO)
            fill(s[T], n, ZERO)
        else:
            read_parts(numbers, b, c, v, n, s[T])
            w = read_weights(numbers, b, c, v, n, s)
            slopes_of(s[T], w, n, most, upstream[0, b, c - first], a)
            if entropy:
                slopes_of(s[T], w, n, most, upstream[1, b, c - first], u)
        if activation == SOFTMAX:
            for i in range(n):
                q[i] = before[i] + h[i]  # the sum of those before and of those later
                before[i] += p[i]
            tiny |= gradient_of_channel(a, u, s[T], p, q, n, c, h, x, left)
        elif activation == PAIR:
            gradient_of_one(a, u, s[T], p, s[LOGITS + 3 - c], n, x)
        elif c < first:
            fill(x, n, ZERO)
        else:
            gradient_of_given(a, u, s[T], p, n, x)
    if activation == PAIR:
        zero, one = s[LOGITS + 4], s[LOGITS + 5]
        for i in range(n):
            one[i] -= zero[i]
            zero[i] = -one[i]
    at = LOGITS + 2 * channels
    if activation == SOFTMAX:
        at, sums = LOGITS, s[SLOPE]
        fill(sums, n, ZERO)
        for c in range(channels):
            add_products_and_sum(s[at + c], s[at + channels + c], s[at + 2 * channels + c], n, sums)
        fill(sums, n, ZERO)
        for k in range(channels):
            c = channels - 1 - k
            add_products_and_sum(s[at + c], s[at + channels + c], s[at + 2 * channels + c], n, sums)
        if tiny & entropy:
            add_left(numbers, b, v, n, s, left)
    for c in range(channels):
        write(numbers, OUT, b, c, v, n, s[at + c])


# --------------------------------------------------------------------------------------------------------------- loops


def sums_loop(real: Any) -> Any:
    """Return the loop of the tables, (strips, C, parts, OF_PART), in a type: one a strip, however many threads."""

    def part_sums(work: Any) -> None:
        numbers = carray(work, (ENDS,))
        s = scratch(numbers, work)
        length, voxels = numbers[STRIP], numbers[VOXELS]
        strips, parts = (voxels + length - 1) // length, 2 * numbers[MOST_PARTS] + 1
        shape = (numbers[COUNT], numbers[CHANNELS] - numbers[FIRST_CLASS], parts, OF_PART)
        tables = array_at(numbers[SUMS], shape, np.float64)
        start, stop = take(numbers, work)
        while start < stop:
            for piece in range(start, stop):
                first = piece % strips * length
                end = min(first + length, voxels)
                for v in range(first, end, numbers[BLOCK]):
                    sums_of_block(numbers, piece // strips, v, min(numbers[BLOCK], end - v), s, tables[piece])
            start, stop = take(numbers, work)

    scratch = scratch_in(real)
    return part_sums


def gradient_loop(real: Any) -> Any:
    """Return the loop of the gradient, given that of the tables, (1 or 2, B, C, parts), in a type."""

    def part_gradient(work: Any) -> None:
        numbers = carray(work, (ENDS,))
        s = scratch(numbers, work)
        classes, parts = numbers[CHANNELS] - numbers[FIRST_CLASS], 2 * numbers[MOST_PARTS] + 1
        shape = (1 + numbers[ENTROPY], numbers[BATCH], classes, parts)
        upstream = array_at(numbers[UPSTREAM], shape, real)
        start, stop = take(numbers, work)
        while start < stop:
            for piece in range(start, stop):
                b, first, end = stretch(piece, numbers[VOXELS])
                for v in range(first, end, numbers[BLOCK]):
                    gradient_of_block(numbers, b, v, min(numbers[BLOCK], end - v), s, upstream)
            start, stop = take(numbers, work)

    scratch = scratch_in(real)
    return part_gradient


LOOPS = {"part_sums": sums_loop, "part_gradient": gradient_loop}
