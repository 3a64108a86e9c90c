"""What numbers were measured with."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import monai_lossext.losses

VERSIONS = ("torch", "monai", "kornia", "nnunetv2", "exacta", "numpy", "scipy", "SimpleITK", "monai_lossext")


def environment() -> dict[str, Any]:
    """Return what must be the same for numbers to stand in one table: machine, versions, threads and code."""
    import psutil  # which a machine with a GPU may lack

    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.system(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {package: installed(package) for package in VERSIONS},
        "code": code(),
    }


def code() -> str:
    """Return a digest of the code of the losses."""
    digest = hashlib.sha256()
    for file in sorted(Path(monai_lossext.losses.__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
