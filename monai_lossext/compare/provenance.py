"""What a study was done with, for people who want to judge or repeat it: settings, time, methods and references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai_lossext import __version__
from monai_lossext.compare.conclusions import stopped_runs, trainings
from monai_lossext.compare.job import read_state
from monai_lossext.compare.metrics import metric_name
from monai_lossext.compare.plan import Run, read_config
from monai_lossext.compare.results import Results
from monai_lossext.compare.status import environments, versions

PARTS = ("network_def", "network", "optimizer", "lr_scheduler", "batch_size", "precision", "val_interval")
BIBTEX = """@misc{monai_lossext,
  title = {{monai_lossext: segmentation losses for MONAI, and comparisons that count trainings}},
  note = {Version %s},
}
@article{cardoso2022monai,
  author = {Cardoso, M. Jorge and others},
  title = {{MONAI: An open-source framework for deep learning in healthcare}},
  journal = {arXiv:2211.02701},
  year = {2022},
}
@article{zou2008construction,
  author = {Zou, G. Y. and Donner, Allan},
  title = {Construction of confidence limits about effect measures: a general approach},
  journal = {Statistics in Medicine},
  volume = {27},
  pages = {1693--1702},
  year = {2008},
}
@article{wilcoxon1945individual,
  author = {Wilcoxon, Frank},
  title = {Individual comparisons by ranking methods},
  journal = {Biometrics Bulletin},
  volume = {1},
  pages = {80--83},
  year = {1945},
}"""


def settings(results: Results) -> list[tuple[str, str]]:
    """Return what all trainings share: names and values."""
    study = results.study
    config = _config(study.runs()[0])
    rows = [(name, _shown(config[name])) for name in PARTS if name in config]
    rate = study.learning_rate if study.learning_rate is not None else config.get("learning_rate")
    rows += [("learning rate", _shown(rate))] if rate is not None else []
    rows += [("overrides", _shown(study.overrides))] if study.overrides else []
    devices = {str(entry["device"]) for run in study.runs() for entry in environments(run.folder) if "device" in entry}
    rows += [
        ("epochs", str(study.epochs)),
        ("cases", f"{results.cases['case'].nunique()} ({study.section})"),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("device", ", ".join(sorted(devices)) or "not recorded"),
        ("versions", ", ".join(f"{name} {number}" for name, number in versions(study).items())),
    ]
    return rows


def losses(results: Results) -> list[tuple[str, str, str, str]]:
    """Return a row per loss: its name, its arguments, seconds of an epoch, and minutes of all its trainings."""
    rows = []
    for loss in results.study.losses:
        if loss.label not in results.losses:
            continue
        runs = [run for run in results.study.runs() if run.loss == loss]
        stages = [state["training"] for run in runs if "training" in (state := read_state(run.folder))]
        epochs, seconds = (sum(stage[name] for stage in stages) for name in ("epochs", "seconds"))
        config = loss.config or read_config(loss.overlay)
        rate = [f"learning_rate={loss.learning_rate:g}"] if loss.learning_rate is not None else []
        rows.append(
            (
                loss.label,
                ", ".join([_shown(config.get("loss", config)), *rate]),
                f"{seconds / epochs:.1f}" if epochs else "–",
                f"{seconds / 60:.1f}" if stages else "–",
            )
        )
    return rows


def methods_text(results: Results) -> str:
    """Return a paragraph of methods to paste into a paper, made of what was done."""
    study, metric, count = results.study, metric_name(results.primary), len(results.comparisons)
    seeds = sorted({*trainings(results).values()})
    folds = f" in {study.folds} folds" if study.folds else ""
    text = (
        f"The network of the MONAI bundle {study.bundle.name} was trained under {len(results.losses)} losses"
        f" ({', '.join(results.losses)}){folds}, all else being equal, for {study.epochs} epochs with"
        f" {' to '.join(map(str, seeds))} seed{'s' if max(seeds) > 1 else ''} each, and scored by the {metric} on"
        f" {results.cases['case'].nunique()} {study.section} cases. "
    )
    if results.counts_trainings:
        text += (
            f"Mean differences between losses are given with 95 % confidence intervals for all {count} pair(s) together"
            " (Bonferroni) over cases and trainings: half-widths by Student's t over the cases and over the trainings"
            " were added in squares (Zou and Donner 2008). A difference was called one when its interval left out 0. "
        )
        if study.margin is not None:
            text += f"Losses whose interval lay within {study.margin:g} were called equivalent. "
    else:
        text += "With one training each, no claim is made about losses. "
    text += "".join(f"{sentence} " for sentence in stopped_runs(results))
    monai = versions(study).get("monai")
    return text + (
        "Trained networks were compared on the cases by the two-sided Wilcoxon signed-rank test with Holm's correction."
        f" Computed with monai_lossext {__version__}{f' and MONAI {monai}' if monai else ''}."
    )


def bibtex() -> str:
    """Return the references of the methods."""
    return BIBTEX % __version__


def _config(run: Run) -> dict[str, Any]:
    path = run.folder / "config.yaml"
    return read_config(path) if path.is_file() else {}


def _shown(value: Any) -> str:
    """Write a value of a config in a line: a class with its arguments as a call."""
    if isinstance(value, dict) and "_target_" in value:
        return f"{value['_target_'].rpartition('.')[2]}({', '.join(_arguments(value))})"
    if isinstance(value, dict):
        return ", ".join(_arguments(value))
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    return str(value)


def _arguments(value: dict[str, Any]) -> Iterator[str]:
    return (f"{key}={_shown(part)}" for key, part in value.items() if not str(key).startswith("_"))
