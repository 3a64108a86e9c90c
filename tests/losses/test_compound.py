"""Compound losses: their terms, weights and ratio, identities, errata and mutants."""

from __future__ import annotations

import copy

import monai.losses
import pytest
import torch
from monai.bundle import ConfigParser
from torch.nn import functional as F

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    ComboLoss,
    CompoundLoss,
    DiceCrossEntropyLoss,
    DiceHausdorffLoss,
    DiceTopKLoss,
    ExponentialLogarithmicLoss,
    FocalCrossEntropyLoss,
    HausdorffDistanceLoss,
    SoftDiceLoss,
    TopKCrossEntropyLoss,
    WeightedCrossEntropyLoss,
)

from . import cases, checks
from .test_worked_examples import EXAMPLES

MULTI = {"softmax": True, "to_onehot_y": True}
z, g = cases.logits(2, 1, 5, 4), cases.binary(2, 5, 4).double()
x, label = cases.logits(2, 3, 5, 4), cases.indices(2, 3, 5, 4)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def two(**options: object) -> CompoundLoss:
    return CompoundLoss({"dice": SoftDiceLoss(sigmoid=True), "focal": FocalCrossEntropyLoss(sigmoid=True)}, **options)


def test_weighted_sum_of_the_parts():
    loss = two(weights={"focal": 3.0})
    dice, focal = SoftDiceLoss(sigmoid=True)(z, g), FocalCrossEntropyLoss(sigmoid=True)(z, g)
    assert loss.parts(z, g) == {"dice": dice, "focal": focal}
    close(loss(z, g), dice + 3 * focal)
    loss.set_weight("dice", 0.0)
    close(loss(z, g), 3 * focal)


def test_masks_and_mappings_reach_every_term():
    mask = torch.rand(2, 1, 5, 4, generator=torch.Generator().manual_seed(1))
    expected = SoftDiceLoss(sigmoid=True)(z, g, mask) + FocalCrossEntropyLoss(sigmoid=True)(z, g, mask)
    close(two()(z, g, mask), expected)
    close(two()(z, {"label": g, "mask": mask}), expected)


def test_from_a_config_and_with_a_loss_of_monai():
    terms = {
        "dice": {"_target_": "monai.losses.DiceLoss", "sigmoid": True},
        "boundary": {"_target_": "monai_lossext.losses.BoundaryDistanceLoss", "sigmoid": True},
    }
    config = {"_target_": "monai_lossext.losses.CompoundLoss", "terms": terms, "weights": {"boundary": 0.01}}
    loss = ConfigParser({"loss": config}).get_parsed_content("loss")
    expected = monai.losses.DiceLoss(sigmoid=True)(z, g) + 0.01 * BoundaryDistanceLoss(sigmoid=True)(z, g)
    close(loss(z, g), expected)


def test_ratio_gives_each_further_term_the_value_of_the_first():
    loss = two(balance="ratio")
    value, gradient = cases.value_and_gradient(loss, z, g)
    dice, slope = cases.value_and_gradient(SoftDiceLoss(sigmoid=True), z, g)
    focal, focal_slope = cases.value_and_gradient(FocalCrossEntropyLoss(sigmoid=True), z, g)
    close(value, 2 * dice)
    close(gradient, slope + dice / focal * focal_slope)


def test_ratio_leaves_dice_its_gradient_where_the_hausdorff_loss_is_zero():
    empty = torch.zeros_like(g)
    value, gradient = cases.value_and_gradient(DiceHausdorffLoss(sigmoid=True), z.abs() * -1, empty)
    expected, slope = cases.value_and_gradient(SoftDiceLoss(sigmoid=True), z.abs() * -1, empty)
    close(value, expected)
    close(gradient, slope)


def test_nothing_changes_but_by_set_weight_and_copies_are_apart():
    loss = two(weights={"focal": 2.0}, balance="ratio")
    twin = copy.deepcopy(loss)
    twin.set_weight("focal", 5.0)
    loss(z, g)
    assert loss.weights == {"dice": 1.0, "focal": 2.0}


def test_weights_change_within_one_compiled_graph():
    torch.compiler.reset()
    loss = two()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for step in range(12):
        loss.set_weight("focal", 0.1 * step)
        close(compiled(z, g), loss(z, g))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"terms": {}}, "at least one loss"),
        ({"terms": {"dice": SoftDiceLoss()}, "weights": {"focal": 1.0}}, "no term 'focal' to weigh, only 'dice'"),
        ({"terms": {"dice": SoftDiceLoss()}, "weights": {"dice": -1.0}}, "weight of dice must be a finite number"),
        ({"terms": {"dice": SoftDiceLoss()}, "balance": "mean"}, "balance must be one of 'ratio', got 'mean'"),
        ({"terms": {"dice": SoftDiceLoss(reduction="none")}}, "dice has reduction='none'"),
        (
            {"terms": {"dice": SoftDiceLoss(sigmoid=True), "focal": FocalCrossEntropyLoss()}},
            "all terms must have the same activation: dice has {'sigmoid': True",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CompoundLoss(**arguments)


@pytest.mark.parametrize(("cls", "option"), [(ComboLoss, "alpha"), (ComboLoss, "beta")])
def test_shares_lie_between_zero_and_one(cls, option):
    with pytest.raises(ValueError, match=option + r" must lie in \[0, 1\], got 1.5"):
        cls(**{option: 1.5})


def test_label_weights_are_one_a_class():
    with pytest.raises(ValueError, match="label_weight has 2 values, expected 3"):
        ExponentialLogarithmicLoss(**MULTI, label_weight=[1.0, 1.0])(x, label)


def test_the_cross_entropy_sees_the_background_that_dice_leaves_out():
    for weight in (None, [2.0, 3.0]):
        full = None if weight is None else [1.0, *weight]
        ours = DiceTopKLoss(**MULTI, include_background=False, weight=weight)(x, label)
        dice = SoftDiceLoss(**MULTI, include_background=False, weight=weight)(x, label)
        close(ours, dice + TopKCrossEntropyLoss(**MULTI, weight=full)(x, label))


# --------------------------------------------------------------------------------------------------------- identities


def test_combo_at_the_ends_of_its_range():
    close(ComboLoss(sigmoid=True, alpha=0.0)(z, g), SoftDiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1)(z, g))
    entropy = F.binary_cross_entropy_with_logits(z, g)
    close(ComboLoss(sigmoid=True, alpha=1.0)(z, g), entropy / 2)


def test_exponential_logarithmic_with_exponents_of_one():
    loss = ExponentialLogarithmicLoss(sigmoid=True, gamma_dice=1, gamma_ce=1, label_weight=[2.0, 3.0])
    dice = 1 - SoftDiceLoss(sigmoid=True, reduction="none")(z, g)
    nll = F.binary_cross_entropy_with_logits(z, g, reduction="none")
    close(loss(z, g), -0.8 * dice.log().mean() + 0.2 * ((2 + g) * nll).mean())


def test_exponential_logarithmic_has_a_finite_gradient_at_a_perfect_prediction():
    for p in (g, 200 * g - 100):
        _, gradient = cases.value_and_gradient(ExponentialLogarithmicLoss(sigmoid=p is not g), p, g)
        assert torch.isfinite(gradient).all()


def test_dice_top_k_of_all_voxels_equals_monai_dice_ce():
    ours = DiceTopKLoss(**MULTI, k=100, empty="formula")(x, label)
    torch.testing.assert_close(ours, monai.losses.DiceCELoss(**MULTI)(x, label), rtol=1e-6, atol=0)


