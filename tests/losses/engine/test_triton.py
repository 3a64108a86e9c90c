"""Triton's kernels on a machine without a GPU: in its interpreter, and compiled ahead of time.

The interpreter has to be asked for before Triton is imported, and compiling forbids it: each is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_lossext.losses.paths import TRITON_IS_INSTALLED

ROOT = Path(__file__).parents[3]
HERE = "tests/losses/engine/triton"
needs_triton = pytest.mark.skipif(not TRITON_IS_INSTALLED, reason="Triton is not installed")


def run(*command: str, **environment: str) -> str:
    """Return what a new process prints."""
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=1500,  # one minute where nothing else runs
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout[-20000:]}\n{done.stderr[-5000:]}"
    return done.stdout


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("cases", ["kernels", "protocol"])
def test_in_the_interpreter(cases):
    interpreted = run("-m", "pytest", "-q", "-p", "no:xdist", f"{HERE}/interpreted_{cases}.py", TRITON_INTERPRET="1")
    assert " passed" in interpreted
    assert "skipped" not in interpreted.splitlines()[-1]


@needs_triton
def test_the_benchmark_of_gpus_runs_and_says_that_it_measures_nothing(tmp_path):
    run("benchmarks/gpu.py", "--quick", "--losses", "SoftDiceLoss", "--output", str(tmp_path), CUDA_VISIBLE_DEVICES="")
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert "NOT A MEASUREMENT" in (tmp_path / "gpu.md").read_text()
    assert {row["size"] for row in results["rows"]} == {"1x1x6^3", "1x3x6^3"}
    assert all(error < 1e-5 for error in results["checks"].values())


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("target", ["cuda 90", "hip gfx942"])
def test_compiled_for_gpus_that_are_not_there(target, tmp_path):
    told = run("-m", f"{HERE.replace('/', '.')}.compiled", *target.split(), TRITON_CACHE_DIR=str(tmp_path))
    assert told.count("walk:") == 7 * 2 + 5 + 1
    assert told.count("finish:") == 7 + 1
    assert told.count("compute:") == 4
