"""What runs on devices without kernels: few operations, no wait for the device, and bad values that are found later."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    ComboLoss,
    DiceCrossEntropyLoss,
    DiceTopKLoss,
    DistanceMapCrossEntropyLoss,
    ExponentialLogarithmicLoss,
    FocalCrossEntropyLoss,
    HausdorffDistanceLoss,
    LovaszHingeLoss,
    LovaszSoftmaxLoss,
    MatthewsCorrelationLoss,
    RegionLoss,
    ShapeAwareLoss,
    SoftDiceLoss,
    VoxelLoss,
    WeightedCrossEntropyLoss,
)
from monai_lossext.losses.paths import as_on_accelerator

from .. import cases, checks
from ..cases import make

MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
WAITS = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique", "masked_select")
ON_CPU = (ShapeAwareLoss, DistanceMapCrossEntropyLoss)  # which measure distances there, unless a map is given
COMPOUND = (ComboLoss, DiceCrossEntropyLoss, DiceTopKLoss, ExponentialLogarithmicLoss)
NOT_WAITING = [
    cls
    for cls in cases.CLASSES
    if (issubclass(cls, (RegionLoss, VoxelLoss, LovaszHingeLoss, LovaszSoftmaxLoss)) and cls not in ON_CPU)
    or cls in COMPOUND
]
every_loss = pytest.mark.parametrize("cls", cases.CLASSES, ids=lambda cls: cls.__name__)
without_waits = pytest.mark.parametrize("cls", NOT_WAITING, ids=lambda cls: cls.__name__)


@pytest.fixture(autouse=True)
def _nothing_is_left_to_be_raised() -> Iterator[None]:
    """Let no test hear of what another one has called wrongly."""
    yield
    with as_on_accelerator(), contextlib.suppress(ValueError):
        SoftDiceLoss(**MULTI)(*volume())


class Operations(TorchDispatchMode):
    """Counts the operations that would be sent to a device."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def waits(self) -> int:
        return sum(self.names[name] for name in WAITS)


def operations_of(loss: Any, x: torch.Tensor, *rest: Any) -> Operations:
    """Return what the second step of a training does; the first may prepare something."""
    for _ in range(2):
        z = x.clone().requires_grad_()
        with as_on_accelerator(), Operations() as operations:
            loss(z, *rest).backward()
        assert z.grad is not None
    return operations


