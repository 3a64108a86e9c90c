"""Datalists of dermoscopy pictures and lesion masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from monai_lossext.data.checks import checked
from monai_lossext.data.datalists import SECTIONS, Datalist, log_counts
from monai_lossext.data.layouts import data_folder, read_layout
from monai_lossext.data.patterns import pairs_by_pattern
from monai_lossext.data.phantoms import cached_dermoscopy_phantoms
from monai_lossext.data.picture_checks import check_pictures
from monai_lossext.data.picture_layouts import SKIN_LESION_LAYOUTS
from monai_lossext.data.splits import checked_fractions, seeded_split, split_by_file


def skin_lesion_datalist(
    dataset_dir: str | os.PathLike[str],
    *,
    layout: str = "auto",
    image_pattern: str | None = None,
    label_pattern: str | None = None,
    split_file: str | os.PathLike[str] | None = None,
    seed: int = 0,
    fractions: Sequence[float] = (0.6, 0.1, 0.3),
    check: bool = True,
    skip_bad: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    synthetic_cases: int = 240,
    progress: bool | None = None,
) -> Datalist:
    """List the pictures and masks of a skin-lesion data set, split and checked, ready for MONAI's datasets.

    An official split is used as it is, and a part that was not downloaded is an empty list. A data set without a
    validation part is split at random by `fractions` instead (ISIC 2017 with its training part alone as well); where
    it has an official test part, that one stays and training and validation share the rest.

    Args:
        dataset_dir: folder of ISIC 2017, PH2, DermoFit or of `images/` and `masks/`; "synthetic" makes phantoms.
        layout: "isic2017", "ph2", "dermofit" or "plain" where "auto" would not find it.
        image_pattern: in place of a layout, where images lie in the folder, with `{case}` for the case's name, as
            ``images/{case} photo.jpg``; see :func:`monai_lossext.data.patterns.pairs_by_pattern`.
        label_pattern: the same for their masks.
        split_file: YAML or JSON with lists of case names under "training", "validation" and "testing"; it replaces
            any other split.
        seed: of the random split, and of the phantoms.
        fractions: shares of training, validation and testing in the random split; they add up to 1.
        check: decode every picture and mask before anything else starts.
        skip_bad: go on without bad files, with a warning that names them, instead of raising.
        cache_dir: where phantoms are kept; default: the environment variable MONAI_LOSSEXT_CACHE, or
            `~/.cache/monai_lossext`.
        synthetic_cases: how many phantoms to make.
        progress: show progress bars; None: on a terminal.

    Returns:
        ``{"training": [...], "validation": [...], "testing": [...]}``, each with items
        ``{"case": name, "image": path, "label": path}``, absolute paths, sorted by case.
        Masks may be saved as 0/1 or 0/255 and with soft borders: read them through
        :func:`monai_lossext.data.binary_mask`.

    Raises:
        DatalistError: a folder that does not exist or has no known layout (the message says what was looked for), a
            split file that does not fit, or bad files: missing, unreadable, of more than 8 bits per channel, TIFF that
            a tag wants turned, of another size, not binary. All of them are named at once.

    >>> datalist = skin_lesion_datalist("synthetic", synthetic_cases=4, cache_dir=getfixture("tmp_path"))
    >>> {section: len(items) for section, items in datalist.items()}
    {'training': 2, 'validation': 1, 'testing': 1}
    >>> sorted(datalist["training"][0])
    ['case', 'image', 'label']
    """
    shares = checked_fractions(fractions)
    folder = data_folder(
        dataset_dir, lambda: cached_dermoscopy_phantoms(synthetic_cases, seed, cache_dir=cache_dir, progress=progress)
    )
    if image_pattern is None and label_pattern is None:
        name, parts = read_layout(folder, SKIN_LESION_LAYOUTS, layout)
    else:
        name, parts = "patterns", {"training": pairs_by_pattern(folder, image_pattern, label_pattern)}

    if split_file is not None:
        datalist = split_by_file([item for part in parts.values() for item in part], Path(split_file).expanduser())
    elif parts.get("training") and "validation" not in parts:
        testing = 0.0 if "testing" in parts else shares[2]
        rest = shares[0] + shares[1] + testing
        datalist = seeded_split(parts["training"], seed, (shares[0] / rest, shares[1] / rest, testing / rest)) | {
            section: part for section, part in parts.items() if section == "testing"
        }
    else:
        datalist = {section: parts.get(section, []) for section in SECTIONS}

    datalist = checked(datalist, check_pictures, "pictures", check=check, skip_bad=skip_bad, progress=progress)
    log_counts(folder, name, datalist)
    return datalist
