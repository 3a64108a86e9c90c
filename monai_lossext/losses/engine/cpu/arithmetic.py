"""Functions of numbers, made of operations that a processor does to many numbers at once.

Each takes and returns a float32 or a float64, whichever it is given. Constants without a type of their own are float32
that are exact, so that they change no type.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numba import types
from numba.extending import overload

from .runtime import OPTIONS, compiled

Number = Any  # a float of its own type, whose operations numpy's types do not tell apart

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
# exp(-60) is about 1e-26: still far from float32's underflow once divided by the number of voxels.
STEEPEST = np.float32(60)
LEAST = np.float32(math.exp(-60))
LOWEST = np.float32(-86)  # exp of it is normal in float32
LARGEST_GAMMA = 5.0  # a float32 logarithm times a larger power loses digits
SMALLEST_POWER = np.float32(1e-6)  # below it, powers with an infinite slope at 0 go on as straight lines
SMALLEST_PROBABILITY = 1e-7  # below it, and above 1 minus it, given probabilities are clamped before the logarithm
LARGEST_PROBABILITY = 1 - 1e-7

LOG2_E = 1 / math.log(2)
LN_2_HIGH = 0.693359375  # has few digits: its multiples are exact
LN_2_LOW = math.log(2) - LN_2_HIGH
LN_2 = math.log(2)
# exp(r) for |r| <= ln(2) / 2 and log(1 + e) = 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = e / (2 + e), at most 1/3: the
# first term that is left out is below a tenth of the type's precision.
FACTORIALS = tuple(1 / math.factorial(n) for n in range(14))
ODD = tuple(1 / n for n in range(1, 37, 2))
F = tuple(np.float32(x) for x in FACTORIALS)
O = tuple(np.float32(x) for x in ODD)  # noqa: E741
LOG2_E_32, LN_2_HIGH_32, LN_2_LOW_32 = np.float32(LOG2_E), np.float32(LN_2_HIGH), np.float32(LN_2_LOW)
LN_2_32 = np.float32(LN_2)
LEAST_64, LOW_64, HIGH_64 = math.exp(-60), SMALLEST_PROBABILITY, LARGEST_PROBABILITY


def by_type(narrow: Any, wide: Any) -> Any:
    """Return one function of a float32 and another one of a float64 as one function, chosen when it is compiled."""

    def chosen(x: Any) -> Any:
        raise NotImplementedError  # only ever compiled

    chosen.__name__ = narrow.__name__
    overload(chosen, strict=False, jit_options=cast("Any", {"fastmath": {"contract"}, **OPTIONS}))(
        lambda x: wide if x == types.float64 else narrow
    )
    return chosen


def _exp_32(x):  # type: ignore[no-untyped-def]
    k = np.int32(x * LOG2_E_32 - HALF)
    n = np.float32(k)
    r = (x - n * LN_2_HIGH_32) - n * LN_2_LOW_32
    series = ((((F[7] * r + F[6]) * r + F[5]) * r + F[4]) * r + F[3]) * r + F[2]
    power = np.int32(np.int32(k + np.int32(127)) << np.int32(23)).view(np.float32)
    return ((series * r) * r + r + ONE) * power


def _exp_64(x):  # type: ignore[no-untyped-def]
    k = np.int32(x * LOG2_E - 0.5)
    n = np.float64(k)
    r = (x - n * LN_2_HIGH) - n * LN_2_LOW
    series = FACTORIALS[13]
    series = (series * r + FACTORIALS[12]) * r + FACTORIALS[11]
    series = (series * r + FACTORIALS[10]) * r + FACTORIALS[9]
    series = (series * r + FACTORIALS[8]) * r + FACTORIALS[7]
    series = (series * r + FACTORIALS[6]) * r + FACTORIALS[5]
    series = (series * r + FACTORIALS[4]) * r + FACTORIALS[3]
    series = series * r + FACTORIALS[2]
    power = np.int64((np.int64(k) + np.int64(1023)) << np.int64(52)).view(np.float64)
    return ((series * r) * r + r + 1.0) * power


def _log_one_plus_32(s):  # type: ignore[no-untyped-def]
    q = s * s
    series = (((((O[6] * q + O[5]) * q + O[4]) * q + O[3]) * q + O[2]) * q + O[1]) * q
    return TWO * (s + s * series)


def _log_one_plus_64(s):  # type: ignore[no-untyped-def]
    q = s * s
    series = (ODD[17] * q + ODD[16]) * q + ODD[15]
    series = (series * q + ODD[14]) * q + ODD[13]
    series = (series * q + ODD[12]) * q + ODD[11]
    series = (series * q + ODD[10]) * q + ODD[9]
    series = (series * q + ODD[8]) * q + ODD[7]
    series = (series * q + ODD[6]) * q + ODD[5]
    series = (series * q + ODD[4]) * q + ODD[3]
    series = (series * q + ODD[2]) * q + ODD[1]
    return 2.0 * (s + s * (series * q))


def _exponent_32(x):  # type: ignore[no-untyped-def]
    return np.float32((np.float32(x).view(np.int32) >> np.int32(23)) - np.int32(127))


def _exponent_64(x):  # type: ignore[no-untyped-def]
    return np.float64(np.int32((np.float64(x).view(np.int64) >> np.int64(52)) - np.int64(1023)))


def _mantissa_32(x):  # type: ignore[no-untyped-def]
    bits = np.float32(x).view(np.int32)
    return np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32)


def _mantissa_64(x):  # type: ignore[no-untyped-def]
    bits = np.float64(x).view(np.int64)
    return np.int64((bits & np.int64(0xFFFFFFFFFFFFF)) | np.int64(0x3FF0000000000000)).view(np.float64)


exp_of_negative = by_type(_exp_32, _exp_64)  # exp(x) for -86 <= x <= 0 to two units in the last place
log_of_ratio = by_type(_log_one_plus_32, _log_one_plus_64)  # log(1 + e) of s = e / (2 + e), 0 <= e <= 1
exponent = by_type(_exponent_32, _exponent_64)
mantissa = by_type(_mantissa_32, _mantissa_64)
ln_2 = by_type(lambda x: LN_2_32, lambda x: LN_2)
least = by_type(lambda x: LEAST, lambda x: LEAST_64)  # the probability at the steepest logit
lowest_given = by_type(lambda x: np.float32(LOW_64), lambda x: LOW_64)
highest_given = by_type(lambda x: np.float32(HIGH_64), lambda x: HIGH_64)
to_float = by_type(lambda x: np.float32(x), lambda x: np.float64(x))


@compiled
def bounded_exp(x: Number) -> Number:
    """Return exp(x) for any x of at most 0; far below, the smallest one that is exact. NaN stays."""
    return exp_of_negative(LOWEST if x < LOWEST else x)


@compiled
def log(x: Number) -> Number:
    """Return the logarithm of a positive number that is not denormal, with the absolute error of a number near 1."""
    e = mantissa(x) - ONE
    found = exponent(x) * ln_2(x) + log_of_ratio(e / (TWO + e))
    return found if x == x else x  # the bits of NaN say nothing


@compiled
def smaller_probability(z: Number) -> Number:
    """Return the smaller one of p and 1 - p for the sigmoid p of a logit, held beyond the steepest."""
    size = abs(z)
    e = exp_of_negative(-(STEEPEST if size > STEEPEST else size))
    return e / (ONE + e)


@compiled
def power(x: Number, log_x: Number, gamma: Number) -> Number:
    """Return x ** gamma for x in [0, 1], given also its logarithm."""
    if gamma == TWO:
        return x * x
    return bounded_exp(gamma * log_x)
