"""What must end in a right value or in an exception: never in a crash, in a wrong number or in memory that is kept."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import textwrap
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    CalibrationLoss,
    DiceCrossEntropyLoss,
    FocalCrossEntropyLoss,
    LovaszSoftmaxLoss,
    MatthewsCorrelationLoss,
    SoftDiceLoss,
    WeightedCrossEntropyLoss,
)
from monai_lossext.losses.paths import as_on_accelerator, plain_path

from .. import cases, checks
from ..cases import make

MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
every_loss = pytest.mark.parametrize("cls", cases.CLASSES, ids=lambda cls: cls.__name__)
ONE_OF_EACH = [
    SoftDiceLoss,
    MatthewsCorrelationLoss,
    WeightedCrossEntropyLoss,
    FocalCrossEntropyLoss,
    LovaszSoftmaxLoss,
    DiceCrossEntropyLoss,
]
one_of_each = pytest.mark.parametrize("cls", ONE_OF_EACH, ids=lambda cls: cls.__name__)


def volume(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    return cases.logits(2, 3, 8, 9, 10, dtype=dtype), cases.indices(2, 3, 8, 9, 10)


def run_apart(code: str) -> str:
    """Run code in a process of its own and return what it printed; AssertionError if it crashed or failed."""
    head = "import torch\nfrom monai_lossext.losses import *\nfrom tests.losses import cases\n"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", head + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# ------------------------------------------------------------------------------------------------- devices and wrappers


@every_loss
def test_what_lies_on_another_device_is_named(cls):
    x, label = volume()
    loss = make(cls, **MULTI)
    mask, maps = torch.ones(2, 1, 8, 9, 10), torch.ones_like(x)
    wrong: list[tuple[Any, ...]] = [
        (label.to("meta"),),
        (label, mask.to("meta")),
        ({"label": label, "mask": mask.to("meta")},),
    ]
    if cls is BoundaryDistanceLoss:
        wrong.append(({"label": label, "distance_map": maps.to("meta")},))
    for rest in wrong:
        with pytest.raises(ValueError, match=r"meta.*cpu|cpu.*meta"):
            loss(x, *rest)
    with pytest.raises(ValueError, match=r"meta.*cpu|cpu.*meta"):
        loss(x.to("meta"), label)


@pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if cases.entry_of(cls).graph], ids=lambda cls: cls.__name__
)
def test_fake_tensors_have_the_shape_and_dtype_of_the_loss(cls):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        with checks.at(dtype):
            x, label = volume(dtype)
            reductions = ("mean",) if cases.entry_of(cls).family == "compound" else ("mean", "none")
            for reduction in reductions:
                loss = make(cls, **MULTI, reduction=reduction)
                value, gradient = cases.value_and_gradient(loss, x, label)
                with FakeTensorMode() as mode:
                    fake = mode.from_tensor(x).requires_grad_()
                    got = loss(fake, mode.from_tensor(label), mode.from_tensor(torch.ones(2, 1, 8, 9, 10)))
                    assert (got.shape, got.dtype) == (value.shape, value.dtype)
                    got.sum().backward()
                    assert (fake.grad.shape, fake.grad.dtype) == (gradient.shape, gradient.dtype)


def test_wrappers_of_tensors_are_computed_or_refused():
    run_apart(
        """
        import os
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor
        from torch.utils._pytree import tree_map

        class Wrapper(torch.Tensor):
            @staticmethod
            def __new__(cls, inside):
                same = {"dtype": inside.dtype, "strides": inside.stride()}
                wrapper = torch.Tensor._make_wrapper_subclass(cls, inside.shape, **same)
                wrapper.inside = inside
                return wrapper

            @classmethod
            def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
                def unwrapped(x):
                    return x.inside if isinstance(x, Wrapper) else x
                args, kwargs = tree_map(unwrapped, args), tree_map(unwrapped, kwargs or {})
                return tree_map(lambda x: Wrapper(x) if isinstance(x, torch.Tensor) else x, func(*args, **kwargs))

        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        mesh = init_device_mesh("cpu", (1,))
        x, label = cases.logits(2, 3, 8, 9, dtype=torch.float32), cases.indices(2, 3, 8, 9)
        for cls in cases.CLASSES:
            loss = cases.make(cls, softmax=True, to_onehot_y=True)
            expected, slope = cases.value_and_gradient(loss, x, label)
            for wrap in (Wrapper, lambda t: distribute_tensor(t, mesh, [Shard(0)])):
                wrapped = wrap(x.clone()).requires_grad_()
                try:
                    value = loss(wrapped, wrap(label))
                    value.backward()
                except Exception as error:
                    print(cls.__name__, type(error).__name__, error)
                    continue
                plain = value.full_tensor() if hasattr(value, "full_tensor") else getattr(value, "inside", value)
                torch.testing.assert_close(plain.detach(), expected, rtol=1e-5, atol=1e-6)
        dist.destroy_process_group()
        """
    )


@pytest.mark.parametrize("what", ["input", "target", "mask", "input before backward", "target before backward"])
def test_freed_memory_is_an_error(what):
    run_apart(
        f"""
        what = {what!r}
        for cls in cases.CLASSES:
            for x in (cases.logits(2, 3, 8, 9, dtype=torch.float32), cases.logits(2, 3, 8, 9, dtype=torch.bfloat16)):
                label, mask = cases.indices(2, 3, 8, 9), torch.rand(2, 1, 8, 9)
                x.requires_grad_()
                loss = cases.make(cls, softmax=True, to_onehot_y=True)
                held = {{"input": x, "target": label, "mask": mask}}[what.split()[0]]
                try:
                    if "before" not in what:
                        held.untyped_storage().resize_(0)
                    value = loss(x, label, mask)
                    if "before" in what:
                        held.untyped_storage().resize_(0)
                    value.backward()
                except RuntimeError:
                    continue
                # what the backward pass does not read need not be there any more
                assert "before" in what and torch.isfinite(x.grad).all(), cls
        """
    )


def test_labels_out_of_range_that_nobody_looks_at_address_no_memory():
    """The loss may be any number, or an exception; what lies beside the logits is neither read nor written."""
    run_apart(
        """
        for cls in cases.CLASSES:
            for options in ({"softmax": True}, {"sigmoid": True}):
                for channels in (2, 3, 9):
                    loss = cases.make(cls, **options, to_onehot_y=True, validate="never")
                    for bad in (77, -5, 2**31, -2**40, 2.5, float("nan"), float("inf")):
                        x = cases.logits(2, channels, 8, 9, dtype=torch.float32).requires_grad_()
                        dtype = torch.float32 if isinstance(bad, float) else torch.int64
                        label = cases.indices(2, channels, 8, 9).to(dtype)
                        label[:, :, 3] = bad
                        try:
                            loss(x, label).backward()
                        except Exception as error:
                            print(cls.__name__, bad, type(error).__name__)
        """
    )


@every_loss
def test_hooks_may_give_back_expanded_tensors(cls):
    """As those do that keep less: a tensor of equal samples as one of them."""
    for dtype in (torch.float32, torch.bfloat16):
        with checks.at(dtype):
            x, label = (torch.cat([t[:1], t[:1]]) for t in volume(dtype))
            mask = torch.ones(2, 1, 8, 9, 10)
            mask[:, :, :, 4] = 0.5
            loss = make(cls, **MULTI)
            expected = cases.value_and_gradient(loss, x, label, mask)

            def pack(t: torch.Tensor) -> torch.Tensor:
                return t[:1].clone() if t.ndim > 2 and t.shape[0] == 2 and torch.equal(t[0], t[1]) else t

            unpacked = []

            def unpack(t: torch.Tensor) -> torch.Tensor:
                unpacked.append(t.shape)  # noqa: B023
                return t.expand(2, *t.shape[1:]) if t.ndim > 2 and t.shape[0] == 1 else t

            with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
                got = cases.value_and_gradient(loss, x, label, mask)
            assert unpacked
            for one, other in zip(got, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


# -------------------------------------------------------------------------------------------- graphs and transforms


def operators_of(loss: torch.nn.Module, *call: Any) -> tuple[Any, list[str]]:
    """Return the loss as one compiled graph, and the names of the operators in it, once it is called."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    names: list[str] = []

    def keep(module: torch.fx.GraphModule, _: Any) -> Any:
        names.extend(str(node.target) for node in module.graph.nodes if node.op == "call_function")
        return make_boxed_func(module.forward)

    torch.compiler.reset()
    return torch.compile(loss, fullgraph=True, backend=aot_autograd(fw_compiler=keep)), names


@pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if not cases.entry_of(cls).spatial], ids=lambda cls: cls.__name__
)
def test_a_compiled_loss_keeps_its_operators(cls):
    x, label = volume()
    loss = make(cls, **MULTI)
    compiled, names = operators_of(loss)
    for got, want in zip(
        cases.value_and_gradient(compiled, x, label), cases.value_and_gradient(loss, x, label), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    if cls is not CalibrationLoss:  # which puts probabilities into bins in torch's own operations
        assert any("monai_lossext" in name for name in names), names
    label[1, 0, 3, 4, 5] = 77
    with pytest.raises((ValueError, RuntimeError), match=r"77|out of range"):
        compiled(x, label)


@one_of_each
@torch._dynamo.config.patch(recompile_limit=32)
def test_a_compiled_loss_takes_other_shapes_masks_and_dtypes(cls):
    torch.compiler.reset()
    loss = cls(**MULTI, ignore_index=255)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for shape, dtype in (((2, 3, 8, 9), torch.float32), ((1, 3, 11, 5), torch.float32), ((3, 3, 6, 7), torch.bfloat16)):
        x, label = cases.logits(*shape, dtype=dtype), cases.indices(*shape)
        mask = torch.rand(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(0))
        for rest in ((label,), (label, mask), ({"label": label, "classes": cases.partial(*["110"] * shape[0])},)):
            expected = cases.value_and_gradient(loss, x, *rest)
            for got, want in zip(cases.value_and_gradient(compiled, x, *rest), expected, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if cases.entry_of(cls).graph], ids=lambda cls: cls.__name__
)
def test_a_loss_can_be_exported(cls):
    x, label = volume()
    loss = make(cls, **MULTI)
    exported = torch.export.export(loss, (x, label))
    torch.testing.assert_close(exported.module()(x, label), loss(x, label), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if cases.entry_of(cls).graph], ids=lambda cls: cls.__name__
)
def test_functional_transforms_take_the_plain_way(cls):
    x, label = volume()
    loss = make(cls, **MULTI)
    with plain_path():
        value, gradient = cases.value_and_gradient(loss, x, label)
    torch.testing.assert_close(torch.func.grad(lambda z: loss(z, label))(x), gradient, rtol=1e-5, atol=1e-7)
    got, pullback = torch.func.vjp(lambda z: loss(z, label), x)
    torch.testing.assert_close(got, value)
    torch.testing.assert_close(pullback(torch.ones_like(got))[0], gradient, rtol=1e-5, atol=1e-7)


