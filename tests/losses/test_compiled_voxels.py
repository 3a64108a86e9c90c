"""The compiled loops over voxels: cross-entropies, and sums of a distance map times the probability."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from monai_lossext.losses import (
    BalancedCrossEntropyLoss,
    BoundaryDistanceLoss,
    DistanceMapCrossEntropyLoss,
    FocalCrossEntropyLoss,
    TopKCrossEntropyLoss,
    WeightedCrossEntropyLoss,
    compiled,
    fused,
    likelihoods,
    map_sums,
    voxel_kernels,
)
from monai_lossext.losses.paths import plain_path, uncompiled_path
from monai_lossext.losses.reading import Rules

from . import cases

SHAPE = (2, 3, 40, 30, 20)
MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
LOSSES: dict[str, tuple[Any, str]] = {
    "plain": (WeightedCrossEntropyLoss(sigmoid=True), ""),
    "pos_weight": (WeightedCrossEntropyLoss(sigmoid=True, pos_weight=3.0), ""),
    "prior": (WeightedCrossEntropyLoss(sigmoid=True, prior=[0.2, 0.1, 0.5]), ""),
    "class weights": (WeightedCrossEntropyLoss(sigmoid=True, weight=[1.0, 0.0, 2.0]), ""),
    "sum": (WeightedCrossEntropyLoss(sigmoid=True, reduction="sum"), ""),
    "labels": (WeightedCrossEntropyLoss(sigmoid=True, to_onehot_y=True), ""),
    "balanced": (BalancedCrossEntropyLoss(sigmoid=True), ""),
    "normalized": (WeightedCrossEntropyLoss(sigmoid=True, pos_weight=3.0, normalize="weights"), ""),
    "focal": (FocalCrossEntropyLoss(sigmoid=True), ""),
    "focal, 1": (FocalCrossEntropyLoss(sigmoid=True, gamma=1.0, alpha=0.3), ""),
    "focal, 3.5": (FocalCrossEntropyLoss(sigmoid=True, gamma=3.5), ""),
    "top k": (TopKCrossEntropyLoss(sigmoid=True), ""),
    "labels, softmax": (WeightedCrossEntropyLoss(**MULTI), ""),
    "labels, softmax, sum": (WeightedCrossEntropyLoss(**MULTI, pos_weight=3.0, reduction="sum"), ""),
    "labels, softmax, class weights": (WeightedCrossEntropyLoss(**MULTI, weight=[1.0, 0.0, 2.0]), ""),
    "labels, softmax, normalized": (WeightedCrossEntropyLoss(**MULTI, pos_weight=3.0, normalize="weights"), ""),
    "labels, softmax, balanced": (BalancedCrossEntropyLoss(**MULTI), ""),
    "labels, softmax, focal": (FocalCrossEntropyLoss(**MULTI), ""),
    "labels, softmax, focal, 1": (FocalCrossEntropyLoss(**MULTI, gamma=1.0, alpha=0.3), ""),
    "labels, softmax, focal, 3.5": (FocalCrossEntropyLoss(**MULTI, gamma=3.5), ""),
    "labels, softmax, top k": (TopKCrossEntropyLoss(**MULTI, k=30.0), ""),
    "labels, softmax, threshold": (TopKCrossEntropyLoss(**MULTI, threshold=0.4), ""),
    "labels, softmax, penalties": (DistanceMapCrossEntropyLoss(**MULTI), "penalty_map"),
    "penalties": (DistanceMapCrossEntropyLoss(sigmoid=True), "penalty_map"),
    "boundary": (BoundaryDistanceLoss(sigmoid=True), "distance_map"),
    "boundary, full": (BoundaryDistanceLoss(sigmoid=True, inside="full", normalize=False), "distance_map"),
    "boundary, softmax": (BoundaryDistanceLoss(softmax=True), "distance_map"),
    "boundary, background": (BoundaryDistanceLoss(softmax=True, include_background=False), "distance_map"),
    "boundary, sigmoid": (BoundaryDistanceLoss(sigmoid=True, include_background=False), "distance_map"),
    "boundary, labels": (BoundaryDistanceLoss(softmax=True, to_onehot_y=True, normalize=True), "distance_map"),
}


def volume(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(SHAPE, generator=generator), torch.rand(SHAPE, generator=generator)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the loops that were run."""
    names: list[str] = []
    for module, name in ((likelihoods, "cross_entropy"), (map_sums, "map_sums"), (map_sums, "map_slopes")):
        original = getattr(module, name)

        def noting(*args: Any, name: str = name, original: Any = original) -> Any:
            names.append(name)
            return original(*args)

        monkeypatch.setattr(module, name, noting)
    return names


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", [*LOSSES])
def test_loops_are_taken_and_compute_what_the_plain_path_does(calls: list[str], name: str, soft: bool) -> None:
    loss, key = LOSSES[name]
    x, target = volume()
    label = target[:, :1].mul(3).floor()
    target = label if "labels" in name else target if soft else (target > 0.7).float()
    given: Any = target
    if key:
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        given = {"label": target, key: noise if key == "distance_map" else noise.abs()}
    value, gradient = cases.value_and_gradient(lambda z: loss(z, given), x)
    assert calls == (["map_sums", "map_slopes"] if key == "distance_map" else ["cross_entropy"])
    with plain_path():
        expected, slope = cases.value_and_gradient(lambda z: loss(z, given), x.double())
    torch.testing.assert_close(value, expected.float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, slope.float(), rtol=1e-6, atol=1e-6 * slope.abs().max().item())


