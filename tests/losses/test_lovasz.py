"""Lovasz losses: properties of the extension, which classes count, long rows, and kornia as a second oracle."""

from __future__ import annotations

import itertools
from typing import Any

import kornia.losses
import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from monai_lossext.losses import LovaszHingeLoss, LovaszSoftmaxLoss
from monai_lossext.losses.paths import plain_path

from . import cases

MULTI = {"softmax": True, "to_onehot_y": True}
g = cases.binary(2, 5, 4)
p = cases.logits(2, 1, 5, 4).sigmoid()


def formula(prediction: torch.Tensor, target: torch.Tensor = g, **options: object) -> torch.Tensor:
    loss = LovaszSoftmaxLoss(empty="formula", classes="all", reduction="none", **options)
    return loss(prediction, target)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_hard_masks_give_the_jaccard_score_of_scikit_learn():
    hard = (p > 0.5).double()
    for k in range(2):
        score = jaccard_score(g[k].flatten().numpy(), hard[k].flatten().numpy())
        assert formula(hard)[k].item() == pytest.approx(1 - score, abs=1e-12)


def test_empty_and_full_targets():
    close(formula(p, torch.zeros_like(g)), p.flatten(2).amax(2))
    close(formula(p, torch.ones_like(g)), (1 - p).flatten(2).mean(2))


def test_homogeneous_and_convex_in_the_errors():
    def of_errors(m: torch.Tensor) -> torch.Tensor:
        return formula((g - m).abs())

    m, other = (cases.logits(2, 1, 5, 4, seed=seed).sigmoid() for seed in (3, 4))
    close(of_errors(0.3 * m), 0.3 * of_errors(m))
    assert (of_errors((m + other) / 2) <= (of_errors(m) + of_errors(other)) / 2 + 1e-12).all()


def test_brute_force_over_all_orders():
    """The extension of a submodular function is the largest over all orders of the sum with marginal gains."""
    error, target = np.array([0.2, 0.9, 0.4, 0.7]), np.array([1, 0, 1, 0])

    def jaccard(chosen: tuple[int, ...]) -> float:
        return len(chosen) / len(set(chosen) | set(np.flatnonzero(target))) if chosen else 0.0

    best = max(
        sum(error[k] * (jaccard(order[: i + 1]) - jaccard(order[:i])) for i, k in enumerate(order))
        for order in itertools.permutations(range(4))
    )
    prediction = torch.from_numpy(np.abs(target - error)).view(1, 1, 4)
    assert formula(prediction, torch.from_numpy(target).view(1, 1, 4)).item() == pytest.approx(best, abs=1e-12)


def test_the_order_of_the_voxels_does_not_matter():
    turn = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    close(formula(p.flatten(2)[..., turn], g.flatten(2)[..., turn]), formula(p))
    tied = torch.full_like(p, 0.5)
    close(formula(tied.flatten(2)[..., turn], g.flatten(2)[..., turn]), formula(tied))


def test_hinge_is_convex_in_the_logits():
    loss = LovaszHingeLoss(reduction="none")
    a, b = cases.logits(2, 1, 5, 4, seed=3), cases.logits(2, 1, 5, 4, seed=4)
    assert (loss((a + b) / 2, g) <= (loss(a, g) + loss(b, g)) / 2 + 1e-12).all()


def test_which_classes_count():
    x, label = cases.logits(1, 3, 12), cases.indices(1, 2, 12)  # class 2 is absent
    each = LovaszSoftmaxLoss(**MULTI, classes="all", empty="formula", reduction="none")(x, label)[0]
    values = {
        "present": each[:2].mean(),
        "all": each.mean(),
        (1, 2): each[1:].mean(),
    }
    for classes, expected in values.items():
        close(LovaszSoftmaxLoss(**MULTI, classes=classes, empty="formula")(x, label), expected)
    absent = x.softmax(1)[:, 2].mean()
    close(LovaszSoftmaxLoss(**MULTI, classes="all")(x, label), (each[:2].sum() + absent) / 3)
    close(LovaszSoftmaxLoss(**MULTI, classes=[1, 2], include_background=False)(x, label), (each[1] + absent) / 2)


