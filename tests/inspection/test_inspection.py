"""What `inspect` says of losses of which it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from monai_lossext.cli import app
from monai_lossext.inspection import inspect, named_loss
from monai_lossext.inspection.show import described
from monai_lossext.losses import catalogue


def test_a_cross_entropy_is_proper_and_has_the_slope_of_the_textbook():
    found = inspect(named_loss("WeightedCrossEntropyLoss").loss)
    np.testing.assert_allclose(found.best_for_uncertain, found.share, atol=1e-9)
    np.testing.assert_allclose(found.best_for_soft_target, found.share, atol=1e-9)
    np.testing.assert_allclose(found.volume, 1, atol=1e-9)
    np.testing.assert_allclose(found.slope_true, found.probability - 1, atol=1e-5)
    np.testing.assert_allclose(found.slope_false, found.probability, atol=1e-5)
    assert described(found)["volume"] == "not biased by uncertain voxels"


def test_dice_decides_uncertain_voxels_and_meets_soft_targets():
    found = inspect(named_loss("soft_dice").loss)
    assert set(found.best_for_uncertain) == {0.0, 1.0}
    assert sorted(found.best_for_uncertain) == list(found.best_for_uncertain)
    np.testing.assert_allclose(found.best_for_soft_target, found.share, atol=1e-9)
    # with a sure part of the same size: all of it at a share of s, for 1 + s that were expected
    chosen = found.best_for_uncertain == 1
    np.testing.assert_allclose(found.volume[chosen], 2 / (1 + found.share[chosen]))
    assert all("NaN" not in outcome and "no gradient" not in outcome for outcome in found.cases.values())


def test_what_another_packages_loss_breaks_on_is_told():
    found = inspect(named_loss("monai.losses.DiceLoss").loss)
    assert set(found.best_for_soft_target) == {0.0, 1.0}
    assert "no gradient" in found.cases["all wrong, float16"]


def test_probabilities_may_be_given_in_the_place_of_logits():
    logits, given = (inspect(named_loss("SoftDiceLoss", logits=kind).loss, logits=kind) for kind in (True, False))
    np.testing.assert_allclose(given.value_true, logits.value_true, atol=1e-5)
    np.testing.assert_allclose(given.slope_false, logits.slope_false, atol=1e-5)
    assert not given.logits


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
def test_every_loss_of_the_catalogue_can_be_named(entry):
    named = named_loss(entry.overlay)
    assert (named.name, named.entry) == (entry.name, entry)
    label = torch.zeros(1, 1, 16, 16)
    label[..., 4:9, 4:9] = 1
    assert named.loss(torch.randn(1, 1, 16, 16), label).isfinite()


def test_a_loss_that_raises_in_a_hard_case_is_quoted():
    def raises(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if not target.any():
            raise RuntimeError("nothing to find")
        return (x.sigmoid() - target).square().mean()

    assert inspect(raises).cases["no object"] == "RuntimeError: nothing to find"


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"must return a scalar, got the shape \(1, 1, 16, 16\)"):
        inspect(lambda x, target: (x - target).abs())


def test_a_users_own_loss_is_found_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "my_own_losses.py").write_text(
        "import torch\n\n\nclass Brier(torch.nn.Module):\n"
        "    def __init__(self, power=2):\n        super().__init__()\n"
        "        self.power = power\n\n    def forward(self, x, target):\n"
        "        return (x.sigmoid() - target).abs().pow(self.power).mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    figure = tmp_path / "brier.svg"
    given = ["inspect", "my_own_losses.Brier", "--argument", "power=2", "--output", str(figure)]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert "proper" in done.output
    assert figure.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("SoftDise", "", "did you mean SoftDiceLoss?"),
        ("monai.losses.Nothing", "", "monai.losses.Nothing cannot be imported"),
        ("SoftDiceLoss", "smoothing=1", "SoftDiceLoss does not take"),
        ("Nothing", "", "others are named with their module"),
    ],
)
def test_what_is_not_there_is_named(name, argument, message):
    given = ["inspect", name, *(["--argument", argument] if argument else [])]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 2
    assert message in done.output
