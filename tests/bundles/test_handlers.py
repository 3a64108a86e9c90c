"""Scores of single cases, seeds, history and checkpoints."""

from __future__ import annotations

import csv
import json
import math
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.metrics import compute_hausdorff_distance
from PIL import Image
from sklearn import metrics

from monai_lossext.compare.metrics import with_f_scores
from monai_lossext.handlers import (
    CaseTable,
    EpochSeed,
    RunCheckpoints,
    RunHistory,
    case_metrics,
    picture_metrics,
    volume_metrics,
)

EXAMPLES = json.loads((Path(__file__).parents[1] / "losses" / "worked_examples.json").read_text())["examples"]
NAN = float("nan")
EMPTY, LESION, FULL = np.zeros((4, 5)), np.eye(4, 5), np.ones((4, 5))


def masks(*pictures: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.stack(pictures)[:, None], dtype=torch.float32)


def test_scores_agree_with_scikit_learn() -> None:
    random = np.random.default_rng(0)
    prediction, target = random.random((2, 6, 24, 20)) > np.linspace(0.2, 0.8, 6)[:, None, None]
    scores = case_metrics(masks(*prediction), masks(*target))
    for index in range(6):
        truth, guess = target[index].ravel(), prediction[index].ravel()
        expected = {
            "dice": metrics.f1_score(truth, guess),
            "jaccard": metrics.jaccard_score(truth, guess),
            "accuracy": metrics.accuracy_score(truth, guess),
            "sensitivity": metrics.recall_score(truth, guess),
            "specificity": metrics.recall_score(truth, guess, pos_label=False),
            "mcc": metrics.matthews_corrcoef(truth, guess),
        }
        assert {name: value[index].item() for name, value in scores.items()} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [  # dice, jaccard, accuracy, sensitivity, specificity, mcc
        (EMPTY, EMPTY, (1, 1, 1, NAN, 1, NAN)),
        (LESION, EMPTY, (0, 0, 0.8, NAN, 0.8, NAN)),
        (EMPTY, LESION, (0, 0, 0.8, 0, 1, NAN)),
        (LESION, LESION, (1, 1, 1, 1, 1, 1)),
        (FULL, FULL, (1, 1, 1, 1, NAN, NAN)),
        (1 - LESION, LESION, (0, 0, 0, 0, 0, -1)),
    ],
)
def test_scores_at_the_edges(prediction: np.ndarray, target: np.ndarray, expected: tuple[float, ...]) -> None:
    scores = case_metrics(masks(prediction), masks(target))
    assert [value.item() for value in scores.values()] == pytest.approx(list(expected), nan_ok=True)


@pytest.mark.parametrize("name", ["metric", "metric2"])
def test_scores_of_the_worked_examples(name: str) -> None:
    examples = [example for example in EXAMPLES if example["name"].startswith(f"{name}_")]
    pair = masks(np.array(examples[0]["p"])), masks(np.array(examples[0]["g"]))
    scores = {key: value.item() for key, value in picture_metrics(*pair).items()}
    volume = volume_metrics(*(mask[..., None] for mask in pair), spacing=(1, 1, 1))
    scores["avd_voxels"] = 1000 * volume["volume_difference_ml"].item()
    scores["hausdorff"] = scores["hausdorff_px"]
    scores |= with_f_scores(pd.DataFrame([scores])).iloc[0].to_dict() | {"f1": scores["dice"]}
    known = {example["formula_id"].removeprefix("MET.").lower(): example["expected"] for example in examples}
    known = {key: value for key, value in known.items() if "hamming" not in key}  # no metric of a case
    assert len(known) == 6
    assert {key: scores[key] for key in known} == pytest.approx(known, abs=1e-6)


@pytest.mark.parametrize("beta", [0.5, 1.5, 2])
def test_f_scores_are_scikit_learns(beta: float) -> None:
    """Also where nothing overlaps, and 1 when both masks are empty."""
    random = np.random.default_rng(1)
    prediction, target = random.random((2, 6, 24, 20)) > np.linspace(0.1, 0.95, 6)[:, None, None]
    prediction[0], target[1], target[2], prediction[2] = 0, 0, 0, 0
    prediction[3] &= ~target[3]
    scores = with_f_scores(
        pd.DataFrame({k: v.numpy() for k, v in case_metrics(masks(*prediction), masks(*target)).items()})
    )
    expected = [
        metrics.fbeta_score(t.ravel(), p.ravel(), beta=beta, zero_division=1.0)
        for p, t in zip(prediction, target, strict=True)
    ]
    assert expected[:4] == [0, 0, 1, 0]
    assert scores[f"f{beta}"].tolist() == pytest.approx(expected, abs=1e-6)


def test_distances_are_monais() -> None:
    """Where both masks hold something; empty masks have a number of their own."""
    random = np.random.default_rng(2)
    prediction, target = (masks(*picture) for picture in random.random((2, 3, 24, 20)) > 0.9)
    prediction[2] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [
            compute_hausdorff_distance(prediction, target, include_background=True, percentile=percentile)[:, 0]
            for percentile in (None, 95)
        ]
    scores = picture_metrics(prediction, target)
    for name, values in zip(("hausdorff_px", "hausdorff95_px"), expected, strict=True):
        assert scores[name][:2].tolist() == pytest.approx(values[:2].tolist())
        assert scores[name][2].item() == pytest.approx((24**2 + 20**2) ** 0.5)
    assert picture_metrics(prediction[2:], prediction[2:])["hausdorff_px"].tolist() == [0]


def table(folder: Path, prediction: np.ndarray, target: np.ndarray, case: str = "a") -> list[dict[str, str]]:
    """Write the table of one case and read it."""
    engine = Engine(lambda *_: [{"pred": masks(prediction)[0], "label": masks(target)[0]}])
    CaseTable(folder, [{"case": case, "image": "a.jpg", "label": "a.png"}]).attach(engine)
    engine.run([[{"case": case}]])
    with (folder / "cases.csv").open() as file:
        return list(csv.DictReader(file))


def test_table_of_cases(tmp_path: Path) -> None:
    prediction = np.zeros((4, 5))
    prediction[3, 0] = 1
    (row,) = table(tmp_path / "evaluation", prediction, EMPTY)
    assert row == {
        "case": "a",
        "image": "a.jpg",
        "label": "a.png",
        "foreground": "0.0",
        "dice": "0.0",
        "jaccard": "0.0",
        "accuracy": row["accuracy"],
        "sensitivity": "",
        "specificity": row["accuracy"],
        "nsd_2px": "0.0",
        "lesion_f1": "0.0",
        "lesion_recall": "",
        "false_lesions": "1.0",
        "lesion_dice": "0.0",
        "mcc": "",
        "hausdorff_px": row["hausdorff_px"],
        "hausdorff95_px": row["hausdorff_px"],
    }
    assert float(row["hausdorff_px"]) == pytest.approx(41**0.5)
    assert float(row["accuracy"]) == pytest.approx(0.95)
    mask = np.asarray(Image.open(tmp_path / "evaluation" / "masks" / "a.png"))
    assert mask.shape == (5, 4)
    assert np.argwhere(mask == 255).tolist() == [[0, 3]]


def test_a_failed_evaluation_keeps_the_former(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    table(folder, LESION, LESION, "former")
    engine = Engine(lambda *_: [{"pred": masks(LESION)[0], "label": masks(LESION)[0]}])
    CaseTable(folder, []).attach(engine)
    with pytest.raises(KeyError):
        engine.run([[{"case": "unknown"}]])
    assert (folder / "masks" / "former.png").exists()
    table(folder, LESION, LESION, "latter")
    assert [file.name for file in (folder / "masks").iterdir()] == ["latter.png"]
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation"]


def test_epoch_seed_depends_on_run_and_epoch_alone() -> None:
    drawn: dict[tuple[int, int], list[float]] = {}

    def run(seed: int, extra: int) -> None:
        engine = Engine(lambda *_: drawn.setdefault((seed, engine.state.epoch), []).append(torch.rand(()).item()))
        EpochSeed(seed).attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: torch.rand(extra))
        engine.run([0], max_epochs=3)

    run(seed=1, extra=0)
    run(seed=1, extra=7)  # what is drawn between epochs changes nothing
    run(seed=2, extra=0)
    assert all(len(set(values)) == 1 for values in drawn.values())
    assert len({values[0] for values in drawn.values()}) == 6


