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
from monai_lossext.data.picture_layouts import SKIN_LESION_LAYOUTS
from monai_lossext.data.pictures import SUFFIXES as PICTURE_SUFFIXES
from monai_lossext.data.pictures import binary_mask, grey_values
from monai_lossext.data.volume_layouts import HEAD_LAYOUTS
from monai_lossext.data.volumes import SUFFIXES as VOLUME_SUFFIXES
from monai_lossext.data.volumes import read_grid, read_voxels

LABEL_FOLDERS = ("labels", "labelsTr", "masks")
WORDS = ("lesions", "lesion", "mask", "seg", "segmentation", "label", "labels", "gt")
LABEL_ENDINGS = tuple(f"_{word}" for word in WORDS)
MOST_CLASSES = 255  # a label with more values than that is an image


class Labels(NamedTuple):
    """The labels of a data set."""

    files: list[Path]
    layout: str  # of the folder: one that a bundle reads, "labels" for files found by their names, or "datalist"
    part: str  # of the data set, such as "training"


class Label(NamedTuple):
    """One label as it was read."""

    classes: NDArray[np.int64]  # (*S), 0 is the background
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
        name, datalist = read_layout(folder, SKIN_LESION_LAYOUTS | HEAD_LAYOUTS)
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


def is_volume_file(file: Path) -> bool:
    """Tell a volume from a picture by its name."""
    return file.name.lower().endswith(VOLUME_SUFFIXES)


def read_label(file: Path) -> Label:
    """Read a label as classes: volumes as they are, pictures of two values or with soft borders as 0 and 1.

    Raises:
        DatalistError: the file cannot be read, or its values are no classes.
    """
    try:
        if is_volume_file(file):
            values = read_voxels(file)
            spacing = tuple(np.linalg.norm(read_grid(file).affine[:3, :3], axis=0).round(4).tolist())
        else:
            with Image.open(file) as picture:
                values = grey_values(picture)
                few = np.unique(values)
                if few.size == 2 or few.max() > 32:  # black and white, or soft borders: not the numbers of classes
                    values = np.asarray(binary_mask(picture))
            spacing = (1.0, 1.0)
    except Exception as error:  # readers raise errors of many kinds for broken files
        raise DatalistError(f"{file}: cannot be read as a label: {error}") from error
    if values.ndim != len(spacing):
        raise DatalistError(f"{file}: expected {len(spacing)} dimensions, got {values.ndim}")
    classes = np.rint(values).astype(np.int64)
    if not np.array_equal(classes, values) or classes.min() < 0 or classes.max() > MOST_CLASSES:
        raise DatalistError(
            f"{file}: expected whole numbers from 0 to {MOST_CLASSES} as classes, got values from {values.min()} to"
            f" {values.max()}"
        )
    return Label(classes, spacing)
