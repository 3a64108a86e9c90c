"""Identities between the losses and with scores on hard masks that hold exactly, whatever the implementation."""

from __future__ import annotations

import math

import pytest
import torch

from monai_lossext.losses import (
    LogCoshDiceLoss,
    MatthewsCorrelationLoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
)

from . import cases

RAW = {"smooth_nr": 0.0, "smooth_dr": 0.0, "reduction": "none"}
p = cases.logits(3, 2, 5, 4).sigmoid()
g = cases.one_hot(cases.indices(3, 2, 5, 4), 2)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_tversky_generalises_dice_and_jaccard():
    close(SoftTverskyLoss(alpha=0.5, beta=0.5, **RAW)(p, g), SoftDiceLoss(**RAW)(p, g))
    close(SoftTverskyLoss(alpha=1, beta=1, **RAW)(p, g), SoftJaccardLoss(**RAW)(p, g))


def test_jaccard_is_a_function_of_dice():
    dice = 1 - SoftDiceLoss(**RAW)(p, g)
    close(1 - SoftJaccardLoss(**RAW)(p, g), dice / (2 - dice))


def test_tversky_weighs_the_errors_it_names():
    few = torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]), torch.tensor([[[1, 1, 0, 0]]])
    missed = torch.tensor([[[0.0, 1.0, 0.0, 0.0]]]), few[1]
    false_alarm = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]]), few[1]
    cautious = SoftTverskyLoss(alpha=0.9, beta=0.1, **RAW)
    assert cautious(*false_alarm) == pytest.approx(0.9 / 2.9)
    assert cautious(*missed) == pytest.approx(0.1 / 1.1)


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss])
def test_squared_and_plain_forms_agree_on_binary_predictions(cls):
    hard = (p > 0.5).double()
    close(cls(squared_pred=True, **RAW)(hard, g), cls(**RAW)(hard, g))


def test_gradient_at_the_optimum():
    target = cases.binary(1, 6)
    size = target.sum().item()
    _, plain = cases.value_and_gradient(SoftDiceLoss(**RAW), target.double(), target)
    close(plain, (1 - 2 * target.double()) / (2 * size))
    _, squared = cases.value_and_gradient(SoftDiceLoss(squared_pred=True, **RAW), target.double(), target)
    close(squared, torch.zeros_like(squared))


def test_log_cosh_lies_between_its_expansions():
    dice, loss = SoftDiceLoss(**RAW)(p, g), LogCoshDiceLoss(**RAW)(p, g)
    assert (loss <= dice**2 / 2).all()
    assert (loss >= dice**2 / 2 - dice**4 / 12).all()
    worst = LogCoshDiceLoss()(1.0 - g, g)
    assert worst.item() == pytest.approx(math.log(math.cosh(1)), abs=1e-4)


def test_log_cosh_keeps_small_values_in_float32():
    target = torch.ones(1, 1, 10)
    almost = torch.full((1, 1, 10), 1 - 2e-4)
    dice = 1 - 2 * 0.9998 / 1.9998
    assert LogCoshDiceLoss(smooth_nr=0, smooth_dr=0)(almost, target).item() == pytest.approx(dice**2 / 2, rel=1e-3)


def mcc(a: torch.Tensor, b: torch.Tensor, **options: object) -> torch.Tensor:
    return MatthewsCorrelationLoss(smooth=0.0, reduction="none", **options)(a, b)


def test_matthews_symmetries():
    close(mcc(1 - p, 1 - g.double()), mcc(p, g))
    close(mcc(1 - p, g), 2 - mcc(p, g))
    smoothed = MatthewsCorrelationLoss(smooth=1.0)
    close(smoothed(1 - p, 1 - g.double()), smoothed(p, g))
    close(mcc(p.repeat(1, 1, 3, 2), g.repeat(1, 1, 3, 2)), mcc(p, g))


