"""Phantoms that all tests of the bundles share, and bundle runs within this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow

from monai_lossext.data import skin_lesion_datalist, write_head_phantoms, write_lesion_phantoms
from monai_lossext.engines import RUN_LOG

CASES = 20
SMALL = {  # networks and voxels that make an epoch take a second
    "skull_stripping_2d": """
        spacing: [6, 6, -1]
        slice_size: [32, 32]
        network_def: {_target_: UNet, spatial_dims: 2, in_channels: 1, out_channels: 1, channels: [4, 8], strides: [2]}
    """,
    "skull_stripping_3d": """
        spacing: [6, 6, 6]
        patch_size: [16, 16, 16]
        network_def: {_target_: UNet, spatial_dims: 3, in_channels: 1, out_channels: 1, channels: [4, 8], strides: [2]}
    """,
    "white_matter_lesion_3d": """
        spacing: [7, 7, 7]
        patch_size: [16, 16, 16]
        network_def: {_target_: UNet, spatial_dims: 3, in_channels: 2, out_channels: 1, channels: [4, 8], strides: [2]}
    """,
}
LESIONS = "white_matter_lesion_3d"
HEADS = sorted(SMALL.keys() - {LESIONS})

Workflow = Callable[..., ConfigWorkflow]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of the bundles for heads with that for lesions as well where they are marked `lesions_too`."""
    if "skull_bundle" in metafunc.fixturenames:
        names = [*HEADS, LESIONS] if metafunc.definition.get_closest_marker("lesions_too") else HEADS
        metafunc.parametrize("skull_bundle", names, indirect=True, scope="session")


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bundle's run sets the exception hook and logs to its folder."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.name == RUN_LOG]:
        root.removeHandler(handler)
        handler.close()


def make_workflow(bundle: Path, configs: tuple[str, ...], values: dict[str, Any]) -> ConfigWorkflow:
    """Make a workflow of a bundle from names of its configs, or paths of others, and overrides."""
    files = [name if name.endswith(".yaml") else str(bundle / "configs" / f"{name}.yaml") for name in configs]
    meta = str(bundle / "configs" / "metadata.json")
    return ConfigWorkflow(files, meta_file=meta, logging_file=False, bundle_root=str(bundle), **values)


def run_to_the_end(made: ConfigWorkflow) -> ConfigWorkflow:
    made.initialize()
    made.run()
    made.finalize()
    return made


@pytest.fixture(scope="session")
def bundle(bundles_dir: Path) -> Iterator[Path]:
    """The bundle for pictures; its folder is on Python's path, as MONAI puts it there when a bundle runs."""
    folder = bundles_dir / "skin_lesion_segmentation"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder


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
        return make_workflow(bundle, configs, {**phantoms, "epochs": 1, "batch_size": 4} | overrides)

    return make


@pytest.fixture(scope="session")
def run_bundle(workflow: Workflow) -> Callable[..., ConfigWorkflow]:
    """Run such a workflow to its end."""

    def run(*configs: str, **overrides: Any) -> ConfigWorkflow:
        return run_to_the_end(workflow(*configs, **overrides))

    return run


