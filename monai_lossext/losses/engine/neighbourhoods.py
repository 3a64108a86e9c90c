"""Functions of voxels and of those around them, computed block by block: what they make on the way takes many volumes.

The structural loss takes 2.5 times the logits' memory so, and 20 times otherwise (14 classes, 128^3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import paths
from .precision import accumulator_dtype, computing_dtype, narrowed

Slices = tuple[slice, ...]
OfBlock = Callable[..., Tensor]  # of the input and the other tensors of a block -> values of its voxels

BLOCKS, SMALLEST, LARGEST = 32, 2**13, 2**22  # how many there should be, and elements of one


def blocks(x: Tensor, halo: int) -> Iterator[tuple[Slices, Slices]]:
    """Yield the index of each block of (B, C, *S) with the voxels around it, and that of the block inside of it."""
    size, channels, *space = x.shape
    whole = x.numel() if paths.waits(x) else max(SMALLEST, (8 * halo) ** len(space), min(x.numel() // BLOCKS, LARGEST))
    room, steps = max(1, whole // max(channels, 1)), [1] * len(space)
    for left, axis in zip(range(len(space), 0, -1), sorted(range(len(space)), key=space.__getitem__), strict=True):
        number = -(-space[axis] // max(1, round(room ** (1 / left))))  # short axes leave more to the others
        steps[axis] = -(-space[axis] // max(number, 1))
        room = max(1, room // max(steps[axis], 1))
    samples = max(1, room)
    everything = slice(None)
    for first, *corner in product(
        range(0, size, samples), *(range(0, n, s) for n, s in zip(space, steps, strict=True))
    ):
        wide, inner = [slice(first, first + samples), everything], [everything, everything]
        for start, step in zip(corner, steps, strict=True):
            begin = max(start - halo, 0)
            wide.append(slice(begin, start + step + halo))
            inner.append(slice(start - begin, start - begin + step))
        yield tuple(wide), tuple(inner)


def parts(tensors: Sequence[Any], where: Slices, ndim: int) -> list[Any]:
    """Return what belongs to a block: of tensors with a value a voxel its voxels, of (B, C) its samples, else all."""
    return [
        x if not isinstance(x, Tensor) or x.ndim < 2 else x[where] if x.ndim == ndim else x[where[0]] for x in tensors
    ]


@torch.no_grad()
def each_voxel(function: OfBlock, halo: int, input: Tensor, *tensors: Any) -> Tensor:
    """Return the values of all voxels, (B, C, *S), without gradient; arguments as for :class:`SumOfBlocks`."""
    each = torch.empty(input.shape, dtype=computing_dtype(input), device=input.device)
    for wide, inner in blocks(input, halo):
        place = tuple(
            slice((a.start or 0) + (b.start or 0), None if b.stop is None else (a.start or 0) + b.stop)
            if axis > 1
            else a
            for axis, (a, b) in enumerate(zip(wide, inner, strict=True))
        )
        each[place] = function(input[wide], *parts(tensors, wide, input.ndim))[inner]
    return each


class SumOfBlocks(Function):
    """The sum of the values of all voxels. Its gradient is found with it, block by block, and is all that is kept."""

    @staticmethod
    def forward(ctx: Any, function: OfBlock, halo: int, input: Tensor, *tensors: Any) -> Tensor:
        """Return the sum in float64.

        Args:
            ctx: what the gradient needs.
            function: of the input and the other tensors of a block, which holds no tensors itself; voxel by voxel but
                for a neighbourhood.
            halo: how far around a voxel the function looks, in voxels.
            input: (B, C, *S).
            tensors: tensors with a value a voxel, (B, C) or numbers.
        """
        dtype, wanted = accumulator_dtype(input), ctx.needs_input_grad[2]
        total = torch.zeros((), dtype=dtype, device=input.device)
        gradient = torch.zeros(input.shape, dtype=computing_dtype(input), device=input.device)
        for wide, inner in blocks(input, halo):
            z = input[wide].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                value = function(z, *parts(tensors, wide, input.ndim))[inner].sum(dtype=dtype)
            total = total + value.detach()
            if wanted:
                gradient[wide] += torch.autograd.grad(value, z)[0]
        ctx.function = function
        ctx.others = [None if isinstance(x, Tensor) else x for x in tensors]
        ctx.save_for_backward(input, gradient, *(x if isinstance(x, Tensor) else None for x in tensors))
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input."""
        input, gradient, *tensors = ctx.saved_tensors
        nothing = [None] * len(tensors)
        if torch.is_grad_enabled():  # somebody wants to differentiate the gradient
            given = [x if other is None else other for x, other in zip(tensors, ctx.others, strict=True)]
            total = ctx.function(input, *given).sum(dtype=accumulator_dtype(input))
            return None, None, *torch.autograd.grad(total, input, upstream, create_graph=True), *nothing
        return None, None, narrowed(gradient * upstream[0].to(gradient), input.dtype), *nothing


def sum_of_voxels(function: OfBlock, halo: int, input: Tensor, *tensors: Any) -> Tensor:
    """Return :class:`SumOfBlocks`, or where torch looks at each operation the same of the whole volume."""
    if paths.transformed() or torch.compiler.is_compiling():
        return function(input, *tensors).sum(dtype=accumulator_dtype(input))
    total: Tensor = SumOfBlocks.apply(function, halo, input, *tensors)  # type: ignore[no-untyped-call]
    return total
