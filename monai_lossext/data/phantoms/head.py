"""Head phantoms: T1-weighted heads made of ellipsoids and folded by noise, with the masks of their brains.

The anatomy is one of distances: every organ has a function that gives, for each point, about how many millimetres it
lies outside (negative: inside), and layers such as skull and scalp are intervals of such a distance. Points are in the
frame of the head in mm: x to the right, y to the front, z to the top, the origin in the middle of the brain. So the
same seed is the same head at every size, spacing and orientation of the grid that scans it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

VERSION = 1  # of the drawing: raise it with every change of a volume, so that no cached phantom is stale

CANONICAL_ML = 1528  # the brain below before scaling
LATTICE_MM = 4.0  # of the noise, which repeats after PERIOD_MM
PERIOD_MM = 320.0
DIRECTIONS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
SCALP_TOP_MM = 92  # of an average head above the origin
HEAD_MIDDLE_MM = -25  # height of the middle of a scan that has room for the whole head
FORAMEN_MAGNUM_MM = -60  # where masks of brains end and the spinal cord begins

Array = NDArray[np.floating]


class HeadPhantom(NamedTuple):
    """A scan of a head, the mask of its brain, and the affine of both."""

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]


class Build(NamedTuple):
    """What differs from person to person."""

    scale: Array  # (3,) size of the head
    wobble: float  # mm by which surfaces are warped
    atrophy: float  # 0 (young) to 1: width of the fluid around and in the brain
    skull: float  # mm
    scalp: float  # mm
    foramen: float  # mm, height where the mask ends


class Contrast(NamedTuple):
    """Signal of the tissues, white matter being 1."""

    white: float
    grey: float
    fluid: float
    fat: float
    skin: float
    muscle: float
    bone: float
    marrow: float
    dura: float
    blood: float


def head_phantom(
    seed: int | Sequence[int],
    size: Sequence[int] = (96, 96, 96),
    spacing: Sequence[float] = (2.0, 2.0, 2.0),
    orientation: str = "RAS",
    oblique: bool = False,
) -> HeadPhantom:
    """Scan a head that is made for the purpose, with T1 contrast.

    Heads differ in size, shape, age and pose; scans in contrast, sharpness, bias field, Rician noise and field of
    view. About every fourth has the top of the head cut off, and about every fourth its face removed.

    Args:
        seed: one or several non-negative integers; the same seed gives the same head.
        size: voxels along each axis of the array, each at least 16.
        spacing: of these voxels, in mm.
        orientation: where each axis of the array points to, as nibabel writes it: "RAS", "LPS", "PIR", ...
        oblique: tilt the grid by 10 to 20 degrees, as a scan along the patient's own axes is.

    Returns:
        The image, float32 of shape `size` and not negative; the mask of the brain, uint8 of the same shape with the
        values 0 and 1; and their affine (4, 4), from voxels to mm in RAS as in NIfTI. The brain has 1000 to 1700 ml,
        less where it is cut off; fluid in its folds and ventricles belongs to it, the fluid around it does not.

    Raises:
        ValueError: a size, spacing or orientation that is not one.

    >>> image, mask, affine = head_phantom(3, size=(48, 48, 48), spacing=(4, 4, 4))
    >>> image.shape, mask.dtype, np.diag(affine).tolist()
    ((48, 48, 48), dtype('uint8'), [4.0, 4.0, 4.0, 1.0])
    >>> 1000 < float(mask.sum()) * 4**3 / 1000 < 1700  # ml
    True
    """
    check_grid(size, spacing, orientation)
    # One stream per part: a change in the noise of the scanner leaves the heads as they are.
    build_rng, fold_rng, pose_rng, contrast_rng, scanner_rng = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(5)
    )
    build = draw_build(build_rng)
    contrast = draw_contrast(contrast_rng)
    affine = _field_of_view(pose_rng, build, size, spacing, orientation, oblique)
    turn = rotation(pose_rng.normal(0, (6, 3, 4)))

    points = points_of(affine, turn, build, size)
    inside = np.flatnonzero(_rough_head(points) < 15)
    blur = float(np.mean(spacing))
    signal, brain = _anatomy(fold_rng, points[:, inside], build, contrast, blur)

    image = np.zeros(points.shape[1], np.float32)
    image[inside] = signal
    mask = np.zeros(image.shape, np.uint8)
    mask[inside] = brain
    scanned = scan(scanner_rng, image.reshape(size), points.reshape(3, *size), spacing)
    return HeadPhantom(scanned, mask.reshape(size), affine)


def check_grid(size: Sequence[int], spacing: Sequence[float], orientation: str) -> None:
    """Raise ValueError for a size, spacing or orientation that is not one."""
    if len(size) != 3 or min(size) < 16:
        raise ValueError(f"size={tuple(size)}: expected three numbers of voxels, each at least 16")
    if len(spacing) != 3 or not all(0 < step < np.inf for step in spacing):
        raise ValueError(f"spacing={tuple(spacing)}: expected three positive lengths in mm")
    if len(orientation) != 3 or {DIRECTIONS.get(code, (None,))[0] for code in orientation} != {0, 1, 2}:
        raise ValueError(f"orientation={orientation!r}: expected one of R/L, A/P and S/I each, as in RAS or LPS")


def points_of(affine: Array, turn: Array, build: Build, size: Sequence[int]) -> Array:
    """Points (3, N) in the frame of the head of all voxels of a grid."""
    index = [np.arange(count, dtype=np.float32) for count in size]
    to_head = (turn.T @ affine[:3]) / build.scale[:, None]
    return np.stack(
        [
            row[0] * index[0][:, None, None] + row[1] * index[1][:, None] + (row[2] * index[2] + row[3])
            for row in to_head.astype(np.float32)
        ]
    ).reshape(3, -1)


def draw_build(rng: np.random.Generator) -> Build:
    """Draw a person."""
    volume = np.clip(rng.normal(1350, 130), 1080, 1600)  # adults; what is drawn differs by up to 6 %
    aspect = np.exp(rng.normal(0, 0.035, 3))
    return Build(
        scale=aspect / np.cbrt(aspect.prod()) * np.cbrt(volume / CANONICAL_ML),
        wobble=rng.uniform(1.0, 2.5),
        atrophy=rng.beta(1.2, 2),
        skull=rng.uniform(5, 9),
        scalp=rng.uniform(4.5, 9),
        foramen=FORAMEN_MAGNUM_MM + rng.normal(0, 4),
    )


def draw_contrast(rng: np.random.Generator) -> Contrast:
    """Draw a scanner's T1 contrast."""
    # Spin echo at 1.5 T shows fat three times as bright as brain; an inversion prepared 3 T scan darker than brain.
    grey = rng.uniform(0.62, 0.9)
    fat = np.exp(rng.uniform(np.log(0.6), np.log(3.2)))
    return Contrast(
        white=1.0,
        grey=grey,
        fluid=grey * rng.uniform(0.2, 0.55),
        fat=fat,
        skin=rng.uniform(0.4, 0.7) * max(fat, 0.8),
        muscle=rng.uniform(0.35, 0.9),
        bone=rng.uniform(0.03, 0.12),
        marrow=rng.uniform(0.25, 0.8) * fat,
        dura=rng.uniform(0.4, 0.8),
        blood=rng.uniform(0.15, 1.0) if rng.random() < 0.85 else rng.uniform(1.0, 1.5),  # bright after contrast agent
    )


