"""Kernels against torch's own operations, for all losses: kinds of targets, dtypes, layouts, extremes, threads."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    DiceCrossEntropyLoss,
    ExponentialLogarithmicLoss,
    FocalCrossEntropyLoss,
    LovaszSoftmaxLoss,
    MatthewsCorrelationLoss,
    RegionLoss,
    SensitivitySpecificityLoss,
    SoftDiceLoss,
    WeightedCrossEntropyLoss,
)
from monai_lossext.losses.engine import plain
from monai_lossext.losses.engine.cpu import kernels
from monai_lossext.losses.engine.reading import Rules
from monai_lossext.losses.paths import kernels_available, plain_path

from .. import cases, checks
from . import fuzz

pytestmark = pytest.mark.skipif(not kernels_available(), reason="there is nothing to compare")
MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
every_loss = pytest.mark.parametrize("cls", cases.CLASSES, ids=lambda cls: cls.__name__)
REGION = [
    (cls, own) for cls in cases.CLASSES if issubclass(cls, RegionLoss) for own in ({}, *cases.row_of(cls).variants)
]
ONE_OF_EACH = [
    SoftDiceLoss,
    SensitivitySpecificityLoss,
    MatthewsCorrelationLoss,
    WeightedCrossEntropyLoss,
    FocalCrossEntropyLoss,
    LovaszSoftmaxLoss,
    DiceCrossEntropyLoss,
]
one_of_each = pytest.mark.parametrize("cls", ONE_OF_EACH, ids=lambda cls: cls.__name__)
SHAPE = (2, 3, 7, 9, 5)


@every_loss
def test_random_calls_agree(cls):
    for seed in range(16):
        one = fuzz.case(seed, cls)
        if cls is ExponentialLogarithmicLoss and one.x.dtype != torch.float64:
            continue  # float32 has too few digits of a likelihood near 1 for its steep powers
        assert not fuzz.disagreement(one), f"seed {seed}: {one}"


def test_the_comparison_can_fail(monkeypatch):
    one, wrong = fuzz.case(3, SoftDiceLoss), iter((0.0, 1e-3))
    assert not fuzz.disagreement(one)
    result = fuzz.Case.result
    monkeypatch.setattr(fuzz.Case, "result", lambda self, x: (result(self, x)[0] + next(wrong), result(self, x)[1]))
    assert "not close" in fuzz.disagreement(one)


def both(loss: Any, x: torch.Tensor, *rest: Any, least: float = 0.0) -> None:
    """Compare value and gradient of both ways."""
    value, gradient = cases.value_and_gradient(lambda z: loss(z, *rest).sum(), x)
    with plain_path():
        expected, slope = cases.value_and_gradient(lambda z: loss(z, *rest).sum(), x)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    exact = max(1e-6, torch.finfo(x.dtype).eps)  # half precision rounds the gradient
    torch.testing.assert_close(gradient, slope, rtol=exact, atol=max(exact * slope.abs().max().item(), least))


def random_case(channels: int = 3, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(2, channels, *SHAPE[2:], generator=generator, dtype=dtype) * 2
    return x, torch.randint(0, max(channels, 2), (2, 1, *SHAPE[2:]), generator=generator)


@pytest.mark.parametrize(("cls", "own"), REGION, ids=str)
def test_counts_of_all_kinds_of_targets_agree(cls, own):
    for kind in ("labels", "two labels", "one-hot", "soft", "sigmoid", "single", "given"):
        with checks.at(kind):
            channels = {"two labels": 2, "single": 1}.get(kind, 3)
            x, label = random_case(channels)
            options = {**cases.row_of(cls).base, **own}
            target = label
            if kind in ("labels", "two labels"):
                options |= MULTI
            else:
                target = label.float() if kind == "single" else cases.one_hot(label, channels)
                target = target.bool() if kind == "one-hot" else target
                options |= {"softmax": kind in ("one-hot", "soft"), "sigmoid": kind in ("sigmoid", "single")}
                target = 0.8 * target + 0.1 if kind == "soft" else target
                x = x.softmax(1) if kind == "given" else x
            joins = options.get("multiclass", False)
            if joins and kind in ("sigmoid", "single"):
                continue  # multiclass takes neither
            generator = torch.Generator().manual_seed(7)
            mask = (torch.rand(2, channels, *SHAPE[2:], generator=generator) - 0.3).clamp(min=0)
            both(cls(**options), x, target)
            both(cls(**options), x, target, mask[:, :1])
            both(cls(**options, batch=True), x, target)
            both(cls(**options, ignore_index=1 if "labels" in kind else 0), x, target)
            if kind == "soft":
                both(cls(**options, soft_label=False), x, target)
            if not joins:
                both(cls(**options), x, target, mask)
                both(
                    cls(**options), x, {"label": target, "classes": torch.rand(2, channels, generator=generator) > 0.3}
                )


# -------------------------------------------------------------------------------------------------- dtypes and layouts


@one_of_each
def test_other_precisions_agree(cls):
    for dtype, channels in itertools.product((torch.float16, torch.bfloat16, torch.float64), (1, 2, 3)):
        with checks.at(dtype, channels):
            x, label = random_case(channels, torch.float64)
            both(cls(**({"sigmoid": True} if channels == 1 else MULTI)), x.to(dtype), label)


@every_loss
def test_targets_of_all_dtypes_give_equal_bits(cls):
    for options in (MULTI, {"softmax": True}, {"sigmoid": True}):
        with checks.at(options):
            x, label = random_case()
            target = label if options is MULTI else cases.one_hot(label, 3)
            loss = cases.make(cls, **options)
            expected = cases.value_and_gradient(loss, x, target)
            for dtype in (*fuzz.INTEGERS, *fuzz.FLOATS):
                for got, want in zip(cases.value_and_gradient(loss, x, target.to(dtype)), expected, strict=True):
                    assert torch.equal(got, want), dtype
            expected = cases.value_and_gradient(loss, x, target.clamp(max=1))
            bits = target.to(torch.uint8).clamp(max=1)
            for same in (bits.bool(), (2 * bits).view(torch.bool), (255 * bits).view(torch.bool)):
                for got, want in zip(cases.value_and_gradient(loss, x, same), expected, strict=True):
                    assert torch.equal(got, want)


@one_of_each
def test_layouts_give_the_same(cls):
    for dtype, dimensions in itertools.product((torch.float32, torch.bfloat16), (2, 3)):
        with checks.at(dtype, dimensions):
            x, label = random_case(dtype=dtype)
            x, label = (x[..., 0], label[..., 0]) if dimensions == 2 else (x, label)
            loss = cls(**MULTI)
            value, gradient = cases.value_and_gradient(loss, x.contiguous(), label)
            last = x.contiguous(memory_format=torch.channels_last if dimensions == 2 else torch.channels_last_3d)
            turned = x.transpose(2, 3).contiguous().transpose(2, 3)
            labels = label.transpose(2, 3).contiguous().transpose(2, 3)
            for other, same in itertools.product((last, turned), (label, labels)):
                got, slope = cases.value_and_gradient(loss, other, same)
                torch.testing.assert_close(got, value, rtol=1e-6, atol=1e-7)
                torch.testing.assert_close(slope.contiguous(), gradient, rtol=1e-6, atol=1e-8)
            every_other = (slice(None), slice(None), *(slice(None, None, 2) for _ in x.shape[2:]))
            wide = torch.zeros(2, 3, *(2 * n for n in x.shape[2:]), dtype=dtype)
            wide[every_other] = x
            wide.requires_grad_()
            loss(wide[every_other], label).backward()
            torch.testing.assert_close(wide.grad[every_other], gradient, rtol=1e-6, atol=1e-8)
            wide.grad[every_other] = 0
            assert not wide.grad.any()


@one_of_each
def test_the_gradient_has_the_layout_of_the_input(cls):
    """Otherwise the network's backward pass begins with a copy."""
    x, label = random_case()
    x = x.contiguous(memory_format=torch.channels_last_3d)
    _, gradient = cases.value_and_gradient(cls(**MULTI), x, label)
    assert gradient.is_contiguous(memory_format=torch.channels_last_3d)


