"""Voxel losses: cross-entropies in which classes, hard voxels or voxels near a border count more than others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import (
    Sums,
    SumsLoss,
    flag,
    fraction,
    mean,
    non_negative,
    number,
    one_of,
    safe_ratio,
    sums_for,
)
from .engine import plain
from .engine.checks import check, checked
from .engine.distances import (
    above,
    border_penalty,
    checked_spacing,
    class_masks,
    mean_distance,
    penalty_regions,
    visible,
)
from .engine.neighbourhoods import each_voxel, sum_of_voxels
from .engine.operators import voxel_sums, voxel_values, voxel_weights
from .engine.plain import INSIDE, OUTSIDE, Wanted
from .engine.precision import accumulator_dtype, both_probabilities, computing_dtype, promoted
from .engine.reading import Reading, Rules, spread
from .engine.sorting import descending, largest
from .paths import known, waits

Factor = Tensor | float | None  # of classes, (B or 1, C), or one for all; None is 1
Factors = tuple[Factor, Factor]  # of what is inside and outside of each class

SMALLEST_DIFFERENCE = 1e-9  # of structures; what is smaller may be rounding

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import LossOptions


class VoxelLoss(SumsLoss):
    r"""Base of all losses that are a mean over voxels.

    A new one defines :attr:`likelihood`, :meth:`balance` or :meth:`emphasis`.

    With ``softmax``, and for other predictions in several channels except with ``sigmoid``, a voxel has one class and
    its value is the sum over the classes of :math:`-g_c \log p_c`. Otherwise every channel is a problem of its own,
    with :math:`-g \log p - (1 - g) \log (1 - p)`. Given probabilities are clamped to [1e-7, 1 - 1e-7].

    What is left out where a class does not count (the background with ``include_background=False``, a class that was
    not annotated in the scan) is its channel, and with exclusive classes the voxels that belong to it; under a softmax
    a class that was not annotated is part of the background, as :meth:`.RegionLoss.forward` tells.

    Takes the arguments of :class:`SegmentationLoss`.
    """

    likelihood = "cross_entropy"  # one of those of :mod:`.engine.plain`
    pads_weight = False  # whether the first of the class weights is that of a background that one channel has not
    exclusive_classes = True  # whether several channels without sigmoid are classes that exclude each other

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            input: (B, C, *S) with 1 to 3 spatial dimensions, logits or probabilities, any floating dtype.
            target: as for :meth:`RegionLoss.forward`.
            mask: (B, 1, *S) or (B, C, *S) bool or non-negative weights; a voxel of weight 0 has no influence at all.
                One for all samples, (1, 1, *S) or (1, C, *S), fits as well.

        Returns:
            A scalar, the mean over all voxels of the batch that count (the weighted mean with a mask), or for
            ``reduction="none"`` one value a voxel times its weight: (B, 1, *S) for exclusive classes, else (B, C, *S),
            without the background where that is excluded. In the input's dtype, at least float32.

        Raises:
            AssertionError: when the shape of target or mask does not fit the input's.
            ValueError: when the number of dimensions, a label, a target's value, a voxel weight or the number of
                class weights is wrong.
        """
        reading = self.read(input, target, mask).activated()
        if reading.input.numel() == 0:
            return self.of_nothing(reading)
        emphasis, counts = self.emphasis(reading)
        if self.reduction == "none":
            return self.each(reading, emphasis)
        if emphasis is None:
            return sums_for([self], reading).into(self, reading)
        bad = check(reading)  # also what has no emphasis
        weight = emphasis if reading.mask is None else reading.mask * emphasis
        weighed = replace(reading, mask=weight, validate="never")
        values, _ = voxel_sums(weighed, self.wanted())
        if not counts:
            values = (*sizes_of(reading), *values[2:])
        loss = self.of_sums(Sums(values), weighed if counts else reading)
        return loss if bad is None else loss.masked_fill(bad, torch.nan)

    def shares_walk(self) -> bool:
        """Return whether there is no factor of each voxel by itself."""
        return type(self).emphasis is VoxelLoss.emphasis and type(self).forward is VoxelLoss.forward

    def wanted(self) -> Wanted:
        """Return the likelihoods."""
        return Wanted(likelihood=self.likelihood, gamma=getattr(self, "gamma", 0.0))

    def of_sums(self, sums: Sums, reading: Reading) -> Tensor:
        """Return the mean, or the sum, of the likelihoods times their factors."""
        dtype = computing_dtype(reading.input)
        factor = self.common_factor()
        if factor is not None and self.counts_alike(reading):  # each operation may be a call of a device
            total = sums.values[INSIDE].sum()
            total = total if self.exclusive(reading) else total + sums.values[OUTSIDE].sum()
            number = reading.input.numel() // (reading.channels if self.exclusive(reading) else 1)
            factor = factor / number if self.reduction == "mean" else factor
            return (total * factor).to(dtype)
        sizes = self.sizes(sums.values, reading)
        inside, outside = (sizes.counted(x) for x in self.factors(sizes))
        total = weighed(sums.values[INSIDE], inside)
        if not sizes.exclusive:
            total = total + weighed(sums.values[OUTSIDE], outside)
        if self.reduction == "mean":
            total = safe_ratio(total, self.divisor(sizes, inside, outside), otherwise=0.0)
        return total.to(dtype)

    def counts_alike(self, reading: Reading) -> bool:
        """Return whether all voxels and classes count the same."""
        everything = reading.mask is None and reading.classes is None and reading.rules.ignore_index is None
        return everything and self.weight is None and self.first(reading.channels) == 0 and reading.input.numel() > 0

    def common_factor(self) -> float | None:
        """Return what :meth:`balance` gives all voxels of all classes, or None if these differ."""
        own = type(self)
        return 1.0 if own.balance is VoxelLoss.balance and own.divisor is VoxelLoss.divisor else None

    def each(self, reading: Reading, emphasis: Tensor | None) -> Tensor:
        """Return each voxel's loss times its weight."""
        sizes = self.sizes(sizes_of(reading), reading)
        inside, outside = (sizes.full(x) for x in self.factors(sizes))
        each = voxel_values(reading, self.wanted(), sizes.exclusive, inside, outside)
        each = each if sizes.exclusive else each[:, self.first(reading.channels) :]
        return each if emphasis is None else each * self.narrowed(emphasis, sizes)

    def narrowed(self, x: Tensor, sizes: Sizes) -> Tensor:
        """Return of (B, 1 or C, *S) the channels that have values."""
        return x if sizes.exclusive or x.shape[1] == 1 else x[:, self.first(x.shape[1]) :]

    def sizes(self, sums: Sequence[Tensor], reading: Reading) -> Sizes:
        """Return which classes count, and the sizes of classes and samples."""
        exclusive = self.exclusive(reading)
        kept = self.kept(reading)
        number, size = (x.detach() if x.requires_grad else x for x in sums[:2])
        if kept is not None:
            size = torch.where(kept, size, 0.0)
        if not exclusive:
            number = number if kept is None else torch.where(kept, number, 0.0)
        elif reading.labels or reading.rules.weighs_channels(reading.mask):
            number = size.sum(1, keepdim=True)
        else:  # shares need not add up to 1
            number = number[:, :1]
            if kept is not None:
                left_out = ~kept
                if reading.merges:  # into the background, which keeps them
                    left_out = torch.cat([left_out[:, :1], torch.zeros_like(left_out[:, 1:])], 1)
                number = number - torch.where(left_out, sums[1].detach(), 0.0).sum(1, keepdim=True)
        return Sizes(number, size, kept, exclusive)

    def exclusive(self, reading: Reading) -> bool:
        """Return whether the classes of a voxel exclude each other."""
        return self.exclusive_classes and reading.channels > 1 and not self.sigmoid

    def kept(self, reading: Reading) -> Tensor | None:
        """Return which classes of a sample count, (B, C) bool, or None if all do."""
        first, classes = self.first(reading.channels), reading.classes
        if first == 0:
            return classes
        shape, device = reading.input.shape[:2], reading.input.device
        kept = torch.ones(shape, dtype=torch.bool, device=device) if classes is None else classes
        return torch.cat([torch.zeros_like(kept[:, :1]), kept[:, 1:]], 1)

    def first(self, channels: int) -> int:
        """Return the first channel that counts."""
        return 0 if self.include_background or channels == 1 else 1

    def emphasis(self, reading: Reading) -> tuple[Tensor | None, bool]:
        """Return a further factor of each voxel's loss, a constant (B, 1 or C, *S); whether it counts in the mean."""
        return None, False

    def balance(self, sizes: Sizes) -> Factors:
        """Return factors of what is inside and outside of each class, (B or 1, C), None for 1.

        Of exclusive classes the first alone is used.
        """
        return None, None

    def factors(self, sizes: Sizes) -> Factors:
        """Return :meth:`balance` times the class weights."""
        inside, outside = self.balance(sizes)
        if self.weight is None:
            return inside, outside
        first = self.first(sizes.channels)
        if sizes.channels == 1 and self.pads_weight:
            return (self.weight[1:] if x is None else x * self.weight[1:] for x in (inside, outside))  # type: ignore[return-value]
        weight = self.weighted(sizes.size.new_ones(1, sizes.channels - first))
        weight = torch.nn.functional.pad(weight, (first, 0), value=1.0)  # the background's voxels do not count anyway
        return (weight if x is None else x * weight for x in (inside, outside))  # type: ignore[return-value]

    def divisor(self, sizes: Sizes, inside: Factor, outside: Factor) -> Tensor:
        """Return what the mean divides by."""
        return sizes.number.sum()