def rotation(degrees: ArrayLike) -> Array:
    """Rotation matrix (3, 3) about x, then y, then z."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        plane = np.eye(3)
        first, second = (axis + 1) % 3, (axis + 2) % 3
        plane[first, first] = plane[second, second] = np.cos(angle)
        plane[first, second], plane[second, first] = -np.sin(angle), np.sin(angle)
        turn = plane @ turn
    return turn


def _field_of_view(
    rng: np.random.Generator,
    build: Build,
    size: Sequence[int],
    spacing: Sequence[float],
    orientation: str,
    oblique: bool,
) -> NDArray[np.float64]:
    """The affine of a grid that shows the head from its top down as far as it reaches."""
    direction = axes_of(orientation)
    tilt = rotation(rng.choice([-1, 1], 3) * rng.uniform(10, 20, 3))
    steps = (tilt @ direction if oblique else direction) * np.asarray(spacing, float)
    height = np.abs(direction[2]) @ (np.asarray(size) * spacing)
    cut_off = rng.random() < 0.25
    margin = -rng.uniform(18, 45) if cut_off else rng.uniform(4, 12)
    top = SCALP_TOP_MM * build.scale[2] + margin
    middle_z = top - height / 2 if cut_off else max(top - height / 2, HEAD_MIDDLE_MM)
    middle = np.array([rng.normal(0, 3), rng.normal(-3, 3), middle_z])
    return affine_around(middle, steps, size)


def axes_of(orientation: str) -> NDArray[np.float64]:
    """Directions (3, 3) of the axes of an array, a column each, in RAS."""
    direction = np.zeros((3, 3))
    for axis, code in enumerate(orientation):
        row, sign = DIRECTIONS[code]
        direction[row, axis] = sign
    return direction


def affine_around(middle: Array, steps: Array, size: Sequence[int]) -> NDArray[np.float64]:
    """The affine (4, 4) of a grid with such steps (3, 3) from voxel to voxel and this point in its middle."""
    affine = np.eye(4)
    affine[:3, :3] = steps
    affine[:3, 3] = middle - steps @ ((np.asarray(size) - 1) / 2)
    return affine


# --- Distances in mm (N,) of points (3, N): negative inside ---


def _ellipsoid(points: Array, middle: ArrayLike, radii: ArrayLike) -> Array:
    radius = np.asarray(radii, np.float32)
    squares = np.square((points - np.asarray(middle, np.float32)[:, None]) / radius[:, None])
    length, slope = np.sqrt(np.stack([np.ones(3, np.float32), radius**-2]) @ squares)
    distance: Array = length * (length - 1) / np.maximum(slope, 1e-6)  # exact to first order at the surface
    return distance


def _capsule(points: Array, start: ArrayLike, end: ArrayLike, radius: float) -> Array:
    """A rod with round ends."""
    foot, axis = np.asarray(start, np.float32), np.subtract(end, start).astype(np.float32)
    offset = points - foot[:, None]
    share = np.clip(axis @ offset / (axis @ axis), 0, 1)
    distance: Array = np.linalg.norm(offset - axis[:, None] * share, axis=0) - radius
    return distance


def union(first: Array, second: Array, rounding: float) -> Array:
    """Smaller of two distances, with the crease between the surfaces rounded over so many mm."""
    blend = np.maximum(rounding - np.abs(first - second), 0) / rounding
    joined: Array = np.minimum(first, second) - blend * blend * (rounding / 4)
    return joined


def _mirrored(points: Array) -> Array:
    """Points of the left half moved to the right, so that what is drawn there once exists on both sides."""
    return np.concatenate([np.abs(points[:1]), points[1:]])


def _rough_head(points: Array) -> Array:
    """A first guess of where the head is, which spares the rest of the work for the air around it."""
    neck = np.hypot(points[0] / 78, (points[1] + 10) / 95) * 78 - 78
    return np.minimum(_ellipsoid(points, (0, -8, 8), (84, 103, 85)), np.maximum(neck, points[2] + 15))


# --- Noise ---


def lattice_noise(rng: np.random.Generator, grain: float, channels: int) -> Array:
    """Smooth noise of mean 0 and deviation 1 on the lattice, (n, n, n, channels), with grains of so many mm."""
    count = round(PERIOD_MM / LATTICE_MM)
    cells = round(PERIOD_MM / grain)
    position = np.arange(count) * cells / count
    offset = position[:, None] - np.arange(cells)
    offset = np.abs(offset - cells * np.round(offset / cells))  # the lattice is a ring
    near = np.maximum(2 - offset, 0) ** 3 / 6 - 4 * np.maximum(1 - offset, 0) ** 3 / 6  # cubic B-spline
    field = rng.standard_normal((cells, cells, cells, channels), dtype=np.float32)
    for _ in range(3):
        field = np.tensordot(field, near.astype(np.float32), axes=(0, 1))  # takes the first axis, appends the new one
    field = np.moveaxis(field, 0, -1)
    return np.ascontiguousarray(field / field.std(axis=(0, 1, 2)))


def at_points(lattice: Array, points: Array) -> Array:
    """Values (channels, N) of the lattice at points (3, N), linearly interpolated."""
    count = lattice.shape[0]
    flat = lattice.reshape(-1, lattice.shape[3])
    position = points / np.float32(LATTICE_MM)
    corner = np.floor(position)
    share = position - corner
    low = corner.astype(np.int32) % count
    high = (low + 1) % count
    values: Array = np.zeros((points.shape[1], lattice.shape[3]), np.float32)
    for x, weight_x in ((low[0], 1 - share[0]), (high[0], share[0])):
        for y, weight_y in ((low[1], 1 - share[1]), (high[1], share[1])):
            row, weight = (x * count + y) * count, weight_x * weight_y
            for z, weight_z in ((low[2], 1 - share[2]), (high[2], share[2])):
                values += flat.take(row + z, axis=0) * (weight * weight_z)[:, None]
    return values.T


# --- The head ---


class Painter:
    """Signal (N,) or (C, N) of points, painted over layer by layer with borders as wide as a voxel."""

    def __init__(self, signal: Array, blur: float) -> None:
        self.signal = signal
        self.blur = blur

    def paint(self, distance: Array, value: ArrayLike) -> None:
        """Give everything at a negative distance this value, or these values (N,)."""
        cover = self.cover(distance)
        self.signal += cover * (np.asarray(value, np.float32) - self.signal)

    def cover(self, distance: Array) -> Array:
        """Share (N,) of a voxel that lies inside."""
        cover: Array = np.clip(0.5 - distance / np.float32(self.blur), 0, 1)
        return cover


def _anatomy(
    rng: np.random.Generator, points: Array, build: Build, contrast: Contrast, blur: float
) -> tuple[Array, NDArray[np.bool_]]:
    """Signal (N,) and whether it is brain, of points (3, N)."""
    coarse, medium, fine = (lattice_noise(rng, grain, channels) for grain, channels in ((48, 6), (20, 3), (9, 2)))
    slow = at_points(coarse, points)
    points = points + np.float32(build.wobble) * slow[:3]
    thick, thin, marrow = slow[3:]
    lumps = at_points(medium, points)
    grain = at_points(fine, points)

    cerebrum, cerebellum, stem = brain_parts(points)
    hull = hull_of((cerebrum, cerebellum, stem))
    front = 1 / (1 + np.exp((30 - points[1]) / 10))
    room = (1.3 + 3 * build.atrophy) * (1 + 0.4 * front) + (0.6 + 0.8 * build.atrophy) * np.clip(thick, -1.5, 2.5)
    stem_above = np.maximum(stem, build.foramen - 4 - points[2])
    skull_inside = union(union(cerebrum, cerebellum, 24), stem_above, 14) - np.maximum(room, 0.6)  # fluid around it
    skull = build.skull * (1 + 0.2 * np.clip(thin, -2, 2))
    skull_outside = skull_inside - skull

    painter = Painter(np.zeros(points.shape[1], np.float32), blur)
    head = _soft_tissue(painter, points, skull_outside, build, contrast, lumps, grain)
    low = np.flatnonzero((points[2] < 10) & (skull_inside > 0))
    face = Painter(painter.signal[low], blur)
    _face(face, points[:, low], skull_outside[low], contrast, lumps[:, low])
    painter.signal[low] = face.signal
    painter.paint(np.maximum(skull_outside, -skull_inside), contrast.bone)
    diploe = np.maximum(skull_outside + 0.3 * skull, 0.28 * skull - skull_inside)
    painter.paint(diploe, contrast.marrow * np.clip(0.7 + 0.35 * marrow + 0.2 * lumps[0], 0.1, 1.3))
    _spine(painter, points, contrast)
    painter.paint(skull_inside, contrast.dura)
    painter.paint(skull_inside + 0.8, contrast.fluid)
    sinus = np.maximum(np.maximum(np.abs(points[0]) - 3, -hull - 0.5), skull_inside)
    painter.paint(np.maximum(sinus, -points[2] - 5), contrast.blood)

    mask = brain_mask(points, (cerebrum, cerebellum, stem), build)
    near = np.flatnonzero(hull < blur)
    brain = Painter(painter.signal[near], blur)
    tissues = contrast.white, contrast.grey, contrast.fluid
    paint_brain(brain, rng, points[:, near], (cerebrum[near], cerebellum[near], stem[near]), build, tissues)
    painter.signal[near] = brain.signal
    painter.signal *= 1 + 0.02 * grain[0]
    painter.signal *= painter.cover(head)
    return painter.signal, mask


def brain_parts(points: Array) -> tuple[Array, Array, Array]:
    """Distances of the cerebrum, the cerebellum, and of the brain stem with the spinal cord."""
    half = _mirrored(points)
    x, y, z = half
    egg = half / np.stack([1 - 0.0014 * (y + 10), np.ones_like(y), np.ones_like(y)])  # wider at the back
    dome = _ellipsoid(egg, (17, -6, 14), (48, 82, 59))
    back = 1 / (1 + np.exp((y + 38) / 6))
    floor = -19 + 4 * np.exp(-np.square((y - 45) / 25)) + back * (2 + 11 * np.exp(-np.square(x / 24)))
    dome = -union(-dome, z - floor, 10)
    temporal = _ellipsoid(half, (41, -12, -20), (21, 38, 19))
    cerebrum = union(dome, temporal, 4)
    cerebellum = _ellipsoid(half, (19, -57, -36), (31, 29, 25))
    vermis = _ellipsoid(half, (0, -54, -26), (16, 25, 26))
    cerebellum = np.maximum(union(cerebellum, vermis, 6), z - floor + 1)
    stem = union(_ellipsoid(points, (0, -22, -30), (16, 13, 15)), _capsule(points, (0, -20, -5), (0, -26, -30), 12), 6)
    stem = union(stem, _capsule(points, (0, -28, -35), (0, -42, -70), 8), 8)
    cord = _capsule(points, (0, -42, -65), (0, -44, -220), 5.5)
    return cerebrum, cerebellum, union(stem, cord, 4)


def hull_of(parts: tuple[Array, Array, Array]) -> Array:
    """Distance (N,) of cerebrum, cerebellum and stem together."""
    cerebrum, cerebellum, stem = parts
    return union(union(cerebrum, cerebellum, 4), stem, 3)


def brain_mask(points: Array, parts: tuple[Array, Array, Array], build: Build) -> NDArray[np.bool_]:
    """Whether points (3, N) belong to the mask of the brain, which ends above the spinal cord."""
    cerebrum, cerebellum, _ = parts
    inside: NDArray[np.bool_] = (hull_of(parts) < 0.5) & (
        (np.minimum(cerebrum, cerebellum) < 0.5) | (points[2] > build.foramen)
    )
    return inside


def _soft_tissue(
    painter: Painter,
    points: Array,
    skull_outside: Array,
    build: Build,
    contrast: Contrast,
    lumps: Array,
    grain: Array,
) -> Array:
    """Paint scalp, muscles and fat, and return the distance of the whole head."""
    half = _mirrored(points)
    y, z = points[1:]
    face = _ellipsoid(points, (0, 38, -62), (60, 50, 78))
    jaw = _ellipsoid(points, (0, 45, -105), (48, 45, 32))
    nose = _ellipsoid(points, (0, 88, -52), (13, 18, 22))
    wide = 1 + np.square(np.clip(-z - 130, 0, 200) / 60)  # shoulders
    neck = (np.hypot(points[0] / wide / 58, (y + 22) / wide / 62) - 1) * 58
    neck = np.maximum(neck, z + 40)
    scalp = build.scalp * (1 + 0.15 * lumps[2]) + 5 * np.exp(-np.square((z + 15) / 25) - np.square((y - 20) / 30))
    head = union(union(skull_outside - scalp, union(face, jaw, 15), 18), neck, 25)
    head = union(head, nose, 12)
    head = union(head, _ellipsoid(half, (80, -12, -32), (7, 14, 24)), 4)  # ears

    painter.paint(head, contrast.muscle * (1 + 0.12 * lumps[0] + 0.08 * grain[1]))
    between_muscles = 1.2 - np.abs(lumps[1] * 6)  # sheets of fat
    painter.paint(np.maximum(-between_muscles, head), 0.85 * contrast.fat)
    temporal_muscle = np.maximum(_ellipsoid(half, (72, 18, -18), (14, 34, 36)), -skull_outside)
    fat_depth = 5 + 1.5 * lumps[0] + np.clip(2 * (z + 32), 0, 25)  # down to the skull in the scalp
    painter.paint(np.maximum(head, -head - fat_depth), contrast.fat * (1 + 0.1 * grain[1]))
    painter.paint(np.maximum(temporal_muscle, head + 3.5), contrast.muscle)
    painter.paint(np.maximum(head, -head - 1.8), contrast.skin)
    return head


def _face(painter: Painter, points: Array, skull_outside: Array, contrast: Contrast, lumps: Array) -> None:
    """Paint bones, air and eyes of the face and of the skull's base."""
    half = _mirrored(points)
    z = points[2]
    bones = np.maximum(_ellipsoid(points, (0, 38, -55), (48, 40, 52)), 2.5 - 5 * lumps[1])
    painter.paint(bones, contrast.bone)
    jaw = np.abs(_ellipsoid(points, (0, 32, -104), (42, 45, 24))) - 5
    jaw = np.maximum(np.maximum(jaw, np.abs(z + 106) - 14), 15 - points[1])
    painter.paint(jaw, contrast.bone)
    painter.paint(jaw + 3, contrast.marrow)
    clivus = _capsule(points, (0, 2, -32), (0, -14, -58), 8)
    painter.paint(clivus, contrast.bone)
    painter.paint(clivus + 2, contrast.marrow)
    mastoid = _ellipsoid(half, (54, -32, -46), (13, 16, 20))
    painter.paint(np.maximum(mastoid, skull_outside - 12), contrast.bone)
    painter.paint(np.maximum(mastoid + 3, 1.5 - 4 * np.abs(lumps[2])), contrast.muscle)

    painter.paint(_ellipsoid(points, (0, 22, -86), (20, 34, 14)), contrast.muscle)  # tongue
    air = _ellipsoid(half, (27, 56, -58), (14, 15, 17))  # maxillary sinuses
    air = np.minimum(air, _ellipsoid(half, (6, 50, -50), (3.5, 32, 20)))  # nose
    air = np.minimum(air, _ellipsoid(points, (0, 18, -34), (13, 11, 9)))  # sphenoid sinus
    air = np.minimum(air, _capsule(points, (0, 5, -62), (0, -8, -190), 7))  # pharynx and windpipe
    air = np.minimum(air, _ellipsoid(half, (11, 76, -12), (11, 5, 9)))  # frontal sinuses
    painter.paint(air + 1.5 * lumps[2] - 1.5, contrast.muscle)  # mucosa
    painter.paint(air + 1.5 * lumps[2], 0.02)

    orbit = _ellipsoid(half, (31, 58, -30), (17, 25, 16))
    painter.paint(orbit - 1.5, contrast.bone)
    painter.paint(orbit, contrast.fat)
    muscles = np.abs(_ellipsoid(half, (28, 52, -30), (11, 26, 11))) - 1.2
    painter.paint(np.maximum(muscles, orbit), contrast.muscle)
    painter.paint(_capsule(half, (31, 60, -30), (7, 12, -24), 2.6), contrast.grey)  # optic nerve
    eye = _ellipsoid(half, (32, 72, -30), (12, 12, 12))
    painter.paint(eye - 1, contrast.muscle)
    painter.paint(eye, 1.1 * contrast.fluid)
    painter.paint(_ellipsoid(half, (32, 80, -30), (4.5, 2.2, 4.5)), contrast.grey)  # lens


