"""Plan a study from what a user asks for, with every check that is possible before the first training starts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import yaml
from fire.parser import DefaultParseValue
from monai.bundle.config_parser import ConfigParser
from monai.bundle.utils import merge_kv

from monai_lossext.compare.job import read_state
from monai_lossext.compare.plan import (
    RESERVED,
    Execution,
    LossChoice,
    LossItem,
    Pretraining,
    Run,
    Study,
    StudyError,
    choose_losses,
    did_you_mean,
    positive_number,
)

SECTIONS = ("validation", "testing")
EXECUTORS = {"local": ("processes", "threads"), "ray": ("address", "cpus", "gpus", "retries", "threads")}


def plan_study(
    bundle: str | Path,
    losses: Sequence[LossItem],
    dataset_dir: str | Path,
    output: str | Path,
    *,
    epochs: int | None = None,
    seeds: Sequence[int] = (0,),
    section: str = "",
    baseline: str = "",
    configs: Sequence[str | Path] = (),
    overrides: dict[str, Any] | None = None,
    skip_bad: bool = False,
    folds: int | None = None,
    split_file: str | Path | None = None,
    metrics: Sequence[str] = (),
    learning_rate: float | str | None = None,
    pretraining: dict[str, Any] | None = None,
    initial_weights: str | Path | None = None,
    executor: str | dict[str, Any] = "local",
    check: bool = True,
    write: bool = True,
) -> Study:
    """Plan a study that can be run: bundle, losses, data set and output folder are checked.

    Args:
        bundle: folder with ``configs/train.yaml``, ``configs/evaluate.yaml`` and the overlays ``configs/loss/*.yaml``.
        losses: names or dictionaries, see :func:`monai_lossext.compare.plan.choose_losses`.
        dataset_dir: folder of the data set, or ``"synthetic"``.
        output: folder for runs and report; runs of an earlier call with the same settings are continued.
        epochs: epochs of every training; by default what the bundle says.
        seeds: one training per loss, fold and seed, each 0 or more.
        section: ``"validation"`` or ``"testing"``; by default the first, and with folds the second.
        baseline: loss that the summary compares the others with, named as in `losses`; by default ``"soft_dice"``
            where it is among the losses, else the first one.
        configs: further config files, read after every loss, such as ``configs/protocol/paper.yaml``.
        overrides: ids of the bundle's config and their values, as ``python -m monai.bundle run`` takes them.
        skip_bad: leave out unusable cases of the data set instead of refusing it.
        folds: each of so many folds is left out once; for bundles with the config keys ``fold`` and ``folds``.
        split_file: YAML or JSON with the cases of each part, for the bundle's key of this name.
        metrics: columns of the scores to report; by default all.
        learning_rate: of the trainings to compare; by default what the bundle says.
        pretraining: ``{"loss": ..., "epochs": ..., "learning_rate": ...}``: one training for each fold and seed, from
            whose best weights all losses start with a new optimiser. The rate is the bundle's by default.
        initial_weights: instead of a pretraining, the weights of one that is there, such as its ``models/best.pt``.
        executor: ``"local"``, ``"ray"``, or a dictionary with ``name`` and fields of
            :class:`monai_lossext.compare.plan.Execution`.
        check: False only reads the study, to look at what is there of it.
        write: False makes no output folder yet.

    Raises:
        StudyError: names the argument to change.
        monai_lossext.data.DatalistError: names what is wrong with the data set.
    """
    bundle, output = _folder(bundle, "bundle"), _folder(output, "output")
    for name in ("train.yaml", "evaluate.yaml"):
        if not (bundle / "configs" / name).is_file():
            raise StudyError(f"--bundle: {bundle} is not a bundle that can be compared, it has no configs/{name}")
    if section and section not in SECTIONS:
        raise StudyError(f"--section: expected one of {', '.join(SECTIONS)}, got {section!r}")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise StudyError(f"--seed: expected different whole numbers from 0 on, got {list(seeds)}")
    if epochs is not None and epochs < 1:
        raise StudyError(f"--epochs: expected at least 1, got {epochs}")
    if folds is not None:
        if folds < 2:
            raise StudyError(f"--folds: expected at least 2, got {folds}")
        if section == "validation":
            raise StudyError("--section: with folds the cases that each leaves out are scored, which is testing")
    if str(dataset_dir) != "synthetic":
        if check and not Path(dataset_dir).expanduser().is_dir():
            raise StudyError(f"--dataset-dir: there is no folder {dataset_dir}")
        dataset_dir = _folder(dataset_dir, "dataset-dir")
    protocol = tuple(_file(path, "config") for path in configs)
    chosen = choose_losses(list(losses), bundle, output)
    train = bundle / "configs" / "train.yaml"
    study = Study(
        bundle=bundle,
        losses=chosen,
        dataset_dir=str(dataset_dir),
        output=output,
        epochs=epochs or int(_build(_parser([train, *protocol]), "epochs", "--bundle: its number of epochs")),
        seeds=tuple(seeds),
        section=section or ("validation" if folds is None else "testing"),
        baseline=_baseline(baseline, chosen, bundle),
        configs=protocol,
        overrides={key: str(value) for key, value in (overrides or {}).items()},
        skip_bad=skip_bad,
        folds=folds,
        split_file=None if split_file is None else _file(split_file, "split-file"),
        metrics=tuple(metrics),
        learning_rate=None if learning_rate is None else positive_number(learning_rate, "--learning-rate"),
        pretraining=None if pretraining is None else _pretraining(pretraining, bundle, output),
        initial_weights=None if initial_weights is None else _file(initial_weights, "initial-weights"),
        execution=_execution(executor),
    )
    if pretraining is not None and initial_weights is not None:
        raise StudyError("--initial-weights: the losses start from a pretraining already; give one of the two")
    if check:
        _check_study(study, write)
    return study


def _check_study(study: Study, write: bool) -> None:
    _check_keys(study)
    # The last is the one whose data set is looked at: the training with all of the study's values.
    for run in [*study.pretrainings()[:1], *study.runs()[: len(study.losses)]]:
        parser = _check_loss(run)
    if study.initial_weights is not None and "network_def" in parser:
        from monai_lossext.engines import load_initial_weights  # brings all engines, which no other study needs

        network = _build(parser, "network_def", "--bundle: its network_def")
        try:
            load_initial_weights(network, study.initial_weights)
        except ValueError as error:
            raise StudyError(f"--{str(error).replace('_', '-', 1)}") from error
    _check_settings(study)
    if write:
        _check_output(study)
    datalist = _build(parser, "datalist", "--dataset-dir")
    for part in ("training", study.section):
        if not datalist[part]:
            raise StudyError(f"--dataset-dir: {study.dataset_dir} has no cases in its {part} part")


def _folder(path: str | Path, argument: str) -> Path:
    folder = Path(path).expanduser().resolve()
    if "#" in str(folder):
        raise StudyError(f"--{argument}: MONAI's configs take a # for a separator; rename the folder {folder}")
    return folder


def _file(path: str | Path, argument: str) -> Path:
    if not Path(path).expanduser().is_file():
        raise StudyError(f"--{argument}: there is no file {path}")
    return _folder(path, argument)


def _baseline(name: str, losses: tuple[LossChoice, ...], bundle: Path) -> str:
    keys = [loss.key for loss in losses]
    if not name:
        return "soft_dice" if "soft_dice" in keys else keys[0]
    for loss in losses:
        if name in (loss.label, loss.key):
            return loss.key
    key = choose_losses([name], bundle, key="baseline")[0].key
    if key not in keys:
        raise StudyError(f"--baseline: {name!r} is not among the losses {', '.join(loss.label for loss in losses)}")
    return key


def _pretraining(values: dict[str, Any], bundle: Path, output: Path) -> Pretraining:
    for name in ("loss", "epochs"):
        if values.get(name) is None:
            raise StudyError(f"--pretraining: expected loss and epochs, {name} is missing")
    epochs, rate = values["epochs"], values.get("learning_rate")
    if epochs < 1:
        raise StudyError(f"--pretraining: epochs: expected at least 1, got {epochs}")
    (loss,) = choose_losses([values["loss"]], bundle, output, "pretraining")
    if loss.config is not None:  # one of the losses may have the same name
        key = f"pretraining-{loss.key}"
        loss = replace(loss, key=key, overlay=loss.overlay.with_name(f"{key}.yaml"))
    rate = None if rate is None else positive_number(rate, "--pretraining: learning_rate")
    return Pretraining(loss, epochs, rate if rate is not None else loss.learning_rate)


def _execution(executor: str | dict[str, Any]) -> Execution:
    values: dict[str, Any] = {"name": executor} if isinstance(executor, str) else {"name": "local", **executor}
    name = values["name"]
    if name not in EXECUTORS:
        raise StudyError(f"--executor: expected one of {', '.join(EXECUTORS)}, got {name!r}")
    values = {key: value for key, value in values.items() if value is not None}
    known = {field.name for field in fields(Execution)}
    for key, value in values.items():
        if key not in known:
            raise StudyError(f"--executor: unknown key {key!r}{did_you_mean(key, sorted(known))}")
        if key != "name" and key not in EXECUTORS[name]:
            raise StudyError(f"--executor: {name} has no {key}; it has {', '.join(EXECUTORS[name])}")
        if key in ("processes", "threads") and value < 1:
            raise StudyError(f"--{key}: expected at least 1, got {value}")
        if key in ("gpus", "retries") and value < 0:
            raise StudyError(f"--{key}: expected 0 or more, got {value}")
        if key == "cpus":
            positive_number(value, "--cpus")
    return Execution(**values)


def _check_keys(study: Study) -> None:
    """Refuse what the bundle has no config key for; MONAI would take it and do nothing with it."""
    parser = _parser([study.bundle / "configs" / "train.yaml", *study.configs])
    rates = [study.learning_rate, *(loss.learning_rate for loss in study.losses)]
    asked: dict[str, tuple[str, ...]] = {
        "folds": ("fold", "folds") if study.folds is not None else (),
        "split-file": ("split_file",) if study.split_file is not None else (),
        "learning-rate": ("learning_rate",) if any(rate is not None for rate in rates) else (),
        "pretraining": ("initial_weights",) if study.pretraining is not None else (),
        "initial-weights": ("initial_weights",) if study.initial_weights is not None else (),
    }
    if study.pretraining is not None and study.pretraining.learning_rate is not None:
        asked["pretraining"] += ("learning_rate",)
    for argument, keys in asked.items():
        for key in keys:
            if key not in parser:
                raise StudyError(f"--{argument}: the bundle {study.bundle.name} has no {key} in its configs/train.yaml")
            if key in study.overrides:
                raise StudyError(f"--override: {key} is set by --{argument}")
    if study.folds is not None and study.split_file is not None:
        raise StudyError("--folds: a split file divides the cases already; give one of the two")


def _check_settings(study: Study) -> None:
    for run in [*study.pretrainings(), *study.runs()]:
        try:
            before, now = read_state(run.folder).get("settings"), run.settings()
        except ValueError as error:
            raise StudyError(f"--output: {run.folder / 'run.json'} cannot be read: {error}") from error
        except yaml.YAMLError as error:
            raise StudyError(f"--bundle: {error}") from error
        if before is not None and before != now:
            changed = [f"{key} {before.get(key)!r}, now {now[key]!r}" for key in now if before.get(key) != now[key]]
            raise StudyError(
                f"--output: {run.folder} was made with other settings ({'; '.join(changed)}). Name another folder, or"
                " remove this one to train again."
            )


def _check_output(study: Study) -> None:
    try:
        study.output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=study.output).close()
    except OSError as error:
        raise StudyError(f"--output: cannot write into {study.output}: {error.strerror}") from error


def _check_loss(run: Run) -> ConfigParser:
    """Build the loss of a run, and return the run's config."""
    parser = _run_parser(run, with_values=False)
    _check_overrides(run.study.overrides, parser)
    parser = _run_parser(run)
    what = f"{run.loss.label!r} of the study file" if run.loss.config else run.loss.overlay
    _build(parser, "loss", f"--{'pretraining' if run.pretraining else 'losses'}: {what} does not make a loss")
    return parser


def _check_overrides(overrides: dict[str, str], parser: ConfigParser) -> None:
    for key in overrides:
        if key in RESERVED:
            raise StudyError(f"--override: {key} is set by the study itself")
        # An argument may be added to a component, which then checks it; any other unknown key would be ignored.
        component = key.replace("#", "::").rpartition("::")[0] or key
        if component not in parser:
            hint = did_you_mean(component, list(parser.get()), after="?")
            raise StudyError(f"--override: {component} is not in the bundle's train.yaml{hint}")


def merged_config(run: Run) -> dict[str, Any]:
    """Return the config of a run's training as one dictionary: what all its files and values make together."""
    config: dict[str, Any] = _run_parser(run).get()
    return config


def _run_parser(run: Run, with_values: bool = True) -> ConfigParser:
    inline = {} if run.loss.config is None else {run.loss.overlay: run.loss.config}
    values = run.config_values(evaluate=False) if with_values else {}
    return _parser(run.config_files(evaluate=False), values, inline)


def _build(parser: ConfigParser, key: str, message: str) -> Any:
    try:
        return parser.get_parsed_content(key)
    except Exception as error:  # a config may raise anything
        cause: BaseException = error
        while cause.__cause__ is not None:  # MONAI wraps the error that helps
            cause = cause.__cause__
        raise StudyError(f"{message}: {cause}") from error


def _parser(
    files: list[Path], values: dict[str, Any] | None = None, inline: dict[Path, dict[str, Any]] | None = None
) -> ConfigParser:
    """Merge config files as ``python -m monai.bundle run`` does; those that are not written yet are given inline."""
    parser = ConfigParser({})
    inline = inline or {}
    try:
        for path in files:
            content = deepcopy(inline[path]) if path in inline else ConfigParser.load_config_file(path)
            if not isinstance(content, dict):
                raise ValueError(f"{path.name} holds no config keys")
            for key, value in content.items():
                merge_kv(parser, key, value)
    except (yaml.YAMLError, ValueError) as error:
        raise StudyError(f"cannot read the config files {', '.join(map(str, files))}: {error}") from error
    # Values are read as the command line of monai.bundle reads them.
    for key, value in (values or {}).items():
        merge_kv(parser, key, DefaultParseValue(str(value)))
    return parser
