"""What must not pass in silence."""

from __future__ import annotations

import io
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from monai_lossext.cli import app
from monai_lossext.compare import job as job_module
from monai_lossext.compare import run as run_module
from monai_lossext.compare.conclusions import findings, limits
from monai_lossext.compare.figures import Picture, can_be_drawn, significance_matrix
from monai_lossext.compare.job import Job, do_job
from monai_lossext.compare.plan import Study, StudyError
from monai_lossext.compare.report import write_report
from monai_lossext.compare.results import Results, read_results
from monai_lossext.compare.run import run_study, write_study
from monai_lossext.compare.study_file import read_study_file
from monai_lossext.compare.terminal import TerminalWatcher
from monai_lossext.files import replace_file

from .conftest import Recorder


def job(folder: Path, script: str) -> Job:
    """A training that a few lines of Python stand for."""
    (folder / "train.py").write_text(script, encoding="utf-8")
    return Job(folder / "run", {}, "", (str(folder / "train.py"),), (), "validation", "")


@pytest.mark.parametrize(
    ("losses", "epoch"), [(["0.5", "nan", "nan"], 2), (["inf"], 1), (["nan", "0.4"], 0), (["0.5", "0.4"], 0)]
)
def test_a_training_whose_loss_is_not_a_number_has_failed(tmp_path: Path, losses: list[str], epoch: int) -> None:
    rows = "".join(f"{i},{loss}\\n" for i, loss in enumerate(losses, 1))
    script = f"""from pathlib import Path
folder = Path({str(tmp_path / "run")!r})
(folder / "history.csv").write_text("epoch,train_loss\\n{rows}")
(folder / "models").mkdir()
(folder / "models" / "best.pt").write_text("")
"""
    error = do_job(job(tmp_path, script), {})
    assert error == (f"the training failed: its training loss was {losses[-1]} from epoch {epoch} on" if epoch else "")


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_training_whose_weights_are_not_numbers_has_failed(tmp_path: Path, value: float) -> None:
    script = f"""import torch
from pathlib import Path
models = Path({str(tmp_path / "run")!r}) / "models"
models.mkdir()
torch.save({{"layer": torch.tensor([1.0, float("{value}")])}}, models / "best.pt")
"""
    error = do_job(job(tmp_path, script), {})
    assert ("the weights are not finite: layer in best.pt" in error) == (not np.isfinite(value))
    assert torch.load(tmp_path / "run" / "models" / "best.pt")["layer"][0] == 1


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("bundle: a\nepochs: 3\nepochs: 4\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"study\.yaml: cannot be read: epochs stands there twice .* line 3"):
        read_study_file(file)


def test_a_key_that_stands_twice_in_a_config_is_refused_too(
    plan: Callable[..., Study], write_overlay: Callable[..., Path], bundle: Path
) -> None:
    write_overlay("mcc").write_text("loss: {skill: 0.3, fail: ''}\nloss: {skill: 9}\n", encoding="utf-8")
    with pytest.raises(StudyError, match=r"cannot read the config files .*mcc\.yaml: Duplicate key: `loss`"):
        plan()
    write_overlay("mcc")
    with (bundle / "configs" / "train.yaml").open("a", encoding="utf-8") as file:
        file.write("epochs: 7\n")
    with pytest.raises(StudyError, match="Duplicate key: `epochs`"):
        plan()


@pytest.mark.parametrize("option", ["metrics", "primary"])
def test_misspelt_metrics_are_found_before_the_first_training(plan: Callable[..., Study], option: str) -> None:
    wrong = "dise" if option == "primary" else ["jaccard", "dise"]
    with pytest.raises(StudyError, match=rf"--{option}: there is no score 'dise'; did you mean dice\?"):
        plan(**{option: wrong})
    assert plan(primary="roundness").primary == "roundness"  # a column of a bundle of one's own


def test_two_runs_with_the_same_scores_are_an_error(plan: Callable[..., Study], watcher: Recorder) -> None:
    """As when a bundle ignores the loss, the seed, or the folder of its checkpoints."""
    study = plan("SoftDiceLoss,mcc", seeds=(0, 1))
    outcomes = run_study(study, watcher)
    first, second, third = (run.folder / "evaluation" / "cases.csv" for run in study.runs()[:3])
    own = second.read_bytes()
    second.write_bytes(first.read_bytes())
    with pytest.raises(StudyError, match=r"loss SoftDiceLoss, seed 0 and loss MatthewsCorrelationLoss, seed 0 have"):
        read_results(study, outcomes)
    second.write_bytes(own)
    third.write_bytes(first.read_bytes())
    with pytest.raises(StudyError, match=r"SoftDiceLoss, seed 0 and loss SoftDiceLoss, seed 1 have the same scores"):
        read_results(study, outcomes)
    for path in (first, second, third):  # masks that are all empty are alike for good reason
        path.write_text(pd.read_csv(path).assign(jaccard=0, dice=0, mcc=np.nan).to_csv(index=False), encoding="utf-8")
    read_results(study, outcomes)


def test_the_checkpoint_to_go_on_from_goes_when_a_run_is_done(
    plan: Callable[..., Study], watcher: Recorder, tmp_path: Path
) -> None:
    study = plan("SoftDiceLoss,mcc")
    run_study(study, watcher)
    assert [file.name for run in study.runs() for file in (run.folder / "models").iterdir()] == ["best.pt"] * 2
    kept = plan("SoftDiceLoss,mcc", output=tmp_path / "kept", keep_checkpoints=True)
    run_study(kept, watcher)
    assert all((run.folder / "models" / "last.pt").is_file() for run in kept.runs())


def test_a_full_disk_is_a_message(
    plan: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, watcher: Recorder
) -> None:
    study = plan("SoftDiceLoss,mcc")
    write_study(study)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "write_study", full)
    result = CliRunner().invoke(app, ["compare", str(study.output)])
    assert result.exit_code == 2
    assert result.output.splitlines()[-1] == "error: [Errno 28] No space left on device"


