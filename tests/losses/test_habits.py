"""What users of MONAI, nnU-Net and segmentation-models-pytorch are used to works, or is refused with what to do."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings

import monai.losses
import numpy as np
import pytest
import torch
from torch import nn

from monai_lossext.losses import (
    CompoundLoss,
    DiceCrossEntropyLoss,
    FocalCrossEntropyLoss,
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    SoftDiceLoss,
    SoftTverskyLoss,
    TopKCrossEntropyLoss,
    WeightedCrossEntropyLoss,
)
from monai_lossext.losses.engine import reading

from . import cases
from .cases import make

MULTI = {"softmax": True, "to_onehot_y": True}
z, label = cases.logits(2, 3, 7, 9, dtype=torch.float32), cases.indices(2, 3, 7, 9)
channels = cases.one_hot(label, 3).float()
every_loss = pytest.mark.parametrize("cls", cases.CLASSES, ids=lambda cls: cls.__name__)

BESIDE = {
    "FocalLoss": (monai.losses.FocalLoss(), {"sigmoid": True}),
    "FocalLoss of a softmax": (monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True), MULTI),
    "DiceCELoss": (monai.losses.DiceCELoss(**MULTI), MULTI),
    "DiceFocalLoss": (monai.losses.DiceFocalLoss(sigmoid=True), {"sigmoid": True}),
    "GeneralizedDiceFocalLoss": (monai.losses.GeneralizedDiceFocalLoss(**MULTI), MULTI),
    "MaskedDiceLoss": (monai.losses.MaskedDiceLoss(**MULTI), MULTI),
    "MaskedLoss": (monai.losses.MaskedLoss(monai.losses.TverskyLoss(sigmoid=True)), {"sigmoid": True}),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss(), {"sigmoid": True}),
    "LovaszHingeLoss": (LovaszHingeLoss(), {"sigmoid": True}),
    "a compound loss": (CompoundLoss({"ce": nn.BCEWithLogitsLoss()}), {"sigmoid": True}),
    "DiceCrossEntropyLoss": (DiceCrossEntropyLoss(**MULTI), MULTI),
    "of probabilities": (nn.MSELoss(), {}),
}


@pytest.mark.filterwarnings("ignore:No mask value specified for the MaskedLoss")
@pytest.mark.parametrize("name", BESIDE)
def test_terms_of_other_packages(name):
    other, options = BESIDE[name]
    target = label if options is MULTI else channels
    x = z if options else z.sigmoid()
    dice = SoftDiceLoss(**options)
    compound = CompoundLoss({"dice": dice, "other": other}, weights={"other": 0.5})
    torch.testing.assert_close(compound(x, target), dice(x, target) + 0.5 * other(x, target))
    (gradient,) = cases.value_and_gradient(compound, x, target)[1:]
    assert gradient.any()


REFUSED = {
    "another activation": (SoftDiceLoss(sigmoid=True), monai.losses.MaskedDiceLoss(softmax=True), "same activation"),
    "none inside": (SoftDiceLoss(sigmoid=True), monai.losses.DiceCELoss(), "other has {'sigmoid': False, 'softmax'"),
    "another within": (SoftDiceLoss(softmax=True), DiceCrossEntropyLoss(sigmoid=True), "same activation"),
    "bce of probabilities": (SoftDiceLoss(), nn.BCEWithLogitsLoss(), "other takes logits, but dice has no activation"),
    "focal of probabilities": (SoftDiceLoss(), monai.losses.FocalLoss(), "other takes logits, but dice has no"),
    "hinge of probabilities": (SoftDiceLoss(), LovaszHingeLoss(), "other takes logits, but dice has no activation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_terms_for_which_one_input_cannot_be_right(name):
    ours, other, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        CompoundLoss({"dice": ours, "other": other})


def test_a_layer_called_sigmoid_is_no_option():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.sigmoid = nn.Sigmoid()

        def forward(self, x, target):
            return (self.sigmoid(x) - target).abs().mean()

    dice = SoftDiceLoss(sigmoid=True)
    value = CompoundLoss({"dice": dice, "mine": Mine()})(z, channels)
    torch.testing.assert_close(value, dice(z, channels) + Mine()(z, channels))


@every_loss
def test_one_mask_for_all_samples(cls, kernels_or_plain):
    """MONAI's masks may be (1, 1, *S)."""
    mask = torch.rand(1, 1, 7, 9, generator=torch.Generator().manual_seed(3)) > 0.3
    loss = make(cls, **MULTI)
    for shared in (mask, mask.float().mul(0.5)):
        each = shared.expand(2, 1, 7, 9).contiguous()
        for got, want in zip(
            cases.value_and_gradient(lambda x, y, m=shared: loss(x, y, m), z, label),
            cases.value_and_gradient(lambda x, y, m=each: loss(x, y, m), z, label),
            strict=True,
        ):
            torch.testing.assert_close(got, want)
        assert torch.equal(loss(z, {"label": label, "mask": shared}), loss(z, label, each))
    with pytest.raises(
        AssertionError, match=r"mask must have shape \(3, 1, 7, 9\) or \(3, 3, 7, 9\), got \(2, 1, 7, 9"
    ):
        loss(z[[0, 1, 1]], label[[0, 1, 1]], mask.expand(2, 1, 7, 9))


