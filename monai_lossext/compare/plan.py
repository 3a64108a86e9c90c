"""What a study consists of: the losses, folds and seeds to train, and the folder of each run."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from monai_lossext.compare.job import Futility
from monai_lossext.compare.metrics import TESTED
from monai_lossext.losses import catalogue
from monai_lossext.text import did_you_mean

# Config values that a study sets itself, which therefore cannot be overridden.
RESERVED = frozenset(
    ("bundle_root", "dataset_dir", "epochs", "initial_weights", "loss", "output_dir", "resume", "section", "seed")
) | {"skip_bad"}

# Where a bundle of the model zoo's layout lists its cases.
PARTS = {"training": "train#dataset#data", "validation": "validate#dataset#data", "testing": "test#dataset#data"}

LossItem = str | dict[str, Any]  # one loss, as a study file names it


class StudyError(ValueError):
    """A study that cannot be run as it was asked for; the message names the argument and what was expected."""


@dataclass(frozen=True)
class LossChoice:
    """One loss of a study.

    Args:
        key: names its folder; safe as the name of one.
        label: names its results, as the user called it.
        overlay: the config file that sets it.
        learning_rate: of its trainings; None: the study's.
        config: contents of the overlay, if the study file holds the loss itself; the study writes the overlay then.
        item: what it was asked for by, with absolute paths.
    """

    key: str
    label: str
    overlay: Path
    learning_rate: float | None = None
    config: dict[str, Any] | None = None
    item: LossItem = ""


@dataclass(frozen=True)
class Pretraining:
    """A training whose best weights all losses start from, with a new optimiser (Eelbode et al. 2020).

    Args:
        loss: its loss.
        epochs: its length.
        learning_rate: None: the bundle's.
    """

    loss: LossChoice
    epochs: int
    learning_rate: float | None = None


@dataclass(frozen=True)
class Execution:
    """Where the runs are done.

    Args:
        name: "local" or "ray".
        processes: local: runs at the same time.
        threads: of each run, its OMP_NUM_THREADS; None: the processors are divided between the runs.
        address: ray: of a running cluster; None: one is started on this machine.
        cpus: ray: processors of each run.
        gpus: ray: GPUs of each run; a fraction lets several runs share one.
        retries: ray: how often a run goes on elsewhere after its worker was lost.
    """

    name: str = "local"
    processes: int = 1
    threads: int | None = None
    address: str | None = None
    cpus: float = 1
    gpus: float = 0
    retries: int = 3


@dataclass(frozen=True)
class Study:
    """A bundle to be trained under several losses, everything else being equal.

    Args:
        bundle: the bundle's folder.
        losses: the losses, each once.
        dataset_dir: what the bundle reads its data from, an absolute path or ``"synthetic"``.
        output: folder of the runs and of the report.
        epochs: epochs of every training.
        seeds: one training per loss, fold and seed.
        section: part of the data set that the losses are compared on, ``"validation"`` or ``"testing"``.
        baseline: key of the loss that the summary compares all others with.
        configs: further config files of the bundle, the same for every loss.
        overrides: further config values of the bundle, the same for every loss.
        skip_bad: leave out unusable cases of the data set instead of refusing it.
        folds: number of folds, each left out once for testing; None: the bundle's own division.
        split_file: names the cases of each part.
        primary: column of the scores that the findings rest on, chosen before the first training.
        margin: differences of the primary metric up to this count as none; None: no such margin was chosen.
        metrics: columns of the scores to report; none: all.
        learning_rate: of every training with no rate of its own; None: the bundle's.
        pretraining: what all losses start from, if not from random weights.
        initial_weights: the same, if such a training is there already: its best weights.
        keep_checkpoints: keep models/last.pt of finished runs, which going on with a run needs.
        futility: when a training is stopped as hopeless; None: never.
        execution: where the runs are done, which decides nothing else.
        cases: how many are scored; 0 as long as nobody looked.
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
    folds: int | None = None
    split_file: Path | None = None
    primary: str = TESTED
    margin: float | None = None
    metrics: tuple[str, ...] = ()
    learning_rate: float | None = None
    pretraining: Pretraining | None = None
    initial_weights: Path | None = None
    keep_checkpoints: bool = False
    futility: Futility | None = None
    execution: Execution = Execution()
    cases: int = 0

    @property
    def train_config(self) -> Path:
        """The config of the bundle that trains."""
        return train_config(self.bundle)

    @property
    def zoo(self) -> bool:
        """Whether the bundle is of the model zoo's layout, which :mod:`monai_lossext.compare.zoo` trains and scores."""
        return is_zoo(self.bundle)

    def runs(self) -> list[Run]:
        """Return the trainings to compare, in the order in which they begin: all losses, next fold, next seed."""
        folds: list[int | None] = [None] if self.folds is None else [*range(self.folds)]
        return [Run(self, loss, seed, fold) for seed in self.seeds for fold in folds for loss in self.losses]

    def pretrainings(self) -> list[Run]:
        """Return the trainings that those to compare start from: one for each fold and seed, or none at all."""
        starts = [run.start for run in self.runs() if run.loss == self.losses[0]]
        return [start for start in starts if start is not None]

    def label(self, key: str) -> str:
        """Return the label of the loss with that key."""
        return next(loss.label for loss in self.losses if loss.key == key)

    def as_dict(self) -> dict[str, Any]:
        """Return the study file that asks for this study."""
        pretraining = self.pretraining and {
            "loss": self.pretraining.loss.item,
            "epochs": self.pretraining.epochs,
            "learning_rate": self.pretraining.learning_rate,
        }
        executor = {name: value for name, value in vars(self.execution).items() if value != getattr(Execution, name)}
        values = {
            "bundle": str(self.bundle),
            "losses": [loss.item for loss in self.losses],
            "dataset_dir": self.dataset_dir,
            "output": str(self.output),
            "epochs": self.epochs,
            "seeds": list(self.seeds),
            "folds": self.folds,
            "split_file": self.split_file and str(self.split_file),
            "section": self.section,
            "baseline": self.label(self.baseline),
            "configs": [str(path) for path in self.configs],
            "overrides": self.overrides,
            "skip_bad": self.skip_bad,
            "primary": self.primary,
            "margin": self.margin,
            "metrics": list(self.metrics),
            "keep_checkpoints": self.keep_checkpoints,
            "futility": self.futility and vars(self.futility),
            "learning_rate": self.learning_rate,
            "initial_weights": self.initial_weights and str(self.initial_weights),
            "pretraining": pretraining and {key: value for key, value in pretraining.items() if value is not None},
            "executor": {"name": self.execution.name, **executor},
        }
        return {key: value for key, value in values.items() if value not in (None, [], {}, False)}


