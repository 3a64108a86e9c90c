"""Rows of tensors: voxels that follow each other, read in any type and by any strides, and written likewise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.np.numpy_support import carray

from . import codes
from .arithmetic import HALF, ONE, ZERO, by_type
from .codes import (
    ADDRESS,
    BFLOAT16,
    BOOL,
    DTYPE,
    ENDS,
    EVEN,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INNER,
    INT8,
    INT16,
    INT32,
    INT64,
    MIDDLE,
    OF_CHANNEL,
    OF_INNER,
    OF_MIDDLE,
    OF_OUTER,
    OF_SAMPLE,
    RECORD,
    SIZES,
    TENSORS,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    WIDTH,
)
from .runtime import array_at, compiled, linked, pointer

Row = Any  # a contiguous row of float32 or float64, in which everything is computed

SCALE_OF_HALF = np.float32(2.0**112)  # float32's exponents begin that much lower than float16's
INFINITE_HALF = np.uint32(0x7C00)


def _half(x: Any) -> Any:
    bits = np.uint32(x)
    size = np.uint32(np.uint32(bits & np.uint32(0x7FFF)) << np.uint32(13))
    number = size.view(np.float32) * SCALE_OF_HALF
    special = np.uint32(size | np.uint32(0x7F800000)).view(np.float32)
    number = special if (bits & INFINITE_HALF) == INFINITE_HALF else number
    return -number if bits & np.uint32(0x8000) else number


def _bfloat(x: Any) -> Any:
    return np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)


def _truth(x: Any) -> Any:
    return ONE if x != 0 else ZERO


half_to_float, bfloat_to_float, truth = compiled(_half), compiled(_bfloat), compiled(_truth)


native = by_type(lambda x: FLOAT32, lambda x: FLOAT64)  # the code of the type of a row


@compiled
def copy_in(x: Any, stride: int, n: int, out: Row) -> None:
    """Read n numbers."""
    if stride == 1:
        for i in range(n):
            out[i] = x[i]
    else:
        for i in range(n):
            out[i] = x[i * stride]


@compiled
def copy_in_half(x: Any, stride: int, n: int, out: Row) -> None:
    """Read n float16 from their bits."""
    if stride == 1:
        for i in range(n):
            out[i] = half_to_float(x[i])
    else:
        for i in range(n):
            out[i] = half_to_float(x[i * stride])


@compiled
def copy_in_bfloat(x: Any, stride: int, n: int, out: Row) -> None:
    """Read n bfloat16 from their bits."""
    if stride == 1:
        for i in range(n):
            out[i] = bfloat_to_float(x[i])
    else:
        for i in range(n):
            out[i] = bfloat_to_float(x[i * stride])


@compiled
def copy_in_truth(x: Any, stride: int, n: int, out: Row) -> None:
    """Read n bool, whose bytes may be more than 1."""
    if stride == 1:
        for i in range(n):
            out[i] = truth(x[i])
    else:
        for i in range(n):
            out[i] = truth(x[i * stride])


@compiled
def load(address: int, dtype: int, stride: int, n: int, out: Row) -> None:
    """Read n numbers of any type, a stride apart, as floats."""
    length = (n - 1) * stride + 1
    if dtype == FLOAT32:
        copy_in(array_at(address, length, np.float32), stride, n, out)
    elif dtype == UINT8:
        copy_in(array_at(address, length, np.uint8), stride, n, out)
    elif dtype == INT64:
        copy_in(array_at(address, length, np.int64), stride, n, out)
    elif dtype == BFLOAT16:
        copy_in_bfloat(array_at(address, length, np.uint16), stride, n, out)
    elif dtype == FLOAT16:
        copy_in_half(array_at(address, length, np.uint16), stride, n, out)
    elif dtype == BOOL:
        copy_in_truth(array_at(address, length, np.uint8), stride, n, out)
    elif dtype == FLOAT64:
        copy_in(array_at(address, length, np.float64), stride, n, out)
    elif dtype == INT32:
        copy_in(array_at(address, length, np.int32), stride, n, out)
    elif dtype == INT16:
        copy_in(array_at(address, length, np.int16), stride, n, out)
    elif dtype == INT8:
        copy_in(array_at(address, length, np.int8), stride, n, out)
    elif dtype == UINT16:
        copy_in(array_at(address, length, np.uint16), stride, n, out)
    elif dtype == UINT32:
        copy_in(array_at(address, length, np.uint32), stride, n, out)
    elif dtype == UINT64:
        copy_in(array_at(address, length, np.uint64), stride, n, out)


@compiled
def to_bfloat(x: Any) -> Any:
    """Return the bits of the nearest bfloat16."""
    bits = np.float32(x).view(np.uint32)
    odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd)
    return np.uint16(np.uint32(rounded >> np.uint32(16))) if x == x else np.uint16(0x7FC0)


@compiled
def to_half(x: Any) -> Any:
    """Return the bits of the nearest float16, but never 0 for what is not 0.

    The gradient of one voxel is divided by the number of voxels and soon smaller than float16's smallest number, 6e-8.
    """
    bits = np.float32(x).view(np.uint32)
    sign, size = np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000), np.uint32(bits & np.uint32(0x7FFFFFFF))
    # One half has float16's smallest number as its last digit, so that the sum has those of small numbers.
    small = np.uint32(np.float32(size.view(np.float32) + HALF).view(np.uint32) - np.uint32(0x3F000000))
    small = np.uint32(1) if (small == np.uint32(0)) & (size != np.uint32(0)) else small
    odd = np.uint32(np.uint32(size >> np.uint32(13)) & np.uint32(1))
    large = np.uint32(np.uint32(np.uint32(size - np.uint32(0x38000000)) + np.uint32(0xFFF)) + odd) >> np.uint32(13)
    special = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else INFINITE_HALF
    number = small if size < np.uint32(0x38800000) else (large if size < np.uint32(0x477FF000) else special)
    return np.uint16(np.uint32(sign | np.uint32(number)))


@compiled
def copy_out(x: Row, stride: int, n: int, out: Any) -> None:
    """Write n numbers."""
    if stride == 1:
        for i in range(n):
            out[i] = x[i]
    else:
        for i in range(n):
            out[i * stride] = x[i]


@compiled
def copy_out_half(x: Row, stride: int, n: int, out: Any) -> None:
    """Write the bits of n float16."""
    if stride == 1:
        for i in range(n):
            out[i] = to_half(x[i])
    else:
        for i in range(n):
            out[i * stride] = to_half(x[i])


@compiled
def copy_out_bfloat(x: Row, stride: int, n: int, out: Any) -> None:
    """Write the bits of n bfloat16."""
    if stride == 1:
        for i in range(n):
            out[i] = to_bfloat(x[i])
    else:
        for i in range(n):
            out[i * stride] = to_bfloat(x[i])


@compiled
def store(address: int, dtype: int, stride: int, n: int, x: Row) -> None:
    """Write n floats as numbers of a floating type, a stride apart."""
    length = (n - 1) * stride + 1
    if dtype == FLOAT32:
        copy_out(x, stride, n, array_at(address, length, np.float32))
    elif dtype == BFLOAT16:
        copy_out_bfloat(x, stride, n, array_at(address, length, np.uint16))
    elif dtype == FLOAT16:
        copy_out_half(x, stride, n, array_at(address, length, np.uint16))
    elif dtype == FLOAT64:
        copy_out(x, stride, n, array_at(address, length, np.float64))


@compiled
def place_of(numbers: Any, at: int, b: int, c: int) -> int:
    """Return where a channel of a sample begins, in elements; a single channel stands for all."""
    channel = c if numbers[at + WIDTH] > 1 else 0
    return b * numbers[at + OF_SAMPLE] + channel * numbers[at + OF_CHANNEL]


@compiled
def run_from(numbers: Any, at: int, v: int) -> tuple[int, int]:
    """Return where a voxel of a channel is, in elements, and how many follow it by the innermost stride."""
    if numbers[at + EVEN]:
        return v * numbers[at + OF_INNER], numbers[codes.VOXELS] - v
    inner, middle = numbers[INNER], numbers[MIDDLE]
    row, i = v // inner, v % inner
    place = row // middle * numbers[at + OF_OUTER] + row % middle * numbers[at + OF_MIDDLE] + i * numbers[at + OF_INNER]
    return place, inner - i


def reading_in(real: Any) -> Any:
    """Return the function that reads n voxels of a channel of a sample, from v on, of the tensor with a number."""

    def read(numbers: Any, which: int, b: int, c: int, v: int, n: int, row: Any) -> None:
        numbers, row = carray(numbers, (ENDS,)), carray(pointer(row), (n,), real)
        at = TENSORS + RECORD * which
        begin, dtype, stride = place_of(numbers, at, b, c), numbers[at + DTYPE], numbers[at + OF_INNER]
        done = 0
        while done < n:
            place, follow = run_from(numbers, at, v + done)
            some = min(follow, n - done)
            load(numbers[at + ADDRESS] + (begin + place) * SIZES[dtype], dtype, stride, some, row[done:])
            done += some

    return read


def writing_in(real: Any) -> Any:
    """Return the function that writes n voxels of a channel of a sample, from v on, of the tensor with a number."""

    def write(numbers: Any, which: int, b: int, c: int, v: int, n: int, row: Any) -> None:
        numbers, row = carray(numbers, (ENDS,)), carray(pointer(row), (n,), real)
        at = TENSORS + RECORD * which
        begin, dtype, stride = place_of(numbers, at, b, c), numbers[at + DTYPE], numbers[at + OF_INNER]
        done = 0
        while done < n:
            place, follow = run_from(numbers, at, v + done)
            some = min(follow, n - done)
            store(numbers[at + ADDRESS] + (begin + place) * SIZES[dtype], dtype, stride, some, row[done:])
            done += some

    return write


read, write = linked("read"), linked("write")
FUNCTIONS = {"read": reading_in, "write": writing_in}
