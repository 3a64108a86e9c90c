"""How well one overlap score stands in for another: the numbers of docs/bounds.md and their figure, bounds.png.

`python docs/figures/make_bounds.py` draws it. Shares of false positives a, true positives b and false negatives c add
up to 1; scores are those of hard masks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

HERE = Path(__file__).resolve().parent
Numbers = NDArray[np.float64]


def tversky(a: ArrayLike, b: ArrayLike, c: ArrayLike, alpha: float, beta: float) -> Numbers:
    """The Tversky index with the weight alpha of false positives and beta of false negatives."""
    return np.asarray(b) / (np.asarray(b) + alpha * np.asarray(a) + beta * np.asarray(c))


def dice(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Numbers:
    """The Dice coefficient."""
    return tversky(a, b, c, 0.5, 0.5)


def jaccard(a: ArrayLike, b: ArrayLike, c: ArrayLike) -> Numbers:
    """The Jaccard index."""
    return tversky(a, b, c, 1, 1)


def weighted_hamming(fp: ArrayLike, tp: ArrayLike, fn: ArrayLike, size: ArrayLike, gamma: ArrayLike) -> Numbers:
    """1 - gamma FN / G - (1 - gamma) FP / (N - G), of counts in an image of N voxels of which G are the object."""
    object_size = np.asarray(tp) + np.asarray(fn)
    gamma = np.asarray(gamma)
    return 1 - gamma * np.asarray(fn) / object_size - (1 - gamma) * np.asarray(fp) / (np.asarray(size) - object_size)


def absolute_error(alpha: float, beta: float) -> float:
    """The largest difference between the Tversky index and the Dice coefficient, over all masks."""
    return max(abs(np.sqrt(2 * t) - 1) / (np.sqrt(2 * t) + 1) for t in (alpha, beta))


def relative_error(alpha: float, beta: float) -> float:
    """The least e with Dice / (1 + e) <= Tversky <= Dice (1 + e) for all masks."""
    return max(2 * alpha, 2 * beta, 0.5 / alpha, 0.5 / beta) - 1


def figure() -> Figure:
    """Draw the three bounds."""
    drawing = Figure(figsize=(9.6, 3), layout="constrained")
    panels = drawing.subplots(1, 3)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e4e4e4")

    score = np.linspace(0, 1, 400)
    panels[0].plot(score, score - score / (2 - score), color="#3f90da")
    panels[0].plot(2 - np.sqrt(2), 3 - 2 * np.sqrt(2), "o", color="#bd1f01")
    panels[0].annotate("0.172 at D = 0.586", (2 - np.sqrt(2), 3 - 2 * np.sqrt(2)), (0.12, 0.185), fontsize=8)
    panels[0].set(xlabel="Dice coefficient D", ylabel="D - J", ylim=(0, 0.2), title="Jaccard for Dice")

    weight = np.linspace(0.05, 1, 400)
    panels[1].plot(weight, [absolute_error(t, t) for t in weight], color="#3f90da")
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        panels[1].plot(t, absolute_error(t, t), "o", color="#bd1f01", markersize=4)
    panels[1].set(xlabel="weight t, the worse of the two", ylabel="largest |D - T|", title="Tversky for Dice")
    panels[1].set_ylim(bottom=0)

    alpha = np.geomspace(0.001, 0.3, 300)
    panels[2].plot(alpha, 2 * alpha / (1 + 2 * alpha), color="#3f90da", label="Dice")
    panels[2].plot(alpha, 1 - alpha / (1 - alpha**2), color="#ffa90e", label="weighted Hamming, at least")
    panels[2].set(xscale="log", xlabel="α: the object is α² of the image", ylabel="score", title="Hamming for Dice")
    panels[2].legend(frameon=False, fontsize=8)
    return drawing


if __name__ == "__main__":
    figure().savefig(HERE / "bounds.png", dpi=110)
