"""The walk through a volume on a GPU: sums of probabilities and likelihoods, their gradient, and the values of voxels.

One program takes a tile of all channels of some voxels, (CHANNELS, BLOCK), reads it once and keeps what it computes of
it in registers. What is computed is that of :mod:`..plain`, in float32. A tile's sums are added in float32, those of
tiles in float64 and in an order that the volume's shape tells, so that every run gives the same bits.

All switches are known when a kernel is compiled: what is not asked for is not there.
"""

import math

import triton
import triton.language as tl

from .. import arithmetic, checks, plain
from ..cpu import codes
from ..precision import SMALLEST_PROBABILITY, STEEPEST_LOGIT
from ..reading import FAR_BELOW
from . import kernels

# A kernel sees numbers of its module as constants only if they say that they are such.
SUMS, GRADIENT, VALUES = map(tl.constexpr, range(3))
SIGMOID, SOFTMAX = tl.constexpr(codes.SIGMOID), tl.constexpr(codes.SOFTMAX)
NO_COUNTS, PRODUCTS = tl.constexpr(codes.NO_COUNTS), tl.constexpr(codes.PRODUCTS)
NEGATIVES, SQUARES, ERRORS = map(tl.constexpr, (codes.NEGATIVES, codes.SQUARES, codes.ERRORS))
NO_IGNORING, A_VALUE, A_CHANNEL = map(tl.constexpr, (codes.NO_IGNORING, codes.A_VALUE, codes.A_CHANNEL))
NO_WEIGHTS, WEIGHED, SIGNED = map(tl.constexpr, (codes.NO_WEIGHTS, codes.WEIGHED, codes.SIGNED))
NO_LIKELIHOOD, HINGE = tl.constexpr(codes.NO_LIKELIHOOD), tl.constexpr(codes.HINGE)
FOCAL, POWER = tl.constexpr(codes.FOCAL), tl.constexpr(codes.POWER)
N, G, TP, FP, FN = map(tl.constexpr, (codes.N, codes.G, codes.TP, codes.FP, codes.FN))
FIRST, SECOND, INSIDE, OUTSIDE = map(tl.constexpr, (codes.FIRST, codes.SECOND, codes.INSIDE, codes.OUTSIDE))
KINDS = tl.constexpr(codes.BAD_TARGET)
ROWS = tl.constexpr(16)  # the next power of two
FAULTS = tl.constexpr(kernels.FAULTS)
FAULT_ROWS = tl.constexpr(8)

WORDS, ROW, GIVEN = tl.constexpr(arithmetic.WORDS), tl.constexpr(arithmetic.ROW), tl.constexpr(arithmetic.GIVEN)
CONSTANT, DETACH = tl.constexpr(arithmetic.CONSTANT), tl.constexpr(arithmetic.DETACH)
SUM, LEAST_OF, WHERE = tl.constexpr(arithmetic.SUM), tl.constexpr(arithmetic.LEAST), tl.constexpr(arithmetic.WHERE)
SQRT, POWER_OF = tl.constexpr(arithmetic.SQRT), tl.constexpr(arithmetic.POWER)
LOG, EXP = tl.constexpr(arithmetic.LOG), tl.constexpr(arithmetic.EXP)
ADD, SUBTRACT = tl.constexpr(arithmetic.ADD), tl.constexpr(arithmetic.SUBTRACT)
MULTIPLY, DIVIDE = tl.constexpr(arithmetic.MULTIPLY), tl.constexpr(arithmetic.DIVIDE)
LESS, AT_MOST = tl.constexpr(arithmetic.LESS), tl.constexpr(arithmetic.AT_MOST)

ROUNDING = tl.constexpr(checks.ROUNDING)
STEEPEST = tl.constexpr(STEEPEST_LOGIT)
LEAST = tl.constexpr(math.exp(-STEEPEST_LOGIT))  # the probability at the steepest gap
FAR = tl.constexpr(FAR_BELOW)
LOWEST_GIVEN, HIGHEST_GIVEN = tl.constexpr(SMALLEST_PROBABILITY), tl.constexpr(1 - SMALLEST_PROBABILITY)
SMALLEST_POWER = tl.constexpr(plain.SMALLEST_POWER)
LARGEST = tl.constexpr(checks.of_mask().high)
HALF, SMALLEST_HALF = tl.constexpr(tl.float16), tl.constexpr(2.0**-24)  # the smallest one above 0


