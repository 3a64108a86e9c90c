"""What is around Triton's kernels, in its interpreter: values out of range, launches, graphs, and what forces a way."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from monai_lossext.losses import (
    DiceCrossEntropyLoss,
    FocalCrossEntropyLoss,
    MatthewsCorrelationLoss,
    RegionLoss,
    SoftDiceLoss,
    WeightedCrossEntropyLoss,
    paths,
)
from monai_lossext.losses.engine import operators
from monai_lossext.losses.engine.cuda import kernels, walk
from monai_lossext.losses.paths import as_on_accelerator, plain_path, triton_path

from ... import cases
from ..test_accelerator import BAD, MULTI, WAITS, bad_call, volume

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
LOSSES = [SoftDiceLoss, MatthewsCorrelationLoss, FocalCrossEntropyLoss, DiceCrossEntropyLoss]
each = pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.__name__)
IMPLEMENTATIONS = {
    "sums": operators.sums_impl,
    "gradient": operators.gradient_impl,
    "values": operators.values_impl,
    "compute": operators.compute_impl,
}
# what runs nothing on a device: views and memory, and "to" what a tensor is already
FREE = ("detach", "expand", "select", "slice", "unsqueeze", "unbind", "view", "empty", "new_empty", "empty_like", "to")


@pytest.fixture(autouse=True)
def _nothing_is_left_to_be_raised() -> Iterator[None]:
    """Let no test hear of what another one has called wrongly."""
    yield
    with as_on_accelerator(), contextlib.suppress(ValueError):
        SoftDiceLoss(**MULTI)(*volume())


class Step(TorchDispatchMode):
    """Counts the operations of a step, those inside of our operators too, and our kernels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()
        usual = kernels.launch

        def launch(name: str, *args: Any, **named: Any) -> bool:
            self.kernels[name] += 1
            with _disable_current_modes():  # the interpreter's own
                return usual(name, *args, **named)

        monkeypatch.setattr(kernels, "launch", launch)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "monai_lossext":
            with self:
                return IMPLEMENTATIONS[func._opname](*args)
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def launched(self) -> int:
        """Return what a device has to do."""
        return sum(self.kernels.values()) + sum(n for name, n in self.names.items() if name not in FREE)


def step(loss: Any, x: torch.Tensor, *rest: Any, monkeypatch: pytest.MonkeyPatch) -> Step:
    """Count the second step of a training; the first may prepare something."""
    with triton_path():
        loss(x.clone().requires_grad_(), *rest).backward()
        z = x.clone().requires_grad_()
        with Step(monkeypatch) as counted:
            loss(z, *rest).backward()
    monkeypatch.undo()
    return counted


MOST = {SoftDiceLoss: 8, MatthewsCorrelationLoss: 8, FocalCrossEntropyLoss: 8, DiceCrossEntropyLoss: 12}


@each
def test_launches_are_few_and_nothing_waits(cls, monkeypatch):
    counted = step(cls(**MULTI), *volume(), monkeypatch=monkeypatch)
    print(f"{cls.__name__}: {sum(counted.kernels.values())} kernels, {counted.launched()} operations on the device")
    computed = 2 if cls is DiceCrossEntropyLoss else 1
    assert counted.kernels == {"walk": 2, "judge": 1, "finish": 1, "compute": computed}
    assert 5 < counted.launched() <= MOST[cls], counted.names.most_common()
    assert not any(counted.names[name] for name in WAITS)


@pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if issubclass(cls, RegionLoss)], ids=lambda cls: cls.__name__
)
def test_a_region_loss_is_one_kernel_beside_the_walks(cls, monkeypatch):
    x, label = cases.logits(2, 4, 3, 5, dtype=torch.float32), cases.indices(2, 4, 3, 5)
    rest: Any = {"label": label, "classes": cases.partial("1101", "1111")}, torch.rand(2, 1, 3, 5)
    for options in ({"include_background": False, "weight": [1.0, 2.0, 3.0], "empty": "skip"}, {"batch": True}):
        counted = step(cls(**MULTI, **options), x, *rest, monkeypatch=monkeypatch)
        assert counted.kernels["compute"] == 1, options
        assert counted.launched() <= 14, counted.names.most_common()


# -------------------------------------------------------------------------------------------------- values out of range


@each
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_value_is_nan_at_once_and_an_error_in_the_next_call(cls, kind):
    """The gradient is 0, so that one bad label does not destroy the weights."""
    options, (x, *rest), good = bad_call(cls, kind)
    for own in ({}, {"reduction": "none"} if cls is FocalCrossEntropyLoss else {}):
        loss = cls(**options, **own)
        with triton_path():
            z = x.clone().requires_grad_()
            value = loss(z, *rest)
            assert value.isnan().all()
            (gradient,) = torch.autograd.grad(value.sum(), z)
            assert not gradient.any()
            with pytest.raises(ValueError, match="77"):
                SoftDiceLoss(**MULTI)(*volume())
            assert torch.isfinite(loss(*good)).all()  # is told once