@one_of_each
def test_losses_of_many_predictions_at_once(cls):
    x, label = volume()
    loss = cls(**MULTI)
    several = torch.stack([x, -x, 0.5 * x])
    expected = torch.stack([loss(one, label) for one in several])
    torch.testing.assert_close(torch.func.vmap(lambda z: loss(z, label))(several), expected, rtol=1e-5, atol=1e-6)
    gradients = torch.func.vmap(torch.func.grad(lambda z: loss(z, label)))(several)
    for got, one in zip(gradients, several, strict=True):
        torch.testing.assert_close(got, cases.value_and_gradient(loss, one, label)[1], rtol=1e-4, atol=1e-7)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit:DeprecationWarning")
@one_of_each
def test_a_traced_loss_computes_what_the_loss_does(cls):
    x, label = volume()
    loss = cls(**MULTI)
    traced = torch.jit.trace(lambda z, t: loss(z, t), (x, label), check_trace=False)
    other = -x
    torch.testing.assert_close(traced(other, label), loss(other, label), rtol=1e-5, atol=1e-7)
    for got, want in zip(
        cases.value_and_gradient(traced, other, label), cases.value_and_gradient(loss, other, label), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


@every_loss
def test_forward_mode_is_refused_in_a_sentence(cls):
    x, label = volume()
    loss = make(cls, **MULTI)
    with pytest.raises(NotImplementedError, match=r"forward.mode"):
        torch.func.jvp(lambda z: loss(z, label), (x,), (torch.ones_like(x),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match=r"forward.mode"):
        loss(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)), label)


