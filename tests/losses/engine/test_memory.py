"""How much memory a step takes beside the input, the gradient included, by the books of torch's own allocator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from monai_lossext.losses import LovaszHingeLoss, LovaszSoftmaxLoss, RegionLoss, VoxelLoss
from monai_lossext.losses.engine import distances, plain
from monai_lossext.losses.paths import kernels_available, plain_path

from .. import cases
from ..memory import peak_bytes

MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
SIZE = (64, 64, 64)
REGION = [cls for cls in cases.CLASSES if issubclass(cls, RegionLoss)]
with_kernels = pytest.mark.skipif(not kernels_available(), reason="needs kernels")
every_region_loss = pytest.mark.parametrize("cls", REGION, ids=lambda cls: cls.__name__)


def logits_taken(cls: type, channels: int, extra: str = "", dtype: torch.dtype = torch.float32, **own: Any) -> float:
    """Return the peak in a step, in sizes of the logits."""
    x = cases.logits(1, channels, *SIZE, dtype=dtype).requires_grad_()
    label: Any = cases.indices(1, max(channels, 2), *SIZE).to(torch.uint8)
    rest: Any = (label,)
    if extra in ("mask", "weights"):
        weights = torch.rand(1, 1, *SIZE)
        rest = (label, weights < 0.9 if extra == "mask" else weights)
    elif extra == "classes":
        rest = ({"label": label, "classes": cases.partial("1" * (channels - 1) + "0")},)
    elif extra == "ignored":
        own["ignore_index"] = 1
    options = {**(MULTI if channels > 1 else {"sigmoid": True}), **own}
    loss = cases.make(cls, **options)
    loss(x, *rest).backward()  # what the first call prepares is not counted
    x.grad = None
    return peak_bytes(lambda: loss(x, *rest).backward()) / x.nbytes


def test_memory_is_measured():
    x = torch.zeros(1, 4, *SIZE)
    assert 1.9 < peak_bytes(lambda: [torch.ones_like(x), torch.ones_like(x)]) / x.nbytes < 2.1


@with_kernels
@every_region_loss
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_region_losses_take_a_gradient_and_little_more(cls, channels):
    assert 1 <= logits_taken(cls, channels) <= 1.3


@with_kernels
@pytest.mark.parametrize("extra", ["mask", "weights", "ignored", "classes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [2, 4])
def test_options_and_precisions_take_no_more(extra, dtype, channels):
    for cls in (REGION[0], REGION[-1]):
        assert 1 <= logits_taken(cls, channels, extra, dtype) <= 1.3


@every_region_loss
@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("extra", ["", "mask", "weights", "ignored", "classes"])
def test_in_torchs_own_operations_it_is_four_logits(cls, channels, extra, monkeypatch):
    monkeypatch.setattr(plain, "BLOCK", 2**14)  # a block is a small part of volumes that matter
    if extra == "classes" and channels == 1:
        pytest.skip("there is no class to leave out")
    with plain_path():
        assert logits_taken(cls, channels, extra) <= 4


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("extra", ["", "mask", "ignored"])
def test_of_two_classes_torchs_own_operations_keep_the_gradient_alone(channels, extra, monkeypatch):
    monkeypatch.setattr(plain, "BLOCK", 2**12)
    for cls in (REGION[0], REGION[-1]):
        with plain_path():
            assert 1 <= logits_taken(cls, channels, extra) <= 1.4


VOXEL = [cls for cls in cases.CLASSES if issubclass(cls, VoxelLoss)]


@with_kernels
@pytest.mark.parametrize("cls", VOXEL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_voxel_losses_take_at_most_three(cls, channels, monkeypatch):
    monkeypatch.setattr(distances, "SLAB", 2**12)
    assert logits_taken(cls, channels) <= 3


@with_kernels
@pytest.mark.parametrize("cls", [LovaszSoftmaxLoss, LovaszHingeLoss], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("channels", [1, 4])
def test_sorting_takes_at_most_five(cls, channels):
    """One class of several is sorted at a time."""
    assert logits_taken(cls, channels) <= 5.1
