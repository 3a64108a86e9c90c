"""Write the report of a study: one HTML page, the same in Markdown, tables as CSV and figures as PNG."""

from __future__ import annotations

import base64
import html
import re
import shlex
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import NamedTuple

import monai
import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

import monai_lossext
from monai_lossext.compare.conclusions import findings, format_p, limits, method
from monai_lossext.compare.figures import box_plot, density_plot, learning_curves, loss_curves, overlays
from monai_lossext.compare.metrics import TESTED, metric_name
from monai_lossext.compare.plan import Run
from monai_lossext.compare.results import Results
from monai_lossext.compare.run import bundle_command
from monai_lossext.compare.statistics import summarise
from monai_lossext.files import replace_file


class SummaryRow(NamedTuple):
    """A loss with mean ± standard error of each metric, and the corrected p-value against the baseline, if any."""

    loss: str
    cells: dict[str, str]
    p: float | None


def write_report(results: Results) -> Path:
    """Write the report folder: report.html, report.md, cases.csv, summary.csv, comparisons.csv and figures/.

    Returns:
        The path of report.html, which holds its figures and can be sent and opened by itself.
    """
    study = results.study
    folder = study.output / "report"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    _write_table(folder / "cases.csv", results.cases[["loss", "seed", "case", *results.metrics]])
    _write_table(folder / "summary.csv", summarise(results.cases, results.metrics))
    _write_table(folder / "comparisons.csv", pd.DataFrame([asdict(pair) for pair in results.comparisons]))

    notes = []
    curves = [learning_curves(results), loss_curves(results)]
    defined = [metric for metric in results.metrics if results.cases[metric].notna().any()]
    distributions = [plot(results, metric) for metric in defined for plot in (box_plot, density_plot)]
    try:
        outlines = list(overlays(results))
    except OSError as error:  # the pictures may have been moved since the training; all else can still be told
        outlines = []
        notes.append(f"The outlines could not be drawn: {error}")
    data = {picture.name: picture.png() for picture in [*curves, *distributions, *outlines]}
    for name, png in data.items():
        replace_file(folder / "figures" / f"{name}.png", png)

    run = Run(study, study.losses[0], study.seeds[0])
    context = {
        "study": study,
        "results": results,
        "cases": results.cases["case"].nunique(),
        "tested": metric_name(TESTED),
        "rows": summary_rows(results),
        "method": method(results),
        "seed_means": results.cases.pivot_table(index="loss", columns="seed", values=TESTED).loc[results.losses],
        "findings": findings(results),
        "limits": limits(results),
        "sections": {"Learning curves": curves, "Scores of the cases": distributions, "Pictures": outlines},
        "notes": notes,
        "commands": [shlex.join(["python", *bundle_command(run, evaluate=evaluate)[1:]]) for evaluate in (False, True)],
        "versions": {package.__name__: package.__version__ for package in (monai_lossext, monai, torch)},
        "today": date.today().isoformat(),
        "base64": {name: base64.b64encode(png).decode() for name, png in data.items()},
    }
    environment = Environment(
        loader=PackageLoader("monai_lossext.compare"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"p": format_p, "metric": metric_name, "breakable": _breakable, "md": _markdown}
    for name in ("report.md", "report.html"):
        replace_file(folder / name, environment.get_template(name).render(context))
    return folder / "report.html"


def summary_rows(results: Results) -> list[SummaryRow]:
    """Return a row per loss for people to read."""
    summary = summarise(results.cases, results.metrics).set_index(["loss", "metric"])
    cases = results.cases["case"].nunique()
    baseline = results.study.label(results.study.baseline)
    p = {frozenset((pair.first, pair.second)): pair.p_holm for pair in results.comparisons}
    rows = []
    for loss in results.losses:
        cells = {}
        for metric in results.metrics:
            n, mean, error = summary.loc[(loss, metric), ["n", "mean", "standard_error"]]
            cells[metric] = f"{mean:.3f} ± {error:.3f}" if n else "n/a"
            if 0 < n < cases:  # a metric may be undefined for some cases, which must not pass unseen
                cells[metric] += f" (n = {n:.0f})"
        rows.append(SummaryRow(loss, cells, p.get(frozenset((loss, baseline)))))
    return rows


def _write_table(path: Path, table: pd.DataFrame) -> None:
    replace_file(path, table.to_csv(index=False, lineterminator="\n"))


def _breakable(name: str) -> Markup:
    """Let a long name in a table go on in the next line, at its capitals and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[a-z])(?=[A-Z])|(?<=_)", name))


def _markdown(text: object) -> str:
    """Keep names and messages from being read as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", html.escape(str(text), quote=False))
