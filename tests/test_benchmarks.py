"""The benchmarks: our side of the hard cases is without a fault, and the meters of time and memory measure."""

from __future__ import annotations

import itertools
import json
import re
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monai_lossext.losses import catalogue

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import losses as benchmark  # noqa: E402
from costs import figures, tables  # noqa: E402
from costs.cases import Case  # noqa: E402
from costs.contestants import COUNTERPARTS, TORCH, contestants, step  # noqa: E402
from costs.meters import allocated, fastest, interleaved, resident  # noqa: E402
from costs.scaling import CLASSES, SIDES, power_law  # noqa: E402
from costs.training_step import training_step  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
CASES = [Case(2, 1, 16, 2), Case(2, 3, 16, 2), Case(1, 1, 8, 3), Case(1, 3, 8, 3)]


@pytest.mark.filterwarnings("ignore:single channel prediction")
def test_hard_cases_are_all_right_here_and_not_all_right_in_monai():
    rows = runpy.run_path(str(ROOT / "benchmarks" / "hard_cases.py"))["table"]()
    ours = [value for row in rows for column, value in row.items() if column.startswith("our ")]
    theirs = [value for row in rows for column, value in row.items() if column.startswith("MONAI ")]
    assert set(ours) == {"ok"}
    assert len(set(theirs)) > 1


@pytest.fixture(scope="module")
def volume():
    return torch.rand(1, 4, 64, 64, 64)  # 4 MiB


def test_extra_memory_is_the_highest_of_what_lives_at_once(volume):
    size = volume.nbytes
    assert allocated(lambda: None) == 0
    assert allocated(lambda: volume.exp()) == size
    assert allocated(lambda: volume.exp().log()) == 2 * size
    assert allocated(lambda: [volume.exp() for _ in range(3)]) == 3 * size
    assert allocated(lambda: [volume.exp().sum() for _ in range(3)]) < 1.01 * size  # freed before the next one
    assert allocated(lambda: volume.exp_()) == 0


def test_extra_memory_of_the_cross_entropy_is_three_volumes_with_its_gradient(volume):
    logits = volume.clone().requires_grad_()
    label = torch.zeros(1, 64, 64, 64, dtype=torch.int64)

    def call():
        return torch.autograd.grad(F.cross_entropy(logits, label), logits)

    assert allocated(call) == pytest.approx(3 * volume.nbytes, rel=0.01)


def test_extra_memory_does_not_see_numpy_but_the_resident_set_does(volume):
    many = volume.repeat(16, 1, 1, 1, 1)  # 64 MiB: from 32 on, malloc takes fresh pages and gives them back
    found = resident(lambda: many.exp())
    if found is None:
        pytest.skip("nobody counts the resident set here")
    assert found == pytest.approx(many.nbytes, rel=0.1)
    assert resident(lambda: np.ones(many.shape, np.float32)) == pytest.approx(many.nbytes, rel=0.1)
    assert allocated(lambda: np.ones(many.shape, np.float32)) == 0


def test_calls_are_timed_in_turn():
    ran = []
    times = interleaved({name: lambda name=name: ran.append(name) for name in "ABC"}, repeats=2)
    assert [name for name, _ in itertools.groupby(ran)] == list("ABCABC")
    assert {name: len(seconds) for name, seconds in times.items()} == {"A": 2, "B": 2, "C": 2}
    assert all(second > 0 for seconds in times.values() for second in seconds)


def test_times_are_those_of_one_call():
    assert all(seconds >= 0.01 for seconds in interleaved({"sleep": lambda: time.sleep(0.01)}, repeats=2)["sleep"])
    assert fastest(lambda: time.sleep(0.01)) >= 0.01


@pytest.mark.parametrize("size", ["1x4x8^3", "40x1x128^2", "2x3x16^1"])
def test_sizes_are_read_and_written(size):
    assert str(Case.parse(size)) == size


@pytest.mark.parametrize("size", ["", "4x8^3", "1x4x8", "1x4x8^4", "0x4x8^3", "1x4x8^3 "])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="a size is written"):
        Case.parse(size)


@pytest.mark.parametrize("size", [*SIDES[:2], *CLASSES, "1x14x64^3", "40x1x128^2", "1x1x32^3"])
def test_every_class_has_an_object_and_there_is_background(size):
    case = Case.parse(size)
    logits, label = case.tensors()
    assert logits.shape == (case.batch, case.classes, *[case.side] * case.dims)
    assert logits.nbytes == case.logits_bytes
    assert label.nbytes == case.label_bytes
    assert label[0].unique().tolist() == list(range(max(case.classes, 2)))


@pytest.mark.filterwarnings("ignore")  # of other libraries, about themselves
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", benchmark.NAMES)
def test_every_contestant_has_a_finite_value_and_gradient(name, case):
    logits, label = case.tensors()
    for contestant, loss in contestants(name, case, label).items():
        assert loss(logits, label).shape == (), contestant
        (gradient,) = step(loss, logits, label)()
        assert gradient.shape == logits.shape
        assert gradient.isfinite().all(), contestant


