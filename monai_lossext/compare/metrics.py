"""The metrics of a case: what their columns are called, and whether higher or lower is better."""

from __future__ import annotations

import pandas as pd

# What the columns of cases.csv are called in reports, in their order there. Any other column is called by its own name.
METRICS = {
    "jaccard": "Jaccard index",
    "dice": "Dice coefficient (F1)",
    "mcc": "Matthews correlation",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "f0.5": "F0.5 score",
    "f1.5": "F1.5 score",
    "f2": "F2 score",
    "hausdorff_mm": "Hausdorff distance (mm)",
    "hausdorff95_mm": "95 % Hausdorff distance (mm)",
    "hausdorff_px": "Hausdorff distance (pixels)",
    "hausdorff95_px": "95 % Hausdorff distance (pixels)",
    "nsd_2mm": "Normalised surface distance at 2 mm",
    "nsd_2px": "Normalised surface distance at 2 pixels",
    "lesion_f1": "F1 score of the lesions found",
    "lesion_recall": "Share of the lesions found",
    "false_lesions": "Lesions that are none",
    "lesion_dice": "Dice coefficient of each lesion",
    "ece": "Expected calibration error",
    "jaccard_tuned": "Jaccard index at the best threshold",
    "dice_tuned": "Dice coefficient at the best threshold",
    "volume_difference_ml": "Volume difference (ml)",
}
TESTED = "jaccard"
FOREGROUND = (
    "foreground"  # column with the share of a case's voxels that the reference marks; describes, does not score
)
BETAS = {"f0.5": 0.5, "f1.5": 1.5, "f2": 2.0}
LOWER_IS_BETTER = ("hausdorff", "distance", "difference", "error", "loss", "false")
THRESHOLD = "threshold"  # column with the threshold that was best on the validation cases


def metric_name(metric: str) -> str:
    """Return what a metric's column is called in reports."""
    return METRICS.get(metric, metric)


def higher_is_better(metric: str) -> bool:
    """Tell whether a higher value of a metric is the better one, by the name of its column.

    Lower is better where the name holds "hausdorff", "distance", "difference", "error", "loss" or "false", and for
    "ece".

    >>> higher_is_better("dice"), higher_is_better("hausdorff95_mm"), higher_is_better("surface_distance")
    (True, False, False)
    """
    return metric != "ece" and not any(word in metric.lower() for word in LOWER_IS_BETTER)


def with_f_scores(cases: pd.DataFrame) -> pd.DataFrame:
    """Add the F-beta scores of every case, which follow from its Dice coefficient and its sensitivity.

    F-beta is (1 + b^2) TP / ((1 + b^2) TP + b^2 FN + FP) with b = 0.5, 1.5 and 2; F1 is the Dice coefficient. Like
    that, it is 1 when both masks are empty and 0 when they do not overlap.

    Args:
        cases: a row a case, with the columns "dice" and "sensitivity"; unchanged when one is absent.

    >>> with_f_scores(pd.DataFrame({"dice": [4 / 7, 1.0], "sensitivity": [0.5, float("nan")]})).round(4)
         dice  sensitivity   f0.5    f1.5      f2
    0  0.5714          0.5  0.625  0.5417  0.5263
    1  1.0000          NaN  1.000  1.0000  1.0000
    """
    if not {"dice", "sensitivity"} <= set(cases):
        return cases
    dice, overlap = cases["dice"], (cases["dice"] > 0) & (cases["sensitivity"] > 0)
    missed = 1 / cases["sensitivity"] - 1  # FN / TP
    wrong = 2 / dice - 2 - missed  # FP / TP
    scores = {
        name: ((1 + beta**2) / (1 + beta**2 + beta**2 * missed + wrong)).where(overlap, dice)
        for name, beta in BETAS.items()
    }
    return cases.assign(**scores)
