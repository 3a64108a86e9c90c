"""Formulas of the oracle: boundary losses of one sample and class in their spatial shape, with SciPy."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve, distance_transform_edt

Array = np.ndarray


def _inside(m: Array, spacing: object) -> Array:
    return distance_transform_edt(m, sampling=spacing) if m.any() and not m.all() else np.zeros(m.shape)


def boundary(p, g, w, inside="shifted", normalize=False, spacing=None):
    m, out = g > 0.5, np.zeros(g.shape)
    depth, away = _inside(m, spacing), _inside(~m, spacing)
    step = 1.0 if spacing is None else float(np.min(spacing))
    if depth.any():
        out = np.where(m, -(depth - (step if inside == "shifted" else 0)), away)
    if normalize and np.abs(out).max():
        out = out / np.abs(out).max()
    return (w * out * p).sum() / w.sum()


def hausdorff_distance(p, g, w, alpha=2.0, one_sided=False, spacing=None):
    def border(m):
        return (_inside(m, spacing) + _inside(~m, spacing)) ** alpha

    weight = border(g > 0.5) + (0 if one_sided else border(p > 0.5))
    return (w * (p - g) ** 2 * weight).sum() / w.sum()


def _mean_over(x: Array, kernel: Array) -> Array:
    return convolve(x, kernel / kernel.sum(), mode="constant")


def _offsets(dimensions: int, reach: int) -> Array:
    return np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * dimensions, indexing="ij"))


def hausdorff_er(p, g, w, alpha=2.0, erosions=10, normalize="minmax"):
    cross = (np.abs(_offsets(p.ndim, 1)).sum(0) <= 1).astype(float)
    error, total = (p - g) ** 2, 0.0
    for k in range(1, erosions + 1):
        error = np.maximum(0, _mean_over(error, cross) - 0.5)
        if normalize == "rescale":
            error = 2 * error
        elif normalize == "minmax" and error.max() > error.min():
            error = (error - error.min()) / (error.max() - error.min())
        total += k**alpha * (w * error).sum()
    return total / w.sum()


def hausdorff_cv(p, g, w, alpha=2.0, radii=(3, 6, 9, 12, 15, 18)):
    error, total = (p - g) ** 2, 0.0
    for r in radii:
        ball = ((_offsets(p.ndim, int(r)) ** 2).sum(0) <= r * r).astype(float)

        def held(x: Array, ball=ball) -> Array:
            return np.maximum(0, 2 * _mean_over(x, ball) - 1)

        def held_outside(x: Array, ball=ball) -> Array:
            return np.maximum(0, 2 * (1 - _mean_over(x, ball)) - 1)

        terms = held_outside(g) * p + held(g) * g + held_outside(p) * g + held(p) * p
        total += r**alpha * (w * error * terms).sum()
    return total / w.sum()