def test_negated_views_and_parts_of_complex_numbers_are_read():
    x, label = random_case()
    loss = SoftDiceLoss(**MULTI)
    expected = loss(-x, label)
    pairs = torch.view_as_complex(torch.stack([x, -x], -1))
    for view in (torch._neg_view(x), pairs.imag, pairs.conj().imag.neg()):
        torch.testing.assert_close(loss(view, label), expected)


# ------------------------------------------------------------------------------------------------------------ extremes


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("size", [30.0, 80.0, 500.0])
def test_extreme_logits_keep_the_slope_of_the_plain_way(channels, size):
    label = torch.tensor([[[0, 1, 2, 0, 1, 2]]])
    x = torch.zeros(1, 3, 6).scatter_(1, (label + 1) % 3, size)
    if channels == 1:
        both(SoftDiceLoss(sigmoid=True), x[:, :1] - size / 2, (label == 1).float())
    else:
        both(SoftDiceLoss(**MULTI), x[:, :channels], label.clamp(max=channels - 1))


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("cls", [cls for cls in cases.CLASSES if issubclass(cls, RegionLoss)], ids=lambda c: c.__name__)
def test_two_classes_of_which_one_is_nearly_full(cls):
    """The other one's sums are tiny, and not what rounding left of a difference."""
    for gap in (20.0, 40.0, 60.0, 80.0):
        with checks.at(gap):
            generator = torch.Generator().manual_seed(0)
            label = torch.zeros(1, 1, 4000, dtype=torch.int64)
            label[..., :3] = 1
            x = torch.zeros(1, 2, 4000)
            x[:, 1] = -gap + torch.rand(4000, generator=generator)
            for fill in (label, 1 - label, torch.zeros_like(label), torch.ones_like(label)):
                value, gradient = cases.value_and_gradient(cls(**MULTI), x, fill)
                exact, slope = cases.value_and_gradient(cls(**MULTI), x.double(), fill)
                slope[:, 0] = -slope[:, 1]  # which float64 rounds away at 40, as a difference of equal numbers
                torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-7)
                torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-38)


