from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monai_lossext.compare.statistics import (
    Ranking,
    bandwidth,
    case_scores,
    compare_pairs,
    density,
    hodges_lehmann,
    holm,
    rank_losses,
    size_bins,
    smallest_p,
    summarise,
)

EXAMPLES = {
    example["formula_id"]: example
    for example in json.loads((Path(__file__).parents[1] / "losses" / "worked_examples.json").read_text())["examples"]
    if example["family"] == "statistic"
}
X, Y = EXAMPLES["STAT.WILCOXON"]["x"], EXAMPLES["STAT.WILCOXON"]["y"]


def rank(cases: pd.DataFrame, metric: str = "jaccard") -> Ranking | None:
    return rank_losses(cases, metric, compare_pairs(cases, metric))


def table(scores: dict[str, list[float]], seed: int = 0, metric: str = "jaccard") -> pd.DataFrame:
    rows = [(loss, seed, f"case{i}", value) for loss, values in scores.items() for i, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["loss", "seed", "case", metric])


def test_mean_and_standard_error_of_the_worked_example() -> None:
    row = summarise(table({"A": EXAMPLES["STAT.SE"]["x"]}), ["jaccard"]).iloc[0]
    assert row["n"] == 10
    assert [row["mean"], row["standard_error"]] == pytest.approx(EXAMPLES["STAT.SE"]["expected"], abs=1e-7)


def test_wilcoxon_of_the_worked_example() -> None:
    (pair,) = compare_pairs(table({"A": X, "B": Y}), "jaccard")
    assert [pair.statistic, pair.p_wilcoxon] == pytest.approx(EXAMPLES["STAT.WILCOXON"]["expected"], abs=1e-7)
    assert pair.method == "exact"
    assert (pair.n, pair.first_higher, pair.second_higher, pair.network_higher, pair.trainings) == (10, 8, 2, "A", 1)
    assert pair.difference == pytest.approx(np.mean(X) - np.mean(Y))
    assert pair.error_cases == pytest.approx(np.std(np.subtract(X, Y), ddof=1) / np.sqrt(10))
    assert pair.networks_differ
    assert not pair.significant  # trained once


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
    assert (pair.statistic, pair.p_wilcoxon) == pytest.approx(tuple(stats.wilcoxon(first, second)))
    assert pair.method == method
    by_normal = stats.wilcoxon(first, second, method="approx", correction=False).pvalue
    assert (pair.p_wilcoxon == pytest.approx(by_normal, abs=1e-12)) == (method == "normal approximation")
    assert (pair.network_higher == "A") == (stats.wilcoxon(first, second, alternative="greater").pvalue < 0.5)


def test_equal_scores_are_no_difference() -> None:
    (pair,) = compare_pairs(table({"A": X, "B": X}), "jaccard")
    assert (pair.p_wilcoxon, pair.p_holm, pair.rank_biserial, pair.networks_differ) == (1.0, 1.0, 0, False)
    (pair,) = compare_pairs(pd.concat([table({"A": X, "B": X}, seed) for seed in (0, 1)]), "jaccard")
    assert (pair.p, pair.difference, pair.significant) == (1.0, 0, False)


def test_holm_equals_closed_testing_with_bonferroni() -> None:
    p = np.random.default_rng(0).random(6) ** 3
    subsets = [s for size in range(1, 7) for s in combinations(range(6), size)]
    closed = [max(min(1, len(s) * p[list(s)].min()) for s in subsets if i in s) for i in range(6)]
    np.testing.assert_allclose(holm(p).clip(max=1), closed)
    assert holm([]).size == 0


def test_all_pairs_are_corrected_together() -> None:
    generator = np.random.default_rng(1)
    pairs = compare_pairs(table({name: generator.random(30) for name in "ABC"}), "jaccard")
    assert [(pair.first, pair.second) for pair in pairs] == [("A", "B"), ("A", "C"), ("B", "C")]
    np.testing.assert_allclose([pair.p_holm for pair in pairs], holm([pair.p_wilcoxon for pair in pairs]).clip(max=1))


