"""Names of one's own, by patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_lossext.data import DatalistError, skin_lesion_datalist

IMAGES, LABELS = "images/{case} derm.JPG", "masks/{case} lesion.png"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten cases called `Patient 00 derm.JPG` and `Patient 00 lesion.png`."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    mask = np.zeros((16, 20), np.uint8)
    mask[4:9, 5:12] = 255
    for case in range(10):
        Image.new("RGB", (20, 16), (200, 150, case)).save(
            tmp_path / f"images/Patient {case:02} derm.JPG", format="JPEG"
        )
        Image.fromarray(mask).save(tmp_path / f"masks/Patient {case:02} lesion.png")
    return tmp_path


def test_patterns_pair_them(pictures: Path) -> None:
    parts = skin_lesion_datalist(pictures, image_pattern=IMAGES, label_pattern=LABELS)
    items = [item for part in parts.values() for item in part]
    assert sorted(item["case"] for item in items) == [f"Patient {case:02}" for case in range(10)]
    for item in items:
        assert item["image"] == str(pictures / IMAGES.format(case=item["case"]))
        assert item["label"] == str(pictures / LABELS.format(case=item["case"]))


def test_without_patterns_one_message_says_the_rule(pictures: Path) -> None:
    with pytest.raises(DatalistError) as caught:
        skin_lesion_datalist(pictures)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert "the mask of 'name' is called name, name_mask, name_segmentation" in message
    assert "'images/Patient 00 derm.JPG' and 'masks/Patient 00 lesion.png'" in message
    assert "image_pattern and label_pattern" in message


def test_a_case_without_its_mask_is_named(pictures: Path) -> None:
    (pictures / "masks" / "Patient 03 lesion.png").unlink()
    with pytest.raises(DatalistError, match="Patient 03"):
        skin_lesion_datalist(pictures, image_pattern=IMAGES, label_pattern=LABELS)
    kept = skin_lesion_datalist(pictures, image_pattern=IMAGES, label_pattern=LABELS, skip_bad=True)
    assert sum(map(len, kept.values())) == 9


@pytest.mark.parametrize(
    ("patterns", "complaint"),
    [
        ({"image_pattern": IMAGES}, r"label_pattern=None: expected a pattern with \{case\} in it once"),
        ({"image_pattern": "images/*.JPG", "label_pattern": LABELS}, r"image_pattern='images/\*.JPG': expected"),
        (
            {"image_pattern": "images/{case}.tif", "label_pattern": LABELS},
            "no such file in .*; there are images/Patient",
        ),
    ],
)
def test_patterns_that_cannot_be_meant(pictures: Path, patterns: dict[str, str], complaint: str) -> None:
    with pytest.raises(DatalistError, match=complaint):
        skin_lesion_datalist(pictures, **patterns)
