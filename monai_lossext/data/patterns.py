"""Pairs of images and labels by patterns of their names, for data sets that keep names of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape
from pathlib import Path

from monai_lossext.data.datalists import DatalistError, Item
from monai_lossext.data.layouts import by_case, paired

CASE = "{case}"
CHANNEL = "{channel}"


def pairs_by_pattern(folder: Path, image_pattern: str | None, label_pattern: str | None) -> list[Item]:
    """Pair the files of a folder by two patterns, each with `{case}` where the name of the case stands.

    Args:
        folder: that the patterns begin in.
        image_pattern: such as ``images/{case} derm.JPG``; ``*`` stands for any text within a name.
        label_pattern: such as ``masks/{case} lesion.png``.

    Returns:
        An item for each case. A file that one of the patterns alone finds has a counterpart that does not exist.

    Raises:
        DatalistError: a pattern is missing, has not one `{case}`, or finds nothing.

    >>> folder = getfixture("tmp_path")
    >>> for name in ("1 derm.JPG", "1 lesion.png"):
    ...     (folder / name).touch()
    >>> [(item["case"], Path(item["label"]).name) for item in pairs_by_pattern(folder, "{case} derm.JPG", "{case} l*")]
    [('1', '1 lesion.png')]
    """
    images = _cases(folder, "image_pattern", image_pattern)
    labels = _cases(folder, "label_pattern", label_pattern)
    return paired(images, labels, (folder, " (no image by image_pattern)"), (folder, " (no label by label_pattern)"))


def cases_by_pattern(
    folder: Path, image_pattern: str | None, label_pattern: str | None, channels: Sequence[Sequence[str]]
) -> list[Item]:
    """Put the channels and the label of each case together by two patterns.

    Args:
        folder: that the patterns begin in.
        image_pattern: such as ``{case}/{channel}.nii.gz``, where `{channel}` stands for a name of a channel.
        label_pattern: such as ``{case}/mask.nii.gz``.
        channels: the names that each channel may have, of which the first that files have is taken.

    Returns:
        An item for each case, with a list of images.

    Raises:
        DatalistError: as of :func:`pairs_by_pattern`; or there is no `{channel}` in the pattern of the images.
    """
    if image_pattern is None or image_pattern.count(CHANNEL) != 1:
        raise DatalistError(
            f"image_pattern={image_pattern!r}: expected a pattern with {CASE} and {CHANNEL} in it, as"
            f" '{CASE}/{CHANNEL}.nii.gz'; image_pattern and label_pattern belong together"
        )
    pairs = []
    for names in channels:
        for name in names:
            try:
                pairs.append(pairs_by_pattern(folder, image_pattern.replace(CHANNEL, name), label_pattern))
                break
            except DatalistError:
                if name == names[-1]:
                    raise
    images = [{item["case"]: item["image"] for item in items} for items in pairs]
    labels = {item["case"]: item["label"] for items in pairs for item in items}
    missing = str(folder / " (no image by image_pattern)")
    return [
        {"case": case, "image": [files.get(case, missing) for files in images], "label": label}
        for case, label in sorted(labels.items())
    ]


def _cases(folder: Path, name: str, pattern: str | None) -> dict[str, Path]:
    if pattern is None or pattern.count(CASE) != 1:
        raise DatalistError(
            f"{name}={pattern!r}: expected a pattern with {CASE} in it once, as 'images/{CASE} photo.jpg';"
            " image_pattern and label_pattern belong together"
        )
    if not folder.is_dir():
        raise DatalistError(f"dataset_dir {folder}: there is no such folder")
    parts = re.split(r"(\{case\}|\*)", pattern)
    expression = re.compile(
        "".join({CASE: "(?P<case>[^/]+)", "*": "[^/]*"}.get(part) or re.escape(part) for part in parts)
    )
    anything = "".join("*" if part in (CASE, "*") else escape(part) for part in parts)
    found = {}
    for path in sorted(folder.glob(anything)):
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        if match and not path.name.startswith("."):
            found[path] = match["case"]
    if not found:
        there = sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/*") if path.is_file())[:4]
        raise DatalistError(
            f"{name}={pattern!r}: no such file in {folder}; there are {', '.join(there) or 'none'}, ..."
        )
    return by_case(found)
