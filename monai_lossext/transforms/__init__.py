"""Transforms that prepare, once for each case, what losses would otherwise compute at every step."""

from .components import ConnectedComponents, ConnectedComponentsd, TubedSkeleton, TubedSkeletond
from .distance_maps import (
    DistanceMap,
    DistanceMapd,
    PenaltyDistanceMap,
    PenaltyDistanceMapd,
    SignedDistanceMap,
    SignedDistanceMapd,
)

__all__ = [
    "ConnectedComponents",
    "ConnectedComponentsd",
    "DistanceMap",
    "DistanceMapd",
    "PenaltyDistanceMap",
    "PenaltyDistanceMapd",
    "SignedDistanceMap",
    "SignedDistanceMapd",
    "TubedSkeleton",
    "TubedSkeletond",
]
