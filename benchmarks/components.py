"""Time of the component losses at 128^3 with 1, 10 and 200 components, beside SoftDiceLoss and a loop over components.

python benchmarks/components.py [--size 128] [--turns 9] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from time import process_time

import numpy as np
import torch
from torch import Tensor

from monai_lossext.losses import BlobDiceLoss, ComponentDiceLoss, DiceCrossEntropyLoss, SoftDiceLoss
from monai_lossext.losses.engine.components import component_map, numbered

COUNTS = (1, 10, 200)
SLOW = ("computed", "a loop")  # that are timed twice


def balls(count: int, size: int) -> Tensor:
    """Return a (1, 1, size, size, size) mask of so many balls on a grid, of different radius."""
    random, cells = np.random.default_rng(count), int(np.ceil(count ** (1 / 3)))
    step, mask = size / cells, np.zeros((size,) * 3, bool)
    for cell in np.ndindex(cells, cells, cells):
        if count == 0:
            break
        count -= 1
        centre, radius = (np.array(cell) + 0.5) * step, random.uniform(0.15, 0.3) * min(step, 64)
        box = tuple(slice(max(0, int(c - radius)), int(c + radius) + 2) for c in centre)
        grid = np.stack(np.meshgrid(*[np.arange(size)[part] for part in box], indexing="ij"), -1)
        mask[box] |= ((grid - centre) ** 2).sum(-1) <= radius**2
    return torch.from_numpy(mask)[None, None]


def loop(logits: Tensor, components: Tensor) -> Tensor:
    """Return the blob loss of one class by a loop over its components, as its definition reads."""
    found, p = [], logits.sigmoid()
    for k in range(1, int(components.max()) + 1):
        own = components == k
        seen = p * (own | (components <= 0))
        found.append(1 - 2 * (seen * own).sum() / (seen.sum() + own.sum()))
    return torch.stack(found).mean()


def milliseconds(call: Callable[[], Tensor], logits: Tensor) -> float:
    """Return the processor's time for value and gradient, which other work on the machine changes little."""
    start = process_time()
    torch.autograd.grad(call(), logits)
    return 1000 * (process_time() - start)


def main() -> None:
    """Print a table of milliseconds, the median of the turns, and of their ratio to SoftDiceLoss within a turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    random = torch.Generator().manual_seed(0)
    setting = f"1 x 1 x {given.size}^3, float32, sigmoid, {given.threads} thread(s)"
    print(f"{setting}, processor time, median of {given.turns} turns")
    print(f"{'value and gradient':34s}" + "".join(f"{count:>16d}" for count in COUNTS) + "  components")
    rows: dict[str, list[str]] = {}
    for count in COUNTS:
        label = balls(count, given.size)
        components = component_map(label)
        assert numbered(label[0, 0].numpy(), True).max() == count
        noise = torch.randn(label.shape, generator=random)
        logits = (noise + 2 * label - 2).requires_grad_()
        label = label.to(torch.uint8)
        with_map = {"label": label, "components": components}
        calls: dict[str, Callable[[], Tensor]] = {}
        for name, loss, target in (
            ("SoftDiceLoss", SoftDiceLoss(sigmoid=True), label),
            ("DiceCrossEntropyLoss", DiceCrossEntropyLoss(sigmoid=True), label),
            ("BlobDiceLoss, map given", BlobDiceLoss(sigmoid=True), with_map),
            ("ComponentDiceLoss, map given", ComponentDiceLoss(sigmoid=True), with_map),
            ("BlobDiceLoss, map computed", BlobDiceLoss(sigmoid=True), label),
            ("ComponentDiceLoss, map computed", ComponentDiceLoss(sigmoid=True), label),
        ):
            calls[name] = lambda loss=loss, target=target, logits=logits: loss(logits, target)
        if count <= 10:
            calls["a loop over components"] = lambda logits=logits, components=components: loop(logits, components)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(given.turns + 1):
            for name, call in calls.items():
                if turn < 3 or "map given" in name or ("Dice" in name.split(",")[0] and "computed" not in name):
                    taken = milliseconds(call, logits)
                    times[name] += [taken] if turn else []
        dice = times["SoftDiceLoss"]
        for name, found in times.items():
            ratio = statistics.median(a / b for a, b in zip(found, dice, strict=False))
            rows.setdefault(name, []).append(f"{statistics.median(found):8.1f} ({ratio:4.2f})")
    for name, cells in rows.items():
        print(f"{name:34s}" + "".join(f"{cell:>16s}" for cell in cells))


if __name__ == "__main__":
    main()
