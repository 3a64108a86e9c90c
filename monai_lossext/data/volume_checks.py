"""The check of every volume and mask before training starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from monai_lossext.data.checks import Finding
from monai_lossext.data.datalists import Item
from monai_lossext.data.pictures import shown
from monai_lossext.scripts.files import reason
from monai_lossext.scripts.volume_files import (
    Grid,
    as_whole,
    grid_difference,
    grid_problem,
    read_grid,
    read_voxels,
    value_problem,
)

EMPTY = "masks show no lesion"

CheckMask = Callable[[np.ndarray, Grid], tuple[str, str]]  # what is wrong, and what is to be counted; or ""


def check_brain(item: Item, brain_ml: tuple[float, float] | None) -> Finding:
    """Read a head and the mask of its brain: first both headers, then, where these are fine, all voxels.

    Args:
        item: with "image" and "label".
        brain_ml: smallest and largest volume of a brain in ml; None: any.
    """
    return check_volumes(item, partial(_brain_problem, brain_ml=brain_ml))


def check_lesions(item: Item, label_values: Sequence[int]) -> Finding:
    """Read all channels of a case and the mask of its lesions, as :func:`check_brain` does.

    Args:
        item: with "image", the paths of all channels, and "label".
        label_values: that the mask may hold.
    """
    return check_volumes(item, partial(_lesion_problem, label_values=label_values))


def check_volumes(item: Item, check_mask: CheckMask) -> Finding:
    """Read the images and the mask of a case, which must lie on one grid.

    Args:
        item: with "image", a path or the paths of several channels, and "label".
        check_mask: says what is wrong with the values of a mask.
    """
    images = item["image"] if isinstance(item["image"], list) else [item["image"]]
    files = [*(("image", Path(image)) for image in images), ("mask", Path(item["label"]))]
    grids: dict[Path, Grid] = {}
    problems = []
    for kind, path in files:
        if not path.is_file():
            problems.append(f"{kind} {path} is missing")
            continue
        try:
            grids[path] = read_grid(path)
        except Exception as error:  # nibabel, zlib and SimpleITK raise errors of many kinds for broken files
            problems.append(_unreadable(kind, path, error))
            continue
        if problem := grid_problem(grids[path]):
            problems.append(f"{kind} {path} {problem}")
    first = files[0][1]
    for kind, path in files[1:] if not problems else []:
        if difference := grid_difference(grids[first], grids[path], ("image", kind if kind == "mask" else "this one")):
            other = "its image" if kind == "mask" else str(first)
            problems.append(f"{kind} {path} lies on another grid than {other}: {difference}")
    notices = [f"{kind}s {grids[path].notice}" for kind, path in files if path in grids and grids[path].notice]
    if not problems:
        problems, found = _voxel_problems(files, grids[first], check_mask)
        notices += found
    return Finding(tuple(problems), tuple(dict.fromkeys(notices)))


def _unreadable(kind: str, path: Path, error: Exception) -> str:
    return f"{kind} {path} ({os.path.getsize(path)} bytes) cannot be read: {reason(error)}"


def _voxel_problems(
    files: Sequence[tuple[str, Path]], grid: Grid, check_mask: CheckMask
) -> tuple[list[str], list[str]]:
    problems, notices = [], []
    for kind, path in files:
        try:
            values = read_voxels(path)
        except Exception as error:
            problems.append(_unreadable(kind, path, error))
            continue
        problem, notice = value_problem(values), ""
        if kind == "mask" and not problem:
            problem, notice = check_mask(values, grid)
        problems += [f"{kind} {path} {problem}"] if problem else []
        notices += [notice] if notice else []
    return problems, notices


def _brain_problem(values: np.ndarray, grid: Grid, brain_ml: tuple[float, float] | None) -> tuple[str, str]:
    brain = values == 1
    if np.count_nonzero(brain) + np.count_nonzero(values == 0) != values.size:
        values = as_whole(values)
        brain = values == 1
    if np.count_nonzero(brain) + np.count_nonzero(values == 0) != values.size:
        levels = np.unique(values)
        return f"is not binary: it has the values {shown(levels)}; allowed are 0 and 1 (brain) only", ""
    if brain_ml is None:
        return "", ""
    volume = np.count_nonzero(brain) * abs(np.linalg.det(grid.affine)) / 1000
    if brain_ml[0] <= volume <= brain_ml[1]:
        return "", ""
    return f"shows a brain of {volume:.0f} ml; expected {brain_ml[0]:g} to {brain_ml[1]:g} ml (brain_ml)", ""


def _lesion_problem(values: np.ndarray, grid: Grid, label_values: Sequence[int]) -> tuple[str, str]:
    levels = np.unique(as_whole(values))
    if not np.isin(levels, label_values).all():
        allowed = ", ".join(map(str, label_values))
        return f"has the values {shown(levels)}; allowed are {allowed} (label_values) only", ""
    return "", "" if np.any(levels > 0) else EMPTY
