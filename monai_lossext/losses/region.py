"""Region losses: functions of the soft confusion counts TP, FP, FN and TN of each sample and class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import OverlapLoss, RegionLoss, Undecided, fraction, mean, non_negative, one_of, positive, safe_pow
from .counts import Counts
from .paths import known
from .precision import held
from .reading import Reading

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import OverlapOptions, RegionOptions

POWERS = {"square": 2, "simple": 1, "uniform": 0}


class SoftDiceLoss(OverlapLoss):
    r"""One minus the soft Dice coefficient.

    .. math:: L_c = 1 - \frac{2\,TP + s}{2\,TP + FP + FN + s}
                  = 1 - \frac{2 \sum_i p_i g_i + s}{\sum_i p_i + \sum_i g_i + s}

    The first choice for objects that are small in the image: it does not depend on the number of true negatives and
    weighs false positives and false negatives alike.

    Args:
        squared_pred: sum squares of predictions and targets in the denominator (V-Net). Equal for binary predictions;
            for soft ones the gradient vanishes at p = g, where the plain form still pushes p to 0 or 1.

    Takes also the arguments of :class:`.OverlapLoss`.

    Range: [0, 1]; perfect 0, disjoint 1 (up to smoothing); absent class: the mean predicted probability.

    Source: Milletari et al. 2016 (squared); Jadon 2020, Eq. 8, arXiv:2006.14822; Eelbode et al. 2020, Eq. 11-12,
    doi:10.1109/TMI.2020.3002417. Jadon prints it without the sums over voxels.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import SoftDiceLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(SoftDiceLoss()(p, g).item(), 4)
        0.2778
    """

    def __init__(self, *args: Any, squared_pred: bool = False, **options: Unpack[OverlapOptions]) -> None:
        super().__init__(*args, **options)
        self.squared_pred = squared_pred
        self.extra = "squares" if squared_pred else None

    def per_class(self, counts: Counts) -> Tensor:
        """Return one minus the Dice coefficient, (B, C)."""
        return 1 - self.ratio(2 * counts.tp, counts.size(self.squared_pred))


class SoftJaccardLoss(OverlapLoss):
    r"""One minus the soft Jaccard index (intersection over union).

    .. math:: L_c = 1 - \frac{2\,TP + s}{2\,(TP + FP + FN) + s}

    Ranks predictions like Dice and punishes small overlaps more evenly; use it when the Jaccard index is the score.

    Args:
        squared_pred: use sums of squares for the sizes of prediction and target, :math:`\sum p^2 + \sum g^2 - TP`.

    Takes also the arguments of :class:`.OverlapLoss`.

    Range: [0, 1]; perfect 0, disjoint 1 (up to smoothing); absent class: the mean predicted probability.

    Source: Eelbode et al. 2020, Eq. 13, doi:10.1109/TMI.2020.3002417; Ma 2020, Eq. 9, arXiv:2005.13449, which sums
    over the classes inside the ratio. The smoothing stands where MONAI's ``DiceLoss(jaccard=True)`` has it.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import SoftJaccardLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(SoftJaccardLoss()(p, g).item(), 4)
        0.4348
    """

    def __init__(self, *args: Any, squared_pred: bool = False, **options: Unpack[OverlapOptions]) -> None:
        super().__init__(*args, **options)
        self.squared_pred = squared_pred
        self.extra = "squares" if squared_pred else None

    def per_class(self, counts: Counts) -> Tensor:
        """Return one minus the Jaccard index, (B, C)."""
        return 1 - self.ratio(2 * counts.tp, 2 * (counts.size(self.squared_pred) - counts.tp))


class SoftTverskyLoss(OverlapLoss):
    r"""One minus the soft Tversky index, which weighs false positives and false negatives apart.

    .. math:: L_c = 1 - \frac{TP + s}{TP + \alpha\,FP + \beta\,FN + s}

    Raise ``beta`` above ``alpha`` when missed foreground costs more than false alarms (high recall), and the reverse
    for high precision. (0.5, 0.5) is Dice, (1, 1) is Jaccard.

    Args:
        alpha: weight of false positives, at least 0.
        beta: weight of false negatives, at least 0.

    Takes also the arguments of :class:`.OverlapLoss`.

    Range: [0, 1]; perfect 0, disjoint 1 (up to smoothing); absent class: the mean predicted probability.

    Source: Eelbode et al. 2020, Eq. 6 and 14, doi:10.1109/TMI.2020.3002417; Jadon 2020, Eq. 9-10, arXiv:2006.14822,
    with its beta on FP and 1 - beta on FN; Ma 2020, Eq. 10, arXiv:2005.13449, where the "1 -" is missing.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import SoftTverskyLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(SoftTverskyLoss(alpha=0.3, beta=0.7)(p, g).item(), 4)
        0.3085
    """

    def __init__(self, *args: Any, alpha: float = 0.5, beta: float = 0.5, **options: Unpack[OverlapOptions]) -> None:
        super().__init__(*args, **options)
        self.alpha, self.beta = non_negative(alpha=alpha), non_negative(beta=beta)

    def per_class(self, counts: Counts) -> Tensor:
        """Return one minus the Tversky index, (B, C)."""
        return 1 - self.ratio(counts.tp, counts.tp + self.alpha * counts.fp + self.beta * counts.fn)


class FocalTverskyLoss(SoftTverskyLoss):
    r"""Soft Tversky loss to a power, which makes nearly solved classes matter more (or less).

    .. math:: L_c = \Bigl(1 - \frac{TP + s}{TP + \alpha\,FP + \beta\,FN + s}\Bigr)^{1 / \gamma}

    For small lesions next to large, easy ones: with ``gamma`` above 1 the gradient grows as a class becomes good, so
    that its last errors are not given up.

    Args:
        alpha: weight of false positives, at least 0.
        beta: weight of false negatives, at least 0.
        gamma: root that is taken, above 0; 1 is Tversky, below 1 neglects classes that are nearly solved.

    Takes also the arguments of :class:`.OverlapLoss`.

    Range: [0, 1]; perfect 0, disjoint 1 (up to smoothing); absent class: the mean predicted probability.

    Source: Ma 2020, Eq. 12, arXiv:2005.13449. Jadon 2020, Eq. 11, arXiv:2006.14822, prints the exponent upside down:
    its gamma is 1 / gamma here, and 0.75 in its code is ``gamma=4/3``. The power is taken per class, before any mean.
    Below a Tversky loss of 1e-6 the power is a line, because its gradient at 0 is infinite.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import FocalTverskyLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(FocalTverskyLoss()(p, g).item(), 4)
        0.414
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 0.3,
        beta: float = 0.7,
        gamma: float = 4 / 3,
        **options: Unpack[OverlapOptions],
    ) -> None:
        super().__init__(*args, alpha=alpha, beta=beta, **options)
        self.gamma = positive(gamma=gamma)

    def per_class(self, counts: Counts) -> Tensor:
        """Return the Tversky loss to the power of 1 / gamma, (B, C)."""
        return safe_pow(super().per_class(counts), 1 / self.gamma)


