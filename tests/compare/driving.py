"""Studies of the bundle of the tests in processes of their own, which can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from .conftest import FAKE_BUNDLE

DRIVER = """
import sys
from monai_lossext.compare import run
run.BUNDLE_COMMAND = [sys.executable, sys.argv.pop(1)]
run.POLL_SECONDS = 0.05
from monai_lossext.cli import app
app()
"""


class Driver:
    """``python -m monai_lossext compare ...`` with the bundle of the tests."""

    def __init__(self, *arguments: object) -> None:
        self.command = [sys.executable, "-c", DRIVER, FAKE_BUNDLE, "compare", *map(str, arguments)]
        # Threads decide in which order numbers are added.
        self.environment = {**os.environ, "COLUMNS": "150", "OMP_NUM_THREADS": "1"}

    def run(self) -> subprocess.CompletedProcess[str]:
        """Let it run to its end."""
        return subprocess.run(
            self.command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def kill_when(self, moment: Callable[[], bool]) -> list[psutil.Process]:
        """Kill it with SIGKILL at a moment; return the trainings and evaluations that it had started."""
        with subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            try:
                wait_for(lambda: moment() or process.poll() is not None, 90)
                assert process.poll() is None, process.stderr and process.stderr.read().decode()
                children = trainings(process.pid)
                assert children
            finally:
                process.send_signal(signal.SIGKILL)
        return children


def trainings(pid: int) -> list[psutil.Process]:
    """The processes below one that train or evaluate."""
    below = psutil.Process(pid).children(recursive=True)
    return [process for process in below if "monai_lossext.compare.child" in process.cmdline()]


def wait_for(moment: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not moment():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of those processes have ended."""
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def tables(study: Path) -> dict[str, bytes]:
    """All that must not depend on where and how often a study was begun: the CSV files of its runs and its report.

    The only times in them are the fake bundle's, which are the same always.
    """
    found = {str(path.relative_to(study)): path.read_bytes() for path in study.rglob("*.csv")}
    assert any(name.startswith("report") for name in found)
    return found
