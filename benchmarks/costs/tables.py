"""The results in Markdown. Parts stand between marks, so that a page of the documentation can include them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from monai_lossext.losses import catalogue

from .cases import Case
from .contestants import TORCH
from .scaling import CLASSES, LOSSES, SIDES, power_law, series

Row = Mapping[str, Any]

GROUPS = {
    "128³": ["1x1x128^3", "1x2x128^3", "1x4x128^3", "1x14x128^3", "40x1x128^2"],
    "64³": ["1x1x64^3", "1x2x64^3", "1x4x64^3", "1x14x64^3"],
    "192³": ["1x1x192^3", "1x2x192^3", "1x4x192^3", "1x14x192^3"],
}
NOISE = 16 * 2**20  # bytes by which the resident set may grow for no reason of the call's
ABSENT = "–"


def page(results: Mapping[str, Any]) -> str:
    """Return all tables."""
    order = [entry.name for entry in catalogue()]
    rows = sorted(results["rows"].values(), key=lambda row: order.index(row["loss"]))
    grouped = {size for sizes in GROUPS.values() for size in sizes}
    grown = {(size, loss) for size in (*SIDES, *CLASSES) for loss in LOSSES}
    others = dict.fromkeys(
        row["size"] for row in rows if row["size"] not in grouped and (row["size"], row["loss"]) not in grown
    )
    parts = ["# What the losses cost", "Written by `python benchmarks/losses.py`.", environment(results["environment"])]
    for title, sizes in {**GROUPS, "Other sizes": [*others]}.items():
        chosen = [row for row in rows if row["size"] in sizes and row["seconds"]]
        measured = {row["size"] for row in chosen}
        if chosen:
            parts += [f"## {title}", *group(title, chosen, [size for size in sizes if size in measured])]
    for title, sizes in (("voxels", SIDES), ("classes", CLASSES)):
        if series(rows, sizes, "seconds"):
            parts += [f"## Growth with {title}", marked(f"growth with {title}", growth(rows, sizes))]
    if "training_step" in results:
        parts += ["## A training step", marked("training step", shares(results["training_step"]))]
    parts += ["## Left out", marked("left out", left_out(rows) or "Nothing.")]
    return "\n\n".join(parts) + "\n"


def marked(name: str, text: str) -> str:
    """Return a text between the marks by which it can be included."""
    return f"<!-- {name} -->\n\n{text}\n\n<!-- end of {name} -->"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def shown(size: str) -> str:
    """Return a size as people write it."""
    case = Case.parse(size)
    return f"{case.batch} × {case.classes} × {case.side}{'¹²³'[case.dims - 1]}"


def environment(here: Mapping[str, Any]) -> str:
    """Return what the numbers were measured with."""
    missing = "" if here["versions"]["nnunetv2"] else " nnU-Net was not installed: its columns are left out."
    return marked("environment", machine(here) + missing)


def machine(here: Mapping[str, Any]) -> str:
    """Return machine and versions in a sentence."""
    versions = ", ".join(f"{package} {number}" for package, number in here["versions"].items() if number)
    where = f"{here['cpu']} ({here['instructions']}), {here['cores']} cores, {here['memory']}, {here['system']}"
    return f"{where}; {here['threads']} thread(s), Python {here['python']}, {versions}."


def group(title: str, rows: Sequence[Row], sizes: Sequence[str]) -> Iterator[str]:
    """Yield the tables of some sizes side by side: time, memory, and both beside the counterparts."""
    head = ["Loss", *map(shown, sizes)]
    yield marked(f"time {title}", table(head, lines(rows, sizes, ours, relative_time)))
    yield marked(f"memory {title}", table(head, lines(rows, sizes, ours, relative_memory)))
    yield marked(f"counterparts {title}", table(head, lines(rows, sizes, theirs, advantage)))


def lines(
    rows: Sequence[Row],
    sizes: Sequence[str],
    chosen: Callable[[Row], list[str]],
    cell: Callable[[Row, str], str],
) -> list[list[str]]:
    """Return a line for each chosen contestant of each loss, with a cell for each size."""
    names = dict.fromkeys((row["loss"], contestant) for row in rows for contestant in chosen(row))
    by_size = {(row["loss"], row["size"]): row for row in rows}
    found = []
    for loss, contestant in names:
        cells = (by_size.get((loss, size)) for size in sizes)
        found.append(
            [
                line_name(loss, contestant),
                *(cell(row, contestant) if row and is_in(row, contestant) else ABSENT for row in cells),
            ]
        )
    return found


def is_in(row: Row, contestant: str) -> bool:
    """Return whether a contestant was measured beside the loss of its row."""
    return {contestant, row["loss"]} <= row["seconds"].keys()


def ours(row: Row) -> list[str]:
    """Return the names of this package's contestants."""
    return [contestant for contestant in row["seconds"] if contestant.startswith(row["loss"])]


