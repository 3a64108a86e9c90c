"""Boundary losses on firm, connected errors: the oracle, precomputed maps, masks, MONAI and kornia."""

from __future__ import annotations

import json
from pathlib import Path

import kornia.losses
import monai.losses
import numpy as np
import pytest
import torch

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    HausdorffCVLoss,
    HausdorffDistanceLoss,
    HausdorffERLoss,
)
from monai_lossext.losses.engine.distances import signed_distance
from monai_lossext.losses.paths import plain_path

from . import cases, checks

MULTI = {"softmax": True, "to_onehot_y": True}
ALL = [BoundaryDistanceLoss, HausdorffDistanceLoss, HausdorffERLoss, HausdorffCVLoss]
WITH_MAPS = [BoundaryDistanceLoss, HausdorffDistanceLoss]
every_loss = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
with_map = pytest.mark.parametrize("cls", WITH_MAPS, ids=lambda cls: cls.__name__)


def close(a: torch.Tensor, b: torch.Tensor, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=1e-12)


@every_loss
@pytest.mark.parametrize("shape", [(2, 2, 15), (1, 2, 9, 7), (1, 2, 5, 4, 6)], ids=str)
def test_firm_errors_equal_the_oracle(cls, shape):
    x, label = cases.blocks(*shape)
    for own in ({}, *cases.row_of(cls).variants):
        checks.equals_oracle(cls, {**MULTI, **own, "reduction": "none"}, x, label)
    assert cases.make(cls, **MULTI)(x, label).abs() > 1e-3


@with_map
def test_spacing_of_each_axis_equals_the_oracle(cls):
    x, label = cases.blocks(1, 2, 6, 5, 4)
    for spacing in ((2.0, 0.5, 1.0), (3.0, 1.0, 4.0)):
        checks.equals_oracle(cls, {**MULTI, "spacing": spacing}, x, label)


def test_the_example_map():
    text = Path(__file__).with_name("worked_examples.json").read_text()
    (example,) = [e for e in json.loads(text)["examples"] if e["name"] == "boundary_shiftFalse"]
    g = torch.tensor(example["g"], dtype=torch.float64)
    np.testing.assert_allclose(signed_distance(g > 0.5, None, torch.float64).numpy().ravel(), np.ravel(example["phi"]))


@with_map
@pytest.mark.parametrize("spacing", [None, (2.0, 1.0)], ids=str)
@pytest.mark.parametrize("include_background", [True, False])
def test_a_precomputed_map_gives_the_same_number(cls, spacing, include_background):
    x, label = cases.blocks(2, 3, 9, 8)
    distance_map = signed_distance(cases.one_hot(label, 3) > 0, spacing, torch.float64)
    for own in ({}, *cases.row_of(cls).variants):
        options = {**MULTI, "include_background": include_background, **own, "spacing": spacing}
        target = {"label": label, "distance_map": distance_map}
        expected = cases.value_and_gradient(cls(**options), x, label)
        for got, want in zip(cases.value_and_gradient(cls(**options), x, target), expected, strict=True):
            assert torch.equal(got, want)
    other = cls(**MULTI)(x, {"label": label, "distance_map": 2 * distance_map})
    assert abs(other - cls(**MULTI)(x, label)) > 1e-3
    with pytest.raises(AssertionError, match=r"distance_map must have the input's shape \(2, 3, 9, 8\), got \(2, 1, 9"):
        cls(**MULTI)(x, {"label": label, "distance_map": distance_map[:, :1]})


@every_loss
def test_masked_voxels_matter_neither_in_logits_nor_in_labels_nor_in_maps(cls):
    x, label = cases.blocks(2, 3, 12, 11)
    mask = torch.ones(2, 1, 12, 11)
    mask[..., 4:7] = 0
    loss = cases.make(cls, **MULTI)
    value, gradient = cases.value_and_gradient(loss, x, label, mask)
    changed = torch.where(mask == 0, (label + 1) % 3, label)
    for spoilt, other in ((torch.where(mask == 0, 40.0, x), label), (x, changed)):
        got, got_gradient = cases.value_and_gradient(loss, spoilt, other, mask)
        assert torch.equal(got, value)
        assert torch.equal(got_gradient, gradient)
    assert not gradient[..., 4:7].any()
    distance_map = torch.where(mask == 0, torch.nan, signed_distance(cases.one_hot(label, 3) > 0, None, torch.float64))
    assert torch.isfinite(loss(x, {"label": label, "distance_map": distance_map, "mask": mask}))


