"""What is noted of losses for Triton's kernel, computed in torch's operations, and what cannot be noted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_lossext.losses import FocalCrossEntropyLoss, RegionLoss, WeightedCrossEntropyLoss
from monai_lossext.losses.base import Sums
from monai_lossext.losses.engine import arithmetic
from monai_lossext.losses.paths import as_on_accelerator

from .. import cases, checks
from ..cases import make

LOSSES = [
    *(cls for cls in cases.CLASSES if issubclass(cls, RegionLoss)),
    WeightedCrossEntropyLoss,
    FocalCrossEntropyLoss,
]
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"include_background": False, "weight": [1.0, 2.0], "empty": "skip"},
    {"batch": True, "weight": [1.0, 2.0, 3.0]},
    {"reduction": "none", "smooth_nr": 0.0, "smooth_dr": 0.0},
    {"reduction": "sum", "empty": "formula"},
    {"multiclass": True},
    {"squared_pred": True, "smooth": 0.0},
)


def sums() -> torch.Tensor:
    """Return sums of two samples and three classes, of which one is absent, as squares and errors may be too."""
    x = torch.rand(9, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0], x[1] = 5, x[2] + x[4]
    x[1:, 0, 2], x[3, 0, 2], x[5, 0, 2] = 0, 0.3, 4.7
    return x


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_noted_is_the_loss(cls, masked):
    options = [{name: x for name, x in own.items() if name in cls.__signature__.parameters} for own in OPTIONS]
    for own in options:
        with as_on_accelerator(), checks.at(own):
            loss = make(cls, softmax=True, to_onehot_y=True, **own)
            rest: Any = torch.zeros(2, 1, 4)
            if masked and not own.get("multiclass"):
                rest = {"label": rest, "classes": cases.partial("101", "111"), "mask": torch.ones(2, 1, 4)}
            reading = loss.read(torch.zeros(2, 3, 4), rest)

            def of(rows: Any, loss: Any = loss, reading: Any = reading) -> Any:
                return loss.of_sums(Sums(rows), reading)

            noted = arithmetic.noted(of, sums())
            if noted is None:
                assert not issubclass(cls, RegionLoss)
                continue
            got = cases.value_and_gradient(
                lambda x, noted=noted: arithmetic.by_torch(noted[0], x, noted[1]).sum(), sums()
            )
            expected = cases.value_and_gradient(lambda x, of=of: of(x.unbind()).sum(), sums())
            for one, other in zip(got, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "function",
    [
        lambda rows: rows[2].cumsum(1),
        lambda rows: torch.tanh(rows[2]),
        lambda rows: rows[2] if rows[3].sum() > 0 else rows[4],
        lambda rows: rows[2] * float(rows[3].sum()),
        lambda rows: rows[2][:, :1],
        lambda rows: rows[2].sum(1),
        lambda rows: rows[2] + rows[3][:, 1:],
        lambda rows: rows[2] * rows[3].sum(1, keepdim=True),  # a class's number has slopes by the sums of others
        lambda rows: rows[2].amin(1, keepdim=True),
        lambda rows: torch.add(rows[2], rows[3], alpha=2),
        lambda rows: rows[2] * torch.ones(2, 3, requires_grad=True),
        lambda rows: torch.ones(2, 3),
    ],
)
def test_what_cannot_be_noted_is_left_to_torch(function):
    assert arithmetic.noted(lambda rows: rows[2] + rows[3].sum(1, keepdim=True).detach(), sums()) is not None
    assert arithmetic.noted(function, sums()) is None


def added_in_place(rows: Any) -> Any:
    """Return what a loss makes of its sums that adds them to a tensor of its own."""
    total = torch.zeros(2, 3, dtype=torch.float64)
    total.add_(rows[2])
    return total + rows[3].detach()


@pytest.mark.parametrize(
    "function",
    [
        added_in_place,
        lambda rows: torch.where(rows[4] == 0, 7.0, rows[2]),
        lambda rows: torch.where(torch.eq(rows[4].detach(), 0.0), 7.0, rows[2]),
        lambda rows: torch.where(rows[4] != 0, rows[2], 7.0),
        lambda rows: torch.where(~(rows[3] > 0.2) | (rows[4] <= 0.5), rows[2], rows[3]),
        lambda rows: (rows[2] * rows[3]).sum(-1, keepdim=True),
        lambda rows: rows[2].sum(dim=-2, keepdim=True),
        lambda rows: rows[2] + rows[3].detach().sum((0, 1), keepdim=True),
        lambda rows: (rows[4].detach() == 0).any(-1, keepdim=True) * rows[2],
        lambda rows: rows[2].clamp(min=0.5, max=0.6) - torch.minimum(rows[3], rows[4]),
        lambda rows: 2.0 / (1 + rows[2]) ** 1.5 - rows[3].sqrt().mean(),
    ],
)
def test_whatever_is_noted_is_what_torch_computes(function):
    """Of a loss of somebody's own as well: a wrong number would not be seen."""
    noted = arithmetic.noted(function, sums())
    expected = function(sums().unbind())
    if noted is not None:
        torch.testing.assert_close(arithmetic.by_torch(noted[0], sums(), noted[1]), expected, rtol=1e-12, atol=1e-14)