class AsymmetricSimilarityLoss(OverlapLoss):
    r"""One minus the soft F-beta score.

    .. math:: L_c = 1 - \frac{TP + s}{TP + \frac{\beta^2}{1 + \beta^2}\,FN + \frac{1}{1 + \beta^2}\,FP + s}

    For unbalanced lesions, when missed foreground costs ``beta`` times as much as false alarms. A Tversky loss whose
    two weights add up to 1, set by the one number that the F-beta score is known by.

    Args:
        beta: how many times as much recall matters as precision, at least 0; 1 is Dice, 0 is precision alone.

    Takes also the arguments of :class:`.OverlapLoss`.

    Range: [0, 1]; perfect 0, disjoint 1 (up to smoothing); absent class: the mean predicted probability.

    Source: Ma 2020, Eq. 13, arXiv:2005.13449, where the "1 -" is missing.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import AsymmetricSimilarityLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(AsymmetricSimilarityLoss()(p, g).item(), 4)
        0.3074
    """

    def __init__(self, *args: Any, beta: float = 1.5, **options: Unpack[OverlapOptions]) -> None:
        super().__init__(*args, **options)
        self.beta = non_negative(beta=beta)

    def per_class(self, counts: Counts) -> Tensor:
        """Return one minus the F-beta score, (B, C)."""
        recall = self.beta**2 / (1 + self.beta**2)
        return 1 - self.ratio(counts.tp, counts.tp + recall * counts.fn + (1 - recall) * counts.fp)


