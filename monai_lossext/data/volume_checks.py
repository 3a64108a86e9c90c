"""The check of every volume and mask of a brain before training starts."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_lossext.data.checks import Finding
from monai_lossext.data.datalists import Item
from monai_lossext.data.volumes import Grid, read_grid, read_voxels

GRID_TOLERANCE = 0.1  # voxels by which the corners of an image and its mask may differ
SMALLEST_DETERMINANT = 1e-9  # mm^3 of a voxel; below, the affine maps the volume to a plane


def check_brain(item: Item, brain_ml: tuple[float, float] | None) -> Finding:
    """Read a head and the mask of its brain: first both headers, then, where these are fine, all voxels.

    Args:
        item: with "image" and "label".
        brain_ml: smallest and largest volume of a brain in ml; None: any.
    """
    grids: dict[str, Grid] = {}
    problems = []
    for key, kind in (("image", "image"), ("label", "mask")):
        path = Path(item[key])
        if not path.is_file():
            problems.append(f"{kind} {path} is missing")
            continue
        try:
            grids[key] = read_grid(path)
        except Exception as error:  # nibabel, zlib and SimpleITK raise errors of many kinds for broken files
            problems.append(_unreadable(kind, path, error))
            continue
        problems += [f"{kind} {path} {problem}" for problem in _grid_problems(grids[key])]
    if not problems and (difference := _difference(grids["image"], grids["label"])):
        problems.append(f"mask {item['label']} lies on another grid than its image: {difference}")
    return Finding(tuple(problems or _voxel_problems(item, grids["label"], brain_ml)))


def _unreadable(kind: str, path: Path, error: Exception) -> str:
    return f"{kind} {path} ({os.path.getsize(path)} bytes) cannot be read: {error}"


def _grid_problems(grid: Grid) -> list[str]:
    if len(grid.shape) != 3 or min(grid.shape) < 1:
        return [f"has {len(grid.shape)} dimensions ({_times(grid.shape)}); expected one volume of 3 dimensions"]
    if not grid.oriented:
        return ["gives no orientation: sform_code and qform_code of its header are 0"]
    if not np.all(np.isfinite(grid.affine)) or abs(np.linalg.det(grid.affine)) < SMALLEST_DETERMINANT:
        return [f"gives no orientation: its affine {grid.affine[:3].tolist()} is singular or not finite"]
    return []


def _difference(image: Grid, mask: Grid) -> str:
    """How a mask's grid differs from its image's; empty: not."""
    if image.shape != mask.shape:
        return f"image {_times(image.shape)}, mask {_times(mask.shape)} voxels"
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
    for key, kind in (("image", "image"), ("label", "mask")):
        path = Path(item[key])
        try:
            values = read_voxels(path)
        except Exception as error:
            problems.append(_unreadable(kind, path, error))
            continue
        found = _value_problem(values) or (_mask_problem(values, grid, brain_ml) if key == "label" else "")
        if found:
            problems.append(f"{kind} {path} {found}")
    return problems


def _value_problem(values: np.ndarray) -> str:
    if values.dtype.kind not in "biuf":
        return f"has voxels of type {values.dtype}; expected one real number per voxel"
    if values.dtype.kind == "f" and (wrong := values.size - np.count_nonzero(np.isfinite(values))):
        return f"has {wrong} voxels that are not finite (NaN or infinite)"
    return ""


def _mask_problem(values: np.ndarray, grid: Grid, brain_ml: tuple[float, float] | None) -> str:
    brain = values == 1
    if np.count_nonzero(brain) + np.count_nonzero(values == 0) != values.size:
        levels = np.unique(values)
        shown = ", ".join(f"{level:g}" for level in levels[:6]) + (", ..." if len(levels) > 6 else "")
        return f"is not binary: it has the values {shown}; allowed are 0 and 1 (brain) only"
    if brain_ml is None:
        return ""
    volume = np.count_nonzero(brain) * abs(np.linalg.det(grid.affine)) / 1000
    if brain_ml[0] <= volume <= brain_ml[1]:
        return ""
    return f"shows a brain of {volume:.0f} ml; expected {brain_ml[0]:g} to {brain_ml[1]:g} ml (brain_ml)"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