@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("lambdas", [{}, {"lambda_dice": 0.3}, {"lambda_ce": 2.5}, {"lambda_dice": 0.0}], ids=str)
def test_dice_cross_entropy_equals_monai(include_background, lambdas):
    """There too, the cross-entropy sees the background that Dice leaves out."""
    options = {**MULTI, "include_background": include_background, **lambdas}
    ours, theirs = DiceCrossEntropyLoss(**options, empty="formula"), monai.losses.DiceCELoss(**options)
    expected = cases.value_and_gradient(theirs, x, label)
    for got, want in zip(cases.value_and_gradient(ours, x, label), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_dice_cross_entropy_is_the_sum_of_its_terms():
    loss = DiceCrossEntropyLoss(**MULTI, lambda_dice=0.3, lambda_ce=2.0, smooth_nr=1.0, weight=[1.0, 2.0, 0.5])
    dice = SoftDiceLoss(**MULTI, smooth_nr=1.0, weight=[1.0, 2.0, 0.5])
    entropy = WeightedCrossEntropyLoss(**MULTI, weight=[1.0, 2.0, 0.5])
    assert list(loss.parts(x, label)) == ["dice", "cross_entropy"]
    close(loss.parts(x, label)["dice"], dice(x, label))
    close(loss.parts(x, label)["cross_entropy"], entropy(x, label))
    (value, gradient), (a, slope_a), (b, slope_b) = (
        cases.value_and_gradient(f, x, label) for f in (loss, dice, entropy)
    )
    close(value, 0.3 * a + 2 * b)
    close(gradient, 0.3 * slope_a + 2 * slope_b)


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("cls", [ComboLoss, DiceCrossEntropyLoss, DiceTopKLoss, ExponentialLogarithmicLoss])
@pytest.mark.parametrize("options", [MULTI, {"sigmoid": True, "to_onehot_y": True}], ids=["softmax", "sigmoid"])
def test_the_terms_by_themselves_give_the_same(cls, options):
    """Though the loss may compute them together, and a handler may change their weights."""
    loss = cases.make(cls, **options)
    mask = torch.rand(2, 1, 5, 4, generator=torch.Generator().manual_seed(1))
    for rest in ((label,), (label, mask), ({"label": label, "classes": cases.partial("110", "111")},)):
        for dtype in (torch.float64, torch.float32):
            for weight in (None, 0.0, 0.7):
                if weight is not None:
                    loss.set_weight("dice", weight)
                value, gradient = cases.value_and_gradient(loss, x.to(dtype), *rest)
                apart, slope = cases.value_and_gradient(
                    lambda z, rest=rest: sum(loss.weights[n] * part for n, part in loss.parts(z, *rest).items()),
                    x.to(dtype),
                )
                torch.testing.assert_close(value, apart, rtol=1e-6, atol=1e-7)
                torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("cls", [ComboLoss, DiceCrossEntropyLoss, DiceTopKLoss], ids=lambda cls: cls.__name__)
def test_a_single_channel_has_its_background_whatever_is_said(cls):
    with pytest.warns(UserWarning, match="single channel"):
        value = cls(sigmoid=True, include_background=False, weight=[2.0])(z, g)
    close(value, cls(sigmoid=True, weight=[2.0])(z, g))


# ------------------------------------------------------------------------------------------------------------ errata


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e["formula_id"] == "CMP.COMBO"], ids=lambda e: e["name"])
def test_the_papers_combo_is_ours_less_a_constant(example):
    p, target = (torch.tensor(example[key], dtype=torch.float64) for key in ("p", "g"))
    alpha, beta = example["hyper_parameters"]["alpha"], example["hyper_parameters"]["beta"]
    ours = ComboLoss(alpha=alpha, beta=beta)(p, target).item()
    assert ours - (1 - alpha) == pytest.approx(example["expected"], abs=1e-7)


def test_combo_as_printed_and_as_published():
    """Jadon 2020, Eq. 17-18 subtracts the Dice loss; the authors' code adds the background with a plus sign."""
    right, wrong = 8 * g - 4, torch.full_like(g, 4.0)
    ours = [ComboLoss(sigmoid=True)(logits, g) for logits in (right, wrong)]
    assert ours[0] < ours[1]
    dice = [SoftDiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1)(logits, g) for logits in (right, wrong)]
    entropy = [F.binary_cross_entropy_with_logits(logits, g) / 2 for logits in (right, wrong)]
    printed = [0.5 * e - 0.5 * d for e, d in zip(entropy, dice, strict=True)]
    assert abs(printed[1] - ours[1]) > 0.1
    p = wrong.sigmoid()
    published = -0.5 * (0.5 * g * p.log() - 0.5 * (1 - g) * (1 - p).log()).mean() - 0.5 * (1 - dice[1])
    p = right.sigmoid()
    at_best = -0.5 * (0.5 * g * p.log() - 0.5 * (1 - g) * (1 - p).log()).mean() - 0.5 * (1 - dice[0])
    assert published < at_best  # it rewards predicting foreground everywhere


