"""Summaries, paired tests, rankings and densities of per-case scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.neighbors import KernelDensity

from monai_lossext.compare.metrics import FOREGROUND, higher_is_better

ALPHA = 0.05
RESAMPLES = 10_000
SEED = 20240101  # of the bootstrap: the same study gives the same report
CHUNK = 500  # resamples at once, which bounds the memory


@dataclass(frozen=True)
class Comparison:
    """A paired test of two losses on one metric.

    Attributes:
        metric: name of the metric's column.
        first: label of a loss.
        second: label of the other one.
        n: cases in which the metric is defined for both.
        excluded: cases that both have and in which it is undefined for at least one.
        difference: mean of first - second over the n cases.
        standard_error: of that mean.
        median: median of first - second.
        low: lower end of the median's confidence interval of at least 95 %, from order statistics; NaN below 6 cases.
        high: its upper end.
        rank_biserial: matched-pairs rank-biserial correlation (W+ - W-) / (W+ + W-), from -1 (second always higher) to
            1 (first always higher); 0 when all scores are equal.
        first_higher: cases in which the first is higher.
        second_higher: cases in which the second is higher.
        statistic: Wilcoxon's, the smaller sum of ranks.
        p: of Wilcoxon's two-sided test.
        method: how p was computed.
        p_holm: p corrected for the number of pairs that were tested on this metric.
    """

    metric: str
    first: str
    second: str
    n: int
    excluded: int
    difference: float
    standard_error: float
    median: float
    low: float
    high: float
    rank_biserial: float
    first_higher: int
    second_higher: int
    statistic: float
    p: float
    method: str
    p_holm: float = 1.0

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05."""
        return self.p_holm < ALPHA

    @property
    def direction(self) -> int:
        """1 where the ranks favour higher values of the first loss, -1 where of the second, 0 for neither."""
        return int(np.sign(self.rank_biserial))

    @property
    def higher(self) -> str:
        """The loss whose values the ranks say are higher."""
        return self.first if self.direction > 0 else self.second

    @property
    def lower(self) -> str:
        """The loss whose values the ranks say are lower."""
        return self.second if self.direction > 0 else self.first

    @property
    def better(self) -> str:
        """The loss that the ranks favour: the higher one, or the lower one for distances and differences."""
        return self.higher if higher_is_better(self.metric) else self.lower


@dataclass(frozen=True)
class Ranking:
    """How the losses of a study rank on one metric, over the cases in which it is defined for all of them.

    Attributes:
        metric: name of the metric's column.
        n: cases in which the metric is defined for every loss.
        best: the loss with the best mean.
        top: the best one and all that are not significantly inferior to it, in the order of the table.
        inferior_to_all: losses that are significantly inferior to every other one.
        pairs: a row per pair: ``first``, ``second``, ``difference`` (mean of first - second), the 2.5 and 97.5 %
            quantiles ``low`` and ``high`` of its resampled values, ``p_first_better`` (share of them that are not
            better than 0) and ``p_first_worse`` (share that are not worse).
        mean_ranks: mean rank of every loss over the cases; 1 is best, ties share.
        statistic: Friedman's chi-square; NaN for fewer than three losses.
        p: of Friedman's test that all losses rank alike.
        concordance: Kendall's W, from 0 (the cases rank the losses in all ways) to 1 (all in the same way).
    """

    metric: str
    n: int
    best: str
    top: list[str]
    inferior_to_all: list[str]
    pairs: pd.DataFrame
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


def compare_pairs(cases: pd.DataFrame, metric: str) -> list[Comparison]:
    """Test every pair of losses on one metric, Wilcoxon's signed-rank test with Holm's correction over the pairs.

    A pair without a case in common is left out.
    """
    scores = case_scores(cases, metric)
    scored = cases.groupby(["case", "loss"], sort=False).size().unstack("loss").notna()
    pairs = []
    for first, second in combinations(scores.columns, 2):
        difference = (scores[first] - scores[second]).dropna().to_numpy(dtype=float)
        if difference.size:
            excluded = int((scored[first] & scored[second]).sum()) - difference.size
            pairs.append(_test(metric, first, second, difference, excluded))
    corrected = holm([pair.p for pair in pairs])
    return [replace(pair, p_holm=float(p)) for pair, p in zip(pairs, corrected, strict=True)]


