"""Recognising the folder layout of a data set, and pairing its images with their masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from monai_lossext.data.datalists import Datalist, DatalistError, Item
from monai_lossext.scripts.files import clashes, composed


class Layout(NamedTuple):
    """How one data set is distributed."""

    looked_for: str
    read: Callable[[Path], Datalist]  # {} for a folder of another layout; all in "training" without an official split


def data_folder(dataset_dir: str | os.PathLike[str], make_phantoms: Callable[[], Path]) -> Path:
    """The absolute folder of a data set, which phantoms are made for where it is "synthetic"."""
    if not str(dataset_dir or "").strip():
        raise DatalistError(f'dataset_dir={dataset_dir!r}: expected a folder, or "synthetic"')
    if str(dataset_dir) == "synthetic":
        return make_phantoms()
    return Path(dataset_dir).expanduser().absolute()


def read_layout(folder: Path, layouts: Mapping[str, Layout], layout: str = "auto") -> tuple[str, Datalist]:
    """Find the images and masks of a data set.

    Args:
        folder: the data set's folder.
        layouts: those that are known, by name.
        layout: the name of one of them, or "auto" for the first that fits.

    Returns:
        The layout's name and its sections as distributed; without an official split everything is "training". Files
        are found by name and not opened. The counterpart of a file that lies alone is named where it was expected.

    Raises:
        DatalistError: the folder does not exist or has none of the layouts; the message says what was looked for.
    """
    if layout != "auto" and layout not in layouts:
        raise DatalistError(f"layout={layout!r} is not known; expected auto, {', '.join(layouts)}")
    if not folder.is_dir():
        raise DatalistError(f"dataset_dir {folder}: there is no such folder")
    candidates = layouts if layout == "auto" else {layout: layouts[layout]}
    for name, candidate in candidates.items():
        if datalist := candidate.read(folder):
            return name, datalist
    lines = [f"dataset_dir {folder} is not recognised; looked for"]
    lines += [f"  {name}: {candidate.looked_for}" for name, candidate in candidates.items()]
    entries = sorted(entry.name for entry in folder.iterdir())
    lines.append(f"found {', '.join(entries[:8]) or 'an empty folder'}{', ...' if len(entries) > 8 else ''}")
    relatives = [folder.parent, *(folder / name for name in entries if (folder / name).is_dir())]
    lines += [f"did you mean {other}?" for other in relatives if any(_fits(c, other) for c in candidates.values())]
    raise DatalistError("\n".join(lines))


def _fits(layout: Layout, folder: Path) -> bool:
    """Whether a folder has a layout, and nothing is wrong with it."""
    try:
        return bool(layout.read(folder))
    except DatalistError:
        return False


def by_case(cases: Mapping[Path, str]) -> dict[str, Path]:
    """Turn file -> case round; two files of one case are an error that names all such files.

    Cases are Unicode in its composed form, so that a picture and its mask meet that were named on different systems.
    """
    if doubled := clashes(cases):
        raise DatalistError("\n".join(["more than one file for a case; keep one of them:", *doubled]))
    return {composed(case): file for file, case in cases.items()}


def folder_pair(
    images: Path,
    labels: Path,
    stems: Callable[[Path], Mapping[Path, str]],
    endings: tuple[str, ...],
    suffixes: tuple[str, str],
) -> list[Item]:
    """Pair two folders by stem; a mask's stem is its image's followed by one of the endings.

    Args:
        images: a folder, which must exist where the other one does.
        labels: the folder of the masks.
        stems: lists the files of a folder with their names without suffix.
        endings: of the masks' names; the first is the one that is expected where a mask is missing.
        suffixes: of an image and a mask that are missing.
    """
    for present, absent in ((images, labels), (labels, images)):
        if not absent.is_dir():
            raise DatalistError(f"{present} is there but {absent} is not: unpack it as well, or move the first away")
    image_of = by_case(stems(images))
    label_of = by_case({path: without_ending(stem, endings) for path, stem in stems(labels).items()})
    if not image_of:
        raise DatalistError(f"no image in {images}")
    if label_of and image_of.keys().isdisjoint(label_of):
        named = ", ".join(f"name{ending}" for ending in endings)
        first, second = (next(iter(files.values())) for files in (image_of, label_of))
        raise DatalistError(
            f"no file in {labels} is named after one in {images}: the mask of 'name' is called {named}; there are"
            f" '{images.name}/{first.name}' and '{labels.name}/{second.name}'. Names of your own can stay: give"
            " image_pattern and label_pattern, such as 'images/{case} photo.jpg' and 'masks/{case} outline.png'"
        )
    return paired(image_of, label_of, (images, suffixes[0]), (labels, endings[0] + suffixes[1]))


def without_ending(stem: str, endings: tuple[str, ...]) -> str:
    """The stem without the first of the endings that it has.

    >>> without_ending("a_mask", ("_mask", "_segmentation"))
    'a'
    """
    return next((stem.removesuffix(ending) for ending in endings if ending and stem.endswith(ending)), stem)


def paired(
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    expected_image: tuple[Path, str],
    expected_label: tuple[Path, str],
    prefix: str = "",
) -> list[Item]:
    """Items of all cases; a file that is missing is named where it is expected: folder, and ending after the case."""

    def path(files: Mapping[str, Path], case: str, expected: tuple[Path, str]) -> str:
        return str(files.get(case, expected[0] / f"{case}{expected[1]}"))

    return [
        {
            "case": prefix + case,
            "image": path(images, case, expected_image),
            "label": path(labels, case, expected_label),
        }
        for case in sorted(images.keys() | labels.keys())
    ]