@with_map
@pytest.mark.parametrize(
    "options", [{"sigmoid": True}, {"softmax": True}, {**MULTI, "include_background": False}], ids=str
)
@pytest.mark.parametrize("shape", [(3, 2, 700), (5, 3, 40, 41), (1, 4, 40, 41, 42)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_kernels_equal_the_plain_way(cls, options, shape, dtype):
    x = 4 * cases.logits(*shape, dtype=torch.float32).to(dtype)
    phi = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    label = cases.indices(*shape)
    target = {"label": label if "to_onehot_y" in options else cases.one_hot(label, shape[1]), "distance_map": phi}
    own = {"one_sided": True} if cls is HausdorffDistanceLoss else {}
    loss = cls(**options, **own, reduction="none")
    upstream = torch.rand(loss(x, target).shape, generator=torch.Generator().manual_seed(2))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 1e-2)
    for turned in (x, x.transpose(0, -1).contiguous().transpose(0, -1)):
        value, gradient = cases.value_and_gradient(lambda z: upstream * loss(z, target), turned)
        with plain_path():
            expected, slope = cases.value_and_gradient(lambda z: upstream * loss(z, target), turned)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient, slope, rtol=tolerance, atol=tolerance * slope.abs().max().item())


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@with_map
def test_the_gradient_of_sure_predictions_does_not_vanish(cls, activation):
    """A gap of 40 leaves a slope of 4e-18; what remains of 1 - p in float32 is nothing."""
    x, phi = torch.zeros(1, 2, 30), torch.randn(1, 2, 30, generator=torch.Generator().manual_seed(1))
    x[:, 0] = torch.tensor([40.0, -40.0]).repeat(15)
    x[:, 1] = -x[:, 0] * (activation == "sigmoid")
    target = {"label": (x < 0).float(), "distance_map": phi}
    own = {"one_sided": True} if cls is HausdorffDistanceLoss else {}
    loss = cls(**{activation: True}, **own)
    _, got = cases.value_and_gradient(loss, x, target)
    _, want = cases.value_and_gradient(loss, x.double(), target)
    assert (got != 0).any(1).all()
    if activation == "softmax":  # of the class that is not sure; the other's slope is the difference of equal numbers
        got, want = (slope.gather(1, x.argmin(1, keepdim=True)) for slope in (got, want))
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_normalized_maps_and_masks_go_together(dtype):
    x, label = cases.blocks(2, 3, 9, 8)
    distance_map = signed_distance(cases.one_hot(label, 3) > 0).to(dtype)
    ignored = label.clone()
    ignored[..., 2] = 255  # the deepest voxels
    loss = BoundaryDistanceLoss(**MULTI, inside="full", normalize=True, ignore_index=255, reduction="none")
    value = loss(x, {"label": ignored, "distance_map": distance_map})
    phi = distance_map.double()
    phi[..., 2] = 0
    expected = (phi / phi.abs().amax((2, 3), keepdim=True) * x.softmax(1)).sum((2, 3)) / (9 * 7)
    close(value, expected, rtol=1e-3 if dtype == torch.float16 else 1e-6)


