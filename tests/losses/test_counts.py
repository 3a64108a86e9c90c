"""The sums that region losses are made of, as a loss of one's own sees them: accuracy on large and on soft volumes."""

from __future__ import annotations

import pytest
import torch

from monai_lossext.losses import Counts

from . import cases

MULTI = {"softmax": True, "to_onehot_y": True}
NAMES = ("tp", "fp", "fn", "tn")


def confusion(p: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
    """Return TP, FP, FN and TN of hard targets."""
    return [x.flatten(2).sum(2) for x in (p * g, p * (1 - g), (1 - p) * g, (1 - p) * (1 - g))]


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("offset", [-8.0, 0.0, 8.0])
def test_tiny_foreground_in_a_large_volume_counts_exactly(labels, offset):
    """Eight voxels of foreground among two million: float32 sums would lose them."""
    z = torch.randn(1, 2, 128, 128, 128, generator=torch.Generator().manual_seed(0))
    z[:, 1] += offset
    label = torch.zeros(1, 1, 128, 128, 128, dtype=torch.int64)
    label[0, 0, 60:62, 60:62, 60:62] = 1
    target = label if labels else cases.one_hot(label, 2)
    counts = cases.counts_of(z, target, softmax=True, to_onehot_y=labels)
    expected = confusion(z.double().softmax(1), cases.one_hot(label, 2).double())
    for name, want in zip(NAMES, expected, strict=True):
        # 1 - p of a float32 probability near 1 is exact to 6e-8 and no better, for each of the eight voxels.
        torch.testing.assert_close(getattr(counts, name), want, rtol=1e-5, atol=8 * 6e-8)


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("gap", [1.0, 3.0, 6.0, 12.0])
@pytest.mark.parametrize("right", [True, False])
def test_few_errors_count_as_exactly_as_many(channels, gap, right):
    """Sums of errors that are far smaller than what they are the difference of, up to a millionth part."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, max(channels, 2), (1, 1, 80, 64, 64), generator=generator)
    g = cases.one_hot(label, channels) if channels > 1 else label
    z = gap * (2 * g - 1 if right else 1 - 2 * g).float() + 0.5 * torch.randn(g.shape, generator=generator)
    counts = cases.counts_of(z, label, **(MULTI if channels > 1 else {"sigmoid": True}))
    p = z.double().softmax(1) if channels > 1 else z.double().sigmoid()
    for name, want in zip(NAMES, confusion(p, g.double()), strict=True):
        # 1 - p of a float32 probability near 1 is exact to 6e-8, up or down, for each voxel
        torch.testing.assert_close(getattr(counts, name), want, rtol=1e-5, atol=6e-8 * label.numel() ** 0.5)


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("activation", [{"softmax": True}, {"sigmoid": True}, {}], ids=str)
@pytest.mark.parametrize("soft_label", [True, False])
def test_counts_of_soft_targets_with_weights(activation, soft_label):
    """Errors are where prediction and target differ; with products, also where they agree on less than all."""
    x, w = cases.logits(2, 3, 40, 30), torch.rand(2, 3, 40, 30, generator=torch.Generator().manual_seed(3))
    x = x if activation else x.sigmoid()
    g = cases.logits(2, 3, 40, 30, seed=4).softmax(1)
    p = x.softmax(1) if "softmax" in activation else x.sigmoid() if activation else x
    both = {
        "tp": torch.minimum(p, g) if soft_label else p * g,
        "fp": (p - g).relu() if soft_label else p * (1 - g),
        "fn": (g - p).relu() if soft_label else (1 - p) * g,
        "tn": torch.minimum(1 - p, 1 - g) if soft_label else (1 - p) * (1 - g),
    }
    fixed = {"n": torch.ones_like(p), "g": g, "p": p}
    squares = {"pp": p * p, "gg": g * g, "tp": p * g, **fixed}
    errors = {"missed": g * (p - g) ** 2, "added": (1 - g) * (p - g) ** 2, **fixed}
    for extra, sums in ((None, fixed), ("negatives", both | fixed), ("squares", squares), ("errors", errors)):
        counts = cases.counts_of(x, g, w, extra, **activation, soft_label=soft_label and extra != "squares")
        for name, each in sums.items():
            torch.testing.assert_close(
                getattr(counts, name), (w * each).sum((2, 3)), rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.usefixtures("kernels_or_plain")
def test_counts_are_never_negative():
    p = torch.tensor([[[1.0, 1.0, 1e-20]]])
    counts = cases.counts_of(p, torch.ones(1, 1, 3))
    assert counts.fp.item() == 0
    assert counts.fn.item() >= 0


class SizeOfThePrediction(cases.Probe):
    def per_class(self, counts: Counts) -> torch.Tensor:
        return counts.p


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_slope_of_a_sure_prediction_is_left(channels):
    """The product p (1 - p), though 1 - p of a float32 near 1 is 0."""
    gaps = torch.tensor([-59.0, -20.0, -5.0, 0.0, 5.0, 20.0, 59.0])
    z = torch.zeros(1, channels, 7)
    z[:, -1] = gaps
    target = torch.zeros(1, 1, 7, dtype=torch.int64)
    size = SizeOfThePrediction(**({"sigmoid": True} if channels == 1 else MULTI), reduction="none", empty="formula")
    _, slope = cases.value_and_gradient(lambda x: size(x, target)[:, :1], z)
    exact = z.double()
    if channels == 1:
        expected = exact.sigmoid() * (-exact).sigmoid()
    else:
        p = exact.softmax(1)
        expected = p[:, :1] * torch.cat([p[:, 1:].sum(1, keepdim=True), -p[:, 1:]], 1)
    if channels == 3:  # the sure class of several has a slope that is the difference of equal numbers
        slope, expected = (s.gather(1, z.argmin(1, keepdim=True)) for s in (slope, expected))
    torch.testing.assert_close(slope.double(), expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(("channels", "copied"), [(1, False), (2, False), (3, False), (1, True), (2, True)])
def test_eight_voxels_among_512_cubed_count_exactly(channels, copied):
    """The logits of one slice are repeated, so that the sums are known."""
    z = torch.randn(1, channels, 1, 512, 512, generator=torch.Generator().manual_seed(channels))
    label = torch.zeros(1, 1, 512, 512, 512, dtype=torch.uint8)
    label[0, 0, 300:302, 100:102, 200:202] = 1
    logits = z.expand(-1, -1, 512, -1, -1)
    logits = logits.contiguous() if copied else logits
    counts = cases.counts_of(logits, label, **({"sigmoid": True} if channels == 1 else MULTI))
    p = z.double().sigmoid() if channels == 1 else z.double().softmax(1)
    inside = 2 * p[..., 100:102, 200:202].sum((2, 3, 4))
    for c in range(channels):
        predicted, own = 512 * p[0, c].sum(), inside[0, c]
        size = 8 if c == channels - 1 == 0 or c == 1 else 512**3 - 8 if c == 0 else 0
        tp = own if size == 8 else predicted - own if size else torch.zeros(())
        expected = (tp, predicted - tp, size - tp, 512**3 - size - predicted + tp)
        for name, want in zip(NAMES, expected, strict=True):
            torch.testing.assert_close(getattr(counts, name)[0, c], want.double(), rtol=1e-5, atol=0)
