"""Which losses to try first on a data set and which to leave for later, and the study that would decide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from monai_lossext.advice.labels import Labels, find_labels
from monai_lossext.advice.profile import IGNORED, Profile, profile_of
from monai_lossext.advice.rules import COMPACT, RULES, Rule
from monai_lossext.bundle_folders import bundles_dir
from monai_lossext.data.lesion_layouts import OTHER_PATHOLOGY
from monai_lossext.data.volume_layouts import HEAD_LAYOUTS
from monai_lossext.losses import catalogue

TRIED = 3
BASELINE = "SoftDiceLoss"
SEEDS = 3


@dataclass(frozen=True)
class Advice:
    """One loss with the rule that speaks for it or against it, and the property that was measured."""

    loss: str
    rule: Rule
    property: str


@dataclass(frozen=True)
class Recommendation:
    """What is advised for a data set.

    Attributes:
        labels: what was read.
        profile: what the labels look like.
        first: the losses to try first, the most promising one in front.
        avoid: the losses to leave for later, each once.
    """

    labels: Labels
    profile: Profile
    first: list[Advice]
    avoid: list[Advice]


def recommend(source: str | Path, progress: bool | None = None) -> Recommendation:
    """Read the labels of a data set and advise which losses to try first.

    Args:
        source: a datalist as JSON or the folder of a data set, see :func:`monai_lossext.advice.labels.find_labels`.
        progress: show a progress bar; None: on a terminal.

    Raises:
        DatalistError: there are no labels, or one of them cannot be read; the message names the file.
    """
    labels = find_labels(Path(source).expanduser().absolute())
    profile = profile_of(labels.files, progress, OTHER_PATHOLOGY if labels.layout == "wmh" else IGNORED)
    return Recommendation(labels, profile, *advise(profile))


def advise(profile: Profile) -> tuple[list[Advice], list[Advice]]:
    """Apply the rules: return the losses to try first, and those to leave for later."""
    applying = [(rule, rule.property(profile)) for rule in RULES if rule.applies(profile)]
    avoid: dict[str, Advice] = {}
    for rule, found in applying:
        for loss in rule.avoid:
            avoid.setdefault(loss, Advice(loss, rule, found))
    first: dict[str, Advice] = {}
    for rule, found in applying:
        for loss in rule.first:
            if loss not in avoid and len(first) < TRIED:
                first.setdefault(loss, Advice(loss, rule, found))
    return list(first.values()), list(avoid.values())


def choose_bundle(recommendation: Recommendation) -> Path | None:
    """Find the bundle of this package that is nearest to the data; None where it has none of that kind."""
    profile = recommendation.profile
    if len(profile.classes) > 1:
        return None  # all of them tell one class from the background
    if not profile.volumes and profile.border > COMPACT:
        return None  # vessels and cells would be lost in its small pictures
    name = "skin_lesion_segmentation"
    if profile.volumes:
        brains = recommendation.labels.layout in HEAD_LAYOUTS and profile.objects == 1 and profile.foreground > 0.02
        name = "skull_stripping_3d" if brains else "white_matter_lesion_3d"
    bundle = bundles_dir() / name
    return bundle if (bundle / "configs" / "train.yaml").is_file() else None


def study_file(recommendation: Recommendation, source: str | Path, bundle: str | Path | None = None) -> str:
    """Write the study that would decide between the losses to try first, as YAML.

    Args:
        recommendation: what :func:`recommend` returned.
        source: what it was called with.
        bundle: folder of the bundle to train; by default the nearest of this package.

    Returns:
        A study file for ``python -m monai_lossext compare``. A loss for which the bundle has no overlay is written out.
    """
    chosen = Path(bundle).absolute() if bundle else choose_bundle(recommendation)
    overlays = {path.stem for path in (chosen / "configs" / "loss").glob("*.yaml")} if chosen else set()
    entries = {entry.name: entry for entry in catalogue()}
    names = list(dict.fromkeys([*(advice.loss for advice in recommendation.first), BASELINE]))
    losses: list[Any] = [
        {"name": name, **entries[name].config} if entries[name].overlay not in overlays else name for name in names
    ]
    folder = Path(source).expanduser().absolute()
    if folder.is_file():
        folder = folder.parent
    study = {
        **({"bundle": str(chosen)} if chosen else {}),
        "losses": losses,
        "dataset_dir": str(folder),
        "output": "study",
        "seeds": SEEDS,
    }
    comments = [f"{advice.loss}: {advice.property}" for advice in recommendation.first]
    if recommendation.labels.layout in ("datalist", "labels"):
        comments.append("dataset_dir: the folder of the data set, in a layout that the bundle reads")
    if chosen is None:
        comments.append(
            "bundle: is missing; the folder of the bundle to train, this package has none for such data here"
        )
    # A comment ends with its line, whatever a name holds.
    lines = [f"# {' '.join(comment.split())}" for comment in comments]
    return "\n".join([*lines, yaml.safe_dump(study, sort_keys=False, allow_unicode=True)])
