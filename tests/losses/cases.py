"""Inputs and targets for the contract suite, all from fixed seeds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_lossext.losses import (
    Counts,
    LossEntry,
    RegionLoss,
    SegmentationLoss,
    TopKCrossEntropyLoss,
    VoxelLoss,
    catalogue,
)

from .oracles import ROWS, Row

CLASSES: list[type[SegmentationLoss]] = [entry.cls for entry in catalogue()]
SHAPES = [(2, 3, 7), (3, 2, 3, 5), (2, 4, 2, 3, 4)]
SINGLE_SHAPES = [(2, 1, 9), (2, 1, 4, 3), (3, 1, 2, 4, 3)]


def entry_of(cls: type[SegmentationLoss]) -> LossEntry:
    """Return the catalogue's entry of a loss, of a mutant that of the loss it was made from."""
    return next(entry for base in cls.__mro__ for entry in catalogue() if entry.cls is base)


def row_of(cls: type[SegmentationLoss]) -> Row:
    return ROWS[entry_of(cls).name]


def accepts(cls: type[SegmentationLoss], option: str) -> bool:
    return option in cls.__signature__.parameters


def options_for(cls: type[SegmentationLoss], **options: Any) -> dict[str, Any]:
    """Return the options with those that the tests need for this loss, and without activations if it takes none."""
    takes = entry_of(cls).activation
    if entry_of(cls).family == "compound" and options.get("reduction") == "none":  # they add up scalars
        del options["reduction"]
    kept = {k: v for k, v in options.items() if takes or k not in ("sigmoid", "softmax", "other_act")}
    return {**row_of(cls).base, **kept}


def make(cls: type[SegmentationLoss], **options: Any) -> SegmentationLoss:
    return cls(**options_for(cls, **options))


def batches(cls: type[SegmentationLoss]) -> list[dict[str, bool]]:
    """Return the options for one value a sample and, if the loss has it, for one value of the whole batch."""
    together = [{name: value} for name, value in (("batch", True), ("per_image", False)) if accepts(cls, name)]
    return [{}, *together]


def width(cls: type[SegmentationLoss], classes: int) -> int:
    """Return how many values a sample of so many classes gets."""
    return 1 if row_of(cls).sample else classes


def unreduced(cls: type[SegmentationLoss], b: int, c: int, *spatial: int) -> tuple[int, ...]:
    """Return the shape of what ``reduction="none"`` gives for ``c`` exclusive classes."""
    if issubclass(cls, VoxelLoss):
        return (b, 1 if cls.exclusive_classes else c, *spatial)
    return (b, width(cls, c))


def means_all(cls: type[SegmentationLoss]) -> bool:
    """Return whether the loss is the mean of what ``reduction="none"`` gives, and each value is for itself."""
    return entry_of(cls).family != "compound" and cls is not TopKCrossEntropyLoss


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (1.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def indices(b: int, c: int, *spatial: int, seed: int = 1) -> Tensor:
    """Return (B, 1, *S) labels in which every class is present in every sample."""
    label = torch.randint(0, c, (b, 1, *spatial), generator=torch.Generator().manual_seed(seed))
    label.flatten(2)[:, 0, :c] = torch.arange(c)
    return label


def one_hot(label: Tensor, c: int) -> Tensor:
    return torch.stack([(label[:, 0] == k) for k in range(c)], 1).to(torch.uint8)


def blocks(b: int, c: int, *spatial: int) -> tuple[Tensor, Tensor]:
    """Return logits and (B, 1, *S) labels that disagree firmly, both in connected pieces."""
    grid = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, n, dtype=torch.float64) for n in spatial], indexing="ij"))
    place = grid.mean(0)[None, None]
    starts = torch.arange(b).view(b, 1, *[1] * len(spatial)) * 0.2
    label = ((place * c).floor().clamp(max=c - 1) + (starts > 0.1)).long() % c
    other = ((place + 0.4) * c).floor().long() % c
    x = 6.0 * one_hot(other.expand_as(label), c) - 3 + 0.3 * logits(b, c, *spatial, seed=2)
    return x, label


def binary(b: int, *spatial: int, seed: int = 1) -> Tensor:
    """Return (B, 1, *S) masks with foreground and background in every sample."""
    return indices(b, 2, *spatial, seed=seed).to(torch.uint8)


def partial(*rows: str) -> Tensor:
    """Return (B, C) bool, which classes were annotated, from rows such as "110"."""
    return torch.tensor([[mark == "1" for mark in row] for row in rows])


class Probe(RegionLoss):
    """A loss that keeps the counts it is given, and costs nothing else."""

    extra = "negatives"

    def per_class(self, counts: Counts) -> Tensor:
        self.counts_seen = counts
        return counts.tp


def counts_of(x: Tensor, target: Any, mask: Tensor | None = None, extra: str | None = "negatives", **options: Any):
    """Return the soft counts of an input."""
    probe = type("Probe", (Probe,), {"extra": extra})(**options)
    probe(x, target, mask)
    return probe.counts_seen


def value_and_gradient(loss: torch.nn.Module, x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = loss(x, *rest)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient
