"""How time and memory grow with voxels and with classes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .cases import Case

SIDES = [f"1x2x{side}^3" for side in (32, 64, 128, 256, 512)]
CLASSES = [f"1x{classes}x64^3" for classes in (2, 4, 8, 16, 32, 64)]
LOSSES = ["SoftDiceLoss", "MatthewsCorrelationLoss", "FocalCrossEntropyLoss", "LovaszSoftmaxLoss"]


def series(rows: Iterable[Mapping[str, Any]], sizes: Sequence[str], measure: str) -> dict[str, dict[str, float]]:
    """Return the median of the seconds or bytes of each contestant by size, where there are two sizes or more."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["size"] in sizes and row["loss"] in LOSSES:
            for contestant, values in row[measure].items():
                of_size = found.setdefault(contestant, {}).setdefault(row["size"], [])
                of_size.extend(values if measure == "seconds" else [values])
    return {
        contestant: {size: statistics.median(values) for size, values in by_size.items()}
        for contestant, by_size in found.items()
        if len(by_size) > 1
    }


def power_law(values: Mapping[str, float]) -> tuple[float, float]:
    """Return power and factor of the power law of the number of logits that fits values by size best.

    It is the least-squares line through the logarithms; power 1 is linear growth.
    """
    elements = [Case.parse(size).elements for size in values]
    power, logarithm = np.polyfit(np.log(elements), np.log(list(values.values())), 1)
    return float(power), float(np.exp(logarithm))
