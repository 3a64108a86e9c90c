"""Small data sets in every layout, written by the tests themselves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REAL_DATA
from tests.data.heads import write_head
from tests.data.masks import lesion

WritePair = Callable[..., None]


@pytest.fixture
def write_pair() -> WritePair:
    """Write a picture and its mask; `mask` replaces the mask's values."""

    def write(image: Path, label: Path, mask: np.ndarray | None = None) -> None:
        values = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        for path, pixels in ((image, values), (label, lesion() if mask is None else mask)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)

    return write


@pytest.fixture
def isic(tmp_path: Path, write_pair: WritePair) -> Path:
    """ISIC 2017 as it is distributed: ten training, two validation and three test pictures, among other files."""
    root = tmp_path / "ISIC2017"
    number = 0
    for part, count in (("Training", 10), ("Validation", 2), ("Test_v2", 3)):
        pictures, masks = root / f"ISIC-2017_{part}_Data", root / f"ISIC-2017_{part}_Part1_GroundTruth"
        for _ in range(count):
            name = f"ISIC_{number:07d}"
            write_pair(pictures / f"{name}.jpg", masks / f"{name}_segmentation.png")
            Image.new("RGB", (32, 24)).save(pictures / f"{name}_superpixels.png")
            number += 1
        (pictures / f"ISIC-2017_{part}_Data_metadata.csv").write_text("image_id,age_approximate,sex\n")
        (pictures / "._ISIC_0000000.jpg").write_bytes(b"Mac OS X resource fork")
    return root


@pytest.fixture
def plain(tmp_path: Path, write_pair: WritePair) -> Path:
    """Twenty pictures and masks of the same names."""
    root = tmp_path / "plain"
    for number in range(20):
        write_pair(root / "images" / f"case{number:02d}.png", root / "masks" / f"case{number:02d}.png")
    return root


@pytest.fixture
def nfbs(tmp_path: Path) -> Path:
    """NFBS as it is distributed, with ten subjects; the files named _brain are images and hold no masks."""
    root = tmp_path / "NFBS_Dataset"
    for number in range(10):
        subject = f"A{number:08d}"
        stem = f"sub-{subject}_ses-NFB3_T1w"
        write_head(root / subject / f"{stem}.nii.gz", root / subject / f"{stem}_brainmask.nii.gz")
        shutil.copy(root / subject / f"{stem}.nii.gz", root / subject / f"{stem}_brain.nii.gz")
    return root


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    """Seven scans of five subjects, named as in BIDS, in one folder."""
    root = tmp_path / "heads"
    for case in ("01_ses-1", "01_ses-2", "02", "03_ses-1", "03_ses-2", "04", "05"):
        write_head(root / f"sub-{case}_T1w.nii.gz", root / f"sub-{case}_brainmask.nii.gz")
    return root


@pytest.fixture
def head_mri() -> Path:
    """Real heads of three subjects; skips where they are absent."""
    folder = REAL_DATA / "head_mri"
    if not folder.is_dir():
        pytest.skip(f"real heads not found at {folder}; set MONAI_LOSSEXT_TEST_DATA to the data folder")
    return folder
