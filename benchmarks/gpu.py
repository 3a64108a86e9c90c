"""What the losses cost on a GPU, and whether its kernels are right.

    python benchmarks/gpu.py

holds every loss that Triton's kernels compute against float64, then times value and gradient: ours,
MONAI's as it is and under ``torch.compile``, nnU-Net's under ``torch.compile`` and exacta's, as far as they are
installed, beside a copy on the device of the bytes that must move (logits and labels in, twice, and the gradient out).
Times are medians by device events, over several inputs in turn, so that the cache does not help; memory is what exists
at the peak beyond what existed before. It writes ``gpu.md`` and ``gpu.json`` into the output folder and takes less than
ten minutes: what is left of the tables then is named and not measured.

``--quick`` looks at tiny sizes. Where there is no GPU it does so in Triton's interpreter, on the CPU: that shows that
all of this runs, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from costs.cases import Case
from torch import Tensor

ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # which Triton asks for when it is imported

from costs.machine import code, installed  # noqa: E402

from monai_lossext.files import replace_file  # noqa: E402
from monai_lossext.losses import catalogue, paths  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ("torch", "triton", "monai", "nnunetv2", "exacta", "monai_lossext")
SIZES = ("1x1x128^3", "1x2x128^3", "1x4x128^3", "1x14x128^3", "2x4x192^3", "40x1x128^2")
QUICK_SIZES = ("1x1x6^3", "1x3x6^3")
DTYPES = (torch.float32, torch.bfloat16)
LOSSES = (
    "SoftDiceLoss",
    "MatthewsCorrelationLoss",
    "FocalCrossEntropyLoss",
    "DiceCrossEntropyLoss",
    "LovaszSoftmaxLoss",
    "BoundaryDistanceLoss",
    "HausdorffDistanceLoss",
)
MEASURES_DISTANCES = ("HausdorffDistanceLoss",)  # in each step, on the CPU
WITHOUT_KERNELS = ("HausdorffERLoss", "HausdorffCVLoss")  # made of torch's convolutions alone
COPY, OURS = "copy of the bytes", "ours"
SECONDS = 540.0  # after which nothing new is begun
WARM_UP, REPEATS = 3, 20
OF_INPUTS = 2**29  # bytes of inputs that are taken in turn, more than any cache holds
NO_MEASUREMENT = "NOT A MEASUREMENT: there is no GPU here, and Triton's interpreter has run on the CPU."
Call = Callable[[int], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=Case.parse, default=[Case.parse(size) for size in SIZES])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES, metavar="LOSS")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a look, and no measurement")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench", help="folder; default: build/bench")
    options = parser.parse_args()
    if not (ON_GPU or options.quick):
        parser.error("there is no GPU that torch can use; --quick runs everything in Triton's interpreter.")
    sizes = [Case.parse(size) for size in QUICK_SIZES] if options.quick else options.sizes
    start = time.perf_counter()
    results: dict[str, Any] = {"environment": environment(), "checks": {}, "rows": [], "left out": []}
    if options.quick:
        results["measurement"] = "tiny sizes: a look and no measurement" if ON_GPU else NO_MEASUREMENT
        print(results["measurement"], flush=True)
    with way():
        for name, error in checked(options.losses if options.quick else None):
            results["checks"][name] = error
            print(f"{name}: differs from float64 by {error:.1e} of the largest gradient", flush=True)
        for case, dtype, name in ((c, d, n) for c in sizes for d in DTYPES for n in options.losses):
            label = f"{name}, {case}, {str(dtype).removeprefix('torch.')}"
            if name == "LovaszSoftmaxLoss" and case.classes == 1:
                continue
            if time.perf_counter() - start > SECONDS:
                results["left out"].append(label)
                continue
            row = {"loss": name, "size": str(case), "dtype": str(dtype).removeprefix("torch.")}
            row["contestants"] = measured(name, case, dtype)
            results["rows"].append(row)
            print(label, *(f"{who} {shown(cost)}" for who, cost in row["contestants"].items()), sep="; ", flush=True)
        results["training step"] = training_step(options.quick)
        results["launches"] = {name: launches(name, sizes[-1]) for name in LOSSES[:4]} if ON_GPU else {}
    options.output.mkdir(parents=True, exist_ok=True)
    replace_file(options.output / "gpu.json", json.dumps(results, indent=1) + "\n")
    replace_file(options.output / "gpu.md", page(results))
    print(f"{options.output / 'gpu.md'} after {time.perf_counter() - start:.0f} s")
    wrong = [name for name, error in results["checks"].items() if not error < 1e-5]
    if wrong:
        sys.exit(f"differ from float64: {', '.join(wrong)}")


def way() -> AbstractContextManager[None]:
    """Return the block that asks for Triton's kernels, and lets nothing else take their place."""
    return paths.triton_path()


