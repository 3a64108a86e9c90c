"""The compiled loops of :mod:`.kernels` and :mod:`.voxel_kernels` over tensors that they can read, on all threads."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .paths import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
        and compiled()
        and (mask is None or bool((mask if mask.dtype == torch.bool else mask == 1).all()))
        and (rules.labels or target.dtype != torch.float64)  # whose range float32 cannot tell to the last digit
        and not rules.ignores_any(target)
    )


@dataclass(frozen=True)
class Loops:
    """Input and target of one call, as the loops read them."""

    input: NDArray[np.float32]  # (B, C, V)
    target: NDArray[Any]  # (B, 1, V) or (B, C, V)
    activation: int
    reading: int
    further: int
    classes: int  # how many have sums: in a pair, one

    @classmethod
    def over(cls, input: Tensor, target: Tensor, recipe: Recipe) -> Loops:
        """Return the loops over a volume that they fit."""
        from . import kernels  # not before it is known that Numba is there; importing it takes some tenths of a second

        activations = {"sigmoid": kernels.SIGMOID, "softmax": kernels.SOFTMAX, "pair": kernels.PAIR}
        further = {"negatives": kernels.NEGATIVES, "squares": kernels.SQUARES, "errors": kernels.ERRORS}
        return cls(
            as_array(input),
            readable(target),
            activations.get(recipe.activation or "", kernels.PROBABILITIES),
            reading_of(target, recipe.rules),
            further.get(recipe.extra or "", kernels.NO_MORE),
            1 if recipe.activation == "pair" else input.shape[1],
        )

    @property
    def codes(self) -> tuple[int, int, int]:
        """What tells the loops what to do."""
        return self.activation, self.reading, self.further

    def sums(self) -> Tensor | None:
        """Return the sums, (5 to 7, B, C), or None when a value of the target is out of range."""
        from . import kernels

        batch, _, voxels = self.input.shape
        sums = np.zeros((batch * kernels.pieces(voxels), self.classes, kernels.SUMS))
        on_all_threads(partial(kernels.sums_of, self.input, self.target, *self.codes, sums), self.input.shape)
        total = sums.reshape(batch, -1, self.classes, kernels.SUMS).sum(1)
        if total[..., -1].any():
            return None
        more = {kernels.NO_MORE: 0, kernels.NEGATIVES: 1}.get(self.further, 2)
        n = np.full((batch, self.classes, 1), float(voxels))
        return torch.from_numpy(np.concatenate([n, total[..., : 4 + more]], -1).transpose(2, 0, 1).copy())

    def gradient(self, upstream: Tensor, out: Tensor) -> None:
        """Write the gradient of the input, given that of the sums."""
        from . import kernels

        of_sums = np.ascontiguousarray(upstream.numpy().transpose(1, 2, 0))
        work = partial(kernels.gradient_of, self.input, self.target, *self.codes, of_sums, as_array(out))
        on_all_threads(work, self.input.shape)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    rules: Rules,
    inside: Tensor,
    outside: Tensor,
    factor: Tensor | None,
    base: float,
    scale: float,
    wanted: bool,
) -> tuple[float, Tensor | None] | None:
    """Return the sum of the cross-entropies of a sigmoid times a scale, and its gradient if it is wanted.

    Args:
        input: (B, C, *S) logits that :func:`loops_fit`.
        target: (B, 1, *S) labels or (B, C, *S) values, likewise.
        rules: how to read the target.
        inside: (B, C), factors of what is inside of a class.
        outside: (B, C), factors of what is not.
        factor: (B, 1 or C, *S), further factors of each voxel, contiguous and in float32, or None for 0.
        base: added to them.
        scale: multiplies both.
        wanted: whether the gradient is.

    Returns:
        Sum and gradient, or None when a value of the target is out of range.
    """
    from . import kernels, voxel_kernels

    z, labels = as_array(input), readable(target)
    sums = np.zeros((len(z) * kernels.pieces(z.shape[2]), 2))
    gradient = torch.empty_like(input) if wanted else None
    within, beside = (table.to(torch.float32).contiguous().numpy() for table in (inside, outside))
    work = partial(
        voxel_kernels.cross_entropy_of,
        z,
        labels,
        z if factor is None else as_array(factor),
        reading_of(target, rules),
        factor is not None,
        np.float32(base),
        within,
        beside,
        np.float32(scale),
        sums,
        z if gradient is None else as_array(gradient),
        wanted,
    )
    on_all_threads(work, z.shape)
    total, wrong = sums.sum(0)
    return None if wrong else (float(total) * scale, gradient)


def map_sums(input: Tensor, phi: Tensor, shift: float) -> Tensor:
    """Return the sums of a map times the sigmoid, (B, C) in float64.

    Args:
        input: (B, C, *S) logits, contiguous and in float32.
        phi: (B, C, *S), the map, likewise.
        shift: added to the map where it is negative.
    """
    from . import kernels, voxel_kernels

    z = as_array(input)
    sums = np.zeros((len(z) * kernels.pieces(z.shape[2]), z.shape[1]))
    on_all_threads(partial(voxel_kernels.map_sums_of, z, as_array(phi), np.float32(shift), sums), z.shape)
    return torch.from_numpy(sums.reshape(len(z), -1, z.shape[1]).sum(1))


def map_slopes(input: Tensor, phi: Tensor, shift: float, upstream: Tensor) -> Tensor:
    """Return the gradient of :func:`map_sums`, (B, C, *S), given that of the sums, (B, C)."""
    from . import voxel_kernels

    gradient, z = torch.empty_like(input), as_array(input)
    slopes = upstream.to(torch.float32).contiguous().numpy()
    out = as_array(gradient)
    on_all_threads(partial(voxel_kernels.map_slopes_of, z, as_array(phi), np.float32(shift), slopes, out), z.shape)
    return gradient


def on_all_threads(work: Callable[[int, int], None], shape: tuple[int, ...]) -> None:
    """Have all pieces of a (B, C, V) worked on: ``work`` takes the first piece's number and that after the last one's.

    Which voxels make a piece does not depend on the number of threads, so neither does the result. This thread
    begins at once, the others join it when they have woken up.
    """
    from . import kernels

    count = shape[0] * kernels.pieces(shape[2])
    shares = max(1, min(count, math.prod(shape) // SHARE))
    if shares == 1 or torch.get_num_threads() == 1:
        work(0, count)
        return
    bounds = iter([(count * i // shares, count * (i + 1) // shares) for i in range(shares)])

    def take() -> None:
        for between in bounds:
            work(*between)

    others = [pool().submit(take) for _ in range(min(torch.get_num_threads(), shares) - 1)]
    try:
        take()
    finally:
        for other in others:
            other.result()


def readable(target: Tensor) -> NDArray[Any]:
    """Return a target as an array of a dtype that the loops are compiled for."""
    dtype = READABLE[target.dtype]
    return as_array(target.view(dtype) if dtype == torch.uint8 else target.to(dtype))


def reading_of(target: Tensor, rules: Rules) -> int:
    """Return how the loops are to read a target."""
    from . import kernels

    if not rules.labels:
        return kernels.CHANNELS
    return kernels.FLOATING_LABELS if target.is_floating_point() else kernels.LABELS


def as_array(x: Tensor) -> NDArray[Any]:
    """Return a contiguous (B, C, *S) as an array (B, C, V) of the same memory."""
    array: NDArray[Any] = x.detach().flatten(2).numpy()
    return array


@lru_cache(maxsize=1)
def pool() -> ThreadPoolExecutor:
    """Return the threads that loops run on; they wait for work as long as the process lives."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="monai_lossext")


if hasattr(os, "register_at_fork"):  # a forked process has none of its parent's threads
    os.register_at_fork(after_in_child=pool.cache_clear)
