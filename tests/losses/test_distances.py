"""Distances inside masks, against SciPy's exact transform."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from monai_lossext.losses.engine import distances
from monai_lossext.losses.engine.distances import (
    border_penalty,
    checked_spacing,
    distance_inside,
    mean_distance,
    signed_distance,
)

SHAPES = [(2, 3, 17), (2, 2, 9, 14), (1, 2, 21, 5), (1, 2, 7, 4, 11), (2, 1, 1, 6, 5)]


def masks(shape: tuple[int, ...], share: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("scale", [None, 0.7, (0.5, 3.0, 1.25)], ids=str)
def test_equals_scipy(shape, share, scale):
    mask = masks(shape, share)
    mask[:, :, 0] = False
    mask[..., -1] = True
    if shape[2] == 1:
        mask[..., 0] = False
    spacing = scale[: len(shape) - 2] if isinstance(scale, tuple) else scale
    got = distance_inside(mask, spacing, torch.float64)
    for b, c in np.ndindex(shape[:2]):
        if mask[b, c].any() and not mask[b, c].all():
            expected = distance_transform_edt(mask[b, c].numpy(), sampling=spacing)
            exact = {"rtol": 1e-14} if spacing is None else {"rtol": 5e-6}  # ITK has positions in mm in float32
            np.testing.assert_allclose(got[b, c].numpy(), expected, **exact)


def test_a_large_volume_equals_scipy():
    mask = torch.ones(1, 1, 40, 70, 55, dtype=torch.bool)
    mask[0, 0, 3, 60, 50] = False
    expected = distance_transform_edt(mask[0, 0].numpy(), sampling=(3.0, 0.8, 0.8))
    np.testing.assert_allclose(distance_inside(mask, (3.0, 0.8, 0.8))[0, 0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize("spatial", [(5,), (4, 3), (2, 3, 4), (1, 1)], ids=str)
def test_empty_and_full_masks_have_no_border(fill, spatial):
    assert not distance_inside(torch.full((2, 1, *spatial), fill)).any()


def test_dtype_gradient_and_layout():
    mask = masks((2, 2, 6, 5), 0.6)
    expected = distance_inside(mask)
    assert expected.dtype == torch.float32
    assert not expected.requires_grad
    assert expected.shape == mask.shape
    assert not expected[~mask].any()
    assert (expected[mask] >= 1).all()
    turned = mask.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(distance_inside(turned), expected)
    assert torch.equal(distance_inside(mask.float().requires_grad_()), expected)


def test_spacing_is_checked():
    assert checked_spacing(2) == (2.0,)
    assert checked_spacing(None) is None
    for bad in (0.0, -1.0, float("nan"), (1.0, float("inf")), ()):
        with pytest.raises(ValueError, match="spacing must be one number or one a spatial axis, in mm"):
            checked_spacing(bad)
    with pytest.raises(ValueError, match="spacing has 3 values but there are 2 spatial dimensions"):
        distance_inside(torch.ones(1, 1, 4, 4), (1.0, 1.0, 1.0))


def blob(*spatial: int) -> torch.Tensor:
    """Return a (1, 1, *S) mask in the middle of the picture, much smaller than it."""
    mask = torch.zeros(1, 1, *spatial, dtype=torch.bool)
    mask[(0, 0, *(slice(n // 2, n // 2 + 3) for n in spatial))] = True
    return mask


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("scale", [None, (0.5, 3.0, 1.25)], ids=str)
def test_signed_distances_equal_scipy(shape, scale):
    spacing = None if scale is None else scale[: len(shape) - 2]
    scattered = masks(shape, 0.8)
    scattered[..., 0], scattered[..., -1] = False, True
    lonely = blob(*shape[2:]).expand(shape).clone()
    for mask in (scattered, lonely, torch.cat([lonely, ~lonely], 1)):
        got = signed_distance(mask, spacing, torch.float64)
        for b, c in np.ndindex(*mask.shape[:2]):
            one = mask[b, c].numpy()
            expected = np.zeros(one.shape)
            if one.any() and not one.all():
                away, deep = (distance_transform_edt(side, sampling=spacing) for side in (~one, one))
                expected = away - deep
            np.testing.assert_allclose(got[b, c].numpy(), expected, rtol=1e-14 if spacing is None else 5e-6)


def test_two_complementary_classes_cost_one_pair_of_transforms(monkeypatch):
    calls = []
    measure = distances._depth
    monkeypatch.setattr(distances, "_depth", lambda *args: calls.append(tuple(args[0].shape)) or measure(*args))
    mask = blob(20, 30)
    signed_distance(torch.cat([mask, ~mask], 1))
    assert calls == [(20, 30), (5, 5)]  # what is inside lies in the box around the object


@pytest.mark.parametrize("spatial", [(60,), (50, 60), (24, 30, 34)], ids=str)
@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (1.0, 1.5, 1.25), (4.0, 0.7, 0.9)], ids=str)
@pytest.mark.parametrize("noise", [0.0, 0.004, 0.05, 0.3])
def test_shallow_and_deep_voxels_side_by_side_equal_scipy(spatial, scale, noise):
    """Objects of several sizes, with holes and specks: some are measured in parts by each of two ways."""
    spacing, shapes = scale[: len(spatial)], []
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) * 1.0 for n in spatial], indexing="ij"))
    for centre, radius in ((0.15, 4), (0.4, 9), (0.85, 6)):
        away = grid - torch.tensor([centre * n for n in spatial]).view(-1, *[1] * len(spatial))
        shapes.append(away.square().sum(0) < radius**2)
    specks = torch.rand(spatial, generator=torch.Generator().manual_seed(0)) < noise
    mask = torch.stack(shapes).any(0) ^ specks
    for side in (mask, ~mask):
        expected = distance_transform_edt(side.numpy(), sampling=spacing)
        np.testing.assert_allclose(distance_inside(side[None, None], spacing)[0, 0].numpy(), expected, rtol=5e-6)


@pytest.mark.parametrize("scale", [1.0, (1.5, 0.8, 0.8), (0.7, 1.0, 1.3)])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_deep_objects_all_over_a_noisy_picture_equal_scipy(monkeypatch, share, scale):
    random = torch.Generator().manual_seed(1)
    mask = torch.rand(48, 48, 48, generator=random) < share
    ball = torch.stack(torch.meshgrid(*[torch.arange(-8, 9)] * 3, indexing="ij")).square().sum(0) <= 64
    for corner in ((0, 0, 0), (31, 31, 31), (31, 2, 20)):
        mask[tuple(slice(start, start + 17) for start in corner)] |= ball
    measured = []
    original = distances._depth_by_itk
    monkeypatch.setattr(distances, "_depth_by_itk", lambda *args: measured.append(args[0]) or original(*args))
    spacing = scale if isinstance(scale, tuple) else (scale,) * 3
    expected = distance_transform_edt(mask.numpy(), sampling=spacing)
    got = distance_inside(mask[None, None], scale)[0, 0].numpy()
    np.testing.assert_allclose(got, expected, rtol=5e-6)
    assert measured[0].sum() < mask.sum()  # noise that is far from the balls was left out


@pytest.mark.parametrize("shape", [(2, 2, 17), (2, 2, 9, 14), (1, 2, 7, 4, 11)], ids=str)
def test_mean_distance_equals_scipy(shape):
    mask, other = masks(shape, 0.2), masks(shape, 0.05, seed=1)
    other[0, 1], mask[-1, 0] = False, False
    spacing = (0.5, 3.0, 1.25)[: len(shape) - 2]
    got = mean_distance(mask, other, spacing, torch.float64)
    for b, c in np.ndindex(*shape[:2]):
        expected = 0.0
        if mask[b, c].any() and other[b, c].any():
            expected = distance_transform_edt(~other[b, c].numpy(), sampling=spacing)[mask[b, c].numpy()].mean()
        assert got[b, c].item() == pytest.approx(expected, rel=5e-6)
    assert not mean_distance(mask, mask).any()


def test_penalties_of_a_small_region_equal_those_in_the_whole_picture():
    mask = torch.zeros(1, 1, 12, 13, dtype=torch.bool)
    mask[..., 3:10, 4:11] = True
    depth = distance_inside(mask)[mask]
    penalty = border_penalty([mask, ~mask])
    torch.testing.assert_close(penalty[mask], (depth.max() - depth) / (depth.max() - 1))
    assert penalty[~mask].max() == 1
    assert penalty[~mask].min() == 0
    torch.testing.assert_close(border_penalty([mask], normalize=False)[mask], depth.max() - depth)
    assert not border_penalty([torch.ones_like(mask), torch.zeros_like(mask)]).any()


@pytest.mark.parametrize("spatial", [(17,), (9, 14), (7, 6, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_on_a_gpu_are_measured_there_by_monai_with_cucim(monkeypatch, spatial, dtype):
    import monai.transforms.utils as utils

    mask, spacing = blob(*spatial), (0.5, 3.0, 1.25)[: len(spatial)]
    expected = signed_distance(mask, spacing, dtype)
    calls = []
    measure = utils.distance_transform_edt

    def recorded(img, sampling, float64_distances):
        calls.append(float64_distances)
        return measure(img, sampling)

    monkeypatch.setattr(distances, "measured_on_gpu", lambda mask: True)
    monkeypatch.setattr(utils, "distance_transform_edt", recorded)
    torch.testing.assert_close(signed_distance(mask, spacing, dtype), expected, rtol=5e-6, atol=0)
    assert calls == [dtype == torch.float64] * 2


def test_without_cucim_distances_are_measured_on_the_cpu(monkeypatch):
    class OnGpu:
        is_cuda = True

    distances._cucim_is_installed.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "cucim" else name)
    assert not distances.measured_on_gpu(OnGpu())
    distances._cucim_is_installed.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert distances.measured_on_gpu(OnGpu())
    assert not distances.measured_on_gpu(torch.zeros(1))
    distances._cucim_is_installed.cache_clear()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory that Linux reports")
def test_a_thousand_maps_leak_nothing():
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    mask = masks((1, 1, 16, 16, 16), 0.9)
    for step in range(1100):
        if step == 100:
            before, objects = resident(), len(gc.get_objects())
        signed_distance(mask)
    assert resident() - before < 6 * 2**20  # one float map a step would be 16 MB
    assert len(gc.get_objects()) - objects < 100
