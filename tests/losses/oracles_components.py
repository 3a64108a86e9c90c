"""Formulas of the oracle: component and calibration losses of one sample and class, one component or bin at a time."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation, distance_transform_edt, generate_binary_structure, label
from skimage.morphology import skeletonize

Array = np.ndarray


def components(m: Array, fully_connected: bool = True) -> Array:
    return label(m, generate_binary_structure(m.ndim, m.ndim if fully_connected else 1))[0]


def regions(numbers: Array, spacing: object = None) -> Array:
    """Return the number of the component that is nearest to each voxel; of equally near ones SciPy has a choice."""
    sampling = [1.0] * numbers.ndim if spacing is None else spacing
    nearest = distance_transform_edt(numbers == 0, sampling, return_distances=False, return_indices=True)
    return numbers[tuple(nearest)]


def _dice(p: Array, g: Array, w: Array, smooth_nr: float, smooth_dr: float) -> float:
    under = (w * p).sum() + (w * g).sum() + smooth_dr
    return 1 - ((2 * (w * p * g).sum() + smooth_nr) / under if under else 1.0)


def blob_dice(p, g, w, smooth_nr=1e-5, smooth_dr=1e-5, fully_connected=True):
    numbers = components((g > 0.5) & (w > 0), fully_connected)
    found = []
    for k in range(1, numbers.max() + 1):
        seen = w * ((numbers == 0) | (numbers == k))  # other components are masked out
        found.append(_dice(p, numbers == k, seen, smooth_nr, smooth_dr))
    return np.mean(found) if found else _dice(p, np.zeros_like(p), w, smooth_nr, smooth_dr)


def component_dice(
    p,
    g,
    w,
    lambda_dice=1.0,
    lambda_ce=1.0,
    spacing=None,
    smooth_nr=1e-5,
    smooth_dr=1e-5,
    fully_connected=True,
):
    inside = (g > 0.5) & (w > 0)
    numbers = components(inside, fully_connected)
    region = regions(numbers, spacing) if inside.any() else np.ones(p.shape, int)
    found = []
    for k in range(1, region.max() + 1):
        seen = w * (region == k)
        nll = np.where(inside, -np.log(np.where(inside, p, 1)), -np.log(np.where(inside, 1, 1 - p)))
        dice = _dice(p, numbers == k, seen, smooth_nr, smooth_dr)
        found.append(lambda_dice * dice + lambda_ce * (seen * nll).sum() / seen.sum())
    return np.mean(found)


def skeleton(m: Array, tube: int = 2) -> Array:
    thin = skeletonize(m) > 0 if m.ndim > 1 else m
    for _ in range(tube):
        thin = binary_dilation(thin)
    return thin & m


def skeleton_recall(p, g, w, tube=2, smooth_nr=1e-5, smooth_dr=1e-5):
    inside = (g > 0.5) & (w > 0)
    if not inside.any():
        return 0.0
    t = w * skeleton(inside, tube)
    return 1 - ((t * p).sum() + smooth_nr) / (t.sum() + smooth_dr)


def calibration(p, g, w, bins=20, binning="hard"):
    centres = (np.arange(bins) + 0.5) / bins
    gaps = []
    for m in range(bins):
        if binning == "hard":
            share = (p >= m / bins) & ((p < (m + 1) / bins) | (m == bins - 1))
        else:
            share = np.clip(1 - np.abs(p - centres[m]) * bins, 0, 1)
            share = np.where(p <= centres[0], m == 0, np.where(p >= centres[-1], m == bins - 1, share))
        weight = (w * share).sum()
        if weight > (0 if binning == "hard" else 0.01):
            gaps.append(abs((w * share * p).sum() / weight - (w * share * g).sum() / weight))
    return np.mean(gaps)
