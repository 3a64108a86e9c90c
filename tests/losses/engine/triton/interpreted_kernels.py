"""Triton's kernels in its interpreter against the plain form: values, gradients, types, shapes, layouts, options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    DiceCrossEntropyLoss,
    ExponentialLogarithmicLoss,
    FocalCrossEntropyLoss,
    LovaszHingeLoss,
    MatthewsCorrelationLoss,
    SensitivitySpecificityLoss,
    SoftDiceLoss,
    WeightedCrossEntropyLoss,
)
from monai_lossext.losses.engine.cuda import kernels, walk
from monai_lossext.losses.paths import plain_path, triton_path

from ... import cases, checks
from .. import fuzz

# of numpy, which the interpreter computes with
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
MULTI: dict[str, Any] = {"softmax": True, "to_onehot_y": True}
every_loss = pytest.mark.parametrize("cls", cases.CLASSES, ids=lambda cls: cls.__name__)


def by_triton(loss: Any, x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with triton_path():
        return cases.value_and_gradient(lambda z: loss(z, *rest).sum(), x)


def both(loss: Any, x: torch.Tensor, *rest: Any, exact: float = 3e-6) -> None:
    """Compare value and gradient of both ways."""
    value, gradient = by_triton(loss, x, *rest)
    with plain_path():
        expected, slope = cases.value_and_gradient(lambda z: loss(z, *rest).sum(), x)
    assert value.dtype == expected.dtype
    assert gradient.dtype == x.dtype
    torch.testing.assert_close(value, expected, rtol=exact, atol=1e-7)
    exact = max(exact, torch.finfo(x.dtype).eps)  # half precision rounds the gradient
    largest = slope[torch.isfinite(slope)].abs().max().item()
    torch.testing.assert_close(gradient, slope, rtol=exact, atol=exact * largest)


def volume(channels: int, *space: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(channels)
    x = (2 * torch.randn(2, channels, *space, generator=generator)).to(dtype)
    return x, torch.randint(0, max(channels, 2), (2, 1, *space), generator=generator)


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that a test has launched."""
    launched: list[str] = []
    usual = kernels.launch

    def launch(name: str, *args: Any, **named: Any) -> bool:
        launched.append(name)
        return usual(name, *args, **named)

    monkeypatch.setattr(kernels, "launch", launch)
    return launched


# ----------------------------------------------------------------------------------------------------------- all losses


@every_loss
def test_random_calls_agree(cls):
    for seed in range(2):
        one = fuzz.case(seed, cls)
        if cls is ExponentialLogarithmicLoss:
            continue  # as for the CPU's kernels
        assert not fuzz.disagreement(one, triton_path), f"seed {seed}: {one}"


def test_the_comparison_can_fail(monkeypatch):
    one = fuzz.case(0, SoftDiceLoss)
    assert one.x.dtype != torch.float64
    usual = kernels.gradient
    monkeypatch.setattr(kernels, "gradient", lambda *args: 1.001 * usual(*args))
    assert "not close" in fuzz.disagreement(one, triton_path)


# ------------------------------------------------------------------------------------------------------ types and sizes


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 14, 33, 256])
def test_numbers_of_classes_and_types_agree(channels, launches):
    kinds = (
        ({"sigmoid": True}, torch.float32),
        (MULTI, torch.float16),
        (MULTI, torch.bfloat16),
        ({"softmax": True}, torch.float32),
    )
    for options, dtype in kinds[: 1 if channels == 1 else None]:
        with checks.at(options, dtype):
            x, label = volume(channels, 5, 7, 3, dtype=dtype)
            target = label if options is MULTI or channels == 1 else cases.one_hot(label, channels) * 0.75
            both(DiceCrossEntropyLoss(**options), x, target)
    assert launches.count("walk") == 2 * (1 if channels == 1 else 4)


@pytest.mark.parametrize("dtype", [*fuzz.INTEGERS[:5], *fuzz.FLOATS, torch.bool], ids=str)
def test_targets_and_weights_of_all_types_agree(dtype):
    x, label = volume(3, 4, 5)
    both(SoftDiceLoss(**MULTI), x, (label.clamp(max=1) if dtype == torch.bool else label).to(dtype))
    shares = cases.one_hot(label, 3).to(dtype)
    both(SoftDiceLoss(sigmoid=True), x, shares, (label != 1).to(dtype))


