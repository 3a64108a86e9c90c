from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monai_lossext.compare.statistics import (
    bandwidth,
    bootstrap_means,
    case_scores,
    compare_pairs,
    density,
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


def table(scores: dict[str, list[float]], seed: int = 0, metric: str = "jaccard") -> pd.DataFrame:
    rows = [(loss, seed, f"case{i}", value) for loss, values in scores.items() for i, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["loss", "seed", "case", metric])


def test_mean_and_standard_error_of_the_worked_example() -> None:
    row = summarise(table({"A": EXAMPLES["STAT.SE"]["x"]}), ["jaccard"]).iloc[0]
    assert row["n"] == 10
    assert [row["mean"], row["standard_error"]] == pytest.approx(EXAMPLES["STAT.SE"]["expected"], abs=1e-7)


def test_wilcoxon_of_the_worked_example() -> None:
    (pair,) = compare_pairs(table({"A": X, "B": Y}), "jaccard")
    assert [pair.statistic, pair.p] == pytest.approx(EXAMPLES["STAT.WILCOXON"]["expected"], abs=1e-7)
    assert pair.method == "exact"
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
    assert replace(pair, excluded=0) == compare_pairs(table({"A": X, "B": Y}), "jaccard")[0]
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


def test_bootstrap_of_the_worked_example() -> None:
    example = EXAMPLES["STAT.BOOT"]
    options = example["hyper_parameters"]
    difference = np.subtract(example["x"], example["y"])[:, None]
    means = bootstrap_means(difference, options["B"], options["seed"])[:, 0]
    found = [difference.mean(), (means <= 0).mean(), *np.quantile(means, (0.025, 0.975))]
    assert found == pytest.approx(example["expected"], abs=1e-7)
    ranking = rank_losses(table({"B": example["y"], "A": example["x"]}), "jaccard", options["B"], options["seed"])
    assert ranking is not None
    (pair,) = ranking.pairs.to_dict("records")
    assert (pair["first"], pair["second"], pair["p_first_worse"]) == ("B", "A", example["expected"][1])
    assert pair["p_first_better"] == pytest.approx(1 - example["expected"][1], abs=2e-4)  # a mean of 0 counts in both
    assert [pair["difference"], pair["high"], pair["low"]] == pytest.approx(
        [-found[0], *(-value for value in found[2:])], abs=1e-7
    )
    assert (ranking.best, ranking.top, ranking.inferior_to_all) == ("A", ["A"], ["B"])


def test_bootstrap_draws_whole_cases() -> None:
    """All pairs see the same cases, so that the differences of three losses always add up."""
    scores = np.random.default_rng(0).random((30, 3))
    means = bootstrap_means(np.stack([scores[:, i] - scores[:, j] for i, j in ((0, 1), (0, 2), (1, 2))], axis=1), 700)
    np.testing.assert_allclose(means[:, 0] + means[:, 2], means[:, 1], atol=1e-12)
    assert means.shape == (700, 3)
    assert means.std(axis=0) == pytest.approx(
        [stats.sem(scores[:, i] - scores[:, j], ddof=0) for i, j in ((0, 1), (0, 2), (1, 2))], rel=0.1
    )


def test_top_group_and_inferior_to_all() -> None:
    """Three good losses of which one is a little worse, a middle one and a bad one."""
    generator = np.random.default_rng(3)
    case = generator.beta(4, 2, 80)
    scores = {name: case + generator.normal(0, 0.03, 80) - worse for name, worse in zip("ABCDE", LEVELS, strict=True)}
    ranking = rank_losses(table(scores), "jaccard")
    assert ranking is not None
    assert ranking.best in "AB"
    assert (ranking.top, ranking.inferior_to_all) == (["A", "B"], ["E"])
    for pair in ranking.pairs.itertuples():
        difference = np.subtract(scores[pair.first], scores[pair.second])
        assert pair.difference == pytest.approx(difference.mean())
        assert (pair.low, pair.high) == pytest.approx(
            tuple(difference.mean() + stats.sem(difference) * np.array([-1.96, 1.96])), abs=1e-3
        )
        z = difference.mean() / stats.sem(difference)
        assert pair.p_first_better == pytest.approx(stats.norm.sf(z), abs=0.015)


LEVELS = (0, 0.001, 0.03, 0.03, 0.3)


@pytest.mark.parametrize("losses", [2, 3, 5])
def test_ranks_and_friedmans_test_are_scipys(losses: int) -> None:
    scores = np.random.default_rng(losses).random((40, losses)).round(1)  # with ties
    ranking = rank_losses(table(dict(zip("ABCDE", scores.T, strict=False))), "jaccard", resamples=10)
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
    ranking = rank_losses(table({name: case - i for i, name in enumerate("ABC")}), "jaccard")
    assert ranking is not None
    assert (ranking.concordance, list(ranking.mean_ranks), ranking.best) == (pytest.approx(1), [1, 2, 3], "A")
    tied = rank_losses(table(dict.fromkeys("ABC", case)), "jaccard")
    assert tied is not None
    assert (tied.statistic, tied.p, tied.top, tied.inferior_to_all) == (0, 1, list("ABC"), [])


def test_ranking_needs_losses_and_cases_in_common() -> None:
    assert rank_losses(table({"A": X}), "jaccard") is None
    assert rank_losses(table({"A": [0.5, np.nan], "B": [np.nan, 0.5]}), "jaccard") is None


def test_lower_is_better_for_distances() -> None:
    """A metric turned round ranks the losses in the same way, with the same numbers."""
    similar, far = (
        (rank_losses(cases, metric), compare_pairs(cases, metric)[0])
        for cases, metric in (
            (table({"A": X, "B": Y}), "jaccard"),
            (table({"A": np.negative(X), "B": np.negative(Y)}, metric="hausdorff95_mm"), "hausdorff95_mm"),
        )
    )
    assert similar[0] is not None
    assert far[0] is not None
    assert (far[0].best, far[0].top, far[0].inferior_to_all) == ("A", ["A"], ["B"])
    assert far[0].pairs["p_first_better"].tolist() == similar[0].pairs["p_first_better"].tolist()
    assert far[0].pairs[["low", "high"]].to_numpy().tolist() == [
        pytest.approx((-similar[0].pairs[["high", "low"]].to_numpy()).tolist()[0])
    ]
    assert (similar[1].better, similar[1].higher) == ("A", "A")
    assert (far[1].better, far[1].higher, far[1].p) == ("A", "B", similar[1].p)


def test_effect_sizes() -> None:
    (pair,) = compare_pairs(table({"A": X, "B": Y}), "jaccard")
    difference = np.subtract(X, Y)
    ranks = stats.rankdata(abs(difference))
    plus, minus = ranks[difference > 0].sum(), ranks[difference < 0].sum()
    assert pair.rank_biserial == pytest.approx((plus - minus) / (plus + minus)) == pytest.approx(1 - 4 * 4 / 110)
    assert pair.median == pytest.approx(np.median(difference))
    # Order statistics: the second smallest and the second largest of ten cover the median with 97.85 %.
    assert (pair.low, pair.high) == pytest.approx(tuple(np.sort(difference)[[1, 8]]))
    always = compare_pairs(table({"A": np.arange(5.0), "B": np.arange(5.0) - 1}), "jaccard")[0]
    assert (always.rank_biserial, always.median) == (1, 1)
    assert np.isnan([always.low, always.high]).all()  # five cases cannot give 95 %


def test_interval_of_the_median_covers_it() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for difference in generator.standard_t(2, (300, 25)):
        (pair,) = compare_pairs(table({"A": difference, "B": np.zeros(25)}), "jaccard")
        covered += pair.low <= 0 <= pair.high
    assert 0.95 - 0.025 < covered / 300 < 0.99


def test_folds_are_pooled_and_seeds_averaged() -> None:
    """With folds a case is tested once; with seeds it is tested once for each of them, and counts once."""
    whole = table({"A": X, "B": Y})
    folds = whole.assign(fold=whole["case"].str[-1].astype(int) % 5)
    assert compare_pairs(folds, "jaccard") == compare_pairs(whole, "jaccard")
    noise = np.random.default_rng(0).normal(0, 0.01, len(whole))
    both = pd.concat([folds.assign(seed=s, jaccard=folds["jaccard"] + sign * noise) for s, sign in ((0, 1), (1, -1))])
    pytest.approx(case_scores(both, "jaccard").to_numpy(), case_scores(whole, "jaccard").to_numpy())
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


def study(generator: np.random.Generator, planted: float, cases: int = 40) -> pd.DataFrame:
    """Simulate four losses, three seeds and cases whose difficulty they share; D is better by `planted`."""
    difficulty = generator.beta(4, 2, cases)
    skill = {name: generator.normal(0, 0.05, cases) + planted * (name == "D") for name in "ABCD"}
    return pd.concat(
        table(
            {name: np.clip(difficulty + skill[name] + generator.normal(0, 0.02, cases), 0, 1) for name in "ABCD"}, seed
        )
        for seed in range(3)
    )


def claims(scores: pd.DataFrame) -> set[tuple[str, str]]:
    return {(pair.better, pair.lower) for pair in compare_pairs(scores, "jaccard") if pair.significant}


def test_without_a_difference_at_most_one_study_in_twenty_claims_one() -> None:
    """The share of studies with any claim among their six pairs; treating case x seed as the unit fails the test."""
    generator = np.random.default_rng(2024)
    studies = 400
    wrong = inflated = 0
    for index in range(studies):
        scores = study(generator, planted=0.0)
        wrong += bool(claims(scores))
        if index < 50:
            inflated += bool(claims(scores.assign(case=scores["case"] + scores["seed"].astype(str))))
    assert wrong > 0
    assert stats.binomtest(wrong, studies, 0.05, alternative="greater").pvalue > 0.05
    assert stats.binomtest(inflated, 50, 0.05, alternative="greater").pvalue < 1e-4


def test_a_planted_difference_is_found_in_its_direction() -> None:
    generator = np.random.default_rng(7)
    for _ in range(10):
        assert {("D", "A"), ("D", "B"), ("D", "C")} <= claims(study(generator, planted=0.06))


def test_the_bootstrap_finds_a_planted_difference_and_seldom_another() -> None:
    generator = np.random.default_rng(11)
    alone, lost = 0, 0
    for _ in range(60):
        ranking = rank_losses(study(generator, planted=0.06), "jaccard", resamples=1000)
        assert ranking is not None
        alone += ranking.top == ["D"]
        equal = rank_losses(study(generator, planted=0), "jaccard", resamples=1000)
        assert equal is not None
        lost += bool(equal.inferior_to_all)
    assert alone == 60
    assert lost <= 12  # uncorrected, as published: more than a corrected test would have
