"""The numbers and inequalities of docs/bounds.md."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_lossext.losses import SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "docs" / "figures" / "make_bounds.py"
spec = importlib.util.spec_from_file_location("make_bounds", SCRIPT)
assert spec is not None
assert spec.loader is not None
bounds = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bounds)

EXAMPLES = {
    example["name"]: example
    for example in json.loads((Path(__file__).parent / "losses" / "worked_examples.json").read_text())["examples"]
    if example["family"] == "bound"
}
SHARES = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(lambda x: x[1] > 1e-6)
WEIGHT = st.floats(0.05, 1.0)


def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of false positives, true positives and false negatives that add up to 1, with some true positives."""
    b = np.concatenate([np.geomspace(1e-6, 1e-3, 50), np.linspace(1e-3, 1, 2000)])[:, None]
    a = np.linspace(0, 1, 101)[None] * (1 - b)
    return a, np.broadcast_to(b, a.shape), 1 - a - b


def test_jaccard_for_dice() -> None:
    gap, at_dice, at_jaccard, relative = EXAMPLES["bound_II1"]["expected"]
    a, b, c = grid()
    dice, jaccard = bounds.dice(a, b, c), bounds.jaccard(a, b, c)
    worst = np.unravel_index((dice - jaccard).argmax(), dice.shape)
    assert (dice - jaccard).max() == pytest.approx(gap, abs=1e-6) == 3 - 2 * np.sqrt(2)
    assert (dice[worst], jaccard[worst]) == pytest.approx((at_dice, at_jaccard), abs=1e-3)
    assert (at_dice, at_jaccard) == pytest.approx((2 - np.sqrt(2), np.sqrt(2) - 1), abs=1e-8)
    np.testing.assert_allclose(dice / jaccard, 2 - dice)
    assert (dice / jaccard).max() - 1 == pytest.approx(relative, abs=1e-5)
    assert (dice / jaccard).max() < 2


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.1, 0.9), (0.75, 0.75), (1, 1), (0.5, 0.5)])
def test_tversky_for_dice(alpha: float, beta: float) -> None:
    a, b, c = grid()
    dice, tversky = bounds.dice(a, b, c), bounds.tversky(a, b, c, alpha, beta)
    ratio = tversky / dice
    found = abs(dice - tversky).max(), max(ratio.max(), 1 / ratio.min()) - 1
    known = {"1_1": [0.17157288, 1.0], "0.5_0.5": [0.0, 0.0]}.get(f"{alpha}_{beta}")
    expected = known or EXAMPLES[f"bound_II3_{alpha}_{beta}"]["expected"]
    assert [bounds.absolute_error(alpha, beta), bounds.relative_error(alpha, beta)] == pytest.approx(expected, abs=1e-8)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("t", [0.1, 0.3, 0.75, 0.9])
def test_where_the_worst_case_lies(t: float) -> None:
    """One kind of error only, and true positives of sqrt(t) / (sqrt(t) + sqrt(2)), which is also as printed."""
    b = np.sqrt(t) / (np.sqrt(t) + np.sqrt(2))
    assert b == pytest.approx((t - np.sqrt(2 * t)) / (t - 2))
    gap = abs(bounds.dice(1 - b, b, 0) - bounds.tversky(1 - b, b, 0, t, t))
    assert gap == pytest.approx(bounds.absolute_error(t, t))


def test_errors_grow_with_the_distance_from_one_half() -> None:
    for weights in (np.linspace(0.5, 1, 20), np.linspace(0.5, 0.05, 20)):
        for error in (bounds.absolute_error, bounds.relative_error):
            assert (np.diff([error(t, 0.5) for t in weights]) > 0).all()


@pytest.mark.parametrize("alpha", [0.3, 0.1, 0.01, 0.001])
def test_hamming_says_nothing_about_dice(alpha: float) -> None:
    """The example of counts in an image of size 1: FN = 0, FP = alpha, TP = alpha^2."""
    dice = bounds.dice(alpha, alpha**2, 0)
    assert dice == pytest.approx(2 * alpha / (1 + 2 * alpha))
    gamma = np.linspace(0, 1, 101)
    hamming = bounds.weighted_hamming(alpha, alpha**2, 0, 1, gamma)
    least = 1 - alpha / (1 - alpha**2)
    assert (hamming >= least - 1e-12).all()
    assert hamming[0] == pytest.approx(least)
    plain = bounds.weighted_hamming(alpha, alpha**2, 0, 1, alpha**2)  # gamma = G / N: the share of correct voxels
    assert plain == pytest.approx(1 - alpha)
    if alpha == 0.001:
        assert least - dice == pytest.approx(0.997, abs=1e-4)
        assert (float(dice), least) == pytest.approx((0.002, 0.999), abs=1e-4)
        assert dice / least < 0.0021


@given(st.lists(SHARES, min_size=1, max_size=8), WEIGHT, WEIGHT)
def test_any_masks_satisfy_the_inequalities(masks: list[list[float]], alpha: float, beta: float) -> None:
    a, b, c = np.array(masks).T
    dice, jaccard, tversky = bounds.dice(a, b, c), bounds.jaccard(a, b, c), bounds.tversky(a, b, c, alpha, beta)
    slack = 1e-12
    assert (1 - dice <= 1 - jaccard + slack).all()
    assert (dice - jaccard <= 3 - 2 * np.sqrt(2) + slack).all()
    risk = (1 - dice).mean()
    assert (1 - jaccard).mean() <= 2 * risk / (1 + risk) + slack
    assert (abs(dice - tversky) <= bounds.absolute_error(alpha, beta) + slack).all()
    factor = 1 + bounds.relative_error(alpha, beta)
    assert (tversky <= dice * factor + slack).all()
    assert (dice <= tversky * factor + slack).all()


def test_the_losses_of_random_masks_satisfy_them_too() -> None:
    """On hard masks the losses are 1 - score, so that the bounds hold for them."""
    random = torch.Generator().manual_seed(0)
    share = torch.rand(2, 40, 1, 1, 1, generator=random)
    prediction, target = (torch.rand(2, 40, 1, 12, 10, generator=random) < share).double()
    options = {"reduction": "none", "smooth_nr": 0.0, "smooth_dr": 1e-12, "empty": "formula"}
    dice, jaccard = SoftDiceLoss(**options)(prediction, target), SoftJaccardLoss(**options)(prediction, target)
    uneven = SoftTverskyLoss(alpha=0.3, beta=0.7, **options)(prediction, target)
    assert (dice <= jaccard + 1e-9).all()
    assert (jaccard - dice).max() <= 3 - 2 * np.sqrt(2)
    assert (jaccard - dice).max() > 0.15
    assert jaccard.mean() <= 2 * dice.mean() / (1 + dice.mean())
    assert 0.02 < abs(uneven - dice).max() <= bounds.absolute_error(0.3, 0.7)


def test_the_page_has_the_numbers() -> None:
    text = (ROOT / "docs" / "bounds.md").read_text(encoding="utf-8")
    for alpha, beta, start in (
        (0.3, 0.7, "Tversky α = 0.3, β = 0.7"),
        (0.1, 0.9, "Tversky α = 0.1, β = 0.9"),
        (0.75, 0.75, "Tversky α = β = 0.75"),
    ):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {start} ")]
        assert f"| {bounds.absolute_error(alpha, beta):.3f} | {1 + bounds.relative_error(alpha, beta):.3g} |" in row
    assert (ROOT / "docs" / "figures" / "bounds.png").is_file()
    assert len(bounds.figure().axes) == 3
