"""Scores of volumes that are empty, or on voxels that are no cubes."""

from __future__ import annotations

import math

import pytest
import torch

from monai_lossext.handlers import volume_metrics

SHAPE = (12, 10, 8)
SPACING = (0.9, 0.9, 3.0)


def box(*corner: int, size: int = 3) -> torch.Tensor:
    mask = torch.zeros(1, 1, *SHAPE)
    x, y, z = corner
    mask[..., x : x + size, y : y + size, z : z + size] = 1
    return mask


def test_empty_masks() -> None:
    nothing, something = torch.zeros(1, 1, *SHAPE), box(2, 2, 2)
    pairs = torch.cat([nothing, something, nothing]), torch.cat([nothing, nothing, something])
    scores = volume_metrics(*pairs, SPACING)
    diagonal = math.dist((0, 0, 0), [n * mm for n, mm in zip(SHAPE, SPACING, strict=True)])
    for name in ("hausdorff_mm", "hausdorff95_mm"):
        assert scores[name].tolist() == pytest.approx([0, diagonal, diagonal])
    assert scores["volume_difference_ml"].tolist() == pytest.approx([0, *[27 * 0.9 * 0.9 * 3 / 1000] * 2])
    assert scores["dice"].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("shift", "distance"), [((2, 0, 0), 1.8), ((0, 1, 0), 0.9), ((0, 0, 2), 6.0)])
def test_distances_are_in_mm(shift: tuple[int, int, int], distance: float) -> None:
    here, there = box(2, 2, 2), box(*(2 + step for step in shift))
    scores = volume_metrics(torch.cat([here, here]), torch.cat([there, here]), SPACING)
    for name in ("hausdorff_mm", "hausdorff95_mm"):
        assert scores[name].tolist() == pytest.approx([distance, 0])
    assert scores["volume_difference_ml"].tolist() == [0, 0]