def _spine(painter: Painter, points: Array, contrast: Contrast) -> None:
    y, z = points[1:]
    below = z + 72
    body = np.hypot(points[0] / 1.3, y + 24) - 9
    disc = np.abs(np.mod(z, 18) - 9) - 6.5  # vertebrae and the discs between them
    painter.paint(np.maximum(np.hypot(points[0] / 1.3, y + 36) - 21, below), contrast.bone)
    painter.paint(np.maximum(body, below), contrast.muscle)
    painter.paint(np.maximum(np.maximum(body + 1, below), disc), contrast.marrow)
    canal = np.maximum(np.hypot(points[0], y + 44) - 9, z + 55)
    painter.paint(canal, contrast.fluid)
    painter.paint(np.maximum(np.hypot(points[0], y + 44) - 5, z + 58), contrast.white * 0.95)


def paint_brain(
    painter: Painter,
    rng: np.random.Generator,
    points: Array,
    parts: tuple[Array, Array, Array],
    build: Build,
    tissues: tuple[ArrayLike, ArrayLike, ArrayLike],
) -> None:
    """Paint the brain with these signals of white matter, grey matter and fluid, each a number or (C, 1)."""
    cerebrum, cerebellum, stem = parts
    half = _mirrored(points)
    x, y, z = half
    white, grey, fluid = map(np.asarray, tissues)

    # Folds run inwards: noise that hardly changes along the radius has level surfaces that do so too.
    middle = np.array([[0], [-8], [6]], np.float32)
    offset = points - middle
    radius = np.maximum(np.linalg.norm(offset / np.array([[0.85], [1.1], [0.95]], np.float32), axis=0), 1)
    outwards = middle + offset / radius * (72 * (radius / 72) ** np.float32(0.3))
    fold, other, reach = at_points(lattice_noise(rng, 9, 3), outwards)
    depth = -cerebrum
    width = 0.3 + 0.9 * build.atrophy
    ends = 12 + 5 * np.clip(reach, -1.5, 2)  # mm below the surface
    sulcus = np.minimum(np.abs(fold) * 4.5, np.abs(other) * 5 + 0.5) + 0.7 * np.maximum(depth - ends, 0)
    callosum = np.hypot((y + 8) / 42, (z - 4) / 24) - 1  # the fissure between the hemispheres ends there
    fissure = x + np.maximum(-callosum * 30, 0) + np.maximum(-z - 8, 0)
    insula = np.hypot(np.maximum(np.abs(z + 6 - 0.25 * y) - 0.6, 0), np.maximum(32 - x, 0))  # Sylvian fissure
    insula = insula + np.maximum(np.abs(y - 2) - 30, 0)
    near_fluid = np.minimum(np.minimum(depth, sulcus), np.minimum(fissure, insula)) - width
    painter.paint(cerebrum, fluid)
    painter.paint(np.maximum(cerebrum, -near_fluid), grey)
    painter.paint(np.maximum(cerebrum, 3 - near_fluid), white)

    folia, _, _ = at_points(lattice_noise(rng, 8, 3), points * np.array([[0.6], [1.3], [1.3]], np.float32))
    leaf = np.minimum(-cerebellum - 1, np.abs(folia) * 5)
    painter.paint(cerebellum, grey)
    painter.paint(np.maximum(cerebellum, 0.4 + 0.5 * build.atrophy - leaf), 0.92 * grey)
    painter.paint(np.maximum(cerebellum, 2.4 - leaf), 0.5 * (grey + white))
    painter.paint(_ellipsoid(half, (16, -50, -36), (15, 13, 9)), white)
    painter.paint(stem, 0.15 * grey + 0.85 * white)

    deep = 0.45 * grey + 0.55 * white
    painter.paint(_ellipsoid(half, (12, -18, 6), (9, 14, 9)), deep)  # thalamus
    painter.paint(_ellipsoid(half, (25, 2, 2), (6, 17, 10)), 0.75 * grey + 0.25 * white)  # putamen
    painter.paint(_ellipsoid(half, (13, 14, 12), (5, 12, 9)), grey)  # caudate nucleus

    large = 0.7 + 0.8 * build.atrophy + 0.3 * rng.random()
    body = _ellipsoid(half, (5 + 5 * large, -4, 16), (4.5 * large, 27, 5.5 * large))
    horn = _capsule(half, (14, -28, 14), (25 + 3 * large, -44, 2), 3.2 * large)
    temporal_horn = _capsule(half, (26, -42, 0), (31, -18, -16), 1.3 * large)
    ventricle = np.minimum(union(body, horn, 5), temporal_horn)
    third = _ellipsoid(points, (0, -10, 2), (1.4 * large, 12, 9))
    fourth = _ellipsoid(points, (0, -38, -36), (6, 4.5 * large, 9))
    painter.paint(np.minimum(np.minimum(ventricle, third), fourth), fluid)


