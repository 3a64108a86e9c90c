"""One run of a study as plain data, and what does it wherever it is sent. Light to import: workers import it."""

from __future__ import annotations

import csv
import json
import math
import os
import site
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_lossext.files import replace_file

TAIL_LINES = 15
LOOK_SECONDS = 0.5  # between two looks at the scores of a training that may be hopeless


@dataclass(frozen=True)
class Futility:
    """When a training is hopeless: decided once, by its own validation scores, so that no other run plays a part.

    Args:
        epochs: after so many.
        below: a run whose best score was below this is stopped.
        score: the column of history.csv.
    """

    epochs: int
    below: float
    score: str

    def judge(self, rows: list[dict[str, str]]) -> tuple[bool, str]:
        """Return whether the run of those rows of history.csv is hopeless, and why it cannot go on; "" if it can."""
        if len(rows) < self.epochs:
            return False, ""
        if self.score not in rows[0]:
            return False, f"futility: history.csv has no column {self.score}; it has {', '.join(rows[0])}"
        scores = [float(row[self.score] or "nan") for row in rows[: self.epochs]]
        scores = [score for score in scores if not math.isnan(score)]
        if not scores:
            return False, f"futility: in {self.epochs} epochs {self.score} was never a number"
        if max(scores) >= self.below:
            return False, ""
        best = f"its best {self.score} until then was {max(scores):.4f}, below {self.below:g}"
        return True, f"stopped as hopeless after epoch {self.epochs}: {best}"


@dataclass(frozen=True)
class Job:
    """A run as it is handed to an executor.

    Args:
        folder: the run's folder.
        settings: all that decides the trained weights.
        config: the config of the training, all files and values merged, as YAML.
        train: arguments of Python that train.
        evaluate: arguments of Python that evaluate; none for a pretraining.
        section: the part of the data set that is evaluated.
        session: names the call of run_study that the job belongs to.
        keep: whether the checkpoint for going on, models/last.pt, is kept when all is done.
        futility: when its training is stopped as hopeless; None: never.
    """

    folder: Path
    settings: dict[str, Any]
    config: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    section: str
    session: str
    keep: bool = False
    futility: Futility | None = None


class Children:
    """The processes that an executor has started, so that it can end them."""

    def __init__(self) -> None:
        self.stopped = False
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[bytes]] = set()

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process, unless all are to end."""
        with self._lock:
            if self.stopped:
                raise InterruptedError("the study was stopped")
            process = subprocess.Popen(command, **options)
            self._processes.add(process)
            return process

    def ended(self, process: subprocess.Popen[bytes]) -> None:
        """Forget a process that has ended."""
        with self._lock:
            self._processes.discard(process)

    def stop(self) -> None:
        """End all processes, and start none any more."""
        with self._lock:
            self.stopped = True
            for process in self._processes:
                process.terminate()


def read_state(folder: Path) -> dict[str, Any]:
    """Read how far a run folder is, from its run.json; {} for a new one.

    The keys are `settings`, `trained` (whether), `evaluated` (which section), `error`, `futile` (whether the error is
    that the training was stopped as hopeless), `process`, `session`, `resumed`, and, for time estimates, `training`
    (seconds and epochs of its last attempt) and `evaluation` (seconds).
    """
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write run.json."""
    replace_file(folder / "run.json", json.dumps(state, indent=2) + "\n")


def is_finished(folder: Path, section: str) -> bool:
    """Whether a run has all its results for that section; a pretraining has no section, it is "" """
    state = read_state(folder)
    if not section:
        return bool(state.get("trained")) and (folder / "models" / "best.pt").is_file()
    return state.get("evaluated") == section and (folder / "evaluation" / "cases.csv").is_file()


