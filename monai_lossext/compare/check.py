"""Plan a study from what a user asks for, with every check that is possible before the first training starts."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from fire.parser import DefaultParseValue
from monai.bundle.config_parser import ConfigParser
from monai.bundle.utils import merge_kv

from monai_lossext.bundle_folders import named_bundle
from monai_lossext.compare.job import Futility, read_state
from monai_lossext.compare.metrics import METRICS, TESTED, higher_is_better
from monai_lossext.compare.plan import (
    PARTS,
    RESERVED,
    Execution,
    LossChoice,
    LossItem,
    Pretraining,
    Run,
    Study,
    StudyError,
    choose_losses,
    is_zoo,
    positive_number,
    train_config,
)
from monai_lossext.files import replace_file
from monai_lossext.text import did_you_mean

FILES_OF_DATA = "data.json"  # in the study's folder: the size of every file of the data set
DIVISION = "the division into parts"  # beside them: a digest of which file is in which part
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
    primary: str = TESTED,
    margin: float | None = None,
    metrics: Sequence[str] = (),
    learning_rate: float | str | None = None,
    pretraining: dict[str, Any] | None = None,
    initial_weights: str | Path | None = None,
    keep_checkpoints: bool = False,
    futility: dict[str, Any] | None = None,
    executor: str | dict[str, Any] = "local",
    check: bool = True,
    write: bool = True,
) -> Study:
    """Plan a study that can be run: bundle, losses, data set and output folder are checked.

    Args:
        bundle: name of a bundle of this package, or folder with ``configs/train.yaml``, ``configs/evaluate.yaml`` and
            the overlays ``configs/loss/*.yaml``.
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
        primary: column of the scores that the findings rest on, chosen before the first training.
        margin: differences of the primary metric up to this count as none; by default there is no such margin.
        metrics: columns of the scores to report; by default all.
        learning_rate: of the trainings to compare; by default what the bundle says.
        pretraining: ``{"loss": ..., "epochs": ..., "learning_rate": ...}``: one training for each fold and seed, from
            whose best weights all losses start with a new optimiser. The rate is the bundle's by default.
        initial_weights: instead of a pretraining, the weights of one that is there, such as its ``models/best.pt``.
        keep_checkpoints: keep ``models/last.pt`` of finished runs, as large again as the best weights or larger.
        futility: ``{"epochs": 20, "below": 0.1}``: a run whose best validation score in the first 20 epochs is below
            0.1 is stopped, and its loss takes no part in any comparison; ``"score"`` names the column of history.csv,
            by default ``val_`` with the primary metric. By default no run is stopped.
        executor: ``"local"``, ``"ray"``, or a dictionary with ``name`` and fields of
            :class:`monai_lossext.compare.plan.Execution`.
        check: False only reads the study, to look at what is there of it.
        write: False makes no output folder yet.

    Raises:
        StudyError: names the argument to change.
        monai_lossext.data.DatalistError: names what is wrong with the data set.
    """
    bundle, output = _folder(named_bundle(bundle), "bundle"), _folder(output, "output")
    if not is_zoo(bundle):
        for name in ("train.yaml", "evaluate.yaml"):
            if not (bundle / "configs" / name).is_file():
                raise StudyError(
                    f"--bundle: {bundle} is not a bundle that can be compared, it has no configs/{name}; nor has it the"
                    " layout of the model zoo, train#trainer and validate#evaluator in configs/train.json or .yaml"
                )
    elif folds is not None or pretraining is not None or initial_weights is not None:
        raise StudyError(
            "--bundle: a bundle of the model zoo's layout has no folds, pretraining and initial weights; they need a"
            " configs/evaluate.yaml"
        )
    if section and section not in SECTIONS:
        raise StudyError(f"--section: expected one of {', '.join(SECTIONS)}, got {section!r}")
    for argument, names in (("primary", [primary]), ("metrics", metrics)):
        for name in names:
            if name not in METRICS and (hint := did_you_mean(name, list(METRICS), cutoff=0.75)):
                raise StudyError(f"--{argument}: there is no score {name!r}{hint}")
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
    train = train_config(bundle)
    epochs_key = "train#trainer#max_epochs" if is_zoo(bundle) else "epochs"
    study = Study(
        bundle=bundle,
        losses=chosen,
        dataset_dir=str(dataset_dir),
        output=output,
        epochs=epochs or int(_build(_parser([train, *protocol]), epochs_key, "--bundle: its number of epochs")),
        seeds=tuple(seeds),
        section=section or ("validation" if folds is None else "testing"),
        baseline=_baseline(baseline, chosen, bundle),
        configs=protocol,
        overrides={key: str(value) for key, value in (overrides or {}).items()},
        skip_bad=skip_bad,
        folds=folds,
        split_file=None if split_file is None else _file(split_file, "split-file"),
        primary=primary,
        margin=None if margin is None else positive_number(margin, "--margin"),
        metrics=tuple(metrics),
        learning_rate=None if learning_rate is None else positive_number(learning_rate, "--learning-rate"),
        pretraining=None if pretraining is None else _pretraining(pretraining, bundle, output),
        initial_weights=None if initial_weights is None else _file(initial_weights, "initial-weights"),
        keep_checkpoints=keep_checkpoints,
        execution=_execution(executor),
    )
    if futility is not None:
        study = replace(study, futility=_futility(futility, study))
    if pretraining is not None and initial_weights is not None:
        raise StudyError("--initial-weights: the losses start from a pretraining already; give one of the two")
    return replace(study, cases=_check_study(study, write)) if check else study


def _check_study(study: Study, write: bool) -> int:
    """Check all of it, and return the number of cases that are scored."""
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
    if study.zoo:
        if (scored := PARTS[study.section]) not in parser:
            raise StudyError(f"--section: {study.bundle.name} has no {scored}; name a --config that lists these cases")
        datalist = {
            part: list(_build(parser, key, f"--dataset-dir: {key}")) for part, key in PARTS.items() if key in parser
        }
    else:
        datalist = _build(parser, "datalist", "--dataset-dir")
    for part in ("training", study.section):
        if not datalist[part]:
            raise StudyError(f"--dataset-dir: {study.dataset_dir} has no cases in its {part} part")
    _check_files(study, datalist, write)
    return len(datalist[study.section]) if study.folds is None else sum(map(len, datalist.values()))


def _check_uses(study: Study, parser: ConfigParser) -> None:
    """Refuse a bundle whose training does not depend on what a study changes, or writes beside the run's folder."""
    config = parser.get()
    if study.zoo:
        asked = config["train"]["trainer"].get("loss_function")
        if "loss" not in _reached(config, asked):
            raise StudyError(
                f"--bundle: the loss_function of train#trainer in {study.bundle.name} is {asked!r}, not '@loss': the"
                " losses of the study would change nothing"
            )
        return
    evaluation = ConfigParser.load_config_file(study.bundle / "configs" / "evaluate.yaml")
    for key, what in (
        ("loss", "the losses of the study would change nothing"),
        ("seed", "all seeds would train the same network"),
        ("output_dir", "all runs would write into one folder, and be scored with the same weights"),
    ):
        if key not in config or key not in _reached(config, [config.get(part) for part in ("initialize", "run")]):
            raise StudyError(
                f"--bundle: nothing that configs/train.yaml of {study.bundle.name} runs uses @{key}: {what}"
            )
    if "output_dir" not in _reached(config, evaluation):
        raise StudyError(
            f"--bundle: nothing in configs/evaluate.yaml of {study.bundle.name} uses @output_dir: all runs would be"
            " scored with the same weights"
        )


def _reached(config: dict[str, Any], begin: Any) -> set[str]:
    """Return the ids that the expressions in a part of a config name, and those that they name in turn."""
    found: set[str] = set()
    todo = [begin]
    while todo:
        part = todo.pop()
        if isinstance(part, dict | list):
            todo += part.values() if isinstance(part, dict) else part
        for name in re.findall(r"[@%](\w+(?:(?:#|::)\w+)*)", part) if isinstance(part, str) else ():
            if name not in found:
                found.add(name)
                value: Any = config
                for key in re.split("#|::", name):  # as deep as the keys go
                    value = value.get(key, value) if isinstance(value, dict) else value
                todo.append(value)
    return found


def _check_files(study: Study, datalist: dict[str, list[dict[str, Any]]], write: bool) -> None:
    """Refuse a data set whose files are not those that the study was begun with, by their names, sizes and parts."""
    folder, path = Path(study.dataset_dir), study.output / FILES_OF_DATA
    sizes: dict[str, Any] = {}
    parts: dict[str, list[str]] = {}
    for part, items in datalist.items():
        values = [value for item in items if isinstance(item, dict) for value in item.values()]
        for value in chain.from_iterable(value if isinstance(value, list) else [value] for value in values):
            file = folder / value if isinstance(value, str | Path) else None
            if file is not None and file.is_file():
                name = str(file.relative_to(folder) if file.is_relative_to(folder) else file)
                sizes[name] = file.stat().st_size
                parts.setdefault(part, []).append(name)
    division = json.dumps({part: sorted(names) for part, names in sorted(parts.items())})
    sizes[DIVISION] = hashlib.sha256(division.encode()).hexdigest()[:16]
    before = {DIVISION: sizes[DIVISION]} | (json.loads(path.read_text(encoding="utf-8")) if path.is_file() else sizes)
    begun = any(read_state(run.folder) for run in [*study.pretrainings(), *study.runs()])
    changed = sorted(name for name in before.keys() | sizes.keys() if before.get(name) != sizes.get(name))
    if changed and begun:
        raise StudyError(
            f"--dataset-dir: {study.dataset_dir} is not what the runs in {study.output} were trained with:"
            f" {len(changed)} files are new, gone, of another size or in another part, the first of them {changed[0]}."
            " Name another --output folder."
        )
    if write:
        replace_file(path, json.dumps(dict(sorted(sizes.items())), indent=0, ensure_ascii=False) + "\n")


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


def _futility(values: dict[str, Any], study: Study) -> Futility:
    for name in ("epochs", "below"):
        if values.get(name) is None:
            raise StudyError(f"--futility: expected epochs and below, {name} is missing")
    rule = Futility(values["epochs"], float(values["below"]), values.get("score") or f"val_{study.primary}")
    if not 0 < rule.epochs < study.epochs:
        raise StudyError(
            f"--futility: epochs: expected at least 1 and fewer than the {study.epochs} of a training, got"
            f" {rule.epochs}"
        )
    if not math.isfinite(rule.below) or not higher_is_better(rule.score):
        raise StudyError(f"--futility: expected a score of which a higher one is better, got {rule.score} {rule.below}")
    return rule


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
    parser = _parser([study.train_config, *study.configs])
    _check_uses(study, parser)
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
    """Refuse to go on with a study whose runs, or whose metric, were begun as others."""
    written = study.output / "study.yaml"
    begun = yaml.safe_load(written.read_text(encoding="utf-8")) if written.is_file() else None
    if isinstance(begun, dict) and any(read_state(run.folder) for run in study.runs()):
        primary, futility = begun.get("primary", TESTED), begun.get("futility")
        if primary != study.primary:
            raise StudyError(
                f"--primary: {study.output} was begun with {primary}, now {study.primary}: the metric that findings"
                " rest on is chosen before the first training. The report shows the others too."
            )
        if futility != study.as_dict().get("futility"):
            raise StudyError(
                f"--futility: {study.output} was begun with {futility or 'no such rule'}: what counts as hopeless is"
                " decided before the first training. Name another --output folder."
            )
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
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Duplicate key")  # of which MONAI takes the last
            contents = [
                deepcopy(inline[path]) if path in inline else ConfigParser.load_config_file(path) for path in files
            ]
        for path, content in zip(files, contents, strict=True):
            if not isinstance(content, dict):
                raise ValueError(f"{path.name} holds no config keys")
            for key, value in content.items():
                merge_kv(parser, key, value)
    except (yaml.YAMLError, ValueError, UserWarning) as error:
        raise StudyError(f"cannot read the config files {', '.join(map(str, files))}: {error}") from error
    # Values are read as the command line of monai.bundle reads them.
    for key, value in (values or {}).items():
        merge_kv(parser, key, DefaultParseValue(str(value)))
    return parser
