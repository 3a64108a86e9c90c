"""Boundary losses: errors weighed by how far they lie from the border of the target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import SegmentationLoss, flag, mean, non_negative, one_of, positive
from .engine import plain
from .engine.checks import checked
from .engine.distances import above, checked_spacing, class_masks, signed_distance, visible
from .engine.operators import voxel_sums
from .engine.plain import FIRST, FP, SECOND, TP, Wanted
from .engine.precision import Activation, accumulator_dtype, computing_dtype, probabilities
from .engine.reading import Reading

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import LossOptions


class BoundaryLossBase(SegmentationLoss):
    """Base of the boundary losses. A new one defines :meth:`per_voxel`, or :meth:`total` if it needs no volumes.

    Voxels that are masked out or ignored, and all voxels of a class that was not annotated, lie outside of the class,
    in the target and in the prediction, and do not count. Takes the arguments of :class:`.SegmentationLoss`.
    """

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            input: (B, C, *S) with 1 to 3 spatial dimensions, logits or probabilities, any floating dtype.
            target: as in :meth:`.RegionLoss.forward`; borders are those of ``target > 0.5``. A mapping may hold
                ``"distance_map"``, (B, C, *S): the signed distance of each voxel from the border of each class,
                negative inside and 0 nowhere but in classes without border, as :class:`.SignedDistanceMapd` makes it
                and losses with ``spacing`` compute it when it is not there (HausdorffERLoss and HausdorffCVLoss need
                none).
            mask: (B, 1, *S) or (B, C, *S) bool or non-negative weights; a voxel of weight 0 has no influence at all.

        Returns:
            A scalar, or for ``reduction="none"`` (B, C), without the background where that is excluded. In the input's
            dtype, at least float32.

        Raises:
            AssertionError: when the shape of target, mask or distance map does not fit the input's.
            ValueError: when the number of dimensions, a label, a target's value, a voxel weight, the number of class
                weights or of spacings is wrong.
        """
        reading = self.read(input, target, mask).activated()
        if reading.input.numel() == 0:
            return self.of_nothing(reading)
        reading, bad = checked(reading)
        first = 1 if not self.include_background and reading.input.shape[1] > 1 else 0
        weight = voxel_weights(reading, first)
        total = self.total(reading, first, weight)
        if weight is None:
            n = torch.full_like(total, float(math.prod(reading.input.shape[2:])))
        else:
            n = weight.flatten(2).sum(-1, dtype=total.dtype)
        value = self.reduced(self.weighted(mean(total, n)), n > 0)
        value = value if bad is None else torch.where(bad, torch.nan, value)
        return value.to(computing_dtype(reading.input))

    def total(self, reading: Reading, first: int, weight: Tensor | None) -> Tensor:
        """Return the weighted sum over the voxels of each class from the first on, (B, C), in float64."""
        p = probabilities(reading.input, reading.rules.activation)
        p, g = p[:, first:], plain.shares(reading.rules, reading.target, p)[:, first:].to(p.dtype)
        if weight is None:
            return self.per_voxel(p, g).flatten(2).sum(-1, dtype=accumulator_dtype(p))
        value = self.per_voxel(torch.where(weight > 0, p, 0.0), torch.where(weight > 0, g, 0.0))
        return (weight * value).flatten(2).sum(-1, dtype=accumulator_dtype(p))

    def per_voxel(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the loss of each voxel, (B, C, *S), from probabilities and target of that shape."""
        raise NotImplementedError

    def weighed_sums(self, reading: Reading, first: int, phi: Tensor, wanted: Wanted) -> list[Any]:
        """Return the sums of a call in which a map weighs voxels, KINDS times (B, C) from the first class on.

        Args:
            reading: input and target without weights of their own.
            first: the class that the map begins with.
            phi: (B, C - first, *S), any numbers.
            wanted: which sums.
        """
        if first:
            phi = torch.cat([torch.zeros_like(phi[:, :first]), phi], 1)
        found, _ = voxel_sums(reading.weighed_by(phi), wanted)
        return [None if x is None else x[:, first:] for x in found]


class BoundaryDistanceLoss(BoundaryLossBase):
    r"""Mean over the predicted foreground of the signed distance from the border of the target.

    .. math:: L_c = \frac{1}{N} \sum_i \phi_i\,p_i, \qquad \phi_i = \begin{cases} -(d_i - h) & g_i = 1 \\
              d_i & g_i = 0 \end{cases}

    with the distance d of a voxel from the nearest one on the other side of the border and the size h of a voxel. Added
    to a region loss, with a weight that grows during training, for small objects whose outline matters. Costs a
    distance transform per class on the CPU, unless the target brings ``"distance_map"``.

    Args:
        inside: ``"shifted"``, :math:`-(d - h)`, in which foreground that touches the border has no weight, or
            ``"full"``, :math:`-d`.
        normalize: divide the map of each sample and class by its largest absolute value where voxels count.
        spacing: size of a voxel in mm, one number or one an axis; default 1. h is its smallest number, also where the
            map is given: one in mm needs the spacing here as well.

    Takes also the arguments of :class:`.SegmentationLoss`.

    Range: unbounded, negative at best; least for p = g; a class that is absent or fills the picture: 0 without
    gradient, so combine it with a region loss.

    Source: Ma 2020, section 4.1, arXiv:2005.13449 (``"full"``); Kervadec et al. 2019, arXiv:1812.07032, whose code has
    ``"shifted"``, with h = 1 whatever the spacing.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import BoundaryDistanceLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(BoundaryDistanceLoss()(p, g).item(), 4)
        -0.125
    """

    def __init__(
        self,
        *args: Any,
        inside: str = "shifted",
        normalize: bool = False,
        spacing: Sequence[float] | float | None = None,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        self.inside = one_of(("shifted", "full"), inside=inside)
        self.normalize = flag(normalize=normalize)
        self.spacing = checked_spacing(spacing)

    def total(self, reading: Reading, first: int, weight: Tensor | None) -> Tensor:
        """Return the weighted sum of the map times the probabilities; where the map is given, no target is needed."""
        shift = min(self.spacing or (1.0,)) if self.inside == "shifted" else 0.0
        phi = shifted(widened(signed_map(reading, first, self.spacing)), shift)
        phi = phi if weight is None else torch.where(weight > 0, phi, 0.0)
        sums = self.weighed_sums(reading, first, phi if weight is None else phi * weight, Wanted(counts=True))
        total = sums[TP] + sums[FP]
        if not self.normalize or not phi.numel():
            return total
        largest = phi.abs().flatten(2).amax(-1)
        return total / torch.where(largest > 0, largest, 1.0)


class HausdorffDistanceLoss(BoundaryLossBase):
    r"""Squared errors weighed by the distances from the borders of target and prediction.

    .. math:: L_c = \frac{1}{N} \sum_i (p_i - g_i)^2\,(d_{g,i}^\alpha + d_{p,i}^\alpha)

    An estimate of the Hausdorff distance that has a gradient everywhere: errors far from both borders, such as small
    islands, cost most. :math:`d_p` is of p > 0.5 and constant for the gradient. Costs distance transforms per class on
    the CPU; those of the target are spared when it brings ``"distance_map"``.

    Args:
        alpha: power of the distances, above 0; larger ones look at the farthest errors only.
        one_sided: leave out :math:`d_p`.
        spacing: size of a voxel in mm, one number or one an axis; default 1.

    Takes also the arguments of :class:`.SegmentationLoss`.

    Range: [0, inf), in voxels (mm) to the power of alpha; perfect 0; target empty or full: only :math:`d_p` counts, and
    0 without gradient if the prediction has no border either, so combine it with a region loss.

    Source: Jadon 2020, Eq. 23-24 and text, arXiv:2006.14822; Ma 2020, section 4.2, arXiv:2005.13449, where the square
    on the error is missing; Karimi and Salcudean 2019, arXiv:1904.10030.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import HausdorffDistanceLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(HausdorffDistanceLoss()(p, g).item(), 4)
        0.275
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 2.0,
        one_sided: bool = False,
        spacing: Sequence[float] | float | None = None,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        self.alpha = positive(alpha=alpha)
        self.one_sided = flag(one_sided=one_sided)
        self.spacing = checked_spacing(spacing)

    def total(self, reading: Reading, first: int, weight: Tensor | None) -> Tensor:
        """Return the weighted sum of the squared errors times the distances."""
        distances = widened(signed_map(reading, first, self.spacing)).abs() ** self.alpha
        if not self.one_sided:
            predicted = predicted_masks(reading, first, reading.rules.activation)
            distances += signed_distance(predicted, self.spacing, distances.dtype).abs() ** self.alpha
        if weight is not None:
            distances = torch.where(weight > 0, distances, 0.0) * weight
        sums = self.weighed_sums(reading, first, distances, Wanted(further="errors"))
        return sums[FIRST] + sums[SECOND]


class HausdorffERLoss(BoundaryLossBase):
    r"""Squared errors, eroded again and again: thick regions of error survive, and count more each time.

    .. math:: L_c = \frac{1}{N} \sum_{k=1}^K k^\alpha \sum_i e_{k,i}, \qquad
              e_k = r\bigl(\max(0,\ B * e_{k-1} - \tfrac{1}{2})\bigr), \qquad e_{0,i} = (p_i - g_i)^2

    with the mean B over a voxel and its neighbours along the axes (0 outside of the picture) and the rescaling r. An
    estimate of the Hausdorff distance without distance transforms.

    Args:
        alpha: power of the number of the erosion, at least 0.
        erosions: how many erosions, K, at least 1; errors thicker than about 2 K voxels look alike.
        normalize: what r does: ``"minmax"``, stretch the remaining errors of each sample and class to [0, 1], in which
            the smallest and the largest are constants for the gradient; ``"rescale"``, double them; ``"none"``.

    Takes also the arguments of :class:`.SegmentationLoss`.

    Range: [0, sum of k^alpha]; perfect 0. Errors below 0.7071, whose square is below 1/2, are gone after the first
    erosion and have no gradient, and so are thin ones, so combine it with a region loss.

    Source: Karimi and Salcudean 2019, arXiv:1904.10030; Jadon 2020, text after Eq. 24, arXiv:2006.14822. The
    rescaling follows public code.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import HausdorffERLoss
        >>> p, g = torch.zeros(1, 1, 7, 7), torch.zeros(1, 1, 7, 7)
        >>> p[..., 1:6, 1:6] = 0.9
        >>> round(HausdorffERLoss(erosions=2)(p, g).item(), 4)
        0.8305
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 2.0,
        erosions: int = 10,
        normalize: str = "minmax",
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        self.alpha = non_negative(alpha=alpha)
        self.erosions = counted(erosions=erosions)
        self.normalize = one_of(("minmax", "rescale", "none"), normalize=normalize)

    def per_voxel(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the weighted sum of the eroded errors."""
        error = (p - g).square()
        total = torch.zeros_like(error)
        for k in range(1, self.erosions + 1):
            error = (mean_of_cross(error) - 0.5).relu()
            error = _stretched(error) if self.normalize == "minmax" else error
            error = 2 * error if self.normalize == "rescale" else error
            total = total + k**self.alpha * error
        return total


class HausdorffCVLoss(BoundaryLossBase):
    r"""Squared errors counted in balls: an error costs more the larger the ball it fits in, away from either border.

    .. math:: L_c = \frac{1}{N} \sum_r r^\alpha \sum_i e_i \bigl(p_i f(B_r * \bar g)_i + g_i f(B_r * g)_i +
              g_i f(B_r * \bar p)_i + p_i f(B_r * p)_i\bigr), \qquad e = (p - g)^2,\ f(x) = \max(0,\ 2x - 1)

    with the mean :math:`B_r` over a ball, :math:`\bar g = 1 - g`, and 0 for g and p outside of the picture. The terms
    are false positives far outside and false negatives deep inside of the target, then the same for the prediction. An
    estimate of the Hausdorff distance without distance transforms, with a gradient through both borders.

    Args:
        alpha: power of the radius, at least 0.
        radii: radii of the balls in voxels, each at least 1.

    Takes also the arguments of :class:`.SegmentationLoss`.

    Range: [0, inf); perfect 0; errors nearer to a border than about the smallest radius have no gradient, so combine it
    with a region loss.

    Source: Karimi and Salcudean 2019, arXiv:1904.10030; Jadon 2020, text after Eq. 24, arXiv:2006.14822. Neither states
    the radii or the threshold f.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import HausdorffCVLoss
        >>> p, g = torch.zeros(1, 1, 7, 7), torch.zeros(1, 1, 7, 7)
        >>> p[..., 1:6, 1:6] = 0.9
        >>> round(HausdorffCVLoss(radii=(1, 2))(p, g).item(), 4)
        2.4896
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 2.0,
        radii: Sequence[float] = (3, 6, 9, 12, 15, 18),
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        self.alpha = non_negative(alpha=alpha)
        self.radii = tuple(radii)
        if not self.radii or not all(1 <= r < float("inf") for r in self.radii):
            raise ValueError(f"radii must be numbers of voxels, each at least 1, got {radii}.")

    def per_voxel(self, p: Tensor, g: Tensor) -> Tensor:
        """Return the squared errors weighed by the balls that they fill."""
        balls = means_of_balls(torch.cat([p, g]), self.radii)
        total = torch.zeros_like(p)
        for r, (ball_p, ball_g) in zip(self.radii, (ball.chunk(2) for ball in balls), strict=True):
            outside = p * _above_half(1 - ball_g) + g * _above_half(1 - ball_p)
            inside = g * _above_half(ball_g) + p * _above_half(ball_p)
            total = total + r**self.alpha * (outside + inside)
        return (p - g).square() * total


def voxel_weights(reading: Reading, first: int) -> Tensor | None:
    """Return how much each voxel counts for each class from the first on, (B, C, *S), or None if all count 1."""
    if reading.mask is None and reading.classes is None:
        return None
    weight = torch.ones((), device=reading.input.device) if reading.mask is None else reading.mask
    if reading.classes is not None:
        weight = weight * reading.classes.view(*reading.classes.shape, *[1] * (reading.input.ndim - 2))
    return weight.expand_as(reading.input)[:, first:].to(computing_dtype(reading.input))


def signed_map(reading: Reading, first: int, spacing: Sequence[float] | None) -> Tensor:
    """Return the signed distances from the border of each class from the first on, (B, C, *S), given or computed.

    Raises:
        AssertionError: when the given map does not have a channel for each class.
    """
    given = reading.distance_map
    if given is None:
        dtype = computing_dtype(reading.input)
        distances: Tensor = signed_distance(class_masks(reading, first=first), spacing, dtype)
        return distances
    if given.shape != reading.input.shape:
        raise AssertionError(
            f"distance_map must have the input's shape {tuple(reading.input.shape)}, got {tuple(given.shape)}."
        )
    return given[:, first:]


def predicted_masks(reading: Reading, first: int, activation: Activation) -> Tensor:
    """Return where classes from the first on are predicted with more than one half, (B, C, *S); masked ones nowhere."""
    predicted, seen = above(reading.input, activation), visible(reading)
    return (predicted if seen is None else predicted & seen)[:, first:]


def counted(**named: int) -> int:
    """Return the one named number; raise ValueError unless it is a whole number of at least 1."""
    ((name, value),) = named.items()
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value}.")
    return value


def mean_of_cross(x: Tensor) -> Tensor:
    """Return the mean over each voxel of (B, C, *S) and its neighbours along the axes, with 0 around the picture."""
    total = x
    for axis in range(2, x.ndim):
        edge, rest = torch.zeros_like(x.narrow(axis, 0, 1)), x.shape[axis] - 1
        after, before = x.narrow(axis, 1, rest), x.narrow(axis, 0, rest)
        total = total + torch.cat([after, edge], axis) + torch.cat([edge, before], axis)
    return total / (2 * x.ndim - 3)


def means_of_balls(x: Tensor, radii: Sequence[float]) -> Iterator[Tensor]:
    """Yield, for each radius, the mean over a ball around each voxel of (B, C, *S), with 0 around the picture."""
    axes, reach = list(range(2, x.ndim)), int(max(radii))
    sizes = [max(n + reach, 2 * reach + 1) for n in x.shape[2:]]  # the Fourier transform meets its own other end
    spectrum = torch.fft.rfftn(x, s=sizes, dim=axes)
    steps = [torch.arange(n, device=x.device, dtype=x.dtype) for n in sizes]
    steps = [torch.minimum(step, n - step) for step, n in zip(steps, sizes, strict=True)]
    squares = torch.stack(torch.meshgrid(*steps, indexing="ij")).square().sum(0)
    for r in radii:
        ball = (squares <= r**2).to(x.dtype)
        means = torch.fft.irfftn(spectrum * torch.fft.rfftn(ball / ball.sum()), s=sizes, dim=axes)
        for axis in axes:
            means = means.narrow(axis, 0, x.shape[axis])
        yield means


def _above_half(x: Tensor) -> Tensor:
    return (2 * x - 1).relu()


def _stretched(x: Tensor) -> Tensor:
    """Return each sample and class of (B, C, *S) stretched to [0, 1], by constants; constant ones as they are."""
    axes = tuple(range(2, x.ndim))
    low, high = x.detach().amin(axes, keepdim=True), x.detach().amax(axes, keepdim=True)
    return torch.where(high > low, (x - low) / torch.where(high > low, high - low, 1.0), x)


def widened(x: Tensor) -> Tensor:
    """Return ``x`` in at least float32."""
    return x.to(computing_dtype(x))


def shifted(distances: Tensor, shift: float) -> Tensor:
    """Return signed distances with those inside, which are negative, nearer to 0 by ``shift``."""
    return torch.sub(distances, distances.sign().clamp_(max=0), alpha=shift) if shift else distances  # where is slow
