from __future__ import annotations

import logging
import shutil
from pathlib import Path

import nibabel
import pytest

from monai_lossext.data import DatalistError, skull_stripping_datalist
from tests.data.heads import write_head


def cases(datalist: dict) -> list[list[str]]:
    assert list(datalist) == ["training", "validation", "testing"]
    return [[item["case"] for item in items] for items in datalist.values()]


def counts(datalist: dict) -> list[int]:
    return [len(names) for names in cases(datalist)]


def subjects(items: list[dict[str, str]]) -> set[str]:
    return {item["subject"] for item in items}


def test_nfbs_from_its_folder_and_from_the_one_above(nfbs: Path) -> None:
    datalist = skull_stripping_datalist(nfbs)
    assert counts(datalist) == [6, 2, 2]
    assert skull_stripping_datalist(nfbs.parent) == datalist
    everything = {item["case"]: item for items in datalist.values() for item in items}
    stem = str(nfbs / "A00000003" / "sub-A00000003_ses-NFB3_T1w")
    assert everything["sub-A00000003_ses-NFB3"] == {
        "case": "sub-A00000003_ses-NFB3",
        "subject": "sub-A00000003",
        "image": f"{stem}.nii.gz",
        "label": f"{stem}_brainmask.nii.gz",
    }


def test_the_stripped_brain_is_never_taken_for_a_mask(nfbs: Path) -> None:
    next(nfbs.glob("A00000003/*_brainmask.nii.gz")).unlink()
    with pytest.raises(DatalistError, match=r"1 of 10 cases .*\n.*mask .*A00000003_ses-NFB3_T1w_brainmask.nii.gz is m"):
        skull_stripping_datalist(nfbs)


@pytest.mark.parametrize("folders", ["sub-{s}", "sub-{s}/anat", "sub-{s}/ses-1", "sub-{s}/ses-1/anat"])
@pytest.mark.parametrize("ending", ["_brainmask", "_T1w_brainmask", "_desc-brain_mask"])
def test_bids_in_folders(tmp_path: Path, folders: str, ending: str) -> None:
    for subject in ("01", "02", "pat3"):
        folder = tmp_path / folders.format(s=subject)
        write_head(folder / f"sub-{subject}_acq-a_T1w.nii.gz", folder / f"sub-{subject}_acq-a{ending}.nii")
        write_head(folder / f"sub-{subject}_acq-a_T2w.nii.gz", folder / "notes.nii.gz")
    datalist = skull_stripping_datalist(tmp_path, fractions=(1, 0, 0))
    assert [(item["case"], item["subject"]) for item in datalist["training"]] == [
        ("sub-01_acq-a", "sub-01"), ("sub-02_acq-a", "sub-02"), ("sub-pat3_acq-a", "sub-pat3"),
    ]  # fmt: skip


def test_plain_folders(tmp_path: Path) -> None:
    write_head(tmp_path / "images" / "a.nii.gz", tmp_path / "labels" / "a.nii.gz")
    write_head(tmp_path / "images" / "sub-2_x.nii", tmp_path / "labels" / "sub-2_x_mask.nii.gz")
    datalist = skull_stripping_datalist(tmp_path, fractions=(1, 0, 0))
    assert [(item["case"], item["subject"]) for item in datalist["training"]] == [("a", "a"), ("sub-2_x", "sub-2")]


def test_one_scan_in_two_folders(heads: Path) -> None:
    (heads / "sub-04" / "anat").mkdir(parents=True)
    for path in heads.glob("sub-04_*"):
        shutil.copy(path, heads / "sub-04" / "anat")
    with pytest.raises(DatalistError, match=r"more than one file for a case.*\n  sub-04: .* and .*anat.sub-04_T1w"):
        skull_stripping_datalist(heads)


def test_unrecognised_folders(tmp_path: Path, heads: Path) -> None:
    with pytest.raises(DatalistError) as caught:
        skull_stripping_datalist(tmp_path)
    for clue in ("NFBS_Dataset/A000", "sub-*_brainmask.nii.gz", "images/ and labels/", f"did you mean {heads}?"):
        assert clue in str(caught.value)
    for path in heads.glob("*_brainmask.nii.gz"):
        path.unlink()
    with pytest.raises(DatalistError, match="is not recognised"):
        skull_stripping_datalist(heads)
    with pytest.raises(DatalistError, match="expected auto, nfbs, bids, volumes"):
        skull_stripping_datalist(heads, layout="ph2")