# ----------------------------------------------------------------------------------- what happens before the backward


OVERWRITTEN = r"modified by an inplace operation"
CALLS: dict[str, dict[str, Any]] = {
    "softmax": MULTI,
    "sigmoid": {"sigmoid": True, "to_onehot_y": True},
    "none": {**MULTI, "reduction": "none"},
    "ignored": {**MULTI, "ignore_index": 1},
    "given": {"to_onehot_y": True},
}


@pytest.mark.usefixtures("kernels_or_plain")
@every_loss
def test_a_buffer_that_is_written_into_is_never_a_wrong_gradient(cls):
    """As a loader does that fills the same buffers again: the exact gradient, or an error that says so."""
    for call, dtype in itertools.product(CALLS, (torch.float32, torch.bfloat16)):
        with checks.at(call, dtype):
            start, label = cases.logits(2, 3, 8, 9, dtype=dtype), cases.indices(2, 3, 8, 9)
            start = start.softmax(1) if call == "given" else start
            mask = torch.rand(2, 1, 8, 9, generator=torch.Generator().manual_seed(0))
            loss = make(cls, **CALLS[call])
            _, expected = cases.value_and_gradient(loss, start, label, mask)
            overwritten = {"label": lambda t, m: t.copy_((t + 1) % 3), "mask": lambda t, m: m.mul_(2).neg_().add_(2)}
            for name, overwrite in overwritten.items():
                for again in (False, True):
                    x, t, m = start.clone().requires_grad_(), label.clone(), mask.clone()
                    value = loss(x, t, m).sum()
                    if again:
                        torch.autograd.grad(value, x, retain_graph=True)
                    overwrite(t, m)
                    try:
                        (gradient,) = torch.autograd.grad(value, x)
                    except RuntimeError as error:
                        assert OVERWRITTEN in str(error)  # noqa: PT017
                    else:
                        assert torch.equal(gradient, expected), (name, again)


@one_of_each
def test_a_label_changed_before_the_backward_pass_is_an_error(cls):
    x, label = volume()
    value = cls(**MULTI)(x.requires_grad_(), label)
    label[:] = 0
    with pytest.raises(RuntimeError, match=OVERWRITTEN):
        value.backward()


@pytest.mark.usefixtures("kernels_or_plain")
@every_loss
def test_a_kept_value_keeps_nothing_else(cls):
    """As a list of losses of an epoch would."""
    for options in (MULTI, {"sigmoid": True, "to_onehot_y": True}):
        with checks.at(options):
            gc.freeze()  # what was there before need not be searched
            leaf, label = volume()
            leaf.requires_grad_()
            x, mask = leaf * 1, torch.rand(2, 1, 8, 9, 10)
            phi = {"distance_map": torch.ones(2, 3, 8, 9, 10)} if cls is BoundaryDistanceLoss else {}
            value = make(cls, **options)(x, {"label": label, **phi}, mask)
            value.backward()
            held = [weakref.ref(t) for t in (x, label, mask, *phi.values())]
            del x, label, mask, phi
            gc.collect()
            gc.unfreeze()
            assert value.isfinite()
            assert [reference() for reference in held] == [None] * len(held)


# --------------------------------------------------------------------------------------- interrupts, threads, processes