@pytest.mark.parametrize(
    "what",
    [
        "gamma",
        "mask",
        "ignored",
        "classes",
        "focal",
        "background",
        "none",
        "half",
        "strided",
        "shares",
        "softmax background",
    ],
)
def test_all_else_goes_the_other_ways(calls: list[str], what: str) -> None:
    x, target = volume()
    target, mask = (target > 0.7).float(), None
    options: dict[str, Any] = {
        "ignored": {"ignore_index": 2},
        "background": {"include_background": False},
        "focal": {"gamma": 0.5},
        "gamma": {"gamma": 7.0},
        "shares": {"softmax": True},
        "softmax background": {**MULTI, "include_background": False},
        "none": {"reduction": "none"},
    }.get(what, {})
    given: Any = {"label": target, "classes": torch.tensor([[1, 0, 1], [1, 1, 1]])} if what == "classes" else target
    if what == "mask":
        mask = torch.ones(2, 1, *SHAPE[2:])
        mask[0, 0, 0] = 0.5
    elif what == "ignored":
        target[0, 2] = 1.0  # of the ignored channel
    elif what == "half":
        x = x.bfloat16()
    elif what == "strided":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    elif what == "softmax background":
        given = target[:, :1]
    options = options if "softmax" in options else {"sigmoid": True, **options}
    loss = (FocalCrossEntropyLoss if "gamma" in options else WeightedCrossEntropyLoss)(**options)
    x.requires_grad_()
    loss(x, given, mask).sum().backward()
    assert calls == []
    assert x.grad is not None


def test_options_that_are_not_used_change_no_bit(calls: list[str]) -> None:
    x, target = volume()
    loss = WeightedCrossEntropyLoss(sigmoid=True)
    value, gradient = cases.value_and_gradient(lambda z: loss(z, target), x)
    classes = {"label": target, "classes": torch.ones(SHAPE[:2])}
    ones = torch.ones(SHAPE)
    ignoring = WeightedCrossEntropyLoss(sigmoid=True, ignore_index=255)
    for other in (lambda z: loss(z, classes), lambda z: loss(z, target, ones), lambda z: ignoring(z, target)):
        again, slope = cases.value_and_gradient(other, x)
        assert torch.equal(again, value)
        assert torch.equal(slope, gradient)
    assert calls == ["cross_entropy"] * 4


