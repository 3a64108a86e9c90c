"""The folder layouts in which skin-lesion data sets are distributed."""

from __future__ import annotations

from pathlib import Path

from monai_lossext.data.datalists import Datalist, Item
from monai_lossext.data.layouts import Layout, by_case, folder_pair, paired
from monai_lossext.data.pictures import picture_stems
from monai_lossext.scripts.files import composed

PH2_FOLDER = "PH2 Dataset images"


def _isic2017(folder: Path) -> Datalist:
    datalist = {}
    for section, part in {"training": "Training", "validation": "Validation", "testing": "Test_v2"}.items():
        pictures, masks = folder / f"ISIC-2017_{part}_Data", folder / f"ISIC-2017_{part}_Part1_GroundTruth"
        if pictures.is_dir() or masks.is_dir():
            datalist[section] = folder_pair(pictures, masks, picture_stems, ("_segmentation",), (".jpg", ".png"))
    return datalist


def _ph2(folder: Path) -> Datalist:
    root = folder / PH2_FOLDER if (folder / PH2_FOLDER).is_dir() else folder
    cases = sorted(path.parent.name for path in root.glob("IMD*/IMD*_Dermoscopic_Image"))
    items = [
        {
            "case": case,
            "image": str(root / case / f"{case}_Dermoscopic_Image" / f"{case}.bmp"),
            "label": str(root / case / f"{case}_lesion" / f"{case}_lesion.bmp"),
        }
        for case in cases
    ]
    return {"training": items} if items else {}


def _plain(folder: Path) -> Datalist:
    pictures, masks = folder / "images", folder / "masks"
    if not (pictures.is_dir() and masks.is_dir()):
        return {}
    endings = ("", "_mask", "_segmentation")
    return {"training": folder_pair(pictures, masks, picture_stems, endings, (".png", ".png"))}


def _dermofit(folder: Path) -> Datalist:
    groups = []
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        stems = picture_stems(group)
        labels = {path: stem.removesuffix("mask") for path, stem in stems.items() if stem.endswith("mask")}
        images = {path: stem for path, stem in stems.items() if path not in labels}
        groups.append((group, images, labels))
    if all(set(images.values()).isdisjoint(labels.values()) for _, images, labels in groups):
        return {}
    items: list[Item] = []
    for group, images, labels in groups:
        # Names are unique within a class only, as far as the layout promises.
        prefix = f"{composed(group.name)}_"
        items += paired(by_case(images), by_case(labels), (group, ".png"), (group, "mask.png"), prefix)
    by_case({Path(item["image"]): item["case"] for item in items})  # "a" + "b_c" is "a_b" + "c"
    return {"training": items}


SKIN_LESION_LAYOUTS = {
    "isic2017": Layout("ISIC-2017_{Training,Validation,Test_v2}_Data and ..._Part1_GroundTruth", _isic2017),
    "ph2": Layout(f"'{PH2_FOLDER}' with IMDxxx/IMDxxx_Dermoscopic_Image and IMDxxx/IMDxxx_lesion", _ph2),
    "plain": Layout("images/ and masks/ with the same names (or name_mask, name_segmentation)", _plain),
    "dermofit": Layout("one folder per class with X.png and Xmask.png", _dermofit),
}