def test_matthews_geometric_form():
    tp, fp = (p * g).sum((2, 3)), (p * (1.0 - g)).sum((2, 3))
    fn, tn = ((1 - p) * g).sum((2, 3)), ((1 - p) * (1.0 - g)).sum((2, 3))
    ppv, tpr, tnr, npv = tp / (tp + fp), tp / (tp + fn), tn / (tn + fp), tn / (tn + fn)
    score = (ppv * tpr * tnr * npv).sqrt() - ((1 - ppv) * (1 - tpr) * (1 - tnr) * (1 - npv)).sqrt()
    close(mcc(p, g), 1 - score)


def test_corrected_gradient_of_the_matthews_paper():
    """Eq. 8-9 as printed are wrong; this is the corrected form."""
    x, target = cases.logits(1, 1, 9).sigmoid(), cases.binary(1, 9).double()
    _, gradient = cases.value_and_gradient(MatthewsCorrelationLoss(smooth=0.0), x, target)
    n, size, total = 9, target.sum(), x.sum()
    h = total * size * (1 - total / n) * (1 - size / n)
    a = (x * target).sum() - total * size / n
    expected = -(target - size / n) / h.sqrt() + a * size * (1 - size / n) * (1 - 2 * total / n) / (2 * h**1.5)
    close(gradient, expected)
    printed = -(target - size / n) / h.sqrt() + a * (size - size**2 / n - 2 * total * size / n) / (2 * h**1.5)
    printed = printed + a * 2 * total * size**2 / n / (2 * h**1.5)  # divided by N where it must be N^2
    assert (gradient - printed).abs().max() > 0.1 * gradient.abs().max()


def test_smoothed_matthews_on_an_empty_target_grows_with_false_positives():
    loss = MatthewsCorrelationLoss(smooth=1e-5, empty="formula")
    values = [loss(torch.full((1, 1, 16), q, dtype=torch.float64), torch.zeros(1, 1, 16)) for q in (0, 0.01, 0.1, 0.9)]
    assert values[0].item() == pytest.approx(0, abs=1e-12)
    assert values == sorted(values)
    assert len(set(values)) == 4


@pytest.mark.parametrize("multiclass", [False, True])
def test_smoothed_matthews_of_a_perfect_prediction_is_zero_whatever_the_target(multiclass):
    loss = MatthewsCorrelationLoss(smooth=1.0, multiclass=multiclass, empty="formula", reduction="none")
    for label in (torch.zeros(1, 1, 8), torch.ones(1, 1, 8), torch.arange(8).remainder(2).view(1, 1, 8)):
        target = cases.one_hot(label, 2)
        value = loss(target.double(), target)
        close(value, torch.zeros_like(value))


def test_two_class_gorodkin_equals_matthews_and_cyclic_permutation_bound():
    x = cases.logits(2, 2, 9)
    target = cases.one_hot(cases.indices(2, 2, 9), 2)
    close(mcc(x.softmax(1), target, multiclass=True), mcc(x.softmax(1), target)[:, :1])
    label = torch.arange(9).remainder(3).view(1, 1, 9)
    shifted = cases.one_hot((label + 1) % 3, 3).double()
    close(mcc(shifted, cases.one_hot(label, 3), multiclass=True), torch.tensor([[1.5]], dtype=torch.float64))


def test_constant_predictions_correlate_with_nothing():
    close(mcc(torch.full_like(p, 0.3), g), torch.ones(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("multiclass", [False, True])
def test_matthews_without_smoothing_where_it_is_zero_over_zero(multiclass):
    loss = MatthewsCorrelationLoss(smooth=0.0, multiclass=multiclass, empty="formula", reduction="none")
    label = torch.zeros(1, 1, 6, dtype=torch.int64)
    right, wrong = cases.one_hot(label, 2).double(), cases.one_hot(1 - label, 2).double()
    for prediction, expected in ((right, 0.0), (wrong, 1.0)):
        value, gradient = cases.value_and_gradient(loss, prediction, cases.one_hot(label, 2))
        assert (value == expected).all()
        assert torch.isfinite(gradient).all()
