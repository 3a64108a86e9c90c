"""Every row of docs/coming_from.md that says what another package computes.

MONAI is always there. Of the others, those that are installed are compared: 2.8.1 of nnunetv2, 0.6.0 of
segmentation-models-pytorch and 0.0.1a5 of exacta were, when the page was written.
"""

from __future__ import annotations

from typing import Any

import monai.losses
import pytest
import torch

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    CompoundLoss,
    DeepSupervisedLoss,
    DiceCrossEntropyLoss,
    FocalCrossEntropyLoss,
    FocalTverskyLoss,
    HausdorffDistanceLoss,
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    ScaledGeneralizedDiceLoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
    TopKCrossEntropyLoss,
    WeightedCrossEntropyLoss,
)

from . import cases

MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
FORMULA: dict[str, Any] = {"empty": "formula"}
x, label = cases.logits(2, 3, 6, 8), cases.indices(2, 3, 6, 8)
channels, binary = cases.one_hot(label, 3).double(), cases.binary(2, 6, 8).double()
one = x[:, :1]
VOXELS = 6 * 8


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs.to(ours), rtol=1e-5, atol=1e-6)


class TestMonai:
    def test_dice_and_cross_entropy(self):
        same(DiceCrossEntropyLoss(**MULTI, **FORMULA)(x, label), monai.losses.DiceCELoss(**MULTI)(x, label))
        both = {"sigmoid": True}
        same(DiceCrossEntropyLoss(**both, **FORMULA)(one, binary), monai.losses.DiceCELoss(**both)(one, binary))
        focal = {"dice": SoftDiceLoss(sigmoid=True, **FORMULA), "focal": FocalCrossEntropyLoss(sigmoid=True)}
        same(CompoundLoss(focal)(x, channels), monai.losses.DiceFocalLoss(**both)(x, channels))

    def test_soft_labels(self):
        soft = cases.logits(2, 3, 6, 8, seed=4).softmax(1)
        theirs = monai.losses.DiceLoss(softmax=True)(x, soft)
        same(SoftDiceLoss(softmax=True, soft_label=False)(x, soft), theirs)
        assert SoftDiceLoss(softmax=True)(x, soft) < theirs - 0.01
        hard = monai.losses.DiceLoss(softmax=True)(x, channels)
        for soft_label in (False, True):
            same(SoftDiceLoss(softmax=True, soft_label=soft_label, **FORMULA)(x, channels), hard)

    def test_the_arguments_of_focal_loss(self):
        theirs = monai.losses.FocalLoss(True, False, 1.0)(x, channels)
        same(FocalCrossEntropyLoss(True, False, True, gamma=1.0)(x, channels), theirs)
        with pytest.raises(TypeError, match=r"sigmoid must be True or False, got 1\.0"):
            FocalCrossEntropyLoss(True, False, 1.0)

    def test_the_reductions_of_focal_loss(self):
        theirs = monai.losses.FocalLoss(reduction="sum")(x, channels)
        same(FocalCrossEntropyLoss(sigmoid=True, reduction="sum")(x, channels), theirs * VOXELS)
        softmax = {"use_softmax": True, "to_onehot_y": True}
        same(FocalCrossEntropyLoss(**MULTI)(x, label), monai.losses.FocalLoss(**softmax)(x, label) * 3)

    def test_focal_loss_without_background(self):
        """Its softmax is one over the foreground's channels alone."""
        theirs = monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True, include_background=False)
        changed = x.clone()
        changed[:, 0] += 5
        assert theirs(changed, label) == theirs(x, label)
        ours = FocalCrossEntropyLoss(**MULTI, include_background=False)
        assert ours(changed, label) > ours(x, label) + 1

    def test_masked_dice_loss_masks_after_the_activation(self):
        mask = torch.ones(2, 1, 6, 8)
        mask[..., 4:] = 0
        theirs = monai.losses.MaskedDiceLoss(sigmoid=True)(x, channels, mask)
        same(SoftDiceLoss(sigmoid=True, **FORMULA)(x, channels, mask), theirs)
        before = monai.losses.MaskedLoss(monai.losses.DiceLoss(sigmoid=True))(x, channels, mask)
        assert before > theirs + 0.05

    def test_hausdorff_leaves_the_background_out(self):
        theirs = monai.losses.HausdorffDTLoss(**MULTI)(x, label)
        same(HausdorffDistanceLoss(**MULTI, include_background=False)(x, label), theirs)
        assert abs(HausdorffDistanceLoss(**MULTI)(x, label) - theirs) > 0.02

    def test_shapes_without_reduction(self):
        assert monai.losses.DiceLoss(**MULTI, reduction="none")(x, label).shape == (2, 3, 1, 1)
        assert SoftDiceLoss(**MULTI, reduction="none")(x, label).shape == (2, 3)

    def test_too_few_weights_of_deep_supervision(self):
        outputs = [x, x[..., ::2, ::2], x[..., ::2, ::4]]
        dice = monai.losses.DiceLoss(**MULTI)
        theirs = [
            monai.losses.DeepSupervisionLoss(dice, **given)(outputs, label.double())
            for given in ({}, {"weights": [1.0, 0.1]})
        ]
        assert theirs[0] == theirs[1]
        with pytest.raises(ValueError, match="there are 3 outputs but 2 weights"):
            DeepSupervisedLoss(SoftDiceLoss(**MULTI), weights=[1.0, 0.1])(outputs, label)


