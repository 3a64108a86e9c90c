"""Lovasz losses: properties of the extension, which classes count, long rows, and kornia as a second oracle."""

from __future__ import annotations

import itertools

import kornia.losses
import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from monai_lossext.losses import LovaszHingeLoss, LovaszSoftmaxLoss, parts, sorting
from monai_lossext.losses import lovasz as module
from monai_lossext.losses.paths import plain_path
from monai_lossext.losses.sorting import descending, largest

from . import cases
from .memory import peak_bytes

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


def test_counts_beyond_float32(monkeypatch):
    x, target = cases.logits(1, 1, 300, dtype=torch.float32), cases.binary(1, 300)
    expected = LovaszHingeLoss()(x, target)
    monkeypatch.setattr(module, "COUNTS_IN_FLOAT32", 2)
    torch.testing.assert_close(LovaszHingeLoss()(x, target), expected)


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


# ------------------------------------------------------------------------------------------------- parts of the volume

BOTH = pytest.mark.parametrize("cls", [LovaszSoftmaxLoss, LovaszHingeLoss], ids=lambda cls: cls.__name__)


@BOTH
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("kind", ["labels", "one-hot", "soft", "sigmoid", "ignored", "foreground", "formula", "none"])
def test_parts_and_rows_equal_the_whole(cls, per_image, kind, monkeypatch):
    monkeypatch.setattr(parts, "SMALLEST_PART", 64)
    monkeypatch.setattr(module, "ROWS_ON_CPU", 1000)
    monkeypatch.setattr(sorting, "AT_ONCE", 100)
    x, label = cases.logits(3, 3, 9, 8, 7, dtype=torch.float32), cases.indices(3, 3, 9, 8, 7)
    label[0][label[0] == 2] = 1
    target = cases.one_hot(label, 3) if kind in ("one-hot", "soft") else label
    target = 0.8 * target + 0.1 if kind == "soft" else target
    options = {
        "sigmoid": {"sigmoid": True, "to_onehot_y": True},
        "ignored": {**MULTI, "ignore_index": 1},
        "foreground": {**MULTI, "include_background": False},
        "formula": {**MULTI, "empty": "formula"},
        "none": {**MULTI, "reduction": "none"},
    }.get(kind, {"softmax": True, "to_onehot_y": kind == "labels"})
    mask = torch.rand(3, 3, 9, 8, 7, generator=torch.Generator().manual_seed(4)).round(decimals=1)
    classes = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    loss = cases.make(cls, **options, per_image=per_image)
    for rest in ((target,), (target, mask[:, :1]), (target, mask), ({"label": target, "classes": classes},)):
        in_parts = cases.value_and_gradient(loss, x, *rest)
        with plain_path():
            whole = cases.value_and_gradient(loss, x, *rest)
        for got, want in zip(in_parts, whole, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6 * want.abs().max().item())


def test_the_order_is_that_of_a_stable_sort():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 1000, generator=generator).round(decimals=1)  # with many ties, and -0 beside 0
    x[0, 0, :8] = torch.tensor([float("inf"), -float("inf"), 0.0, 1e-45, -1e-45, 3e38, -3e38, float("nan")])
    for numbers in (x, x.abs(), x.transpose(0, 1)):
        expected = numbers.add(0.0).sort(dim=-1, descending=True, stable=True)
        assert torch.equal(descending(numbers.add(0.0)), expected.indices)
        assert torch.equal(numbers.gather(2, descending(numbers)).nan_to_num(1.0), expected.values.nan_to_num(1.0))


@pytest.mark.parametrize("n", [0, 1, 7, 999, 1000, 2000])
def test_the_largest_are_the_first_of_a_stable_sort(n):
    x = torch.randn(10, 100, generator=torch.Generator().manual_seed(0)).round(decimals=1).add(0.0)
    x[3, :2] = float("nan")
    chosen = torch.zeros(1000, dtype=torch.bool)
    chosen[x.flatten().sort(descending=True, stable=True).indices[:n]] = True
    assert torch.equal(largest(x, n), chosen.view(10, 100))


@BOTH
@pytest.mark.parametrize("channels", [1, 4])
def test_extra_memory_is_at_most_five_volumes(cls, channels, monkeypatch):
    """One class of several is sorted at a time; the gradient is included."""
    monkeypatch.setattr(parts, "SMALLEST_PART", 2**12)
    monkeypatch.setattr(sorting, "AT_ONCE", 2**11)
    monkeypatch.setattr(module, "ROWS_ON_CPU", 48**3)
    start = cases.logits(1, channels, 48, 48, 48, dtype=torch.float32).requires_grad_()
    label = cases.indices(1, max(channels, 2), 48, 48, 48)
    loss = cases.make(cls, **(MULTI if channels > 1 else {"sigmoid": True}))
    label = label if channels > 1 else label.float()
    assert peak_bytes(lambda: loss(start, label).backward()) <= 5.1 * start.nbytes