@pytest.mark.parametrize("name", ["SoftDiceLoss", "SoftTverskyLoss", "LovaszSoftmaxLoss", "MatthewsCorrelationLoss"])
def test_counterparts_compute_the_same(name):
    case = Case(1, 3, 16, 3)
    logits, label = case.tensors()
    found = contestants(name, case, label)
    values = {contestant: loss(logits, label).item() for contestant, loss in found.items() if contestant != TORCH}
    assert len(values) > 1
    for contestant, value in values.items():
        dice_is_negative = -1 if contestant.startswith("nnU-Net") else 0  # its Dice loss lacks the "1 -"
        assert value == pytest.approx(values[name] + dice_is_negative, abs=1e-3), contestant


def test_counterparts_are_those_of_the_catalogue():
    for entry in catalogue():
        if entry.monai != "none":
            assert f"MONAI {entry.monai}" in COUNTERPARTS[entry.name]
    assert COUNTERPARTS.keys() <= {entry.name for entry in catalogue()}


RUN = ["--sizes", "1x2x8^3", "1x1x8^3", "--losses", "SoftDiceLoss", "--repeats", "1", "--output"]


def test_a_killed_run_continues_where_it_was(tmp_path, monkeypatch):
    measured = benchmark.measured

    def killed(size, *rest):
        if size == "1x1x8^3":
            raise KeyboardInterrupt
        return measured(size, *rest)

    monkeypatch.setattr(benchmark, "measured", killed)
    with pytest.raises(KeyboardInterrupt):
        benchmark.main([*RUN, str(tmp_path)])
    first = json.loads((tmp_path / "losses.json").read_text())["rows"]
    assert list(first) == ["1x2x8^3 SoftDiceLoss"]

    monkeypatch.setattr(benchmark, "measured", measured)
    benchmark.main([*RUN, str(tmp_path)])
    second = json.loads((tmp_path / "losses.json").read_text())
    assert second["rows"].keys() == {"1x2x8^3 SoftDiceLoss", "1x1x8^3 SoftDiceLoss"}
    assert second["rows"]["1x2x8^3 SoftDiceLoss"] == first["1x2x8^3 SoftDiceLoss"]
    assert (tmp_path / "losses.md").read_text(encoding="utf-8") == tables.page(second)
    assert {file.name for file in tmp_path.iterdir()} == {"losses.json", "losses.md"}

    monkeypatch.setattr(benchmark, "measured", None)
    benchmark.main([*RUN, str(tmp_path)])  # nothing is left to do
    monkeypatch.setattr(benchmark, "measured", measured)
    benchmark.main([*RUN, str(tmp_path), "--fresh"])
    assert json.loads((tmp_path / "losses.json").read_text())["rows"] != second["rows"]


def test_results_of_other_versions_are_not_continued(tmp_path, capsys):
    file = tmp_path / "losses.json"
    here = benchmark.environment()
    benchmark.save(file, {"environment": {**here, "code": "other"}, "rows": {}})
    assert benchmark.previous(file, here) == {"environment": here, "rows": {}}
    assert "other code" in capsys.readouterr().out
    assert here["versions"]["torch"] == torch.__version__


def test_what_would_take_too_long_or_too_much_memory_is_left_out_and_said(monkeypatch):
    monkeypatch.setattr(benchmark, "LONGEST", 0.0)
    row = benchmark.measured("1x2x8^3", "SoftDiceLoss", 1)
    assert row["seconds"] == {}
    assert "s a call" in row["left_out"]["SoftDiceLoss"]
    assert "s a call" in tables.summary(row)
    assert "1 × 2 × 8³, SoftDiceLoss: MONAI DiceLoss: takes about" in tables.left_out([row])
    assert "0.0 GiB there" in benchmark.too_much(lambda: torch.ones(9), Case(1, 2, 8, 3), available=0)


def test_the_important_sizes_come_first_and_no_pair_twice():
    work = list(benchmark.planned(benchmark.parsed([])))
    assert work[0] == ("1x4x128^3", "SoftDiceLoss")
    assert len(work) == len(set(work))
    assert {size for size, _ in work} == {
        *tables.GROUPS["128³"], *tables.GROUPS["64³"], *tables.GROUPS["192³"], *SIDES, *CLASSES
    }  # fmt: skip


def row(size, loss, own, base, counterpart=None, memory=(1.0, 3.0)):
    """A row of the results with round numbers; memory in volumes, of the loss and of the counterpart."""
    unit = Case.parse(size).logits_bytes
    seconds = {TORCH: base, loss: own, **({"MONAI DiceLoss": counterpart} if counterpart else {})}
    bytes_ = {TORCH: 3 * unit, loss: memory[0] * unit, "MONAI DiceLoss": memory[1] * unit}
    some = {name: bytes_[name] for name in seconds}
    return {"size": size, "loss": loss, "seconds": seconds, "allocated": some, "resident": some, "left_out": {}}


