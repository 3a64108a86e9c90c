"""What a study consists of: the losses and seeds to train, and the folder of each run."""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from monai_lossext.losses import catalogue

# Config values that a study sets itself, which therefore cannot be overridden.
RESERVED = frozenset(
    ("bundle_root", "dataset_dir", "epochs", "loss", "output_dir", "resume", "section", "seed", "skip_bad")
)


class StudyError(ValueError):
    """A study that cannot be run as it was asked for; the message names the argument and what was expected."""


@dataclass(frozen=True)
class LossChoice:
    """One loss of a study: `key` names its folder, `label` its results, `overlay` is the config file that sets it."""

    key: str
    label: str
    overlay: Path


@dataclass(frozen=True)
class Study:
    """A bundle to be trained under several losses, everything else being equal.

    Args:
        bundle: the bundle's folder.
        losses: the losses, each once.
        dataset_dir: what the bundle reads its data from, an absolute path or ``"synthetic"``.
        output: folder of the runs and of the report.
        epochs: epochs of every training.
        seeds: one training per loss and seed.
        section: part of the data set that the losses are compared on, ``"validation"`` or ``"testing"``.
        baseline: key of the loss that the summary compares all others with.
        configs: further config files of the bundle, the same for every loss.
        overrides: further config values of the bundle, the same for every loss.
        skip_bad: leave out unusable cases of the data set instead of refusing it.
    """

    bundle: Path
    losses: tuple[LossChoice, ...]
    dataset_dir: str
    output: Path
    epochs: int
    seeds: tuple[int, ...] = (0,)
    section: str = "validation"
    baseline: str = ""
    configs: tuple[Path, ...] = ()
    overrides: dict[str, str] = field(default_factory=dict)
    skip_bad: bool = False

    def runs(self) -> list[Run]:
        """Return the trainings of the study in the order in which they are done: all losses, then the next seed."""
        return [Run(self, loss, seed) for seed in self.seeds for loss in self.losses]

    def label(self, key: str) -> str:
        """Return the label of the loss with that key."""
        return next(loss.label for loss in self.losses if loss.key == key)

    def as_dict(self) -> dict[str, Any]:
        """Return the study as plain values, for study.yaml."""
        losses = [{**asdict(loss), "overlay": str(loss.overlay)} for loss in self.losses]
        paths = {
            "bundle": str(self.bundle),
            "output": str(self.output),
            "configs": [str(path) for path in self.configs],
        }
        return {**asdict(self), **paths, "losses": losses, "seeds": list(self.seeds)}


@dataclass(frozen=True)
class Run:
    """One training of a study, with the folder that the bundle writes into."""

    study: Study
    loss: LossChoice
    seed: int

    @property
    def folder(self) -> Path:
        """Folder of this run alone."""
        return self.study.output / "runs" / self.loss.key / f"seed-{self.seed}"

    @property
    def name(self) -> str:
        """How messages call this run."""
        return f"{self.loss.label}, seed {self.seed}"

    def config_files(self, evaluate: bool) -> list[Path]:
        """Return the bundle's config files, in the order in which they are merged."""
        configs = self.study.bundle / "configs"
        if evaluate:
            return [configs / "train.yaml", *self.study.configs, configs / "evaluate.yaml"]
        # A protocol may add to whatever the loss is, so it comes after the loss.
        return [configs / "train.yaml", self.loss.overlay, *self.study.configs]

    def config_values(self, evaluate: bool) -> dict[str, Any]:
        """Return the config values that are set beside the files."""
        study = self.study
        stage = {"section": study.section} if evaluate else {"epochs": study.epochs, "seed": self.seed}
        values = {"bundle_root": study.bundle, "dataset_dir": study.dataset_dir, "output_dir": self.folder, **stage}
        if study.skip_bad:
            values["skip_bad"] = True
        return {**values, **study.overrides}

    def settings(self) -> dict[str, Any]:
        """Return all that decides the trained weights; a run folder with other settings is never reused."""
        study = self.study
        shared = [path for path in (study.bundle / "configs").rglob("*.yaml") if path.parent.name != "loss"]
        files = [*sorted(shared), *study.configs, self.loss.overlay]
        contents = json.dumps([yaml.safe_load(path.read_bytes()) for path in files], sort_keys=True, default=str)
        return {
            "bundle": study.bundle.name,
            "config_files_sha256": hashlib.sha256(contents.encode()).hexdigest()[:16],
            "dataset_dir": study.dataset_dir,
            "epochs": study.epochs,
            "seed": self.seed,
            "overrides": study.overrides,
            "skip_bad": study.skip_bad,
        }


def choose_losses(names: list[str], bundle: Path) -> tuple[LossChoice, ...]:
    """Find the overlay of each loss in a bundle.

    Args:
        names: class names of the catalogue (``"MatthewsCorrelationLoss"``), names of the bundle's overlays (``"mcc"``)
            or paths of overlay files (``"my_losses/mine.yaml"``).
        bundle: the bundle's folder, with the overlays in ``configs/loss``.

    Raises:
        StudyError: a name is unknown, an overlay is absent or a loss is named twice.
    """
    classes = {entry.name: entry.overlay for entry in catalogue()}
    labels = {overlay: name for name, overlay in classes.items()}
    overlays = {path.stem: path for path in sorted((bundle / "configs" / "loss").glob("*.yaml"))}
    chosen: dict[str, LossChoice] = {}
    for name in names:
        if name.endswith((".yaml", ".yml", ".json")):
            overlay = Path(name).resolve()
            key = label = overlay.stem
            if not overlay.is_file():
                raise StudyError(f"--losses: there is no overlay file {name}")
        else:
            key = classes.get(name, name)
            if key not in overlays:
                known = [*(cls for cls, stem in classes.items() if stem in overlays), *overlays]
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f" Did you mean {close[0]}?" if close else ""
                raise StudyError(
                    f"--losses: {bundle.name} has no overlay for {name!r}.{hint} Known: {', '.join(known)};"
                    " or the path of an overlay file (.yaml)."
                )
            overlay, label = overlays[key], labels.get(key, key)
        if key in chosen or label in {loss.label for loss in chosen.values()}:
            raise StudyError(f"--losses: {name!r} is named twice (as {chosen[key].label if key in chosen else label})")
        chosen[key] = LossChoice(key, label, overlay)
    if not chosen:
        raise StudyError("--losses: name at least one loss, for example SoftDiceLoss,MatthewsCorrelationLoss")
    return tuple(chosen.values())
