"""Sums over processes, with their gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class SumOverProcesses(Function):
    """Sum over all processes of a group, in both directions.

    Every process computes the loss from the same total. Summing the gradients again makes up for the division by the
    number of processes in DistributedDataParallel, so that N processes train exactly like one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        """Return the total of ``x`` over all processes."""
        ctx.group = group
        x = x.clone()
        torch.distributed.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the total of the gradient over all processes, which can be differentiated once more."""
        total: Tensor = SumOverProcesses.apply(gradients[0], ctx.group)  # type: ignore[no-untyped-call]
        return total, None


def over_processes() -> bool:
    """Return whether there are several processes that know of each other."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def total_over_processes(sums: Tensor, bad: Tensor, group: Any) -> tuple[Tensor, Tensor]:
    """Return the sums of all processes, and how many values of all of them are out of range.

    Both travel together, so that no process waits for one that found a bad value, and all know of it.

    Args:
        sums: of this process, with gradient.
        bad: a number, of this process.
        group: a process group of torch.distributed, or None for all processes.
    """
    both: Tensor = SumOverProcesses.apply(torch.cat([sums.flatten(), bad.to(sums).view(1)]), group)  # type: ignore[no-untyped-call]
    return both[:-1].view_as(sums), both[-1].detach()
