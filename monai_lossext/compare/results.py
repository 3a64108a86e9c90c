"""Read what the runs of a study have written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from monai_lossext.compare.metrics import FOREGROUND, METRICS, THRESHOLD, with_f_scores
from monai_lossext.compare.plan import Study, StudyError
from monai_lossext.compare.run import Outcome
from monai_lossext.compare.statistics import Comparison, Ranking, compare_pairs, rank_losses

NO_METRICS = frozenset(("loss", "seed", "fold", "case", "image", "label", "mask", FOREGROUND, THRESHOLD))


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
        stopped: the runs that were stopped as hopeless; their losses have no results, whatever their other runs.
    """

    study: Study
    cases: pd.DataFrame
    histories: pd.DataFrame
    metrics: list[str]
    failed: list[Outcome]
    stopped: tuple[Outcome, ...] = ()

    @property
    def losses(self) -> list[str]:
        """Labels of the losses that have a finished run, in the study's order."""
        present = set(self.cases["loss"])
        return [loss.label for loss in self.study.losses if loss.label in present]

    @property
    def runs(self) -> list[str]:
        """The columns that tell the runs of a loss apart: the seed, and the fold where there are several."""
        return [column for column in ("fold", "seed") if column in self.cases]

    @property
    def primary(self) -> str:
        """The metric that was chosen beforehand, on which the findings rest."""
        return self.study.primary

    @property
    def counts_trainings(self) -> bool:
        """Whether anything can be said about losses: two of them were trained twice at least."""
        return any(pair.counts_trainings for pair in self.comparisons)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The comparisons of all pairs of losses on the primary metric."""
        return compare_pairs(self.cases, self.primary)

    @cached_property
    def secondary(self) -> list[Comparison]:
        """The same on all other metrics, each corrected by itself."""
        return [pair for metric in self.metrics if metric != self.primary for pair in compare_pairs(self.cases, metric)]

    @cached_property
    def rankings(self) -> list[Ranking]:
        """The ranking of the losses on every metric that allows one."""
        pairs = [*self.comparisons, *self.secondary]
        rankings = [
            rank_losses(self.cases, metric, [pair for pair in pairs if pair.metric == metric])
            for metric in self.metrics
        ]
        return [ranking for ranking in rankings if ranking is not None]


def read_results(study: Study, outcomes: list[Outcome]) -> Results:
    """Read the files of the finished runs, of which there must be one at least.

    A loss with a run that was stopped as hopeless has none: its other runs alone would speak too well of it.

    Raises:
        StudyError: of a score table that lacks a column or is that of another run; no loss is left.
    """
    stopped = tuple(outcome for outcome in outcomes if outcome.futile)
    hopeless = {outcome.run.loss.key for outcome in stopped}
    outcomes = [outcome for outcome in outcomes if outcome.run.loss.key not in hopeless]
    if stopped and all(outcome.error for outcome in outcomes):
        raise StudyError(f"no loss has results: of {stopped[0].run.name} and {len(stopped) - 1} more all were stopped")
    cases, histories = [], []
    for run in (outcome.run for outcome in outcomes if not outcome.error):
        folder = run.folder / "evaluation"
        # Read as text first, because a case may be called 007 or NA.
        table = pd.read_csv(folder / "cases.csv", dtype=str, keep_default_na=False)
        missing = {"case", "image", "label", study.primary}.difference(table.columns)
        if missing:
            raise StudyError(f"{folder / 'cases.csv'} lacks the columns {', '.join(sorted(missing))}")
        names = table[["case", "image", "label"]]
        table = with_f_scores(names.join(table.drop(columns=names.columns).replace("", "nan").astype(float)))
        masks = [_mask_of(folder / "masks", case) for case in table["case"]]
        fold = run.fold
        which = {"loss": run.loss.label, "seed": run.seed} | ({} if fold is None else {"fold": fold})
        cases.append(table.assign(**which, mask=masks))
        histories.append(pd.read_csv(run.folder / "history.csv").assign(**which))
    _refuse_twins(cases, study.primary)
    table = pd.concat(cases, ignore_index=True)
    found = [column for column in table if column not in NO_METRICS]
    metrics = [metric for metric in METRICS if metric in found] + [metric for metric in found if metric not in METRICS]
    metrics = chosen(metrics, study.metrics, study.primary)
    failed = [outcome for outcome in outcomes if outcome.error]
    return Results(study, table, pd.concat(histories, ignore_index=True), metrics, failed, stopped)


def _refuse_twins(tables: list[pd.DataFrame], primary: str) -> None:
    """Refuse two runs with the same scores: one of them was scored twice, or loss and seed change nothing."""
    seen: dict[bytes, str] = {}
    for table in tables:
        run = ", ".join(f"{name} {table[name].iloc[0]}" for name in ("loss", "fold", "seed") if name in table)
        if table[primary].dropna().isin((0, 1)).all():
            continue  # masks that are all empty, or all right, are alike whatever made them
        scores = table.drop(columns=["loss", "seed", "mask"])
        digest = pd.util.hash_pandas_object(scores, index=False).to_numpy().tobytes()
        if digest in seen:
            raise StudyError(
                f"{seen[digest]} and {run} have the same scores in every case: the bundle does not train with the loss"
                " or the seed that it is given, or both runs were scored with the same weights"
            )
        seen[digest] = run


def chosen(metrics: list[str], wanted: tuple[str, ...], primary: str) -> list[str]:
    """Return those metrics of the scores that are wanted, all without a wish, and the primary one.

    Raises:
        StudyError: when the scores lack one that is wanted.
    """
    for metric in wanted:
        if metric not in metrics:
            raise StudyError(f"--metrics: the scores have no {metric}; they have {', '.join(metrics)}")
    return [metric for metric in metrics if not wanted or metric in wanted or metric == primary]


def _mask_of(folder: Path, case: str) -> str:
    """The mask of a case: a NIfTI file if the bundle works on volumes, else a picture."""
    volume = folder / f"{case}.nii.gz"
    return str(volume if volume.is_file() else folder / f"{case}.png")
