"""The process of a run: ``python -m monai_lossext.compare.child FOLDER STAGE PYTHON_ARGUMENTS...``.

It does what ``python PYTHON_ARGUMENTS...`` does, and four things more. It ends when its parent ends, however that is
killed: its standard input is a pipe that nobody but the parent holds open. It keeps the run's folder locked as long as
it lives, so that there are never two at work in it. It adds to `environment.json` what it runs with. It fails when
the best weights are not finite.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import runpy
import socket
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import monai_lossext
from monai_lossext.files import replace_file

ENVIRONMENT = "environment.json"
RUN_LOCK = ".lock"
LOCK_SECONDS = 30  # a process whose parent was killed ends within a fraction of a second
PACKAGES = ("monai", "torch", "numpy", "pytorch-ignite", "SimpleITK", "nibabel", "pillow")


def main() -> None:
    """Run the Python arguments as the main program."""
    folder, stage, *arguments = sys.argv[1:]
    _end_with_parent()
    lock = FileLock(Path(folder) / RUN_LOCK)
    try:
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        sys.exit(f"another process has been at work in {folder} for the last {LOCK_SECONDS} seconds")
    with _recorded(Path(folder), stage):
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
        if stage == "training":
            _refuse_weights_that_are_not_finite(Path(folder) / "models" / "best.pt")


def _refuse_weights_that_are_not_finite(path: Path) -> None:
    torch = sys.modules.get("torch")  # who trained has it
    if torch is None or not zipfile.is_zipfile(path):
        return
    from monai_lossext.scripts.weights import not_finite

    weights = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(weights, dict) and (name := not_finite(weights)):
        sys.exit(f"the weights are not finite: {name} in {path.name} holds NaN or infinity")


def _end_with_parent() -> None:
    parent = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        os.read(parent, 1)  # returns when the last holder of the other end is gone
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _recorded(folder: Path, stage: str) -> Iterator[None]:
    path = folder / ENVIRONMENT
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    entry = environment(stage)

    def save() -> None:
        replace_file(path, json.dumps([*earlier, entry], indent=2) + "\n")

    save()
    try:
        yield
    finally:
        torch = sys.modules.get("torch")
        if torch is not None:  # asked at the end: before, it would have to be imported for nothing else
            entry["device"] = torch.cuda.get_device_name() if torch.cuda.is_initialized() else "cpu"
            entry["torch_threads"] = torch.get_num_threads()
            save()


def environment(stage: str) -> dict[str, Any]:
    """Return what this process runs with: stage, time, host, process id, versions, and its number of threads if set."""
    versions = {"python": platform.python_version(), "monai_lossext": monai_lossext.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "stage": stage,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "versions": versions,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


if __name__ == "__main__":
    main()
