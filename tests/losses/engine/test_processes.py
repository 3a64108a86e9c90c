"""Several processes that share the counts of a batch: shares of any size, bad labels, groups, second derivatives."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from monai_lossext.losses import (
    DiceCrossEntropyLoss,
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    MatthewsCorrelationLoss,
    RegionLoss,
    SoftDiceLoss,
    WeightedCrossEntropyLoss,
)
from monai_lossext.losses.paths import as_on_accelerator

from .. import cases

MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
TOGETHER: dict[str, Any] = {**MULTI, "batch": True, "distributed": True}
REGION = [cls for cls in cases.CLASSES if issubclass(cls, RegionLoss)]


@pytest.fixture(autouse=True, scope="module")
def _kernels_are_compiled_beforehand() -> None:
    """Let processes load them, and not compile the same ones while others wait."""
    for cls in (*REGION, DiceCrossEntropyLoss):
        cases.value_and_gradient(cases.make(cls, **MULTI, batch=True), *data())
    cases.value_and_gradient(SoftDiceLoss(**MULTI), *(t.float() if t.is_floating_point() else t for t in data()))


def _start(rank: int, world: int, folder: str, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # a process that waits for others in vain fails, and the test with it
    limit = timedelta(seconds=20)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world, timeout=limit)
    try:
        found = task(rank, world, *arguments)
    except Exception as error:
        found = f"{type(error).__name__}: {error}", traceback.format_exc()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def found_by(world: int, folder: Path, task: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what a task returns, or what its exception says, in each of so many processes."""
    folder.mkdir(exist_ok=True)
    mp.spawn(_start, args=(world, str(folder), task, arguments), nprocs=world)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x, label = cases.logits(7, 3, 4, 5), cases.indices(7, 3, 4, 5)
    label[:2] = 0  # classes 1 and 2 are absent from the first samples, but not from the batch
    return x, label


def shares(world: int) -> list[slice]:
    """Return uneven parts of seven samples, one of them empty."""
    cuts = {1: [0, 7], 2: [0, 2, 7], 4: [0, 1, 4, 4, 7]}[world]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]


