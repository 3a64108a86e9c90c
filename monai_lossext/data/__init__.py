"""Data for the bundles: loaders that recognise official folder layouts, checks, splits and synthetic phantoms."""

from __future__ import annotations

try:
    import PIL  # noqa: F401
    import tqdm  # noqa: F401
    import yaml  # noqa: F401
except ImportError as error:
    raise ImportError(f'monai_lossext.data needs {error.name}: pip install "monai_lossext[bundles]"') from error

from monai_lossext.data.datalists import DatalistError, write_datalist
from monai_lossext.data.phantoms import dermoscopy_phantom, write_dermoscopy_phantoms
from monai_lossext.data.pictures import binary_mask, picture_list
from monai_lossext.data.skin_lesions import skin_lesion_datalist

__all__ = [
    "DatalistError",
    "binary_mask",
    "dermoscopy_phantom",
    "picture_list",
    "skin_lesion_datalist",
    "write_datalist",
    "write_dermoscopy_phantoms",
]
