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
RENAMED = {"alpha_fp": "alpha", "beta_fn": "beta"}
DESCRIPTIVE = {"smooth_kind", "order"}
READINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "REG.DICE_L1": ("SoftDiceLoss", {}),
    "REG.DICE_L2": ("SoftDiceLoss", {"squared_pred": True}),
    "REG.JACCARD_L1": ("SoftJaccardLoss", {}),
    "REG.JACCARD_L2": ("SoftJaccardLoss", {"squared_pred": True}),
    "REG.TVERSKY": ("SoftTverskyLoss", {}),
    "REG.LOGCOSH": ("LogCoshDiceLoss", {}),
    "REG.MCC": ("MatthewsCorrelationLoss", {}),
    "REG.MCC_RK": ("MatthewsCorrelationLoss", {"multiclass": True}),
}
READ = [example for example in EXAMPLES if example["formula_id"] in READINGS]


def build(example: dict[str, Any], **more: Any) -> losses.SegmentationLoss:
    name, own = READINGS[example["formula_id"]]
    cls = getattr(losses, name)
    options = {RENAMED.get(k, k): v for k, v in example["hyper_parameters"].items() if k not in DESCRIPTIVE}
    smooth = options.pop("smooth", 0.0)
    pair = ["smooth"] if "smooth" in cls.__signature__.parameters else ["smooth_nr", "smooth_dr"]
    return cls(**{**dict.fromkeys(pair, smooth), "empty": "formula", **own, **options, **more})


@pytest.mark.parametrize("example", READ, ids=lambda example: example["name"])
def test_worked_example(example):
    p = torch.tensor(example["p"], dtype=torch.float64, requires_grad=True)
    g = torch.tensor(example["g"], dtype=torch.float64)
    value = build(example)(p, g)
    assert value.item() == pytest.approx(example["expected"], abs=1e-7)
    if "expected_grad_wrt_p" in example:
        value.backward()
        np.testing.assert_allclose(p.grad.numpy(), np.array(example["expected_grad_wrt_p"]), atol=1e-7)
    if "per_class" in example:
        each = build(example, reduction="none")(p.detach(), g)
        np.testing.assert_allclose(each.numpy()[0], example["per_class"], atol=1e-7)


def test_the_file_is_read():
    assert len(READ) == 31
    assert sum("expected_grad_wrt_p" in example for example in READ) == 17
