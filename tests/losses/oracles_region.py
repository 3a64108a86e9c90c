"""Formulas of the oracle: further region losses, the joined ones and the Lovasz losses, literally in numpy."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def _ratio(a: float, b: float) -> float:
    return a / b if b else 1.0


def _shared(p: Array, g: Array, soft_label: bool) -> Array:
    """Return what prediction and target have in common, of which their sizes less it are the errors."""
    return np.minimum(p, g) if soft_label else p * g


def _index(p: Array, g: Array, w: Array, alpha: float, beta: float, nr: float, dr: float, soft_label: bool) -> float:
    tp = (w * _shared(p, g, soft_label)).sum()
    wrong = alpha * ((w * p).sum() - tp) + beta * ((w * g).sum() - tp)
    return _ratio(tp + nr, tp + wrong + dr)


def focal_tversky(p, g, w, alpha=0.3, beta=0.7, gamma=4 / 3, smooth_nr=1e-5, smooth_dr=1e-5, soft_label=True):
    loss, power = 1 - _index(p, g, w, alpha, beta, smooth_nr, smooth_dr, soft_label), 1 / gamma
    return loss**power if loss >= 1e-6 or power >= 1 else max(loss, 0) * 1e-6 ** (power - 1)


def asymmetric_similarity(p, g, w, beta=1.5, smooth_nr=1e-5, smooth_dr=1e-5, soft_label=True):
    return 1 - _index(p, g, w, 1 / (1 + beta**2), beta**2 / (1 + beta**2), smooth_nr, smooth_dr, soft_label)


def sensitivity_specificity(p, g, weights, w=0.05, squared=True, smooth_dr=1e-5, soft_label=True):
    if squared:
        missed, added = g * (g - p) ** 2, (1 - g) * (g - p) ** 2
    else:
        shared = _shared(p, g, soft_label)
        missed, added = g - shared, p - shared
    total = 0.0
    for share, error, region in ((w, missed, g), (1 - w, added, 1 - g)):
        size = (weights * region).sum() + smooth_dr
        total += share * (weights * error).sum() / size if size else 0.0
    return total


def generalized_dice(p, g, w, weight, rule, w_type="square", smooth_nr=1e-5, smooth_dr=1e-5, soft_label=True):
    """Return the loss of one sample, (C, n) arrays, or NaN where it is left out."""
    sizes = (w * g).sum(1)
    if not sizes.any() and rule == "skip":
        return np.nan
    if not sizes.any() and rule == "penalize":
        each = [(w[c] * p[c]).sum() / w[c].sum() for c in range(len(p)) if w[c].sum()]
        shares = [weight[c] for c in range(len(p)) if w[c].sum()]
        return np.average(each, weights=shares)
    numerator = denominator = 0.0
    for c, size in enumerate(sizes):
        power = {"square": 2, "simple": 1, "uniform": 0}[w_type]
        share = (sizes[sizes > 0].min() / size) ** power if size else float(rule != "skip")
        numerator += weight[c] * share * 2 * (w[c] * _shared(p[c], g[c], soft_label)).sum()
        denominator += weight[c] * share * (w[c] * (p[c] + g[c])).sum()
    return 1 - _ratio(numerator + smooth_nr, denominator + smooth_dr)


def penalty_generalized_dice(p, g, w, weight, rule, k=2.5, form="score", **own):
    loss = generalized_dice(p, g, w, weight, rule, **own)
    if rule != "formula" and not (w * g).any():
        return loss
    return 1 - (1 - loss) / (1 + k * loss) if form == "score" else loss / (1 + k * (1 - loss))


def _lovasz(errors: Array, g: Array, w: Array) -> float:
    """Integrate the Jaccard loss of {errors >= t} over the thresholds t."""
    order = np.argsort(-errors, kind="stable")
    size, found, others = (w * g).sum(), np.cumsum((w * g)[order]), np.cumsum((w * (1 - g))[order])
    union = size + others
    jaccard = np.where(union > 0, 1 - (size - found) / np.where(union > 0, union, 1), 0)
    return (jaccard * -np.diff(errors[order], append=0.0)).sum()


def lovasz_softmax(p, g, w):
    return _lovasz(np.abs(g - p), g, w)


def lovasz_hinge(z, g, w):
    return _lovasz(g * np.maximum(0, 1 - z) + (1 - g) * np.maximum(0, 1 + z), g, w)


def hinge_error(z, w):
    return (w * np.maximum(0, 1 + z)).sum() / w.sum()


def lovasz_counted(sizes: Array, channels: range, classes="present") -> list[bool]:
    """Return which classes count, of one sample."""
    if classes == "present":
        return [bool(size) or not sizes.any() for size in sizes]
    return [classes == "all" or c in classes for c in channels]
