"""The rules of the advice: a measured property of the data, the losses it speaks for and against, and the source.

Nothing is advised that has no source: a published result, a study of this package that counts trainings, or a property
of the loss that follows from its definition and that the tests of this package measure. A result speaks for data like
those it was measured on, so every rule says where its limits come from.
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
COMPACT = 0.2  # of the voxels of an object, the share on its border, at most
OWN = "docs/isic2017.md of this package"
MEASURED = "follows from the loss's definition and is tested in this package (docs: the losses, Without gradient)"


@dataclass(frozen=True)
class Rule:
    """One line of advice.

    Attributes:
        when: the property in words.
        evidence: how strong the source is.
        applies: whether the data have the property.
        property: the property in words, with the number that was measured.
        first: losses to try first.
        avoid: losses to leave for later.
        reason: what is known for such data.
        source: where that is from.
        limits: why the rule begins and ends where it does.
    """

    when: str
    evidence: str
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


def _like_skin_lesions(profile: Profile) -> bool:
    sizes = 0.025 <= profile.foreground <= 0.46 and profile.objects <= 2 and profile.border <= COMPACT
    return not profile.volumes and len(profile.classes) == 1 and sizes


def _one_object(profile: Profile) -> str:
    return f"one compact object in pictures: {_fill(profile)}, {percent(profile.border)} of its voxels on its border"


# The first rule that applies names the first loss to try, and so on until there are three.
RULES = (
    Rule(
        when="a volume with one compact object of 10 to 40 %",
        evidence="one training each, no test",
        first=("FocalTverskyLoss", "LogCoshDiceLoss"),
        applies=lambda p: p.volumes and p.objects == 1 and 0.1 <= p.foreground <= 0.4 and p.border <= COMPACT,
        property=lambda p: f"one compact object a volume: {_fill(p)}, {percent(p.border)} of its voxels on its border",
        reason="the two best of nine losses by Dice on brain masks: 0.977 and 0.975 against 0.970 for Dice and 0.968"
        " for cross-entropy (the table's row of log-cosh Dice read as the text has it; one training each, no test)",
        source=f"{JADON}, Table III and its text",
        limits="brain masks fill 17 to 22 % of four heads measured here, with 10 % of their voxels on the border; the"
        " range is twice as wide either way",
    ),
    Rule(
        when="a picture with one or two compact objects of 2.5 to 46 %",
        evidence="tested over cases and trainings, in a short training",
        first=("LovaszSoftmaxLoss", "DiceCrossEntropyLoss"),
        applies=_like_skin_lesions,
        property=_one_object,
        reason="of five losses with three trainings each on skin lesions, Lovasz had a higher Jaccard index than all"
        " others (than Dice by 0.036 to 0.091, than Dice with cross-entropy by 0.001 to 0.036), and Dice with"
        " cross-entropy a higher one than Dice (by 0.020 to 0.070) and the Matthews correlation",
        source=OWN,
        limits="one network after 480 steps with one rate for all; after 2000 steps three trainings show no difference"
        " between Dice, the Matthews correlation and cross-entropy. The sizes: see the next line",
    ),
    Rule(
        when="a picture with one or two compact objects of 2.5 to 46 %",
        evidence="tested, but not found again in this package's own studies",
        first=("MatthewsCorrelationLoss",),
        applies=_like_skin_lesions,
        property=_one_object,
        reason="a higher Jaccard index than with Dice on three sets of skin lesions (0.752 against 0.676 on ISIC 2017,"
        " p < 0.001); this package's own comparisons on ISIC 2017 did not find that gain (at most 0.017 either way"
        " after 2000 steps, at most 0.004 after 480), so let your data decide",
        source=f"{ABHISHEK}, Table 1; {OWN}",
        limits="10 % and 90 % quantiles of the lesions of ISIC 2017, measured here: 2.5 % and 46 % of the picture;"
        " vessels and cells, of which a fifth or more lies on the border, are another matter",
    ),
    Rule(
        when="objects of at most 7.05 % of the image",
        evidence="tested, with significance, in six of seven settings",
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
        when="objects of at most 1 % of the image",
        evidence="one training each, no test",
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
        when="several objects, of which the largest alone gives a Dice of 0.5",
        evidence="the definition; one training each, no test",
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
        when="several classes, the most frequent 10 times the rarest or more",
        evidence="one training each, no test",
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
        when="images without an object, or with nothing else",
        evidence="the definition, tested in this package",
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
        when="large objects 10 times the small ones or more",
        evidence="the definition; against it, for cross-entropy, a short training",
        first=("SoftDiceLoss",),
        avoid=("FocalCrossEntropyLoss",),
        applies=lambda p: p.spread >= 10,
        property=lambda p: (
            f"large objects fill {p.spread:.0f} times as much as small ones ({percent(p.foreground_low)} and"
            f" {percent(p.foreground_high)}, 10 and 90 % quantiles)"
        ),
        reason="the mean over voxels counts a case by the size of its object, the score counts every case alike; a"
        " region loss is a ratio in each case, as the score is. That is no reason to leave plain cross-entropy out: on"
        " skin lesions that differ as much it was 0.019 to 0.071 above Dice after 480 steps, and no difference was"
        " shown after 2000",
        source=f"the definitions: {MA}, Eq. 2 and 8; {OWN}",
        limits="10: one large case outweighs ten small ones",
    ),
    Rule(
        when="objects of at most 22 % of the image",
        evidence="one training each, no test",
        avoid=("FocalCrossEntropyLoss",),
        applies=lambda p: p.foreground <= 0.22,
        property=_fill,
        reason="the lowest Dice of nine losses on brains (0.936, cross-entropy 0.968) and the fourth lowest of 17 on"
        " liver tumours (0.468, cross-entropy 0.564, Dice 0.621)",
        source=f"{JADON}, Table III; {SEGLOSS}",
        limits="22 %: the largest brain mask of four heads measured here",
    ),
    Rule(
        when="objects of at most 7.05 % of the image",
        evidence="tested, with significance",
        avoid=("SoftTverskyLoss", "AsymmetricSimilarityLoss"),
        applies=lambda p: p.foreground <= 0.0705,
        property=_fill,
        reason="no uneven weighting of false positives and false negatives had a significantly higher Dice than 0.5 and"
        " 0.5, which is Dice; uneven weights pay only where F2 or F0.5 is the goal",
        source=f"{EELBODE}, Tables III, VII and B.1",
        limits="its data sets have 0.5 to 7.05 % of foreground",
    ),
    Rule(
        when="half of an object's voxels or more on its border",
        evidence="the definition, tested in this package",
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
        when="objects smaller than a ball or disc of radius 3",
        evidence="the definition, tested in this package",
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
        when="voxels at least twice as long as wide",
        evidence="the definition",
        avoid=("HausdorffERLoss", "HausdorffCVLoss"),
        applies=lambda p: p.anisotropy >= 2,
        property=lambda p: f"voxels of {' x '.join(f'{mm:g}' for mm in p.spacing)} mm",
        reason="they count voxels, which are not equally long; the other boundary losses take the spacing",
        source=f"their definitions: {KARIMI}",
        limits="2: an error is then twice as long along one axis as along another",
    ),
    Rule(
        when="anything else",
        evidence="tested: no difference shown; one training each",
        first=("SoftDiceLoss", "DiceTopKLoss", "SoftJaccardLoss"),
        applies=lambda p: True,
        property=_fill,
        reason="no other metric-sensitive loss (Jaccard, Lovasz) had a significantly higher Dice than Dice; Dice with"
        " top-k cross-entropy was among the best of 17 losses on all of four tasks. (On skin lesions Lovasz was above"
        " Dice after a short training.)",
        source=f"{EELBODE}, Table II; {SEGLOSS}; {OWN}",
        limits="none: what is left when nothing more special applies",
    ),
)
