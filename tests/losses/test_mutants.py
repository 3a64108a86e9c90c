"""Deliberately wrong losses. Each must fail the check that is there to catch it, or the check proves nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    Counts,
    FocalTverskyLoss,
    HausdorffDistanceLoss,
    LogCoshDiceLoss,
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    MatthewsCorrelationLoss,
    ScaledGeneralizedDiceLoss,
    SegmentationLoss,
    SensitivitySpecificityLoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
)
from monai_lossext.losses.engine.distances import signed_distance

from . import cases, checks

MULTI = {"softmax": True, "to_onehot_y": True}


def oracle_check(cls: type[SegmentationLoss], name: str, **options: Any) -> None:
    options = {**MULTI, **options}
    checks.equals_oracle(cls, options, cases.logits(2, 3, 3, 4), cases.indices(2, 3, 3, 4), name=name)


class SwappedErrors(SoftTverskyLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return 1 - self.ratio(counts.tp, counts.tp + self.beta * counts.fp + self.alpha * counts.fn)


class ScoreInsteadOfLoss(SoftDiceLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return 1 - super().per_class(counts)


class CoshOfTheMean(LogCoshDiceLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        dice = 1 - self.ratio(2 * counts.tp, counts.size(False))
        return dice.mean(1, keepdim=True).cosh().log().expand_as(dice)


class PowerOfTheMean(FocalTverskyLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        tversky = SoftTverskyLoss.per_class(self, counts)
        return tversky.mean(1, keepdim=True).expand_as(tversky) ** (1 / self.gamma)


class SpecificityForSensitivity(SensitivitySpecificityLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return super().per_class(dataclasses.replace(counts, missed=counts.added, added=counts.missed))


class SharesOfThePrediction(ScaledGeneralizedDiceLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return super().per_class(dataclasses.replace(counts, g=counts.p, fp=counts.fn, fn=counts.fp))


class AscendingErrors(LovaszSoftmaxLoss):
    def forward(self, input: Any, target: Any, mask: Any = None) -> torch.Tensor:
        return 1 - super().forward(input, target, mask)


class HingeOnTheWrongSide(LovaszHingeLoss):
    def forward(self, input: Any, target: Any, mask: Any = None) -> torch.Tensor:
        return super().forward(-input, target, mask)


class UnsignedBoundary(BoundaryDistanceLoss):
    def forward(self, input: Any, target: Any, mask: Any = None) -> torch.Tensor:
        distances = signed_distance(cases.one_hot(target, input.shape[1]) > 0, None, torch.float64).abs()
        return super().forward(input, {"label": target, "distance_map": distances}, mask)


class HausdorffWithoutSquare(HausdorffDistanceLoss):
    def forward(self, input: Any, target: Any, mask: Any = None) -> torch.Tensor:
        p, g = input.softmax(1), cases.one_hot(target, input.shape[1])
        borders = [signed_distance(one > 0.5, None, torch.float64) for one in (g, p)]
        return ((p - g).abs() * sum(distance.square() for distance in borders)).mean()


class WeightIgnored(SoftDiceLoss):
    def __init__(self, *args: Any, weight: Any = None, **options: Any) -> None:
        super().__init__(*args, **options)


class WeightsNormalised(SoftDiceLoss):
    def __init__(self, *args: Any, weight: Any, **options: Any) -> None:
        super().__init__(*args, weight=torch.tensor(weight) / torch.tensor(weight).mean(), **options)


class DetachedSize(SoftJaccardLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return 1 - self.ratio(2 * counts.tp, 2 * (counts.size(False) - counts.tp).detach())


class DetachedSums(SoftDiceLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        tp, fp, fn = (one.detach() for one in (counts.tp, counts.fp, counts.fn))
        return super().per_class(dataclasses.replace(counts, tp=tp + 0 * counts.tp, fp=fp, fn=fn))


class VariancesOfThePrediction(MatthewsCorrelationLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return 1 - (1 - super().per_class(counts)) ** 3


class MatthewsWithoutFalseNegatives(MatthewsCorrelationLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return super().per_class(dataclasses.replace(counts, fn=torch.zeros_like(counts.fn)))


class AbsentClassesAreFree(SoftDiceLoss):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, empty="skip", reduction="none", **options)

    def forward(self, input: Any, target: Any, mask: Any = None) -> torch.Tensor:
        return super().forward(input, target, mask).mean()


class BackgroundDroppedBeforeSoftmax(SoftDiceLoss):
    def forward(self, input: Any, target: Any, mask: Any = None) -> torch.Tensor:
        input = input.clone()
        input[:, 0] = -60
        return super().forward(input, target, mask)


class MaskedBeforeTheActivation(SoftDiceLoss):
    def forward(self, input: Any, target: Any, mask: Any = None) -> torch.Tensor:
        return super().forward(input if mask is None else input * mask, target if mask is None else target * mask)


class SumInsteadOfMean(SoftDiceLoss):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, reduction="sum", **options)


class ProductOfSoftTargets(SoftDiceLoss):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, soft_label=False, **options)


class UnannotatedIsTheBackgroundsAlone(SoftDiceLoss):
    def forward(self, input: Any, target: Any, mask: Any = None) -> torch.Tensor:
        self.softmax = False
        return super().forward(input.softmax(1), target, mask)


ORACLE_MUTANTS: list[tuple[type[SegmentationLoss], str, dict[str, Any]]] = [
    (SwappedErrors, "SoftTverskyLoss", {"alpha": 0.3, "beta": 0.7}),
    (ScoreInsteadOfLoss, "SoftDiceLoss", {}),
    (CoshOfTheMean, "LogCoshDiceLoss", {}),
    (PowerOfTheMean, "FocalTverskyLoss", {}),
    (SpecificityForSensitivity, "SensitivitySpecificityLoss", {}),
    (SharesOfThePrediction, "ScaledGeneralizedDiceLoss", {}),
    (AscendingErrors, "LovaszSoftmaxLoss", {}),
    (HingeOnTheWrongSide, "LovaszHingeLoss", {}),
    (UnsignedBoundary, "BoundaryDistanceLoss", {}),
    (HausdorffWithoutSquare, "HausdorffDistanceLoss", {}),
    (WeightIgnored, "SoftDiceLoss", {"weight": [1.0, 2.0, 3.0]}),
    (WeightsNormalised, "SoftDiceLoss", {"weight": [1.0, 2.0, 3.0]}),
    (DetachedSize, "SoftJaccardLoss", {}),
    (VariancesOfThePrediction, "MatthewsCorrelationLoss", {}),
    (MatthewsWithoutFalseNegatives, "MatthewsCorrelationLoss", {}),
    (BackgroundDroppedBeforeSoftmax, "SoftDiceLoss", {"include_background": False}),
    (SumInsteadOfMean, "SoftDiceLoss", {}),
]


@pytest.mark.parametrize(("mutant", "name", "options"), ORACLE_MUTANTS, ids=lambda x: getattr(x, "__name__", None))
def test_the_oracle_rejects_the_mutant_and_accepts_the_original(mutant, name, options):
    original = next(base for base in mutant.__mro__ if base.__name__ == name)
    oracle_check(original, name, **options)
    with pytest.raises(AssertionError):
        oracle_check(mutant, name, **options)


@pytest.mark.parametrize("mutant", [ScoreInsteadOfLoss, DetachedSums])
def test_the_direction_check_rejects_the_mutant(mutant):
    with pytest.raises(AssertionError):
        checks.pushes_towards_target(mutant)


def test_the_mask_check_rejects_a_mask_applied_before_the_activation():
    checks.ignores_masked_voxels(SoftDiceLoss)
    with pytest.raises(AssertionError):
        checks.ignores_masked_voxels(MaskedBeforeTheActivation)


def test_the_check_of_soft_targets_rejects_the_product():
    x, target = cases.logits(2, 3, 5), cases.logits(2, 3, 5, seed=4).softmax(1)
    checks.equals_oracle(SoftDiceLoss, {"softmax": True}, x, target)
    with pytest.raises(AssertionError):
        checks.equals_oracle(ProductOfSoftTargets, {"softmax": True}, x, target, name="SoftDiceLoss")


def test_the_check_of_partial_labels_rejects_a_background_of_its_own():
    case = cases.logits(2, 3, 5), cases.indices(2, 3, 5), None, cases.partial("101", "111")
    checks.equals_oracle(SoftDiceLoss, MULTI, *case)
    with pytest.raises(AssertionError):
        checks.equals_oracle(UnannotatedIsTheBackgroundsAlone, MULTI, *case, name="SoftDiceLoss")


def test_the_empty_rule_check_rejects_free_false_positives():
    x, label = cases.logits(2, 3, 5), torch.zeros(2, 1, 5, dtype=torch.int64)
    checks.equals_oracle(SoftDiceLoss, MULTI, x, label)
    with pytest.raises(AssertionError):
        checks.equals_oracle(AbsentClassesAreFree, MULTI, x, label, name="SoftDiceLoss")
