"""The losses on a GPU: the same values and gradients as on the CPU. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from monai_lossext.losses import DiceCrossEntropyLoss, FocalCrossEntropyLoss, MatthewsCorrelationLoss, SoftDiceLoss

from . import cases
from .cases import make

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
every_loss = pytest.mark.parametrize("cls", cases.CLASSES, ids=lambda cls: cls.__name__)
MULTI = {"softmax": True, "to_onehot_y": True}


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_cuda_equals_cpu(cls, dtype):
    x, label = cases.logits(2, 3, 9, 8, 7, dtype=dtype), cases.indices(2, 3, 9, 8, 7)
    mask = torch.rand(2, 1, 9, 8, 7, generator=torch.Generator().manual_seed(3))
    loss = make(cls, **MULTI, weight=[1.0, 2.0, 3.0], ignore_index=255)
    label[:, :, 4] = 255
    on_cpu = cases.value_and_gradient(loss, x, label, mask)
    on_gpu = cases.value_and_gradient(loss, x.cuda(), label.cuda(), mask.cuda())
    for got, want in zip(on_gpu, on_cpu, strict=True):
        assert got.is_cuda
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(want.dtype, 1e-2)
        torch.testing.assert_close(got.cpu(), want, rtol=tolerance, atol=tolerance * 1e-3)


@every_loss
def test_mixed_precision_training_step(cls):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 1, 3, padding=1).cuda()
    image, target = torch.randn(2, 1, 64, 64, 64, device="cuda"), cases.binary(2, 64, 64, 64).cuda()
    scaler = torch.amp.GradScaler("cuda")
    with torch.autocast("cuda", dtype=torch.float16):
        value = make(cls, sigmoid=True)(network(image), target)
    scaler.scale(value).backward()
    assert value.dtype == torch.float32
    assert torch.isfinite(network.weight.grad).all()
    assert network.weight.grad.any()


@every_loss
def test_a_label_out_of_range_is_an_error_and_not_a_device_assert(cls):
    x, label = cases.logits(2, 3, 5).cuda(), cases.indices(2, 3, 5).cuda()
    with pytest.raises(ValueError, match="target holds 9"):
        make(cls, **MULTI, validate="now")(x, label + 9 - label)
    if cases.entry_of(cls).spatial:  # distances are measured on the CPU, where everything is looked at
        return
    value, gradient = cases.value_and_gradient(make(cls, **MULTI), x, label + 9 - label)
    assert value.isnan()
    assert not gradient.any()
    with pytest.raises(ValueError, match="target holds 9"):  # at the latest in the next call of any loss
        make(cls, **MULTI)(x, label)
    assert torch.isfinite(make(cls, **MULTI)(x, label))


@pytest.mark.parametrize(
    "cls", [c for c in cases.CLASSES if not cases.entry_of(c).spatial], ids=lambda cls: cls.__name__
)
def test_nothing_waits_for_the_gpu(cls):
    x, label = cases.logits(2, 3, 9, 8, 7).cuda().requires_grad_(), cases.indices(2, 3, 9, 8, 7).cuda()
    loss = make(cls, **MULTI)
    loss(x, label).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(x, label).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    "cls",
    [SoftDiceLoss, MatthewsCorrelationLoss, FocalCrossEntropyLoss, DiceCrossEntropyLoss],
    ids=lambda c: c.__name__,
)
def test_a_graph_holds_a_whole_step(cls):
    x, label = cases.logits(2, 3, 9, 8, 7, dtype=torch.float32).cuda().requires_grad_(), cases.indices(2, 3, 9, 8, 7)
    loss, label = cls(**MULTI), label.cuda()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(loss(x, label), x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = loss(x, label)
        (gradient,) = torch.autograd.grad(value, x)
    with torch.no_grad():
        x.copy_(x.flip(0))
    graph.replay()
    expected = cases.value_and_gradient(loss, x, label)
    torch.testing.assert_close(value, expected[0])
    torch.testing.assert_close(gradient, expected[1])


# torch's default backend uses its own deprecated script_method and comments on its choice of kernels
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated", "ignore:.*Online softmax")
@every_loss
def test_compiled_on_the_gpu_equals_eager(cls):
    if not cases.entry_of(cls).graph:
        pytest.skip("the catalogue says that it does not compile into one graph")
    torch.compiler.reset()
    x, label = cases.logits(2, 3, 20, 20, dtype=torch.float32).cuda(), cases.indices(2, 3, 20, 20).cuda()
    loss = make(cls, **MULTI)
    for got, want in zip(
        cases.value_and_gradient(torch.compile(loss, fullgraph=True), x, label),
        cases.value_and_gradient(loss, x, label),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)