def theirs(row: Row) -> list[str]:
    """Return the names of the counterparts."""
    return [contestant for contestant in row["seconds"] if contestant != TORCH and contestant not in ours(row)]


def number(value: float) -> str:
    """Return a ratio with two figures that mean something."""
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def turn_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the median of the ratios of times that were taken in the same turn."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def relative_time(row: Row, contestant: str) -> str:
    """Return the time beside torch's cross-entropy."""
    return number(turn_ratio(row["seconds"][contestant], row["seconds"][TORCH]))


def relative_memory(row: Row, contestant: str) -> str:
    """Return the extra memory beside the logits, and in brackets the resident set's where that says more."""
    unit = Case.parse(row["size"]).logits_bytes
    allocated, resident = row["allocated"][contestant], row["resident"][contestant] or 0
    more = f" ({number(resident / unit)})" if resident > 1.1 * allocated + NOISE else ""
    return number(allocated / unit) + more


def advantage(row: Row, contestant: str) -> str:
    """Return how many times faster the loss is than a counterpart, and in brackets how many times less it allocates."""
    faster = turn_ratio(row["seconds"][contestant], row["seconds"][row["loss"]])
    return f"{number(faster)} ({number(row['allocated'][contestant] / row['allocated'][row['loss']])})"


def summary(row: Row) -> str:
    """Return one line on a row."""
    if not row["seconds"]:
        return f"left out: {row['left_out']}"
    time, memory = relative_time(row, row["loss"]), relative_memory(row, row["loss"])
    return f"{time} x cross-entropy, {memory} x logits"


def growth(rows: Sequence[Row], sizes: Sequence[str]) -> str:
    """Return the milliseconds at growing sizes, and the powers of the growth of time and of memory."""
    time, memory = (series(rows, sizes, measure) for measure in ("seconds", "allocated"))
    return table(
        ["Loss", *map(shown, sizes), "power of time", "power of memory"],
        (
            [
                contestant,
                *(milliseconds(values[size]) if size in values else ABSENT for size in sizes),
                f"{power_law(values)[0]:.2f}",
                f"{power_law(memory[contestant])[0]:.2f}",
            ]
            for contestant, values in time.items()
        ),
    )


def milliseconds(seconds: float) -> str:
    """Return seconds in milliseconds with three figures or more."""
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:.0f}"


def shares(step: Mapping[str, Any]) -> str:
    """Return the loss's share of a training step for each loss."""
    return table(
        ["Loss", "whole step, ms", "loss, ms", "share of the step"],
        (
            [name, f"{1000 * statistics.median(step['step'][name]):.0f}", f"{1000 * statistics.median(part):.1f}",
             f"{100 * turn_ratio(part, step['step'][name]):.1f} %"]
            for name, part in step["loss"].items()
        ),
    )  # fmt: skip


def left_out(rows: Sequence[Row]) -> str:
    """Return what was not measured and why."""
    return "\n".join(
        f"- {shown(row['size'])}, {line_name(row['loss'], contestant)}: {reason}"
        for row in rows
        for contestant, reason in row["left_out"].items()
    )


def line_name(loss: str, contestant: str) -> str:
    """Return the name of a contestant, with the loss that it stands beside where it is a counterpart."""
    return contestant if contestant.startswith(loss) else f"{loss}: {contestant}"
