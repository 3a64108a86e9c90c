"""Independent float64 numpy oracle of the voxel losses: slow and literal, with SciPy's distances.

A formula sees the whole batch as a :class:`Case` and returns each voxel's loss and weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure

Array = np.ndarray


@dataclass
class Case:
    """Probabilities, targets and what counts, all (B, C, *S); ``factor`` is the weight of each class, (C,).

    ``seen`` says which voxels are neither masked out nor ignored.
    """

    p: Array
    g: Array
    counts: Array
    factor: Array
    exclusive: bool
    seen: Array

    def weight(self) -> Array:
        if not self.exclusive:
            return self.counts
        return (1 - ((1 - self.counts) * self.g).sum(1, keepdims=True)) * (self.counts > 0).any(1, keepdims=True)

    def cross_entropy(
        self,
        of: Callable[[Array], Array] = lambda p: -np.log(p),
        inside: Any = 1.0,
        outside: Any = 1.0,
        factor: Array | None = None,
    ) -> Array:
        """Return sum of factor * of(probability of what the voxel is), with factors inside and outside, (B, C)."""
        factor = self.factor if factor is None else factor
        shape = (*self.p.shape[:2], *(1,) * (self.p.ndim - 2))
        inside, outside, factor = (
            np.broadcast_to(a, self.p.shape[:2]).reshape(shape) for a in (inside, outside, factor)
        )
        if self.exclusive:
            total = (self.counts * factor * inside * self.g * of(self.p)).sum(1, keepdims=True)
            weight = self.weight()
            return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        return factor * (inside * self.g * of(self.p) + outside * (1 - self.g) * of(1 - self.p))

    def sides(self, foreground: float, background: float) -> dict[str, Any]:
        inside = np.full(self.p.shape[1], foreground)
        if self.exclusive:
            inside[0] = background
        return {"inside": inside, "outside": background}

    def sizes(self) -> tuple[Array, Array]:
        space = tuple(range(2, self.p.ndim))
        weight = np.broadcast_to(self.weight(), self.p.shape).sum(space)
        return (self.counts * self.g).sum(space), weight

    def regions(self) -> list[tuple[Array, Array, int, int]]:
        """Return (mask, visible voxels, sample, channel) of each class."""
        found = []
        for b, c in product(range(self.p.shape[0]), range(self.p.shape[1])):
            mask = self.g[b].argmax(0) == c if self.exclusive else self.g[b, c] > 0.5
            found.append((mask, self.seen[b].any(0) if self.exclusive else self.seen[b, c], b, c))
        return found


def weighted(case: Case, pos_weight: float = 1.0, prior: Any = None, normalize: str = "voxels"):
    sides = case.sides(pos_weight, 1.0) if prior is None else {}
    if isinstance(prior, float):
        sides = case.sides(1 / (2 * prior), 1 / (2 - 2 * prior))
    elif prior is not None:
        share = np.array(prior)
        sides = {"inside": 1 / (share * (len(share) if case.exclusive else 2)), "outside": 1 / (2 - 2 * share)}
    value, weight = case.cross_entropy(**sides), case.weight()
    if normalize == "weights":
        total = case.cross_entropy(np.ones_like, **sides)
        value, weight = np.divide(value, total, out=np.zeros_like(value), where=total > 0), weight * total
    return value, weight


def balanced(case: Case, beta: float | None = None):
    if beta is not None:
        return case.cross_entropy(**case.sides(beta, 1 - beta)), case.weight()
    size, n = case.sizes()
    share = np.divide(size, n, out=np.zeros_like(size), where=n > 0)
    others = max(case.p.shape[1] - 1, 1) if case.exclusive else 1
    return case.cross_entropy(inside=(1 - share) / others, outside=share), case.weight()


def focal(case: Case, gamma: float = 2.0, alpha: float | None = None):
    sides = {} if alpha is None else case.sides(alpha, 1 - alpha)
    return case.cross_entropy(lambda p: -((1 - p) ** gamma) * np.log(p), **sides), case.weight()


def top_k(case: Case, k: float = 10.0, threshold: float | None = None, min_kept: int = 0):
    value = case.cross_entropy()
    weight = np.broadcast_to(case.weight(), value.shape)

    def hardest(n: float) -> Array:
        left, kept = n, np.zeros_like(value)
        for index in sorted(np.ndindex(*value.shape), key=lambda i: -value[i]):
            kept[index] = min(left, weight[index])
            left -= kept[index]
        return kept

    if threshold is None:
        return value, hardest(max(1.0, np.floor(weight.sum() * k / 100)))
    unlikely = np.exp(-case.cross_entropy(factor=np.ones(1))) < threshold
    return value, np.maximum(unlikely * weight, hardest(min_kept))


def distance_map(case: Case, normalize: bool = True, spacing: Any = None):
    value = case.cross_entropy()
    phi = np.zeros_like(value)
    for mask, seen, b, c in case.regions():
        for region in [mask & seen] if case.exclusive else [mask & seen, ~mask & seen]:
            if region.any() and not region.all():
                d = distance_transform_edt(region, sampling=spacing)
                penalty = d.max() - d[region]
                if normalize:
                    spread = d.max() - d[region].min()
                    penalty = penalty / spread if spread else np.ones_like(penalty)
                phi[b, 0 if case.exclusive else c][region] = penalty
    return (1 + phi) * value, case.weight()


def shape_aware(case: Case, region: str = "all", threshold: float = 0.5, spacing: Any = None):
    value = case.cross_entropy()
    factor = np.ones_like(value)
    cross = generate_binary_structure(value.ndim - 2, 1)
    for mask, seen, b, c in case.regions():
        mask, predicted = mask & seen, (case.p[b, c] > threshold) & seen
        curve, true_curve = (m & ~binary_erosion(m, cross, border_value=1) for m in (predicted, mask))
        error = 0.0
        if curve.any() and true_curve.any():
            error = distance_transform_edt(~true_curve, sampling=spacing)[curve].mean()
        concerned = mask if case.exclusive else np.ones_like(mask)
        if region == "mismatch":
            concerned = concerned & (predicted != mask)
        factor[b, 0 if case.exclusive else c] += error * concerned
    return factor * value, case.weight()


def structural(
    case: Case,
    c4: float = 0.01,
    beta: float = 0.1,
    window: int = 3,
    sigma: float = 1.5,
    lambda_ce: float = 0.0,
):
    value, weight = case.cross_entropy(), case.weight()
    r, axes = window // 2, range(2, value.ndim)
    offsets = list(product(range(-r, r + 1), repeat=len(axes)))

    def moved(x: Array, offset: tuple[int, ...]) -> Array:
        for axis, step in zip(axes, offset, strict=True):
            x = x.take(np.clip(np.arange(x.shape[axis]) + step, 0, x.shape[axis] - 1), axis)
        return x

    k = [np.exp(-np.square(o).sum() / (2 * sigma**2)) * (moved(weight, o) > 0) for o in offsets]
    total = np.where(weight > 0, sum(k), 1.0)

    def standardized(x: Array) -> Array:
        near = [moved(x, o) for o in offsets]
        mu = sum(w * n for w, n in zip(k, near, strict=True)) / total
        variance = sum(w * (n - mu) ** 2 for w, n in zip(k, near, strict=True)) / total
        return (x - mu + c4) / (np.sqrt(np.maximum(variance, 1e-12)) + c4)

    e = np.where(weight > 0, abs(standardized(case.g) - standardized(case.p)), 0.0)
    kept = e > beta * e.max()
    m = (weight * kept).sum()
    structure = kept * e * (weight.sum() / m if m else 0)
    return (lambda_ce + (1 - lambda_ce) * structure) * value, weight


def safe_pow(x: Array, exponent: float) -> Array:
    return (
        np.where(x < 1e-6, x * 1e-6 ** (exponent - 1), np.maximum(x, 1e-6) ** exponent) if exponent < 1 else x**exponent
    )


def power_of_log_likelihood(case: Case, gamma_ce: float, label_weight: Any) -> tuple[Array, Array]:
    size, n = (x.sum(0, keepdims=True) for x in case.sizes())
    share = np.divide(size, n, out=np.zeros_like(size), where=n > 0)
    inside, outside = (np.sqrt(np.divide(1, f, out=np.ones_like(f), where=f > 0)) for f in (share, 1 - share))
    if label_weight is not None and case.exclusive:
        inside = np.array(label_weight)
    elif label_weight is not None:
        outside, inside = label_weight
    return case.cross_entropy(lambda p: safe_pow(-np.log(p), gamma_ce), inside=inside, outside=outside), case.weight()


FORMULAS: dict[str, Callable[..., tuple[Array, Array]]] = {
    "WeightedCrossEntropyLoss": weighted,
    "BalancedCrossEntropyLoss": balanced,
    "FocalCrossEntropyLoss": focal,
    "TopKCrossEntropyLoss": top_k,
    "DistanceMapCrossEntropyLoss": distance_map,
    "ShapeAwareLoss": shape_aware,
    "StructuralSimilarityCrossEntropyLoss": structural,
    "PowerOfLogLikelihood": power_of_log_likelihood,
}
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "WeightedCrossEntropyLoss": ({"pos_weight": 2.0}, {"prior": 0.2}, {"pos_weight": 3.0, "normalize": "weights"}),
    "BalancedCrossEntropyLoss": ({"beta": 0.7},),
    "FocalCrossEntropyLoss": ({"gamma": 0.5}, {"gamma": 0.0}, {"alpha": 0.25}),
    "TopKCrossEntropyLoss": ({"k": 30.0}, {"threshold": 0.3}, {"threshold": 0.05, "min_kept": 4}),
    "DistanceMapCrossEntropyLoss": ({"normalize": False}, {"normalize": False, "spacing": 2.0}),
    "ShapeAwareLoss": ({"region": "mismatch"}, {"threshold": 0.999}, {"spacing": 2.5}),
    "StructuralSimilarityCrossEntropyLoss": (
        {"c4": 0.3},
        {"beta": 0.6},
        {"window": 5},
        {"sigma": 0.5},
        {"lambda_ce": 0.4},
    ),
}
OWN = {name for options in VARIANTS.values() for option in options for name in option} | {"gamma_ce", "label_weight"}


def voxel_oracle(
    name: str, options: dict[str, Any], p: Array, g: Array, w: Array, classes: Array | None, raw: bool
) -> Array | float:
    """Compute a voxel loss for probabilities ``p``, targets ``g`` and voxel weights ``w``, all (B, C, *S)."""
    channels = p.shape[1]
    exclusive = channels > 1 and not options.get("sigmoid") and name != "StructuralSimilarityCrossEntropyLoss"
    counts = w if classes is None else w * classes.reshape(*classes.shape, *(1,) * (p.ndim - 2))
    first = 1 if not options.get("include_background", True) and channels > 1 else 0
    weight = options.get("weight")
    factor = np.ones(channels - first) if weight is None else np.broadcast_to(weight, (channels - first,))
    seen = w > 0
    if raw:
        p = np.clip(p, 1e-7, 1 - 1e-7)
    if exclusive:
        counts = counts.copy()
        counts[:, :first] = 0
        factor = np.concatenate([np.ones(first), factor])
    else:
        p, g, counts, seen = (x[:, first:] for x in (p, g, counts, seen))
    own = {key: value for key, value in options.items() if key in OWN}
    value, weight = FORMULAS[name](Case(p, g, counts, factor, exclusive, seen), **own)
    total = value * weight
    reduction = options.get("reduction", "mean")
    if reduction == "none":
        return total
    n = np.broadcast_to(weight, value.shape).sum() if reduction == "mean" else 1.0
    return total.sum() / n if n else 0.0