def share_of(rank: int, world: int, names: list[str], accelerator: bool = False) -> list[torch.Tensor]:
    """Return value and gradient of some losses on the share of this process."""
    x, label = (t[shares(world)[rank]] for t in data())
    found = []
    for name in names:
        (cls,) = [c for c in cases.CLASSES if c.__name__ == name]
        if accelerator:
            with as_on_accelerator():
                found += cases.value_and_gradient(cases.make(cls, **TOGETHER), x, label)
        else:
            found += cases.value_and_gradient(cases.make(cls, **TOGETHER), x, label)
    return found


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("accelerator", [False, True])
def test_shares_of_any_size_give_the_loss_of_the_whole(world, accelerator, tmp_path):
    """A process sums the gradients of the others too: data-parallel training divides it by their number afterwards."""
    losses = [*REGION, DiceCrossEntropyLoss]
    found = found_by(world, tmp_path, share_of, [cls.__name__ for cls in losses], accelerator)
    x, label = data()
    for i, cls in enumerate(losses):
        of_counts = SoftDiceLoss if cls is DiceCrossEntropyLoss else cls
        value, gradient = cases.value_and_gradient(cases.make(of_counts, **MULTI, batch=True), x, label)
        for share, each in zip(shares(world), found, strict=True):
            assert isinstance(each, list), each
            total, slope = value, world * gradient[share]
            if cls is DiceCrossEntropyLoss:  # whose cross-entropy is that of each process
                entropy, more = cases.value_and_gradient(WeightedCrossEntropyLoss(**MULTI), x[share], label[share])
                total, slope = total + entropy, slope + more
            torch.testing.assert_close(each[2 * i], total, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(each[2 * i + 1], slope, rtol=1e-7, atol=1e-12)


def train(rank: int, world: int) -> list[torch.Tensor]:
    """One step of data-parallel training on this rank's share of the batch."""
    torch.manual_seed(0)
    network: Any = torch.nn.Conv1d(1, 3, 3, padding=1)
    network = torch.nn.parallel.DistributedDataParallel(network)
    x, label = cases.logits(4, 1, 9, dtype=torch.float32), cases.indices(4, 3, 9)
    label[:2] = 0
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    loss = SoftDiceLoss(**TOGETHER)(network(x[share]), label[share])
    loss.backward()
    return [loss.detach(), *(parameter.grad for parameter in network.module.parameters())]


def test_two_processes_train_like_one(tmp_path):
    (one,) = found_by(1, tmp_path / "1", train)
    for each in found_by(2, tmp_path / "2", train):
        for got, want in zip(each, one, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def with_a_bad_label(rank: int, world: int, kind: str, accelerator: bool) -> list[str]:
    """Return what two losses say of a value that only the last process holds, and of a right call after it."""
    said = []
    for cls in (SoftDiceLoss, DiceCrossEntropyLoss):
        x, label = cases.logits(2, 3, 4, 5), cases.indices(2, 3, 4, 5)
        options, mask = dict(TOGETHER), None
        if rank == world - 1:
            if kind == "label":
                label[1, 0, 2, 3] = 77
            else:
                mask = torch.full((2, 1, 4, 5), -77.0)
        for _ in range(2):
            try:
                if accelerator:
                    with as_on_accelerator():
                        value = cls(**options)(x, label, mask)
                else:
                    value = cls(**options)(x, label, mask)
                said.append(f"{value.item():.3f}")
            except Exception as error:
                said.append(f"{type(error).__name__}: {error}")
            label, mask = label.clamp(max=2), None  # the second call is right
    return said


@pytest.mark.parametrize("kind", ["label", "mask"])
@pytest.mark.parametrize("world", [2, 4])
def test_a_bad_value_in_one_process_is_an_error_in_all(kind, world, tmp_path):
    *others, holder = found_by(world, tmp_path, with_a_bad_label, kind, False)
    for said in (*others, holder):
        assert isinstance(said, list), said
        for number in (0, 2):
            assert said[number].startswith("ValueError"), said
            assert float(said[number + 1]) > 0
    assert "77" in holder[0]
    assert all("another process" in said[0] for said in others)
    assert len({said[1] for said in (*others, holder)}) == 1


def test_on_accelerators_a_bad_label_in_one_process_is_nan_in_all(tmp_path):
    *others, holder = found_by(2, tmp_path, with_a_bad_label, "label", True)
    for said in (*others, holder):
        assert isinstance(said, list), said
        assert said[0] == "nan", said
        assert said[1].startswith("ValueError"), said
    assert "77" in holder[1]


def in_two_groups(rank: int, world: int) -> list[torch.Tensor]:
    """Return the loss of this process's group, and that of all, computed in turns."""
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    x, label = (t[shares(world)[rank]] for t in data())
    of_group = SoftDiceLoss(**TOGETHER, group=groups[rank % 2])
    of_all = SoftDiceLoss(**TOGETHER)
    return [loss(x, label) for loss in (of_group, of_all, of_group)]


def test_two_groups_at_once(tmp_path):
    found = found_by(4, tmp_path, in_two_groups)
    x, label = data()
    loss = SoftDiceLoss(**MULTI, batch=True)
    for rank, each in enumerate(found):
        assert isinstance(each, list), each
        own = torch.cat([torch.arange(7)[share] for share in shares(4)[rank % 2 :: 2]])
        expected = loss(x[own], label[own])
        for got, want in zip(each, (expected, loss(x, label), expected), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def curvature(rank: int, world: int) -> torch.Tensor:
    """Return the gradient of the squared gradient, of all processes' logits."""
    x, label = (t[shares(world)[rank]] for t in data())
    x.requires_grad_()
    (slope,) = torch.autograd.grad(MatthewsCorrelationLoss(**TOGETHER)(x, label), x, create_graph=True)
    (found,) = torch.autograd.grad(slope.square().sum(), x)
    return found


def test_a_second_derivative_runs_through_all_processes_or_is_refused(tmp_path):
    found = found_by(2, tmp_path, curvature)
    x, label = data()
    x.requires_grad_()
    (slope,) = torch.autograd.grad(MatthewsCorrelationLoss(**MULTI, batch=True)(x, label), x, create_graph=True)
    (expected,) = torch.autograd.grad((2 * slope).square().sum(), x)  # each process has twice the slope
    for rank, each in enumerate(found):
        if isinstance(each, tuple):
            assert "derivative" in each[0], each
            continue
        torch.testing.assert_close(each, expected[shares(2)[rank]], rtol=1e-6, atol=1e-10)


def of_spread_logits(rank: int, world: int, names: list[str]) -> list[Any]:
    """Return value and gradient of losses of logits that processes hold whole or in parts, or what is said of them."""
    mesh = init_device_mesh("cpu", (world,))
    found: list[Any] = []
    for name, placement in itertools.product(names, (Replicate(), Shard(0), Shard(2))):
        (cls,) = [c for c in cases.CLASSES if c.__name__ == name]
        for bad in (False, True):
            x, label = data()
            label[-1] = 77 if bad else label[-1]
            x, label = (distribute_tensor(t, mesh, [placement]) for t in (x, label))
            x.requires_grad_()
            try:
                value = cases.make(cls, **MULTI)(x, label)
                value.backward()
                found.append([value.full_tensor().detach(), x.grad.full_tensor()])
            except (TypeError, ValueError) as error:
                found.append(f"{type(error).__name__}: {error}")
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_losses_of_one_walk_are_computed_where_the_shards_are(world, tmp_path):
    """Others say that they cannot, and a bad label in one shard is an error in all processes."""
    losses = [SoftDiceLoss, MatthewsCorrelationLoss, DiceCrossEntropyLoss, LovaszSoftmaxLoss]
    names = [cls.__name__ for cls in losses]
    for each in found_by(world, tmp_path, of_spread_logits, names):
        assert isinstance(each, list), each
        for cls, right, wrong in zip(np.repeat(losses, 3), each[::2], each[1::2], strict=True):
            if cls is LovaszSoftmaxLoss:
                assert "TypeError: this loss cannot be computed of a DTensor" in right
                continue
            expected = list(cases.value_and_gradient(cls(**MULTI), *data()))
            torch.testing.assert_close(right, expected, rtol=1e-9, atol=1e-12)
            assert "ValueError: target holds a value out of range" in wrong


def compiled_together(rank: int, world: int) -> list[torch.Tensor]:
    """Return value and gradient of a compiled loss, and of the loss."""
    x, label = (t[shares(world)[rank]] for t in data())
    loss = SoftDiceLoss(**TOGETHER)
    compiled = torch.compile(loss, backend="aot_eager")
    return [*cases.value_and_gradient(compiled, x, label), *cases.value_and_gradient(loss, x, label)]


def test_compiled_losses_share_their_counts(tmp_path):
    for each in found_by(2, tmp_path, compiled_together):
        assert isinstance(each, list), each
        torch.testing.assert_close(each[:2], each[2:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cls", [LovaszSoftmaxLoss, LovaszHingeLoss], ids=lambda cls: cls.__name__)
def test_sorted_losses_say_that_they_cannot(cls):
    with pytest.raises(TypeError, match=r"sort"):
        cls(distributed=True)


def test_a_group_needs_processes():
    with pytest.raises(ValueError, match="batch=True"):
        SoftDiceLoss(distributed=True)
    x, label = data()
    alone = SoftDiceLoss(**TOGETHER)  # without processes it is the loss of this one
    assert torch.equal(alone(x, label), SoftDiceLoss(**MULTI, batch=True)(x, label))
