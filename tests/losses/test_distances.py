"""Distances inside masks, against SciPy's exact transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from monai_lossext.losses.distances import checked_spacing, distance_inside

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
