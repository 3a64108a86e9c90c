"""Whole runs of the skin-lesion bundle: killed and continued, evaluated, on real pictures, in two processes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from PIL import Image

from .running import KILLED, needs_compiler, results, rows

Run = Callable[..., ConfigWorkflow]


@pytest.fixture(scope="module")
def uninterrupted(run_bundle: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run_bundle("train", "loss/mcc", output_dir=str(folder), epochs=4)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["batch", "checkpoint"])
def test_killed_and_continued(
    bundle: Path, phantoms: dict[str, Any], run_bundle: Run, uninterrupted: Path, tmp_path: Path, moment: str
) -> None:
    """SIGKILL in the third of four epochs; --resume true ends with the same numbers and the same weights."""
    configs = [str(bundle / "configs" / name) for name in ("train.yaml", "loss/mcc.yaml")]
    options = {"bundle_root": str(bundle), **phantoms, "output_dir": str(tmp_path), "epochs": 4, "batch_size": 4}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, moment, json.dumps(configs), json.dumps(options)],
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert torch.load(tmp_path / "models" / "last.pt", weights_only=True)["trainer"]["iteration"] == 2 * 3
    assert len(rows(tmp_path / "history.csv")) == (2 if moment == "batch" else 3)

    if moment == "batch":
        flags = [argument for key, value in options.items() for argument in (f"--{key}", str(value))]
        command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs), *flags]
        subprocess.run([*command, "--resume", "true"], check=True, capture_output=True)
    else:
        run_bundle("train", "loss/mcc", output_dir=str(tmp_path), epochs=4, resume=True)
    assert results(tmp_path) == results(uninterrupted)


def test_the_seed_decides(run_bundle: Run, uninterrupted: Path, tmp_path: Path) -> None:
    for seed, same in ((0, True), (1, False)):
        folder = tmp_path / str(seed)
        run_bundle("train", "loss/mcc", output_dir=str(folder), epochs=4, seed=seed)
        assert (results(folder)[0] == results(uninterrupted)[0]) == same


def test_evaluation_scores_each_case(run_bundle: Run, trained: Path) -> None:
    """Scores and masks agree with each other and with the files on disk, read and scored without MONAI."""
    run_bundle("train", "evaluate", output_dir=str(trained), section="testing")
    table = rows(trained / "evaluation" / "cases.csv")
    overlap = ["dice", "jaccard", "accuracy", "sensitivity", "specificity", "mcc"]
    outlines = [
        "hausdorff_px",
        "hausdorff95_px",
        "nsd_2px",
        "lesion_f1",
        "lesion_recall",
        "false_lesions",
        "lesion_dice",
    ]
    tuned = ["ece", "jaccard_tuned", "dice_tuned", "threshold"]
    assert list(table[0]) == ["case", "image", "label", "foreground", *overlap, *outlines, *tuned]
    assert len(table) == 6
    for row in table:
        predicted = np.asarray(Image.open(trained / "evaluation" / "masks" / f"{row['case']}.png"))
        assert predicted.shape == (128, 128)
        assert set(np.unique(predicted)) <= {0, 255}
        label = np.asarray(Image.open(row["label"]).convert("L")) > 127
        nearest = [np.arange(128) * size // 128 for size in label.shape]
        truth, guess = label[np.ix_(*nearest)], predicted > 0
        assert row["case"] in row["image"]
        assert float(row["jaccard"]) == pytest.approx((truth & guess).sum() / (truth | guess).sum(), abs=1e-6)
        assert float(row["accuracy"]) == pytest.approx((truth == guess).mean(), abs=1e-6)
        assert float(row["sensitivity"]) == pytest.approx(guess[truth].mean(), abs=1e-6)


def test_evaluation_agrees_with_training(run_bundle: Run, trained: Path) -> None:
    run_bundle("train", "evaluate", output_dir=str(trained), section="validation")
    mean = np.mean([float(row["jaccard"]) for row in rows(trained / "evaluation" / "cases.csv")])
    best = max(float(row["val_jaccard"]) for row in rows(trained / "history.csv"))
    assert mean == pytest.approx(best, abs=1e-6)


@pytest.mark.slow
def test_it_learns_on_real_pictures(run_bundle: Run, isic2017: Path, tmp_path: Path) -> None:
    cases = {
        section: sorted(file.stem for file in (isic2017 / f"ISIC-2017_{section}_Data").glob("*.jpg"))
        for section in ("Training", "Validation")
    }
    # Neighbours in the list resemble each other: take every 25th picture of 1992, and every fifth of 149.
    split = {"training": cases["Training"][::25], "validation": cases["Validation"][::5], "testing": []}
    (tmp_path / "split.yaml").write_text(yaml.safe_dump(split))
    run_bundle(
        "train",
        "loss/mcc",
        dataset_dir=str(isic2017),
        split_file=str(tmp_path / "split.yaml"),
        output_dir=str(tmp_path / "run"),
        epochs=10,
        batch_size=10,
        learning_rate=0.003,
    )
    history = rows(tmp_path / "run" / "history.csv")
    assert float(history[-1]["train_loss"]) < 0.85 * float(history[0]["train_loss"])
    assert max(float(row["val_jaccard"]) for row in history) > 0.35, "calling everything lesion gives 0.18"


@pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated")  # of SQLAlchemy, to mlflow
def test_mlflow_works_offline(run_bundle: Run, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    run_bundle("train", output_dir=str(tmp_path), epochs=2, tracking="mlflow")
    with sqlite3.connect(tmp_path / "mlruns.db") as database:
        logged = database.execute("select key, step from metrics").fetchall()
    database.close()
    assert {("val_jaccard", 1), ("val_jaccard", 2), ("train_loss", 1), ("train_loss", 2)} <= set(logged)


@pytest.mark.slow
def test_two_processes(bundle: Path, phantoms: dict[str, Any], tmp_path: Path) -> None:
    """The multi-GPU config with two CPU processes: one run folder, one row an epoch, a checkpoint for one process."""
    configs = [str(bundle / "configs" / name) for name in ("train.yaml", "multi_gpu_train.yaml")]
    options = {"bundle_root": str(bundle), **phantoms, "output_dir": str(tmp_path), "epochs": 2, "batch_size": 4}
    flags = [argument for key, value in options.items() for argument in (f"--{key}", str(value))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "-m", "monai.bundle", "run", "--config_file", str(configs), *flags],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in rows(tmp_path / "history.csv")] == ["1", "2"]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    state = torch.load(tmp_path / "models" / "last.pt", weights_only=True)
    assert state["trainer"]["epoch_length"] == 3, "12 pictures in batches of 2 for each of two processes"
    assert not any(name.startswith("module.") for name in state["model"])


@needs_compiler
def test_a_compiled_network_trains_as_the_plain_one_and_writes_the_same_checkpoints(run_bundle, tmp_path):
    for name in ("true", "false"):
        run_bundle("train", output_dir=str(tmp_path / name), compile=name)
    compiled, plain = (
        [float(row["train_loss"]) for row in rows(tmp_path / name / "history.csv")] for name in ("true", "false")
    )
    assert compiled == pytest.approx(plain, rel=1e-3)
    compiled, plain = (
        torch.load(tmp_path / name / "models" / "best.pt", weights_only=True) for name in ("true", "false")
    )
    assert compiled.keys() == plain.keys()


def test_bfloat16_trains_and_evaluates(run_bundle, tmp_path):
    run_bundle("train", output_dir=str(tmp_path), precision="bfloat16")
    run_bundle("train", "evaluate", output_dir=str(tmp_path), precision="bfloat16", section="testing")
    assert (tmp_path / "evaluation" / "cases.csv").exists()
    weights = torch.load(tmp_path / "models" / "best.pt", weights_only=True)
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}
