"""Brain phantoms with lesions of the white matter: a FLAIR and a T1-weighted scan, and the mask of all lesions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from monai_lossext.data.phantoms.head import (
    Array,
    Build,
    Painter,
    affine_around,
    at_points,
    axes_of,
    brain_mask,
    brain_parts,
    check_grid,
    draw_build,
    draw_contrast,
    hull_of,
    lattice_noise,
    paint_brain,
    points_of,
    rotation,
    scan,
    softened,
)

VERSION = 1  # of the drawing: raise it with every change of a volume, so that no cached phantom is stale

MIDDLE_MM = (0.0, -8.0, 6.0)  # of a brain, in the frame of its head
FRACTIONS = (1e-4, 0.5)  # of the volume
TRIES = 64  # places that are drawn for a lesion
ROUGHNESS = 0.3  # of a lesion's surface, as a share of its radius
DARKER = 0.5  # a lesion is darker in T1 by this share of what it is brighter in FLAIR


class LesionPhantom(NamedTuple):
    """Two scans of a brain on one grid, the mask of its lesions, and the affine of all three."""

    flair: NDArray[np.float32]
    t1: NDArray[np.float32]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]


def lesion_phantom(
    seed: int | Sequence[int],
    size: Sequence[int] = (80, 96, 80),
    spacing: Sequence[float] = (2.0, 2.0, 2.0),
    orientation: str = "RAS",
    *,
    lesions: int = 20,
    fraction: float = 0.002,
    spread: float = 0.8,
    contrast: float = 0.6,
) -> LesionPhantom:
    """Scan a brain without its skull, with bright lesions in FLAIR that are darker than white matter in T1.

    The brains are those of :func:`head_phantom`, and so are contrast in T1, sharpness, bias field and noise of each
    scan. A volume that is smaller than a brain shows its middle.

    Args:
        seed: one or several non-negative integers; the same seed gives the same phantom.
        size: voxels along each axis of the array, each at least 16.
        spacing: of these voxels, in mm.
        orientation: where each axis of the array points to, as nibabel writes it: "RAS", "LPS", "PIR", ...
        lesions: how many, at least 1. No two touch, not even at a corner.
        fraction: of the volume's voxels that all lesions together have, from 0.0001 to 0.5.
        spread: of their sizes: standard deviation of the logarithm of a lesion's volume; 0 makes all of one size.
        contrast: how much brighter than white matter lesions are in FLAIR, as a share of its signal; those of one scan
            differ by up to 30 % of it.

    Returns:
        FLAIR and T1, float32 of shape `size`, 0 outside of the brain; the mask, uint8 of the same shape with the values
        0 and 1, with exactly so many components and round(fraction * voxels) voxels; and the affine (4, 4), from voxels
        to mm in RAS. Lesions begin in white matter, and large ones reach beyond.

    Raises:
        ValueError: an argument that is out of its range, or lesions for which this volume has no room.

    >>> phantom = lesion_phantom(3, size=(32, 36, 32), spacing=(5, 5, 5), lesions=4, fraction=0.001)
    >>> phantom.flair.shape, int(phantom.mask.sum()), round(0.001 * 32 * 36 * 32)
    ((32, 36, 32), 37, 37)
    """
    check_grid(size, spacing, orientation)
    if not FRACTIONS[0] <= fraction <= FRACTIONS[1]:
        raise ValueError(f"fraction={fraction}: expected {FRACTIONS[0]} to {FRACTIONS[1]}")
    voxels = round(fraction * int(np.prod(size)))
    if not 1 <= lesions <= voxels:
        raise ValueError(f"lesions={lesions}: expected 1 to {voxels}, the number of voxels of all of them")
    if spread < 0 or contrast <= 0:
        raise ValueError(f"spread={spread} and contrast={contrast}: expected at least 0, and above 0")
    build_rng, fold_rng, pose_rng, contrast_rng, lesion_rng, flair_rng, t1_rng = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(7)
    )
    build = draw_build(build_rng)
    turn = rotation(pose_rng.normal(0, (6, 3, 4)))
    middle = turn @ (np.asarray(MIDDLE_MM) * build.scale) + pose_rng.normal(0, 2, 3)
    affine = affine_around(middle, axes_of(orientation) * np.asarray(spacing, float), size)
    points = points_of(affine, turn, build, size)
    tissues, brain = _brain(fold_rng, points, build, float(np.mean(spacing)))
    white, grey, fluid = tissues.reshape(3, *size)
    brain = brain.reshape(size)

    t1_contrast = draw_contrast(contrast_rng)
    flair = white + grey * contrast_rng.uniform(1.1, 1.35) + fluid * contrast_rng.uniform(0.05, 0.3)
    t1 = white + grey * t1_contrast.grey + fluid * t1_contrast.fluid

    wishes = _sizes(lesion_rng, lesions, voxels, spread)
    noise = at_points(lattice_noise(lesion_rng, 12, 1), points)[0].reshape(size)
    owner = _lesions(lesion_rng, brain, brain & (white > 0.6), wishes, spacing, noise)
    strengths = np.concatenate([[0], contrast * lesion_rng.uniform(0.7, 1.3, lesions)]).astype(np.float32)
    flair = _with_lesions(flair, owner, 1 + strengths)
    t1 = _with_lesions(t1, owner, np.maximum(1 - DARKER * strengths, 0.1))

    grid = points.reshape(3, *size)
    scans = (scan(rng, image, grid, spacing) for rng, image in ((flair_rng, flair), (t1_rng, t1)))
    flair, t1 = (np.where(brain, image, np.float32(0)) for image in scans)
    return LesionPhantom(flair, t1, (owner > 0).astype(np.uint8), affine)


def _brain(rng: np.random.Generator, points: Array, build: Build, blur: float) -> tuple[Array, NDArray[np.bool_]]:
    """Shares (3, N) of white matter, grey matter and fluid in voxels at points (3, N), and whether it is brain."""
    wobble = at_points(lattice_noise(rng, 48, 3), points)
    points = points + np.float32(build.wobble) * wobble
    parts = brain_parts(points)
    near = np.flatnonzero(hull_of(parts) < blur)
    painter = Painter(np.zeros((3, near.size), np.float32), blur)
    cerebrum, cerebellum, stem = (part[near] for part in parts)
    white, grey, fluid = np.eye(3, dtype=np.float32)[..., None]
    paint_brain(painter, rng, points[:, near], (cerebrum, cerebellum, stem), build, (white, grey, fluid))
    tissues = np.zeros(points.shape, np.float32)
    tissues[:, near] = painter.signal
    return tissues, brain_mask(points, parts, build)


def _sizes(rng: np.random.Generator, lesions: int, voxels: int, spread: float) -> NDArray[np.int64]:
    """Voxels of each lesion, at least 1 and so many in all, the largest first."""
    weights = np.exp(spread * rng.standard_normal(lesions))
    shares = np.cumsum(weights) / weights.sum() * (voxels - lesions)
    return np.sort(1 + np.diff(np.rint(shares).astype(np.int64), prepend=0))[::-1]


def _lesions(
    rng: np.random.Generator,
    brain: NDArray[np.bool_],
    white: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    spacing: Sequence[float],
    noise: Array,
) -> NDArray[np.int32]:
    """Number of the lesion, from 1, that each voxel belongs to: 0 where there is none."""
    volume = float(np.prod(spacing))
    radii = np.cbrt(sizes * volume * 3 / (4 * np.pi))
    centres = _centres(rng, np.argwhere(white if white.any() else brain), radii, np.asarray(spacing, float))
    owner, missing = _grown(np.pad(brain, 1), centres + 1, radii, sizes.copy(), spacing, np.pad(noise, 1))
    if missing:
        reached = (sizes.sum() - missing) / brain.size
        raise ValueError(f"{len(sizes)} lesions have no room in this volume beyond a fraction of {reached:.4f}")
    return owner[1:-1, 1:-1, 1:-1]


def _centres(
    rng: np.random.Generator, places: NDArray[np.int64], radii: Array, spacing: NDArray[np.float64]
) -> NDArray[np.int64]:
    """A voxel (K, 3) for each lesion, as far from the others as their radii ask for, or as places allow."""
    centres = np.empty((0, 3), np.int64)
    for number, radius in enumerate(radii):
        drawn = places[rng.integers(len(places), size=TRIES)]
        steps = drawn[:, None] - centres
        drawn, steps = (values[np.abs(steps).max(-1).min(1, initial=2) > 1] for values in (drawn, steps))
        if not len(drawn):
            raise ValueError(f"{len(radii)} lesions have no room in this volume: {number} fill it")
        clearance = (np.linalg.norm(steps * spacing, axis=-1) - radii[:number] - radius).min(1, initial=np.inf)
        wide = np.flatnonzero(clearance > 2 * spacing.max())
        centres = np.vstack([centres, drawn[wide[0] if wide.size else clearance.argmax()]])
    return centres


def _grown(
    room: NDArray[np.bool_],
    centres: NDArray[np.int64],
    radii: Array,
    sizes: NDArray[np.int64],
    spacing: Sequence[float],
    noise: Array,
) -> tuple[NDArray[np.int32], int]:
    """Let all lesions grow from their centres at once, voxel by voxel, until each has its size; none touches another.

    What a lesion lacks because others surround it, others get. Volumes have a margin of one voxel.

    Returns:
        The number of the lesion of each voxel, and how many voxels nobody had room for.
    """
    owner = np.zeros(room.shape, np.int32)
    missing = int(sizes.sum())
    reached = [(0.0, tuple(centre.tolist()), number) for number, centre in enumerate(centres)]
    waiting: list[tuple[float, tuple[int, ...], int]] = []
    around = [tuple(step) for step in np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)]).tolist()]
    while reached and missing:
        entry = heapq.heappop(reached)
        _, (x, y, z), number = entry
        near = owner[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2]
        if not sizes[number]:
            waiting.append(entry)
        elif not owner[x, y, z] and not ((near != 0) & (near != number + 1)).any():
            owner[x, y, z] = number + 1
            sizes[number] -= 1
            missing -= 1
            for step in around:
                place = x + step[0], y + step[1], z + step[2]
                if room[place] and not owner[place]:
                    distance = np.linalg.norm((place - centres[number]) * spacing) / radii[number]
                    heapq.heappush(reached, (distance * (1 + ROUGHNESS * noise[place]), place, number))
        if not reached and missing:
            reached, waiting = waiting, []
            heapq.heapify(reached)
            sizes[:] = missing
    return owner, missing


def _with_lesions(image: Array, owner: NDArray[np.int32], signals: Array) -> Array:
    """Give each lesion its signal, with borders that are a little soft."""
    cover, signal = (owner > 0).astype(np.float32), np.where(owner > 0, signals[owner], 0).astype(np.float32)
    for axis in range(3):
        cover, signal = softened(cover, axis, 0.15), softened(signal, axis, 0.15)
    return (1 - cover) * image + signal
