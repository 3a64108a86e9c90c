"""How far a study is, read from its folder, and how long the rest will take."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from monai_lossext.compare.child import ENVIRONMENT, RUN_LOCK
from monai_lossext.compare.job import is_finished, read_history, read_state
from monai_lossext.compare.locks import is_locked
from monai_lossext.compare.plan import Run, Study
from monai_lossext.compare.run import Outcome

FILES = "config_files_sha256"  # the bundle may have been updated since; what it was trained with stands in its folder


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes:
        run: the run.
        state: "finished", "running", "failed", "stopped" (as hopeless), "unfinished" (begun, but nobody works on it),
            "pending", or "other", if its folder holds a run with other settings.
        epochs: epochs that are done.
        detail: why it failed with the last lines of its log, where it runs, or which settings are others.
    """

    run: Run
    state: str
    epochs: int = 0
    detail: str = ""


def standings(study: Study) -> list[Standing]:
    """Return how far all runs are, in the order in which they begin: a pretraining before what starts from it."""
    runs: list[Run] = []
    for run in study.runs():
        if run.start and run.start.folder not in {other.folder for other in runs}:
            runs.append(run.start)
        runs.append(run)
    return [standing(run) for run in runs]


def standing(run: Run) -> Standing:
    """Return how far a run is."""
    state = read_state(run.folder)
    if not state:
        return Standing(run, "pending")
    now = run.settings()
    changed = [key for key in now if key != FILES and state["settings"].get(key) != now[key] and key != "pretraining"]
    if changed:
        return Standing(run, "other", detail=f"was made with other settings: {', '.join(changed)}")
    epochs = min(len(read_history(run.folder)), run.epochs)
    if is_finished(run.folder, run.section):
        return Standing(run, "finished", run.epochs)
    if is_locked(run.folder / RUN_LOCK):
        process = state.get("process", {})
        return Standing(run, "running", epochs, f"on {process.get('host')}, since {process.get('started')}")
    if state.get("error"):
        return Standing(run, "stopped" if state.get("futile") else "failed", epochs, state["error"])
    return Standing(run, "unfinished" if epochs else "pending", epochs)


def outcomes(study: Study) -> list[Outcome]:
    """Return what there is to report of a study, whether or not all of it is done."""
    found = []
    for run in study.runs():
        there = standing(run)
        errors = {"finished": "", "pending": "was not run yet"}
        errors |= dict.fromkeys(("failed", "stopped", "other"), there.detail)
        error = errors.get(there.state, f"is not finished, {there.epochs} of {run.epochs} epochs are done")
        found.append(Outcome(run, error, reused=not error, futile=there.state == "stopped"))
    return found


def seconds_left(study: Study, timed: dict[str, float] | None = None) -> float | None:
    """Estimate how long the unfinished runs will take, in seconds; None if nothing is known of this study's speed.

    Args:
        study: the study.
        timed: seconds of an epoch of some losses, by their keys, for as long as no epoch of the study is done.

    What finished stages took decides, first those of the same loss, else those of all losses, and while there are none
    what the training passes of the begun runs took, which are too short by the validations.
    """
    todo = standings(study)
    speeds = [_speed(there.run) for there in todo]
    work = []
    for there, own in zip(todo, speeds, strict=True):
        if there.state in ("finished", "stopped"):
            continue
        same = [speed for other, speed in zip(todo, speeds, strict=True) if other.run.loss == there.run.loss]
        epoch = _mean("epoch", [own], same, speeds)
        if epoch is None and timed:
            epoch = timed.get(there.run.loss.key, fmean(timed.values()))
        evaluation = 0.0 if there.run.pretraining else _mean("evaluation", same, speeds) or 0.0
        if epoch is None:
            return None
        done = 0 if there.state == "other" else there.epochs
        work.append((there.run.epochs - done) * epoch + evaluation)
    parallel = study.execution.processes if study.execution.name == "local" else 1
    return max(sum(work) / parallel, max(work, default=0.0))


def running_at_once(study: Study) -> str:
    """Say how many runs are done at the same time, as far as the study says it."""
    execution = study.execution
    if execution.name == "ray":
        return f"as many at once as Ray has room for ({execution.cpus:g} CPUs and {execution.gpus:g} GPUs each)"
    return "one after the other" if execution.processes == 1 else f"{execution.processes} at once"


def environments(folder: Path) -> list[dict[str, Any]]:
    """Return what the processes of a run ran with, see :mod:`monai_lossext.compare.child`."""
    path = folder / ENVIRONMENT
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def versions(study: Study) -> dict[str, str]:
    """Return the versions that the study's trainings ran with: of each package one, or several with commas."""
    found: dict[str, list[str]] = {}
    for run in study.runs():
        for entry in environments(run.folder):
            if entry["stage"] == "training":
                for package, version in entry["versions"].items():
                    if version not in found.setdefault(package, []):
                        found[package].append(version)
    return {package: ", ".join(numbers) for package, numbers in found.items()}


def _speed(run: Run) -> dict[str, float]:
    """Seconds of an epoch and of the evaluation of a run, as far as they are known."""
    state = read_state(run.folder)
    found = {}
    training = state.get("training", {})
    if training.get("epochs"):
        found["epoch"] = training["seconds"] / training["epochs"]
    if "evaluation" in state:
        found["evaluation"] = state["evaluation"]["seconds"]
    if "epoch" not in found and (rows := read_history(run.folder)):
        found["pass"] = fmean(float(row["seconds"]) for row in rows)
    return found


def _mean(kind: str, *groups: Iterable[dict[str, float]]) -> float | None:
    """The mean of the first group that has any; of epochs, the bare training passes if there is nothing else."""
    for name in [kind, "pass"] if kind == "epoch" else [kind]:
        for group in groups:
            values = [speed[name] for speed in group if not math.isnan(speed.get(name, math.nan))]
            if values:
                return fmean(values)
    return None
