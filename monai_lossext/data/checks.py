"""The check of every picture and mask before training starts."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from monai_lossext.data.datalists import Datalist, DatalistError, Item
from monai_lossext.data.parallel import map_in_threads
from monai_lossext.data.pictures import binary_mask, grey_values

logger = logging.getLogger(__name__)

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


class _Finding(NamedTuple):
    problems: tuple[str, ...]
    notice: str = ""


def checked(datalist: Datalist, *, skip_bad: bool = False, progress: bool | None = None) -> Datalist:
    """Decode every picture and mask of a datalist and return the items that can be used.

    Args:
        datalist: sections of items with "case", "image" and "label".
        skip_bad: leave bad items out with a warning instead of raising.
        progress: show a progress bar; None: on a terminal.

    Raises:
        DatalistError: names every bad file and what is wrong with it; with `skip_bad` only if nothing is left of a
            section.
    """
    items = [item for section in datalist.values() for item in section]
    logger.info("checking %d pictures and their masks", len(items))
    findings = map_in_threads(_check, items, "checking pictures", progress)

    bad = {id(item): finding.problems for item, finding in zip(items, findings, strict=True) if finding.problems}
    if bad:
        lines = [f"  {item['case']}: {problem}" for item in items for problem in bad.get(id(item), ())]
        complaint = f"{len(bad)} of {len(items)} cases cannot be used:"
        if not skip_bad:
            advice = "Repair or remove these files, or go on without them with skip_bad=True."
            raise DatalistError("\n".join([complaint, *lines, advice]))
        logger.warning("\n".join([f"going on without them: {complaint}", *lines]))

    notices = Counter(finding.notice for finding in findings if finding.notice and not finding.problems)
    for notice, count in notices.items():
        logger.warning("%d of %d masks %s", count, len(items), notice)

    usable = {name: [item for item in section if id(item) not in bad] for name, section in datalist.items()}
    for name, section in datalist.items():
        if section and not usable[name]:
            raise DatalistError(
                f"none of the {len(section)} {name} cases can be used; the first: {bad[id(section[0])][0]}"
            )
    return usable


def _check(item: Item) -> _Finding:
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
        return _Finding(tuple(problems))
    finding = _check_mask(pictures["label"], item["label"])
    return finding._replace(problems=(*problems, *finding.problems))


def _check_mask(picture: Image.Image, path: str) -> _Finding:
    values = grey_values(picture)
    levels = np.unique(values)
    highest = levels[-1]
    if len(levels) == 1:
        return _Finding((), EMPTY if highest == 0 else FULL)
    if len(levels) == 2 and levels[0] == 0:
        return _Finding(())
    if highest >= SMALLEST_WHITE:
        mask = binary_mask(picture)
        sharpest = JPEG_BLOCK_PIXELS if picture.format == "JPEG" else BORDER_PIXELS
        reach = max(sharpest, round(BORDER_SHARE * min(picture.size)))
        nearby = np.asarray(mask.point(lambda value: 255 * value).filter(ImageFilter.BoxBlur(reach)))
        near_edge = (nearby > 0) & (nearby < 255)
        between = (values != 0) & (values != highest)
        if np.all(near_edge[between]):
            return _Finding((), SOFT)
    shown = ", ".join(str(level) for level in levels[:6]) + (", ..." if len(levels) > 6 else "")
    return _Finding(
        (f"mask {path} is not binary: it has {len(levels)} values ({shown}); expected 0 and 1, or 0 and 255",)
    )
