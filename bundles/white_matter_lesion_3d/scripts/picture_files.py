"""Pictures as files: finding them, reading them as they are stored, and writing masks of their size.

Pillow is imported where it is used: bundles for volumes carry this file and do without.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
LOOKED_FOR = ", ".join(sorted(SUFFIXES))
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
BITS_PER_SAMPLE, ORIENTATION = 258, 274  # tags of TIFF, the latter of EXIF as well
TURNED = "have an orientation tag, which is not followed: masks belong to the pixels as they are stored"


def find_pictures(path: str | os.PathLike[str]) -> list[Path]:
    """List a picture, or those that lie directly in a folder, sorted.

    Hidden files and ISIC's superpixel maps are left out. The list is empty where there is none.
    """
    root = Path(path).expanduser().absolute()
    if root.is_file():
        return [root]
    return [
        file
        for file in (sorted(root.iterdir()) if root.is_dir() else [])
        if file.suffix.lower() in SUFFIXES
        and not file.name.startswith(".")  # macOS leaves "._ISIC_0000000.jpg" in archives
        and not file.stem.endswith("_superpixels")
    ]


def check_stored(picture: Image.Image) -> None:
    """Refuse an opened file that holds more than one picture, and a TIFF whose pixels a tag wants turned.

    Pillow hands out the first of several pictures without a word, and turns TIFF alone, and not always well. Further
    pictures in a JPEG (MPO) are previews.

    Raises:
        ValueError: there are several pictures, or the tag is there and is not 1 (upright).
    """
    if picture.format != "MPO" and (pages := getattr(picture, "n_frames", 1)) != 1:
        raise ValueError(f"it holds {pages} pictures (pages or frames); expected one")
    if picture.format == "TIFF" and (tag := picture.getexif().get(ORIENTATION, 1)) != 1:
        raise ValueError(f"its orientation tag is {tag}; expected a TIFF that is stored upright (1)")


def read_picture(path: str | os.PathLike[str]) -> tuple[Image.Image, str]:
    """Read a picture to its end as three channels of 8 bits, in the orientation in which it is stored.

    Grey, palette and CMYK pictures become three channels, alpha is dropped.

    Returns:
        The picture, and a notice about it, or "".

    Raises:
        ValueError: it has more than 8 bits per channel, of which the file does not say how many are used, or it is a
            TIFF that is not stored upright, or it is one picture of several.
        Exception: of many kinds, where it is truncated or damaged.
    """
    from PIL import Image

    with Image.open(path) as picture:
        bits = 8
        if picture.format == "TIFF":
            bits = max(picture.tag_v2.get(BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
        elif picture.format == "PNG" and picture.tile and str(picture.tile[0][3]).endswith(";16B"):
            bits = 16  # of which Pillow keeps eight
        if picture.mode not in EIGHT_BIT_MODES or bits > 8:
            depth = f" of {bits} bits" if picture.mode in EIGHT_BIT_MODES else ""
            raise ValueError(f"it has {picture.mode} pixels{depth}; expected 8 bits per channel")
        check_stored(picture)
        picture.load()  # decodes to the end, which is what finds a truncated file
        turned = "exif" in picture.info and picture.getexif().get(ORIENTATION, 1) != 1
        notice = TURNED if turned else ""
        return (picture if picture.mode == "RGB" else picture.convert("RGB")), notice


def mask_file(source: Path) -> str:
    """Return the name of a picture's mask."""
    return f"{source.stem}.png"


def write_mask(mask: np.ndarray, target: Path) -> None:
    """Write a mask (W, H) of 0 and 1 as a picture of 0 and 255."""
    from PIL import Image

    Image.fromarray(255 * np.ascontiguousarray(mask.T, np.uint8)).save(target)