EXTREME = [-torch.inf, -1e30, -200.0, -86.5, -30.0, -1e-6, 0.0, 1e-6, 30.0, 86.5, 200.0, 1e30, torch.inf]


def of_gamma(gamma: float | None, **options: Any) -> Any:
    if gamma is None:
        return WeightedCrossEntropyLoss(**options, reduction="sum")
    return FocalCrossEntropyLoss(**options, reduction="sum", gamma=gamma)


@pytest.mark.parametrize("gamma", [None, 1.0, 2.0, 2.5])
def test_extreme_logits_are_what_they_are_in_the_plain_way(gamma):
    loss = of_gamma(gamma, sigmoid=True)
    for target in (0.0, 1.0, 0.25):
        for logit in EXTREME if gamma is None else EXTREME[1:-1]:
            both(loss, torch.full((1, 1, 1), logit), torch.full((1, 1, 1), target), least=1e-6)


@pytest.mark.parametrize("gamma", [None, 1.0, 2.0, 2.5])
def test_extreme_gaps_are_what_they_are_in_the_plain_way(gamma):
    loss = of_gamma(gamma, **MULTI)
    for first, second, label in itertools.product(EXTREME[1:-1], EXTREME[1:-1], range(3)):
        both(loss, torch.tensor([first, second, 3.0]).view(1, 3, 1), torch.full((1, 1, 1), label), least=1e-6)


def test_merged_classes_are_exact_however_far_they_lie_apart():
    """Classes 1 and 3 were not annotated; the others of a voxel may leave nothing of them, nor of each other."""
    gaps = EXTREME[2:-2]
    x = torch.tensor(list(itertools.product(gaps, repeat=4))[::7]).mT[None]
    classes, label = cases.partial("1010"), torch.arange(x.shape[2]).view(1, 1, -1) % 4
    for cls, shares in itertools.product((SoftDiceLoss, WeightedCrossEntropyLoss), (False, True)):
        with checks.at(cls, shares):
            target = cases.one_hot(label, 4).float() if shares else label
            loss = cls(softmax=True, to_onehot_y=not shares)
            both(loss, x, {"label": target, "classes": classes})
            both(loss, x.double(), {"label": target, "classes": classes})


