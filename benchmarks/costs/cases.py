"""The sizes at which losses are measured."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PROBE_SIDE = 32


@dataclass(frozen=True)
class Case:
    """Logits and labels of one size: one class means a sigmoid, several a softmax over exclusive classes.

    Args:
        batch: number of pictures or volumes.
        classes: number of channels of the logits.
        side: pixels or voxels along each axis.
        dims: 2 for pictures, 3 for volumes.
    """

    batch: int
    classes: int
    side: int
    dims: int

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read "batch x classes x side^dims", as in ``1x4x128^3``; raise ValueError for anything else."""
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)\^([123])", text)
        if match is None or "0" in match.groups():
            raise ValueError(f"a size is written batch x classes x side^dims, such as 1x4x128^3, got {text!r}.")
        return cls(*map(int, match.groups()))

    def __str__(self) -> str:
        return f"{self.batch}x{self.classes}x{self.side}^{self.dims}"

    @property
    def voxels(self) -> int:
        """Number of voxels of the batch."""
        return self.batch * self.side**self.dims

    @property
    def elements(self) -> int:
        """Number of logits."""
        return self.voxels * self.classes

    @property
    def logits_bytes(self) -> int:
        """Size of the logits in float32, the unit of all memory figures."""
        return 4 * self.elements

    @property
    def label_bytes(self) -> int:
        """Size of the labels: int64 class indices, or float32 for one class."""
        return (4 if self.classes == 1 else 8) * self.voxels

    @property
    def probe(self) -> Case:
        """The same case in small, from which time and memory are foreseen."""
        return replace(self, side=min(self.side, PROBE_SIDE))

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return (B, C, *S) logits that ask for a gradient and (B, 1, *S) labels.

        The labels are a grid of boxes on background, eight or more, so that every class has objects with borders; the
        logits are noise that leans to the label, as those of a network in training do.
        """
        random = torch.Generator().manual_seed(0)
        label = self._boxes().expand(self.batch, 1, *[self.side] * self.dims).contiguous()
        logits = torch.randn(self.batch, self.classes, *label.shape[2:], generator=random)
        if self.classes == 1:
            label = label.float()
            logits += 3 * label
        else:
            logits.scatter_add_(1, label, torch.full((), 3.0).expand(label.shape))
        return logits.requires_grad_(), label

    def _boxes(self) -> Tensor:
        foreground = max(self.classes - 1, 1)
        cells = 2
        while cells**self.dims < foreground:
            cells += 1
        axis = torch.arange(self.side) * 4 * cells // self.side  # four quarters a cell, of which a box fills two
        inside, number = torch.ones((), dtype=torch.bool), torch.zeros((), dtype=torch.int64)
        for dim in range(self.dims):
            position = axis.view([-1 if dim == d else 1 for d in range(self.dims)])
            inside = inside & (position % 4 > 0) & (position % 4 < 3)
            number = number * cells + position // 4
        return torch.where(inside, number % foreground + 1, 0)
