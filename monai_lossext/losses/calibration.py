"""Calibration loss: whether probabilities say how often they are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import PartsLoss, mean, one_of
from .engine import plain
from .engine.precision import accumulator_dtype
from .engine.reading import Reading
from .engine.segments import added, same_probabilities

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import ClasswiseOptions

LEAST_IN_A_BIN = 0.01  # soft bins of a smaller weight are empty


class CalibrationLoss(PartsLoss):
    r"""Mean over bins of probabilities of how far the mean probability is from the frequency of the class.

    .. math:: L_c = \frac{1}{M} \sum_m \Bigl|\frac{\sum_i w_{m,i}\,(p_i - g_i)}{\sum_i w_{m,i}}\Bigr|

    over the M bins that are not empty, with the weight :math:`w_{m,i}` of voxel i in bin m of ``bins`` bins of equal
    width. The marginal L1 average calibration error: of the voxels that a network gives 0.7, seven of ten should be of
    the class. A partner of Dice, whose networks are surer than they are right; alone it does not segment.

    Args:
        bins: how many bins, at least 2.
        binning: ``"hard"``, each probability belongs to one bin, which is constant for the gradient; ``"soft"``, it is
            shared between the bins with the two nearest centres, linearly, and the shares have a gradient. Soft bins
            calibrate better and cost more Dice.

    Takes also the arguments of :class:`.ClasswiseLoss`.

    Range: [0, 1]; perfect 0, certain and wrong 1; absent class: the mean predicted probability.

    Source: Barfoot et al. 2024, arXiv:2403.06759 (hard bins) and 2025, arXiv:2506.03942 (soft bins; those of a weight
    below 0.01 are empty). There, classes that are absent cost nothing and count in the mean.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import CalibrationLoss
        >>> p, g = torch.tensor([[[0.9, 0.8, 0.2, 0.1]]]), torch.tensor([[[1, 0, 0, 0]]])
        >>> round(CalibrationLoss(bins=2)(p, g).item(), 4)
        0.25
    """

    def __init__(self, *args: Any, bins: int = 20, binning: str = "hard", **options: Unpack[ClasswiseOptions]) -> None:
        super().__init__(*args, **options)
        if not isinstance(bins, int) or bins < 2:
            raise ValueError(f"bins must be a whole number of at least 2, got {bins!r}.")
        self.bins = bins
        self.binning = one_of(("hard", "soft"), binning=binning)

    def judged(self, reading: Reading, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what :meth:`.PartsLoss.judged` says, from the bins."""
        p = same_probabilities(reading.input, reading.rules.activation)
        g = plain.shares(reading.rules, reading.target, p).to(p.dtype)[:, first:]
        p, w = p[:, first:], reading.weights(first)
        exact = accumulator_dtype(p)
        n, size, total = ((w * x).flatten(2).sum(-1, dtype=exact) for x in (torch.ones_like(p), g, p))
        return self.of_bins(p, g, w), n, size <= 0, mean(total, n)

    def of_bins(self, p: Tensor, g: Tensor, w: Tensor) -> Tensor:
        """Return the error of each class, (B, C), from probabilities, shares and weights, (B, C, *S)."""
        place = p.detach().nan_to_num(0.0) * self.bins  # NaN has no bin, but makes that of 0 NaN
        if self.binning == "hard":
            shares = [(place.long().clamp(0, self.bins - 1), w)]
            least = 0.0
        else:
            lower = (place - 0.5).floor().long()  # the bin with the centre below
            upward = (p * self.bins - 0.5 - lower).clamp(0, 1)
            last = self.bins - 1
            inner = (lower >= 0) & (lower < last)
            upward = torch.where(inner, upward, 0.0)
            lower = lower.clamp(0, last)
            shares = [(lower, w * (1 - upward)), ((lower + 1).clamp(max=last), w * upward)]
            least = LEAST_IN_A_BIN
        size = torch.stack([added(share, bin, self.bins) for bin, share in shares]).sum(0)
        gap = torch.stack([added(share * (p - g), bin, self.bins) for bin, share in shares]).sum(0)
        filled = size.detach() > least
        each = torch.where(filled, (gap / torch.where(filled, size, 1.0)).abs(), 0.0)
        return each.sum(-1) / filled.sum(-1).clamp(min=1)
