"""Checkpoints are data: nothing in the package or its bundles loads one in a way that could run code."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointLoader

ROOT = Path(__file__).resolve().parents[1]
LOADS = re.compile(r"torch\.load\(|pickle\.load|torch\.jit\.load")


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_every_checkpoint_is_loaded_with_weights_only() -> None:
    files = [file for name in ("monai_lossext", "bundles", "benchmarks") for file in (ROOT / name).rglob("*")]
    sources = [file for file in files if file.suffix in (".py", ".yaml", ".json") and file.is_file()]
    lines = [line for file in sources for line in file.read_text(encoding="utf-8").splitlines()]
    loads = [line for line in lines if LOADS.search(line)]
    assert len(loads) >= 4
    assert all("weights_only=True" in line for line in loads), loads


def test_inference_refuses_a_checkpoint_with_code(tmp_path: Path) -> None:
    """With MONAI's loader, which the bundles' inference uses."""
    proof = tmp_path / "proof"
    torch.save({"network": Malicious(proof)}, tmp_path / "model.pt")
    network = torch.nn.Linear(1, 1)
    engine = Engine(lambda *_: None)
    CheckpointLoader(str(tmp_path / "model.pt"), {"network": network}, map_location="cpu").attach(engine)
    with pytest.raises(pickle.UnpicklingError):
        engine.run([0])
    assert not proof.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)  # the file is as dangerous as it should be
    assert proof.exists()
