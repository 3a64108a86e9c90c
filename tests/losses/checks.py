"""Checks that tests/losses/test_contract.py applies to the losses, and test_mutants.py to deliberately wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monai_lossext.losses import SegmentationLoss

from . import cases
from .oracles import ROWS, oracle, oracle_slopes

DIRECTIONS = 8  # along which a gradient is compared
ANSWERS: dict[Any, tuple[Any, Any]] = {}  # of the oracle, which is slow, and asked again for each way to compute a loss


@contextmanager
def at(*combination: Any) -> Iterator[None]:
    """Name the combination that a test which loops over many has failed at."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        raise AssertionError(f"at {', '.join(map(str, combination))}: {error}") from error


def ask(name: str, options: dict[str, Any], directions: Any, *arrays: Any) -> tuple[Any, Any]:
    """Return the value by the oracle, and its slopes along directions of the input, or None without any."""
    shown = [a if a is None else (a.shape, a.dtype, a.tobytes()) for a in arrays]
    key = (name, repr(options), directions is None, *shown)
    if key not in ANSWERS:
        slopes = None if directions is None else oracle_slopes(name, options, directions, *arrays)
        ANSWERS[key] = oracle(name, options, *arrays), slopes
    return ANSWERS[key]


def equals_oracle(
    cls: type[SegmentationLoss],
    options: dict[str, Any],
    x: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    classes: Tensor | None = None,
    name: str | None = None,
) -> None:
    """Assert that the value equals that of the numpy oracle of ``name`` (default: of the class), and that the gradient
    equals its slopes along random directions, all voxels at once: differences of each voxel would take far longer.
    """
    name = name or cls.__name__
    options = cases.options_for(cls, **options)
    label: Any = target if classes is None else {"label": target, "classes": classes}
    value, gradient = cases.value_and_gradient(cls(**options), x, label, mask)
    arrays = [x.numpy(), target.numpy(), *(None if t is None else t.numpy() for t in (mask, classes))]
    tolerance = ROWS[name].tolerance
    differentiable = all(options.get(option) == value for option, value in ROWS[name].differentiable.items())
    signs = np.random.default_rng(len(name)).choice([-1.0, 1.0], (DIRECTIONS, *x.shape))
    total, expected = ask(name, options, signs if differentiable else None, *arrays)
    where = f"{name}, {options}, input of shape {tuple(x.shape)}"
    np.testing.assert_allclose(value.numpy(), total, rtol=tolerance, atol=1e-12, err_msg=where)
    if not differentiable:
        return
    # the oracle's differences, divided by steps of 1e-5, keep the rounding of the value
    least = 1e-6 * np.sqrt(np.square(expected).mean()) + 1e-9 + 1e-10 * np.abs(total).sum()
    found = (gradient.numpy() * signs).reshape(DIRECTIONS, -1).sum(1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=least, err_msg=where)


def pushes_towards_target(cls: type[SegmentationLoss]) -> None:
    """Assert that from an undecided prediction the gradient raises the foreground and lowers the background."""
    target = cases.binary(2, 5, 4)
    start = torch.full((2, 1, 5, 4), -1.0)  # no step from here makes a border where there was none
    value, gradient = cases.value_and_gradient(cases.make(cls, sigmoid=True), start, target)
    assert gradient.any()
    if cases.entry_of(cls).without_gradient:
        assert (gradient[target == 1] <= 0).all()
        assert (gradient[target == 0] >= 0).all()
    else:
        assert (gradient[target == 1] < 0).all()
        assert (gradient[target == 0] > 0).all()
    better = cases.make(cls, sigmoid=True)(start - gradient, target)
    assert better < value


def ignores_masked_voxels(cls: type[SegmentationLoss]) -> None:
    """Assert that masking out voxels equals cutting them away."""
    x, target = cases.logits(1, 1, 8), cases.binary(1, 8)
    mask = torch.ones(1, 1, 8)
    mask[..., 5:] = 0
    loss = cases.make(cls, sigmoid=True)
    torch.testing.assert_close(loss(x, target, mask), loss(x[..., :5], target[..., :5]))