def _test(metric: str, first: str, second: str, difference: NDArray[np.float64], excluded: int) -> Comparison:
    other = difference[difference != 0]
    if other.size:
        statistic, p = stats.wilcoxon(difference, zero_method="wilcox", correction=False)
        ranks = stats.rankdata(np.abs(other))
        rank_biserial = float((np.sign(other) * ranks).sum() / ranks.sum())
    else:  # the same scores throughout: SciPy would divide by zero
        statistic, p, rank_biserial = 0.0, 1.0, 0.0
    # SciPy's choice of method, in words.
    if difference.size <= 50 and other.size == difference.size == np.unique(np.abs(difference)).size:
        method = "exact"
    else:
        method = "exact, by permutation" if difference.size <= 13 else "normal approximation"
    places = _places_of_interval(difference.size)
    low, high = (float("nan"),) * 2 if places is None else np.sort(difference)[list(places)]
    return Comparison(
        metric=metric,
        first=first,
        second=second,
        n=difference.size,
        excluded=excluded,
        difference=float(difference.mean()),
        standard_error=float(stats.sem(difference)) if difference.size > 1 else float("nan"),
        median=float(np.median(difference)),
        low=float(low),
        high=float(high),
        rank_biserial=rank_biserial,
        first_higher=int((difference > 0).sum()),
        second_higher=int((difference < 0).sum()),
        statistic=float(statistic),
        p=float(p),
        method=method,
    )


@lru_cache
def _places_of_interval(n: int) -> tuple[int, int] | None:
    """Which of n sorted values are the ends of the median's confidence interval; None where n is too small for one."""
    ends = stats.quantile_test(np.arange(n), p=0.5).confidence_interval(0.95)
    return None if np.isnan([ends.low, ends.high]).any() else (int(ends.low), int(ends.high))


def rank_losses(cases: pd.DataFrame, metric: str, resamples: int = RESAMPLES, seed: int = SEED) -> Ranking | None:
    """Rank the losses on one metric: paired bootstrap of the mean differences, mean ranks and Friedman's test.

    A loss is significantly inferior to another if fewer than 5 % of the resampled mean differences are not worse, as in
    Eelbode et al. 2020 (doi:10.1109/TMI.2020.3002417); there is no correction for the number of pairs.

    Returns:
        None where there are fewer than two losses, or no case in which the metric is defined for all.
    """
    scores = case_scores(cases, metric).dropna()
    losses = list(scores.columns)
    if len(losses) < 2 or scores.empty:
        return None
    sign = 1 if higher_is_better(metric) else -1
    good = sign * scores.to_numpy(dtype=float)
    pairs = list(combinations(range(len(losses)), 2))
    differences = np.stack([good[:, first] - good[:, second] for first, second in pairs], axis=1)
    resampled = bootstrap_means(differences, resamples, seed)
    low, high = np.sort(np.quantile(sign * resampled, (0.025, 0.975), axis=0), axis=0)
    table = pd.DataFrame(
        {
            "first": [losses[first] for first, _ in pairs],
            "second": [losses[second] for _, second in pairs],
            "difference": sign * differences.mean(axis=0),
            "low": low,
            "high": high,
            "p_first_better": (resampled <= 0).mean(axis=0),
            "p_first_worse": (resampled >= 0).mean(axis=0),
        }
    )
    p = np.ones((len(losses), len(losses)))  # of "the row's loss is inferior to the column's"
    for (first, second), worse, better in zip(pairs, table["p_first_worse"], table["p_first_better"], strict=True):
        p[first, second], p[second, first] = worse, better
    best = int(good.mean(axis=0).argmax())
    others = [[other for other in range(len(losses)) if other != loss] for loss in range(len(losses))]
    ranks = stats.rankdata(-good, axis=1)
    statistic, friedman_p, concordance = _friedman(good)
    return Ranking(
        metric=metric,
        n=len(good),
        best=losses[best],
        top=[name for loss, name in enumerate(losses) if loss == best or p[loss, best] >= ALPHA],
        inferior_to_all=[name for loss, name in enumerate(losses) if (p[loss, others[loss]] < ALPHA).all()],
        pairs=table,
        mean_ranks=pd.Series(ranks.mean(axis=0), losses),
        statistic=statistic,
        p=friedman_p,
        concordance=concordance,
    )


def bootstrap_means(
    differences: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = SEED
) -> NDArray[np.float64]:
    """Resample the cases with replacement.

    Args:
        differences: (cases, pairs), in the unit of the metric.
        resamples: how often as many cases are drawn.
        seed: of the draws, which are the same for all pairs.

    Returns:
        The means (resamples, pairs).
    """
    cases = len(differences)
    generator = np.random.default_rng(seed)
    means = []
    for begin in range(0, resamples, CHUNK):
        drawn = generator.integers(0, cases, (min(CHUNK, resamples - begin), cases))
        rows = np.arange(len(drawn))[:, None] * cases
        counts = np.bincount((drawn + rows).ravel(), minlength=drawn.size).reshape(drawn.shape)
        means.append(counts @ differences / cases)
    return np.concatenate(means)


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
    """Correct the p-values of several tests with Holm's step-down method.

    Example:
        >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    corrected = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1)).clip(max=1.0)
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
