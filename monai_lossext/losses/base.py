"""What all losses share: their options, the reading of input and target, the empty rule and the reduction."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from .counts import Activation, Counts, SumOverProcesses, soft_counts

if TYPE_CHECKING:
    from typing_extensions import Unpack

REDUCTIONS = ("none", "mean", "sum")
EMPTY_RULES = ("penalize", "formula", "skip")
TARGET_KEYS = ("label", "mask", "distance_map", "classes")


class LossOptions(TypedDict, total=False):
    """Keyword options of every loss."""

    reduction: str
    weight: Sequence[float] | float | Tensor | None
    ignore_index: int | None


class RegionOptions(LossOptions, total=False):
    """Keyword options of every loss made of soft counts."""

    batch: bool
    empty: str
    distributed: bool


class OverlapOptions(RegionOptions, total=False):
    """Keyword options of every loss that is a smoothed ratio of soft counts."""

    smooth_nr: float
    smooth_dr: float


def non_negative(**named: float) -> float:
    """Return the one named number as float; raise ValueError unless it is finite and at least 0."""
    ((name, value),) = named.items()
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}.")
    return float(value)


def one_of(choices: Sequence[str], **named: str) -> str:
    """Return the one named string; raise ValueError unless it is among the choices."""
    ((name, value),) = named.items()
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
    return str(getattr(value, "value", value))


@dataclass(frozen=True)
class Reading:
    """One call's input and target, checked, with masks and ignored labels joined into voxel weights."""

    input: Tensor  # (B, C, *S), not yet activated
    target: Tensor  # (B, 1, *S) class indices if labels, else (B, C, *S)
    labels: bool
    mask: Tensor | None  # (B, 1, *S) or (B, C, *S) voxel weights
    classes: Tensor | None  # (B, C), which classes were annotated


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
            of 0..C-1, elements that have this value; otherwise voxels that belong to this channel.

    Raises:
        TypeError: when ``other_act`` is not callable.
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
    ) -> None:
        super().__init__(reduction=one_of(REDUCTIONS, reduction=reduction))
        if other_act is not None and not callable(other_act):
            raise TypeError(f"other_act must be None or callable but is {type(other_act).__name__}.")
        if int(sigmoid) + int(softmax) + int(other_act is not None) > 1:
            raise ValueError(
                "Incompatible values: more than 1 of [sigmoid=True, softmax=True, other_act is not None], got "
                f"sigmoid={sigmoid}, softmax={softmax}, other_act={other_act}."
            )
        self.include_background = include_background
        self.to_onehot_y = to_onehot_y
        self.sigmoid = sigmoid
        self.softmax = softmax
        self.other_act = other_act
        self.ignore_index = ignore_index
        self.register_buffer("weight", None if weight is None else torch.as_tensor(weight, dtype=torch.float32))
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
        """Check input and target and join mask and ignored labels into voxel weights.

        Raises:
            AssertionError: when the shape of target or mask does not fit the input's.
            ValueError: when the number of dimensions, a label, a target's value or a voxel weight is out of range.
        """
        classes = None
        if isinstance(target, Mapping):
            target, mask, classes = _unpacked(target, mask)
        input, target = _plain(input), _plain(target).detach()
        if not 3 <= input.ndim <= 5:
            raise ValueError(f"input must be (B, C, *S) with 1 to 3 spatial dimensions, got {tuple(input.shape)}.")
        channels = input.shape[1]
        if channels == 1 and not torch.compiler.is_compiling():
            for option, on in self._options_for_several_channels():
                if on:
                    warnings.warn(f"single channel prediction, `{option}` ignored.", stacklevel=3)
        labels = self.to_onehot_y and channels > 1
        if self.to_onehot_y and target.ndim == input.ndim - 1:
            target = target.unsqueeze(1)
        expected = (input.shape[0], 1 if labels else channels, *input.shape[2:])
        if target.shape != expected:
            hint = "; class indices need to_onehot_y=True" if target.shape[1:2] == (1,) and not labels else ""
            raise AssertionError(
                f"ground truth has different shape ({tuple(target.shape)}) from input ({tuple(input.shape)}), "
                f"expected {expected}{hint}."
            )
        target, kept = _without_ignored(target, labels, channels, self.ignore_index)
        _check_values(target, labels, channels)
        mask = _joined(mask, kept, input)
        if mask is not None:
            input = _neutral_where_masked(input, mask, elementwise=not (self.softmax or self.other_act))
        if classes is not None:
            classes = _plain(torch.as_tensor(classes, device=input.device)).bool()
            if classes.shape != input.shape[:2]:
                raise AssertionError(f"classes must be (B, C) = {tuple(input.shape[:2])}, got {tuple(classes.shape)}.")
        return Reading(input, target, labels, mask, classes)

    def _options_for_several_channels(self) -> Iterator[tuple[str, bool]]:
        yield "softmax=True", self.softmax
        yield "to_onehot_y=True", self.to_onehot_y
        yield "include_background=False", not self.include_background

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

    def reduced(self, value: Tensor, valid: Tensor) -> Tensor:
        """Reduce values to what the caller asked for; those that are not valid are 0 and do not count."""
        value = torch.where(valid, value, 0.0)
        if self.reduction == "none":
            return value
        total = value.sum()
        return total / valid.sum().clamp(min=1) if self.reduction == "mean" else total


