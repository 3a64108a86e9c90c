"""The figures of a report."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from monai_lossext.compare.conclusions import format_p
from monai_lossext.compare.metrics import FOREGROUND, TESTED, higher_is_better, metric_name
from monai_lossext.compare.results import Results
from monai_lossext.compare.statistics import Comparison, bandwidth, case_scores, density, size_bins
from monai_lossext.compare.volumes import axial_slices, is_volume
from monai_lossext.data import binary_mask
from monai_lossext.text import printable

# Ten colours that stay apart for colour-blind eyes (Petroff 2021, arXiv:2107.02270); an eleventh loss starts again with
# another line style.
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
LINES = ("-", "--", ":", "-.")
VERDICTS = ("#f6b26b", "#ececec", "#9cc4ea")  # worse, not shown to differ, better
WIDTH = 5.4  # inches: letters of 9 points are still readable on a phone
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "text.parse_math": False,  # names of losses may contain dollar signs
}


@dataclass(frozen=True)
class Picture:
    """A figure of the report, with its file name (without ending), caption and alternative text."""

    name: str
    caption: str
    alt: str
    figure: Figure

    @matplotlib.rc_context(STYLE)  # labels of ticks are made only now
    def png(self) -> bytes:
        """Draw the figure."""
        stream = io.BytesIO()
        self.figure.savefig(stream, format="png", dpi=160, bbox_inches="tight")
        return stream.getvalue()


@matplotlib.rc_context(STYLE)
def learning_curves(results: Results) -> Picture:
    """Draw the validation scores of every training, epoch by epoch."""
    histories, style = results.histories, _line_styles(results)
    columns = sorted((name for name in histories if name.startswith("val_")), key=lambda name: name != f"val_{TESTED}")
    figure = Figure(figsize=(WIDTH, 2.1 * len(columns) + 0.3 * ceil(len(style) / 2)), layout="constrained")
    panels = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
    for axes, column in zip(panels, columns, strict=True):
        for loss in results.losses:
            _curves(axes, histories[histories["loss"] == loss], column, style[loss])
        axes.set_ylabel(f"validation {metric_name(column.removeprefix('val_'))}")
    panels[-1].set_xlabel("epoch")
    handles = [Line2D([], [], **style[loss], label=_short(loss)) for loss in results.losses]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    best = histories.groupby("loss")[f"val_{TESTED}"].max()
    alt = "; ".join(f"{loss} at most {best[loss]:.3f}" for loss in results.losses)
    caption = "Validation scores after every epoch. The weights of the best epoch are the ones that are compared."
    alt = f"Curves of validation scores. Mean {metric_name(TESTED)}: {alt}."
    return Picture("learning-curves", caption, alt, figure)


@matplotlib.rc_context(STYLE)
def loss_curves(results: Results) -> Picture:
    """Draw what every training minimised, with axes for each loss, because their values cannot be compared."""
    histories, style = results.histories, _line_styles(results)
    columns = 2 if len(style) <= 4 else 3
    rows = ceil(len(style) / columns)
    figure = Figure(figsize=(WIDTH, 1.4 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, loss in zip(panels, results.losses, strict=False):
        _curves(axes, histories[histories["loss"] == loss], "train_loss", style[loss])
        axes.set_title(_short(loss, 26), fontsize=8)
    for axes in panels[len(style) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("training loss", fontsize=9)
    ends = histories.groupby("loss")["train_loss"].last()
    alt = "; ".join(f"{loss} ends at {ends[loss]:.4g}" for loss in results.losses)
    caption = "What each training minimised. The axes differ: values of different losses cannot be compared."
    return Picture("training-loss", caption, f"Curves of the training loss, a panel per loss: {alt}.", figure)


def _curves(axes: Axes, histories: pd.DataFrame, column: str, style: dict[str, Any]) -> None:
    """Draw a line per training; an epoch that was not validated has no value."""
    runs = [name for name in ("fold", "seed") if name in histories]
    for _, curve in histories.dropna(subset=column).groupby(runs):
        axes.plot(curve["epoch"], curve[column], marker="o" if len(curve) < 4 else "", markersize=3, **style)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))


@matplotlib.rc_context(STYLE)
def box_plot(results: Results, metric: str) -> Picture:
    """Draw a box per loss: quartiles, median, whiskers of 1.5 interquartile ranges, mean, and the cases beyond."""
    scores, style = case_scores(results.cases, metric)[results.losses], _line_styles(results)
    figure = Figure(figsize=(WIDTH, 0.36 * len(style) + 0.9), layout="constrained")
    axes = figure.subplots()
    boxes = axes.boxplot(
        [scores[loss].dropna() for loss in results.losses],
        orientation="horizontal",
        tick_labels=[_short(loss) for loss in results.losses],
        widths=0.6,
        patch_artist=True,
        showmeans=True,
        medianprops={"color": "black"},
        meanprops={"marker": "D", "markersize": 4, "markerfacecolor": "white", "markeredgecolor": "black"},
        flierprops={"marker": ".", "markersize": 3, "markerfacecolor": "#555555", "markeredgecolor": "none"},
    )
    for patch, loss in zip(boxes["boxes"], results.losses, strict=True):
        patch.set(facecolor=style[loss]["color"], alpha=0.75)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(_directed(metric))
    defined = [loss for loss in results.losses if scores[loss].notna().any()]
    medians = "; ".join(f"{loss} {scores[loss].median():.3f}" for loss in defined)
    caption = (
        f"{metric_name(metric)} of every case: median and quartiles, whiskers of 1.5 interquartile ranges, mean (◇)."
    )
    return Picture(
        _file_name(f"box-{metric}"), caption, f"Box plot of the {metric_name(metric)}. Medians: {medians}.", figure
    )


@matplotlib.rc_context(STYLE)
def density_plot(results: Results, metric: str) -> Picture:
    """Draw the Epanechnikov density of each loss's scores, on the observed range only."""
    scores, style = case_scores(results.cases, metric)[results.losses], _line_styles(results)
    figure = Figure(figsize=(WIDTH, 2.4 + 0.22 * ceil(len(style) / 2)), layout="constrained")
    axes = figure.subplots()
    for loss in results.losses:
        values = scores[loss].dropna().to_numpy()
        width = bandwidth(values)
        if width > 0:
            at = np.linspace(values.min(), values.max(), 400)
            axes.plot(at, density(values, at, width), label=_short(loss), **style[loss])
        elif values.size:  # equal values have no density
            axes.axvline(values[0], label=f"{_short(loss)} (all equal)", **style[loss])
    axes.set_ylim(bottom=0)
    axes.set(xlabel=_directed(metric), ylabel="density")
    figure.legend(loc="outside lower center", ncols=2)
    defined = [loss for loss in results.losses if scores[loss].notna().any()]
    ranges = "; ".join(f"{loss} {scores[loss].min():.3f} to {scores[loss].max():.3f}" for loss in defined)
    caption = f"Density of the {metric_name(metric)} over the cases, from the lowest to the highest observed value."
    alt = f"Density curves of the {metric_name(metric)}. Observed ranges: {ranges}."
    return Picture(_file_name(f"density-{metric}"), caption, alt, figure)


