"""What the labels of a data set look like, in the numbers that decide how a loss behaves on them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy import ndimage

from monai_lossext.advice.labels import COLOUR, is_volume_file, read_label
from monai_lossext.data.datalists import DatalistError
from monai_lossext.data.parallel import map_in_threads

IGNORED = 255  # beside other classes: voxels that do not count, as in many data sets


@dataclass(frozen=True)
class CaseShape:
    """The objects of one label.

    Attributes:
        voxels: of the whole image.
        of_class: voxels of each class that is present, without the background; colours are numbers from COLOUR on.
        objects: of each class, sizes in voxels of its connected components (also diagonally), largest first.
        border: of each class, voxels that have a neighbour outside it, the edge of the image included.
        spacing: mm a voxel.
    """

    voxels: int
    of_class: dict[int, int]
    objects: dict[int, tuple[int, ...]]
    border: dict[int, int]
    spacing: tuple[float, ...]

    @property
    def foreground(self) -> int:
        """Voxels of all objects."""
        return sum(self.of_class.values())


@dataclass(frozen=True)
class Profile:
    """A data set's labels in numbers. Medians are over the cases that have an object; NaN where there is none.

    With several classes, what is said of objects and borders is that of the class with which a loss has it hardest: an
    organ and its tumours are not one kind of object.

    Attributes:
        volumes: whether they are volumes; else pictures.
        cases: labels that were read.
        classes: classes that occur, without the background; those of colours are counted from 1 on.
        foreground: median share of the image that objects fill.
        prior: share of objects among all voxels of all cases.
        foreground_low: 10 % quantile of the share.
        foreground_high: 90 % quantile.
        empty: share of cases without an object.
        full: share of cases without background.
        objects: median number of objects of a case, of the class with the most.
        object_voxels: median size of an object, of the class with the smallest.
        object_size: the same in mm^3 for volumes; in pixels for pictures.
        several: share of cases with two objects or more of one class.
        largest_alone: median Dice coefficient, over those cases and classes, of a mask that finds only the largest.
        border: median share of an object's voxels that lie on its border, of the class with the largest.
        ignored: the label of voxels that do not count, which stood beside other classes and was left out; or None.
        class_ratio: voxels of the most frequent class over those of the rarest, over all cases; 1 with one class.
        colours: of the classes, as "#ff0000", where the labels show them by their colours.
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
    ignored: int | None = None
    colours: tuple[str, ...] = ()

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
    of_class: dict[int, int] = {}
    objects: dict[int, tuple[int, ...]] = {}
    border: dict[int, int] = {}
    everywhere = ndimage.generate_binary_structure(classes.ndim, classes.ndim)
    numbers = np.arange(classes.max() + 1)
    if classes.max() >= COLOUR:
        numbers, classes = np.unique(np.append(classes, 0), return_inverse=True)
        classes = classes[:-1].reshape(label.classes.shape)
    for index, box in enumerate(ndimage.find_objects(classes), start=1):
        if box is None:
            continue
        number = int(numbers[index])
        mask = np.pad(classes[box] == index, 1)
        of_class[number] = int(mask.sum())
        components, _ = ndimage.label(mask, everywhere)
        objects[number] = tuple(sorted(np.bincount(components.ravel())[1:].tolist(), reverse=True))
        border[number] = of_class[number] - int(ndimage.binary_erosion(mask).sum())
    return CaseShape(classes.size, of_class, objects, border, spacing)


def _without(shape: CaseShape, number: int) -> CaseShape:
    """A case whose voxels of one class do not count."""
    return CaseShape(
        shape.voxels - shape.of_class.get(number, 0),
        {key: value for key, value in shape.of_class.items() if key != number},
        {key: value for key, value in shape.objects.items() if key != number},
        {key: value for key, value in shape.border.items() if key != number},
        shape.spacing,
    )