@pytest.mark.parametrize("seed", range(5))
def test_no_subject_is_divided(heads: Path, seed: int) -> None:
    datalist = skull_stripping_datalist(heads, seed=seed, check=False)
    parts = [subjects(items) for items in datalist.values()]
    assert [len(part) for part in parts] == [3, 1, 1]
    assert len(set().union(*parts)) == 5
    assert sum(counts(datalist)) == 7


def test_leave_one_subject_out(heads: Path) -> None:
    tested = []
    for fold in range(5):
        datalist = skull_stripping_datalist(heads, fold=fold, check=False)
        left_out = subjects(datalist["testing"])
        assert len(left_out) == 1
        assert left_out.isdisjoint(subjects(datalist["training"]) | subjects(datalist["validation"]))
        assert [len(subjects(datalist[section])) for section in ("training", "validation")] == [3, 1]
        tested += cases(datalist)[2]
    assert sorted(tested) == sorted(path.name.removesuffix("_T1w.nii.gz") for path in heads.glob("*_T1w.nii.gz"))


def test_folds(nfbs: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        datalists = [skull_stripping_datalist(nfbs, fold=fold, folds=3, check=False) for fold in range(3)]
    assert [counts(datalist) for datalist in datalists] == [[4, 2, 4], [5, 2, 3], [5, 2, 3]]
    assert len({case for datalist in datalists for case in cases(datalist)[2]}) == 10
    assert f"fold 1 of 3 leaves out {datalists[1]['testing'][0]['subject']}" in caplog.text
    other = skull_stripping_datalist(nfbs, fold=0, folds=3, seed=1, check=False)
    assert other != datalists[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fold": 5}, "fold=5: expected 0 to 4, with 5 folds"),
        ({"fold": -1, "folds": 2}, "fold=-1: expected 0 to 1, with 2 folds"),
        ({"fold": 0, "folds": 6}, "folds=6: expected 2 to 5, which is the number of subjects"),
        ({"fold": 0, "folds": 1}, "folds=1: expected 2 to 5"),
        ({"folds": 2}, "folds=2 needs fold"),
        ({"fold": 0, "split_file": "split.yaml"}, "split_file and fold are two ways to split"),
        ({"fold": 0, "fractions": (0, 0, 1)}, "nothing is left for training"),
    ],
)
def test_folds_that_do_not_exist(heads: Path, options: dict, message: str) -> None:
    with pytest.raises(DatalistError, match=message):
        skull_stripping_datalist(heads, **options)


def test_split_file_of_subjects_and_cases(heads: Path) -> None:
    split = heads / "split.yaml"
    split.write_text("training: [sub-01, sub-03_ses-2]\ntesting: [sub-05]\n")
    datalist = skull_stripping_datalist(heads, split_file=split)
    assert cases(datalist) == [["sub-01_ses-1", "sub-01_ses-2", "sub-03_ses-2"], [], ["sub-05"]]


def test_a_subject_in_two_splits_is_named(heads: Path) -> None:
    split = heads / "split.yaml"
    split.write_text(
        "training: [sub-01_ses-1, sub-02]\nvalidation: [sub-03_ses-1]\ntesting: [sub-03_ses-2, sub-01_ses-2]"
    )
    with pytest.raises(DatalistError) as caught:
        skull_stripping_datalist(heads, split_file=split)
    first, second = str(caught.value).splitlines()[1:]
    assert first.startswith(
        "  sub-01: in training (sub-01_ses-1) and in testing (sub-01_ses-2); all scans of a subject"
    )
    assert second.startswith("  sub-03: in validation (sub-03_ses-1) and in testing (sub-03_ses-2); all scans of")
    split.write_text("training: [sub-01]\ntesting: [sub-01_ses-2]")
    with pytest.raises(DatalistError, match="sub-01_ses-2: named in training and again in testing"):
        skull_stripping_datalist(heads, split_file=split)


def test_synthetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONAI_LOSSEXT_CACHE", str(tmp_path))
    datalist = skull_stripping_datalist("synthetic", synthetic_cases=5)
    assert counts(datalist) == [3, 1, 1]
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    assert len(written) == 10
    assert skull_stripping_datalist("synthetic", synthetic_cases=5) == datalist
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")} == written


def test_real_heads(head_mri: Path) -> None:
    datalist = skull_stripping_datalist(head_mri, fold=0)
    everything = [item for items in datalist.values() for item in items]
    assert subjects(everything) == {"sub-p01", "sub-p04", "sub-mni2009c"}
    assert sorted(item["case"] for item in everything if item["subject"] == "sub-p01") == [
        "sub-p01_ses-1",
        "sub-p01_ses-2",
    ]
    for item in everything:
        assert nibabel.load(item["label"]).shape == nibabel.load(item["image"]).shape
