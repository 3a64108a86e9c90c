"""Scans of several channels and masks of lesions in every layout, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from monai_lossext.data import DatalistError, white_matter_lesion_datalist, write_datalist
from monai_lossext.data.lesion_layouts import LESION_LAYOUTS
from tests.conftest import REAL_DATA
from tests.data.heads import AFFINE, SHAPE, noise, write

BRATS = (("t1", "t1n"), ("t1ce", "t1c"), ("t2", "t2w"), ("flair", "t2f"))


def lesions(value: int = 1) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:8, 7:9, 6:10] = mask[14:15, 9:11, 6:7] = value
    return mask


def write_case(mask: Path, *images: Path) -> None:
    for image in images:
        write(image, noise())
    write(mask, lesions())


@pytest.fixture
def wmh(tmp_path: Path) -> Path:
    """WMH 2017 as it is distributed: two sites in folders, one of them with a scanner's name between."""
    root = tmp_path / "training"
    for place in ("Utrecht/0", "Utrecht/2", "Singapore/50", "Amsterdam/GE3T/100", "Amsterdam/GE3T/101"):
        subject = root / place
        write_case(
            subject / "wmh.nii.gz",
            *(subject / folder / f"{name}.nii.gz" for folder in ("pre", "orig") for name in ("FLAIR", "T1")),
        )
        write(subject / "orig" / "3DT1.nii.gz", noise())
    write(root / "Utrecht" / "0" / "wmh.nii.gz", lesions() + 2 * (lesions()[::-1] > 0).astype(np.uint8) % 3)
    return root


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """Six scans of five subjects in one folder."""
    root = tmp_path / "scans"
    for case in ("01_ses-1", "01_ses-2", "02", "03", "04", "05"):
        write_case(*(root / f"sub-{case}_{end}.nii.gz" for end in ("lesions", "FLAIR", "T1w")))
    return root


def everything(datalist: dict) -> dict[str, dict]:
    return {item["case"]: item for items in datalist.values() for item in items}


def test_wmh(wmh: Path) -> None:
    found = everything(white_matter_lesion_datalist(wmh))
    assert sorted(found) == ["GE3T_100", "GE3T_101", "Singapore_50", "Utrecht_0", "Utrecht_2"]
    subject = wmh / "Amsterdam" / "GE3T" / "100"
    assert found["GE3T_100"] == {
        "case": "GE3T_100",
        "subject": "GE3T_100",
        "image": [str(subject / "pre" / "FLAIR.nii.gz"), str(subject / "pre" / "T1.nii.gz")],
        "label": str(subject / "wmh.nii.gz"),
    }
    with pytest.raises(DatalistError, match=r"Utrecht_0: mask .*wmh.nii.gz has the values 0, 1, 2.*; allowed are 0, 1"):
        white_matter_lesion_datalist(wmh, label_values=(0, 1))


def test_what_is_missing_is_named_where_it_was_expected(wmh: Path, named: Path) -> None:
    for path in (wmh / "Utrecht/2/wmh.nii.gz", wmh / "Singapore/50/pre/T1.nii.gz"):
        path.unlink()
    with pytest.raises(DatalistError) as caught:
        white_matter_lesion_datalist(wmh)
    assert f"Utrecht_2: mask {wmh / 'Utrecht/2/wmh.nii.gz'} is missing" in str(caught.value)
    assert f"Singapore_50: image {wmh / 'Singapore/50/pre/T1.nii.gz'} is missing" in str(caught.value)
    (named / "sub-02_T1w.nii.gz").unlink()
    with pytest.raises(DatalistError, match=rf"1 of 6 .*\n  sub-02: image {named}/sub-02_T1w.nii.gz is missing"):
        white_matter_lesion_datalist(named)


