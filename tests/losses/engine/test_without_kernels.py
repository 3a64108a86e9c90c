"""Kernels that cannot be compiled, kept or loaded: the plain way then, or new kernels, with one warning at most."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_lossext.losses import LovaszSoftmaxLoss, SoftDiceLoss, WeightedCrossEntropyLoss
from monai_lossext.losses.paths import kernels_available, plain_path

from .. import cases

ROOT = Path(__file__).parents[3]
LOSSES = [SoftDiceLoss, WeightedCrossEntropyLoss, LovaszSoftmaxLoss]
CODE = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from monai_lossext.losses.paths import kernels_available
    from tests.losses import cases
    from tests.losses.engine.test_without_kernels import LOSSES, results
    found = results()
    again = results()
told = [(w.category.__name__, str(w.message)) for w in caught if not issubclass(w.category, DeprecationWarning)]
print(json.dumps({"found": found, "again": again, "warnings": told, "kernels": kernels_available()}))
"""


def results() -> list[list[float]]:
    """Return values, and sums that a wrong gradient would change."""
    x, label = cases.logits(2, 3, 8, 9, 10, dtype=torch.float32), cases.indices(2, 3, 8, 9, 10)
    found = []
    for cls in LOSSES:
        value, gradient = cases.value_and_gradient(cls(softmax=True, to_onehot_y=True), x, label)
        found.append([value.item(), gradient.square().sum().item(), (gradient * x).sum().item()])
    return found


def told_by_a_process(cache: Path, root: Path = ROOT, **environment: str) -> dict[str, Any]:
    """Return what a new process computes and warns of."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=root,
        env={**os.environ, "MONAI_LOSSEXT_CACHE": str(cache), "PYTHONPATH": str(root), **environment},
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    told = json.loads(done.stdout.splitlines()[-1])
    with plain_path():
        expected = results()
    for found in (told["found"], told["again"]):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-9)
    assert len(told["warnings"]) <= 1, told["warnings"]
    assert {category for category, _ in told["warnings"]} <= {"UserWarning", "RuntimeWarning"}
    return told


@pytest.mark.parametrize("where", ["import", "jit"])
def test_numba_that_does_not_work_leaves_the_plain_way(tmp_path, where):
    if where == "import":
        (tmp_path / "numba").mkdir()
        (tmp_path / "numba" / "__init__.py").write_text("raise ImportError('no llvmlite for this processor')")
        told = told_by_a_process(tmp_path / "cache", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    else:
        told = told_by_a_process(tmp_path / "cache", NUMBA_DISABLE_JIT="1")
    assert not told["kernels"]
    assert len(told["warnings"]) == 1 or where == "jit"


def test_numba_that_is_not_installed_needs_no_warning(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['numba'] = None")
    told = told_by_a_process(tmp_path / "cache", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert not told["kernels"]


@pytest.mark.slow
@pytest.mark.skipif(not kernels_available(), reason="needs kernels")
def test_a_cache_that_cannot_be_written_is_none(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert told_by_a_process(tmp_path / "file" / "cache")["kernels"]


@pytest.mark.slow
@pytest.mark.skipif(not kernels_available(), reason="needs kernels")
def test_kernels_are_kept_and_what_was_truncated_is_compiled_anew(tmp_path):
    cache = tmp_path / "cache"
    told_by_a_process(cache)
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert kept
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert told_by_a_process(cache)["kernels"]
    assert before == {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    for share in (2, 10**9):  # halves, and nothing at all
        for path in kept:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // share])
        told_by_a_process(cache)


@pytest.mark.slow
@pytest.mark.skipif(not kernels_available(), reason="needs kernels")
def test_a_change_in_any_source_of_the_kernels_makes_others(tmp_path):
    """Numba by itself looks at the file of one function alone, not at those of the functions that it calls."""
    package, cache = tmp_path / "monai_lossext", tmp_path / "cache"
    shutil.copytree(ROOT / "monai_lossext", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__", "*data*"))

    def names() -> set[Path]:
        told_by_a_process(cache, tmp_path)
        return {path for path in cache.rglob("*") if path.is_file()}

    before = names()
    assert names() == before
    sources = sorted((package / "losses" / "engine" / "cpu").glob("*.py"))
    sources[1].write_text(sources[1].read_text() + "\nCHANGED = 1\n")
    after = names()
    assert len(after - before) == len(before)
