"""The template of a bundle in the documentation does what the contract says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from monai_lossext.cli import app

from .test_zoo import volumes

TEMPLATE = Path(__file__).parents[2] / "docs" / "bundle_template"


def test_it_is_short() -> None:
    files = sorted(path.name for path in TEMPLATE.rglob("*") if path.is_file())
    assert files == ["evaluate.yaml", "train.yaml"]
    lines = [line for name in files for line in (TEMPLATE / "configs" / name).read_text().splitlines()]
    assert sum(bool(line.strip()) and not line.startswith("#") for line in lines) <= 40


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_bundle_that_ignores_the_seed_is_refused_before_the_first_training(tmp_path: Path) -> None:
    """It uses the key: only a few batches show that nothing depends on it."""
    volumes(tmp_path / "data", 10, images="images", labels="labels")
    shutil.copytree(TEMPLATE, tmp_path / "mine")
    train = tmp_path / "mine" / "configs" / "train.yaml"
    text = train.read_text(encoding="utf-8")
    assert text.count("set_determinism(@seed)") == text.count("seed: '@seed'") == 1
    text = text.replace("set_determinism(@seed)", "set_determinism(0 * @seed)")
    train.write_text(text.replace("seed: '@seed'", "seed: $0 * @seed"), encoding="utf-8")
    options = ["--bundle", tmp_path / "mine", "--dataset-dir", tmp_path / "data", "--output", tmp_path / "study"]
    options += ["--losses", "SoftDiceLoss", "--seeds", 2, "--epochs", 2, "--override", "patch=[8,8,8]"]
    done = CliRunner().invoke(app, list(map(str, ["compare", *options])))
    assert done.exit_code == 2, done.output
    assert "are the same to the last digit: the seeds of the study would change nothing in mine" in done.output
    assert not (tmp_path / "study" / "runs").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_it_is_compared(tmp_path: Path) -> None:
    """Losses by their names, with no overlay in the bundle; two seeds; unseen cases."""
    volumes(tmp_path / "data", 10, images="images", labels="labels")
    options = ["--dataset-dir", tmp_path / "data", "--override", "patch=[8,8,8]", "--override", "learning_rate=0.01"]
    options += ["--losses", "SoftDiceLoss,MatthewsCorrelationLoss"]
    checked = CliRunner().invoke(app, list(map(str, ["compare", "check", TEMPLATE, *options])))
    assert checked.exit_code == 0, checked.output
    assert "The bundle can be compared." in checked.output
    options += ["--bundle", TEMPLATE, "--output", tmp_path / "study", "--epochs", 2, "--section", "testing"]
    planned = CliRunner().invoke(app, list(map(str, ["compare", "plan", *options])))
    text = " ".join(planned.output.split())
    assert "The rest takes about 0:0" in text, planned.output
    assert "going by 3 batches of training and one of validation on this machine (SoftDiceLoss, Matthews" in text
    assert not (tmp_path / "study").exists()
    done = CliRunner().invoke(app, list(map(str, ["compare", *options])))
    assert done.exit_code == 0, done.output
    scores = pd.read_csv(tmp_path / "study" / "report" / "cases.csv")
    assert sorted(scores["case"].unique()) == ["case_4", "case_9"]
    assert scores.groupby("loss")["dice"].mean().nunique() == 2
    assert {"hausdorff95_mm", "nsd_2mm"} <= set(scores)