def test_the_case_is_the_unit_whatever_the_number_of_seeds() -> None:
    once = table({"A": X, "B": Y})
    thrice = pd.concat([table({"A": X, "B": Y}, seed) for seed in range(3)])
    ((first,), (second,)) = compare_pairs(thrice, "jaccard"), compare_pairs(once, "jaccard")
    assert (first.n, first.p_wilcoxon) == (10, second.p_wilcoxon)
    assert first.error_cases == pytest.approx(second.error_cases)
    assert (first.trainings, second.trainings) == (3, 1)
    seeds = pd.concat([table({"A": [0.2, 0.4]}, 0), table({"A": [0.6, np.nan]}, 1)])
    np.testing.assert_allclose(case_scores(seeds, "jaccard")["A"], [0.4, np.nan])


def test_undefined_scores_are_left_out_in_pairs() -> None:
    (pair,) = compare_pairs(table({"A": [*X, np.nan, 0.9], "B": [*Y, 0.1, np.nan]}), "jaccard")
    both = pair, compare_pairs(table({"A": X, "B": Y}), "jaccard")[0]
    left, right = (asdict(replace(one, excluded=0)) for one in both)
    assert left == pytest.approx(right, nan_ok=True)
    assert pair.excluded == 2
    assert compare_pairs(table({"A": [0.5, np.nan], "B": [np.nan, 0.5]}), "jaccard") == []
    assert list(summarise(table({"A": [*X, np.nan]}), ["jaccard"])["n"]) == [10]


def test_smallest_p_is_reached_when_one_loss_always_wins() -> None:
    first = np.arange(1.0, 6.0)
    assert stats.wilcoxon(first).pvalue == smallest_p(5, 1) == 0.0625
    assert smallest_p(5, 3) == 3 * 0.0625
    assert smallest_p(1, 1) == 1


def test_density_of_the_worked_example() -> None:
    example = EXAMPLES["STAT.KDE"]
    width = example["hyper_parameters"]["bandwidth"]
    np.testing.assert_allclose(density(example["x"], example["eval_at"], width), example["expected"])
    assert bandwidth(EXAMPLES["STAT.KDE_BW"]["x"]) == pytest.approx(EXAMPLES["STAT.KDE_BW"]["expected"], abs=1e-7)


def test_density_is_a_density_that_is_not_renormalised_on_a_part() -> None:
    at = np.linspace(0, 1.5, 20001)
    assert np.trapezoid(density(Y, at, 0.07), at) == pytest.approx(1, abs=1e-6)
    inside = at[(at >= min(Y)) & (at <= max(Y))]
    assert 0.8 < np.trapezoid(density(Y, inside, 0.07), inside) < 0.98


def test_bandwidth_of_values_without_spread() -> None:
    assert bandwidth([]) == bandwidth([0.5]) == bandwidth([0.5, 0.5, 0.5]) == 0
    mostly_equal = [1.0] * 9 + [0.0]
    assert bandwidth(mostly_equal) == pytest.approx(1.059 * np.std(mostly_equal, ddof=1) * 10**-0.2)


def test_top_group_and_inferior_to_all() -> None:
    """Two good losses of which one is a little worse, two middle ones and a bad one; two trainings of each."""
    generator = np.random.default_rng(3)
    case = generator.beta(4, 2, 80)
    levels = dict(zip("ABCDE", (0, 0.001, 0.05, 0.05, 0.3), strict=True))
    cases = pd.concat(
        table({name: case + generator.normal(0, 0.03, 80) - worse for name, worse in levels.items()}, seed)
        for seed in (0, 1)
    )
    ranking = rank(cases)
    assert ranking is not None
    assert ranking.best in "AB"
    assert (ranking.top, ranking.inferior_to_all) == (["A", "B"], ["E"])
    once = rank(cases[cases["seed"] == 0])
    assert once is not None
    assert (once.top, once.inferior_to_all) == ([], [])


