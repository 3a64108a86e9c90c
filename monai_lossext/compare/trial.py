"""A few batches of a training and one of its validation: how long they last, and what they depend on and write.

``python -m monai_lossext.compare.trial`` takes what :mod:`monai_lossext.compare.zoo` takes; the last line of its output
is JSON.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ignite.engine import Events

from monai_lossext.compare.executors import make_executor, threads_of
from monai_lossext.compare.job import python_environment, read_state
from monai_lossext.compare.plan import Run, Study, StudyError, has_engines
from monai_lossext.compare.run import bundle_command, write_study
from monai_lossext.files import cache_folder, replace_file

BATCHES = 3  # the first ones are slower than all others
SECONDS = 600
BUDGET = 60  # seconds after which `plan` times no further loss


def try_run(run: Run) -> dict[str, Any]:
    """Train a few batches of a run in a process of its own, in a folder that goes again.

    Returns:
        "epoch", seconds of one with its validation, as far as these batches tell; "batch", seconds of a batch;
        "batches" of an epoch; "scores", names of what the validation computes; "losses" of the batches; "written",
        files outside of the run's folder that it has made or changed.

    Raises:
        StudyError: it failed, with the last lines of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder).resolve() / "trial"
        losses = [
            loss if loss.config is None else replace(loss, overlay=output / "losses" / loss.overlay.name)
            for loss in run.study.losses
        ]
        study = replace(run.study, output=output, losses=tuple(losses), seeds=(run.seed,), baseline=losses[0].key)
        study = replace(study, pretraining=None)  # which has not been run here, and changes no time
        trial = next(trial for trial in study.runs() if trial.loss.key == run.loss.key)
        trial.folder.mkdir(parents=True)
        write_study(study)
        arguments = [argument for argument in bundle_command(trial) if argument.startswith("--")]
        command = [sys.executable, "-m", __name__, str(trial.folder), *arguments]
        environment = {**python_environment(), "OMP_NUM_THREADS": str(threads_of(study.execution))}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
            )
        except subprocess.TimeoutExpired:
            raise StudyError(f"--bundle: {BATCHES} batches took more than {SECONDS} seconds") from None
    lines = [line for line in [*done.stdout.splitlines(), *done.stderr.splitlines()] if line.strip()]
    if done.returncode:
        raise StudyError("\n".join(["--bundle: a batch of training and validation failed", *lines[-15:]]))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    with suppress(OSError):  # a cache is no more than that
        _cached(run).parent.mkdir(parents=True, exist_ok=True)
        replace_file(_cached(run), json.dumps(found))
    return found


def _cached(run: Run) -> Path:
    """Where the last trial of such a run on this machine is kept."""
    settings = run.settings() | {"epochs": 0, "host": socket.gethostname(), "threads": threads_of(run.study.execution)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:24]
    return cache_folder() / "trials" / f"{digest}.json"


def time_epochs(study: Study) -> dict[str, float]:
    """Return the seconds of an epoch of the losses, by their keys, as far as a minute goes: the baseline's first.

    Raises:
        StudyError: a batch failed.
    """
    begin, found = time.monotonic(), {}
    for run in sorted(study.runs()[: len(study.losses)], key=lambda run: run.loss.key != study.baseline):
        if _cached(run).is_file():
            found[run.loss.key] = json.loads(_cached(run).read_text(encoding="utf-8"))["epoch"]
        elif time.monotonic() - begin < BUDGET:
            found[run.loss.key] = try_run(run)["epoch"]
    return found


def verify(study: Study, say: Callable[[str], object], tried: dict[str, dict[str, Any]] | None = None) -> None:
    """Try a bundle before the first training, where that will be: loss and seed must change it, and it must write into
    its folder alone.

    Args:
        study: the study; one that was begun is not tried again.
        say: is told what takes time.
        tried: runs that were tried already, by their names.

    Raises:
        StudyError: says which of these does not hold, or why a batch failed.
    """
    tried = tried or {}
    if not has_engines(study.bundle) or any(read_state(run.folder) for run in study.runs()):
        return
    say("Trying whether loss and seed change the training, and what it writes")
    with make_executor(study.execution) as workers:
        _verify(study, lambda run: tried.get(run.name) or workers.call(try_run, run))


