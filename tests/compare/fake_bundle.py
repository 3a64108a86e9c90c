"""Stands in for ``python -m monai.bundle run`` in tests: writes at once what a training and an evaluation would.

How good the masks are, and whether the command fails, is told by the loss overlay, a YAML file with the keys ``skill``
(pixels by which the outline is off), ``fail`` (``"train"``; ``"kill"``: itself after its first epoch, once;
``"worker"``: the process that started it likewise) and ``seconds`` of an epoch. The weights depend on every epoch, once
each, so a training that repeats or leaves out one of them ends with others.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

METRICS = ("jaccard", "dice", "mcc")


def main() -> None:
    values = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    folder = Path(values["output_dir"])
    with (folder / "calls.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")
    files = json.loads(values["config_file"])
    if files[-1].endswith("evaluate.yaml"):
        fold = (int(values["fold"]), int(values["folds"])) if "fold" in values else (0, 1)
        evaluate(folder, Path(values["dataset_dir"]), values["section"], *fold)
    else:
        train(folder, int(values["epochs"]), int(values["seed"]), Path(files[1]), values)


def train(folder: Path, epochs: int, seed: int, overlay: Path, values: dict[str, str]) -> None:
    resume = "resume" in values
    loss = yaml.safe_load(overlay.read_text(encoding="utf-8"))["loss"]
    models = folder / "models"
    models.mkdir(exist_ok=True)
    header = "epoch,train_loss,val_dice,val_jaccard,lr,seconds"
    state = {"rows": [header], "skill": float(loss["skill"]), "seed": seed}
    if "initial_weights" in values:
        state["skill"] += 0.1 * json.loads(Path(values["initial_weights"]).read_text(encoding="utf-8"))["skill"]
    if resume and (models / "last.pt").is_file():
        state = json.loads((models / "last.pt").read_text(encoding="utf-8"))
    elif (models / "last.pt").is_file():
        sys.exit("output_dir holds a run already")
    for epoch in range(len(state["rows"]), epochs + 1):
        time.sleep(loss.get("seconds", 0))
        state["skill"] += 0.01 * np.random.default_rng([seed, epoch]).random()
        score = (1 - 0.02 * state["skill"]) * (1 - np.exp(-epoch / 3))
        state["rows"].append(f"{epoch},{state['skill'] + 1 / epoch},{score},{score / (2 - score)},0.001,0.1")
        write(folder / "history.csv", "\n".join(state["rows"]) + "\n")
        write(models / "best.pt", json.dumps(state))
        write(models / "last.pt", json.dumps(state))
        if loss.get("fail") == "kill" and not resume:
            os.kill(os.getpid(), signal.SIGKILL)
        if loss.get("fail") == "worker" and not resume:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(60)  # it is to be ended before
    if loss.get("fail") == "train":
        print("reading pictures\nloss is <nan>")
        sys.exit(3)


def write(path: Path, text: str) -> None:
    path.with_name("partial").write_text(text, encoding="utf-8")
    os.replace(path.with_name("partial"), path)


def evaluate(folder: Path, dataset_dir: Path, section: str, fold: int, folds: int) -> None:
    model = json.loads((folder / "models" / "best.pt").read_text(encoding="utf-8"))
    generator = np.random.default_rng([round(1e6 * model["skill"]), model["seed"]])
    (folder / "evaluation" / "masks").mkdir(parents=True, exist_ok=True)
    with (folder / "evaluation" / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["case", "image", "label", *METRICS])
        for image in sorted((dataset_dir / section / "images").iterdir())[fold::folds]:
            label = dataset_dir / section / "masks" / f"{image.stem}.png"
            truth = np.asarray(Image.open(label).resize((64, 64), Image.Resampling.NEAREST)) > 0
            shift = generator.normal(0, model["skill"], 2).round().astype(int)
            mask = np.roll(truth, shift, axis=(0, 1))
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "evaluation" / "masks" / f"{image.stem}.png")
            table.writerow([image.stem, image, label, *scores(mask, truth)])


def scores(mask: np.ndarray, truth: np.ndarray) -> list[float]:
    overlap = float(np.sum(mask & truth))
    mcc = np.corrcoef(mask.ravel(), truth.ravel())[0, 1]
    return [overlap / np.sum(mask | truth), 2 * overlap / (mask.sum() + truth.sum()), mcc]


if __name__ == "__main__":
    main()
