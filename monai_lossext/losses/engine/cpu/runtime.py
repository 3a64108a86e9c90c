"""Compiling loops, keeping them on disk, and calling them on all threads.

A loop is a function of C that takes the address of the numbers of :mod:`.codes`. All threads run it at once without the
interpreter, and take pieces of the volume until none is left. A loop neither allocates nor raises: what could fail, the
memory it works in, is taken beforehand, where an exception reaches the caller.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import secrets
import sys
import warnings
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.ccallback import CFunc
from numba.extending import intrinsic, overload
from numba.misc.appdirs import AppDirs
from numba.np.numpy_support import carray

from .codes import COUNT, NEXT, STEP

Function = TypeVar("Function", bound=Callable[..., Any])

NUMBERS = types.CPointer(types.int64)  # type: ignore[no-untyped-call]
OF_LOOP = types.void(NUMBERS)
OF_ROW: Any = types.void(
    NUMBERS, *[types.int64] * 6
)  # numbers, tensor, sample, channel, voxel, how many, address of a row
IMPORTED_BY = os.getpid()
# Nothing inside of a loop is called by the interpreter, and no way for it to do so has to be compiled.
OPTIONS: Any = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
LOG = logging.getLogger("monai_lossext")


def compiled(function: Function, *, sums: bool = False) -> Function:
    """Compile a function into each loop that calls it.

    Args:
        function: what to compile.
        sums: whether to add in any order, without which a processor cannot add several numbers at once.
    """
    contract = {"contract", "reassoc", "nsz"} if sums else {"contract"}
    return cast("Function", cast("Any", numba.njit)(fastmath=contract, **OPTIONS)(function))


def sums_over(function: Function) -> Function:
    """Compile a function that adds up."""
    return compiled(function, sums=True)


# -------------------------------------------------------------------------------------------------- loops on the disk


def name_apart() -> None:
    """Let no other process give the functions that this one compiles the same names.

    Numba tells functions of one name, as those that a closure makes for each type, by counting what a process
    compiles. Two processes that keep their loops in one folder count the same numbers for different functions, and a
    third one that runs loops of both takes the one for the other: wrong values without a word (seen with Numba 0.61).
    """
    if not isinstance(getattr(FunctionIdentity, "_unique_ids", None), count):
        raise ImportError(f"Numba {numba.__version__} tells functions apart in a way that is not known here")
    FunctionIdentity._unique_ids = count(secrets.randbits(62))


name_apart()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=name_apart)


class Locator(_CacheLocator):  # type: ignore[misc]
    """Where a compiled loop is kept: one folder for each state of the sources of all loops.

    Numba itself looks at the one file that a function stands in, and would run an old loop with new constants.
    """

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Locator:
        """Return the locator of a function."""
        self = cls()
        self.ensure_cache_path()
        return self

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(cache_folder() / digest_of_sources())

    def get_source_stamp(self) -> str:
        """Return what tells one state of the sources from another."""
        return digest_of_sources()

    def get_disambiguator(self) -> str:
        """Return nothing: loops have names of their own."""
        return "loop"


class Implementation(CompileResultCacheImpl):  # type: ignore[misc]
    """Numba's way of writing a compiled function, to another place."""

    _locator_classes: Any = [Locator]  # noqa: RUF012


class LoopCache(FunctionCache):  # type: ignore[misc]
    """Numba's cache of a function, in another place."""

    _impl_class = Implementation

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        """Return what a loop is found by in its file: the folder and the name say the rest."""
        return sig, codegen.magic_tuple()


def cache_folder() -> Path:
    """Return where compiled loops are kept: ``MONAI_LOSSEXT_CACHE``, or a folder in the user's cache."""
    given = os.environ.get("MONAI_LOSSEXT_CACHE")
    return Path(given) if given else Path(AppDirs(appname="monai_lossext", appauthor=False).user_cache_dir) / "loops"


@lru_cache(maxsize=1)
def digest_of_sources() -> str:
    """Return a digest of the sources of all loops, of the versions that compile them, and of the processor."""
    compiler = [numba.__version__, np.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    digest = hashlib.sha256(" ".join(compiler).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]


class Loop(cast("Any", CFunc)):  # type: ignore[misc]
    """A compiled loop, which lives as long as this does."""

    def __init__(self, function: Callable[..., None], name: str, signature: Any = OF_LOOP) -> None:
        function.__qualname__ = name  # which its file is called by
        super().__init__(function, (signature.args, signature.return_type), {}, {"error_model": "numpy"})
        if not self._kept():
            self.compile()
        self.call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address)  # without the interpreter's lock

    def _kept(self) -> bool:
        """Compile with the help of what is on disk; return whether that went well."""
        try:
            self._cache: Any = LoopCache(self._pyfunc)
            self.compile()
        except Exception as error:  # a full or unwritable disk, a truncated file, one of another machine
            self._cache = numba.core.caching.NullCache()
            say_that_nothing_is_kept(repr(error)[:200])
            return False
        return True

    def _compile_uncached(self) -> Any:
        say_that_it_compiles()
        return super()._compile_uncached()


