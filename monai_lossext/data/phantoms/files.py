"""Phantoms as files, written once and complete or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_lossext.data.parallel import map_in_threads
from monai_lossext.data.phantoms.dermoscopy import VERSION as DERMOSCOPY_VERSION
from monai_lossext.data.phantoms.dermoscopy import dermoscopy_phantom
from monai_lossext.data.phantoms.head import VERSION as HEAD_VERSION
from monai_lossext.data.phantoms.head import head_phantom
from monai_lossext.data.phantoms.lesions import VERSION as LESION_VERSION
from monai_lossext.data.phantoms.lesions import lesion_phantom
from monai_lossext.files import cache_folder

RECIPE_FILE = "phantoms.json"


def write_dermoscopy_phantoms(
    folder: str | os.PathLike[str],
    cases: int = 240,
    seed: int = 0,
    size: tuple[int, int] = (192, 256),
    progress: bool | None = None,
) -> Path:
    """Write dermoscopy phantoms in the layout of ISIC 2017: 60 % training, 10 % validation and 30 % test pictures.

    Args:
        folder: absent or empty, else FileExistsError; one that already holds exactly these phantoms is left as it is.
        cases: how many, at least 4, so that no part is empty.
        seed: case `i` is ``dermoscopy_phantom((seed, i), size)``.
        size: (height, width) in pixels.
        progress: show a progress bar; None: on a terminal.

    Returns:
        The folder, for the `dataset_dir` of :func:`monai_lossext.data.skin_lesion_datalist`.

    Raises:
        ValueError: `cases` is too small.
        FileExistsError: the folder holds something else, or some of its phantoms were removed.
    """
    recipe = {"phantoms": "dermoscopy", "version": DERMOSCOPY_VERSION, "cases": cases, "seed": seed, "size": [*size]}

    def write(target: Path) -> None:
        ends = {"Training": round(0.6 * cases), "Validation": round(0.7 * cases), "Test_v2": cases}
        for part in ends:
            (target / f"ISIC-2017_{part}_Data").mkdir()
            (target / f"ISIC-2017_{part}_Part1_GroundTruth").mkdir()

        def write_case(number: int) -> None:
            part = next(part for part, end in ends.items() if number < end)
            picture, mask = dermoscopy_phantom((seed, number), size)
            name = f"PHANTOM_{number:07d}"
            Image.fromarray(picture).save(target / f"ISIC-2017_{part}_Data" / f"{name}.jpg", quality=95)
            Image.fromarray(mask).save(target / f"ISIC-2017_{part}_Part1_GroundTruth" / f"{name}_segmentation.png")

        map_in_threads(write_case, range(cases), "making phantoms", progress)

    return _write_once(Path(folder).expanduser().absolute(), recipe, 2 * cases, write)


def write_head_phantoms(
    folder: str | os.PathLike[str],
    cases: int = 40,
    seed: int = 0,
    size: Sequence[int] = (96, 112, 96),
    spacing: Sequence[float] = (2.0, 2.0, 2.0),
    orientation: str = "RAS",
    progress: bool | None = None,
) -> Path:
    """Write head phantoms as NIfTI, named as in BIDS: `sub-0000_T1w.nii.gz` (int16) and `sub-0000_brainmask.nii.gz`.

    Args:
        folder: absent or empty, else FileExistsError; one that already holds exactly these phantoms is left as it is.
        cases: how many, at least 4, so that no part is empty.
        seed: case `i` is ``head_phantom((seed, i), size, spacing, orientation)``.
        size: voxels along each axis.
        spacing: of the voxels, in mm.
        orientation: of the axes.
        progress: show a progress bar; None: on a terminal.

    Returns:
        The folder, for the `dataset_dir` of :func:`monai_lossext.data.skull_stripping_datalist`.

    Raises:
        ValueError: `cases` is too small, or :func:`head_phantom` does not accept an argument.
        FileExistsError: the folder holds something else, or some of its phantoms were removed.
    """
    recipe = {"phantoms": "heads", "version": HEAD_VERSION, "cases": cases, "seed": seed}
    recipe |= {"size": [*size], "spacing": [*spacing], "orientation": orientation}

    def write(target: Path) -> None:
        def write_case(number: int) -> None:
            image, mask, affine = head_phantom((seed, number), size, spacing, orientation)
            _write_volumes(target, number, {"T1w": image, "brainmask": mask}, affine)

        map_in_threads(write_case, range(cases), "making phantoms", progress)

    return _write_once(Path(folder).expanduser().absolute(), recipe, 2 * cases, write)


def write_lesion_phantoms(
    folder: str | os.PathLike[str],
    cases: int = 40,
    seed: int = 0,
    size: Sequence[int] = (80, 96, 80),
    spacing: Sequence[float] = (2.0, 2.0, 2.0),
    orientation: str = "RAS",
    *,
    lesions: int | Sequence[int] = (5, 40),
    fraction: float | Sequence[float] = (0.0005, 0.01),
    spread: float = 0.8,
    contrast: float = 0.6,
    progress: bool | None = None,
) -> Path:
    """Write phantoms with lesions as NIfTI: `sub-0000_FLAIR.nii.gz`, `_T1w` (int16) and `_lesions` (0 and 1).

    Args:
        folder: absent or empty, else FileExistsError; one that already holds exactly these phantoms is left as it is.
        cases: how many, at least 4, so that no part is empty.
        seed: case `i` is ``lesion_phantom((seed, i), ...)``.
        size: voxels along each axis.
        spacing: of the voxels, in mm.
        orientation: of the axes.
        lesions: how many each has, or the smallest and largest number.
        fraction: of a volume that its lesions have, or the smallest and largest; logarithms are drawn evenly.
        spread: of the lesions' sizes, see :func:`lesion_phantom`.
        contrast: of the lesions, likewise.
        progress: show a progress bar; None: on a terminal.

    Returns:
        The folder, for the `dataset_dir` of :func:`monai_lossext.data.white_matter_lesion_datalist`.

    Raises:
        ValueError: `cases` is too small, or :func:`lesion_phantom` does not accept an argument.
        FileExistsError: the folder holds something else, or some of its phantoms were removed.
    """
    numbers = [lesions, lesions] if isinstance(lesions, int) else [*lesions]
    fractions = [fraction, fraction] if isinstance(fraction, int | float) else [*fraction]
    recipe = {"phantoms": "lesions", "version": LESION_VERSION, "cases": cases, "seed": seed}
    recipe |= {"size": [*size], "spacing": [*spacing], "orientation": orientation}
    recipe |= {"lesions": numbers, "fraction": fractions, "spread": spread, "contrast": contrast}

    def write(target: Path) -> None:
        def write_case(number: int) -> None:
            rng = np.random.default_rng((seed, number))
            count = int(rng.integers(numbers[0], numbers[1], endpoint=True))
            share = float(np.clip(np.exp(rng.uniform(*np.log(fractions))), fractions[0], fractions[1]))
            flair, t1, mask, affine = lesion_phantom(
                (seed, number),
                size,
                spacing,
                orientation,
                lesions=count,
                fraction=share,
                spread=spread,
                contrast=contrast,
            )
            _write_volumes(target, number, {"FLAIR": flair, "T1w": t1, "lesions": mask}, affine)

        map_in_threads(write_case, range(cases), "making phantoms", progress)

    return _write_once(Path(folder).expanduser().absolute(), recipe, 3 * cases, write)


def _write_volumes(folder: Path, number: int, volumes: Mapping[str, np.ndarray], affine: np.ndarray) -> None:
    """Write images as int16 and masks as they are, each with an ending of its name."""
    import nibabel

    for ending, values in volumes.items():
        stored = np.round(values).astype(np.int16) if values.dtype.kind == "f" else values
        volume = nibabel.Nifti1Image(stored, affine)
        volume.set_sform(affine, code="scanner")
        volume.set_qform(affine, code="scanner")
        volume.header.set_xyzt_units("mm")
        nibabel.save(volume, folder / f"sub-{number:04d}_{ending}.nii.gz")


def cached_dermoscopy_phantoms(
    cases: int, seed: int = 0, cache_dir: str | os.PathLike[str] | None = None, progress: bool | None = None
) -> Path:
    """The folder of these phantoms in the cache, where they are written on first use.

    Args:
        cases: how many.
        seed: of the phantoms.
        cache_dir: default: the environment variable MONAI_LOSSEXT_CACHE, or `~/.cache/monai_lossext`.
        progress: show a progress bar; None: on a terminal.
    """
    name = f"dermoscopy-v{DERMOSCOPY_VERSION}-{cases}-seed{seed}"
    return _cached(name, cache_dir, lambda folder: write_dermoscopy_phantoms(folder, cases, seed, progress=progress))


def cached_head_phantoms(
    cases: int, seed: int = 0, cache_dir: str | os.PathLike[str] | None = None, progress: bool | None = None
) -> Path:
    """As :func:`cached_dermoscopy_phantoms`, with heads."""
    name = f"heads-v{HEAD_VERSION}-{cases}-seed{seed}"
    return _cached(name, cache_dir, lambda folder: write_head_phantoms(folder, cases, seed, progress=progress))


def cached_lesion_phantoms(
    cases: int,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Path:
    """As :func:`cached_dermoscopy_phantoms`, with lesions; `options` are arguments of :func:`write_lesion_phantoms`."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:8]
    name = f"lesions-v{LESION_VERSION}-{cases}-seed{seed}-{digest}"
    return _cached(
        name, cache_dir, lambda folder: write_lesion_phantoms(folder, cases, seed, progress=progress, **options)
    )


