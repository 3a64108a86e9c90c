from __future__ import annotations

from pathlib import Path

import pytest

from monai_lossext.data import DatalistError
from monai_lossext.data.splits import fold_split, seeded_split, split_by_file


def items(count: int) -> list[dict[str, str]]:
    return [{"case": f"case{number:04d}"} for number in range(count)]


@pytest.mark.parametrize(("count", "expected"), [(1300, (780, 130, 390)), (200, (120, 20, 60)), (10, (6, 1, 3))])
def test_counts_of_the_papers(count: int, expected: tuple[int, ...]) -> None:
    assert tuple(map(len, seeded_split(items(count), 0, (0.6, 0.1, 0.3)).values())) == expected


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 11, 99])
def test_every_case_is_in_exactly_one_section(count: int) -> None:
    split = seeded_split(items(count), 3, (0.6, 0.1, 0.3))
    assert sorted(item["case"] for section in split.values() for item in section) == [i["case"] for i in items(count)]


def test_order_of_the_files_does_not_matter_and_the_seed_does() -> None:
    split = seeded_split(items(50), 0, (0.6, 0.1, 0.3))
    assert seeded_split(items(50)[::-1], 0, (0.6, 0.1, 0.3)) == split
    assert seeded_split(items(50), 1, (0.6, 0.1, 0.3)) != split
    assert [item["case"] for item in split["training"]] != [item["case"] for item in items(30)]  # it is shuffled


def scans() -> list[dict[str, str]]:
    """Forty scans of ten subjects, of which some have more than others."""
    return [{"case": f"scan{number:02d}", "subject": f"subject{number**2 % 100 // 10}"} for number in range(40)]


def test_subjects_are_divided_and_not_scans() -> None:
    for seed in range(10):
        split = seeded_split(scans(), seed, (0.6, 0.2, 0.2))
        parts = [{item["subject"] for item in section} for section in split.values()]
        assert [len(part) for part in parts] == [6, 2, 2]
        assert len(set.union(*parts)) == 10
        assert sum(map(len, split.values())) == 40


@pytest.mark.parametrize("folds", [2, 3, 7, 10, None])
def test_every_subject_is_tested_in_one_fold(folds: int | None) -> None:
    splits = [fold_split(scans(), fold, folds, 0, (0.6, 0.2, 0.2)) for fold in range(folds or 10)]
    tested = [item["case"] for split in splits for item in split["testing"]]
    assert sorted(tested) == [item["case"] for item in scans()]
    for split in splits:
        parts = [{item["subject"] for item in section} for section in split.values()]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 10
        assert len(parts[1]) == pytest.approx((10 - len(parts[2])) / 4, abs=0.5)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("training: [case0000, ghost]\n", r"ghost \(training\): no such case"),
        ("training: [case0000]\ntesting: [case0000]\n", "case0000: named in training and again in testing"),
        ("training: [case0000, case0000]\n", "case0000: named in training and again in training"),
        (
            "training: [case0000]\ntest: [case0001]\n",
            "expected lists under training, validation, testing, found .*test",
        ),
        ("- case0000\n", "expected lists under training, validation, testing, found list"),
        ("training: case0000\n", "training: expected a list of case names"),
        ("training: [case0000\n", "cannot be read"),
        ("", "found NoneType|found str"),
    ],
)
def test_split_files_that_do_not_fit(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "split.yaml"
    path.write_text(text)
    with pytest.raises(DatalistError, match=problem) as caught:
        split_by_file(items(3), path)
    assert str(path) in str(caught.value)


def test_all_problems_of_a_split_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"training": ["ghost", "case0001"], "testing": ["case0001", "spectre"]}')
    with pytest.raises(DatalistError) as caught:
        split_by_file(items(3), path)
    assert all(name in str(caught.value) for name in ("ghost", "spectre", "case0001"))


def test_json_absent_sections_and_numeric_names(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"training": ["0123"]}')
    split = split_by_file([{"case": "0123"}, {"case": "unused"}], path)
    assert split == {"training": [{"case": "0123"}], "validation": [], "testing": []}
    path.with_suffix(".yaml").write_text("validation: [0123]")  # YAML would read the number 83
    assert split_by_file([{"case": "0123"}], path.with_suffix(".yaml"))["validation"] == [{"case": "0123"}]


def test_absent_split_file(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match=r"split_file .*none.yaml cannot be read: .*No such file"):
        split_by_file(items(3), tmp_path / "none.yaml")
