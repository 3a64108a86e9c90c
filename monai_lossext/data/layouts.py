"""The folder layouts in which skin-lesion data sets are distributed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from monai_lossext.data.datalists import Datalist, DatalistError, Item
from monai_lossext.data.pictures import by_case, picture_files

PH2_FOLDER = "PH2 Dataset images"


class _Layout(NamedTuple):
    looked_for: str
    read: Callable[[Path], Datalist]  # {} for a folder of another layout; all in "training" without an official split


def read_layout(folder: Path, layout: str = "auto") -> tuple[str, Datalist]:
    """Find the pictures and masks of a data set.

    Args:
        folder: the data set's folder.
        layout: "isic2017", "ph2", "dermofit", "plain", or "auto" for the first of them that fits.

    Returns:
        The layout's name and its sections as distributed; without an official split everything is "training". Files
        are found by name and not opened. The counterpart of a file that lies alone is named where it was expected.

    Raises:
        DatalistError: the folder does not exist or has none of the layouts; the message says what was looked for.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise DatalistError(f"layout={layout!r} is not known; expected auto, {', '.join(LAYOUTS)}")
    if not folder.is_dir():
        raise DatalistError(f"dataset_dir {folder}: there is no such folder")
    candidates = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
    for name, candidate in candidates.items():
        if datalist := candidate.read(folder):
            return name, datalist
    lines = [f"dataset_dir {folder} is not recognised; looked for"]
    lines += [f"  {name}: {candidate.looked_for}" for name, candidate in candidates.items()]
    entries = sorted(entry.name for entry in folder.iterdir())
    lines.append(f"found {', '.join(entries[:8]) or 'an empty folder'}{', ...' if len(entries) > 8 else ''}")
    relatives = [folder.parent, *(folder / name for name in entries if (folder / name).is_dir())]
    lines += [f"did you mean {other}?" for other in relatives if any(c.read(other) for c in candidates.values())]
    raise DatalistError("\n".join(lines))


def _isic2017(folder: Path) -> Datalist:
    datalist = {}
    for section, part in {"training": "Training", "validation": "Validation", "testing": "Test_v2"}.items():
        pictures, masks = folder / f"ISIC-2017_{part}_Data", folder / f"ISIC-2017_{part}_Part1_GroundTruth"
        if pictures.is_dir() or masks.is_dir():
            datalist[section] = _folder_pair(pictures, masks, ("_segmentation",), ".jpg")
    return datalist


def _ph2(folder: Path) -> Datalist:
    root = folder / PH2_FOLDER if (folder / PH2_FOLDER).is_dir() else folder
    cases = sorted(path.parent.name for path in root.glob("IMD*/IMD*_Dermoscopic_Image"))
    items = [
        {
            "case": case,
            "image": str(root / case / f"{case}_Dermoscopic_Image" / f"{case}.bmp"),
            "label": str(root / case / f"{case}_lesion" / f"{case}_lesion.bmp"),
        }
        for case in cases
    ]
    return {"training": items} if items else {}


def _plain(folder: Path) -> Datalist:
    pictures, masks = folder / "images", folder / "masks"
    if not (pictures.is_dir() and masks.is_dir()):
        return {}
    return {"training": _folder_pair(pictures, masks, ("", "_mask", "_segmentation"), ".png")}


def _dermofit(folder: Path) -> Datalist:
    items: list[Item] = []
    recognised = False
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = {path.stem: path for path in picture_files(group)}
        labels = {stem.removesuffix("mask"): path for stem, path in files.items() if stem.endswith("mask")}
        images = {stem: path for stem, path in files.items() if not stem.endswith("mask")}
        recognised = recognised or not images.keys().isdisjoint(labels)
        # Names are unique within a class only, as far as the layout promises.
        items += _paired(images, labels, group / "{}.png", group / "{}mask.png", prefix=f"{group.name}_")
    return {"training": items} if recognised else {}


def _folder_pair(pictures: Path, masks: Path, endings: tuple[str, ...], suffix: str) -> list[Item]:
    """Pair two folders by stem; a mask's stem is its picture's followed by one of the endings."""
    for present, absent in ((pictures, masks), (masks, pictures)):
        if not absent.is_dir():
            raise DatalistError(f"{present} is there but {absent} is not: unpack it as well, or move the first away")
    images = by_case({path: path.stem for path in picture_files(pictures)})
    labels = by_case({path: _without(path.stem, endings) for path in picture_files(masks)})
    if not images:
        raise DatalistError(f"no picture in {pictures}")
    return _paired(images, labels, pictures / f"{{}}{suffix}", masks / f"{{}}{endings[0]}.png")


def _without(stem: str, endings: tuple[str, ...]) -> str:
    return next((stem.removesuffix(ending) for ending in endings if ending and stem.endswith(ending)), stem)


def _paired(
    images: dict[str, Path], labels: dict[str, Path], expected_image: Path, expected_label: Path, prefix: str = ""
) -> list[Item]:
    return [
        {
            "case": prefix + case,
            "image": str(images.get(case, str(expected_image).format(case))),
            "label": str(labels.get(case, str(expected_label).format(case))),
        }
        for case in sorted(images.keys() | labels.keys())
    ]


LAYOUTS = {
    "isic2017": _Layout("ISIC-2017_{Training,Validation,Test_v2}_Data and ..._Part1_GroundTruth", _isic2017),
    "ph2": _Layout(f"'{PH2_FOLDER}' with IMDxxx/IMDxxx_Dermoscopic_Image and IMDxxx/IMDxxx_lesion", _ph2),
    "plain": _Layout("images/ and masks/ with the same names (or name_mask, name_segmentation)", _plain),
    "dermofit": _Layout("one folder per class with X.png and Xmask.png", _dermofit),
}