@dataclass(frozen=True)
class Sizes:
    """How many voxels count, and how many each class has."""

    number: Tensor  # (B, 1) for exclusive classes, else (B, C)
    size: Tensor  # (B, C)
    kept: Tensor | None  # (B, C), which classes count
    exclusive: bool

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.size.shape[1]

    def per_class(self, foreground: float, background: float) -> Factors:
        """Return factors of what is inside and outside of each class, (1, C); exclusive class 0 is the background."""
        if foreground == background:
            return foreground, background
        outside = self.size.new_full((1, self.channels), background)
        inside = torch.full_like(outside, foreground)
        if self.exclusive:
            inside[:, 0] = background
        return inside, outside

    def counted(self, x: Factor) -> Factor:
        """Return factors (B or 1, C), None for 1, with 0 for classes that do not count."""
        if self.kept is None:
            return x
        return self.kept.to(self.size.dtype) if x is None else torch.where(self.kept, x, 0.0).to(self.size.dtype)

    def full(self, x: Factor) -> Tensor:
        """Return :meth:`counted` factors as (B, C)."""
        counted = self.counted(x)
        if isinstance(counted, Tensor):
            return counted.expand_as(self.size)
        return torch.full_like(self.size, 1.0 if counted is None else counted)


def weighed(sums: Tensor, factors: Factor) -> Tensor:
    """Return the sum over samples and classes, (B, C), times factors, None for 1."""
    return sums.sum() if factors is None else (factors * sums).sum()


