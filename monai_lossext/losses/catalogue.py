"""The one list of losses: what each is, where it comes from and when to use it.

The documentation, the contract tests, the command line and the comparison read this list; a loss that is not in it
does not exist for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .base import SegmentationLoss
from .region import LogCoshDiceLoss, MatthewsCorrelationLoss, SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss


@dataclass(frozen=True)
class LossEntry:
    """One loss of the catalogue.

    Attributes:
        cls: the class.
        family: ``"voxel"``, ``"region"``, ``"boundary"`` or ``"compound"``.
        formula: per class, in plain text, with the soft counts TP, FP, FN, TN and the smoothing s.
        paper: source with the number of its equation and its arXiv number or DOI.
        range: of the value, with what a perfect, a wrong and an empty case give.
        good_for: when to use it.
        monai: the nearest class of MONAI 1.6.1, or "none".
        difference: how it differs from that class.
    """

    cls: type[SegmentationLoss]
    family: str
    formula: str
    paper: str
    range: str
    good_for: str
    monai: str
    difference: str

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.cls.__name__

    @property
    def target(self) -> str:
        """What ``_target_`` is in a MONAI config."""
        return f"monai_lossext.losses.{self.name}"

    @property
    def overlay(self) -> str:
        """File name, without ending, of the loss in the ``configs/loss`` folder of a bundle."""
        if self.cls is MatthewsCorrelationLoss:
            return "mcc"
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name.removesuffix("Loss")).lower()


_ALSO = "also masks, ignored and partial labels for any loss, float32 sums, and a gradient on empty targets"

_CATALOGUE = (
    LossEntry(
        cls=SoftDiceLoss,
        family="region",
        formula="1 - (2 TP + s) / (2 TP + FP + FN + s)",
        paper="Jadon 2020, Eq. 8, arXiv:2006.14822; Eelbode et al. 2020, Eq. 11-12, doi:10.1109/TMI.2020.3002417",
        range="[0, 1]: perfect 0, disjoint 1, absent class: mean predicted probability",
        good_for="the default for objects that are small in the image; scored by Dice",
        monai="DiceLoss",
        difference=f'equal with empty="formula"; {_ALSO}',
    ),
    LossEntry(
        cls=SoftJaccardLoss,
        family="region",
        formula="1 - (2 TP + s) / (2 (TP + FP + FN) + s)",
        paper="Eelbode et al. 2020, Eq. 13, doi:10.1109/TMI.2020.3002417; Ma 2020, Eq. 9, arXiv:2005.13449",
        range="[0, 1]: perfect 0, disjoint 1, absent class: mean predicted probability",
        good_for="like Dice, when the Jaccard index is the score",
        monai="DiceLoss(jaccard=True)",
        difference=f'equal with empty="formula"; {_ALSO}',
    ),
    LossEntry(
        cls=SoftTverskyLoss,
        family="region",
        formula="1 - (TP + s) / (TP + alpha FP + beta FN + s)",
        paper="Eelbode et al. 2020, Eq. 6 and 14, doi:10.1109/TMI.2020.3002417; Jadon 2020, Eq. 9-10, arXiv:2006.14822",
        range="[0, 1]: perfect 0, disjoint 1, absent class: mean predicted probability",
        good_for="trading false positives (alpha) against false negatives (beta)",
        monai="TverskyLoss",
        difference=f'equal with empty="formula"; {_ALSO}, and class weights',
    ),
    LossEntry(
        cls=LogCoshDiceLoss,
        family="region",
        formula="log(cosh(1 - (2 TP + s) / (2 TP + FP + FN + s)))",
        paper="Jadon 2020, Eq. 32, arXiv:2006.14822",
        range="[0, 0.4338]: perfect 0, disjoint 0.4338, absent class: mean predicted probability",
        good_for="Dice with a gradient that fades out as the overlap becomes good",
        monai="none",
        difference="DiceLoss is its argument",
    ),
    LossEntry(
        cls=MatthewsCorrelationLoss,
        family="region",
        formula="1 - (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)), s added to TP and TN",
        paper="Abhishek and Hamarneh 2021, Eq. 3-7, doi:10.1109/ISBI48211.2021.9433782",
        range="[0, 2]: perfect 0, inverted 2, constant 1, absent class: mean predicted probability",
        good_for="when background matters as much as foreground; classes of very different size",
        monai="MCCLoss",
        difference="smoothing by agreement instead of a constant; no overflow in half precision; a gradient on empty "
        f"and full targets; K-class R_K; {_ALSO}",
    ),
)


def catalogue() -> tuple[LossEntry, ...]:
    """Return every loss of this package, once each, ordered by family.

    Example:
        >>> from monai_lossext.losses import catalogue
        >>> [entry.name for entry in catalogue()][:2]
        ['SoftDiceLoss', 'SoftJaccardLoss']
    """
    return _CATALOGUE