def test_exponents_stand_outside_of_the_logarithms():
    """Jadon 2020, Eq. 20-21 prints them inside, where they are only factors."""
    loss = ExponentialLogarithmicLoss(sigmoid=True, label_weight=[1.0, 1.0])
    parts = loss.parts(z, g)
    dice = 1 - SoftDiceLoss(sigmoid=True, reduction="none")(z, g)
    close(parts["dice"], (-dice.log()).pow(0.3).mean())
    assert abs((-dice.pow(0.3).log()).mean() - parts["dice"]) > 0.1


# ----------------------------------------------------------------------------------------------------------- mutants


class SwappedShares(ComboLoss):
    def __init__(self, *args, alpha=0.5, **options):
        super().__init__(*args, alpha=1 - alpha, **options)


class SwappedFactors(DiceCrossEntropyLoss):
    def __init__(self, *args, lambda_dice=1.0, lambda_ce=1.0, **options):
        super().__init__(*args, lambda_dice=lambda_ce, lambda_ce=lambda_dice, **options)


class RatioWithGradient(DiceHausdorffLoss):
    def forward(self, *call):
        parts = self.parts(*call)
        return parts["hausdorff"] + parts["hausdorff"] / parts["dice"] * parts["dice"]


class OneTermForgotten(DiceTopKLoss):
    def forward(self, *call):
        return self.parts(*call)["dice"]


@pytest.mark.parametrize(
    ("mutant", "options"),
    [(SwappedShares, {"alpha": 0.2}), (SwappedFactors, {"lambda_ce": 2.0}), (OneTermForgotten, {})],
)
def test_the_oracle_rejects_the_mutant_and_accepts_the_original(mutant, options):
    original = mutant.__bases__[0]
    checks.equals_oracle(original, {"sigmoid": True, **options}, z, g)
    with pytest.raises(AssertionError):
        checks.equals_oracle(mutant, {"sigmoid": True, **options}, z, g, name=original.__name__)


def test_a_ratio_with_gradient_is_seen():
    parts = {"hausdorff": HausdorffDistanceLoss(sigmoid=True), "dice": SoftDiceLoss(sigmoid=True)}
    (a, slope_a), (b, slope_b) = (cases.value_and_gradient(term, z, g) for term in parts.values())
    close(cases.value_and_gradient(DiceHausdorffLoss(sigmoid=True), z, g)[1], slope_a + a / b * slope_b)
    wrong = cases.value_and_gradient(RatioWithGradient(sigmoid=True), z, g)[1]
    assert not torch.allclose(wrong, slope_a + a / b * slope_b)


def test_a_plain_cross_entropy_is_a_term_like_any_other():
    loss = CompoundLoss({"ce": WeightedCrossEntropyLoss(**MULTI), "dice": SoftDiceLoss(**MULTI)})
    torch.testing.assert_close(loss(x, label), monai.losses.DiceCELoss(**MULTI)(x, label), rtol=1e-6, atol=0)


def test_a_negative_term_is_balanced_by_its_size():
    loss = CompoundLoss({"dice": SoftDiceLoss(), "boundary": BoundaryDistanceLoss()}, balance="ratio")
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 1:7, 1:7] = 1
    p = 0.9 * mask
    parts = loss.parts(p, mask)
    assert parts["boundary"] < 0
    torch.testing.assert_close(loss(p, mask), torch.zeros(()), atol=1e-6, rtol=0)
    _, gradient = cases.value_and_gradient(loss, p, mask)
    assert (gradient[mask == 1] < 0).all()