def test_bytes_that_are_neither_0_nor_1_are_true():
    x, label = volume(1, 4, 5)
    expected = by_triton(SoftDiceLoss(sigmoid=True), x, label.bool())
    same = (255 * label).to(torch.uint8).view(torch.bool)
    for mask in (None, torch.full((2, 1, 4, 5), 2, dtype=torch.uint8).view(torch.bool)):
        for got, want in zip(by_triton(SoftDiceLoss(sigmoid=True), x, same, mask), expected, strict=True):
            assert torch.equal(got, want)


def test_float64_takes_the_plain_way(launches):
    x, label = volume(3, 4, 5, dtype=torch.float64)
    both(SoftDiceLoss(**MULTI), x, label, exact=1e-12)
    assert not launches


# -------------------------------------------------------------------------------------------------- tiles and programs


@pytest.mark.parametrize(("channels", "tile", "programs"), [(3, 64, 2048), (3, 64, 4), (1, 16, 2048), (1, 16, 2)])
def test_many_tiles_and_programs_agree(channels, tile, programs, monkeypatch):
    """As large volumes have them: several programs a sample, each with several tiles, the last ones with none left."""
    monkeypatch.setattr(kernels, "TILE", tile)
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    x, label = volume(channels, 3, 5, 7)
    loss = DiceCrossEntropyLoss(**(MULTI if channels > 1 else {"sigmoid": True}))
    both(loss, x, label)


