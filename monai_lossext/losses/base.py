"""What all losses share: their options, the reading of input and target, the empty rule and the reduction."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from .engine import checks
from .engine.operators import at_once, voxel_sums
from .engine.plain import Wanted
from .engine.precision import Activation, computing_dtype, promoted
from .engine.reading import Reading, read_shapes
from .paths import known, waits

if TYPE_CHECKING:
    from typing_extensions import Unpack

Undecided = list[tuple[Tensor, Callable[[], Tensor]]]

REDUCTIONS = ("none", "mean", "sum")
EMPTY_RULES = ("penalize", "formula", "skip")


class LossOptions(TypedDict, total=False):
    """Keyword options of every loss."""

    reduction: str
    weight: Sequence[float] | float | Tensor | None
    ignore_index: int | None
    validate: str


class ClasswiseOptions(LossOptions, total=False):
    """Keyword options of every loss that says what absent classes contribute."""

    empty: str


def number(name: str, value: Any) -> float:
    """Return a number; raise TypeError for lists and other things that are none."""
    if isinstance(value, (Real, Tensor)) and not (isinstance(value, Tensor) and value.numel() != 1):
        return float(value)
    raise TypeError(f"{name} must be one number, got {value!r} ({type(value).__name__}).")


def non_negative(**named: float) -> float:
    """Return the one named number as float; raise ValueError unless it is finite and at least 0."""
    ((name, value),) = named.items()
    value = number(name, value)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}.")
    return float(value)


def positive(**named: float) -> float:
    """Return the one named number as float; raise ValueError unless it is finite and above 0."""
    ((name, value),) = named.items()
    value = number(name, value)
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a finite number above 0, got {value}.")
    return float(value)


def fraction(**named: float) -> float:
    """Return the one named number as float; raise ValueError unless it lies in [0, 1]."""
    ((name, value),) = named.items()
    value = number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}.")
    return float(value)


def flag(**named: bool) -> bool:
    """Return the one named switch; raise TypeError unless it is a bool: 1.0 may be meant for another argument."""
    ((name, value),) = named.items()
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}; all arguments after other_act are keywords.")
    return bool(value)


def one_of(choices: Sequence[str], **named: str) -> str:
    """Return the one named string; raise ValueError unless it is among the choices."""
    ((name, value),) = named.items()
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return str(getattr(value, "value", value))


class SegmentationLoss(_Loss):
    """Base of all losses: holds the options, reads input and target, reduces.

    Args:
        include_background: whether channel 0 counts.
        to_onehot_y: whether the target holds class indices, (B, 1, *S) or (B, *S), of any dtype.
        sigmoid: apply a sigmoid to the input.
        softmax: apply a softmax over the channels of the input.
        other_act: callable that turns the input into probabilities.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        weight: one factor for all classes or one a class (without the background's where it is excluded); multiplies
            the classes' values and does not change the divisor of the mean.
        ignore_index: label of voxels that are left out. For targets in channels: with one channel, or a value outside
            of 0..C-1, elements that have this value; otherwise voxels that belong to this channel. One that the
            target's type cannot hold is nowhere.
        validate: when to raise for labels, shares, probabilities and weights out of range. ``"auto"``: on CPUs at once;
            on devices where to look at a value would wait for it, the loss is NaN at once, without gradient, and the
            next call of any loss raises. ``"now"``: at once everywhere. ``"never"``: nobody looks.

    Raises:
        TypeError: when ``other_act`` is not callable, a switch is not a bool, or a list stands where a number is meant.
        ValueError: when more than one activation is asked for, or an option has a value it cannot have.
    """

    weight: Tensor | None
    __signature__: inspect.Signature

    def __init__(
        self,
        include_background: bool = True,
        to_onehot_y: bool = False,
        sigmoid: bool = False,
        softmax: bool = False,
        other_act: Callable[[Tensor], Tensor] | None = None,
        *,
        reduction: str = "mean",
        weight: Sequence[float] | float | Tensor | None = None,
        ignore_index: int | None = None,
        validate: str = "auto",
    ) -> None:
        super().__init__(reduction=one_of(REDUCTIONS, reduction=reduction))
        if other_act is not None and not callable(other_act):
            raise TypeError(f"other_act must be None or callable but is {type(other_act).__name__}.")
        self.include_background = flag(include_background=include_background)
        self.to_onehot_y = flag(to_onehot_y=to_onehot_y)
        self.sigmoid = flag(sigmoid=sigmoid)
        self.softmax = flag(softmax=softmax)
        if self.sigmoid + self.softmax + (other_act is not None) > 1:
            raise ValueError(
                "Incompatible values: more than 1 of [sigmoid=True, softmax=True, other_act is not None], got "
                f"sigmoid={sigmoid}, softmax={softmax}, other_act={other_act}."
            )
        self.other_act = other_act
        self.ignore_index = ignore_index
        self.validate = one_of(checks.VALIDATE, validate=validate)
        exact = None if weight is None else torch.as_tensor(weight, dtype=torch.float64).detach().clone()
        self.register_buffer("weight", exact)
        if self.weight is not None and (self.weight.ndim > 1 or not bool((self.weight >= 0).all())):
            raise ValueError(f"weight must be one number or one a class, each at least 0, got {weight}.")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show users the whole signature, in which ``*args`` and ``**options`` are spelt out."""
        super().__init_subclass__(**kwargs)
        inits = [vars(c)["__init__"] for c in cls.__mro__ if issubclass(c, SegmentationLoss) and "__init__" in vars(c)]
        named: dict[str, inspect.Parameter] = {}
        for init in inits:
            for name, parameter in inspect.signature(init).parameters.items():
                if name != "self" and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                    named.setdefault(name, parameter)
        cls.__signature__ = inspect.Signature(sorted(named.values(), key=lambda parameter: parameter.kind))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SegmentationLoss:
        """Move the weights, in float32 to devices that have no float64 (Apple's MPS)."""
        try:
            return super()._apply(fn, recurse)
        except TypeError:
            if self.weight is None or self.weight.dtype != torch.float64:
                raise
            self.weight = self.weight.float()
            return super()._apply(fn, recurse)

    def extra_repr(self) -> str:
        """Return the arguments that differ from their defaults."""
        values = {name: getattr(self, name) for name in self.__signature__.parameters}
        values["weight"] = None if self.weight is None else self.weight.tolist()
        defaults = {name: parameter.default for name, parameter in self.__signature__.parameters.items()}
        return ", ".join(f"{name}={value!r}" for name, value in values.items() if value != defaults[name])

    def activation(self, channels: int) -> Activation:
        """Return what turns the input into probabilities."""
        if self.sigmoid:
            return "sigmoid"
        if self.softmax:
            return "softmax" if channels > 1 else None
        return self.other_act

    def read(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Reading:
        """Check the shapes of input, target and mask; values are looked at by :mod:`.engine.checks`.

        Raises:
            AssertionError: when the shape of target or mask does not fit the input's.
            ValueError: when the number of dimensions is not 3 to 5, a mapping has unknown keys, something is on another
                device than the input, or a call before this one had a value out of range that is known by now.
        """
        if not torch.compiler.is_compiling():
            checks.look_back()
        if input.shape[1:2] == (1,) and not torch.compiler.is_compiling():
            for option, on in self._options_for_several_channels():
                if on:
                    warnings.warn(f"single channel prediction, `{option}` ignored.", stacklevel=3)
        return read_shapes(
            input,
            target,
            mask,
            to_onehot_y=self.to_onehot_y,
            ignore_index=self.ignore_index,
            activation=self.activation(input.shape[1] if input.ndim > 1 else 1),
            validate=self.validate,
        )

    def _options_for_several_channels(self) -> Iterator[tuple[str, bool]]:
        yield "softmax=True", self.softmax
        yield "to_onehot_y=True", self.to_onehot_y
        yield "include_background=False", not self.include_background

    def of_nothing(self, reading: Reading) -> Tensor:
        """Return the loss of an input without any voxel: a 0 with a gradient, or with ``"none"`` no value."""
        nothing = reading.input.to(computing_dtype(reading.input))
        return nothing if self.reduction == "none" else nothing.sum()

    def weighted(self, value: Tensor) -> Tensor:
        """Multiply (B, C) values, the background's already dropped, with the class weights."""
        if self.weight is None:
            return value
        if self.weight.ndim == 1 and self.weight.shape[0] != value.shape[1]:
            background = "" if self.include_background else " (the background is excluded and takes no weight)"
            raise ValueError(
                f"weight has {self.weight.shape[0]} values but {value.shape[1]} classes are used{background}."
            )
        return value * self.weight.to(value)

    def reduced(self, value: Tensor, valid: Tensor | None) -> Tensor:
        """Reduce values to what the caller asked for; those not valid are 0 and do not count; None: all are."""
        if valid is not None and (valid.numel() == 0 or not known(valid)):
            value = value.masked_fill(~valid, 0.0)
        elif self.reduction == "mean":
            return value.mean()
        if self.reduction == "none":
            return value
        total = value.sum()
        if self.reduction == "sum":
            return total
        return total / (value.numel() if valid is None else valid.sum().clamp(min=1))


class ClasswiseLoss(SegmentationLoss):
    """Base of all losses that judge a class of a sample as a whole, and need a rule for absent classes.

    Args:
        empty: what a class contributes that is absent from the target: ``"penalize"``, the mean predicted probability
            of the class, so that false positives on empty images always have a useful gradient; ``"formula"``, the
            paper's formula as it stands; ``"skip"``, nothing, it is left out of the mean.

    Takes also the arguments of :class:`SegmentationLoss`.
    """

    def __init__(self, *args: Any, empty: str = "penalize", **options: Unpack[LossOptions]) -> None:
        super().__init__(*args, **options)
        self.empty = one_of(EMPTY_RULES, empty=empty)

    def settled(self, value: Tensor, n: Tensor, undecided: Undecided, everything: bool = False) -> Tensor:
        """Apply class weights and the empty rule, and reduce.

        Args:
            value: (B, C), the formula's value, or (B, 1) if the loss joins the classes.
            n: (B, C), weighted number of voxels; where it is 0, nothing is to be judged.
            undecided: pairs of where the formula cannot judge a prediction and of a function that returns the mean
                wrong probability to use there, both of the shape of ``value``.
            everything: whether all voxels of all classes count.
        """
        value = self.weighted(value)
        valid = None
        if not everything:
            valid = ~(n <= 0)  # NaN is no reason to be silent
            valid = valid if value.shape == n.shape else valid.any(1, keepdim=True)
        if self.empty != "formula":
            for where, wrong in undecided:
                if not waits(where) and not where.any():
                    continue
                if self.empty == "penalize":
                    value = torch.where(where, self.weighted(wrong()), value)
                else:
                    valid = ~where if valid is None else valid & ~where
        return self.reduced(value, valid)


class PartsLoss(ClasswiseLoss):
    """Base of all losses that judge parts of a class: components, skeletons, bins. A new one defines :meth:`judged`.

    Takes the arguments of :class:`ClasswiseLoss`.
    """

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            input: (B, C, *S) with 1 to 3 spatial dimensions, logits or probabilities, any floating dtype.
            target: as in :meth:`.RegionLoss.forward`. A mapping may hold ``"components"`` or ``"skeleton"``, both
                (B, C, *S), as :class:`.ConnectedComponentsd` and :class:`.TubedSkeletond` make them; losses that need
                them compute them from the label on the CPU otherwise.
            mask: (B, 1, *S) or (B, C, *S) bool or non-negative weights; a voxel of weight 0 has no influence at all.

        Returns:
            A scalar, or for ``reduction="none"`` (B, C), without the background where that is excluded. In the input's
            dtype, at least float32.

        Raises:
            AssertionError: when the shape of target, mask or map does not fit the input's.
            ValueError: when the number of dimensions, a label, a target's value, a voxel weight, the number of class
                weights or of spacings is wrong, or a map has another dtype than the transform gives it.
        """
        reading = self.read(input, target, mask).activated()
        if reading.input.numel() == 0:
            return self.of_nothing(reading)
        reading, bad = checks.checked(reading)
        reading = replace(reading, input=promoted(reading.input))  # once: float16 rounds each gradient
        first = 1 if not self.include_background and reading.channels > 1 else 0
        value, n, absent, wrong = self.judged(reading, first)
        if reading.classes is not None:
            n = n * reading.classes[:, first:]
        value = self.settled(value, n, [(absent, lambda: wrong)])
        value = value if bad is None else torch.where(bad, torch.nan, value)
        return value.to(computing_dtype(reading.input))

    def judged(self, reading: Reading, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return for each class from the first on, (B, C): value, weighted number of voxels, whether it is absent, and
        the mean wrong probability if it is.
        """
        raise NotImplementedError


class SumsLoss(SegmentationLoss):
    """Base of all losses that are functions of the sums of one walk through the volume; see :mod:`.engine.plain`.

    A new kind defines :meth:`wanted` and :meth:`of_sums`, so that one walk finds the sums of several terms.
    """

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss; arguments, errors and the shape of the result as told by the loss's family."""
        reading = self.read(input, target, mask)
        return sums_for([self], reading).into(self, reading)

    def wanted(self) -> Wanted:
        """Return which sums the loss needs."""
        raise NotImplementedError

    def of_sums(self, sums: Sums, reading: Reading) -> Tensor:
        """Return the loss, given the sums of a call."""
        raise NotImplementedError

    def shares_walk(self) -> bool:
        """Return whether the sums are all that the loss needs, so that other losses' can be found with them."""
        return True

    def waits_for_others(self) -> bool:
        """Return whether other processes wait for this one's sums, so that it must not raise before."""
        return False


@dataclass(frozen=True)
class Sums:
    """Sums of a call, KINDS times (B, C), and how many values are out of range where nobody has raised for them."""

    values: Sequence[Any]  # tensors; None for those that nobody wanted
    bad: Tensor | None = None

    def into(self, loss: SumsLoss, reading: Reading) -> Tensor:
        """Return a loss of the sums."""
        return at_once(lambda values: loss.of_sums(replace(self, values=values), reading), self.values)


def sums_for(losses: Sequence[SumsLoss], reading: Reading) -> Sums:
    """Return the sums that some losses need, which fit into one walk."""
    wanted: Wanted | None = Wanted()
    for loss in losses:
        wanted = None if wanted is None else wanted | loss.wanted()
    assert wanted is not None
    return Sums(*voxel_sums(reading, wanted, deferred=any(loss.waits_for_others() for loss in losses)))


def safe_ratio(numerator: Tensor, denominator: Tensor, otherwise: float) -> Tensor:
    """Divide where the denominator is not 0, with no NaN in the gradient elsewhere; NaN of the input stays NaN."""
    defined = denominator != 0
    if known(defined):
        return numerator / denominator
    return torch.where(defined, numerator / torch.where(defined, denominator, 1.0), otherwise)


def smoothed_ratio(numerator: Tensor, denominator: Tensor, smooth_nr: float, smooth_dr: float) -> Tensor:
    """Return the ratio of sums that are at least 0, each smoothed; 0 / 0, with nothing to find, counts as perfect."""
    if smooth_dr > 0:
        return (numerator + smooth_nr) / (denominator + smooth_dr)
    return safe_ratio(numerator + smooth_nr, denominator + smooth_dr, otherwise=1.0)


def mean(total: Tensor, n: Tensor) -> Tensor:
    """Return total / n for n of at least 0, and 0 where both are."""
    return total / n.clamp(min=torch.finfo(n.dtype).tiny)
