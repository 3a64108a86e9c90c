"""Do the runs of a study: hand them to an executor, each when what it starts from is there, and tell how they go on."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

from monai_lossext.compare.check import merged_config
from monai_lossext.compare.executors import Executor, make_executor
from monai_lossext.compare.job import Job, is_finished, read_history, read_state, save_state
from monai_lossext.compare.locks import study_lock
from monai_lossext.compare.plan import Run, Study
from monai_lossext.files import replace_file

BUNDLE_COMMAND = [sys.executable, "-m", "monai.bundle", "run"]
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `error` is empty for a finished run, else the reason and the last lines of its log.

    `futile`: it did not fail, but was stopped as hopeless, by the rule of the study.
    """

    run: Run
    error: str = ""
    reused: bool = False
    futile: bool = False


class Watcher(Protocol):
    """Is told how a study goes on."""

    def started(self, run: Run, resumed: bool) -> None:
        """Be told that the training of a run begins or goes on."""

    def epoch(self, run: Run, done: int, row: dict[str, str]) -> None:
        """Be told that so many epochs are done, with the last row of the run's history.csv."""

    def ended(self, outcome: Outcome) -> None:
        """Be told that a run has finished, failed or was finished before."""


def run_study(study: Study, watcher: Watcher, executor: Executor | None = None) -> list[Outcome]:
    """Do all runs of a study; finished ones are kept, unfinished ones go on, a failed one does not stop the others.

    Args:
        study: as :func:`monai_lossext.compare.check.plan_study` returns it.
        watcher: is told how the runs go on, all of it in this thread.
        executor: does the runs; by default the one that the study names.

    Returns:
        The outcomes of the runs to compare, in the order of :meth:`Study.runs`.

    Raises:
        StudyError: another process runs this study, or the executor cannot be used.
    """
    study.output.mkdir(parents=True, exist_ok=True)
    with study_lock(study.output):
        write_study(study)
        progress = _Progress(study, watcher)
        if progress.waiting:
            with executor or make_executor(study.execution) as workers:
                progress.all(workers)
    return [progress.outcomes[run.folder] for run in study.runs()]


def write_study(study: Study) -> None:
    """Write the study's file, and the overlays of the losses that it holds itself, into its folder."""
    replace_file(study.output / "study.yaml", yaml.safe_dump(study.as_dict(), sort_keys=False, allow_unicode=True))
    losses = [*study.losses, *([study.pretraining.loss] if study.pretraining else [])]
    for loss in losses:
        if loss.config is not None:
            loss.overlay.parent.mkdir(exist_ok=True)
            replace_file(loss.overlay, yaml.safe_dump(loss.config, sort_keys=False, allow_unicode=True))


def bundle_command(run: Run, *, evaluate: bool = False, resume: bool = False) -> list[str]:
    """Return the command line that trains a run, or that evaluates it."""
    files = json.dumps([str(file) for file in run.config_files(evaluate)], ensure_ascii=False)
    values = {"config_file": files, **run.config_values(evaluate)}
    if run.study.zoo:
        stage = "evaluate" if evaluate else "train"
        return [sys.executable, "-m", "monai_lossext.compare.zoo", stage, *(f"--{k}={v}" for k, v in values.items())]
    if resume:
        values["resume"] = True
    return [*BUNDLE_COMMAND, *(f"--{key}={value}" for key, value in values.items())]


def make_job(run: Run, session: str = "") -> Job:
    """Return a run as an executor takes it."""
    return Job(
        folder=run.folder,
        settings=run.settings(),
        config=yaml.safe_dump(merged_config(run), sort_keys=False, allow_unicode=True),
        train=tuple(bundle_command(run)[1:]),
        evaluate=() if run.pretraining else tuple(bundle_command(run, evaluate=True)[1:]),
        section=run.section,
        session=session,
        keep=run.study.keep_checkpoints,
        futility=None if run.pretraining else run.study.futility,
    )


class _Progress:
    """Hands out the runs of a study and follows them."""

    def __init__(self, study: Study, watcher: Watcher) -> None:
        self.watcher = watcher
        self.session = uuid.uuid4().hex
        finished: list[Run] = []
        stopped: list[Outcome] = []
        self.waiting: list[Run] = []
        begun: set[Path] = set()
        for run in study.runs():
            if is_finished(run.folder, run.section):
                finished.append(run)
                continue
            if (state := read_state(run.folder)).get("futile"):
                stopped.append(Outcome(run, state["error"], reused=True, futile=True))
                continue
            start = run.start  # it comes right before the first run that starts from it
            if start and start.folder not in begun:
                begun.add(start.folder)
                (finished if is_finished(start.folder, "") else self.waiting).append(start)
            self.waiting.append(run)
        self.futures: dict[Future[str], Run] = {}
        self.outcomes: dict[Path, Outcome] = {}
        self.started: set[Path] = set()
        self.epochs: dict[Path, int] = {}
        for outcome in [*(Outcome(run, reused=True) for run in finished), *stopped]:
            self._end(outcome)

    def all(self, executor: Executor) -> None:
        """Do all runs that wait."""
        self._submit(executor)
        while self.futures:
            done, _ = wait(self.futures, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for run in self.futures.values():
                self._tell(run)
            for future in done:
                run = self.futures.pop(future)
                error = self._error(run, future.result)
                self._end(Outcome(run, error, futile=bool(error) and read_state(run.folder).get("futile", False)))
            self._submit(executor)

    def _submit(self, executor: Executor) -> None:
        """Hand out all runs that can begin, as far as the executor has room for them."""
        for run in list(self.waiting):
            start = self.outcomes.get(run.start.folder) if run.start else None
            if start is not None and start.error:
                self._end(Outcome(run, self._failed(run, f"{start.run.name}: {start.error}")))
            elif run.start and start is None:
                continue  # until the pretraining has ended
            elif len(self.futures) < executor.slots:
                self.futures[executor.submit(make_job(run, self.session))] = run
            else:
                continue
            self.waiting.remove(run)

    def _error(self, run: Run, result: Callable[[], str]) -> str:
        try:
            return result()
        except Exception as error:  # of the worker or of the cluster, as for instance a worker that was lost too often
            return self._failed(run, f"{type(error).__name__}: {error}")

    def _failed(self, run: Run, error: str) -> str:
        """Write down the error of a run whose own process could not, if there is room for it."""
        with suppress(OSError):
            run.folder.mkdir(parents=True, exist_ok=True)
            state = read_state(run.folder) or {"settings": run.settings(), "trained": False}
            save_state(run.folder, {**state, "error": error})
        return error

    def _end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.run.folder] = outcome
        self.watcher.ended(outcome)

    def _tell(self, run: Run) -> None:
        if run.folder not in self.started:
            state = read_state(run.folder)
            if state.get("session") != self.session:
                return  # it waits for a worker
            self.started.add(run.folder)
            self.watcher.started(run, state["resumed"])
        rows = read_history(run.folder)
        if len(rows) > self.epochs.get(run.folder, 0):
            self.watcher.epoch(run, len(rows), rows[-1])
        self.epochs[run.folder] = len(rows)