def test_a_disk_that_is_full_fails_the_run_and_not_the_study(
    plan: Callable[..., Study], watcher: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the process that trains nothing can be written down of it: it is told all the same, and the others go on."""
    study = plan("SoftDiceLoss,mcc", seeds=(0, 1))
    full = study.runs()[1].folder
    save = job_module.save_state

    def save_state(folder: Path, state: dict[str, object]) -> None:
        if folder == full:
            raise OSError(28, "No space left on device")
        save(folder, state)

    monkeypatch.setattr(job_module, "save_state", save_state)
    monkeypatch.setattr(run_module, "save_state", save_state)
    outcomes = run_study(study, watcher)
    assert [outcome.error for outcome in outcomes] == ["", "OSError: [Errno 28] No space left on device", "", ""]
    page = write_report(read_results(study, outcomes)).read_text(encoding="utf-8")
    assert "MatthewsCorrelationLoss, seed 0</strong>: OSError: [Errno 28] No space left on device" in page


def test_half_a_file_does_not_stay_on_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("old", encoding="utf-8")
    with pytest.raises(OSError, match="File too large"), at_most(1000):
        replace_file(tmp_path / "scores.csv", "x" * 5000)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a disk without room; the signal is one that Python ignores."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_seed_that_failed_is_not_counted(plan: Callable[..., Study], watcher: Recorder) -> None:
    study = plan("SoftDiceLoss,mcc", seeds=(0, 1, 2))
    outcomes = run_study(study, watcher)
    outcomes[5] = replace(outcomes[5], error="failed")
    results = read_results(study, outcomes)
    text = " ".join(limits(results))
    assert "estimated from 2 to 3 trainings of a loss" in text
    assert "Fewer trainings than of the other losses (3) have results: MatthewsCorrelationLoss 2." in text
    (pair,) = results.comparisons
    assert (pair.trainings, pair.df) == (2, 3)


def test_one_loss_and_one_case_are_told(plan: Callable[..., Study], watcher: Recorder) -> None:
    study = plan("SoftDiceLoss,mcc", seeds=(0, 1))
    results = read_results(study, run_study(study, watcher))
    one = replace(results, cases=results.cases[results.cases["case"] == "case_03"])
    assert findings(one) == ["The losses have one case in common, from which nothing can be said about others."]
    alone = replace(results, cases=results.cases[results.cases["loss"] == "SoftDiceLoss"])
    assert "nothing was compared" in findings(alone)[0]


@pytest.mark.parametrize(
    ("losses", "seeds", "cases", "missing"),
    [(1, 3, 20, 0), (1, 1, 1, 0), (2, 1, 1, 0), (3, 2, 1, 0), (2, 1, 5, 0), (3, 3, 20, 2), (29, 2, 20, 1)],
)
def test_a_report_of_little_has_no_holes(
    plan: Callable[..., Study], monkeypatch: pytest.MonkeyPatch, losses: int, seeds: int, cases: int, missing: int
) -> None:
    """One loss, one case, runs that are missing, 29 losses with names that no font has: what is unknown is a dash."""
    names = [f"损失函数 {i}" for i in range(losses)]
    study = plan([{"_target_": "torch.nn.L1Loss", "name": name} for name in names], seeds=tuple(range(seeds)))
    generator = np.random.default_rng(0)
    runs = [(name, seed) for name in names for seed in range(seeds)][: losses * seeds - missing]
    scores = pd.concat(
        pd.DataFrame(
            {"loss": name, "seed": seed, "case": [f"病例 {i}" for i in range(cases)], "image": "", "label": ""}
        ).assign(
            mask="", jaccard=generator.beta(4, 2, cases), hausdorff95_px=np.nan, foreground=generator.random(cases)
        )
        for name, seed in runs
    )
    epochs = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_jaccard": [0.1, 0.2]})
    histories = pd.concat(epochs.assign(loss=name, seed=seed) for name, seed in runs)
    if losses > 3:
        monkeypatch.setattr(Picture, "png", lambda self: b"")  # drawn elsewhere
    path = write_report(Results(study, scores, histories, ["jaccard", "hausdorff95_px"], []))
    for text in (path.read_text(encoding="utf-8"), path.with_suffix(".md").read_text(encoding="utf-8")):
        assert not re.search(r"(?<![a-z/+])[+-]?nan(?![a-z])", re.sub(r"base64,[^\"]+", "", text))
        assert all(f"损失函数 {i}" in text for i in range(losses))
    if missing == 2:
        assert "Pairs of losses that were trained more than once; the table has all." in text


def test_without_a_terminal_lines_tell_how_a_training_goes_on(plan: Callable[..., Study]) -> None:
    study = plan("SoftDiceLoss,mcc", epochs=40)
    text = io.StringIO()
    (run, *_) = study.runs()
    with TerminalWatcher(study, Console(file=text, width=200)) as watcher:
        watcher.started(run, False)
        for epoch in range(1, 41):
            watcher.epoch(run, epoch, {"val_jaccard": "0.5"})
    lines = [line for line in text.getvalue().splitlines() if "epoch" in line]
    assert lines[0] == "  SoftDiceLoss, seed 0: epoch 4/40, Jaccard index 0.500"
    assert len(lines) == 10


def test_names_that_no_font_can_draw_and_many_losses_do_not_stop_the_report(plan: Callable[..., Study]) -> None:
    assert can_be_drawn("Tversky 0.3/0.7 Überlappung")
    names = [f"损失函数 {i}" for i in range(29)]
    study = plan([{"_target_": "torch.nn.L1Loss", "name": name} for name in names])
    generator = np.random.default_rng(0)
    cases = pd.concat(
        pd.DataFrame({"loss": name, "seed": seed, "case": range(30), "jaccard": i / 20 + generator.normal(0, 0.01, 30)})
        for i, name in enumerate(names)
        for seed in (0, 1)
    )
    picture = significance_matrix(Results(study, cases, pd.DataFrame(), ["jaccard"], []))
    picture.png()  # a character without a glyph is a warning, and here an error
    axes = picture.figure.axes[0]
    assert len(axes.get_xticklabels()) == 29
    assert {text.get_text() for text in axes.texts} <= {"▲", "▼", "", "–"}


def test_the_cause_of_a_failure_stands_last(tmp_path: Path) -> None:
    script = "import sys\nprint('epoch 1')\nraise ValueError('the loss wants 3 channels')\n"
    error = do_job(job(tmp_path, script), {})
    assert error.startswith("the training failed: exit code 1, see ")
    assert error.splitlines()[-1] == "ValueError: the loss wants 3 channels"