@dataclass(frozen=True)
class Run:
    """One training of a study, with the folder that the bundle writes into."""

    study: Study
    loss: LossChoice
    seed: int
    fold: int | None = None
    pretraining: bool = False

    @property
    def folder(self) -> Path:
        """Folder of this run alone."""
        kind = self.study.output / ("pretraining" if self.pretraining else f"runs/{self.loss.key}")
        return (kind if self.fold is None else kind / f"fold-{self.fold}") / f"seed-{self.seed}"

    @property
    def name(self) -> str:
        """How messages call this run."""
        fold = "" if self.fold is None else f"fold {self.fold}, "
        return f"{'pretraining with ' if self.pretraining else ''}{self.loss.label}, {fold}seed {self.seed}"

    @property
    def epochs(self) -> int:
        """Epochs of this run."""
        pretraining = self.study.pretraining
        return pretraining.epochs if self.pretraining and pretraining else self.study.epochs

    @property
    def section(self) -> str:
        """The part of the data set that it is scored on; "" for a pretraining, which is not scored."""
        return "" if self.pretraining else self.study.section

    @property
    def start(self) -> Run | None:
        """The pretraining that it starts from, if any."""
        if self.study.pretraining is None or self.pretraining:
            return None
        return replace(self, loss=self.study.pretraining.loss, pretraining=True)

    @property
    def learning_rate(self) -> float | None:
        """The learning rate that the study asks for; None: the bundle's."""
        if self.pretraining and self.study.pretraining:
            return self.study.pretraining.learning_rate
        return self.study.learning_rate if self.loss.learning_rate is None else self.loss.learning_rate

    def config_files(self, evaluate: bool) -> list[Path]:
        """Return the bundle's config files, in the order in which they are merged."""
        train = self.study.train_config
        if evaluate and not self.study.zoo:
            return [train, *self.study.configs, train.with_name("evaluate.yaml")]
        # A protocol may add to whatever the loss is, so it comes after the loss.
        return [train, self.loss.overlay, *self.study.configs]

    def config_values(self, evaluate: bool) -> dict[str, Any]:
        """Return the config values that are set beside the files."""
        study = self.study
        if study.zoo:
            return self._zoo_values(evaluate)
        if evaluate:
            stage: dict[str, Any] = {"section": study.section}
        else:
            stage = {
                "epochs": self.epochs,
                "seed": self.seed,
                "learning_rate": self.learning_rate,
                "initial_weights": self.start.folder / "models" / "best.pt" if self.start else study.initial_weights,
            }
        values = {
            "bundle_root": study.bundle,
            "dataset_dir": study.dataset_dir,
            "output_dir": self.folder,
            **stage,
            "fold": self.fold,
            "folds": study.folds,
            "split_file": study.split_file,
            "skip_bad": study.skip_bad or None,
        }
        return {key: value for key, value in values.items() if value is not None} | study.overrides

    def _zoo_values(self, evaluate: bool) -> dict[str, Any]:
        """The same for the model zoo's layout, whose folders have other names and whose data set is in its config."""
        study, given = self.study, read_config(self.study.train_config)
        values: dict[str, Any] = {"bundle_root": study.bundle, "run_folder": self.folder, "seed": self.seed}
        values |= {"section": study.section} if evaluate else {}
        # A schedule may depend on the same key.
        named = re.fullmatch(r"@(\w+)", str(given["train"]["trainer"].get("max_epochs")))
        values[named[1] if named and named[1] in given else "train#trainer#max_epochs"] = self.epochs
        folders = {
            "dataset_dir": study.dataset_dir,
            "data_file_base_dir": study.dataset_dir,
            "ckpt_dir": self.folder / "models",
            "output_dir": self.folder / "output",
            "log_dir": self.folder / "output",
        }
        values |= {key: folder for key, folder in folders.items() if key in given}
        return values | study.overrides

    def settings(self) -> dict[str, Any]:
        """Return all that decides the trained weights; a run folder with other settings is never reused."""
        study = self.study
        files = [path for path in (study.bundle / "configs").rglob("*") if path.suffix in (".yaml", ".yml", ".json")]
        shared = [path for path in files if (path.parent.name != "loss" and path.suffix != ".json") or study.zoo]
        contents = [read_config(path) for path in (*sorted(shared), *study.configs)]
        contents.append(self.loss.config or read_config(self.loss.overlay))
        settings = {
            "bundle": study.bundle.name,
            "config_files_sha256": _digest(contents),
            "dataset_dir": study.dataset_dir,
            "epochs": self.epochs,
            "seed": self.seed,
            "fold": self.fold,
            "folds": study.folds,
            "split_file_sha256": study.split_file and _digest(study.split_file.read_text(encoding="utf-8")),
            "learning_rate": self.learning_rate,
            "overrides": study.overrides,
            "skip_bad": study.skip_bad,
            "pretraining": self.start and self.start.settings(),
        }
        if study.initial_weights is not None:
            file = study.initial_weights.stat()
            settings["initial_weights_sha256"] = _digest_of_file(study.initial_weights, file.st_mtime_ns, file.st_size)
        return settings


