from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from monai.data import PILReader
from monai.transforms import LoadImaged
from PIL import Image

from monai_lossext.data import DatalistError, binary_mask, picture_list
from tests.data.masks import lesion


def test_picture_list(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "a_superpixels.png", "._b.JPG", "notes.csv"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert picture_list(tmp_path) == [
        {"case": "a", "image": str(tmp_path / "a.png")},
        {"case": "b", "image": str(tmp_path / "b.JPG")},
    ]
    assert picture_list(tmp_path / "b.JPG") == [{"case": "b", "image": str(tmp_path / "b.JPG")}]


def test_picture_list_errors(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match="nowhere: there is no such folder or picture"):
        picture_list(tmp_path / "nowhere")
    with pytest.raises(DatalistError, match=r"no picture in this folder; looked for \.bmp"):
        picture_list(tmp_path)
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(DatalistError, match=r"a: .*a\.jpg and .*a\.png"):
        picture_list(tmp_path)


def test_binary_mask_as_the_converter_of_monais_reader(tmp_path: Path) -> None:
    load = LoadImaged(keys="label", reader=PILReader(converter=binary_mask), image_only=True, ensure_channel_first=True)
    for value in (1, 255):
        Image.fromarray(lesion(value=value)).save(tmp_path / "mask.png")
        loaded = load({"label": str(tmp_path / "mask.png")})["label"]
        assert loaded.shape == (1, 32, 24)  # MONAI puts the width first
        np.testing.assert_array_equal(loaded[0].numpy().T, lesion(value=1))