def test_ignored_elements_of_merged_classes_are_no_shares():
    x, label = random_case(4)
    target = cases.one_hot(label, 4).masked_fill(torch.arange(4).view(1, 4, 1, 1, 1) == 3, 255)
    both(SoftDiceLoss(softmax=True, ignore_index=255), x, {"label": target, "classes": cases.partial("1100", "1010")})


def test_likelihoods_of_given_probabilities_are_right_to_the_last_places():
    """In float32 too, where the probability is nearly 1."""
    p = torch.cat([1 - torch.logspace(-6.9, -1, 60), torch.logspace(-6.9, 0, 60)[:-1]])
    p = torch.cat([p, 1 - p]).view(1, 1, -1)
    loss = WeightedCrossEntropyLoss(reduction="sum")
    for value in (0.0, 1.0):
        for part in p.unbind(2):
            x, target = part[..., None], torch.full((1, 1, 1), value)
            torch.testing.assert_close(loss(x, target).double(), loss(x.double(), target), rtol=1e-6, atol=0)


@pytest.mark.parametrize("sure", [False, True])
def test_probabilities_and_logarithms_are_right_to_the_last_places(sure):
    """Of each voxel by itself, against float64: the sums of many would hide it."""
    z = torch.cat([torch.linspace(-59, 59, 100_001), torch.logspace(-37, 1, 1000), -torch.logspace(-37, 1, 1000)])
    x, target = z.view(1, 1, -1), torch.full((1, 1, z.numel()), 1.0 if sure else 0.0)
    loss = WeightedCrossEntropyLoss(sigmoid=True, reduction="sum")
    _, gradient = cases.value_and_gradient(loss, x, target)
    exact = torch.sigmoid(-z.double()).neg() if sure else torch.sigmoid(z.double())
    torch.testing.assert_close(gradient.flatten().double(), exact, rtol=1e-6, atol=1e-37)
    for start in range(0, z.numel(), 997):
        part = x[..., start : start + 1]
        got = loss(part, target[..., :1]).double()
        want = torch.nn.functional.softplus(-part.double() if sure else part.double(), threshold=1e9).sum()
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-37)


@one_of_each
def test_a_nan_in_the_logits_is_not_hidden(cls):
    for channels in (1, 2, 3):
        with checks.at(channels):
            x, label = random_case(channels)
            x[0, 0, 1, 2, 3] = float("nan")
            loss = cls(**({"sigmoid": True} if channels == 1 else MULTI))
            value, gradient = cases.value_and_gradient(loss, x, label)
            assert value.isnan()
            assert gradient[0, :, 1, 2, 3].isnan().all()
            assert torch.isfinite(loss(torch.nan_to_num(x), label))


@pytest.mark.parametrize("loss", [WeightedCrossEntropyLoss, FocalCrossEntropyLoss, BoundaryDistanceLoss])
@pytest.mark.parametrize("options", [{"sigmoid": True}, {"softmax": True}], ids=str)
def test_a_nan_spoils_the_gradient_of_its_voxel_alone(loss, options):
    x, label = random_case()
    x[0, 1, 2, 3, 4] = float("nan")
    target = cases.one_hot(label, 3)
    maps = {"distance_map": torch.ones(SHAPE)} if loss is BoundaryDistanceLoss else {}
    value, gradient = cases.value_and_gradient(loss(**options), x, {"label": target, **maps})
    assert value.isnan()
    assert gradient[0, 1, 2, 3, 4].isnan()
    assert gradient.isnan().sum() == (3 if "softmax" in options else 1)


