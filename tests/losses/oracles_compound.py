"""Independent float64 numpy oracle of the compound losses: sums of the oracles of their terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .oracles_voxel import safe_pow

Array = np.ndarray
Oracle = Callable[..., Any]
OF_DICE = {"batch", "empty", "smooth_nr", "smooth_dr", "soft_label", "distributed", "group"}


def _dice_options(options: dict[str, Any], own: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in own}


def _voxel_options(options: dict[str, Any], own: tuple[str, ...], see_background: bool = True) -> dict[str, Any]:
    kept = {key: value for key, value in options.items() if key not in own and key not in OF_DICE}
    if see_background and kept.pop("include_background", True) is False and np.ndim(kept.get("weight", 1.0)):
        kept["weight"] = [1.0, *kept["weight"]]
    return kept


def combo(oracle: Oracle, options: dict[str, Any], *case: Any) -> float:
    own = ("alpha", "beta")
    alpha, beta = options.get("alpha", 0.5), options.get("beta", 0.5)
    dice = oracle("SoftDiceLoss", {"smooth_nr": 1.0, "smooth_dr": 1.0, **_dice_options(options, own)}, *case)
    return alpha * oracle("BalancedCrossEntropyLoss", {**_voxel_options(options, own), "beta": beta}, *case) + (
        (1 - alpha) * dice
    )


def dice_cross_entropy(oracle: Oracle, options: dict[str, Any], *case: Any) -> float:
    own = ("lambda_dice", "lambda_ce")
    dice = oracle("SoftDiceLoss", _dice_options(options, own), *case)
    entropy = oracle("WeightedCrossEntropyLoss", _voxel_options(options, own), *case)
    return options.get("lambda_dice", 1.0) * dice + options.get("lambda_ce", 1.0) * entropy


def dice_top_k(oracle: Oracle, options: dict[str, Any], *case: Any) -> float:
    voxels = {**_voxel_options(options, ("k",)), "k": options.get("k", 10.0)}
    return oracle("SoftDiceLoss", _dice_options(options, ("k",)), *case) + oracle("TopKCrossEntropyLoss", voxels, *case)


def dice_hausdorff(oracle: Oracle, options: dict[str, Any], *case: Any) -> float:
    own = ("balance", "alpha", "one_sided", "spacing")
    distances = {key: options[key] for key in own[1:] if key in options}
    hausdorff = oracle("HausdorffDistanceLoss", {**_voxel_options(options, own, False), **distances}, *case)
    dice = oracle("SoftDiceLoss", _dice_options(options, own), *case)
    balance = options.get("balance", "ratio")
    if balance == "ratio":
        balance = hausdorff / dice if hausdorff and dice else 1.0
    return hausdorff + balance * dice


def exponential_logarithmic(oracle: Oracle, options: dict[str, Any], *case: Any) -> float:
    defaults = {"w_dice": 0.8, "w_ce": 0.2, "gamma_dice": 0.3, "gamma_ce": 0.3, "label_weight": None}
    own = {key: options.get(key, value) for key, value in defaults.items()}
    dice = oracle("PowerOfLogDice", {**_dice_options(options, tuple(own)), "gamma_dice": own["gamma_dice"]}, *case)
    voxels = {**_voxel_options(options, tuple(own)), "gamma_ce": own["gamma_ce"], "label_weight": own["label_weight"]}
    return own["w_dice"] * dice + own["w_ce"] * oracle("PowerOfLogLikelihood", voxels, *case)


def power_of_log_dice(
    p: Array,
    g: Array,
    w: Array,
    gamma_dice: float,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    soft_label: bool = True,
):
    shared = np.minimum(p, g) if soft_label else p * g
    dice = (2 * (w * shared).sum() + smooth_nr) / ((w * (p + g)).sum() + smooth_dr)
    return safe_pow(np.maximum(-np.log(np.maximum(dice, 1e-7)), 0), gamma_dice)


FORMULAS: dict[str, Callable[..., float]] = {
    "ComboLoss": combo,
    "DiceCrossEntropyLoss": dice_cross_entropy,
    "ExponentialLogarithmicLoss": exponential_logarithmic,
    "DiceTopKLoss": dice_top_k,
    "DiceHausdorffLoss": dice_hausdorff,
}
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "ComboLoss": ({"alpha": 0.2}, {"beta": 0.8}, {"smooth_nr": 5.0}, {"smooth_dr": 5.0}),
    "DiceCrossEntropyLoss": ({"lambda_dice": 0.3}, {"lambda_ce": 0.2}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0}),
    "ExponentialLogarithmicLoss": (
        {"w_dice": 0.3},
        {"w_ce": 0.5},
        {"gamma_dice": 1.5},
        {"gamma_ce": 1.0},
        {"smooth_nr": 1.0},
        {"smooth_dr": 1.0},
    ),
    "DiceTopKLoss": ({"k": 60.0}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0}),
    "DiceHausdorffLoss": ({"balance": "ratio"}, {"alpha": 1.0}, {"one_sided": True}, {"spacing": 2.0}),
}
