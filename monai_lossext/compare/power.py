"""What a study can show: the smallest difference between two losses for so many cases, seeds and losses."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monai_lossext.compare.statistics import ALPHA, case_scores, half_width, pair_variances, training_means

DRAWS = 4000
SEED = 20240101
MOST_CASES = 20_000
POWER = 0.8


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a score, in its unit.

    Args:
        trainings: between trainings of one loss.
        own: of what a case gives to one loss, whatever the training.
        noise: of a single score beside that.
    """

    trainings: float
    own: float
    noise: float = 0.0


# About what docs/isic2017.md found with a 2D U-Net on ISIC 2017: 0.0045 between trainings, 0.07 over the differences of
# the cases between two networks.
EXAMPLE = Spread(trainings=0.0045, own=0.05)


def spread_of(cases: pd.DataFrame, metric: str) -> Spread | None:
    """Estimate the spread from the scores of a study, by analysis of variance, averaged over its losses.

    Args:
        cases: as for :func:`monai_lossext.compare.statistics.case_scores`.
        metric: name of the metric's column.

    Returns:
        None where no loss has two trainings, or there are fewer than two losses or cases.
    """
    between, noise, weights = [], [], []
    for _, rows in cases.groupby("loss", sort=False):
        scores = rows.pivot_table(index="case", columns="seed", values=metric).dropna().to_numpy()
        n, seeds = scores.shape
        if seeds > 1 and n > 1:
            rest = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
            between.append(scores.mean(axis=0).var(ddof=1))
            noise.append((rest**2).sum() / (n - 1) / (seeds - 1))
            weights.append(seeds - 1)
    scores = case_scores(cases, metric).dropna()
    if not between or scores.shape[1] < 2:
        return None
    error = float(np.average(noise, weights=weights))
    trainings = float(np.average(between, weights=weights)) - error / len(scores)
    # What losses and cases share is not in the residuals of the case means.
    rest = scores.sub(scores.mean(axis=1), axis=0).sub(scores.mean(axis=0)) + scores.to_numpy().mean()
    own = float((rest**2).to_numpy().sum()) / (len(scores) - 1) / (scores.shape[1] - 1)
    seeds = np.mean([means.size for means in training_means(cases, metric).values()])
    return Spread(max(trainings, 0) ** 0.5, max(own - error / seeds, 0) ** 0.5, error**0.5)


def smallest_difference(spread: Spread, cases: int, seeds: int, losses: int, power: float = POWER) -> float:
    """Return the difference between two of the losses that such a study shows with that probability; inf if none.

    By simulation of the variances that the study will estimate, with :func:`half_width`.
    """
    if seeds < 2 or cases < 2:
        return float("inf")
    generator = np.random.default_rng(SEED)
    training, noise = spread.trainings**2, spread.noise**2
    over_cases = 2 * (spread.own**2 + noise / seeds) / cases
    estimated = over_cases * generator.chisquare(cases - 1, (DRAWS, 1)) / (cases - 1)
    spreads = (training + noise / cases) * generator.chisquare(seeds - 1, (DRAWS, losses)) / (seeds - 1)
    trainings, df = pair_variances(spreads, np.full(losses, seeds), [0], [1])
    half = half_width(ALPHA * 2 / losses / (losses - 1), estimated, cases, trainings, df)[:, 0]
    found = generator.normal(0, (over_cases + 2 * training / seeds) ** 0.5, DRAWS)
    return float(np.quantile(half - found, power))


def cases_needed(spread: Spread, difference: float, seeds: int, losses: int, power: float = POWER) -> int | None:
    """Return how many cases show that difference with that probability; None if MOST_CASES do not."""
    low, high = 1, MOST_CASES
    if smallest_difference(spread, high, seeds, losses, power) > difference:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = smallest_difference(spread, middle, seeds, losses, power) <= difference
        low, high = (low, middle) if enough else (middle, high)
    return high


def table(spread: Spread, cases: list[int], seeds: list[int], losses: int, power: float = POWER) -> pd.DataFrame:
    """Return the smallest differences with a row per number of seeds and a column per number of cases."""
    values = [[smallest_difference(spread, n, count, losses, power) for n in cases] for count in seeds]
    return pd.DataFrame(values, pd.Index(seeds, name="seeds"), pd.Index(cases, name="cases"))


def figure(spread: Spread, seeds: list[int], losses: int, difference: float | None, power: float = POWER) -> Figure:
    """Draw the smallest difference against the number of cases, a line per number of seeds."""
    from monai_lossext.compare.figures import STYLE, WIDTH  # which draws all else of a report

    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(WIDTH, 3.2), layout="constrained")
        axes = drawn.subplots()
        cases: NDArray[np.int64] = np.unique(np.geomspace(10, 2000, 25).astype(int))
        for count in seeds:
            values = [smallest_difference(spread, int(n), count, losses, power) for n in cases]
            axes.plot(cases, values, label=f"{count} seeds")
        if difference is not None:
            axes.axhline(difference, color="black", linestyle=":", label=f"{difference:g}")
        axes.set(xscale="log", yscale="log", xlabel="cases", ylabel=f"smallest difference, {100 * power:g} % power")
        axes.legend()
    return drawn
