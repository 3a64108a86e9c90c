"""Summaries, tests over cases and trainings, rankings and densities of per-case scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.neighbors import KernelDensity

from monai_lossext.compare.metrics import FOREGROUND, higher_is_better

ALPHA = 0.05
EXACT = 50  # cases up to which Wilcoxon's distribution is not taken for a normal one, as in SciPy


@dataclass(frozen=True)
class Comparison:
    """Two losses on one metric: what the cases and the trainings say together, and what the cases alone say.

    Attributes:
        metric: name of the metric's column.
        first: label of a loss.
        second: label of the other one.
        n: cases in which the metric is defined for both.
        excluded: cases that both have and in which it is undefined for at least one.
        trainings: of the loss that was trained less often.
        difference: mean of first - second over the n cases.
        error_cases: standard error of that mean, over the cases.
        error_trainings: the same over the trainings; NaN where a loss was trained once, and with it the next four.
        df: degrees of freedom of `error_trainings`.
        low: lower end of the difference's interval over cases and trainings, of 95 % for all pairs of losses together.
        high: its upper end.
        p: the level at which the interval ends at 0; multiplied by the number of pairs.
        survives: the largest standard deviation between trainings of one loss with which these networks' difference
            would be one of the losses, were it known; 0 where it would be with none.
        median: median of first - second.
        shift: Hodges-Lehmann estimate of first - second, the median of all means of two of its values.
        shift_low: lower end of its interval, which leaves out 0 where `p_holm` is below 0.05 (but for ties).
        shift_high: its upper end.
        rank_biserial: matched-pairs rank-biserial correlation (W+ - W-) / (W+ + W-), from -1 (second always higher) to
            1 (first always higher); 0 when all scores are equal.
        first_higher: cases in which the first is higher.
        second_higher: cases in which the second is higher.
        statistic: Wilcoxon's, the smaller sum of ranks.
        p_wilcoxon: of Wilcoxon's two-sided test over the cases, which takes the trained networks as they are.
        method: how it was computed.
        p_holm: the same corrected for the number of pairs after Holm.
    """

    metric: str
    first: str
    second: str
    n: int
    excluded: int
    trainings: int
    difference: float
    error_cases: float
    error_trainings: float
    df: float
    low: float
    high: float
    p: float
    survives: float
    median: float
    shift: float
    shift_low: float
    shift_high: float
    rank_biserial: float
    first_higher: int
    second_higher: int
    statistic: float
    p_wilcoxon: float
    method: str
    p_holm: float

    @property
    def counts_trainings(self) -> bool:
        """Whether both losses were trained more than once, without which nothing is said about losses."""
        return self.trainings > 1

    @property
    def significant(self) -> bool:
        """Whether a difference between the losses is shown."""
        return self.p < ALPHA

    @property
    def networks_differ(self) -> bool:
        """Whether it is shown that the trained networks would differ on other cases too."""
        return self.p_holm < ALPHA

    @property
    def higher(self) -> str:
        """The loss with the higher mean."""
        return self.first if self.difference > 0 else self.second

    @property
    def lower(self) -> str:
        """The loss with the lower mean."""
        return self.second if self.difference > 0 else self.first

    @property
    def better(self) -> str:
        """The loss with the better mean: the higher one, or the lower one for distances and differences."""
        return self.higher if higher_is_better(self.metric) else self.lower

    @property
    def worse(self) -> str:
        """The other one."""
        return self.second if self.better == self.first else self.first

    @property
    def network_higher(self) -> str:
        """The loss whose network the ranks say is higher."""
        return self.first if self.rank_biserial > 0 else self.second

    @property
    def network_better(self) -> str:
        """The loss whose network the ranks favour."""
        higher, lower = (self.first, self.second) if self.rank_biserial > 0 else (self.second, self.first)
        return higher if higher_is_better(self.metric) else lower

    @property
    def at_most(self) -> float:
        """How large the difference is at most, either way, by its interval."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Ranking:
    """How the losses of a study rank on one metric, over the cases in which it is defined for all of them.

    Attributes:
        metric: name of the metric's column.
        n: cases in which the metric is defined for every loss.
        best: the loss with the best mean.
        top: the best one and all that are not shown to be worse than it, in the order of the table; none where the
            trainings cannot be counted.
        inferior_to_all: losses that are shown to be worse than every other one.
        mean_ranks: mean rank of every loss over the cases; 1 is best, ties share.
        statistic: Friedman's chi-square; NaN for fewer than three losses.
        p: of Friedman's test that all networks rank alike.
        concordance: Kendall's W, from 0 (the cases rank the losses in all ways) to 1 (all in the same way).
    """

    metric: str
    n: int
    best: str
    top: list[str]
    inferior_to_all: list[str]
    mean_ranks: pd.Series
    statistic: float
    p: float
    concordance: float


