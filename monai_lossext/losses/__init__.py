"""Segmentation losses with MONAI's vocabulary: drop-in classes, their bases and the catalogue."""

from .base import OverlapLoss, RegionLoss, SegmentationLoss
from .catalogue import LossEntry, catalogue
from .counts import Counts
from .region import LogCoshDiceLoss, MatthewsCorrelationLoss, SoftDiceLoss, SoftJaccardLoss, SoftTverskyLoss

__all__ = [
    "Counts",
    "LogCoshDiceLoss",
    "LossEntry",
    "MatthewsCorrelationLoss",
    "OverlapLoss",
    "RegionLoss",
    "SegmentationLoss",
    "SoftDiceLoss",
    "SoftJaccardLoss",
    "SoftTverskyLoss",
    "catalogue",
]