def read_history(folder: Path) -> list[dict[str, str]]:
    """Read the rows of a run's history.csv, one an epoch; none if there is no such file yet."""
    path = folder / "history.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def do_job(job: Job, environment: dict[str, str], children: Children | None = None) -> str:
    """Do what is left of a run, and return why it failed, with the last lines of its log, or "".

    Every stage is written down when it is complete, so that whoever does the same job again, after this process was
    killed, goes on where it was.
    """
    children = children or Children()
    if is_finished(job.folder, job.section):
        return ""
    job.folder.mkdir(parents=True, exist_ok=True)
    before = read_state(job.folder)
    if before.get("futile"):
        return str(before["error"])
    resume = bool(before) and not before["trained"]
    state: dict[str, Any] = {
        "settings": job.settings,
        "trained": before.get("trained", False),
        "process": {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        },
        "session": job.session,
        "resumed": resume and (job.folder / "models" / "last.pt").is_file(),
        **{stage: before[stage] for stage in ("training", "evaluation") if stage in before},
    }
    save_state(job.folder, state)
    replace_file(job.folder / "config.yaml", job.config)
    stages = []
    if not state["trained"]:
        stages.append(("training", [*job.train, *(["--resume=True"] if resume else [])]))
    if job.evaluate:
        stages.append(("evaluation", list(job.evaluate)))
    for stage, arguments in stages:
        begin, epochs = time.monotonic(), len(read_history(job.folder)) if resume else 0
        futility = job.futility if stage == "training" else None
        error = _call(job.folder, stage, arguments, environment, children, futility)
        if children.stopped:
            return "stopped"  # by the user: nothing to be told next time
        # Also where the training was over before anybody looked.
        futile, judgement = futility.judge(read_history(job.folder)) if futility else (False, "")
        error = judgement or error or _missing(job, stage)
        if error:
            error = error if futile else f"the {stage} failed: {error}"
            save_state(job.folder, {**state, "error": error, "futile": futile})
            return error
        state[stage] = {"seconds": round(time.monotonic() - begin, 1)}
        if stage == "training":
            state["trained"] = True
            state[stage]["epochs"] = max(0, len(read_history(job.folder)) - epochs)
        else:
            state["evaluated"] = job.section
        save_state(job.folder, state)
    if not job.keep:
        (job.folder / "models" / "last.pt").unlink(missing_ok=True)
    return ""


def _missing(job: Job, stage: str) -> str:
    if stage == "evaluation":
        return "" if (job.folder / "evaluation" / "cases.csv").is_file() else "it wrote no evaluation/cases.csv"
    if wrong := _not_finite(job.folder):
        return wrong
    if (job.folder / "models" / "best.pt").is_file() or job.evaluate:
        return ""
    return "it wrote no models/best.pt; it must last until the first validation at least"


def _not_finite(folder: Path) -> str:
    """Say in which epoch the training loss stopped to be a finite number for good; "" where it did not."""
    losses = [float(row.get("train_loss") or "nan") for row in read_history(folder) if "train_loss" in row]
    if not losses or math.isfinite(losses[-1]):
        return ""
    epoch = len(losses) - next((i for i, loss in enumerate(reversed(losses)) if math.isfinite(loss)), len(losses)) + 1
    return f"its training loss was {losses[-1]} from epoch {epoch} on"


def _call(
    folder: Path,
    stage: str,
    arguments: list[str],
    environment: dict[str, str],
    children: Children,
    futility: Futility | None = None,
) -> str:
    """Run Python with those arguments and its output in console.log; return why it failed, or ""."""
    log = folder / "console.log"
    command = [sys.executable, "-m", "monai_lossext.compare.child", str(folder), stage, *arguments]
    with log.open("ab") as output:
        begin = output.tell()
        process = children.start(
            command,
            stdin=subprocess.PIPE,  # never written to: the child ends when it is closed, that is when this process ends
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**python_environment(), **environment},
        )
        with process:
            while futility is not None and process.poll() is None:
                if futility.judge(read_history(folder))[1]:
                    process.terminate()
                    break
                time.sleep(LOOK_SECONDS)
            process.wait()
        children.ended(process)
    if process.returncode == 0:
        return ""
    reason = f"exit code {process.returncode}"
    if process.returncode < 0:
        reason = f"killed by signal {-process.returncode} (9: often too little memory)"
    # A progress bar rewrites its line with carriage returns; only what stood there last is of use.
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rsplit("\r", 1)[-1] for line in text.splitlines() if line.strip()]
    return "\n".join([f"{reason}, see {log}", *lines[-TAIL_LINES:]])


def python_environment() -> dict[str, str]:
    """The environment of a process that imports the package from where this one has it."""
    root = str(Path(__file__).resolve().parents[2])
    if root in map(os.path.realpath, [*site.getsitepackages(), site.getusersitepackages()]):
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