@every_loss
def test_targets_of_one_channel_without_a_channel(cls):
    """smp and nnU-Net hand over (B, *S)."""
    x, target = z[:, :1], cases.binary(2, 7, 9)
    loss = make(cls, **({"sigmoid": True} if cases.entry_of(cls).activation else {}))
    assert torch.equal(loss(x, target[:, 0]), loss(x, target))
    assert torch.equal(loss(x, {"label": target[:, 0]}), loss(x, target))


@every_loss
def test_shapes_of_targets_say_what_is_meant(cls):
    with pytest.raises(
        AssertionError, match=r"expected \(2, 1, 7, 9\); a target in channels \(one-hot\) needs to_oneh"
    ):
        make(cls, **MULTI)(z, channels)
    for indices in (label, label[:, 0]):
        with pytest.raises(AssertionError, match=r"expected \(2, 3, 7, 9\); class indices need to_onehot_y=True"):
            make(cls, softmax=True)(z, indices)


@every_loss
def test_targets_that_are_off_by_one_rounding(cls, kernels_or_plain):
    loss = make(cls, softmax=True)
    off = channels * np.float32(1.0000001)
    assert off.max() > 1
    torch.testing.assert_close(loss(z, off), loss(z, channels))


def test_switches_and_numbers_of_the_wrong_type():
    """FocalLoss(True, True, 1.0) has gamma in MONAI where others have sigmoid."""
    for wrong in (1.0, 1, "true", None):
        with pytest.raises(TypeError, match=f"sigmoid must be True or False, got {wrong!r}; all arguments after other"):
            FocalCrossEntropyLoss(True, True, wrong)
    for cls, name in (
        (SoftDiceLoss, "squared_pred"),
        (SoftDiceLoss, "batch"),
        (SoftDiceLoss, "soft_label"),
        (SoftDiceLoss, "include_background"),
        (LovaszSoftmaxLoss, "per_image"),
    ):
        with pytest.raises(TypeError, match=f"{name} must be True or False, got 'false'"):
            cls(**{name: "false"})
    assert SoftDiceLoss(sigmoid=np.bool_(True)).sigmoid is True
    with pytest.raises(
        TypeError, match=r"alpha must be one number, the foreground's share, got \[0.25, 0.75\]; weight="
    ):
        FocalCrossEntropyLoss(alpha=[0.25, 0.75])
    for cls, name in ((SoftTverskyLoss, "beta"), (SoftDiceLoss, "smooth_nr"), (TopKCrossEntropyLoss, "k")):
        with pytest.raises(TypeError, match=rf"{name} must be one number, got \[1.0, 2.0\] \(list\)"):
            cls(**{name: [1.0, 2.0]})
    assert SoftTverskyLoss(alpha=np.float32(0.5), beta=torch.tensor(0.25)).beta == 0.25


@every_loss
def test_class_weights_are_as_exact_as_the_input(cls):
    if not cases.accepts(cls, "weight"):
        pytest.skip("takes no weight")
    x, weight = z.double(), [0.1, 0.7, 0.3]
    parts = make(cls, **MULTI, weight=weight)
    single = [make(cls, **MULTI, weight=[float(c == k) for k in range(3)])(x, label) for c in range(3)]
    value = parts(x, label)
    assert value.dtype == torch.float64
    if cls in (WeightedCrossEntropyLoss, FocalCrossEntropyLoss, SoftDiceLoss, SoftTverskyLoss, DiceCrossEntropyLoss):
        expected = sum(w * one for w, one in zip(weight, single, strict=True))
        torch.testing.assert_close(value, expected, rtol=1e-14, atol=1e-14)
    assert make(cls, **MULTI, weight=weight)(z, label).dtype == torch.float32


def test_weights_move_to_devices_without_float64():
    loss = SoftDiceLoss(weight=[0.1, 0.7], **MULTI)

    def to_device(x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return x

    moved = copy.deepcopy(loss)._apply(to_device)
    assert moved.weight.dtype == torch.float32
    torch.testing.assert_close(moved.weight.double(), loss.weight)


def test_soft_targets_that_ask_for_a_gradient_hear_that_there_is_none(monkeypatch):
    soft = z.softmax(1).detach().requires_grad_()
    for loss in (SoftDiceLoss(softmax=True), WeightedCrossEntropyLoss(softmax=True)):
        monkeypatch.setattr(reading, "_said", set())
        with pytest.warns(UserWarning, match="the target asks for a gradient, which losses do not give"):
            value = loss(z, soft)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert value == loss(z, soft.detach())


def test_it_is_said_once():
    code = (
        "import torch; from monai_lossext.losses import CompoundLoss, SoftDiceLoss, FocalCrossEntropyLoss\n"
        "x, y = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4).requires_grad_()\n"
        "loss = CompoundLoss({'a': SoftDiceLoss(), 'b': FocalCrossEntropyLoss()})\n"
        "for _ in range(3): loss(x, y)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("the target asks for a gradient") == 1