def environment() -> dict[str, Any]:
    """Return what must be the same for numbers to stand in one table."""
    found: dict[str, Any] = {"device": "no GPU", "python": platform.python_version()}
    if ON_GPU:
        told = torch.cuda.get_device_properties(0)
        found |= {
            "device": told.name,
            "memory": f"{told.total_memory / 2**30:.0f} GiB",
            "multiprocessors": told.multi_processor_count,
            "runtime": f"CUDA {torch.version.cuda}" if torch.version.hip is None else f"ROCm {torch.version.hip}",
        }
    return found | {"versions": {name: installed(name) for name in VERSIONS}, "code": code()}


def device() -> torch.device:
    return torch.device("cuda" if ON_GPU else "cpu")


# ---------------------------------------------------------------------------------------------------------- what is run


def inputs(case: Case, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return logits that need a gradient, and labels, both on the device."""
    generator = torch.Generator(device()).manual_seed(seed)
    shape = (case.batch, case.classes, *[case.side] * case.dims)
    logits = torch.randn(shape, generator=generator, device=device(), dtype=torch.float32).to(dtype)
    label = torch.randint(0, max(2, case.classes), (case.batch, 1, *shape[2:]), generator=generator, device=device())
    return logits.requires_grad_(), label.to(torch.uint8)


def reading(case: Case) -> dict[str, Any]:
    return {"sigmoid": True} if case.classes == 1 else {"softmax": True, "to_onehot_y": True}


def own(name: str, case: Case) -> Any:
    """Return a loss of the catalogue with its default arguments."""
    (entry,) = (entry for entry in catalogue() if entry.name == name)
    options = reading(case) if entry.activation else {"to_onehot_y": True} if case.classes > 1 else {}
    return entry.cls(**options)


def checked(few: Sequence[str] | None) -> Iterator[tuple[str, float]]:
    """Yield, for each loss and one class or three, by how much the gradient of float32 differs from that of float64.

    Args:
        few: the only losses, for a look; None: all that kernels compute.
    """
    names = few or [entry.name for entry in catalogue() if entry.name not in WITHOUT_KERNELS]
    for name in names:
        for classes in (1, 3):
            if name == "LovaszSoftmaxLoss" and classes == 1:
                continue
            case = Case(2, classes, 5 if few else 33, 3)
            logits, label = inputs(case, torch.float32)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loss = own(name, case)
                (found,) = torch.autograd.grad(loss(logits, label), logits)
                exact = logits.detach().double().requires_grad_()
                (expected,) = torch.autograd.grad(loss(exact, label), exact)
            error = (found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
            yield f"{name}, {classes} class(es)", error.item()


def contestants(name: str, case: Case, label: Tensor) -> Iterator[tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
    """Yield who computes a loss or the nearest to it, by name."""
    loss = own(name, case)
    if name == "BoundaryDistanceLoss":
        shape = (case.batch, case.classes, *label.shape[2:])
        distances = torch.randn(shape, device=label.device)
        yield OURS, lambda logits, label: loss(logits, {"label": label, "distance_map": distances})
    else:
        yield OURS, loss
    if find_spec("monai.losses"):
        import monai.losses

        theirs = {
            "SoftDiceLoss": ("DiceLoss", reading(case)),
            "MatthewsCorrelationLoss": ("MCCLoss", reading(case)),
            "DiceCrossEntropyLoss": ("DiceCELoss", reading(case)),
            "FocalCrossEntropyLoss": (
                "FocalLoss",
                {"use_softmax": case.classes > 1, "to_onehot_y": case.classes > 1},
            ),
            "HausdorffDistanceLoss": ("HausdorffDTLoss", {**reading(case), "include_background": True}),
        }.get(name)
        if theirs and hasattr(monai.losses, theirs[0]):
            found = getattr(monai.losses, theirs[0])(**theirs[1])
            yield f"MONAI {theirs[0]}", found
            if ON_GPU and name not in MEASURES_DISTANCES:
                yield f"MONAI {theirs[0]}, compiled", torch.compile(found, dynamic=False)
    if name in ("SoftDiceLoss", "DiceCrossEntropyLoss") and find_spec("nnunetv2"):
        yield f"nnU-Net's of {name}, compiled", torch.compile(nnunet(name, case), dynamic=False)
    if name == "SoftDiceLoss" and case.classes > 1 and find_spec("exacta"):
        import exacta.losses

        theirs_too = exacta.losses.DiceLoss()
        yield "exacta DiceLoss", lambda logits, label: theirs_too(logits, label[:, 0].long())


def nnunet(name: str, case: Case) -> Any:
    """Return nnU-Net's Dice loss, or its Dice and cross-entropy."""
    from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    from nnunetv2.utilities.helpers import softmax_helper_dim1

    if name == "SoftDiceLoss":
        return MemoryEfficientSoftDiceLoss(torch.sigmoid if case.classes == 1 else softmax_helper_dim1, ddp=False)
    if case.classes == 1:
        return DC_and_BCE_loss({}, {"ddp": False}, dice_class=MemoryEfficientSoftDiceLoss)
    return DC_and_CE_loss({"ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)


# -------------------------------------------------------------------------------------------------------------- meters


def measured(name: str, case: Case, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Return milliseconds, and memory in logits, of a copy and of all contestants."""
    size = case.elements * dtype.itemsize
    moved = 3 * size + 2 * case.voxels  # logits and labels of one byte twice, the gradient
    sets = [inputs(case, dtype, seed) for seed in range(max(2, min(8, OF_INPUTS // moved)))]
    found = {COPY: {"ms": copying(moved, len(sets))}}
    for who, loss in contestants(name, case, sets[0][1]):

        def call(turn: int, loss: Any = loss) -> Tensor:
            logits, label = sets[turn % len(sets)]
            (gradient,) = torch.autograd.grad(loss(logits, label), logits)
            return gradient

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[who] = {"ms": milliseconds(call), "logits": peak(call) / size}
        except Exception as error:  # of others: a type or a size that they do not know, or no memory for it
            if who == OURS:
                raise
            print(f"{who}: {error!r}"[:300], flush=True)
    return found


def copying(moved: int, sets: int) -> float:
    """Return the milliseconds of a copy on the device that reads and writes so many bytes in all."""
    pairs = [torch.empty(2, moved // 2, dtype=torch.uint8, device=device()) for _ in range(sets)]
    return milliseconds(lambda turn: pairs[turn % sets][1].copy_(pairs[turn % sets][0]))


def milliseconds(call: Call) -> float:
    """Return the median of the device's time for a call."""
    repeats, warm_up = (REPEATS, WARM_UP) if ON_GPU else (1, 0)
    for turn in range(warm_up):
        call(turn)
    if not ON_GPU:
        start = time.perf_counter()
        call(0)
        return 1e3 * (time.perf_counter() - start)
    events = []
    for turn in range(repeats):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        call(turn)
        after.record()
        events.append((before, after))
    torch.cuda.synchronize()
    return statistics.median(before.elapsed_time(after) for before, after in events)


def peak(call: Call) -> float:
    """Return the bytes that exist at the peak of a call beyond those before, NaN where nobody counts."""
    if not ON_GPU:
        return float("nan")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = call(0)
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def launches(name: str, case: Case) -> int:
    """Return how many kernels a step of a loss starts on the device."""
    loss, (logits, label) = own(name, case), inputs(case, torch.float32)
    loss(logits, label).backward()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        loss(logits, label).backward()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def training_step(quick: bool) -> dict[str, Any]:
    """Return milliseconds of a training step of the bundle's 3D U-Net with our Dice loss, and of the loss in it."""
    from monai.bundle import ConfigParser

    folder = ROOT / "bundles" / "skull_stripping_3d"
    sys.path.insert(0, str(folder))  # for what the configuration imports
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.yaml"))
    parser["bundle_root"] = str(folder)
    network = parser.get_parsed_content("network_def").to(device())
    side = 32 if quick else max(parser.get_parsed_content("patch_size"))
    case = Case(1, 1, side, 3)
    _, label = inputs(case, torch.float32)
    image = torch.randn(1, 1, side, side, side, device=device())
    optimizer, loss = torch.optim.Adam(network.parameters()), own("SoftDiceLoss", case)
    logits = network(image).detach().requires_grad_()

    def whole(_: int) -> None:
        optimizer.zero_grad()
        loss(network(image), label).backward()
        optimizer.step()

    told = {"size": str(case), "step ms": milliseconds(whole)}
    return told | {"loss ms": milliseconds(lambda _: torch.autograd.grad(loss(logits, label), logits))}


# ---------------------------------------------------------------------------------------------------------------- page


def shown(cost: dict[str, float]) -> str:
    memory = f", {cost['logits']:.2f} logits" if "logits" in cost and cost["logits"] == cost["logits"] else ""
    return f"{cost['ms']:.3f} ms{memory}"


def page(results: dict[str, Any]) -> str:
    """Return the tables as Markdown."""
    told = results["environment"]
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items() if number)
    lines = ["# The losses on a GPU", ""]
    lines += [f"**{results['measurement']}**", ""] if "measurement" in results else []
    lines += [f"{told['device']}; {versions}; Python {told['python']}; code {told['code']}", ""]
    lines += ["Milliseconds of value and gradient, times of the copy, and memory beyond the inputs in logits.", ""]
    for row in results["rows"]:
        copy = row["contestants"][COPY]["ms"]
        lines += [
            f"## {row['loss']}, {row['size']}, {row['dtype']}",
            "",
            "| | ms | copies | logits |",
            "|---|---|---|---|",
        ]
        for who, cost in row["contestants"].items():
            memory = f"{cost['logits']:.2f}" if "logits" in cost else ""
            lines.append(f"| {who} | {cost['ms']:.3f} | {cost['ms'] / copy:.2f} | {memory} |")
        lines.append("")
    step = results["training step"]
    share = step["loss ms"] / step["step ms"]
    lines += ["## A training step of the 3D U-Net", "", f"{step['size']}: {step['step ms']:.2f} ms, of which the loss"]
    lines += [f"{step['loss ms']:.2f} ms ({share:.1%}).", "", "## Against float64", "", "| loss | error |", "|---|---|"]
    lines += [f"| {name} | {error:.1e} |" for name, error in results["checks"].items()]
    if results["launches"]:
        lines += ["", "Launches a step: " + ", ".join(f"{name} {n}" for name, n in results["launches"].items()) + "."]
    if results["left out"]:
        lines += ["", "Not measured, for want of time: " + "; ".join(results["left out"]) + "."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
