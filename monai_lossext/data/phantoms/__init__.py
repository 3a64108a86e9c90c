"""Synthetic pictures with known masks, for demonstrations and tests without any download."""

from __future__ import annotations

from monai_lossext.data.phantoms.dermoscopy import dermoscopy_phantom
from monai_lossext.data.phantoms.files import cached_dermoscopy_phantoms, write_dermoscopy_phantoms

__all__ = ["cached_dermoscopy_phantoms", "dermoscopy_phantom", "write_dermoscopy_phantoms"]
