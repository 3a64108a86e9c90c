"""Lovasz losses: the convex extension of the Jaccard loss, a weighted sum of the errors sorted by size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import compiled
from .base import ClasswiseLoss
from .likelihoods import is_binary
from .parts import Slices, spread
from .paths import fused, known
from .precision import accumulator_dtype, probabilities, promoted
from .reading import Reading, Rules
from .sorting import descending, pieces
from .walks import EachVoxel, Values, each_voxel, everything

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import ClasswiseOptions

COUNTS_IN_FLOAT32 = 2**24  # float32 cannot count further
FEWEST_IN_LOOPS, MOST_IN_LOOPS = 2**10, 2**31  # voxels of a row: a shorter one is sorted before its digits are counted
ROWS_ON_CPU, ROWS_ELSEWHERE = 2**18, 2**26  # voxels to sort together: what a sort needs is several times as large


class LovaszLoss(ClasswiseLoss):
    """Base of the Lovasz losses, which weigh sorted errors. A new one defines :meth:`errors`.

    Args:
        per_image: one value a sample; ``False`` takes the batch as if it were one large image.

    Takes also the arguments of :class:`.ClasswiseLoss`.
    """

    def __init__(self, *args: Any, per_image: bool = True, **options: Unpack[ClasswiseOptions]) -> None:
        super().__init__(*args, **options)
        self.per_image = per_image

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss, with the arguments and errors of :meth:`.RegionLoss.forward`.

        Returns:
            A scalar, or for ``reduction="none"`` (B, C), with ``per_image=False`` (1, C), without the background where
            that is excluded. In the input's dtype, at least float32.
        """
        reading = self.read(input, target, mask)
        first = 1 if not self.include_background and reading.input.shape[1] > 1 else 0
        errors = self._rows(self._errors(reading, first))
        truth, weights = target_and_weights(reading, first)
        if weights is not None and known(weights == 1):  # an option that is not used changes no bit
            weights = None
        value, n, size = jaccard_extension(
            errors,
            self._rows(truth),
            None if weights is None else self._rows(weights),
            first if reading.labels else None,
            self.empty == "penalize",
        )
        present = size > 0
        value = self.settled(value, torch.where(self.counted(present, first), n, 0.0), [(~present, lambda: value)])
        return value.to(torch.promote_types(reading.input.dtype, torch.float32))

    def _errors(self, reading: Reading, first: int) -> Tensor:
        """Return the errors of the classes from the first on, (B, C, *S)."""

        def values(where: Slices, input: Tensor) -> Tensor:
            mask = None if reading.mask is None else reading.mask[where]
            part = replace(reading, input=input, target=reading.target[where], mask=mask)
            return self.errors(part.checked())[:, first:]

        activation = self.activation(reading.input.shape[1])
        if callable(activation):  # it may look at the whole volume
            return values(everything(reading.input), reading.input)
        fits = self.of_probabilities() and activation is not None and fused()
        fits = fits and compiled.loops_fit(reading.input, reading.target, reading.mask, reading.rules)
        if fits and (reading.labels or is_binary(reading.target)):  # else rounding might turn a slope at 0 around
            how = reading.target, reading.rules, activation, first
            errors: Tensor = ErrorsOfProbabilities.apply(values, 0, reading.input, *how)  # type: ignore[no-untyped-call]
            return errors
        return each_voxel(values, reading.input)

    def of_probabilities(self) -> bool:
        """Return whether :meth:`errors` are :func:`absolute_errors`, whose gradient loops compute."""
        return False

    def _rows(self, x: Tensor) -> Tensor:
        """Return (B, 1 or C, *S) as (B, 1 or C, N), or as (1, 1 or C, B N)."""
        return x.flatten(2) if self.per_image else x.flatten(2).transpose(0, 1).flatten(1)[None]

    def errors(self, reading: Reading) -> Tensor:
        """Return how wrong the prediction is for each class and voxel, (B, C, *S), at least 0."""
        raise NotImplementedError

    def counted(self, present: Tensor, first: int) -> Tensor:
        """Return which of the classes ``first``, ``first + 1``, ... count, (B, C) bool."""
        return torch.ones_like(present)


