"""Listing volumes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from monai_lossext.data.datalists import DatalistError, Item
from monai_lossext.data.layouts import by_case
from monai_lossext.scripts.volume_files import (
    LOOKED_FOR,
    SUFFIXES,
    find_volumes,
    is_dicom,
    series_in,
    stem_of,
    suffix_of,
)


def volume_stems(folder: Path) -> dict[Path, str]:
    """The volumes directly in a folder, sorted, with their names without suffix; hidden files are left out."""
    return {
        path: stem_of(path)
        for path in sorted(folder.iterdir())
        if suffix_of(path) and path.is_file() and not path.name.startswith(".")
    }


def volume_list(path: str | os.PathLike[str]) -> list[Item]:
    """List volumes that have no masks, for inference.

    Args:
        path: one volume (NIfTI, NRRD or MetaImage); a folder of volumes (its own files are taken, without masks and
            stripped brains, which are known by names such as `x_brainmask.nii.gz` and `x_T1w_brain.nii.gz`); the
            folder of a DICOM series, or a folder of such folders; or a datalist as JSON, of which all sections are
            taken and paths are relative to the file.

    Returns:
        One ``{"case": name without suffix, "image": path}`` per volume. The image of a DICOM series is its folder.

    Raises:
        DatalistError: nothing is at the path, no volume is in the folder, a DICOM folder holds several series, the
            JSON file is no datalist, or two volumes have the same case, so that one result would overwrite the
            other's.
    """
    root = Path(path).expanduser().absolute()
    if not root.exists():
        raise DatalistError(f"{root}: there is no such folder or volume")
    if root.suffix.lower() == ".json" and root.is_file():
        volumes = _listed(root)
    elif root.is_file() and not suffix_of(root):
        advice = "; name the folder of the series" if is_dicom(root) else ""
        raise DatalistError(f"{root} is no volume; looked for {', '.join(SUFFIXES)}{advice}")
    else:
        volumes = {file: stem_of(file) for file in find_volumes(root)}
        problems = [f"  {folder}: {problem}" for folder in volumes if folder.is_dir() and (problem := _problem(folder))]
        if problems:
            raise DatalistError("\n".join(["expected one DICOM series in each folder, found", *problems]))
    if not volumes:
        raise DatalistError(f"{root} holds no volume; looked for {LOOKED_FOR}")
    return [{"case": case, "image": str(file)} for case, file in by_case(volumes).items()]


def _problem(folder: Path) -> str:
    """Why a folder holds no single DICOM series."""
    try:
        count = len(series_in(folder))
    except ValueError as error:
        return str(error)
    return "" if count == 1 else f"{count} series"


def _listed(file: Path) -> dict[Path, str]:
    """The images of a datalist with their cases."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        sections = content.values() if isinstance(content, dict) else [content]
        items = [item for section in sections if isinstance(section, list) for item in section]
        images = [(item, {}) if isinstance(item, str) else (item["image"], item) for item in items]
        return {file.parent / image: str(item.get("case", stem_of(Path(image)))) for image, item in images}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatalistError(
            f'{file} is no datalist, that is lists of items with an "image": {type(error).__name__}: {error}'
        ) from error
