"""What a datalist is, the one error for a bad one, and writing one as a file."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_lossext.files import replace_file

logger = logging.getLogger(__name__)

SECTIONS = ("training", "validation", "testing")

Item = dict[str, Any]  # paths and names; "image" is a list of paths where a case has several channels
Datalist = dict[str, list[Item]]


class DatalistError(ValueError):
    """A data set, split file or picture folder that cannot be used; the message names every file concerned."""


def log_counts(folder: Path, layout: str, datalist: Datalist) -> None:
    """Tell how many items each section has."""
    counts = ", ".join(f"{len(items)} {section}" for section, items in datalist.items())
    logger.info("%s (%s layout): %s", folder, layout, counts)


def write_datalist(
    datalist: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str], base_dir: str | None = None
) -> Path:
    """Write a datalist as the JSON file that ``monai.data.load_decathlon_datalist`` and MONAI's apps read.

    Args:
        datalist: sections of items, as :func:`skin_lesion_datalist` returns them.
        path: the file to write; its folder is made when absent.
        base_dir: pictures below this folder are written relative to it, others absolute. Default: the folder of the
            file itself, which is also what MONAI assumes when it reads the file without a ``base_dir``.

    Returns:
        The path of the file.
    """
    path = Path(path).absolute()
    base = Path(base_dir).absolute() if base_dir else path.parent

    def relative(name: Any) -> Any:
        if isinstance(name, list):
            return [relative(channel) for channel in name]
        file = Path(name).absolute()
        return file.relative_to(base).as_posix() if file.is_relative_to(base) else str(file)

    files = ("image", "label")
    content = {
        section: [{key: relative(value) if key in files else value for key, value in item.items()} for item in items]
        for section, items in datalist.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(content, indent=1) + "\n")
    return path
