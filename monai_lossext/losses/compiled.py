"""The compiled loops of :mod:`.kernels` and its companions over tensors that they can read, on all threads."""

from __future__ import annotations

import ctypes
import math
import os
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import codes
from .paths import compiled

if TYPE_CHECKING:
    from .entries import Entry
    from .fused import Recipe
    from .reading import Rules

# Dtypes of targets: how the loops read them. Each of the latter is compiled by itself.
READABLE = {
    torch.bool: torch.uint8,
    torch.int8: torch.int16,
    torch.uint8: torch.uint8,
    torch.int16: torch.int16,
    torch.int32: torch.int32,
    torch.int64: torch.int64,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float32,
    torch.float64: torch.float64,
}
SHARE = 2**16  # elements that a thread takes on at a time
IMPORTED_BY = os.getpid()


def loops_fit(input: Tensor, target: Tensor, mask: Tensor | None, rules: Rules) -> bool:
    """Return whether the loops can read a volume, and are there.

    They know no voxel weights. Where a mask leaves out nothing and nothing is ignored they are taken as well: an option
    that is not used changes no bit.
    """
    return (
        input.device.type == "cpu"
        and input.dtype == torch.float32
        and target.dtype in READABLE
        and input.is_contiguous()
        and target.is_contiguous()
        and input.numel() > 0
        and not (input.is_neg() or target.is_neg())  # whose memory holds the opposite
        and compiled()
        and (mask is None or bool((mask if mask.dtype == torch.bool else mask == 1).all()))
        and (rules.labels or target.dtype != torch.float64)  # whose range float32 cannot tell to the last digit
        and not rules.ignores_any(target)
    )


@dataclass(frozen=True)
class Loops:
    """Input and target of one call, as the loops read them."""

    input: Tensor  # (B, C, *S), contiguous, in float32
    target: Tensor  # (B, 1, *S) or (B, C, *S), contiguous, of a dtype that loops are compiled for
    options: tuple[int, int, int, int, int]  # what tells them what to do

    @classmethod
    def over(cls, input: Tensor, target: Tensor, recipe: Recipe) -> Loops:
        """Return the loops over a volume that they fit."""
        classes = 1 if recipe.activation == "pair" else input.shape[1]
        activation, further = codes.ACTIVATIONS[recipe.activation], codes.FURTHER[recipe.extra]
        options = (target.shape[1], classes, activation, reading_of(target, recipe.rules), further)
        return cls(input, readable(target), options)

    def sums(self) -> Tensor | None:
        """Return the sums, (5 to 7, B, C), or None when a value of the target is out of range."""
        from . import kernels  # not before it is known that Numba is there; importing it takes some tenths of a second

        (batch, _, voxels), classes, further = shape_of(self.input), self.options[1], self.options[-1]
        shares = torch.zeros(pieces(batch, voxels), classes, codes.SUMS, dtype=torch.float64, device="cpu")
        total = torch.zeros(codes.SUMS, batch, classes, dtype=torch.float64, device="cpu")
        walk(kernels.sums_entry(name_of(self.target.dtype)), self.options, self.input, self.target, shares)
        if call(kernels.totals_entry(), (batch, classes, voxels), (), shares, total):
            return None
        return total[: {codes.NO_MORE: 5, codes.NEGATIVES: 6}.get(further, 7)]

    def gradient(self, upstream: Tensor, out: Tensor) -> None:
        """Write the gradient of the input, given that of the sums."""
        from . import kernels

        loop = kernels.gradient_entry(name_of(self.target.dtype))
        walk(loop, self.options, self.input, self.target, upstream.to(torch.float64).contiguous(), out)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    rules: Rules,
    exclusive: bool,
    inside: Tensor,
    outside: Tensor,
    factor: Tensor | None,
    base: float,
    gamma: float,
    scale: float,
    wanted: bool,
) -> tuple[float, Tensor | None] | None:
    """Return the sum of cross-entropies times a scale, and its gradient if it is wanted.

    Args:
        input: (B, C, *S) logits that :func:`loops_fit`.
        target: (B, 1, *S) labels or (B, C, *S) values, likewise.
        rules: how to read the target.
        exclusive: whether to take a softmax, which needs labels, instead of sigmoids.
        inside: (B, C), factors of what is inside of a class.
        outside: (B, C), factors of what is not, for sigmoids.
        factor: (B, 1 or C, *S), further factors of each voxel, contiguous and in float32, or None for 0.
        base: added to them.
        gamma: power of one minus the probability of the true class that damps each, 0 or at least 1.
        scale: multiplies sum and gradient.
        wanted: whether the gradient is.

    Returns:
        Sum and gradient, or None when a value of the target is out of range.
    """
    from . import voxel_kernels

    labels, (batch, _, voxels) = readable(target), shape_of(input)
    sums = torch.zeros(pieces(batch, voxels), 2, dtype=torch.float64, device="cpu")
    gradient = torch.empty_like(input) if wanted else None
    factors = 0 if factor is None else factor.shape[1]
    walk(
        voxel_kernels.cross_entropy_entry(name_of(labels.dtype)),
        (labels.shape[1], factors, reading_of(target, rules), factor is not None, wanted, exclusive),
        input,
        labels,
        input if factor is None else factor,
        inside.to(torch.float32).contiguous(),
        outside.to(torch.float32).contiguous(),
        single(base),
        single(gamma),
        single(scale),
        sums,
        input if gradient is None else gradient,
    )
    total, wrong = sums.sum(0).tolist()
    return None if wrong else (total * scale, gradient)


