"""Phantoms that all tests of the bundles share, and bundle runs within this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from monai_lossext.data import skin_lesion_datalist
from monai_lossext.engines import RUN_LOG

CASES = 20

Workflow = Callable[..., ConfigWorkflow]


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bundle's run sets the exception hook and logs to its folder."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.name == RUN_LOG]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture(scope="session")
def bundle(bundles_dir: Path) -> Path:
    return bundles_dir / "skin_lesion_segmentation"


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a config needs to find the phantoms, which are made here, once."""
    cache = str(tmp_path_factory.mktemp("cache"))
    skin_lesion_datalist("synthetic", synthetic_cases=CASES, cache_dir=cache)
    return {"dataset_dir": "synthetic", "synthetic_cases": CASES, "cache_dir": cache}


@pytest.fixture(scope="session")
def workflow(bundle: Path, phantoms: dict[str, Any]) -> Workflow:
    """Make a workflow of the bundle from names of its configs and overrides, on the phantoms."""

    def make(*configs: str, **overrides: Any) -> ConfigWorkflow:
        files = [str(bundle / "configs" / f"{name}.yaml") for name in configs]
        values = {"bundle_root": str(bundle), **phantoms, "epochs": 1, "batch_size": 4} | overrides
        return ConfigWorkflow(files, meta_file=str(bundle / "configs" / "metadata.json"), logging_file=False, **values)

    return make


@pytest.fixture(scope="session")
def run_bundle(workflow: Workflow) -> Callable[..., ConfigWorkflow]:
    """Run such a workflow to its end."""

    def run(*configs: str, **overrides: Any) -> ConfigWorkflow:
        made = workflow(*configs, **overrides)
        made.initialize()
        made.run()
        made.finalize()
        return made

    return run


@pytest.fixture(scope="session")
def trained(run_bundle: Callable[..., ConfigWorkflow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    run_bundle("train", output_dir=str(folder), epochs=2)
    return folder
