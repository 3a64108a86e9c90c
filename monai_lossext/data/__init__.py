"""Data for the bundles: loaders that recognise official folder layouts, checks, splits and synthetic phantoms."""

from __future__ import annotations

from importlib.util import find_spec

try:
    import PIL  # noqa: F401
    import tqdm  # noqa: F401
    import yaml  # noqa: F401

    if find_spec("nibabel") is None:  # not imported before it is used, because it takes SciPy along
        raise ImportError(name="nibabel")
except ImportError as error:
    raise ImportError(f'monai_lossext.data needs {error.name}: pip install "monai_lossext[bundles]"') from error

from monai_lossext.data.datalists import DatalistError, write_datalist
from monai_lossext.data.phantoms import (
    HeadPhantom,
    LesionPhantom,
    dermoscopy_phantom,
    head_phantom,
    lesion_phantom,
    write_dermoscopy_phantoms,
    write_head_phantoms,
    write_lesion_phantoms,
)
from monai_lossext.data.pictures import binary_mask, picture_list
from monai_lossext.data.skin_lesions import skin_lesion_datalist
from monai_lossext.data.skull_stripping import skull_stripping_datalist
from monai_lossext.data.volumes import volume_list
from monai_lossext.data.white_matter_lesions import channel_intensities, white_matter_lesion_datalist

__all__ = [
    "DatalistError",
    "HeadPhantom",
    "LesionPhantom",
    "binary_mask",
    "channel_intensities",
    "dermoscopy_phantom",
    "head_phantom",
    "lesion_phantom",
    "picture_list",
    "skin_lesion_datalist",
    "skull_stripping_datalist",
    "volume_list",
    "white_matter_lesion_datalist",
    "write_datalist",
    "write_dermoscopy_phantoms",
    "write_head_phantoms",
    "write_lesion_phantoms",
]
