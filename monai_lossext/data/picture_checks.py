"""The check of every picture and mask before training starts."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from monai_lossext.data.checks import Finding
from monai_lossext.data.datalists import Item
from monai_lossext.data.pictures import has_soft_border, levels_of, mask_values, shown
from monai_lossext.scripts.files import reason
from monai_lossext.scripts.picture_files import read_picture

EMPTY = "masks show no lesion"
FULL = "masks show no background: the lesion fills the picture"
SOFT = "masks have a soft (anti-aliased) border, which is cut at half of the largest value"


def check_pictures(item: Item) -> Finding:
    """Decode a picture and its mask."""
    problems: list[str] = []
    notices: list[str] = []
    sizes = {}
    for key, kind in (("image", "picture"), ("label", "mask")):
        path = Path(item[key])
        if not path.is_file():
            problems.append(f"{kind} {path} is missing")
            continue
        try:
            if key == "image":
                picture, notice = read_picture(path)
                sizes[key] = picture.size
                notices += [f"pictures {notice}"] if notice else []
            else:
                with Image.open(path) as mask:
                    sizes[key] = mask.size
                    problem, notice = _check_mask(mask)
                problems += [f"mask {path} {problem}"] if problem else []
                notices += [notice] if notice else []
        except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error and others for broken files
            problems.append(f"{kind} {path} ({os.path.getsize(path)} bytes) cannot be read: {reason(error)}")
    if len(sizes) == 2 and sizes["image"] != sizes["label"]:
        width_height = "picture {} x {}, mask {} x {}, width x height".format(*sizes["image"], *sizes["label"])
        problems.append(f"mask {item['label']} has another size than its picture ({width_height})")
    return Finding(tuple(problems), tuple(notices))


def _check_mask(picture: Image.Image) -> tuple[str, str]:
    """What is wrong with a mask, as the rest of a sentence about it, and what is to be noticed."""
    values, classes = mask_values(picture)
    levels = levels_of(values)
    if len(levels) == 1:
        return "", EMPTY if levels[0] == 0 else FULL
    if len(levels) == 2 and levels[0] == 0:
        return "", ""
    if not classes and has_soft_border(values, picture.format == "JPEG"):
        return "", SOFT
    return f"is not binary: it has {len(levels)} values ({shown(levels)}); expected 0 and 1, or 0 and 255", ""
