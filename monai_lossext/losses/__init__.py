"""Segmentation losses with MONAI's vocabulary: drop-in classes, their bases and the catalogue."""

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

__all__ = [
    "AsymmetricSimilarityLoss",
    "BalancedCrossEntropyLoss",
    "BoundaryDistanceLoss",
    "ClasswiseLoss",
    "ComboLoss",
    "CompoundLoss",
    "Counts",
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
