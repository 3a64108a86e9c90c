"""The compiled loops: where they are taken, and what must not change their results."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from monai_lossext.losses import MatthewsCorrelationLoss, SoftDiceLoss, compiled, entries, kernels
from monai_lossext.losses.paths import plain_path, uncompiled_path

from . import cases

SOFTMAX = {"softmax": True, "to_onehot_y": True}


def volume(channels: int = 3, size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(channels)
    x = torch.randn(2, channels, size, size, 48, generator=generator)
    return x, torch.randint(0, max(channels, 2), (2, 1, size, size, 48), generator=generator)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the loops that were run."""
    names: list[str] = []
    for name in ("sums", "gradient"):
        original = getattr(compiled.Loops, name)

        def noting(self: Any, *args: Any, name: str = name, original: Any = original) -> Any:
            names.append(name)
            return original(self, *args)

        monkeypatch.setattr(compiled.Loops, name, noting)
    return names


@pytest.mark.parametrize("dtype", [*compiled.READABLE])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_loops_are_taken_for_readable_volumes(calls, dtype, channels):
    if channels == 1 and dtype == torch.float64:
        pytest.skip("float64 is read as labels only")
    x, label = cases_of(channels, dtype)
    value, gradient = cases.value_and_gradient(lambda z: loss_for(channels)(z, label), x)
    assert calls == ["sums", "gradient"]
    with plain_path():
        expected, slope = cases.value_and_gradient(lambda z: loss_for(channels)(z, label), x)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, slope, rtol=1e-6, atol=1e-6 * slope.abs().max().item())


