"""What stands in several configs of a bundle, as MONAI's users expect it there, is the same in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = sorted(path.name for path in BUNDLES.iterdir())
SHARED = ("network_def", "image_size", "interpolation", "spacing", "slice_size", "patch_size", "overlap", "channels")
SHARED += ("intensity_mean", "intensity_std")


def config(bundle: str, name: str) -> dict[str, Any]:
    """A config with the names that this package has for the modules that inference finds in the bundle."""
    text = (BUNDLES / bundle / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text.replace("monai_lossext.scripts.", "scripts."))


def by_kind(transforms: list[dict[str, Any]], *, key: str) -> list[dict[str, Any]]:
    """The transforms of one key, without those that read files: these differ."""
    loaders = ("Load", "EnsureChannelFirst", "EnsureType")
    return [
        step
        for step in transforms
        if step["keys"] == key and not step["_target_"].rpartition(".")[2].startswith(loaders)
    ]


@pytest.mark.parametrize("bundle", NAMES)
def test_network_and_preparation(bundle: str) -> None:
    train, inference = config(bundle, "train"), config(bundle, "inference")
    for name in SHARED:
        assert train.get(name) == inference.get(name), name
    steps = train["train"].get("deterministic_transforms") or train["train"]["preprocessing"]["transforms"]
    mine, others = (by_kind(part, key="image") for part in (steps, inference["preprocessing"]["transforms"]))
    assert mine == others
    assert len(mine) > 1


@pytest.mark.parametrize("bundle", NAMES)
def test_preparation_that_is_stored(bundle: str) -> None:
    """The same values; the places in the two lists differ by one, the second step of reading files in inference."""
    train, inference = (config(bundle, name)["preparation"] for name in ("train", "inference"))
    assert train.keys() == inference.keys()
    for name, value in inference.items():
        places = [value] if isinstance(value, str) else value
        for mine, other in zip([train[name]] if isinstance(value, str) else train[name], places, strict=True):
            if "::" in other:
                _, index, argument = other.rsplit("::", 2)
                assert mine.endswith(f"::{int(index) - 1}::{argument}"), name
            else:
                assert mine == other


@pytest.mark.parametrize("bundle", [name for name in NAMES if not name.startswith("skin")])
def test_inferer_and_the_way_back(bundle: str) -> None:
    train, inference, evaluate = (config(bundle, name) for name in ("train", "inference", "evaluate"))
    assert train["validate"]["inferer"] == inference["inferer"]
    back = yaml.safe_dump(evaluate["validate::postprocessing"]).replace("validate::preprocessing", "preprocessing")
    steps = yaml.safe_load(back)["transforms"]
    own = ("CopyItemsd", "MaskIntensityd")  # of scores
    assert [step for step in steps if step["_target_"] not in own] == inference["postprocessing"]["transforms"]


@pytest.mark.parametrize(
    ("bundle", "name"),
    [
        ("skin_lesion_segmentation", "paper"),
        ("skull_stripping_2d", "paper"),
        ("skull_stripping_3d", "short"),
        ("white_matter_lesion_3d", "brats"),
    ],
)
def test_protocols(bundle: str, name: str) -> None:
    """What inference reads of a protocol is what training read."""
    training, model = config(bundle, f"protocol/{name}"), config(bundle, f"protocol/{name}_model")
    assert model.items() <= training.items()
    values = {"network_def", "interpolation", "spacing", "slice_size", "patch_size", "image_size"}
    assert values & training.keys() <= model.keys()


def test_what_both_bundles_for_heads_say_is_the_same() -> None:
    """All of train.yaml and inference.yaml but what slices and patches need differently."""
    first, second = (config(name, "train") for name in NAMES if name.startswith("skull"))
    differing = {"epochs", "slices", "patches", "spacing", "slice_size", "patch_size", "overlap", "network_def"}
    differing |= {"loss", "lr_scheduler", "augmentation", "train", "validate", "precision"}
    for config_of_one in (first, second):
        config_of_one["initialize"] = [step for step in config_of_one["initialize"] if "@precision" not in step]
    assert {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)} <= differing
    for part, own in (("train", {"crop_transforms", "handlers", "inferer"}), ("validate", {"inferer"})):
        assert first[part].keys() == second[part].keys()
        assert {key for key in first[part] if first[part][key] != second[part][key]} == own
    assert len(first["augmentation"]) == len(second["augmentation"])
    first, second = (config(name, "inference") for name in NAMES if name.startswith("skull"))
    keys = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    assert keys <= {"spacing", "slice_size", "patch_size", "overlap", "network_def", "inferer"}