def map_sums(input: Tensor, phi: Tensor, activation: str, first: int, shift: float) -> Tensor:
    """Return the sums of a map times the probabilities, (B, C - first) in float64.

    Args:
        input: (B, C, *S) logits, contiguous and in float32.
        phi: (B, C - first, *S), the map, in float32; the channels of each sample lie contiguous.
        activation: ``"sigmoid"`` or ``"softmax"``.
        first: the class that the map begins with.
        shift: added to the map where it is negative.
    """
    from . import voxel_kernels

    batch, channels, voxels = shape_of(input)
    sums = torch.zeros(batch, pieces(1, voxels), channels - first, dtype=torch.float64, device="cpu")
    shifts, options = single(shift), map_options(phi, voxels, activation, first)
    walk(voxel_kernels.map_sums_entry(), options, input, phi, shifts, sums)
    return sums.sum(1)


def map_slopes(input: Tensor, phi: Tensor, activation: str, first: int, shift: float, upstream: Tensor) -> Tensor:
    """Return the gradient of :func:`map_sums`, (B, C, *S), given that of the sums, (B, C - first)."""
    from . import voxel_kernels

    gradient, slopes = torch.empty_like(input), upstream.to(torch.float32).contiguous()
    shifts = single(shift)
    options = map_options(phi, shape_of(input)[2], activation, first)
    walk(voxel_kernels.map_slopes_entry(), options, input, phi, shifts, slopes, gradient)
    return gradient


def slopes_of_errors(
    input: Tensor, target: Tensor, rules: Rules, activation: str, first: int, upstream: Tensor
) -> Tensor:
    """Return the gradient of the distances of probabilities from the target, (B, C, *S), given that of the distances.

    Args:
        input: (B, C, *S) logits that :func:`loops_fit`.
        target: (B, 1, *S) labels or (B, C, *S) values, likewise.
        rules: how to read the target.
        activation: ``"sigmoid"`` or ``"softmax"``.
        first: the first class that has distances.
        upstream: (B, C - first, *S).
    """
    from . import sorting_kernels

    labels, gradient = readable(target), torch.empty_like(input)
    options = labels.shape[1], codes.ACTIVATIONS[activation], reading_of(target, rules), first
    walk(sorting_kernels.slopes_entry(name_of(labels.dtype)), options, input, labels, upstream.contiguous(), gradient)
    return gradient


