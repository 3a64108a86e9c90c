"""Every wrong argument or input gets an error that names it and what was expected."""

from __future__ import annotations

import pytest
import torch

from monai_lossext.losses import (
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    MatthewsCorrelationLoss,
    SoftDiceLoss,
    SoftTverskyLoss,
)

from . import cases, checks
from .cases import make

every_loss = pytest.mark.parametrize("cls", cases.CLASSES, ids=lambda cls: cls.__name__)
pytestmark = pytest.mark.usefixtures("kernels_or_plain")
X, LABEL = torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 4, 5, dtype=torch.int64)
MULTI = {"softmax": True, "to_onehot_y": True}


@every_loss
def test_wrong_arguments(cls):
    with pytest.raises(TypeError, match="other_act must be None or callable but is int"):
        cls(other_act=3)
    with pytest.raises(ValueError, match=r"more than 1 of \[sigmoid=True, softmax=True.*sigmoid=True, softmax=True"):
        cls(sigmoid=True, softmax=True)
    with pytest.raises(ValueError, match="reduction must be one of 'none', 'mean', 'sum', got 'median'"):
        make(cls, reduction="median")
    unknown_rule = (ValueError, "empty must be one of 'penalize', 'formula', 'skip', got 'ignore'")
    alone = (ValueError, r"distributed=True .* needs batch=True")
    unread = (ValueError, "validate must be one of 'auto', 'now', 'never', got 'later'")
    choices = (({"empty": "ignore"}, unknown_rule), ({"distributed": True}, alone), ({"validate": "later"}, unread))
    for option, (error, message) in choices:
        taken = cases.accepts(cls, next(iter(option)))
        sorts = "distributed" in option and issubclass(cls, (LovaszHingeLoss, LovaszSoftmaxLoss))
        refused = "sort" if sorts else "unexpected keyword argument"
        with pytest.raises(error if taken else TypeError, match=message if taken else refused):
            cls(**option)
    with pytest.raises(ValueError, match=r"weight must be .* at least 0, got \[1.0, -1.0\]"):
        make(cls, weight=[1.0, -1.0])
    with pytest.raises(TypeError, match="unexpected keyword argument 'squarred'"):
        make(cls, squarred=True)
    with pytest.raises(TypeError, match="positional"):
        cls(True, False, False, False, None, "mean")


