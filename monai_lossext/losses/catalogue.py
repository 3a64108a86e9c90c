"""The one list of losses: what each is, where it comes from and when to use it.

The documentation, the contract tests, the command line and the comparison read this list; a loss that is not in it
does not exist for them.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from .base import SegmentationLoss
from .boundary import BoundaryDistanceLoss, HausdorffCVLoss, HausdorffDistanceLoss, HausdorffERLoss
from .calibration import CalibrationLoss
from .components import BlobDiceLoss, ComponentDiceLoss, SkeletonRecallLoss
from .compound import (
    ComboLoss,
    DiceCrossEntropyLoss,
    DiceHausdorffLoss,
    DiceTopKLoss,
    ExponentialLogarithmicLoss,
    JointLoss,
)
from .lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from .region import (
    AsymmetricSimilarityLoss,
    FocalTverskyLoss,
    LogCoshDiceLoss,
    MatthewsCorrelationLoss,
    PenaltyGeneralizedDiceLoss,
    ScaledGeneralizedDiceLoss,
    SensitivitySpecificityLoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
)
from .voxel import (
    BalancedCrossEntropyLoss,
    DistanceMapCrossEntropyLoss,
    FocalCrossEntropyLoss,
    ShapeAwareLoss,
    StructuralSimilarityCrossEntropyLoss,
    TopKCrossEntropyLoss,
    WeightedCrossEntropyLoss,
)

FAMILIES = {
    "voxel": "every voxel by itself: cross-entropies with their weights",
    "region": "the overlap, from the counts of true and false voxels",
    "boundary": "how far the outlines are apart",
    "component": "every lesion or branch by itself",
    "calibration": "what the probabilities promise",
    "compound": "two of these together",
}  # what the losses of each judge


@dataclass(frozen=True)
class LossEntry:
    """One loss of the catalogue.

    Attributes:
        cls: the class.
        family: a key of FAMILIES.
        formula: per class, in plain text, with the soft counts TP, FP, FN, TN and the smoothing s.
        paper: source with the number of its equation and its arXiv number or DOI.
        range: of the value, with what a perfect, a wrong and an empty case give.
        good_for: when to use it.
        monai: the nearest class of MONAI 1.6.1, or "none".
        difference: how it differs from that class.
        partner: the loss of this package that it must be combined with to train from the start, or "".
        factor: what it is multiplied with beside its partner; None: scaled to the partner's value.
        without_gradient: wrong predictions that have no gradient by the loss's definition, with the reason, or "".
        graph: whether ``torch.compile`` turns it into one graph.
        activation: whether it takes an activation; otherwise it works on the logits themselves.
        spatial: whether it matters where the voxels lie, so that leaving some out is not the same as cutting them out.
    """

    cls: type[SegmentationLoss] | type[JointLoss]
    family: str
    formula: str
    paper: str
    range: str
    good_for: str
    monai: str
    difference: str
    partner: str = ""
    factor: float | None = None
    without_gradient: str = ""
    graph: bool = True
    activation: bool = True
    spatial: bool = False

    @property
    def name(self) -> str:
        """Name of the class."""
        return self.cls.__name__

    @property
    def target(self) -> str:
        """What ``_target_`` is in a MONAI config."""
        return f"monai_lossext.losses.{self.name}"

    @property
    def config(self) -> dict[str, object]:
        """A config of the loss for one class and logits, with its partner where it needs one."""
        activation = {"sigmoid": True} if self.activation else {}
        own = {"_target_": self.target, **activation}
        if not self.partner:
            return own
        partner = {"_target_": f"monai_lossext.losses.{self.partner}", **activation}
        compound = {"_target_": "monai_lossext.losses.CompoundLoss", "terms": {"partner": partner, "own": own}}
        return (
            {**compound, "balance": "ratio"} if self.factor is None else {**compound, "weights": {"own": self.factor}}
        )

    @property
    def arguments(self) -> str:
        """All arguments with their defaults, as a call shows them."""
        return ", ".join(f"{name}={p.default!r}" for name, p in self.cls.__signature__.parameters.items())

    @property
    def overlay(self) -> str:
        """File name, without ending, of the loss in the ``configs/loss`` folder of a bundle."""
        if self.cls is MatthewsCorrelationLoss:
            return "mcc"
        return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", self.name.removesuffix("Loss")).lower()


_ALSO = "also masks, ignored and partial labels for any loss, float32 sums, and a gradient on empty targets"
_MASKS = "masks, ignored and partial labels for any prediction"

_CATALOGUE = (
    LossEntry(
        cls=WeightedCrossEntropyLoss,
        family="voxel",
        formula="mean(-w1 g log p - w0 (1 - g) log(1 - p)); exclusive classes: mean(-w_label log p_label)",
        paper="Jadon 2020, Eq. 2, arXiv:2006.14822; Ma 2020, Eq. 3, arXiv:2005.13449",
        range="[0, inf): perfect 0, undecided 0.69 times the mean factor",
        good_for="setting what a missed voxel costs beside a false alarm; prior: classes of unequal size",
        monai="FocalLoss(gamma=0)",
        difference=f"factors, priors, both normalisations; mean over voxels, not over classes; {_MASKS}",
    ),
    LossEntry(
        cls=BalancedCrossEntropyLoss,
        family="voxel",
        formula="mean(-b g log p - (1 - b) (1 - g) log(1 - p)), b = 1 - G / N of each sample",
        paper="Jadon 2020, Eq. 3, arXiv:2006.14822",
        range="[0, inf): perfect 0, sample of one class 0",
        good_for="objects whose size differs much from image to image",
        monai="none",
        difference="FocalLoss(gamma=0, alpha=b) has a fixed b",
        without_gradient="samples without foreground or without background: the weight of what is there is 0",
    ),
    LossEntry(
        cls=FocalCrossEntropyLoss,
        family="voxel",
        formula="mean(-alpha_t (1 - p_t)^gamma log p_t), p_t = p where g = 1, else 1 - p",
        paper="Jadon 2020, Eq. 4-7, arXiv:2006.14822; Ma 2020, Eq. 5, arXiv:2005.13449",
        range="[0, inf): perfect 0, undecided 0.69 / 2^gamma",
        good_for="many easy background voxels beside few hard ones",
        monai="FocalLoss",
        difference=f"equal with sigmoid; with softmax, MONAI's mean also divides by the number of classes; {_MASKS}",
    ),
    LossEntry(
        cls=TopKCrossEntropyLoss,
        family="voxel",
        formula="mean of the k percent largest cross-entropies; or mean over the voxels with p_label < threshold",
        paper="Ma 2020, Eq. 4, arXiv:2005.13449",
        range="[0, inf): perfect 0, nothing kept 0",
        good_for="large images of which most is easy, and clean labels",
        monai="none",
        difference="no counterpart",
        without_gradient="voxels that are not among the hardest: they are not kept",
    ),
    LossEntry(
        cls=DistanceMapCrossEntropyLoss,
        family="voxel",
        formula="mean((1 + phi) CE), phi = 1 at the border of each region and 0 at its deepest voxel",
        paper="Jadon 2020, Eq. 22, arXiv:2006.14822; Ma 2020, Eq. 6, arXiv:2005.13449",
        range="[0, inf): perfect 0, class that is absent or fills the picture: the cross-entropy",
        good_for="sharper borders than the cross-entropy gives",
        monai="none",
        difference="no counterpart",
        graph=False,
        spatial=True,
    ),
    LossEntry(
        cls=ShapeAwareLoss,
        family="voxel",
        formula="mean((1 + E) CE), E the mean distance from the predicted outline to the true one",
        paper="Jadon 2020, Eq. 15-16, arXiv:2006.14822",
        range="[0, inf): perfect 0, no outline: the cross-entropy",
        good_for="outlines that lie far from the truth at places",
        monai="none",
        difference="no counterpart",
        partner="SoftDiceLoss",
        graph=False,
        spatial=True,
    ),
    LossEntry(
        cls=StructuralSimilarityCrossEntropyLoss,
        family="voxel",
        formula="sum(f e CE) / sum(f), e = |normalised g - normalised p| in a local window, f = [e > beta max e]",
        paper="Jadon 2020, Eq. 24-27, arXiv:2006.14822",
        range="[0, inf): perfect 0, constant prediction of an empty or full target 0",
        good_for="thin structures and textured outlines, with lambda_ce for the plain cross-entropy",
        monai="none",
        difference="SSIMLoss compares pictures, not masks",
        partner="WeightedCrossEntropyLoss",
        without_gradient="neighbourhoods without any structure in prediction and target, which look alike, and those "
        "that differ less than beta times the most different one",
        spatial=True,
    ),
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
        cls=FocalTverskyLoss,
        family="region",
        formula="(1 - (TP + s) / (TP + alpha FP + beta FN + s))^(1 / gamma)",
        paper="Ma 2020, Eq. 12, arXiv:2005.13449; Jadon 2020, Eq. 11, arXiv:2006.14822 (its gamma is 1 / gamma here)",
        range="[0, 1]: perfect 0, disjoint 1, absent class: mean predicted probability",
        good_for="small lesions next to large, easy ones: the last errors of a class are not given up",
        monai="none",
        difference="AsymmetricFocalTverskyLoss has another formula, for two classes and probabilities",
    ),
    LossEntry(
        cls=AsymmetricSimilarityLoss,
        family="region",
        formula="1 - (TP + s) / (TP + beta^2 / (1 + beta^2) FN + 1 / (1 + beta^2) FP + s)",
        paper="Ma 2020, Eq. 13, arXiv:2005.13449",
        range="[0, 1]: perfect 0, disjoint 1, absent class: mean predicted probability",
        good_for="high recall (beta above 1) set by the number that the F-beta score is known by",
        monai="TverskyLoss",
        difference=f'equal with its alpha = 1 / (1 + beta^2), beta = 1 - alpha and empty="formula" here; {_ALSO}',
    ),
    LossEntry(
        cls=ScaledGeneralizedDiceLoss,
        family="region",
        formula="1 - (2 sum_c w_c TP_c + s) / (sum_c w_c (2 TP_c + FP_c + FN_c) + s), w_c = (min_k G_k / G_c)^2",
        paper="Ma 2020, Eq. 11, arXiv:2005.13449",
        range="[0, 1]: perfect 0, disjoint 1, no class present: mean predicted probability",
        good_for="several classes of very different size, judged together",
        monai="GeneralizedDiceLoss",
        difference="weights relative to the smallest class, so that the smoothing does not depend on the size of the "
        f'picture; equal with w_type="uniform" and empty="formula"; {_ALSO}, and class weights',
    ),
    LossEntry(
        cls=PenaltyGeneralizedDiceLoss,
        family="region",
        formula="1 - S / (1 + k (1 - S)), S the generalised Dice score",
        paper="Ma 2020, Eq. 14, arXiv:2005.13449 (there applied to the loss, which weakens errors)",
        range="[0, 1]: perfect 0, disjoint 1, no class present: mean predicted probability",
        good_for="several classes of very different size when the last errors matter",
        monai="none",
        difference="GeneralizedDiceLoss is nearest, k = 0",
    ),
    LossEntry(
        cls=SensitivitySpecificityLoss,
        family="region",
        formula="w sum (g - p)^2 g / (G + s) + (1 - w) sum (g - p)^2 (1 - g) / (N - G + s)",
        paper="Ma 2020, Eq. 7, arXiv:2005.13449; Jadon 2020, Eq. 12-14, arXiv:2006.14822",
        range="[0, 1]: perfect 0, inverted 1, absent class: mean predicted probability",
        good_for="setting the balance of sensitivity and specificity whatever the size of the object",
        monai="none",
        difference="no counterpart",
    ),
    LossEntry(
        cls=LovaszSoftmaxLoss,
        family="region",
        formula="sum_k m_(k) (D_k - D_(k-1)), errors m = |g - p| sorted downwards, D_k the Jaccard loss of the first k",
        paper="Berman et al. 2018, arXiv:1705.08790; Eelbode et al. 2020, doi:10.1109/TMI.2020.3002417",
        range="[0, 1]: perfect 0, disjoint 1, absent class: left out, or mean predicted probability",
        good_for="the Jaccard index, after a start with cross-entropy",
        monai="none",
        difference="no counterpart",
        without_gradient="background voxels whose error is below that of every foreground voxel, and classes absent "
        'from the target with classes="present": the Jaccard loss does not change with them',
    ),
    LossEntry(
        cls=LovaszHingeLoss,
        family="region",
        formula="sum_k m_(k) (D_k - D_(k-1)), errors m = max(0, 1 - z (2 g - 1)) sorted downwards, D_k as above",
        paper="Berman et al. 2018, arXiv:1705.08790; Jadon 2020, arXiv:2006.14822",
        range="[0, inf): perfect 0 (all logits beyond 1 on the right side), absent class: mean hinge error",
        good_for="the Jaccard index of one class or of several that may overlap",
        monai="none",
        difference="no counterpart",
        without_gradient="background voxels whose error is below that of every foreground voxel: the Jaccard loss does "
        "not change with them",
        activation=False,
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
    LossEntry(
        cls=BoundaryDistanceLoss,
        family="boundary",
        formula="mean(phi p), phi the signed distance from the border of the target, negative inside",
        paper="Ma 2020, section 4.1, arXiv:2005.13449; Kervadec et al. 2019, arXiv:1812.07032",
        range="unbounded, negative at best: least for p = g, absent or full class 0",
        good_for="small objects whose outline matters, with a weight that grows during training",
        monai="BoundaryLoss",
        difference="spacing, precomputed maps, 1D, masks, ignored and partial labels",
        partner="ScaledGeneralizedDiceLoss",
        factor=0.01,  # its value, negative at best, is nothing to scale by
        without_gradient="a class that is absent or fills the picture has no border, so that its distances are 0; with "
        'inside="shifted", so are those of foreground that touches the border',
        graph=False,
        spatial=True,
    ),
    LossEntry(
        cls=HausdorffDistanceLoss,
        family="boundary",
        formula="mean((p - g)^2 (d_g^alpha + d_p^alpha)), d the distance from the border",
        paper="Jadon 2020, Eq. 23-24, arXiv:2006.14822; Ma 2020, section 4.2, arXiv:2005.13449; Karimi and Salcudean "
        "2019, arXiv:1904.10030",
        range="[0, inf): perfect 0, in voxels (or mm) to the power of alpha",
        good_for="few errors far from the border",
        monai="HausdorffDTLoss",
        difference="one-sided form, spacing, precomputed maps, 1D, masks, ignored and partial labels",
        partner="SoftDiceLoss",
        without_gradient="neither target nor prediction > 0.5 has a border (all or nothing in the picture): all "
        "distances are 0",
        graph=False,
        spatial=True,
    ),
    LossEntry(
        cls=HausdorffERLoss,
        family="boundary",
        formula="mean(sum_k k^alpha e_k), e_k = rescaled max(0, B * e_(k-1) - 1/2), e_0 = (p - g)^2",
        paper="Karimi and Salcudean 2019, arXiv:1904.10030; Jadon 2020, arXiv:2006.14822",
        range="[0, sum of k^alpha]: perfect 0",
        good_for="thick regions of error, without the cost of distance transforms",
        monai="none",
        difference="HausdorffDTLoss estimates the same distance",
        partner="SoftDiceLoss",
        without_gradient="errors below 0.7071 and thin ones: the first erosion removes what is below 1/2",
        spatial=True,
    ),
    LossEntry(
        cls=HausdorffCVLoss,
        family="boundary",
        formula="mean(sum_r r^alpha e (p f(B_r * (1 - g)) + g f(B_r * g) + g f(B_r * (1 - p)) + p f(B_r * p))), "
        "e = (p - g)^2, f(x) = max(0, 2 x - 1)",
        paper="Karimi and Salcudean 2019, arXiv:1904.10030; Jadon 2020, arXiv:2006.14822",
        range="[0, inf): perfect 0",
        good_for="errors far from the border, with a gradient through the borders themselves",
        monai="none",
        difference="HausdorffDTLoss estimates the same distance",
        partner="SoftDiceLoss",
        without_gradient="errors nearer to a border than about the smallest radius: no ball fits in",
        spatial=True,
    ),
    LossEntry(
        cls=BlobDiceLoss,
        family="component",
        formula="mean over components k of 1 - (2 S_k + s) / (S_k + S_0 + N_k + s), S the sum of p in k, or outside",
        paper="Kofler et al. 2022, arXiv:2205.08209",
        range="[0, 1]: perfect 0, disjoint 1, absent class: mean predicted probability",
        good_for="many lesions of different size, each of which is to be found",
        monai="none",
        difference="no counterpart",
        graph=False,
        spatial=True,
    ),
    LossEntry(
        cls=ComponentDiceLoss,
        family="component",
        formula="mean over components of Dice and mean cross-entropy in the region nearest to each",
        paper="Bouteille et al. 2025, arXiv:2511.17146; Kundu et al. 2026, arXiv:2604.24276",
        range="[0, inf): perfect 0, absent class: mean predicted probability",
        good_for="many lesions of different size, with a gradient everywhere, and false ones charged to the nearest",
        monai="none",
        difference="no counterpart",
        graph=False,
        spatial=True,
    ),
    LossEntry(
        cls=SkeletonRecallLoss,
        family="component",
        formula="1 - (sum(t p) + s) / (sum(t) + s), t a tube around the skeleton of the class",
        paper="Kirchhoff et al. 2024, arXiv:2404.03010",
        range="[0, 1]: perfect 0, nothing found 1, absent class: mean predicted probability",
        good_for="vessels and other thin structures that must stay connected",
        monai="SoftclDiceLoss",
        difference="thins the target alone, once; soft clDice thins the prediction too, softly, at every step",
        partner="DiceCrossEntropyLoss",
        factor=1.0,
        without_gradient="voxels off the skeleton of a class that is present: only recall counts",
        graph=False,
        spatial=True,
    ),
    LossEntry(
        cls=CalibrationLoss,
        family="calibration",
        formula="mean over bins that are not empty of |mean p - mean g|",
        paper="Barfoot et al. 2024, arXiv:2403.06759 (hard bins); 2025, arXiv:2506.03942 (soft bins)",
        range="[0, 1]: perfect 0, certain and wrong 1, absent class: mean predicted probability",
        good_for="probabilities that say how often they are right, beside a Dice loss",
        monai="none",
        difference="no counterpart",
        partner="DiceCrossEntropyLoss",
        factor=1.0,
        without_gradient="bins whose mean probability is the frequency of the class already",
    ),
    LossEntry(
        cls=DiceCrossEntropyLoss,
        family="compound",
        formula="lambda_dice SoftDiceLoss + lambda_ce mean(-g log p - (1 - g) log(1 - p)); exclusive classes: -log p_l",
        paper="Isensee et al. 2021, doi:10.1038/s41592-020-01008-z",
        range="[0, inf): perfect 0",
        good_for="most tasks: the score of Dice and a gradient in every voxel from the start",
        monai="DiceCELoss",
        difference=f"equal for one sample with include_background=True; {_MASKS}",
    ),
    LossEntry(
        cls=ComboLoss,
        family="compound",
        formula="alpha mean(-beta g log p - (1 - beta) (1 - g) log(1 - p)) + (1 - alpha) SoftDiceLoss",
        paper="Jadon 2020, Eq. 17-18, arXiv:2006.14822; Ma 2020, Eq. 15, arXiv:2005.13449",
        range="[0, inf): perfect 0",
        good_for="organs of very different size, with a choice between missed voxels and false alarms",
        monai="DiceCELoss",
        difference=f"weighs missed voxels and false alarms; {_MASKS}",
    ),
    LossEntry(
        cls=ExponentialLogarithmicLoss,
        family="compound",
        formula="w_dice mean((-ln Dice)^gamma_dice) + w_ce mean(w_label (-ln p_label)^gamma_ce)",
        paper="Jadon 2020, Eq. 19-21, arXiv:2006.14822; Ma 2020, Eq. 16, arXiv:2005.13449",
        range="[0, inf): 0 for perfect logits (about 3e-4 for perfect probabilities, which are clamped)",
        good_for="many labels of very different size",
        monai="none",
        difference="DiceCELoss has neither exponents nor weights of labels",
    ),
    LossEntry(
        cls=DiceTopKLoss,
        family="compound",
        formula="SoftDiceLoss + mean of the k percent largest cross-entropies",
        paper="Ma 2020, section 5, arXiv:2005.13449",
        range="[0, inf): perfect 0",
        good_for="small lesions in large images",
        monai="DiceCELoss",
        difference=f"equal with k=100, include_background=True and one sample; {_MASKS}",
    ),
    LossEntry(
        cls=DiceHausdorffLoss,
        family="compound",
        formula="HausdorffDistanceLoss + lambda SoftDiceLoss, lambda the ratio of their values",
        paper="Karimi and Salcudean 2019, arXiv:1904.10030; Ma 2020, section 4.2, arXiv:2005.13449",
        range="[0, inf): perfect 0",
        good_for="outlines without far outliers",
        monai="HausdorffDTLoss",
        difference="combined with Dice, spacing, ratio of the values",
        graph=False,
        spatial=True,
    ),
)


def entry_named(name: str) -> LossEntry:
    """Return the entry of a loss by its class, its overlay or what ``_target_`` is, in capitals or not.

    Raises:
        LookupError: there is none; the message names the nearest.

    Example:
        >>> from monai_lossext.losses.catalogue import entry_named
        >>> entry_named("mcc").name
        'MatthewsCorrelationLoss'
    """
    named = {key.lower(): entry for entry in _CATALOGUE for key in (entry.name, entry.overlay, entry.target)}
    if name.lower() in named:
        return named[name.lower()]
    close = difflib.get_close_matches(name.lower(), named, n=1)
    hint = f"; did you mean {named[close[0]].name}?" if close else ""
    raise LookupError(f"there is no loss {name} in the catalogue{hint}")


def catalogue() -> tuple[LossEntry, ...]:
    """Return every loss of this package, once each, ordered by family.

    Example:
        >>> from monai_lossext.losses import catalogue
        >>> [entry.name for entry in catalogue()][:2]
        ['WeightedCrossEntropyLoss', 'BalancedCrossEntropyLoss']
    """
    return _CATALOGUE
