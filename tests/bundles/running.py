"""Runs that are killed and continued, what must not depend on it, and what went wrong in others."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")

# Kills itself in the third epoch: in its second batch, or when the new last.pt is about to replace the old one.
KILLED = """
import os, signal, sys, json
from pathlib import Path
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

moment, config, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
workflow = ConfigWorkflow(json.loads(config), logging_file=False, **options)
workflow.initialize()
trainer = workflow.trainer

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "batch":
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2 * trainer.state.epoch_length + 2), die)
else:
    replace = os.replace
    def replace_or_die(source, target):
        if Path(target).name == "last.pt" and trainer.state.epoch == 3:
            die()
        replace(source, target)
    os.replace = replace_or_die
workflow.run()
"""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def results(run: Path) -> tuple[list[dict[str, str]], dict[str, Any], dict[str, Any]]:
    """What must not depend on interruptions: the history without its times, and the two checkpoints."""
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in rows(run / "history.csv")]
    best, last = (torch.load(run / "models" / name, weights_only=True) for name in ("best.pt", "last.pt"))
    return history, flat(best), flat(last)


def flat(state: Any) -> Any:
    """The state with its tensors as bytes, which == compares exactly."""
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [flat(value) for value in state]
    return state.numpy().tobytes() if isinstance(state, torch.Tensor) else state


def cause(error: BaseException) -> str:
    """The message that a user reads last; MONAI wraps it."""
    while error.__cause__ is not None and str(error).startswith("Failed to"):
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
