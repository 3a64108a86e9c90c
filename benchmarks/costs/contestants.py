"""What is measured beside each other: the losses of the catalogue and their counterparts elsewhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import kornia.losses
import monai.losses
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_lossext.losses import catalogue
from monai_lossext.transforms import PenaltyDistanceMap, SignedDistanceMap

from .cases import Case

Loss = Callable[[Tensor, Any], Tensor]
# Returns the loss for a case, or None where the library has none for it.
Build = Callable[[Case], Loss | None]

TORCH = "torch cross-entropy"
MAPS = {  # our class -> the map that it can be given, and what makes it
    "DistanceMapCrossEntropyLoss": ("penalty_map", PenaltyDistanceMap),
    "BoundaryDistanceLoss": ("distance_map", SignedDistanceMap),
    "HausdorffDistanceLoss": ("distance_map", SignedDistanceMap),
}
HAS_NNUNET = importlib.util.find_spec("nnunetv2") is not None


def cross_entropy(case: Case) -> Loss:
    """Return torch's cross-entropy of the labels, for one class that of its logit."""
    if case.classes == 1:
        return F.binary_cross_entropy_with_logits
    return lambda logits, label: F.cross_entropy(logits, label[:, 0])


def own(name: str, case: Case) -> Loss:
    """Return a loss of the catalogue with its default arguments."""
    (entry,) = (entry for entry in catalogue() if entry.name == name)
    options = reading(case)
    if not entry.activation:
        options = {"to_onehot_y": True} if case.classes > 1 else {}
    return entry.cls(**options)


def reading(case: Case) -> dict[str, Any]:
    """Return the options, here and in MONAI, of a loss that is given logits and labels."""
    return {"sigmoid": True} if case.classes == 1 else {"softmax": True, "to_onehot_y": True}


def monai_loss(name: str, **options: Any) -> Build:
    """Return a builder of a loss of MONAI."""
    return lambda case: getattr(monai.losses, name)(**reading(case), **options)


def monai_focal(gamma: float) -> Build:
    """Return a builder of MONAI's focal loss, whose activation has another name."""
    return lambda case: monai.losses.FocalLoss(gamma=gamma, use_softmax=case.classes > 1, to_onehot_y=case.classes > 1)


def kornia_labels(function: Loss) -> Build:
    """Return a builder of a loss of kornia for pictures, to which a volume is shown with its last axes as one."""

    def build(case: Case) -> Loss | None:
        if case.classes == 1:
            return None
        return lambda logits, label: function(logits.flatten(3), label[:, 0].flatten(2))

    return build


def kornia_focal(case: Case) -> Loss:
    """Return kornia's focal loss."""
    if case.classes == 1:
        return lambda logits, label: kornia.losses.binary_focal_loss_with_logits(
            logits, label, alpha=None, reduction="mean"
        )
    return lambda logits, label: kornia.losses.focal_loss(logits, label[:, 0], alpha=None, reduction="mean")


def kornia_lovasz_hinge(case: Case) -> Loss | None:
    """Return kornia's Lovasz hinge loss, which is for one class."""
    if case.classes > 1:
        return None
    return lambda logits, label: kornia.losses.lovasz_hinge_loss(logits.flatten(3), label[:, 0].flatten(2))


def kornia_hausdorff(case: Case) -> Loss | None:
    """Return kornia's Hausdorff loss by erosion, which takes probabilities of several classes."""
    if case.classes == 1:
        return None
    loss = kornia.losses.HausdorffERLoss() if case.dims == 2 else kornia.losses.HausdorffERLoss3D()
    return lambda logits, label: loss(logits.softmax(1), label)


def nnunet_dice(case: Case) -> Loss:
    """Return nnU-Net's memory-efficient soft Dice loss."""
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
    from nnunetv2.utilities.helpers import softmax_helper_dim1

    return MemoryEfficientSoftDiceLoss(torch.sigmoid if case.classes == 1 else softmax_helper_dim1, ddp=False)


def nnunet_dice_ce(case: Case) -> Loss:
    """Return nnU-Net's default loss, Dice with cross-entropy."""
    from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    parts: list[dict[str, Any]] = [{}, {"ddp": False}]
    if case.classes == 1:
        return DC_and_BCE_loss(*parts, dice_class=MemoryEfficientSoftDiceLoss)
    return DC_and_CE_loss(*reversed(parts), dice_class=MemoryEfficientSoftDiceLoss)


def nnunet_topk(case: Case) -> Loss | None:
    """Return nnU-Net's cross-entropy of the worst tenth, which is for several classes."""
    from nnunetv2.training.loss.robust_ce_loss import TopKLoss

    return TopKLoss(k=10) if case.classes > 1 else None


def nnunet_dice_topk(case: Case) -> Loss | None:
    """Return nnU-Net's Dice with that."""
    from nnunetv2.training.loss.compound_losses import DC_and_topk_loss

    return DC_and_topk_loss({"ddp": False}, {"k": 10}) if case.classes > 1 else None


