"""Functions of voxels, computed and differentiated part by part: what is made of a part stays in the cache.

Kept for the backward pass is the input, which the caller holds anyway. Where parts are not wanted (:mod:`.paths`), the
same functions see the whole volume at once, which is the oracle of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .parts import Slices, parts
from .paths import fused
from .precision import accumulator_dtype

Values = Callable[[Slices, Tensor], Tensor]  # index of a part, and its input -> values of its voxels
# Scale, whether with gradient -> the sum, the number of voxels and the gradient; or None where it cannot be done.
WholeSum = Callable[[float, bool], tuple[float, float, Tensor | None] | None]
Sums = Callable[[Slices, Tensor, Tensor | None], tuple[Tensor, Tensor]]  # these, and its factors -> sum, number


def each_voxel(values: Values, input: Tensor, halo: int = 0) -> Tensor:
    """Return the values of all voxels, (B, 1 or C, *S), with gradient to the input.

    Args:
        values: what to compute of the voxels at an index, (B, 1 or C, *S), given their input.
        input: (B, C, *S).
        halo: how far around a voxel ``values`` looks, in voxels.
    """
    if not fused():
        return values(everything(input), input)
    each: Tensor = EachVoxel.apply(values, halo, input)  # type: ignore[no-untyped-call]
    return each


def sum_and_number(
    sums: Sums, scale: float, input: Tensor, factors: Tensor | None, loops: WholeSum | None = None, halo: int = 0
) -> tuple[Tensor, Tensor]:
    """Return a sum over all voxels, with gradient to input and factors, and the number of voxels in it, in float64.

    Args:
        sums: what to add up of the voxels at an index, given their input, with a halo, and factors, and how many these
            count.
        scale: multiplies the sum before its gradient is rounded to the input's type.
        input: (B, C, *S).
        factors: (B, 1 or C, *S), or None.
        loops: all of that at once, if there is a faster way to compute it. Factors have no gradient then.
        halo: how far around a voxel ``sums`` looks, in voxels.
    """
    if not fused():
        total, number = sums(everything(input), input, factors)
        return total * scale, number
    both: tuple[Tensor, Tensor] = SumOfVoxels.apply(sums, scale, input, factors, loops, halo)  # type: ignore[no-untyped-call]
    return both


def everything(x: Tensor) -> Slices:
    """Return the index of all of ``x``."""
    return (slice(None),) * x.ndim


def with_halo(where: Slices, shape: Sequence[int], halo: int) -> tuple[Slices, Slices]:
    """Return the index of a part with the voxels around it, and that of the part in it."""
    wide, inner = list(where), [slice(None)] * len(where)
    for axis in range(2, len(where)):
        start, stop, _ = where[axis].indices(shape[axis])
        first = max(start - halo, 0)
        wide[axis], inner[axis] = slice(first, stop + halo), slice(start - first, stop - first)
    return tuple(wide), tuple(inner)


class EachVoxel(Function):
    """The values of all voxels, which are computed again to be differentiated."""

    @staticmethod
    def forward(ctx: Any, values: Values, halo: int, input: Tensor) -> Tensor:
        """Return the values, (B, 1 or C, *S)."""
        ctx.values, ctx.halo = values, halo
        ctx.save_for_backward(input)
        if input.numel() == 0:
            return values(everything(input), input)
        each = None
        for where in parts(input, halo=halo):
            wide, inner = with_halo(where, input.shape, halo)
            some = values(wide, input[wide])[inner]
            if each is None:
                each = some.new_empty(input.shape[0], some.shape[1], *input.shape[2:])
            each[where] = some
        assert each is not None
        return each

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input."""
        (input,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants to differentiate the gradient
            each = ctx.values(everything(input), input)
            return None, None, *torch.autograd.grad(each, input, upstream, create_graph=True)
        gradient = torch.zeros_like(input) if ctx.halo else torch.empty_like(input)
        for where in parts(input, halo=ctx.halo):
            wide, inner = with_halo(where, input.shape, ctx.halo)
            part = input[wide].detach().requires_grad_()
            with torch.enable_grad():
                some = ctx.values(wide, part)[inner]
            (found,) = torch.autograd.grad(some, part, upstream[0][where])
            gradient[wide] = gradient[wide] + found if ctx.halo else found
        return None, None, gradient


class SumOfVoxels(Function):
    """The sum over all voxels; its gradient is written in the same walk."""

    @staticmethod
    def forward(
        ctx: Any, sums: Sums, scale: float, input: Tensor, factors: Tensor | None, loops: WholeSum | None, halo: int
    ) -> tuple[Tensor, Tensor]:
        """Return the sum times ``scale``, and the number of voxels in it."""
        ctx.sums, ctx.loops, ctx.halo, ctx.scale, ctx.wanted = sums, loops, halo, scale, ctx.needs_input_grad[2:4]
        ctx.save_for_backward(input, factors)
        ctx.wide = torch.finfo(input.dtype).bits >= 32  # half precision is rounded when the last factor is known
        wanted = ctx.wanted if ctx.wide else (False, False)
        total, number, ctx.gradients = walked(sums, scale, input, factors, wanted, loops, halo)
        ctx.mark_non_differentiable(number)
        return total, number

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of input and factors."""
        input, factors = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants to differentiate the gradient
            total = ctx.sums(everything(input), input, factors)[0] * ctx.scale
            asked = [x for x, want in zip((input, factors), ctx.wanted, strict=True) if want]
            found = iter(torch.autograd.grad(total, asked, upstream[0], create_graph=True))
            return None, None, *(next(found) if want else None for want in ctx.wanted), None, None
        if not ctx.wide:
            gradients = walked(ctx.sums, ctx.scale * upstream[0], input, factors, ctx.wanted, None, ctx.halo)[2]
            return None, None, *gradients, None, None
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # in a second pass through a graph that was retained
            gradients = walked(ctx.sums, ctx.scale, input, factors, ctx.wanted, ctx.loops, ctx.halo)[2]
        if upstream[0] != 1:
            gradients = [None if x is None else x.mul_(upstream[0]) for x in gradients]
        return None, None, *gradients, None, None


def walked(
    sums: Sums,
    scale: float | Tensor,
    input: Tensor,
    factors: Tensor | None,
    wanted: Sequence[bool],
    loops: WholeSum | None = None,
    halo: int = 0,
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Return the scaled sum, the number of voxels, and the wanted ones of the gradients to input and factors."""
    tensors, dtype = (input, factors), accumulator_dtype(input)
    at_once = None if loops is None else loops(float(scale), wanted[0])
    if at_once is not None:
        value, count = torch.tensor(at_once[:2], dtype=dtype, device=input.device).unbind()
        return value, count, [at_once[2], None]
    total, number, scale = (torch.as_tensor(x, dtype=dtype, device=input.device) for x in (0.0, 0.0, scale))
    empty = torch.zeros_like if halo else torch.empty_like
    gradients = [empty(x) if x is not None and want else None for x, want in zip(tensors, wanted, strict=True)]
    for where in parts(input, halo=halo):
        wide = with_halo(where, input.shape, halo)[0]
        some, some_factors = input[wide].detach(), None if factors is None else factors[where].detach()
        both = zip((some, some_factors), wanted, strict=True)
        asked = [x.requires_grad_() for x, want in both if x is not None and want]
        with torch.set_grad_enabled(bool(asked)):
            part, count = sums(where, some, some_factors)
        total, number = total + part.detach() * scale, number + count
        if asked:
            found = iter(torch.autograd.grad(part, asked, scale))
            for gradient in gradients:
                if gradient is not None and halo:
                    gradient[wide] += next(found)
                elif gradient is not None:
                    gradient[where] = next(found)
    return total, number, gradients