def results_of(*rows):
    environment = {
        "cpu": "some processor", "cores": 2, "memory": "8 GiB", "system": "Linux", "instructions": "AVX2", "threads": 1,
        "python": "3.10.0", "versions": {"torch": "2.13.0", "nnunetv2": None},
    }  # fmt: skip
    return {"environment": environment, "rows": {f"{r['size']} {r['loss']}": r for r in rows}}


def test_tables_show_ratios_within_a_turn():
    page = tables.page(
        results_of(
            row("1x1x128^3", "SoftJaccardLoss", [1.0], [1.0]),
            row("1x4x128^3", "SoftDiceLoss", [1.0, 20.0, 3.0], [2.0, 40.0, 1.0], [3.0, 60.0, 9.0], (1.13, 3.39)),
        )
    )
    assert "| Loss | 1 × 1 × 128³ | 1 × 4 × 128³ |" in page
    assert "| SoftDiceLoss | – | 0.50 |" in page
    assert "| SoftDiceLoss | – | 1.13 |" in page
    assert "| SoftDiceLoss: MONAI DiceLoss | – | 3.00 (3.00) |" in page
    assert "some processor (AVX2), 2 cores, 8 GiB, Linux; 1 thread(s), Python 3.10.0, torch 2.13.0." in page
    assert "nnU-Net was not installed: its columns are left out." in page


def test_the_resident_set_is_shown_where_it_says_more():
    some = row("1x4x128^3", "SoftDiceLoss", [1.0], [1.0])
    assert tables.relative_memory(some, "SoftDiceLoss") == "1.00"
    some["resident"] = {"SoftDiceLoss": 5 * some["allocated"]["SoftDiceLoss"]}
    assert tables.relative_memory(some, "SoftDiceLoss") == "1.00 (5.00)"
    some["resident"] = {"SoftDiceLoss": None}
    assert tables.relative_memory(some, "SoftDiceLoss") == "1.00"


def test_growth_is_fitted_and_drawn():
    assert power_law({"1x2x32^3": 3.0, "1x2x64^3": 24.0}) == pytest.approx((1.0, 3.0 / (2 * 32**3)))
    assert power_law({"1x2x64^3": 1.0, "1x4x64^3": 4.0, "1x8x64^3": 16.0})[0] == pytest.approx(2.0)
    rows = [
        row(size, "SoftDiceLoss", [1e-9 * Case.parse(size).elements], [2e-9 * Case.parse(size).elements])
        for size in (*SIDES, *CLASSES)
    ]
    page = tables.page(results_of(*rows))
    assert "| SoftDiceLoss | 0.0655 | 0.524 | 4.19 | 33.6 | 268 | 1.00 | 1.00 |" in page
    drawn = figures.drawn(results_of(*rows)["rows"])
    assert drawn.keys() == {"losses-time", "losses-memory"}
    assert all(png.startswith(b"\x89PNG") for png in drawn.values())
    assert figures.drawn({}) == {}


def test_the_share_of_the_loss_is_a_part_of_the_step():
    found = training_step(Case(1, 2, 32, 3), repeats=1)
    assert (
        found["step"].keys() == found["loss"].keys() == {"MONAI DiceLoss", "SoftDiceLoss, plain path", "SoftDiceLoss"}
    )
    for name, (seconds,) in found["loss"].items():
        assert 0 < seconds < found["step"][name][0]
    assert re.search(r"\| SoftDiceLoss \| \d+ \| [\d.]+ \| [\d.]+ % \|", tables.shares(found))


def test_the_documentation_includes_the_tables_of_the_results():
    results = json.loads((RESULTS / "losses.json").read_text(encoding="utf-8"))
    page = (RESULTS / "losses.md").read_text(encoding="utf-8")
    assert page == tables.page(results)
    documentation = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    included = re.findall(r"results/(\w+\.md)\n:start-after: (.+)\n:end-before: (.+)$", documentation, re.MULTILINE)
    assert {file for file, *_ in included} == {"losses.md"}
    start = re.findall(r"results/settings\.md\n:start-after: (.+)$", documentation, re.MULTILINE)
    assert [mark in (RESULTS / "settings.md").read_text(encoding="utf-8") for mark in start] == [True]
    for file, *marks in included:
        page = (RESULTS / file).read_text(encoding="utf-8")
        for mark in marks:
            assert mark in page, f"docs/performance.md includes {mark}"


def test_the_page_of_settings_is_that_of_its_numbers():
    page = runpy.run_path(str(ROOT / "benchmarks" / "settings.py"))["page"]
    results = json.loads((RESULTS / "settings.json").read_text(encoding="utf-8"))
    assert (RESULTS / "settings.md").read_text(encoding="utf-8") == page(results)
