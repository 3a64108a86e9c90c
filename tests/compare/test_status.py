"""compare plan, status and report: what they say of a study at any time, and that they change nothing of its runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from monai_lossext.cli import app
from monai_lossext.compare.job import save_state
from monai_lossext.compare.plan import Run, Study
from monai_lossext.compare.run import run_study, write_study
from monai_lossext.compare.status import seconds_left, standings, versions

from .conftest import Recorder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def mixed(plan: Callable[..., Study], watcher: Recorder, write_overlay: Callable[..., Path]) -> Study:
    """A study with a finished, a failed, an unfinished and two pending runs."""
    for name in ("unfinished", "pending"):
        write_overlay(name)
    write_overlay("mcc", fail="train")
    run_study(plan("SoftDiceLoss,mcc"), watcher)
    study = plan("SoftDiceLoss,mcc,unfinished,pending")
    write_study(study)
    run = study.runs()[2]
    run.folder.mkdir(parents=True)
    save_state(run.folder, {"settings": run.settings(), "trained": False})
    (run.folder / "history.csv").write_text("epoch,seconds\n1,2.0\n", encoding="utf-8")
    return study


def test_states(mixed: Study) -> None:
    assert [(there.run.loss.key, there.state, there.epochs) for there in standings(mixed)] == [
        ("soft_dice", "finished", 3),
        ("mcc", "failed", 3),
        ("unfinished", "unfinished", 1),
        ("pending", "pending", 0),
    ]


def test_a_run_that_somebody_works_on_is_running(mixed: Study, tmp_path: Path) -> None:
    run = mixed.runs()[2]
    (tmp_path / "work.py").write_text("print('begun', flush=True)\nimport time\ntime.sleep(60)\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "monai_lossext.compare.child",
        str(run.folder),
        "training",
        str(tmp_path / "work.py"),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert [there.state for there in standings(mixed)][2] == "running"
    process.communicate()
    assert [there.state for there in standings(mixed)][2] == "unfinished"


def test_status_shows_the_last_words_of_a_failed_run(mixed: Study) -> None:
    before = {path: path.read_bytes() for path in mixed.output.rglob("*") if path.is_file()}
    result = call("compare", "status", mixed.output)
    assert result.exit_code == 0, result.stderr
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "SoftDiceLoss, seed 0 finished 3/3" in rows
    assert any(
        row.startswith("MatthewsCorrelationLoss, seed 0 failed 3/3 the training failed: exit code 3") for row in rows
    )
    assert "loss is <nan>" in rows
    assert "unfinished, seed 0 unfinished 1/3" in rows
    assert "pending, seed 0 pending 0/3" in rows
    assert "4 runs, 1 finished; one after the other." in rows
    assert {path: path.read_bytes() for path in mixed.output.rglob("*") if path.is_file()} == before
    assert "working" not in result.stdout


def test_report_is_written_from_what_is_there(mixed: Study) -> None:
    result = call("compare", "report", mixed.output)
    assert result.exit_code == 0, result.stderr
    report = mixed.output / "report"
    assert set(pd.read_csv(report / "cases.csv")["loss"]) == {"SoftDiceLoss"}
    text = (report / "report.md").read_text(encoding="utf-8")
    assert "was not run yet" in text
    assert "is not finished, 1 of 3 epochs are done" in text
    assert "exit code 3" in text


def test_no_report_without_a_finished_run(plan: Callable[..., Study]) -> None:
    study = plan()
    study.output.mkdir(exist_ok=True)
    write_study(study)
    result = call("compare", "report", study.output)
    assert (result.exit_code, "is finished yet" in result.stderr) == (2, True)


def test_runs_with_other_settings_are_not_reported(plan: Callable[..., Study], watcher: Recorder) -> None:
    run_study(plan(), watcher)
    write_study(plan(epochs=3, seeds=(0, 1)))
    path = plan().output / "study.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("epochs: 3", "epochs: 4"), encoding="utf-8")
    result = call("compare", "status", path)
    assert "was made with other settings: epochs" in result.stdout
    assert call("compare", "report", path).exit_code == 2


def timed(run: Run, epochs: int, training: float, evaluation: float) -> None:
    run.folder.mkdir(parents=True)
    (run.folder / "evaluation").mkdir()
    (run.folder / "evaluation" / "cases.csv").touch()
    state = {"settings": run.settings(), "trained": True, "evaluated": "validation"}
    times = {"training": {"seconds": training, "epochs": epochs}, "evaluation": {"seconds": evaluation}}
    save_state(run.folder, {**state, **times})


def test_the_rest_is_estimated_from_what_was_done(plan: Callable[..., Study]) -> None:
    study = plan(seeds=(0, 1))
    dice, mcc, next_dice, next_mcc = study.runs()
    assert seconds_left(study) is None
    dice.folder.mkdir(parents=True)
    save_state(dice.folder, {"settings": dice.settings(), "trained": False})
    (dice.folder / "history.csv").write_text("epoch,seconds\n1,2.0\n", encoding="utf-8")
    assert seconds_left(study) == (2 + 3 * 3) * 2.0, "training passes alone, as long as there is nothing else"
    timed(mcc, 3, 30.0, 4.0)
    assert seconds_left(study) == pytest.approx((2 * 10 + 4) + (3 * 10 + 4) + (3 * 10 + 4))
    timed(next_dice, 3, 60.0, 5.0)
    assert seconds_left(study) == pytest.approx((2 * 20 + 5) + (3 * 10 + 4)), "each loss by its own speed"
    parallel = plan(seeds=(0, 1), executor={"processes": 2})
    assert seconds_left(parallel) == pytest.approx(45), "no less than the longest run"
    timed(next_mcc, 3, 1.0, 1.0)
    assert "The rest takes about 0:00:45" in call("compare", "plan", *plan_arguments(study)).stdout


def plan_arguments(study: Study) -> list[object]:
    options = {"--bundle": study.bundle, "--losses": "SoftDiceLoss,mcc", "--dataset-dir": study.dataset_dir}
    return [part for pair in {**options, "--output": study.output, "--seeds": 2}.items() for part in pair]


def test_plan_makes_nothing(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    options = ("--losses", "mcc", "--dataset-dir", pictures, "--output", tmp_path / "study")
    result = call("compare", "plan", "--bundle", bundle, *options)
    assert result.exit_code == 0
    assert "1 runs, 0 finished; one after the other." in result.stdout
    assert "How long the rest takes is unknown" in result.stdout
    assert not (tmp_path / "study").exists()


def test_versions_are_those_of_the_trainings(plan: Callable[..., Study], watcher: Recorder) -> None:
    study = plan()
    run_study(study, watcher)
    path = study.runs()[0].folder / "environment.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    entries[0]["versions"]["torch"] = "1.2.3"
    path.write_text(json.dumps(entries), encoding="utf-8")
    assert versions(study)["torch"].startswith("1.2.3, ")
    assert "1.2.3, " in call("compare", "report", study.output).stdout + (
        study.output / "report" / "report.md"
    ).read_text(encoding="utf-8")


def test_compare_without_a_command_shows_the_commands() -> None:
    for arguments in ((), ("--help",)):
        text = call("compare", *arguments).output
        assert all(command in text for command in ("plan", "run", "status", "report"))
