"""The worked examples (worked_examples.json), values and gradients, in float64 to 1e-7.

``READINGS`` says how a formula id of the file maps to a class and its arguments. Examples of losses that the package
does not have yet are not read; those of a loss that it has must all be.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import monai_lossext.losses as losses

EXAMPLES = json.loads(Path(__file__).with_name("worked_examples.json").read_text())["examples"]
RENAMED = {"alpha_fp": "alpha", "beta_fn": "beta", "eps": "smooth_dr"}
RENAMED |= {"k_percent": "k", "t": "threshold", "C4": "c4", "foreground_prior": "prior", "normalise": "normalize"}
DESCRIPTIVE = {"smooth_kind", "order", "exponent", "absent_class_weight", "kernel", "soft_threshold"}
DESCRIPTIVE |= {"scope", "mask", "offset", "padding", "variance", "label_weights", "dice_classes"}
VALUES = {("inside", "-D"): "full", ("inside", "-(D-1)"): "shifted", ("reduction", "mean over voxels"): "mean"}
VALUES |= {("reduction", "mean over voxels (Ma Eq.5)"): "mean", ("beta", "1-mean(g)"): None}
VALUES |= {("normalize", "sum of weights (torch CrossEntropyLoss)"): "weights"}
NOT_OURS = ("_PRINTED", "_SEGLOSS", "_MICRO", "_OF_MEAN", "CMP.COMBO")
SUMS_ONLY = {"CONFUSION", "COUNTS"}
READINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "REG.DICE_L1": ("SoftDiceLoss", {}),
    "REG.DICE_L2": ("SoftDiceLoss", {"squared_pred": True}),
    "REG.JACCARD_L1": ("SoftJaccardLoss", {}),
    "REG.JACCARD_L2": ("SoftJaccardLoss", {"squared_pred": True}),
    "REG.TVERSKY": ("SoftTverskyLoss", {}),
    "REG.FTL": ("FocalTverskyLoss", {}),
    "REG.ASYM": ("AsymmetricSimilarityLoss", {}),
    "REG.GD": ("ScaledGeneralizedDiceLoss", {}),
    "REG.PGD": ("PenaltyGeneralizedDiceLoss", {}),
    "REG.SENSSPEC_SQ": ("SensitivitySpecificityLoss", {"squared": True}),
    "REG.SENSSPEC_LIN": ("SensitivitySpecificityLoss", {"squared": False}),
    "REG.LOVASZ_SIGMOID": ("LovaszSoftmaxLoss", {}),
    "REG.LOVASZ_SOFTMAX": ("LovaszSoftmaxLoss", {}),
    "REG.LOVASZ_HINGE": ("LovaszHingeLoss", {}),
    "CE.BCE": ("WeightedCrossEntropyLoss", {}),
    "CE.CE": ("WeightedCrossEntropyLoss", {}),
    "CE.WBCE": ("WeightedCrossEntropyLoss", {}),
    "CE.WCE": ("WeightedCrossEntropyLoss", {}),
    "CE.WCE_PRIOR": ("WeightedCrossEntropyLoss", {}),
    "CE.BALANCED": ("BalancedCrossEntropyLoss", {}),
    "CE.FOCAL": ("FocalCrossEntropyLoss", {}),
    "CE.FOCAL_MC": ("FocalCrossEntropyLoss", {}),
    "CE.TOPK": ("TopKCrossEntropyLoss", {}),
    "CE.TOPK_T": ("TopKCrossEntropyLoss", {}),
    "CE.DISTMAP": ("DistanceMapCrossEntropyLoss", {}),
    "BND.SHAPE": ("ShapeAwareLoss", {}),
    "STR.SSL": ("StructuralSimilarityCrossEntropyLoss", {}),
    "CMP.COMBO_NONNEG": ("ComboLoss", {}),
    "CMP.EXPLOG": ("ExponentialLogarithmicLoss", {}),
    "CMP.DICE_CE": ("DiceCrossEntropyLoss", {}),
    "CMP.DICE_TOPK": ("DiceTopKLoss", {}),
    "BND.BOUNDARY": ("BoundaryDistanceLoss", {}),
    "BND.HDDT": ("HausdorffDistanceLoss", {}),
    "BND.HDDT_OS": ("HausdorffDistanceLoss", {"one_sided": True}),
    "BND.HDER": ("HausdorffERLoss", {}),
    "BND.HDCV": ("HausdorffCVLoss", {}),
    "REG.LOGCOSH": ("LogCoshDiceLoss", {}),
    "REG.MCC": ("MatthewsCorrelationLoss", {}),
    "REG.MCC_RK": ("MatthewsCorrelationLoss", {"multiclass": True}),
}
READ = [example for example in EXAMPLES if example["formula_id"] in READINGS]


def build(example: dict[str, Any], **more: Any) -> losses.SegmentationLoss:
    name, own = READINGS[example["formula_id"]]
    cls = getattr(losses, name)
    options = {RENAMED.get(k, k): v for k, v in example["hyper_parameters"].items() if k not in DESCRIPTIVE}
    options = {k: VALUES.get((k, v), v) if isinstance(v, str) else v for k, v in options.items()}
    if example["formula_id"] == "CE.WBCE":
        options["pos_weight"] = options.pop("beta")
    smooth = options.pop("smooth", 0.0)
    always = {"smooth": smooth, "smooth_nr": smooth, "smooth_dr": smooth, "empty": "formula"}
    always = {k: v for k, v in always.items() if k in cls.__signature__.parameters}
    return cls(**{**always, **own, **options, **more})


@pytest.mark.parametrize("example", READ, ids=lambda example: example["name"])
def test_worked_example(example):
    p = torch.tensor(example.get("logits", example["p"]), dtype=torch.float64, requires_grad=True)
    g = torch.tensor(example["g"], dtype=torch.float64)
    value = build(example)(p, g)
    assert value.item() == pytest.approx(example["expected"], abs=1e-7)
    if "expected_grad_wrt_p" in example:
        value.backward()
        np.testing.assert_allclose(p.grad.numpy(), np.array(example["expected_grad_wrt_p"]), atol=1e-7)
    if "per_class" in example:
        every = {"classes": "all"} if "classes" in example["hyper_parameters"] else {}
        each = build(example, reduction="none", **every)(p.detach(), g)
        np.testing.assert_allclose(each.numpy()[0], example["per_class"], atol=1e-7)


def test_the_file_is_read():
    assert len(READ) == 103
    assert sum("expected_grad_wrt_p" in example for example in READ) == 54
    unread = {e["formula_id"] for e in EXAMPLES if e["family"] == "loss"} - set(READINGS)
    assert {name for name in unread if not name.endswith(NOT_OURS)} == SUMS_ONLY
