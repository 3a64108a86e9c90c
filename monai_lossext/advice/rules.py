"""The rules of the advice: a measured property of the data, the losses it speaks for and against, and the source.

Nothing is advised that has no source: a published result, or a property of the loss that follows from its definition
and that the tests of this package measure. A published result speaks for data like those it was measured on, so every
rule says where its limits come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

from monai_lossext.advice.profile import Profile

ABHISHEK = "Abhishek and Hamarneh 2021 (doi:10.1109/ISBI48211.2021.9433782)"
EELBODE = "Eelbode et al. 2020 (doi:10.1109/TMI.2020.3002417)"
JADON = "Jadon 2020 (arXiv:2006.14822)"
MA = "Ma 2020 (arXiv:2005.13449)"
SEGLOSS = "results in the repository of Ma 2020 (github.com/JunMa11/SegLoss, README; nnU-Net, one training each)"
KARIMI = "Karimi and Salcudean 2019 (arXiv:1904.10030)"
MEASURED = "follows from the loss's definition and is tested in this package (docs: the losses, Without gradient)"


@dataclass(frozen=True)
class Rule:
    """One line of advice.

    Attributes:
        applies: whether the data have the property.
        property: the property in words, with the number that was measured.
        first: losses to try first.
        avoid: losses to leave for later.
        reason: what is known for such data.
        source: where that is from.
        limits: why the rule begins and ends where it does.
    """

    applies: Callable[[Profile], bool]
    property: Callable[[Profile], str]
    reason: str
    source: str
    limits: str
    first: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()


def percent(share: float) -> str:
    """Write a share in percent with two significant digits.

    >>> percent(0.00353), percent(0.13), percent(1)
    ('0.35 %', '13 %', '100 %')
    """
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"


def _fill(profile: Profile) -> str:
    return f"objects fill {percent(profile.foreground)} of the image (median)"


def _radius(profile: Profile) -> float:
    """Radius in voxels of a disc or ball as large as the median object."""
    if profile.volumes:
        return float((3 * profile.object_voxels / (4 * pi)) ** (1 / 3))
    return float((profile.object_voxels / pi) ** 0.5)


# The first rule that applies names the first loss to try, and so on until there are three.
RULES = (
    Rule(
        first=("FocalTverskyLoss", "LogCoshDiceLoss"),
        applies=lambda p: p.volumes and p.objects == 1 and 0.1 <= p.foreground <= 0.4 and p.border <= 0.2,
        property=lambda p: f"one compact object a volume: {_fill(p)}, {percent(p.border)} of its voxels on its border",
        reason="the two best of nine losses by Dice on brain masks: 0.977 and 0.975 against 0.970 for Dice and 0.968"
        " for cross-entropy (the table's row of log-cosh Dice read as the text has it; one training each, no test)",
        source=f"{JADON}, Table III and its text",
        limits="brain masks fill 17 to 22 % of four heads measured here, with 10 % of their voxels on the border; the"
        " range is twice as wide either way",
    ),
    Rule(
        first=("MatthewsCorrelationLoss",),
        applies=lambda p: not p.volumes and len(p.classes) == 1 and 0.025 <= p.foreground <= 0.46,
        property=lambda p: f"one class in pictures, and {_fill(p)}",
        reason="a higher Jaccard index than with Dice on three sets of skin lesions (0.752 against 0.676 on ISIC 2017,"
        " p < 0.001); this package's own comparison on ISIC 2017 did not find that gain (p = 0.90), so let your data"
        " decide",
        source=f"{ABHISHEK}, Table 1; docs/isic2017.md of this package",
        limits="10 % and 90 % quantiles of the lesions of ISIC 2017, measured here: 2.5 % and 46 % of the picture",
    ),
    Rule(
        first=("SoftDiceLoss",),
        avoid=("WeightedCrossEntropyLoss", "BalancedCrossEntropyLoss"),
        applies=lambda p: p.foreground <= 0.0705,
        property=_fill,
        reason="the paper finds Dice better than cross-entropy, by the Dice score, in six of seven settings; weights"
        " by the share of the classes (WeightedCrossEntropyLoss with prior, or BalancedCrossEntropyLoss, which is the"
        " same up to a factor) gave a lower score than no weights in five of them, 0.383 against 0.671 at worst",
        source=f"{EELBODE}, Table II",
        limits="its data sets have 0.5 to 7.05 % of foreground",
    ),
    Rule(
        first=("DiceTopKLoss",),
        applies=lambda p: p.foreground <= 0.01,
        property=lambda p: f"{_fill(p)}, so that 99 % or more of the voxels are background",
        reason="Dice with the cross-entropy of the hardest 10 % of the voxels was the best of 17 losses on livers"
        " (0.969), and near the best on liver tumours (0.613, Dice 0.621), pancreas and several organs; the easy"
        " background has no say in it",
        source=SEGLOSS,
        limits="1 %: then the hardest 10 % still hold ten times more voxels than the objects, so that none of these is"
        " left out",
    ),
    Rule(
        first=("FocalTverskyLoss",),
        applies=lambda p: p.several >= 0.25 and p.largest_alone >= 0.5,
        property=lambda p: (
            f"{percent(p.several)} of the cases have several objects, {p.objects:.0f} (median) a case; to"
            f" find only the largest one already gives a Dice of {p.largest_alone:.2f} there"
        ),
        reason="the root in its formula keeps the gradient up when most of the overlap is won, so that small objects"
        " are not given up beside large ones; measured elsewhere, it was the second best on liver tumours (0.619, Dice"
        " 0.621), so expect fewer misses and not a higher Dice",
        source=f"{MA}, Eq. 12; {JADON}, Eq. 11; {SEGLOSS}",
        limits="a quarter of the cases, and half of the score: below, missed objects show in the mean score itself",
    ),
    Rule(
        first=("DiceTopKLoss", "ExponentialLogarithmicLoss"),
        applies=lambda p: len(p.classes) > 1 and p.class_ratio >= 10,
        property=lambda p: (
            f"{len(p.classes)} classes, the most frequent {p.class_ratio:.0f} times as large as the rarest"
        ),
        reason="for several organs Dice with top-k cross-entropy had 0.851 against 0.845 for Dice; the exponential"
        " logarithmic loss is made for labels of very different size, by weights and a root, but had 0.838",
        source=f"{SEGLOSS}; {JADON}, Eq. 19-21; {MA}, Eq. 16",
        limits="a ratio of 10: one order of magnitude",
    ),
    Rule(
        first=("DiceTopKLoss",),
        avoid=("BalancedCrossEntropyLoss", "BoundaryDistanceLoss", "HausdorffDistanceLoss"),
        applies=lambda p: p.empty > 0 or p.full > 0,
        property=lambda p: f"{percent(p.empty)} of the cases hold no object, {percent(p.full)} nothing else",
        reason="without a border these distances are 0, and the balanced cross-entropy gives what is there the weight"
        " 0: no gradient, whatever is predicted. A cross-entropy term has one everywhere; region losses have one by"
        " empty='penalize' (the default), and next to none with 'formula'",
        source=f"{MEASURED}; {JADON}, Eq. 3",
        limits="any such case: it teaches these losses nothing",
    ),
    Rule(
        first=("SoftDiceLoss",),
        avoid=("WeightedCrossEntropyLoss", "FocalCrossEntropyLoss"),
        applies=lambda p: p.spread >= 10,
        property=lambda p: (
            f"large objects fill {p.spread:.0f} times as much as small ones ({percent(p.foreground_low)} and"
            f" {percent(p.foreground_high)}, 10 and 90 % quantiles)"
        ),
        reason="the mean over voxels counts a case by the size of its object, the score counts every case alike; a"
        " region loss is a ratio in each case, as the score is",
        source=f"the definitions: {MA}, Eq. 2 and 8",
        limits="10: one large case outweighs ten small ones",
    ),
    Rule(
        avoid=("FocalCrossEntropyLoss",),
        applies=lambda p: p.foreground <= 0.22,
        property=_fill,
        reason="the lowest Dice of nine losses on brains (0.936, cross-entropy 0.968) and the fourth lowest of 17 on"
        " liver tumours (0.468, cross-entropy 0.564, Dice 0.621)",
        source=f"{JADON}, Table III; {SEGLOSS}",
        limits="22 %: the largest brain mask of four heads measured here",
    ),
    Rule(
        avoid=("SoftTverskyLoss", "AsymmetricSimilarityLoss"),
        applies=lambda p: p.foreground <= 0.0705,
        property=_fill,
        reason="no uneven weighting of false positives and false negatives had a significantly higher Dice than 0.5 and"
        " 0.5, which is Dice; uneven weights pay only where F2 or F0.5 is the goal",
        source=f"{EELBODE}, Tables III, VII and B.1",
        limits="its data sets have 0.5 to 7.05 % of foreground",
    ),
    Rule(
        avoid=("HausdorffERLoss", "BoundaryDistanceLoss"),
        applies=lambda p: p.border >= 0.5,
        property=lambda p: (
            f"objects are thin or tiny: {percent(p.border)} of their voxels lie on their border (median)"
        ),
        reason="the erosion of HausdorffERLoss removes thin errors at once; the shifted distances of"
        " BoundaryDistanceLoss are 0 on the border, so that most of the object would have no gradient",
        source=f"{MEASURED}; {KARIMI}",
        limits="half of the voxels",
    ),
    Rule(
        avoid=("HausdorffCVLoss",),
        applies=lambda p: _radius(p) < 3,
        property=lambda p: (
            f"the median object is {p.object_voxels:.0f} voxels large, as much as a ball or disc of radius"
            f" {_radius(p):.1f}"
        ),
        reason="its smallest ball has radius 3: none fits into such an object or a missed one",
        source=f"{MEASURED}; {KARIMI}",
        limits="radius 3, the loss's smallest by default",
    ),
    Rule(
        avoid=("HausdorffERLoss", "HausdorffCVLoss"),
        applies=lambda p: p.anisotropy >= 2,
        property=lambda p: f"voxels of {' x '.join(f'{mm:g}' for mm in p.spacing)} mm",
        reason="they count voxels, which are not equally long; the other boundary losses take the spacing",
        source=f"their definitions: {KARIMI}",
        limits="2: an error is then twice as long along one axis as along another",
    ),
    Rule(
        first=("SoftDiceLoss", "DiceTopKLoss", "SoftJaccardLoss"),
        applies=lambda p: True,
        property=_fill,
        reason="no other metric-sensitive loss (Jaccard, Lovasz) had a significantly higher Dice than Dice; Dice with"
        " top-k cross-entropy was among the best of 17 losses on all of four tasks",
        source=f"{EELBODE}, Table II; {SEGLOSS}",
        limits="none: what is left when nothing more special applies",
    ),
)
