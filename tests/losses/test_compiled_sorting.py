"""The compiled loops of the Lovasz losses against torch's sort."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_lossext.losses import LovaszHingeLoss, LovaszSoftmaxLoss, compiled, sorting_kernels
from monai_lossext.losses.paths import plain_path, uncompiled_path
from monai_lossext.losses.precision import probabilities
from monai_lossext.losses.reading import Rules

from . import cases

MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
SHAPE = (3, 4, 17, 13, 11)
LOSSES: dict[str, Any] = {
    "labels": LovaszSoftmaxLoss(**MULTI),
    "labels, all classes": LovaszSoftmaxLoss(**MULTI, classes="all"),
    "labels, formula": LovaszSoftmaxLoss(**MULTI, classes="all", empty="formula"),
    "labels, skip": LovaszSoftmaxLoss(**MULTI, classes="all", empty="skip"),
    "labels, foreground": LovaszSoftmaxLoss(**MULTI, include_background=False),
    "labels, batch": LovaszSoftmaxLoss(**MULTI, per_image=False),
    "labels, hinge": LovaszHingeLoss(to_onehot_y=True),
    "labels, sigmoid": LovaszSoftmaxLoss(sigmoid=True, to_onehot_y=True),
    "each class": LovaszSoftmaxLoss(sigmoid=True, reduction="none"),
    "soft": LovaszSoftmaxLoss(softmax=True),
    "soft, batch": LovaszSoftmaxLoss(sigmoid=True, per_image=False),
    "soft, hinge": LovaszHingeLoss(),
}


def volume() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(SHAPE, generator=generator), torch.rand(SHAPE, generator=generator)


def target_of(name: str, target: torch.Tensor) -> torch.Tensor:
    if "labels" in name:
        return target[:, :1].mul(3).floor()  # the last class is absent
    return target if "soft" in name else (target > torch.tensor([0.2, 0.9, 0.5, 1.0]).view(1, 4, 1, 1, 1)).float()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the errors that loops sorted."""
    shapes: list[tuple[int, ...]] = []

    original = compiled.jaccard_extension

    def noting(errors: torch.Tensor, *args: Any) -> Any:
        shapes.append(tuple(errors.shape))
        return original(errors, *args)

    monkeypatch.setattr(compiled, "jaccard_extension", noting)
    return shapes


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", [*LOSSES])
def test_loops_are_taken_and_compute_what_the_plain_path_does(
    calls: list[tuple[int, ...]], name: str, ties: bool
) -> None:
    x, target = volume()
    x = x.round() if ties else x
    loss, target = LOSSES[name], target_of(name, target)
    value, gradient = cases.value_and_gradient(lambda z: loss(z, target).sum(), x)
    assert calls == [
        (1, 4, 3 * 17 * 13 * 11) if "batch" in name else (3, 3 if "foreground" in name else 4, 17 * 13 * 11)
    ]
    with plain_path():
        expected, slope = cases.value_and_gradient(lambda z: loss(z, target).sum(), x)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    # By the formula, one voxel of an absent class has all the slope, and is so sure that differences of it are left.
    largest = 1 / 12 if "formula" in name else slope.abs().max().item()
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-6 * largest)
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [*compiled.READABLE])
def test_targets_of_all_types_are_read(calls: list[tuple[int, ...]], dtype: torch.dtype) -> None:
    x, target = volume()
    label = target[:, :1].mul(4).floor()
    loss = LovaszSoftmaxLoss(sigmoid=True, to_onehot_y=True)
    if dtype == torch.bool:  # of two classes
        x, label = x[:, :2].contiguous(), label > 1
    value, gradient = cases.value_and_gradient(lambda z: loss(z, label.to(dtype)), x)
    with plain_path():
        expected, slope = cases.value_and_gradient(lambda z: loss(z, label.long()), x)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-6 * slope.abs().max().item())
    assert len(calls) == 1


@pytest.mark.parametrize("what", ["mask", "classes", "ignored", "double", "foreground in channels"])
def test_all_else_goes_the_other_ways(calls: list[tuple[int, ...]], what: str) -> None:
    x, target = volume()
    target = target.round()
    options = {"ignored": {"ignore_index": 1}, "foreground in channels": {"include_background": False}}.get(what, {})
    given: Any = {"label": target}
    if what == "mask":
        given["mask"] = torch.rand(3, 1, *SHAPE[2:])
    elif what == "classes":
        given["classes"] = torch.arange(12).view(3, 4) > 0
    x = x.double() if what == "double" else x
    loss = LovaszSoftmaxLoss(sigmoid=True, **options)
    value, gradient = cases.value_and_gradient(lambda z: loss(z, given), x)
    with plain_path():
        expected, slope = cases.value_and_gradient(lambda z: loss(z, given), x)
    assert calls == []
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-6 * slope.abs().max().item())