@pytest.mark.parametrize(
    ("value", "told"), [(torch.nan, "holds nan"), (torch.inf, "holds inf"), (-0.5, "holds -0.5"), (0.5, "holds 0.5")]
)
def test_what_no_label_can_be_is_told(value, told):
    x, label = volume()
    label = label.float()
    label[1, 0, 2, 3, 4] = value
    with triton_path():
        assert WeightedCrossEntropyLoss(**MULTI)(x, label).isnan()
        with pytest.raises(ValueError, match=told):
            SoftDiceLoss(**MULTI)(*volume())


@pytest.mark.parametrize("kind", BAD)
def test_validation_now_raises_at_once_and_never_does_not_look(kind):
    options, call, good = bad_call(SoftDiceLoss, kind)
    with triton_path(), pytest.raises(ValueError, match="77"):
        SoftDiceLoss(**options, validate="now")(*call)
    with triton_path():
        SoftDiceLoss(**options, validate="never")(*call)
        value = SoftDiceLoss(**options, validate="never")(*good)  # nobody has looked
    torch.testing.assert_close(value, SoftDiceLoss(**options)(*good), rtol=1e-5, atol=1e-6)


def test_not_looking_is_less_work(monkeypatch):
    counted = step(SoftDiceLoss(**MULTI, validate="never"), *volume(), monkeypatch=monkeypatch)
    assert counted.kernels == {"walk": 2, "finish": 1, "compute": 1}


# ---------------------------------------------------------------------------------------------------- graphs and checks


@each
def test_compiled_the_operators_stay_whole(cls, monkeypatch):
    torch.compiler.reset()
    targets: list[str] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    x, label = volume()
    loss = cls(**MULTI)
    compiled = torch.compile(loss, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    launched: list[str] = []
    usual = kernels.launch
    monkeypatch.setattr(kernels, "launch", lambda name, *a, **n: launched.append(name) or usual(name, *a, **n))
    with triton_path():
        expected = cases.value_and_gradient(loss, x, label)
        launched.clear()
        found = cases.value_and_gradient(compiled, x, label)
    assert [name for name in targets if "monai_lossext" in name] == [
        "monai_lossext.sums.default",
        "monai_lossext.gradient.default",
    ]
    assert launched == ["walk", "judge", "finish", "walk"]
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


def test_operators_pass_torchs_own_checks():
    x, label = cases.logits(2, 3, 6, 5, dtype=torch.float32), cases.indices(2, 3, 6, 5)
    calls = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "monai_lossext":
                calls.append((func, tuple(a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args)))
            return func(*args, **(kwargs or {}))

    with triton_path():
        with Recorder():
            for reduction in ("mean", "none"):
                loss = FocalCrossEntropyLoss(**MULTI, reduction=reduction)
                loss(x.clone().requires_grad_(), label, torch.rand(2, 1, 6, 5)).sum().backward()
        assert {func._opname for func, _ in calls} == {"sums", "values", "gradient", "compute"}
        for operator, args in calls:
            tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
            torch.library.opcheck(operator, args, test_utils=tests)


def test_a_second_derivative_is_that_of_the_plain_way():
    x, label = volume()

    def curvature() -> torch.Tensor:
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(SoftDiceLoss(**MULTI)(z, label), z, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), z)[0]

    with triton_path():
        got = curvature()
    with plain_path():
        expected = curvature()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


# ------------------------------------------------------------------------------------------------------ choice of a way


def test_the_innermost_block_decides(monkeypatch):
    launched: list[str] = []
    monkeypatch.setattr(kernels, "launch", lambda name, *_, **__: launched.append(name))
    with triton_path():
        for other in (plain_path, as_on_accelerator):
            with other():
                SoftDiceLoss(**MULTI)(*volume())
    assert not launched
    with plain_path(), triton_path(), contextlib.suppress(TypeError):
        SoftDiceLoss(**MULTI)(*volume())
    assert launched


def test_more_channels_than_there_are_kernels_for_take_the_plain_way(monkeypatch):
    monkeypatch.setattr(kernels, "launch", lambda *_, **__: pytest.fail("launched"))
    x, label = cases.logits(1, 257, 4, dtype=torch.float32), torch.zeros(1, 1, 4)
    with triton_path():
        SoftDiceLoss(**MULTI)(x.requires_grad_(), label).backward()


@each
def test_kernels_that_do_not_compile_leave_the_plain_way(cls, monkeypatch):
    """With one warning; values out of range are found as before. On a GPU, for which the CPU stands in here."""
    monkeypatch.setattr(paths, "triton_available", lambda x: not paths._broken_triton)
    monkeypatch.setattr(paths, "_broken_triton", [])
    monkeypatch.setattr(walk, "walk", {})  # no program can be found in it
    options, (x, label), _ = bad_call(cls, "label")
    with as_on_accelerator():
        z = x.clone().requires_grad_()
        with pytest.warns(RuntimeWarning, match="Triton cannot compile here"):
            value = cls(**options)(z, label)
        assert value.isnan()
        (gradient,) = torch.autograd.grad(value, z)
        assert not gradient.any()
        with pytest.raises(ValueError, match="77"):
            cls(**options)(*volume())
        expected = cls(**options)(*volume())
    with plain_path():
        torch.testing.assert_close(cls(**options)(*volume()), expected)
