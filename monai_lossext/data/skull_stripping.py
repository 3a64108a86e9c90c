"""Datalists of heads and the masks of their brains."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

from monai_lossext.data.checks import checked
from monai_lossext.data.datalists import Datalist, log_counts
from monai_lossext.data.layouts import data_folder, read_layout
from monai_lossext.data.patterns import pairs_by_pattern
from monai_lossext.data.phantoms import cached_head_phantoms
from monai_lossext.data.splits import checked_split
from monai_lossext.data.volume_checks import check_brain
from monai_lossext.data.volume_layouts import HEAD_LAYOUTS, with_subjects


def skull_stripping_datalist(
    dataset_dir: str | os.PathLike[str],
    *,
    layout: str = "auto",
    image_pattern: str | None = None,
    label_pattern: str | None = None,
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
        image_pattern: in place of a layout, where images lie in the folder, with `{case}` for the case's name, as
            ``images/{case} photo.jpg``; see :func:`monai_lossext.data.patterns.pairs_by_pattern`.
        label_pattern: the same for their masks.
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
            orientation, or in a unit of length that cannot be true; image and mask on different grids (shape,
            orientation, or corners more than a tenth of a voxel apart); voxels that are not finite, complex or
            colours; a mask with other values than 0 and 1; a brain of implausible size.

    >>> datalist = skull_stripping_datalist("synthetic", synthetic_cases=4, cache_dir=getfixture("tmp_path"))
    >>> {section: len(items) for section, items in datalist.items()}
    {'training': 2, 'validation': 1, 'testing': 1}
    >>> sorted(datalist["training"][0])
    ['case', 'image', 'label', 'subject']
    """
    split = checked_split(split_file, fold, folds, seed, fractions)
    folder = data_folder(
        dataset_dir, lambda: cached_head_phantoms(synthetic_cases, seed, cache_dir=cache_dir, progress=progress)
    )
    if image_pattern is None and label_pattern is None:
        name, parts = read_layout(folder, HEAD_LAYOUTS, layout)
        items = parts["training"]
    else:
        name, items = "patterns", with_subjects(pairs_by_pattern(folder, image_pattern, label_pattern))

    check_item = partial(check_brain, brain_ml=brain_ml)
    datalist = checked(split.of(items), check_item, "volumes", check=check, skip_bad=skip_bad, progress=progress)
    log_counts(folder, name, datalist)
    return datalist