def sizes_of(reading: Reading) -> tuple[Tensor, Tensor]:
    """Return the first two sums of :mod:`.engine.plain`, (B, C): weighted numbers of voxels, and of each class."""
    return plain.sizes(reading.rules, reading.input, reading.target, reading.mask, reading.classes)


class WeightedCrossEntropyLoss(VoxelLoss):
    r"""Cross-entropy with a factor for the foreground, or for each class.

    .. math:: L = \operatorname{mean}_i -\left( w_1\,g_i \log p_i + w_0\,(1 - g_i) \log (1 - p_i) \right), \qquad
              L = \operatorname{mean}_i -w_{l(i)} \log p_{i,l(i)}

    Raise the foreground's factor when lesions are missed, lower it when there are too many false alarms.

    Args:
        pos_weight: factor of the foreground, at least 0; with exclusive classes, of all classes but class 0.
        prior: share of foreground voxels in the training set, in (0, 1): foreground counts 1 / (2 prior), background
            1 / (2 - 2 prior), 1 on average. Or one share a class, which count 1 / (C prior) with exclusive classes.
            Either this or ``pos_weight``; ``weight`` multiplies both.
        normalize: ``"voxels"``, the mean over voxels; ``"weights"``, divided by the sum of all factors, as
            ``torch.nn.CrossEntropyLoss`` does.

    Takes also the arguments of :class:`.VoxelLoss`.

    Range: [0, inf); perfect 0, p = 0.5 everywhere 0.69 times the mean factor; absent class: as any other voxel.

    Source: Jadon 2020, Eq. 2, arXiv:2006.14822; Ma 2020, Eq. 3, arXiv:2005.13449; the prior of Eelbode et al. 2020,
    doi:10.1109/TMI.2020.3002417.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import WeightedCrossEntropyLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(WeightedCrossEntropyLoss(pos_weight=2.0)(p, g).item(), 4)
        0.593
    """

    def __init__(
        self,
        *args: Any,
        pos_weight: float | None = None,
        prior: float | Sequence[float] | None = None,
        normalize: str = "voxels",
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        self.pos_weight = None if pos_weight is None else non_negative(pos_weight=pos_weight)
        self.prior = checked_prior(prior, pos_weight)
        self.normalize = one_of(("voxels", "weights"), normalize=normalize)

    def balance(self, sizes: Sizes) -> Factors:
        """Return the factors of foreground and background, (1, C)."""
        if self.prior is None:
            return (None, None) if self.pos_weight is None else sizes.per_class(self.pos_weight, 1.0)
        return factors_of_prior(self.prior, sizes, self.first(sizes.channels))

    def common_factor(self) -> float | None:
        """Return 1 if there are neither factors nor a mean over them."""
        return 1.0 if self.prior is None and self.pos_weight is None and self.normalize == "voxels" else None

    def divisor(self, sizes: Sizes, inside: Factor, outside: Factor) -> Tensor:
        """Return what the mean divides by, with ``normalize="weights"`` the sum of the factors of all voxels."""
        if self.normalize == "voxels":
            return super().divisor(sizes, inside, outside)
        total = weighed(sizes.size, inside)
        return total if sizes.exclusive else total + weighed(sizes.number - sizes.size, outside)


class BalancedCrossEntropyLoss(VoxelLoss):
    r"""Cross-entropy in which foreground and background of each sample count the same.

    .. math:: L = \operatorname{mean}_i -\left( \beta\,g_i \log p_i + (1 - \beta)(1 - g_i) \log (1 - p_i) \right),
              \qquad \beta = 1 - G / N

    For objects whose size differs much from image to image. A sample without foreground, or without background,
    teaches nothing: then :math:`\beta` takes its loss away.

    Args:
        beta: weight of the foreground in [0, 1], the background has the rest; with exclusive classes, class 0 has the
            rest. Default: the share of voxels that are not foreground, in each sample by itself; with exclusive
            classes each class counts the share of voxels of all others, divided by C - 1.

    Takes also the arguments of :class:`.VoxelLoss`.

    Range: [0, inf); perfect 0; a sample that is all foreground or all background 0, with gradient 0.

    Source: Jadon 2020, Eq. 3, arXiv:2006.14822, where :math:`\beta = 1 - y / (HW)` must have the number of positive
    voxels for y.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import BalancedCrossEntropyLoss
        >>> p, g = torch.tensor([[[0.8, 0.3, 0.1, 0.2]]]), torch.tensor([[[1, 0, 0, 0]]])
        >>> round(BalancedCrossEntropyLoss()(p, g).item(), 4)
        0.0847
    """

    def __init__(self, *args: Any, beta: float | None = None, **options: Unpack[LossOptions]) -> None:
        super().__init__(*args, **options)
        self.beta = None if beta is None else fraction(beta=beta)

    def common_factor(self) -> float | None:
        """Return one half if that is beta."""
        return self.beta if self.beta == 0.5 else None

    def balance(self, sizes: Sizes) -> Factors:
        """Return the fixed weights, (1, C), or those of each sample, (B, C)."""
        if self.beta is not None:
            return sizes.per_class(self.beta, 1 - self.beta)
        share = mean(sizes.size, sizes.number).clamp(max=1)  # shares may add up to more
        return (1 - share) / max(sizes.channels - 1, 1) if sizes.exclusive else 1 - share, share


class FocalCrossEntropyLoss(VoxelLoss):
    r"""Cross-entropy damped where the prediction is already good.

    .. math:: L = \operatorname{mean}_i -\alpha_t\,(1 - p_t)^\gamma \log p_t, \qquad
              p_t = p \text{ where } g = 1, \quad 1 - p \text{ where } g = 0

    For many easy background voxels: they no longer outweigh the few hard ones.

    Args:
        gamma: strength of the damping, at least 0; 0 is the cross-entropy.
        alpha: weight of the foreground in [0, 1], the background has the rest; with exclusive classes, class 0 has the
            rest. Default: both count 1.

    Takes also the arguments of :class:`.VoxelLoss`.

    Range: [0, inf); perfect 0; p = 0.5 everywhere :math:`0.69 \cdot 2^{-\gamma}`.

    Source: Jadon 2020, Eq. 4-7, arXiv:2006.14822, whose text has gamma = 1 for the cross-entropy, which is gamma = 0;
    Ma 2020, Eq. 5, arXiv:2005.13449. With exclusive classes the mean is over voxels, where MONAI's also divides by C.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import FocalCrossEntropyLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(FocalCrossEntropyLoss()(p, g).item(), 4)
        0.0852
    """

    likelihood = "focal"

    def __init__(
        self, *args: Any, gamma: float = 2.0, alpha: float | None = None, **options: Unpack[LossOptions]
    ) -> None:
        super().__init__(*args, **options)
        self.gamma = non_negative(gamma=gamma)
        if isinstance(alpha, Sequence):
            raise TypeError(f"alpha must be one number, the foreground's share, got {alpha}; weight= has one a class.")
        self.alpha = None if alpha is None else fraction(alpha=alpha)

    def common_factor(self) -> float | None:
        """Return 1 if there is no alpha."""
        return 1.0 if self.alpha is None else None

    def balance(self, sizes: Sizes) -> Factors:
        """Return alpha and 1 - alpha, (1, C)."""
        return (None, None) if self.alpha is None else sizes.per_class(self.alpha, 1 - self.alpha)


class TopKCrossEntropyLoss(VoxelLoss):
    r"""Cross-entropy of the hardest voxels only.

    .. math:: L = \frac{1}{|K|} \sum_{i \in K} CE_i

    For large images of which most is easy. It follows label errors, which are the hardest voxels of all.

    Args:
        k: percentage of the batch's voxels that are kept, in (0, 100]: those of the largest loss, at least one.
        threshold: keep instead the voxels whose true class has a probability below this, in (0, 1].
        min_kept: number of hardest voxels, at least 0, that ``threshold`` always keeps.

    Takes also the arguments of :class:`.VoxelLoss`.

    Range: [0, inf); perfect 0; k = 100 and threshold = 1 are the cross-entropy; nothing kept 0.

    Raises:
        ValueError: also when ``min_kept`` is given without ``threshold``.

    Source: Ma 2020, Eq. 4, arXiv:2005.13449 (threshold; its text has losses in the place of probabilities); its code
    and nnU-Net keep a percentage, which is the default here.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import TopKCrossEntropyLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(TopKCrossEntropyLoss(k=50)(p, g).item(), 4)
        0.5697
    """

    def __init__(
        self,
        *args: Any,
        k: float = 10.0,
        threshold: float | None = None,
        min_kept: int = 0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        check_kept(k, threshold, min_kept)
        self.k, self.threshold, self.min_kept = k, threshold, non_negative(min_kept=min_kept)

    @torch.no_grad()
    def emphasis(self, reading: Reading) -> tuple[Tensor, bool]:
        """Return the kept part of each voxel, 0 to 1."""
        sizes = self.sizes(sizes_of(reading), reading)
        mask = None if reading.mask is None else (reading.mask > 0).to(torch.uint8)
        alike = replace(reading, mask=mask)

        def losses(inside: Factor, outside: Factor) -> Tensor:
            return voxel_values(alike, self.wanted(), sizes.exclusive, sizes.full(inside), sizes.full(outside))

        weight = voxel_weights(reading, sizes.kept, sizes.exclusive)
        if self.threshold is None:
            return hardest(losses(*self.factors(sizes)), weight, percentage=self.k), True
        nll = losses(None, None)
        kept = (nll > -math.log(self.threshold)).to(nll.dtype)
        if self.min_kept:
            kept = torch.maximum(kept, hardest(losses(*self.factors(sizes)), weight, n=self.min_kept))
        return kept, True


class DistanceMapCrossEntropyLoss(VoxelLoss):
    r"""Cross-entropy that counts more the nearer a voxel is to a border of the true mask.

    .. math:: L = \operatorname{mean}_i (1 + \phi_i)\,CE_i, \qquad
              \phi_i = \frac{\max_R d - d_i}{\max_R d - \min_R d} \text{ for } i \in R

    :math:`d_i` is the distance from voxel i to the nearest voxel outside of its region R: foreground and background, or
    with exclusive classes the voxels of each class. For sharper borders than the cross-entropy gives.

    Args:
        normalize: with it, the factor is 2 at the border and 1 at the deepest voxel of each region; without it,
            :math:`\phi_i = \max_R d - d_i`, in voxels, or in mm with ``spacing``.
        spacing: size of a voxel in mm, one number or one an axis; default 1.

    Takes also the arguments of :class:`.VoxelLoss`. A ready map of :math:`\phi`, as :class:`.PenaltyDistanceMap` makes
    it, is taken from ``target["penalty_map"]``, or else from ``target["distance_map"]``: (B, C, *S), of which with
    exclusive classes a voxel reads the channel of its class, or then (B, 1, *S).

    Range: [0, inf); perfect 0; class that is absent or fills the image: the cross-entropy.

    Raises:
        ValueError: also when the map holds a negative value, as signed distances do.

    Source: Jadon 2020, Eq. 22, arXiv:2006.14822; Ma 2020, Eq. 6, arXiv:2005.13449, where the factor stands outside of
    the sum. Its code returns the mean without the factor.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import DistanceMapCrossEntropyLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(DistanceMapCrossEntropyLoss()(p, g).item(), 4)
        0.6224
    """

    def __init__(
        self,
        *args: Any,
        normalize: bool = True,
        spacing: Sequence[float] | float | None = None,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        self.normalize = flag(normalize=normalize)
        self.spacing = checked_spacing(spacing)

    def emphasis(self, reading: Reading) -> tuple[Tensor, bool]:
        """Return 1 + phi, the factor of each voxel's cross-entropy."""
        dtype, exclusive = computing_dtype(reading.input), self.exclusive(reading)
        phi = given_penalty(reading, exclusive)
        if phi is None:
            check(reading)
            regions = penalty_regions(reading.neutral(), exclusive)
            phi = border_penalty(regions, self.spacing, dtype, self.normalize)
        return phi.to(dtype) + 1, False


class ShapeAwareLoss(VoxelLoss):
    r"""Cross-entropy that counts more the farther the predicted outline is from the true one.

    .. math:: L = \operatorname{mean}_i (1 + E\,m_i)\,CE_i, \qquad E = \operatorname{mean}_{i \in C_{p > t}}
              \min_{j \in C_g} |i - j|

    C are the voxels of a mask that touch its border. For outlines that lie far from the truth at places; E is a
    constant for the gradient. Each sample and class has its own; with exclusive classes, a voxel takes that of its
    class.

    Args:
        region: ``"all"``, :math:`m_i = 1`; ``"mismatch"``, 1 only where the thresholded prediction is wrong.
        threshold: t, a probability in [0, 1].
        spacing: size of a voxel in mm, one number or one an axis; default 1, E in voxels.

    Takes also the arguments of :class:`.VoxelLoss`.

    Range: [0, inf); perfect 0; no outline in prediction or truth: the cross-entropy.

    Source: Jadon 2020, Eq. 15-16, arXiv:2006.14822, which has one minus too many and gives the average E an index.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import ShapeAwareLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(ShapeAwareLoss()(p, g).item(), 4)
        0.6751
    """

    def __init__(
        self,
        *args: Any,
        region: str = "all",
        threshold: float = 0.5,
        spacing: Sequence[float] | float | None = None,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        self.region = one_of(("all", "mismatch"), region=region)
        self.threshold = fraction(threshold=threshold)
        self.spacing = checked_spacing(spacing)

    def emphasis(self, reading: Reading) -> tuple[Tensor, bool]:
        """Return 1 + E m, the factor of each voxel's cross-entropy."""
        reading, _ = checked(reading)
        dtype, exclusive = computing_dtype(reading.input), self.exclusive(reading)
        actual = class_masks(reading, exclusive)
        predicted = above(reading.input, reading.rules.activation, self.threshold)
        seen = visible(reading, exclusive)
        predicted = predicted if seen is None else predicted & seen
        error = mean_distance(border(predicted), border(actual), self.spacing, dtype)
        concerned = actual != predicted if self.region == "mismatch" else torch.ones_like(actual)
        return error_of_voxels(error, concerned, actual if exclusive else None).add_(1), False


class StructuralSimilarityCrossEntropyLoss(VoxelLoss):
    r"""Cross-entropy of the voxels whose neighbourhood looks different in prediction and truth.

    .. math:: L = \frac{1}{\sum_i f_i} \sum_i f_i\,e_i\,CE_i, \qquad
              e = \left| \frac{g - \mu_g + c_4}{\sigma_g + c_4} - \frac{p - \mu_p + c_4}{\sigma_p + c_4} \right|, \qquad
              f_i = [e_i > \beta \max e]

    :math:`\mu` and :math:`\sigma` are the mean and the standard deviation in a Gaussian window. For thin structures and
    textured outlines. Where prediction and truth are both constant e is 0 and the loss is blind: raise ``lambda_ce``.

    Args:
        c4: added to means and deviations, at least 0.
        beta: share of the largest difference, in [0, 1), up to which a voxel is dropped.
        window: size of the window in voxels, odd.
        sigma: standard deviation of the window in voxels, above 0.
        lambda_ce: share of the plain cross-entropy in the loss, in [0, 1].

    Takes also the arguments of :class:`.VoxelLoss`. The cross-entropy is that of each channel by itself, also with
    softmax. With ``reduction="none"``, the mean of the values is the loss.

    Range: [0, inf); perfect 0; constant prediction of an empty or full target 0 with ``lambda_ce=0``.

    Source: Jadon 2020, Eq. 24-27, arXiv:2006.14822, which prints the indicator as a product and says that it drops
    what is uncorrelated; it drops what is correlated.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import StructuralSimilarityCrossEntropyLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(StructuralSimilarityCrossEntropyLoss()(p, g).item(), 4)
        0.2893
    """

    exclusive_classes = False

    def __init__(
        self,
        *args: Any,
        c4: float = 0.01,
        beta: float = 0.1,
        window: int = 3,
        sigma: float = 1.5,
        lambda_ce: float = 0.0,
        **options: Unpack[LossOptions],
    ) -> None:
        super().__init__(*args, **options)
        self.c4, self.sigma = non_negative(c4=c4), non_negative(sigma=sigma)
        self.beta, self.lambda_ce, self.window = fraction(beta=beta), fraction(lambda_ce=lambda_ce), window
        if window < 1 or window % 2 == 0 or sigma == 0 or beta == 1:
            raise ValueError(f"window must be odd, sigma above 0 and beta below 1, got {window}, {sigma} and {beta}.")

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss, with the arguments and errors of :meth:`.VoxelLoss.forward`."""
        reading = self.read(input, target, mask).activated()
        if reading.input.numel() == 0:
            return self.of_nothing(reading)
        bad = check(reading)
        if reading.mask is not None and known(reading.mask == 1):  # an option that is not used changes no bit
            reading = replace(reading, mask=None)
        sizes, dtype = self.sizes(sizes_of(reading), reading), computing_dtype(reading.input)
        tensors = reading.target, reading.mask, reading.classes, self.kept(reading)
        window = tuple(gaussian(self.window, self.sigma))
        difference = partial(structural_difference, reading.rules, window, self.c4)
        halo = self.window // 2
        weight = voxel_weights(reading, sizes.kept, False)
        e = each_voxel(difference, halo, reading.input, *tensors)
        least, share = kept_share(e, weight, self.beta)
        del e
        factors = (sizes.full(x).to(dtype) for x in self.factors(sizes))
        value = partial(structural_loss, reading.rules, window, self.c4, self.lambda_ce)
        if self.reduction == "none":
            loss = value(reading.input, *tensors, *factors, least, share)[:, self.first(reading.channels) :]
        else:
            loss = sum_of_voxels(value, halo, reading.input, *tensors, *factors, least, share)
            if self.reduction == "mean":
                loss = safe_ratio(loss, sizes.number.sum(), otherwise=0.0)
        loss = loss.to(dtype)
        return loss if bad is None else torch.where(bad, torch.nan, loss)


def given_penalty(reading: Reading, exclusive: bool) -> Tensor | None:
    """Return the penalty of each voxel that the target brought, (B, 1, *S) or (B, C, *S), checked; or None."""
    name = "distance_map" if reading.penalty_map is None else "penalty_map"
    given: Tensor | None = getattr(reading, name)
    if given is None:
        return None
    check_penalty(given, name)
    if given.shape != reading.input.shape and not exclusive:
        raise AssertionError(
            f"{name} must have the input's shape {tuple(reading.input.shape)} unless classes are exclusive, "
            f"got {tuple(given.shape)}."
        )
    rules, target, mask = reading.rules, reading.target, reading.mask
    if given.shape[1] > 1 and exclusive:
        own = rules.weigh(target, None)[0]
        own = rules.merged_target(own, reading.classes) if reading.classes is not None and reading.merges else own
        if reading.labels:
            given = given.gather(1, own.long().clamp(0, reading.channels - 1))
        else:
            given = (given * own).sum(1, keepdim=True)
    if mask is None and rules.ignore_index is None:
        return given
    seen = visible(reading.weighed(), exclusive)
    return given if seen is None else torch.where(seen, given, 0.0)  # what it holds elsewhere may be NaN


def check_penalty(given: Tensor, name: str) -> None:
    """Raise ValueError if a map holds negative values."""
    if given.numel() == 0 or (waits(given) and not torch.compiler.is_compiling()):
        return
    lowest = given.amin()
    if torch.compiler.is_compiling():  # a graph cannot branch on values, but it can stop
        torch._assert_async(~(lowest < 0), f"{name} holds a negative penalty")
        return
    if lowest < 0:
        raise ValueError(
            f"{name} must hold penalties of at least 0, as PenaltyDistanceMap makes them, got {lowest.item()}: "
            "signed distances are for boundary losses."
        )


def error_of_voxels(error: Tensor, concerned: Tensor, classes: Tensor | None) -> Tensor:
    """Return the error of each sample and class, (B, C), at the voxels that are concerned, (B, C, *S), else 0.

    With masks of exclusive ``classes``, (B, C, *S), a voxel has the error of its class, (B, 1, *S).
    """
    error = spread(error, concerned.ndim)
    if classes is None:
        return concerned * error
    own = (concerned & classes).chunk(classes.shape[1], 1)
    return reduce(torch.add, (mask * error[:, [c]] for c, mask in enumerate(own)))


def checked_prior(prior: float | Sequence[float] | None, pos_weight: float | None) -> float | Sequence[float] | None:
    """Return the prior; raise ValueError unless it holds shares of voxels and is given alone."""
    if pos_weight is not None and prior is not None:
        raise ValueError(f"pos_weight and prior exclude each other, got {pos_weight} and {prior}.")
    shares = prior if isinstance(prior, Sequence) else [] if prior is None else [prior]
    if not all(0 < share < 1 for share in shares):
        raise ValueError(f"prior must be in (0, 1), a share of the voxels, got {prior}.")
    return prior


def factors_of_prior(prior: float | Sequence[float], sizes: Sizes, first: int) -> Factors:
    """Return the factors of foreground and background, (1, C), 1 on average over voxels that have these shares."""
    if not isinstance(prior, Sequence):
        return sizes.per_class(0.5 / prior, 0.5 / (1 - prior))
    used = sizes.channels - (0 if sizes.exclusive else first)
    if len(prior) != used:
        raise ValueError(f"prior has {len(prior)} values but {used} classes are used.")
    shares = torch.tensor([[0.5] * (sizes.channels - used) + list(prior)], dtype=sizes.size.dtype)
    shares = shares.to(sizes.size.device)
    return 1 / (shares * (used if sizes.exclusive else 2)), 0.5 / (1 - shares)


def check_kept(k: float, threshold: float | None, min_kept: float) -> None:
    """Raise ValueError unless these say which voxels are the hardest."""
    k, threshold = number("k", k), None if threshold is None else number("threshold", threshold)
    if not 0 < k <= 100:
        raise ValueError(f"k must be a percentage in (0, 100], got {k}.")
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold must be a probability in (0, 1], got {threshold}.")
    if min_kept and threshold is None:
        raise ValueError(f"min_kept needs a threshold, got min_kept={min_kept} and threshold=None.")


@torch.no_grad()
def hardest(value: Tensor, weight: Tensor | None, *, n: float = 0.0, percentage: float | None = None) -> Tensor:
    """Return 1 for the n largest values, a part of 1 for the last, else 0; a weight of 2 is 2 voxels.

    A percentage in the place of n is one of all voxels, and at least one voxel. ``weight`` broadcasts; None is 1.
    """
    if weight is None:
        number = n if percentage is None else max(1, math.floor(value.numel() * percentage / 100))
        return largest(value, int(number)).to(value.dtype)
    weight = weight.expand_as(value)
    value = torch.where(weight > 0, value, -torch.inf)
    exact = accumulator_dtype(weight)
    wanted: Tensor | float = n
    if percentage is not None:
        wanted = (weight.sum(dtype=exact) * percentage / 100).floor().clamp(min=1)
    if known((weight == 0) | (weight == 1)):
        return largest(value, int(wanted)).to(value.dtype)
    order = descending(value.flatten())
    sorted_weight = weight.flatten()[order].to(exact)
    before = sorted_weight.cumsum(0) - sorted_weight
    kept = (wanted - before).clamp(min=0).minimum(sorted_weight)
    kept = safe_ratio(kept, sorted_weight, otherwise=0.0).to(value.dtype)
    return torch.zeros_like(kept).scatter(0, order, kept).view_as(value)


def border(mask: Tensor) -> Tensor:
    """Return the voxels of a mask (B, C, *S) that have a face in common with a voxel outside of it."""
    touching = torch.zeros_like(mask)
    for axis in range(2, mask.ndim):
        rest = mask.shape[axis] - 1
        touching.narrow(axis, 1, rest).logical_or_(~mask.narrow(axis, 0, rest))
        touching.narrow(axis, 0, rest).logical_or_(~mask.narrow(axis, 1, rest))
    return mask & touching


def gaussian(window: int, sigma: float) -> list[float]:
    """Return the weights of a Gaussian window along one axis, whose sum is 1."""
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-(window // 2), window // 2 + 1)]
    return [weight / sum(weights) for weight in weights]


def smoothed(x: Tensor, window: Sequence[float]) -> Tensor:
    """Return the weighted mean over the window around each voxel of (B, C, *S); border voxels are repeated outside."""
    for axis in range(2, x.ndim):
        n, reach = x.shape[axis], len(window) // 2
        padded = torch.cat([x.narrow(axis, 0, 1)] * reach + [x] + [x.narrow(axis, n - 1, 1)] * reach, axis)
        x = window[0] * padded.narrow(axis, 0, n)
        for start, w in enumerate(window[1:], start=1):
            x.add_(padded.narrow(axis, start, n), alpha=w)
    return x


def standardized(x: Tensor, seen: Tensor | None, window: Sequence[float], c4: float) -> Tensor:
    """Return x minus its local mean, divided by its local standard deviation, both plus c4, over ``seen`` voxels."""
    x = x.to(accumulator_dtype(x))  # float32 would find a deviation where x is constant
    if seen is None:
        centre, square = smoothed(x, window), smoothed(x * x, window)
    else:
        seen = seen.to(x.dtype)
        near = smoothed(seen, window)
        centre, square = (safe_ratio(smoothed(y * seen, window), near, otherwise=0.0) for y in (x, x * x))
    deviation = (square - centre * centre).clamp(min=1e-12).sqrt()
    return (x - centre).add_(c4) / (deviation + c4)


def structural_view(
    rules: Rules, z: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor | None, kept: Tensor | None
) -> tuple[Rules, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Return rules, logits, p, 1 - p, shares and weights of some voxels, each channel a problem of its own."""
    z, target, mask = rules.neutral(z, target, mask, classes)
    z = promoted(z)
    if rules.activation == "softmax":
        z, rules = one_against_the_rest(z), replace(rules, activation="sigmoid")
    p, q = both_probabilities(z, rules.activation)
    weight = None if mask is None else mask.to(z.dtype)
    if kept is not None:
        of_classes = spread(kept, z.ndim).to(z.dtype)
        weight = of_classes if weight is None else weight * of_classes
    return rules, z, p, q, plain.shares(rules, target, p).to(p.dtype), weight


def structural_difference(rules: Rules, window: Sequence[float], c4: float, z: Tensor, *tensors: Any) -> Tensor:
    """Return how much the neighbourhood of each voxel differs between prediction and truth, (B, C, *S)."""
    _, _, p, _, g, weight = structural_view(rules, z, *tensors)
    return difference_of(p, g, weight, window, c4)


def difference_of(p: Tensor, g: Tensor, weight: Tensor | None, window: Sequence[float], c4: float) -> Tensor:
    """Return :func:`structural_difference` of probabilities and shares."""
    seen = None if weight is None else (weight > 0).expand_as(p)
    return (standardized(g, seen, window, c4) - standardized(p, seen, window, c4)).abs().to(p.dtype)


def structural_loss(
    rules: Rules, window: Sequence[float], c4: float, lambda_ce: float, z: Tensor, *tensors: Any
) -> Tensor:
    """Return the loss of each voxel times its weight, (B, C, *S); the last of the tensors are factors and the share."""
    *data, inside, outside, least, share = tensors
    rules, z, p, q, g, weight = structural_view(rules, z, *data)
    e = difference_of(p, g, weight, window, c4)
    emphasis = lambda_ce + (1 - lambda_ce) * share.to(e.dtype) * torch.where(e > least, e, 0.0)
    view = plain.View(z, p, q, g, None)
    nll, nll_not = plain.likelihoods(view, rules, Wanted(likelihood="cross_entropy"))
    assert nll_not is not None
    each = view.of(spread(inside, z.ndim) * nll, spread(outside, z.ndim) * nll_not) * emphasis
    return each if weight is None else each * weight


def one_against_the_rest(z: Tensor) -> Tensor:
    """Return the logits whose sigmoid is the softmax of z."""
    rest = [torch.cat([z[:, :c], z[:, c + 1 :]], 1).logsumexp(1) for c in range(z.shape[1])]
    return z - torch.stack(rest, 1)


def kept_share(e: Tensor, weight: Tensor | None, beta: float) -> tuple[Tensor, Tensor]:
    """Return above which difference voxels are kept, and all voxels' weight divided by theirs, 0 if there is none.

    Args:
        e: differences, (B, C, *S); changed where voxels do not count.
        weight: what each voxel counts, broadcasts, or None for 1.
        beta: share of the largest difference.
    """
    exact = accumulator_dtype(e)
    weight = None if weight is None else weight.expand_as(e)
    if weight is not None and not known(weight > 0):
        e = e.masked_fill_(weight == 0, 0.0)
    least = (beta * e.amax()).clamp(min=SMALLEST_DIFFERENCE) if e.numel() else e.new_zeros(())
    kept = e > least
    if weight is None:
        return least, safe_ratio(
            torch.full_like(least, e.numel(), dtype=exact), kept.count_nonzero().to(exact), otherwise=0.0
        )
    return least, safe_ratio(weight.sum(dtype=exact), (kept * weight).sum(dtype=exact), otherwise=0.0)