def case_scores(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Arrange one metric with a row per case and a column per loss.

    The case is the unit of every statistic: its scores of several seeds are averaged first, and the cases of all folds,
    each tested in one of them, are put together. A case in which a metric is undefined (NaN) for one of the seeds is
    undefined for that loss.

    Args:
        cases: rows with the columns ``loss``, ``seed``, ``case`` and the metrics, perhaps ``fold``.
        metric: name of the metric's column.
    """
    groups = cases.groupby(["case", "loss"], sort=False)[metric]
    means = groups.mean().where(groups.count() == groups.size())
    return means.unstack("loss")[list(dict.fromkeys(cases["loss"]))]


def summarise(cases: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Summarise every metric of every loss.

    Returns:
        a row per loss and metric with ``n`` (cases in which the metric is defined), ``mean``, ``standard_error``
        (standard deviation with n - 1 / sqrt(n)), ``median``.

    Example:
        >>> cases = pd.DataFrame({"loss": "A", "seed": 0, "case": [*"abc"], "dice": [0.5, 0.7, 0.9]})
        >>> summarise(cases, ["dice"]).round(4).to_dict("records")
        [{'loss': 'A', 'metric': 'dice', 'n': 3, 'mean': 0.7, 'standard_error': 0.1155, 'median': 0.7}]
    """
    tables = []
    for metric in metrics:
        scores = case_scores(cases, metric)
        table = scores.agg(["count", "mean", "sem", "median"]).T.rename(columns={"count": "n", "sem": "standard_error"})
        tables.append(table.astype({"n": int}).rename_axis("loss").reset_index().assign(metric=metric))
    return pd.concat(tables)[["loss", "metric", "n", "mean", "standard_error", "median"]].reset_index(drop=True)


def training_means(cases: pd.DataFrame, metric: str) -> dict[str, NDArray[np.float64]]:
    """Return the mean of every training of every loss, one a seed, over the cases that all of them have.

    With folds the trainings of one seed, which together test every case once, count as one.
    """
    means = {}
    for loss, rows in cases.groupby("loss", sort=False):
        means[str(loss)] = rows.pivot_table(index="case", columns="seed", values=metric).dropna().mean().to_numpy()
    return means


def pair_variances(
    spreads: NDArray[np.float64], seeds: NDArray[np.int64], first: list[int], second: list[int]
) -> tuple[NDArray[np.float64], float]:
    """Return the variance of each pair's mean difference that comes from the trainings, and its degrees of freedom.

    It is that of all losses together, as in an analysis of variance, or the pair's own where that is larger: a loss
    whose trainings differ more than those of the others is not judged by theirs.

    Args:
        spreads: (..., losses), the variance between the trainings of a loss; whatever it is, for those trained once.
        seeds: (losses,), trainings of each.
        first: of each pair, a loss by its number.
        second: the other one.

    Returns:
        (..., pairs), NaN for pairs with a loss that was trained once; and the degrees of freedom.
    """
    df = int((seeds - 1).sum())
    spreads = np.where(seeds > 1, spreads, np.nan)
    pooled = np.nansum(spreads * (seeds - 1), axis=-1, keepdims=True) / max(df, 1)
    own = spreads / seeds
    together = pooled * (1 / seeds[first] + 1 / seeds[second])
    return np.maximum(own[..., first] + own[..., second], together), df


def half_width(
    level: ArrayLike, cases: ArrayLike, n: ArrayLike, trainings: ArrayLike, df: float
) -> NDArray[np.float64]:
    """Return half the width of a mean difference's interval over cases and trainings, with confidence 1 - level.

    The half-widths over cases and over trainings, each by Student's t, are added in squares, as in the method of
    variance estimates recovery (Zou and Donner 2008, Statistics in Medicine 27:1693). One t with Satterthwaite's
    degrees of freedom, which is narrower, does not hold its level with two or three seeds and many losses.

    Args:
        level: of error, two-sided.
        cases: variance of the mean difference that comes from the cases.
        n: cases.
        trainings: variance that comes from the trainings.
        df: its degrees of freedom.
    """
    tail = np.asarray(level) / 2
    over_cases, over_trainings = np.sqrt(cases), np.sqrt(trainings)
    return np.asarray(
        np.hypot(over_cases * stats.t.isf(tail, np.subtract(n, 1)), over_trainings * stats.t.isf(tail, df))
    )


def _p_of_interval(difference: NDArray[np.float64], *spread: ArrayLike) -> NDArray[np.float64]:
    """The level at which the interval of a difference ends at 0, by bisection of its logarithm."""
    low, high = np.full(difference.shape, -300.0), np.zeros(difference.shape)
    for _ in range(60):
        middle = (low + high) / 2
        wide = half_width(np.exp(middle), *spread) >= abs(difference)  # type: ignore[arg-type]
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return np.exp(high)


def compare_pairs(cases: pd.DataFrame, metric: str) -> list[Comparison]:
    """Compare every pair of losses on one metric, corrected for the number of pairs.

    A difference between losses is tested over cases and trainings (:func:`half_width`, after Bonferroni, so that the
    intervals of all pairs hold together), one between the trained networks over the cases by Wilcoxon's signed-rank
    test (after Holm). A pair without a case in common is left out.
    """
    scores = case_scores(cases, metric)
    scored = cases.groupby(["case", "loss"], sort=False).size().unstack("loss").notna()
    losses = list(scores.columns)
    pairs = [
        (first, second, difference)
        for first, second in combinations(losses, 2)
        if (difference := (scores[first] - scores[second]).dropna().to_numpy(dtype=float)).size
    ]
    if not pairs:
        return []
    means = training_means(cases, metric)
    seeds = np.array([means[loss].size for loss in losses])
    spreads = np.array([means[loss].var(ddof=1) if means[loss].size > 1 else np.nan for loss in losses])
    places = [[losses.index(pair[side]) for pair in pairs] for side in (0, 1)]
    trainings, df = pair_variances(spreads, np.maximum(seeds, 1), *places)
    n = np.array([difference.size for *_, difference in pairs])
    mean = np.array([difference.mean() for *_, difference in pairs])
    variance = np.array([stats.sem(difference) ** 2 if difference.size > 1 else np.nan for *_, difference in pairs])
    half = half_width(ALPHA / len(pairs), variance, n, trainings, df)
    p = np.where(np.isnan(half), np.nan, (_p_of_interval(mean, variance, n, trainings, df) * len(pairs)).clip(max=1))
    known = stats.norm.isf(ALPHA / len(pairs) / 2)
    survives = np.sqrt(np.maximum((mean / known) ** 2 - variance, 0) / 2)
    ranks = [_signed_ranks(difference) for *_, difference in pairs]
    corrected = holm([rank["p_wilcoxon"] for rank in ranks])
    found = []
    for i, (first, second, difference) in enumerate(pairs):
        # What Holm multiplies the p-value by: the interval at this level leaves out 0 where the corrected p is below.
        factor = corrected[i] / ranks[i]["p_wilcoxon"] if ranks[i]["p_wilcoxon"] > 0 else len(pairs)
        shift, low, high = hodges_lehmann(difference, ALPHA / factor)
        found.append(
            Comparison(
                metric=metric,
                first=first,
                second=second,
                n=difference.size,
                excluded=int((scored[first] & scored[second]).sum()) - difference.size,
                trainings=int(min(means[first].size, means[second].size)),
                difference=float(mean[i]),
                error_cases=float(np.sqrt(variance[i])),
                error_trainings=float(np.sqrt(trainings[i])),
                df=float(df if not np.isnan(trainings[i]) else np.nan),
                low=float(mean[i] - half[i]),
                high=float(mean[i] + half[i]),
                p=float(p[i]),
                survives=float(survives[i]),
                shift=shift,
                shift_low=low,
                shift_high=high,
                p_holm=float(min(corrected[i], 1.0)),
                **ranks[i],
            )
        )
    return found


def _signed_ranks(difference: NDArray[np.float64]) -> dict[str, Any]:
    other = difference[difference != 0]
    if other.size:
        statistic, p = stats.wilcoxon(difference, zero_method="wilcox", correction=False)
        ranks = stats.rankdata(np.abs(other))
        rank_biserial = float((np.sign(other) * ranks).sum() / ranks.sum())
    else:  # the same scores throughout: SciPy would divide by zero
        statistic, p, rank_biserial = 0.0, 1.0, 0.0
    # SciPy's choice of method, in words.
    if difference.size <= EXACT and other.size == difference.size == np.unique(np.abs(difference)).size:
        method = "exact"
    else:
        method = "exact, by permutation" if difference.size <= 13 else "normal approximation"
    return {
        "median": float(np.median(difference)),
        "rank_biserial": rank_biserial,
        "first_higher": int((difference > 0).sum()),
        "second_higher": int((difference < 0).sum()),
        "statistic": float(statistic),
        "p_wilcoxon": float(p),
        "method": method,
    }


def hodges_lehmann(difference: NDArray[np.float64], level: float = ALPHA) -> tuple[float, float, float]:
    """Return the median of all means of two differences, and its interval with confidence 1 - level.

    The interval holds the values that Wilcoxon's signed-rank test does not reject (Hollander and Wolfe, section 3.3);
    its ends are NaN where there are too few cases for one.

    >>> hodges_lehmann(np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    (8.5, 1.0, 32.0)
    """
    n = difference.size
    sums = np.sort((difference[:, None] + difference)[np.triu_indices(n)] / 2)
    place = _place_of_interval(n, level)
    low, high = (sums[place], sums[-1 - place]) if place >= 0 else (np.nan, np.nan)
    return float(np.median(sums)), float(low), float(high)


@lru_cache
def _place_of_interval(n: int, level: float) -> int:
    """How many of the means lie below the interval; -1 where n is too small for one."""
    if n > EXACT:
        most = n * (n + 1) / 4 - stats.norm.isf(level / 2) * math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return math.floor(most) if most >= 0 else -1
    counts = np.ones(1)  # of the ways to reach each sum of ranks
    for rank in range(1, n + 1):
        counts = np.pad(counts, (0, rank)) + np.pad(counts, (rank, 0))
    return int((2 * np.cumsum(counts) / 2.0**n < level).sum()) - 1


def rank_losses(cases: pd.DataFrame, metric: str, pairs: list[Comparison]) -> Ranking | None:
    """Rank the losses on one metric: groups by the comparisons of the pairs, mean ranks and Friedman's test.

    Args:
        cases: as for :func:`case_scores`.
        metric: name of the metric's column.
        pairs: what :func:`compare_pairs` found of it.

    Returns:
        None where there are fewer than two losses, or no case in which the metric is defined for all.
    """
    scores = case_scores(cases, metric).dropna()
    losses = list(scores.columns)
    if len(losses) < 2 or scores.empty:
        return None
    good = (1 if higher_is_better(metric) else -1) * scores.to_numpy(dtype=float)
    best = losses[int(good.mean(axis=0).argmax())]
    behind = {(pair.worse, pair.better) for pair in pairs if pair.significant}
    counted = any(pair.counts_trainings for pair in pairs)
    statistic, friedman_p, concordance = _friedman(good)
    return Ranking(
        metric=metric,
        n=len(good),
        best=best,
        top=[loss for loss in losses if (loss, best) not in behind] if counted else [],
        inferior_to_all=[a for a in losses if all((a, b) in behind for b in losses if b != a)],
        mean_ranks=pd.Series(stats.rankdata(-good, axis=1).mean(axis=0), losses),
        statistic=statistic,
        p=friedman_p,
        concordance=concordance,
    )


def _friedman(good: NDArray[np.float64]) -> tuple[float, float, float]:
    cases, losses = good.shape
    if losses < 3:
        return float("nan"), float("nan"), float("nan")
    if (good == good[:, :1]).all():  # all tied: SciPy would divide by zero
        return 0.0, 1.0, 0.0
    statistic, p = stats.friedmanchisquare(*good.T)
    return float(statistic), float(p), float(statistic / (cases * (losses - 1)))


def size_bins(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Average one metric over the cases of each tenth by size of the object.

    Args:
        cases: as for :func:`case_scores`, with the column "foreground", the share of voxels that the reference marks.
        metric: name of the metric's column.

    Returns:
        A row per tenth, from the smallest objects to the largest: ``foreground``, the median size in percent of the
        voxels, ``n``, the number of cases, and a column per loss. Cases of equal size share a tenth.
    """
    scores = case_scores(cases, metric)
    size = 100 * cases.groupby("case", sort=False)[FOREGROUND].first().reindex(scores.index)
    scores, size = scores[size.notna()], size.dropna()
    edges = np.unique(np.quantile(size, np.linspace(0, 1, 11)))[1:-1]
    tenth = pd.Series(np.searchsorted(edges, size), size.index)
    table = scores.groupby(tenth).mean()
    by_tenth = size.groupby(tenth)
    return pd.concat([by_tenth.median().rename(FOREGROUND), by_tenth.size().rename("n"), table], axis=1)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Correct the p-values of several tests with Holm's step-down method; one above 1 means 1.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    corrected = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    return corrected[np.argsort(order)]


def smallest_p(n: int, pairs: int) -> float:
    """Return the smallest corrected p-value that n cases can give when this many pairs are tested."""
    return min(1.0, pairs * 2.0 ** (1 - n))


def bandwidth(values: ArrayLike) -> float:
    """Choose a kernel density's bandwidth: 1.059 min(sd, interquartile range / 1.349) n^(-1/5); 0 for equal values.

    Of the two measures of spread a vanishing one is not used, as when more than half of the values are equal.
    """
    x = np.asarray(values, dtype=float)
    if x.size < 2:
        return 0.0
    spreads = [spread for spread in (x.std(ddof=1), stats.iqr(x) / 1.349) if spread > 0]
    return float(1.059 * min(spreads, default=0.0) * x.size**-0.2)


def density(values: ArrayLike, at: ArrayLike, width: float) -> NDArray[np.float64]:
    """Estimate a density with the Epanechnikov kernel.

    Args:
        values: the observed values.
        at: where to estimate.
        width: half-width of the kernel, in the unit of the values.
    """
    estimate = KernelDensity(kernel="epanechnikov", bandwidth=width).fit(np.reshape(values, (-1, 1)))
    return np.asarray(np.exp(estimate.score_samples(np.reshape(at, (-1, 1)))))
