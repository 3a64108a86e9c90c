"""Segmentation losses with MONAI's vocabulary: drop-in classes, their bases and the catalogue."""

from typing import TYPE_CHECKING, Any

from .base import ClasswiseLoss, OverlapLoss, RegionLoss, SegmentationLoss, VoxelLoss
from .boundary import BoundaryDistanceLoss, HausdorffCVLoss, HausdorffDistanceLoss, HausdorffERLoss
from .catalogue import LossEntry, catalogue
from .compound import ComboLoss, CompoundLoss, DiceHausdorffLoss, DiceTopKLoss, ExponentialLogarithmicLoss, JointLoss
from .counts import Counts
from .lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from .region import (
    AsymmetricSimilarityLoss,
    FocalTverskyLoss,
    LogCoshDiceLoss,
    MatthewsCorrelationLoss,
    PenaltyGeneralizedDiceLoss,
    ScaledGeneralizedDiceLoss,
    SensitivitySpecificityLoss,
    SoftDiceLoss,
    SoftJaccardLoss,
    SoftTverskyLoss,
)
from .voxel import (
    BalancedCrossEntropyLoss,
    DistanceMapCrossEntropyLoss,
    FocalCrossEntropyLoss,
    ShapeAwareLoss,
    StructuralSimilarityCrossEntropyLoss,
    TopKCrossEntropyLoss,
    WeightedCrossEntropyLoss,
)

if TYPE_CHECKING:
    from .deep_supervision import DeepSupervisedLoss

__all__ = [
    "AsymmetricSimilarityLoss",
    "BalancedCrossEntropyLoss",
    "BoundaryDistanceLoss",
    "ClasswiseLoss",
    "ComboLoss",
    "CompoundLoss",
    "Counts",
    "DeepSupervisedLoss",
    "DiceHausdorffLoss",
    "DiceTopKLoss",
    "DistanceMapCrossEntropyLoss",
    "ExponentialLogarithmicLoss",
    "FocalCrossEntropyLoss",
    "FocalTverskyLoss",
    "HausdorffCVLoss",
    "HausdorffDistanceLoss",
    "HausdorffERLoss",
    "JointLoss",
    "LogCoshDiceLoss",
    "LossEntry",
    "LovaszHingeLoss",
    "LovaszSoftmaxLoss",
    "MatthewsCorrelationLoss",
    "OverlapLoss",
    "PenaltyGeneralizedDiceLoss",
    "RegionLoss",
    "ScaledGeneralizedDiceLoss",
    "SegmentationLoss",
    "SensitivitySpecificityLoss",
    "ShapeAwareLoss",
    "SoftDiceLoss",
    "SoftJaccardLoss",
    "SoftTverskyLoss",
    "StructuralSimilarityCrossEntropyLoss",
    "TopKCrossEntropyLoss",
    "VoxelLoss",
    "WeightedCrossEntropyLoss",
    "catalogue",
]


def __getattr__(name: str) -> Any:
    if name != "DeepSupervisedLoss":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .deep_supervision import DeepSupervisedLoss  # MONAI, of which it is a subclass, is slow to load

    return DeepSupervisedLoss
