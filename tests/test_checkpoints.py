"""Checkpoints are data: nothing in the package or its bundles loads one in a way that could run code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_checkpoint_is_loaded_with_weights_only() -> None:
    files = [file for name in ("monai_lossext", "bundles", "benchmarks") for file in (ROOT / name).rglob("*")]
    sources = [file for file in files if file.suffix in (".py", ".yaml", ".json") and file.is_file()]
    loads = [
        (file.name, line)
        for file in sources
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"torch\.load\(|CheckpointLoader|pickle\.load|torch\.jit\.load", line)
        and not line.lstrip().startswith("`")
    ]
    assert len(loads) >= 4
    assert all("weights_only=True" in line for _, line in loads), loads