def test_options_that_are_not_used_change_no_bit(calls: list[tuple[int, ...]]) -> None:
    x, target = volume()
    target = target.round()
    value, gradient = cases.value_and_gradient(lambda z: LovaszSoftmaxLoss(sigmoid=True)(z, target), x)
    ones, ignoring = torch.ones(SHAPE), LovaszSoftmaxLoss(sigmoid=True, ignore_index=-1)
    classes = {"label": target, "classes": torch.ones(SHAPE[:2])}
    for loss, *given in (
        (LovaszSoftmaxLoss(sigmoid=True), target, ones),
        (LovaszSoftmaxLoss(sigmoid=True), classes),
        (ignoring, target),
    ):
        again, slope = cases.value_and_gradient(lambda z: loss(z, *given), x)  # noqa: B023
        assert torch.equal(again, value)
        assert torch.equal(slope, gradient)
    assert len(calls) == 4


def test_a_target_that_is_written_into_is_found_out() -> None:
    x, target = volume()
    target = target.round()
    value = LovaszSoftmaxLoss(sigmoid=True)(x.requires_grad_(), target)
    target.neg_().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_soft_targets_that_are_met_leave_no_gradient(activation: str) -> None:
    x, _ = volume()
    value, gradient = cases.value_and_gradient(
        lambda z: LovaszSoftmaxLoss(**{activation: True})(z, probabilities(x, activation)), x
    )
    assert value.item() == 0
    assert gradient.count_nonzero() == 0


def test_the_number_of_threads_and_the_default_device_change_no_bit() -> None:
    x, target = volume()
    errors, label, rules = x.abs().flatten(2), target[:, :1].mul(4).floor().flatten(2), Rules(True, 4, None, True)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 20):
            torch.set_num_threads(threads)
            slopes = torch.empty_like(errors)
            with torch.device("meta" if threads == 3 else "cpu"):
                results.append((*compiled.jaccard_extension(errors, label, rules, 0, True, slopes), slopes))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(one, another) for one, another in zip(results[0], other, strict=True))


def test_order_is_that_of_a_stable_sort_from_large_to_small() -> None:
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    special = [0.0, -0.0, tiny, 1.0, 1.0, float("inf"), float("nan"), -1.0, 0.5, 0.5, -tiny, 3e38]
    noise = torch.randn(5000, generator=torch.Generator().manual_seed(0)).mul(3).round()
    for errors in (torch.tensor(special), noise, noise.exp(), torch.zeros(3)):
        keys, order, *other = (np.empty(len(errors), np.uint32) for _ in range(4))
        nothing = np.zeros(len(errors), np.float32)
        sorting_kernels.sort_descending(errors.numpy(), nothing, np.float32(0), 0, keys, order, *other)
        expected = errors[errors.isnan().logical_not()].sort(descending=True, stable=True)
        number = int(errors.isnan().sum())
        got = np.array([sorting_kernels.number_of_key(key) for key in keys])
        assert np.isnan(got[:number]).all()
        np.testing.assert_array_equal(got[number:], expected.values.numpy())
        np.testing.assert_array_equal(errors.numpy()[order], got)
        for value in np.unique(got[number:]):  # equal numbers in their order, but 0 before -0
            alike = order[number:][got[number:] == value]
            assert value == 0 or (np.diff(alike.astype(np.int64)) > 0).all()


def test_a_nan_in_the_logits_is_not_hidden() -> None:
    x, target = volume()
    x[1, 2, 3, 4, 5] = float("nan")
    value = LovaszSoftmaxLoss(sigmoid=True, reduction="none")(x, target.round())
    assert value.isnan().nonzero().tolist() == [[1, 2]]


def test_a_single_voxel_and_a_second_gradient() -> None:
    x = torch.tensor([[[0.3]]], requires_grad=True)
    loss = LovaszSoftmaxLoss(sigmoid=True)
    for target in (0.0, 0.4, 1.0):
        label = torch.full((1, 1, 1), target)
        with uncompiled_path():
            expected = torch.autograd.grad(loss(x, label), x)
        value = loss(x, label)
        first, again = (torch.autograd.grad(value, x, retain_graph=True) for _ in range(2))
        torch.testing.assert_close(first, expected)
        assert torch.equal(first[0], again[0])
