"""The figures: time and memory against voxels and classes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from monai_lossext.compare.figures import COLOURS, STYLE

from .cases import Case
from .contestants import COUNTERPARTS
from .scaling import CLASSES, LOSSES, SIDES, power_law, series

MEASURES = {"seconds": ("losses-time", "time, ms", 1e3), "allocated": ("losses-memory", "extra memory, MiB", 2**-20)}
PANELS = {"voxels, two classes": SIDES, "classes, 64³ voxels": CLASSES}
MARKERS = "osD^"


@matplotlib.rc_context(STYLE)
def drawn(rows: Mapping[str, Any]) -> dict[str, bytes]:
    """Return PNGs by file name, one for time and one for memory, where both panels have something to show."""
    found = {}
    for measure, (name, unit, factor) in MEASURES.items():
        panels = {title: series(rows.values(), sizes, measure) for title, sizes in PANELS.items()}
        if not all(panels.values()):
            continue
        figure = Figure(figsize=(8.4, 5.4), layout="constrained")
        for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            axes.set(xlabel=title, ylabel=unit, xscale="log", yscale="log")
            draw(axes, lines, factor)
            label_axes(axes, PANELS[title])
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=110)
        found[name] = stream.getvalue()
    return found


def draw(axes: Axes, lines: Mapping[str, Mapping[str, float]], factor: float) -> None:
    """Draw values as marks and the power law that fits them as a line: solid and filled for this package."""
    for name, values in lines.items():
        loss = next((loss for loss in LOSSES if name == loss or name in COUNTERPARTS.get(loss, {})), None)
        if name.startswith(("kornia", "nnU-Net")):  # the tables have them
            continue
        power, scale = power_law(values)
        elements = [Case.parse(size).elements for size in values]
        colour = "black" if loss is None else COLOURS[LOSSES.index(loss)]
        style: dict[str, Any] = {
            "color": colour,
            "markerfacecolor": colour if name == loss else "white",
            "markersize": 4.5,
        }
        marker = "X" if loss is None else MARKERS[LOSSES.index(loss)]
        line = "-" if name == loss else "--"
        axes.plot(elements, [factor * value for value in values.values()], marker, **style)
        axes.plot(elements, [factor * scale * n**power for n in elements], line, color=colour, linewidth=1)
        axes.plot([], [], line + marker, label=f"{name}: power {power:.2f}", linewidth=1, **style)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=8)


def label_axes(axes: Axes, sizes: Sequence[str]) -> None:
    """Label the ticks with sides or classes, and the values without powers of ten."""
    cases = [Case.parse(size) for size in sizes]
    labels = [f"{case.side}³" if sizes is SIDES else str(case.classes) for case in cases]
    axes.set_xticks([case.elements for case in cases], labels)
    axes.xaxis.set_minor_locator(NullLocator())
    few = axes.get_ylim()[1] < 100 * axes.get_ylim()[0]
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
