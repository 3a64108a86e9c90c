"""Scores of a case beside those of overlap: lesions found, calibration, and the threshold of a mask."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from monai.metrics.calibration import calibration_binning
from monai.metrics.meandice import DiceHelper
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MATCH = 0.1  # a lesion is found where a predicted one has a Jaccard index above this with it, as in nnDetection
BINS = 20
THRESHOLDS = torch.linspace(0.05, 0.95, 19)


def lesion_scores(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Score how well single lesions are found: connected components, also over corners.

    Args:
        prediction: masks of 0 and 1, (B, 1, *S) with two or three spatial dimensions.
        target: the true masks, likewise.

    Returns:
        "lesion_f1", the F1 score of detection: predicted and true lesions are paired one to one where their Jaccard
        index exceeds 0.1 (MONAI's recognition quality). "lesion_recall", the share of the true lesions that are found
        so, NaN where there is none. "false_lesions", the number of predicted ones that are in no pair. "lesion_dice",
        the mean over the true lesions of the Dice coefficient in the region that is nearer to it than to any other
        (MONAI's DiceHelper, per component). Each (B,); F1 and Dice are 1 where both masks are empty, 0 where one is.

    >>> mask, other = torch.zeros(2, 1, 1, 8, 8)
    >>> mask[..., 1:3, 1:3] = mask[..., 5:7, 5:7] = other[..., 1:3, 1:3] = 1
    >>> {name: round(score.item(), 4) for name, score in lesion_scores(other, mask).items()}
    {'lesion_f1': 0.6667, 'lesion_recall': 0.5, 'false_lesions': 0.0, 'lesion_dice': 0.5}
    """
    counts = [_detection(here[0].numpy(), there[0].numpy()) for here, there in zip(prediction, target, strict=True)]
    helper = DiceHelper(
        per_component=True, apply_argmax=False, ignore_empty=False, get_not_nans=False, reduction="none"
    )
    channels = (torch.cat([1 - mask.float(), mask.float()], dim=1).long() for mask in (prediction, target))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Voronoi computation is running on CPU")
        dice = torch.as_tensor(helper(*channels)).reshape(-1).double()
    empty = (prediction.flatten(1).any(1) ^ target.flatten(1).any(1)).reshape(-1)
    found, predicted, true = torch.tensor(counts, dtype=torch.float64).T
    return {
        "lesion_f1": torch.where(predicted + true > 0, 2 * found / (predicted + true), 1.0),
        "lesion_recall": found / true,
        "false_lesions": predicted - found,
        "lesion_dice": dice.masked_fill(empty, 0.0),
    }


def _detection(prediction: np.ndarray, target: np.ndarray) -> tuple[int, int, int]:
    """Pairs of lesions, and how many are predicted and true."""
    everywhere = ndimage.generate_binary_structure(target.ndim, target.ndim)
    (here, predicted), (there, true) = (ndimage.label(mask, everywhere) for mask in (prediction, target))
    if not predicted or not true:
        return 0, predicted, true
    overlap = np.bincount((there * (predicted + 1) + here).ravel(), minlength=(true + 1) * (predicted + 1))
    overlap = overlap.reshape(true + 1, predicted + 1)
    sizes = overlap.sum(axis=1, keepdims=True) + overlap.sum(axis=0, keepdims=True)
    jaccard = (overlap / (sizes - overlap))[1:, 1:]
    pairs = int((jaccard[linear_sum_assignment(-jaccard)] > MATCH).sum())
    return pairs, predicted, true


def calibration_error(probability: Tensor, target: Tensor) -> Tensor:
    """Return the expected calibration error of every case, (B,), from 0 to 1, the worst.

    The mean over 20 bins of the probability of the difference between it and the share of the object, weighted by
    voxels (MONAI's calibration_binning).

    Args:
        probability: of the object in each voxel, (B, 1, *S), from 0 to 1.
        target: the true masks, likewise.

    >>> calibration_error(torch.full((1, 1, 4, 4), 0.25), torch.eye(4)[None, None]).item()
    0.0
    """
    expected, share, counts = calibration_binning(probability.float(), target.float(), num_bins=BINS)
    gaps = torch.nan_to_num(expected - share).abs() * counts
    return (gaps.sum(-1) / counts.sum(-1))[:, 0].double()


def overlaps(probability: Tensor, target: Tensor, thresholds: Tensor = THRESHOLDS) -> Tensor:
    """Return the Jaccard index of every case at every threshold, (B, T), 1 where both masks are empty.

    A mask is what exceeds the threshold.
    """
    flat, truth = probability.flatten(1), target.flatten(1) > 0.5
    values = []
    for threshold in thresholds.tolist():
        mask = flat > threshold
        union = (mask | truth).sum(1, dtype=torch.float64)
        values.append(torch.where(union > 0, (mask & truth).sum(1) / union.clamp(min=1), 1.0))
    return torch.stack(values, dim=1)