def _digest(contents: Any) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()[:16]


@lru_cache
def _digest_of_file(path: Path, *_changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def train_config(bundle: Path) -> Path:
    """Return the config of a bundle that trains: train.yaml, or train.json where there is no such file."""
    names = [bundle / "configs" / f"train.{ending}" for ending in ("yaml", "yml", "json")]
    return next((path for path in names if path.is_file()), names[0])


def is_zoo(bundle: Path) -> bool:
    """Tell the model zoo's layout, which has train#trainer and validate#evaluator, and no evaluate.yaml of ours."""
    return not (bundle / "configs" / "evaluate.yaml").is_file() and has_engines(bundle)


def has_engines(bundle: Path) -> bool:
    """Whether a bundle has the trainer and the evaluator that :mod:`monai_lossext.compare.trial` can try."""
    if not train_config(bundle).is_file():
        return False
    given = read_config(train_config(bundle))
    parts = (given.get(part) for part in ("train", "validate"))
    trainer, evaluator = (part if isinstance(part, dict) else {} for part in parts)
    return "trainer" in trainer and "evaluator" in evaluator


def read_config(path: Path) -> dict[str, Any]:
    """Read a config file, YAML or JSON, which is no YAML where it has numbers such as 1e-05."""
    text = path.read_text(encoding="utf-8")
    content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    return content if isinstance(content, dict) else {}


def safe_name(name: str) -> str:
    """Return a name for a folder or a file: the name itself if it is harmless, else what is left of it and a digest.

    >>> safe_name("soft_dice"), safe_name("Tversky 0.3/0.7"), safe_name("../../etc")
    ('soft_dice', 'Tversky-0.3-0.7-67a6d8', 'etc-74ccf3')
    """
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-_")[:60]
    if name and cleaned == name:
        return name
    return f"{cleaned or 'loss'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def choose_losses(
    items: list[LossItem], bundle: Path, output: Path | None = None, key: str = "losses"
) -> tuple[LossChoice, ...]:
    """Find or make the overlay of each loss.

    Args:
        items: each one of

            - a class name of the catalogue (``"MatthewsCorrelationLoss"``), a name of the bundle's overlays (``"mcc"``)
              or the path of an overlay file (``"my_losses/mine.yaml"``);
            - a dictionary with ``_target_`` and the arguments of the loss, and if wanted its ``name`` in the results
              (by default the class) and its ``learning_rate``;
            - a dictionary with ``loss``, which is one of the above, and ``name`` or ``learning_rate``.
        bundle: the bundle's folder, with the overlays in ``configs/loss``.
        output: the study's folder, where overlays of dictionaries will stand; without one, names alone are taken.
        key: what messages call the argument.

    Raises:
        StudyError: a name is unknown, an overlay is absent, a dictionary has a wrong key or a loss is named twice.
    """
    chosen: dict[str, LossChoice] = {}
    for item in items:
        loss = _choose_loss(item, bundle, output, f"--{key}")
        for other in chosen.values():
            # Folders of names that differ in capitals alone are one on some systems.
            if loss.label == other.label or loss.key.casefold() == other.key.casefold():
                hint = "; give each a name of its own" if isinstance(item, dict) else ""
                raise StudyError(f"--{key}: {_shown(item)} is named twice (as {other.label}){hint}")
        chosen[loss.key] = loss
    if not chosen:
        raise StudyError(f"--{key}: name at least one loss, for example SoftDiceLoss,MatthewsCorrelationLoss")
    return tuple(chosen.values())


