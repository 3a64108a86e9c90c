"""Phantoms as files, written once and complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from monai_lossext.data.parallel import map_in_threads
from monai_lossext.data.phantoms.dermoscopy import VERSION as DERMOSCOPY_VERSION
from monai_lossext.data.phantoms.dermoscopy import dermoscopy_phantom
from monai_lossext.data.phantoms.head import VERSION as HEAD_VERSION
from monai_lossext.data.phantoms.head import head_phantom

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
        import nibabel

        def write_case(number: int) -> None:
            image, mask, affine = head_phantom((seed, number), size, spacing, orientation)
            for values, ending in ((np.round(image).astype(np.int16), "T1w"), (mask, "brainmask")):
                volume = nibabel.Nifti1Image(values, affine)
                volume.set_sform(affine, code="scanner")
                volume.set_qform(affine, code="scanner")
                volume.header.set_xyzt_units("mm")
                nibabel.save(volume, target / f"sub-{number:04d}_{ending}.nii.gz")

        map_in_threads(write_case, range(cases), "making phantoms", progress)

    return _write_once(Path(folder).expanduser().absolute(), recipe, 2 * cases, write)


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


def _cached(name: str, cache_dir: str | os.PathLike[str] | None, write: Callable[[Path], Path]) -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "monai_lossext"
    root = Path(cache_dir or os.environ.get("MONAI_LOSSEXT_CACHE") or default).expanduser()
    folder = root / "phantoms" / name
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