@pytest.mark.parametrize("name", ["alpha", "beta", "smooth_nr", "smooth_dr"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_numbers_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0, got {value}"):
        SoftTverskyLoss(**{name: value})


def test_options_that_cannot_apply_are_not_accepted():
    for option in ({"smooth_nr": 1.0}, {"smooth_dr": 1.0}):
        with pytest.raises(TypeError):
            MatthewsCorrelationLoss(**option)
    for option in ({"sigmoid": True}, {"include_background": False}, {"weight": [1.0, 1.0]}):
        with pytest.raises(ValueError, match="multiclass=True"):
            MatthewsCorrelationLoss(multiclass=True, **option)
    loss = MatthewsCorrelationLoss(multiclass=True, **MULTI)
    with pytest.raises(ValueError, match=r"multiclass=True needs .*, a weight for each channel: True"):
        loss(X, LABEL, torch.ones(2, 3, 4, 5))
    with pytest.raises(ValueError, match=r"multiclass=True needs .* no partial labels"):
        loss(X, {"label": LABEL, "classes": torch.ones(2, 3)})
    with pytest.raises(ValueError, match="at least 2 channels"):
        MatthewsCorrelationLoss(multiclass=True)(X[:, :1], LABEL)


@every_loss
def test_labels_out_of_range(cls):
    for label, message in (
        (LABEL + 3, r"target holds 3, expected integer labels 0\.\.2 for an input of 3 channel"),
        (LABEL - 1, "target holds -1, expected integer labels"),
        (LABEL + 0.5, r"target holds 0\.5, expected integer labels"),
        (LABEL + float("nan"), "target holds nan, expected integer labels"),
        ((LABEL + 255).to(torch.uint8), "target holds 255, expected integer labels"),
    ):
        with checks.at(message), pytest.raises(ValueError, match=message):
            make(cls, **MULTI)(X, label)


@every_loss
def test_targets_in_channels_out_of_range(cls):
    with pytest.raises(ValueError, match=r"target holds 255, expected values in \[0, 1\]"):
        make(cls, sigmoid=True)(X[:, :1], (LABEL + 255).to(torch.uint8))
    with pytest.raises(ValueError, match=r"target holds -0\.5"):
        make(cls, sigmoid=True)(X[:, :1], LABEL - 0.5)


@every_loss
def test_shapes(cls):
    with pytest.raises(ValueError, match=r"1 to 3 spatial dimensions, got \(2, 3\)"):
        make(cls)(X[..., 0, 0], X[..., 0, 0])
    with pytest.raises(ValueError, match="1 to 3 spatial dimensions"):
        make(cls)(X[..., None, None], X[..., None, None])
    with pytest.raises(
        AssertionError, match=r"different shape \(2, 3, 4, 4\) from input \(2, 3, 4, 5\)|different shape"
    ):
        make(cls)(X, X[..., :4])
    with pytest.raises(AssertionError, match="class indices need to_onehot_y=True"):
        make(cls, softmax=True)(X, LABEL)
    with pytest.raises(AssertionError, match=r"expected \(2, 1, 4, 5\)"):
        make(cls, **MULTI)(X, X)
    with pytest.raises(AssertionError, match=r"mask must have shape \(2, 1, 4, 5\) or \(2, 3, 4, 5\), got \(2, 4, 5\)"):
        make(cls, **MULTI)(X, LABEL, torch.ones(2, 4, 5))
    with pytest.raises(AssertionError, match=r"classes must be \(B, C\) = \(2, 3\), got \(3,\)"):
        make(cls, **MULTI)(X, {"label": LABEL, "classes": torch.ones(3)})


@every_loss
def test_masks_and_mappings(cls):
    loss = make(cls, **MULTI)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"mask holds .*, expected finite weights of at least 0"):
            loss(X, LABEL, torch.full((2, 1, 4, 5), bad))
    with pytest.raises(ValueError, match="mask is given twice"):
        loss(X, {"label": LABEL, "mask": LABEL}, LABEL)
    with pytest.raises(ValueError, match="needs 'label'"):
        loss(X, {"mask": LABEL})
    with pytest.raises(ValueError, match=r"got keys \['label', 'masks'\]"):
        loss(X, {"label": LABEL, "masks": LABEL})


@every_loss
def test_weight_lengths_are_named(cls):
    with pytest.raises(ValueError, match="weight has 2 values but 3 classes are used"):
        make(cls, **MULTI, weight=[1.0, 2.0])(X, LABEL)
    with pytest.raises(ValueError, match=r"weight has 3 values but 2 classes are used \(the background is excluded"):
        make(cls, **MULTI, weight=[1.0, 2.0, 3.0], include_background=False)(X, LABEL)


@every_loss
def test_single_channel_warns_as_monai_does(cls):
    for option in ({"softmax": True}, {"to_onehot_y": True}, {"include_background": False}):
        with checks.at(option):
            x, target = torch.rand(2, 1, 5), cases.binary(2, 5)
            ((name, value),) = option.items()
            if name == "softmax" and not cases.entry_of(cls).activation:
                with pytest.raises(ValueError, match=r"takes no activation, got .*softmax=True"):
                    cls(**option)
                continue
            with pytest.warns(UserWarning, match=f"single channel prediction, `{name}={value}` ignored"):
                value = make(cls, **option)(x, target)
            assert torch.equal(value, make(cls)(x, target))


def test_the_signature_and_the_representation_name_every_argument():
    import inspect

    names = list(inspect.signature(SoftTverskyLoss).parameters)
    assert names[:5] == ["include_background", "to_onehot_y", "sigmoid", "softmax", "other_act"]
    assert set(names[5:]) == {
        *("alpha", "beta", "smooth_nr", "smooth_dr", "batch", "empty", "soft_label", "distributed", "group"),
        *("reduction", "weight", "ignore_index", "validate"),
    }
    shown = repr(SoftDiceLoss(sigmoid=True, weight=[1.0, 2.0], empty="skip"))
    assert shown == "SoftDiceLoss(sigmoid=True, empty='skip', weight=[1.0, 2.0])"
