"""Train and evaluate the runs of a study, one after the other, each in a process of its own."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from monai_lossext.compare.plan import Run, Study
from monai_lossext.files import replace_file

BUNDLE_COMMAND = [sys.executable, "-m", "monai.bundle", "run"]
POLL_SECONDS = 0.5
TAIL_LINES = 15


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `error` is empty for a finished run, else the reason and the last lines of its log."""

    run: Run
    error: str = ""
    reused: bool = False


class Watcher(Protocol):
    """Is told how a study goes on."""

    def started(self, run: Run, resumed: bool) -> None:
        """Be told that the training of a run begins or goes on."""

    def epoch(self, run: Run, done: int, row: dict[str, str]) -> None:
        """Be told that so many epochs are done, with the last row of the run's history.csv."""

    def ended(self, outcome: Outcome) -> None:
        """Be told that a run has finished, failed or was finished before."""


def run_study(study: Study, watcher: Watcher) -> list[Outcome]:
    """Do all runs of a study; finished ones are kept, unfinished ones go on, a failed one does not stop the others."""
    study.output.mkdir(parents=True, exist_ok=True)
    replace_file(study.output / "study.yaml", yaml.safe_dump(study.as_dict(), sort_keys=False))
    outcomes = []
    for run in study.runs():
        outcome = _do(run, watcher)
        watcher.ended(outcome)
        outcomes.append(outcome)
    return outcomes


def read_state(folder: Path) -> dict[str, Any]:
    """Read how far a run folder is: `settings`, `trained`, `evaluated` (the section) and `error`; {} for a new one."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def bundle_command(run: Run, *, evaluate: bool = False, resume: bool = False) -> list[str]:
    """Return the command line that trains a run, or that evaluates it."""
    files = json.dumps([str(file) for file in run.config_files(evaluate)])
    values = {"config_file": files, **run.config_values(evaluate)}
    if resume:
        values["resume"] = True
    return [*BUNDLE_COMMAND, *(f"--{key}={value}" for key, value in values.items())]


def _do(run: Run, watcher: Watcher) -> Outcome:
    state = read_state(run.folder)
    cases = run.folder / "evaluation" / "cases.csv"
    if state.get("evaluated") == run.study.section and cases.is_file():
        return Outcome(run, reused=True)
    resume = bool(state) and not state["trained"] and (run.folder / "models" / "last.pt").is_file()
    run.folder.mkdir(parents=True, exist_ok=True)
    # Every stage is written down when it is complete, so that a killed study goes on where it was.
    state = {"settings": run.settings(), "trained": state.get("trained", False)}
    _save(run, state)
    watcher.started(run, resume)
    started = time.monotonic()
    stages = [] if state["trained"] else [("training", bundle_command(run, resume=resume))]
    for stage, command in [*stages, ("evaluation", bundle_command(run, evaluate=True))]:
        error = _call(command, run, watcher)
        if not error and stage == "evaluation" and not cases.is_file():
            error = "it wrote no evaluation/cases.csv"
        if error:
            error = f"the {stage} failed: {error}"
            _save(run, {**state, "error": error})
            return Outcome(run, error)
        state["trained"] = True
        _save(run, state)
    _save(run, {**state, "evaluated": run.study.section, "seconds": round(time.monotonic() - started, 1)})
    return Outcome(run)


def _save(run: Run, state: dict[str, Any]) -> None:
    replace_file(run.folder / "run.json", json.dumps(state, indent=2) + "\n")


def _call(command: list[str], run: Run, watcher: Watcher) -> str:
    """Run a command with its output in console.log, telling the watcher of each epoch; return why it failed or ""."""
    log = run.folder / "console.log"
    with log.open("ab") as output:
        begin = output.tell()
        seen = 0
        with _process(command, output) as process:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                seen = _tell_epochs(run, watcher, seen)
    if process.returncode == 0:
        return ""
    reason = f"exit code {process.returncode}"
    if process.returncode < 0:
        reason = f"killed by signal {-process.returncode} (9: often too little memory)"
    # A progress bar rewrites its line with carriage returns; only what stood there last is of use.
    text = log.read_bytes()[begin:].decode("utf-8", errors="replace")
    lines = [line.rsplit("\r", 1)[-1] for line in text.splitlines() if line.strip()]
    return "\n".join([f"{reason}, see {log}", *lines[-TAIL_LINES:]])


@contextmanager
def _process(command: list[str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        if process.poll() is None:  # interrupted by the user: leave no training behind
            process.terminate()
            process.wait()


def _tell_epochs(run: Run, watcher: Watcher, seen: int) -> int:
    history = run.folder / "history.csv"
    if not history.is_file():
        return seen
    with history.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if len(rows) > seen:
        watcher.epoch(run, len(rows), rows[-1])
    return len(rows)
