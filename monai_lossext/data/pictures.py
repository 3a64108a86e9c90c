"""Pictures and masks as files: listing them, and reading a mask as exactly 0 and 1."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from monai_lossext.data.datalists import DatalistError, Item
from monai_lossext.data.layouts import by_case
from monai_lossext.scripts.picture_files import LOOKED_FOR, check_stored, find_pictures

SINGLE_BAND = frozenset({"1", "L", "I", "F", "I;16", "I;16B", "I;16L"})
MOST_COLOURS = 256  # of a picture that shows classes as colours; others are photographs
GREY_SPREAD = 8  # by which the channels of a grey pixel may differ after JPEG
# Whole numbers below this are those of classes: the white of a mask with grey levels is at least so bright.
SMALLEST_WHITE = 64
# A soft border is at most this far from the edge: in pixels, or for an enlarged mask as a share of its short side.
BORDER_PIXELS = 2
BORDER_SHARE = 0.005
MOST_GREY = 0.25  # share of a mask with soft borders; noise, in which everything is near an edge, has more
JPEG_BLOCK_PIXELS = 8  # JPEG spreads an edge over its block


def picture_stems(folder: Path) -> dict[Path, str]:
    """The pictures directly in a folder, sorted, with their names without suffix.

    Hidden files and ISIC's superpixel maps are left out.
    """
    return {path: path.stem for path in find_pictures(folder)}


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
    stems = picture_stems(root)
    if not stems:
        raise DatalistError(f"{root}: no picture in this folder; looked for {LOOKED_FOR}")
    return [{"case": case, "image": str(file)} for case, file in by_case(stems).items()]


def mask_values(picture: Image.Image) -> tuple[NDArray[np.generic], bool]:
    """Read the values (H, W) of a mask picture, and whether they are numbers of classes whatever their size.

    Palettes and pictures of few colours show classes: their values are the indices of the palette, or the ranks of the
    colours. Grey pictures, also those saved with a palette or three channels, are read as one sees them. Alpha is
    dropped.

    Raises:
        ValueError: a tag wants the picture turned; it is one of several in its file; a pixel is not finite; or its
            palette has the background brighter than the one other colour that is used, so that index and appearance
            contradict each other.

    >>> grey, classes = mask_values(Image.new("RGBA", (3, 2), "white"))
    >>> grey.tolist(), classes
    ([[255, 255, 255], [255, 255, 255]], False)
    """
    check_stored(picture)
    if picture.mode in SINGLE_BAND:
        values = np.asarray(picture)
        if picture.mode == "F" and not np.all(np.isfinite(values)):
            raise ValueError("it has pixels that are not finite (NaN or infinite)")
        return values, False
    if picture.mode in ("P", "PA"):
        indices = np.asarray(picture.getchannel(0) if picture.mode == "PA" else picture)
        used = np.unique(indices)
        palette = np.asarray(picture.getpalette("RGB"), np.int64).reshape(-1, 3)
        colours = np.pad(palette, ((0, max(0, int(used[-1]) + 1 - len(palette))), (0, 0)))[used]
        if not _grey(colours):
            if len(used) == 2 and used[0] == 0 and colours[0].sum() > colours[1].sum():
                raise ValueError(
                    f"index 0 of its palette is the brighter one, {tuple(colours[0].tolist())} beside"
                    f" {tuple(colours[1].tolist())}; expected a dark background at index 0, or black and white"
                )
            return indices, True
    elif (found := picture.convert("RGB").getcolors(MOST_COLOURS)) is not None:
        colours = np.array(sorted(colour for _, colour in found), np.int64)
        if len(colours) > 2 and not _grey(colours):
            pixels = np.asarray(picture.convert("RGB"), np.int64) @ (1 << 16, 1 << 8, 1)
            return np.searchsorted(colours @ (1 << 16, 1 << 8, 1), pixels), True
    return np.asarray(picture.convert("L")), False


def _grey(colours: NDArray[np.int64]) -> bool:
    return bool(np.ptp(colours, axis=1).max() <= GREY_SPREAD)


def has_soft_border(values: NDArray[np.generic], jpeg: bool = False) -> bool:
    """Tell whether all levels between the lowest and the highest of a grey mask (H, W) lie beside its edges.

    An edge is where values pass half of the largest one. The levels of labels fill areas, those of a blurred mask lie
    far from its edge.

    Args:
        values: with more than two levels, the lowest 0.
        jpeg: whether the mask has been a JPEG.
    """
    highest = values.max()
    grey = (values > highest / 4) & (values < 0.75 * highest)
    if highest < SMALLEST_WHITE or np.mean(grey) > MOST_GREY:
        return False
    reach = max(JPEG_BLOCK_PIXELS if jpeg else BORDER_PIXELS, round(BORDER_SHARE * min(values.shape)))
    mask = Image.fromarray(np.where(values > highest / 2, 255, 0).astype(np.uint8))
    nearby = np.asarray(mask.filter(ImageFilter.BoxBlur(reach)))
    near_edge = (nearby > 0) & (nearby < 255)
    between = (values != 0) & (values != highest)
    return bool(np.all(near_edge[between]))


def fills_areas(values: NDArray[np.generic]) -> bool:
    """Tell whether most pixels (H, W) between black and white have an equal neighbour along both axes, as areas have.

    >>> fills_areas(np.kron([[0, 85], [170, 255]], np.ones((4, 4)))), fills_areas(np.arange(64.0).reshape(8, 8))
    (True, False)
    """
    beside = np.zeros(values.shape, bool)
    below = np.zeros(values.shape, bool)
    same = values[:, 1:] == values[:, :-1]
    beside[:, 1:], beside[:, :-1] = same, beside[:, :-1] | same
    same = values[1:] == values[:-1]
    below[1:], below[:-1] = same, below[:-1] | same
    return bool(np.mean((beside & below)[(values != 0) & (values != values.max())]) >= 0.5)


def levels_of(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the values that occur, sorted, as np.unique does; bytes are counted, which is faster.

    >>> levels_of(np.array([[3, 0], [3, 255]], np.uint8)).tolist()
    [0, 3, 255]
    """
    if values.dtype == np.uint8:
        return np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return np.unique(values)


def shown(levels: NDArray[np.generic]) -> str:
    """Write the first of the levels of a mask, with all digits that tell them apart.

    >>> shown(np.array([0.0, 0.25, 1.00000006])), shown(np.arange(9))
    ('0, 0.25, 1.00000006', '0, 1, 2, 3, 4, 5, ...')
    """
    return ", ".join(f"{level:.9g}" for level in levels[:6].tolist()) + (", ..." if len(levels) > 6 else "")


def binary_mask(picture: Image.Image) -> Image.Image:
    """Read any mask picture as 0 (background) and 1 (lesion), whether it was saved as 0/1, 0/255 or with soft borders.

    The lesion is what exceeds half of the largest value. Give it to MONAI's reader, so that training, evaluation and
    the check of the files read a mask alike: ``LoadImaged(keys="label", reader=PILReader(converter=binary_mask))``.

    Args:
        picture: an opened mask of any mode.

    Returns:
        A picture of mode ``L`` with the values 0 and 1 only.

    Raises:
        ValueError: as of :func:`mask_values`.

    >>> soft = Image.fromarray(np.array([[0, 90, 200, 255]], dtype=np.uint8))
    >>> np.asarray(binary_mask(soft)).tolist()
    [[0, 0, 1, 1]]
    """
    values, _ = mask_values(picture)
    return Image.fromarray((values > values.max() / 2).astype(np.uint8))
