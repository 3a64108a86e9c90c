"""Datalists of scans with several channels and the masks of lesions in them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monai_lossext.data.checks import checked
from monai_lossext.data.datalists import Datalist, log_counts
from monai_lossext.data.layouts import data_folder, read_layout
from monai_lossext.data.lesion_layouts import lesion_layouts
from monai_lossext.data.patterns import cases_by_pattern
from monai_lossext.data.phantoms import cached_lesion_phantoms
from monai_lossext.data.splits import checked_split
from monai_lossext.data.volume_checks import check_lesions
from monai_lossext.data.volume_layouts import with_subjects
from monai_lossext.scripts.volume_files import CHANNELS, read_voxels


def white_matter_lesion_datalist(
    dataset_dir: str | os.PathLike[str],
    *,
    layout: str = "auto",
    channels: Sequence[Sequence[str]] = CHANNELS,
    label_values: Sequence[int] = (0, 1, 2),
    image_pattern: str | None = None,
    label_pattern: str | None = None,
    split_file: str | os.PathLike[str] | None = None,
    fold: int | None = None,
    folds: int | None = None,
    seed: int = 0,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    check: bool = True,
    skip_bad: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    synthetic_cases: int = 40,
    phantoms: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Datalist:
    """List scans of several channels and the masks of lesions, split by subject and checked, for MONAI's datasets.

    All scans of a subject are in the same section. Without `split_file` and `fold` the subjects are divided at random
    by `fractions`.

    Args:
        dataset_dir: folder of the WMH challenge 2017, of `images/` and `labels/` (or `imagesTr/` and `labelsTr/`), or
            of files named `CASE_FLAIR.nii.gz`, `CASE_T1w.nii.gz` and `CASE_lesions.nii.gz`; "synthetic" makes phantoms.
        layout: "wmh", "channels" or "lesions" where "auto" would not find it.
        channels: the names of each channel, with which names of files end, in the order of the network's input.
        label_values: that masks may hold.
        image_pattern: in place of a layout, where images lie in the folder, with `{case}` for the case's name and
            `{channel}` for one of a channel's names, as ``{case}/{channel}.nii.gz``.
        label_pattern: where the masks lie, with `{case}`.
        split_file: YAML or JSON with lists of cases or subjects under "training", "validation" and "testing".
        fold: the fold of subjects, from 0, that is left out for testing; training and validation share the others by
            the first two `fractions`.
        folds: how many folds; None: as many as there are subjects, which leaves out one subject at a time.
        seed: of the random split or folds, and of the phantoms.
        fractions: shares of training, validation and testing in the random split; they add up to 1.
        check: read every volume and mask before anything else starts.
        skip_bad: go on without bad files, with a warning that names them, instead of raising.
        cache_dir: where phantoms are kept; default: the environment variable MONAI_LOSSEXT_CACHE, or
            `~/.cache/monai_lossext`.
        synthetic_cases: how many phantoms to make.
        phantoms: further arguments of :func:`monai_lossext.data.write_lesion_phantoms`.
        progress: show progress bars; None: on a terminal.

    Returns:
        ``{"training": [...], "validation": [...], "testing": [...]}``, each with items
        ``{"case": name, "subject": name, "image": [paths of the channels], "label": path}``, absolute paths, sorted by
        case.

    Raises:
        DatalistError: as of :func:`.skull_stripping_datalist`; all channels of a case and its mask must lie on one
            grid, and masks have no other values than `label_values`.

    >>> cache = getfixture("tmp_path")
    >>> datalist = white_matter_lesion_datalist(
    ...     "synthetic", synthetic_cases=4, cache_dir=cache, phantoms={"size": [24, 28, 24], "lesions": 4}
    ... )
    >>> {section: len(items) for section, items in datalist.items()}
    {'training': 2, 'validation': 1, 'testing': 1}
    >>> len(datalist["training"][0]["image"])
    2
    """
    split = checked_split(split_file, fold, folds, seed, fractions)
    folder = data_folder(
        dataset_dir,
        lambda: cached_lesion_phantoms(
            synthetic_cases, seed, cache_dir=cache_dir, progress=progress, **(phantoms or {})
        ),
    )
    if image_pattern is None and label_pattern is None:
        name, parts = read_layout(folder, lesion_layouts(channels), layout)
        items = parts["training"]
    else:
        name = "patterns"
        items = with_subjects(cases_by_pattern(folder, image_pattern, label_pattern, channels))

    check_item = partial(check_lesions, label_values=tuple(label_values))
    datalist = checked(split.of(items), check_item, "volumes", check=check, skip_bad=skip_bad, progress=progress)
    log_counts(folder, name, datalist)
    return datalist


def channel_intensities(items: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the voxels of all scans that are not 0.

    Args:
        items: of a datalist, with "image".

    >>> cache = getfixture("tmp_path")
    >>> options = {"size": [24, 28, 24], "lesions": 4}
    >>> datalist = white_matter_lesion_datalist("synthetic", synthetic_cases=4, cache_dir=cache, phantoms=options)
    >>> [len(values) for values in channel_intensities(datalist["training"])]
    [2, 2]
    """
    sums = np.zeros((len(items[0]["image"]), 3))
    for item in items:
        for channel, path in enumerate(item["image"]):
            values = read_voxels(Path(path), np.float64)
            values = values[values != 0]
            sums[channel] += values.size, values.sum(), np.square(values).sum()
    mean = sums[:, 1] / sums[:, 0]
    return mean.tolist(), np.sqrt(sums[:, 2] / sums[:, 0] - mean**2).tolist()