def linked(name: str) -> Any:
    """Return a function of rows that is compiled by itself, once, and not into each loop that calls it.

    The address of the one for the type of the row has to be known before: see :func:`link`.
    """

    def call(numbers: Any, which: int, b: int, c: int, v: int, n: int, row: Any) -> None:
        raise NotImplementedError  # only ever compiled

    @overload(call, strict=False, jit_options=OPTIONS)
    def chosen(numbers: Any, which: Any, b: Any, c: Any, v: Any, n: Any, row: Any) -> Any:
        function: Any = types.ExternalFunction(symbol_of(name, row.dtype), OF_ROW)

        def call(numbers: Any, which: int, b: int, c: int, v: int, n: int, row: Any) -> None:
            function(as_numbers(numbers.ctypes.data), which, b, c, v, n, row.ctypes.data)

        return call

    return call


def link(name: str, function: Any, real: Any) -> Loop:
    """Compile a function of rows of a type, and let loops find it."""
    made = Loop(function(real), f"{name}_{np.dtype(real)}", OF_ROW)
    llvm.add_symbol(symbol_of(name, np.dtype(real)), made.address)
    return made


def symbol_of(name: str, dtype: Any) -> str:
    """Return the name of a function of rows of a type, by which loops find it."""
    return f"monai_lossext_{digest_of_sources()}_{name}_{dtype}"


_said: list[str] = []


def say_that_nothing_is_kept(error: str) -> None:
    """Warn once that loops cannot be kept on disk."""
    if not _said:
        _said.append(error)
        warnings.warn(
            f"compiled loops cannot be kept in {cache_folder()} and are compiled anew in each process: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


@lru_cache(maxsize=1)
def say_that_it_compiles() -> None:
    """Say once that the first call takes its time."""
    LOG.warning("monai_lossext compiles its loops for this processor; that takes some seconds and is done once.")


# ----------------------------------------------------------------------------------------------- inside of a loop


def _fetch_add(_: Any, address: Any, which: Any, amount: Any) -> Any:
    """Return the number at a place and add to it, as one step that no other thread sees half of."""

    def build(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        place = builder.gep(arguments[0], [arguments[1]])
        return builder.atomic_rmw("add", place, arguments[2], "monotonic")

    return types.int64(NUMBERS, types.int64, types.int64), build


def _pointer(_: Any, address: Any) -> Any:
    """Return an address as a pointer."""

    def build(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), build


def _as_numbers(_: Any, address: Any) -> Any:
    """Return an address as that of numbers."""

    def build(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())

    return NUMBERS(types.intp), build


fetch_add: Any = intrinsic(_fetch_add)
pointer: Any = intrinsic(_pointer)
as_numbers: Any = intrinsic(_as_numbers)


@compiled
def array_at(address: int, shape: Any, dtype: Any) -> Any:
    """Return the contiguous array at an address."""
    return carray(pointer(address), shape, dtype)


@compiled
def take(numbers: Any, work: Any) -> tuple[int, int]:
    """Return the first one of the next pieces and the one after the last; there are none where these are equal."""
    start = fetch_add(work, NEXT, numbers[STEP])
    return min(start, numbers[COUNT]), min(start + numbers[STEP], numbers[COUNT])


# ------------------------------------------------------------------------------------------------------- calling loops


def call(loop: Loop, numbers: Sequence[int], threads: int, alive: Sequence[Any]) -> None:
    """Run a loop on so many threads, and return when all have ended.

    These are those of torch's own operations where torch runs on GCC's OpenMP: they watch for work for some
    milliseconds after each operation, and would keep others from the processors.

    Args:
        loop: what to run.
        numbers: what describes the call.
        threads: how many, at least 1.
        alive: whatever the numbers hold addresses of.
    """
    memory = array("q", numbers)
    at = memory.buffer_info()[0]
    if threads == 1:
        loop.call(at)
    elif os.getpid() == IMPORTED_BY and (parallel := openmp()) is not None:
        parallel(loop.address, at, threads, 0)  # an interrupt is looked at when this has returned
    else:  # a forked process does not have its parent's threads
        on_pool(loop, memory, threads, alive)


def on_pool(loop: Loop, memory: array[int], threads: int, alive: Sequence[Any]) -> None:
    """Run a loop on threads of our own. An interrupt waits until they have ended, and they keep alive what they use."""
    at = memory.buffer_info()[0]

    def work(*_: Any) -> None:
        loop.call(at)

    others, interrupt = [pool().submit(work, memory, alive) for _ in range(threads - 1)], None
    work()
    while True:
        try:
            wait(others)
            break
        except BaseException as error:  # an interrupt; nothing may go on while they still write
            interrupt = error
    if interrupt is not None:
        raise interrupt
    for other in others:
        other.result()


@lru_cache(maxsize=1)
def openmp() -> Callable[[int, int, int, int], None] | None:
    """Return what calls a function with a pointer on the threads of torch's OpenMP, or None where there is no such.

    It is looked up among the libraries that torch itself was linked with, so that another OpenMP of the process is not
    taken for it. It is GCC's interface, which the libraries of Clang and Intel have as well on Linux.
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        parallel = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")).GOMP_parallel
    except (AttributeError, OSError):
        return None
    parallel.argtypes, parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return cast("Callable[[int, int, int, int], None]", parallel)


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """Return threads to run loops on where those of torch cannot be had; they live as long as the process."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="monai_lossext")


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=pool.cache_clear)
