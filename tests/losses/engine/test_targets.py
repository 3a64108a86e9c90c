"""What a target may hold: soft shares, partial labels, labels to ignore, nothing; and what it may not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from monai_lossext.losses import (
    FocalTverskyLoss,
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    RegionLoss,
    SensitivitySpecificityLoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    VoxelLoss,
    WeightedCrossEntropyLoss,
)

from .. import cases, checks
from ..cases import make

pytestmark = pytest.mark.usefixtures("kernels_or_plain")
MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
every_loss = pytest.mark.parametrize("cls", cases.CLASSES, ids=lambda cls: cls.__name__)
of_probabilities = pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if cases.entry_of(cls).activation], ids=lambda cls: cls.__name__
)
REGION = [cls for cls in cases.CLASSES if issubclass(cls, (RegionLoss, LovaszSoftmaxLoss))]
FORMS = [
    (cls, own)
    for cls in REGION
    for own in ({}, *cases.row_of(cls).variants)
    if not {"classes", "smooth", "smooth_nr", "smooth_dr"} & set(own)
]
every_form = pytest.mark.parametrize(("cls", "own"), FORMS, ids=str)


# ------------------------------------------------------------------------------------------------------- soft targets


def soft_targets() -> list[Tensor]:
    """Return shares that add up to 1 over the channels, without and with some that are 0 or 1."""
    random = cases.logits(2, 3, 6, 5, seed=4).softmax(1)
    hard = cases.one_hot(cases.indices(2, 3, 6, 5), 3).double()
    smoothed = 0.9 * hard + 0.1 / 3
    return [
        torch.full((2, 3, 6, 5), 1 / 3, dtype=torch.float64),
        random,
        smoothed,
        torch.where(random > 0.4, hard, random),
    ]


@every_form
def test_a_region_loss_is_smallest_where_the_prediction_is_the_target(cls, own):
    for dtype in (torch.float32, torch.float64):
        with checks.at(dtype):
            loss = cls(**own, reduction="none")
            if own.get("multiclass"):
                steps = [lambda g, other: (g + 0.05 * other) / 1.05]
            else:
                steps = [lambda g, _: 0.9 * g, lambda g, _: 0.9 * g + 0.1, lambda g, other: 0.95 * g + 0.05 * other]
            for g in soft_targets():
                g = g.to(dtype)
                met = loss(g, g)
                assert met.max() < 2e-3, met  # what smoothing leaves
                for step in (*steps, lambda g, _: g.round() * 0.98 + 0.01):
                    for seed in (5, 6):
                        other = step(g, cases.logits(*g.shape, seed=seed).softmax(1).to(dtype))
                        if not own.get("multiclass") or torch.allclose(other.sum(1), torch.ones((), dtype=dtype)):
                            assert (loss(other, g) > met).all()


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss], ids=lambda cls: cls.__name__)
def test_the_product_prefers_firm_predictions_of_an_undecided_target(cls):
    """What ``soft_label=False`` is: the form of most other packages."""
    g = torch.full((1, 1, 8), 0.5)
    values = {p: cls(soft_label=False)(torch.full((1, 1, 8), p), g).item() for p in (0.25, 0.5, 0.75, 1.0)}
    assert sorted(values, key=values.get) == [1.0, 0.75, 0.5, 0.25]
    values = {p: cls()(torch.full((1, 1, 8), p), g).item() for p in values}
    assert min(values, key=values.get) == 0.5
    if cls is SoftDiceLoss:
        product = [cls(soft_label=False)(torch.full((1, 1, 8), p), g).item() for p in (0.25, 0.5, 0.75, 1.0)]
        assert product == pytest.approx([0.6667, 0.5, 0.4, 0.3333], abs=1e-4)


@every_form
def test_on_hard_targets_both_forms_are_equal_bit_by_bit(cls, own):
    if not cases.accepts(cls, "soft_label"):
        return
    label = cases.indices(2, 3, 9, 8, 7)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x, mask = cases.logits(2, 3, 9, 8, 7, dtype=dtype), torch.rand(2, 1, 9, 8, 7).to(torch.float32)
        for options, target in ((MULTI, label), ({"softmax": True}, cases.one_hot(label, 3).float())):
            for weights in (None, mask):
                one, other = (
                    cases.value_and_gradient(cls(**options, **own, soft_label=soft), x, target, weights)
                    for soft in (True, False)
                )
                assert torch.equal(one[0], other[0])
                assert torch.equal(one[1], other[1])


@pytest.mark.parametrize("cls", [SoftDiceLoss, SoftJaccardLoss, SensitivitySpecificityLoss], ids=lambda c: c.__name__)
def test_squared_forms_have_the_product_always(cls):
    own = {"squared": True} if cls is SensitivitySpecificityLoss else {"squared_pred": True}
    x, g = cases.logits(2, 3, 6, 5), soft_targets()[1]
    one, other = (cases.value_and_gradient(cls(softmax=True, **own, soft_label=s), x, g) for s in (True, False))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


@pytest.mark.parametrize(  # the power has an infinite slope there, and sorting another order on each side
    "cls", [c for c in REGION if c not in (FocalTverskyLoss, LovaszSoftmaxLoss)], ids=lambda cls: cls.__name__
)
def test_the_slope_of_a_target_that_is_met_lies_between_those_beside_it(cls):
    """Where |p - g| has a kink, a slope from one side to the other is right, and NaN or a jump beyond is not."""
    g = soft_targets()[1].float()
    loss = cls()
    slopes = [cases.value_and_gradient(loss, g + step, g)[1] for step in (-1e-3, 0.0, 1e-3)]
    low, high = torch.minimum(slopes[0], slopes[2]), torch.maximum(slopes[0], slopes[2])
    room = 0.02 * slopes[0].abs().max()
    assert ((slopes[1] >= low - room) & (slopes[1] <= high + room)).all()


# ------------------------------------------------------------------------------------------------------ partial labels

CLASSES = cases.partial("1101", "1111", "1010")  # classes 2 of the first sample, 1 and 3 of the last are not annotated


def softmaxes(cls: type) -> bool:
    return bool(cases.entry_of(cls).activation)


with_softmax = pytest.mark.parametrize("cls", [c for c in cases.CLASSES if softmaxes(c)], ids=lambda cls: cls.__name__)


def moved(x: Tensor, share: Tensor) -> Tensor:
    """Return logits whose background has this share of the probability of background and unannotated classes."""
    z = x.log_softmax(1)
    for i, annotated in enumerate(CLASSES):
        others = [k for k in range(1, 4) if not annotated[k]]
        if others:
            both = z[i, [0, *others]].logsumexp(0)
            z[i, 0] = both + share.log()
            z[i, others] = both + ((1 - share) / len(others)).log()
    return z


@with_softmax
def test_finding_a_class_that_was_not_annotated_costs_what_suppressing_it_costs(cls):
    for kind in ("labels", "one-hot", "soft"):
        with checks.at(kind):
            x, label = cases.blocks(3, 4, 12, 11)
            x = 0.2 * x
            target: Any = label if kind == "labels" else cases.one_hot(label, 4)
            target = 0.8 * target + 0.05 if kind == "soft" else target
            given = {"label": target, "classes": CLASSES}
            shares = [torch.tensor(share, dtype=torch.float64) for share in (0.999, 0.5, 0.001)]
            shares.append(
                torch.rand(12, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.98 + 0.01
            )
            for own in ({}, *cases.row_of(cls).variants):
                if own.get("multiclass"):
                    continue
                loss = make(cls, softmax=True, to_onehot_y=kind == "labels", **own)
                found = [cases.value_and_gradient(loss, moved(x, share), given) for share in shares]
                for (value, gradient), share in zip(found, shares, strict=True):
                    torch.testing.assert_close(value, found[0][0], rtol=1e-9, atol=1e-12)
                    p = moved(x, share).softmax(1)
                    for i, annotated in enumerate(CLASSES):
                        for k in range(1, 4):
                            if not annotated[k]:  # more of class k, less of the background: d log p_k = e / p_k
                                along = gradient[i, k] / p[i, k] - gradient[i, 0] / p[i, 0]
                                tolerance = 1e-6 * (gradient[i, 0] / p[i, 0]).abs().max() + 1e-9
                                assert along.abs().max() <= tolerance


@with_softmax
def test_a_label_of_a_class_that_was_not_annotated_is_background(cls):
    x, label = cases.blocks(3, 4, 12, 11)
    given = {"label": label, "classes": CLASSES}
    annotated = CLASSES.long().gather(1, label.flatten(1)).view_as(label).bool()
    assert not annotated.all()
    loss = make(cls, **MULTI)
    expected = cases.value_and_gradient(loss, x.float(), {**given, "label": torch.where(annotated, label, 0)})
    for got, want in zip(cases.value_and_gradient(loss, x.float(), given), expected, strict=True):
        assert torch.equal(got, want)
    assert abs(expected[0] - loss(x.float(), label)) > 1e-4


@with_softmax
def test_the_background_counts_for_nothing_where_it_was_not_annotated(cls):
    x, label = cases.blocks(1, 3, 12, 11)
    classes = cases.partial("010")
    loss = make(cls, **MULTI)
    value, gradient = cases.value_and_gradient(loss, x, {"label": label, "classes": classes})
    if issubclass(cls, VoxelLoss) and cls.exclusive_classes:  # of whose voxels those of class 1 are left
        expected, slope = cases.value_and_gradient(loss, x, {"label": label, "classes": classes}, label == 1)
        if not cases.entry_of(cls).spatial:
            torch.testing.assert_close(value, expected)
            torch.testing.assert_close(gradient, slope)
        assert not gradient[(label != 1).expand_as(gradient)].any()
    else:  # what of the others is background or class 2 makes no difference
        p = x.softmax(1)
        torch.testing.assert_close(gradient[:, 0] * p[:, 2], gradient[:, 2] * p[:, 0], rtol=1e-6, atol=1e-12)
    assert torch.isfinite(value)


@every_loss
def test_with_a_sigmoid_an_unannotated_class_is_left_out(cls):
    x, label = cases.blocks(3, 4, 12, 11)
    given = {"label": label, "classes": CLASSES}
    loss = make(cls, sigmoid=True, to_onehot_y=True)
    value, gradient = cases.value_and_gradient(loss, x, given)
    other = torch.where(CLASSES.view(3, 4, 1, 1), x, -x)
    again, slope = cases.value_and_gradient(loss, other, given)
    assert torch.equal(value, again)
    assert torch.equal(gradient, slope)
    assert not gradient[~CLASSES].any()


def test_the_marginal_cross_entropy_of_a_voxel():
    """Of probabilities 0.2, 0.5, 0.3, a background voxel where class 1 was not annotated has 0.7."""
    x = torch.tensor([0.2, 0.5, 0.3]).log().view(1, 3, 1)
    given = {"label": torch.zeros(1, 1, 1), "classes": cases.partial("101")}
    value = WeightedCrossEntropyLoss(**MULTI)(x, given)
    torch.testing.assert_close(value, torch.tensor(0.7).log().neg())
    given["label"] = torch.ones(1, 1, 1)
    assert torch.equal(WeightedCrossEntropyLoss(**MULTI)(x, given), value)


# ------------------------------------------------------------------------------------------- labels that do not exist


@every_loss
def test_a_label_that_the_dtype_cannot_hold_is_not_ignored(cls):
    for dtype, index in (
        (torch.uint8, 256),
        (torch.uint8, -1),
        (torch.uint8, 258),
        (torch.int8, 255),
        (torch.int16, 70000),
        (torch.bool, 2),
    ):
        with checks.at(dtype, index):
            x, label = cases.logits(2, 3, 5, dtype=torch.float32), cases.indices(2, 3, 5).to(dtype)
            expected = cases.value_and_gradient(make(cls, **MULTI), x, label)
            for got, want in zip(
                cases.value_and_gradient(make(cls, **MULTI, ignore_index=index), x, label), expected, strict=True
            ):
                assert torch.equal(got, want)
            label[0, 0, 3] = torch.tensor(index).to(dtype)  # what it would be wrapped around to
            if label[0, 0, 3] not in (0, 1, 2):
                with pytest.raises(ValueError, match=f"target holds {label[0, 0, 3].item()}"):
                    make(cls, **MULTI, ignore_index=index)(x, label)


@every_loss
def test_nothing_costs_nothing(cls):
    shapes = ((0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (2, 3, 0), (0, 3, 0, 2, 2))
    for shape, options in itertools.product(shapes, (MULTI, {"sigmoid": True}, {})):
        with checks.at(shape, options):
            b, c, *space = shape
            for more, reduction in itertools.product(cases.batches(cls), ("mean", "sum", "none")):
                x = torch.zeros(shape, requires_grad=True)
                target = torch.zeros(b, 1 if options is MULTI else c, *space, dtype=torch.uint8)
                loss = make(cls, **options, **more, reduction=reduction)
                for rest in (
                    (target,),
                    (target, torch.ones(b, 1, *space)),
                    ({"label": target, "classes": torch.ones(b, c, dtype=torch.bool)},),
                ):
                    value = loss(x, *rest)
                    assert not value.any()
                    assert value.numel() == 1 or (reduction == "none" and value.shape[0] in (b, 1))
                    (gradient,) = torch.autograd.grad(value.sum(), x)
                    assert gradient.shape == x.shape
                    assert not gradient.any()


# ------------------------------------------------------------------------------------------------ values out of range


@of_probabilities
def test_logits_without_an_activation_are_named(cls):
    for bad in (-0.5, 1.5, float("inf"), 7.0):
        with checks.at(bad):
            x, label = cases.logits(2, 3, 5, dtype=torch.float32).softmax(1), cases.indices(2, 3, 5)
            x[1, 2, 3] = bad
            for options, target in (({"to_onehot_y": True}, label), ({}, cases.one_hot(label, 3))):
                with pytest.raises(ValueError, match=rf"input holds {bad:.3g}|input .*{bad:.3g}"):
                    make(cls, **options)(x, target)
                with pytest.raises(ValueError, match=rf"{bad:.3g}"):
                    make(cls, **options, other_act=torch.nn.Identity())(x, target)
            value, _ = cases.value_and_gradient(make(cls, to_onehot_y=True), x.clamp(0, 1), label)
            assert torch.isfinite(value)


@of_probabilities
def test_rounding_beside_the_range_is_accepted_and_nan_is_no_error(cls):
    x, label = cases.logits(2, 3, 5, dtype=torch.float32).softmax(1), cases.indices(2, 3, 5)
    x[1, 2, 3], x[0, 1, 2] = 1 + 2e-7, -1e-7
    value, gradient = cases.value_and_gradient(make(cls, to_onehot_y=True), x, label)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    x[1, 2, 3] = float("nan")
    assert make(cls, to_onehot_y=True)(x, label).isnan()


@of_probabilities
def test_probabilities_that_are_masked_out_may_hold_anything(cls):
    x, label = cases.logits(2, 3, 6, 5, dtype=torch.float32).softmax(1), cases.indices(2, 3, 6, 5)
    mask = torch.ones(2, 1, 6, 5)
    mask[..., 2] = 0
    loss = make(cls, to_onehot_y=True)
    expected = loss(x, label, mask)
    for anything in (55.0, -1.0, float("inf"), float("nan")):
        value, gradient = cases.value_and_gradient(loss, torch.where(mask == 0, anything, x), label, mask)
        assert torch.equal(value, expected)
        assert torch.isfinite(gradient).all()


def test_the_hinge_takes_logits():
    x, label = 10 * cases.logits(2, 3, 5), cases.indices(2, 3, 5)
    assert torch.isfinite(LovaszHingeLoss(to_onehot_y=True)(x, label))


@every_loss
def test_shares_beside_the_range_by_one_rounding_are_accepted(cls):
    for dtype in (torch.float32, torch.float64):
        with checks.at(dtype):
            x = cases.logits(1, 1, 8, dtype=torch.float32)
            target = cases.binary(1, 8).to(dtype)
            expected = make(cls, sigmoid=True)(x, target)
            value = make(cls, sigmoid=True)(x, torch.where(target == 1, 1 + 1.2e-7, -1e-7).to(dtype))
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
            for bad in (1.001, -0.001, float("nan"), float("inf"), -float("inf")):
                wrong = target.clone()
                wrong[0, 0, 3] = bad
                with pytest.raises(ValueError, match=rf"target holds {str(bad)[:5]}"):
                    make(cls, sigmoid=True)(x, wrong)


@every_loss
def test_labels_out_of_range_are_named_in_all_dtypes(cls):
    for dtype in (torch.int8, torch.int64, torch.uint16, torch.uint64, torch.float16, torch.float32):
        with checks.at(dtype):
            x, label = cases.logits(2, 3, 5, dtype=torch.float32), cases.indices(2, 3, 5).to(dtype)
            wrong = (
                [3, 77] + ([-1] if dtype.is_signed else []) + ([0.5, float("nan")] if dtype.is_floating_point else [])
            )
            for bad in wrong:
                spoilt = label.clone()
                spoilt[1, 0, 4] = bad
                with pytest.raises(ValueError, match=rf"target holds {bad}\D.*expected integer labels 0\.\.2"):
                    make(cls, **MULTI)(x, spoilt)


@every_loss
def test_any_label_may_be_ignored(cls):
    x, label = cases.logits(2, 3, 6, 5, dtype=torch.float32), cases.indices(2, 3, 6, 5)
    mask = torch.ones(2, 1, 6, 5)
    mask[..., 2] = 0
    expected = make(cls, **MULTI)(x, label, mask)
    for unknown in (-3, 9, 255, 10**12):
        spoilt = torch.where(mask == 0, unknown, label)
        torch.testing.assert_close(make(cls, **MULTI, ignore_index=unknown)(x, spoilt), expected, rtol=1e-6, atol=0)
