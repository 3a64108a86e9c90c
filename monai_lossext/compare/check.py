"""Plan a study from what a user asks for, with every check that is possible before the first training starts."""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from fire.parser import DefaultParseValue
from monai.bundle.config_parser import ConfigParser

from monai_lossext.compare.plan import RESERVED, LossChoice, Run, Study, StudyError, choose_losses
from monai_lossext.compare.run import read_state

SECTIONS = ("validation", "testing")


def plan_study(
    bundle: str | Path,
    losses: list[str],
    dataset_dir: str | Path,
    output: str | Path,
    *,
    epochs: int | None = None,
    seeds: tuple[int, ...] = (0,),
    section: str = "validation",
    baseline: str = "",
    configs: Sequence[str | Path] = (),
    overrides: dict[str, str] | None = None,
    skip_bad: bool = False,
) -> Study:
    """Plan a study that can be run: bundle, losses, data set and output folder are checked.

    Args:
        bundle: folder with ``configs/train.yaml``, ``configs/evaluate.yaml`` and the overlays ``configs/loss/*.yaml``.
        losses: names of losses, see :func:`monai_lossext.compare.plan.choose_losses`.
        dataset_dir: folder of the data set, or ``"synthetic"``.
        output: folder for runs and report; runs of an earlier call with the same settings are continued.
        epochs: epochs of every training; by default what the bundle says.
        seeds: one training per loss and seed, each 0 or more.
        section: ``"validation"`` or ``"testing"``.
        baseline: loss that the summary compares the others with, named as in `losses`; by default ``"soft_dice"``
            where it is among the losses, else the first one.
        configs: further config files, read after every loss, such as ``configs/protocol/paper.yaml``.
        overrides: ids of the bundle's config and their values, as ``python -m monai.bundle run`` takes them.
        skip_bad: leave out unusable cases of the data set instead of refusing it.

    Raises:
        StudyError: names the argument to change.
    """
    bundle, output = Path(bundle).resolve(), Path(output).resolve()
    for name in ("train.yaml", "evaluate.yaml"):
        if not (bundle / "configs" / name).is_file():
            raise StudyError(f"--bundle: {bundle} is not a bundle that can be compared, it has no configs/{name}")
    if section not in SECTIONS:
        raise StudyError(f"--section: expected one of {', '.join(SECTIONS)}, got {section!r}")
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise StudyError(f"--seed: expected different whole numbers from 0 on, got {list(seeds)}")
    if epochs is not None and epochs < 1:
        raise StudyError(f"--epochs: expected at least 1, got {epochs}")
    if str(dataset_dir) != "synthetic":
        if not Path(dataset_dir).is_dir():
            raise StudyError(f"--dataset-dir: there is no folder {dataset_dir}")
        dataset_dir = Path(dataset_dir).resolve()
    protocol = tuple(Path(path).resolve() for path in configs)
    for path in protocol:
        if not path.is_file():
            raise StudyError(f"--config: there is no file {path}")
    chosen = choose_losses(losses, bundle)
    train = bundle / "configs" / "train.yaml"
    study = Study(
        bundle=bundle,
        losses=chosen,
        dataset_dir=str(dataset_dir),
        output=output,
        epochs=epochs or int(_build(_parser([train, *protocol]), "epochs", "--bundle: its number of epochs")),
        seeds=tuple(seeds),
        section=section,
        baseline=_baseline(baseline, chosen, bundle),
        configs=protocol,
        overrides=dict(overrides or {}),
        skip_bad=skip_bad,
    )
    for run in study.runs()[: len(chosen)]:
        parser = _check_loss(run)
    _check_output(study)
    datalist = _build(parser, "datalist", "--dataset-dir")
    for part in ("training", section):
        if not datalist[part]:
            raise StudyError(f"--dataset-dir: {dataset_dir} has no cases in its {part} part")
    return study


def _baseline(name: str, losses: tuple[LossChoice, ...], bundle: Path) -> str:
    keys = [loss.key for loss in losses]
    if not name:
        return "soft_dice" if "soft_dice" in keys else keys[0]
    key = choose_losses([name], bundle)[0].key
    if key not in keys:
        raise StudyError(f"--baseline: {name!r} is not among the losses {', '.join(loss.label for loss in losses)}")
    return key


def _check_output(study: Study) -> None:
    try:
        study.output.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=study.output).close()
    except OSError as error:
        raise StudyError(f"--output: cannot write into {study.output}: {error.strerror}") from error
    for run in study.runs():
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


def _check_loss(run: Run) -> ConfigParser:
    """Build the loss of a run, and return the run's config."""
    files = run.config_files(evaluate=False)
    _check_overrides(run.study.overrides, _parser(files))
    parser = _parser(files, run.config_values(evaluate=False))
    _build(parser, "loss", f"--losses: {run.loss.overlay} does not make a loss")
    return parser


def _check_overrides(overrides: dict[str, str], parser: ConfigParser) -> None:
    for key in overrides:
        if key in RESERVED:
            raise StudyError(f"--override: {key} is set by the study itself")
        # An argument may be added to a component, which then checks it; any other unknown key would be ignored.
        component = key.replace("#", "::").rpartition("::")[0] or key
        if component not in parser:
            close = difflib.get_close_matches(component, parser.get(), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise StudyError(f"--override: {component} is not in the bundle's train.yaml{hint}")


def _build(parser: ConfigParser, key: str, message: str) -> Any:
    try:
        return parser.get_parsed_content(key)
    except Exception as error:  # a config may raise anything
        cause: BaseException = error
        while cause.__cause__ is not None:  # MONAI wraps the error that helps
            cause = cause.__cause__
        raise StudyError(f"{message}: {cause}") from error


def _parser(files: list[Path], values: dict[str, Any] | None = None) -> ConfigParser:
    parser = ConfigParser()
    try:
        parser.read_config(files)
    except (yaml.YAMLError, ValueError) as error:
        raise StudyError(f"cannot read the config files {', '.join(map(str, files))}: {error}") from error
    # Values are read as the command line of monai.bundle reads them.
    parser.update({key: DefaultParseValue(str(value)) for key, value in (values or {}).items()})
    return parser
