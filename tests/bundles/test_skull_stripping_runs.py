"""Whole runs of the skull-stripping bundles: killed and continued, evaluated, compared, in two processes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from scipy import ndimage
from typer.testing import CliRunner

from monai_lossext.cli import app

from .conftest import LESIONS
from .running import KILLED, flat, results, rows

Run = Callable[..., ConfigWorkflow]
OVERLAP = ["dice", "jaccard", "accuracy", "sensitivity", "specificity", "mcc"]
DISTANCES = ["hausdorff_mm", "hausdorff95_mm", "nsd_2mm", "volume_difference_ml"]
TUNED = ["jaccard_tuned", "dice_tuned", "threshold"]
COLUMNS = [
    "foreground",
    *OVERLAP,
    *DISTANCES,
    "lesion_f1",
    "lesion_recall",
    "false_lesions",
    "lesion_dice",
    "ece",
    *TUNED,
]


@pytest.mark.slow
@pytest.mark.lesions_too
def test_killed_and_continued(skull_bundle: Path, skull_values: dict[str, Any], run_skull: Run, tmp_path: Path) -> None:
    """SIGKILL in the third of four epochs; resume=true ends with the same numbers and the same weights."""
    run_skull("train", "loss/boundary_distance", output_dir=str(tmp_path / "whole"), epochs=4)
    configs = [str(skull_bundle / "configs" / name) for name in ("train.yaml", "loss/boundary_distance.yaml")]
    options = {"bundle_root": str(skull_bundle), **skull_values, "output_dir": str(tmp_path / "killed"), "epochs": 4}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "batch", json.dumps(configs), json.dumps(options)],
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(rows(tmp_path / "killed" / "history.csv")) == 2
    run_skull("train", "loss/boundary_distance", output_dir=str(tmp_path / "killed"), epochs=4, resume=True)
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.lesions_too
def test_the_seed_decides(run_skull: Run, trained_skull: Path, tmp_path: Path) -> None:
    for seed, same in ((0, True), (1, False)):
        run_skull("train", output_dir=str(tmp_path / str(seed)), epochs=2, seed=seed)
        assert (results(tmp_path / str(seed))[0] == results(trained_skull)[0]) == same


LEARNING = """
    {size}
    network_def:
      _target_: UNet
      spatial_dims: {dims}
      in_channels: 1
      out_channels: 1
      channels: [8, 16, 32]
      strides: [2, 2]
      num_res_units: 2
      norm: {norm}
