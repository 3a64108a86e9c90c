"""Sums over processes, with their gradient, and tensors that lie in several processes."""

from __future__ import annotations

import sys
from functools import lru_cache, partial
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


def is_spread(x: Tensor) -> bool:
    """Return whether a tensor is a DTensor, which several processes hold together."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def refuse_spread(x: Tensor) -> None:
    """Raise TypeError for a DTensor, of which the operators of the walk alone know how to compute."""
    if is_spread(x):
        raise TypeError("this loss cannot be computed of a DTensor here; gather it first: x.full_tensor().")


def raise_together(found: Any) -> None:
    """Raise ValueError in all processes that hold a DTensor, if there are values out of range in one of them."""
    if is_spread(found):
        for name, number in zip(("target", "mask", "input"), found.full_tensor().tolist(), strict=True):
            if number:
                raise ValueError(f"{name} holds a value out of range in one of the processes that share it.")


@lru_cache(maxsize=1)
def know_shards() -> None:
    """Tell DTensor that the operators of the walk compute each sample by itself."""
    from torch.distributed.tensor import Partial, Replicate, Shard
    from torch.distributed.tensor._dtensor_spec import DTensorSpec
    from torch.distributed.tensor.experimental import register_sharding

    # where the samples are in what each returns, and in the first thing it is given; faults are numbers to add up
    operators: dict[str, tuple[list[Any], list[int]]] = {
        "sums": ([Shard(1), Partial()], []),
        "values": ([Shard(0), Partial()], []),
        "gradient": ([Shard(0)], [1]),
    }

    def placements(outputs: list[Any], first: list[int], *given: Any) -> list[tuple[list[Any], list[Any]]]:
        tensors = [isinstance(x, DTensorSpec) for x in given]
        whole = [Replicate() if x else None for x in tensors]
        of_samples: list[Any] = [Shard(0) if x else None for x in tensors]
        if first:
            of_samples[0] = Shard(first[0])
            of_samples[5] = Replicate() if tensors[5] else None  # how many values are out of range
        return [([Replicate()] * len(outputs), whole), (outputs, of_samples)]

    for name, how in operators.items():
        register_sharding(getattr(torch.ops.monai_lossext, name).default)(partial(placements, *how))
