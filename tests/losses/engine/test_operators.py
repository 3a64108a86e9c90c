"""The operators that losses are made of, as torch sees them: in graphs, profiles and its own checks of operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    DiceCrossEntropyLoss,
    FocalCrossEntropyLoss,
    HausdorffDistanceLoss,
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    MatthewsCorrelationLoss,
    SensitivitySpecificityLoss,
    SoftDiceLoss,
    WeightedCrossEntropyLoss,
)
from monai_lossext.losses.paths import kernels_available

from .. import cases

pytestmark = pytest.mark.skipif(not kernels_available(), reason="needs kernels")
MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
ONE_OF_EACH = [
    SoftDiceLoss,
    MatthewsCorrelationLoss,
    SensitivitySpecificityLoss,
    WeightedCrossEntropyLoss,
    FocalCrossEntropyLoss,
    LovaszSoftmaxLoss,
    LovaszHingeLoss,
    DiceCrossEntropyLoss,
]
WITH_MAPS = [BoundaryDistanceLoss, HausdorffDistanceLoss]
one_of_each = pytest.mark.parametrize("cls", [*ONE_OF_EACH, *WITH_MAPS], ids=lambda cls: cls.__name__)


class Recorder(TorchDispatchMode):
    """Keeps the calls of this package's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "monai_lossext":
            kept = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
            self.calls.append((func, tuple(kept), dict(kwargs or {})))
        return func(*args, **(kwargs or {}))


def call_of(cls: type, dtype: torch.dtype = torch.float32) -> tuple[Any, torch.Tensor, Any]:
    """Return a loss and what to call it with."""
    x, label = cases.logits(2, 3, 6, 5, dtype=dtype), cases.indices(2, 3, 6, 5)
    maps = {"distance_map": torch.rand(2, 3, 6, 5)} if cls in WITH_MAPS else {}
    own = {"one_sided": True} if cls is HausdorffDistanceLoss else {}
    options = MULTI if cases.entry_of(cls).activation else {"to_onehot_y": True}
    return cls(**options, **own), x, {"label": label, "mask": torch.rand(2, 1, 6, 5), **maps}


@one_of_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_pass_torchs_own_checks(cls, dtype):
    loss, x, target = call_of(cls, dtype)
    with Recorder() as recorder:
        loss(x.requires_grad_(), target).backward()
    assert recorder.calls
    for operator, args, kwargs in recorder.calls:
        # also as one whose input needs a gradient, where it is the first tensor
        for wanted in (False, True):
            with_slope = [
                a.clone().requires_grad_(wanted and i == 0)
                if isinstance(a, torch.Tensor) and a.is_floating_point()
                else a
                for i, a in enumerate(args)
            ]
            checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
            torch.library.opcheck(operator, tuple(with_slope), kwargs, test_utils=checks)


@one_of_each
def test_a_profile_names_them(cls):
    loss, x, target = call_of(cls)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loss(x.requires_grad_(), target).backward()
    assert any("monai_lossext::" in event.key for event in profile.key_averages())


@one_of_each
def test_one_walk_forth_and_one_back(cls):
    """A step is a few operators, whatever the loss: the sums, and the gradient."""
    loss, x, target = call_of(cls)
    with Recorder() as recorder:
        loss(x.requires_grad_(), target).backward()
    assert 1 <= len(recorder.calls) <= 3, [str(operator) for operator, *_ in recorder.calls]


@one_of_each
def test_autocast_does_not_change_them(cls):
    loss, x, target = call_of(cls)
    expected = cases.value_and_gradient(loss, x, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = cases.value_and_gradient(loss, x, target)
    assert all(torch.equal(*both) for both in zip(got, expected, strict=True))
