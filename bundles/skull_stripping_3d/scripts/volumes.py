"""Volumes in, masks of the same geometry out: NIfTI, NRRD, MetaImage and DICOM series."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch.utils.data import IterableDataset
from tqdm import tqdm

NIFTI_SUFFIXES = (".nii.gz", ".nii")
SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha", ".mhd")
MASK_ENDING = "_brainmask"
NO_IMAGE_ENDINGS = (MASK_ENDING, "_desc-brain_mask", "_T1w_brain")  # masks, and images without their skull
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK counts in LPS


def find_volumes(path: str | Path) -> list[dict[str, str]]:
    """List what to strip.

    Args:
        path: a volume, a folder of volumes (masks named `*_brainmask` and stripped brains named `*_T1w_brain` are left
            out), the folder of a DICOM series, or a folder of such folders.

    Returns:
        One ``{"image": path}`` a volume, sorted; empty where there is none.
    """
    root = Path(path).expanduser().absolute()
    if root.is_file():
        return [{"image": str(root)}]
    entries = sorted(root.iterdir()) if root.is_dir() else []
    files = [entry for entry in entries if suffix_of(entry) and not entry.name.startswith(".")]
    found = [file for file in files if not stem_of(file).endswith(NO_IMAGE_ENDINGS)]
    if not found:
        found = [folder for folder in [root, *entries] if folder.is_dir() and any(map(is_dicom, folder.iterdir()))]
    return [{"image": str(file)} for file in found]


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its beginning."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def suffix_of(path: str | Path) -> str:
    """Return the suffix of a volume in small letters, empty for other files and folders."""
    return next((suffix for suffix in SUFFIXES if str(path).lower().endswith(suffix)), "")


def stem_of(path: str | Path) -> str:
    """Return the name of a volume without its suffix."""
    name = Path(path).name
    return name[: len(name) - len(suffix_of(path))]


def read_volume(path: str) -> MetaTensor:
    """Read a volume as (1, X, Y, Z), float32, with the affine from voxels to mm in RAS.

    Raises:
        ValueError: it has more than three dimensions, no orientation, or voxels that are not finite.
        Exception: of many kinds, where the file is truncated or damaged.
    """
    if path.lower().endswith(NIFTI_SUFFIXES):
        volume: Any = nibabel.load(path)
        if not (volume.header["sform_code"] or volume.header["qform_code"]):
            raise ValueError("it gives no orientation: sform_code and qform_code of its header are 0")
        values, affine = np.asarray(volume.dataobj, np.float32), volume.affine
    else:
        image = read_itk(path)
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            components = image.GetNumberOfComponentsPerPixel()
            raise ValueError(f"it has {image.GetDimension()} dimensions and {components} components per voxel")
        values, affine = sitk.GetArrayFromImage(image).T.astype(np.float32), np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        affine = LPS_TO_RAS @ affine
    shape = values.shape
    if len(shape) < 3 or max(shape[3:], default=1) > 1:
        raise ValueError(f"it has {len(shape)} dimensions ({' x '.join(map(str, shape))}); expected 3")
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine)) < 1e-9:
        raise ValueError("it gives no orientation: its affine is singular or not finite")
    if not np.all(np.isfinite(values)):
        raise ValueError("it has voxels that are not finite (NaN or infinite)")
    tensor = torch.from_numpy(np.ascontiguousarray(values.reshape(1, *shape[:3])))
    meta = {"filename_or_obj": path, "original_affine": affine, "spatial_shape": np.asarray(shape[:3])}
    return MetaTensor(tensor, affine=torch.from_numpy(np.array(affine, np.float64)), meta=meta)


def read_itk(path: str) -> sitk.Image:
    """Read a file, or the folder of a DICOM series, which must hold one series."""
    if not Path(path).is_dir():
        return sitk.ReadImage(path)
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(path)
    if len(series) != 1:
        raise ValueError(f"it holds {len(series)} DICOM series; expected one")
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(path, series[0]))


def write_mask(mask: np.ndarray, source: str, folder: Path) -> Path:
    """Write a mask (X, Y, Z) in the format and with the header geometry of the volume it belongs to.

    A DICOM series gets a mask in NIfTI format.
    """
    suffix = suffix_of(source) or ".nii.gz"
    target = folder / f"{stem_of(source)}{MASK_ENDING}{suffix}"
    if suffix_of(source) in NIFTI_SUFFIXES:
        volume: Any = nibabel.load(source)
        header = volume.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        header["cal_min"], header["cal_max"] = 0, 1
        nibabel.save(type(volume)(mask.astype(np.uint8).reshape(volume.shape), volume.affine, header), target)
    else:
        image = sitk.GetImageFromArray(mask.astype(np.uint8).T)
        image.CopyInformation(read_itk(source))
        sitk.WriteImage(image, str(target), useCompression=True)
    return target


class LoadVolumed(MapTransform):
    """Read volumes by :func:`read_volume`; LoadImaged reads neither NRRD nor DICOM without further packages."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Put the volumes in place of their paths; ValueError names a file that cannot be used."""
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            try:
                loaded[key] = read_volume(str(loaded[key]))
            except Exception as error:  # nibabel, zlib and SimpleITK raise errors of many kinds for broken files
                cause = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
                raise ValueError(f"{loaded[key]} cannot be used: {cause}") from error
        return loaded