def _verify(study: Study, attempt: Callable[[Run], dict[str, Any]]) -> None:
    runs = study.runs()
    first = runs[0]
    found = attempt(first)
    if found["written"]:
        raise StudyError(
            f"--bundle: {study.bundle.name} writes outside of the run's folder: {', '.join(found['written'][:3])}. Runs"
            " would replace each other's files; what it writes must depend on output_dir, or ckpt_dir and output_dir"
        )
    others = {
        "losses": [run for run in runs if run.loss != first.loss and run.seed == first.seed][:1],
        "seeds": [run for run in runs if run.loss == first.loss and run.seed != first.seed][:1],
    }
    for what, (other,) in ((what, other) for what, other in others.items() if other):
        if attempt(other)["losses"] == found["losses"]:
            raise StudyError(
                f"--bundle: the first batches of {first.name} and of {other.name} are the same to the last digit: the"
                f" {what} of the study would change nothing in {study.bundle.name}"
            )


def main() -> None:
    """Train, validate and print."""
    from monai_lossext.compare.zoo import EVALUATOR, TRAINER, parse
    from monai_lossext.engines import end_with_cause

    end_with_cause()
    folder, *arguments = sys.argv[1:]
    root = Path(dict(argument.removeprefix("--").split("=", 1) for argument in arguments)["bundle_root"])
    written = watch_writing(Path(folder), root)
    parser, own = parse(arguments)
    batches = shorten(parser, "train", BATCHES)
    cases = shorten(parser, "validate", 1)
    if not own:
        parser.get_parsed_content("initialize") if "initialize" in parser else None
    trainer, evaluator = (parser.get_parsed_content(key) for key in (TRAINER, EVALUATOR))
    batches, cases = batches or trainer.state.epoch_length, cases or evaluator.state.epoch_length
    trainer.state.epoch_length, trainer.state.max_epochs = min(BATCHES, trainer.state.epoch_length), 1
    evaluator.state.epoch_length = 1
    times: list[float] = []
    losses: list[float] = []

    def after_batch(engine: Any) -> None:
        times.append(time.monotonic())
        output = engine.state.output
        losses.append(float((output[0] if isinstance(output, list) else output)["loss"]))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, after_batch)
    times.append(time.monotonic())
    trainer.run()
    batch, begin = times[-1] - times[-2], time.monotonic()
    evaluator.run()
    validation = (time.monotonic() - begin) * cases
    found = {
        "epoch": batch * batches + validation / float(parser.get("val_interval", 1)),
        "batch": batch,
        "batches": batches,
        "scores": sorted(evaluator.state.metrics),
        "losses": losses,
        "written": written(),
    }
    print("\n" + json.dumps(found))


def shorten(parser: Any, part: str, batches: int) -> int:
    """Leave a data set only the cases of a few batches, which is all that is read, and return how many it had.

    Where its cases and the size of its batches do not stand in `#dataset#data` and `#dataloader#batch_size`, all of it
    stays, and 0 is returned.
    """
    data, batch_size = f"{part}#dataset#data", f"{part}#dataloader#batch_size"
    if data not in parser or batch_size not in parser:
        return 0
    items, size = parser.get_parsed_content(data), int(parser.get_parsed_content(batch_size))
    if not isinstance(items, list) or not items:
        return 0
    few = batches * size
    parser[data] = (items * math.ceil(few / len(items)))[:few]
    return math.ceil(len(items) / size)


def watch_writing(folder: Path, bundle: Path) -> Callable[[], list[str]]:
    """Watch what this process writes from now on; the result returns the files outside of a folder that are left.

    Caches do not count. What a library writes without Python is seen in the bundle's folder alone.
    """
    home = Path.home()
    caches = [cache_folder(), Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache"), home / ".config"]
    spared = [folder, *caches, Path(tempfile.gettempdir()) / f"torchinductor_{home.name}", Path("/dev"), Path("/proc")]
    seen: set[str] = set()

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(values[0], str | bytes) and values[2] & (os.O_WRONLY | os.O_RDWR):
            seen.add(os.path.abspath(os.fsdecode(values[0])))
        elif event == "os.rename":
            seen.add(os.path.abspath(os.fsdecode(values[1])))

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in bundle.rglob("*") if path.is_file()}

    before = files()
    sys.addaudithook(hook)

    def written() -> list[str]:
        paths = {Path(path) for path in seen if os.path.isfile(path)}
        paths |= {path for path, changed in files().items() if before.get(path) != changed}
        return sorted(
            str(path)
            for path in paths
            if "__pycache__" not in path.parts and not any(path.is_relative_to(place) for place in spared)
        )

    return written


if __name__ == "__main__":
    main()
