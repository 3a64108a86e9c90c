from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.metrics import compute_surface_dice
from monai.metrics.panoptic_quality import compute_panoptic_quality
from monai.transforms import Lambdad
from scipy import ndimage
from sklearn.metrics import jaccard_score

from monai_lossext.handlers import TOLERANCE, BestThreshold, picture_metrics, volume_metrics
from monai_lossext.scores import MATCH, THRESHOLDS, calibration_error, lesion_scores, overlaps


def blobs(generator: np.random.Generator, shape: tuple[int, ...], share: float = 0.15) -> torch.Tensor:
    """Random masks (1, 1, *shape) of several components."""
    smooth = ndimage.gaussian_filter(generator.random(shape), 1.2)
    return torch.from_numpy(smooth > np.quantile(smooth, 1 - share))[None, None].float()


@pytest.mark.parametrize("shape", [(40, 30), (20, 16, 12)])
def test_lesions_are_found_as_monai_finds_them(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    everywhere = np.ones((3,) * len(shape))
    for shift in range(4):
        target = blobs(generator, shape)
        prediction = torch.roll(target, shift, -1) * (blobs(generator, shape, 0.8) if shift else 1)
        parts = [torch.from_numpy(ndimage.label(mask[0, 0], everywhere)[0]) for mask in (prediction, target)]
        tp, fp, fn, _ = compute_panoptic_quality(*parts, match_iou_threshold=MATCH, output_confusion_matrix=True)
        expected = 2 * tp / (2 * tp + fp + fn)
        score = lesion_scores(prediction, target)["lesion_f1"].item()
        assert score == pytest.approx(expected.item())
        assert (score == 1) == (shift == 0) or score < 1


def test_a_lesion_counts_like_another_whatever_its_size() -> None:
    """A large one that is found and a small one that is missed: half, where the Dice coefficient is nearly 1."""
    target = torch.zeros(1, 1, 40, 40)
    target[..., 2:22, 2:22] = target[..., 35, 35] = 1
    prediction = target.clone()
    prediction[..., 35, 35] = 0
    scores = lesion_scores(prediction, target)
    assert scores["lesion_f1"].item() == pytest.approx(2 / 3)
    assert scores["lesion_dice"].item() == pytest.approx(0.5)
    assert [scores[name].item() for name in ("lesion_recall", "false_lesions")] == [0.5, 0]
    scores = lesion_scores(target, prediction)
    assert [scores[name].item() for name in ("lesion_recall", "false_lesions")] == [1, 1]


def test_empty_masks_have_scores() -> None:
    nothing, lesion = torch.zeros(2, 1, 1, 12, 10)
    lesion[..., 3:6, 3:6] = 1
    pairs = [torch.cat(masks) for masks in zip((nothing, nothing), (lesion, nothing), (nothing, lesion), strict=True)]
    scores = picture_metrics(*pairs)
    for name in ("lesion_f1", "lesion_dice", "nsd_2px"):
        assert scores[name].tolist() == [1, 0, 0]
    assert scores["false_lesions"].tolist() == [0, 1, 0]
    assert scores["lesion_recall"].isnan().tolist() == [True, True, False]
    assert volume_metrics(nothing[..., None], nothing[..., None], (1, 1, 1))["nsd_2mm"].tolist() == [1]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 3.0)])
def test_the_surface_distance_is_monais(spacing: tuple[float, ...]) -> None:
    generator = np.random.default_rng(1)
    target = blobs(generator, (16, 14, 12))
    prediction = torch.roll(target, 2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        expected = compute_surface_dice(prediction, target, [TOLERANCE], include_background=True, spacing=spacing)
    found = volume_metrics(prediction, target, spacing)["nsd_2mm"].item()
    assert found == pytest.approx(expected.item())
    assert 0 < found < 1


def test_calibration() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(2, 1, 200, 200, generator=generator)
    truth = (torch.rand(2, 1, 200, 200, generator=generator) < probability).float()
    assert calibration_error(probability, truth).tolist() == pytest.approx([0, 0], abs=0.02)
    sure = (probability > 0.5).float()
    wrong = (sure - truth).abs().mean(dim=(1, 2, 3))
    assert calibration_error(sure, truth).tolist() == pytest.approx(wrong.tolist(), abs=0.01)
    assert calibration_error(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)).item() == pytest.approx(1)


def test_overlaps_at_thresholds_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    probability, truth = torch.rand(2, 3, 1, 9, 9, generator=generator)
    truth = (truth > 0.6).float()
    found = overlaps(probability, truth)
    assert found.shape == (3, len(THRESHOLDS))
    for row, (case, mask) in enumerate(zip(probability, truth, strict=True)):
        for column, threshold in enumerate(THRESHOLDS.tolist()):
            expected = jaccard_score(mask.ravel(), (case > threshold).ravel(), zero_division=1.0)
            assert found[row, column].item() == pytest.approx(expected)
    assert overlaps(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)).min() == 1


@pytest.mark.parametrize(("inside", "outside", "best"), [(0.33, 0.1, 0.3), (0.9, 0.72, 0.75), (0.9, 0.1, 0.5)])
def test_the_threshold_is_the_best_one_and_nearest_to_a_half(inside: float, outside: float, best: float) -> None:
    truth = torch.zeros(1, 8, 8)
    truth[:, 2:5, 2:5] = 1
    output = {"probability": truth * inside + (1 - truth) * outside, "label": truth}
    threshold = BestThreshold()
    with pytest.raises(ValueError, match="has not run yet"):
        threshold.value  # noqa: B018
    engine = Engine(lambda *_: [output])
    threshold.attach(engine)
    engine.run([0])
    assert threshold.value == pytest.approx(best)


def test_masks_are_cleaned_before_the_threshold_is_chosen_and_scored() -> None:
    """A second piece that the clean-up takes away costs nothing; without it, a threshold that leaves it out is best."""
    truth = torch.zeros(1, 9, 9, 9)
    truth[:, 1:5, 1:5, 1:5] = 1
    probability = truth * 0.8
    probability[:, 7, 7, 7] = 0.6
    largest = Lambdad("pred", lambda mask: torch.from_numpy(ndimage.label(mask)[0] == 1).float())  # the first it meets
    for clean, best, jaccard in ((largest, 0.5, 1.0), (None, 0.6, 64 / 65)):
        threshold = BestThreshold(clean)
        engine = Engine(lambda *_: [{"probability": probability, "label": truth}])
        threshold.attach(engine)
        engine.run([0])
        assert threshold.value == pytest.approx(best)
        assert threshold.overlaps(probability, truth, torch.tensor([0.5])).item() == pytest.approx(jaccard)