def test_an_interrupt_is_raised_after_the_call_and_harms_nothing():
    run_apart(
        """
        import os, signal, threading, time
        x, label = cases.logits(1, 3, 96, 96, 96, dtype=torch.float32), cases.indices(1, 3, 96, 96, 96)
        for cls in (SoftDiceLoss, WeightedCrossEntropyLoss, LovaszSoftmaxLoss, DiceCrossEntropyLoss):
            loss = cls(softmax=True, to_onehot_y=True)
            expected = cases.value_and_gradient(loss, x, label)
            interrupted = 0
            for wait in (0.0, 0.003, 0.01, 0.02, 0.05):
                timer = threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT))
                try:
                    timer.start()
                    for _ in range(1000):
                        cases.value_and_gradient(loss, x, label)
                except KeyboardInterrupt:
                    interrupted += 1
                timer.join()
                for got, want in zip(cases.value_and_gradient(loss, x, label), expected, strict=True):
                    assert torch.equal(got, want), cls
            assert interrupted == 5, cls
        """
    )


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read from /proc")
def test_memory_that_is_not_there_is_an_error_and_harms_nothing():
    """A call may not find memory for its first number, its last one, or for a thread."""
    run_apart(
        """
        import resource
        x, label = cases.logits(1, 3, 160, 160, 160, dtype=torch.float32), cases.indices(1, 3, 160, 160, 160)
        nobody = resource.getrlimit(resource.RLIMIT_AS)
        for cls in (SoftDiceLoss, WeightedCrossEntropyLoss, LovaszSoftmaxLoss, DiceCrossEntropyLoss):
            loss = cls(softmax=True, to_onehot_y=True)
            expected = cases.value_and_gradient(loss, x, label)
            failed = 0
            for spare in (0, 2**20, 2**24, 2**26):
                pages = int(open("/proc/self/statm").read().split()[0])
                resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + spare, nobody[1]))
                try:
                    found = cases.value_and_gradient(loss, x, label)
                except (RuntimeError, MemoryError) as error:
                    assert "memory" in str(error) or isinstance(error, MemoryError), error
                    failed += 1
                else:
                    assert all(map(torch.equal, found, expected)), (cls, spare)
                finally:
                    resource.setrlimit(resource.RLIMIT_AS, nobody)
            assert failed > 1, (cls, failed)
            assert all(map(torch.equal, cases.value_and_gradient(loss, x, label), expected)), cls
        """
    )


def test_three_losses_may_be_used_for_the_first_time_in_three_threads():
    run_apart(
        """
        import threading
        x, label = cases.logits(2, 3, 8, 9, 10, dtype=torch.float32), cases.indices(2, 3, 8, 9, 10)
        classes = SoftDiceLoss, FocalCrossEntropyLoss, LovaszSoftmaxLoss
        losses = [cls(softmax=True, to_onehot_y=True) for cls in classes]
        found, start = {}, threading.Barrier(3)

        def first(loss):
            start.wait()
            found[loss] = cases.value_and_gradient(loss, x, label)

        threads = [threading.Thread(target=first, args=(loss,), daemon=True) for loss in losses]
        [thread.start() for thread in threads]
        [thread.join(200) for thread in threads]
        assert len(found) == 3, found
        for loss, results in found.items():
            for got, want in zip(results, cases.value_and_gradient(loss, x, label), strict=True):
                assert torch.equal(got, want)
        """
    )


def test_a_forked_process_has_threads_of_its_own():
    run_apart(
        """
        import multiprocessing, warnings
        warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)
        torch.set_num_threads(2)
        x, label = cases.logits(2, 3, 40, 40, 40, dtype=torch.float32), cases.indices(2, 3, 40, 40, 40)
        classes = SoftDiceLoss, DiceCrossEntropyLoss  # torch's own operations wait for ever there
        losses = [cls(softmax=True, to_onehot_y=True) for cls in classes]
        expected = [loss(x, label).item() for loss in losses]  # the threads exist now
        fork = multiprocessing.get_context("fork")
        queue = fork.Queue()
        child = fork.Process(target=lambda: queue.put([loss(x, label).item() for loss in losses]), daemon=True)
        child.start()
        assert queue.get(timeout=60) == expected
        child.join(60)
        assert child.exitcode == 0
        """
    )


def test_what_accelerators_do_works_in_all_of_these_too():
    x, label = volume()
    loss = DiceCrossEntropyLoss(**MULTI)
    expected = cases.value_and_gradient(loss, x, label)
    with as_on_accelerator():
        for got, want in zip(cases.value_and_gradient(loss, x, label), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(torch.func.grad(lambda z: loss(z, label))(x), expected[1], rtol=1e-5, atol=1e-7)
