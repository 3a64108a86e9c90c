from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from monai_lossext.compare.conclusions import MAX_SENTENCES, findings, format_p, limits
from monai_lossext.compare.plan import Study
from monai_lossext.compare.results import Results

Scores = dict[str, np.ndarray]


def scores_of(networks: list[Scores]) -> pd.DataFrame:
    """The table of trainings, each a loss's scores of all cases, the first ones with seed 0."""
    return pd.concat(
        pd.DataFrame({"loss": loss, "seed": seed, "case": [f"case{i}" for i in range(len(values))], "jaccard": values})
        for seed, scores in enumerate(networks)
        for loss, values in scores.items()
    )


@pytest.fixture
def results(plan: Callable[..., Study]) -> Callable[..., Results]:
    def results(*networks: Scores, **options: object) -> Results:
        study = replace(plan("SoftDiceLoss,mcc,monai_dice"), **options)  # type: ignore[arg-type]
        return Results(study, scores_of([*networks]), pd.DataFrame(), ["jaccard"], [])

    return results


def said(results: Results) -> str:
    return " ".join(findings(results))


BASE = np.random.default_rng(0).uniform(0.4, 0.8, 60)
CLAIMS = ("SoftDiceLoss has", "MatthewsCorrelationLoss has", "better", "has a higher Jaccard index than")


def trained(effect: float, spread: float, seeds: int = 3, seed: int = 0) -> list[Scores]:
    """Trainings under two losses, of which the second is better by the effect."""
    generator = np.random.default_rng(seed)
    return [
        {
            loss: BASE + better + spread * shift + generator.normal(0, 0.02, 60)
            for loss, better, shift in (
                ("SoftDiceLoss", 0, np.sin(1 + 2 * number)),
                ("MatthewsCorrelationLoss", effect, np.cos(3 * number)),
            )
        }
        for number in range(seeds)
    ]


def test_a_difference_between_losses_outlasts_cases_and_trainings(results: Callable[..., Results]) -> None:
    text = said(results(*trained(0.1, 0.01)))
    assert text.startswith("MatthewsCorrelationLoss has a higher Jaccard index than SoftDiceLoss: mean difference +0.")
    assert re.search(r"\+0\.\d{4} \(\+0\.\d{4} to \+0\.\d{4}\), p ", text)
    assert "No difference" not in text


def test_a_difference_that_trainings_may_explain_is_none_of_losses(results: Callable[..., Results]) -> None:
    found = results(*trained(0.02, 0.03))
    (pair,) = found.comparisons
    assert pair.networks_differ
    text = said(found)
    assert text == (
        "No difference in the Jaccard index between SoftDiceLoss and MatthewsCorrelationLoss was shown; at most"
        f" {max(-pair.low, pair.high):.3f} either way: {pair.difference:+.4f} ({pair.low:+.4f} to {pair.high:+.4f})."
    )


def test_one_training_each_says_nothing_of_losses(results: Callable[..., Results]) -> None:
    """However large the difference: only of these networks, and which spread between trainings it would survive."""
    found = results(*trained(0.1, 0.0, seeds=1))
    (pair,) = found.comparisons
    text = said(found)
    assert "trained only once, so nothing is said about it as a loss" in text
    assert "The network trained with MatthewsCorrelationLoss has a higher Jaccard index than that trained with" in text
    assert f"would survive a standard deviation between trainings of up to {pair.survives:.4f}" in text
    assert pair.survives == pytest.approx(0.1 / 1.96 / np.sqrt(2), rel=0.1)
    assert not any(
        claim in text.replace("The network trained with MatthewsCorrelationLoss has", "") for claim in CLAIMS
    )
    assert "p < 0.001" in text


@pytest.mark.parametrize(
    ("effect", "spread", "margin", "verdict"),
    [
        (0.1, 0.001, 0.05, "better by more than 0.05: MatthewsCorrelationLoss against SoftDiceLoss"),
        (0.0, 0.001, 0.05, "equivalent within 0.05"),
        (0.0, 0.03, 0.01, "undecided at a margin of 0.01"),
        (0.05, 0.001, 0.05, "better, undecided whether by more than 0.05: MatthewsCorrelationLoss"),
        (0.02, 0.001, 0.05, "equivalent within 0.05"),
    ],
)
def test_margins(results: Callable[..., Results], effect: float, spread: float, margin: float, verdict: str) -> None:
    text = said(results(*trained(effect, spread), margin=margin))
    assert text.startswith(f"By the Jaccard index, {verdict}")
    assert "no difference" not in text.lower()


def test_the_largest_differences_are_told_first(results: Callable[..., Results]) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 2, 60))
    levels = {"SoftDiceLoss": 0.0, "MatthewsCorrelationLoss": 0.05, "monai_dice": 0.2}
    networks = [
        {loss: BASE + level + noise[i, seed] for i, (loss, level) in enumerate(levels.items())} for seed in (0, 1)
    ]
    (text,) = findings(results(*networks, margin=0.01))
    order = re.findall(r"(\w+) against (\w+), \+0\.\d{4} \(", text)
    assert order == [
        ("monai_dice", "SoftDiceLoss"),
        ("monai_dice", "MatthewsCorrelationLoss"),
        ("MatthewsCorrelationLoss", "SoftDiceLoss"),
    ]