def _cached(name: str, cache_dir: str | os.PathLike[str] | None, write: Callable[[Path], Path]) -> Path:
    folder = Path(cache_dir or cache_folder()).expanduser() / "phantoms" / name
    try:
        return write(folder)
    except OSError as error:
        advice = "name another folder with cache_dir or the environment variable MONAI_LOSSEXT_CACHE"
        raise OSError(f"phantoms cannot be kept in {folder}: {error}; {advice}") from error


def _write_once(folder: Path, recipe: dict[str, Any], files: int, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder that only appears when it is complete; a folder of the same recipe is reused."""
    if recipe["cases"] < 4:
        raise ValueError(f"cases={recipe['cases']}: expected at least 4, so that every part of a split has one")
    if _holds(folder, recipe, files):
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds other files or incomplete phantoms: remove it or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(temporary)
        (temporary / RECIPE_FILE).write_text(json.dumps(recipe) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes it private, and a cache may be shared
        try:
            if folder.is_dir():
                folder.rmdir()  # an empty one: Windows does not replace it
            temporary.replace(folder)
        except OSError:
            if not _holds(folder, recipe, files):  # else another process was faster, with the same pictures
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _holds(folder: Path, recipe: dict[str, Any], files: int) -> bool:
    try:
        if json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8")) != recipe:
            return False
    except (OSError, ValueError):
        return False
    return sum(1 for path in folder.rglob("*") if path.is_file() and path.name != RECIPE_FILE) == files
