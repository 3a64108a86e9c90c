"""The sums themselves: accuracy on large volumes and across processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from monai_lossext.losses import Counts, SoftDiceLoss
from monai_lossext.losses.counts import soft_counts
from monai_lossext.losses.precision import probabilities
from monai_lossext.losses.reading import Rules

from . import cases

MULTI = {"softmax": True, "to_onehot_y": True}


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("offset", [-8.0, 0.0, 8.0])
def test_tiny_foreground_in_a_large_volume_counts_exactly(labels, offset):
    """Eight voxels of foreground among two million: float32 sums would lose them."""
    z = torch.randn(1, 2, 128, 128, 128, generator=torch.Generator().manual_seed(0))
    z[:, 1] += offset
    label = torch.zeros(1, 1, 128, 128, 128, dtype=torch.int64)
    label[0, 0, 60:62, 60:62, 60:62] = 1
    target = label if labels else cases.one_hot(label, 2)
    sums = soft_counts(z, target, rules=Rules(labels, 2, None, False), activation="softmax", extra="negatives")
    counts = Counts.of(sums, "negatives")
    p, g = z.double().softmax(1), cases.one_hot(label, 2).double()
    for got, want in (
        (counts.tp, p * g),
        (counts.fp, p * (1 - g)),
        (counts.fn, (1 - p) * g),
        (counts.tn, (1 - p) * (1 - g)),
    ):
        # 1 - p of a float32 probability near 1 is exact to 6e-8 and no better, for each of the eight voxels.
        torch.testing.assert_close(got, want.sum((2, 3, 4)), rtol=1e-5, atol=8 * 6e-8)


@pytest.mark.usefixtures("compiled_or_not")
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("gap", [1.0, 3.0, 6.0, 12.0])
@pytest.mark.parametrize("right", [True, False])
def test_few_errors_count_as_exactly_as_many(channels, gap, right):
    """Sums of errors that are far smaller than what they are the difference of, up to a millionth part."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, max(channels, 2), (1, 1, 80, 64, 64), generator=generator)
    g = cases.one_hot(label, channels) if channels > 1 else label
    z = gap * (2 * g - 1 if right else 1 - 2 * g).float() + 0.5 * torch.randn(g.shape, generator=generator)
    rules, activation = Rules(channels > 1, channels, None, channels == 1), "softmax" if channels > 1 else "sigmoid"
    counts = Counts.of(soft_counts(z, label, rules=rules, activation=activation, extra="negatives"), "negatives")
    z, g = z.double(), g.double()
    p = z.softmax(1) if channels > 1 else z.sigmoid()
    for got, want in (
        (counts.tp, p * g),
        (counts.fp, p * (1 - g)),
        (counts.fn, (1 - p) * g),
        (counts.tn, (1 - p) * (1 - g)),
    ):
        # 1 - p of a float32 probability near 1 is exact to 6e-8, up or down, for each voxel
        torch.testing.assert_close(got, want.sum((2, 3, 4)), rtol=1e-5, atol=6e-8 * label.numel() ** 0.5)


@pytest.mark.usefixtures("compiled_or_not")
def test_counts_are_never_negative():
    p = torch.tensor([[[1.0, 1.0, 1e-20]]])
    sums = soft_counts(p, torch.ones(1, 1, 3), rules=Rules(False, 1, None, True), activation=None)
    counts = Counts.of(sums)
    assert counts.fp.item() == 0
    assert counts.fn.item() >= 0


def test_probabilities_equal_torch_and_keep_their_slope():
    z = torch.tensor([[-90.0, -60.0, -5.0, 0.0, 5.0, 60.0, 90.0]]).unsqueeze(-1)
    torch.testing.assert_close(probabilities(z, "sigmoid"), z.sigmoid(), rtol=1e-6, atol=1e-25)
    torch.testing.assert_close(probabilities(z, "softmax"), z.softmax(1), rtol=1e-6, atol=1e-25)
    _, slope = cases.value_and_gradient(lambda x: probabilities(x, "sigmoid"), z)
    exact = z.double().clamp(-60, 60)
    torch.testing.assert_close(slope.double(), exact.sigmoid() * (-exact).sigmoid(), rtol=1e-5, atol=0)


def train(rank: int, world: int, folder: str) -> None:
    """One step of data-parallel training on this rank's share of the batch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    torch.manual_seed(0)
    network = torch.nn.parallel.DistributedDataParallel(torch.nn.Conv1d(1, 3, 3, padding=1))
    x, label = cases.logits(4, 1, 9, dtype=torch.float32), cases.indices(4, 3, 9)
    label[:2] = 0  # classes 1 and 2 are absent from the first rank's share, but not from the batch
    share = slice(rank * 4 // world, (rank + 1) * 4 // world)
    loss = SoftDiceLoss(**MULTI, batch=True, distributed=True)(network(x[share]), label[share])
    loss.backward()
    gradients = [parameter.grad for parameter in network.module.parameters()]
    torch.save([loss.detach(), *gradients], f"{folder}/{world}-{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_train_like_one(tmp_path: Path):
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        mp.spawn(train, args=(world, str(folder)), nprocs=world)
    one = torch.load(tmp_path / "1" / "1-0.pt")
    for rank in (0, 1):
        for got, want in zip(torch.load(tmp_path / "2" / f"2-{rank}.pt"), one, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("channels", "copied"), [(1, False), (2, False), (3, False), (1, True), (2, True)])
def test_eight_voxels_among_512_cubed_count_exactly(channels, copied):
    """The logits of one slice are repeated, so that the sums are known; compiled loops need a copy of them."""
    z = torch.randn(1, channels, 1, 512, 512, generator=torch.Generator().manual_seed(channels))
    label = torch.zeros(1, 1, 512, 512, 512, dtype=torch.uint8)
    label[0, 0, 300:302, 100:102, 200:202] = 1
    activation = "sigmoid" if channels == 1 else "softmax"
    rules = Rules(channels > 1, channels, None, channels == 1)
    logits = z.expand(-1, -1, 512, -1, -1)
    logits = logits.contiguous() if copied else logits
    sums = soft_counts(logits, label, rules=rules, activation=activation, extra="negatives")
    counts = Counts.of(sums, "negatives")
    p = z.double().sigmoid() if channels == 1 else z.double().softmax(1)
    inside = 2 * p[..., 100:102, 200:202].sum((2, 3, 4))
    for c in range(channels):
        predicted, own = 512 * p[0, c].sum(), inside[0, c]
        size = 8 if c == channels - 1 == 0 or c == 1 else 512**3 - 8 if c == 0 else 0
        tp = own if size == 8 else predicted - own if size else torch.zeros(())
        expected = (tp, predicted - tp, size - tp, 512**3 - size - predicted + tp)
        for got, want in zip((counts.tp, counts.fp, counts.fn, counts.tn), expected, strict=True):
            torch.testing.assert_close(got[0, c], want.double(), rtol=1e-5, atol=0)
