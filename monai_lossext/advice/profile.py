"""What the labels of a data set look like, in the numbers that decide how a loss behaves on them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy import ndimage

from monai_lossext.advice.labels import is_volume_file, read_label
from monai_lossext.data.datalists import DatalistError
from monai_lossext.data.parallel import map_in_threads


@dataclass(frozen=True)
class CaseShape:
    """The objects of one label.

    Attributes:
        voxels: of the whole image.
        of_class: voxels of each class that is present, without the background.
        objects: sizes in voxels of the connected components of each class (also diagonally), largest first.
        border: voxels of objects that have a neighbour outside their class, the edge of the image included.
        spacing: mm a voxel.
    """

    voxels: int
    of_class: dict[int, int]
    objects: tuple[int, ...]
    border: int
    spacing: tuple[float, ...]

    @property
    def foreground(self) -> int:
        """Voxels of all objects."""
        return sum(self.of_class.values())


@dataclass(frozen=True)
class Profile:
    """A data set's labels in numbers. Medians are over the cases that have an object; NaN where there is none.

    Attributes:
        volumes: whether they are volumes; else pictures.
        cases: labels that were read.
        classes: classes that occur, without the background.
        foreground: median share of the image that objects fill.
        prior: share of objects among all voxels of all cases.
        foreground_low: 10 % quantile of the share.
        foreground_high: 90 % quantile.
        empty: share of cases without an object.
        full: share of cases without background.
        objects: median number of objects of a case.
        object_voxels: median size of an object.
        object_size: the same in mm^3 for volumes; in pixels for pictures.
        several: share of cases with two objects or more.
        largest_alone: median Dice coefficient, over those cases, of a mask that finds only the largest object.
        border: median share of an object's voxels that lie on its border.
        class_ratio: voxels of the most frequent class over those of the rarest, over all cases; 1 with one class.
        spacing: median mm a voxel, along each axis; 1 for pictures.
        anisotropy: largest over smallest spacing.
    """

    volumes: bool
    cases: int
    classes: tuple[int, ...]
    foreground: float
    prior: float
    foreground_low: float
    foreground_high: float
    empty: float
    full: float
    objects: float
    object_voxels: float
    object_size: float
    several: float
    largest_alone: float
    border: float
    class_ratio: float
    spacing: tuple[float, ...]
    anisotropy: float

    @property
    def spread(self) -> float:
        """How many times larger the large objects (90 % quantile) are than the small ones (10 %)."""
        return self.foreground_high / self.foreground_low

    def as_dict(self) -> dict[str, object]:
        """Return the numbers by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def measure(file: Path) -> CaseShape:
    """Read one label and measure its objects.

    Raises:
        DatalistError: the file is no label.
    """
    label = read_label(file)
    classes, spacing = label
    of_class, objects, border = {}, [], 0
    everywhere = ndimage.generate_binary_structure(classes.ndim, classes.ndim)
    for number, box in enumerate(ndimage.find_objects(classes), start=1):
        if box is None:
            continue
        mask = np.pad(classes[box] == number, 1)
        of_class[number] = int(mask.sum())
        components, _ = ndimage.label(mask, everywhere)
        objects += np.bincount(components.ravel())[1:].tolist()
        border += of_class[number] - int(ndimage.binary_erosion(mask).sum())
    return CaseShape(classes.size, of_class, tuple(sorted(objects, reverse=True)), border, spacing)


def profile_of(files: list[Path], progress: bool | None = None) -> Profile:
    """Measure all labels of a data set, with a progress bar on a terminal.

    Raises:
        DatalistError: a file is no label, pictures and volumes are mixed, or no label holds an object.
    """
    kinds = {is_volume_file(file) for file in files}
    if len(kinds) != 1:
        raise DatalistError("expected labels that are all pictures or all volumes, and at least one of them")
    return summarise_shapes(map_in_threads(measure, files, "reading labels", progress), kinds.pop())


def summarise_shapes(shapes: list[CaseShape], volumes: bool) -> Profile:
    """Put the measurements of all cases together."""
    filled = [shape for shape in shapes if shape.foreground]
    if not filled:
        raise DatalistError(f"none of the {len(shapes)} labels holds an object: nothing can be learnt from them")
    shares = [shape.foreground / shape.voxels for shape in filled]
    several = [shape for shape in filled if len(shape.objects) > 1]
    alone = [2 * shape.objects[0] / (shape.objects[0] + shape.foreground) for shape in several]
    sizes = [(size, float(np.prod(shape.spacing))) for shape in filled for size in shape.objects]
    of_class: dict[int, int] = {}
    for shape in filled:
        for number, count in shape.of_class.items():
            of_class[number] = of_class.get(number, 0) + count
    spacing = np.median([shape.spacing for shape in shapes], axis=0)
    return Profile(
        volumes=volumes,
        cases=len(shapes),
        classes=tuple(sorted(of_class)),
        foreground=float(np.median(shares)),
        prior=sum(shape.foreground for shape in shapes) / sum(shape.voxels for shape in shapes),
        foreground_low=float(np.quantile(shares, 0.1)),
        foreground_high=float(np.quantile(shares, 0.9)),
        empty=1 - len(filled) / len(shapes),
        full=sum(shape.foreground == shape.voxels for shape in shapes) / len(shapes),
        objects=float(np.median([len(shape.objects) for shape in filled])),
        object_voxels=float(np.median([size for size, _ in sizes])),
        object_size=float(np.median([size * voxel for size, voxel in sizes])),
        several=len(several) / len(filled),
        largest_alone=float(np.median(alone)) if alone else float("nan"),
        border=float(np.median([shape.border / shape.foreground for shape in filled])),
        class_ratio=max(of_class.values()) / min(of_class.values()),
        spacing=tuple(spacing.tolist()),
        anisotropy=float(spacing.max() / spacing.min()),
    )
