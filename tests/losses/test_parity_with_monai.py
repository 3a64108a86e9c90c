"""MONAI 1.6.1 as a second, independent oracle wherever the definitions agree, and every deliberate difference.

Ours run with ``empty="formula"``, the rule of MONAI's classes.
"""

from __future__ import annotations

import monai.losses
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score, matthews_corrcoef

from monai_lossext.losses import MatthewsCorrelationLoss, SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss

from . import cases

PAIRS = {
    "dice": (SoftDiceLoss, {}, monai.losses.DiceLoss, {}),
    "dice squared": (SoftDiceLoss, {"squared_pred": True}, monai.losses.DiceLoss, {"squared_pred": True}),
    "jaccard": (SoftJaccardLoss, {}, monai.losses.DiceLoss, {"jaccard": True}),
    "jaccard squared": (
        SoftJaccardLoss,
        {"squared_pred": True},
        monai.losses.DiceLoss,
        {"jaccard": True, "squared_pred": True},
    ),
    "tversky": (SoftTverskyLoss, {"alpha": 0.3, "beta": 0.7}, monai.losses.TverskyLoss, {"alpha": 0.3, "beta": 0.7}),
    # smoothed by agreement here, by a constant in the denominator there: the same without smoothing
    "matthews": (MatthewsCorrelationLoss, {"smooth": 0.0}, monai.losses.MCCLoss, {"smooth_dr": 0.0}),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("shape", [(2, 3, 7), (3, 2, 5, 4), (2, 4, 3, 4, 2)], ids=str)
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
def test_value_and_gradient_equal_monai(name, shape, batch, include_background):
    ours, own, theirs, their_own = PAIRS[name]
    x = cases.logits(*shape)
    target = cases.one_hot(cases.indices(*shape), shape[1]).double()
    for activation in ("softmax", "sigmoid"):
        for reduction in ("mean", "sum", "none"):
            shared = {activation: True, "batch": batch, "include_background": include_background}
            a, da = cases.value_and_gradient(ours(**shared, **own, reduction=reduction, empty="formula"), x, target)
            b, db = cases.value_and_gradient(theirs(**shared, **their_own, reduction=reduction), x, target)
            torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(da, db, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("soft_label", [False, True])
@pytest.mark.parametrize("name", ["dice", "jaccard", "tversky"])
def test_soft_targets_equal_monai(name, soft_label):
    """Whose default is the other one. Its squared forms take the form of ``soft_label`` always."""
    ours, own, theirs, their_own = PAIRS[name]
    x, target = cases.logits(2, 3, 5, 4), cases.logits(2, 3, 5, 4, seed=4).softmax(1)
    shared = {"softmax": True, "soft_label": soft_label}
    expected = cases.value_and_gradient(theirs(**shared, **their_own), x, target)
    for got, want in zip(cases.value_and_gradient(ours(**shared, **own), x, target), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)
    other = ours(softmax=True, soft_label=not soft_label, **own)(x, target)
    assert abs(other - expected[0]) > 1e-2


def test_index_labels_equal_monai():
    x, label = cases.logits(2, 3, 7), cases.indices(2, 3, 7)
    options = {"softmax": True, "to_onehot_y": True}
    torch.testing.assert_close(SoftDiceLoss(**options)(x, label), monai.losses.DiceLoss(**options)(x, label))


def test_class_weights_equal_monai_dice():
    x, label = cases.logits(2, 3, 7), cases.indices(2, 3, 7)
    options = {"softmax": True, "to_onehot_y": True, "weight": [1.0, 2.0, 0.5]}
    torch.testing.assert_close(SoftDiceLoss(**options)(x, label), monai.losses.DiceLoss(**options)(x, label))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ignore_index_equals_monai_dice(reduction):
    x, label = cases.logits(2, 3, 7), cases.indices(2, 3, 7)
    label[:, :, 5:] = 255
    options = {"softmax": True, "to_onehot_y": True, "ignore_index": 255, "reduction": reduction}
    torch.testing.assert_close(SoftDiceLoss(**options)(x, label), monai.losses.DiceLoss(**options)(x, label))


def test_empty_targets_differ_on_purpose():
    """With the formula, MONAI's and ours, a false positive on an empty target costs 1 and has almost no gradient."""
    x, empty = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    theirs = cases.value_and_gradient(monai.losses.DiceLoss(sigmoid=True), x, empty)
    formula = cases.value_and_gradient(SoftDiceLoss(sigmoid=True, empty="formula"), x, empty)
    torch.testing.assert_close(theirs, formula)
    assert theirs[1].abs().max() < 1e-8
    _, ours = cases.value_and_gradient(SoftDiceLoss(sigmoid=True), x, empty)
    assert ours.min() > 1e-3


def test_monai_mcc_has_no_gradient_on_empty_targets_and_fails_in_float16():
    x, empty = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    _, theirs = cases.value_and_gradient(monai.losses.MCCLoss(sigmoid=True), x, empty)
    assert not theirs.any()
    _, ours = cases.value_and_gradient(MatthewsCorrelationLoss(sigmoid=True), x, empty)
    assert ours.all()
    for size in (8, 32):  # a wrong value without gradient, then NaN
        target = cases.binary(1, size, size)
        p = (cases.logits(1, 1, size, size) + 4.0 * target - 2).sigmoid().half()
        exact = monai.losses.MCCLoss()(p.double(), target.double()).item()
        overflown, gradient = cases.value_and_gradient(monai.losses.MCCLoss(), p, target.half())
        assert torch.isnan(overflown) if size == 32 else overflown == 1 and not gradient.any()
        value, gradient = cases.value_and_gradient(MatthewsCorrelationLoss(), p, target)
        assert value.item() == pytest.approx(exact, abs=1e-5)
        assert torch.isfinite(gradient).all()


def test_hard_masks_give_the_scores_of_scikit_learn():
    predicted, actual = cases.binary(1, 40, seed=3), cases.binary(1, 40, seed=4)
    flat = actual.flatten().numpy(), predicted.flatten().numpy()
    for loss, score in (
        (SoftDiceLoss(smooth_nr=0, smooth_dr=0), f1_score),
        (SoftJaccardLoss(smooth_nr=0, smooth_dr=0), jaccard_score),
        (MatthewsCorrelationLoss(smooth=0), matthews_corrcoef),
    ):
        assert 1 - loss(predicted.double(), actual).item() == pytest.approx(score(*flat), abs=1e-12)
    several, truth = cases.indices(1, 4, 60, seed=3), cases.indices(1, 4, 60, seed=4)
    joined = MatthewsCorrelationLoss(multiclass=True, smooth=0)
    value = joined(cases.one_hot(several, 4).double(), cases.one_hot(truth, 4)).item()
    assert 1 - value == pytest.approx(matthews_corrcoef(truth.flatten(), several.flatten()), abs=1e-12)