def test_false_positives_on_an_empty_picture_have_a_gradient():
    empty = torch.zeros(1, 1, 9)
    for cls in (LovaszSoftmaxLoss, LovaszHingeLoss):
        _, gradient = cases.value_and_gradient(cases.make(cls, sigmoid=True), torch.zeros(1, 1, 9), empty)
        assert (gradient > 0).all()


@pytest.mark.parametrize("classes", ["presents", [], [-1], [1.5], 2.0, [0]])
def test_wrong_classes(classes):
    with pytest.raises((ValueError, TypeError), match=r"classes must be|not iterable"):
        LovaszSoftmaxLoss(classes=classes, include_background=False)


def test_classes_that_the_input_does_not_have():
    with pytest.raises(ValueError, match=r"classes \[1, 3\] must be among the channels 0\.\.2"):
        LovaszSoftmaxLoss(**MULTI, classes=[1, 3])(torch.zeros(1, 3, 5), torch.zeros(1, 1, 5))


@pytest.mark.parametrize(
    "option", [{"sigmoid": True}, {"softmax": True}, {"other_act": torch.tanh}], ids=lambda option: next(iter(option))
)
def test_the_hinge_takes_no_activation(option):
    with pytest.raises(ValueError, match=r"the hinge works on logits and takes no activation, got sigmoid="):
        LovaszHingeLoss(**option)


def test_slopes_of_long_rows_keep_their_digits():
    """The difference of two neighbouring Jaccard losses near 1 has no digits left in float32."""
    x, target = cases.logits(1, 1, 1_000_000), cases.binary(1, 1_000_000)
    _, gradient = cases.value_and_gradient(LovaszHingeLoss(), x.float(), target)
    _, exact = cases.value_and_gradient(LovaszHingeLoss(), x.float().double(), target)
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(2, 1, 6, 5), (3, 1, 9, 4)], ids=str)
def test_hinge_equals_kornia(shape):
    x, target = cases.logits(*shape), cases.binary(shape[0], *shape[2:])
    theirs = cases.value_and_gradient(kornia.losses.lovasz_hinge_loss, x, target[:, 0].long())
    for got, want in zip(cases.value_and_gradient(LovaszHingeLoss(), x, target), theirs, strict=True):
        close(got, want)


@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 0.5]], ids=str)
def test_softmax_equals_kornia(weight):
    """kornia takes all classes of each picture, absent ones (here class 2 of the second) with their largest error."""
    x, label = cases.logits(2, 3, 6, 5), cases.indices(2, 3, 6, 5)
    label[1][label[1] == 2] = 0
    ours = LovaszSoftmaxLoss(**MULTI, classes="all", empty="formula", weight=weight)
    weights = None if weight is None else torch.tensor(weight, dtype=torch.float64)
    theirs = cases.value_and_gradient(kornia.losses.lovasz_softmax_loss, x, label[:, 0], weights)
    for got, want in zip(cases.value_and_gradient(ours, x, label), theirs, strict=True):
        close(got, want)


# ------------------------------------------------------------------------------------------------- kernels and plain

BOTH = pytest.mark.parametrize("cls", [LovaszSoftmaxLoss, LovaszHingeLoss], ids=lambda cls: cls.__name__)
SHAPE = (3, 4, 17, 13, 11)
LOSSES: dict[str, Any] = {
    "labels": LovaszSoftmaxLoss(**MULTI),
    "labels, all classes": LovaszSoftmaxLoss(**MULTI, classes="all"),
    "labels, formula": LovaszSoftmaxLoss(**MULTI, classes="all", empty="formula"),
    "labels, skip": LovaszSoftmaxLoss(**MULTI, classes="all", empty="skip"),
    "labels, foreground": LovaszSoftmaxLoss(**MULTI, include_background=False),
    "labels, batch": LovaszSoftmaxLoss(**MULTI, per_image=False),
    "labels, hinge": LovaszHingeLoss(to_onehot_y=True),
    "labels, hinge, batch": LovaszHingeLoss(to_onehot_y=True, per_image=False),
    "labels, sigmoid": LovaszSoftmaxLoss(sigmoid=True, to_onehot_y=True),
    "labels, ignored": LovaszSoftmaxLoss(**MULTI, ignore_index=1),
    "each class": LovaszSoftmaxLoss(sigmoid=True, reduction="none"),
    "soft": LovaszSoftmaxLoss(softmax=True),
    "soft, batch": LovaszSoftmaxLoss(sigmoid=True, per_image=False),
    "soft, hinge": LovaszHingeLoss(),
}