class LovaszSoftmaxLoss(LovaszLoss):
    r"""Lovasz extension of the Jaccard loss over the errors of the predicted probabilities (sigmoid or softmax).

    .. math:: L_c = \sum_k m_{(k)}\,(\Delta_k - \Delta_{k-1}), \qquad m_i = |g_i - p_i|, \qquad
              \Delta_k = 1 - \frac{G - \sum_{j \le k} g_{(j)}}{G + \sum_{j \le k} (1 - g_{(j)})}

    with the errors sorted from the largest to the smallest. Trains for the Jaccard index more directly than its soft
    form, best after a start with cross-entropy. Takes about the time and memory of sorting all voxels per class.

    Args:
        classes: which classes count: ``"present"``, those in the target of the sample; ``"all"``; a list of channels.
            A sample in which no class is present is judged by ``empty`` in all three.
        per_image: one value a sample; ``False`` takes the batch as if it were one large image.

    Takes also the arguments of :class:`.ClasswiseLoss`. By the formula, an absent class costs its largest error.

    Range: [0, 1]; perfect 0, disjoint 1, for binary predictions one minus the Jaccard index; absent class, if it
    counts: the mean predicted probability.

    Raises:
        ValueError: when ``classes`` names a channel that the input does not have or that is excluded.

    Source: Berman et al. 2018, arXiv:1705.08790; Eelbode et al. 2020, doi:10.1109/TMI.2020.3002417 (binary, sigmoid).
    Voxel weights and ignored voxels act as if a voxel stood there as often as its weight says.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import LovaszSoftmaxLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(LovaszSoftmaxLoss()(p, g).item(), 4)
        0.3667
    """

    def __init__(
        self,
        *args: Any,
        classes: str | Sequence[int] = "present",
        per_image: bool = True,
        **options: Unpack[ClasswiseOptions],
    ) -> None:
        super().__init__(*args, per_image=per_image, **options)
        self.classes = checked_classes(classes, 0 if self.include_background else 1)

    def errors(self, reading: Reading) -> Tensor:
        """Return the absolute errors of the probabilities, (B, C, *S)."""
        return absolute_errors(probabilities(reading.input, self.activation(reading.input.shape[1])), reading)

    def of_probabilities(self) -> bool:
        """Return True, unless a subclass has other errors."""
        return type(self).errors is LovaszSoftmaxLoss.errors

    def counted(self, present: Tensor, first: int) -> Tensor:
        """Return which classes count, (B, C) bool."""
        return counted_classes(self.classes, present, first)


class LovaszHingeLoss(LovaszLoss):
    r"""Lovasz extension of the Jaccard loss over the hinge errors of the logits.

    .. math:: L_c = \sum_k m_{(k)}\,(\Delta_k - \Delta_{k-1}), \qquad m_i = \max(0,\ 1 - z_i\,(2 g_i - 1))

    with the errors sorted and :math:`\Delta` as in :class:`LovaszSoftmaxLoss`. Convex in the logits, and done with a
    voxel whose logit is beyond 1 on the right side. For one class or several that may overlap.

    Args:
        per_image: one value a sample; ``False`` takes the batch as if it were one large image.

    Takes also the arguments of :class:`.ClasswiseLoss`, without an activation. ``empty="penalize"`` takes the mean
    error, ``"formula"`` the largest.

    Range: [0, inf); 0 when all logits are beyond 1 on the right side; disjoint at least 1; absent class: the mean
    hinge error.

    Raises:
        ValueError: when an activation is asked for.

    Source: Berman et al. 2018, arXiv:1705.08790; Jadon 2020, arXiv:2006.14822, mentions it.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import LovaszHingeLoss
        >>> z, g = torch.tensor([[[2.0, -0.5, -1.5, 0.3]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(LovaszHingeLoss()(z, g).item(), 4)
        0.9667
    """

    def __init__(self, *args: Any, per_image: bool = True, **options: Unpack[ClasswiseOptions]) -> None:
        super().__init__(*args, per_image=per_image, **options)
        if self.sigmoid or self.softmax or self.other_act is not None:
            raise ValueError(
                "the hinge works on logits and takes no activation, got "
                f"sigmoid={self.sigmoid}, softmax={self.softmax}, other_act={self.other_act}."
            )

    def errors(self, reading: Reading) -> Tensor:
        """Return the hinge errors, (B, C, *S)."""
        z = promoted(reading.input)
        if reading.labels:
            label = reading.target.long()
            return (1 + z.scatter(1, label, -z.gather(1, label))).relu()
        return (1 - z * (2 * reading.target.to(z.dtype) - 1)).relu()