@pytest.mark.parametrize("folders", ["", "{c}", "{c}/anat", "HGG/{c}"])
@pytest.mark.parametrize("mask", ["_lesions", "_seg", "-mask"])
def test_files_by_their_endings(tmp_path: Path, folders: str, mask: str) -> None:
    for case in ("sub-1_ses-2", "b"):
        folder = tmp_path / folders.format(c=case)
        write_case(folder / f"{case}{mask}.nii", folder / f"{case}_flair.nii.gz", folder / f"{case}-T1.nii.gz")
        write(folder / f"{case}_T2w.nii.gz", noise())
        (folder / f"._{case}_flair.nii.gz").write_bytes(b"resource fork")
    found = white_matter_lesion_datalist(tmp_path, fractions=(1, 0, 0))["training"]
    assert [(item["case"], item["subject"]) for item in found] == [("b", "b"), ("sub-1_ses-2", "sub-1")]


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
@pytest.mark.parametrize("ends", [("_0000", "_0001"), ("_FLAIR", "_T1w")])
def test_two_folders(tmp_path: Path, images: str, labels: str, ends: tuple[str, str]) -> None:
    for case in ("a", "case_7"):
        write_case(tmp_path / labels / f"{case}.nii.gz", *(tmp_path / images / f"{case}{end}.nii.gz" for end in ends))
    found = white_matter_lesion_datalist(tmp_path, fractions=(1, 0, 0))["training"]
    assert [item["case"] for item in found] == ["a", "case_7"]
    assert found[1]["image"] == [str(tmp_path / images / f"case_7{end}.nii.gz") for end in ends]
    (tmp_path / labels / "a.nii.gz").unlink()
    with pytest.raises(DatalistError, match=rf"a: mask {tmp_path / labels / 'a.nii.gz'} is missing"):
        white_matter_lesion_datalist(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("Brats18_A_1", "_t1", "_t1ce", "_t2", "_flair", "_seg"),
        ("BraTS-GLI-00003-001", "-t1n", "-t1c", "-t2w", "-t2f", "-seg"),
    ],
)
def test_brats(tmp_path: Path, names: tuple[str, ...]) -> None:
    case, *ends = names
    files = [tmp_path / case / f"{case}{end}.nii.gz" for end in ends]
    write_case(files[-1], *files[:-1])
    write(files[-1], lesions(4))
    options = {"channels": BRATS, "fractions": (1, 0, 0)}
    with pytest.raises(DatalistError, match="has the values 0, 4; allowed are 0, 1, 2"):
        white_matter_lesion_datalist(tmp_path, **options)
    (item,) = white_matter_lesion_datalist(tmp_path, label_values=range(5), **options)["training"]
    assert item["image"] == [str(file) for file in files[:-1]]
    assert item["subject"] == case.removesuffix("-001")


def test_patterns(tmp_path: Path) -> None:
    for case in ("a", "b"):
        write_case(
            tmp_path / case / "lesion map.nii", tmp_path / case / "the T1.nii.gz", tmp_path / case / "the FLAIR.nii.gz"
        )
    patterns = {"image_pattern": "{case}/the {channel}.nii.gz", "label_pattern": "{case}/lesion*.nii"}
    found = white_matter_lesion_datalist(tmp_path, fractions=(1, 0, 0), **patterns)["training"]
    assert [Path(path).name for path in found[1]["image"]] == ["the FLAIR.nii.gz", "the T1.nii.gz"]
    (tmp_path / "b" / "the T1.nii.gz").unlink()
    with pytest.raises(DatalistError, match=r"b: image .*no image by image_pattern"):
        white_matter_lesion_datalist(tmp_path, **patterns)
    with pytest.raises(DatalistError, match=r"expected a pattern with {case} and {channel} in it"):
        white_matter_lesion_datalist(tmp_path, **patterns | {"image_pattern": "{case}.nii"})