class ScaledGeneralizedDiceLoss(OverlapLoss):
    r"""Generalised Dice loss: one ratio for all classes, in which small classes weigh as much as large ones.

    .. math:: L = 1 - \frac{2 \sum_c w_c\,TP_c + s}{\sum_c w_c\,(2\,TP_c + FP_c + FN_c) + s}, \qquad
              w_c = \Bigl(\frac{\min_k G_k}{G_c}\Bigr)^2

    For several classes of very different size. One value for all classes of a sample, so ``reduction="none"`` gives
    (B, 1). The weights are relative to the smallest class :math:`G` that is present, which leaves the ratio as it is
    and makes the smoothing independent of the size of the picture.

    Args:
        w_type: power of the class sizes in the weights: ``"square"`` 2, ``"simple"`` 1, ``"uniform"`` 0.

    Takes also the arguments of :class:`.OverlapLoss`, which act inside the ratio: ``weight`` (one number a class)
    multiplies :math:`w_c`; a class that was not annotated in a sample adds nothing to either sum; an absent class
    weighs as much as the smallest one present, with ``empty="skip"`` nothing. A sample without any class costs the
    mean predicted probability over all classes, and is left out with ``"skip"``.

    Range: [0, 1]; perfect 0, disjoint 1 (up to smoothing); no class present: the mean predicted probability.

    Raises:
        ValueError: when ``weight`` is a single number, which would cancel.

    Source: Ma 2020, Eq. 11, arXiv:2005.13449, with :math:`w_c = 1 / G_c^2`.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import ScaledGeneralizedDiceLoss
        >>> p = torch.tensor([[[0.7, 0.2, 0.1, 0.5], [0.2, 0.6, 0.3, 0.3], [0.1, 0.2, 0.6, 0.2]]])
        >>> round(ScaledGeneralizedDiceLoss(to_onehot_y=True)(p, torch.tensor([[[0, 1, 2, 1]]])).item(), 4)
        0.4404
    """

    def __init__(self, *args: Any, w_type: str = "square", **options: Unpack[OverlapOptions]) -> None:
        super().__init__(*args, **options)
        self.w_type = one_of(tuple(POWERS), w_type=w_type)
        if self.weight is not None and self.weight.ndim == 0:
            raise ValueError(f"weight must be one number a class: a common factor cancels, got {self.weight.item()}.")

    def per_class(self, counts: Counts) -> Tensor:
        """Return one minus the generalised Dice coefficient, (B, 1)."""
        present = counts.g > 0
        smallest = torch.where(present, counts.g, torch.inf).amin(1, keepdim=True)
        scale = (smallest / torch.where(present, counts.g, 1.0)) ** POWERS[self.w_type]
        w = super().weighted(torch.where(present, scale, 0.0 if self.empty == "skip" else 1.0))
        return 1 - self.ratio(2 * (w * counts.tp).sum(1, keepdim=True), (w * counts.size(False)).sum(1, keepdim=True))

    def weighted(self, value: Tensor) -> Tensor:
        """Return the value as it is: class weights are inside of it."""
        return value

    def undecided(self, counts: Counts) -> Undecided:
        """Return samples without any class, with the weighted mean over the classes of the predicted probability."""

        def wrong() -> Tensor:
            annotated = weighted((counts.n > 0).to(counts.n))
            of_classes = (annotated * mean(counts.p, counts.n)).sum(1, keepdim=True)
            return mean(of_classes, annotated.sum(1, keepdim=True))

        weighted = super().weighted  # the classes' weights, which this class applies before they are joined
        return [((counts.g <= 0).all(1, keepdim=True), wrong)]


