"""The fused path of the region losses against the plain one, which is its oracle."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from monai_lossext.losses import RegionLoss, SoftDiceLoss, catalogue
from monai_lossext.losses import parts as engine
from monai_lossext.losses.paths import fused, plain_path, uncompiled_path

from . import cases

REGION = [entry.cls for entry in catalogue() if issubclass(entry.cls, RegionLoss)]
OPTIONS = {
    "SoftDiceLoss": [{}, {"squared_pred": True}],
    "SoftJaccardLoss": [{}, {"squared_pred": True}],
    "SensitivitySpecificityLoss": [{"w": 0.4}, {"w": 0.4, "squared": False}],
    "LogCoshDiceLoss": [{}, {"squared_pred": True}, {"jaccard": True}],
    "MatthewsCorrelationLoss": [{}, {"multiclass": True}],
    "PenaltyGeneralizedDiceLoss": [{}, {"form": "printed"}],
}
LOSSES = [(cls, options) for cls in REGION for options in OPTIONS.get(cls.__name__, [{}])]
SHAPE = (2, 3, 7, 9, 5)


@pytest.fixture(autouse=True)
def _many_parts(monkeypatch):
    """Cut even small volumes into parts, of samples, slabs and blocks."""
    monkeypatch.setattr(engine, "SMALLEST_PART", 100)


def both(loss: Any, x: torch.Tensor, target: Any, mask: Any = None) -> None:
    """Compare value and gradient of the fused path, with compiled loops and without, and of the plain one."""
    with plain_path():
        expected, slope = cases.value_and_gradient(lambda z: loss(z, target, mask).sum(), x)
    for path in (nullcontext(), uncompiled_path()):
        with path:
            value, gradient = cases.value_and_gradient(lambda z: loss(z, target, mask).sum(), x)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
        exact = max(1e-6, torch.finfo(x.dtype).eps)  # half precision rounds the gradient
        torch.testing.assert_close(gradient, slope, rtol=exact, atol=exact * slope.abs().max().item())


def random_case(channels: int = 3, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(2, channels, *SHAPE[2:], generator=generator, dtype=dtype) * 2
    return x, torch.randint(0, max(channels, 2), (2, 1, *SHAPE[2:]), generator=generator)


@pytest.mark.parametrize(("cls", "options"), LOSSES)
@pytest.mark.parametrize("kind", ["labels", "two labels", "one-hot", "soft", "sigmoid", "single", "given"])
@pytest.mark.parametrize("extra", ["", "mask", "mask per channel", "ignore", "classes", "batch"])
def test_both_paths_agree(cls, options, kind, extra):
    channels = {"two labels": 2, "single": 1}.get(kind, 3)
    x, label = random_case(channels)
    options, target, mask = dict(options), label, None
    if kind in ("labels", "two labels"):
        options |= {"softmax": True, "to_onehot_y": True}
    else:
        target = label.float() if kind == "single" else cases.one_hot(label, channels)
        target = target.bool() if kind == "one-hot" else target
        options |= {"softmax": kind in ("one-hot", "soft"), "sigmoid": kind in ("sigmoid", "single")}
        if kind == "soft":
            target = 0.8 * target + 0.1
        if kind == "given":
            x = x.softmax(1)
    joins = options.get("multiclass", False)
    if joins and (kind in ("sigmoid", "single") or extra in ("mask per channel", "classes")):
        pytest.skip("multiclass takes neither")
    if extra.startswith("mask"):
        mask = (torch.rand(2, channels if "channel" in extra else 1, *SHAPE[2:]) - 0.3).clamp(min=0)
    if extra == "ignore":
        options["ignore_index"] = 1 if kind in ("labels", "two labels") else 0
    if extra == "batch":
        options["batch"] = True
    given: Any = {"label": target, "classes": torch.rand(2, channels) > 0.3} if extra == "classes" else target
    both(cls(**options), x, given, mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_both_paths_agree_in_other_precisions(dtype, channels):
    x, label = random_case(channels, torch.float64)
    options = {"sigmoid": True} if channels == 1 else {"softmax": True, "to_onehot_y": True}
    both(SoftDiceLoss(**options), x.to(dtype), label)


def test_layouts_give_the_same_and_are_kept():
    x, label = random_case()
    loss = SoftDiceLoss(softmax=True, to_onehot_y=True)
    value, gradient = cases.value_and_gradient(lambda z: loss(z, label), x)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    other, slope = cases.value_and_gradient(lambda z: loss(z, label), last)
    assert slope.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close((other, slope.contiguous()), (value, gradient))
    wide = torch.randn(2, 3, 14, 18, 10)
    wide[:, :, ::2, ::2, ::2] = x
    wide.requires_grad_()
    loss(wide[:, :, ::2, ::2, ::2], label).backward()
    torch.testing.assert_close(wide.grad[:, :, ::2, ::2, ::2], gradient)


def test_extreme_logits_keep_the_slope_of_the_plain_path():
    label = torch.tensor([[[0, 1, 2, 0, 1, 2]]])
    for size in (30.0, 80.0, 500.0):
        x = torch.zeros(1, 3, 6).scatter_(1, (label + 1) % 3, size)
        for channels in (2, 3):
            both(SoftDiceLoss(softmax=True, to_onehot_y=True), x[:, :channels], label.clamp(max=channels - 1))
        both(SoftDiceLoss(sigmoid=True), x[:, :1] - size / 2, (label == 1).float())


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_gradcheck_and_second_derivatives(channels):
    x, label = random_case(channels, torch.float64)
    x = x[:, :, :3, :2, :2].contiguous().requires_grad_()
    label = label[:, :, :3, :2, :2]
    options = {"sigmoid": True} if channels == 1 else {"softmax": True, "to_onehot_y": True}
    for cls in (SoftDiceLoss, *REGION):
        loss = cls(**options)
        assert torch.autograd.gradcheck(lambda z: loss(z, label), x)  # noqa: B023
    loss = SoftDiceLoss(**options)
    assert torch.autograd.gradgradcheck(lambda z: loss(z, label), x)


@pytest.mark.usefixtures("compiled_or_not")
def test_another_number_of_threads_before_the_backward_pass_changes_nothing(monkeypatch):
    x = torch.randn(1, 1, 40, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.zeros(1, 1, 40, 40)
    target[..., 13:15, 5:30] = 1  # most parts are empty
    _, expected = cases.value_and_gradient(lambda z: SoftDiceLoss(sigmoid=True)(z, target), x.detach())
    value = SoftDiceLoss(sigmoid=True)(x, target)
    monkeypatch.setattr(engine, "SMALLEST_PART", 37)  # parts depend on the number of threads
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(gradient, expected)


def test_functorch_takes_the_plain_path():
    x, label = random_case()
    loss = SoftDiceLoss(softmax=True, to_onehot_y=True)
    _, gradient = cases.value_and_gradient(lambda z: loss(z, label), x)
    torch.testing.assert_close(torch.func.grad(lambda z: loss(z, label))(x), gradient, rtol=1e-5, atol=1e-8)
    assert fused()
    with plain_path():
        assert not fused()
    assert fused()


def test_a_label_changed_before_the_backward_pass_is_an_error():
    x, label = random_case()
    value = SoftDiceLoss(softmax=True, to_onehot_y=True)(x.requires_grad_(), label)
    label[:] = 0
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


@pytest.mark.parametrize("shape", [(3, 10), (1, 7, 5), (2, 3, 4, 5), (5, 1, 1), (1, 1)])
@pytest.mark.parametrize("limit", [1, 4, 7, 30, 1000])
def test_blocks_cover_everything_once(shape, limit):
    seen = torch.zeros(shape)
    for where in engine.blocks(shape, limit):
        seen[where] += 1
        assert seen[where].numel() <= max(limit, 1)
    assert bool((seen == 1).all())