class ErrorsOfProbabilities(EachVoxel):
    """The absolute errors of the probabilities of logits, whose gradient is computed in compiled loops."""

    @staticmethod
    def forward(ctx: Any, values: Values, halo: int, input: Tensor, *how: Any) -> Tensor:
        """Return the errors, (B, C, *S); ``how`` are the further arguments of the loops."""
        errors = EachVoxel.forward(ctx, values, halo, input)
        target, *ctx.how = how
        ctx.save_for_backward(input, target)  # which tells when somebody has written into them
        return errors

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the input."""
        input, target = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants to differentiate the gradient
            errors = ctx.values(everything(input), input)
            (gradient,) = torch.autograd.grad(errors, input, upstream, create_graph=True)
        else:
            gradient = compiled.slopes_of_errors(input, target, *ctx.how, *upstream)
        return None, None, gradient, None, *(None for _ in ctx.how)


def checked_classes(classes: str | Sequence[int], lowest: int) -> str | tuple[int, ...]:
    """Return which classes count; raise ValueError unless it is a name that means some or a list of channels."""
    if isinstance(classes, str) and classes in ("present", "all"):
        return classes
    channels = tuple(classes)
    if isinstance(classes, str) or not channels or not all(isinstance(c, int) and c >= lowest for c in channels):
        raise ValueError(f"classes must be 'present', 'all' or a list of channels from {lowest}, got {classes!r}.")
    return tuple(c for c in classes if isinstance(c, int))


def counted_classes(classes: str | Sequence[int], present: Tensor, first: int) -> Tensor:
    """Return which of the classes ``first``, ``first + 1``, ... count, (B, C) bool like ``present``."""
    if classes == "all":
        return torch.ones_like(present)
    if classes == "present":
        return present | ~present.any(1, keepdim=True)
    channels = range(first, first + present.shape[1])
    if not set(classes) <= set(channels):
        raise ValueError(f"classes {list(classes)} must be among the channels {channels[0]}..{channels[-1]}.")
    return torch.tensor([c in classes for c in channels], device=present.device).expand_as(present)


def absolute_errors(p: Tensor, reading: Reading) -> Tensor:
    """Return how far probabilities are from the target, (B, C, *S)."""
    if reading.labels:
        label = reading.target.long()
        return p.scatter(1, label, 1 - p.gather(1, label))
    return (p - reading.target.to(p.dtype)).abs()


@torch.no_grad()
def target_and_weights(reading: Reading, first: int) -> tuple[Tensor, Tensor | None]:
    """Return labels (B, 1, *S) or the target of the classes from the first on, (B, C, *S), and weights likewise."""
    target, weights = reading.target, reading.mask
    if weights is not None or reading.rules.ignore_index is not None:
        no_input = reading.input.new_zeros((1,) * target.ndim)
        _, target, weights = reading.rules.read(no_input, target, weights)
    if reading.classes is not None:
        classes = spread(reading.classes, reading.input.ndim)
        weights = classes.expand(reading.input.shape) if weights is None else weights * classes
    if weights is not None and weights.shape[1] > 1:
        weights = weights[:, first:]
    return target if reading.labels else target[:, first:], weights


def jaccard_extension(
    errors: Tensor, target: Tensor, weights: Tensor | None, first: int | None, penalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the Lovasz extension of the Jaccard loss, with gradient to the errors.

    Args:
        errors: (B, C, N).
        target: (B, 1, N) class indices if ``first`` is given, else (B, C, N) in [0, 1].
        weights: (B, 1, N) or (B, C, N) voxel weights, or None.
        first: class of the first channel.
        penalize: whether the value of a class without voxels is the mean error.

    Returns:
        The value, the weighted number of voxels and that of the class's voxels, each (B, C) in float64.
    """
    if fused():
        extension: tuple[Tensor, Tensor, Tensor] = JaccardExtension.apply(  # type: ignore[no-untyped-call]
            errors, target, weights, first, penalize
        )
        return extension
    slope = torch.empty_like(errors)
    n, size = jaccard_slopes(errors.detach(), target, weights, first, penalize, slope)
    return (errors * slope).sum(-1, dtype=accumulator_dtype(errors)), n, size