class TestNnunet:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("nnunetv2")

    def test_dice(self):
        from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

        for batch in (False, True):
            theirs = MemoryEfficientSoftDiceLoss(lambda z: z.softmax(1), batch, do_bg=False, smooth=1e-5, ddp=False)
            ours = SoftDiceLoss(**MULTI, batch=batch, include_background=False, **FORMULA)
            same(ours(x, label) - 1, theirs(x, label))
        assert MemoryEfficientSoftDiceLoss().smooth == 1
        assert MemoryEfficientSoftDiceLoss().do_bg

    def test_dice_and_cross_entropy(self):
        from nnunetv2.training.loss.compound_losses import DC_and_CE_loss

        options = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
        marked = torch.where(cases.binary(2, 6, 8, seed=3) == 1, label, 7).float()
        theirs = DC_and_CE_loss(dict(options), {}, ignore_label=7)(x, marked)
        ours = DiceCrossEntropyLoss(**MULTI, include_background=False, batch=True, ignore_index=7, **FORMULA)
        same(ours(x, marked) - 1, theirs)

    def test_weighted_cross_entropy(self):
        from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss

        weight = [0.2, 0.5, 0.3]
        theirs = RobustCrossEntropyLoss(weight=torch.tensor(weight).double())(x, label.float())
        same(WeightedCrossEntropyLoss(**MULTI, weight=weight, normalize="weights")(x, label.float()), theirs)

    @pytest.mark.filterwarnings("ignore:size_average and reduce args")
    def test_top_k_counts_ignored_voxels(self):
        """Of 96 voxels 48 are ignored: a quarter is 24 there and 12 here."""
        from nnunetv2.training.loss.robust_ce_loss import TopKLoss

        marked = label.clone()
        marked[..., 4:] = 7
        each = WeightedCrossEntropyLoss(**MULTI, reduction="none")(x, label)[..., :4].flatten().sort().values
        same(each[-24:].mean(), TopKLoss(k=25, ignore_index=7)(x, marked))
        same(TopKCrossEntropyLoss(**MULTI, k=25, ignore_index=7)(x, marked), each[-12:].mean())

    def test_deep_supervision(self):
        from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper

        loss, weights = SoftDiceLoss(**MULTI), [0.8, 0.2]
        lists = [x, x[..., ::2, ::2]], [label, label[..., ::2, ::2]]
        same(DeepSupervisedLoss(loss, weights=weights)(*lists), DeepSupervisionWrapper(loss, weights)(*lists))


class TestSmp:
    @pytest.fixture(autouse=True)
    def theirs(self):
        return pytest.importorskip("segmentation_models_pytorch.losses", exc_type=ImportError)

    def test_smoothing(self, theirs):
        """Half of ours in Dice and Jaccard, the same in Tversky."""
        for cls, other in ((SoftDiceLoss, theirs.DiceLoss), (SoftJaccardLoss, theirs.JaccardLoss)):
            ours = cls(**MULTI, batch=True, smooth_nr=6.0, smooth_dr=6.0)
            same(ours(x, label), other("multiclass", smooth=3.0)(x, label[:, 0]))
        ours = SoftTverskyLoss(**MULTI, batch=True, smooth_nr=3.0, smooth_dr=3.0, alpha=0.3, beta=0.7)
        same(ours(x, label), theirs.TverskyLoss("multiclass", smooth=3.0, alpha=0.3, beta=0.7)(x, label[:, 0]))

    def test_absent_classes(self, theirs):
        """They add nothing, and are counted in the mean; with skip they are not counted."""
        two = label.clamp(max=1)
        ours = SoftDiceLoss(**MULTI, batch=True, empty="skip", smooth_nr=0.0, smooth_dr=0.0)(x, two)
        same(ours * 2 / 3, theirs.DiceLoss("multiclass")(x, two[:, 0]))

    def test_targets_and_activation(self, theirs):
        same(SoftDiceLoss(sigmoid=True, batch=True)(one, binary[:, 0]), theirs.DiceLoss("binary")(one, binary[:, 0]))

    def test_focal_tversky(self, theirs):
        each = SoftTverskyLoss(**MULTI, batch=True, alpha=0.3, beta=0.7, reduction="none", smooth_nr=0.0, smooth_dr=0.0)
        other = theirs.TverskyLoss("multiclass", alpha=0.3, beta=0.7, gamma=0.75)(x, label[:, 0])
        same(each(x, label).mean() ** 0.75, other)
        ours = FocalTverskyLoss(**MULTI, batch=True, smooth_nr=0.0, smooth_dr=0.0)
        same(ours(x, label), (each(x, label) ** 0.75).mean())

    def test_focal(self, theirs):
        other = theirs.FocalLoss("binary", alpha=0.25)(one, binary[:, 0])
        same(FocalCrossEntropyLoss(sigmoid=True, alpha=0.25)(one, binary), other)

    def test_lovasz(self, theirs):
        logits, target = one.float(), binary.float()
        same(LovaszHingeLoss(per_image=False)(logits, target), theirs.LovaszLoss("binary")(logits, target[:, 0]))
        ours = LovaszSoftmaxLoss(**MULTI, per_image=False)
        same(ours(x.float(), label), theirs.LovaszLoss("multiclass")(x.float(), label[:, 0]))