class Trainer(Engine):
    """Counts as a trainer of two batches an epoch whose validation gives the wanted metrics."""

    def __init__(self, scores: list[float | None]) -> None:
        super().__init__(lambda engine, loss: [{"loss": loss}])
        self.scores = scores
        self.network = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1.0)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)
        self.evaluator: Any = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}, key_metric_name="val_jaccard"))
        self.state.device = torch.device("cpu")
        self.state.max_epochs, self.state.epoch_length = len(scores), 2
        self.add_event_handler(Events.EPOCH_COMPLETED, self.validate)

    def validate(self) -> None:
        epoch = self.state.epoch
        torch.nn.init.constant_(self.network.weight, epoch)
        if (score := self.scores[epoch - 1]) is not None:
            self.evaluator.state.epoch = epoch
            self.evaluator.state.metrics = {"val_jaccard": score, "val_dice": score / 2}

    def start(self) -> None:
        self.run([1.0, 2.0], max_epochs=len(self.scores))


def history(trainer: Trainer, path: Path) -> list[dict[str, str]]:
    RunHistory(path, trainer.evaluator, trainer.optimizer).attach(trainer)
    trainer.start()
    with path.open() as file:
        return list(csv.DictReader(file))


def test_history_has_a_row_an_epoch(tmp_path: Path) -> None:
    trainer = Trainer([0.5, None, 0.25])
    rows = history(trainer, tmp_path / "history.csv")
    assert [list(row) for row in rows] == [["epoch", "train_loss", "val_dice", "val_jaccard", "lr", "seconds"]] * 3
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["train_loss"] for row in rows] == ["1.5"] * 3
    assert [row["val_jaccard"] for row in rows] == ["0.5", "", "0.25"]
    assert [row["val_dice"] for row in rows] == ["0.25", "", "0.125"]
    assert all(float(row["seconds"]) >= 0 and float(row["lr"]) == 1 for row in rows)
    assert trainer.state.metrics["train_loss"] == 1.5


