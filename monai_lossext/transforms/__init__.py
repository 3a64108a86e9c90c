"""Transforms that prepare, once for each case, what losses would otherwise compute at every step."""

from .distance_maps import DistanceMap, PenaltyDistanceMap, PenaltyDistanceMapd, SignedDistanceMap, SignedDistanceMapd

__all__ = ["DistanceMap", "PenaltyDistanceMap", "PenaltyDistanceMapd", "SignedDistanceMap", "SignedDistanceMapd"]
