"""Datalists of heads and the masks of their brains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from monai_lossext.data.checks import checked
from monai_lossext.data.datalists import Datalist, DatalistError, log_counts
from monai_lossext.data.layouts import data_folder, read_layout
from monai_lossext.data.phantoms import cached_head_phantoms
from monai_lossext.data.splits import checked_fractions, fold_split, seeded_split, split_by_file
from monai_lossext.data.volume_checks import check_brain
from monai_lossext.data.volume_layouts import HEAD_LAYOUTS


def skull_stripping_datalist(
    dataset_dir: str | os.PathLike[str],
    *,
    layout: str = "auto",
    split_file: str | os.PathLike[str] | None = None,
    fold: int | None = None,
    folds: int | None = None,
    seed: int = 0,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    check: bool = True,
    skip_bad: bool = False,
    brain_ml: tuple[float, float] | None = (300, 2500),
    cache_dir: str | os.PathLike[str] | None = None,
    synthetic_cases: int = 40,
    progress: bool | None = None,
) -> Datalist:
    """List T1-weighted heads and the masks of their brains, split by subject and checked, ready for MONAI's datasets.

    All scans of a subject are in the same section. Without `split_file` and `fold` the subjects are divided at random
    by `fractions`.

    Args:
        dataset_dir: folder of NFBS, of files named as in BIDS, or of `images/` and `labels/`; "synthetic" makes
            phantoms.
        layout: "nfbs", "bids" or "volumes" where "auto" would not find it.
        split_file: YAML or JSON with lists of cases or subjects under "training", "validation" and "testing".
        fold: the fold of subjects, from 0, that is left out for testing; training and validation share the others by
            the first two `fractions`, and few subjects may leave none for validation.
        folds: how many folds; None: as many as there are subjects, which leaves out one subject at a time.
        seed: of the random split or folds, and of the phantoms.
        fractions: shares of training, validation and testing in the random split; they add up to 1.
        check: read every volume and mask before anything else starts.
        skip_bad: go on without bad files, with a warning that names them, instead of raising.
        brain_ml: smallest and largest plausible volume of a brain, in ml; None: any.
        cache_dir: where phantoms are kept; default: the environment variable MONAI_LOSSEXT_CACHE, or
            `~/.cache/monai_lossext`.
        synthetic_cases: how many phantoms to make.
        progress: show progress bars; None: on a terminal.

    Returns:
        ``{"training": [...], "validation": [...], "testing": [...]}``, each with items
        ``{"case": name, "subject": name, "image": path, "label": path}``, absolute paths, sorted by case.

    Raises:
        DatalistError: a folder that does not exist or has no known layout (the message says what was looked for), a
            split or fold that does not fit, a subject in two sections, or bad files. These are all named at once:
            missing, truncated or unreadable; not of 3 dimensions (axes of length 1 at the end do not count); without
            orientation; image and mask on different grids (shape, orientation, or corners more than a tenth of a
            voxel apart); voxels that are not finite; a mask with other values than 0 and 1; a brain of implausible
            size.

    >>> datalist = skull_stripping_datalist("synthetic", synthetic_cases=4, cache_dir=getfixture("tmp_path"))
    >>> {section: len(items) for section, items in datalist.items()}
    {'training': 2, 'validation': 1, 'testing': 1}
    >>> sorted(datalist["training"][0])
    ['case', 'image', 'label', 'subject']
    """
    shares = checked_fractions(fractions)
    if split_file is not None and fold is not None:
        raise DatalistError("split_file and fold are two ways to split; give one of them")
    if folds is not None and fold is None:
        raise DatalistError(f"folds={folds} needs fold, the number of the one to leave out")
    folder = data_folder(
        dataset_dir, lambda: cached_head_phantoms(synthetic_cases, seed, cache_dir=cache_dir, progress=progress)
    )
    name, parts = read_layout(folder, HEAD_LAYOUTS, layout)
    items = parts["training"]

    if split_file is not None:
        datalist = split_by_file(items, Path(split_file).expanduser())
    elif fold is not None:
        datalist = fold_split(items, fold, folds, seed, shares)
    else:
        datalist = seeded_split(items, seed, shares)

    check_item = partial(check_brain, brain_ml=brain_ml)
    datalist = checked(datalist, check_item, "volumes", check=check, skip_bad=skip_bad, progress=progress)
    log_counts(folder, name, datalist)
    return datalist