def test_channels_on_different_grids_are_refused(named: Path, caplog: pytest.LogCaptureFixture) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 2
    write(named / "sub-02_T1w.nii.gz", noise(), moved)
    write(named / "sub-03_lesions.nii.gz", lesions()[1:])
    write(named / "sub-04_T1w.nii.gz", np.where(noise() > 900, np.nan, noise()).astype(np.float32))
    (named / "sub-05_FLAIR.nii.gz").write_bytes(b"no volume")
    write(named / "sub-01_ses-1_lesions.nii.gz", np.zeros(SHAPE, np.uint8))
    with pytest.raises(DatalistError) as caught:
        white_matter_lesion_datalist(named)
    flair, t1 = (named / f"sub-02_{end}.nii.gz" for end in ("FLAIR", "T1w"))
    for text in (
        "4 of 6 cases cannot be used:",
        f"sub-02: image {t1} lies on another grid than {flair}: their corners are up to 2.00 mm apart",
        "lies on another grid than its image: image 24 x 26 x 20, mask 23 x 26 x 20 voxels",
        "sub-04: image",
        "that are not finite",
        "sub-05: image",
    ):
        assert text in str(caught.value)
    with caplog.at_level(logging.WARNING):
        left = white_matter_lesion_datalist(named, skip_bad=True, fractions=(1, 0, 0))
    assert sorted(everything(left)) == ["sub-01_ses-1", "sub-01_ses-2"]
    assert "1 of 6 masks show no lesion" in caplog.text


def test_heads_are_no_case_that_lacks_a_channel(tmp_path: Path) -> None:
    write_case(tmp_path / "labels" / "a_T1w.nii.gz", tmp_path / "images" / "a_T1w.nii.gz")
    assert not LESION_LAYOUTS["channels"].read(tmp_path)


def test_two_files_for_one_channel(named: Path) -> None:
    shutil.copy(named / "sub-02_T1w.nii.gz", named / "sub-02_T1.nii.gz")
    with pytest.raises(DatalistError, match=r"more than one file for a case.*\n  sub-02: .*sub-02_T1.nii.gz and .*T1w"):
        white_matter_lesion_datalist(named)


def test_folds_and_subjects(named: Path) -> None:
    tested = []
    for fold in range(5):
        datalist = white_matter_lesion_datalist(named, fold=fold, folds=5, check=False)
        parts = [{item["subject"] for item in items} for items in datalist.values()]
        assert [len(part) for part in parts] == [3, 1, 1]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        tested += [item["case"] for item in datalist["testing"]]
    assert len(tested) == len(set(tested)) == 6
    with pytest.raises(DatalistError, match="folds=2 needs fold"):
        white_matter_lesion_datalist(named, folds=2)


def test_unknown_layouts(tmp_path: Path, named: Path) -> None:
    write_case(tmp_path / "a_lesions.nii.gz", tmp_path / "a_FLAIR.nii.gz")
    with pytest.raises(DatalistError) as caught:
        white_matter_lesion_datalist(tmp_path, channels=(("DWI",), ("ADC", "adc map")))
    for clue in (
        "SITE/SUBJECT/pre/FLAIR.nii.gz",
        "images/ and labels/",
        "CASE_DWI.nii.gz, CASE_ADC",
        "CASE_lesions.nii.gz",
    ):
        assert clue in str(caught.value)
    (tmp_path / "empty").mkdir()
    write_case(tmp_path / "again" / "a_lesions.nii.gz", tmp_path / "again" / "a_FLAIR.nii.gz")
    with pytest.raises(DatalistError, match="empty is not recognised"):  # what else is wrong beside it is not said
        white_matter_lesion_datalist(tmp_path / "empty")
    with pytest.raises(DatalistError, match="expected auto, wmh, channels, lesions"):
        white_matter_lesion_datalist(named, layout="nfbs")


def test_a_datalist_as_a_file(named: Path) -> None:
    written = json.loads(write_datalist(white_matter_lesion_datalist(named), named / "list.json").read_text())
    item = next(item for items in written.values() for item in items if item["case"] == "sub-02")
    assert item["image"] == ["sub-02_FLAIR.nii.gz", "sub-02_T1w.nii.gz"]


def test_real_lesions() -> None:
    folder = REAL_DATA / "ms_lesions"
    if not folder.is_dir():
        pytest.skip(f"real lesions not found at {folder}; set MONAI_LOSSEXT_TEST_DATA to the data folder")
    found = everything(white_matter_lesion_datalist(folder, fold=0))
    assert list(found) == ["sub-p07", "sub-p19"] or list(found) == ["sub-p19", "sub-p07"]
    assert all(len(item["image"]) == 2 for item in found.values())
    assert LESION_LAYOUTS["lesions"].read(folder)