# ------------------------------------------------------------------------------------------------------------ reading


@triton.jit
def place(b, c, v, strides, middle, inner, EVEN: tl.constexpr):
    """Return how far voxels v of channels c are from a tensor's first element, in elements."""
    if EVEN:
        within = v * strides[4]
    else:
        row = v // inner
        within = row // middle * strides[2] + row % middle * strides[3] + v % inner * strides[4]
    return b * strides[0] + c * strides[1] + within


@triton.jit
def widened(x):
    """Return numbers in a type that holds the number of channels: float32, int32 or int64."""
    if x.dtype.is_floating():
        return x.to(tl.float32)
    elif x.dtype.primitive_bitwidth < 32:
        return x.to(tl.int32)
    else:
        return x


@triton.jit
def put(found, row: tl.constexpr, x):
    """Add numbers of each channel, (CHANNELS,), to a row of what was found, (ROWS, CHANNELS)."""
    rows = tl.arange(0, ROWS)[:, None]
    return found + tl.where(rows == row, x[None, :].to(tl.float64), 0.0)


@triton.jit
def note(faults, which: tl.constexpr, x, bad):
    """Keep the least and the largest value that cannot be, if there is one, of a tile; NaN stays NaN."""
    rows = tl.arange(0, FAULT_ROWS)
    wrong = tl.where(bad, x, 0)
    nothing = tl.sum(tl.sum(tl.where(wrong != wrong, wrong, 0), 1), 0).to(tl.float64)  # or NaN
    low = tl.min(tl.min(wrong, 1), 0).to(tl.float64)
    high = tl.max(tl.max(wrong, 1), 0).to(tl.float64)
    faults = tl.where((rows == 2 * which) & (faults == faults), tl.minimum(faults, low) + nothing, faults)
    return tl.where((rows == 2 * which + 1) & (faults == faults), tl.maximum(faults, high) + nothing, faults)


@triton.jit
def merge(z, c, merged):
    """Return the logits of which those of classes that were not annotated are part of the background's."""
    group = merged | (c == 0)
    highest = tl.max(tl.where(group, z, -float("inf")), 0)[None, :]
    gap = tl.where((z == highest) | ~group, 0.0, z - highest)  # also of two that are infinite
    whole = highest + tl.log(tl.sum(tl.where(group, tl.exp(gap), 0.0), 0))[None, :]
    return tl.where(c == 0, whole, tl.where(merged, FAR, z))


# --------------------------------------------------------------------------------------------------------- arithmetic


@triton.jit
def log_one_plus(s):
    """Return log(1 + e) for 0 <= e <= 1, however small, of s = e / (2 + e)."""
    x = s * s
    series = 1 / 13 * x + 1 / 11
    series = series * x + 1 / 9
    series = series * x + 1 / 7
    series = series * x + 1 / 5
    series = series * x + 1 / 3
    return 2 * (s + s * (series * x))


@triton.jit
def flipped(x, c):
    """Return of two channels each the other."""
    first = tl.sum(tl.where(c == 0, x, 0.0), 0)[None, :]
    second = tl.sum(tl.where(c == 1, x, 0.0), 0)[None, :]
    return tl.where(c == 0, second, first)