def jaccard_extension(
    errors: Tensor, target: Tensor, rules: Rules, first: int, penalize: bool, slopes: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the Lovasz extension of the Jaccard loss and write its slopes.

    Args:
        errors: (B, C, N), contiguous and in float32.
        target: (B, 1, N) labels or (B, C, N) values, contiguous, of a dtype among the readable ones.
        rules: how to read the target.
        first: label of the first channel.
        penalize: whether the value of a class without voxels is the mean error.
        slopes: (B, C, N), contiguous and in float32, where to write.

    Returns:
        The value and the number of the class's voxels, both (B, C) in float64.
    """
    from . import sorting_kernels

    labels, (batch, classes, voxels) = readable(target), errors.shape
    threads, rows = torch.get_num_threads(), batch * classes
    results = torch.empty(batch, classes, 2, dtype=torch.float64, device="cpu")
    memory = torch.empty(min(threads, rows), 3, voxels, dtype=torch.int32, device="cpu")
    taken = torch.zeros(1, dtype=torch.int64, device="cpu")
    call(
        sorting_kernels.extension_entry(name_of(labels.dtype)),
        (batch, classes, voxels),
        (labels.shape[1], classes, first, reading_of(target, rules), penalize),
        errors,
        labels,
        slopes,
        results,
        memory,
        taken,
        threads=min(threads, rows),
        count=rows,
    )
    value, size = results.unbind(-1)
    return value, size


def map_options(phi: Tensor, voxels: int, activation: str, first: int) -> tuple[int, int, int]:
    """Return what tells the loops how to read a map, which may have left out channels of its memory."""
    channels = phi.stride(0) // voxels if len(phi) > 1 else phi.shape[1]
    return channels, codes.ACTIVATIONS[activation], first


def single(number: float) -> Tensor:
    """Return a float32 in memory that loops can read, whatever torch's default device is."""
    return torch.tensor(number, dtype=torch.float32, device="cpu")


def shape_of(input: Tensor) -> tuple[int, int, int]:
    """Return the shape (B, C, V) of a (B, C, *S) with a voxel."""
    batch, channels = input.shape[:2]
    return batch, channels, input.numel() // (batch * channels)


def pieces(batch: int, voxels: int) -> int:
    """Return into how many pieces the loops cut a volume. It does not depend on the number of threads."""
    return batch * -(-voxels // codes.PIECE)


def walk(loop: Entry, options: tuple[int, ...], input: Tensor, *arrays: Tensor) -> None:
    """Call a loop over the pieces of an input (B, C, *S) on as many threads as torch uses."""
    call(loop, shape_of(input), options, input, *arrays, threads=torch.get_num_threads())


def call(
    loop: Entry,
    shape: tuple[int, int, int],
    options: tuple[int, ...],
    *arrays: Tensor,
    threads: int = 1,
    count: int | None = None,
) -> int:
    """Call a function of :mod:`.entries`, and wait for all threads.

    These are those of torch's own operations where torch runs on OpenMP: they watch for work for some milliseconds
    after each operation, and would keep others from the processors.

    Args:
        loop: what to call.
        shape: (B, C, V).
        options: what the loop needs to know.
        arrays: on what it works, contiguous.
        threads: on how many, where the volume is large enough.
        count: number of pieces that threads take one by one; default: those of :func:`pieces`, several at a time.

    Returns:
        The first one of the numbers of the call, as the loop left it.
    """
    shares = count or 1
    if count is None:
        count = pieces(shape[0], shape[2])
        shares = max(1, min(count, math.prod(shape) // SHARE))
    numbers = array("q", (0, count, -(-count // shares), *shape, *options))
    addresses = array("Q", (numbers.buffer_info()[0], *(x.data_ptr() for x in arrays)))
    at, threads = addresses.buffer_info()[0], threads if shares > 1 else 1
    if threads == 1:
        loop.call(at)
    elif os.getpid() == IMPORTED_BY and (parallel := openmp()) is not None:
        parallel(loop.address, at, threads, 0)
    else:  # a forked process does not have its parent's threads
        others = [pool().submit(loop.call, at) for _ in range(min(threads, shares) - 1)]
        try:
            loop.call(at)
        finally:  # nothing may be interrupted while they work on what is in memory here
            for other in others:
                other.result()
    return numbers[codes.NEXT]


@lru_cache(maxsize=1)
def openmp() -> Callable[[int, int, int, int], None] | None:
    """Return what calls a function with a pointer on the threads of torch's OpenMP, or None where there is no such.

    It is GCC's interface, which the libraries of Clang and Intel have as well.
    """
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no handle of the whole process
        return None
    parallel.argtypes, parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return parallel


def readable(target: Tensor) -> Tensor:
    """Return a target in a dtype that the loops are compiled for."""
    dtype = READABLE[target.dtype]
    return target.view(dtype) if dtype == torch.uint8 else target.to(dtype)


@lru_cache
def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype, which it has for numpy too."""
    return str(dtype).removeprefix("torch.")


def reading_of(target: Tensor, rules: Rules) -> int:
    """Return how the loops are to read a target."""
    if not rules.labels:
        return codes.IN_CHANNELS
    return codes.FLOATING_LABELS if target.is_floating_point() else codes.LABELS


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """Return threads to run loops on where those of torch cannot be had; they live as long as the process."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="monai_lossext")


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=pool.cache_clear)