# --- The scanner ---


def scan(rng: np.random.Generator, image: Array, points: Array, spacing: Sequence[float]) -> NDArray[np.float32]:
    """Blur, bias field, noise and what is done to files before they are published."""
    air = image < 0.01
    thick = int(rng.integers(3)) if rng.random() < 0.3 else None  # the axis along which thick slices were resampled
    softness = rng.uniform(0.03, 0.12)
    for axis in range(3):
        rounds = 1 if axis != thick else 1 + round(3 / spacing[axis])
        for _ in range(rounds):
            image = softened(image, axis, softness if rounds == 1 else 0.25)
    for axis, count in enumerate(image.shape):
        place = np.linspace(-1, 1, count, dtype=np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        slope, bend = rng.normal(0, 0.12), rng.normal(-0.05, 0.12)
        image = image * np.exp(slope * place + bend * place * place)
    sigma = np.float32(np.exp(rng.uniform(np.log(0.005), np.log(0.05))))
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32) * sigma
    image = np.hypot(image + real, imaginary)
    if rng.random() < 0.3:
        image[air] = 0
    if rng.random() < 0.25:
        image[points[1] - 0.5 * points[2] > rng.uniform(72, 88)] = 0  # face removed
    return (image * np.exp(rng.uniform(np.log(80), np.log(1200)))).astype(np.float32)


def softened(image: Array, axis: int, share: float) -> Array:
    """Mix every voxel with so much of either neighbour along an axis."""
    moved = np.moveaxis(image, axis, 0)
    padded = np.concatenate([moved[:1], moved, moved[-1:]])
    mixed = (1 - 2 * share) * moved + share * (padded[:-2] + padded[2:])
    return np.moveaxis(mixed, 0, axis)
