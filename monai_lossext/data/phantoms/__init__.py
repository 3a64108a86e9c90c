"""Synthetic images with known masks, for demonstrations and tests without any download."""

from __future__ import annotations

from monai_lossext.data.phantoms.dermoscopy import dermoscopy_phantom
from monai_lossext.data.phantoms.files import (
    cached_dermoscopy_phantoms,
    cached_head_phantoms,
    write_dermoscopy_phantoms,
    write_head_phantoms,
)
from monai_lossext.data.phantoms.head import HeadPhantom, head_phantom

__all__ = [
    "HeadPhantom",
    "cached_dermoscopy_phantoms",
    "cached_head_phantoms",
    "dermoscopy_phantom",
    "head_phantom",
    "write_dermoscopy_phantoms",
    "write_head_phantoms",
]
