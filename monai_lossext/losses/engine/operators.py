"""The operations, registered with torch: ``torch.ops.monai_lossext.sums`` and its companions.

A registered operator is one node to ``torch.compile``, ``torch.export``, the profiler and fake tensors, and only plain
tensors with memory of their own reach what computes it. On a CPU that is a compiled loop where it fits, on GPUs of
NVIDIA and AMD a Triton kernel, and the plain form else.

Losses call :func:`voxel_sums`, :func:`at_once`, :func:`voxel_values`, :func:`lovasz_slopes` and :func:`part_sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import paths
from . import arithmetic, checks, plain, segments, sorting
from .cpu import kernels
from .cuda import kernels as cuda
from .distributed import is_spread, raise_together
from .plain import KINDS, Wanted
from .precision import accumulator_dtype, computing_dtype
from .reading import Reading, Rules, spread

NAMESPACE = "monai_lossext"
RULES = "bool labels, int channels, int? ignore_index, str activation, bool signed"
WANTED = "bool counts, bool products, str further, str likelihood, float gamma"
DATA = "Tensor input, Tensor target, Tensor? mask, Tensor? classes"
FAULTS = ("target", "mask", "input")

library = torch.library.Library(NAMESPACE, "DEF")
library.define(f"sums({DATA}, {RULES}, {WANTED}, bool raises) -> (Tensor, Tensor)")
library.define(f"gradient(Tensor upstream, {DATA}, Tensor? bad, {RULES}, {WANTED}) -> Tensor")
library.define(
    f"values({DATA}, Tensor inside, Tensor outside, bool exclusive, {RULES}, {WANTED}, bool raises) -> (Tensor, Tensor)"
)
library.define(
    "lovasz(Tensor errors, Tensor target, Tensor? mask, bool labels, int first, bool penalize) -> (Tensor, Tensor)"
)
PARTS = "Tensor input, Tensor parts, Tensor? mask, str activation, int first, int most, bool nearest, bool entropy"
library.define(f"parts({PARTS}) -> Tensor")
library.define(f"parts_gradient(Tensor upstream, {PARTS}) -> Tensor")
PROGRAM = "int[] lines, float[] constants, int width, int[] shape, ScalarType dtype"
library.define(f"compute(Tensor sums, Tensor? given, {PROGRAM}, bool slopes) -> (Tensor, Tensor)")
NAMES = ("sums", "gradient", "values", "lovasz", "parts", "parts_gradient", "compute")
OPERATORS = tuple(f"{NAMESPACE}::{name}" for name in NAMES)

Static = tuple[Any, ...]  # rules and what is wanted, as an operator takes them


def flattened(rules: Rules, wanted: Wanted) -> Static:
    """Return rules and what is wanted as an operator takes them."""
    how = rules.labels, rules.channels, rules.ignore_index, rules.activation or "", rules.signed
    return *how, wanted.counts, wanted.products, wanted.further or "", wanted.likelihood or "", wanted.gamma


def unflattened(static: Sequence[Any]) -> tuple[Rules, Wanted]:
    """Return what :func:`flattened` was given."""
    labels, channels, ignore_index, activation, signed, counts, products, further, likelihood, gamma = static
    rules = Rules(labels, channels, ignore_index, activation or None, signed)
    return rules, Wanted(counts, products, further or None, likelihood or None, gamma)


# ----------------------------------------------------------------------------------------------- what computes them


def sums_impl(input: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor | None, *how: Any) -> Any:
    """Return the sums, (KINDS, B, C), and how many values of target, mask and input are out of range, (3,).

    Where to look at them would wait, it is told only that there are such: the sums are NaN then.
    """
    *static, raises = how
    rules, wanted = unflattened(static)
    if kernels.fits(rules, wanted, input, target, mask):
        found = kernels.sums(rules, wanted, input, target, mask, classes)
        if found is not None:
            return found[0], faults(found[1], rules, input, target, mask, raises, wanted)
    if cuda.fits(rules, wanted, input, target, mask):
        on_gpu = cuda.sums(rules, wanted, input, target, mask, classes, raises)
        if on_gpu is not None:
            return on_gpu
    if paths.waits(input):
        bad = looked_at(rules, input, target, mask, raises, wanted)
        with torch.no_grad():
            rows = plain.sums(rules, wanted, input, target, mask, classes)
            return stacked(rows).masked_fill(bad.any(), torch.nan), bad
    if raises:
        raise_for(rules, input, target, mask, wanted)
    with torch.no_grad():
        return stacked(plain.sums(rules, wanted, input, target, mask, classes)), no_faults(input)


def gradient_impl(
    upstream: Tensor,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
    bad: Tensor | None,
    *static: Any,
) -> Tensor:
    """Return the gradient of the input, given that of the sums; 0 if values are out of range and nobody has raised."""
    rules, wanted = unflattened(static)
    if kernels.fits(rules, wanted, input, target, mask):
        found = kernels.gradient(rules, wanted, upstream, input, target, mask, classes)
        if found is not None:
            return found
    if cuda.fits(rules, wanted, input, target, mask):
        found = cuda.gradient(rules, wanted, upstream, input, target, mask, classes, bad)
        if found is not None:
            return found
    with torch.no_grad():
        found = plain.gradient(rules, wanted, upstream.unbind(), input, target, mask, classes)
        return without(bad, found)


def stacked(sums: Sequence[Tensor | None]) -> Tensor:
    """Return the sums as one tensor, (KINDS, B, C)."""
    nothing = next(torch.zeros_like(x) for x in sums if x is not None)
    return torch.stack([nothing if x is None else x for x in sums])


def values_impl(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
    inside: Tensor,
    outside: Tensor,
    exclusive: bool,
    *how: Any,
) -> Any:
    """Return the likelihoods of the voxels, and what is out of range, as :func:`sums_impl` does."""
    *static, raises = how
    rules, wanted = unflattened(static)
    if kernels.fits(rules, wanted, input, target, mask):
        found = kernels.values(rules, wanted, exclusive, inside, outside, input, target, mask, classes)
        if found is not None:
            return found[0], faults(found[1], rules, input, target, mask, raises, wanted)
    if cuda.fits(rules, wanted, input, target, mask):
        on_gpu = cuda.values(rules, wanted, exclusive, inside, outside, input, target, mask, classes, raises)
        if on_gpu is not None:
            return on_gpu
    if paths.waits(input):
        bad = looked_at(rules, input, target, mask, raises, wanted)
        with torch.no_grad():
            each = plain.values(rules, wanted, exclusive, inside, outside, input, target, mask, classes)
            return each.masked_fill(bad.any(), torch.nan), bad
    if raises:
        raise_for(rules, input, target, mask, wanted)
    with torch.no_grad():
        each = plain.values(rules, wanted, exclusive, inside, outside, input, target, mask, classes)
        return each, no_faults(input)


def lovasz_impl(
    errors: Tensor, target: Tensor, mask: Tensor | None, labels: bool, first: int, penalize: bool
) -> tuple[Tensor, Tensor]:
    """Return :func:`.sorting.lovasz`."""
    few, many = kernels.FEWEST_TO_SORT, kernels.MOST_TO_SORT
    fits = errors.dtype == torch.float32 and few <= errors.shape[-1] <= many and paths.kernels_available()
    if fits and kernels.readable(errors, target, mask):
        found = kernels.lovasz(errors, target, mask, labels, first, penalize)
        if found is not None:
            return found
    with torch.no_grad():
        return sorting.lovasz(errors, target, mask, labels, first, penalize)


def parts_impl(
    input: Tensor,
    parts: Tensor,
    mask: Tensor | None,
    activation: str,
    first: int,
    most: int,
    nearest: bool,
    entropy: bool,
) -> Tensor:
    """Return :func:`.segments.sums_of_parts`."""
    act: Any = activation or None
    how = first, most, nearest, entropy
    if paths.kernels_available() and kernels.readable(input, parts, mask):
        found = kernels.part_sums(input, parts, mask, act, *how)
        if found is not None:
            return found
    with torch.no_grad():
        return segments.sums_of_parts(input, parts, mask, act, *how)


def parts_gradient_impl(
    upstream: Tensor,
    input: Tensor,
    parts: Tensor,
    mask: Tensor | None,
    activation: str,
    first: int,
    most: int,
    nearest: bool,
    entropy: bool,
) -> Tensor:
    """Return the gradient of the input, given that of the sums."""
    act: Any = activation or None
    how = first, most, nearest, entropy
    if paths.kernels_available() and kernels.readable(input, parts, mask):
        found = kernels.part_gradient(upstream, input, parts, mask, act, *how)
        if found is not None:
            return found
    with torch.enable_grad():
        z = input.detach().requires_grad_()
        found = segments.sums_of_parts(z, parts, mask, act, *how)
        (gradient,) = torch.autograd.grad(found[1:], z, upstream[1:])
    return gradient


def compute_impl(
    sums: Tensor, given: Tensor | None, lines: Any, constants: Any, width: int, shape: Any, dtype: Any, slopes: bool
) -> tuple[Tensor, Tensor]:
    """Return what a program of :mod:`.arithmetic` computes, and its slopes by the sums, or none."""
    program = arithmetic.Program(tuple(lines), tuple(constants), width, tuple(shape), dtype)
    found = cuda.compute(program, sums, given, slopes)
    return found or (arithmetic.by_torch(program, sums, given), sums.new_empty(0))


def no_faults(input: Tensor) -> Tensor:
    """Return that nothing is known to be out of range."""
    return torch.zeros(len(FAULTS), dtype=accumulator_dtype(input), device=input.device)


def faults(
    found: tuple[float, float, float],
    rules: Rules,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    raises: bool,
    wanted: Wanted,
) -> Tensor:
    """Return how many values are out of range; raise ValueError if there are such and ``raises``."""
    if any(found) and raises:
        raise_for(rules, input, target, mask, wanted)
    return torch.tensor(found, dtype=torch.float64, device="cpu")


def looked_at(rules: Rules, input: Tensor, target: Tensor, mask: Tensor | None, looks: bool, wanted: Wanted) -> Tensor:
    """Return whether a value is out of range, (3,), for which the next call raises; 0 if nobody looks."""
    reading = Reading(rules, input, target, mask, None, None, None, "auto")
    bad = checks.check(reading, probabilities=wanted.likelihood != "hinge") if looks else None
    return no_faults(input) if bad is None else no_faults(input) + bad


def without(bad: Tensor | None, gradient: Tensor) -> Tensor:
    """Return the gradient, 0 if a value is out of range and nobody could raise for it yet."""
    return gradient if bad is None or not paths.waits(gradient) else gradient.masked_fill(bad.any(), 0)


def raise_for(rules: Rules, input: Tensor, target: Tensor, mask: Tensor | None, wanted: Wanted) -> None:
    """Raise ValueError if a value is out of range, and name it."""
    reading = Reading(rules, input, target, mask, None, None, None, "now")
    checks.check(reading, probabilities=wanted.likelihood != "hinge")


for name, function in (
    ("sums", sums_impl),
    ("gradient", gradient_impl),
    ("values", values_impl),
    ("lovasz", lovasz_impl),
    ("parts", parts_impl),
    ("parts_gradient", parts_gradient_impl),
    ("compute", compute_impl),
):
    library.impl(name, function, "CompositeExplicitAutograd")


# ---------------------------------------------------------------------------------------------- what torch has to know


@torch.library.register_fake(f"{NAMESPACE}::sums", lib=library)
def fake_sums(input: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Return the shapes of :func:`sums_impl`."""
    dtype = accumulator_dtype(input)
    return input.new_empty((KINDS, *input.shape[:2]), dtype=dtype), input.new_empty(len(FAULTS), dtype=dtype)


