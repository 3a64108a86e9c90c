"""Folders and files may be called what people call them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from monai_lossext.data import DatalistError, picture_list, skin_lesion_datalist, skull_stripping_datalist, volume_list
from tests.data.heads import write_head

ODD = [
    "ISIC {2017}",
    "{0}",
    "{",
    'it\'s "here"',
    "a #2",
    "100 % (new)",
    "[a]*",
    "Läsionen",
    "病变",
    " - ",
    "$HOME",
    "a@b",
]


@pytest.mark.parametrize("name", ODD)
def test_folders(plain: Path, heads: Path, name: str) -> None:
    pictures, volumes = plain.rename(plain.with_name(f"p {name}")), heads.rename(heads.with_name(f"v {name}"))
    assert sum(map(len, skin_lesion_datalist(pictures).values())) == 20
    assert sum(map(len, skull_stripping_datalist(volumes).values())) == 7
    assert len(picture_list(pictures / "images")) == 20
    assert len(volume_list(volumes)) == 7
    (pictures / "masks" / "case04.png").unlink()
    (volumes / "sub-04_T1w.nii.gz").unlink()
    with pytest.raises(DatalistError) as caught:
        skin_lesion_datalist(pictures)
    assert f"mask {pictures / 'masks' / 'case04.png'} is missing" in str(caught.value)
    with pytest.raises(DatalistError) as caught:
        skull_stripping_datalist(volumes)
    assert f"image {volumes / 'sub-04_T1w.nii.gz'} is missing" in str(caught.value)


@pytest.mark.parametrize("name", ODD)
def test_files(plain: Path, tmp_path: Path, name: str) -> None:
    for folder in ("images", "masks"):
        (plain / folder / "case04.png").rename(plain / folder / f"{name}.png")
        (tmp_path / "heads" / folder.replace("masks", "labels")).mkdir(parents=True)
    for stem in (name, "other"):
        write_head(tmp_path / "heads" / "images" / f"{stem}.nii", tmp_path / "heads" / "labels" / f"{stem}_mask.nii.gz")
    datalist = skin_lesion_datalist(plain, fractions=(1, 0, 0))
    assert unicodedata.normalize("NFC", name) in [item["case"] for item in datalist["training"]]
    listed = skull_stripping_datalist(tmp_path / "heads", fractions=(1, 0, 0))["training"]
    assert sorted(item["case"] for item in listed) == sorted([name, "other"])
    (plain / "masks" / f"{name}.png").unlink()
    with pytest.raises(DatalistError) as caught:
        skin_lesion_datalist(plain)
    assert f"mask {plain / 'masks' / name}.png is missing" in str(caught.value)


def test_nfbs_below_a_folder_with_brackets(nfbs: Path) -> None:
    subject = next(path for path in sorted(nfbs.iterdir()) if path.is_dir())
    subject.rename(nfbs / "A[1]")
    assert sum(map(len, skull_stripping_datalist(nfbs).values())) == 9  # its files are named after A00000000
    nfbs = nfbs.rename(nfbs.with_name("NFBS [1]*{0}"))
    assert sum(map(len, skull_stripping_datalist(nfbs).values())) == 9


def test_one_name_composed_and_decomposed(plain: Path, tmp_path: Path) -> None:
    """macOS takes `é` for `e` and an accent; archives made there hold such names."""
    composed, decomposed = "L\u00e9sion", "Le\u0301sion"
    (plain / "images" / "case04.png").rename(plain / "images" / f"{composed}.png")
    (plain / "masks" / "case04.png").rename(plain / "masks" / f"{decomposed}.png")
    split = tmp_path / "split.yaml"
    split.write_text(f"training: [case01]\ntesting: [{decomposed}]", encoding="utf-8")
    (item,) = skin_lesion_datalist(plain, split_file=split)["testing"]
    assert item["case"] == composed
    assert (Path(item["image"]).stem, Path(item["label"]).stem) == (composed, decomposed)
    (plain / "images" / f"{decomposed}.png").write_bytes((plain / "images" / f"{composed}.png").read_bytes())
    with pytest.raises(DatalistError, match="more than one file for a case; keep one of them"):
        skin_lesion_datalist(plain)
    with pytest.raises(DatalistError, match="more than one file for a case; keep one of them"):
        picture_list(plain / "images")


def test_suffixes_in_capitals_and_not(heads: Path) -> None:
    image = heads / "sub-02_T1w.nii.gz"
    (heads / "sub-02_T1w.NII.GZ").write_bytes(image.read_bytes())
    for read in (skull_stripping_datalist, volume_list):
        with pytest.raises(DatalistError, match=r"more than one file for a case.*\n  .*NII\.GZ and .*nii\.gz"):
            read(heads)


def test_one_case_in_two_formats_of_dermofit(tmp_path: Path, write_pair) -> None:
    group = tmp_path / "class"
    write_pair(group / "A.png", group / "Amask.png")
    write_pair(group / "B.png", group / "Bmask.png")
    (group / "A.jpg").write_bytes((group / "A.png").read_bytes())
    with pytest.raises(DatalistError, match=r"A: .*A\.jpg and .*A\.png"):
        skin_lesion_datalist(tmp_path)


def test_names_of_dermofit_that_are_alike_together(tmp_path: Path, write_pair) -> None:
    for group, name in (("nevus", "a_1"), ("nevus_a", "1")):
        write_pair(tmp_path / group / f"{name}.png", tmp_path / group / f"{name}mask.png")
    with pytest.raises(DatalistError, match=r"nevus_a_1: .*a_1\.png and .*1\.png"):
        skin_lesion_datalist(tmp_path)
