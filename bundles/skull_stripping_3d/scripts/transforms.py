"""Files in and masks out as MONAI's transforms."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from . import picture_files, volume_files
from .files import reason


class LoadFiled(MapTransform):
    """Put MetaTensors in place of paths, with an error that names the file which cannot be used.

    Several paths make one tensor of as many channels. Meta data hold "filename_or_obj", the first path,
    "spatial_shape", and "notice": what was assumed about the files, or "".
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read the files; ValueError begins with the path of the one that cannot be used."""
        loaded = dict(data)
        for key in self.key_iterator(loaded):
            paths = [loaded[key]] if isinstance(loaded[key], str | os.PathLike) else loaded[key]
            read: list[MetaTensor] = []
            for path in map(Path, paths):
                try:
                    read.append(self.read(path))
                    self.check_channels(read)
                except Exception as error:  # Pillow, nibabel, zlib and SimpleITK raise errors of many kinds
                    raise ValueError(f"{path} cannot be used: {reason(error)}") from error
            loaded[key] = read[0]
            if len(read) > 1:
                notices = dict.fromkeys(channel.meta["notice"] for channel in read if channel.meta["notice"])
                meta = read[0].meta | {"notice": "; ".join(notices)}
                loaded[key] = MetaTensor(torch.cat([channel.as_tensor() for channel in read]), meta=meta)
        return loaded

    def check_channels(self, read: Sequence[MetaTensor]) -> None:
        """Raise ValueError where the last of several files does not belong to the first."""

    def read(self, path: Path) -> MetaTensor:
        """Read one file."""
        raise NotImplementedError


class LoadPictured(LoadFiled):
    """Read pictures by :func:`picture_files.read_picture` as (3, W, H), float32 from 0 to 255."""

    def read(self, path: Path) -> MetaTensor:
        """Read one picture; MONAI has the horizontal axis first."""
        picture, notice = picture_files.read_picture(path)
        values = np.ascontiguousarray(np.asarray(picture).transpose(2, 1, 0))
        meta = {"filename_or_obj": str(path), "spatial_shape": np.asarray(values.shape[1:]), "notice": notice}
        return MetaTensor(torch.from_numpy(values).float(), affine=torch.eye(3, dtype=torch.float64), meta=meta)


class LoadVolumed(LoadFiled):
    """Read volumes as (1, X, Y, Z), float32, with the affine from voxels to mm in RAS.

    LoadImaged reads neither NRRD nor DICOM without further packages, and takes no notice of what a header lacks.

    Args:
        keys: of the paths; the folder of a DICOM series is one as well.
        labels: whether the values are labels, of which those that the header scales to almost whole numbers become
            whole.
    """

    def __init__(self, keys: Any, labels: bool = False) -> None:
        super().__init__(keys)
        self.labels = labels

    def read(self, path: Path) -> MetaTensor:
        """Read one volume: first its header, then, where that is fine, its voxels."""
        grid = volume_files.read_grid(path)
        if problem := volume_files.grid_problem(grid):
            raise ValueError(f"it {problem}")
        values = volume_files.read_voxels(path, np.float32, grid)
        if problem := volume_files.value_problem(values):
            raise ValueError(f"it {problem}")
        if self.labels:
            values = volume_files.as_whole(values)
        tensor = torch.from_numpy(np.ascontiguousarray(values)[None])
        meta = {"filename_or_obj": str(path), "spatial_shape": np.asarray(values.shape), "notice": grid.notice}
        meta["original_affine"] = grid.affine
        return MetaTensor(tensor, affine=torch.from_numpy(grid.affine), meta=meta)

    def check_channels(self, read: Sequence[MetaTensor]) -> None:
        """Refuse a volume on another grid than the first."""
        first, last = (
            volume_files.Grid(tuple(volume.shape[1:]), volume.affine.numpy()) for volume in (read[0], read[-1])
        )
        if difference := volume_files.grid_difference(first, last, ("that one", "this one")):
            raise ValueError(f"it lies on another grid than {read[0].meta['filename_or_obj']}: {difference}")


class SaveMaskd(MapTransform):
    """Write masks of 0 and 1 beside each other, each named after the file it belongs to.

    Args:
        keys: of the masks (1, *S), MetaTensors that know which file they belong to.
        output_dir: where they are written.
    """

    files: Any  # the module that knows names and formats

    def __init__(self, keys: Any, output_dir: str) -> None:
        super().__init__(keys)
        self.folder = Path(output_dir).expanduser().absolute()
        self.empty: list[Path] = []  # the files whose mask shows nothing

    @property
    def looked_for(self) -> str:
        """What files are expected, for messages."""
        return str(self.files.LOOKED_FOR)

    def target(self, source: Path) -> Path:
        """Return where the mask of a file is written."""
        return self.folder / self.files.mask_file(source)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the masks and hand them on."""
        for key in self.key_iterator(dict(data)):
            mask, meta = data[key].cpu().numpy().sum(0), data[key].meta
            source = Path(meta["filename_or_obj"])
            try:
                self.write(mask, source, meta)
            except BaseException:  # a disk that is full, or Ctrl-C: half a mask would look like a whole one
                self.target(source).unlink(missing_ok=True)
                raise
            if not mask.any():
                self.empty.append(source)
        return dict(data)

    def write(self, mask: np.ndarray, source: Path, meta: Mapping[str, Any]) -> None:
        """Write the mask (*S) of a file with such meta data."""
        raise NotImplementedError


class SaveLesionMaskd(SaveMaskd):
    """Write masks (1, W, H) as pictures of 0 and 255."""

    files = picture_files

    def write(self, mask: np.ndarray, source: Path, meta: Mapping[str, Any]) -> None:
        """Write the mask (W, H) of a picture."""
        picture_files.write_mask(mask, self.target(source))


class SaveBrainMaskd(SaveMaskd):
    """Write masks (1, X, Y, Z) in the format and with the header geometry of their volumes."""

    files = volume_files

    def write(self, mask: np.ndarray, source: Path, meta: Mapping[str, Any]) -> None:
        """Write the mask (X, Y, Z) of a volume."""
        volume_files.write_mask(mask, source, self.target(source), np.asarray(meta["original_affine"]))


class SaveLesionVolumed(SaveBrainMaskd):
    """Write masks (1, X, Y, Z) of lesions in the format and with the header geometry of the first channel of a case.

    Args:
        keys: of the masks; several channels (C, X, Y, Z), of which each lies within the one before, become the labels
            1 to C: that of a voxel is the number of its masks.
        output_dir: where they are written.
        channels: names of the channels, which the file of a mask is named without.
    """

    def __init__(self, keys: Any, output_dir: str, channels: Sequence[Sequence[str]] = volume_files.CHANNELS) -> None:
        super().__init__(keys, output_dir)
        self.channels = channels

    @property
    def looked_for(self) -> str:
        """What files are expected, for messages."""
        names = [names[0] for names in self.channels]
        return f"{' and '.join(f'CASE_{name}' for name in names)} with {', '.join(volume_files.SUFFIXES)}"

    def target(self, source: Path) -> Path:
        """Return where the mask of a case is written."""
        return self.folder / volume_files.lesion_file(source, self.channels)
