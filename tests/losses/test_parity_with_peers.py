"""torchmetrics and kornia as further oracles, and docs/peers.md against what is installed."""

from __future__ import annotations

import re
from pathlib import Path

import kornia.losses
import monai.losses
import pytest
import torch
import torchmetrics.functional.classification as scores
from torchmetrics.functional.segmentation import generalized_dice_score

from monai_lossext.losses import (
    AsymmetricSimilarityLoss,
    LovaszSoftmaxLoss,
    MatthewsCorrelationLoss,
    ScaledGeneralizedDiceLoss,
    SensitivitySpecificityLoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
    catalogue,
)

from . import cases

RAW = {"smooth_nr": 0.0, "smooth_dr": 0.0}
CLASSES = 4
actual = cases.indices(2, CLASSES, 5, 6, seed=1)
predicted = cases.indices(2, CLASSES, 5, 6, seed=2)
PAGE = (Path(__file__).parents[2] / "docs" / "peers.md").read_text(encoding="utf-8")
p, g = cases.one_hot(predicted, CLASSES).double(), cases.one_hot(actual, CLASSES)


def agree(loss: torch.nn.Module, score: torch.Tensor | float) -> None:
    """Assert that each value of the loss is one minus the score, which torchmetrics computes in float32."""
    torch.testing.assert_close(1 - loss(p, g).float(), torch.as_tensor(score), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "loss", [SoftJaccardLoss, LovaszSoftmaxLoss, SoftTverskyLoss], ids=lambda loss: getattr(loss, "__name__", "")
)
def test_jaccard_of_each_class(loss):
    options = {SoftJaccardLoss: RAW, SoftTverskyLoss: {**RAW, "alpha": 1.0, "beta": 1.0}}.get(loss, {})
    together = {"per_image": False} if loss is LovaszSoftmaxLoss else {"batch": True}
    expected = scores.multiclass_jaccard_index(predicted, actual, CLASSES, average="none")
    agree(loss(**options, **together, reduction="none"), expected[None])


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_f_beta_of_each_class_and_their_mean(beta):
    each = scores.multiclass_fbeta_score(predicted, actual, beta, CLASSES, average="none")
    agree(AsymmetricSimilarityLoss(beta=beta, batch=True, reduction="none", **RAW), each[None])
    agree(AsymmetricSimilarityLoss(beta=beta, batch=True, **RAW), each.mean())
    samples = scores.multiclass_fbeta_score(
        predicted[:, 0], actual[:, 0], beta, CLASSES, average="none", multidim_average="samplewise"
    )
    agree(AsymmetricSimilarityLoss(beta=beta, reduction="none", **RAW), samples)


def test_dice_without_ignored_voxels():
    marked = torch.where(cases.binary(2, 5, 6, seed=3) == 1, actual, 255)
    expected = scores.multiclass_f1_score(predicted, marked, CLASSES, average="macro", ignore_index=255)
    loss = SoftDiceLoss(to_onehot_y=True, ignore_index=255, batch=True, **RAW)(p, marked)
    assert 1 - loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_matthews_correlation_of_each_class_and_of_all():
    each = [scores.binary_matthews_corrcoef(p[:, c].long(), g[:, c].long()) for c in range(CLASSES)]
    agree(MatthewsCorrelationLoss(smooth=0.0, batch=True, reduction="none"), torch.stack(each)[None])
    joined = MatthewsCorrelationLoss(smooth=0.0, batch=True, multiclass=True)
    agree(joined, scores.multiclass_matthews_corrcoef(predicted, actual, CLASSES))


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_sensitivity_and_specificity_of_each_class(w):
    recall = scores.multiclass_recall(predicted, actual, CLASSES, average="none")
    specificity = scores.multiclass_specificity(predicted, actual, CLASSES, average="none")
    loss = SensitivitySpecificityLoss(w=w, smooth_dr=0.0, batch=True, reduction="none")
    agree(loss, (w * recall + (1 - w) * specificity)[None])


@pytest.mark.parametrize(("w_type", "theirs"), [("square", "square"), ("simple", "simple"), ("uniform", "linear")])
@pytest.mark.parametrize("include_background", [True, False])
def test_generalized_dice(w_type, theirs, include_background):
    expected = generalized_dice_score(
        p.long(), g.long(), CLASSES, include_background=include_background, weight_type=theirs
    )
    loss = ScaledGeneralizedDiceLoss(w_type=w_type, include_background=include_background, reduction="none", **RAW)
    agree(loss, expected[:, None])


@pytest.mark.parametrize("absent", [False, True])
def test_dice_and_tversky_equal_kornia(absent):
    """kornia leaves out the classes that are absent from a picture."""
    x, label = cases.logits(1, 3, 5, 6), cases.indices(1, 2 if absent else 3, 5, 6)
    marked = torch.where(cases.binary(1, 5, 6, seed=3) == 1, label, 255)
    options = {"softmax": True, "to_onehot_y": True, "ignore_index": 255, "empty": "skip", **RAW}
    theirs = {"eps": 0.0, "ignore_index": 255}
    for ours, other in (
        (SoftDiceLoss(**options), kornia.losses.DiceLoss("macro", **theirs)),
        (SoftTverskyLoss(alpha=0.3, beta=0.7, **options), kornia.losses.TverskyLoss(0.3, 0.7, **theirs)),
    ):
        expected = cases.value_and_gradient(other, x, marked[:, 0])
        for got, want in zip(cases.value_and_gradient(ours, x, marked), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_masked_voxels_count_in_monai():
    """It sets masked logits to 0, of which a sigmoid makes 0.5."""
    x, target, mask = cases.logits(1, 1, 4, 6), cases.binary(1, 4, 6).double(), torch.ones(1, 1, 4, 6)
    mask[..., 3:] = 0
    cut = x[..., :3], target[..., :3]
    theirs = monai.losses.DiceLoss(sigmoid=True)
    assert monai.losses.MaskedLoss(theirs)(x, target, mask) > theirs(*cut) + 0.05
    ours = SoftDiceLoss(sigmoid=True)
    torch.testing.assert_close(ours(x, target, mask), ours(*cut))


def test_the_page_has_every_loss_and_names_what_is_installed():
    _, losses, rest = PAGE.split("\n## ", 2)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in losses.splitlines() if line.startswith("| `")]
    expected = [(f"`{entry.name}`", "–" if entry.monai == "none" else f"`{entry.monai}`") for entry in catalogue()]
    assert [(ours, theirs) for ours, theirs, *_ in rows] == expected
    named = {monai.losses: [row[1] for row in rows], kornia.losses: [row[2] for row in rows]}
    named[monai.losses] += re.findall(r"\*\*MONAI\*\*: (.*?)\n- ", rest, re.DOTALL)
    for library, cells in named.items():
        classes = {name for cell in cells for name in re.findall(r"`(\w+Loss\w*)", cell)}
        assert len(classes) > 5
        for name in classes:
            assert hasattr(library, name), name
    for name in re.findall(r"`(?:tests/losses/)?(test_\w+\.py)`", PAGE):
        assert Path(__file__).with_name(name).exists()