def cases_of(channels: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x, label = volume(channels, 16)
    return (x, label.clamp(max=1).to(dtype)) if dtype == torch.bool else (x, label.to(dtype))


def loss_for(channels: int) -> SoftDiceLoss:
    return SoftDiceLoss(sigmoid=True) if channels == 1 else SoftDiceLoss(**SOFTMAX)


@pytest.mark.parametrize(
    "what", ["mask", "ignored", "float64", "strided", "negated", "uncompiled", "plain", "no Numba"]
)
def test_all_else_goes_the_other_ways(calls, monkeypatch, what):
    x, label = volume(size=8)
    loss, mask = SoftDiceLoss(**SOFTMAX, ignore_index=2 if what == "ignored" else None), None
    if what == "mask":
        mask = torch.ones_like(label)
        mask[0, 0, 0, 0, 0] = 2
    elif what == "float64":
        x = x.double()
    elif what == "strided":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    elif what == "negated":
        x = torch._neg_view(x)
    elif what == "no Numba":
        monkeypatch.setattr(compiled, "compiled", lambda: False)
    x.requires_grad_()
    if what in ("uncompiled", "plain"):
        with uncompiled_path() if what == "uncompiled" else plain_path():
            loss(x, label, mask).backward()
    else:
        loss(x, label, mask).backward()
    assert calls == []
    assert x.grad is not None


def test_what_is_missing_is_known_without_importing_it():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from monai_lossext.losses import SoftDiceLoss, paths\n"
        "x = torch.zeros(1, 1, 8, requires_grad=True)\n"
        "SoftDiceLoss(sigmoid=True)(x, torch.ones(1, 1, 8)).backward()\n"
        "assert not paths.numba_is_installed() and x.grad.abs().min() > 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_number_of_threads_changes_no_bit(channels):
    x, label = volume(channels)
    loss, results = MatthewsCorrelationLoss(**(SOFTMAX if channels > 1 else {"sigmoid": True})), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(cases.value_and_gradient(lambda z: loss(z, label), x))
    finally:
        torch.set_num_threads(before)
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("missing", [AttributeError, OSError, TypeError])
def test_without_openmp_other_threads_compute_the_same(monkeypatch, missing):
    x, label = volume(1)
    expected = cases.value_and_gradient(lambda z: loss_for(1)(z, label), x)

    def no_library(_: Any) -> Any:
        raise missing

    compiled.openmp.cache_clear()
    monkeypatch.setattr(compiled.ctypes, "CDLL", no_library)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    try:
        assert compiled.openmp() is None
        got = cases.value_and_gradient(lambda z: loss_for(1)(z, label), x)
    finally:
        compiled.openmp.cache_clear()
    assert all(torch.equal(*both) for both in zip(got, expected, strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there torch is known to bring OpenMP")
def test_loops_run_on_threads_of_openmp(monkeypatch):
    x, label = volume(1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(compiled, "pool", lambda: pytest.fail("no other threads are needed"))
    assert loss_for(1)(x, label).isfinite()


def test_several_threads_may_compute_losses_at_once():
    x, label = volume(3)
    expected = cases.value_and_gradient(lambda z: loss_for(3)(z, label), x)
    with ThreadPoolExecutor(4) as callers:
        calls = [callers.submit(cases.value_and_gradient, lambda z: loss_for(3)(z, label), x) for _ in range(16)]
        for got in calls:
            assert all(torch.equal(*both) for both in zip(got.result(), expected, strict=True))


@pytest.mark.parametrize("value", [-1, 3, 7, 2**40])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_labels_out_of_range_are_named(value, dtype):
    x, label = volume(size=8)
    label = label.to(dtype)
    label[1, 0, 3, 2, 1] = value % 256 if dtype == torch.uint8 else value
    if label.max() <= 2 and label.min() >= 0:
        pytest.skip("fits into the dtype as a label")
    with pytest.raises(ValueError, match=r"target holds .*expected integer labels 0\.\.2"):
        SoftDiceLoss(**SOFTMAX)(x, label)


def test_negative_labels_are_found_among_more_classes_than_a_byte_tells_apart():
    x, label = torch.zeros(1, 300, 8), torch.zeros(1, 1, 8, dtype=torch.int8)
    label[0, 0, 3] = -1
    with pytest.raises(ValueError, match="target holds -1"):
        SoftDiceLoss(**SOFTMAX)(x, label)


def test_values_beside_the_range_by_less_than_float32_tells_are_found():
    target = torch.ones(1, 1, 8, dtype=torch.float64)
    target[0, 0, 3] += 1e-12
    with pytest.raises(ValueError, match=r"target holds 1\.000000000001"):
        SoftDiceLoss(sigmoid=True)(torch.zeros(1, 1, 8), target)


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_labels_that_are_no_integers_are_named(value):
    x, label = volume(size=8)
    label = label.float()
    label[1, 0, 3, 2, 1] = value
    with pytest.raises(ValueError, match="target holds"):
        SoftDiceLoss(**SOFTMAX)(x, label)
    single = torch.zeros(2, 1, 8, 8, 48)
    single[0, 0, 1, 1, 1] = value if value != 0.5 else 1.5
    with pytest.raises(ValueError, match=r"target holds .*expected values in \[0, 1\]"):
        SoftDiceLoss(sigmoid=True)(x[:, :1], single)


def test_a_nan_in_the_logits_is_not_hidden():
    for channels in (1, 2, 3):
        x, label = volume(channels, 8)
        x[0, 0, 1, 2, 3] = float("nan")
        value, gradient = cases.value_and_gradient(lambda z: loss_for(z.shape[1])(z, label), x)  # noqa: B023
        assert value.isnan()
        assert gradient[0].isnan().any()


def test_exp_is_right_to_the_last_place_but_one():
    x = np.concatenate([np.linspace(-86, 0, 100_001), -np.logspace(-8, 0, 1000)]).astype(np.float32)
    got = np.array([kernels.exp_of_negative(value) for value in x])
    np.testing.assert_allclose(got, np.exp(x.astype(np.float64)), rtol=2**-22)
    assert kernels.exp_of_negative(np.float32(0)) == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # of newer Pythons, to those who fork
def test_a_forked_process_has_threads_of_its_own(monkeypatch):
    x, label = volume(1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    expected = SoftDiceLoss(sigmoid=True)(x, label).item()  # the threads exist now
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_compute, args=(queue, x, label), daemon=True)
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)


def _compute(queue: Any, x: torch.Tensor, label: torch.Tensor) -> None:
    queue.put(SoftDiceLoss(sigmoid=True)(x, label).item())


def test_where_nothing_can_be_kept_on_disk_loops_are_compiled_anew(monkeypatch):
    asked = []

    def njit(cache: bool = False, **options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(entries.numba, "njit", njit)
    assert entries.compiled(len) is len
    assert asked == [True, False]
