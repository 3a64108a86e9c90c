"""Volumes as files: finding them, and reading their grids and voxels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_lossext.data.datalists import DatalistError, Item
from monai_lossext.data.layouts import by_case

NIFTI_SUFFIXES = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha", ".mhd")
MASK_ENDINGS = ("_T1w_brainmask", "_brainmask", "_desc-brain_mask")
STRIPPED_ENDING = "_T1w_brain"  # an image without its skull, which is no mask


class Grid(NamedTuple):
    """Where the voxels of a volume lie."""

    shape: tuple[int, ...]  # without axes of length 1 after the third
    affine: NDArray[np.float64]  # (4, 4), voxels to mm in RAS
    oriented: bool = True  # False: the header does not say how the head lies, and the affine is a guess


def volume_stems(folder: Path) -> dict[Path, str]:
    """The volumes directly in a folder, sorted, with their names without suffix; hidden files are left out."""
    return {
        path: _stem(path)
        for path in sorted(folder.iterdir())
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")
    }


def _stem(path: Path) -> str:
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


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
    if root.is_dir():
        stems = volume_stems(root)
        volumes = {file: stem for file, stem in stems.items() if not stem.endswith((*MASK_ENDINGS, STRIPPED_ENDING))}
        volumes = volumes or _series_folders(root)
    elif root.suffix.lower() == ".json":
        volumes = _listed(root)
    elif root.name.lower().endswith(SUFFIXES):
        volumes = {root: _stem(root)}
    else:
        advice = "; name the folder of the series" if _is_dicom(root) else ""
        raise DatalistError(f"{root} is no volume; looked for {', '.join(SUFFIXES)}{advice}")
    if not volumes:
        raise DatalistError(f"{root} holds no volume; looked for {', '.join(SUFFIXES)} and DICOM series")
    return [{"case": case, "image": str(file)} for case, file in by_case(volumes).items()]


def _listed(file: Path) -> dict[Path, str]:
    """The images of a datalist with their cases."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        sections = content.values() if isinstance(content, dict) else [content]
        items = [item for section in sections if isinstance(section, list) for item in section]
        images = [(item, {}) if isinstance(item, str) else (item["image"], item) for item in items]
        return {file.parent / image: str(item.get("case", _stem(Path(image)))) for image, item in images}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatalistError(
            f'{file} is no datalist, that is lists of items with an "image": {type(error).__name__}: {error}'
        ) from error


def _series_folders(root: Path) -> dict[Path, str]:
    """The folder itself, or else those in it, that hold a DICOM series."""
    for folders in ([root], sorted(path for path in root.iterdir() if path.is_dir())):
        found = [folder for folder in folders if any(_is_dicom(path) for path in folder.iterdir())]
        problems = [f"  {folder}: {count} series" for folder in found if (count := _series_count(folder)) != 1]
        if problems:
            raise DatalistError("\n".join(["expected one DICOM series in each folder, found", *problems]))
        if found:
            return {folder: folder.name for folder in found}
    return {}


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _series_count(folder: Path) -> int:
    import SimpleITK

    return len(SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def read_grid(path: Path) -> Grid:
    """Read the header of a volume; the voxels stay unread.

    Raises:
        Exception: of many kinds, where the header cannot be read.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        import nibabel

        image: Any = nibabel.load(path)
        header = image.header
        oriented = bool(header["sform_code"] or header["qform_code"])
        return Grid(_without_trailing_ones(image.shape), np.array(image.affine, np.float64), oriented)
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    dimension = reader.GetDimension()
    if dimension != 3:
        return Grid(_without_trailing_ones(reader.GetSize()), np.eye(4))  # the shape alone makes it unusable
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(reader.GetDirection(), (3, 3)) * reader.GetSpacing()
    affine[:3, 3] = reader.GetOrigin()
    return Grid(reader.GetSize(), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)  # from LPS, in which ITK counts


def read_voxels(path: Path) -> np.ndarray:
    """Read the values (X, Y, Z) of a volume, in the type they are stored in unless the header scales them.

    Raises:
        Exception: of many kinds, where the file is truncated or damaged.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        import nibabel

        volume: Any = nibabel.load(path)
        values = np.asanyarray(volume.dataobj)
        return values.reshape(_without_trailing_ones(values.shape))
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"it has {image.GetNumberOfComponentsPerPixel()} components per voxel")
    return SimpleITK.GetArrayFromImage(image).T


def _without_trailing_ones(shape: Sequence[int]) -> tuple[int, ...]:
    dimensions = len(shape)
    while dimensions > 3 and shape[dimensions - 1] == 1:
        dimensions -= 1
    return tuple(int(length) for length in shape[:dimensions])
