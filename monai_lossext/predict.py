"""Masks by a bundle's weights in one step, and pictures of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monai_lossext.bundle_folders import find_bundle
from monai_lossext.compare.job import python_environment
from monai_lossext.scripts import picture_files, volume_files

try:
    from PIL import Image
    from scipy import ndimage
except ImportError as error:
    raise ImportError(f'monai_lossext.predict needs {error.name}: pip install "monai_lossext[bundles]"') from error

OUTLINE = (255, 210, 0)
TILE = 320  # pixels of the longer side of a picture on a contact sheet; three times as many for slices side by side
COLUMNS = 4  # of pictures; of volumes 1


def inference_command(
    bundle: str | os.PathLike[str],
    input_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    configs: Sequence[str | os.PathLike[str]] = (),
) -> list[str]:
    """Return the command line of `python -m monai.bundle run` that writes the masks.

    Args:
        bundle: a folder, or the name of a bundle that comes with the package.
        input_dir: a picture, a volume, or a folder of them.
        output_dir: the folder of the masks.
        checkpoint: weights; None: those of the bundle, `models/model.pt`.
        device: such as "cpu" or "cuda:1"; None: a GPU where there is one.
        configs: read after `inference.yaml`, such as `protocol/paper_model.yaml` of the bundle.

    Raises:
        ValueError: there is no such bundle, config or input, or there are no weights.
    """
    folder = find_bundle(bundle)
    weights = Path(checkpoint) if checkpoint else folder / "models" / "model.pt"
    if not weights.is_file():
        if checkpoint:
            raise ValueError(f"--checkpoint: there is no file {weights}")
        raise ValueError(
            f"the bundle {folder.name} holds no weights yet ({weights}): train it, and give --checkpoint"
            " run/models/best.pt"
        )
    if not Path(input_dir).exists():
        raise ValueError(f"there is no file or folder {input_dir}")
    files = [folder / "configs" / "inference.yaml"]
    for config in configs:
        choices = [Path(config), folder / "configs" / config]
        files.append(next((path for path in choices if path.is_file()), choices[0]))
        if not files[-1].is_file():
            raise ValueError(f"--config: there is no file {config}, neither here nor in {folder / 'configs'}")
    values = {
        "config_file": str([str(file.absolute()) for file in files]),
        "bundle_root": folder,
        "input_dir": Path(input_dir).absolute(),
        "output_dir": Path(output_dir).absolute(),
        "checkpoint": weights.absolute(),
        "device": device,
    }
    options = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return [sys.executable, "-m", "monai.bundle", "run", *options]


def predict(command: Sequence[str]) -> int:
    """Run such a command and return its exit code."""
    return subprocess.run(command, check=False, env=python_environment()).returncode


def write_overlays(input_dir: str | os.PathLike[str], mask_dir: str | os.PathLike[str], folder: Path) -> list[Path]:
    """Draw the outlines of masks into the pictures, or into three slices of the volumes, that they belong to.

    Args:
        input_dir: as for inference.
        mask_dir: where inference has written masks; files without one are left out.
        folder: of the drawings `NAME.png`, and of `contact_sheet.png` with all of them; made when absent.

    Returns:
        The drawings, and the sheet as the last.
    """
    masks = Path(mask_dir)
    kinds = (
        (picture_files.find_pictures, picture_files.mask_file, draw_picture, TILE, COLUMNS),
        (_first_channels, volume_files.lesion_file, draw_volume, 3 * TILE, 1),
        (volume_files.find_volumes, volume_files.mask_file, draw_volume, 3 * TILE, 1),
    )
    for find, name_of, draw, wide, columns in kinds:  # noqa: B007  # the kind that has masks, or the last
        files = find(input_dir)
        if any((masks / name_of(file)).is_file() for file in files):
            break
    folder.mkdir(parents=True, exist_ok=True)
    written, tiles = [], []
    for file in files:
        mask = masks / name_of(file)
        if mask.is_file():
            drawing = draw(file, mask)
            written.append(folder / f"{file.name}.png")
            drawing.save(written[-1])
            drawing.thumbnail((wide, TILE))
            tiles.append(drawing)
    if tiles:
        rows, high = -(-len(tiles) // columns), max(tile.height for tile in tiles)
        sheet = Image.new("RGB", (min(len(tiles), columns) * wide, rows * high))
        for index, tile in enumerate(tiles):
            sheet.paste(tile, (index % columns * wide, index // columns * high))
        written.append(folder / "contact_sheet.png")
        sheet.save(written[-1])
    return written


def _first_channels(path: str | os.PathLike[str]) -> list[Path]:
    return [files[0] for files in volume_files.find_cases(path)]


def draw_picture(file: Path, mask: Path) -> Image.Image:
    """Draw the outline of a mask into its picture."""
    picture, _ = picture_files.read_picture(file)
    with Image.open(mask) as stored:
        return outlined(np.asarray(picture), np.asarray(stored) > 0)


def draw_volume(file: Path, mask: Path) -> Image.Image:
    """Draw the outline of a mask into three slices of its volume through the middle of the mask, the head up."""
    grid = volume_files.read_grid(file)
    values, inside = volume_files.read_voxels(file, np.float32, grid), volume_files.read_voxels(mask, np.uint8) > 0
    low, high = np.percentile(values, (1, 99.5))
    grey = np.clip((values - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    order = np.abs(grid.affine[:3, :3]).argmax(1)  # of the axes, to right, front and head
    turned = [side if grid.affine[row, axis] < 0 else slice(None) for row, (axis, side) in enumerate(_sides(order))]
    grey, inside = (volume.transpose(order)[tuple(turned)] for volume in (grey, inside))
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)[order]
    centre = [int(middle) for middle in (ndimage.center_of_mass(inside) if inside.any() else np.array(grey.shape) // 2)]
    tiles = []
    for axis, middle in enumerate(centre):
        plane = [np.take(volume, middle, axis).T[::-1] for volume in (grey, inside)]
        across, up = (spacing[other] for other in range(3) if other != axis)
        size = round(plane[0].shape[1] * across * 2), round(plane[0].shape[0] * up * 2)  # half a mm a pixel
        picture, outline = (Image.fromarray(values.astype(np.uint8)).resize(size) for values in plane)
        tiles.append(outlined(np.repeat(np.asarray(picture)[..., None], 3, 2), np.asarray(outline) > 0))
    sheet = Image.new("RGB", (sum(tile.width for tile in tiles), max(tile.height for tile in tiles)))
    left = 0
    for tile in tiles:
        sheet.paste(tile, (left, 0))
        left += tile.width
    return sheet


def _sides(order: NDArray[np.intp]) -> list[tuple[int, slice]]:
    return [(int(axis), slice(None, None, -1)) for axis in order]


def outlined(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image.Image:
    """Draw the outline of a mask (H, W) into a picture (H, W, 3).

    >>> drawn = outlined(np.zeros((5, 5, 3), np.uint8), np.pad(np.ones((3, 3), bool), 1))
    >>> drawn.getpixel((1, 1)), drawn.getpixel((2, 2))
    ((255, 210, 0), (0, 0, 0))
    """
    width = max(1, round(max(mask.shape) / 250))
    edge = mask & ~ndimage.binary_erosion(mask, iterations=width)
    drawn = picture.copy()
    drawn[edge] = OUTLINE
    return Image.fromarray(drawn)