def test_correction_decides_and_not_the_raw_p_value(results: Callable[..., Results]) -> None:
    step = np.arange(1, 11) * np.where(np.isin(np.arange(10), (0, 4)), -0.01, 0.01)  # 1 and 5 are the negative ranks
    close = {"SoftDiceLoss": 0.5 + 0 * step, "monai_dice": 0.5 + step / 2, "MatthewsCorrelationLoss": 0.5 + step}
    pairs = results(close).comparisons
    assert [pair.p_wilcoxon for pair in pairs] == pytest.approx([0.02734375] * 3)
    assert [pair.p_holm for pair in pairs] == pytest.approx([0.08203125] * 3)
    assert "Between the networks of 3 of 3 pairs no difference" in said(results(close))


def test_a_study_too_small_for_any_claim_says_so(results: Callable[..., Results]) -> None:
    text = said(results({"SoftDiceLoss": np.arange(5) / 10, "MatthewsCorrelationLoss": np.arange(5) / 10 + 0.3}))
    assert "higher" not in text
    assert "With 5 cases and 1 tested pair(s) no p-value can be below 0.0625" in text


def test_a_difference_of_networks_that_no_spread_would_leave(results: Callable[..., Results]) -> None:
    mostly = np.where(np.arange(40) < 4, -0.2, 0.01)
    text = said(results({"SoftDiceLoss": np.full(40, 0.6), "MatthewsCorrelationLoss": 0.6 + mostly}))
    assert text.endswith(
        "As a difference between the losses it would not survive any spread between trainings. Its mean"
        " is nevertheless lower: a few cases in which it is much worse outweigh the others."
    )


def test_a_mean_that_points_the_other_way_is_told(results: Callable[..., Results]) -> None:
    worse = np.where(np.arange(40) < 4, -0.5, 0.02)
    text = said(results({"SoftDiceLoss": np.full(40, 0.6), "MatthewsCorrelationLoss": 0.6 + worse}))
    assert "trained with MatthewsCorrelationLoss has a higher Jaccard index" in text
    assert "Its mean is nevertheless lower" in text


def test_one_loss_alone_is_not_compared(results: Callable[..., Results]) -> None:
    assert "nothing was compared" in said(results({"SoftDiceLoss": np.ones(5)}))


def test_many_differences_are_told_loss_by_loss(
    plan: Callable[..., Study], write_overlay: Callable[..., object]
) -> None:
    names = [f"loss{i}" for i in range(5)]
    for name in names:
        write_overlay(name)
    generator = np.random.default_rng(0)
    networks = [{name: i / 10 + generator.random(50) / 50 for i, name in enumerate(names)} for _ in range(2)]
    study = plan(",".join(names))
    found = Results(study, scores_of(networks), pd.DataFrame(), ["jaccard"], [])
    assert len(found.comparisons) > MAX_SENTENCES
    assert findings(found)[-1] == "loss4 has a higher Jaccard index than loss0, loss1, loss2 and loss3."
    assert len(findings(found)) == 4
    once = findings(Results(study, scores_of(networks[:1]), pd.DataFrame(), ["jaccard"], []))
    assert once[4].startswith("The network of loss4 has a higher Jaccard index than the network of loss0, the network")
    assert "would survive the largest standard deviation" in once[-1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Trained once: SoftDiceLoss. The spread between trainings of one loss was not measured"),
        ({}, "chosen by their score on these same validation cases"),
        ({"dataset_dir": "synthetic"}, "synthetic phantoms"),
        ({}, "rest on the Jaccard index alone"),
    ],
)
def test_limits_are_those_of_the_study(results: Callable[..., Results], options: dict[str, object], words: str) -> None:
    assert words in " ".join(limits(results({"SoftDiceLoss": np.ones(3)}, **options)))


def test_limits_that_do_not_apply_are_not_told(results: Callable[..., Results]) -> None:
    text = " ".join(limits(results(*[{"SoftDiceLoss": np.ones(3)}] * 2, section="testing")))
    assert "estimated from 2 trainings of a loss" in text
    for words in ("validation", "Trained once", "phantoms"):
        assert words not in text


def test_format_p() -> None:
    assert [format_p(p) for p in (0.0004, 0.0123, 0.0496, 1.0)] == ["< 0.001", "= 0.0123", "= 0.0496", "= 1.00"]


def test_losses_above_the_same_ones_share_a_sentence(
    plan: Callable[..., Study], write_overlay: Callable[..., object]
) -> None:
    generator = np.random.default_rng(0)
    base = generator.uniform(0.3, 0.5, 60)
    levels = {"ce": 0, "focal": 0, "dice": 0.3, "mcc": 0.3, "Tversky 0.3, 0.7": 0.3, "best": 0.5}
    for name in levels:
        write_overlay(name.split()[0])
    losses = [{"loss": name.split()[0], "name": name} for name in levels]
    networks = [
        {name: base + level + generator.normal(0, 0.01, 60) for name, level in levels.items()} for _ in range(2)
    ]
    found = Results(plan(losses), scores_of(networks), pd.DataFrame(), ["jaccard"], [])
    assert findings(found)[:2] == [
        "dice; mcc; and Tversky 0.3, 0.7 have a higher Jaccard index than ce and focal.",
        "best has a higher Jaccard index than ce; focal; dice; mcc; and Tversky 0.3, 0.7.",
    ]
