"""A bundle, a data set and studies that are done within a second."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from monai_lossext.compare import run
from monai_lossext.compare.check import plan_study
from monai_lossext.compare.plan import Run, Study
from monai_lossext.compare.run import Outcome
from monai_lossext.data import dermoscopy_phantom

CASES = 14
FAKE_BUNDLE = str(Path(__file__).with_name("fake_bundle.py"))


class Recorder:
    """A watcher that remembers what it was told."""

    def __init__(self) -> None:
        self.resumed: dict[str, bool] = {}
        self.epochs: dict[str, int] = {}
        self.outcomes: list[Outcome] = []

    def started(self, run: Run, resumed: bool) -> None:
        self.resumed[run.loss.key] = resumed

    def epoch(self, run: Run, done: int, row: dict[str, str]) -> None:
        assert int(row["epoch"]) == done
        self.epochs[run.loss.key] = done

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@pytest.fixture
def watcher() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with validation/images and validation/masks; the name of one case is HTML."""
    folder = tmp_path_factory.mktemp("pictures")
    for section in ("validation", "testing"):
        for name in ("images", "masks"):
            (folder / section / name).mkdir(parents=True)
        for i in range(CASES):
            image, mask = dermoscopy_phantom(i, (48, 64))
            case = f"case_{i:02d}" if i else "<b>&$a_1$"
            Image.fromarray(image).save(folder / section / "images" / f"{case}.png")
            Image.fromarray(mask).save(folder / section / "masks" / f"{case}.png")
    return folder


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with overlays of known quality, run by fake_bundle.py."""
    monkeypatch.setattr(run, "BUNDLE_COMMAND", [sys.executable, FAKE_BUNDLE])
    monkeypatch.setattr(run, "POLL_SECONDS", 0.02)
    configs = tmp_path / "bundle" / "configs"
    (configs / "loss").mkdir(parents=True)
    datalist = {"training": [{}], "validation": [{}] * CASES, "testing": [{}] * CASES}
    train = {"epochs": 3, "dataset_dir": "", "learning_rate": 0.1, "datalist": datalist, "loss": {}}
    train |= {"fold": None, "folds": None, "split_file": None, "initial_weights": None}
    train |= {"seed": 0, "output_dir": "", "run": ["$(@loss, @seed, @output_dir)"]}
    (configs / "train.yaml").write_text(yaml.safe_dump(train), encoding="utf-8")
    (configs / "evaluate.yaml").write_text("section: validation\ncheckpoint: '@output_dir'\n", encoding="utf-8")
    write_overlay = overlay_writer(configs / "loss")
    for name, skill in {"soft_dice": 2.0, "mcc": 0.3, "monai_dice": 2.05}.items():
        write_overlay(name, skill)
    return tmp_path / "bundle"


def overlay_writer(folder: Path) -> Callable[..., Path]:
    def write(name: str, skill: float = 1.0, fail: str = "", seconds: float = 0) -> Path:
        path = folder / f"{name}.yaml"
        loss = {"skill": skill, "fail": fail} | ({"seconds": seconds} if seconds else {})
        path.write_text(yaml.safe_dump({"loss": loss}), encoding="utf-8")
        return path

    return write


@pytest.fixture
def write_overlay(bundle: Path) -> Callable[..., Path]:
    """Add an overlay to the bundle: name, skill, fail, seconds of an epoch."""
    return overlay_writer(bundle / "configs" / "loss")


@pytest.fixture
def plan(bundle: Path, pictures: Path, tmp_path: Path) -> Callable[..., Study]:
    """Plan a study of the bundle: losses with commas, and the options of plan_study."""

    def plan(losses: str | list[object] = "SoftDiceLoss,mcc", **options: object) -> Study:
        options = {"dataset_dir": pictures, "output": tmp_path / "study", **options}
        items = losses.split(",") if isinstance(losses, str) else losses
        return plan_study(bundle, items, **options)  # type: ignore[arg-type]

    return plan