class PenaltyGeneralizedDiceLoss(ScaledGeneralizedDiceLoss):
    r"""Generalised Dice loss with an extra penalty on false positives and false negatives.

    .. math:: L = 1 - \frac{S}{1 + k\,(1 - S)} = \frac{(1 + k)\,D}{1 + k\,D}

    with the generalised Dice score :math:`S` and the loss :math:`D = 1 - S` of :class:`ScaledGeneralizedDiceLoss`.
    For predictions that are already good: small errors cost 1 + k times as much as under generalised Dice.

    Args:
        k: strength of the penalty, at least 0; 0 is generalised Dice; for one class, 1 is Jaccard.
        form: ``"score"``, the formula above, or ``"printed"``, Ma's Eq. 14 as it stands, for comparison only: it
            weakens errors where it says that it strengthens them.

    Takes also the arguments of :class:`ScaledGeneralizedDiceLoss`.

    Range: [0, 1]; perfect 0, disjoint 1 (up to smoothing); no class present: the mean predicted probability.

    Source: Ma 2020, Eq. 14, arXiv:2005.13449, which applies the fraction to the loss where the property that it states
    needs the score.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import PenaltyGeneralizedDiceLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(PenaltyGeneralizedDiceLoss()(p, g).item(), 4)
        0.5738
    """

    def __init__(self, *args: Any, k: float = 2.5, form: str = "score", **options: Any) -> None:
        super().__init__(*args, **options)
        self.k = non_negative(k=k)
        self.form = one_of(("score", "printed"), form=form)

    def per_class(self, counts: Counts) -> Tensor:
        """Return the penalised generalised Dice loss, (B, 1)."""
        loss = super().per_class(counts)
        if self.form == "printed":
            return loss / (1 + self.k * (1 - loss))
        return (1 + self.k) * loss / (1 + self.k * loss)


class SensitivitySpecificityLoss(RegionLoss):
    r"""Weighted mean of the errors on the foreground and of the errors on the background.

    .. math:: L_c = w\,\frac{\sum_i (g_i - p_i)^2\,g_i}{G + s}
                  + (1 - w)\,\frac{\sum_i (g_i - p_i)^2\,(1 - g_i)}{N - G + s}

    Sets the balance of sensitivity and specificity by one number, whatever the size of the object. Smooth
    everywhere, and as steep on an empty picture as on any other.

    Args:
        w: weight of the foreground (sensitivity) in [0, 1]; the background gets 1 - w. As the background's errors are
            divided by a much larger number of voxels, small values are usual.
        squared: square the errors. ``False`` sums them, which is 1 - (w sensitivity + (1 - w) specificity).
        smooth_dr: added to both denominators.

    Takes also the arguments of :class:`.RegionLoss`.

    Range: [0, 1]; perfect 0, inverted 1; absent class: the mean predicted probability.

    Source: Ma 2020, Eq. 7, arXiv:2005.13449, which sums over the classes inside the ratios; Jadon 2020, Eq. 12-14,
    arXiv:2006.14822, which prints the score in the place of the loss.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import SensitivitySpecificityLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(SensitivitySpecificityLoss()(p, g).item(), 4)
        0.033
    """

    def __init__(
        self,
        *args: Any,
        w: float = 0.05,
        squared: bool = True,
        smooth_dr: float = 1e-5,
        **options: Unpack[RegionOptions],
    ) -> None:
        super().__init__(*args, **options)
        self.w = fraction(w=w)
        self.squared = squared
        self.extra = "errors" if squared else None
        self.smooth_dr = non_negative(smooth_dr=smooth_dr)

    def per_class(self, counts: Counts) -> Tensor:
        """Return the weighted mean of both errors, (B, C)."""
        missed, added = (counts.missed, counts.added) if self.squared else (counts.fn, counts.fp)
        assert missed is not None
        assert added is not None
        foreground, background = counts.g + self.smooth_dr, held(counts.n - counts.g, 0.0) + self.smooth_dr
        return self.w * mean(missed, foreground) + (1 - self.w) * mean(added, background)


