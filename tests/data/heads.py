"""Heads that the tests write: noise with a box for a brain."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np

AFFINE = np.diag([8.0, 8.0, 8.0, 1.0]) + np.array([[0, 0, 0, -90], [0, 0, 0, -100], [0, 0, 0, -80], [0, 0, 0, 0]])
SHAPE = (24, 26, 20)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)


def brain(value: int = 1, dtype: type = np.uint8) -> np.ndarray:
    """An off-centre box of 1305 ml."""
    mask = np.zeros(SHAPE, dtype)
    mask[5:19, 7:21, 6:19] = value
    return mask


def write(path: Path, values: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def write_head(image: Path, label: Path) -> None:
    write(image, noise())
    write(label, brain())
