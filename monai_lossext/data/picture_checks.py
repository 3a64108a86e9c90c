"""The check of every picture and mask before training starts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from monai_lossext.data.checks import Finding
from monai_lossext.data.datalists import Item
from monai_lossext.data.pictures import binary_mask, grey_values

EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
# A soft border is at most this far from the edge: in pixels, or for an enlarged mask as a share of its short side.
BORDER_PIXELS = 2
BORDER_SHARE = 0.005
JPEG_BLOCK_PIXELS = 8  # JPEG spreads an edge over its block
# Masks with more than two values whose largest is below this are label maps (0, 1, 2, 3), not grey levels.
SMALLEST_WHITE = 64

EMPTY = "show no lesion"
FULL = "show no background: the lesion fills the picture"
SOFT = "have a soft (anti-aliased) border, which is cut at half of the largest value"


def check_pictures(item: Item) -> Finding:
    """Decode a picture and its mask."""
    problems = []
    pictures: dict[str, Image.Image] = {}
    for key, kind in (("image", "picture"), ("label", "mask")):
        path = Path(item[key])
        if not path.is_file():
            problems.append(f"{kind} {path} is missing")
            continue
        try:
            with Image.open(path) as picture:
                picture.load()  # decodes to the end, which is what finds a truncated file
                pictures[key] = picture
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and others for broken files
            size = os.path.getsize(path)
            problems.append(f"{kind} {path} ({size} bytes) cannot be read: {error}")
    if "image" in pictures and (mode := pictures["image"].mode) not in EIGHT_BIT_MODES:
        problems.append(f"picture {item['image']} has {mode} pixels; expected 8 bits per channel")
    if len(pictures) == 2 and pictures["image"].size != pictures["label"].size:
        sizes = "picture {0[0]} x {0[1]}, mask {1[0]} x {1[1]}".format(pictures["image"].size, pictures["label"].size)
        problems.append(f"mask {item['label']} has another size than its picture ({sizes}, width x height)")
    if "label" not in pictures:
        return Finding(tuple(problems))
    finding = _check_mask(pictures["label"], item["label"])
    return finding._replace(problems=(*problems, *finding.problems))


def _check_mask(picture: Image.Image, path: str) -> Finding:
    values = grey_values(picture)
    levels = np.unique(values)
    highest = levels[-1]
    if len(levels) == 1:
        return Finding((), EMPTY if highest == 0 else FULL)
    if len(levels) == 2 and levels[0] == 0:
        return Finding(())
    if highest >= SMALLEST_WHITE:
        mask = binary_mask(picture)
        sharpest = JPEG_BLOCK_PIXELS if picture.format == "JPEG" else BORDER_PIXELS
        reach = max(sharpest, round(BORDER_SHARE * min(picture.size)))
        nearby = np.asarray(mask.point(lambda value: 255 * value).filter(ImageFilter.BoxBlur(reach)))
        near_edge = (nearby > 0) & (nearby < 255)
        between = (values != 0) & (values != highest)
        if np.all(near_edge[between]):
            return Finding((), SOFT)
    shown = ", ".join(str(level) for level in levels[:6]) + (", ..." if len(levels) > 6 else "")
    return Finding(
        (f"mask {path} is not binary: it has {len(levels)} values ({shown}); expected 0 and 1, or 0 and 255",)
    )
