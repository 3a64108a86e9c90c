"""Dermoscopy phantoms: drawn pictures of skin lesions with the artefacts that real ones have.

A lesion is pigment in front of skin: its colour is the skin's, dimmed by ``exp(-density * absorption)`` as light is
in a layer of melanin or blood. Everything that lies in front (hair, ruler, sticker, ink, gel, dark corners) is drawn on
top. Lengths are in units of the picture's short side, so that every size shows the same composition.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

VERSION = 1  # of the drawing: raise it with every change of a picture, so that no cached phantom is stale

# Typical colours of healthy skin under a dermatoscope, from light to dark and with common colour casts.
SKIN = np.array(
    [
        (0.95, 0.80, 0.76), (0.95, 0.91, 0.87), (0.87, 0.83, 0.81), (0.81, 0.70, 0.66), (0.79, 0.64, 0.57),
        (0.79, 0.75, 0.75), (0.70, 0.65, 0.63), (0.69, 0.59, 0.55), (0.65, 0.52, 0.47), (0.57, 0.46, 0.41),
        (0.90, 0.62, 0.54), (0.74, 0.68, 0.80), (0.47, 0.35, 0.29),
    ]
)  # fmt: skip
SKIN_SHARES = np.array([10, 6, 8, 13, 10, 12, 10, 14, 11, 7, 4, 3, 5]) / 113
# How strongly a layer dims red, green and blue.
PIGMENTS = np.array([(0.3, 0.8, 1.2), (0.85, 1.1, 1.2), (0.15, 0.75, 0.8), (0.75, 0.8, 0.7)])  # tan, dark, blood, blue
# Share of the frame that lesions cover at these quantiles: close to ISIC 2017, with fewer of the smallest.
SHARE_QUANTILES = (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1)
SHARES = (0.004, 0.02, 0.035, 0.07, 0.15, 0.28, 0.46, 0.58, 0.75)
STICKERS = np.array(
    [(0.0, 0.5, 0.78), (0.95, 0.58, 0.1), (0.83, 0.1, 0.16), (0.3, 0.76, 0.72), (0.85, 0.86, 0.9), (0.95, 0.85, 0.2)]
)
HAIR = np.array([(0.12, 0.08, 0.06), (0.3, 0.18, 0.12), (0.08, 0.08, 0.1), (0.75, 0.68, 0.58)])
INK = (0.38, 0.2, 0.55)

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]
Picture = NDArray[np.uint8]


class _Canvas(NamedTuple):
    """The grid: shape in pixels, the short side, and coordinates in short sides from the middle."""

    shape: tuple[int, int]
    unit: int
    y: Array
    x: Array


def dermoscopy_phantom(seed: int | Sequence[int], size: tuple[int, int] = (192, 256)) -> tuple[Picture, Picture]:
    """Draw a skin lesion and its mask.

    Args:
        seed: one or several non-negative integers; the same seed gives the same picture.
        size: (height, width) in pixels, each at least 32.

    Returns:
        The picture, uint8 (H, W, 3), and its mask, uint8 (H, W) with the values 0 and 255. The lesion covers from 0.4 %
        to about 75 % of the frame.

    Raises:
        ValueError: a side is too short.

    >>> picture, mask = dermoscopy_phantom(7)
    >>> picture.shape, mask.shape, np.unique(mask).tolist()
    ((192, 256, 3), (192, 256), [0, 255])
    """
    if min(size) < 32:
        raise ValueError(f"size={tuple(size)}: expected (height, width) of at least 32 pixels each")
    height, width = size
    unit = min(size)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    canvas = _Canvas((height, width), unit, (y - (height - 1) / 2) / unit, (x - (width - 1) / 2) / unit)
    # One stream per part: a change in how hair is drawn leaves the lesions as they are.
    skin_rng, lesion_rng, front_rng, hair_rng, camera_rng = map(
        np.random.default_rng, np.random.SeedSequence(seed).spawn(5)
    )

    corners = _dark_corners(front_rng, canvas)
    stickers = _stickers(front_rng, canvas)
    covered = (corners > 0.5) | (stickers[..., 3] > 0.5)
    picture = _skin(skin_rng, canvas)
    mask, dimming = _lesion(lesion_rng, canvas, covered)
    picture *= np.exp(-dimming)
    picture = _blend(picture, _ink(front_rng, canvas))
    picture = _blend(picture, _ruler(front_rng, canvas))
    picture = _blend(picture, _hair(hair_rng, canvas))
    picture = _blend(picture, stickers)
    picture += _gel(front_rng, canvas)[..., None]
    picture *= 1 - 0.97 * corners[..., None]
    return _photograph(camera_rng, picture, canvas), np.where(mask, 255, 0).astype(np.uint8)


def _noise(rng: np.random.Generator, canvas: _Canvas, cells: float, octaves: int = 1) -> Array:
    """Smooth noise (H, W), mean 0, deviation about 1: `cells` grains per short side, then finer and weaker ones."""
    height, width = canvas.shape
    total: Array = np.zeros(canvas.shape, np.float32)
    for octave in range(octaves):
        grain = cells * 2**octave / canvas.unit
        grid = rng.standard_normal((int(height * grain) + 2, int(width * grain) + 2), dtype=np.float32)
        box = (0.0, 0.0, max(width * grain, 1.0), max(height * grain, 1.0))
        total += 0.5**octave * np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC, box))
    total *= 1.4 / np.sqrt(sum(0.25**octave for octave in range(octaves)))  # 1.4: interpolation flattens
    return total


def _sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))


def _blend(picture: Array, layer: Array) -> Array:
    """Put a layer (H, W, RGBA) in front of the picture."""
    alpha = layer[..., 3:]
    return picture * (1 - alpha) + layer[..., :3] * alpha


def _layer(color: ArrayLike, alpha: Array) -> Array:
    """A layer (H, W, RGBA) of one colour."""
    plain = np.broadcast_to(np.asarray(color, np.float32), (*alpha.shape, 3))
    return np.concatenate([plain, alpha[..., None]], axis=-1)


def _skin(rng: np.random.Generator, canvas: _Canvas) -> Array:
    color = SKIN[rng.choice(len(SKIN), p=SKIN_SHARES)] * rng.uniform(0.92, 1.06) + rng.normal(0, 0.015, 3)
    light = rng.normal(0, 0.05, 2)
    shade = 1 + light[0] * canvas.y + light[1] * canvas.x - rng.uniform(0, 0.35) * (canvas.y**2 + canvas.x**2)
    shade += rng.uniform(0.005, 0.03) * _noise(rng, canvas, 2.5, 3)
    shade += rng.uniform(0.004, 0.018) * _noise(rng, canvas, 45, 2)
    if rng.random() < 0.3:  # the fine furrows of the skin, two families of wavy bright lines
        angle = rng.uniform(0, np.pi)
        for turn in (angle, angle + rng.uniform(0.9, 1.6)):
            along = canvas.x * np.cos(turn) + canvas.y * np.sin(turn) + 0.012 * _noise(rng, canvas, 7)
            phase = 2 * np.pi * rng.uniform(16, 28) * along
            shade += rng.uniform(0.01, 0.05) * np.maximum(np.cos(phase), 0) ** 6 * (1 + 0.5 * _noise(rng, canvas, 6))
    redness = rng.uniform(0, 0.07) * np.maximum(_noise(rng, canvas, 4, 3), 0)
    if rng.random() < 0.35:  # freckles and follicles
        dots = _noise(rng, canvas, rng.uniform(14, 26))
        redness += rng.uniform(0.03, 0.12) * _sigmoid(6 * (dots - 2.0))
    picture: Array = color * shade[..., None] * np.exp(-redness[..., None] * np.array([0.3, 1, 1.1]))
    return picture


def _lesion(rng: np.random.Generator, canvas: _Canvas, covered: Mask) -> tuple[Mask, Array]:
    """The mask (H, W) and the dimming (H, W, 3) of a lesion."""
    share = min(float(np.interp(rng.random(), SHARE_QUANTILES, SHARES)), 0.9 * float(1 - covered.mean()))
    radius = np.sqrt(share * canvas.shape[0] * canvas.shape[1] / np.pi) / canvas.unit

    depth = _outline(rng, canvas, radius)
    depth[covered] = -30
    depth -= np.quantile(depth, 1 - share)  # the outline that covers exactly the share drawn above
    mask = depth > 0

    # Pigment ends more raggedly than the outline that a dermatologist draws around it.
    ragged = depth + rng.uniform(0.02, 0.05) * _noise(rng, canvas, 4 / radius, 3)
    softness = np.exp(rng.uniform(np.log(0.012), np.log(0.05))) / radius
    cover = _sigmoid(2 * ragged / min(softness, 0.25))
    inside = np.clip(depth, 0, 1)

    mottle = rng.uniform(0.1, 0.25) * _noise(rng, canvas, 2 / radius, 2)
    mottle += rng.uniform(0.08, 0.25) * _noise(rng, canvas, rng.uniform(8, 20), 3)
    density = cover * np.exp(mottle) * (1 + rng.uniform(-0.2, 1.2) * inside)
    if rng.random() < 0.4:
        density *= _network(rng, canvas)
    if rng.random() < 0.15:  # regression: a scar-like, paler part
        density *= 1 - 0.7 * _sigmoid(4 * (_noise(rng, canvas, 1.5 / radius, 2) - 1))
    if rng.random() < 0.3:  # globules
        density *= 1 + rng.uniform(0.3, 1) * _sigmoid(6 * (_noise(rng, canvas, rng.uniform(20, 40)) - 1.5))

    first = rng.choice(4, p=[0.8, 0.05, 0.12, 0.03])
    second = rng.choice(4, p=[0.6, 0.25, 0.1, 0.05])
    colors = PIGMENTS * rng.normal(1, 0.06, 3)
    mixture = _sigmoid(2 * (_noise(rng, canvas, 1.5 / radius, 3) - rng.uniform(0.3, 2)))[..., None]
    absorption = colors[first] * (1 - mixture) + colors[second] * mixture
    # Every tenth lesion is so pale that it is hard to see, as some real ones are.
    strength = np.exp(rng.uniform(*np.log((0.2, 0.4) if rng.random() < 0.1 else (0.4, 1.6))))
    return mask, strength * density[..., None] * absorption


def _outline(rng: np.random.Generator, canvas: _Canvas, radius: float) -> Array:
    """How deep a point lies in the lesion: about the logarithm of edge distance over point distance from the middle."""
    middle = rng.normal(0, 0.08, 2) * np.array(canvas.shape) / canvas.unit
    depth = np.full(canvas.shape, -np.inf, np.float32)
    for lobe in range(1 + rng.binomial(3, 0.2)):
        scale = radius * (1 if lobe == 0 else rng.uniform(0.35, 0.8))
        offset = 0 if lobe == 0 else radius * rng.uniform(0.5, 0.9)
        towards = rng.uniform(0, 2 * np.pi)
        y = canvas.y - middle[0] - offset * np.sin(towards)
        x = canvas.x - middle[1] - offset * np.cos(towards)
        turn, stretch = rng.uniform(0, np.pi), np.exp(abs(rng.normal(0, 0.25)))
        along = (x * np.cos(turn) + y * np.sin(turn)) / stretch
        across = (y * np.cos(turn) - x * np.sin(turn)) * stretch
        angle = np.arctan2(across, along)
        waves = sum(
            rng.normal(0, 0.2 / order**1.3) * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) for order in range(2, 9)
        )
        depth = np.maximum(depth, waves - np.log(np.hypot(along, across) / scale + 0.05))
    depth += rng.uniform(0.01, 0.08) * _noise(rng, canvas, 2 / radius, 2)
    if rng.random() < 0.15:  # a satellite
        towards, distance = rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.3, 1.8)
        y = canvas.y - middle[0] - distance * np.sin(towards)
        x = canvas.x - middle[1] - distance * np.cos(towards)
        depth = np.maximum(depth, -np.log(np.hypot(x, y) / (radius * rng.uniform(0.12, 0.3)) + 0.05))
    return depth


def _network(rng: np.random.Generator, canvas: _Canvas) -> Array:
    """A honeycomb of pigmented lines, as a factor of the density."""
    pitch = 2 * np.pi * rng.uniform(18, 34)
    y = canvas.y + 0.025 * _noise(rng, canvas, 5, 3)
    x = canvas.x + 0.025 * _noise(rng, canvas, 5, 3)
    waves = sum(np.cos(pitch * (x * np.cos(a) + y * np.sin(a))) for a in rng.uniform(0, 1) + np.arange(3) * np.pi / 3)
    return 1 + rng.uniform(0.1, 0.35) * (1 - 2 * _sigmoid(2 * waves)) * _sigmoid(2 * _noise(rng, canvas, 4, 2))


def _draw(canvas: _Canvas, strokes: Sequence[tuple[Array, float]]) -> Array:
    """Opacity (H, W) of polylines: points (N, 2) as (x, y) and a width, in short sides; drawn at twice the size."""
    height, width = canvas.shape
    sheet = Image.new("L", (2 * width, 2 * height))
    pen = ImageDraw.Draw(sheet)
    for points, thickness in strokes:
        pixels = (points * canvas.unit + (width / 2, height / 2)) * 2
        pen.line(pixels.ravel().tolist(), 255, width=max(1, round(2 * thickness * canvas.unit)), joint="curve")
    return np.asarray(sheet.reduce(2), np.float32) / 255


def _hair(rng: np.random.Generator, canvas: _Canvas) -> Array:
    kind = rng.random()
    count = 0 if kind < 0.5 else int(rng.integers(2, 10)) if kind < 0.9 else int(rng.integers(10, 40))
    stubble = rng.random() < 0.15
    main, spread = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.5)
    thickness = rng.uniform(0.003, 0.009)
    strokes = []
    for _ in range(count):
        direction = main + rng.normal(0, spread)
        length = rng.uniform(0.03, 0.08) if stubble else rng.uniform(0.3, 1.5)
        step = np.linspace(0, 1, 4 if stubble else 16)
        heading = direction + rng.normal(0, 0.2 if stubble else 1.0) * step + rng.normal(0, 0.1) * np.sin(6 * step)
        path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0) * length / len(step)
        start = rng.uniform(-0.5, 0.5, 2) * np.array([canvas.shape[1], canvas.shape[0]]) / canvas.unit
        strokes.append((path - path.mean(axis=0) + start, thickness * rng.uniform(0.6, 1.3)))
    color = HAIR[rng.choice(len(HAIR), p=[0.4, 0.3, 0.2, 0.1])]
    return _layer(color, rng.uniform(0.65, 0.95) * _draw(canvas, strokes))


def _ruler(rng: np.random.Generator, canvas: _Canvas) -> Array:
    if rng.random() > 0.35:
        return np.zeros((*canvas.shape, 4), np.float32)
    height, width = (side / canvas.unit for side in canvas.shape)
    length, turn = rng.uniform(0.45, 0.9), rng.normal(0, 0.25)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([np.sin(turn), -np.cos(turn)])
    middle = np.array([rng.uniform(-0.2, 0.2) * width, rng.uniform(0.3, 0.43) * height])
    ticks = int(rng.integers(8, 14)) * 2
    strokes = [(np.array([middle - along * length / 2, middle + along * length / 2]), 0.006)]
    for tick in range(ticks + 1):
        foot = middle + along * length * (tick / ticks - 0.5)
        strokes.append((np.array([foot, foot + across * (0.035 if tick % 2 == 0 else 0.02)]), 0.004))
    return _layer(rng.uniform(0.1, 0.35, 3), rng.uniform(0.6, 0.9) * _draw(canvas, strokes))


def _ink(rng: np.random.Generator, canvas: _Canvas) -> Array:
    """Violet marks of a skin pen: dots around the lesion or a scribble near the border."""
    kind = rng.random()
    strokes: list[tuple[Array, float]] = []
    if kind < 0.06:
        for turn in np.arange(6) * np.pi / 3 + rng.uniform(0, 1):
            spot = rng.uniform(0.3, 0.42) * np.array([np.cos(turn), np.sin(turn)])
            strokes.append((spot + rng.normal(0, 0.008, (5, 2)), 0.014))
    elif kind < 0.12:
        corner = rng.choice([-1, 1], 2) * np.array(canvas.shape[::-1]) / canvas.unit * rng.uniform(0.33, 0.45)
        strokes.append((corner + rng.normal(0, 0.05, (14, 2)), 0.008))
    return _layer(INK, rng.uniform(0.5, 0.8) * _draw(canvas, strokes))


def _stickers(rng: np.random.Generator, canvas: _Canvas) -> Array:
    layer = np.zeros((*canvas.shape, 4), np.float32)
    if rng.random() > 0.1:
        return layer
    height, width = (side / canvas.unit for side in canvas.shape)
    for side in rng.choice([-1, 1], int(rng.integers(1, 3)), replace=False):
        radius = rng.uniform(0.2, 0.4)
        y = canvas.y - rng.uniform(-0.4, 0.4) * height
        x = canvas.x - side * (width / 2 + radius * rng.uniform(-0.3, 0.6))
        distance = np.hypot(x, y) / radius
        color = STICKERS[rng.integers(len(STICKERS))]
        face = color * (1 + 0.12 * _noise(rng, canvas, 2) - 0.25 * (distance > 0.9))[..., None]
        if rng.random() < 0.5:  # a ring of another shade
            face = np.where(distance[..., None] < 0.5, 0.6 * face + 0.4 * np.array([1, 0.9, 0.4]), face)
        alpha = _sigmoid((1 - distance) * radius * canvas.unit * 2)
        layer = np.where(alpha[..., None] > layer[..., 3:], np.concatenate([face, alpha[..., None]], axis=-1), layer)
    return layer


def _dark_corners(rng: np.random.Generator, canvas: _Canvas) -> Array:
    """Darkness (H, W) outside the round opening of the lens."""
    kind = rng.random()
    if kind < 0.6:
        return np.zeros(canvas.shape, np.float32)
    corner = np.hypot(*canvas.shape) / 2 / canvas.unit
    radius = corner * (rng.uniform(0.92, 1.02) if kind < 0.93 else rng.uniform(0.75, 0.9))
    distance = np.hypot(canvas.y - rng.normal(0, 0.02), canvas.x - rng.normal(0, 0.02))
    return _sigmoid((distance - radius) / rng.uniform(0.01, 0.04))


def _gel(rng: np.random.Generator, canvas: _Canvas) -> Array:
    """Light added by bubbles in the immersion gel and by reflections."""
    light = np.zeros(canvas.shape, np.float32)
    if rng.random() > 0.25:
        return light
    for _ in range(rng.integers(1, 9)):
        radius = rng.uniform(0.008, 0.045)
        y, x = (
            axis - rng.uniform(-0.5, 0.5) * side / canvas.unit
            for axis, side in zip((canvas.y, canvas.x), canvas.shape, strict=True)
        )
        rim = np.exp(-(((np.hypot(y, x) - radius) / 0.004) ** 2)) * (0.6 + 0.4 * _sigmoid(-(y + x) / radius * 3))
        glint = np.exp(-((y + radius / 2) ** 2 + (x + radius / 2) ** 2) / (0.2 * radius) ** 2)
        light += rng.uniform(0.1, 0.35) * rim + 0.5 * glint
    return light


def _photograph(rng: np.random.Generator, picture: Array, canvas: _Canvas) -> Picture:
    """Exposure, focus and sensor noise."""
    exposed = np.clip(picture * rng.uniform(0.9, 1.06), 0, 1) ** rng.uniform(0.88, 1.06)
    focus = rng.uniform(0, 0.8) * canvas.unit / 192
    image = Image.fromarray(np.round(exposed * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(focus))
    grain = rng.normal(0, rng.uniform(0.5, 2.5), picture.shape)
    return np.clip(np.round(np.asarray(image) + grain), 0, 255).astype(np.uint8)
