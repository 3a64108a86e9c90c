from __future__ import annotations

import json
from pathlib import Path

from monai.data import load_decathlon_datalist

from monai_lossext.data import skin_lesion_datalist, write_datalist


def test_monai_reads_it_back(isic: Path, tmp_path: Path) -> None:
    datalist = skin_lesion_datalist(isic)
    inside = write_datalist(datalist, isic / "datalist.json")
    outside = write_datalist(datalist, tmp_path / "new" / "datalist.json")
    for path in (inside, outside):
        for section, items in datalist.items():
            assert load_decathlon_datalist(path, data_list_key=section) == items
        assert [entry.name for entry in path.parent.glob("*datalist*")] == ["datalist.json"]  # no temporary left
    stored = json.loads(inside.read_text())["testing"][0]["image"]
    assert stored == "ISIC-2017_Test_v2_Data/ISIC_0000012.jpg"


def test_base_dir_makes_the_file_portable(isic: Path, tmp_path: Path) -> None:
    datalist = skin_lesion_datalist(isic)
    path = write_datalist(datalist, tmp_path / "datalist.json", base_dir=str(isic))
    assert str(isic) not in path.read_text()
    assert load_decathlon_datalist(path, data_list_key="training", base_dir=isic) == datalist["training"]


def test_pictures_without_masks(tmp_path: Path) -> None:
    path = write_datalist({"testing": [{"case": "a", "image": str(tmp_path / "a.jpg")}]}, tmp_path / "list.json")
    assert json.loads(path.read_text()) == {"testing": [{"case": "a", "image": "a.jpg"}]}
