"""Masks that the tests write."""

from __future__ import annotations

import numpy as np


def lesion(height: int = 24, width: int = 32, value: int = 255) -> np.ndarray:
    """An off-centre rectangle, so that a transposed or mirrored reading shows."""
    mask = np.zeros((height, width), np.uint8)
    mask[4:11, 6:20] = value
    return mask
