"""Region losses: functions of the soft confusion counts TP, FP, FN and TN of each sample and class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .base import (
    ClasswiseLoss,
    ClasswiseOptions,
    SegmentationLoss,
    Sums,
    SumsLoss,
    Undecided,
    flag,
    fraction,
    mean,
    non_negative,
    one_of,
    positive,
    smoothed_ratio,
)
from .engine import checks
from .engine.distributed import over_processes, total_over_processes
from .engine.plain import Wanted, safe_pow
from .engine.precision import computing_dtype, held
from .engine.reading import Reading
from .paths import known

if TYPE_CHECKING:
    from typing_extensions import Unpack

Extra = Literal["negatives", "squares", "errors"] | None

EXTRA: dict[Extra, tuple[str, ...]] = {
    None: (),
    "negatives": ("tn",),
    "squares": ("pp", "gg"),
    "errors": ("missed", "added"),
}


@dataclass(frozen=True)
class Counts:
    """Soft confusion counts, each of shape (B, C) in float64; voxel weights (masks) are already in them.

    ``n`` is the (weighted) number of voxels, ``g`` the size of the reference; ``tp``, ``fp`` and ``fn`` are the sums of
    min(p, g), max(p - g, 0) and max(g - p, 0) for the predicted probabilities p, of p g, p (1 - g) and (1 - p) g with
    ``soft_label=False``, which is the same for labels. When asked for, there are ``tn``, the sum of min(1 - p, 1 - g),
    or ``pp`` and ``gg``, the sums of squares, or ``missed`` and ``added``, the sums of the squared errors (p - g)^2 on
    g and on 1 - g.
    """

    n: Tensor
    g: Tensor
    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor | None = None
    pp: Tensor | None = None
    gg: Tensor | None = None
    missed: Tensor | None = None
    added: Tensor | None = None
    size_of_prediction: Tensor | None = field(default=None, init=False)

    @property
    def p(self) -> Tensor:
        """Size of the prediction, the sum of p: added up when first asked for, which torch.compile can follow."""
        if self.size_of_prediction is None:
            object.__setattr__(self, "size_of_prediction", self.tp + self.fp)
        assert self.size_of_prediction is not None
        return self.size_of_prediction

    @classmethod
    def of(cls, sums: Sequence[Tensor], extra: Extra = None) -> Counts:
        """Return the counts of the first sums of :mod:`.engine.plain`, each (B, C).

        The number of voxels and the size of the reference have no gradient.
        """
        n, g, *rest = sums
        n, g = (x.detach() if x.requires_grad else x for x in (n, g))
        return cls(n, g, *rest[:3], **dict(zip(EXTRA[extra], rest[3:], strict=True)))

    def size(self, squared: bool) -> Tensor:
        """Return the size of prediction and reference together: sum p + sum g, or sum p^2 + sum g^2."""
        if not squared:
            return self.p + self.g
        assert self.pp is not None
        assert self.gg is not None
        return self.pp + self.gg


class RegionOptions(ClasswiseOptions, total=False):
    """Keyword options of every loss made of soft counts."""

    batch: bool
    distributed: bool
    group: Any
    soft_label: bool


class OverlapOptions(RegionOptions, total=False):
    """Keyword options of every loss that is a smoothed ratio of soft counts."""

    smooth_nr: float
    smooth_dr: float


class RegionLoss(ClasswiseLoss, SumsLoss):
    """Base of all losses that are functions of soft counts. A new one defines :meth:`per_class`.

    Args:
        batch: sum the counts over the batch before any ratio, as if it were one large image.
        distributed: with ``batch=True``, sum the counts over all processes, so that N processes train like one.
        group: the process group to sum over, of torch.distributed; default: all processes.
        soft_label: what shares of a class count, such as smoothed labels: ``True``, TP and TN the smaller of p and g
            and of 1 - p and 1 - g, so that every loss is least at p = g (Wang et al. 2023, arXiv:2302.05666 and
            arXiv:2303.16296); ``False``, the products, as in MONAI, which are least at p = 1 where g is above some
            bound. Equal for labels; forms with squares have the product and are right with it.

    Takes also the arguments of :class:`ClasswiseLoss`.
    """

    extra: Extra = None  # further sums that per_class needs

    def __init__(
        self,
        *args: Any,
        batch: bool = False,
        distributed: bool = False,
        group: Any = None,
        soft_label: bool = True,
        **options: Unpack[ClasswiseOptions],
    ) -> None:
        super().__init__(*args, **options)
        if distributed and not batch:
            raise ValueError("distributed=True sums the counts of all processes and needs batch=True, got batch=False.")
        if group is not None and not distributed:
            raise ValueError("group names the processes to sum over and needs distributed=True.")
        self.batch = flag(batch=batch)
        self.distributed = flag(distributed=distributed)
        self.group = group
        self.soft_label = flag(soft_label=soft_label)

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            input: (B, C, *S) with 1 to 3 spatial dimensions, logits or probabilities, any floating dtype.
            target: (B, C, *S) in [0, 1], or with ``to_onehot_y=True`` class indices (B, 1, *S) or (B, *S); any dtype.
                For one channel, (B, *S) is (B, 1, *S). Or a mapping with ``"label"`` and optionally ``"mask"``,
                ``"classes"`` ((B, C) bool: which classes were annotated in each scan; the others contribute nothing),
                ``"distance_map"`` and ``"penalty_map"`` (not used here). Under a softmax the probability of a class
                that was not annotated belongs to the background's, and what is labelled as that class to the background
                (marginal loss: Shi et al. 2021, doi:10.1016/j.media.2021.101979; Fidon et al. 2021, arXiv:2107.03846).
            mask: (B, 1, *S) or (B, C, *S) bool or non-negative weights; a voxel of weight 0 has no influence at all.
                One for all samples, (1, 1, *S) or (1, C, *S), fits as well.

        Returns:
            A scalar, or for ``reduction="none"`` (B, C), with ``batch=True`` (1, C), without the background where that
            is excluded; losses that join the classes return (B, 1). In the input's dtype, at least float32.

        Raises:
            AssertionError: when the shape of target or mask does not fit the input's.
            ValueError: when the number of dimensions, a label, a target's value, a voxel weight or the number of
                class weights is wrong.
        """
        return super().forward(input, target, mask)

    def wanted(self) -> Wanted:
        """Return the counts."""
        return Wanted(True, not self.soft_label or self.extra in ("squares", "errors"), self.extra)

    def shares_walk(self) -> bool:
        """Return whether the loss reads its input as all do."""
        return type(self).read is SegmentationLoss.read

    def waits_for_others(self) -> bool:
        """Return whether counts are summed over processes."""
        return self.distributed and over_processes()

    def of_sums(self, sums: Sums, reading: Reading) -> Tensor:
        """Return the loss, given the sums of a call."""
        counts = self.counts(sums, reading)
        everything = reading.mask is None and reading.classes is None and reading.rules.ignore_index is None
        everything = everything and reading.input.numel() > 0 and sums.bad is None
        value = self.settled(self.per_class(counts), counts.n, self.undecided(counts), everything)
        return value.to(computing_dtype(reading.input))

    def counts(self, sums: Sums, reading: Reading) -> Counts:
        """Return the soft counts, (B, C) or with ``batch=True`` (1, C), without the background if it is excluded.

        Raises:
            ValueError: when a value was out of range in another process.
        """
        first = 1 if not self.include_background and reading.channels > 1 else 0
        values, classes = sums.values[: 5 + len(EXTRA[self.extra])], reading.classes
        if first:
            values, classes = [x[:, first:] for x in values], None if classes is None else classes[:, first:]
        if classes is not None:
            values = [x * classes for x in values]
        if self.batch:
            values = [x.sum(0, keepdim=True) for x in values]
        if sums.bad is not None:
            together, bad = total_over_processes(torch.stack(tuple(values)), sums.bad, self.group)
            values = list(checks.settle(reading, bad, together).unbind())
        return Counts.of(values, self.extra)

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
        """Return the smoothed ratio of counts; 0 / 0 counts as perfect."""
        return smoothed_ratio(numerator, denominator, self.smooth_nr, self.smooth_dr)


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
        self.squared_pred = flag(squared_pred=squared_pred)
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
        self.squared_pred = flag(squared_pred=squared_pred)
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
        self.squared = flag(squared=squared)
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
        self.squared_pred = flag(squared_pred=squared_pred)
        self.extra = "squares" if squared_pred else None
        self.jaccard = flag(jaccard=jaccard)

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
        self.multiclass = flag(multiclass=multiclass)
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
        if self.multiclass:
            full = counts.g >= (1 - 1e-12) * counts.n
            wrong = torch.where(full & (counts.g > 0), mean(counts.fn, counts.n), 0.0)
            return [(full.any(1, keepdim=True), lambda: wrong.sum(1, keepdim=True))]
        assert counts.tn is not None
        absent = torch.minimum(counts.g, counts.tn + counts.fp) <= 0  # without foreground, or without background
        return [(absent, lambda: mean(counts.fp + counts.fn, counts.n))]  # of which one is 0


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
    tp, tn, fp, fn = counts.tp + smooth, counts.tn + smooth, counts.fp, counts.fn
    covariance = torch.addcmul(fp * fn, tp, tn, value=-1)  # its negative, which takes one operation less
    spread_p = (tp + fp) * (tn + fn)
    with torch.no_grad():  # of the reference alone
        spread_g = (tp + fn) * (tn + fp)
    if smooth > 0:
        return 1 + covariance * (spread_p * spread_g) ** -0.5
    return _one_minus_correlation(-covariance, spread_p, spread_g, fp + fn)


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
