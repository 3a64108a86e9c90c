"""What a loss does to single voxels, soft targets, volumes and hard cases, for any class of one channel."""

from monai_lossext.inspection.measure import Findings, inspect
from monai_lossext.inspection.named import NamedLoss, named_loss

__all__ = ["Findings", "NamedLoss", "inspect", "named_loss"]
