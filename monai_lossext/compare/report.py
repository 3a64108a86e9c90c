"""Write the report of a study: one HTML page, the same in Markdown, tables as CSV and figures as PNG."""

from __future__ import annotations

import base64
import html
import math
import re
import shlex
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from numpy.typing import NDArray

from monai_lossext.compare.conclusions import (
    findings,
    format_p,
    interval,
    limits,
    margin_verdict,
    method,
    number,
    ranking,
    with_interval,
)
from monai_lossext.compare.figures import (
    box_plot,
    can_be_drawn,
    density_plot,
    forest_plot,
    learning_curves,
    loss_curves,
    object_size,
    overlays,
    significance_matrix,
)
from monai_lossext.compare.metrics import FOREGROUND, higher_is_better, metric_name
from monai_lossext.compare.plan import Study, safe_name
from monai_lossext.compare.provenance import bibtex, losses, methods_text, settings
from monai_lossext.compare.results import Results
from monai_lossext.compare.run import bundle_command
from monai_lossext.compare.statistics import Comparison, summarise, training_means
from monai_lossext.compare.status import versions
from monai_lossext.files import replace_file
from monai_lossext.text import printable

COLUMNS = 6  # metrics side by side: what fits a printed page
LEAST_CASES_FOR_SIZES = 20  # fewer than two cases a tenth say nothing about sizes
NO_OUTLINES = "Outlines are not drawn: the evaluation of this bundle does not tell where the pictures are."


class SummaryRow(NamedTuple):
    """A loss with mean ± standard error of each metric, and the corrected p-value against the baseline, if any.

    The p-value is that of the losses, or of their networks where each was trained once. `marks` says of each metric
    whether the loss is in the "top" group, "inferior" to all others, or "".
    """

    loss: str
    cells: dict[str, str]
    marks: dict[str, str]
    p: float | None


