"""The check of every volume and mask of a brain before training starts."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_lossext.data.checks import Finding
from monai_lossext.data.datalists import Item
from monai_lossext.data.pictures import shown
from monai_lossext.scripts.files import reason
from monai_lossext.scripts.volume_files import (
    Grid,
    as_whole,
    grid_problem,
    read_grid,
    read_voxels,
    times,
    value_problem,
)

KINDS = (("image", "image"), ("label", "mask"))  # keys of an item, and what they are called in messages
GRID_TOLERANCE = 0.1  # voxels by which the corners of an image and its mask may differ


def check_brain(item: Item, brain_ml: tuple[float, float] | None) -> Finding:
    """Read a head and the mask of its brain: first both headers, then, where these are fine, all voxels.

    Args:
        item: with "image" and "label".
        brain_ml: smallest and largest volume of a brain in ml; None: any.
    """
    grids: dict[str, Grid] = {}
    problems = []
    for key, kind in KINDS:
        path = Path(item[key])
        if not path.is_file():
            problems.append(f"{kind} {path} is missing")
            continue
        try:
            grids[key] = read_grid(path)
        except Exception as error:  # nibabel, zlib and SimpleITK raise errors of many kinds for broken files
            problems.append(_unreadable(kind, path, error))
            continue
        if problem := grid_problem(grids[key]):
            problems.append(f"{kind} {path} {problem}")
    if not problems and (difference := _difference(grids["image"], grids["label"])):
        problems.append(f"mask {item['label']} lies on another grid than its image: {difference}")
    notices = tuple(f"{kind}s {grids[key].notice}" for key, kind in KINDS if key in grids and grids[key].notice)
    return Finding(tuple(problems or _voxel_problems(item, grids["label"], brain_ml)), notices)


def _unreadable(kind: str, path: Path, error: Exception) -> str:
    return f"{kind} {path} ({os.path.getsize(path)} bytes) cannot be read: {reason(error)}"


def _difference(image: Grid, mask: Grid) -> str:
    """How a mask's grid differs from its image's; empty: not."""
    if image.shape != mask.shape:
        return f"image {times(image.shape)}, mask {times(mask.shape)} voxels"
    codes = orientation(image.affine), orientation(mask.affine)
    if codes[0] != codes[1]:
        return f"image {codes[0]}, mask {codes[1]}; reorient one of them"
    corners = np.array([*product(*((0, length - 1) for length in image.shape))])
    between = image.affine - mask.affine
    apart = np.linalg.norm(corners @ between[:3, :3].T + between[:3, 3], axis=1)
    if apart.max() > GRID_TOLERANCE * np.linalg.norm(image.affine[:3, :3], axis=0).min():
        return f"their corners are up to {apart.max():.2f} mm apart"
    return ""


def orientation(affine: NDArray[np.float64]) -> str:
    """Where the axes of a volume point to.

    >>> orientation(np.diag([-2.0, -2.0, 2.0, 1.0]))
    'LPS'
    """
    import nibabel

    return "".join(nibabel.aff2axcodes(affine))


def _voxel_problems(item: Item, grid: Grid, brain_ml: tuple[float, float] | None) -> list[str]:
    problems = []
    for key, kind in KINDS:
        path = Path(item[key])
        try:
            values = read_voxels(path)
        except Exception as error:
            problems.append(_unreadable(kind, path, error))
            continue
        found = value_problem(values) or (_mask_problem(values, grid, brain_ml) if key == "label" else "")
        if found:
            problems.append(f"{kind} {path} {found}")
    return problems


def _mask_problem(values: np.ndarray, grid: Grid, brain_ml: tuple[float, float] | None) -> str:
    brain = values == 1
    if np.count_nonzero(brain) + np.count_nonzero(values == 0) != values.size:
        values = as_whole(values)
        brain = values == 1
    if np.count_nonzero(brain) + np.count_nonzero(values == 0) != values.size:
        levels = np.unique(values)
        return f"is not binary: it has the values {shown(levels)}; allowed are 0 and 1 (brain) only"
    if brain_ml is None:
        return ""
    volume = np.count_nonzero(brain) * abs(np.linalg.det(grid.affine)) / 1000
    if brain_ml[0] <= volume <= brain_ml[1]:
        return ""
    return f"shows a brain of {volume:.0f} ml; expected {brain_ml[0]:g} to {brain_ml[1]:g} ml (brain_ml)"