@matplotlib.rc_context(STYLE)
def significance_matrix(results: Results) -> Picture:
    """Draw the verdict on every pair of losses: is the row's loss better or worse than the column's?"""
    losses = results.losses
    size = len(losses)
    figure = Figure(figsize=(WIDTH, min(WIDTH, 0.42 * size + 1.6)), layout="constrained")
    axes = figure.subplots()
    verdicts, texts = np.zeros((size, size)), {}
    for pair in results.comparisons:
        for here, there in ((pair.first, pair.second), (pair.second, pair.first)):
            row, column = losses.index(here), losses.index(there)
            verdicts[row, column] = (1 if pair.better == here else -1) if pair.significant else 0
            sign = {1: "▲", -1: "▼", 0: ""}[int(verdicts[row, column])]
            gap = sign and (" " if size <= 6 else "\n")  # in narrow cells the number stands below
            texts[row, column] = sign + gap + format_p(pair.p_holm).removeprefix("= ").replace(" ", "")
    axes.imshow(verdicts, cmap=ListedColormap(VERDICTS), vmin=-1, vmax=1, aspect="auto")
    letters = 8 if size <= 6 else 6.5 if size <= 10 else 5
    for (row, column), text in texts.items():
        axes.text(column, row, text, ha="center", va="center", fontsize=letters)
    for place in range(size):
        axes.text(place, place, "–", ha="center", va="center", fontsize=letters)
    names = [_short(loss, 24) for loss in losses]
    axes.set_xticks(range(size), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    axes.set_xticks(np.arange(size - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(size - 1) + 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    shown = [f"{pair.better} better than {_other(pair)}" for pair in results.comparisons if pair.significant]
    alt = "; ".join(shown) or "no pair differs"
    caption = (
        f"{metric_name(TESTED)} of every pair: the row's loss is better (blue, ▲) or worse (orange, ▼) than the"
        " column's, or no difference was shown (grey). The numbers are p-values after Holm's correction."
    )
    return Picture("significance", caption, f"Matrix of the tests of all pairs of losses: {alt}.", figure)


def _other(pair: Comparison) -> str:
    return pair.second if pair.better == pair.first else pair.first


@matplotlib.rc_context(STYLE)
def object_size(results: Results, metric: str) -> Picture:
    """Draw the mean score over the cases of each tenth by object size, from the smallest objects to the largest."""
    bins, style = size_bins(results.cases, metric), _line_styles(results)
    figure = Figure(figsize=(WIDTH, 2.6 + 0.22 * ceil(len(style) / 2)), layout="constrained")
    axes = figure.subplots()
    for loss in results.losses:
        axes.plot(bins[FOREGROUND], bins[loss], marker="o", markersize=3.5, label=_short(loss), **style[loss])
    positive = bins[FOREGROUND] > 0
    if positive.all() and bins[FOREGROUND].max() > 20 * bins[FOREGROUND].min():
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}"))
    axes.set(xlabel="object size, % of the image (median of each tenth)", ylabel=f"mean {metric_name(metric)}")
    figure.legend(loc="outside lower center", ncols=2)
    caption = (
        f"{metric_name(metric)} by object size: the cases are sorted by the share of the image that the reference marks"
        f" and split into {len(bins)} groups of about {bins['n'].median():.0f}."
    )
    ends = "; ".join(f"{loss} {bins[loss].iloc[0]:.3f} to {bins[loss].iloc[-1]:.3f}" for loss in results.losses)
    alt = f"Curves of the mean {metric_name(metric)} by object size. From the smallest to the largest objects: {ends}."
    return Picture("object-size", caption, alt, figure)


def overlays(results: Results) -> Iterator[Picture]:
    """Draw the outlines of reference and losses on the best, median and worst case, and on the most disputed one.

    Raises:
        OSError: a picture or mask is no longer where it was.
    """
    scores = case_scores(results.cases, TESTED)[results.losses].dropna()
    if scores.empty:
        return
    ranking = scores.mean(axis=1).sort_values(ascending=False, kind="stable").index
    chosen = {"best": ranking[0], "median": ranking[len(ranking) // 2], "worst": ranking[-1]}
    if len(results.losses) > 1:
        chosen["disputed"] = (scores.max(axis=1) - scores.min(axis=1)).idxmax()
    explain = {
        "best": "Best case by the mean over the losses",
        "median": "Median case by the mean over the losses",
        "worst": "Worst case by the mean over the losses",
        "disputed": "Case in which the losses differ most",
    }
    name = metric_name(TESTED)
    for kind, case in chosen.items():
        rows = results.cases[results.cases["case"] == case]
        first = rows.drop_duplicates("loss").set_index("loss")
        listed = "; ".join(f"{loss} {first.loc[loss, TESTED]:.3f}" for loss in results.losses)
        caption = f"{explain[kind]}: {case}. Reference in white, prediction in colour, {name} above."
        if len(rows) > len(first):
            caption += " Each loss's first training is shown, with its own score."
        alt = f"{explain[kind]}, {case}: outlines on the picture. {name}: {listed}."
        yield Picture(f"overlay-{kind}", caption, alt, _outlines(results, first))


@matplotlib.rc_context(STYLE)
def _outlines(results: Results, rows: pd.DataFrame) -> Figure:
    values = rows[TESTED]
    style = _line_styles(results)
    if is_volume(rows["label"].iloc[0]):
        picture, reference, masks = axial_slices(rows["image"].iloc[0], rows["label"].iloc[0], rows["mask"])
    else:
        picture, reference = _picture(rows["image"].iloc[0]), _mask(rows["label"].iloc[0])
        masks = {str(loss): _mask(path) for loss, path in rows["mask"].items()}
    columns = 3
    lines = ceil((1 + len(style)) / columns)
    height = WIDTH / columns * picture.shape[0] / picture.shape[1] + 0.3
    figure = Figure(figsize=(WIDTH, lines * height), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, loss in zip(panels, ["", *results.losses], strict=False):
        axes.imshow(picture)
        _outline(axes, reference, picture.shape, "white")
        if loss:
            _outline(axes, masks[loss], picture.shape, style[loss]["color"])
        axes.set_title(f"{_short(loss, 26)}\n{values[loss]:.3f}" if loss else "reference", fontsize=8)
    return figure


def _picture(path: str) -> NDArray[np.uint8]:
    with Image.open(path) as file:
        file.thumbnail((512, 512))
        return np.asarray(file.convert("RGB"))


def _mask(path: str) -> NDArray[np.uint8]:
    with Image.open(path) as file:
        mask = binary_mask(file)
    mask.thumbnail((512, 512), Image.Resampling.NEAREST)
    return np.asarray(mask)


def _outline(axes: Axes, mask: NDArray[np.uint8], shape: tuple[int, ...], colour: str) -> None:
    """Draw a mask's outline on a picture of another size."""
    if not mask.any():
        return
    framed = np.pad(mask, 1)  # closes the outline of an object that touches the frame
    x = (np.arange(framed.shape[1]) - 0.5) * shape[1] / mask.shape[1] - 0.5
    y = (np.arange(framed.shape[0]) - 0.5) * shape[0] / mask.shape[0] - 0.5
    for edge, width in (("black", 2.2), (colour, 1.2)):  # a dark edge, to be seen on any skin
        axes.contour(x, y, framed, levels=[0.5], colors=[edge], linewidths=width)


def _line_styles(results: Results) -> dict[str, dict[str, Any]]:
    """Give every loss of a study its colour and line, the same in all figures, whether or not others have failed."""
    labels = [loss.label for loss in results.study.losses]
    styles = {
        label: {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i // len(COLOURS) % len(LINES)]}
        for i, label in enumerate(labels)
    }
    return {label: styles[label] for label in results.losses}


def _short(label: str, length: int = 30) -> str:
    label = printable(label)
    return label if len(label) <= length else f"{label[: length - 1]}…"


def _directed(metric: str) -> str:
    return metric_name(metric) if higher_is_better(metric) else f"{metric_name(metric)}, lower is better"


def _file_name(text: str) -> str:
    """A name for a file: columns of other people's bundles may be called anything."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)