class LogCoshDiceLoss(OverlapLoss):
    r"""Logarithm of the hyperbolic cosine of the soft Dice loss.

    .. math:: L_c = \log \cosh (D_c), \qquad D_c = 1 - \frac{2\,TP + s}{2\,TP + FP + FN + s}

    The Dice loss with a gradient damped by :math:`\tanh D \le 0.762` that fades out as the overlap becomes good. It
    ranks predictions exactly as Dice does, and it is not convex in the predictions, as is sometimes said.

    Args:
        squared_pred: sums of squares for the sizes of prediction and target.
        jaccard: put the soft Jaccard loss in the place of the Dice loss.

    Takes also the arguments of :class:`.OverlapLoss`.

    Range: [0, 0.4338]; perfect 0, disjoint 0.4338; absent class: the mean predicted probability.

    Source: Jadon 2020, Eq. 32, arXiv:2006.14822; taken per class, then reduced.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import LogCoshDiceLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(LogCoshDiceLoss()(p, g).item(), 4)
        0.0381
    """

    def __init__(
        self, *args: Any, squared_pred: bool = False, jaccard: bool = False, **options: Unpack[OverlapOptions]
    ) -> None:
        super().__init__(*args, **options)
        self.squared_pred = squared_pred
        self.extra = "squares" if squared_pred else None
        self.jaccard = jaccard

    def per_class(self, counts: Counts) -> Tensor:
        """Return log cosh of the Dice (or Jaccard) loss, (B, C)."""
        size = counts.size(self.squared_pred)
        return log_cosh(1 - self.ratio(2 * counts.tp, 2 * (size - counts.tp) if self.jaccard else size))


