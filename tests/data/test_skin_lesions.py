from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from monai_lossext.data import DatalistError, skin_lesion_datalist


def counts(datalist: dict) -> list[int]:
    assert list(datalist) == ["training", "validation", "testing"]
    return [len(items) for items in datalist.values()]


def test_isic_keeps_its_official_split_and_skips_other_files(isic: Path) -> None:
    datalist = skin_lesion_datalist(isic)
    assert counts(datalist) == [10, 2, 3]
    folder = isic / "ISIC-2017_Validation_Data"
    assert datalist["validation"][0] == {
        "case": "ISIC_0000010",
        "image": str(folder / "ISIC_0000010.jpg"),
        "label": str(isic / "ISIC-2017_Validation_Part1_GroundTruth" / "ISIC_0000010_segmentation.png"),
    }


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        (("Test_v2",), [10, 2, 0]),  # what most people have downloaded
        (("Validation",), [9, 1, 3]),  # 60:10 of the training part, the official test part stays
        (("Validation", "Test_v2"), [6, 1, 3]),
        (("Training",), [0, 2, 3]),
    ],
)
def test_isic_with_parts_that_were_not_downloaded(isic: Path, absent: tuple[str, ...], expected: list[int]) -> None:
    for part in absent:
        for folder in isic.glob(f"ISIC-2017_{part}_*"):
            folder.rename(isic.parent / folder.name)
    datalist = skin_lesion_datalist(isic)
    assert counts(datalist) == expected
    if "Validation" in absent and "Test_v2" not in absent:
        assert all("Test_v2" in item["image"] for item in datalist["testing"])


def test_ph2_from_its_folder_and_from_the_one_above(tmp_path: Path, write_pair) -> None:
    pictures = tmp_path / "PH2Dataset" / "PH2 Dataset images"
    for number in range(1, 201):
        case = f"IMD{number:03d}"
        write_pair(
            pictures / case / f"{case}_Dermoscopic_Image" / f"{case}.bmp",
            pictures / case / f"{case}_lesion" / f"{case}_lesion.bmp",
        )
        (pictures / case / f"{case}_roi").mkdir()
    datalist = skin_lesion_datalist(pictures.parent)
    assert counts(datalist) == [120, 20, 60]
    assert skin_lesion_datalist(pictures) == datalist
    assert Path(datalist["testing"][0]["image"]).is_file()


def test_dermofit(tmp_path: Path, write_pair) -> None:
    for group in ("AK", "Melanocytic Nevus"):
        for number in range(5):  # the same names in both classes are different cases
            write_pair(tmp_path / group / f"P{number}.png", tmp_path / group / f"P{number}mask.png")
    datalist = skin_lesion_datalist(tmp_path)
    assert counts(datalist) == [6, 1, 3]
    items = {item["case"]: item for section in datalist.values() for item in section}
    assert items["AK_P3"]["label"] == str(tmp_path / "AK" / "P3mask.png")
    assert len(items) == 10


@pytest.mark.parametrize("ending", ["", "_mask", "_segmentation"])
def test_plain_folders(tmp_path: Path, write_pair, ending: str) -> None:
    for number in range(10):
        write_pair(tmp_path / "images" / f"a{number}.JPG", tmp_path / "masks" / f"a{number}{ending}.png")
    datalist = skin_lesion_datalist(tmp_path)
    assert counts(datalist) == [6, 1, 3]
    for item in datalist["training"]:
        assert Path(item["label"]).stem == item["case"] + ending


def test_split_does_not_depend_on_the_folder_but_on_the_seed(plain: Path, tmp_path: Path) -> None:
    first = skin_lesion_datalist(plain, seed=0)
    moved = plain.rename(tmp_path / "elsewhere")
    second = skin_lesion_datalist(moved, seed=0)
    assert [[item["case"] for item in items] for items in first.values()] == [
        [item["case"] for item in items] for items in second.values()
    ]
    # Written down, so that no platform, Python or library version changes it unnoticed.
    assert [item["case"] for item in second["validation"]] == ["case01", "case03"]
    assert skin_lesion_datalist(moved, seed=1) != second
    assert counts(skin_lesion_datalist(moved, fractions=(0.5, 0.25, 0.25))) == [10, 5, 5]


