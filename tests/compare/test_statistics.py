from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monai_lossext.compare.statistics import (
    bandwidth,
    case_scores,
    compare_pairs,
    density,
    holm,
    smallest_p,
    summarise,
)

X = [0.751, 0.657, 0.788, 0.613, 0.924, 0.803, 0.659, 0.885, 0.649, 0.784]
Y = [0.71, 0.64, 0.8, 0.55, 0.9, 0.77, 0.68, 0.83, 0.6, 0.74]


def table(scores: dict[str, list[float]], seed: int = 0) -> pd.DataFrame:
    rows = [(loss, seed, f"case{i}", value) for loss, values in scores.items() for i, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["loss", "seed", "case", "jaccard"])


def test_mean_and_standard_error_of_the_worked_example() -> None:
    row = summarise(table({"A": Y}), ["jaccard"]).iloc[0]
    assert (row["n"], row["mean"], row["standard_error"]) == (10, pytest.approx(0.722), pytest.approx(0.03418252))


def test_wilcoxon_of_the_worked_example() -> None:
    (pair,) = compare_pairs(table({"A": X, "B": Y}), "jaccard")
    assert (pair.statistic, pair.p, pair.method) == (4.0, pytest.approx(0.01367188), "exact")
    assert (pair.n, pair.first_higher, pair.second_higher, pair.higher, pair.lower) == (10, 8, 2, "A", "B")
    assert pair.difference == pytest.approx(np.mean(X) - np.mean(Y))
    assert pair.standard_error == pytest.approx(np.std(np.subtract(X, Y), ddof=1) / np.sqrt(10))
    assert pair.significant


@pytest.mark.parametrize(
    ("n", "decimals", "method"),
    [
        (20, 9, "exact"),
        (50, 9, "exact"),
        (51, 9, "normal approximation"),
        (149, 9, "normal approximation"),
        (40, 1, "normal approximation"),  # ties and equal scores
        (12, 1, "exact, by permutation"),
    ],
)
def test_wilcoxon_is_scipys(n: int, decimals: int, method: str) -> None:
    first, second = np.random.default_rng(n).random((2, n)).round(decimals)
    (pair,) = compare_pairs(table({"A": first, "B": second}), "jaccard")
    assert (pair.statistic, pair.p) == pytest.approx(tuple(stats.wilcoxon(first, second)))
    assert pair.method == method
    by_normal = stats.wilcoxon(first, second, method="approx", correction=False).pvalue
    assert (pair.p == pytest.approx(by_normal, abs=1e-12)) == (method == "normal approximation")
    assert pair.direction == (1 if stats.wilcoxon(first, second, alternative="greater").pvalue < 0.5 else -1)


def test_equal_scores_are_no_difference() -> None:
    (pair,) = compare_pairs(table({"A": X, "B": X}), "jaccard")
    assert (pair.p, pair.p_holm, pair.direction, pair.significant) == (1.0, 1.0, 0, False)


def test_holm_equals_closed_testing_with_bonferroni() -> None:
    p = np.random.default_rng(0).random(6) ** 3
    subsets = [s for size in range(1, 7) for s in combinations(range(6), size)]
    closed = [max(min(1, len(s) * p[list(s)].min()) for s in subsets if i in s) for i in range(6)]
    np.testing.assert_allclose(holm(p), closed)
    assert holm([]).size == 0


def test_all_pairs_are_corrected_together() -> None:
    generator = np.random.default_rng(1)
    pairs = compare_pairs(table({name: generator.random(30) for name in "ABC"}), "jaccard")
    assert [(pair.first, pair.second) for pair in pairs] == [("A", "B"), ("A", "C"), ("B", "C")]
    np.testing.assert_allclose([pair.p_holm for pair in pairs], holm([pair.p for pair in pairs]))


def test_the_case_is_the_unit_whatever_the_number_of_seeds() -> None:
    once = table({"A": X, "B": Y})
    thrice = pd.concat([table({"A": X, "B": Y}, seed) for seed in range(3)])
    ((first,), (second,)) = compare_pairs(thrice, "jaccard"), compare_pairs(once, "jaccard")
    assert (first.n, first.p, first.standard_error) == (10, second.p, pytest.approx(second.standard_error))
    seeds = pd.concat([table({"A": [0.2, 0.4]}, 0), table({"A": [0.6, np.nan]}, 1)])
    np.testing.assert_allclose(case_scores(seeds, "jaccard")["A"], [0.4, np.nan])


def test_undefined_scores_are_left_out_in_pairs() -> None:
    (pair,) = compare_pairs(table({"A": [*X, np.nan, 0.9], "B": [*Y, 0.1, np.nan]}), "jaccard")
    assert pair == compare_pairs(table({"A": X, "B": Y}), "jaccard")[0]
    assert compare_pairs(table({"A": [0.5, np.nan], "B": [np.nan, 0.5]}), "jaccard") == []
    assert list(summarise(table({"A": [*X, np.nan]}), ["jaccard"])["n"]) == [10]


def test_smallest_p_is_reached_when_one_loss_always_wins() -> None:
    first = np.arange(1.0, 6.0)
    assert stats.wilcoxon(first).pvalue == smallest_p(5, 1) == 0.0625
    assert smallest_p(5, 3) == 3 * 0.0625
    assert smallest_p(1, 1) == 1


def test_density_of_the_worked_example() -> None:
    np.testing.assert_allclose(density(Y, [0.55, 0.7, 0.8, 0.9], 0.1), [1.455, 2.955, 2.7375, 1.1325])
    assert bandwidth(Y) == pytest.approx(0.0705828, abs=1e-7)


def test_density_is_a_density_that_is_not_renormalised_on_a_part() -> None:
    at = np.linspace(0, 1.5, 20001)
    assert np.trapezoid(density(Y, at, 0.07), at) == pytest.approx(1, abs=1e-6)
    inside = at[(at >= min(Y)) & (at <= max(Y))]
    assert 0.8 < np.trapezoid(density(Y, inside, 0.07), inside) < 0.98


def test_bandwidth_of_values_without_spread() -> None:
    assert bandwidth([]) == bandwidth([0.5]) == bandwidth([0.5, 0.5, 0.5]) == 0
    mostly_equal = [1.0] * 9 + [0.0]
    assert bandwidth(mostly_equal) == pytest.approx(1.059 * np.std(mostly_equal, ddof=1) * 10**-0.2)


def study_claims(generator: np.random.Generator, planted: float) -> list[tuple[str, str]]:
    """Simulate four losses on 40 cases whose difficulty they share; D is better by `planted`."""
    difficulty = generator.beta(4, 2, 40)
    scores = {name: np.clip(difficulty + generator.normal(0, 0.05, 40), 0, 1) for name in "ABCD"}
    scores["D"] = np.clip(scores["D"] + planted, 0, 1)
    return [(pair.higher, pair.lower) for pair in compare_pairs(table(scores), "jaccard") if pair.significant]


def test_without_a_difference_at_most_one_study_in_twenty_claims_one() -> None:
    generator = np.random.default_rng(2024)
    studies = 200
    wrong = sum(bool(study_claims(generator, planted=0.0)) for _ in range(studies))
    assert stats.binomtest(wrong, studies, 0.05, alternative="greater").pvalue > 0.01
    assert wrong > 0  # a test that never claims anything would pass the line above


def test_a_planted_difference_is_found_in_its_direction() -> None:
    generator = np.random.default_rng(7)
    for _ in range(10):
        assert {("D", "A"), ("D", "B"), ("D", "C")} <= set(study_claims(generator, planted=0.06))
