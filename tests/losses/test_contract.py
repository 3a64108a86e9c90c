"""The contract that every loss of the catalogue keeps. A new loss costs a catalogue entry and a row in oracles.py."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import monai_lossext.losses as losses
from monai_lossext.losses import CalibrationLoss, MatthewsCorrelationLoss, SegmentationLoss, SoftDiceLoss
from monai_lossext.losses.paths import plain_path

from . import cases, checks
from .cases import make, row_of
from .oracles import oracle

every_loss = pytest.mark.parametrize("cls", cases.CLASSES, ids=lambda cls: cls.__name__)
with_empty_rule = pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if cases.accepts(cls, "empty")], ids=lambda cls: cls.__name__
)
one_value_a_class = pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if cases.width(cls, 2) == 2], ids=lambda cls: cls.__name__
)
MULTI = {"softmax": True, "to_onehot_y": True}
RULES = ("penalize", "formula", "skip")


def rules(cls: type[SegmentationLoss]) -> list[dict[str, str]]:
    return [{"empty": rule} for rule in RULES] if cases.accepts(cls, "empty") else [{}]


def variants(cls: type[SegmentationLoss]) -> list[dict[str, Any]]:
    return [{}, *row_of(cls).variants]


# ------------------------------------------------------------------------------------------------ values and gradients
# Kernels compute everything here, and the plain form what the oracle knows; tests/losses/engine compares the two.


def equals_oracle(*call: Any) -> None:
    """Assert that value and gradient of both forms equal those of the oracle, which is slow and asked once."""
    for name, form in (("kernels", nullcontext), ("plain", plain_path)):
        with checks.at(name), form():
            checks.equals_oracle(*call)


@every_loss
def test_softmax_with_index_labels_equals_the_oracle(cls):
    for shape in cases.SHAPES:
        for own in variants(cls):
            equals_oracle(cls, {**MULTI, **own}, cases.logits(*shape), cases.indices(*shape))


@every_loss
def test_sigmoid_with_binary_masks_equals_the_oracle(cls):
    for shape in cases.SINGLE_SHAPES:
        for own in variants(cls):
            if "multiclass" not in own:
                equals_oracle(cls, {"sigmoid": True, **own}, cases.logits(*shape), cases.binary(shape[0], *shape[2:]))


@every_loss
@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "other_act", "none"])
def test_targets_in_channels_equal_the_oracle(cls, activation):
    for kind in ("one-hot", "soft"):
        with checks.at(kind):
            shape = (2, 3, 4, 3)
            x = cases.logits(*shape)
            if activation == "none":
                x = x.sigmoid()
            target = cases.one_hot(cases.indices(*shape), 3)
            if kind == "soft":
                target = (0.8 * target + 0.2 * torch.rand(shape, generator=torch.Generator().manual_seed(5))).float()
            options = {"other_act": {"other_act": squash}, "none": {}}.get(activation, {activation: True})
            for own in variants(cls):
                if "multiclass" not in own:
                    equals_oracle(cls, {**options, **own}, x, target)
                    if cases.accepts(cls, "soft_label"):
                        equals_oracle(cls, {**options, **own, "soft_label": False}, x, target)


@pytest.mark.parametrize("soft_label", [True, False])
def test_soft_targets_of_all_classes_together_equal_the_oracle(soft_label):
    target = cases.logits(2, 3, 4, 3, seed=4).softmax(1)
    options = {"softmax": True, "multiclass": True, "smooth": 0.1, "soft_label": soft_label}
    equals_oracle(MatthewsCorrelationLoss, options, cases.logits(2, 3, 4, 3), target)


def squash(x: torch.Tensor) -> torch.Tensor:
    return 0.5 + torch.atan(x) / torch.pi


@every_loss
@pytest.mark.parametrize("include_background", [True, False])
def test_shared_options_equal_the_oracle(cls, include_background):
    for reduction in ("mean", "sum", "none"):
        shape = (3, 4, 3, 4)
        options = {**MULTI, "reduction": reduction, "include_background": include_background}
        options["weight"] = [1.0, 0.5, 2.0, 3.0][0 if include_background else 1 :]
        for batch in cases.batches(cls):
            equals_oracle(cls, {**options, **batch}, cases.logits(*shape), cases.indices(*shape))


@every_loss
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_masks_ignored_labels_and_partial_labels_equal_the_oracle(cls, activation):
    for channels in (1, 3):
        with checks.at(channels):
            shape = (3, 3, 4, 5)
            x, label = cases.logits(*shape), cases.indices(*shape)
            mask = torch.rand(3, channels, 4, 5, generator=torch.Generator().manual_seed(3)).round(decimals=1)
            mask[mask < 0.3] = 0
            classes = cases.partial("110", "111", "010")
            for batch, ignore in itertools.product(cases.batches(cls), (None, 1, 255)):
                marked = label.clone()
                if ignore == 255:
                    marked[:, :, 1] = 255
                options = {activation: True, "to_onehot_y": True, **batch, "ignore_index": ignore}
                equals_oracle(cls, options, x, marked, mask, classes)


@with_empty_rule
def test_empty_rules_equal_the_oracle(cls):
    for empty, batch in itertools.product(RULES, cases.batches(cls)):
        x = cases.logits(3, 1, 4, 3)
        target = cases.binary(3, 4, 3)
        target[0], target[1] = 0, 1
        for own in variants(cls):
            if "multiclass" not in own:
                equals_oracle(cls, {"sigmoid": True, "empty": empty, **batch, **own}, x, target)
        label = torch.zeros(2, 1, 5, dtype=torch.int64)
        label[1] = torch.tensor([0, 2, 2, 0, 0])
        for own in variants(cls):
            equals_oracle(cls, {**MULTI, "empty": empty, **batch, **own}, cases.logits(2, 3, 5), label)


@pytest.mark.usefixtures("kernels_or_plain")
def test_an_absent_class_costs_its_mean_predicted_probability():
    p = torch.tensor([[[0.5, 0.1, 0.0, 0.2]]])
    value, gradient = cases.value_and_gradient(SoftDiceLoss(), p, torch.zeros(1, 1, 4))
    assert value.item() == pytest.approx(0.2)
    assert torch.equal(gradient, torch.full_like(p, 0.25))
    value, gradient = cases.value_and_gradient(MatthewsCorrelationLoss(), p, torch.ones(1, 1, 4))
    assert value.item() == pytest.approx(0.8)
    assert torch.equal(gradient, torch.full_like(p, -0.25))


@pytest.mark.usefixtures("kernels_or_plain")
@every_loss
def test_gradcheck(cls):
    for options in ({"sigmoid": True}, {"softmax": True}, {}):
        with checks.at(options):
            x = cases.logits(2, 3, 2, 3)
            x = (x if options else x.sigmoid()).requires_grad_()
            target = cases.one_hot(cases.indices(2, 3, 2, 3), 3)
            mask = torch.rand(2, 1, 2, 3, generator=torch.Generator().manual_seed(3))
            loss = make(cls, **options, **row_of(cls).differentiable, reduction="none")
            assert torch.autograd.gradcheck(lambda z: loss(z, target, mask), (x,))  # noqa: B023
            assert torch.autograd.gradgradcheck(lambda z: loss(z, target, mask), (x,))  # noqa: B023


@pytest.mark.parametrize(  # those with a partner may have no gradient there and have tests of their own
    "cls", [cls for cls in cases.CLASSES if not cases.entry_of(cls).partner], ids=lambda cls: cls.__name__
)
def test_gradient_pushes_towards_the_target(cls):
    checks.pushes_towards_target(cls)


@pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if "perfect 0" in cases.entry_of(cls).range], ids=lambda cls: cls.__name__
)
def test_perfect_predictions_cost_nothing(cls):
    for target in (cases.binary(2, 4, 4), torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)):
        right = target.double() if cases.entry_of(cls).activation else 2.0 * target - 1
        clamped = cases.entry_of(cls).family in (
            "voxel",
            "component",
            "compound",
        )  # given probabilities, before the logarithm
        assert make(cls)(right, target).item() == pytest.approx(0, abs=3e-7 if clamped else 1e-12)


# ------------------------------------------------------------------------------------------------------ options matter


@every_loss
def test_each_own_option_changes_the_value(cls):
    x, label = cases.blocks(2, 3, 17, 16)
    x = x / 4 if cls is CalibrationLoss else x  # so that there is something in the bins in the middle
    plain = make(cls, **MULTI)(x, label)
    for own in row_of(cls).variants:
        assert abs(make(cls, **MULTI, **own)(x, label) - plain) > 1e-4, own


@every_loss
def test_each_shared_option_changes_the_value(cls):
    x, label = cases.blocks(2, 3, 9, 8)
    plain = make(cls, **MULTI)(x, label)
    for option in (
        {"include_background": False},
        *cases.batches(cls)[1:],
        {"weight": [1.0, 2.0, 3.0]},
        {"ignore_index": 1},
        *([{"reduction": "sum"}] if math.prod(cases.unreduced(cls, 1, 3, 9, 8)) > 1 else []),
    ):
        assert abs(make(cls, **MULTI, **option)(x, label) - plain) > 1e-4, option
    assert abs(make(cls, **MULTI)(x, label, label != 1) - plain) > 1e-4
    if cases.means_all(cls):
        n = math.prod(cases.unreduced(cls, 2, 3, 9, 8))
        assert make(cls, **MULTI, reduction="sum")(x, label) == pytest.approx(plain * n)


@with_empty_rule
def test_each_empty_rule_is_another(cls):
    # enough voxels that some share a bin: a calibration of single ones is the mean probability, as a penalty is
    x, target = cases.logits(2, 1, 40), cases.binary(2, 40)
    target[0] = 0
    values = [make(cls, sigmoid=True, empty=rule)(x, target).item() for rule in RULES]
    assert min(abs(a - b) for a, b in itertools.combinations(values, 2)) > 1e-4


@every_loss
def test_unused_options_are_exact_no_ops(cls):
    x, label = cases.logits(2, 3, 4, 3, dtype=torch.float32), cases.indices(2, 3, 4, 3)
    expected = cases.value_and_gradient(make(cls, **MULTI), x, label)
    everything = torch.ones(2, 1, 4, 3)
    for loss, rest in (
        (make(cls, **MULTI, ignore_index=255), (label,)),
        (make(cls, **MULTI), (label, everything)),
        (make(cls, **MULTI), (label, everything.expand(2, 3, 4, 3).bool())),
        (make(cls, **MULTI), ({"label": label, "classes": torch.ones(2, 3, dtype=torch.bool)},)),
        (make(cls, **MULTI), ({"label": label, "mask": everything, "distance_map": None},)),
        (make(cls, **MULTI, weight=[1.0, 1.0, 1.0]), (label,)),
    ):
        for got, want in zip(cases.value_and_gradient(loss, x, *rest), expected, strict=True):
            assert torch.equal(got, want), (loss, rest)


@pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if cases.entry_of(cls).family != "compound"], ids=lambda cls: cls.__name__
)
def test_reductions_agree(cls):
    x, label = cases.logits(3, 4, 5), cases.indices(3, 4, 5)
    none, total, mean = (make(cls, **MULTI, reduction=r)(x, label) for r in ("none", "sum", "mean"))
    assert none.shape == cases.unreduced(cls, 3, 4, 5)
    assert torch.allclose(none.sum(), total)
    assert torch.allclose(none.mean(), mean) == cases.means_all(cls)
    for batch in cases.batches(cls)[1:]:
        assert make(cls, **MULTI, reduction="none", **batch)(x, label).shape == (1, cases.width(cls, 4))
    sliced = make(cls, **MULTI, reduction="none", include_background=False)(x, label)
    assert sliced.shape == cases.unreduced(cls, 3, 3, 5)


@every_loss
def test_batch_of_one_equals_no_batch_and_background_is_only_a_slice(cls):
    x, label = cases.logits(1, 3, 6), cases.indices(1, 3, 6)
    for batch in cases.batches(cls):
        assert torch.equal(make(cls, **MULTI, **batch)(x, label), make(cls, **MULTI)(x, label))
    entry, g = cases.entry_of(cls), cases.one_hot(label, 3)
    if entry.family == "compound":  # whose cross-entropy sees the background all the same
        return
    options = {"sigmoid": True} if entry.family == "voxel" else {"softmax": True}
    if entry.family == "voxel":  # several channels without sigmoid would be exclusive classes
        sliced = make(cls, sigmoid=True)(x[:, 1:], g[:, 1:])
    else:
        sliced = make(cls)((x.softmax(1) if entry.activation else x)[:, 1:], g[:, 1:])
    assert torch.allclose(make(cls, **options, include_background=False)(x, g), sliced, rtol=1e-12)


# ------------------------------------------------------------------------------------------- dtypes, layouts, extremes


@every_loss
def test_low_precision_input_equals_float64(cls):
    for dtype, spatial in itertools.product(
        (torch.float16, torch.bfloat16, torch.float32), ((40,), (256, 256), (24, 24, 24))
    ):
        with checks.at(dtype, spatial):
            x, target = cases.logits(2, 1, *spatial, dtype=dtype), cases.binary(2, *spatial)
            value, gradient = cases.value_and_gradient(make(cls, sigmoid=True), x, target)
            exact, exact_gradient = cases.value_and_gradient(make(cls, sigmoid=True), x.double(), target)
            assert value.dtype == torch.float32
            assert torch.allclose(value.double(), exact, rtol=1e-5)
            assert gradient.dtype == dtype
            close = torch.isclose(gradient.double(), exact_gradient, rtol=2e-2, atol=6e-8)
            mostly = cases.entry_of(cls).spatial and close.double().mean() > 0.999  # a threshold may be missed
            assert close.all() or mostly
            assert gradient.any() or cases.entry_of(cls).without_gradient


@every_loss
def test_all_target_dtypes_give_the_same(cls):
    x, label = cases.logits(2, 3, 5, dtype=torch.float32), cases.indices(2, 3, 5)
    expected = make(cls, **MULTI)(x, label)
    integers = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64)
    for dtype in (*integers, torch.float16, torch.bfloat16, torch.float64):
        assert torch.equal(make(cls, **MULTI)(x, label.to(dtype)), expected)
    assert torch.equal(make(cls, **MULTI)(x, label[:, 0]), expected)
    mask = cases.binary(2, 5)
    x = x[:, :1]
    for other in (mask.bool(), (2 * mask).view(torch.bool), (255 * mask).view(torch.bool), mask.to(torch.uint16)):
        assert torch.equal(make(cls, sigmoid=True)(x, other), make(cls, sigmoid=True)(x, mask))


@every_loss
def test_confidently_wrong_logits_still_get_a_gradient(cls):
    for size, dtype in itertools.product(
        (60.0, 100.0, 6e4), (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    ):
        with checks.at(size, dtype):
            target = cases.binary(2, 6, 6)
            for options, x in (
                ({"sigmoid": True}, size * (1.0 - 2.0 * target)),
                ({"softmax": True, "to_onehot_y": True}, size * torch.cat([2.0 * target - 1, 1 - 2.0 * target], 1)),
            ):
                value, gradient = cases.value_and_gradient(make(cls, **options), x.to(dtype), target)
                assert torch.isfinite(value).all()
                assert torch.isfinite(gradient).all()
                assert gradient.any()
                if not cases.entry_of(cls).spatial:  # a voxel may be worth an error that saves its neighbours one
                    assert (gradient[:, -1:][target == 1] <= 0).all()
                    assert (gradient[:, -1:][target == 0] >= 0).all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_degenerate_targets_give_finite_values_and_gradients(cls, dtype):
    for b, c in itertools.product((1, 3), (1, 2, 5)):
        with checks.at(b, c):
            for spatial, fill in itertools.product([(16,), (4, 4), (2, 4, 2)], ["empty", "full", "one voxel"]):
                target = torch.full((b, c, *spatial), 1 if fill == "full" else 0, dtype=torch.uint8)
                if fill == "one voxel":
                    target.flatten(2)[:, :, 3] = 1
                for scale, rule in itertools.product((0.0, 1.0, 100.0), rules(cls)):
                    x = scale * cases.logits(b, c, *spatial, dtype=dtype)
                    value, gradient = cases.value_and_gradient(make(cls, sigmoid=True, **rule), x, target)
                    assert torch.isfinite(value).all()
                    assert torch.isfinite(gradient).all()
                    judged = rule.get("empty", "penalize") == "penalize" and not cases.entry_of(cls).without_gradient
                    if judged and scale < 100:
                        assert gradient.any(), (spatial, fill, scale)


@every_loss
def test_predictions_of_exactly_zero_and_one_give_finite_values_and_gradients(cls):
    for spatial, fill in itertools.product([(6,), (4, 3), (2, 3, 4)], [None, 0, 1]):
        target = cases.binary(2, *spatial) if fill is None else torch.full((2, 1, *spatial), fill)
        for prediction in (target.float(), 1 - target.float()):
            value, gradient = cases.value_and_gradient(make(cls), prediction, target)
            assert torch.isfinite(value).all()
            assert torch.isfinite(gradient).all()


@every_loss
def test_nan_is_not_swallowed(cls):
    for options in ({"sigmoid": True}, {}):
        with checks.at(options):
            x = cases.logits(1, 1, 6).sigmoid()
            x[0, 0, 2] = float("nan")
            for target in (cases.binary(1, 6), torch.zeros(1, 1, 6)):
                assert torch.isnan(make(cls, **options)(x, target))


@every_loss
def test_memory_layouts_do_not_matter(cls):
    x, label = cases.logits(2, 3, 4, 6, dtype=torch.float32), cases.indices(2, 3, 4, 6)
    expected = make(cls, **MULTI)(x, label)
    last = x.contiguous(memory_format=torch.channels_last)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    strided = torch.stack([x, -x], -1)[..., 0]
    for other in (last, turned, strided):
        assert torch.allclose(make(cls, **MULTI)(other, label), expected, rtol=1e-6)


@every_loss
def test_tensors_stay_on_their_device_whatever_the_default_is(cls):
    x, label = cases.logits(2, 3, 8, 9, dtype=torch.float32).requires_grad_(), cases.indices(2, 3, 8, 9)
    loss = make(cls, **MULTI)
    with torch.device("meta"):
        value = loss(x, label)
        value.backward()
    assert value.device.type == x.grad.device.type == "cpu"
    assert value.isfinite()


@every_loss
def test_metatensors_give_a_plain_tensor(cls):
    x, label = cases.logits(2, 3, 5), cases.indices(2, 3, 5)
    meta = MetaTensor(x.clone()).requires_grad_()
    value = make(cls, **MULTI)(meta, MetaTensor(label), MetaTensor(torch.ones(2, 1, 5)))
    assert type(value) is torch.Tensor
    assert torch.equal(value, make(cls, **MULTI)(x.clone().requires_grad_(), label))
    value.backward()
    assert meta.grad is not None


@every_loss
def test_works_inside_autocast(cls):
    x, label = cases.logits(2, 3, 5, dtype=torch.float32), cases.indices(2, 3, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = make(cls, **MULTI)(x, label)
    assert torch.equal(value, make(cls, **MULTI)(x, label))


# ------------------------------------------------------------------------------------------ masks and partial labels


@every_loss
def test_masked_out_voxels_have_no_influence_whatever_they_hold(cls):
    for bad in (float("nan"), float("inf"), -float("inf"), 1e30):
        with checks.at(bad):
            x, label = cases.logits(2, 3, 4, 3), cases.indices(2, 3, 4, 3)
            mask = torch.ones(2, 1, 4, 3)
            mask[:, :, 1] = 0
            for options in (MULTI, {"sigmoid": True, "to_onehot_y": True}, {"other_act": squash, "to_onehot_y": True}):
                value, gradient = cases.value_and_gradient(make(cls, **options), x, label, mask)
                spoilt = x.clone()
                spoilt[:, :, 1] = bad
                got, got_gradient = cases.value_and_gradient(make(cls, **options), spoilt, label, mask)
                assert torch.equal(got, value)
                assert torch.equal(got_gradient, gradient)
                assert not got_gradient[:, :, 1].any()
                marked = label.clone()
                marked[:, :, 1] = 255
                assert torch.equal(make(cls, **options, ignore_index=255)(spoilt, marked), value)
                if not cases.entry_of(cls).spatial:
                    cut = [0, 2, 3]
                    assert torch.allclose(make(cls, **options)(x[:, :, cut], label[:, :, cut]), value, rtol=1e-12)


@pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if not cases.entry_of(cls).spatial], ids=lambda cls: cls.__name__
)
def test_a_weight_of_two_equals_the_voxel_twice(cls):
    x, target = cases.logits(1, 1, 6), cases.binary(1, 6)
    weights = torch.ones(1, 1, 6)
    weights[..., 2] = 2
    twice = [0, 1, 2, 2, 3, 4, 5]
    expected = make(cls, sigmoid=True)(x[..., twice], target[..., twice])
    assert torch.allclose(make(cls, sigmoid=True)(x, target, weights), expected, rtol=1e-12)


@every_loss
def test_all_voxels_ignored_is_a_differentiable_zero(cls):
    for reduction in ("mean", "sum", "none"):
        with checks.at(reduction):
            x, label = cases.logits(2, 3, 5), torch.full((2, 1, 5), 255)
            for rule in rules(cls):
                loss = make(cls, **MULTI, ignore_index=255, reduction=reduction, **rule)
                value, gradient = cases.value_and_gradient(loss, x, label)
                assert not value.any()
                assert not gradient.any()


@every_loss
def test_a_fully_masked_sample_does_not_dilute_the_mean(cls):
    x, label = cases.logits(2, 3, 5), cases.indices(2, 3, 5)
    mask = torch.tensor([1.0, 0.0]).view(2, 1, 1).expand(2, 1, 5)
    assert torch.allclose(make(cls, **MULTI)(x, label, mask), make(cls, **MULTI)(x[:1], label[:1]), rtol=1e-12)


@every_loss
def test_masks_of_all_dtypes_give_the_same(cls):
    x, label = cases.logits(2, 3, 7, dtype=torch.float32), cases.indices(2, 3, 7)
    mask = cases.binary(2, 7, seed=5)
    expected = make(cls, **MULTI)(x, label, mask.bool())
    for same in (mask, (2 * mask).view(torch.bool), mask.half(), mask.bfloat16(), mask.float(), mask.double()):
        assert torch.equal(make(cls, **MULTI)(x, label, same), expected)
    assert torch.allclose(make(cls, **MULTI)(x, label, mask.bool().expand(2, 3, 7)), expected, rtol=1e-6)


@every_loss
def test_unannotated_classes_have_no_gradient(cls):
    x, label = cases.blocks(2, 3, 17, 16)
    classes = torch.tensor([[True, True, False], [True, True, True]])
    loss = make(cls, sigmoid=True, to_onehot_y=True)
    _, gradient = cases.value_and_gradient(loss, x, {"label": label, "classes": classes})
    assert not gradient[0, 2].any()
    assert gradient[1, 2].any()


@pytest.mark.parametrize(
    "cls",
    # what the structural loss gives a voxel depends on all others
    [c for c in cases.CLASSES if cases.width(c, 2) == 2 and cases.means_all(c) and "Structural" not in c.__name__],
    ids=lambda cls: cls.__name__,
)
def test_unannotated_classes_do_not_count_in_the_mean(cls):
    x, label = cases.blocks(2, 3, 9, 8)
    classes = torch.tensor([[True, True, False], [True, True, True]])
    value = make(cls, sigmoid=True, to_onehot_y=True)(x, {"label": label, "classes": classes})
    each = make(cls, sigmoid=True, to_onehot_y=True, reduction="none")(x, label)
    assert torch.allclose(value, each[classes].mean())


def test_ignore_index_in_channels():
    x, label = cases.logits(2, 3, 6), cases.indices(2, 3, 6)
    target = cases.one_hot(label, 3)
    expected = SoftDiceLoss(**MULTI, ignore_index=2)(x, label)
    assert torch.equal(SoftDiceLoss(softmax=True, ignore_index=2)(x, target), expected)
    unknown = target.clone()
    unknown[:, 1, 3] = 255
    mask = torch.ones(2, 3, 6)
    mask[:, 1, 3] = 0
    expected = SoftDiceLoss(sigmoid=True)(x, target, mask)
    assert torch.equal(SoftDiceLoss(sigmoid=True, ignore_index=255)(x, unknown), expected)


# --------------------------------------------------------------------------------------------- purity, pickle, compile


@every_loss
def test_forward_changes_no_state(cls):
    loss = make(cls, **MULTI, weight=[1.0, 2.0, 0.5])
    before = copy.deepcopy(vars(loss))
    x, label = cases.logits(2, 3, 5, dtype=torch.float16), cases.indices(2, 3, 5)
    x_before, label_before = x.clone(), label.clone()
    first, second = loss(x, label, label > 0), loss(x, label, label > 0)
    assert torch.equal(first, second)
    assert torch.equal(x, x_before)
    assert torch.equal(label, label_before)
    assert str(vars(loss)) == str(before)


@every_loss
def test_pickle_copy_and_state_dict(cls):
    x, label = cases.logits(2, 3, 5), cases.indices(2, 3, 5)
    loss = make(cls, **MULTI, weight=[1.0, 2.0, 0.5])
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert torch.equal(twin(x, label), loss(x, label))
    other = make(cls, **MULTI, weight=[1.0, 1.0, 1.0])
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(x, label), loss(x, label))


# where a graph breaks, torch looks at .grad of the tensors that it passes on, and comments on that
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@every_loss
@pytest.mark.parametrize("options", [MULTI, {"sigmoid": True}], ids=["softmax", "sigmoid"])
def test_compiled_in_one_graph_equals_eager(cls, options):
    torch.compiler.reset()
    multi = options is MULTI
    x = cases.logits(2, 3 if multi else 1, 4, 5, dtype=torch.float32)
    label = cases.indices(2, 3, 4, 5) if multi else cases.binary(2, 4, 5)
    mask = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(3))
    loss = make(cls, **options, ignore_index=255)
    compiled = torch.compile(loss, fullgraph=cases.entry_of(cls).graph, backend="aot_eager")
    for got, want in zip(
        cases.value_and_gradient(compiled, x, label, mask),
        cases.value_and_gradient(loss, x, label, mask),
        strict=True,
    ):
        assert torch.allclose(got, want, rtol=1e-6)
    label.flatten()[3] = 77
    with pytest.raises((ValueError, RuntimeError), match=r"77|out of range"):
        compiled(x, label, mask)


# torch's own default backend imports a module that uses its deprecated script_method
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_with_the_default_backend():
    torch.compiler.reset()
    x, label = cases.logits(2, 3, 4, 5, dtype=torch.float32), cases.indices(2, 3, 4, 5)
    loss = SoftDiceLoss(**MULTI)
    compiled = torch.compile(loss, fullgraph=True)
    for got, want in zip(
        cases.value_and_gradient(compiled, x, label), cases.value_and_gradient(loss, x, label), strict=True
    ):
        assert torch.allclose(got, want, rtol=1e-6)


# --------------------------------------------------------------------------------------------------------- it trains


@every_loss
@pytest.mark.parametrize(("convolution", "spatial"), [(torch.nn.Conv2d, (16, 16)), (torch.nn.Conv3d, (10, 10, 10))])
def test_overfits_a_tiny_case_in_forty_steps(cls, convolution, spatial):
    torch.manual_seed(0)
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, n) for n in spatial], indexing="ij"))
    target = (grid.square().sum(0) < 0.4).float()[None, None]
    image = target + 0.3 * torch.randn(1, 1, *spatial)
    network = torch.nn.Sequential(convolution(1, 8, 3, padding=1), torch.nn.ReLU(), convolution(8, 1, 3, padding=1))
    optimizer, terms = torch.optim.Adam(network.parameters(), lr=0.03), [make(cls, sigmoid=True)]
    if cases.entry_of(cls).partner:
        terms.append(getattr(losses, cases.entry_of(cls).partner)(sigmoid=True))
    for _ in range(40):
        optimizer.zero_grad()
        sum(loss(network(image), target) for loss in terms).backward()
        optimizer.step()
    predicted = network(image) > 0
    dice = 2 * (predicted & target.bool()).sum() / (predicted.sum() + target.sum())
    assert dice > 0.9


def test_oracle_itself_on_a_hand_computed_case():
    p, g = np.array([[[0.9, 0.4, 0.2, 0.1]]]), np.array([[[1, 1, 0, 0]]])
    none = {"smooth_nr": 0.0, "smooth_dr": 0.0}
    assert oracle("SoftDiceLoss", none, p, g) == pytest.approx(1 - 2.6 / 3.6)
    assert oracle("SoftTverskyLoss", {**none, "alpha": 0.3, "beta": 0.7}, p, g) == pytest.approx(1 - 1.3 / 1.88)