@with_map
def test_with_a_map_the_loss_compiles_into_one_graph(cls):
    torch.compiler.reset()
    x, label = cases.blocks(2, 3, 9, 8)
    target = {"label": label, "distance_map": signed_distance(cases.one_hot(label, 3) > 0)}
    loss = cls(**MULTI, one_sided=True) if cls is HausdorffDistanceLoss else cls(**MULTI)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for got, want in zip(
        cases.value_and_gradient(compiled, x, target), cases.value_and_gradient(loss, x, target), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_the_boundary_loss_is_least_at_the_target():
    g = cases.binary(2, 6, 5)
    loss = BoundaryDistanceLoss(reduction="none")
    best = loss(g.double(), g)
    assert (best < 0.05).all()
    for seed in range(5):
        assert (loss(cases.logits(2, 1, 6, 5, seed=seed).sigmoid(), g) >= best).all()


@pytest.mark.parametrize("inside", ["shifted", "full"])
def test_the_boundary_gradient_points_out_of_the_target_and_into_it(inside):
    label = cases.blocks(1, 2, 10, 9)[1]
    g = label.double()
    loss = BoundaryDistanceLoss(inside=inside, spacing=(0.5, 3.0))
    _, gradient = cases.value_and_gradient(loss, torch.full_like(g, 0.5), label)
    assert (gradient[label == 0] > 0).all()
    assert (gradient[label == 1] <= 0).all()
    assert (gradient[label == 1] == 0).any() == (inside == "shifted")
    normalized = BoundaryDistanceLoss(inside=inside, normalize=True)
    _, gradient = cases.value_and_gradient(normalized, torch.full_like(g, 0.5), label)
    assert (gradient * g.numel()).abs().max() == pytest.approx(1)


def test_hausdorff_losses_are_zero_only_at_the_target():
    x, label = cases.blocks(1, 2, 10, 9)
    g = label.double()
    for cls in ALL[1:]:
        assert cases.make(cls)(g, label) == 0
        assert cases.make(cls)(1 - g, label) > 0
    two_sided, one_sided = (HausdorffDistanceLoss(one_sided=one)(x.softmax(1)[:, 1:], label) for one in (False, True))
    assert one_sided < two_sided


def test_far_errors_cost_more():
    g = torch.zeros(1, 1, 20, 20)
    g[..., :5, :5] = 1
    for cls in (HausdorffDistanceLoss, HausdorffCVLoss):
        values = []
        for place in (6, 14):
            p = g.clone()
            p[..., place : place + 5, place : place + 5] = 1
            values.append(cls(one_sided=True)(p, g) if cls is HausdorffDistanceLoss else cls(radii=(1, 4, 8))(p, g))
        assert values[1] > values[0]


def test_thick_errors_survive_more_erosions():
    values = []
    for size in (3, 5, 9):
        p = torch.zeros(1, 1, 15, 15)
        p[..., 3 : 3 + size, 3 : 3 + size] = 1
        values.append(HausdorffERLoss(normalize="rescale")(p, torch.zeros_like(p)).item())
    assert values[0] < values[1] < values[2]


def test_small_errors_are_eroded_away():
    g = torch.zeros(1, 1, 9, 9)
    for normalize in ("minmax", "rescale", "none"):
        value, gradient = cases.value_and_gradient(HausdorffERLoss(normalize=normalize), torch.full_like(g, 0.7), g)
        assert value == 0
        assert not gradient.any()
        assert HausdorffERLoss(normalize=normalize)(torch.full_like(g, 0.95), g) > 0


def test_the_extremes_of_an_erosion_are_constants_for_the_gradient():
    """Otherwise the largest error would be rewarded, because the others shrink as it grows."""
    p = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    p[..., 2:7, 2:7] = 0.95
    p[..., 4, 4] = 1.0
    _, gradient = cases.value_and_gradient(HausdorffERLoss(erosions=2), p, torch.zeros_like(p))
    assert (gradient >= 0).all()
    assert gradient[0, 0, 4, 4] > 0


def test_a_step_against_the_gradient_helps():
    x, label = cases.blocks(2, 2, 14, 12)
    for loss in (*(cases.make(cls, **MULTI) for cls in ALL), HausdorffERLoss(**MULTI, normalize="rescale")):
        value, gradient = cases.value_and_gradient(loss, x, label)
        assert loss(x - 1e-3 * gradient / gradient.norm(), label) < value


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (1, 2, 4, 5, 3)], ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
@pytest.mark.parametrize("include_background", [True, False])
def test_equals_monai(shape, activation, include_background):
    x, label = cases.logits(*shape, dtype=torch.float32), cases.indices(*shape)
    options = {activation: True, "to_onehot_y": True, "include_background": include_background}
    target = cases.one_hot(label, shape[1]).float()
    theirs = {key: value for key, value in options.items() if key != "to_onehot_y"}
    for ours, other in (
        (BoundaryDistanceLoss(**options), monai.losses.BoundaryLoss(**theirs)),
        (HausdorffDistanceLoss(**options), monai.losses.HausdorffDTLoss(**theirs)),
        (HausdorffDistanceLoss(**options, alpha=1.5), monai.losses.HausdorffDTLoss(**theirs, alpha=1.5)),
    ):
        expected = cases.value_and_gradient(other, x, target)
        for got, want in zip(cases.value_and_gradient(ours, x, label), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 2, 13, 12), (1, 2, 8, 9, 7)], ids=str)
def test_erosion_equals_kornia(shape):
    """The values: kornia's gradient runs through the extremes as well. Its kernel is in float32."""
    x, label = cases.blocks(*shape)
    p, erosions = x.softmax(1), 4
    theirs = (kornia.losses.HausdorffERLoss if len(shape) == 4 else kornia.losses.HausdorffERLoss3D)(k=erosions)
    ours = HausdorffERLoss(to_onehot_y=True, erosions=erosions)(p, label)
    assert ours > 0.1
    close(ours, theirs(p, label), rtol=1e-6)


def test_numbers_out_of_range():
    for cls, own, message in (
        (BoundaryDistanceLoss, {"inside": "half"}, "inside must be one of 'shifted', 'full', got 'half'"),
        (BoundaryDistanceLoss, {"spacing": 0.0}, "spacing must be one number or one a spatial axis"),
        (HausdorffDistanceLoss, {"alpha": 0.0}, "alpha must be a finite number above 0, got 0.0"),
        (HausdorffERLoss, {"erosions": 0}, "erosions must be a whole number of at least 1, got 0"),
        (HausdorffERLoss, {"normalize": "max"}, "normalize must be one of 'minmax', 'rescale', 'none', got 'max'"),
        (HausdorffCVLoss, {"radii": (0.5, 3)}, r"radii must be numbers of voxels, each at least 1, got \(0.5, 3\)"),
        (HausdorffCVLoss, {"radii": ()}, "radii must be numbers of voxels"),
    ):
        with pytest.raises(ValueError, match=message):
            cls(**own)
    x, label = cases.blocks(1, 2, 6, 5)
    with pytest.raises(ValueError, match="spacing has 3 values but there are 2 spatial dimensions"):
        BoundaryDistanceLoss(**MULTI, spacing=(1.0, 1.0, 1.0))(x, label)
