"""Compile the kernels for GPUs that are not there: ``python -m tests.losses.engine.triton.compiled cuda 90``.

Prints a line for each kernel. Raises what the compiler or the assembler does not take, and if registers
do not suffice.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from monai_lossext.losses import LogCoshDiceLoss, MatthewsCorrelationLoss, PenaltyGeneralizedDiceLoss, SoftTverskyLoss
from monai_lossext.losses.base import Sums
from monai_lossext.losses.engine import arithmetic
from monai_lossext.losses.engine.cuda import kernels, walk
from monai_lossext.losses.engine.plain import Wanted
from monai_lossext.losses.engine.reading import Rules
from monai_lossext.losses.paths import as_on_accelerator

DICE = Wanted(counts=True)
F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32
# rules, what is wanted, types of input, target and weights
CALLS: list[tuple[Rules, Wanted, torch.dtype, torch.dtype, torch.dtype | None]] = [
    (Rules(True, 4, None, "softmax"), Wanted(True, likelihood="cross_entropy"), F32, torch.uint8, None),
    (Rules(True, 2, 255, "softmax"), Wanted(True, further="negatives"), BF16, torch.int64, torch.bool),
    (Rules(False, 14, 2, "softmax"), Wanted(True, False, None, "focal", 2.5), F16, F32, F32),
    (Rules(True, 256, None, "softmax"), Wanted(True, True, "squares"), F32, torch.int16, None),
    (Rules(False, 3, -1, "sigmoid"), Wanted(True, False, None, "focal", 2.0), F32, torch.float64, BF16),
    (Rules(False, 3, None, None), Wanted(True, True, "errors", "power", 0.3), F32, F16, F32),
    (Rules(False, 1, None, None), Wanted(likelihood="hinge"), F32, torch.bool, None),
]
LOSSES = (LogCoshDiceLoss, MatthewsCorrelationLoss, PenaltyGeneralizedDiceLoss, SoftTverskyLoss)


class Absent:
    """A driver of a GPU that is not there."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_only(name: str, like: torch.Tensor, programs: int, /, *args: Any, **named: Any) -> bool:
    """Stand in for :func:`kernels.launch`."""
    kernel = getattr(walk, name).warmup(*args, grid=(programs,), **named, enable_fp_fusion=True)
    binary = "cubin" if "cubin" in kernel.asm else "hsaco"
    assert kernel.asm[binary]
    spilt = spills(kernel) if binary == "cubin" else "not looked at"
    print(f"{name}: {len(kernel.asm[binary])} bytes of {binary}, {spilt} registers spilt", flush=True)
    assert spilt in (0, "not looked at"), {key: x for key, x in named.items() if key.isupper()}
    return True


def spills(kernel: Any) -> int:
    """Return how many bytes of registers do not fit, as NVIDIA's assembler tells."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    newest = next(tool for tool in (tools / "ptxas-blackwell", tools / "ptxas") if tool.exists())
    arch = re.search(r"\.target (\w+)", kernel.asm["ptx"])
    assert arch
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(kernel.asm["ptx"])
        told = subprocess.run(
            [newest, "-v", f"--gpu-name={arch[1]}", source, "-o", source.with_suffix(".cubin")],
            capture_output=True,
            text=True,
            check=True,
        )
    return sum(map(int, re.findall(r"(\d+) bytes spill stores", told.stderr)))


def main() -> None:
    """Compile all kernels for the GPU that the command names."""
    backend, arch = sys.argv[1:]
    target = GPUTarget(backend, int(arch), 32) if backend == "cuda" else GPUTarget(backend, arch, 64)
    warnings.simplefilter("error")
    driver.set_active(Absent(target))
    kernels.launch = compile_only
    kernels.checks.send = lambda *_: None  # nothing was found
    for rules, wanted, of_input, of_target, of_mask in CALLS:
        channels, space = rules.channels, (24, 16, 16)
        x = torch.zeros(2, channels, *space, dtype=of_input)
        target = torch.zeros(2, 1 if rules.labels else channels, *space, dtype=of_target)
        mask = None if of_mask is None else torch.zeros(2, channels, *space, dtype=of_mask)
        classes = torch.ones(2, channels, dtype=torch.bool) if rules.activation == "softmax" and channels > 4 else None
        data = x, target, mask, classes
        found = kernels.sums(rules, wanted, *data, True)
        assert found is not None
        kernels.gradient(rules, wanted, found[0], *data, found[1])
        if wanted.likelihood:
            factor = torch.ones(2, channels)
            kernels.values(rules, wanted, rules.activation == "softmax", factor, factor, *data, True)
    for cls in LOSSES:
        loss = cls(softmax=True, to_onehot_y=True, include_background=False, weight=[1.0, 2.0, 3.0])
        reading = loss.read(torch.zeros(2, 4, 3), torch.zeros(2, 1, 3))
        sums = torch.zeros(kernels.KINDS, 2, 4, dtype=torch.float64)
        with as_on_accelerator():
            noted = arithmetic.noted(lambda rows, of=loss.of_sums, reading=reading: of(Sums(rows), reading), sums)
        assert noted is not None
        kernels.compute(noted[0], sums, noted[1], True)
    turned = torch.zeros(2, 16, 24, 4, 16).transpose(2, 3)  # whose voxels are not one stride apart
    kernels.sums(Rules(True, 16, None, "softmax"), DICE, turned, turned[:, :1].to(torch.uint8), None, None, True)


if __name__ == "__main__":
    main()