@torch.library.register_fake(f"{NAMESPACE}::gradient", lib=library)
def fake_gradient(upstream: Tensor, input: Tensor, *_: Any) -> Tensor:
    """Return the shape of :func:`gradient_impl`."""
    return torch.empty_like(input)


@torch.library.register_fake(f"{NAMESPACE}::values", lib=library)
def fake_values(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None,
    classes: Tensor | None,
    inside: Tensor,
    outside: Tensor,
    exclusive: bool,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    """Return the shapes of :func:`values_impl`."""
    shape = (input.shape[0], 1 if exclusive else input.shape[1], *input.shape[2:])
    each = input.new_empty(shape, dtype=computing_dtype(input))
    return each, input.new_empty(len(FAULTS), dtype=accumulator_dtype(input))


@torch.library.register_fake(f"{NAMESPACE}::lovasz", lib=library)
def fake_lovasz(errors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Return the shapes of :func:`lovasz_impl`."""
    return errors.new_empty(errors.shape), errors.new_empty((*errors.shape[:2], 3), dtype=accumulator_dtype(errors))


@torch.library.register_fake(f"{NAMESPACE}::compute", lib=library)
def fake_compute(
    sums: Tensor, _: Any, __: Any, ___: Any, width: int, shape: Any, dtype: Any, slopes: bool
) -> tuple[Tensor, Tensor]:
    """Return the shapes of :func:`compute_impl`."""
    return sums.new_empty(shape, dtype=dtype), sums.new_empty((*sums.shape[:2], width) if slopes else 0)


def keep_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the gradient of sums needs."""
    ctx.save_for_backward(*inputs[:4], output[1])
    ctx.static = inputs[4:-1]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def back_from_sums(ctx: Any, upstream: Tensor | None, _: Any = None) -> tuple[Tensor | None, ...]:
    """Return the gradient of the input of sums."""
    nothing = [None] * (len(ctx.static) + 4)
    if upstream is None:
        return None, *nothing
    *data, bad = ctx.saved_tensors
    return gradient_of(ctx.static, upstream, *data, bad=bad), *nothing


def keep_values(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keep what the gradient of values needs."""
    ctx.save_for_backward(*inputs[:6], output[1])
    ctx.exclusive, ctx.static = inputs[6], inputs[7:-1]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def back_from_values(ctx: Any, upstream: Tensor | None, _: Any = None) -> tuple[Tensor | None, ...]:
    """Return the gradient of the input of values: that of their sum, in which each weighs as much as its gradient."""
    nothing = [None] * (len(ctx.static) + 7)
    if upstream is None:
        return None, *nothing
    *data, inside, outside, bad = ctx.saved_tensors
    of_values = ctx.static, ctx.exclusive, upstream, data, inside, outside
    return gradient_of_values(*of_values, bad=bad), *nothing


def gradient_of(
    static: Static,
    upstream: Tensor | Sequence[Tensor | None],
    *data: Any,
    operators: bool = True,
    bad: Tensor | None = None,
) -> Tensor:
    """Return the gradient of the input of sums, or a graph of it where somebody wants to differentiate it.

    What was found in torch's operations is differentiated in these: ``operators`` says that it was not. ``bad``, (3,),
    says whether a value was out of range.
    """
    rules, wanted = unflattened(static)
    if torch.is_grad_enabled():
        given = [x for x in upstream if x is not None]

        def asked(input: Tensor) -> list[Tensor]:
            found = plain.sums(rules, wanted, input, *data[1:])
            return [
                torch.zeros_like(x) if s is None else s for s, x in zip(found, upstream, strict=True) if x is not None
            ]

        return without(bad, again(asked, data[0], given))
    if operators and use_operators(data[0]):
        together = upstream if isinstance(upstream, Tensor) else stacked(upstream)
        found: Tensor = torch.ops.monai_lossext.gradient(together, *data, bad, *static)
        return found
    return without(bad, plain.gradient(rules, wanted, tuple(upstream), *data))


def gradient_of_values(
    static: Static,
    exclusive: bool,
    upstream: Tensor,
    data: Sequence[Any],
    inside: Tensor,
    outside: Tensor,
    operators: bool = True,
    bad: Tensor | None = None,
) -> Tensor:
    """Return the gradient of the input of values."""
    input, target, mask, classes = data
    rules, wanted = unflattened(static)
    if torch.is_grad_enabled():
        found = again(
            lambda z: [plain.values(rules, wanted, exclusive, inside, outside, z, target, mask, classes)],
            input,
            [upstream],
        )
        return without(bad, found)
    weight = upstream if mask is None else upstream * mask
    of_sums: list[Tensor | None] = [None] * KINDS
    of_sums[plain.INSIDE], of_sums[plain.OUTSIDE] = inside, None if exclusive else outside
    return gradient_of(static, of_sums, input, target, weight, classes, operators=operators, bad=bad)


@torch.library.register_fake(f"{NAMESPACE}::parts", lib=library)
def fake_parts(input: Tensor, parts: Tensor, _: Any, __: Any, ___: int, most: int, ____: bool, entropy: bool) -> Tensor:
    """Return the shape of :func:`parts_impl`."""
    shape = (2 + int(entropy), *parts.shape[:2], 2 * most + 1)
    return input.new_empty(shape, dtype=accumulator_dtype(input))


@torch.library.register_fake(f"{NAMESPACE}::parts_gradient", lib=library)
def fake_parts_gradient(upstream: Tensor, input: Tensor, *_: Any) -> Tensor:
    """Return the shape of :func:`parts_gradient_impl`."""
    return torch.empty_like(input)


def keep_parts(ctx: Any, inputs: Any, output: Any) -> None:
    """Keep what the gradient needs: what was given."""
    input, parts, mask, *how = inputs
    ctx.save_for_backward(input, parts, mask)
    ctx.how = how


def back_from_parts(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
    """Return the gradient of the input of parts."""
    input, parts, mask = ctx.saved_tensors
    if torch.is_grad_enabled():
        activation, *rest = ctx.how
        gradient = again(
            lambda z: [segments.sums_of_parts(z, parts, mask, activation or None, *rest)], input, [upstream]
        )
    else:
        gradient = torch.ops.monai_lossext.parts_gradient(upstream, input, parts, mask, *ctx.how)
    return gradient, *[None] * 7


torch.library.register_autograd(f"{NAMESPACE}::parts", back_from_parts, setup_context=keep_parts, lib=library)


def again(function: Any, input: Tensor, upstream: Sequence[Tensor]) -> Tensor:
    """Return the gradient of a function as a graph."""
    found = [(value, of) for value, of in zip(function(input), upstream, strict=True) if value.requires_grad]
    if not found:
        return torch.zeros_like(input)
    values, of = zip(*found, strict=True)
    (gradient,) = torch.autograd.grad(values, input, of, create_graph=True)
    return gradient


torch.library.register_autograd(f"{NAMESPACE}::sums", back_from_sums, setup_context=keep_sums, lib=library)
torch.library.register_autograd(f"{NAMESPACE}::values", back_from_values, setup_context=keep_values, lib=library)


class Rows(Function):
    """Sums by themselves. Their gradient is one operation on a device, with one tensor of zeros for all without one."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor) -> tuple[Tensor, ...]:
        """Return the sums, KINDS times (B, C)."""
        ctx.set_materialize_grads(False)
        return sums.unbind()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Tensor | None:
        """Return the gradients together, (KINDS, B, C)."""
        return None if all(x is None for x in upstream) else stacked(upstream)


class Together(tuple[Tensor, ...]):
    """Sums by themselves, and all of them, of which a kernel can compute."""

    sums: Tensor


class Arithmetic(Function):
    """What was noted of a function of sums, by one kernel. Its gradient is one operation on a device."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, given: Tensor | None, program: arithmetic.Program) -> Tensor:
        """Return the result."""
        out, slopes = torch.ops.monai_lossext.compute(sums, given, *program, ctx.needs_input_grad[0])
        ctx.save_for_backward(sums, given, slopes)
        ctx.program = program
        return out  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the sums."""
        sums, given, slopes = ctx.saved_tensors
        if slopes.numel() == 0 or torch.is_grad_enabled():
            with torch.enable_grad():
                x = sums if sums.requires_grad else sums.detach().requires_grad_()
                return again(lambda z: [arithmetic.by_torch(ctx.program, z, given)], x, upstream), None, None
        found, left_out = slopes * upstream[0], sums.shape[2] - slopes.shape[2]
        return torch.nn.functional.pad(found, (left_out, 0)) if left_out else found, None, None


class PlainSums(Function):
    """The sums in torch's operations, with a gradient of their own, so that nothing is kept but what was given."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, mask: Any, classes: Any, bad: Tensor | None, static: Static
    ) -> tuple[Tensor | None, ...]:
        """Return the sums, of which one that every loss looks at is NaN if a value is out of range."""
        rules, wanted = unflattened(static)
        data = input, target, mask, classes
        lean = plain.sums_with_slopes(rules, wanted, *data) if ctx.needs_input_grad[0] else None
        found, ctx.slopes = lean or (plain.sums(rules, wanted, *data), None)
        ctx.by_slopes = lean is not None
        ctx.save_for_backward(input, target, mask, classes, bad)
        ctx.static = static
        ctx.set_materialize_grads(False)
        found = spoilt(found, bad, mask is not None)
        ctx.mark_non_differentiable(*(x for x in found[: plain.TP] if x is not None))
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input, 0 if a value is out of range."""
        *data, bad = ctx.saved_tensors
        if ctx.by_slopes and not torch.is_grad_enabled():
            rules, wanted = unflattened(ctx.static)
            slopes, ctx.slopes = ctx.slopes, None  # which become the gradient; another one finds them again, bit by bit
            if slopes is None:
                _, slopes = plain.sums_with_slopes(rules, wanted, *data)  # type: ignore[misc]
            gradient = plain.gradient_by_slopes(rules, upstream, data[1], slopes, data[0])
        else:
            gradient = gradient_of(ctx.static, upstream, *data, operators=False)
        return gradient if bad is None else gradient.masked_fill(bad, 0), None, None, None, None, None


def spoilt(sums: list[Tensor | None], bad: Tensor | None, weighs: bool) -> list[Tensor | None]:
    """Return sums of which those that every loss looks at are NaN if a value is out of range."""
    if bad is None:
        return sums
    kinds = [plain.FP, plain.INSIDE]
    kinds += [plain.FIRST] if sums[plain.SECOND] is not None else []  # instead of the counts
    kinds += [plain.N] if weighs else []  # of wrong weights it may say that nothing counts
    for kind in kinds:
        found = sums[kind]
        if found is not None:
            sums[kind] = found.masked_fill(bad, torch.nan)
    return sums


class PlainValues(Function):
    """The values of voxels in torch's operations, likewise."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        mask: Any,
        classes: Any,
        inside: Tensor,
        outside: Tensor,
        exclusive: bool,
        static: Static,
    ) -> Tensor:
        """Return the values."""
        ctx.save_for_backward(input, target, mask, classes, inside, outside)
        ctx.exclusive, ctx.static = exclusive, static
        data = input, target, mask, classes
        return plain.values(*unflattened(static), exclusive, inside, outside, *data)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input."""
        *data, inside, outside = ctx.saved_tensors
        of_values = ctx.static, ctx.exclusive, upstream[0], data, inside, outside
        gradient = gradient_of_values(*of_values, operators=False)
        return gradient, *[None] * 7


# ----------------------------------------------------------------------------------------------------- what losses call


def use_loops(x: Tensor) -> bool:
    """Return whether an operation is done by its operator, and there by a compiled loop on the CPU."""
    return x.device.type == "cpu" and paths.kernels_available() and not paths.transformed()


def use_operators(x: Tensor) -> bool:
    """Return whether an operation is done by its operator: where there are kernels for the device, of which torch sees
    nothing. Elsewhere torch sees, and compiles, the operations of the plain form.
    """
    return use_loops(x) or (cuda.takes(x) and not paths.transformed())


def raises_in_operator(reading: Reading, wanted: Wanted, deferred: bool = False) -> bool:
    """Return whether an operator looks for values out of range; raise for them where the caller wants to wait."""
    if is_spread(reading.input):
        return False  # the others would wait for this process
    if use_loops(reading.input):
        return reading.validate != "never" and not deferred
    if reading.validate == "now" and not torch.compiler.is_compiling():
        raise_for(reading.rules, reading.input, reading.target, reading.mask, wanted)
    return reading.validate != "never"


def voxel_sums(
    reading: Reading, wanted: Wanted, *, deferred: bool = False
) -> tuple[tuple[Tensor | None, ...], Tensor | None]:
    """Return the sums of each sample and class, KINDS times (B, C) in float64, with gradient to the input.

    Args:
        reading: input, target and weights of a call.
        wanted: which sums; the others may be None.
        deferred: whether to return also how many values are out of range, a number, in the place of raising.

    Raises:
        ValueError: when a label, a target's value, a probability or a weight is out of range; see :mod:`.checks`.
    """
    reading = reading.activated()
    rules, data = reading.rules, (reading.input, reading.target, reading.mask, reading.classes)
    static = flattened(rules, wanted)
    if reading.input.numel() == 0:
        nothing = reading.input.sum() * torch.zeros(reading.input.shape[:2], device=reading.input.device)
        nothing = nothing.to(accumulator_dtype(reading.input))
        return (nothing,) * KINDS, nothing.new_zeros(()) if deferred else None
    if use_operators(reading.input):
        raises = raises_in_operator(reading, wanted, deferred)
        sums, found = torch.ops.monai_lossext.sums(*data, *static, raises)
        if reading.validate != "never":
            raise_together(found)
        compiling = torch.compiler.is_compiling()
        rows = Together(sums.unbind() if compiling else Rows.apply(sums))
        if cuda.takes(reading.input) and not (compiling or is_spread(sums)):
            rows.sums = sums
        return rows, found.sum() if deferred else None
    probabilities = wanted.likelihood != "hinge"
    if deferred and not paths.waits(reading.input):
        bad = None
        number = found_by(reading, wanted)
    else:
        bad = checks.check(reading, probabilities)
        number = torch.zeros((), device=reading.input.device) if bad is None else bad
    if paths.transformed() or torch.compiler.is_compiling():
        found = spoilt(plain.sums(rules, wanted, *data), bad, reading.mask is not None)
    else:
        found = PlainSums.apply(*data, bad, static)
    return tuple(found), number.to(accumulator_dtype(reading.input)) if deferred else None


def at_once(function: Callable[[Sequence[Any]], Tensor], rows: Sequence[Any]) -> Tensor:
    """Return a function of the sums that :func:`voxel_sums` returns; on GPUs by one kernel, where that can be noted."""
    sums = getattr(rows, "sums", None)
    noted = None if sums is None else arithmetic.noted(function, sums)
    if noted is None:
        return function(rows)
    program, given = noted
    found: Tensor = Arithmetic.apply(sums, given, program)  # type: ignore[no-untyped-call]
    return found


def found_by(reading: Reading, wanted: Wanted) -> Tensor:
    """Return whether a value is out of range, as a number that processes can add up."""
    try:
        checks.check(replace(reading, validate="now"), probabilities=wanted.likelihood != "hinge")
    except ValueError:
        return torch.ones((), device=reading.input.device)
    return torch.zeros((), device=reading.input.device)


def voxel_values(reading: Reading, wanted: Wanted, exclusive: bool, inside: Tensor, outside: Tensor) -> Tensor:
    """Return the weighted likelihood of each voxel, (B, 1, *S) for exclusive classes, else (B, C, *S), with gradient.

    Args:
        reading: input, target and weights of a call.
        wanted: which likelihood.
        exclusive: whether to add up over the classes.
        inside: (B, C), factors of what is inside of a class.
        outside: (B, C), factors of what is not, unless classes are exclusive.

    Raises:
        ValueError: as :func:`voxel_sums` does.
    """
    reading = reading.activated()
    rules, data = reading.rules, (reading.input, reading.target, reading.mask, reading.classes)
    static = flattened(rules, wanted)
    if reading.input.numel() > 0 and use_operators(reading.input):
        factors = inside.to(torch.float64), outside.to(torch.float64)
        raises = raises_in_operator(reading, wanted)
        each, found = torch.ops.monai_lossext.values(*data, *factors, exclusive, *static, raises)
        if reading.validate != "never":
            raise_together(found)
        return each  # type: ignore[no-any-return]
    bad = checks.check(reading, probabilities=wanted.likelihood != "hinge")
    if paths.transformed() or torch.compiler.is_compiling() or reading.input.numel() == 0:
        each = plain.values(rules, wanted, exclusive, inside, outside, *data)
    else:
        each = PlainValues.apply(*data, inside, outside, exclusive, static)
    return each if bad is None else torch.where(bad, torch.nan, each)


def lovasz_slopes(
    errors: Tensor, target: Tensor, mask: Tensor | None, labels: bool, first: int, penalize: bool
) -> tuple[Tensor, Tensor]:
    """Return :func:`.sorting.lovasz`, which has no gradient of its own."""
    if errors.numel() > 0 and use_loops(errors):
        found: tuple[Tensor, Tensor] = torch.ops.monai_lossext.lovasz(errors, target, mask, labels, first, penalize)
        return found
    return sorting.lovasz(errors, target, mask, labels, first, penalize)


def part_sums(reading: Reading, parts: Tensor, most: int, first: int, nearest: bool, entropy: bool) -> Tensor:
    """Return the sums over parts of each class from the first on, (2 or 3, B, C - first, 2 most + 1) in float64.

    These are weights, probabilities and entropies, of which all but the first have a gradient; see
    :func:`.segments.sums_of_parts`.

    Args:
        reading: input and weights of a call, of which voxels without weight are neutral.
        parts: (B, C - first, *S) integers from -most to most; those above 0 lie inside of the class.
        most: the largest number of a part there can be.
        first: the class that the parts begin with.
        nearest: whether parts below 0 are to be told apart; otherwise they count as part 0.
        entropy: whether the cross-entropies are wanted.
    """
    data, activation = (reading.input, parts, reading.mask), reading.rules.activation
    assert activation in ("sigmoid", "softmax", None)
    how: Any = first, most, nearest, entropy
    if use_operators(reading.input):
        found: Tensor = torch.ops.monai_lossext.parts(*data, activation or "", *how)
        return found
    return segments.sums_of_parts(*data, activation, *how)


def voxel_weights(reading: Reading, kept: Tensor | None, exclusive: bool) -> Tensor | None:
    """Return what each voxel counts, (B, 1, *S) for exclusive classes, else (B, 1 or C, *S); None for 1.

    Args:
        reading: input, target and weights of a call.
        kept: (B, C), which classes count, or None for all.
        exclusive: whether a voxel has one class, and counts as that does.
    """
    if reading.mask is None and reading.rules.ignore_index is None and kept is None:
        return None
    classes = reading.classes if reading.merges else None
    reading = reading.weighed()
    if classes is not None:
        reading = replace(reading, target=reading.rules.merged_target(reading.target, classes))
    dtype = computing_dtype(reading.input)
    weight = None if reading.mask is None else reading.mask.to(dtype)
    if kept is not None:
        kept = spread(kept.to(dtype), reading.input.ndim)
        weight = kept if weight is None else weight * kept
    if not exclusive or weight is None or weight.shape[1] == 1:
        return weight
    if reading.labels:
        return weight.expand_as(reading.input).gather(1, reading.target.long())
    share = reading.target.to(dtype)
    seen = (weight > 0).any(1, keepdim=True)
    return (1 - (share * (1 - weight)).sum(1, keepdim=True)).clamp(min=0) * seen
