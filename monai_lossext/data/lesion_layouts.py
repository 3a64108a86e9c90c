"""The folder layouts in which scans of several channels and the masks of lesions in them are distributed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os.path import normpath
from pathlib import Path

from monai_lossext.data.datalists import Datalist
from monai_lossext.data.layouts import Layout, by_case, without_ending
from monai_lossext.data.volume_layouts import with_subjects
from monai_lossext.scripts.volume_files import CHANNELS, PREPROCESSED, channel_of, stem_of, suffix_of

Channels = Sequence[Sequence[str]]

WMH_MASK, WMH_SCANS = "wmh", ("FLAIR", "T1")
OTHER_PATHOLOGY = 2  # label of what does not count in the WMH challenge
LABEL_ENDINGS = tuple(
    f"{separator}{name}" for name in ("lesions", "lesion", "seg", "mask", "wmh") for separator in "_-"
)
FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))
DEPTHS = ("*", "*/*", "*/*/*")  # below the folder of a data set; all of it could be a whole disk


def lesion_layouts(channels: Channels = CHANNELS) -> dict[str, Layout]:
    """The layouts, by name, of cases with such channels, as :func:`.channel_of` knows them."""
    names = [channel[0] for channel in channels]
    files = ", ".join(f"CASE_{name}.nii.gz" for name in names)
    folders = " or ".join(f"{images}/ and {labels}/" for images, labels in FOLDERS)
    return {
        "wmh": Layout("SITE/SUBJECT/pre/FLAIR.nii.gz and T1.nii.gz, SITE/SUBJECT/wmh.nii.gz", partial(_wmh, channels)),
        "channels": Layout(f"{folders} with {files} and the mask CASE.nii.gz", partial(_two_folders, channels)),
        "lesions": Layout(
            f"{files} and the mask CASE_lesions.nii.gz (or _seg, _mask), together or in folders",
            partial(_named, channels),
        ),
    }


def _wmh(channels: Channels, folder: Path) -> Datalist:
    subjects = sorted(path.parent for depth in DEPTHS for path in folder.glob(f"{depth}/{PREPROCESSED}"))
    case_of = {subject: f"{subject.parent.name}_{subject.name}" for subject in subjects}
    masks = {
        path: case for subject, case in case_of.items() for path in subject.glob(f"{WMH_MASK}.*") if suffix_of(path)
    }
    scans = {path: case for subject, case in case_of.items() for path in (subject / PREPROCESSED).iterdir()}
    names = [next((name for name in channel if name in WMH_SCANS), channel[0]) for channel in channels]
    named = [[name, *channel] for name, channel in zip(names, channels, strict=True)]
    return _cases(named, scans, masks, names=("{channel}", WMH_MASK), places=(PREPROCESSED, "..")) if masks else {}


def _two_folders(channels: Channels, folder: Path) -> Datalist:
    for images, labels in ((folder / first, folder / second) for first, second in FOLDERS):
        scans = _own_cases(channels, images.iterdir()) if images.is_dir() and labels.is_dir() else {}
        found = {channel_of(path, channels) for path in scans}
        if len({number for _, number in filter(None, found)}) >= min(2, len(channels)):  # else they may be heads
            masks = {path: without_ending(stem_of(path), LABEL_ENDINGS) for path in labels.iterdir() if suffix_of(path)}
            places = (f"../{images.name}", f"../{labels.name}")
            return _cases(channels, scans, masks, names=("{case}_{channel}", "{case}"), places=places)
    return {}


def _named(channels: Channels, folder: Path) -> Datalist:
    files = [path for depth in DEPTHS for path in folder.glob(depth) if suffix_of(path)]
    scans = _own_cases(channels, files)
    masks = {
        path: without_ending(stem_of(path), LABEL_ENDINGS) for path in files if stem_of(path).endswith(LABEL_ENDINGS)
    }
    return _cases(channels, scans, masks) if set(scans.values()) & set(masks.values()) else {}


def _own_cases(channels: Channels, files: Iterable[Path]) -> dict[Path, str]:
    """The files that are channels, with the cases that their names begin with."""
    named = {path: channel_of(path, channels) for path in files}
    return {path: found[0] for path, found in named.items() if found}


def _cases(
    channels: Channels,
    scans: Mapping[Path, str],
    masks: Mapping[Path, str],
    names: tuple[str, str] = ("{case}_{channel}", "{case}_lesions"),
    places: tuple[str, str] = (".", "."),
) -> Datalist:
    """Put scans and masks together by their cases.

    Args:
        channels: of a case.
        scans: files with their cases; those that are no channel are left out.
        masks: likewise.
        names: of a scan and a mask that are missing, without suffix.
        places: of scans seen from the folder of a mask, and of masks seen from that of a scan.
    """
    scans, masks = ({path: files[path] for path in sorted(files) if path.name[0] != "."} for files in (scans, masks))
    number_of = {path: found[1] for path in scans if (found := channel_of(path, channels))}
    scan_of = [
        by_case({path: scans[path] for path in number_of if number_of[path] == number})
        for number in range(len(channels))
    ]
    mask_of = by_case(masks)
    items = []
    for case in sorted(set(mask_of).union(*scan_of)):
        scan = next((files[case] for files in scan_of if case in files), None)
        images = scan.parent if scan else mask_of[case].parent / places[0]
        image = [
            str(files.get(case, normpath(images / f"{names[0].format(case=case, channel=channel[0])}.nii.gz")))
            for files, channel in zip(scan_of, channels, strict=True)
        ]
        mask = mask_of.get(case) or normpath(images / places[1] / f"{names[1].format(case=case)}.nii.gz")
        items.append({"case": case, "image": image, "label": str(mask)})
    return {"training": with_subjects(items)}


LESION_LAYOUTS = lesion_layouts()
