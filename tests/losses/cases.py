"""Inputs and targets for the contract suite, all from fixed seeds."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_lossext.losses import SegmentationLoss, catalogue

CLASSES: list[type[SegmentationLoss]] = [entry.cls for entry in catalogue()]
SHAPES = [(2, 3, 7), (3, 2, 3, 5), (2, 4, 2, 3, 4)]
SINGLE_SHAPES = [(2, 1, 9), (2, 1, 4, 3), (3, 1, 2, 4, 3)]


def logits(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (1.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def indices(b: int, c: int, *spatial: int, seed: int = 1) -> Tensor:
    """Return (B, 1, *S) labels in which every class is present in every sample."""
    label = torch.randint(0, c, (b, 1, *spatial), generator=torch.Generator().manual_seed(seed))
    label.flatten(2)[:, 0, :c] = torch.arange(c)
    return label


def one_hot(label: Tensor, c: int) -> Tensor:
    return torch.stack([(label[:, 0] == k) for k in range(c)], 1).to(torch.uint8)


def binary(b: int, *spatial: int, seed: int = 1) -> Tensor:
    """Return (B, 1, *S) masks with foreground and background in every sample."""
    return indices(b, 2, *spatial, seed=seed).to(torch.uint8)


def value_and_gradient(loss: torch.nn.Module, x: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = loss(x, *rest)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient
