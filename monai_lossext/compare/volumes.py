"""Volumes as the pictures of a report."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monai_lossext.scripts.volume_files import SUFFIXES, read_grid, read_voxels


def is_volume(path: str) -> bool:
    """Tell a volume from a picture by its name.

    >>> is_volume("masks/sub-01.nii.gz"), is_volume("masks/lesion.png")
    (True, False)
    """
    return path.lower().endswith(SUFFIXES)


def axial_slices(image: str, label: str, masks: pd.Series) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Read the slice in which the reference is widest, the front at the top and the left at the left.

    Args:
        image: path of a volume.
        label: path of the reference, on the same grid as the masks.
        masks: paths of masks by loss.

    Returns:
        The picture (H, W, 3) in [0, 1], the reference (H, W), and the masks (H, W) by loss.

    Raises:
        FileNotFoundError: a volume is no longer where it was.
    """
    reference = _axial(label)
    widest = int(np.argmax(reference.sum(axis=(0, 1))))
    head = _axial(image)[..., widest].astype(np.float64)
    low, high = np.percentile(head, (1, 99.5))
    grey = np.clip((head - low) / max(high - low, 1e-6), 0, 1)
    return (
        np.repeat(grey[..., None], 3, axis=2),
        reference[..., widest],
        {str(loss): _axial(path)[..., widest] for loss, path in masks.items()},
    )


def _axial(path: str) -> NDArray[np.generic]:
    """A volume with the axes back, right and up."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no longer there")
    orientation = nibabel.io_orientation(read_grid(Path(path)).affine)
    voxels = nibabel.apply_orientation(read_voxels(Path(path)), orientation)  # right, front, up
    return voxels.transpose(1, 0, 2)[::-1]
