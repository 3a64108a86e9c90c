"""Kernels that cannot be compiled, kept or loaded: the plain way then, or new kernels, with one warning at most."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_lossext.losses import LovaszSoftmaxLoss, SoftDiceLoss, WeightedCrossEntropyLoss
from monai_lossext.losses.engine.operators import lovasz_slopes
from monai_lossext.losses.paths import kernels_available, plain_path

from .. import cases

ROOT = Path(__file__).parents[3]
LOSSES = {cls.__name__: cls for cls in (SoftDiceLoss, WeightedCrossEntropyLoss, LovaszSoftmaxLoss)}
SMALLEST = ("sorting",)  # the loop that is compiled soonest; all of them take half a minute and more
CODE = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    from monai_lossext.losses.paths import kernels_available
    from tests.losses import cases
    from tests.losses.engine.test_without_kernels import results
    found = results(sys.argv[1:])
    again = results(sys.argv[1:])
told = [(w.category.__name__, str(w.message)) for w in caught if not issubclass(w.category, DeprecationWarning)]
print(json.dumps({"found": found, "again": again, "warnings": told, "kernels": kernels_available()}))
"""


def results(losses: Iterable[str]) -> list[list[float]]:
    """Return values, and sums that a wrong gradient would change; or those of slopes by their order."""
    x, label = cases.logits(2, 3, 8, 12, 11, dtype=torch.float32), cases.indices(2, 3, 8, 12, 11)
    found = []
    for name in losses:
        if name == "sorting":
            slopes, sums = lovasz_slopes(x.flatten(2).abs(), label.flatten(2), None, True, 0, False)
            found.append([*sums.flatten().tolist(), slopes.square().sum().item()])
            continue
        value, gradient = cases.value_and_gradient(LOSSES[name](softmax=True, to_onehot_y=True), x, label)
        found.append([value.item(), gradient.square().sum().item(), (gradient * x).sum().item()])
    return found


def told_by_a_process(
    cache: Path, root: Path = ROOT, losses: Iterable[str] = tuple(LOSSES), **environment: str
) -> dict[str, Any]:
    """Return what a new process computes and warns of."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *losses],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=root,
        env={**os.environ, "MONAI_LOSSEXT_CACHE": str(cache), "PYTHONPATH": str(root), **environment},
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    told = json.loads(done.stdout.splitlines()[-1])
    with plain_path():
        expected = results(losses)
    for found in (told["found"], told["again"]):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-9)
    assert len(told["warnings"]) <= 1, told["warnings"]
    assert {category for category, _ in told["warnings"]} <= {"UserWarning", "RuntimeWarning"}
    return told


NAMES = """
import os
import numba
from monai_lossext.losses.engine.cpu import runtime

def name():
    @numba.njit
    def function(x):
        return x
    function(1)
    return function.overloads[function.signatures[0]].fndesc.mangled_name

for _ in range(2):
    child = os.fork()
    if not child:
        break
    os.waitpid(child, 0)
print(name(), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not kernels_available() or not hasattr(os, "fork"), reason="needs kernels and processes that fork")
def test_no_two_processes_give_functions_the_same_name():
    """Loops of several processes are kept in one folder and run in one process, which knows their functions by name."""
    names = [
        name
        for _ in range(2)
        for name in subprocess.run(
            [sys.executable, "-c", NAMES], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout.split()
    ]
    assert len(set(names)) == len(names) == 6


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
    assert told_by_a_process(tmp_path / "file" / "cache", losses=SMALLEST)["kernels"]


@pytest.mark.slow
@pytest.mark.skipif(not kernels_available(), reason="needs kernels")
def test_kernels_are_kept_and_what_was_truncated_is_compiled_anew(tmp_path):
    cache = tmp_path / "cache"
    told_by_a_process(cache, losses=SMALLEST)
    kept = [path for path in cache.rglob("*") if path.is_file()]
    assert kept
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert told_by_a_process(cache, losses=SMALLEST)["kernels"]
    assert before == {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    for share in (2, 10**9):  # halves, and nothing at all
        for path in kept:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // share])
        told_by_a_process(cache, losses=SMALLEST)


@pytest.mark.slow
@pytest.mark.skipif(not kernels_available(), reason="needs kernels")
def test_a_change_in_any_source_of_the_kernels_makes_others(tmp_path):
    """Numba by itself looks at the file of one function alone, not at those of the functions that it calls."""
    package, cache = tmp_path / "monai_lossext", tmp_path / "cache"
    shutil.copytree(ROOT / "monai_lossext", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__", "*data*"))

    def names() -> set[Path]:
        told_by_a_process(cache, tmp_path, SMALLEST)
        return {path for path in cache.rglob("*") if path.is_file()}

    before = names()
    assert names() == before
    sources = sorted((package / "losses" / "engine" / "cpu").glob("*.py"))
    sources[1].write_text(sources[1].read_text() + "\nCHANGED = 1\n")
    after = names()
    assert len(after - before) == len(before)