class TestExacta:
    @pytest.fixture(autouse=True)
    def theirs(self):
        return pytest.importorskip("exacta.losses", exc_type=ImportError)

    def test_dice_and_its_relatives(self, theirs):
        index = label[:, 0]
        for ours, other in (
            (SoftDiceLoss(**MULTI, **FORMULA), theirs.DiceLoss()),
            (SoftTverskyLoss(**MULTI, **FORMULA, alpha=0.3, beta=0.7), theirs.TverskyLoss(alpha=0.3, beta=0.7)),
            (FocalTverskyLoss(**MULTI, **FORMULA), theirs.FocalTverskyLoss()),
            (ScaledGeneralizedDiceLoss(**MULTI, **FORMULA, w_type="uniform"), generalized(theirs)),
            (DiceCrossEntropyLoss(**MULTI, **FORMULA), theirs.DiceCELoss()),
            (FocalCrossEntropyLoss(**MULTI), theirs.FocalLoss()),
            (LovaszSoftmaxLoss(**MULTI, per_image=False), theirs.LovaszSoftmaxLoss()),
        ):
            same(ours(x, index), other(x, index))

    def test_masks_leave_voxels_out(self, theirs):
        mask = cases.binary(2, 6, 8, seed=3) == 1
        same(SoftDiceLoss(**MULTI, **FORMULA)(x, label, mask), theirs.DiceLoss()(x, label[:, 0], mask=mask))
        with pytest.raises(TypeError, match="boolean"):
            theirs.DiceLoss()(x, label[:, 0], mask=mask.float())

    def test_top_k_counts_voxels_that_count(self, theirs):
        marked = label.clone()
        marked[..., 4:] = 7
        other = theirs.TopKCELoss(fraction=0.25, ignore_index=7)(x, marked[:, 0])
        same(TopKCrossEntropyLoss(**MULTI, k=25, ignore_index=7)(x, marked), other)

    def test_a_class_that_is_absent_has_no_gradient_to_speak_of(self, theirs):
        nothing = torch.zeros(1, 1, 64, 64)
        logits = torch.zeros(1, 1, 64, 64, requires_grad=True)
        theirs.DiceLoss(activation="sigmoid", target_format="one-hot")(logits, nothing).backward()
        assert logits.grad.abs().sum() < 1e-6
        logits.grad = None
        SoftDiceLoss(sigmoid=True)(logits, nothing).backward()
        assert logits.grad.abs().sum() > 0.1

    def test_boundary(self, theirs):
        """In the same sense; the distances inside are to the nearest voxel outside, here to the border."""
        foreground = {"include_background": False}
        ours = BoundaryDistanceLoss(**MULTI, **foreground)(x, label)
        other = theirs.BoundaryLoss()(x, label[:, 0], spacing=(1.0, 1.0))
        assert abs(ours - other) > 1e-3

    def test_deep_supervision_takes_lists(self, theirs):
        lists = [x, x[..., ::2, ::2]], [label[:, 0], label[:, 0, ::2, ::2]]
        other = theirs.DeepSupervisionLoss(theirs.DiceLoss(), [1.0, 0.5])(*lists)
        same(DeepSupervisedLoss(SoftDiceLoss(**MULTI, **FORMULA))(*lists), other)


def generalized(theirs: Any) -> torch.nn.Module:
    loss: torch.nn.Module = theirs.GeneralizedDiceLoss(weight_type="uniform")
    return loss
