"""What the settings of real trainings cost: masks, ignored and partial labels, half precision, other memory layouts.

    python benchmarks/settings.py --threads 1

times value and gradient of some losses in each setting, in turn with torch's cross-entropy (binary for one class) of
float32 logits without a mask, and counts the memory taken beyond input and target. MONAI's losses, and those of exacta
where it is installed, stand beside them where they know the setting. It writes a table for each size, number of threads
and processor (``settings.md``) and the numbers (``settings.json``) into the output folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import monai.losses
import torch
from costs.cases import Case
from costs.contestants import step
from costs.machine import environment
from costs.meters import allocated, interleaved
from costs.tables import machine, table
from torch import Tensor

from monai_lossext.files import replace_file
from monai_lossext.losses import (
    ComboLoss,
    DiceCrossEntropyLoss,
    FocalCrossEntropyLoss,
    MatthewsCorrelationLoss,
    SoftDiceLoss,
)
from monai_lossext.losses.paths import plain_path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "benchmarks" / "results"
OUTPUT_OF_QUICK = ROOT / "build" / "bench"
OURS = (SoftDiceLoss, MatthewsCorrelationLoss, DiceCrossEntropyLoss, ComboLoss, FocalCrossEntropyLoss)
SIZES = ("1x4x128^3", "1x1x128^3", "1x2x128^3", "1x14x128^3")
IGNORED = 255
TORCH = "cross-entropy"
ABSENT = "–"
SETTINGS = (
    "plain",
    "bool mask",
    "weights",
    "10 % ignored",
    "partial labels",
    "bfloat16",
    "float16",
    "float64",
    "channels-last",
    "crop",
    "compiled",
    "without kernels",
    "without kernels, bool mask",
    "without kernels, 10 % ignored",
)
OF_THE_PLAIN_FORM = ("plain", *(setting for setting in SETTINGS if "without kernels" in setting))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=Case.parse, metavar="SIZE", help=f"default: {' '.join(SIZES)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a small size and two turns: a look, not a measurement")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, metavar="SETTING", help="default: all for 1x4x128^3")
    parser.add_argument("--output", type=Path, help="folder; default: benchmarks/results, with --quick build/bench")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.settings, options.repeats = [Case.parse("1x4x32^3")], SETTINGS, 2
    options.output = options.output or (OUTPUT_OF_QUICK if options.quick else OUTPUT)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    file = options.output / "settings.json"
    for size in options.sizes or map(Case.parse, SIZES):
        results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        measured_with = environment()
        processor = f"{measured_with['cpu']} ({measured_with['instructions']})"
        title = f"{size}, {options.threads} thread(s), {processor}"
        result = results.get(title)
        if result is None or result["environment"] != measured_with:  # as of other code
            result = {"environment": measured_with, "rows": {}}
        results[title] = result
        for setting in options.settings or (SETTINGS if str(size) == SIZES[0] else OF_THE_PLAIN_FORM):
            row = result["rows"][setting] = measured(setting, size, options.repeats)
            print(size, setting, *(f"{name} {shown(cost)}" for name, cost in row.items()), sep="; ", flush=True)
        replace_file(file, json.dumps(results, indent=1) + "\n")
        replace_file(file.with_suffix(".md"), page(results))


def measured(setting: str, case: Case, repeats: int) -> dict[str, tuple[float, float]]:
    """Return the time of each loss in cross-entropies, the least of the turns, and its memory in logits."""
    logits, label = case.tensors()
    binary = case.classes == 1
    torch_s = torch.nn.BCEWithLogitsLoss() if binary else torch.nn.CrossEntropyLoss()
    calls = {TORCH: step(torch_s, logits, label if binary else label[:, 0])}
    for name, loss, arguments in contestants(setting, case, logits, label):
        calls[name] = step(loss, *arguments)
    seconds = {name: min(turns) for name, turns in interleaved(calls, repeats).items()}
    unit = case.elements * (8 if setting == "float64" else 2 if "float16" in setting else 4)
    return {name: (seconds[name] / seconds[TORCH], allocated(calls[name]) / unit) for name in calls if name != TORCH}


def contestants(setting: str, case: Case, logits: Tensor, label: Tensor) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yield names, losses and what they are called with in a setting."""
    options: dict[str, Any] = {"sigmoid": True} if case.classes == 1 else {"softmax": True, "to_onehot_y": True}
    theirs = dict(options)
    random = torch.Generator().manual_seed(1)
    weight = torch.rand(label.shape, generator=random)
    target: Any = label
    others: tuple[Any, ...] = ()
    if "mask" in setting:
        others = (weight > 0.1,)
    elif setting == "weights":
        others = (weight,)
    elif "ignored" in setting:
        target = label.masked_fill(weight < 0.1, IGNORED)
        options["ignore_index"] = IGNORED
    elif setting == "partial labels":  # of three classes or more
        annotated = torch.ones(case.batch, case.classes, dtype=torch.bool)
        annotated[:, -1] = False
        target = {"label": label.clamp(max=case.classes - 2), "classes": annotated}
    logits = laid_out(setting, logits)
    for cls in OURS:
        loss = cls(**options)
        way = torch.compile if setting == "compiled" else in_torchs_operations if "without" in setting else None
        yield cls.__name__, loss if way is None else way(loss), (logits, target, *others)
    if others:
        yield "MONAI MaskedDiceLoss", monai.losses.MaskedDiceLoss(**theirs), (logits, label, others[0].float())
    elif target is label:
        for name in ("DiceLoss", "DiceCELoss"):
            loss = getattr(monai.losses, name)(**theirs)
            yield f"MONAI {name}", torch.compile(loss) if setting == "compiled" else loss, (logits, label)
    if find_spec("exacta") is None or case.classes == 1 or setting in ("weights", "partial labels", "compiled"):
        return
    import exacta.losses

    loss = exacta.losses.DiceLoss(ignore_index=options.get("ignore_index"))
    mask = {"mask": others[0]} if others else {}
    yield "exacta DiceLoss", partial(loss, **mask), (logits, target[:, 0])


def laid_out(setting: str, logits: Tensor) -> Tensor:
    """Return the logits in the type and layout of a setting."""
    logits = logits.detach()
    if setting in ("bfloat16", "float16", "float64"):
        logits = logits.to(getattr(torch, setting))
    elif setting == "channels-last":
        logits = logits.contiguous(memory_format=torch.channels_last_3d if logits.ndim == 5 else torch.channels_last)
    elif setting == "crop":
        wider = torch.zeros(*logits.shape[:2], *(n + 16 for n in logits.shape[2:]))
        inner = (..., *(slice(8, 8 + n) for n in logits.shape[2:]))
        wider[inner] = logits
        logits = wider[inner]
    return logits.requires_grad_()


def in_torchs_operations(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a loss that takes the plain form."""

    def plain(*arguments: Any) -> Tensor:
        with plain_path():
            return loss(*arguments)

    return plain


def shown(cost: tuple[float, float] | None) -> str:
    """Return time and memory as a cell."""
    return ABSENT if cost is None else f"{cost[0]:.2f} ({cost[1]:.1f})"


def page(results: dict[str, Any]) -> str:
    """Return a table for each size and number of threads."""
    parts = ["# What settings cost", "Written by `python benchmarks/settings.py`."]
    for title, result in results.items():
        rows = result["rows"]
        names = list(dict.fromkeys(name for row in rows.values() for name in row))
        lines = ([setting, *(shown(row.get(name)) for name in names)] for setting, row in rows.items())
        measured_with = machine(result["environment"])
        parts += [f"## {title}", measured_with, table(["", *names], lines)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
