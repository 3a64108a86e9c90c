"""The figures of a report."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from PIL import Image

from monai_lossext.compare.conclusions import format_p, with_interval
from monai_lossext.compare.metrics import FOREGROUND, higher_is_better, metric_name
from monai_lossext.compare.plan import safe_name
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
MOST_PAIRS = 15
NUMBERS = 14  # losses up to which a matrix has room for numbers
WIDTH = 5.4  # inches: letters of 9 points are still readable on a phone
# Fonts that have what the first one has not; those of them that are installed are used.
FONTS = (
    *("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Zen Hei"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Arial Unicode MS"),
)
INSTALLED = [name for name in FONTS if name in {font.name for font in font_manager.fontManager.ttflist}]
STYLE: dict[Any, Any] = {
    "font.family": INSTALLED,
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
        return self._drawn("png")

    @matplotlib.rc_context(STYLE | {"svg.hashsalt": "", "svg.fonttype": "none"})
    def svg(self) -> bytes:
        """Draw the figure with lines and letters, to be set in any size and changed."""
        return self._drawn("svg", metadata={"Date": None})

    def _drawn(self, kind: str, **options: Any) -> bytes:
        stream = io.BytesIO()
        self.figure.savefig(stream, format=kind, dpi=160, bbox_inches="tight", **options)
        return stream.getvalue()


@matplotlib.rc_context(STYLE)
def forest_plot(results: Results) -> Picture:
    """Draw the mean difference of pairs of losses with its interval, largest first, and that of each seed as a point.

    All pairs, or those with the baseline where there are more than MOST_PAIRS. With one training each the intervals are
    those of the trained networks, over the cases; where others were trained more often, such pairs are left out.
    """
    counted = results.counts_trainings
    pairs = [pair for pair in results.comparisons if pair.counts_trainings or not counted]
    baseline = results.study.label(results.study.baseline)
    which = "of losses that were trained more than once"
    if len(pairs) > MOST_PAIRS and (with_baseline := [p for p in pairs if baseline in (p.first, p.second)]):
        pairs, which = with_baseline, f"with {baseline}"
    pairs = sorted(pairs, key=lambda pair: -abs(pair.difference if counted else pair.shift))
    means = {
        loss: rows.groupby("seed")[results.primary].mean() for loss, rows in results.cases.groupby("loss", sort=False)
    }
    figure = Figure(figsize=(WIDTH, 0.42 * len(pairs) + 1.0), layout="constrained")
    axes = figure.subplots()
    told = []
    for place, pair in enumerate(pairs):
        better, other = _order(pair, counted)
        sign = 1 if better == pair.first else -1
        ends = (pair.low, pair.high) if counted else (pair.shift_low, pair.shift_high)
        middle = sign * (pair.difference if counted else pair.shift)
        low, high = sorted((sign * ends[0], sign * ends[1]))
        shown = pair.significant if counted else pair.networks_differ
        colour = COLOURS[0] if shown else COLOURS[8]
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot(middle, place, marker="s", color=colour, markersize=6)
        if counted:
            single = (means[better] - means[other]).dropna()
            axes.plot(single, [place + 0.24] * len(single), ".", color="black", markersize=4)
        told.append(f"{better} over {other} {with_interval(middle, low, high)}")
    axes.axvline(0, color="black", linewidth=0.8)
    if results.study.margin is not None:
        axes.axvspan(-results.study.margin, results.study.margin, color="#e4e4e4", zorder=0)
    orders = [_order(pair, counted) for pair in pairs]
    names = [f"{_short(better, 26)}\n over {_short(worse, 26)}" for better, worse in orders]
    axes.set_yticks(range(len(pairs)), names, fontsize=8 if len(pairs) <= 12 else 6.5)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"difference in the {metric_name(results.primary)}")
    if counted:
        what = "Mean differences with 95 % intervals over cases and trainings, all pairs together; points: single seeds"
    else:
        what = "Shifts between the trained networks (not the losses, trained once each) with intervals over the cases"
    margin = " Grey: the margin." if results.study.margin is not None else ""
    few = "" if len(pairs) == len(results.comparisons) else f" Pairs {which}; the table has all."
    caption = f"{what}. Blue: the interval leaves out 0.{margin}{few}"
    return Picture("differences", caption, f"Differences of pairs: {'; '.join(told)}.", figure)


def _order(pair: Comparison, counted: bool) -> tuple[str, str]:
    """The better one of a pair, or of its networks, and the other."""
    better = pair.better if counted else pair.network_better
    return better, pair.second if better == pair.first else pair.first


@matplotlib.rc_context(STYLE)
def learning_curves(results: Results) -> Picture:
    """Draw the validation scores of every training, epoch by epoch."""
    histories, style = results.histories, _line_styles(results)
    columns = sorted(
        (name for name in histories if name.startswith("val_")), key=lambda name: name != f"val_{results.primary}"
    )
    figure = Figure(figsize=(WIDTH, 2.1 * len(columns) + 0.3 * ceil(len(style) / 2)), layout="constrained")
    panels = figure.subplots(len(columns), 1, sharex=True, squeeze=False)[:, 0]
    for axes, column in zip(panels, columns, strict=True):
        for loss in results.losses:
            _curves(axes, histories[histories["loss"] == loss], column, style[loss])
        axes.set_ylabel(f"validation {metric_name(column.removeprefix('val_'))}")
    panels[-1].set_xlabel("epoch")
    handles = [Line2D([], [], **style[loss], label=_short(loss)) for loss in results.losses]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    primary = columns[0]  # that of the primary metric where there is one
    best = histories.groupby("loss")[primary].max()
    alt = "; ".join(f"{loss} at most {best[loss]:.3f}" for loss in results.losses)
    caption = (
        "Validation scores after every epoch: the mean of a loss's trainings, and a band from lowest to highest."
        " The weights of the best epoch are the ones that are compared."
    )
    alt = f"Curves of validation scores. Mean {metric_name(primary.removeprefix('val_'))}: {alt}."
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
    """Draw the mean of the trainings and a band from the lowest to the highest, of epochs that were validated."""
    curves = histories.dropna(subset=column).groupby("epoch")[column].agg(["mean", "min", "max", "count"])
    marker = "o" if len(curves) < 4 else ""
    axes.plot(curves.index, curves["mean"], marker=marker, markersize=3, **style)
    if (curves["count"] > 1).any():
        axes.fill_between(curves.index, curves["min"], curves["max"], color=style["color"], alpha=0.2, linewidth=0)
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
    """Draw the verdict on every pair of losses, or of networks where each was trained once."""
    losses, counted = results.losses, results.counts_trainings
    size = len(losses)
    figure = Figure(figsize=(WIDTH, min(1.1 * WIDTH, 0.42 * size + 1.6)), layout="constrained")
    axes = figure.subplots()
    verdicts, texts, shown = np.zeros((size, size)), {}, []
    for pair in results.comparisons:
        differs = pair.significant if counted else pair.networks_differ
        better = pair.better if counted else pair.network_better
        p = format_p(pair.p if counted else pair.p_holm).removeprefix("= ").replace(" ", "")
        if differs:
            shown.append(f"{better} better than {pair.second if better == pair.first else pair.first}")
        for here, there in ((pair.first, pair.second), (pair.second, pair.first)):
            row, column = losses.index(here), losses.index(there)
            verdicts[row, column] = (1 if better == here else -1) if differs else 0
            sign = {1: "▲", -1: "▼", 0: ""}[int(verdicts[row, column])]
            gap = sign and (" " if size <= 6 else "\n")  # in narrow cells the number stands below
            texts[row, column] = sign + gap + p if size <= NUMBERS else sign
    axes.imshow(verdicts, cmap=ListedColormap(VERDICTS), vmin=-1, vmax=1, aspect="auto")
    letters = 8 if size <= 6 else 6.5 if size <= 10 else 5
    for (row, column), text in texts.items():
        axes.text(column, row, text, ha="center", va="center", fontsize=letters)
    for place in range(size):
        axes.text(place, place, "–", ha="center", va="center", fontsize=letters)
    names = [_short(loss, 24) for loss in losses]
    small = 9 if size <= NUMBERS else max(4.5, 150 / size)
    turned = {"rotation": 35} if size <= NUMBERS else {"rotation": 90, "va": "center"}
    axes.set_xticks(range(size), names, ha="right", rotation_mode="anchor", fontsize=small, **turned)
    axes.set_yticks(range(size), names, fontsize=small)
    axes.set_xticks(np.arange(size - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(size - 1) + 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", color="white", linewidth=2 if size <= NUMBERS else 1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    what = "loss" if counted else "trained network (not the loss, which was trained once)"
    caption = (
        f"{metric_name(results.primary)} of every pair: the row's {what} is better (blue, ▲) or worse (orange, ▼) than"
        " the column's, or no difference was shown (grey)."
        + (" The numbers are p-values, corrected for the number of pairs," if size <= NUMBERS else " The test is")
        + (" over cases and trainings." if counted else " over the cases.")
    )
    of = "losses" if counted else "trained networks"
    alt = f"Matrix of the tests of all pairs of {of}: {'; '.join(shown) or 'no pair differs'}."
    return Picture("significance", caption, alt, figure)


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
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
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
    scores = case_scores(results.cases, results.primary)[results.losses].dropna()
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
    name = metric_name(results.primary)
    for kind, case in chosen.items():
        rows = results.cases[results.cases["case"] == case]
        first = rows.drop_duplicates("loss").set_index("loss")
        listed = "; ".join(f"{loss} {first.loc[loss, results.primary]:.3f}" for loss in results.losses)
        caption = f"{explain[kind]}: {case}. Reference in white, prediction in colour, {name} above."
        if len(rows) > len(first):
            caption += " Each loss's first training is shown, with its own score."
        alt = f"{explain[kind]}, {case}: outlines on the picture. {name}: {listed}."
        yield Picture(f"overlay-{kind}", caption, alt, _outlines(results, first))


@matplotlib.rc_context(STYLE)
def _outlines(results: Results, rows: pd.DataFrame) -> Figure:
    values = rows[results.primary]
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


@lru_cache
def can_be_drawn(label: str) -> bool:
    """Whether a font of this machine has every character of a name."""
    fonts = [font_manager.get_font(font_manager.findfont(name)).get_charmap() for name in INSTALLED]
    return all(any(ord(letter) in font for font in fonts) for letter in printable(label))


def _short(label: str, length: int = 30) -> str:
    label = printable(label) if can_be_drawn(label) else safe_name(label)
    return label if len(label) <= length else f"{label[: length - 1]}…"


def _directed(metric: str) -> str:
    return metric_name(metric) if higher_is_better(metric) else f"{metric_name(metric)}, lower is better"


def _file_name(text: str) -> str:
    """A name for a file: columns of other people's bundles may be called anything."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text)
