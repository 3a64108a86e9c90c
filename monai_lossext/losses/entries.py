"""Compiled loops as functions of C, which threads run at once without the interpreter.

A call is described by addresses: that of the numbers in :mod:`.codes`, and those of arrays. Every thread takes the next
pieces of the volume until none is left.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

from .codes import BATCH, COUNT, NUMBERS, STEP, VOXELS

Function = TypeVar("Function", bound=Callable[..., Any])

Work = types.CPointer(types.voidptr)  # type: ignore[no-untyped-call]


def compiled(function: Function, *, sums: bool = False) -> Function:
    """Compile on the first call, and keep the result on disk where there is a place for it.

    Args:
        function: what to compile.
        sums: whether to add in any order, without which a processor cannot add several numbers at once.
    """
    contract = {"contract", "reassoc", "nsz"} if sums else {"contract"}
    return cast("Function", kept(numba.njit, nogil=True, error_model="numpy", fastmath=contract)(function))


def sums_over(function: Function) -> Function:
    """Compile a function that adds up."""
    return compiled(function, sums=True)


def entry(function: Callable[[Any], None]) -> Entry:
    """Compile a function of addresses."""
    return Entry(kept(numba.cfunc, types.void(Work), error_model="numpy")(function))


class Entry:
    """A compiled function of addresses, which lives as long as this does."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.address = int(function.address)
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address)  # without the interpreter's lock


def kept(compiler: Callable[..., Any], *args: Any, **options: Any) -> Callable[[Any], Any]:
    """Return a compiler that keeps its results on disk, unless there is no place."""

    def compile_(function: Any) -> Any:
        try:
            return compiler(*args, cache=True, **options)(function)
        except RuntimeError:
            return compiler(*args, **options)(function)

    return compile_


def _fetch_add(_: Any, address: Any, amount: Any) -> Any:
    """Return the int64 at an address and add to it, as one step that no other thread sees half of."""

    def build(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        pointer = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, arguments[1], "monotonic")

    return types.int64(types.voidptr, types.int64), build


fetch_add: Any = intrinsic(_fetch_add)


@compiled
def numbers_of(work: Any) -> Any:
    """Return the numbers of a call."""
    return carray(work[0], (NUMBERS,), np.int64)


@compiled
def array_of(work: Any, which: int, shape: Any, dtype: Any) -> Any:
    """Return an array of a call."""
    return carray(work[which], shape, dtype)


@compiled
def volume_of(work: Any, which: int, channels: int, dtype: Any) -> Any:
    """Return an array (B, channels, V) of a call."""
    numbers = numbers_of(work)
    return array_of(work, which, (numbers[BATCH], channels, numbers[VOXELS]), dtype)


@compiled
def number_of(work: Any, which: int) -> Any:
    """Return a float32 of a call."""
    return array_of(work, which, (1,), np.float32)[0]


@compiled
def take(work: Any) -> tuple[int, int]:
    """Return the first one of the next pieces and the one after the last; there are none where these are equal."""
    numbers = numbers_of(work)
    start = fetch_add(work[0], numbers[STEP])
    return min(start, numbers[COUNT]), min(start + numbers[STEP], numbers[COUNT])