def test_every_run_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(kernels, "TILE", 64)
    x, label = volume(3, 3, 5, 7)
    first, second = (by_triton(DiceCrossEntropyLoss(**MULTI), x, label) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_a_large_volume_has_many_programs_of_many_tiles():
    x = torch.empty(2, 4, 64, 64, 64)
    call = kernels.Call(rules(4), wanted(), x, torch.empty(2, 1, 64, 64, 64), None, None)
    of_whole = call.programs * call.described["STEPS"] * call.described["BLOCK"]
    assert 2 * call.programs <= kernels.PROGRAMS
    assert x[0, 0].numel() <= of_whole < 1.1 * x[0, 0].numel()


def rules(channels: int) -> Any:
    from monai_lossext.losses.engine.reading import Rules

    return Rules(True, channels, None, "softmax")


def wanted() -> Any:
    from monai_lossext.losses.engine.plain import Wanted

    return Wanted(counts=True)


@triton.jit
def places(out, strides, b, middle, inner, EVEN: tl.constexpr):
    v = tl.arange(0, 8)[None, :].to(tl.int64)
    c = tl.arange(0, 4)[:, None].to(tl.int64)
    found = walk.place(tl.full((1, 1), b, tl.int64), c, v, strides, middle, inner, EVEN)
    tl.store(out + tl.arange(0, 4)[:, None] * 8 + tl.arange(0, 8)[None, :], found)


def test_places_beyond_two_to_the_31():
    out = torch.zeros(4, 8, dtype=torch.int64)
    shape, strides = (3, 4, 2, 2, 2), (2**40, 2**33, 2**32, 2**31, 2**30)
    expected = torch.tensor([[sum(i * s for i, s in zip((2, c, *divmod(v // 2, 2), v % 2), strides, strict=True))
                              for v in range(8)] for c in range(4)])  # fmt: skip
    places[(1,)](out, strides, 2, *shape[3:], False)
    assert torch.equal(out, expected)
    places[(1,)](out, strides, 2, *shape[3:], True)
    assert out[3, 7] == 2 * 2**40 + 3 * 2**33 + 7 * 2**30


# -------------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("layout", ["channels last", "crop", "step", "turned", "repeated"])
def test_layouts_are_read_in_place(layout, monkeypatch):
    x, label = volume(3, 4, 5, 3)
    x, label = fuzz._laid_out(x, layout), fuzz._laid_out(label, layout)
    mask = fuzz._laid_out(torch.rand(2, 1, 4, 5, 3), "turned")
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda self: pytest.fail("a copy") if self.ndim > 3 else self)
    value, gradient = by_triton(DiceCrossEntropyLoss(**MULTI), x, label, mask)
    monkeypatch.undo()
    assert gradient.stride() == torch.empty_like(x).stride()
    expected = by_triton(DiceCrossEntropyLoss(**MULTI), x.contiguous(), label.contiguous(), mask.contiguous())
    assert torch.equal(value, expected[0])
    assert torch.equal(gradient, expected[1])


# -------------------------------------------------------------------------------------------------------------- options

OWN = [
    (SoftDiceLoss, {"squared_pred": True}),
    (SensitivitySpecificityLoss, {}),
    (MatthewsCorrelationLoss, {}),
    (WeightedCrossEntropyLoss, {"weight": [1.0, 2.0, 3.0]}),
    (FocalCrossEntropyLoss, {"gamma": 0.0}),
    (FocalCrossEntropyLoss, {"gamma": 2.0}),
    (FocalCrossEntropyLoss, {"gamma": 3.5, "reduction": "none"}),
    (WeightedCrossEntropyLoss, {"reduction": "none"}),
]


@pytest.mark.parametrize(("cls", "own"), OWN, ids=str)
def test_masks_ignored_and_partial_labels_agree(cls, own, launches):
    x, label = volume(3, 4, 5)
    ignored = torch.where(torch.arange(20).view(1, 1, 4, 5) % 7 == 3, 255, label)
    shares = 0.8 * cases.one_hot(label, 3) + 0.1
    classes = cases.partial("101", "011")
    weights = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).sub(0.3).clamp(min=0)
    x[weights.sum(1, keepdim=True).expand_as(x) == 0] = torch.nan  # of which nothing may be seen
    both(cls(**MULTI, **own), x, label, weights)
    both(cls(**MULTI, **own, ignore_index=255), x.nan_to_num(), ignored, weights[:, :1] > 0)
    both(cls(**MULTI, **own), x.nan_to_num(), {"label": label, "classes": classes})
    both(cls(softmax=True, **own, ignore_index=1), x.nan_to_num(), {"label": shares.round(), "classes": classes})
    both(cls(sigmoid=True, **own, ignore_index=-1), x.nan_to_num(), torch.where(shares > 0.5, -1.0, shares), weights)
    both(cls(**own), x.nan_to_num().softmax(1), shares, weights[:, :1])
    assert len(launches) > 6 * 2


def test_weights_below_zero_agree(launches):
    x, label = volume(3, 4, 5)
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    both(BoundaryDistanceLoss(**MULTI), x, {"label": label, "distance_map": maps})
    assert "walk" in launches


def test_powers_and_hinges_agree():
    x, label = volume(2, 4, 5)
    both(ExponentialLogarithmicLoss(**MULTI), x, label, exact=2e-4)  # steep where -log p is nearly 0
    both(LovaszHingeLoss(), x[:, :1], label)
    both(WeightedCrossEntropyLoss(sigmoid=True, reduction="none", pos_weight=2.0), x, cases.one_hot(label, 2))


# ------------------------------------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("size", [30.0, 80.0, 1e30])
def test_extreme_logits_keep_their_slope(size):
    label = torch.tensor([[[0, 1, 2, 0, 1, 2]]])
    x = torch.zeros(1, 3, 6).scatter_(1, (label + 1) % 3, size)
    for loss in (SoftDiceLoss, WeightedCrossEntropyLoss, FocalCrossEntropyLoss):
        both(loss(**MULTI), x, label, exact=1e-5)
        both(loss(**MULTI), x[:, :2], label.clamp(max=1), exact=1e-5)
        both(loss(sigmoid=True), x[:, :1] - min(size, 80.0) / 2, (label == 1).float(), exact=1e-5)


def test_a_nan_is_not_hidden():
    x, label = volume(3, 4, 5)
    x[0, 1, 2, 3] = torch.nan
    for options, target in ((MULTI, label), ({"sigmoid": True}, cases.one_hot(label, 3))):
        value, gradient = by_triton(DiceCrossEntropyLoss(**options), x, target)
        assert value.isnan()
        assert gradient[0, 1, 2, 3].isnan()
        _, gradient = by_triton(WeightedCrossEntropyLoss(**options), x, target)
        assert gradient.isnan().sum() == (3 if options is MULTI else 1)


def test_float16_gradients_are_rounded_away_from_zero():
    x, label = volume(2, 20, 20, dtype=torch.float16)
    _, gradient = by_triton(lambda z, y: 1e-5 * WeightedCrossEntropyLoss(**MULTI)(z, y), x, label)
    assert gradient.all()
    assert gradient.abs().min() == 2.0**-24
