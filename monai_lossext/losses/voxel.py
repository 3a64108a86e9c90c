"""Voxel losses: cross-entropies in which classes, hard voxels or voxels near a border count more than others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import VoxelLoss, fraction, mean, non_negative, one_of, safe_pow, safe_ratio
from .distances import border_penalty, checked_spacing, class_masks, mean_distance, penalty_regions, visible
from .likelihoods import Nearby, Part, Voxels
from .map_sums import above
from .parts import spread
from .paths import fused, known
from .precision import accumulator_dtype
from .reading import Reading
from .sorting import descending, largest

SMALLEST_DIFFERENCE = 1e-9  # of structures; what is smaller may be rounding

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
        self.prior = checked_prior(prior, pos_weight)
        self.normalize = one_of(("voxels", "weights"), normalize=normalize)

    def balance(self, voxels: Voxels) -> tuple[Tensor, Tensor]:
        """Return the factors of foreground and background, (1, C)."""
        if self.prior is None:
            return voxels.per_class(1.0 if self.pos_weight is None else self.pos_weight, 1.0)
        return factors_of_prior(self.prior, voxels)

    def emphasis(self, reading: Reading, voxels: Voxels) -> tuple[Tensor | None, Tensor | None]:
        """Return with ``normalize="weights"`` the factors as what multiplies the weights in the mean."""
        return None, None if self.normalize == "voxels" else voxels.factor(*self.factors(voxels))


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

    def focus(self) -> float | None:
        """Return gamma."""
        return self.gamma if type(self).likelihood is FocalCrossEntropyLoss.likelihood else None


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
    def emphasis(self, reading: Reading, voxels: Voxels) -> tuple[Tensor | None, Tensor | None]:
        """Return the kept part of each voxel, 0 to 1, for both."""
        losses = partial(voxels.losses, self.likelihood)
        if self.threshold is None:
            kept = hardest(losses(*self.factors(voxels)), voxels.weight, percentage=self.k)
        else:
            nll = losses(*voxels.per_class(1.0, 1.0))
            kept = nll > -math.log(self.threshold)
            if self.min_kept:
                least = hardest(losses(*self.factors(voxels)), voxels.weight, n=self.min_kept)
                kept = torch.maximum(kept.to(nll.dtype), least.to(nll.dtype))
        return kept, kept


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

    base = 1.0

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

    def emphasis(self, reading: Reading, voxels: Voxels) -> tuple[Tensor, None]:
        """Return phi, the factor of each voxel's cross-entropy less 1."""
        phi = given_penalty(reading, voxels)
        if phi is None:
            regions = penalty_regions(reading.checked(), voxels.exclusive, voxels.first)
            phi = border_penalty(regions, self.spacing, voxels.dtype, self.normalize)
        return phi.to(voxels.dtype), None


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

    def emphasis(self, reading: Reading, voxels: Voxels) -> tuple[Tensor, None]:
        """Return 1 + E m, the factor of each voxel's cross-entropy."""
        reading = reading.checked()
        actual = class_masks(reading, voxels.exclusive, voxels.first)
        predicted = above(reading.input, self.activation(reading.input.shape[1]), self.threshold)[:, voxels.first :]
        seen = visible(reading, voxels.exclusive, voxels.first)
        predicted = predicted if seen is None else predicted & seen
        error = mean_distance(border(predicted), border(actual), self.spacing, voxels.dtype)
        concerned = actual != predicted if self.region == "mismatch" else torch.ones_like(actual)
        return error_of_voxels(error, concerned, actual if voxels.exclusive else None).add_(1), None


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

    def emphasis(self, reading: Reading, voxels: Voxels) -> tuple[Nearby, None]:
        """Return how much the structure differs where that is kept, on a scale on which plain voxels have 1."""
        difference = partial(structural_difference, window=gaussian(self.window, self.sigma), c4=self.c4)
        halo = self.window // 2
        with torch.no_grad():
            least, share = kept_share(voxels.each(Nearby(difference, halo)), voxels.weight, self.beta)

        def kept(part: Part, samples: slice) -> Tensor:
            e = difference(part, samples)  # once more: to keep its graph would take many volumes
            return self.lambda_ce + (1 - self.lambda_ce) * share * torch.where(e > least, e, 0.0)

        return Nearby(kept, halo), None


def class_shares(voxels: Voxels, batch: bool = False) -> Tensor:
    """Return which share of the voxels that count each class has: in each sample, (B, C), or in the batch, (1, C)."""
    sizes = torch.zeros(
        2, voxels.shape[0], voxels.classes, dtype=accumulator_dtype(voxels.input), device=voxels.input.device
    )
    for samples, part in voxels.parts():
        sizes[:, samples] += torch.stack(part.sizes())
    if batch:
        sizes = sizes.sum(1, keepdim=True)
    return mean(*sizes).to(voxels.dtype)