@pytest.fixture(scope="session")
def trained(run_bundle: Callable[..., ConfigWorkflow], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    run_bundle("train", output_dir=str(folder), epochs=2)
    return folder


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Head phantoms in large voxels: 6 for training, 2 for validation, 2 for testing."""
    return write_head_phantoms(tmp_path_factory.mktemp("heads") / "heads", 10, size=(30, 34, 28), spacing=(6, 6, 7))


@pytest.fixture(scope="session")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Brains with lesions in large voxels: 6 for training, 2 for validation, 2 for testing."""
    folder = tmp_path_factory.mktemp("lesions") / "lesions"
    return write_lesion_phantoms(folder, 10, size=(24, 28, 24), spacing=(7, 7, 7), lesions=5, fraction=0.01, contrast=1)


@pytest.fixture(scope="session")
def skull_bundle(request: pytest.FixtureRequest, bundles_dir: Path) -> Iterator[Path]:
    """A bundle for volumes; its folder is on Python's path, as MONAI puts it there when a bundle runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(bundles_dir / request.param)
        yield bundles_dir / request.param


@pytest.fixture(scope="session")
def skull_values(skull_bundle: Path, heads: Path, lesions: Path) -> dict[str, Any]:
    """What makes a run of the bundle small."""
    small = yaml.safe_load(SMALL[skull_bundle.name])
    return {
        "dataset_dir": str(lesions if skull_bundle.name == LESIONS else heads),
        **small,
        "epochs": 1,
        "batch_size": 2,
        "val_interval": 1,
    }


@pytest.fixture(scope="session")
def skull_workflow(skull_bundle: Path, skull_values: dict[str, Any]) -> Workflow:
    """Make a small workflow of the bundle from names of its configs and overrides."""

    def make(*configs: str, **overrides: Any) -> ConfigWorkflow:
        return make_workflow(skull_bundle, configs, skull_values | overrides)

    return make


@pytest.fixture(scope="session")
def run_skull(skull_workflow: Workflow) -> Workflow:
    """Run such a workflow to its end."""

    def run(*configs: str, **overrides: Any) -> ConfigWorkflow:
        return run_to_the_end(skull_workflow(*configs, **overrides))

    return run


@pytest.fixture(scope="session")
def trained_skull(run_skull: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "skull"
    run_skull("train", output_dir=str(folder), epochs=2)
    return folder


def _infer(bundle: Path, values: dict[str, Any]) -> None:
    config = str(bundle / "configs" / "inference.yaml")
    made = ConfigWorkflow(config, workflow_type="infer", logging_file=False, bundle_root=str(bundle), **values)
    made.initialize()
    run_or_raise_the_cause(made)


def run_or_raise_the_cause(made: ConfigWorkflow) -> None:
    try:
        made.run()
    except RuntimeError as error:  # MONAI wraps what the bundle's own steps raise
        if str(error).startswith("Failed to evaluate") and isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


@pytest.fixture
def infer_skull(skull_bundle: Path, tmp_path: Path) -> Callable[..., None]:
    """Run the bundle's inference from `in` to `out` with a network that calls bright voxels brain."""
    dims = 2 if skull_bundle.name.endswith("2d") else 3
    bright = getattr(torch.nn, f"Conv{dims}d")(1, 1, 1)
    with torch.no_grad():
        bright.weight.fill_(40)
        bright.bias.fill_(-20)
    torch.save(bright.state_dict(), tmp_path / "bright.pt")
    (tmp_path / "in").mkdir(exist_ok=True)

    def run(**overrides: Any) -> None:
        values = {
            "input_dir": str(tmp_path / "in"),
            "output_dir": str(tmp_path / "out"),
            "checkpoint": str(tmp_path / "bright.pt"),
            "network_def": f"$torch.nn.Conv{dims}d(1, 1, 1)",
            "spacing": [4, 4, -1] if dims == 2 else [4, 4, 4],
        }
        _infer(skull_bundle, values | overrides)

    return run


@pytest.fixture
def infer_skin(bundle: Path, tmp_path: Path) -> Callable[..., None]:
    """Run the bundle's inference from `in` to `out` with a network that calls dark pixels lesion."""
    (tmp_path / "in").mkdir(exist_ok=True)  # where infer_skull may have made it
    torch.save({"weight": torch.full((1, 3, 1, 1), -10.0), "bias": torch.tensor([15.0])}, tmp_path / "dark.pt")

    def run(**overrides: Any) -> None:
        values = {
            "input_dir": str(tmp_path / "in"),
            "output_dir": str(tmp_path / "out"),
            "checkpoint": str(tmp_path / "dark.pt"),
            "network_def": "$torch.nn.Conv2d(3, 1, 1)",
        }
        _infer(bundle, values | overrides)

    return run