def test_history_drops_what_a_killed_run_left(tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(
        "epoch,train_loss,val_dice,val_jaccard,lr,seconds\n1,9,9,9,9,9\n2,9,9,9,9,9\n"
    )
    trainer = Trainer([0.5, 0.25])
    trainer.state.epoch, trainer.state.iteration = 1, 2  # continues after the first epoch
    rows = history(trainer, tmp_path / "history.csv")
    assert [(row["epoch"], row["train_loss"]) for row in rows] == [("1", "9"), ("2", "1.5")]


def checkpoints(trainer: Trainer, folder: Path, resume: bool = False) -> None:
    RunCheckpoints(
        folder, trainer.network, trainer.optimizer, trainer.scheduler, trainer.evaluator, resume=resume
    ).attach(trainer)
    trainer.start()


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def test_best_and_last(tmp_path: Path) -> None:
    checkpoints(Trainer([0.5, 0.7, None, 0.6]), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "last.pt"]
    assert load(tmp_path / "best.pt")["weight"].item() == 2
    last = load(tmp_path / "last.pt")
    assert last["model"]["weight"].item() == 4
    assert {"optimizer", "lr_scheduler", "trainer", "best"} < set(last)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_end_the_training(tmp_path: Path, value: float) -> None:
    trainer = Trainer([0.5, 0.7, 0.8])

    @trainer.on(Events.ITERATION_COMPLETED(once=4))
    def spoil(engine: Trainer) -> None:
        engine.network.bias.data.fill_(value)

    with pytest.raises(FloatingPointError, match="not finite after epoch 2: bias holds NaN"):
        checkpoints(trainer, tmp_path)
    assert load(tmp_path / "last.pt")["trainer"]["iteration"] == 2, "of the epoch before"
    assert load(tmp_path / "last.pt")["model"]["bias"].isfinite().all()
    assert load(tmp_path / "best.pt")["weight"].item() == 1


def test_resume_knows_the_best(tmp_path: Path) -> None:
    scores: list[float | None] = [0.5, 0.7, 0.6, 0.8]
    stopped = Trainer(scores)
    stopped.add_event_handler(Events.EPOCH_STARTED(once=3), stopped.terminate)
    checkpoints(stopped, tmp_path)
    assert load(tmp_path / "last.pt")["trainer"]["iteration"] == 4

    stopped = Trainer(scores)
    stopped.add_event_handler(Events.EPOCH_STARTED(once=4), stopped.terminate)
    checkpoints(stopped, tmp_path, resume=True)
    assert load(tmp_path / "best.pt")["weight"].item() == 2, "0.6 is no better than 0.7"

    checkpoints(Trainer(scores), tmp_path, resume=True)
    assert load(tmp_path / "best.pt")["weight"].item() == 4


def test_resume_goes_on_with_the_scale_of_mixed_precision(tmp_path: Path) -> None:
    def trainer(scale: float) -> Trainer:
        made = Trainer([0.5, 0.7])
        made.scaler = torch.amp.GradScaler("cpu", init_scale=scale)  # type: ignore[attr-defined]
        made.scaler.scale(torch.ones(()))  # as the first step does
        return made

    stopped = trainer(8.0)
    stopped.add_event_handler(Events.EPOCH_STARTED(once=2), stopped.terminate)
    checkpoints(stopped, tmp_path)
    again = trainer(2.0)
    checkpoints(again, tmp_path, resume=True)
    assert again.scaler.get_scale() == 8  # type: ignore[attr-defined]
    saved = load(tmp_path / "last.pt")
    del saved["scaler"]  # as an earlier version saved it
    torch.save(saved, tmp_path / "last.pt")
    again = trainer(2.0)
    checkpoints(again, tmp_path, resume=True)
    assert again.scaler.get_scale() == 2  # type: ignore[attr-defined]


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    checkpoints(Trainer([0.5, 0.7]), tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = Trainer([0.5, 0.7])
    checkpoints(again, tmp_path, resume=True)
    assert again.network.weight.item() == 2
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before


def test_resume_without_a_run_starts_one(tmp_path: Path) -> None:
    checkpoints(Trainer([0.5]), tmp_path / "new", resume=True)
    assert (tmp_path / "new" / "last.pt").exists()


def test_resume_refuses_another_length(tmp_path: Path) -> None:
    checkpoints(Trainer([0.5, 0.7]), tmp_path)
    with pytest.raises(ValueError, match=r"resume: .*last.pt is of a run of 2 epochs; this one has 3"):
        checkpoints(Trainer([0.5, 0.7, 0.8]), tmp_path, resume=True)


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_failed_save_leaves_the_former(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former file has to be there until the moment in which the new one, complete, takes its place."""
    replace, saved = os.replace, []

    def fail(source: str, target: Path) -> None:
        saved.append(target)
        if [path.name for path in saved].count(name) == 2:
            assert load(tmp_path / name)
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        checkpoints(Trainer([0.5, 0.7]), tmp_path)
    state = load(tmp_path / name)
    assert (state["model"] if name == "last.pt" else state)["weight"].item() == 1


def test_table_needs_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="one process"):
        CaseTable(tmp_path, []).attach(Engine(lambda *_: None))


def test_evaluator_epoch_is_the_trainers() -> None:
    """What the handlers rely on to know whether an epoch was validated."""
    network = torch.nn.Identity()
    evaluator = SupervisedEvaluator(torch.device("cpu"), [{"image": torch.ones(1, 1)}], network)
    evaluator.run(7)
    assert evaluator.state.epoch == 7