class SaveMaskd(MapTransform):
    """Write masks (1, X, Y, Z) by :func:`write_mask`.

    Args:
        keys: of the masks, MetaTensors that know which file they belong to.
        output_dir: where they are written.
    """

    def __init__(self, keys: Any, output_dir: str) -> None:
        super().__init__(keys)
        self.folder = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the masks and hand them on."""
        for key in self.key_iterator(dict(data)):
            write_mask(data[key][0].cpu().numpy(), data[key].meta["filename_or_obj"], self.folder)
        return dict(data)


class KeepBraind(MapTransform):
    """Keep the largest connected piece of masks (1, X, Y, Z) of 0 and 1, and fill its holes.

    As KeepLargestConnectedComponentd and FillHolesd do, with SimpleITK: the former needs scikit-image, the latter takes
    half a minute for a head at 1 mm.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the masks."""
        kept = dict(data)
        for key in self.key_iterator(kept):
            mask = sitk.GetImageFromArray(kept[key][0].cpu().numpy().astype(np.uint8))
            pieces = sitk.RelabelComponent(sitk.ConnectedComponent(mask), sortByObjectSize=True)
            brain = sitk.GetArrayFromImage(sitk.BinaryFillhole(pieces == 1))
            kept[key] = kept[key].clone().copy_(torch.from_numpy(brain)[None])
        return kept


class ReadableVolumes(IterableDataset):
    """Prepare volumes one after the other, with a progress bar, and go on without those that cannot be prepared.

    Args:
        data: what the transform takes.
        transform: prepares an item.
    """

    def __init__(self, data: Sequence[Mapping[str, Any]], transform: Transform) -> None:
        self.data = data
        self.transform = transform
        self.failed: list[str] = []

    def __iter__(self) -> Iterator[Any]:
        """Yield the prepared items."""
        self.failed = []
        for item in tqdm(self.data, desc="volumes", unit="volume", disable=None):
            try:
                prepared = self.transform(item)
            except Exception as error:  # a transform may raise anything; MONAI wraps the error that helps
                while error.__cause__ is not None and not isinstance(error, ValueError):
                    error = error.__cause__
                self.failed.append(str(error))
                continue
            yield prepared

    def report(self, folder: str) -> None:
        """Say how many masks there are, and exit with an error that names the volumes without one."""
        print(f"{len(self.data) - len(self.failed)} masks written to {folder}")
        if self.failed:
            sys.exit("\n".join([f"{len(self.failed)} of {len(self.data)} volumes have no mask:", *self.failed]))
