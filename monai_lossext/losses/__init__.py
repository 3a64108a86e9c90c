"""Segmentation losses with MONAI's vocabulary: drop-in classes, their bases and the catalogue."""

from typing import TYPE_CHECKING, Any

from .base import ClasswiseLoss, SegmentationLoss
from .boundary import BoundaryDistanceLoss, HausdorffCVLoss, HausdorffDistanceLoss, HausdorffERLoss
from .calibration import CalibrationLoss
from .catalogue import LossEntry, catalogue
from .components import BlobDiceLoss, ComponentDiceLoss, SkeletonRecallLoss
from .compound import (
    ComboLoss,
    CompoundLoss,
    DiceCrossEntropyLoss,
    DiceHausdorffLoss,
    DiceTopKLoss,
    ExponentialLogarithmicLoss,
    JointLoss,
)
from .lovasz import LovaszHingeLoss, LovaszSoftmaxLoss
from .region import (
    AsymmetricSimilarityLoss,
    Counts,
    FocalTverskyLoss,
    LogCoshDiceLoss,
    MatthewsCorrelationLoss,
    OverlapLoss,
    PenaltyGeneralizedDiceLoss,
    RegionLoss,
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
    VoxelLoss,
    WeightedCrossEntropyLoss,
)

if TYPE_CHECKING:
    from .deep_supervision import DeepSupervisedLoss

__all__ = [
    "AsymmetricSimilarityLoss",
    "BalancedCrossEntropyLoss",
    "BlobDiceLoss",
    "BoundaryDistanceLoss",
    "CalibrationLoss",
    "ClasswiseLoss",
    "ComboLoss",
    "ComponentDiceLoss",
    "CompoundLoss",
    "Counts",
    "DeepSupervisedLoss",
    "DiceCrossEntropyLoss",
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
    "SkeletonRecallLoss",
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