class RegionLoss(SegmentationLoss):
    """Base of all losses that are functions of soft counts. A new one defines :meth:`per_class`.

    Args:
        batch: sum the counts over the batch before any ratio, as if it were one large image.
        empty: what a class contributes that is absent from the target: ``"penalize"``, the mean predicted probability
            of the class, so that false positives on empty images always have a useful gradient; ``"formula"``, the
            paper's formula as it stands; ``"skip"``, nothing, it is left out of the mean.
        distributed: with ``batch=True``, sum the counts over all processes, so that N processes train like one.

    Takes also the arguments of :class:`SegmentationLoss`.
    """

    squares = False  # whether per_class needs the sums of squares

    def __init__(
        self,
        *args: Any,
        batch: bool = False,
        empty: str = "penalize",
        distributed: bool = False,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        if distributed and not batch:
            raise ValueError("distributed=True sums the counts of all processes and needs batch=True, got batch=False.")
        self.batch = batch
        self.empty = one_of(EMPTY_RULES, empty=empty)
        self.distributed = distributed

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            input: (B, C, *S) with 1 to 3 spatial dimensions, logits or probabilities, any floating dtype.
            target: (B, C, *S) in [0, 1], or with ``to_onehot_y=True`` class indices (B, 1, *S) or (B, *S); any dtype.
                Or a mapping with ``"label"`` and optionally ``"mask"``, ``"classes"`` ((B, C) bool: which classes
                were annotated in each scan; the others contribute nothing) and ``"distance_map"`` (not used here).
                Under ``torch.compile`` a label out of range stops the program without naming the value.
            mask: (B, 1, *S) or (B, C, *S) bool or non-negative weights; a voxel of weight 0 has no influence at all.

        Returns:
            A scalar, or for ``reduction="none"`` (B, C), with ``batch=True`` (1, C), without the background where that
            is excluded; losses that join the classes return (B, 1). In the input's dtype, at least float32.

        Raises:
            AssertionError: when the shape of target or mask does not fit the input's.
            ValueError: when the number of dimensions, a label, a target's value, a voxel weight or the number of
                class weights is wrong.
        """
        reading = self.read(input, target, mask)
        counts = self.counts(reading)
        value = self.weighted(self.per_class(counts))
        valid = (
            (counts.n > 0).expand_as(value) if value.shape == counts.n.shape else (counts.n > 0).all(1, keepdim=True)
        )
        if self.empty != "formula":
            for undecided, wrong in self.undecided(counts):
                if self.empty == "penalize":
                    value = torch.where(undecided, self.weighted(wrong), value)
                else:
                    valid = valid & ~undecided
        return self.reduced(value, valid).to(torch.promote_types(reading.input.dtype, torch.float32))

    def counts(self, reading: Reading) -> Counts:
        """Return the soft counts, (B, C) or with ``batch=True`` (1, C), without the background if it is excluded."""
        channels = reading.input.shape[1]
        sums = soft_counts(
            reading.input,
            reading.target,
            activation=self.activation(channels),
            labels=reading.labels,
            mask=reading.mask,
            squares=self.squares,
        )
        if reading.classes is not None:
            sums = sums * reading.classes
        if self.batch:
            sums = sums.sum(1, keepdim=True)
        if self.distributed and torch.distributed.is_available() and torch.distributed.is_initialized():
            sums = SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
        if not self.include_background and channels > 1:
            sums = sums[:, :, 1:]
        return Counts(*sums.unbind(0))

    def per_class(self, counts: Counts) -> Tensor:
        """Return the loss of each sample and class, (B, C), or (B, 1) if the loss joins the classes."""
        raise NotImplementedError

    def undecided(self, counts: Counts) -> list[tuple[Tensor, Tensor]]:
        """Return where the formula cannot judge a prediction, and the mean wrong probability to use there."""
        return [(counts.g <= 0, mean(counts.p, counts.n))]


class OverlapLoss(RegionLoss):
    """Base of all losses that are one minus a smoothed ratio of soft counts.

    Args:
        smooth_nr: added to the numerator; keep it equal to ``smooth_dr``.
        smooth_dr: added to the denominator.

    Takes also the arguments of :class:`RegionLoss`.
    """

    def __init__(
        self, *args: Any, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5, **options: Unpack[RegionOptions]
    ) -> None:
        super().__init__(*args, **options)
        self.smooth_nr = non_negative(smooth_nr=smooth_nr)
        self.smooth_dr = non_negative(smooth_dr=smooth_dr)

    def ratio(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """Return the smoothed ratio; 0 / 0, which needs no smoothing and nothing to find, counts as perfect."""
        return safe_ratio(numerator + self.smooth_nr, denominator + self.smooth_dr, otherwise=1.0)


def safe_ratio(numerator: Tensor, denominator: Tensor, otherwise: float) -> Tensor:
    """Divide where the denominator is not 0, with no NaN in the gradient elsewhere; NaN of the input stays NaN."""
    defined = denominator != 0
    return torch.where(defined, numerator / torch.where(defined, denominator, 1.0), otherwise)


def mean(total: Tensor, n: Tensor) -> Tensor:
    """Return total / n, and 0 where there is no voxel."""
    return safe_ratio(total, n, otherwise=0.0)


def _plain(x: Tensor) -> Tensor:
    """Return MONAI's MetaTensor and other subclasses as a plain tensor."""
    return x if type(x) is Tensor or torch.compiler.is_compiling() else x.as_subclass(Tensor)


def _unpacked(target: Mapping[str, Any], mask: Tensor | None) -> tuple[Tensor, Tensor | None, Any]:
    unknown = sorted(set(target) - set(TARGET_KEYS))
    if unknown or "label" not in target:
        raise ValueError(f"a mapping target needs 'label' and may hold {TARGET_KEYS[1:]}, got keys {list(target)}.")
    if mask is not None and target.get("mask") is not None:
        raise ValueError("mask is given twice, as an argument and in the target; give it once.")
    return target["label"], mask if mask is not None else target.get("mask"), target.get("classes")


def _without_ignored(
    target: Tensor, labels: bool, channels: int, ignore_index: int | None
) -> tuple[Tensor, Tensor | None]:
    """Replace ignored labels by 0 and return which voxels (or elements) are kept."""
    if ignore_index is None:
        return target, None
    if labels or channels == 1 or not 0 <= ignore_index < channels:
        kept = target != ignore_index
        return torch.where(kept, target, torch.zeros_like(target)), kept
    return target, target[:, ignore_index : ignore_index + 1] <= 0.5


def _check_values(target: Tensor, labels: bool, channels: int) -> None:
    """Raise ValueError unless class indices are integers in 0..C-1, or targets in channels lie in [0, 1]."""
    if target.dtype == torch.bool or target.numel() == 0:
        return
    highest = channels - 1 if labels else 1
    if torch.compiler.is_compiling():  # a graph cannot branch on values, but it can stop
        torch._assert_async(((target >= 0) & (target <= highest)).all(), f"target out of range, expected 0..{highest}")
        return
    low, high = (x.item() for x in torch.aminmax(target))
    bad = low if not low >= 0 else high if not high <= highest else None
    if bad is None and labels and target.is_floating_point():
        fractional = target[target != target.round()]
        bad = fractional[0].item() if fractional.numel() else None
    if bad is not None:
        expected = f"integer labels 0..{highest}" if labels else "values in [0, 1]"
        raise ValueError(f"target holds {bad}, expected {expected} for an input of {channels} channel(s).")


def _joined(mask: Tensor | None, kept: Tensor | None, input: Tensor) -> Tensor | None:
    """Join the caller's mask and the kept voxels into voxel weights, (B, 1, *S) or (B, C, *S)."""
    if mask is None:
        return kept
    mask = _plain(mask).detach()
    expected = [(input.shape[0], channels, *input.shape[2:]) for channels in (1, input.shape[1])]
    if tuple(mask.shape) not in expected:
        raise AssertionError(f"mask must have shape {expected[0]} or {expected[1]}, got {tuple(mask.shape)}.")
    compiling = torch.compiler.is_compiling()
    if mask.dtype != torch.bool and not compiling and not bool(((mask >= 0) & (mask < float("inf"))).all()):
        raise ValueError(f"mask must hold finite weights of at least 0, got {mask.min().item()}..{mask.max().item()}.")
    return mask if kept is None else mask * kept


def _neutral_where_masked(input: Tensor, mask: Tensor, elementwise: bool) -> Tensor:
    """Replace what is masked out before the activation, so that not even NaN gets through."""
    visible = mask != 0
    if not elementwise:  # a softmax needs all channels of a voxel of which any counts
        visible = visible.any(1, keepdim=True)
    return torch.where(visible, input, torch.zeros_like(input))
