"""What all losses share: their options, the reading of input and target, the empty rule and the reduction."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss

from .counts import Counts, Extra, SumOverProcesses, soft_counts
from .likelihoods import Nearby, Voxels, read_voxels
from .paths import known
from .precision import Activation
from .reading import Reading, read_shapes

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


class ClasswiseOptions(LossOptions, total=False):
    """Keyword options of every loss that says what absent classes contribute."""

    empty: str


class RegionOptions(ClasswiseOptions, total=False):
    """Keyword options of every loss made of soft counts."""

    batch: bool
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


def positive(**named: float) -> float:
    """Return the one named number as float; raise ValueError unless it is finite and above 0."""
    ((name, value),) = named.items()
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a finite number above 0, got {value}.")
    return float(value)


def fraction(**named: float) -> float:
    """Return the one named number as float; raise ValueError unless it lies in [0, 1]."""
    ((name, value),) = named.items()
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}.")
    return float(value)


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
        """Check the shapes of input, target and mask; values are checked by :meth:`.Reading.checked`.

        Raises:
            AssertionError: when the shape of target or mask does not fit the input's.
            ValueError: when the number of dimensions is not 3 to 5, or a mapping has unknown keys.
        """
        if input.shape[1:2] == (1,) and not torch.compiler.is_compiling():
            for option, on in self._options_for_several_channels():
                if on:
                    warnings.warn(f"single channel prediction, `{option}` ignored.", stacklevel=3)
        elementwise = not (self.softmax or self.other_act)
        return read_shapes(input, target, mask, self.to_onehot_y, self.ignore_index, elementwise)

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
        if not known(valid):
            value = torch.where(valid, value, 0.0)
        elif self.reduction == "mean":
            return value.mean()
        if self.reduction == "none":
            return value
        total = value.sum()
        return total / valid.sum().clamp(min=1) if self.reduction == "mean" else total


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

    def settled(self, value: Tensor, n: Tensor, undecided: Undecided) -> Tensor:
        """Apply class weights and the empty rule, and reduce.

        Args:
            value: (B, C), the formula's value, or (B, 1) if the loss joins the classes.
            n: (B, C), weighted number of voxels; where it is 0, nothing is to be judged.
            undecided: pairs of where the formula cannot judge a prediction and of a function that returns the mean
                wrong probability to use there, both of the shape of ``value``.
        """
        value = self.weighted(value)
        valid = n > 0 if value.shape == n.shape else (n > 0).any(1, keepdim=True)
        if self.empty != "formula":
            for where, wrong in undecided:
                if known(~where):
                    continue
                if self.empty == "penalize":
                    value = torch.where(where, self.weighted(wrong()), value)
                else:
                    valid = valid & ~where
        return self.reduced(value, valid)


class RegionLoss(ClasswiseLoss):
    """Base of all losses that are functions of soft counts. A new one defines :meth:`per_class`.

    Args:
        batch: sum the counts over the batch before any ratio, as if it were one large image.
        distributed: with ``batch=True``, sum the counts over all processes, so that N processes train like one.

    Takes also the arguments of :class:`ClasswiseLoss`.
    """

    extra: Extra = None  # further sums that per_class needs

    def __init__(
        self,
        *args: Any,
        batch: bool = False,
        distributed: bool = False,
        **options: Unpack[ClasswiseOptions],
    ) -> None:
        super().__init__(*args, **options)
        if distributed and not batch:
            raise ValueError("distributed=True sums the counts of all processes and needs batch=True, got batch=False.")
        self.batch = batch
        self.distributed = distributed

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            input: (B, C, *S) with 1 to 3 spatial dimensions, logits or probabilities, any floating dtype.
            target: (B, C, *S) in [0, 1], or with ``to_onehot_y=True`` class indices (B, 1, *S) or (B, *S); any dtype.
                Or a mapping with ``"label"`` and optionally ``"mask"``, ``"classes"`` ((B, C) bool: which classes
                were annotated in each scan; the others contribute nothing), ``"distance_map"`` and ``"penalty_map"``
                (not used here).
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
        value = self.settled(self.per_class(counts), counts.n, self.undecided(counts))
        return value.to(torch.promote_types(reading.input.dtype, torch.float32))

    def counts(self, reading: Reading) -> Counts:
        """Return the soft counts, (B, C) or with ``batch=True`` (1, C), without the background if it is excluded."""
        channels = reading.input.shape[1]
        sums = soft_counts(
            reading.input,
            reading.target,
            reading.mask,
            rules=reading.rules,
            activation=self.activation(channels),
            extra=self.extra,
        )
        if reading.classes is not None:
            sums = sums * reading.classes
        if self.batch:
            sums = sums.sum(1, keepdim=True)
        if self.distributed and torch.distributed.is_available() and torch.distributed.is_initialized():
            sums = SumOverProcesses.apply(sums)  # type: ignore[no-untyped-call]
        if not self.include_background and channels > 1:
            sums = sums[:, :, 1:]
        return Counts.of(sums, self.extra)

    def per_class(self, counts: Counts) -> Tensor:
        """Return the loss of each sample and class, (B, C), or (B, 1) if the loss joins the classes."""
        raise NotImplementedError

    def undecided(self, counts: Counts) -> Undecided:
        """Return where the formula cannot judge a prediction, and the mean wrong probability to use there."""
        return [(counts.g <= 0, lambda: mean(counts.p, counts.n))]


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


class VoxelLoss(SegmentationLoss):
    r"""Base of all losses that are a mean over voxels.

    A new one defines :meth:`likelihood`, :meth:`balance` or :meth:`emphasis`, each as a formula of some voxels.

    With ``softmax``, and for other predictions in several channels except with ``sigmoid``, a voxel has one class and
    its value is the sum over the classes of :math:`-g_c \log p_c`. Otherwise every channel is a problem of its own,
    with :math:`-g \log p - (1 - g) \log (1 - p)`. Given probabilities are clamped to [1e-7, 1 - 1e-7].

    What is left out where a class does not count (the background with ``include_background=False``, a class that was
    not annotated in the scan) is its channel, and with exclusive classes the voxels that belong to it.

    Takes the arguments of :class:`SegmentationLoss`.
    """

    base = 0.0  # added to the emphasis, without a volume of its own
    exclusive_classes = True  # whether several channels without sigmoid are classes that exclude each other

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            input: (B, C, *S) with 1 to 3 spatial dimensions, logits or probabilities, any floating dtype.
            target: as for :meth:`RegionLoss.forward`.
            mask: (B, 1, *S) or (B, C, *S) bool or non-negative weights; a voxel of weight 0 has no influence at all.

        Returns:
            A scalar, the mean over all voxels of the batch that count (the weighted mean with a mask), or for
            ``reduction="none"`` one value a voxel times its weight: (B, 1, *S) for exclusive classes, else (B, C, *S),
            without the background where that is excluded. In the input's dtype, at least float32.

        Raises:
            AssertionError: when the shape of target or mask does not fit the input's.
            ValueError: when the number of dimensions, a label, a target's value, a voxel weight or the number of
                class weights is wrong.
        """
        reading = self.read(input, target, mask)
        channels = reading.input.shape[1]
        voxels = read_voxels(
            reading.rules,
            reading.input,
            reading.target,
            reading.mask,
            activation=self.activation(channels),
            exclusive=self.exclusive_classes and channels > 1 and not self.sigmoid,
            kept=reading.classes,
            first=self.first(channels),
        )
        emphasis, share = self.emphasis(reading, voxels)
        if self.reduction == "none":
            each = voxels.losses(self.likelihood, *self.factors(voxels)) * voxels.weight
            factor = voxels.each(emphasis) if isinstance(emphasis, Nearby) else emphasis
            return each if factor is None else each * (factor + self.base)
        mean = self.reduction == "mean"
        gamma = self.focus()
        return voxels.total(self.likelihood, *self.factors(voxels), emphasis, share, mean, self.base, gamma)

    def first(self, channels: int) -> int:
        """Return the first channel that counts."""
        return 0 if self.include_background or channels == 1 else 1

    def emphasis(self, reading: Reading, voxels: Voxels) -> tuple[Tensor | Nearby | None, Tensor | None]:
        """Return further factors of each voxel's loss, and of its weight in the mean; None for 1.

        They broadcast over the losses, (B, 1, *S) or (B, C, *S); :attr:`base` is added to the emphasis. What depends on
        the prediction with gradient and is more than a few operations a voxel is a :class:`.Nearby`. Values in
        ``reading`` are not checked yet.
        """
        return None, None

    def likelihood(self, nll: Tensor) -> Tensor:
        """Return the loss at the negative log-likelihood of what the voxel is."""
        return nll

    def focus(self) -> float | None:
        """Return gamma if :meth:`likelihood` is (1 - p)^gamma times its argument, which has faster ways, else None."""
        return 0.0 if type(self).likelihood is VoxelLoss.likelihood else None

    def balance(self, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return factors of what is inside and outside of each class, (B or 1, C); exclusive classes: inside only."""
        return voxels.per_class(1.0, 1.0)

    def factors(self, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return :meth:`balance` times the class weights."""
        inside, outside = self.balance(voxels)
        if self.weight is None:
            return inside, outside
        first = self.first(voxels.classes) if voxels.exclusive else 0
        weight = self.weighted(torch.ones_like(inside[:1, first:]))
        weight = torch.nn.functional.pad(weight, (first, 0), value=1.0)  # the background's voxels do not count anyway
        return inside * weight, outside * weight


def safe_ratio(numerator: Tensor, denominator: Tensor, otherwise: float) -> Tensor:
    """Divide where the denominator is not 0, with no NaN in the gradient elsewhere; NaN of the input stays NaN."""
    defined = denominator != 0
    if known(defined):
        return numerator / denominator
    return torch.where(defined, numerator / torch.where(defined, denominator, 1.0), otherwise)


def safe_pow(x: Tensor, exponent: float, smallest: float = 1e-6) -> Tensor:
    """Return x ** exponent for x of at least 0; below ``smallest`` a line through 0, whose slope is finite there."""
    if exponent >= 1:
        return x**exponent
    x = torch.where(x < 0, 0.0, x)  # a smoothed index may exceed 1
    steep = x < smallest
    return torch.where(steep, x * smallest ** (exponent - 1), torch.where(steep, 1.0, x) ** exponent)


def mean(total: Tensor, n: Tensor) -> Tensor:
    """Return total / n, and 0 where there is no voxel."""
    return safe_ratio(total, n, otherwise=0.0)