"""


@pytest.mark.slow
def test_training_finds_brains(
    skull_bundle: Path, skull_values: dict[str, Any], run_skull: Run, tmp_path: Path
) -> None:
    """Seconds of training in large voxels; the masks of unseen heads are then far better than those of one epoch."""
    dims, norm, size = (
        (2, "batch", "") if skull_bundle.name.endswith("2d") else (3, "instance", "patch_size: [24, 24, 24]")
    )
    values = {**yaml.safe_load(LEARNING.format(dims=dims, norm=norm, size=size)), "learning_rate": 0.01}
    values |= {} if dims == 2 else {"patches": 4}
    dice = {}
    for epochs in (1, 30):
        folder = tmp_path / str(epochs)
        for configs in (("train",), ("train", "evaluate")):
            section = {"section": "testing"} if "evaluate" in configs else {}
            options = values | section | {"epochs": epochs, "val_interval": epochs}
            run_skull(*configs, output_dir=str(folder), **options)
        dice[epochs] = np.mean([float(row["dice"]) for row in rows(folder / "evaluation" / "cases.csv")])
    assert dice[30] > max(0.7, dice[1] + 0.1)


def surface(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


@pytest.mark.lesions_too
def test_a_run_starts_from_given_weights(skull_workflow: Run, trained_skull: Path, tmp_path: Path) -> None:
    best = trained_skull / "models" / "best.pt"
    made = skull_workflow("train", "loss/mcc", output_dir=str(tmp_path), initial_weights=str(best))
    made.initialize()
    network = made.parser.get_parsed_content("network").state_dict()
    assert flat(dict(network)) == flat(dict(torch.load(best, weights_only=True)))


@pytest.mark.lesions_too
def test_evaluation_scores_each_volume(run_skull: Run, trained_skull: Path) -> None:
    """Scores agree with masks and labels as they lie on disk, scored without MONAI."""
    run_skull("train", "evaluate", output_dir=str(trained_skull), section="testing")
    table = rows(trained_skull / "evaluation" / "cases.csv")
    assert list(table[0]) == ["case", "image", "label", *COLUMNS]
    assert len(table) == 2
    assert len({row["threshold"] for row in table}) == 1
    for row in table:
        assert 0 < float(row["ece"]) < 1
        tuned = float(row["jaccard_tuned"])
        assert float(row["dice_tuned"]) == pytest.approx(2 * tuned / (1 + tuned))
        if float(row["threshold"]) == 0.5:
            assert tuned == pytest.approx(float(row["jaccard"]))
        label = nibabel.load(row["label"])
        predicted = nibabel.load(trained_skull / "evaluation" / "masks" / f"{row['case']}.nii.gz")
        np.testing.assert_allclose(predicted.affine, label.affine)
        truth, guess = label.get_fdata() == 1, predicted.get_fdata() == 1
        assert truth.shape == guess.shape
        assert float(row["dice"]) == pytest.approx(2 * (truth & guess).sum() / (truth.sum() + guess.sum()), abs=1e-6)
        assert float(row["sensitivity"]) == pytest.approx(guess[truth].mean(), abs=1e-6)
        assert float(row["specificity"]) == pytest.approx(1 - guess[~truth].mean(), abs=1e-6)
        spacing = label.header.get_zooms()
        volume = abs(truth.sum(dtype=int) - guess.sum(dtype=int)) * np.prod(spacing) / 1000
        assert float(row["volume_difference_ml"]) == pytest.approx(volume, rel=1e-5)
        assert float(row["foreground"]) == pytest.approx(truth.mean())
        directed = [
            ndimage.distance_transform_edt(~surface(to), sampling=spacing)[surface(of)]
            for of, to in ((truth, guess), (guess, truth))
        ]
        assert float(row["hausdorff_mm"]) == pytest.approx(max(map(np.max, directed)), rel=1e-4)
        most = max(np.percentile(distances, 95) for distances in directed)
        assert float(row["hausdorff95_mm"]) == pytest.approx(most, rel=1e-4)


@pytest.mark.slow
@pytest.mark.lesions_too
def test_compare(skull_bundle: Path, skull_values: dict[str, Any], tmp_path: Path) -> None:
    """The compare command trains, scores and reports volumes."""
    overrides = [
        *(f"{key}={skull_values[key]}" for key in skull_values.keys() - {"dataset_dir", "epochs"}),
        *("fold=0", "folds=5"),
    ]
    command = ["compare", "--bundle", str(skull_bundle), "--losses", "mcc", "--epochs", "1"]
    command += ["--dataset-dir", skull_values["dataset_dir"], "--output", str(tmp_path), "--section", "testing"]
    if skull_bundle.name == LESIONS:  # in two stages
        command += ["--pretraining-loss", "cross_entropy", "--pretraining-epochs", "1"]
    done = CliRunner().invoke(app, [*command, *(f"--override={text}" for text in overrides)])
    assert done.exit_code == 0, done.output
    report = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "95 % Hausdorff distance (mm)" in report
    assert (tmp_path / "report" / "figures" / "overlay-best.png").is_file()
    channels = 2 if skull_bundle.name == LESIONS else 1  # all files of the data set are watched
    assert len(json.loads((tmp_path / "data.json").read_text())) == 10 * (channels + 1) + 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*loader strategy is deprecated")  # of SQLAlchemy, to mlflow
def test_mlflow_works_offline(run_skull: Run, tmp_path: Path) -> None:
    run_skull("train", output_dir=str(tmp_path), tracking="mlflow")
    with sqlite3.connect(tmp_path / "mlruns.db") as database:
        logged = database.execute("select key, step from metrics").fetchall()
    database.close()
    assert {("val_jaccard", 1), ("train_loss", 1)} <= set(logged)


@pytest.mark.slow
@pytest.mark.lesions_too
def test_two_processes(skull_bundle: Path, skull_values: dict[str, Any], tmp_path: Path) -> None:
    """The multi-GPU config with two CPU processes: one run folder, one row an epoch, a checkpoint for one process."""
    configs = [str(skull_bundle / "configs" / name) for name in ("train.yaml", "multi_gpu_train.yaml")]
    options = {"bundle_root": str(skull_bundle), **skull_values, "output_dir": str(tmp_path)}
    flags = [argument for key, value in options.items() for argument in (f"--{key}", str(value))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, "-m", "monai.bundle", "run", "--config_file", str(configs), *flags],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in rows(tmp_path / "history.csv")] == ["1"]
    state = torch.load(tmp_path / "models" / "last.pt", weights_only=True)
    assert state["trainer"]["epoch_length"] == 3, "6 volumes, one at a time in each of two processes"
    assert not any(name.startswith("module.") for name in state["model"])
