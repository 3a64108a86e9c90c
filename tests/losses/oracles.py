"""Independent float64 numpy oracle: one formula a loss, and one slow, literal pipeline around it.

Nothing here imports the package's own arithmetic. A formula sees one sample and class: voxel vectors ``p`` and ``g``
and weights ``w``; a joining formula sees the matrices (C, n). Gradients are central differences of the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from . import oracles_boundary, oracles_components, oracles_compound, oracles_region, oracles_voxel

Array = np.ndarray


def _confusion(p: Array, g: Array, w: Array, soft_label: bool = True) -> tuple[float, float, float, float]:
    """Return TP, FP, FN, TN: what two soft sets share and where they differ, or by products of their shares."""
    if soft_label:
        each = np.minimum(p, g), np.maximum(p - g, 0), np.maximum(g - p, 0), np.minimum(1 - p, 1 - g)
    else:
        each = p * g, p * (1 - g), (1 - p) * g, (1 - p) * (1 - g)
    tp, fp, fn, tn = ((w * x).sum() for x in each)
    return tp, fp, fn, tn


def _divide(a: float, b: float, otherwise: float) -> float:
    return a / b if b else otherwise


def dice(
    p: Array,
    g: Array,
    w: Array,
    squared_pred: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    soft_label: bool = True,
):
    tp = _confusion(p, g, w, soft_label and not squared_pred)[0]
    e = 2 if squared_pred else 1
    return 1 - _divide(2 * tp + smooth_nr, (w * p**e).sum() + (w * g**e).sum() + smooth_dr, 1)


def jaccard(
    p: Array,
    g: Array,
    w: Array,
    squared_pred: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    soft_label: bool = True,
):
    tp, fp, fn, _ = _confusion(p, g, w, soft_label and not squared_pred)
    union = (w * p**2).sum() + (w * g**2).sum() - tp if squared_pred else tp + fp + fn
    return 1 - _divide(2 * tp + smooth_nr, 2 * union + smooth_dr, 1)


def tversky(
    p: Array,
    g: Array,
    w: Array,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    soft_label: bool = True,
):
    tp, fp, fn, _ = _confusion(p, g, w, soft_label)
    return 1 - _divide(tp + smooth_nr, tp + alpha * fp + beta * fn + smooth_dr, 1)


def log_cosh_dice(p: Array, g: Array, w: Array, jaccard: bool = False, **own: Any):
    return np.log(np.cosh((globals()["jaccard"] if jaccard else dice)(p, g, w, **own)))


def matthews(p: Array, g: Array, w: Array, smooth: float = 1e-5, soft_label: bool = True):
    tp, fp, fn, tn = _confusion(p, g, w, soft_label)
    tp, tn = tp + smooth, tn + smooth
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return 1 - (tp * tn - fp * fn) / root if root else float(fp + fn > 0)


def gorodkin(p: Array, g: Array, w: Array, smooth: float = 1e-5, soft_label: bool = True):
    n, t, q = w.sum() + smooth * len(p), (w * g).sum(1) + smooth, (w * p).sum(1) + smooth
    right = (w * (np.minimum(p, g) if soft_label else p * g)).sum() + smooth * len(p)
    root = np.sqrt((n**2 - (q**2).sum()) * (n**2 - (t**2).sum()))
    return 1 - (right * n - (t * q).sum()) / root if root else float(right < n)


@dataclass(frozen=True)
class Row:
    """What the contract suite knows of one loss besides its catalogue entry.

    ``variants`` are own arguments, each of which must change the value; ``base`` are those that the contract tests use
    in the place of defaults that do not suit their small pictures; ``joined`` is the formula that sees all classes at
    once, chosen by an own argument of that name; ``sample`` one that sees them always, with the class weights and the
    empty rule. ``counted`` says which classes of a sample count, ``wrong`` what an absent class costs, ``ruled``
    whether there is an empty rule, ``spatial`` whether the formula needs the spatial shape. With own arguments other
    than ``differentiable``, the gradient is not the derivative of the value.
    """

    formula: Callable[..., float] | None = None
    variants: tuple[dict[str, Any], ...] = ()
    joined: tuple[str, Callable[..., float]] | None = None
    full_is_undecided: bool = False
    tolerance: float = 1e-9
    base: dict[str, Any] = field(default_factory=dict)
    sample: Callable[..., float] | None = None
    counted: Callable[..., list[bool]] | None = None
    wrong: Callable[..., float] | None = None
    ruled: bool = True
    spatial: bool = False
    differentiable: dict[str, Any] = field(default_factory=dict)


SQUARED = {"squared_pred": True}
ROWS: dict[str, Row] = {
    "SoftDiceLoss": Row(dice, (SQUARED, {"smooth_nr": 1.0}, {"smooth_dr": 1.0})),
    "SoftJaccardLoss": Row(jaccard, (SQUARED, {"smooth_nr": 1.0}, {"smooth_dr": 1.0})),
    "SoftTverskyLoss": Row(tversky, ({"alpha": 0.2}, {"beta": 0.9}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0})),
    "FocalTverskyLoss": Row(
        oracles_region.focal_tversky,
        ({"alpha": 0.2}, {"beta": 0.9}, {"gamma": 3.0}, {"gamma": 0.5}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0}),
    ),
    "AsymmetricSimilarityLoss": Row(
        oracles_region.asymmetric_similarity, ({"beta": 0.5}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0})
    ),
    "ScaledGeneralizedDiceLoss": Row(
        sample=oracles_region.generalized_dice,
        variants=({"w_type": "simple"}, {"w_type": "uniform"}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0}),
    ),
    "PenaltyGeneralizedDiceLoss": Row(
        sample=oracles_region.penalty_generalized_dice,
        variants=({"k": 1.0}, {"form": "printed"}, {"w_type": "simple"}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0}),
    ),
    "SensitivitySpecificityLoss": Row(
        oracles_region.sensitivity_specificity,
        ({"w": 0.05}, {"squared": False}, {"smooth_dr": 1.0}),
        base={"w": 0.5},
    ),
    "LovaszSoftmaxLoss": Row(
        oracles_region.lovasz_softmax, ({"classes": [0]}, {"per_image": False}), counted=oracles_region.lovasz_counted
    ),
    "LovaszHingeLoss": Row(oracles_region.lovasz_hinge, ({"per_image": False},), wrong=oracles_region.hinge_error),
    "BoundaryDistanceLoss": Row(
        oracles_boundary.boundary,
        ({"inside": "full"}, {"normalize": True}, {"spacing": 2.0}),
        ruled=False,
        spatial=True,
    ),
    "HausdorffDistanceLoss": Row(
        oracles_boundary.hausdorff_distance,
        ({"alpha": 1.0}, {"one_sided": True}, {"spacing": 2.0}),
        ruled=False,
        spatial=True,
    ),
    "HausdorffERLoss": Row(
        oracles_boundary.hausdorff_er,
        ({"alpha": 1.0}, {"erosions": 2}, {"normalize": "rescale"}, {"normalize": "none"}),
        base={"erosions": 3},
        ruled=False,
        spatial=True,
        differentiable={"normalize": "rescale"},
    ),
    "HausdorffCVLoss": Row(
        oracles_boundary.hausdorff_cv,
        ({"alpha": 1.0}, {"radii": (1,)}),
        base={"radii": (1, 2)},
        ruled=False,
        spatial=True,
    ),
    "BlobDiceLoss": Row(oracles_components.blob_dice, ({"smooth_nr": 1.0}, {"smooth_dr": 1.0}), spatial=True),
    "ComponentDiceLoss": Row(
        oracles_components.component_dice,
        ({"lambda_dice": 0.5}, {"lambda_ce": 0.0}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0}),
        spatial=True,
    ),
    "SkeletonRecallLoss": Row(
        oracles_components.skeleton_recall, ({"tube": 0}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0}), spatial=True
    ),
    "CalibrationLoss": Row(
        oracles_components.calibration,
        ({"bins": 3}, {"binning": "soft"}),
        base={"bins": 4},  # a step across the edge of a bin has no derivative
    ),
    **{name: Row(variants=own, ruled=False) for name, own in oracles_voxel.VARIANTS.items()},
    **{name: Row(variants=own) for name, own in oracles_compound.VARIANTS.items()},
    "DiceHausdorffLoss": Row(
        variants=oracles_compound.VARIANTS["DiceHausdorffLoss"],
        base={"balance": 1.0},
        differentiable={"balance": 1.0},
    ),
    "TopKCrossEntropyLoss": Row(variants=oracles_voxel.VARIANTS["TopKCrossEntropyLoss"], base={"k": 60.0}, ruled=False),
    "LogCoshDiceLoss": Row(log_cosh_dice, (SQUARED, {"jaccard": True}, {"smooth_nr": 1.0}, {"smooth_dr": 1.0})),
    "MatthewsCorrelationLoss": Row(
        matthews, ({"smooth": 1.0}, {"multiclass": True}), joined=("multiclass", gorodkin), full_is_undecided=True
    ),
}
PARTS = {"PowerOfLogDice": Row(oracles_compound.power_of_log_dice)}  # of compound losses, not public

SHARED = {"include_background", "to_onehot_y", "sigmoid", "softmax", "other_act"}
SHARED |= {"reduction", "batch", "weight", "ignore_index", "empty", "distributed", "group", "validate"}
REMEMBERED: dict[Any, float] = {}


def _with_background(p: Array, g: Array, classes: Array) -> tuple[Array, Array]:
    """Give the background, channel 0, probability and label of the classes that were not annotated in a sample."""
    p, g = p.copy(), g.copy()
    for i, annotated in enumerate(classes.astype(bool)):
        for k in range(1, p.shape[1]):
            if not annotated[k]:
                p[i, 0] += p[i, k]
                g[i, 0] += g[i, k]
                g[i, k] = 0
    return p, g


def _probabilities(z: Array, options: dict[str, Any]) -> Array:
    if options.get("sigmoid"):
        return 1 / (1 + np.exp(-z))
    if options.get("softmax") and z.shape[1] > 1:
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)
    if options.get("other_act"):
        return options["other_act"](torch.from_numpy(z)).numpy()
    return z


def _remembered(formula: Callable[..., float], own: dict[str, Any], *seen: Array) -> float:
    """Return ``formula(*seen, **own)``, of which a step in one logit leaves most samples and classes as they were."""
    key = (formula, repr(own), *((x.shape, x.dtype.char, x.tobytes()) for x in seen))
    if key not in REMEMBERED:
        if len(REMEMBERED) >= 4096:
            REMEMBERED.clear()
        REMEMBERED[key] = formula(*seen, **own)
    return REMEMBERED[key]


def oracle(
    name: str, options: dict[str, Any], z: Array, target: Array, mask: Array | None = None, classes: Array | None = None
) -> Array | float:
    """Compute the loss ``name(**options)`` for logits ``z`` (B, C, *S) literally, one sample and class at a time."""
    if name in oracles_compound.FORMULAS:
        return oracles_compound.FORMULAS[name](oracle, options, z, target, mask, classes)
    row, b, c, space = PARTS.get(name) or ROWS.get(name, Row()), z.shape[0], z.shape[1], z.shape[2:]
    own = {key: value for key, value in options.items() if key not in SHARED}
    z = z.reshape(b, c, -1).astype(np.float64)
    t = target.reshape(b, -1, z.shape[2]).astype(np.float64)
    w = np.ones_like(z) if mask is None else np.broadcast_to(mask.reshape(b, -1, z.shape[2]), z.shape).astype(float)
    ignore = options.get("ignore_index")
    if options.get("to_onehot_y") and c > 1:
        if ignore is not None:
            w = w * (t != ignore)
        g = np.stack([(t[:, 0] == k) for k in range(c)], 1).astype(float)
    else:
        g = t
        if ignore is not None:
            inside = c > 1 and 0 <= ignore < c
            w = w * (t[:, ignore : ignore + 1] <= 0.5 if inside else t != ignore)
    p = _probabilities(np.where(w == 0, 0.0, z) if not options.get("softmax") else z, options)
    if classes is not None and options.get("softmax") and c > 1:
        p, g = _with_background(p, g, classes)
    if name in oracles_voxel.FORMULAS:
        raw = not options.get("sigmoid") and not (options.get("softmax") and c > 1)
        p, g, w = (x.reshape(b, c, *space) for x in (p, g, w))
        return oracles_voxel.voxel_oracle(name, options, p, g, w, classes, raw)
    if classes is not None:
        w = w * classes[:, :, None]
    if options.get("batch") or not own.pop("per_image", True):
        p, g, w = (np.concatenate(list(x), axis=-1)[None] for x in (p, g, w))
    start = 1 if not options.get("include_background", True) and c > 1 else 0
    p, g, w = p[:, start:], g[:, start:], w[:, start:]
    joined = row.joined if row.joined and own.pop(row.joined[0], False) else None

    chosen = {"classes": own.pop("classes")} if row.counted and "classes" in own else {}
    weight = options.get("weight")
    weight = np.ones(p.shape[1]) if weight is None else np.broadcast_to(np.asarray(weight, float), (p.shape[1],))
    rule = options.get("empty", "penalize") if row.ruled else "formula"
    values = np.full((p.shape[0], 1 if joined or row.sample else p.shape[1]), np.nan)
    for i in range(p.shape[0]):
        if row.sample:
            values[i, 0] = row.sample(p[i], g[i], w[i], weight, rule, **own) if w[i].any() else np.nan
            continue
        counted = row.counted((w[i] * g[i]).sum(1), range(start, c), **chosen) if row.counted else [True] * c
        for k in range(values.shape[1]):
            n = w[i, k].sum()
            if not n or not counted[k]:
                continue
            if joined:
                full = [j for j in range(p.shape[1]) if (w[i, j] * g[i, j]).sum() >= n]
                value = joined[1](p[i], g[i], w[i, 0], **own)
                empty, wrong = bool(full), (w[i, full[0]] * (1 - p[i, full[0]])).sum() / n if full else 0.0
            else:
                size = (w[i, k] * g[i, k]).sum()
                seen = [np.where(w[i, k] == 0, 0.0, x[i, k]).reshape(space if row.spatial else -1) for x in (p, g, w)]
                value = _remembered(row.formula, own, *seen)
                full_one = row.full_is_undecided and size >= n
                empty = size == 0 or full_one
                wrong = (w[i, k] * (1 - p[i, k] if full_one else p[i, k])).sum() / n
                wrong = row.wrong(p[i, k], w[i, k]) if row.wrong else wrong
            if empty and rule == "skip":
                continue
            values[i, k] = weight[k] * (wrong if empty and rule == "penalize" else value)
    if options.get("reduction", "mean") == "none":
        return np.nan_to_num(values)
    total, counted = np.nansum(values), (~np.isnan(values)).sum()
    return total if options.get("reduction") == "sum" else total / max(counted, 1)


def oracle_slopes(
    name: str, options: dict[str, Any], directions: Array, z: Array, target: Array, *rest: Array | None
) -> Array:
    """Return the derivatives of the summed oracle along ``directions`` (K, *z.shape), (K,), by central differences of
    fourth order.
    """
    step, slopes = 1e-5, np.zeros(len(directions))
    for k, direction in enumerate(directions):
        for multiple, factor in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            shifted = z + multiple * step * direction
            slopes[k] += factor / (12 * step) * np.sum(oracle(name, options, shifted, target, *rest))
    return slopes