def _choose_loss(item: LossItem, bundle: Path, output: Path | None, key: str) -> LossChoice:
    if isinstance(item, str):
        return _named_loss(item, bundle, key, output)
    if "_target_" in item:
        config = {name: value for name, value in item.items() if name not in ("name", "learning_rate")}
        label = item.get("name", str(item["_target_"]).rpartition(".")[2])
        if output is None:
            raise StudyError(f"{key}: expected the name of a loss, got {_shown(item)}")
        folder_name = safe_name(_label(label, key))
        overlay = output / "losses" / f"{folder_name}.yaml"
        loss = LossChoice(folder_name, label, overlay, config={"loss": config}, item=item)
    elif "loss" in item:
        for name in item.keys() - {"loss", "name", "learning_rate"}:
            hint = did_you_mean(name, ["loss", "name", "learning_rate"])
            raise StudyError(f"{key}: unknown key {name!r} in {_shown(item)}{hint}")
        inner = item["loss"]
        if not isinstance(inner, str | dict):
            raise StudyError(f"{key}: loss: expected a name or a dictionary with _target_, got {inner!r}")
        if isinstance(inner, dict) and "_target_" not in inner:
            raise StudyError(f"{key}: loss: {_shown(inner)} has no _target_")
        if isinstance(inner, dict):
            # One spelling for the same loss, whose folder then has one name.
            return _choose_loss({**inner, **{k: v for k, v in item.items() if k != "loss"}}, bundle, output, key)
        loss = _named_loss(inner, bundle, key, output)
        item = {**item, "loss": loss.item}
        if "name" in item:
            loss = replace(loss, label=_label(item["name"], key), key=safe_name(item["name"]))
        loss = replace(loss, item=item)
    else:
        raise StudyError(
            f"{key}: expected a name, a dictionary with _target_ or one with loss and name, got {_shown(item)}"
        )
    rate = item.get("learning_rate")
    return loss if rate is None else replace(loss, learning_rate=positive_number(rate, f"{key}: learning_rate"))


