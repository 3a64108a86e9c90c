"""Seconds per epoch of the skin-lesion bundle beside a bare PyTorch loop, epoch by epoch in one process.

Both use the same tensors in memory, network architecture, augmentation, loss, optimiser and batches. Run it as

    python benchmarks/epoch_overhead.py --dataset-dir /data/ISIC2017 --epochs 3
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "skin_lesion_segmentation"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--dataset-dir", default="synthetic", help="as the bundle's dataset_dir")
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--limit", type=int, default=0, help="use this many training pictures alone; 0: all")
    options = arguments.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        workflow = ConfigWorkflow(
            config_file=str(BUNDLE / "configs" / "train.yaml"),
            bundle_root=str(BUNDLE),
            dataset_dir=options.dataset_dir,
            output_dir=folder,
            epochs=options.epochs,
        )
        if options.limit:
            workflow.parser["train::dataset::data"] = f"$@datalist['training'][:{options.limit}]"
        workflow.initialize()
        measure(workflow)


def measure(workflow: ConfigWorkflow) -> None:
    part = workflow.parser.get_parsed_content
    trainer, dataset, augment, loss_function = (
        part(name) for name in ("train::trainer", "train::dataset", "augmentation", "loss")
    )
    images = torch.stack([item["image"] for item in dataset])
    labels = torch.stack([item["label"] for item in dataset])
    network = copy.deepcopy(part("network"))
    optimizer = torch.optim.Adam(network.parameters(), lr=part("learning_rate"))
    batch_size = part("batch_size")
    whole: list[float] = []
    passes: list[float] = []
    bare: list[float] = []

    def bare_epoch() -> None:
        start = time.perf_counter()
        network.train()
        for chosen in torch.randperm(len(images)).split(batch_size):
            image, label = augment({"image": images[chosen], "label": labels[chosen]}, trainer.state.device)
            optimizer.zero_grad()
            loss_function(network(image), label).backward()
            optimizer.step()
        if trainer.state.device.type == "cuda":
            torch.cuda.synchronize()
        bare.append(time.perf_counter() - start)

    started = 0.0

    def start() -> None:
        nonlocal started
        started = time.perf_counter()

    def finish() -> None:  # added last: validation, history and checkpoints of the epoch are done
        whole.append(time.perf_counter() - started)
        passes.append(trainer.state.times["EPOCH_COMPLETED"])
        bare_epoch()

    bare_epoch()  # the first epoch of a process is slower
    bare.clear()
    trainer.add_event_handler(Events.EPOCH_STARTED, start)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, finish)
    trainer.run()

    print(f"{len(images)} pictures, batches of {batch_size}, {torch.get_num_threads()} threads, {trainer.state.device}")
    print("median seconds per epoch")
    base = statistics.median(bare)
    for name, seconds in (
        ("bare PyTorch loop", bare),
        ("bundle, training pass", passes),
        ("bundle, with validation and checkpoints", whole),
    ):
        print(f"  {name:40s} {statistics.median(seconds):8.2f}   ratio {statistics.median(seconds) / base:.3f}")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
