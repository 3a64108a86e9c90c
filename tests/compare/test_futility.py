"""Trainings that are stopped as hopeless, by a rule that the study declares."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from monai_lossext.compare.conclusions import findings
from monai_lossext.compare.job import Futility, read_history, read_state
from monai_lossext.compare.plan import Study, StudyError
from monai_lossext.compare.report import write_report
from monai_lossext.compare.results import read_results
from monai_lossext.compare.run import run_study
from monai_lossext.compare.status import outcomes, seconds_left, standings
from monai_lossext.compare.study_file import read_study_file

from .conftest import Recorder
from .driving import Driver

RULE = {"epochs": 2, "below": 0.1}
SAID = "stopped as hopeless after epoch 2: its best val_jaccard until then was 0.0"


@pytest.fixture
def hopeless(write_overlay: Callable[..., Path]) -> Path:
    return write_overlay("hopeless", skill=45)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (["0.01"], (False, "")),  # not yet
        (["0.01", "0.3", "0.01"], (False, "")),
        (["0.01", "0.02", "0.9"], (True, "stopped as hopeless after epoch 2: its best val_jaccard until then was 0.0")),
        (["", "0.02"], (True, "stopped as hopeless after epoch 2: its best val_jaccard until then was 0.0200, below")),
        (["", ""], (False, "futility: in 2 epochs val_jaccard was never a number")),
    ],
)
def test_the_first_epochs_decide(scores: list[str], expected: tuple[bool, str]) -> None:
    """So that it does not matter when somebody looks."""
    rows = [{"epoch": str(i), "val_jaccard": score} for i, score in enumerate(scores, 1)]
    hopeless, said = Futility(2, 0.1, "val_jaccard").judge(rows)
    assert (hopeless, said.startswith(expected[1]), bool(said)) == (expected[0], True, bool(expected[1]))


def test_a_score_that_is_not_there_is_told() -> None:
    said = Futility(1, 0.1, "val_dise").judge([{"epoch": "1", "val_dice": "0.0"}])
    assert said == (False, "futility: history.csv has no column val_dise; it has epoch, val_dice")


def test_nothing_is_stopped_without_the_rule(plan: Callable[..., Study], watcher: Recorder, hopeless: Path) -> None:
    study = plan("SoftDiceLoss,hopeless")
    assert study.futility is None
    assert [outcome.error for outcome in run_study(study, watcher)] == ["", ""]
    assert "hopeless" in read_results(study, outcomes(study)).losses


@pytest.mark.parametrize("seconds", [0, 0.7])
def test_a_hopeless_loss_is_stopped_and_told_and_compared_no_more(
    plan: Callable[..., Study], watcher: Recorder, seconds: float
) -> None:
    """Also where its training was over before anybody looked."""
    hopeless = {"name": "hopeless", "_target_": "builtins.dict", "skill": 45, "seconds": seconds}
    study = plan(["SoftDiceLoss", "mcc", hopeless], epochs=6, seeds=(0, 1), futility=RULE)
    found = run_study(study, watcher)
    stopped = [outcome for outcome in found if outcome.futile]
    assert [outcome.run.name for outcome in stopped] == ["hopeless, seed 0", "hopeless, seed 1"]
    assert all(SAID in outcome.error for outcome in stopped)
    assert [outcome.error for outcome in found if not outcome.futile] == [""] * 4
    if seconds:
        assert len(read_history(stopped[0].run.folder)) < 6
    results = read_results(study, found)
    assert results.losses == ["SoftDiceLoss", "MatthewsCorrelationLoss"]
    assert "hopeless" not in "".join(findings(results))
    page = write_report(results)
    for text in (page.read_text(encoding="utf-8"), page.with_suffix(".md").read_text(encoding="utf-8")):
        text = text.replace("\\_", "_")
        assert SAID in text
        assert "a training whose best val" in text
        assert "Nothing is said about hopeless" in text
    assert [there.state for there in standings(study)].count("stopped") == 2
    assert seconds_left(study) == 0


def test_a_loss_that_is_hopeless_in_one_of_its_seeds_has_no_results(
    plan: Callable[..., Study], watcher: Recorder
) -> None:
    """What its other trainings reached would speak too well of it."""
    study = plan("SoftDiceLoss,mcc", seeds=(0, 1), epochs=6)
    best = [float(read_history(run_study(study, watcher)[i].run.folder)[1]["val_jaccard"]) for i in (1, 3)]
    rule = {"epochs": 2, "below": sum(best) / 2}
    again = plan("SoftDiceLoss,mcc", seeds=(0, 1), epochs=6, futility=rule, output=study.output.with_name("again"))
    found = run_study(again, watcher)
    dice, mcc = (
        sum(outcome.futile for outcome in found if outcome.run.loss.key == key) for key in ("soft_dice", "mcc")
    )
    assert (dice, mcc) == (2, 1)
    with pytest.raises(StudyError, match="no loss has results"):
        read_results(again, found)


def test_a_stopped_run_stays_stopped_and_the_rule_stays(
    plan: Callable[..., Study], watcher: Recorder, hopeless: Path
) -> None:
    study = plan("SoftDiceLoss,hopeless", epochs=4, futility=RULE)
    run_study(study, watcher)
    written = yaml.safe_load((study.output / "study.yaml").read_text(encoding="utf-8"))
    assert written["futility"] == {"epochs": 2, "below": 0.1, "score": "val_jaccard"}
    assert read_study_file(study.output / "study.yaml")["futility"] == written["futility"]
    calls = (study.runs()[1].folder / "calls.jsonl").read_bytes()
    found = run_study(plan("SoftDiceLoss,hopeless", epochs=4, futility=RULE), watcher)
    assert [(outcome.futile, outcome.reused) for outcome in found] == [(False, True), (True, True)]
    assert (study.runs()[1].folder / "calls.jsonl").read_bytes() == calls
    for other in (None, RULE | {"below": 0.2}):
        with pytest.raises(
            StudyError, match=r"--futility: .* was begun with .*'below': 0\.1.* decided before the first"
        ):
            plan("SoftDiceLoss,hopeless", epochs=4, futility=other)


@pytest.mark.slow
def test_a_killed_study_keeps_the_rule(
    bundle: Path, pictures: Path, tmp_path: Path, write_overlay: Callable[..., Path]
) -> None:
    write_overlay("hopeless", skill=45, seconds=0.4)
    options = ["--bundle", bundle, "--losses", "mcc,hopeless", "--dataset-dir", pictures, "--epochs", 8]
    options += ["--output", tmp_path / "study", "--futility-epochs", 4, "--futility-below", 0.1]
    folder = tmp_path / "study" / "runs" / "hopeless" / "seed-0"
    Driver(*options).kill_when(lambda: len(read_history(folder)) == 2)
    done = Driver(tmp_path / "study").run()
    assert done.returncode == 0, done.stderr
    assert "hopeless, seed 0: stopped as hopeless after epoch 4" in done.stdout
    assert read_state(folder)["futile"]
    assert len(read_history(folder)) < 8


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"epochs": 3}, "--futility: expected epochs and below, below is missing"),
        ({"epochs": 3, "below": 0.1}, "--futility: epochs: expected at least 1 and fewer than the 3 of"),
        ({"epochs": 1, "below": 9, "score": "train_loss"}, "a score of which a higher one is better, got train_loss"),
    ],
)
def test_rules_that_cannot_be_are_refused(plan: Callable[..., Study], rule: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        plan(futility=rule)
