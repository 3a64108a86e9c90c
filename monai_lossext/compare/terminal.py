"""What a study shows on the terminal: progress while it runs, then its table."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from monai_lossext.compare.conclusions import format_p
from monai_lossext.compare.metrics import METRICS, metric_name
from monai_lossext.compare.plan import Run, Study
from monai_lossext.compare.report import summary_rows
from monai_lossext.compare.results import Results
from monai_lossext.compare.run import Outcome
from monai_lossext.compare.status import Standing
from monai_lossext.text import printable

LINES = 10  # of a training, where there is no bar
SHORT_NAMES = {  # of the metrics that a terminal has room for; the report has all
    "jaccard": "Jaccard",
    "dice": "Dice",
    "mcc": "MCC",
    "accuracy": "Acc.",
    "sensitivity": "Sens.",
    "specificity": "Spec.",
}


def escape(text: str) -> str:
    """Keep a name or message from being read as markup, or obeyed by the terminal."""
    return escape_markup(printable(text))


class TerminalWatcher:
    """Shows how a study goes on: a bar over all epochs where the console is a terminal, and a line as each run ends."""

    def __init__(self, study: Study, console: Console) -> None:
        self.study = study
        self.console = console
        self.done: dict[Path, int] = {}  # epochs of the runs that have begun or ended
        self.begin: dict[Path, float] = {}
        self.scores: dict[Path, str] = {}  # the last ones of the runs, as they are shown
        starts = {run.start.folder: run.start for run in study.runs() if run.start}
        self.runs = [*starts.values(), *study.runs()]
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=sum(run.epochs for run in self.runs))

    def __enter__(self) -> TerminalWatcher:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def started(self, run: Run, resumed: bool) -> None:
        """Name the run whose training begins."""
        self.begin[run.folder] = time.monotonic()
        number = f"{len(self.done) + 1}/{len(self.runs)}"
        self.done[run.folder] = 0
        self.console.print(f"[bold]{number} {escape(run.name)}[/]: {'goes on' if resumed else 'starts'}")
        self.bar.update(self.task, description=escape(run.name))

    def epoch(self, run: Run, done: int, row: dict[str, str]) -> None:
        """Show the newest epoch of the run."""
        primary = self.study.primary
        shown = f"val_{primary}"
        if shown not in row:  # the first that the bundle's validation computes
            shown = next((name for name in row if name.startswith("val_")), shown)
        if row.get(shown):  # not every epoch ends with a validation
            self.scores[run.folder] = f", {escape(metric_name(shown.removeprefix('val_')))} {float(row[shown]):.3f}"
        text = f"{escape(run.name)}: epoch {done}/{run.epochs}{self.scores.get(run.folder, '')}"
        self._show(run, done, text)
        if not self.console.is_terminal and done % max(1, run.epochs // LINES) == 0:
            self.console.print(f"  {text}", highlight=False, soft_wrap=True)

    def ended(self, outcome: Outcome) -> None:
        """Say how the run ended."""
        run = outcome.run
        if outcome.error:
            what, *log = outcome.error.splitlines()
            ending = f"[{'yellow' if outcome.futile else 'red'}]{escape(what)}[/]" + "".join(
                f"\n    {escape(line)}" for line in log[-1:]
            )
        elif outcome.reused:
            ending = "was finished before"
        else:
            ending = f"[green]finished[/] in {duration(time.monotonic() - self.begin[run.folder])}"
        self.console.print(f"  {escape(run.name)}: {ending}", highlight=False, soft_wrap=True)
        self._show(run, run.epochs)

    def _show(self, run: Run, done: int, text: str | None = None) -> None:
        self.done[run.folder] = done
        self.bar.update(self.task, description=text, completed=sum(self.done.values()))


def duration(seconds: float) -> str:
    """Write a time span as people read it.

    >>> duration(3700)
    '1:01:40'
    """
    return str(timedelta(seconds=round(seconds)))


def status_table(standings: list[Standing]) -> Table:
    """Return the table of how far all runs of a study are."""
    colours = {"finished": "green", "running": "cyan", "failed": "red", "stopped": "yellow", "other": "red"}
    table = Table("Run", "State", "Epochs", "", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for there in standings:
        detail = there.detail.splitlines()
        if there.state == "failed":  # what failed, and the last words of it
            detail = detail[:1] + detail[1:][-1:]
        table.add_row(
            escape(there.run.name),
            f"[{colours.get(there.state, 'default')}]{there.state}[/]",
            f"{there.epochs}/{there.run.epochs}",
            escape("\n".join(detail)),
        )
    return table


def summary_table(results: Results) -> Table:
    """Return the table of mean ± standard error per loss and metric, with the p-values against the baseline."""
    study = results.study
    kind = "over cases and trainings" if results.counts_trainings else "of these networks, not of the losses"
    table = Table(
        title=f"{study.section} cases: mean ± standard error",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption=f"p: {escape(metric_name(study.primary))} against {escape(study.label(study.baseline))}, {kind}",
    )
    table.add_column("Loss", no_wrap=True, max_width=20)
    metrics = [metric for metric in results.metrics if metric in SHORT_NAMES or metric not in METRICS]
    for metric in metrics:
        name = SHORT_NAMES.get(metric, metric)
        table.add_column(name, justify="right", min_width=max(6, len(name)))
    table.add_column("p", justify="right", no_wrap=True)
    for row in summary_rows(results):
        p = "–" if row.p is None else format_p(row.p).removeprefix("= ").replace(" ", "")
        # A narrow terminal breaks a cell at its one space.
        cells = [row.cells[metric].replace("± ", "±") for metric in metrics]
        table.add_row(escape(row.loss), *cells, p)
    return table
