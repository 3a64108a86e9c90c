"""Voxel losses: cross-entropies in which classes, hard voxels or voxels near a border count more than others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Reading, VoxelLoss, fraction, mean, non_negative, one_of, safe_pow, safe_ratio
from .counts import accumulator_dtype, probabilities
from .distances import checked_spacing, distance_inside
from .likelihoods import Voxels

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import LossOptions


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
        self.prior = prior
        self.normalize = one_of(("voxels", "weights"), normalize=normalize)
        if pos_weight is not None and prior is not None:
            raise ValueError(f"pos_weight and prior exclude each other, got {pos_weight} and {prior}.")
        shares = prior if isinstance(prior, Sequence) else [] if prior is None else [prior]
        if not all(0 < share < 1 for share in shares):
            raise ValueError(f"prior must be in (0, 1), a share of the voxels, got {prior}.")

    def balance(self, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return the factors of foreground and background, (1, C)."""
        if self.prior is None:
            return voxels.per_class(1.0 if self.pos_weight is None else self.pos_weight, 1.0)
        if not isinstance(self.prior, Sequence):
            return voxels.per_class(0.5 / self.prior, 0.5 / (1 - self.prior))
        if len(self.prior) != voxels.classes:
            raise ValueError(f"prior has {len(self.prior)} values but {voxels.classes} classes are used.")
        shares = voxels.inside.new_tensor(self.prior)[None]
        return 1 / (shares * (voxels.classes if voxels.exclusive else 2)), 0.5 / (1 - shares)

    def per_voxel(self, reading: Reading, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return the weighted cross-entropy of each voxel and its weight in the mean."""
        value, weight = super().per_voxel(reading, voxels)
        if self.normalize == "voxels":
            return value, weight
        factor = voxels.map(torch.ones_like).total(*self.factors(voxels))
        return safe_ratio(value, factor, otherwise=0.0), weight * factor


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

    def balance(self, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return the fixed weights, (1, C), or those of each sample, (B, C)."""
        if self.beta is not None:
            return voxels.per_class(self.beta, 1 - self.beta)
        share = class_shares(voxels)
        return (1 - share) / max(voxels.classes - 1, 1) if voxels.exclusive else 1 - share, share


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

    def __init__(
        self, *args: Any, gamma: float = 2.0, alpha: float | None = None, **options: Unpack[LossOptions]
    ) -> None:
        super().__init__(*args, **options)
        self.gamma = non_negative(gamma=gamma)
        self.alpha = None if alpha is None else fraction(alpha=alpha)

    def balance(self, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return alpha and 1 - alpha, (1, C)."""
        return voxels.per_class(1.0, 1.0) if self.alpha is None else voxels.per_class(self.alpha, 1 - self.alpha)

    def likelihood(self, nll: Tensor) -> Tensor:
        """Return -(1 - p)^gamma log p."""
        return nll if self.gamma == 0 else safe_pow(-torch.expm1(-nll), self.gamma) * nll


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
        if not 0 < k <= 100:
            raise ValueError(f"k must be a percentage in (0, 100], got {k}.")
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"threshold must be a probability in (0, 1], got {threshold}.")
        if min_kept and threshold is None:
            raise ValueError(f"min_kept needs a threshold, got min_kept={min_kept} and threshold=None.")
        self.k, self.threshold, self.min_kept = k, threshold, non_negative(min_kept=min_kept)

    def per_voxel(self, reading: Reading, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of each voxel, and its weight, 0 unless it is kept."""
        value, weight = super().per_voxel(reading, voxels)
        weight = weight.expand_as(value)
        if self.threshold is None:
            total = weight.sum(dtype=accumulator_dtype(weight))
            return value, hardest(value, weight, (total * self.k / 100).floor().clamp(min=1))
        unlikely = voxels.total(*voxels.per_class(1.0, 1.0)) > -math.log(self.threshold)
        kept = torch.where(unlikely, weight, 0.0)
        if self.min_kept:
            kept = torch.maximum(kept, hardest(value, weight, weight.new_tensor(self.min_kept)))
        return value, kept


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

    Takes also the arguments of :class:`.VoxelLoss`. A ready map of :math:`\phi`, (B, C, *S), is taken from
    ``target["distance_map"]``; with exclusive classes, a voxel reads the channel of its class.

    Range: [0, inf); perfect 0; class that is absent or fills the image: the cross-entropy.

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
        self.normalize = normalize
        self.spacing = checked_spacing(spacing)

    def per_voxel(self, reading: Reading, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of each voxel times 1 + phi, and its weight in the mean."""
        value, weight = super().per_voxel(reading, voxels)
        if reading.distance_map is not None:
            given = reading.distance_map[:, -voxels.classes :].to(value.dtype)
            phi = given.gather(1, voxels.target.long()) if voxels.labels else given
            phi = (phi * voxels.target).sum(1, keepdim=True) if voxels.exclusive and not voxels.labels else phi
        else:
            phi = sum(
                (self.penalty(region, value.dtype) for region in self.regions(reading, voxels)), torch.zeros_like(value)
            )
        return (1 + phi) * value, weight

    def regions(self, reading: Reading, voxels: Voxels) -> list[Tensor]:
        """Return the masks that have a border of their own."""
        masks = list(class_masks(reading, voxels))
        shown = visible(reading, voxels)
        return [mask & shown for mask in (masks if voxels.exclusive else [masks[0], ~masks[0]])]

    def penalty(self, region: Tensor, dtype: torch.dtype) -> Tensor:
        """Return phi inside of a region, 0 elsewhere and for a region without a border."""
        d = distance_inside(region, self.spacing, dtype)
        space = list(range(2, d.ndim))
        deepest = d.amax(space, keepdim=True)
        phi = deepest - d
        if self.normalize:
            nearest = torch.where(region, d, torch.inf).amin(space, keepdim=True)
            phi = safe_ratio(phi, deepest - nearest, otherwise=1.0)
        return torch.where(region & (deepest > 0), phi, 0.0)


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

    def per_voxel(self, reading: Reading, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of each voxel times 1 + E m, and its weight in the mean."""
        value, weight = super().per_voxel(reading, voxels)
        channels = reading.input.shape[1]
        p = probabilities(reading.input.detach(), self.activation(channels))[:, -voxels.classes :]
        predicted, factor, shown = p > self.threshold, torch.ones_like(value), visible(reading, voxels)
        for index, inside in enumerate(class_masks(reading, voxels)):
            guess = predicted[:, index : index + 1] if voxels.exclusive else predicted
            guess, inside = guess & shown, inside & shown
            error = self.error(guess, inside, value.dtype)
            where = inside if voxels.exclusive else torch.ones_like(inside)
            where = where & (guess != inside) if self.region == "mismatch" else where
            factor = factor + torch.where(where, error, 0.0)
        return factor * value, weight

    def error(self, predicted: Tensor, actual: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the mean distance from the predicted outline to the true one, (B, C, 1...)."""
        outline, true_outline = border(predicted), border(actual)
        space = list(range(2, outline.ndim))
        distance = distance_inside(~true_outline, self.spacing, dtype) * outline
        n = outline.sum(space, keepdim=True) * (true_outline.sum(space, keepdim=True) > 0)
        return safe_ratio(distance.sum(space, keepdim=True), n, otherwise=0.0)


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

    def per_voxel(self, reading: Reading, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of each voxel times its difference in structure, and its weight in the mean."""
        value, weight = super().per_voxel(reading, voxels)
        weight = weight.expand_as(value)
        visible = (weight > 0).to(value.dtype)
        p, g = torch.exp(-voxels.inside), voxels.target.to(value.dtype)
        e = (self.standardized(g, visible) - self.standardized(p, visible)).abs()
        kept = (e > self.beta * (e * visible).detach().amax()) * visible
        scale = safe_ratio(weight.sum(), (weight * kept).sum(), otherwise=0.0)
        return (self.lambda_ce + (1 - self.lambda_ce) * scale * kept * e) * value, weight

    def standardized(self, x: Tensor, visible: Tensor) -> Tensor:
        """Return x minus its local mean, divided by its local standard deviation, both plus c4."""
        weights = [w * v for w, v in zip(self.kernel(x.ndim - 2), self.shifts(visible), strict=True)]
        total = torch.stack(weights).sum(0)

        def average(values: Iterable[Tensor]) -> Tensor:
            terms = [w * value for w, value in zip(weights, values, strict=True)]
            return safe_ratio(torch.stack(terms).sum(0), total, otherwise=0.0)

        centre = average(self.shifts(x))
        # In a second pass: the difference of two large means would not be 0 where x is constant.
        variance = average((shifted - centre) ** 2 for shifted in self.shifts(x))
        deviation = variance.clamp(min=1e-12).sqrt()
        return (x - centre + self.c4) / (deviation + self.c4)

    def kernel(self, axes: int) -> list[float]:
        """Return the weights of the window, up to a factor."""
        offsets = itertools.product(range(-(self.window // 2), self.window // 2 + 1), repeat=axes)
        return [math.exp(-sum(o * o for o in offset) / (2 * self.sigma**2)) for offset in offsets]

    def shifts(self, x: Tensor) -> Iterator[Tensor]:
        """Yield x moved by every offset of the window; its border voxels are repeated outside of it."""
        axes = x.ndim - 2
        padded = F.pad(x, (self.window // 2,) * (2 * axes), mode="replicate")
        for start in itertools.product(range(self.window), repeat=axes):
            shifted = padded
            for axis, (first, size) in enumerate(zip(start, x.shape[2:], strict=True), start=2):
                shifted = shifted.narrow(axis, first, size)
            yield shifted


def class_shares(voxels: Voxels, batch: bool = False) -> Tensor:
    """Return which share of the voxels that count each class has: in each sample, (B, C), or in the batch, (1, C)."""
    target = voxels.target
    weight = voxels.weight.expand(target.shape[0], -1, *target.shape[2:]).flatten(2)
    weight, target = weight.to(accumulator_dtype(weight)), target.flatten(2)
    if voxels.labels:
        zeros = weight.new_zeros(weight.shape[0], voxels.classes)
        size = zeros.scatter_add(1, target[:, 0].long(), weight[:, 0])
    else:
        size = (weight * target).sum(2)
    total = weight.sum(2).expand_as(size)
    if batch:
        size, total = size.sum(0, keepdim=True), total.sum(0, keepdim=True)
    return mean(size, total).to(voxels.inside.dtype)


def class_masks(reading: Reading, voxels: Voxels) -> Iterator[Tensor]:
    """Yield where each of the exclusive classes is, (B, 1, *S), or once where all channels are 1, (B, C, *S)."""
    if not voxels.exclusive:
        yield voxels.target if voxels.target.dtype == torch.bool else voxels.target > 0.5
        return
    label = reading.target if reading.labels else reading.target.argmax(1, keepdim=True)
    for index in range(voxels.classes):
        yield label == index


def visible(reading: Reading, voxels: Voxels) -> Tensor:
    """Return which voxels are not masked out or ignored; the others lie outside of every class."""
    if reading.mask is None:
        return torch.ones((), dtype=torch.bool, device=reading.input.device)
    seen = reading.mask[:, -voxels.classes :] != 0
    return seen.any(1, keepdim=True) if voxels.exclusive else seen


def hardest(value: Tensor, weight: Tensor, n: Tensor) -> Tensor:
    """Return the weights, with 0 for all but the n voxels of the largest values; a weight of 2 counts as 2 voxels."""
    order = torch.where(weight > 0, value.detach(), -torch.inf).flatten().argsort(descending=True, stable=True)
    sorted_weight = weight.flatten()[order].to(accumulator_dtype(weight))
    before = sorted_weight.cumsum(0) - sorted_weight
    kept = torch.minimum((n - before).clamp(min=0), sorted_weight).to(value.dtype)
    return torch.zeros_like(kept).scatter(0, order, kept).view_as(value)


def border(mask: Tensor) -> Tensor:
    """Return the voxels of a mask that have a face in common with a voxel outside of it."""
    axes = mask.ndim - 2
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    outside, touching = (~mask).float(), torch.zeros_like(mask)
    for axis in range(axes):
        step = [int(other == axis) for other in range(axes)]
        touching = touching | (pool(outside, [2 * s + 1 for s in step], 1, step) > 0)
    return mask & touching