@pytest.mark.parametrize("losses", [2, 3, 5])
def test_ranks_and_friedmans_test_are_scipys(losses: int) -> None:
    scores = np.random.default_rng(losses).random((40, losses)).round(1)  # with ties
    ranking = rank(table(dict(zip("ABCDE", scores.T, strict=False))))
    assert ranking is not None
    ranks = stats.rankdata(-scores, axis=1).mean(axis=0)
    np.testing.assert_allclose(ranking.mean_ranks, ranks)
    if losses == 2:
        assert np.isnan([ranking.statistic, ranking.p, ranking.concordance]).all()
    else:
        assert (ranking.statistic, ranking.p) == pytest.approx(tuple(stats.friedmanchisquare(*scores.T)))
        assert 0 < ranking.concordance < 0.2


def test_concordance_is_one_when_all_cases_agree() -> None:
    case = np.random.default_rng(0).random(20)
    ranking = rank(table({name: case - i for i, name in enumerate("ABC")}))
    assert ranking is not None
    assert (ranking.concordance, list(ranking.mean_ranks), ranking.best) == (pytest.approx(1), [1, 2, 3], "A")
    tied = rank(table(dict.fromkeys("ABC", case)))
    assert tied is not None
    assert (tied.statistic, tied.p, tied.inferior_to_all) == (0, 1, [])


def test_ranking_needs_losses_and_cases_in_common() -> None:
    assert rank(table({"A": X})) is None
    assert rank(table({"A": [0.5, np.nan], "B": [np.nan, 0.5]})) is None


def test_lower_is_better_for_distances() -> None:
    """A metric turned round ranks the losses in the same way, with the same numbers."""
    near = pd.concat([table({"A": X, "B": Y}, seed) for seed in (0, 1)])
    far = near.assign(hausdorff95_mm=-near["jaccard"])
    pairs = compare_pairs(near, "jaccard")[0], compare_pairs(far, "hausdorff95_mm")[0]
    for ranking, pair in ((rank(near), pairs[0]), (rank(far, "hausdorff95_mm"), pairs[1])):
        assert ranking is not None
        assert (ranking.best, ranking.top, ranking.inferior_to_all) == ("A", ["A"], ["B"])
        assert (pair.better, pair.worse, pair.network_better) == ("A", "B", "A")
    assert (pairs[0].higher, pairs[1].higher, pairs[1].network_higher) == ("A", "B", "B")
    assert (pairs[1].p, -pairs[1].high, -pairs[1].low) == (pairs[0].p, pairs[0].low, pairs[0].high)


def test_effect_sizes() -> None:
    (pair,) = compare_pairs(table({"A": X, "B": Y}), "jaccard")
    difference = np.subtract(X, Y)
    ranks = stats.rankdata(abs(difference))
    plus, minus = ranks[difference > 0].sum(), ranks[difference < 0].sum()
    assert pair.rank_biserial == pytest.approx((plus - minus) / (plus + minus)) == pytest.approx(1 - 4 * 4 / 110)
    assert pair.median == pytest.approx(np.median(difference))
    always = compare_pairs(table({"A": np.arange(5.0), "B": np.arange(5.0) - 1}), "jaccard")[0]
    assert (always.rank_biserial, always.median) == (1, 1)
    assert np.isnan([always.shift_low, always.shift_high]).all()  # five cases cannot give 95 %


@pytest.mark.parametrize("n", [6, 20, 50, 51, 149])
def test_interval_of_the_shift_is_what_wilcoxons_test_does_not_reject(n: int) -> None:
    difference = np.random.default_rng(n).standard_t(3, n)
    for level in (0.05, 0.05 / 3):
        shift, low, high = hodges_lehmann(difference, level)
        if np.isnan(low):
            assert 2 * 0.5**n > level
            continue
        assert low < shift < high
        for end, outward in ((low, -1e-9), (high, 1e-9)):
            assert stats.wilcoxon(difference - end - outward).pvalue < level
            assert stats.wilcoxon(difference - end + outward).pvalue >= level