def write_report(results: Results) -> Path:
    """Write the report folder: report.html, report.md, tables as CSV and figures/, the main ones as SVG too.

    The tables: cases.csv (every score), summary.csv (a row per loss and metric), comparisons.csv (a row per metric and
    pair), rankings.csv (a row per metric and loss).

    Returns:
        The path of report.html, which holds its figures and can be sent and opened by itself.
    """
    study = results.study
    folder = study.output / "report"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    described = [FOREGROUND] if FOREGROUND in results.cases else []
    _write_table(folder / "cases.csv", results.cases[["loss", *results.runs, "case", *described, *results.metrics]])
    _write_table(folder / "summary.csv", summarise(results.cases, results.metrics))
    pairs = [*results.comparisons, *results.secondary]
    _write_table(folder / "comparisons.csv", pd.DataFrame([asdict(pair) for pair in pairs]))
    _write_table(folder / "rankings.csv", _rankings_table(results))

    notes = []
    undrawn = [loss.label for loss in study.losses if not can_be_drawn(loss.label)]
    if undrawn:
        names = "; ".join(f"{safe_name(label)} is {label}" for label in undrawn)
        notes.append(f"No font of this machine can draw these names, for which others stand in the figures: {names}.")
    curves = [] if results.histories.empty else [learning_curves(results), loss_curves(results)]
    forest = [forest_plot(results)] if max((pair.n for pair in results.comparisons), default=0) > 1 else []
    verdicts = [significance_matrix(results)] if results.comparisons else []
    defined = [metric for metric in results.metrics if results.cases[metric].notna().any()]
    distributions = [plot(results, metric) for metric in defined for plot in (box_plot, density_plot)]
    sizes = []
    if not described:
        notes.append("Scores by object size are not drawn: the evaluation of this bundle does not tell the sizes.")
    elif results.cases["case"].nunique() < LEAST_CASES_FOR_SIZES:
        notes.append(f"Scores by object size are not drawn: that takes {LEAST_CASES_FOR_SIZES} cases or more.")
    else:
        sizes.append(object_size(results, "dice" if "dice" in defined else results.primary))
    outlines = []
    try:
        if results.cases[["image", "label"]].all(axis=None):
            outlines = list(overlays(results))
        else:
            notes.append(NO_OUTLINES)
    except OSError as error:  # the pictures may have been moved since the training; all else can still be told
        notes.append(f"The outlines could not be drawn: {error}")
    data = {}
    for picture in [*forest, *verdicts, *curves, *distributions, *sizes, *outlines]:
        data[picture.name] = picture.png()
        replace_file(folder / "figures" / f"{picture.name}.png", data[picture.name])
    vectors = {picture.name: picture.svg() for picture in [*forest, *verdicts, *curves]}
    for name, svg in vectors.items():
        replace_file(folder / "figures" / f"{name}.svg", svg)

    run = study.runs()[0]
    means = results.cases.pivot_table(index="loss", columns=results.runs, values=results.primary)
    context = {
        "study": study,
        "results": results,
        "title": title(results),
        "cases": results.cases["case"].nunique(),
        "tested": metric_name(results.primary),
        "start": start(study),
        "rows": summary_rows(results),
        "metric_groups": [
            results.metrics[begin : begin + COLUMNS] for begin in range(0, len(results.metrics), COLUMNS)
        ],
        "ranking": ranking(results),
        "method": method(results),
        "secondary": secondary_rows(results),
        "run_names": [_run_name(results.runs, values) for values in means.columns],
        "run_means": means.loc[results.losses],
        "spreads": {loss: spread(values) for loss, values in training_means(results.cases, results.primary).items()},
        "verdict": verdict,
        "interval": interval,
        "with_interval": with_interval,
        "findings": findings(results),
        "without": [*results.failed, *results.stopped],
        "limits": limits(results),
        "forest": forest,
        "verdicts": verdicts,
        "settings": settings(results),
        "loss_settings": losses(results),
        "methods_text": methods_text(results),
        "bibtex": bibtex(),
        "sections": {
            "Learning curves": curves,
            "Scores of the cases": [*distributions[:2], *sizes, *distributions[2:]],
            "Pictures": outlines,
        },
        "notes": notes,
        "commands": [shlex.join(["python", *bundle_command(run, evaluate=evaluate)[1:]]) for evaluate in (False, True)],
        "versions": versions(study),
        "today": date.today().isoformat(),
        "base64": {name: base64.b64encode(png).decode() for name, png in data.items()},
        "vectors": {name: base64.b64encode(svg).decode() for name, svg in vectors.items()},
    }
    environment = Environment(
        loader=PackageLoader("monai_lossext.compare"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,  # names and messages of others
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "p": _p,
        "number": number,
        "metric": _directed,
        "breakable": _breakable,
        "md": as_markdown,
    }
    for name in ("report.md", "report.html"):
        replace_file(folder / name, environment.get_template(name).render(context))
    return folder / "report.html"


def title(results: Results) -> str:
    """Return a title that tells the reports of several studies apart."""
    study = results.study
    counts = {"loss": len(results.losses), "seed": len(study.seeds), "epoch": study.epochs}
    endings = {"loss": "es", "seed": "s", "epoch": "s"}
    told = [f"{count} {name}{endings[name] if count != 1 else ''}" for name, count in counts.items()]
    return f"Which loss? {study.bundle.name}: {', '.join(told)}"


def start(study: Study) -> str:
    """Return a sentence on the weights that all losses started from; "" if they were random."""
    if study.initial_weights is not None:
        return f"All losses started from the same weights, those in {study.initial_weights}, with a new optimizer."
    if study.pretraining is None:
        return ""
    before = study.pretraining
    weights = f"the best weights of {before.epochs} epochs with {before.loss.label}"
    each = "" if len(study.pretrainings()) == 1 else " of the same seed" + (" and fold" if study.folds else "")
    return f"All losses started from {weights}{each}, with a new optimizer."


def summary_rows(results: Results) -> list[SummaryRow]:
    """Return a row per loss for people to read."""
    summary = summarise(results.cases, results.metrics).set_index(["loss", "metric"])
    cases = results.cases["case"].nunique()
    baseline = results.study.label(results.study.baseline)
    p = {
        frozenset((pair.first, pair.second)): pair.p if results.counts_trainings else pair.p_holm
        for pair in results.comparisons
    }
    rankings = {ranking.metric: ranking for ranking in results.rankings}
    rows = []
    for loss in results.losses:
        cells, marks = {}, {}
        for metric in results.metrics:
            n, mean, error = summary.loc[(loss, metric), ["n", "mean", "standard_error"]]
            digits = 3 if summary.xs(metric, level="metric")["mean"].max() <= 1 else 2  # as of millimetres and pixels
            cells[metric] = f"{mean:.{digits}f} ± {number(error, f'.{digits}f')}" if n else "n/a"
            if 0 < n < cases:  # a metric may be undefined for some cases, which must not pass unseen
                cells[metric] += f" (n = {n:.0f})"
            ranked = rankings.get(metric)
            in_top, behind = (ranked and loss in ranked.top), (ranked and loss in ranked.inferior_to_all)
            everyone = ranked and len(ranked.top) == len(ranked.mean_ranks)  # a mark on all of them tells nothing
            marks[metric] = "inferior" if behind else "top" if in_top and not everyone else ""
        rows.append(SummaryRow(loss, cells, marks, p.get(frozenset((loss, baseline)))))
    return rows


def spread(values: NDArray[np.float64]) -> str:
    """Write the standard deviation between trainings."""
    return f"{values.std(ddof=1):.4f}" if values.size > 1 else "–"


def verdict(pair: Comparison, margin: float | None) -> str:
    """Say in a few words what is shown of a pair; with one training each, of its networks."""
    if not pair.counts_trainings:
        return f"network of {pair.network_higher} higher" if pair.networks_differ else "no difference shown"
    if margin is not None:
        words = margin_verdict(pair, margin)
        return f"{pair.better} {words}" if words.startswith("better") else words
    return f"{pair.higher} higher" if pair.significant else "no difference shown"


class SecondaryRow(NamedTuple):
    """What the tests say on one of the metrics that were not chosen beforehand."""

    metric: str
    n: int
    best: str
    top: int
    inferior_to_all: str
    pairs: int
    below: int


def secondary_rows(results: Results) -> list[SecondaryRow]:
    """Return a row per metric that is not the tested one, for people to read."""
    rows = []
    for ranked in results.rankings:
        if ranked.metric != results.primary:
            of_metric = [pair for pair in results.secondary if pair.metric == ranked.metric]
            rows.append(
                SecondaryRow(
                    ranked.metric,
                    ranked.n,
                    ranked.best,
                    len(ranked.top),
                    ", ".join(ranked.inferior_to_all) or "–",
                    len(of_metric),
                    sum(pair.significant if results.counts_trainings else pair.networks_differ for pair in of_metric),
                )
            )
    return rows


def _rankings_table(results: Results) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "metric": ranked.metric,
            "loss": loss,
            "n": ranked.n,
            "mean_rank": ranked.mean_ranks[loss],
            "top_ranked": loss in ranked.top,
            "inferior_to_all": loss in ranked.inferior_to_all,
            "friedman_statistic": ranked.statistic,
            "friedman_p": ranked.p,
            "kendall_w": ranked.concordance,
        }
        for ranked in results.rankings
        for loss in results.losses
    )


def _run_name(columns: list[str], values: object) -> str:
    """The name of a training by its fold and seed."""
    values = values if isinstance(values, tuple) else (values,)
    return ", ".join(f"{column} {value}" for column, value in zip(columns, values, strict=True))


def _write_table(path: Path, table: pd.DataFrame) -> None:
    replace_file(path, table.to_csv(index=False, lineterminator="\n"))


def _p(p: float) -> str:
    return "–" if math.isnan(p) else format_p(p).removeprefix("= ")


def _directed(metric: str) -> str:
    return metric_name(metric) if higher_is_better(metric) else f"{metric_name(metric)} ↓"


def _breakable(name: str) -> Markup:
    """Let a long name in a table go on in the next line, at its capitals and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[a-z])(?=[A-Z])|(?<=_)", printable(name)))


def as_markdown(text: object) -> str:
    """Keep names and messages from being read as Markdown or HTML, and from ending their line."""
    line = " ".join(printable(text).split())
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", html.escape(line, quote=False))
