"""Finding the labels of a data set, and reading one of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from monai_lossext.data.datalists import Datalist, DatalistError
from monai_lossext.data.layouts import read_layout
from monai_lossext.data.lesion_layouts import LESION_LAYOUTS
from monai_lossext.data.picture_layouts import SKIN_LESION_LAYOUTS
from monai_lossext.data.pictures import (
    GREY_SPREAD,
    SMALLEST_WHITE,
    fills_areas,
    has_soft_border,
    mask_values,
    shown,
)
from monai_lossext.data.volume_layouts import HEAD_LAYOUTS
from monai_lossext.scripts.files import reason
from monai_lossext.scripts.picture_files import SUFFIXES as PICTURE_SUFFIXES
from monai_lossext.scripts.volume_files import SUFFIXES as VOLUME_SUFFIXES
from monai_lossext.scripts.volume_files import as_whole, read_grid, read_voxels, suffix_of

LABEL_FOLDERS = ("labels", "labelsTr", "masks")
WORDS = ("lesions", "lesion", "mask", "seg", "segmentation", "label", "labels", "gt")
LABEL_ENDINGS = tuple(f"_{word}" for word in WORDS)
MOST_CLASSES = 255  # a label with more values than that is an image
COLOUR = 1 << 24  # plus red, green and blue: the number of a class that a picture shows by its colour
MOST_COLOURS = 64  # of a picture whose colours are classes; soft borders and JPEG make more


class Labels(NamedTuple):
    """The labels of a data set."""

    files: list[Path]
    layout: str  # of the folder: one that a bundle reads, "labels" for files found by their names, or "datalist"
    part: str  # of the data set, such as "training"


class Label(NamedTuple):
    """One label as it was read."""

    classes: NDArray[np.int64]  # (*S), 0 is the background; from COLOUR on they are colours
    spacing: tuple[float, ...]  # mm a voxel; 1 a pixel of a picture, which has none


def find_labels(source: Path) -> Labels:
    """Find the labels of a data set's training part, or of all of it where it has no parts.

    Args:
        source: a datalist as JSON, of sections with items that have a "label" relative to the file; or a folder: of a
            layout that the bundles read, or with labels in ``labels/``, ``labelsTr/`` or ``masks/``, or with labels
            whose names end in "_lesions", "_mask", "_seg" and the like.

    Raises:
        DatalistError: there is nothing of that kind, or a label is missing.
    """
    if source.is_file():
        part, files = _listed(source)
        labels = Labels(files, "datalist", part)
    elif source.is_dir():
        labels = _in_folder(source)
    else:
        raise DatalistError(f"{source}: there is no such datalist or folder")
    missing = [file for file in labels.files if not file.is_file()]
    if missing:
        raise DatalistError(f"{len(missing)} of {len(labels.files)} labels are missing, the first: {missing[0]}")
    return labels


def _listed(file: Path) -> tuple[str, list[Path]]:
    expected = 'expected JSON with lists of items that have a "label", as `datalist --output` writes it'
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatalistError(f"{file}: {expected}; it cannot be read: {error}") from error
    sections = content if isinstance(content, dict) else {"": content}
    labelled = {
        name: [item["label"] for item in items if isinstance(item, dict) and isinstance(item.get("label"), str)]
        for name, items in sections.items()
        if isinstance(items, list)
    }
    labelled = {name: labels for name, labels in labelled.items() if labels}
    if not labelled:
        raise DatalistError(f"{file}: {expected}; found none")
    part = "training" if "training" in labelled else ""
    chosen = labelled["training"] if part else [label for labels in labelled.values() for label in labels]
    return part, [file.parent / label for label in chosen]


def _in_folder(folder: Path) -> Labels:
    try:
        name, datalist = read_layout(folder, SKIN_LESION_LAYOUTS | LESION_LAYOUTS | HEAD_LAYOUTS)
        part, items = _training(datalist)
        return Labels([Path(item["label"]) for item in items], name, part)
    except DatalistError as unknown:
        for place in (folder / name for name in LABEL_FOLDERS):
            if place.is_dir() and (files := _label_like(place.iterdir(), endings=("",))):
                return Labels(files, "labels", "")
        if files := _label_like(folder.rglob("*"), LABEL_ENDINGS):
            return Labels(files, "labels", "")
        raise DatalistError(
            f"{unknown}\nlooked as well for labels in {', '.join(LABEL_FOLDERS)}, and for names that end in"
            f" {', '.join(LABEL_ENDINGS)}"
        ) from None


def _training(datalist: Datalist) -> tuple[str, list[dict[str, str]]]:
    if datalist.get("training"):
        return ("training" if len(datalist) > 1 else ""), datalist["training"]
    return "", [item for items in datalist.values() for item in items]


def _label_like(files: Iterable[Path], endings: tuple[str, ...]) -> list[Path]:
    suffixes = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)
    found = []
    for file in files:
        suffix = next((suffix for suffix in suffixes if file.name.lower().endswith(suffix)), "")
        if suffix and not file.name.startswith(".") and file.name[: -len(suffix)].endswith(endings):
            found.append(file)
    return sorted(found)


def _colours(picture: Image.Image) -> NDArray[np.int64] | None:
    """Read a picture (H, W) of three channels by its colours; None where it is grey or has a palette."""
    if picture.mode in ("P", "PA") or len(picture.getbands()) < 3:
        return None
    channels = np.asarray(picture.convert("RGB"), np.int64)
    packed = channels @ (1 << 16, 1 << 8, 1)
    found = np.unique(packed)
    if np.ptp(channels, axis=2).max() <= GREY_SPREAD:
        return None
    if len(found) > MOST_COLOURS:
        raise ValueError(
            f"it has {len(found)} colours; expected grey levels, or one colour a class, with hard borders and no JPEG"
        )
    return np.where(packed, packed + COLOUR, 0)


def is_volume_file(file: Path) -> bool:
    """Tell a volume from a picture by its name."""
    return bool(suffix_of(file))


def read_label(file: Path) -> Label:
    """Read a label as classes: volumes as they are; pictures as :func:`classes_of_picture` does.

    Raises:
        DatalistError: the file cannot be read, or its values are no classes.
    """
    try:
        if is_volume_file(file):
            grid = read_grid(file)
            if problem := grid.problem:
                raise ValueError(f"it {problem}")
            values = as_whole(read_voxels(file))
            spacing = tuple(np.linalg.norm(grid.affine[:3, :3], axis=0).round(4).tolist())
        else:
            with Image.open(file) as picture:
                values = classes_of_picture(picture)
            spacing = (1.0, 1.0)
    except Exception as error:  # readers raise errors of many kinds for broken files
        raise DatalistError(f"{file}: cannot be read as a label: {reason(error)}") from error
    if values.ndim != len(spacing):
        raise DatalistError(f"{file}: expected {len(spacing)} dimensions, got {values.ndim}")
    classes = np.rint(values).astype(np.int64)
    limit = classes.max() if values.dtype == np.int64 and classes.max() >= COLOUR else MOST_CLASSES
    if not np.array_equal(classes, values) or classes.min() < 0 or classes.max() > limit:
        raise DatalistError(
            f"{file}: expected whole numbers from 0 to {MOST_CLASSES} as classes, got {shown(np.unique(values))}"
        )
    return Label(classes, spacing)


def classes_of_picture(picture: Image.Image) -> NDArray[np.generic]:
    """Read a label picture (H, W) as classes.

    Palettes show the numbers of classes. Colours are classes by themselves, the same in every picture, and black is the
    background. Grey levels are the numbers of classes where all are below 64, or where they fill areas; black and
    white, and white with a soft border, are 0 and 1.

    Raises:
        ValueError: grey levels that are neither, as those of a blurred mask or of a photograph; more colours than
            classes have.
    """
    if (colours := _colours(picture)) is not None:
        return colours
    values, classes = mask_values(picture)
    levels = np.unique(values)
    if classes or levels[-1] < SMALLEST_WHITE:
        return values
    jpeg = picture.format == "JPEG"
    if len(levels) <= 2 or has_soft_border(values, jpeg):
        return np.asarray(values > levels[-1] / 2, np.uint8)
    if jpeg or not fills_areas(values):
        raise ValueError(
            f"it has {len(levels)} grey levels ({shown(levels)}), which neither fill areas, as classes do, nor lie at"
            " edges alone, as those of a soft border do"
        )
    return values
