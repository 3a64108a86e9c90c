"""Slices of volumes in a report."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from monai_lossext.compare.volumes import axial_slices


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_the_front_is_at_the_top(tmp_path: Path, axes: str) -> None:
    """The widest slice of a head whose right front has a bright spot, however the file lies."""
    image, label = np.ones((20, 30, 10), np.float32), np.zeros((20, 30, 10), np.float32)
    image[15:18, 25:29, 4] = 50
    label[5:15, 5:25, 4] = 1
    label[8:12, 8:12, 2:6] = 1
    wanted = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
    )
    for name, values in (("image", image), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)).as_reoriented(wanted), tmp_path / f"{name}.nii.gz")
    masks = pd.Series({"Dice": str(tmp_path / "label.nii.gz")})
    picture, reference, found = axial_slices(str(tmp_path / "image.nii.gz"), str(tmp_path / "label.nii.gz"), masks)
    assert picture.shape == (30, 20, 3)
    np.testing.assert_array_equal(reference, label[..., 4].T[::-1])
    np.testing.assert_array_equal(found["Dice"], reference)
    rows, columns = np.nonzero(picture[..., 0] > 0.5)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 4, 15, 17)


def test_a_volume_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no longer there"):
        axial_slices("nowhere.nii.gz", "nowhere.nii.gz", pd.Series(dtype=str))
