"""The rule of the comparison on simulated studies; ``python -m tests.compare.simulation`` does larger runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from monai_lossext.compare.statistics import compare_pairs, rank_losses

from .simulation import SEEDS, SPREADS, Setting, as_table, judge, run, simulate

STUDIES = {2: 1000, 10: 500}  # a cell, by the number of losses
CHANCE = 1e-3  # that a cell of a rule which holds its 5 % exactly fails its test


def too_many(wrong: int, studies: int) -> bool:
    """Whether so many false claims are more than 5 % and chance."""
    return bool(stats.binomtest(wrong, studies, 0.05, alternative="greater").pvalue < CHANCE)


@pytest.mark.parametrize(("losses", "folds"), [*product((2, 10), (1, 5))])
def test_equal_losses_are_told_apart_in_at_most_one_study_of_twenty(losses: int, folds: int) -> None:
    """No cell above 6 %: any claim among all pairs, a loss out of the top group, and one that is worse than all."""
    for seeds, spread in product(SEEDS, SPREADS):
        verdicts = run(Setting(losses, seeds, spread, folds), STUDIES[losses])
        worse = verdicts.worse(losses)
        wrong = {
            "pairs": verdicts.claims,
            "top group": worse[np.arange(len(worse)), :, verdicts.best(losses)],
            "worse than all": worse.sum(axis=2) == losses - 1,
        }
        for what, claims in wrong.items():
            assert claims.any(axis=1).mean() <= 0.06, (what, seeds, spread)


@pytest.mark.parametrize("losses", [2, 10])
def test_what_a_case_gives_to_a_loss_is_counted_too(losses: int) -> None:
    for seeds, spread in product(SEEDS, (0.0, 0.005)):
        wrong = int(run(Setting(losses, seeds, spread, own=0.03), STUDIES[losses]).claims.any(axis=1).sum())
        assert not too_many(wrong, STUDIES[losses]), (seeds, spread)


def test_the_simulation_catches_a_rule_that_counts_cases_alone() -> None:
    """As the comparison once did: it took what one training is worth for a property of its loss."""
    for losses, seeds in product((2, 10), SEEDS):
        wrong = run(Setting(losses, seeds, 0.005), 200, count_trainings=False).claims.any(axis=1).mean()
        assert wrong > 0.25


def test_one_loss_that_trains_unsteadily_is_not_judged_by_the_others() -> None:
    """Its own spread counts where it is larger: among five losses it has four times that of the others."""
    generator = np.random.default_rng(0)
    scores = simulate(Setting(5, 3, 0.0025), 1000, generator)
    scores[:, 0] += generator.normal(0, 0.01, (1000, 3, 1))
    assert not too_many(int(judge(scores).claims.any(axis=1).sum()), 1000)


def test_differences_are_found() -> None:
    found = {seeds: (run(Setting(2, seeds, 0.005, effect=0.02), 400).claims).mean() for seeds in (2, 3, 5, 10)}
    assert found[2] > 0.4
    assert found[3] > 0.8
    assert found[5] > 0.97
    assert found[10] > 0.99
    assert (run(Setting(10, 5, 0.005, effect=0.02), 200).claims[:, 0]).mean() > 0.85


def test_intervals_hold_together_and_equivalence_is_not_claimed_of_a_difference() -> None:
    """The truth lies within all intervals in 95 % of the studies, and a pair at the margin is seldom within it."""
    verdicts = run(Setting(5, 3, 0.005, effect=0.02), 1000)
    truth = 0.02 * (np.array(verdicts.first) == 0)
    assert not too_many(int((abs(verdicts.difference - truth) > verdicts.half).any(axis=1).sum()), 1000)
    equivalent = abs(verdicts.difference) + verdicts.half < 0.02
    assert not too_many(int(equivalent[:, truth > 0].any(axis=1).sum()), 1000)
    narrow = run(Setting(2, 10, 0.0025), 200)
    assert (abs(narrow.difference) + narrow.half < 0.02).mean() > 0.95


@pytest.mark.parametrize("folds", [1, 5])
def test_many_studies_at_once_are_judged_like_one(folds: int) -> None:
    setting = Setting(4, 3, 0.005, folds, effect=0.02, cases=40)
    scores = simulate(setting, 10, np.random.default_rng(1))
    verdicts = judge(scores)
    for study in range(len(scores)):
        pairs = compare_pairs(as_table(scores[study], folds), "jaccard")
        assert [pair.difference for pair in pairs] == pytest.approx(list(verdicts.difference[study]))
        assert [pair.high - pair.difference for pair in pairs] == pytest.approx(list(verdicts.half[study]))
        assert [pair.significant for pair in pairs] == list(verdicts.claims[study])
        ranking = rank_losses(as_table(scores[study], folds), "jaccard", pairs)
        assert ranking is not None
        worse = verdicts.worse(4)[study]
        best = verdicts.best(4)[study]
        assert ranking.best == "ABCD"[best]
        assert ranking.top == [loss for i, loss in enumerate("ABCD") if not worse[i, best]]
        assert ranking.inferior_to_all == [loss for i, loss in enumerate("ABCD") if worse[i].sum() == 3]


@pytest.mark.filterwarnings("ignore::statsmodels.tools.sm_exceptions.ConvergenceWarning")  # of one of two optimisers
@pytest.mark.parametrize("own", [0.0, 0.03])
def test_parity_with_a_mixed_model(own: float) -> None:
    """Cases and trainings as crossed random effects, by REML, on ten studies: the same difference, and its error.

    Our standard error's part over the trainings is that of the model with these two effects, to 0.1 %. Ours adds the
    part over the cases, for what a case gives to one loss. Against the model that has this as a third effect it is 2 to
    12 % larger, because the noise of single scores is in both parts. Which of the model's optimisers stops short of the
    maximum hangs on the machine, so the best of two counts.
    """
    parts = {"case": "0 + C(case)", "training": "0 + C(training)"} | ({"both": "0 + C(both)"} if own else {})
    for scores in simulate(Setting(2, 3, 0.01, own=own, cases=40), 10, np.random.default_rng(3)):
        (pair,) = compare_pairs(as_table(scores), "jaccard")
        table = as_table(100 * scores).assign(study=0)  # the optimiser takes small variances for none
        table["training"] = table["loss"] + table["seed"].astype(str)
        table["both"] = table["loss"] + table["case"].astype(str)
        formula = "jaccard ~ C(loss, Treatment('B'))"
        model = smf.mixedlm(formula, table, groups="study", vc_formula=parts, re_formula="0")
        fit = max((model.fit(method=optimiser) for optimiser in ("lbfgs", "nm")), key=lambda fit: fit.llf)
        assert fit.fe_params.iloc[1] / 100 == pytest.approx(pair.difference, abs=1e-9)
        error = float(fit.bse_fe.iloc[1]) / 100
        if own:
            assert 1.02 < np.hypot(pair.error_cases, pair.error_trainings) / error < 1.12
        else:
            assert error == pytest.approx(pair.error_trainings, rel=1e-3)


def test_trainings_of_one_seed_claim_nothing() -> None:
    scores = simulate(Setting(3, 1, 0.0, effect=0.2), 1, np.random.default_rng(0))[0]
    pairs = compare_pairs(as_table(scores), "jaccard")
    assert not any(pair.significant or pair.counts_trainings for pair in pairs)
    assert [pair.networks_differ for pair in pairs] == [True, True, False]
    ranking = rank_losses(as_table(scores), "jaccard", pairs)
    assert ranking is not None
    assert (ranking.top, ranking.inferior_to_all) == ([], [])
    # A spread just below what it is said to survive leaves the difference, one just above does not.
    for factor, survives in ((0.98, True), (1.02, False)):
        spread = pairs[0].survives * factor
        error = np.hypot(pairs[0].error_cases, np.sqrt(2) * spread)
        assert (abs(pairs[0].difference) > stats.norm.isf(0.05 / 6) * error) == survives


def test_a_loss_that_was_trained_once_is_not_compared_as_one() -> None:
    scores = simulate(Setting(3, 3, 0.005, effect=0.1), 1, np.random.default_rng(0))[0]
    table = as_table(scores)
    pairs = compare_pairs(table[(table["loss"] != "C") | (table["seed"] == 0)], "jaccard")
    assert [pair.counts_trainings for pair in pairs] == [True, False, False]
    assert [pair.trainings for pair in pairs] == [3, 1, 1]
    assert np.isnan([pairs[1].p, pairs[1].low, pairs[1].error_trainings]).all()
    assert pairs[0].significant
    assert not pairs[1].significant
    both = compare_pairs(table[(table["loss"] != "C") | (table["seed"] < 2)], "jaccard")
    assert all(pair.counts_trainings and pair.df == 5 for pair in both)
    assert replace(both[0], df=0) != replace(pairs[0], df=0)