# --------------------------------------------------------------------------------------- second derivatives, threads


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_gradcheck_and_second_derivatives(channels, soft):
    x, label = random_case(channels, torch.float64)
    x = x[:, :, :3, :2, :2].contiguous().requires_grad_()
    label = label[:, :, :3, :2, :2]
    options = {"sigmoid": True} if channels == 1 else {"softmax": True}
    target: Any = cases.one_hot(label, channels) if channels > 1 else label
    target = 0.8 * target + 0.1 if soft else target
    for cls, own in REGION:
        if not (own.get("multiclass") and channels == 1):
            loss = cls(**options, **own)
            assert torch.autograd.gradcheck(lambda z: loss(z, target), x)  # noqa: B023
    for cls in ONE_OF_EACH:
        loss = cls(**options)
        assert torch.autograd.gradgradcheck(lambda z: loss(z, target), x)  # noqa: B023


@one_of_each
def test_a_second_derivative_is_that_of_the_plain_way(cls):
    x, label = random_case()
    loss = cls(**MULTI)

    def curvature() -> torch.Tensor:
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(z, label), z, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), z)[0]

    got = curvature()
    with plain_path():
        expected = curvature()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@one_of_each
def test_the_number_of_threads_changes_no_bit(cls):
    for channels, masked in itertools.product((1, 2, 4), (False, True)):
        with checks.at(channels, masked):
            generator = torch.Generator().manual_seed(channels)
            x = torch.randn(2, channels, 40, 30, 48, generator=generator)
            label = torch.randint(0, max(channels, 2), (2, 1, 40, 30, 48), generator=generator)
            mask = torch.rand(2, 1, 40, 30, 48, generator=generator) if masked else None
            loss, results = cls(**(MULTI if channels > 1 else {"sigmoid": True})), []
            before = torch.get_num_threads()
            try:
                for threads in (1, 2, 3, 7):
                    torch.set_num_threads(threads)
                    results.append(cases.value_and_gradient(loss, x, label, mask))
            finally:
                torch.set_num_threads(before)
            for value, gradient in results[1:]:
                assert torch.equal(value, results[0][0])
                assert torch.equal(gradient, results[0][1])