def given_penalty(reading: Reading, voxels: Voxels) -> Tensor | None:
    """Return the penalty of each voxel that the target brought, (B, 1, *S) or (B, C, *S), checked; or None."""
    name = "distance_map" if reading.penalty_map is None else "penalty_map"
    given: Tensor | None = getattr(reading, name)
    if given is None:
        return None
    check_penalty(given, name)
    if given.shape != reading.input.shape and not voxels.exclusive:
        raise AssertionError(
            f"{name} must have the input's shape {tuple(reading.input.shape)} unless classes are exclusive, "
            f"got {tuple(given.shape)}."
        )
    given = given if given.shape[1] == 1 else given[:, voxels.first :]
    if given.shape[1] > 1 and voxels.labels:
        given = given.gather(1, voxels.target.long())
    elif given.shape[1] > 1 and voxels.exclusive:
        given = (given * voxels.target).sum(1, keepdim=True)
    if reading.mask is None and reading.rules.ignore_index is None:
        return given
    seen = visible(reading.checked(), voxels.exclusive, voxels.first)
    return given if seen is None else torch.where(seen, given, 0.0)  # what it holds elsewhere may be NaN


def check_penalty(given: Tensor, name: str) -> None:
    """Raise ValueError if a map holds negative values."""
    lowest = given.amin()
    if torch.compiler.is_compiling():  # a graph cannot branch on values, but it can stop
        torch._assert_async(~(lowest < 0), f"{name} holds a negative penalty")
    elif lowest < 0:
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


def factors_of_prior(prior: float | Sequence[float], voxels: Voxels) -> tuple[Tensor, Tensor]:
    """Return the factors of foreground and background, (1, C), 1 on average over voxels that have these shares."""
    if not isinstance(prior, Sequence):
        return voxels.per_class(0.5 / prior, 0.5 / (1 - prior))
    if len(prior) != voxels.classes:
        raise ValueError(f"prior has {len(prior)} values but {voxels.classes} classes are used.")
    shares = torch.tensor([prior], dtype=voxels.dtype, device=voxels.input.device)
    return 1 / (shares * (voxels.classes if voxels.exclusive else 2)), 0.5 / (1 - shares)


def check_kept(k: float, threshold: float | None, min_kept: float) -> None:
    """Raise ValueError unless these say which voxels are the hardest."""
    if not 0 < k <= 100:
        raise ValueError(f"k must be a percentage in (0, 100], got {k}.")
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold must be a probability in (0, 1], got {threshold}.")
    if min_kept and threshold is None:
        raise ValueError(f"min_kept needs a threshold, got min_kept={min_kept} and threshold=None.")


@torch.no_grad()
def hardest(value: Tensor, weight: Tensor, *, n: float = 0.0, percentage: float | None = None) -> Tensor:
    """Return 1 (or True) for the n largest values, a part of 1 for the last, else 0; a weight of 2 is 2 voxels.

    A percentage in the place of n is one of all voxels, and at least one voxel.
    """
    alike = known(weight == 1)
    value = value if alike else torch.where(weight > 0, value, -torch.inf)
    number: Tensor | float = n
    if percentage is not None:
        exact = accumulator_dtype(weight)
        counted = torch.tensor(weight.numel(), dtype=exact, device=weight.device) if alike else weight.sum(dtype=exact)
        number = (counted * percentage / 100).floor().clamp(min=1)
    if alike or (fused() and bool(((weight == 0) | (weight == 1)).all())):
        return largest(value, int(number))
    order = descending(value.flatten())
    sorted_weight = weight.flatten()[order].to(accumulator_dtype(weight))
    before = sorted_weight.cumsum(0) - sorted_weight
    kept = (number - before).clamp(min=0).minimum(sorted_weight)
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
    powers = torch.cat([x, x * x], 1)
    if seen is None:
        centre, square = smoothed(powers, window).chunk(2, 1)
    else:
        seen = seen.to(x.dtype)
        near, sums = smoothed(seen, window), smoothed(powers * torch.cat([seen, seen], 1), window)
        centre, square = safe_ratio(sums, torch.cat([near, near], 1), otherwise=0.0).chunk(2, 1)
    deviation = (square - centre * centre).clamp(min=1e-12).sqrt()
    return (x - centre).add_(c4) / (deviation + c4)


def structural_difference(part: Part, samples: slice, window: Sequence[float], c4: float) -> Tensor:
    """Return how much the neighbourhood of each voxel differs between prediction and truth, (B, C, *S)."""
    p, weight = part.log_p().exp(), part.weight()
    seen = None if weight is None else weight > 0
    g = part.target.to(p.dtype)
    return (standardized(g, seen, window, c4) - standardized(p, seen, window, c4)).abs().to(p.dtype)


def kept_share(e: Tensor, weight: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return above which difference voxels are kept, and all voxels' weight divided by theirs, 0 if there is none.

    Args:
        e: differences, (B, C, *S); changed where voxels do not count.
        weight: what each voxel counts, likewise.
        beta: share of the largest difference.
    """
    if not known(weight > 0):
        e = e.masked_fill_(weight == 0, 0.0)
    least = (beta * e.amax()).clamp(min=SMALLEST_DIFFERENCE) if e.numel() else e.new_zeros(())
    kept = (e > least).to(weight.dtype).mul_(weight)
    return least, safe_ratio(weight.sum(), kept.sum(), otherwise=0.0)
