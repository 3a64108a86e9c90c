"""The folder layouts in which heads and the masks of their brains are distributed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from glob import escape
from pathlib import Path

from monai_lossext.data.datalists import Datalist, Item
from monai_lossext.data.layouts import Layout, by_case, folder_pair, paired, without_ending
from monai_lossext.data.volumes import volume_stems
from monai_lossext.scripts.volume_files import MASK_ENDINGS

NFBS_FOLDER = "NFBS_Dataset"
BIDS_FOLDERS = ("sub-*", "sub-*/anat", "sub-*/ses-*", "sub-*/ses-*/anat")
IMAGE_ENDING = "_T1w"


def _nfbs(folder: Path) -> Datalist:
    root = folder / NFBS_FOLDER if (folder / NFBS_FOLDER).is_dir() else folder
    subjects = [path for path in root.glob("A*") if any(path.glob(f"sub-{escape(path.name)}_*{IMAGE_ENDING}.nii*"))]
    return _named(subjects, f"{IMAGE_ENDING}_brainmask")


def _bids(folder: Path) -> Datalist:
    subjects = [path for pattern in BIDS_FOLDERS for path in folder.glob(pattern) if path.is_dir()]
    return _named([folder, *subjects], "_brainmask")


def _volumes(folder: Path) -> Datalist:
    images, labels = folder / "images", folder / "labels"
    if not (images.is_dir() and labels.is_dir()):
        return {}
    endings = ("", *MASK_ENDINGS, "_mask")
    return {"training": with_subjects(folder_pair(images, labels, volume_stems, endings, (".nii.gz", ".nii.gz")))}


def _named(folders: Iterable[Path], mask_ending: str) -> Datalist:
    """Pair the T1-weighted images and the masks of brains that lie in the same folder."""
    items: list[Item] = []
    recognised = False
    for folder in sorted(folders):
        stems = volume_stems(folder)
        images = {path: stem.removesuffix(IMAGE_ENDING) for path, stem in stems.items() if stem.endswith(IMAGE_ENDING)}
        labels = {
            path: without_ending(stem, MASK_ENDINGS) for path, stem in stems.items() if stem.endswith(MASK_ENDINGS)
        }
        recognised = recognised or not set(images.values()).isdisjoint(labels.values())
        expected = ((folder, f"{IMAGE_ENDING}.nii.gz"), (folder, f"{mask_ending}.nii.gz"))
        items += paired(by_case(images), by_case(labels), *expected)
    by_case({Path(item["image"]): item["case"] for item in items})  # one scan in two folders is an error
    return {"training": with_subjects(items)} if recognised else {}


def with_subjects(items: Iterable[Item]) -> list[Item]:
    """Add to items whose head it is: `sub-01` of the case `sub-01_ses-2`, `BraTS-GLI-00001` of `BraTS-GLI-00001-000`.

    Other cases are subjects of their own.
    """
    return [{"case": item["case"], "subject": _subject(item["case"]), **item} for item in items]


def _subject(case: str) -> str:
    named = re.match(r"sub-[A-Za-z0-9]+|BraTS-[A-Za-z]+-[0-9]+", case)
    return named[0] if named else case


HEAD_LAYOUTS = {
    "nfbs": Layout(f"{NFBS_FOLDER}/A000xxxxx with sub-A000xxxxx_*_T1w.nii.gz and ..._T1w_brainmask.nii.gz", _nfbs),
    "bids": Layout("sub-*_T1w.nii.gz and sub-*_brainmask.nii.gz, together or in sub-*[/ses-*][/anat]", _bids),
    "volumes": Layout("images/ and labels/ with volumes of the same names (or name_brainmask, name_mask)", _volumes),
}