def volume(name: str, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, target = 2 * torch.randn(SHAPE, generator=generator), torch.rand(SHAPE, generator=generator)
    x = x.round() if ties else x
    if "labels" in name:
        return x, target[:, :1].mul(3).floor()  # the last class is absent
    if "soft" in name:
        return x, target / target.sum(1, keepdim=True)
    return x, (target > torch.tensor([0.2, 0.9, 0.5, 1.0]).view(1, 4, 1, 1, 1)).float()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", [*LOSSES])
def test_kernels_compute_what_the_plain_way_does(name, ties):
    x, target = volume(name, ties)
    loss = LOSSES[name]
    mask = torch.rand(3, 4, *SHAPE[2:], generator=torch.Generator().manual_seed(4)).round(decimals=1)
    classes = cases.partial("1101", "1111", "0111")
    for rest in ((target,), (target, mask[:, :1]), (target, mask), ({"label": target, "classes": classes},)):
        value, gradient = cases.value_and_gradient(loss, x, *rest)
        with plain_path():
            expected, slope = cases.value_and_gradient(loss, x, *rest)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
        # By the formula, one voxel of an absent class has all the slope, and is so sure that differences of it are left
        largest = 1 / 12 if "formula" in name else slope.abs().max().item()
        torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-6 * largest)


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equally_wrong_voxels_have_slopes_in_their_order(dtype):
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(1, 1, 3000, generator=generator).mul(8).round().div(8).to(dtype)
    target = torch.randint(0, 2, (1, 1, 3000), generator=generator)
    _, gradient = cases.value_and_gradient(LovaszSoftmaxLoss(), p, target)
    g = target.flatten().double().numpy()
    order = np.argsort(-np.abs(g - p.flatten().numpy()), kind="stable")
    jaccard = 1 - (g.sum() - np.cumsum(g[order])) / (g.sum() + np.cumsum(1 - g[order]))
    slopes = np.empty(3000)
    slopes[order] = np.diff(jaccard, prepend=0)
    expected = slopes * np.where(g > 0, -1, 1)
    np.testing.assert_allclose(gradient.flatten().numpy(), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
def test_soft_targets_that_are_met_cost_nothing(activation):
    x, _ = volume("soft")
    p = {"sigmoid": torch.sigmoid, "softmax": lambda z: z.softmax(1), "none": torch.sigmoid}[activation](x)
    options = {} if activation == "none" else {activation: True}
    value, gradient = cases.value_and_gradient(LovaszSoftmaxLoss(**options), p if activation == "none" else x, p)
    assert value.item() == pytest.approx(0, abs=0 if activation == "none" else 1e-6)
    assert torch.isfinite(gradient).all()


@pytest.mark.usefixtures("kernels_or_plain")
def test_a_nan_in_the_logits_is_not_hidden():
    x, target = volume("each class")
    x[1, 2, 3, 4, 5] = float("nan")
    value = LovaszSoftmaxLoss(sigmoid=True, reduction="none")(x, target)
    assert value.isnan().nonzero().tolist() == [[1, 2]]


@pytest.mark.usefixtures("kernels_or_plain")
def test_a_single_voxel():
    x = torch.tensor([[[0.3]]])
    for target in (0.0, 0.4, 1.0):
        value, gradient = cases.value_and_gradient(
            LovaszSoftmaxLoss(sigmoid=True), x, torch.full((1, 1, 1), target, dtype=torch.float64)
        )
        p = x.double().sigmoid().item()
        assert value.item() == pytest.approx(abs(p - target), rel=1e-6)
        assert gradient.item() == pytest.approx((1 if p > target else -1) * p * (1 - p), rel=1e-6)


@BOTH
def test_the_hinge_of_a_soft_target_is_the_mean_of_both_hinges(cls):
    """A target of 0.3 is 3 voxels of foreground in 10; the absolute error of a probability needs no such mean."""
    z, target = torch.tensor([[[0.7]]]), torch.tensor([[[0.3]]])
    value = cls()(z, target).item()
    assert value == pytest.approx(0.4 if cls is LovaszSoftmaxLoss else 0.3 * (1 - 0.7) + 0.7 * (1 + 0.7), rel=1e-6)