class JaccardExtension(Function):
    """:func:`jaccard_extension`, some rows at a time; keeps the slopes alone, which are the gradient."""

    @staticmethod
    def forward(
        ctx: Any, errors: Tensor, target: Tensor, weights: Tensor | None, first: int | None, penalize: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the value, the number of voxels and that of the class's voxels, (B, C)."""
        slopes = torch.empty_like(errors)
        value, n, size = errors.new_empty(3, *errors.shape[:2], dtype=accumulator_dtype(errors))
        rules = Rules(first is not None, errors.shape[1], None, elementwise=True)
        many = FEWEST_IN_LOOPS <= errors.shape[-1] <= MOST_IN_LOOPS
        if weights is None and many and compiled.loops_fit(errors, target, None, rules):
            value, size = compiled.jaccard_extension(errors, target, rules, first or 0, penalize, slopes)
            n.fill_(errors.shape[-1])
        else:
            for here in rows(errors.shape, errors.device):
                samples, channels = here
                some_target, some_weights = (
                    x if x is None else x[samples] if x.shape[1] == 1 else x[here] for x in (target, weights)
                )
                assert some_target is not None
                begin = None if first is None else first + channels.start
                n[here], size[here] = jaccard_slopes(
                    errors[here], some_target, some_weights, begin, penalize, slopes[here]
                )
                value[here] = (errors[here] * slopes[here]).sum(-1, dtype=value.dtype)
        ctx.save_for_backward(slopes)
        ctx.mark_non_differentiable(n, size)
        return value, n, size

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the errors."""
        (slopes,) = ctx.saved_tensors
        return upstream[0][..., None].to(slopes.dtype) * slopes, None, None, None, None


def rows(shape: Sequence[int], device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Yield which samples and channels of (B, C, N) to sort together."""
    b, c, n = shape
    room = ROWS_ON_CPU if device.type == "cpu" else ROWS_ELSEWHERE
    samples, channels = max(1, room // max(c * n, 1)), max(1, min(c, room // max(n, 1)))
    for sample in range(0, b, samples):
        for channel in range(0, c, channels):
            yield slice(sample, sample + samples), slice(channel, channel + channels)


@torch.no_grad()
def jaccard_slopes(
    errors: Tensor, target: Tensor, weights: Tensor | None, first: int | None, penalize: bool, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Find by how much the Jaccard loss grows as each voxel joins the wrong ones, from the largest error on.

    Takes the arguments of :func:`jaccard_extension`, and ``slope``, of the shape of the errors, to write into: each
    voxel's slope, 0 where the weight is.

    Returns:
        The weighted number of voxels and of voxels of the class, both (B, C) in float64.
    """
    exact = accumulator_dtype(errors)
    dtype = exact if errors.shape[-1] >= COUNTS_IN_FLOAT32 else errors.dtype
    order = descending(errors)
    classes = None
    if first is not None:
        target = target.to(torch.int16)
        classes = torch.arange(first, first + errors.shape[1], device=errors.device, dtype=target.dtype)[:, None]
    target = target.expand_as(errors)
    weights = None if weights is None else weights.expand_as(errors)

    def read(target: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return which of some voxels belong to each class, and their weights, in the type to count in."""
        g = target if classes is None else target == classes
        return g.to(dtype), None if weights is None else weights.to(dtype)

    n, size = errors.new_zeros(2, *errors.shape[:2], dtype=exact)
    for some in pieces(errors.shape[-1]):
        g, w = read(target[..., some], None if weights is None else weights[..., some])
        size += (g if w is None else w * g).sum(-1, dtype=exact)
        n += g.shape[-1] if w is None else w.sum(-1, dtype=exact)
    in_all = size[..., None].to(dtype)
    found, joined = torch.zeros_like(in_all), torch.zeros_like(in_all)  # among those with larger errors
    for some in pieces(errors.shape[-1]):
        here = order[..., some]
        g, w = read(target.gather(2, here), None if weights is None else weights.gather(2, here))
        found = (g if w is None else w * g).cumsum(-1).add_(found)
        joined = (torch.ones_like(g) if w is None else w).cumsum(-1).add_(joined)
        # Delta_k - Delta_(k-1) in closed form: the difference of two numbers near 1 would lose all digits of a slope.
        # (g union + (1 - g) left) / (before union)
        left = (in_all - found).clamp_(min=0)
        step = torch.addcmul(left, g, joined)
        union = left.add_(joined)
        before = union - (1 - g if w is None else (1 - g) * w)
        step.div_(union).div_(before)
        if w is None:
            step.masked_fill_(before <= 0, 1.0)
        else:
            step = torch.where(before > 0, step.mul_(w), (w > 0).to(dtype))
        slope.scatter_(2, here, step.to(errors.dtype))
        found, joined = found[..., -1:], joined[..., -1:]
    if penalize and not known(size > 0):
        even = (1.0 if weights is None else weights.to(slope.dtype)) / n.clamp(min=1e-30).to(slope.dtype)[..., None]
        slope.copy_(torch.where(size[..., None] > 0, slope, even))
    return n, size
