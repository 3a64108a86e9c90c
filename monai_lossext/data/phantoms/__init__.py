"""Synthetic images with known masks, for demonstrations and tests without any download."""

from __future__ import annotations

from monai_lossext.data.phantoms.dermoscopy import dermoscopy_phantom
from monai_lossext.data.phantoms.files import (
    cached_dermoscopy_phantoms,
    cached_head_phantoms,
    cached_lesion_phantoms,
    write_dermoscopy_phantoms,
    write_head_phantoms,
    write_lesion_phantoms,
)
from monai_lossext.data.phantoms.head import HeadPhantom, head_phantom
from monai_lossext.data.phantoms.lesions import LesionPhantom, lesion_phantom

__all__ = [
    "HeadPhantom",
    "LesionPhantom",
    "cached_dermoscopy_phantoms",
    "cached_head_phantoms",
    "cached_lesion_phantoms",
    "dermoscopy_phantom",
    "head_phantom",
    "lesion_phantom",
    "write_dermoscopy_phantoms",
    "write_head_phantoms",
    "write_lesion_phantoms",
]
