"""Read what the runs of a study have written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from monai_lossext.compare.metrics import FOREGROUND, METRICS, TESTED, with_f_scores
from monai_lossext.compare.plan import Study, StudyError
from monai_lossext.compare.run import Outcome
from monai_lossext.compare.statistics import Comparison, Ranking, compare_pairs, rank_losses

NO_METRICS = frozenset(("loss", "seed", "fold", "case", "image", "label", "mask", FOREGROUND))


@dataclass(frozen=True)
class Results:
    """What the finished runs of a study have shown; losses are called by their labels.

    Attributes:
        study: the study.
        cases: a row a run and case: ``loss``, ``seed``, ``case``, paths ``image``, ``label``, ``mask``, the `metrics`;
            also ``fold`` where the study has folds, and ``foreground`` where the bundle tells it.
        histories: a row a run and epoch: ``loss``, ``seed``, perhaps ``fold``, and the columns of history.csv.
        metrics: the metrics' columns.
        failed: the runs that are missing.
    """

    study: Study
    cases: pd.DataFrame
    histories: pd.DataFrame
    metrics: list[str]
    failed: list[Outcome]

    @property
    def losses(self) -> list[str]:
        """Labels of the losses that have a finished run, in the study's order."""
        present = set(self.cases["loss"])
        return [loss.label for loss in self.study.losses if loss.label in present]

    @property
    def runs(self) -> list[str]:
        """The columns that tell the runs of a loss apart: the seed, and the fold where there are several."""
        return [column for column in ("fold", "seed") if column in self.cases]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The tests of all pairs of losses on the metric that was chosen beforehand."""
        return compare_pairs(self.cases, TESTED)

    @cached_property
    def secondary(self) -> list[Comparison]:
        """The same tests on all other metrics, each corrected by itself."""
        return [pair for metric in self.metrics if metric != TESTED for pair in compare_pairs(self.cases, metric)]

    @cached_property
    def rankings(self) -> list[Ranking]:
        """The ranking of the losses on every metric that allows one."""
        rankings = [rank_losses(self.cases, metric) for metric in self.metrics]
        return [ranking for ranking in rankings if ranking is not None]


def read_results(study: Study, outcomes: list[Outcome]) -> Results:
    """Read the files of the finished runs, of which there must be one at least."""
    cases, histories = [], []
    for run in (outcome.run for outcome in outcomes if not outcome.error):
        folder = run.folder / "evaluation"
        # Read as text first, because a case may be called 007 or NA.
        table = pd.read_csv(folder / "cases.csv", dtype=str, keep_default_na=False)
        missing = {"case", "image", "label", TESTED}.difference(table.columns)
        if missing:
            raise StudyError(f"{folder / 'cases.csv'} lacks the columns {', '.join(sorted(missing))}")
        names = table[["case", "image", "label"]]
        table = with_f_scores(names.join(table.drop(columns=names.columns).replace("", "nan").astype(float)))
        masks = [_mask_of(folder / "masks", case) for case in table["case"]]
        fold = run.fold
        which = {"loss": run.loss.label, "seed": run.seed} | ({} if fold is None else {"fold": fold})
        cases.append(table.assign(**which, mask=masks))
        histories.append(pd.read_csv(run.folder / "history.csv").assign(**which))
    table = pd.concat(cases, ignore_index=True)
    found = [column for column in table if column not in NO_METRICS]
    metrics = [metric for metric in METRICS if metric in found] + [metric for metric in found if metric not in METRICS]
    metrics = _chosen(metrics, study.metrics)
    failed = [outcome for outcome in outcomes if outcome.error]
    return Results(study, table, pd.concat(histories, ignore_index=True), metrics, failed)


def _chosen(metrics: list[str], wanted: tuple[str, ...]) -> list[str]:
    for metric in wanted:
        if metric not in metrics:
            raise StudyError(f"--metrics: the scores have no {metric}; they have {', '.join(metrics)}")
    return [metric for metric in metrics if not wanted or metric in wanted or metric == TESTED]


def _mask_of(folder: Path, case: str) -> str:
    """The mask of a case: a NIfTI file if the bundle works on volumes, else a picture."""
    volume = folder / f"{case}.nii.gz"
    return str(volume if volume.is_file() else folder / f"{case}.png")