def test_without_gradient_and_again_and_twice() -> None:
    x, target = volume()
    loss = WeightedCrossEntropyLoss(sigmoid=True)
    with torch.no_grad():
        alone = loss(x, target)
    x.requires_grad_()
    value = loss(x, target)
    assert torch.equal(alone, value.detach())
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    (second,) = torch.autograd.grad(value, x, torch.tensor(2.0))
    torch.testing.assert_close(second, 2 * first)
    small, some = x[:, :, :2, :2, :2].detach().double().requires_grad_(), target[:, :, :2, :2, :2].double()
    assert torch.autograd.gradgradcheck(lambda z: loss(z, some), small)
    (slope,) = torch.autograd.grad(loss(x, target), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    with plain_path():
        (slope,) = torch.autograd.grad(loss(x, target), x, create_graph=True)
        (expected,) = torch.autograd.grad(slope.square().sum(), x)
    torch.testing.assert_close(curvature, expected)


def test_the_number_of_threads_changes_no_bit() -> None:
    x, target = volume()
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(cases.value_and_gradient(lambda z: WeightedCrossEntropyLoss(sigmoid=True)(z, target), x))
    finally:
        torch.set_num_threads(before)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_loops_have_memory_of_processors_whatever_the_default_device_is() -> None:
    """Of another device's memory they would read addresses that are none."""
    x, target = volume()
    phi, label = target - 0.5, target[:, :1].mul(3).floor()
    recipe, rules = fused.Recipe(Rules(True, 3, None, False), "softmax", "negatives"), Rules(False, 3, None, True)
    table = torch.ones(x.shape[:2])

    def results() -> list[torch.Tensor | float | None]:
        total = compiled.cross_entropy(x, target, rules, False, table, table, None, 1.0, 2.0, 1.0, True)
        assert total is not None
        slopes = compiled.map_slopes(x, phi, "softmax", 0, 1.0, table.double())
        sums = compiled.Loops.over(x, label, recipe).sums()
        return [*total, slopes, compiled.map_sums(x, phi, "softmax", 0, 1.0), sums]

    expected = results()
    with torch.device("meta"):
        got = results()
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan"), float("inf")])
def test_values_out_of_range_are_named(value: float) -> None:
    x, target = volume()
    target[1, 2, 3, 4, 5] = value
    with pytest.raises(ValueError, match=r"target holds .*expected values in \[0, 1\]"):
        WeightedCrossEntropyLoss(sigmoid=True)(x, target)


EXTREME = [-torch.inf, -1e30, -200.0, -86.5, -30.0, -1e-6, 0.0, 1e-6, 30.0, 86.5, 200.0, 1e30, torch.inf]


def agree_without_loops(loss: Any, x: torch.Tensor, target: torch.Tensor) -> None:
    value, gradient = cases.value_and_gradient(lambda z: loss(z, target), x)
    with uncompiled_path():
        expected, slope = cases.value_and_gradient(lambda z: loss(z, target), x)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("gamma", [None, 1.0, 2.0, 2.5])
def test_extreme_logits_are_what_they_are_without_loops(gamma: float | None) -> None:
    loss: Any = WeightedCrossEntropyLoss(sigmoid=True, reduction="sum")
    if gamma:
        loss = FocalCrossEntropyLoss(sigmoid=True, reduction="sum", gamma=gamma)
    for target in (0.0, 1.0, 0.25):
        for logit in EXTREME if gamma is None else EXTREME[1:-1]:
            agree_without_loops(loss, torch.full((1, 1, 1), logit), torch.full((1, 1, 1), target))


@pytest.mark.parametrize("gamma", [None, 1.0, 2.0, 2.5])
def test_extreme_gaps_are_what_they_are_without_loops(gamma: float | None) -> None:
    loss: Any = WeightedCrossEntropyLoss(**MULTI, reduction="sum")
    if gamma:
        loss = FocalCrossEntropyLoss(**MULTI, reduction="sum", gamma=gamma)
    for first in EXTREME[1:-1]:
        for second in EXTREME[1:-1]:
            for label in range(3):
                x = torch.tensor([first, second, 3.0]).view(1, 3, 1)
                agree_without_loops(loss, x, torch.full((1, 1, 1), label))


@pytest.mark.parametrize(
    "name", ["plain", "focal", "labels, softmax", "labels, softmax, focal", "boundary", "boundary, softmax"]
)
def test_a_nan_in_the_logits_is_not_hidden(name: str) -> None:
    x, target = volume()
    x[0, 1, 2, 3, 4] = float("nan")
    loss, key = LOSSES[name]
    target = target[:, :1].round() if "labels" in name else target
    given = {"label": target, key: torch.ones(SHAPE)} if key else target
    value, gradient = cases.value_and_gradient(lambda z: loss(z, given), x)
    assert value.isnan()
    assert gradient[0, 1, 2, 3, 4].isnan()
    assert gradient.isnan().sum() == (3 if "softmax" in name else 1)


@pytest.mark.parametrize("shape", [(), (20,), (3, 1, 1, 1)], ids=str)
def test_an_emphasis_of_fewer_dimensions_is_spread(calls: list[str], shape: tuple[int, ...]) -> None:
    factor = torch.rand(shape, generator=torch.Generator().manual_seed(0))

    class Emphasised(WeightedCrossEntropyLoss):
        def emphasis(self, reading: Any, voxels: Any) -> tuple[torch.Tensor, None]:
            return factor, None

    x, target = volume()
    value, gradient = cases.value_and_gradient(lambda z: Emphasised(sigmoid=True)(z, target), x)
    with plain_path():
        expected, slope = cases.value_and_gradient(lambda z: Emphasised(sigmoid=True)(z, target), x)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)
    assert calls == ["cross_entropy"]


def test_labels_out_of_range_are_named() -> None:
    x, target = volume()
    for label in (-1.0, 3.0, 0.5, float("nan")):
        labels = target[:, :1].round()
        labels[1, 0, 3, 4, 5] = label
        with pytest.raises(ValueError, match=r"target holds .*expected integer labels 0..2"):
            FocalCrossEntropyLoss(**MULTI)(x, labels)


def test_a_likelihood_of_its_own_is_used(calls: list[str]) -> None:
    class Squared(FocalCrossEntropyLoss):
        def likelihood(self, nll: torch.Tensor) -> torch.Tensor:
            return nll.square()

    x, target = volume()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(x, target.round(), reduction="none").square().mean()
    torch.testing.assert_close(Squared(sigmoid=True)(x, target.round()), expected)
    assert calls == []


def test_log_is_right_to_the_last_place_but_one() -> None:
    e = np.concatenate([np.linspace(0, 1, 100_001), np.logspace(-37, 0, 1000)]).astype(np.float32)
    got = np.array([voxel_kernels.log_one_plus(value) for value in e])
    np.testing.assert_allclose(got, np.log1p(e.astype(np.float64)), rtol=2**-22)
    x = np.concatenate([np.linspace(0.5, 14, 10_001), np.logspace(-37, 30, 1000)]).astype(np.float32)
    got = np.array([voxel_kernels.log(value) for value in x])
    np.testing.assert_allclose(got, np.log(x.astype(np.float64)), rtol=2**-22, atol=2**-23)
