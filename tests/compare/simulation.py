"""Simulated studies: how often the rule of the comparison claims what is not there, and how often it finds what is.

    python -m tests.compare.simulation --studies 4000

prints both tables of docs/compare.md. A score is what its case, its training and chance add to the mean of its loss;
the effect of a training is shared by all of its cases, with folds by those of one fold.
"""

from __future__ import annotations

import argparse
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monai_lossext.compare.statistics import ALPHA, half_width, pair_variances

CASES = 149
NOISE = 0.03  # of one score beside case and training
SPREADS = (0.0, 0.0025, 0.005, 0.01)  # standard deviation between trainings of one loss
SEEDS = (2, 3, 5)
BATCH = 250  # studies at once, which bounds the memory


class Setting(NamedTuple):
    """What is simulated."""

    losses: int
    seeds: int
    spread: float
    folds: int = 1
    own: float = 0.0  # standard deviation of what a case gives to one loss, whatever the training
    effect: float = 0.0  # by which the first loss is better
    cases: int = CASES


class Verdicts(NamedTuple):
    """Of many studies: differences and half-widths (studies, pairs), and the pairs as two lists of losses."""

    difference: NDArray[np.float64]
    half: NDArray[np.float64]
    first: list[int]
    second: list[int]

    @property
    def claims(self) -> NDArray[np.bool_]:
        """(studies, pairs), whether a difference is claimed."""
        return abs(self.difference) > self.half

    def best(self, losses: int) -> NDArray[np.int64]:
        """(studies,), the loss with the best mean; the first pairs are those of the first loss."""
        return np.pad(-self.difference[:, : losses - 1], ((0, 0), (1, 0))).argmax(axis=1)

    def worse(self, losses: int) -> NDArray[np.bool_]:
        """(studies, losses, losses), whether the row's loss is claimed to be worse than the column's."""
        table = np.zeros((len(self.half), losses, losses), dtype=bool)
        table[:, self.first, self.second] = self.difference < -self.half
        table[:, self.second, self.first] = self.difference > self.half
        return table


def simulate(setting: Setting, studies: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Return scores (studies, losses, seeds, cases)."""
    losses, seeds, cases = setting.losses, setting.seeds, setting.cases
    scores = generator.normal(0, NOISE, (studies, losses, seeds, cases))
    trainings = generator.normal(0, setting.spread, (studies, losses, seeds, setting.folds))
    scores += trainings[..., np.arange(cases) % setting.folds]
    scores += generator.normal(0, setting.own, (studies, losses, 1, cases))
    scores += generator.beta(4, 2, (studies, 1, 1, cases))
    scores[:, 0] += setting.effect
    return scores


def judge(scores: NDArray[np.float64], *, count_trainings: bool = True) -> Verdicts:
    """Do what :func:`monai_lossext.compare.statistics.compare_pairs` does, for many studies at once."""
    _, losses, seeds, cases = scores.shape
    first, second = map(list, zip(*combinations(range(losses), 2), strict=True))
    means = scores.mean(axis=2)
    differences = means[:, first] - means[:, second]
    over_cases = differences.var(axis=-1, ddof=1) / cases
    spreads = scores.mean(axis=-1).var(axis=-1, ddof=1)
    over_trainings, df = pair_variances(spreads * count_trainings, np.full(losses, seeds), first, second)
    half = half_width(ALPHA / len(first), over_cases, cases, over_trainings, df)
    return Verdicts(differences.mean(axis=-1), half, first, second)


def run(setting: Setting, studies: int, seed: int = 0, *, count_trainings: bool = True) -> Verdicts:
    """Simulate and judge so many studies."""
    generator = np.random.default_rng([seed, *(round(1e4 * value) for value in setting)])
    sizes = [min(BATCH, studies - begin) for begin in range(0, studies, BATCH)]
    parts = [judge(simulate(setting, size, generator), count_trainings=count_trainings) for size in sizes]
    difference, half = (np.concatenate([getattr(part, name) for part in parts]) for name in ("difference", "half"))
    return Verdicts(difference, half, parts[0].first, parts[0].second)


def as_table(scores: NDArray[np.float64], folds: int = 1) -> pd.DataFrame:
    """Return one study (losses, seeds, cases) as the scores of its cases."""
    index = pd.MultiIndex.from_product([range(size) for size in scores.shape], names=["loss", "seed", "case"])
    table = pd.DataFrame({"jaccard": scores.ravel()}, index).reset_index()
    table["loss"] = [chr(ord("A") + loss) for loss in table["loss"]]
    return table.assign(fold=table["case"] % folds) if folds > 1 else table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=4000)
    studies = parser.parse_args().studies
    print(f"Studies of equal losses with any claim, {studies} a cell:\n")
    print("| losses | folds | seeds | " + " | ".join(f"spread {spread:g}" for spread in SPREADS) + " |")
    print("|---" * (3 + len(SPREADS)) + "|")
    for losses, folds, seeds in product((2, 10), (1, 5), SEEDS):
        rates = [run(Setting(losses, seeds, spread, folds), studies).claims.any(axis=1).mean() for spread in SPREADS]
        print(f"| {losses} | {folds} | {seeds} | " + " | ".join(f"{100 * rate:.1f} %" for rate in rates) + " |")
    print(f"\nStudies that find one loss to be better than another by the effect, spread 0.005, {studies} a cell:\n")
    effects = (0.005, 0.01, 0.015, 0.02, 0.03)
    print("| losses | seeds | " + " | ".join(f"effect {effect:g}" for effect in effects) + " |")
    print("|---" * (2 + len(effects)) + "|")
    for losses, seeds in product((2, 5, 10), (2, 3, 5, 10)):
        found = [run(Setting(losses, seeds, 0.005, effect=effect), studies) for effect in effects]
        rates = [(verdicts.difference[:, 0] > verdicts.half[:, 0]).mean() for verdicts in found]
        print(f"| {losses} | {seeds} | " + " | ".join(f"{100 * rate:.0f} %" for rate in rates) + " |")


if __name__ == "__main__":
    main()
