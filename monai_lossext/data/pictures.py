"""Pictures and masks as files: finding them, and reading a mask as exactly 0 and 1."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from monai_lossext.data.datalists import DatalistError, Item
from monai_lossext.data.layouts import by_case

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
SINGLE_BAND = frozenset({"1", "L", "I", "F", "I;16", "I;16B", "I;16L"})


def picture_stems(folder: Path) -> dict[Path, str]:
    """The pictures directly in a folder, sorted, with their names without suffix.

    Hidden files and ISIC's superpixel maps are left out.
    """
    return {
        path: path.stem
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")  # macOS leaves "._ISIC_0000000.jpg" in archives
        and not path.stem.endswith("_superpixels")
    }


def picture_list(path: str | os.PathLike[str]) -> list[Item]:
    """List pictures that have no masks, for inference.

    Args:
        path: a folder (its own files are taken, not those of its sub-folders), or one picture.

    Returns:
        One ``{"case": name without suffix, "image": path}`` per picture, sorted by name.

    Raises:
        DatalistError: nothing is at the path, no picture is in the folder, or two pictures have the same name without
            their suffix, so that one result would overwrite the other's.
    """
    root = Path(path).expanduser().absolute()
    if not root.exists():
        raise DatalistError(f"{root}: there is no such folder or picture")
    stems = picture_stems(root) if root.is_dir() else {root: root.stem}
    if not stems:
        raise DatalistError(f"{root}: no picture in this folder; looked for {', '.join(sorted(SUFFIXES))}")
    return [{"case": case, "image": str(file)} for case, file in by_case(stems).items()]


def grey_values(picture: Image.Image) -> np.ndarray:
    """The values (H, W) of a mask picture as one sees them: colours become grey, a palette is applied, alpha dropped.

    >>> grey_values(Image.new("RGBA", (3, 2), "white")).tolist()
    [[255, 255, 255], [255, 255, 255]]
    """
    return np.asarray(picture if picture.mode in SINGLE_BAND else picture.convert("L"))


def binary_mask(picture: Image.Image) -> Image.Image:
    """Read any mask picture as 0 (background) and 1 (lesion), whether it was saved as 0/1, 0/255 or with soft borders.

    The lesion is what exceeds half of the largest value. Give it to MONAI's reader, so that training, evaluation and
    the check of the files read a mask alike: ``LoadImaged(keys="label", reader=PILReader(converter=binary_mask))``.

    Args:
        picture: an opened mask of any mode.

    Returns:
        A picture of mode ``L`` with the values 0 and 1 only.

    >>> soft = Image.fromarray(np.array([[0, 90, 200, 255]], dtype=np.uint8))
    >>> np.asarray(binary_mask(soft)).tolist()
    [[0, 0, 1, 1]]
    """
    values = grey_values(picture)
    return Image.fromarray((values > values.max() / 2).astype(np.uint8))