@triton.jit
def shape(nll, q, LIKELIHOOD: tl.constexpr, GAMMA: tl.constexpr):
    """Return a function of -log p, and its slope, given q = 1 - p."""
    if LIKELIHOOD == FOCAL:
        p = tl.where(q < 0.5, 1 - q, tl.exp(-nll))
        bounded = tl.minimum(nll, STEEPEST)  # where it is larger, p times it is nothing
        if GAMMA == 2:
            return q * q * nll, q * (q + 2 * p * bounded)
        else:
            damped = tl.exp(GAMMA * tl.log(q))
            rise = damped + GAMMA * p * bounded * tl.where(q > 0, damped / tl.where(q > 0, q, 1.0), 0.0)
            return damped * nll, rise
    elif LIKELIHOOD == POWER:
        far = tl.where(nll < SMALLEST_POWER, 1.0, nll)
        whole = tl.exp(GAMMA * tl.log(far))
        line: tl.constexpr = SMALLEST_POWER ** (GAMMA - 1)
        steep = nll < SMALLEST_POWER
        return tl.where(steep, nll * line, whole), tl.where(steep, line, GAMMA * whole / far)
    else:
        return nll, tl.full(nll.shape, 1.0, tl.float32)


@triton.jit
def likelihoods(z, p, q, ACTIVATION: tl.constexpr, LIKELIHOOD: tl.constexpr, GAMMA: tl.constexpr):
    """Return the likelihoods inside and outside of classes that are apart, and their slopes by -log p, -log(1 - p)."""
    if LIKELIHOOD == HINGE:
        inside = tl.where(z < 1, 1 - z, tl.where(z >= 1, 0.0, z))
        outside = tl.where(z > -1, 1 + z, tl.where(z <= -1, 0.0, z))
        return inside, outside, inside, outside  # the slopes are not asked for
    else:
        if ACTIVATION == SIGMOID:
            smaller = tl.where(z < 0, p, q)
            rest = log_one_plus(smaller / (2 - smaller))
            nll, nll_not = rest - tl.where(z > 0, 0.0, z), rest + tl.where(z > 0, z, 0.0)
        else:
            given = tl.where(p < LOWEST_GIVEN, LOWEST_GIVEN, tl.where(p > HIGHEST_GIVEN, HIGHEST_GIVEN, p))
            nll, nll_not = -tl.log(given), -tl.log(1 - given)
        inside, rise = shape(nll, q, LIKELIHOOD, GAMMA)
        outside, rise_not = shape(nll_not, p, LIKELIHOOD, GAMMA)
        return inside, outside, rise, rise_not


@triton.jit
def narrow(h, TYPE: tl.constexpr):
    """Return a gradient in a type; what float16 cannot hold is rounded away from zero and not to it."""
    found = h.to(TYPE)
    if TYPE == HALF:
        smallest = tl.where(h < 0, -SMALLEST_HALF, SMALLEST_HALF).to(TYPE)
        found = tl.where((found == 0) & (h != 0), smallest, found)
    return found


# --------------------------------------------------------------------------------------------------------------- walk


