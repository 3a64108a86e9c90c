from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from monai_lossext.compare.conclusions import MAX_SENTENCES, findings, format_p, limits
from monai_lossext.compare.plan import Study
from monai_lossext.compare.results import Results


@pytest.fixture
def results(plan: Callable[..., Study]) -> Callable[..., Results]:
    def results(scores: dict[str, np.ndarray], **options: object) -> Results:
        frames = [
            pd.DataFrame({"loss": loss, "seed": 0, "case": [f"case{i}" for i in range(len(values))], "jaccard": values})
            for loss, values in scores.items()
        ]
        study = replace(plan("SoftDiceLoss,mcc,monai_dice"), **options)  # type: ignore[arg-type]
        return Results(study, pd.concat(frames), pd.DataFrame(), ["jaccard"], [])

    return results


def said(results: Results) -> str:
    return " ".join(findings(results))


def test_a_difference_is_claimed_only_when_the_test_shows_it(results: Callable[..., Results]) -> None:
    generator = np.random.default_rng(0)
    base = generator.uniform(0.4, 0.8, 60)
    noise = generator.normal(0, 0.05, 60)
    text = said(results({"SoftDiceLoss": base, "MatthewsCorrelationLoss": base + noise - noise.mean()}))
    assert "No difference" in text
    assert "no evidence of equality" in text
    assert "higher" not in text
    text = said(results({"SoftDiceLoss": base, "MatthewsCorrelationLoss": base + 0.1 + noise}))
    assert text.startswith("MatthewsCorrelationLoss has a higher Jaccard index than SoftDiceLoss on these cases")
    assert "p < 0.001" in text
    assert "trained only once" in text
    assert "No difference" not in text


def test_correction_decides_and_not_the_raw_p_value(results: Callable[..., Results]) -> None:
    step = np.arange(1, 11) * np.where(np.isin(np.arange(10), (0, 4)), -0.01, 0.01)  # 1 and 5 are the negative ranks
    close = {"SoftDiceLoss": 0.5 + 0 * step, "monai_dice": 0.5 + step / 2, "MatthewsCorrelationLoss": 0.5 + step}
    pairs = results(close).comparisons
    assert [pair.p for pair in pairs] == pytest.approx([0.02734375] * 3)
    assert [pair.p_holm for pair in pairs] == pytest.approx([0.08203125] * 3)
    assert "For none of the 3 pairs" in said(results(close))


def test_a_study_too_small_for_any_claim_says_so(results: Callable[..., Results]) -> None:
    text = said(results({"SoftDiceLoss": np.arange(5) / 10, "MatthewsCorrelationLoss": np.arange(5) / 10 + 0.3}))
    assert "higher" not in text
    assert "With 5 cases and 1 tested pair(s) no p-value can be below 0.0625" in text


def test_a_mean_that_points_the_other_way_is_told(results: Callable[..., Results]) -> None:
    worse = np.where(np.arange(40) < 4, -0.5, 0.02)
    text = said(results({"SoftDiceLoss": np.full(40, 0.6), "MatthewsCorrelationLoss": 0.6 + worse}))
    assert "MatthewsCorrelationLoss has a higher Jaccard index" in text
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
    cases = pd.concat(
        pd.DataFrame({"loss": name, "seed": 0, "case": range(50), "jaccard": i / 10 + generator.random(50) / 50})
        for i, name in enumerate(names)
    )
    found = Results(plan(",".join(names)), cases, pd.DataFrame(), ["jaccard"], [])
    assert len(found.comparisons) > MAX_SENTENCES
    assert findings(found)[-2] == "On these cases loss4 has a higher Jaccard index than loss0, loss1, loss2 and loss3."
    assert len(findings(found)) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "trained once (seed 0), so seed-to-seed variation was not measured"),
        ({"seeds": (4,)}, "trained once (seed 4)"),
        ({"seeds": (0, 1)}, "trained with 2 seeds"),
        ({}, "chosen by their score on these same validation cases"),
        ({"dataset_dir": "synthetic"}, "synthetic phantoms"),
        ({}, "rest on the Jaccard index alone"),
    ],
)
def test_limits_are_those_of_the_study(results: Callable[..., Results], options: dict[str, object], words: str) -> None:
    assert words in " ".join(limits(results({"SoftDiceLoss": np.ones(3)}, **options)))


def test_limits_that_do_not_apply_are_not_told(results: Callable[..., Results]) -> None:
    text = " ".join(limits(results({"SoftDiceLoss": np.ones(3)}, section="testing", seeds=(0, 1))))
    for words in ("validation", "trained once", "phantoms"):
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
    cases = pd.concat(
        pd.DataFrame(
            {"loss": name, "seed": 0, "case": range(60), "jaccard": base + level + generator.normal(0, 0.01, 60)}
        )
        for name, level in levels.items()
    )
    found = Results(plan(losses), cases, pd.DataFrame(), ["jaccard"], [])
    assert findings(found)[:2] == [
        "On these cases dice; mcc; and Tversky 0.3, 0.7 have a higher Jaccard index than ce and focal.",
        "On these cases best has a higher Jaccard index than ce; focal; dice; mcc; and Tversky 0.3, 0.7.",
    ]
