"""Small data sets in every layout, written by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