@triton.jit
def walk(
    input_at,
    input_strides,
    target_at,
    target_strides,
    weight_at,
    weight_strides,
    out_at,
    out_strides,
    classes_at,  # (B, C), which classes were annotated
    upstream_at,  # (KINDS, B, C), the gradient of the sums; of values (2, B, C), the factors
    bad_at,  # (3,), not 0 where a value is out of range
    sums_at,  # (KINDS, B, P, C)
    faults_at,  # (B P, FAULTS)
    batch,
    voxels,
    middle,
    inner,
    programs,  # that share a sample
    ignored,
    TASK: tl.constexpr,
    C: tl.constexpr,
    CHANNELS: tl.constexpr,  # the next power of two
    BLOCK: tl.constexpr,  # voxels of a tile
    STEPS: tl.constexpr,  # tiles of a program
    EVEN: tl.constexpr,  # whether one stride leads from voxel to voxel, in each tensor
    ACTIVATION: tl.constexpr,
    LABELS: tl.constexpr,
    COUNTS: tl.constexpr,
    FURTHER: tl.constexpr,
    LIKELIHOOD: tl.constexpr,
    GAMMA: tl.constexpr,
    IGNORING: tl.constexpr,
    WEIGHTS: tl.constexpr,
    APART: tl.constexpr,  # whether each channel has weights of its own
    MERGING: tl.constexpr,
    EXCLUSIVE: tl.constexpr,  # whether values are added up over the classes
    CHECKS: tl.constexpr,
):
    """Walk through a part of a sample."""
    program = tl.program_id(0)
    b = (program // programs).to(tl.int64)
    share = program % programs
    c = tl.arange(0, CHANNELS)[:, None]
    wide, there = c.to(tl.int64), c < C
    of_labels: tl.constexpr = LABELS and ACTIVATION == SOFTMAX and LIKELIHOOD != NO_LIKELIHOOD
    hides: tl.constexpr = (WEIGHTS != NO_WEIGHTS or IGNORING != NO_IGNORING) and WEIGHTS != SIGNED
    found = tl.zeros((ROWS, CHANNELS), tl.float64)
    faults = tl.zeros((FAULT_ROWS,), tl.float64)
    if MERGING:
        merged = (tl.load(classes_at + b * C + c, mask=there, other=1) == 0) & (c > 0)
    if TASK == GRADIENT:
        row = batch * C
        up = upstream_at + b * C + c
        of_tp = tl.load(up + TP * row, mask=there, other=0).to(tl.float32)
        of_fp = tl.load(up + FP * row, mask=there, other=0).to(tl.float32)
        of_fn = tl.load(up + FN * row, mask=there, other=0).to(tl.float32)
        of_first = tl.load(up + FIRST * row, mask=there, other=0).to(tl.float32)
        of_second = tl.load(up + SECOND * row, mask=there, other=0).to(tl.float32)
        inside = tl.load(up + INSIDE * row, mask=there, other=0).to(tl.float32)
        outside = tl.load(up + OUTSIDE * row, mask=there, other=0).to(tl.float32)
        if bad_at is not None:
            spoilt = tl.load(bad_at) + tl.load(bad_at + 1) + tl.load(bad_at + 2) != 0
    if TASK == VALUES:
        inside = tl.load(upstream_at + b * C + c, mask=there, other=0).to(tl.float32)
        outside = tl.load(upstream_at + (batch + b) * C + c, mask=there, other=0).to(tl.float32)

    for step in range(STEPS):
        v = (share.to(tl.int64) * STEPS + step) * BLOCK + tl.arange(0, BLOCK)[None, :]
        within = v < voxels
        every = there & within

        # target, as shares of the classes, and weights
        w = tl.where(within, 1.0, 0.0)
        if WEIGHTS != NO_WEIGHTS:
            if APART:
                w = tl.load(weight_at + place(b, wide, v, weight_strides, middle, inner, EVEN[2]), mask=every, other=0)
            else:
                w = tl.load(weight_at + place(b, 0, v, weight_strides, middle, inner, EVEN[2]), mask=within, other=0)
            w = w.to(tl.float32)
            if WEIGHTS == WEIGHED and CHECKS:
                faults = note(faults, 1, w, ~((w >= 0) & (w <= LARGEST)))
        if LABELS:
            t = tl.load(target_at + place(b, 0, v, target_strides, middle, inner, EVEN[1]), mask=within, other=0)
            t = widened(t)
        else:
            t = tl.load(target_at + place(b, wide, v, target_strides, middle, inner, EVEN[1]), mask=every, other=0)
            t = widened(t)
            if IGNORING == A_CHANNEL:
                left = place(b, ignored, v, target_strides, middle, inner, EVEN[1])
                left_out = tl.load(target_at + left, mask=within, other=0).to(tl.float32)
                w = tl.where(left_out > 0.5, 0.0, w)
        if IGNORING == A_VALUE:
            kept = t != ignored
            t, w = tl.where(kept, t, 0), tl.where(kept, w, 0.0)
        if LABELS:
            good = (t >= 0) & (t < C)
            if t.dtype.is_floating():
                good = good & (t == tl.floor(t))
            if CHECKS:
                faults = note(faults, 0, t, ~good)
            label = tl.where(good, t.to(tl.int32), -1)
            if MERGING:
                label = tl.where(tl.max(tl.where((c == label) & merged, 1, 0), 0)[None, :] != 0, 0, label)
            g = tl.where(c == label, 1.0, 0.0)
        else:
            g = t.to(tl.float32)
            if CHECKS:
                faults = note(faults, 0, g, ~((g >= -ROUNDING) & (g <= 1 + ROUNDING)))
            if MERGING:
                both = tl.minimum(tl.sum(tl.where(merged | (c == 0), g, 0.0), 0)[None, :], 1.0)
                g = tl.where(c == 0, both, tl.where(merged, 0.0, g))
        rest = 1 - g

        # logits and probabilities; what weighs nothing is 0, and not even NaN gets through
        z = tl.load(input_at + place(b, wide, v, input_strides, middle, inner, EVEN[0]), mask=every, other=0)
        z = z.to(tl.float32)
        if hides:
            seen = tl.where(w != 0, 1, 0)
            if ACTIVATION == SOFTMAX:
                seen = tl.max(seen, 0)[None, :]
            z = tl.where(seen != 0, z, 0.0)
        if ACTIVATION == SOFTMAX:
            if MERGING:
                original = z
                z = merge(z, c, merged)
            highest = tl.max(tl.where(there, z, -float("inf")), 0)[None, :]
            p = tl.where(there, tl.exp(z - highest), 0.0)
            total = tl.sum(p, 0)[None, :]
            p = p / total
            q = flipped(p, c) if C == 2 else 1 - p
        elif ACTIVATION == SIGMOID:
            e = tl.exp(-tl.minimum(tl.abs(z), STEEPEST))
            e = tl.where(z == z, e, z)
            smaller, larger = e / (1 + e), 1 / (1 + e)
            p, q = tl.where(z < 0, smaller, larger), tl.where(z < 0, larger, smaller)
        else:
            p, q = z, 1 - z
            if CHECKS and LIKELIHOOD != HINGE:
                faults = note(faults, 2, p, (p < -ROUNDING) | (p > 1 + ROUNDING))

        # likelihoods: of exclusive labels that of the voxel's own class, which is exact where p is nearly 1
        if of_labels:
            others = tl.sum(tl.where(c == label, 0.0, p), 0)[None, :]
            own = tl.sum(tl.where(c == label, z, 0.0), 0)[None, :]
            near = tl.where(others < 0.5, others, 0.0)
            nll = tl.where(others < 0.5, log_one_plus(near / (2 - near)), highest - own + tl.log(total))
            nll, rise = shape(nll, others, LIKELIHOOD, GAMMA)
        elif ACTIVATION == SOFTMAX and LIKELIHOOD != NO_LIKELIHOOD:
            nll, rise = shape(highest - z + tl.log(total), q, LIKELIHOOD, GAMMA)
        elif LIKELIHOOD != NO_LIKELIHOOD:
            nll, nll_not, rise, rise_not = likelihoods(z, p, q, ACTIVATION, LIKELIHOOD, GAMMA)

        if TASK == SUMS:
            # the sums over channels of a tile of one channel are not of the tile's shape
            weights = tl.broadcast_to(w, (CHANNELS, BLOCK))
            found = put(found, N, tl.sum(weights, 1))
            found = put(found, G, tl.sum(weights * g, 1))
            if COUNTS != NO_COUNTS:
                both = p * g if COUNTS == PRODUCTS else tl.minimum(p, g)
                neither = q * rest if COUNTS == PRODUCTS else tl.minimum(q, rest)
                found = put(found, TP, tl.sum(w * both, 1))
                found = put(found, FP, tl.sum(w * (p - both), 1))
                found = put(found, FN, tl.sum(w * (q - neither), 1))
                if FURTHER == NEGATIVES:
                    found = put(found, FIRST, tl.sum(w * neither, 1))
            if FURTHER == SQUARES:
                found = put(found, FIRST, tl.sum(w * (p * p), 1))
                found = put(found, SECOND, tl.sum(w * (g * g), 1))
            if FURTHER == ERRORS:
                error = tl.where(g == 1, -q, p - g)
                found = put(found, FIRST, tl.sum(w * (error * error * g), 1))
                found = put(found, SECOND, tl.sum(w * (error * error * rest), 1))
            if LIKELIHOOD != NO_LIKELIHOOD:
                # infinity times 0 does not count
                found = put(found, INSIDE, tl.sum(w * tl.where(g > 0, g * nll, 0.0), 1))
                if ACTIVATION != SOFTMAX:
                    found = put(found, OUTSIDE, tl.sum(w * tl.where(g < 1, rest * nll_not, 0.0), 1))

        if TASK == VALUES:
            x = w * tl.where(g > 0, inside * g * nll, 0.0)
            if EXCLUSIVE:
                x = tl.sum(x, 0)[None, :]
                tl.store(out_at + place(b, 0, v, out_strides, middle, inner, EVEN[3]), x, mask=within)
            else:
                if ACTIVATION != SOFTMAX:
                    x += w * tl.where(g < 1, outside * rest * nll_not, 0.0)
                tl.store(out_at + place(b, wide, v, out_strides, middle, inner, EVEN[3]), x, mask=every)

        if TASK == GRADIENT:
            h = tl.zeros((CHANNELS, BLOCK), tl.float32)
            if COUNTS != NO_COUNTS:
                low, high = of_tp - of_fn, of_fp - of_first if FURTHER == NEGATIVES else of_fp
                h = g * low + rest * high if COUNTS == PRODUCTS else tl.where((p < g) | (g >= 1), low, high)
            if FURTHER == SQUARES:
                h += 2 * p * of_first
            if FURTHER == ERRORS:
                h += 2 * (g * of_first + rest * of_second) * tl.where(g == 1, -q, p - g)
            h = h * w
            if ACTIVATION == SOFTMAX:
                p = tl.where(there & (p < LEAST), LEAST, p)
                h = h * p
                if LIKELIHOOD != NO_LIKELIHOOD and not of_labels:
                    h -= w * tl.where(g > 0, g * inside * rise, 0.0)
                h = flipped(p, c) * h - p * flipped(h, c) if C == 2 else h - p * tl.sum(h, 0)[None, :]
                if of_labels:
                    slope = tl.sum(tl.where(c == label, w * inside, 0.0), 0)[None, :] * rise
                    h += slope * tl.where(c == label, -others, p)
                if MERGING:  # the background's, by the shares of the logits that it was made of
                    of_background = tl.sum(tl.where(c == 0, h, 0.0), 0)[None, :]
                    whole = tl.sum(tl.where(c == 0, z, 0.0), 0)[None, :]
                    part = tl.exp(tl.minimum(original - whole, 0.0))
                    h = tl.where(merged | (c == 0), of_background * part, h)
            else:
                if ACTIVATION == SIGMOID:
                    h = h * (p * q)
                if LIKELIHOOD == HINGE:
                    down, up_ = tl.where(z > -1, rest * outside, 0.0), tl.where(z < 1, g * inside, 0.0)
                    h += w * (down - up_)
                elif LIKELIHOOD != NO_LIKELIHOOD:
                    if ACTIVATION == SIGMOID:
                        up_, down = rise * q, rise_not * p
                    else:
                        clamped = (p < LOWEST_GIVEN) | (p > HIGHEST_GIVEN)
                        at = tl.where(clamped, 0.5, p)
                        up_ = tl.where(clamped, 0.0, rise / at)
                        down = tl.where(clamped, 0.0, rise_not / (1 - at))
                    up_ = tl.where(g > 0, g * inside * up_, 0.0)
                    h += w * (tl.where(g < 1, rest * outside * down, 0.0) - up_)
            if bad_at is not None:
                h = tl.where(spoilt, 0.0, h)
            h = narrow(h, out_at.dtype.element_ty)
            tl.store(out_at + place(b, wide, v, out_strides, middle, inner, EVEN[3]), h, mask=every)

    if TASK == SUMS:
        rows = tl.arange(0, ROWS)[:, None]
        channel = tl.arange(0, CHANNELS)[None, :]
        at = ((rows * batch + b) * programs + share) * C + channel
        tl.store(sums_at + at, found, mask=(rows < KINDS) & (channel < C))
    if TASK != GRADIENT and CHECKS:
        rows = tl.arange(0, FAULT_ROWS)
        tl.store(faults_at + program.to(tl.int64) * FAULTS + rows, faults, mask=rows < FAULTS)


# ------------------------------------------------------------------------------------------------------ after the walk


@triton.jit
def judge(faults_at, extremes_at, bad_at, number, CHUNK: tl.constexpr):
    """Join what the programs found out of range: how a tensor is judged, (3,), and its extremes, (3, 3)."""
    j = tl.arange(0, FAULT_ROWS)[None, :]
    least = tl.zeros((FAULT_ROWS,), tl.float64)
    most = tl.zeros((FAULT_ROWS,), tl.float64)
    nothing = tl.zeros((FAULT_ROWS,), tl.float64)
    for first in range(0, number, CHUNK):
        i = first + tl.arange(0, CHUNK)[:, None]
        x = tl.load(faults_at + i * FAULTS + j, mask=(i < number) & (j < FAULTS), other=0)
        nothing += tl.sum(tl.where(x != x, x, 0.0), 0)
        least = tl.minimum(least, tl.min(x, 0))
        most = tl.maximum(most, tl.max(x, 0))
    row = tl.arange(0, FAULT_ROWS)
    found = tl.where(row % 2 == 0, least, most) + nothing
    tl.store(extremes_at + row // 2 * 3 + row % 2, found, mask=row < FAULTS)
    tl.store(extremes_at + row // 2 * 3 + 2, found, mask=(row < FAULTS) & (row % 2 == 1))
    which = tl.arange(0, 4)
    wrong = tl.where((which[:, None] == (row // 2)[None, :]) & (found != 0)[None, :], 1.0, 0.0)
    tl.store(bad_at + which, tl.sum(wrong, 1).to(tl.float64), mask=which < 3)


@triton.jit
def finish(sums_at, bad_at, out_at, programs, C: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr):
    """Add up a kind of sums of a sample; NaN if a value is out of range."""
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CHANNELS)
    total = tl.zeros((CHANNELS,), tl.float64)
    for first in range(0, programs, CHUNK):
        i = first + tl.arange(0, CHUNK)[:, None]
        x = tl.load(sums_at + (row * programs + i) * C + c[None, :], mask=(i < programs) & (c < C)[None, :], other=0)
        total += tl.sum(x, 0)
    if bad_at is not None:
        bad = tl.load(bad_at) + tl.load(bad_at + 1) + tl.load(bad_at + 2) != 0
        total = tl.where(bad, float("nan"), total)
    tl.store(out_at + row * C + c, total, mask=c < C)


@triton.jit
def spoil(out_at, bad_at, number, BLOCK: tl.constexpr):
    """Write NaN everywhere if a value is out of range, else nothing."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bad = tl.load(bad_at) + tl.load(bad_at + 1) + tl.load(bad_at + 2) != 0
    tl.store(out_at + i, tl.full((BLOCK,), float("nan"), tl.float32), mask=i < tl.where(bad, number, 0))


@triton.jit
def operate(OPERATION: tl.constexpr, p, q):
    """Return the result of an operation on numbers, and its slopes by these."""
    of_p, of_q = tl.full((1, 1, 1), 1.0, tl.float64), tl.full((1, 1, 1), 1.0, tl.float64)
    if OPERATION == ADD:
        x = p + q
    elif OPERATION == SUBTRACT:
        x, of_q = p - q, -of_q
    elif OPERATION == MULTIPLY:
        x, of_p, of_q = p * q, q, p
    elif OPERATION == DIVIDE:
        x, of_p, of_q = p / q, 1 / q, -p / (q * q)
    elif OPERATION == POWER_OF:
        x, of_p = tl.exp(q * tl.log(p)), q * tl.exp((q - 1) * tl.log(p))
    elif OPERATION == SQRT:
        x = tl.sqrt(p)
        of_p = 0.5 / x
    elif OPERATION == LOG:
        x, of_p = tl.log(p), 1 / p
    elif OPERATION == EXP:
        x = tl.exp(p)
        of_p = x
    elif OPERATION == LESS:
        x = tl.where(p < q, 1.0, 0.0).to(tl.float64)
    elif OPERATION == AT_MOST:
        x = tl.where(p <= q, 1.0, 0.0).to(tl.float64)
    elif OPERATION == DETACH:
        x = p
    else:
        x = tl.where(p != q, 1.0, 0.0).to(tl.float64)
    return x, of_p, of_q


@triton.jit
def compute(
    sums_at,  # (KINDS, B, C)
    given_at,  # (places, B, width)
    out_at,  # (samples, classes)
    slopes_at,  # (KINDS, B, width)
    batch,
    channels,
    width,
    samples,
    classes,
    LINES: tl.constexpr,
    CONSTANTS: tl.constexpr,
    NUMBER: tl.constexpr,
    BATCH: tl.constexpr,  # the next power of two
    CLASSES: tl.constexpr,
):
    """Compute what a program says of the sums of all samples and classes, and the slopes by these; see ..arithmetic."""
    kind = tl.arange(0, ROWS)[:, None, None]
    b, c = tl.arange(0, BATCH)[None, :, None], tl.arange(0, CLASSES)[None, None, :]
    there = (b < batch) & (c < width)
    nothing = tl.zeros((ROWS, 1, 1), tl.float64)
    numbers, slopes = (), ()
    for i in tl.static_range(NUMBER):
        slope = nothing
        if LINES[WORDS * i] == ROW:
            at = sums_at + (LINES[WORDS * i + 1] * batch + b) * channels + LINES[WORDS * i + 2] + c
            x = tl.load(at, mask=there, other=0)
            if LINES[WORDS * i + 1] >= TP:
                slope = tl.where((kind == LINES[WORDS * i + 1]) & there, 1.0, nothing)
        elif LINES[WORDS * i] == GIVEN:
            x = tl.load(given_at + (LINES[WORDS * i + 1] * batch + b) * width + c, mask=there, other=0)
        elif LINES[WORDS * i] == CONSTANT:
            x = tl.full((1, 1, 1), CONSTANTS[LINES[WORDS * i + 1]], tl.float64)
        elif LINES[WORDS * i] == SUM:
            x = tl.sum(tl.where(there, numbers[LINES[WORDS * i + 1]], 0.0), 1 + LINES[WORDS * i + 2], keep_dims=True)
            slope = slopes[LINES[WORDS * i + 1]]
        elif LINES[WORDS * i] == LEAST_OF:
            x = tl.where(there, numbers[LINES[WORDS * i + 1]], float("inf"))
            x = tl.min(x, 1 + LINES[WORDS * i + 2], keep_dims=True)
        elif LINES[WORDS * i] == WHERE:
            chosen = numbers[LINES[WORDS * i + 3]] != 0
            x = tl.where(chosen, numbers[LINES[WORDS * i + 1]], numbers[LINES[WORDS * i + 2]])
            slope = tl.where(chosen, slopes[LINES[WORDS * i + 1]], slopes[LINES[WORDS * i + 2]])
        else:
            p, q = numbers[LINES[WORDS * i + 1]], numbers[LINES[WORDS * i + 2]]
            x, of_p, of_q = operate(LINES[WORDS * i], p, q)
            if LINES[WORDS * i + 4]:
                slope = of_p * slopes[LINES[WORDS * i + 1]]
            if LINES[WORDS * i + 5]:
                slope += of_q * slopes[LINES[WORDS * i + 2]]
        numbers += (x,)
        slopes += (slope,)
    tl.store(out_at + b * classes + c, numbers[NUMBER - 1], mask=(b < samples) & (c < classes))
    if slopes_at is not None:
        place = (kind * batch + b) * width + c
        tl.store(slopes_at + place, slopes[NUMBER - 1], mask=there & (kind < KINDS))