def test_split_file_replaces_the_official_split(isic: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.yaml"
    split.write_text("training: [ISIC_0000011]\ntesting:\n- ISIC_0000000\n- ISIC_0000014\n")
    datalist = skin_lesion_datalist(isic, split_file=split)
    assert counts(datalist) == [1, 0, 2]
    assert datalist["training"][0]["case"] == "ISIC_0000011"


@pytest.mark.parametrize("fractions", [(0.6, 0.1), (0.6, 0.1, 0.4), (1.1, -0.1, 0.0), (60, 10, 30)])
def test_fractions_that_are_no_shares(plain: Path, fractions: tuple[float, ...]) -> None:
    with pytest.raises(DatalistError, match=r"fractions=.*expected three shares >= 0 that add up to 1"):
        skin_lesion_datalist(plain, fractions=fractions)


def test_wrong_folder(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match=r"dataset_dir .*nowhere: there is no such folder"):
        skin_lesion_datalist(tmp_path / "nowhere")
    with pytest.raises(DatalistError, match="expected a folder"):
        skin_lesion_datalist("")
    (tmp_path / "file.txt").touch()
    with pytest.raises(DatalistError, match="no such folder"):
        skin_lesion_datalist(tmp_path / "file.txt")


def test_unrecognised_folder_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match="found an empty folder"):
        skin_lesion_datalist(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatalistError) as caught:
        skin_lesion_datalist(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    for clue in ("ISIC-2017_{Training", "PH2 Dataset images", "images/ and masks/", "Xmask.png", "found notes.txt"):
        assert clue in message
    with pytest.raises(DatalistError) as caught:
        skin_lesion_datalist(tmp_path, layout="ph2")
    assert "PH2 Dataset images" in str(caught.value)
    assert "Xmask.png" not in str(caught.value)
    with pytest.raises(DatalistError, match="layout='isic' is not known; expected auto, isic2017, ph2"):
        skin_lesion_datalist(tmp_path, layout="isic")


def test_a_folder_too_high_or_too_low_gets_a_hint(isic: Path) -> None:
    for given in (isic.parent, isic / "ISIC-2017_Training_Data"):
        with pytest.raises(DatalistError, match=rf"did you mean {isic}\?"):
            skin_lesion_datalist(given)


def test_part_without_its_counterpart(isic: Path) -> None:
    (isic / "ISIC-2017_Test_v2_Part1_GroundTruth").rename(isic.parent / "lost")
    with pytest.raises(DatalistError, match=r"ISIC-2017_Test_v2_Data is there but .*Part1_GroundTruth is not"):
        skin_lesion_datalist(isic)


def test_folder_without_pictures(plain: Path) -> None:
    for path in (plain / "images").iterdir():
        path.unlink()
    with pytest.raises(DatalistError, match=r"no image in .*images"):
        skin_lesion_datalist(plain)


def test_two_masks_of_one_case(plain: Path) -> None:
    for name in ("case03_mask.png", "case04_segmentation.png"):
        Image.new("L", (32, 24)).save(plain / "masks" / name)
    with pytest.raises(DatalistError) as caught:
        skin_lesion_datalist(plain)
    assert "case03.png and" in str(caught.value)
    assert "case04_segmentation.png" in str(caught.value)


def test_skipped_files_leave_the_split_of_the_others_alone(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = skin_lesion_datalist(plain)
    (plain / "masks" / "case07.png").unlink()
    with caplog.at_level(logging.WARNING):
        after = skin_lesion_datalist(plain, skip_bad=True)
    assert "case07" in caplog.text
    expected = {name: [item for item in items if item["case"] != "case07"] for name, items in before.items()}
    assert after == expected
    with pytest.raises(ValueError, match="skip_bad=True needs check=True"):
        skin_lesion_datalist(plain, skip_bad=True, check=False)


def test_without_check_nothing_is_opened(plain: Path) -> None:
    (plain / "images" / "case07.png").write_bytes(b"")
    assert counts(skin_lesion_datalist(plain, check=False)) == [12, 2, 6]


def test_real_isic2017(isic2017: Path) -> None:
    datalist = skin_lesion_datalist(isic2017)
    assert counts(datalist) == [1992, 149, 0]
    cases = [item["case"] for items in datalist.values() for item in items]
    assert len(set(cases)) == 2141


def test_synthetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_LOSSEXT_CACHE", str(tmp_path))
    datalist = skin_lesion_datalist("synthetic", synthetic_cases=10)
    assert counts(datalist) == [6, 1, 3]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    assert len(written) == 10
    assert skin_lesion_datalist("synthetic", synthetic_cases=10) == datalist
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")} == written
