"""Phantoms as files, written once and complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from monai_lossext.data.parallel import map_in_threads
from monai_lossext.data.phantoms.dermoscopy import VERSION, dermoscopy_phantom

RECIPE_FILE = "phantoms.json"


def write_dermoscopy_phantoms(
    folder: str | os.PathLike[str],
    cases: int = 240,
    seed: int = 0,
    size: tuple[int, int] = (192, 256),
    progress: bool | None = None,
) -> Path:
    """Write dermoscopy phantoms in the layout of ISIC 2017: 60 % training, 10 % validation and 30 % test pictures.

    Args:
        folder: absent or empty, else FileExistsError; one that already holds exactly these phantoms is left as it is.
        cases: how many, at least 4, so that no part is empty.
        seed: case `i` is ``dermoscopy_phantom((seed, i), size)``.
        size: (height, width) in pixels.
        progress: show a progress bar; None: on a terminal.

    Returns:
        The folder, for the `dataset_dir` of :func:`monai_lossext.data.skin_lesion_datalist`.

    Raises:
        ValueError: `cases` is too small.
        FileExistsError: the folder holds something else, or some of its phantoms were removed.
    """
    if cases < 4:
        raise ValueError(f"cases={cases}: expected at least 4, so that training, validation and test have one each")
    recipe = {"phantoms": "dermoscopy", "version": VERSION, "cases": cases, "seed": seed, "size": list(size)}

    def write(target: Path) -> None:
        ends = {"Training": round(0.6 * cases), "Validation": round(0.7 * cases), "Test_v2": cases}
        for part in ends:
            (target / f"ISIC-2017_{part}_Data").mkdir()
            (target / f"ISIC-2017_{part}_Part1_GroundTruth").mkdir()

        def write_case(number: int) -> None:
            part = next(part for part, end in ends.items() if number < end)
            picture, mask = dermoscopy_phantom((seed, number), size)
            name = f"PHANTOM_{number:07d}"
            Image.fromarray(picture).save(target / f"ISIC-2017_{part}_Data" / f"{name}.jpg", quality=95)
            Image.fromarray(mask).save(target / f"ISIC-2017_{part}_Part1_GroundTruth" / f"{name}_segmentation.png")

        map_in_threads(write_case, range(cases), "making phantoms", progress)

    return _write_once(Path(folder).expanduser().absolute(), recipe, 2 * cases, write)


def cached_dermoscopy_phantoms(
    cases: int, seed: int = 0, cache_dir: str | os.PathLike[str] | None = None, progress: bool | None = None
) -> Path:
    """The folder of these phantoms in the cache, where they are written on first use.

    Args:
        cases: how many.
        seed: of the phantoms.
        cache_dir: default: the environment variable MONAI_LOSSEXT_CACHE, or `~/.cache/monai_lossext`.
        progress: show a progress bar; None: on a terminal.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "monai_lossext"
    root = Path(cache_dir or os.environ.get("MONAI_LOSSEXT_CACHE") or default).expanduser()
    folder = root / "phantoms" / f"dermoscopy-v{VERSION}-{cases}-seed{seed}"
    try:
        return write_dermoscopy_phantoms(folder, cases, seed=seed, progress=progress)
    except OSError as error:
        advice = "name another folder with cache_dir or the environment variable MONAI_LOSSEXT_CACHE"
        raise OSError(f"phantoms cannot be kept in {folder}: {error}; {advice}") from error


def _write_once(folder: Path, recipe: dict[str, Any], files: int, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder that only appears when it is complete; a folder of the same recipe is reused."""
    if _holds(folder, recipe, files):
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} holds other files or incomplete phantoms: remove it or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(temporary)
        (temporary / RECIPE_FILE).write_text(json.dumps(recipe) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp makes it private, and a cache may be shared
        try:
            if folder.is_dir():
                folder.rmdir()  # an empty one: Windows does not replace it
            temporary.replace(folder)
        except OSError:
            if not _holds(folder, recipe, files):  # else another process was faster, with the same pictures
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _holds(folder: Path, recipe: dict[str, Any], files: int) -> bool:
    try:
        if json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8")) != recipe:
            return False
    except (OSError, ValueError):
        return False
    return sum(1 for path in folder.glob("*/*") if path.is_file()) == files
