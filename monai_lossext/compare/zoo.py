"""Train and score a bundle of the model zoo's layout, as ``python -m monai_lossext.compare.zoo`` in a run's folder.

Such a bundle has in `configs/train.json` (or .yaml) a trainer `train#trainer` that validates with `validate#evaluator`
and does not score case by case. Its own `run`, `initialize` and checkpoints are not used: here the seed is set, the
best weights on the validation cases are kept as `models/best.pt`, and the evaluator's output is scored class by class.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from fire.parser import DefaultParseValue
from ignite.engine import Events
from monai.bundle.config_parser import ConfigParser
from monai.bundle.utils import merge_kv
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.engines import Workflow
from monai.utils import set_determinism
from torch import Tensor

from monai_lossext.compare.plan import PARTS
from monai_lossext.engines import end_with_cause
from monai_lossext.files import replace_file
from monai_lossext.handlers import EpochSeed, RunCheckpoints, RunHistory, picture_metrics, volume_metrics
from monai_lossext.scripts.weights import read_weights

TRAINER, EVALUATOR = "train#trainer", "validate#evaluator"
OWN = ("run_folder", "seed", "section", "resume")  # of the command line, beside the bundle's keys


def main() -> None:
    """Read the command line as MONAI's bundles do, and train or evaluate."""
    end_with_cause()
    stage, *rest = sys.argv[1:]
    parser, own = parse(rest)
    folder = Path(own["run_folder"])
    if stage == "train":
        train(parser, folder, int(own["seed"]), own.get("resume") == "True")
    else:
        evaluate(parser, folder, own["section"])


def parse(arguments: list[str]) -> tuple[ConfigParser, dict[str, str]]:
    """Merge the config files and values of a command line and set the seed; return also the values of `OWN`."""
    values = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    parser, files = ConfigParser({}), json.loads(values.pop("config_file"))
    own = {key: values.pop(key) for key in OWN if key in values} if "run_folder" in values else {}
    sys.path.insert(0, values["bundle_root"])  # the bundle's own scripts
    os.chdir(values["bundle_root"])
    for path in files:
        for key, value in ConfigParser.load_config_file(path).items():
            merge_kv(parser, key, value)
    seed = (own or values).get("seed", "0")
    for key, value in (values | ({"seed": seed} if "seed" in parser else {})).items():
        merge_kv(parser, key, DefaultParseValue(value))
    set_determinism(int(seed))
    return parser, own


def train(parser: ConfigParser, folder: Path, seed: int, resume: bool) -> None:
    """Train, and keep history.csv, models/best.pt and models/last.pt in the run's folder."""
    trainer, evaluator = (parser.get_parsed_content(key) for key in (TRAINER, EVALUATOR))
    if trainer.loss_function is not parser.get_parsed_content("loss"):
        sys.exit("the trainer's loss_function is not @loss: the losses of the study would change nothing")
    if evaluator.state.key_metric_name is None:
        sys.exit("validate#evaluator has no key_val_metric, by which the best weights are chosen")
    schedules = [
        handler.lr_scheduler
        for handler in parser.get_parsed_content("train#handlers", default=[])
        if hasattr(handler, "lr_scheduler")
    ]
    scores = [
        name
        for kind in ("key_val_metric", "additional_metrics")
        for name in parser.get_parsed_content(f"{EVALUATOR}#{kind}", default=None) or ()
    ]
    models = folder / "models"
    # After the trainer's own handlers, that validates among them.
    RunHistory(folder / "history.csv", evaluator, trainer.optimizer, scores).attach(trainer)
    schedule = schedules[0] if schedules else None
    RunCheckpoints(models, trainer.network, trainer.optimizer, schedule, evaluator, resume).attach(trainer)
    EpochSeed(seed, trainer.data_loader.dataset).attach(trainer)
    trainer.run()
    if not (models / "best.pt").is_file():
        sys.exit("no epoch was validated, so there are no best weights: lower the interval of the validation")


def evaluate(parser: ConfigParser, folder: Path, section: str) -> None:
    """Score the best weights case by case."""
    if section == "testing":
        parser[PARTS["validation"]] = parser.get_parsed_content(PARTS["testing"])
    evaluator = parser.get_parsed_content(EVALUATOR)
    evaluator.network.load_state_dict(read_weights(folder / "models" / "best.pt"))
    rows: list[dict[str, Any]] = []
    names = [case_name(item) for item in parser.get_parsed_content(PARTS["validation"])]
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, scorer(names, rows))
    evaluator.run()
    (folder / "evaluation").mkdir(exist_ok=True)
    replace_file(folder / "evaluation" / "cases.csv", pd.DataFrame(rows).to_csv(index=False))


def case_name(item: Any) -> str:
    """Name a case by the file of its label, or of its image."""
    value = item.get("label", item.get("image")) if isinstance(item, dict) else item
    value = value[0] if isinstance(value, list) else value
    name = Path(str(value)).name
    for ending in (".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".jpg", ".tif", ".tiff"):
        name = name.removesuffix(ending)
    return name


def scorer(names: list[str], rows: list[dict[str, Any]]) -> Callable[[Workflow], None]:
    """Return a handler that adds a row a case: the mean of its classes' scores, and each class's Dice and Jaccard."""

    def score(engine: Workflow) -> None:
        outputs = engine.state.output
        for output in outputs if isinstance(outputs, list) else [outputs]:
            case = names[len(rows)] if len(names) == len(set(names)) else f"{len(rows)} {names[len(rows)]}"
            rows.append({"case": case, "image": "", "label": "", **class_scores(output["pred"], output["label"])})

    return score


def class_scores(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Score masks (C, *S) of 0 and 1, or of class numbers where C is 1; a background channel is left out.

    Returns:
        The means over the classes of the scores of one mask, and "dice_1", "jaccard_1" and so on of each class where
        there are several.

    Raises:
        ValueError: the two are not of one shape, or hold anything but masks.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            f"pred is {tuple(prediction.shape)} and label {tuple(target.shape)}: the evaluator's postprocessing must"
            " give both the same channels"
        )
    spacing = affine_to_spacing(target.affine).tolist() if isinstance(target, MetaTensor) else [1.0] * 3
    here, there = (torch.as_tensor(mask.cpu()).double() for mask in (prediction, target))
    if not all(torch.equal(mask, mask.round()) and mask.min() >= 0 for mask in (here, there)):
        raise ValueError("pred or label is no mask: the evaluator's postprocessing must make masks of its output")
    if len(here) == 1 and max(here.max(), there.max()) > 1:
        classes = range(1, int(max(here.max(), there.max())) + 1)
        pairs = {number: ((here == number).double(), (there == number).double()) for number in classes}
    else:
        background = len(here) > 1 and bool((there.sum(0) == 1).all())  # one-hot: the first channel is the rest
        pairs = {
            number: (here[channel : channel + 1], there[channel : channel + 1])
            for number, channel in enumerate(range(int(background), len(here)), start=1)
        }
    found = {}
    for number, (mask, truth) in pairs.items():
        if mask.ndim == 4:
            scores = volume_metrics(mask[None], truth[None], spacing[:3])
        else:
            scores = picture_metrics(mask[None], truth[None])
        found[number] = {name: value.item() for name, value in scores.items()}
    table = pd.DataFrame(found)
    row = {str(name): float(value) for name, value in table.mean(axis=1).items()}  # of the classes that have a score
    if len(found) > 1:
        row |= {f"{name}_{number}": found[number][name] for name in ("dice", "jaccard") for number in found}
    return row


if __name__ == "__main__":
    main()