def test_another_number_of_threads_before_the_backward_pass_changes_nothing():
    x = torch.randn(1, 1, 400, 400, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.zeros(1, 1, 400, 400)
    target[..., 13:15, 5:30] = 1  # most parts are empty
    _, expected = cases.value_and_gradient(SoftDiceLoss(sigmoid=True), x.detach(), target)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        value = SoftDiceLoss(sigmoid=True)(x, target)
        torch.set_num_threads(3)
        (gradient,) = torch.autograd.grad(value, x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(gradient, expected)


@one_of_each
def test_several_threads_may_compute_losses_at_once(cls):
    x, label = random_case()
    loss = cls(**MULTI)
    expected = cases.value_and_gradient(loss, x, label)
    with ThreadPoolExecutor(4) as callers:
        calls = [callers.submit(cases.value_and_gradient, loss, x, label) for _ in range(16)]
        for got in calls:
            assert all(torch.equal(*both) for both in zip(got.result(), expected, strict=True))


@every_loss
def test_without_gradient_and_again(cls):
    x, label = random_case()
    loss = cases.make(cls, **MULTI)
    with torch.no_grad():
        alone = loss(x, label)
    x.requires_grad_()
    value = loss(x, label)
    torch.testing.assert_close(alone, value.detach(), rtol=1e-6, atol=1e-7)
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    (second,) = torch.autograd.grad(value, x, torch.tensor(2.0))
    torch.testing.assert_close(second, 2 * first)


def test_negative_labels_are_found_among_more_classes_than_a_byte_tells_apart():
    x, label = torch.zeros(1, 300, 8), torch.zeros(1, 1, 8, dtype=torch.int8)
    label[0, 0, 3] = -1
    with pytest.raises(ValueError, match="target holds -1"):
        SoftDiceLoss(**MULTI)(x, label)


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("space", [(257, 257, 257), (1, 4099, 4099)])
def test_sizes_count_every_voxel(classes, space):
    """An odd number above 2^24, which float32 rounds; whether blocks can cut the volume or not."""
    label = torch.zeros(1, 1, *space, dtype=torch.uint8)
    label[..., 0] = 1
    x = torch.zeros(1, classes, 1, 1, 1).expand(-1, -1, *space)
    rules = Rules(classes > 1, classes, None, "softmax" if classes > 1 else "sigmoid")
    number, size = plain.sizes(rules, x, label, None, None)
    voxels, first = label.numel(), label.numel() // space[-1]
    assert number.tolist() == [[voxels] * classes]
    assert size.tolist() == [[voxels - first, first][-classes:]]


@one_of_each
def test_what_the_plain_form_found_it_differentiates(cls, monkeypatch):
    """Also where backward is called outside of the block that asks for it."""
    x, label = cases.logits(*SHAPE, dtype=torch.float32).requires_grad_(), cases.indices(*SHAPE)
    loss = cls(**MULTI)
    with plain_path():
        value = loss(x, label)
    called = []
    monkeypatch.setattr(kernels, "gradient", lambda *_: called.append(cls))
    value.backward()
    assert not called


@pytest.mark.parametrize(
    "seen", ["all", "mask", "NaN under a mask", "ignored", "ignored far away", "weights", "a class unannotated"]
)
@pytest.mark.parametrize("scale", [1, 30])
def test_two_classes_are_the_sigmoid_of_a_difference(seen, scale, monkeypatch):
    """The plain form computes one channel for both, in small blocks here; not where classes merge, or NaN is hidden."""
    taken = []
    by_slopes = plain.gradient_by_slopes
    monkeypatch.setattr(plain, "gradient_by_slopes", lambda *data: taken.append(seen) or by_slopes(*data))
    monkeypatch.setattr(plain, "BLOCK", 100)
    x, label = scale * cases.logits(2, 2, 7, 9, 5, dtype=torch.float32), cases.indices(2, 2, 7, 9, 5)
    weight = torch.rand(label.shape, generator=torch.Generator().manual_seed(0))
    mask: Any = None
    target: Any = label
    ignored = 255
    if "mask" in seen:
        mask = weight > 0.3
        x = x.masked_fill(~mask, torch.nan) if "NaN" in seen else x
    elif seen == "weights":
        mask = weight
    elif "ignored" in seen:
        ignored = ignored if seen == "ignored" else 2**32  # which int32 would wrap to 0
        target = label.masked_fill(weight < 0.3, ignored)
    elif seen == "a class unannotated":
        target = {"label": label.clamp(max=0), "classes": torch.tensor([[True, False], [True, True]])}
    for cls in (SoftDiceLoss, MatthewsCorrelationLoss, SensitivitySpecificityLoss):
        loss = cls(**MULTI, ignore_index=ignored)
        expected = cases.value_and_gradient(loss, x, target, mask)
        with plain_path():
            found = cases.value_and_gradient(loss, x, target, mask)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert bool(taken) == (seen not in ("a class unannotated", "NaN under a mask"))


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("layout", ["float32", "float64", "bfloat16", "channels-last"])
def test_a_second_backward_finds_what_the_first_one_found(channels, layout):
    """The plain form turns what it keeps into the gradient, which nobody may change afterwards."""
    dtype = torch.float32 if layout == "channels-last" else getattr(torch, layout)
    x = cases.logits(2, channels, 7, 9, 5, dtype=dtype)
    x = (x.to(memory_format=torch.channels_last_3d) if layout == "channels-last" else x).requires_grad_()
    options, label = (MULTI if channels == 2 else {"sigmoid": True}), cases.indices(2, max(channels, 2), 7, 9, 5)
    with plain_path():
        loss = SoftDiceLoss(**options)(x, cases.one_hot(label, channels) if channels == 3 else label)
        (first,) = torch.autograd.grad(loss, x, retain_graph=True)
        kept = first.clone()
        (second,) = torch.autograd.grad(loss, x, retain_graph=True)
        (third,) = torch.autograd.grad(loss, x)
    assert first.equal(kept)
    assert first.stride() == x.stride()
    assert kept.abs().max() > 0
    for other in (second, third):
        torch.testing.assert_close(other, first, rtol=1e-5 if dtype != torch.bfloat16 else 2**-7, atol=1e-9)