class MatthewsCorrelationLoss(RegionLoss):
    r"""One minus the soft Matthews correlation coefficient.

    .. math:: L_c = 1 - \frac{TP \cdot TN - FP \cdot FN}{\sqrt{(TP + FP)(TP + FN)(TN + FP)(TN + FN)}}

    The only region loss here that rewards true negatives: swapping foreground and background does not change it.

    Args:
        smooth: number of voxels, at least 0, added to TP and to TN as if prediction and target agreed on them.
            Raise it to 0.01-1 when many images are empty; large values favour empty predictions of small objects.
        multiclass: one value for all classes together, Gorodkin's :math:`R_K`, in the place of the mean over
            one-against-the-rest coefficients. Needs probabilities that add up to 1 over the classes.

    Takes also the arguments of :class:`.RegionLoss`. ``empty`` treats a class that fills the whole sample in the same
    way as an absent one, with the mean of 1 - p.

    Range: [0, 2]; perfect 0, inverted 2, constant prediction 1; absent class: the mean predicted probability; class
    without background: the mean of 1 - p. With ``multiclass`` the worst value depends on the classes.

    Raises:
        ValueError: with ``multiclass=True``, for an option or a target that belongs to single classes
            (``include_background=False``, ``sigmoid``, ``weight``, a mask with channels, partial labels).

    Source: Abhishek and Hamarneh 2021, Eq. 3-7, doi:10.1109/ISBI48211.2021.9433782; Gorodkin 2004 for :math:`R_K`. The
    gradient that the paper prints (Eq. 8-9) has two errors and is not used. The coefficient is computed from fractions
    of voxels, so that nothing overflows.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import MatthewsCorrelationLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(MatthewsCorrelationLoss()(p, g).item(), 4)
        0.4897
    """

    def __init__(
        self, *args: Any, smooth: float = 1e-5, multiclass: bool = False, **options: Unpack[RegionOptions]
    ) -> None:
        super().__init__(*args, **options)
        self.smooth = non_negative(smooth=smooth)
        self.multiclass = multiclass
        self.extra = None if multiclass else "negatives"
        if multiclass:
            _without_options_of_single_classes(self)

    def read(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Reading:
        """Check input and target; ``multiclass`` needs all classes in every voxel that counts."""
        reading = super().read(input, target, mask)
        return _with_all_classes(reading) if self.multiclass else reading

    def per_class(self, counts: Counts) -> Tensor:
        """Return one minus the coefficient, (B, C), or with ``multiclass`` (B, 1)."""
        return (_one_minus_gorodkin if self.multiclass else _one_minus_matthews)(counts, self.smooth)

    def undecided(self, counts: Counts) -> Undecided:
        """Return classes without foreground and classes without background, with the mean wrong probability."""
        full = (counts.n - counts.g <= 1e-12 * counts.n) & (counts.g > 0)

        def missed() -> Tensor:
            return mean(counts.fn, counts.n)

        if self.multiclass:
            return [(full.any(1, keepdim=True), lambda: torch.where(full, missed(), 0.0).sum(1, keepdim=True))]
        return [*super().undecided(counts), (full, missed)]


def log_cosh(x: Tensor) -> Tensor:
    """Return log(cosh(x)) without cancellation near 0 and without overflow far from it."""
    near = x.abs() <= 1
    small = torch.log1p(2 * torch.sinh(torch.where(near, x, 0.0) / 2).square())
    return torch.where(near, small, x.abs() + torch.nn.functional.softplus(-2 * x.abs()) - math.log(2))


def _one_minus_correlation(covariance: Tensor, spread_p: Tensor, spread_g: Tensor, wrong: Tensor) -> Tensor:
    """Return 1 - covariance / sqrt(spread_p * spread_g); where that is 0 / 0, 1, or 0 if nothing is wrong."""
    square = spread_p * spread_g
    defined = square != 0
    if known(defined):
        return 1 - covariance / square.sqrt()
    loss = 1 - covariance / torch.where(defined, square, 1.0).sqrt()
    return torch.where(defined, loss, (wrong > 0).to(loss))


def _one_minus_matthews(counts: Counts, smooth: float) -> Tensor:
    """Return one minus the coefficient of each class against the rest, (B, C)."""
    assert counts.tn is not None
    n = counts.n + 2 * smooth
    share = mean(torch.ones_like(n), n)  # of one voxel
    tp, tn, fp, fn = (counts.tp + smooth) * share, (counts.tn + smooth) * share, counts.fp * share, counts.fn * share
    return _one_minus_correlation(tp * tn - fp * fn, (tp + fp) * (tn + fn), (tp + fn) * (tn + fp), fp + fn)


def _one_minus_gorodkin(counts: Counts, smooth: float) -> Tensor:
    """Return one minus the coefficient R_K of all classes together, (B, 1)."""
    n = counts.n + counts.n.shape[1] * smooth
    predicted, actual = mean(counts.p + smooth, n), mean(counts.g + smooth, n)
    right = mean(counts.tp + smooth, n).sum(1, keepdim=True)
    covariance = right - (predicted * actual).sum(1, keepdim=True)
    spread_predicted = (predicted * held(1 - predicted, 0.0)).sum(1, keepdim=True)
    spread_actual = (actual * held(1 - actual, 0.0)).sum(1, keepdim=True)
    return _one_minus_correlation(covariance, spread_predicted, spread_actual, 1 - right)


def _without_options_of_single_classes(loss: RegionLoss) -> None:
    """Raise ValueError if a loss that joins all classes has options that belong to one of them."""
    if loss.sigmoid or not loss.include_background or loss.weight is not None:
        raise ValueError(
            "multiclass=True joins all classes, whose probabilities add up to 1: it takes neither sigmoid=True nor "
            f"include_background=False nor weight, got sigmoid={loss.sigmoid}, "
            f"include_background={loss.include_background}, weight={loss.weight}."
        )


def _with_all_classes(reading: Reading) -> Reading:
    """Return the reading; raise ValueError unless every voxel that counts has all of at least two classes."""
    apart = reading.rules.weighs_channels(reading.mask)
    if reading.rules.channels == 1 or apart or reading.classes is not None:
        raise ValueError(
            "multiclass=True needs at least 2 channels, one weight a voxel and no partial labels, got "
            f"{reading.rules.channels} channel(s), a weight for each channel: {apart}, classes={reading.classes}."
        )
    return reading