def _named_loss(name: str, bundle: Path, key: str, output: Path | None = None) -> LossChoice:
    classes = {entry.name: entry.overlay for entry in catalogue()}
    labels = {overlay: name for name, overlay in classes.items()}
    overlays = {path.stem: path for path in sorted((bundle / "configs" / "loss").glob("*.yaml"))}
    if name.endswith((".yaml", ".yml", ".json")):
        overlay = Path(name).expanduser().resolve()
        if not overlay.is_file():
            raise StudyError(f"{key}: there is no overlay file {name}")
        return LossChoice(safe_name(overlay.stem), _label(overlay.stem, key), overlay, item=str(overlay))
    stem = classes.get(name, name)
    if stem not in overlays and (not overlays or is_zoo(bundle)):
        config = _loss_like_the_bundles(name, bundle)
        if config is not None and output is not None:
            return LossChoice(
                safe_name(stem), name, output / "losses" / f"{safe_name(stem)}.yaml", config={"loss": config}, item=name
            )
    if stem not in overlays:
        known = [*(cls for cls, stem in classes.items() if stem in overlays), *overlays]
        raise StudyError(
            f"{key}: {bundle.name} has no overlay for {name!r}.{did_you_mean(name, known, ' ', '?')} Known:"
            f" {', '.join(known)}; or the path of an overlay file (.yaml)."
        )
    return LossChoice(safe_name(stem), _label(labels.get(stem, stem), key), overlays[stem], item=name)


def _loss_like_the_bundles(name: str, bundle: Path) -> dict[str, Any] | None:
    """The config of a loss for a bundle that has no overlays: "bundle", its own, or one of the catalogue."""
    own = read_config(train_config(bundle)).get("loss")
    if name == "bundle" and isinstance(own, dict):
        return own
    found = next((entry for entry in catalogue() if name in (entry.name, entry.overlay)), None)
    if found is None or not isinstance(own, dict):
        return None
    # What becomes of logits and labels is the bundle's, whatever the loss.
    shared = ("include_background", "to_onehot_y", "sigmoid", "softmax")
    return {"_target_": found.target, **{key: own[key] for key in shared if key in own}}


def _label(name: Any, key: str) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 100:
        raise StudyError(f"{key}: name: expected a line of 1 to 100 characters, got {name!r}")
    return name


def _shown(item: LossItem) -> str:
    return repr(item) if isinstance(item, str) else json.dumps(item, default=str)


def positive_number(value: Any, key: str) -> float:
    """Read a number above 0; YAML takes ``1e-4`` for text.

    Raises:
        StudyError: anything else.

    >>> positive_number("1e-4", "--learning-rate")
    0.0001
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise StudyError(f"{key}: expected a number above 0, got {value!r}")
    return number