def kornia_dice(logits: Tensor, label: Tensor) -> Tensor:
    """Return kornia's Dice loss as a mean over classes."""
    return kornia.losses.dice_loss(logits, label, average="macro")


def kornia_tversky(logits: Tensor, label: Tensor) -> Tensor:
    """Return kornia's Tversky loss."""
    return kornia.losses.tversky_loss(logits, label, alpha=0.5, beta=0.5)


# Our class -> who computes the same, or the nearest that the catalogue names. Names begin with the library.
COUNTERPARTS: dict[str, dict[str, Build]] = {
    "WeightedCrossEntropyLoss": {"MONAI FocalLoss(gamma=0)": monai_focal(0.0)},
    "FocalCrossEntropyLoss": {"MONAI FocalLoss": monai_focal(2.0), "kornia focal_loss": kornia_focal},
    "TopKCrossEntropyLoss": {"nnU-Net TopKLoss": nnunet_topk},
    "SoftDiceLoss": {
        "MONAI DiceLoss": monai_loss("DiceLoss"),
        "kornia dice_loss": kornia_labels(kornia_dice),
        "nnU-Net MemoryEfficientSoftDiceLoss": nnunet_dice,
    },
    "SoftJaccardLoss": {"MONAI DiceLoss(jaccard=True)": monai_loss("DiceLoss", jaccard=True)},
    "SoftTverskyLoss": {
        "MONAI TverskyLoss": monai_loss("TverskyLoss"),
        "kornia tversky_loss": kornia_labels(kornia_tversky),
    },
    "AsymmetricSimilarityLoss": {"MONAI TverskyLoss": monai_loss("TverskyLoss", alpha=4 / 13, beta=9 / 13)},
    "ScaledGeneralizedDiceLoss": {"MONAI GeneralizedDiceLoss": monai_loss("GeneralizedDiceLoss")},
    "LovaszSoftmaxLoss": {"kornia lovasz_softmax_loss": kornia_labels(kornia.losses.lovasz_softmax_loss)},
    "LovaszHingeLoss": {"kornia lovasz_hinge_loss": kornia_lovasz_hinge},
    "MatthewsCorrelationLoss": {"MONAI MCCLoss": monai_loss("MCCLoss")},
    "SkeletonRecallLoss": {"MONAI SoftclDiceLoss": monai_loss("SoftclDiceLoss")},
    "BoundaryDistanceLoss": {"MONAI BoundaryLoss": monai_loss("BoundaryLoss")},
    "HausdorffDistanceLoss": {"MONAI HausdorffDTLoss": monai_loss("HausdorffDTLoss", include_background=True)},
    "HausdorffERLoss": {"kornia HausdorffERLoss": kornia_hausdorff},
    "DiceCrossEntropyLoss": {"MONAI DiceCELoss": monai_loss("DiceCELoss"), "nnU-Net DC_and_CE_loss": nnunet_dice_ce},
    "ComboLoss": {"MONAI DiceCELoss": monai_loss("DiceCELoss"), "nnU-Net DC_and_CE_loss": nnunet_dice_ce},
    "DiceTopKLoss": {"MONAI DiceCELoss": monai_loss("DiceCELoss"), "nnU-Net DC_and_topk_loss": nnunet_dice_topk},
    "DiceHausdorffLoss": {"MONAI HausdorffDTLoss": monai_loss("HausdorffDTLoss", include_background=True)},
}


def contestants(name: str, case: Case, label: Tensor, compiled: bool = False) -> dict[str, Loss]:
    """Return torch's cross-entropy, the loss of the catalogue and its counterparts, by name, for a case.

    With ``compiled`` the loss under ``torch.compile`` is one of them, for which a C++ compiler must be there.
    """
    loss = own(name, case)
    found: dict[str, Loss | None] = {TORCH: cross_entropy(case), name: loss}
    if compiled:
        torch.compiler.reset()  # another size would be compiled for any size
        found[f"{name}, compiled"] = torch.compile(loss, fullgraph=True, dynamic=False)
    if name in MAPS:
        map_name, transform = MAPS[name]
        make = transform(num_classes=case.classes if case.classes > 1 else None)
        given = {"label": label, map_name: torch.stack([make(item) for item in label])}
        found[f"{name}, map given"] = lambda logits, label: loss(logits, given)
    for counterpart, build in COUNTERPARTS.get(name, {}).items():
        if HAS_NNUNET or not counterpart.startswith("nnU-Net"):
            found[counterpart] = build(case)
    return {contestant: loss for contestant, loss in found.items() if loss is not None}


def step(loss: Loss, logits: Tensor, *others: Any) -> Callable[[], Any]:
    """Return the call that is measured: the value of a loss and its gradient."""
    return lambda: torch.autograd.grad(loss(logits, *others), logits)
