"""What every loss costs beside torch's cross-entropy and its counterparts in MONAI, kornia and nnU-Net.

    python benchmarks/losses.py

measures the time of value and gradient, and the memory taken beyond input and target, of each loss in turn with the
others in the same process. It writes ``losses.json``, tables (``losses.md``) and figures into the output folder. A run
that was killed continues where it was when it is started again; what other code, versions or another machine measured
is measured anew.

    python benchmarks/losses.py --quick
    python benchmarks/losses.py --losses SoftDiceLoss --sizes 1x4x128^3 40x1x128^2
    python benchmarks/losses.py --compile --losses SoftDiceLoss --sizes 1x1x128^3
    python benchmarks/losses.py --training-step

A size is batch x classes x side^dims; one class means a sigmoid, several a softmax.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from costs import figures, scaling, tables
from costs.cases import Case
from costs.contestants import TORCH, contestants, step
from costs.machine import environment
from costs.meters import Call, allocated, fastest, interleaved, resident
from costs.training_step import training_step

from monai_lossext.files import replace_file
from monai_lossext.losses import catalogue

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "figures"  # where the documentation shows those of the default output
OUTPUT_OF_QUICK = ROOT / "build" / "bench"
NAMES = [entry.name for entry in sorted(catalogue(), key=lambda entry: entry.family != "region")]
# What the goals speak of comes first.
EVERY_LOSS = ["1x4x128^3", "1x2x128^3", "1x14x128^3", "1x1x128^3", "40x1x128^2"]
EVERY_LOSS_LATER = [f"1x{classes}x{side}^3" for side in (64, 192) for classes in (1, 2, 4, 14)]
QUICK = ["1x1x32^3", "1x2x32^3", "1x4x32^3", "4x1x32^2"]
LONGEST = 15.0  # seconds of one call: what is foreseen to take longer is left out


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "losses.json"
    results = previous(file, environment())
    work = [(size, name) for size, name in planned(options) if options.fresh or f"{size} {name}" not in results["rows"]]
    for number, (size, name) in enumerate(work, 1):
        row = results["rows"][f"{size} {name}"] = measured(size, name, options.repeats, options.compile)
        save(file, results)
        print(f"{number}/{len(work)} {size} {name}: {tables.summary(row)}", flush=True)
    whole = not (options.losses or options.sizes)
    if options.training_step or (whole and (options.fresh or "training_step" not in results)):
        results["training_step"] = training_step(Case(1, 2, 32 if options.quick else 96, 3), options.repeats)
        save(file, results)
    folder = FIGURES if options.output == OUTPUT else options.output
    for name, content in figures.drawn(results["rows"]).items():
        replace_file(folder / f"{name}.png", content)
    print(file.with_suffix(".md"))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--losses", nargs="+", choices=NAMES, metavar="LOSS", help="these alone; default: all")
    parser.add_argument(
        "--sizes", nargs="+", type=lambda text: str(Case.parse(text)), help="such as 1x4x128^3 40x1x128^2"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few turns: a look, not a measurement")
    parser.add_argument("--output", type=Path, help="folder; default: benchmarks/results, with --quick build/bench")
    parser.add_argument("--repeats", type=int, help="turns of each comparison; default: 7, with --quick 2")
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    parser.add_argument("--fresh", action="store_true", help="measure anew what the output folder has already")
    parser.add_argument("--compile", action="store_true", help="measure also each loss under torch.compile")
    parser.add_argument("--training-step", action="store_true", help="measure only the loss's share of a training step")
    options = parser.parse_args(arguments)
    options.output = options.output or (OUTPUT_OF_QUICK if options.quick else OUTPUT)
    options.repeats = options.repeats or (2 if options.quick else 7)
    return options


def planned(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Yield sizes and losses in the order of the work, each pair once."""
    names = options.losses or NAMES
    some = [name for name in scaling.LOSSES if name in names]
    plan: list[tuple[Sequence[str], Sequence[str]]]
    if options.training_step:
        plan = []
    elif options.sizes or options.quick:
        plan = [(options.sizes or QUICK, names)]
    else:
        plan = [(EVERY_LOSS, names), (scaling.SIDES, some), (scaling.CLASSES, some), (EVERY_LOSS_LATER, names)]
    yield from dict.fromkeys((size, name) for sizes, chosen in plan for size in sizes for name in chosen)


def previous(file: Path, here: dict[str, Any]) -> dict[str, Any]:
    """Return the results to continue, or empty ones where there are none from the same environment."""
    if file.exists():
        results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        other = [name for name in here if results["environment"].get(name) != here[name]]
        if not other:
            return results
        print(f"{file} was measured with other {', '.join(other)}: measuring anew")
    return {"environment": here, "rows": {}}


def save(file: Path, results: dict[str, Any]) -> None:
    replace_file(file, json.dumps(results, indent=1) + "\n")
    replace_file(file.with_suffix(".md"), tables.page(results))


def measured(size: str, name: str, repeats: int, compiled: bool = False) -> dict[str, Any]:
    """Measure a loss and its counterparts at a size.

    Returns:
        ``seconds`` a turn, ``allocated`` and ``resident`` bytes of each contestant by name, and those that were
        ``left_out`` with the reason.
    """
    case = Case.parse(size)
    row: dict[str, Any] = {"size": size, "loss": name, "seconds": {}, "allocated": {}, "resident": {}, "left_out": {}}
    spared = psutil.virtual_memory().available - 5 * (case.logits_bytes + case.label_bytes)
    if spared < 0:
        row["left_out"][name] = f"{gibibytes(-spared)} of memory too little"
        return row
    logits, label = case.probe.tensors()
    for contestant, loss in contestants(name, case.probe, label, compiled).items():
        reason = too_much(step(loss, logits, label), case, spared)
        if reason:
            row["left_out"][contestant] = reason
    if row["left_out"].keys() & {TORCH, name}:
        return row
    logits, label = case.tensors()
    calls = {
        contestant: step(loss, logits, label)
        for contestant, loss in contestants(name, case, label, compiled).items()
        if contestant not in row["left_out"]
    }
    row["seconds"] = interleaved(calls, repeats)
    row["allocated"] = {contestant: allocated(call) for contestant, call in calls.items()}
    row["resident"] = {contestant: resident(call) for contestant, call in calls.items()}
    return row


def too_much(probe: Call, case: Case, available: int) -> str:
    """Return why a loss cannot be measured at a size, foreseen from its call in small, or nothing."""
    larger = case.logits_bytes / case.probe.logits_bytes
    memory = larger * allocated(probe)
    if memory > available:
        return f"takes about {gibibytes(memory)} of memory, {gibibytes(available)} there"
    seconds = larger * fastest(probe)
    return f"takes about {seconds:.0f} s a call" if seconds > LONGEST else ""


def gibibytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