def volume(channels: int = 4, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return cases.logits(2, channels, 8, 9, 10, dtype=dtype), cases.indices(2, max(channels, 2), 8, 9, 10)


def test_waits_are_counted():
    with Operations() as operations:
        assert torch.ones(()).item() == 1
    assert operations.waits() == 1


@without_waits
def test_nothing_waits(cls):
    for given, extra in itertools.product(
        (MULTI, {"sigmoid": True, "to_onehot_y": True}, {"to_onehot_y": True}),
        ("", "mask", "weights", "ignored", "classes"),
    ):
        with checks.at(given, extra):
            x, label = volume()
            x = x if cases.entry_of(cls).activation and len(given) > 1 else x.softmax(1)
            options = dict(given) if cases.entry_of(cls).activation else {"to_onehot_y": True}
            rest: Any = (label,)
            if extra == "ignored":
                options["ignore_index"] = 1
            elif extra == "classes":
                rest = ({"label": label, "classes": cases.partial("1101", "1111")},)
            elif extra:
                mask = torch.rand(2, 1, 8, 9, 10)
                rest = (label, mask < 0.9 if extra == "mask" else mask)
            operations = operations_of(cls(**options), x, *rest)
            assert operations.waits() == 0, operations.names


@pytest.mark.parametrize("cls", [BoundaryDistanceLoss, HausdorffDistanceLoss, DistanceMapCrossEntropyLoss])
def test_boundary_losses_with_a_map_do_not_wait(cls):
    x, label = volume()
    key = "penalty_map" if cls is DistanceMapCrossEntropyLoss else "distance_map"
    own = {"one_sided": True} if cls is HausdorffDistanceLoss else {}
    operations = operations_of(cls(**MULTI, **own), x, {"label": label, key: torch.rand(x.shape)})
    assert operations.waits() == 0, operations.names


@pytest.mark.parametrize(
    "cls",
    [SoftDiceLoss, MatthewsCorrelationLoss, FocalCrossEntropyLoss, ComboLoss, DiceCrossEntropyLoss],
    ids=lambda cls: cls.__name__,
)
def test_operations_are_few(cls):
    x, label = volume()
    operations = operations_of(cls(**MULTI), x, label)
    total = sum(operations.names.values())
    assert 5 < total <= 90, (total, operations.names.most_common())


@every_loss
def test_it_computes_what_the_cpu_does(cls):
    for dtype, options in itertools.product(
        (torch.float32, torch.bfloat16, torch.float64), (MULTI, {"sigmoid": True, "to_onehot_y": True})
    ):
        with checks.at(dtype, options):
            x, label = volume(dtype=dtype)
            mask = torch.rand(2, 1, 8, 9, 10, generator=torch.Generator().manual_seed(0))
            label[0, 0, 3] = 255
            classes = {"label": label, "classes": cases.partial("1101", "1111")}
            for rest in ((label,), (label, mask), (label, mask < 0.8), (classes,)):
                loss = make(cls, **options, ignore_index=255)
                expected = cases.value_and_gradient(loss, x, *rest)
                with as_on_accelerator():
                    found = cases.value_and_gradient(loss, x, *rest)
                exact = {torch.float64: 1e-9, torch.float32: 1e-5}.get(dtype, 1e-2)
                assert found[0].dtype == expected[0].dtype
                torch.testing.assert_close(found[0], expected[0], rtol=min(exact, 1e-5), atol=1e-6)
                torch.testing.assert_close(
                    found[1], expected[1], rtol=exact, atol=exact * expected[1].abs().max().item()
                )


@pytest.mark.parametrize("cls", [SoftDiceLoss, WeightedCrossEntropyLoss, LovaszSoftmaxLoss, DiceCrossEntropyLoss])
def test_second_derivatives_are_right(cls):
    x, target = cases.logits(1, 2, 2, 3).requires_grad_(), cases.logits(1, 2, 2, 3, seed=3).softmax(1)
    with as_on_accelerator():
        assert torch.autograd.gradcheck(lambda z: cls(softmax=True)(z, target), x)
        assert torch.autograd.gradgradcheck(lambda z: cls(softmax=True)(z, target), x)


# -------------------------------------------------------------------------------------------------- values out of range


BAD: dict[str, tuple[dict[str, Any], Any]] = {
    "label": (MULTI, lambda x, label: (x, torch.where(torch.arange(label.numel()).view_as(label) == 7, 77, label))),
    "negative label": (
        MULTI,
        lambda x, label: (x, torch.where(torch.arange(label.numel()).view_as(label) == 7, -77, label)),
    ),
    "share": (
        {"softmax": True},
        lambda x, label: (x, torch.full(x.shape, 0.25).index_fill(2, torch.tensor([3]), 77.0)),
    ),
    "probability": (
        {"to_onehot_y": True},
        lambda x, label: (x.softmax(1).index_fill(2, torch.tensor([3]), 77.0), label),
    ),
    "mask": (MULTI, lambda x, label: (x, label, torch.ones(2, 1, 8, 9, 10).index_fill(2, torch.tensor([3]), -77.0))),
}


def bad_call(cls: type, kind: str) -> tuple[dict[str, Any], Any, Any]:
    """Return options, a call that is wrong by the number 77, and the same without it."""
    options, spoil = BAD[kind]
    if kind == "probability" and not cases.entry_of(cls).activation:
        pytest.skip("takes any number")
    x, label = volume()
    if kind == "probability":
        return options, spoil(x, label), (x.softmax(1), label)
    good = (x, torch.full(x.shape, 0.25)) if kind == "share" else (x, label)
    return options, spoil(x, label), good


@every_loss
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_value_is_nan_at_once_and_an_error_in_the_next_call(cls, kind):
    """The gradient is 0, so that one bad label does not destroy the weights."""
    options, (x, *rest), good = bad_call(cls, kind)
    loss = make(cls, **options)
    with as_on_accelerator():
        z = x.clone().requires_grad_()
        try:
            value = loss(z, *rest)
        except ValueError as error:  # where distances are measured on the CPU, all is looked at there
            assert "77" in str(error)  # noqa: PT017
            assert cases.entry_of(cls).spatial
        else:
            assert value.isnan()
            (gradient,) = torch.autograd.grad(value, z)
            assert gradient.shape == x.shape
            assert not gradient.any()
            with pytest.raises(ValueError, match="77"):
                SoftDiceLoss(**MULTI)(*volume())
        expected = loss(*good)  # is told once
    torch.testing.assert_close(expected, loss(*good), rtol=1e-5, atol=1e-6)


@every_loss
def test_without_reduction_all_values_are_nan(cls):
    if cases.entry_of(cls).family == "compound":
        pytest.skip("adds up scalars")
    options, (x, *rest), _ = bad_call(cls, "label")
    with as_on_accelerator():
        z = x.clone().requires_grad_()
        try:
            value = make(cls, **options, reduction="none")(z, *rest)
        except ValueError:
            assert cases.entry_of(cls).spatial
            return
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert value.isnan().any()
        assert not gradient.any()
        with pytest.raises(ValueError, match="77"):
            SoftDiceLoss(**MULTI)(*volume())


@every_loss
@pytest.mark.parametrize("kind", BAD)
def test_validation_now_raises_at_once_and_never_does_not_look(cls, kind):
    options, call, good = bad_call(cls, kind)
    with as_on_accelerator(), pytest.raises(ValueError, match="77"):
        make(cls, **options, validate="now")(*call)
    with pytest.raises(ValueError, match="77"):
        make(cls, **options, validate="now")(*call)
    careless = make(cls, **options, validate="never")
    with as_on_accelerator():
        if kind in ("share", "mask"):  # with which to compute is harmless
            careless(*call)
        value = careless(*good)  # nobody has looked
    torch.testing.assert_close(value, make(cls, **options)(*good), rtol=1e-5, atol=1e-6)


@every_loss
def test_not_looking_is_less_work(cls):
    x, label = volume()
    counted = [
        sum(operations_of(make(cls, **MULTI, validate=how), x, label).names.values()) for how in ("never", "auto")
    ]
    assert counted[0] <= counted[1]
    if cls in NOT_WAITING:
        assert counted[0] < counted[1]


@every_loss
def test_validate_is_one_of_three(cls):
    with pytest.raises(ValueError, match="validate must be one of 'auto', 'now', 'never', got 'later'"):
        make(cls, validate="later")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bounds_that_half_precision_cannot_hold(dtype):
    x, label = volume()
    mask = torch.rand(2, 1, 8, 9, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    with as_on_accelerator():
        got = SoftDiceLoss(**MULTI)(x, label, mask)
    torch.testing.assert_close(got, SoftDiceLoss(**MULTI)(x, label, mask), rtol=1e-5, atol=1e-6)


def test_on_a_cpu_bad_values_raise_at_once_unless_nobody_looks():
    options, (x, label), _ = bad_call(SoftDiceLoss, "label")
    with pytest.raises(ValueError, match="target holds 77"):
        SoftDiceLoss(**options)(x, label)


def test_a_network_survives_a_bad_label():
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 4, 3, padding=1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    image, (_, label) = torch.randn(2, 1, 8, 9, 10), volume()
    spoilt = label.clone()
    spoilt[0, 0, 0, 0, 0] = 9
    before = [p.detach().clone() for p in network.parameters()]
    with as_on_accelerator():
        DiceCrossEntropyLoss(**MULTI)(network(image), spoilt).backward()
        optimizer.step()
        assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
        with pytest.raises(ValueError, match="target holds 9"):
            DiceCrossEntropyLoss(**MULTI)(network(image), label)
        DiceCrossEntropyLoss(**MULTI)(network(image), label).backward()