def test_intervals_fit_their_tests() -> None:
    """Of many pairs: an interval leaves out 0 where its test shows a difference, and only there."""
    generator = np.random.default_rng(2)
    case = generator.beta(4, 2, 60)
    cases = pd.concat(
        table({name: case + generator.normal(0.005 * i, 0.05, 60) for i, name in enumerate("ABCDEFGH")}, seed)
        for seed in (0, 1, 2)
    )
    pairs = compare_pairs(cases, "jaccard")
    shown = [pair.significant for pair in pairs]
    assert 0 < sum(shown) < len(pairs)
    assert [not pair.low <= 0 <= pair.high for pair in pairs] == shown
    networks = [pair.networks_differ for pair in pairs]
    assert 0 < sum(networks) < len(pairs)
    assert [not pair.shift_low <= 0 <= pair.shift_high for pair in pairs] == networks


def test_the_interval_counts_cases_and_trainings() -> None:
    """Written out: half-widths by t, over 10 cases and over three and two trainings, in squares."""
    generator = np.random.default_rng(0)
    a, b = generator.random((3, 10)), generator.random((2, 10))
    cases = pd.concat(
        [*(table({"A": row}, s) for s, row in enumerate(a)), *(table({"B": row}, s) for s, row in enumerate(b))]
    )
    (pair,) = compare_pairs(cases, "jaccard")
    difference = a.mean(axis=0) - b.mean(axis=0)
    over_cases = difference.var(ddof=1) / 10
    spreads = a.mean(axis=1).var(ddof=1), b.mean(axis=1).var(ddof=1)
    pooled = (2 * spreads[0] + spreads[1]) / 3
    over_trainings = max(spreads[0] / 3 + spreads[1] / 2, pooled / 3 + pooled / 2)
    half = np.hypot(stats.t.isf(0.025, 9) * over_cases**0.5, stats.t.isf(0.025, 3) * over_trainings**0.5)
    assert (pair.difference, pair.df, pair.trainings) == (pytest.approx(difference.mean()), 3, 2)
    assert (pair.low, pair.high) == pytest.approx((difference.mean() - half, difference.mean() + half))
    parts = stats.t.isf(pair.p / 2, 9) * over_cases**0.5, stats.t.isf(pair.p / 2, 3) * over_trainings**0.5
    assert np.hypot(*parts) == pytest.approx(abs(pair.difference))


def test_folds_are_pooled_and_seeds_averaged() -> None:
    """With folds a case is tested once; with seeds it is tested once for each of them, and counts once."""
    whole = table({"A": X, "B": Y})
    folds = whole.assign(fold=whole["case"].str[-1].astype(int) % 5)
    ((one,), (other,)) = compare_pairs(folds, "jaccard"), compare_pairs(whole, "jaccard")
    assert asdict(one) == pytest.approx(asdict(other), nan_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.01, len(whole))
    both = pd.concat([folds.assign(seed=s, jaccard=folds["jaccard"] + sign * noise) for s, sign in ((0, 1), (1, -1))])
    assert case_scores(both, "jaccard").to_numpy() == pytest.approx(case_scores(whole, "jaccard").to_numpy())
    assert summarise(both, ["jaccard"])["n"].tolist() == [10, 10]
    assert compare_pairs(both, "jaccard")[0].n == 10


def test_a_fold_that_failed_leaves_the_other_cases() -> None:
    whole = table({"A": X, "B": Y})
    folds = whole.assign(fold=whole["case"].str[-1].astype(int) % 5)
    (pair,) = compare_pairs(folds[(folds["loss"] == "B") | (folds["fold"] != 2)], "jaccard")
    assert (pair.n, pair.excluded) == (8, 0)


def test_tenths_by_object_size() -> None:
    size = np.arange(1, 41) / 1000
    scores = {"A": list(size), "B": list(1 - size)}
    cases = pd.concat([table(scores, seed).assign(foreground=np.tile(size, 2)) for seed in (0, 1)])
    bins = size_bins(cases.sample(frac=1, random_state=0), "jaccard")
    assert list(bins["n"]) == [4] * 10
    np.testing.assert_allclose(bins["foreground"], 100 * size.reshape(10, 4).mean(axis=1))
    np.testing.assert_allclose(bins["A"], size.reshape(10, 4).mean(axis=1))
    np.testing.assert_allclose(bins["B"], 1 - bins["A"])
    assert len(size_bins(cases.assign(foreground=0.2), "jaccard")) == 1
