from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from monai_lossext.compare import run
from monai_lossext.compare.job import read_state
from monai_lossext.compare.plan import Study
from monai_lossext.compare.run import run_study

from .conftest import CASES, Recorder


def calls(study: Study, key: str = "mcc") -> list[dict[str, str]]:
    """The commands that fake_bundle.py got for a loss."""
    path = study.output / "runs" / key / "seed-0" / "calls.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_loss_is_trained_and_evaluated(plan: Callable[..., Study], watcher: Recorder) -> None:
    study = plan(seeds=(0, 1))
    outcomes = run_study(study, watcher)
    assert [(o.run.loss.key, o.run.seed, o.error) for o in outcomes] == [
        ("soft_dice", 0, ""),
        ("mcc", 0, ""),
        ("soft_dice", 1, ""),
        ("mcc", 1, ""),
    ]
    assert watcher.outcomes == outcomes
    assert watcher.resumed == {"soft_dice": False, "mcc": False}
    for outcome in outcomes:
        assert len(pd.read_csv(outcome.run.folder / "evaluation" / "cases.csv")) == CASES
        state = read_state(outcome.run.folder)
        assert (state["trained"], state["evaluated"]) == (True, "validation")
        assert state["settings"]["seed"] == outcome.run.seed
    written = yaml.safe_load((study.output / "study.yaml").read_text(encoding="utf-8"))
    assert (written["seeds"], written["section"]) == ([0, 1], "validation")
    assert written["losses"] == ["SoftDiceLoss", "mcc"]


def test_progress_is_told(plan: Callable[..., Study], watcher: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "POLL_SECONDS", 0.0)
    run_study(plan(epochs=200), watcher)
    assert all(1 <= watcher.epochs[key] <= 200 for key in ("soft_dice", "mcc"))


def test_finished_runs_are_kept(plan: Callable[..., Study], watcher: Recorder) -> None:
    run_study(plan(), watcher)
    outcomes = run_study(plan("SoftDiceLoss,mcc,monai_dice"), watcher)
    assert [outcome.reused for outcome in outcomes] == [True, True, False]
    assert len(calls(plan())) == 2
    (plan().runs()[1].folder / "evaluation" / "cases.csv").unlink()
    assert [outcome.reused for outcome in run_study(plan(), watcher)] == [True, False]
    assert [call.get("section", "train") for call in calls(plan())] == ["train", "validation", "validation"]


def test_another_section_is_evaluated_without_training_again(plan: Callable[..., Study], watcher: Recorder) -> None:
    run_study(plan(), watcher)
    study = plan(section="testing")
    assert not any(outcome.reused for outcome in run_study(study, watcher))
    assert [call.get("section", "train") for call in calls(study)] == ["train", "validation", "testing"]


def test_a_failure_is_recorded_and_does_not_stop_the_others(
    plan: Callable[..., Study], watcher: Recorder, write_overlay: Callable[..., Path]
) -> None:
    write_overlay("soft_dice", fail="train")
    study = plan()
    broken, good = run_study(study, watcher)
    assert broken.error.splitlines() == [
        f"the training failed: exit code 3, see {broken.run.folder / 'console.log'}",
        "reading pictures",
        "loss is <nan>",
    ]
    assert not good.error
    assert read_state(broken.run.folder)["error"] == broken.error
    assert not (broken.run.folder / "evaluation").exists()


def test_a_failed_evaluation_is_tried_again_without_training(
    plan: Callable[..., Study], watcher: Recorder, pictures: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "data"
    (elsewhere).mkdir()
    study = plan("mcc", dataset_dir=elsewhere)
    (outcome,) = run_study(study, watcher)
    assert outcome.error.startswith("the evaluation failed: exit code 1")
    assert "No such file" in outcome.error
    (elsewhere / "validation").symlink_to(pictures / "validation")
    (outcome,) = run_study(study, watcher)
    assert not outcome.error
    assert [call.get("section", "train") for call in calls(study)] == ["train", "validation", "validation"]


def test_a_killed_training_goes_on(
    plan: Callable[..., Study], watcher: Recorder, write_overlay: Callable[..., Path]
) -> None:
    write_overlay("mcc", fail="kill")
    study = plan("mcc")
    (outcome,) = run_study(study, watcher)
    assert "killed by signal 9" in outcome.error
    assert watcher.resumed == {"mcc": False}
    (outcome,) = run_study(study, watcher)
    assert not outcome.error
    assert watcher.resumed == {"mcc": True}
    assert ["resume" in call for call in calls(study)] == [False, True, False]


def test_an_evaluation_that_writes_nothing_is_a_failure(
    plan: Callable[..., Study], watcher: Recorder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "nothing.py").touch()
    monkeypatch.setattr(run, "BUNDLE_COMMAND", [sys.executable, str(tmp_path / "nothing.py")])
    outcomes = run_study(plan(), watcher)
    assert {outcome.error for outcome in outcomes} == {"the evaluation failed: it wrote no evaluation/cases.csv"}


def test_an_interrupted_study_leaves_no_training_behind(
    plan: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = []

    class Impatient(Recorder):
        def epoch(self, *_: object) -> None:
            raise KeyboardInterrupt

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: processes.append(real(*a, **k)) or processes[-1])
    with pytest.raises(KeyboardInterrupt):
        run_study(plan(epochs=10**6), Impatient())
    assert [process.poll() is not None for process in processes] == [True]
    state = read_state(plan(epochs=10**6).runs()[0].folder)
    assert (state["trained"], "error" in state) == (False, False)
