"""What was found of a loss: as words on a terminal and as a figure."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monai_lossext.inspection.measure import Findings

TRUE, FALSE = "#3f90da", "#e76300"  # apart for colour-blind eyes
STYLE = {"linewidth": 1.8}
NEARLY = 0.051  # a step of the candidates


def described(found: Findings) -> dict[str, str]:
    """Return in a sentence each what the numbers say."""
    return {
        "soft targets": _soft(found),
        "uncertain voxels": _uncertain(found),
        "volume": _volume(found),
    }


def _soft(found: Findings) -> str:
    if abs(found.best_for_soft_target - found.share).max() < NEARLY:
        return "least where the probability is the target's share"
    if set(found.best_for_soft_target) <= {0.0, 1.0}:
        first = found.share[found.best_for_soft_target > 0]
        return f"makes them hard: least at p = 1 from a share of {first[0]:.1f} on" if len(first) else "least at p = 0"
    return "least at " + ", ".join(f"{p:.2f}" for p in found.best_for_soft_target) + " for shares of 0.1, 0.2, ... 0.9"


def _uncertain(found: Findings) -> str:
    if abs(found.best_for_uncertain - found.share).max() < NEARLY:
        return "proper: least where p is how often the voxel is of the object"
    if set(found.best_for_uncertain) <= {0.0, 1.0}:
        first = found.share[found.best_for_uncertain > 0]
        return (
            f"decides: least at p = 1 for voxels that are of the object in {first[0]:.1f} of all cases or more, else at"
            " p = 0"
            if len(first)
            else "least at p = 0, however often a voxel is of the object"
        )
    return "least at p = " + ", ".join(f"{p:.2f}" for p in found.best_for_uncertain) + " for 0.1, 0.2, ... 0.9"


def _volume(found: Findings) -> str:
    low, high = found.volume.min() - 1, found.volume.max() - 1
    if max(-low, high) < NEARLY:
        return "not biased by uncertain voxels"
    return (
        f"{100 * low:+.0f} % to {100 * high:+.0f} % of the expected one, if half of what may be the object is uncertain"
    )


def show(name: str, found: Findings, console: Console) -> None:
    """Print what was found."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for key, sentence in described(found).items():
        table.add_row(key, escape(sentence))
    console.print(f"[bold]{escape(name)}[/], given {'logits' if found.logits else 'probabilities'}", highlight=False)
    console.print(table, highlight=False)
    cases = Table("hard case", "value and gradient by " + ("logits" if found.logits else "probabilities"))
    for case, outcome in found.cases.items():
        cases.add_row(case, escape(outcome))
    console.print(cases, highlight=False)


def figure(name: str, found: Findings) -> Figure:
    """Return four panels: value and slope against the probability, slope against the size, and where the least is."""
    drawn = Figure(figsize=(9.6, 2.7), layout="constrained")
    axes = drawn.subplots(1, 4)
    p = found.probability
    _two(axes[0], p, found.value_true, found.value_false, "value", "probability of all voxels")
    axes[0].legend(["of the object", "of the background"], frameon=False, fontsize=7)
    _two(axes[1], p, found.slope_true, found.slope_false, "slope by the logit", "probability of one voxel")
    axes[1].axhline(0, color="#999999", linewidth=0.8)
    slopes = found.slope_by_size_true, found.slope_by_size_false
    _two(axes[2], found.size, *slopes, "slope at p = 0.5", "share of the picture that is object")
    axes[2].axhline(0, color="#999999", linewidth=0.8)
    axes[2].set_xscale("log")
    axes[3].plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    axes[3].plot(found.share, found.best_for_soft_target, "o-", color=TRUE, markersize=3, **STYLE)
    axes[3].plot(found.share, found.best_for_uncertain, "s--", color=FALSE, markersize=3, **STYLE)
    axes[3].legend(["p = share", "soft target", "uncertain label"], frameon=False, fontsize=7)
    _named(axes[3], "p where it is least", "share of the object")
    for at in axes:
        at.spines[["top", "right"]].set_visible(False)
        at.tick_params(labelsize=7)
    drawn.suptitle(name, fontsize=9)
    return drawn


def _two(at: Axes, x: object, true: object, false: object, y_label: str, x_label: str) -> None:
    at.plot(x, true, color=TRUE, **STYLE)  # type: ignore[arg-type]
    at.plot(x, false, "--", color=FALSE, **STYLE)  # type: ignore[arg-type]
    _named(at, y_label, x_label)


def _named(at: Axes, y_label: str, x_label: str) -> None:
    at.set_title(y_label, fontsize=8)
    at.set_xlabel(x_label, fontsize=8)
