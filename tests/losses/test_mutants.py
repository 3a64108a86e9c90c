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
from monai_lossext.losses.boundary import signed_map
from monai_lossext.losses.region import log_cosh

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
        return log_cosh(dice.mean(1, keepdim=True)).expand_as(dice)


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
    def errors(self, reading: Any) -> torch.Tensor:
        return 1 - super().errors(reading)


class HingeOnTheWrongSide(LovaszHingeLoss):
    def errors(self, reading: Any) -> torch.Tensor:
        return (2 - super().errors(reading)).relu()


class UnsignedBoundary(BoundaryDistanceLoss):
    def total(self, reading: Any, first: int, weight: Any) -> torch.Tensor:
        unsigned = signed_map(reading, 0, self.spacing).abs()
        return super().total(dataclasses.replace(reading, distance_map=unsigned), first, weight)


class HausdorffWithoutSquare(HausdorffDistanceLoss):
    def sum_of(self, reading: Any, first: int, shift: float = 0.0) -> Any:
        recipe = super().sum_of(reading, first, shift)

        def sums(input: Any, distances: Any, target: Any) -> torch.Tensor:
            p = input.softmax(1)
            return recipe.sums((p - recipe.channels(target, p)).abs(), distances)

        return sums


class WeightIgnored(SoftDiceLoss):
    def weighted(self, value: torch.Tensor) -> torch.Tensor:
        return value


class WeightsNormalised(SoftDiceLoss):
    def weighted(self, value: torch.Tensor) -> torch.Tensor:
        return value if self.weight is None else super().weighted(value) / self.weight.mean()


class DetachedSize(SoftJaccardLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return 1 - self.ratio(2 * counts.tp, 2 * (counts.size(False) - counts.tp).detach())


class DetachedSums(SoftDiceLoss):
    def counts(self, reading: Any) -> Counts:
        full = super().counts(reading)
        return dataclasses.replace(full, tp=full.tp.detach() + 0 * full.p, fp=full.fp.detach(), fn=full.fn.detach())


class VariancesOfThePrediction(MatthewsCorrelationLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return 1 - (1 - super().per_class(counts)) ** 3


class MatthewsWithoutFalseNegatives(MatthewsCorrelationLoss):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return super().per_class(dataclasses.replace(counts, fn=torch.zeros_like(counts.fn)))


class AbsentClassesAreFree(SoftDiceLoss):
    def undecided(self, counts: Counts) -> Any:
        return [(counts.g <= 0, lambda: torch.zeros_like(counts.p))]


class BackgroundDroppedBeforeSoftmax(SoftDiceLoss):
    def read(self, input: Any, target: Any, mask: Any = None) -> Any:
        input = input.clone()
        input[:, 0] = -60
        return super().read(input, target, mask)


class MaskedBeforeTheActivation(SoftDiceLoss):
    def forward(self, input: Any, target: Any, mask: Any = None) -> torch.Tensor:
        return super().forward(input if mask is None else input * mask, target if mask is None else target * mask)


class SumInsteadOfMean(SoftDiceLoss):
    def reduced(self, value: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return value.sum()


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


def test_the_empty_rule_check_rejects_free_false_positives():
    x, label = cases.logits(2, 3, 5), torch.zeros(2, 1, 5, dtype=torch.int64)
    checks.equals_oracle(SoftDiceLoss, MULTI, x, label)
    with pytest.raises(AssertionError):
        checks.equals_oracle(AbsentClassesAreFree, MULTI, x, label, name="SoftDiceLoss")
