"""Summaries, paired tests and densities of per-case scores."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.neighbors import KernelDensity

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """A paired test of two losses on one metric.

    `difference` is the mean of first - second over the `n` cases in which both are defined, `standard_error` belongs to
    it. `p` is the Wilcoxon test's, `p_holm` is `p` corrected for the number of pairs that were tested.
    `direction` is +1 where the ranks favour the first loss and -1 where they favour the second.
    """

    first: str
    second: str
    n: int
    difference: float
    standard_error: float
    first_higher: int
    second_higher: int
    statistic: float
    p: float
    method: str
    direction: int
    p_holm: float = 1.0

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05."""
        return self.p_holm < ALPHA

    @property
    def higher(self) -> str:
        """The loss that the ranks favour."""
        return self.first if self.direction > 0 else self.second

    @property
    def lower(self) -> str:
        """The loss that the ranks do not favour."""
        return self.second if self.direction > 0 else self.first


def case_scores(cases: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Arrange one metric with a row per case and a column per loss.

    The case is the unit of every statistic: the scores of several seeds are averaged first. A case in which a metric is
    undefined (NaN) for one of the seeds is undefined for that loss.

    Args:
        cases: rows with the columns ``loss``, ``seed``, ``case`` and the metrics.
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
    paired = [scores[[*pair]].dropna() for pair in combinations(scores.columns, 2)]
    pairs = [_test(both) for both in paired if len(both)]
    corrected = holm([pair.p for pair in pairs])
    return [Comparison(**{**vars(pair), "p_holm": float(p)}) for pair, p in zip(pairs, corrected, strict=True)]


def _test(both: pd.DataFrame) -> Comparison:
    first, second = both.columns
    difference = (both[first] - both[second]).to_numpy(dtype=float)
    other = difference[difference != 0]
    if other.size:
        statistic, p = stats.wilcoxon(both[first], both[second], zero_method="wilcox", correction=False)
        signed_ranks = np.sign(other) * stats.rankdata(np.abs(other))
    else:  # the same scores throughout: SciPy would divide by zero
        statistic, p, signed_ranks = 0.0, 1.0, np.zeros(1)
    # SciPy's choice of method, in words.
    if difference.size <= 50 and other.size == difference.size == np.unique(np.abs(difference)).size:
        method = "exact"
    else:
        method = "exact, by permutation" if difference.size <= 13 else "normal approximation"
    return Comparison(
        first=first,
        second=second,
        n=difference.size,
        difference=float(difference.mean()),
        standard_error=float(stats.sem(difference)) if difference.size > 1 else float("nan"),
        first_higher=int((difference > 0).sum()),
        second_higher=int((difference < 0).sum()),
        statistic=float(statistic),
        p=float(p),
        method=method,
        direction=int(np.sign(signed_ranks.sum())),
    )


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