def profile_of(files: list[Path], progress: bool | None = None, ignored: int = IGNORED) -> Profile:
    """Measure all labels of a data set, with a progress bar on a terminal; voxels of an `ignored` label do not count.

    Raises:
        DatalistError: files are no labels, of which the message names all; pictures and volumes are mixed; or no label
            holds an object.
    """
    kinds = {is_volume_file(file) for file in files}
    if len(kinds) != 1:
        raise DatalistError("expected labels that are all pictures or all volumes, and at least one of them")
    found = map_in_threads(_measured, files, "reading labels", progress)
    shapes = [shape for shape in found if isinstance(shape, CaseShape)]
    if bad := [f"  {error}" for error in found if isinstance(error, DatalistError)]:
        raise DatalistError("\n".join([f"{len(bad)} of {len(files)} labels cannot be used:", *bad]))
    return summarise_shapes(shapes, kinds.pop(), ignored)


def _measured(file: Path) -> CaseShape | DatalistError:
    try:
        return measure(file)
    except DatalistError as error:
        return error


def summarise_shapes(shapes: list[CaseShape], volumes: bool, ignored: int = IGNORED) -> Profile:
    """Put the measurements of all cases together."""
    classes = {number for shape in shapes for number in shape.of_class}
    left_out = ignored in classes and len(classes) > 1
    if left_out:
        classes.remove(ignored)
        shapes = [_without(shape, ignored) for shape in shapes]
        shapes = [shape for shape in shapes if shape.voxels]
    colours = sorted(number for number in classes if number >= COLOUR)
    if colours:
        _check_colours(shapes, classes)
        shapes = [_by_order(shape, colours) for shape in shapes]
        classes = set(range(1, len(colours) + 1))
    filled = [shape for shape in shapes if shape.foreground]
    if not filled:
        raise DatalistError(f"none of the {len(shapes)} labels holds an object: nothing can be learnt from them")
    shares = [shape.foreground / shape.voxels for shape in filled]
    found = [(number, objects) for shape in filled for number, objects in shape.objects.items()]
    alone = [2 * objects[0] / (objects[0] + sum(objects)) for _, objects in found if len(objects) > 1]
    several = [shape for shape in filled if max(map(len, shape.objects.values())) > 1]
    counts = {n: float(np.median([len(objects) for number, objects in found if number == n])) for n in classes}
    sizes = {n: [size for number, objects in found if number == n for size in objects] for n in classes}
    smallest = min(classes, key=lambda number: float(np.median(sizes[number])))
    volumes_of = [size * float(np.prod(shape.spacing)) for shape in filled for size in shape.objects.get(smallest, ())]
    borders = {
        n: float(np.median([shape.border[n] / shape.of_class[n] for shape in filled if n in shape.border]))
        for n in classes
    }
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
        objects=max(counts.values()),
        object_voxels=float(np.median(sizes[smallest])),
        object_size=float(np.median(volumes_of)),
        several=len(several) / len(filled),
        largest_alone=float(np.median(alone)) if alone else float("nan"),
        border=max(borders.values()),
        class_ratio=max(of_class.values()) / min(of_class.values()),
        spacing=tuple(spacing.tolist()),
        anisotropy=float(spacing.max() / spacing.min()),
        ignored=ignored if left_out else None,
        colours=tuple(map(_named, colours)),
    )


def _named(colour: int) -> str:
    return f"#{colour - COLOUR:06x}"


def _check_colours(shapes: list[CaseShape], classes: set[int]) -> None:
    """Refuse labels by colours among others, or without black, of which nobody knows what is their background."""
    if min(classes) < COLOUR:
        raise DatalistError(
            f"some labels show classes by colours, such as {_named(max(classes))}, others by numbers, such as"
            f" {min(classes)}: which belong together cannot be known"
        )
    if all(shape.foreground == shape.voxels for shape in shapes):
        seen = ", ".join(_named(colour) for colour in sorted(classes)[:6])
        raise DatalistError(f"no label has black pixels, as the background of colours is expected; seen were {seen}")


def _by_order(shape: CaseShape, colours: list[int]) -> CaseShape:
    """A case whose colours are numbers from 1 on."""
    number = {colour: index for index, colour in enumerate(colours, start=1)}
    return CaseShape(
        shape.voxels,
        {number[key]: value for key, value in shape.of_class.items()},
        {number[key]: value for key, value in shape.objects.items()},
        {number[key]: value for key, value in shape.border.items()},
        shape.spacing,
    )
