"""What each loss costs beside torch's cross-entropy: time forward and backward, softmax over four classes.

    python benchmarks/loss_cost.py

prints a Markdown table. Every loss is timed in turn with the cross-entropy in the same process; the ratio of the
medians is what to look at, the milliseconds depend on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from monai_lossext.losses import catalogue

CLASSES = 4


def seconds(call: Callable[[], torch.Tensor]) -> float:
    start = time.perf_counter()
    call().backward()
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--size", type=int, default=64, help="voxels along each axis of the volume")
    arguments.add_argument("--repeats", type=int, default=7)
    options = arguments.parse_args()
    torch.manual_seed(0)
    logits = torch.randn(1, CLASSES, *[options.size] * 3, requires_grad=True)
    label = torch.zeros(1, 1, *[options.size] * 3, dtype=torch.int64)
    for c in range(1, CLASSES):  # a block a class, so that distances are those of objects
        label[0, 0, c * options.size // 5 : (c + 1) * options.size // 5, 10:40, 10:40] = c

    def cross_entropy() -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, label[:, 0])

    print("| Loss | ms | times cross-entropy |")
    print("|---|---|---|")
    for entry in catalogue():
        loss = entry.cls(**({"softmax": True} if entry.activation else {}), to_onehot_y=True)
        times: list[tuple[float, float]] = []
        for _ in range(options.repeats + 1):
            times.append((seconds(lambda: loss(logits, label)), seconds(cross_entropy)))  # noqa: B023
        own, base = (statistics.median(column) for column in zip(*times[1:], strict=True))
        print(f"| {entry.name} | {1000 * own:.1f} | {own / base:.1f} |")
    print(f"\n1 x {CLASSES} x {options.size}^3, torch {torch.__version__}, {torch.get_num_threads()} threads, CPU")


if __name__ == "__main__":
    main()
