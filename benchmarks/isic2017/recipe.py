"""Parts of the skin-lesion bundle's recipe, tried within the training pictures of ISIC 2017 alone.

    python benchmarks/isic2017/recipe.py train --dataset-dir /data/ISIC2017 --augmentation bundle
    python benchmarks/isic2017/recipe.py train --dataset-dir /data/ISIC2017 --augmentation strong
    python benchmarks/isic2017/recipe.py table

A third of the training pictures is kept back; 133 of the others choose the best epoch, the rest trains. One training
gives scores of its best, last and averaged weights, each with and without the mean over eight flips and turns. `train`
adds the score of every picture to `recipe.json`; `table` prints means and differences. The validation pictures are not
looked at.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ignite.engine import Events
from ignite.handlers import EMAHandler
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from torch import Tensor, nn

from monai_lossext.bundle_folders import find_bundle
from monai_lossext.data import skin_lesion_datalist
from monai_lossext.engines import AugmentedBatch, cases_of
from monai_lossext.scores import overlaps
from monai_lossext.scripts.weights import read_weights

RESULTS = Path(__file__).with_name("recipe.json")
CHOOSING = 133
MOMENTUM = 0.005  # of the average: weights of some 200 steps, six epochs


class ColouredBatch(AugmentedBatch):
    """Augments colours too: the saturation by 30 %, each channel's factor and shift by 0.1."""

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return picture and mask."""
        image, label = super().__call__(*args, **kwargs)
        grey = image.mean(1, keepdim=True)
        image = grey + (image - grey) * (1 + self._drawn(image, 1, 0.3))
        return image * (1 + self._drawn(image, 3, 0.1)) + self._drawn(image, 3, 0.1), label

    @staticmethod
    def _drawn(image: Tensor, channels: int, limit: float) -> Tensor:
        return ((2 * torch.rand(len(image), channels, 1, 1) - 1) * limit).to(image)


def train(dataset_dir: str, augmentation: str, epochs: int, precision: str) -> dict[str, list[float]]:
    """Train once and return the Jaccard index of every picture that was kept back, for each kind of weights."""
    bundle = find_bundle("skin_lesion_segmentation")
    cases = [item["case"] for item in skin_lesion_datalist(dataset_dir)["training"]]
    order = sorted(cases, key=lambda case: sha256(f"17/{case}".encode()).digest())
    others = [case for number, case in enumerate(order) if number % 3]
    names = {"training": others[CHOOSING:], "validation": others[:CHOOSING], "testing": order[::3]}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "split.yaml").write_text(yaml.safe_dump(names), encoding="utf-8")
        config = ConfigParser()
        config.read_config(str(bundle / "configs" / "train.yaml"))
        config.update(
            {
                "bundle_root": str(bundle),
                "dataset_dir": dataset_dir,
                "split_file": f"{folder}/split.yaml",
                "output_dir": f"{folder}/run",
                "epochs": epochs,
                "precision": precision,
                "loss": {"_target_": "monai_lossext.losses.MatthewsCorrelationLoss", "sigmoid": True},
            }
        )
        config.get_parsed_content("initialize")
        network, trainer = config.get_parsed_content("network"), config.get_parsed_content("train::trainer")
        if augmentation == "strong":
            trainer.prepare_batch = ColouredBatch(
                flip_prob=0.5, rotate_degrees=180, zoom=0.3, brightness=0.15, contrast=0.3
            )
        average = EMAHandler(network, momentum=MOMENTUM, handle_buffers="update")
        average.attach(trainer, event=Events.ITERATION_COMPLETED)
        trainer.run()
        best = copy.deepcopy(network)
        best.load_state_dict(read_weights(f"{folder}/run/models/best.pt"))
        kept_back = Dataset(
            cases_of(config.get_parsed_content("datalist"), "testing"),
            config.get_parsed_content("validate::preprocessing"),
        )
        networks = {"last": network, "averaged": average.ema_model, "best": best}
        return dict(scores(networks, DataLoader(kept_back, batch_size=40), precision))


def scores(networks: dict[str, nn.Module], loader: DataLoader, precision: str) -> Iterator[tuple[str, list[float]]]:
    """Yield the scores of all pictures for each network, as it is and averaged over flips and turns."""
    threshold = torch.tensor([0.5])
    dtype = getattr(torch, precision)
    for name, network in networks.items():
        network.eval()
        for kind, views in (("", 1), (", flips and turns", 8)):
            found: list[float] = []
            for batch in loader:
                with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
                    seen = [viewed(network, batch["image"], view) for view in range(views)]
                    probability = torch.stack(seen).float().mean(0)
                found += overlaps(probability, batch["label"], threshold).flatten().tolist()
            yield name + kind, [round(value, 5) for value in found]


def viewed(network: nn.Module, image: Tensor, view: int) -> Tensor:
    """Return probabilities by one of eight views of a picture, turned back."""
    axes = [axis for axis, bit in ((2, 1), (3, 2)) if view & bit]
    seen = image.transpose(2, 3) if view & 4 else image
    seen = torch.flip(seen, axes).contiguous(memory_format=torch.channels_last)
    probability = torch.flip(network(seen).sigmoid(), axes)
    return probability.transpose(2, 3) if view & 4 else probability


def table(results: Path) -> str:
    """Return means with standard errors, and differences to the bundle's recipe with 95 % intervals, over pictures."""
    found = {name: np.array(values) for name, values in json.loads(results.read_text(encoding="utf-8")).items()}
    reference = found["bundle: best"]
    lines = ["| augmentation: weights | Jaccard index | difference to the first |", "|---|---|---|"]
    for name in sorted(found, key=lambda name: (name != "bundle: best", name)):
        values, difference = found[name], found[name] - reference
        half = 1.96 * difference.std(ddof=1) / len(values) ** 0.5
        error = values.std(ddof=1) / len(values) ** 0.5
        beside = "–" if name == "bundle: best" else f"{difference.mean():+.4f} ± {half:.4f}"
        lines.append(f"| {name} | {values.mean():.4f} ± {error:.4f} | {beside} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("--dataset-dir")
    parser.add_argument("--augmentation", choices=("bundle", "strong"), default="bundle")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.what == "train":
        if given.dataset_dir is None:
            sys.exit("--dataset-dir: name the folder of ISIC 2017")
        done = train(given.dataset_dir, given.augmentation, given.epochs, given.precision)
        before = json.loads(given.results.read_text(encoding="utf-8")) if given.results.exists() else {}
        given.results.write_text(
            json.dumps(before | {f"{given.augmentation}: {name}": values for name, values in done.items()}),
            encoding="utf-8",
        )
    print(table(given.results))
