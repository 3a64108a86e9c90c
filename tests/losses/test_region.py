"""Region losses beside Dice, Jaccard and Tversky: identities, errata of the papers, MONAI and scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import monai.losses
import pytest
import torch
from sklearn.metrics import fbeta_score, recall_score

from monai_lossext.losses import (
    AsymmetricSimilarityLoss,
    FocalTverskyLoss,
    HausdorffDistanceLoss,
    PenaltyGeneralizedDiceLoss,
    ScaledGeneralizedDiceLoss,
    SensitivitySpecificityLoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
)
from monai_lossext.losses.engine.plain import safe_pow

from . import cases

RAW = {"smooth_nr": 0.0, "smooth_dr": 0.0, "reduction": "none"}
MULTI = {"softmax": True, "to_onehot_y": True}
EXAMPLES = json.loads(Path(__file__).with_name("worked_examples.json").read_text())["examples"]
x, label = cases.logits(2, 3, 5, 4), cases.indices(2, 3, 5, 4)
p, g = x.softmax(1), cases.one_hot(label, 3)
one_p, one_g = p[:, :1], g[:, :1]


def close(a: torch.Tensor, b: torch.Tensor, rtol: float = 1e-12) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-13)


def example(name: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    (found,) = [e for e in EXAMPLES if e["name"] == name]
    return *(torch.tensor(found[key], dtype=torch.float64) for key in ("p", "g")), found["expected"]


# ---------------------------------------------- identities


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.5, 3.0])
def test_asymmetric_similarity_is_a_tversky_loss(beta):
    b2 = beta**2
    tversky = SoftTverskyLoss(alpha=1 / (1 + b2), beta=b2 / (1 + b2), **RAW)
    close(AsymmetricSimilarityLoss(beta=beta, **RAW)(p, g), tversky(p, g))
    close(AsymmetricSimilarityLoss(beta=1, **RAW)(p, g), SoftDiceLoss(**RAW)(p, g))


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_asymmetric_similarity_of_hard_masks_is_the_f_beta_score_of_scikit_learn(beta):
    predicted, actual = cases.binary(1, 40, seed=3), cases.binary(1, 40, seed=4)
    score = fbeta_score(actual.flatten().numpy(), predicted.flatten().numpy(), beta=beta)
    loss = AsymmetricSimilarityLoss(beta=beta, **RAW)(predicted.double(), actual)
    assert 1 - loss.item() == pytest.approx(score, abs=1e-12)


def test_focal_tversky_with_gamma_one_is_tversky():
    tversky = SoftTverskyLoss(alpha=0.3, beta=0.7, **RAW)(p, g)
    close(FocalTverskyLoss(gamma=1, **RAW)(p, g), tversky)
    close(FocalTverskyLoss(gamma=2, **RAW)(p, g), tversky.sqrt())


def test_safe_pow_is_the_power_above_its_line_and_continuous():
    values = torch.tensor([-0.1, 0.0, 1e-9, 1e-6, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    powers = safe_pow(values, 0.75)
    expected = torch.tensor([0.0, 0.0, 1e-9 * 1e-6**-0.25, 1e-6**0.75, 0.3**0.75, 1.0], dtype=torch.float64)
    close(powers, expected)
    powers.sum().backward()
    assert torch.isfinite(values.grad).all()
    assert values.grad.max() <= 1e-6**-0.25 * (1 + 1e-12)
    assert torch.isnan(safe_pow(torch.tensor(float("nan")), 0.75))


@pytest.mark.parametrize("rule", ["penalize", "formula", "skip"])
@pytest.mark.parametrize("w_type", ["square", "simple", "uniform"])
def test_generalized_dice_of_one_class_is_dice(rule, w_type):
    target = one_g.clone()
    target[1] = 0
    options = {"empty": rule, "reduction": "none"}
    close(ScaledGeneralizedDiceLoss(w_type=w_type, **options)(one_p, target), SoftDiceLoss(**options)(one_p, target))


def test_uniform_generalized_dice_is_dice_of_the_sums_over_classes():
    joined = p.flatten(1)[:, None], g.flatten(1)[:, None]
    close(ScaledGeneralizedDiceLoss(w_type="uniform", **RAW)(p, g), SoftDiceLoss(**RAW)(*joined))


def test_generalized_dice_is_scale_free():
    """MONAI's is not: its smoothing is added to sums that shrink with the square of the picture's size."""
    tiled = p.repeat(1, 1, 40, 40), g.repeat(1, 1, 40, 40)
    close(ScaledGeneralizedDiceLoss(**RAW)(*tiled), ScaledGeneralizedDiceLoss(**RAW)(p, g), rtol=1e-10)
    smoothed = ScaledGeneralizedDiceLoss(reduction="none")
    torch.testing.assert_close(smoothed(*tiled), smoothed(p, g), rtol=1e-5, atol=0)
    theirs = monai.losses.GeneralizedDiceLoss(reduction="none")
    assert (theirs(tiled[0], tiled[1].double()).flatten() < 0.99 * theirs(p, g.double()).flatten()).all()


def test_generalized_dice_with_class_weights_and_partial_labels():
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    close(
        ScaledGeneralizedDiceLoss(weight=10 * weights, **RAW)(p, g),
        ScaledGeneralizedDiceLoss(weight=weights, **RAW)(p, g),
    )
    silent = ScaledGeneralizedDiceLoss(weight=[1.0, 0.0, 1.0], **RAW)(p, g)
    classes = torch.tensor([[True, False, True]]).expand(2, 3)
    uniform = {"w_type": "uniform", **RAW}
    partial = ScaledGeneralizedDiceLoss(**uniform)(p, {"label": g, "classes": classes})
    close(partial, ScaledGeneralizedDiceLoss(**uniform)(p[:, ::2], g[:, ::2]))
    assert not torch.allclose(silent, ScaledGeneralizedDiceLoss(**RAW)(p, g))
    with pytest.raises(ValueError, match=r"weight must be one number a class: a common factor cancels, got 2\.0"):
        ScaledGeneralizedDiceLoss(weight=2.0)


def test_generalized_dice_leaves_absent_classes_out_when_told_to():
    target = g.clone()
    target[:, 2] = 0
    skipped = ScaledGeneralizedDiceLoss(empty="skip", **RAW)(p, target)
    close(skipped, ScaledGeneralizedDiceLoss(**RAW)(p[:, :2], target[:, :2]))
    assert (ScaledGeneralizedDiceLoss(**RAW)(p, target) > skipped).all()


@pytest.mark.parametrize("k", [0.0, 1.0, 2.5])
def test_penalty_forms_are_mirror_images_and_tversky_losses(k):
    score, printed = (PenaltyGeneralizedDiceLoss(k=k, form=form, **RAW) for form in ("score", "printed"))
    for loss, weight in ((score, (1 + k) / 2), (printed, 1 / (2 * (1 + k)))):
        close(loss(one_p, one_g), SoftTverskyLoss(alpha=weight, beta=weight, **RAW)(one_p, one_g))
    plain = ScaledGeneralizedDiceLoss(**RAW)(p, g)
    close(printed(p, g), plain / (1 + k * (1 - plain)))
    close(score(p, g), (1 + k) * plain / (1 + k * plain))
    if k == 1:
        close(score(one_p, one_g), SoftJaccardLoss(**RAW)(one_p, one_g))


def test_sensitivity_specificity():
    raw = {"smooth_dr": 0.0, "reduction": "none"}
    hard = (p > 0.4).double()
    linear, squared = (SensitivitySpecificityLoss(w=0.3, squared=squared, **raw) for squared in (False, True))
    close(squared(hard, g), linear(hard, g))
    assert (squared(p, g) <= linear(p, g)).all()
    only_foreground = SensitivitySpecificityLoss(w=1, **raw)
    close(only_foreground(torch.where(g == 0, 0.9, p), g), only_foreground(p, g))
    flat, truth = hard[0, 1].flatten().numpy(), g[0, 1].flatten().numpy()
    score = 0.3 * recall_score(truth, flat) + 0.7 * recall_score(truth, flat, pos_label=0)
    assert linear(hard, g)[0, 1].item() == pytest.approx(1 - score, abs=1e-12)


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("fill", [0, 1])
@pytest.mark.parametrize("options", [{"sigmoid": True}, MULTI], ids=["sigmoid", "softmax"])
def test_sensitivity_specificity_of_a_patch_of_one_class_has_a_gradient(fill, options):
    multi = options is MULTI
    start = torch.zeros(2, 2 if multi else 1, 9, 8)
    target = torch.full((2, 1, 9, 8), fill)
    value, gradient = cases.value_and_gradient(SensitivitySpecificityLoss(**options), start, target)
    exact, slope = cases.value_and_gradient(SensitivitySpecificityLoss(**options), start.double(), target)
    assert value > 1e-3
    torch.testing.assert_close(value.double(), exact)
    torch.testing.assert_close(gradient.double(), slope)
    one = gradient[:, -1:]
    assert (one < 0 if fill else one > 0).all()
    assert one.abs().min() > 1e-5
    better = SensitivitySpecificityLoss(**options)(start - 100 * gradient, target)
    assert better < value


def test_numbers_out_of_range():
    for cls, own, message in (
        (FocalTverskyLoss, {"gamma": 0.0}, "gamma must be a finite number above 0, got 0.0"),
        (AsymmetricSimilarityLoss, {"beta": -1.0}, "beta must be a finite number of at least 0, got -1.0"),
        (PenaltyGeneralizedDiceLoss, {"k": -1.0}, "k must be a finite number of at least 0, got -1.0"),
        (PenaltyGeneralizedDiceLoss, {"form": "loss"}, "form must be one of 'score', 'printed', got 'loss'"),
        (ScaledGeneralizedDiceLoss, {"w_type": "cube"}, "w_type must be one of 'square', 'simple', 'uniform'"),
        (SensitivitySpecificityLoss, {"w": 1.5}, r"w must lie in \[0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            cls(**own)


# ---------------------------------------------------- MONAI


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("include_background", [False, True])
def test_uniform_generalized_dice_equals_monai(batch, include_background):
    shared = {**MULTI, "w_type": "uniform", "batch": batch, "include_background": include_background}
    theirs = cases.value_and_gradient(monai.losses.GeneralizedDiceLoss(**shared), x, label)
    ours = cases.value_and_gradient(ScaledGeneralizedDiceLoss(**shared, empty="formula"), x, label)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-12)


def test_monai_generalized_dice_lets_false_positives_on_empty_targets_pass():
    empty = torch.zeros(1, 1, 8, 8)
    options = {"sigmoid": True}
    value, gradient = cases.value_and_gradient(monai.losses.GeneralizedDiceLoss(**options), empty, empty)
    assert value == 0
    assert not gradient.any()
    value, gradient = cases.value_and_gradient(ScaledGeneralizedDiceLoss(**options), empty, empty)
    assert value.item() == pytest.approx(0.5)
    assert (gradient > 0).all()


# ---------------------------------------- errors of the papers


def test_focal_tversky_as_jadon_prints_it_neglects_nearly_solved_classes():
    """Jadon Eq. 11 has the exponent gamma in the place of 1 / gamma."""
    prediction, target, printed = example("focal_tversky_printed_gamma")
    options = {"alpha": 0.3, "beta": 0.7, "smooth_nr": 0, "smooth_dr": 0}
    assert FocalTverskyLoss(gamma=3 / 4, **options)(prediction, target).item() == pytest.approx(printed, abs=1e-7)
    assert FocalTverskyLoss(**options)(prediction, target).item() > 1.2 * printed


def test_focal_tversky_takes_the_power_before_the_mean():
    prediction, target, of_mean = example("focal_tversky_power_of_mean")
    value = FocalTverskyLoss(smooth_nr=0, smooth_dr=0)(prediction, target)
    assert abs(value.item() - of_mean) > 1e-4
    each = SoftTverskyLoss(alpha=0.3, beta=0.7, **RAW)(prediction, target)
    assert each.mean().item() ** 0.75 == pytest.approx(of_mean, abs=1e-7)


def test_sensitivity_specificity_is_not_the_score_that_jadon_prints():
    """Jadon Eq. 12 is to be maximised: the better prediction has the larger value."""
    better = (p + g) / 2

    def printed(prediction: torch.Tensor) -> torch.Tensor:
        sensitivity = (prediction * g).sum((2, 3)) / g.sum((2, 3))
        specificity = ((1 - prediction) * (1 - g.double())).sum((2, 3)) / (1 - g.double()).sum((2, 3))
        return 0.05 * sensitivity + 0.95 * specificity

    loss = SensitivitySpecificityLoss(squared=False, smooth_dr=0, reduction="none")
    close(loss(p, g), 1 - printed(p))
    assert (printed(better) > printed(p)).all()
    assert (loss(better, g) < loss(p, g)).all()


@pytest.mark.parametrize("cls", [SoftTverskyLoss, AsymmetricSimilarityLoss])
def test_tversky_and_asymmetric_similarity_are_not_the_index_that_ma_prints(cls):
    """Ma Eq. 10 and 13 lack the "1 -"."""
    better = (p + g) / 2
    assert (1 - cls(**RAW)(better, g) > 1 - cls(**RAW)(p, g)).all()
    assert (cls(**RAW)(better, g) < cls(**RAW)(p, g)).all()


def test_the_penalty_that_ma_prints_weakens_errors():
    """Ma Eq. 14 says that k > 0 adds weight to false positives and false negatives."""
    prediction, target, printed = example("penalty_gd_lossform_k2.5_mc")
    options = {"smooth_nr": 0, "smooth_dr": 0}
    plain = ScaledGeneralizedDiceLoss(**options)(prediction, target).item()
    as_printed = PenaltyGeneralizedDiceLoss(form="printed", **options)(prediction, target).item()
    assert as_printed == pytest.approx(printed, abs=1e-7)
    assert as_printed < plain < PenaltyGeneralizedDiceLoss(**options)(prediction, target).item()


def test_the_hausdorff_error_is_squared():
    """Without the square, as in Ma section 4.2, false negatives would lower the loss."""
    prediction, target, printed = example("hd_dt_printed_ma")
    assert abs(HausdorffDistanceLoss()(prediction, target).item() - printed) > 0.1
    blob = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    blob[..., 2:7, 2:7] = 1
    missed = 0.6 * blob
    assert ((missed - blob) < 0).any()
    assert HausdorffDistanceLoss()(missed, blob) > 0


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("dice_l1_micro", SoftDiceLoss(smooth_nr=0, smooth_dr=0)),
        ("dice_l2_micro", SoftDiceLoss(squared_pred=True, smooth_nr=0, smooth_dr=0)),
        ("jaccard_micro", SoftJaccardLoss(smooth_nr=0, smooth_dr=0)),
        ("tversky_micro_a0.3_b0.7", SoftTverskyLoss(alpha=0.3, beta=0.7, smooth_nr=0, smooth_dr=0)),
        ("sens_spec_sq_micro_w0.5", SensitivitySpecificityLoss(w=0.5, smooth_dr=0)),
    ],
)
def test_ratios_are_taken_per_class_and_not_of_sums_over_classes(name, loss):
    """Ma Eq. 7-10 print sums over the classes inside the ratios."""
    prediction, target, of_sums = example(name)
    assert abs(loss(prediction, target).item() - of_sums) > 1e-4
