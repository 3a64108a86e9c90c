"""Component losses against loops over components, with given maps, crops, masks and partial labels; calibration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from monai_lossext.losses import (
    BlobDiceLoss,
    CalibrationLoss,
    ComponentDiceLoss,
    CompoundLoss,
    DiceCrossEntropyLoss,
    HausdorffCVLoss,
    SkeletonRecallLoss,
    SoftDiceLoss,
)
from monai_lossext.losses.engine.components import component_map, tubed_skeleton
from monai_lossext.losses.paths import as_on_accelerator, plain_path

from . import cases, checks, oracles_components

MULTI = {"softmax": True, "to_onehot_y": True}
LESIONS = [BlobDiceLoss, ComponentDiceLoss]
each_loss = pytest.mark.parametrize("cls", LESIONS, ids=lambda cls: cls.__name__)
SHAPES = [(61,), (24, 21), (13, 12, 11)]
every_shape = pytest.mark.parametrize("spatial", SHAPES, ids=str)
ORACLES = {BlobDiceLoss: oracles_components.blob_dice, ComponentDiceLoss: oracles_components.component_dice}


def blobs(*shape: int, classes: int = 3, seed: int = 0) -> torch.Tensor:
    """Return (B, 1, *S) labels of which every class but the background lies in several pieces."""
    noise = torch.randn(shape[0], classes, *shape[1:], generator=torch.Generator().manual_seed(seed))
    for axis in range(2, noise.ndim):
        noise = noise + noise.roll(1, axis) + noise.roll(-1, axis)
    noise[:, 0] += noise.std()
    return noise.argmax(1, keepdim=True)


def masks_of(label: torch.Tensor, classes: int = 3) -> torch.Tensor:
    return cases.one_hot(label, classes) > 0


def loop(cls, x: torch.Tensor, label: torch.Tensor, **own) -> np.ndarray:
    """Return (B, C), by the oracle's loop over components."""
    p, g = x.softmax(1).numpy(), masks_of(label, x.shape[1]).numpy().astype(float)
    formula, ones = ORACLES[cls], np.ones(x.shape[2:])
    return np.array([[formula(p[b, c], g[b, c], ones, **own) for c in range(p.shape[1])] for b in range(len(p))])


@pytest.mark.usefixtures("kernels_or_plain")
@each_loss
@every_shape
def test_equal_to_a_loop_over_many_components(cls, spatial):
    x, label = cases.logits(2, 3, *spatial, dtype=torch.float32), blobs(2, *spatial)
    assert component_map(masks_of(label)).amax() > 3
    for own in ({}, {"fully_connected": False}):
        got = cls(**MULTI, reduction="none", **own)(x, label)
        np.testing.assert_allclose(got.numpy(), loop(cls, x.double(), label, **own), rtol=1e-6)
    if len(spatial) > 1:
        spacing = (3.0, 0.5, 1.0)[: len(spatial)]
        expected = loop(ComponentDiceLoss, x.double(), label, spacing=spacing)
        got = ComponentDiceLoss(**MULTI, reduction="none", spacing=spacing)(x, label)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)
        assert (got - ComponentDiceLoss(**MULTI, reduction="none")(x, label)).abs().max() > 1e-4


@every_shape
@pytest.mark.parametrize("spacing", [None, (3.0, 0.5, 1.25)], ids=str)
def test_regions_are_of_the_nearest_component(spatial, spacing):
    label = blobs(1, *spatial)
    sizes = (1.0,) * len(spatial) if spacing is None else spacing[: len(spatial)]
    for c, mask in enumerate(masks_of(label)[0].numpy()):
        found = component_map(masks_of(label), sizes)[0, c].numpy()
        assert ((found > 0) == mask).all()
        assert not (found == 0).any()
        distances = [distance_transform_edt(found != k, sampling=sizes) for k in range(1, found.max() + 1)]
        own = np.take_along_axis(np.stack(distances), np.abs(found)[None] - 1, 0)[0]
        np.testing.assert_allclose(own, np.min(distances, 0), rtol=1e-6)


@pytest.mark.parametrize("options", [{"sigmoid": True, "to_onehot_y": True}, MULTI, {"to_onehot_y": True}], ids=str)
@each_loss
def test_kernels_equal_the_plain_way(cls, options):
    for classes, mask_channels, background, scale in itertools.product((2, 4), (0, 1, 4), (True, False), (1, 30)):
        label = blobs(2, 19, 17, 13, classes=classes)
        x = scale * cases.logits(2, classes, 19, 17, 13)
        x = x.sigmoid() if options == {"to_onehot_y": True} else x
        shape = (2, min(mask_channels, classes), 19, 17, 13)
        mask = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 0.2).clamp(min=0)
        rest = (label, mask) if mask_channels else (label,)
        loss = cls(**options, include_background=background, reduction="none")
        for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 2e-5)):
            with checks.at(classes, mask_channels, background, scale, dtype):
                got = cases.value_and_gradient(loss, x.to(dtype), *rest)
                with plain_path():
                    want = cases.value_and_gradient(loss, x.to(dtype), *rest)
                for a, b in zip(got, want, strict=True):
                    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


@pytest.mark.usefixtures("kernels_or_plain")
@each_loss
def test_a_given_map_gives_the_same_and_nothing_waits_for_it(cls):
    x, label = cases.logits(2, 3, 15, 14), blobs(2, 15, 14)
    target = {"label": label, "components": component_map(masks_of(label))}
    for options in (MULTI, {**MULTI, "include_background": False}):
        loss = cls(**options)
        expected = cases.value_and_gradient(loss, x, label)
        for got, want in zip(cases.value_and_gradient(loss, x, target), expected, strict=True):
            assert torch.equal(got, want)
        with as_on_accelerator():
            found = cases.value_and_gradient(loss, x, target)
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@each_loss
def test_with_a_map_the_loss_compiles_into_one_graph(cls):
    torch.compiler.reset()
    x, label = cases.logits(2, 3, 9, 8), blobs(2, 9, 8)
    target = {"label": label, "components": component_map(masks_of(label))}
    loss = cls(**MULTI)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for got, want in zip(
        cases.value_and_gradient(compiled, x, target), cases.value_and_gradient(loss, x, target), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("kernels_or_plain")
@each_loss
@pytest.mark.parametrize("options", [{"sigmoid": True}, MULTI, {}], ids=str)
def test_gradcheck_with_several_components(cls, options):
    label = torch.tensor([[[[1, 1, 0, 0, 2, 0, 1]]]]) if options else torch.tensor([[[[1, 1, 0, 0, 1, 0, 1]]]])
    shape = (1, 3, 1, 7) if "softmax" in options else (1, 1, 1, 7)
    label = label if "softmax" in options else (label == 1).long()
    x = cases.logits(*shape)
    x = (x if options else x.sigmoid()).requires_grad_()
    loss = cls(**options)
    assert torch.autograd.gradcheck(lambda z: loss(z, label), (x,))
    assert torch.autograd.gradgradcheck(lambda z: loss(z, label), (x,))


def test_a_component_that_is_cut_counts_once_with_the_map_of_the_whole_and_by_its_pieces_without():
    """One component like a U: a crop or a mask cuts its bottom off, and two arms remain."""
    label = torch.zeros(1, 1, 7, 9, dtype=torch.uint8)
    label[..., 1:6, 1], label[..., 1:6, 5], label[..., 5, 1:6] = 1, 1, 1
    p = torch.full((1, 1, 7, 9), 0.1, dtype=torch.float64)
    p[..., 1] = 0.9  # one arm is found
    components = component_map(label > 0)
    arms, loss = 4, BlobDiceLoss(smooth_nr=0.0, smooth_dr=0.0)
    crop = (..., slice(0, 5), slice(None))
    outside = p[crop][label[crop] == 0].sum().item()
    found, missed = arms * 0.9, arms * 0.1
    once = 1 - 2 * (found + missed) / (found + missed + outside + 2 * arms)
    pieces = np.mean([1 - 2 * s / (s + outside + arms) for s in (found, missed)])
    mask = torch.ones(1, 1, 7, 9)
    mask[..., 5:, :] = 0
    given = {"label": label, "components": components}
    assert loss(p[crop], {k: x[crop] for k, x in given.items()}).item() == pytest.approx(once)
    assert loss(p[crop], label[crop]).item() == pytest.approx(pieces)
    assert loss(p, given, mask).item() == pytest.approx(once)
    assert loss(p, label, mask).item() == pytest.approx(pieces)
    ignored = torch.where(mask > 0, label, 255).to(torch.uint8)
    ignoring = BlobDiceLoss(smooth_nr=0.0, smooth_dr=0.0, ignore_index=255)
    assert ignoring(p, {"label": ignored, "components": components}).item() == pytest.approx(once)
    assert ignoring(p, ignored).item() == pytest.approx(pieces)


@pytest.mark.usefixtures("kernels_or_plain")
def test_regions_whose_component_is_out_of_sight_count_as_one_that_is_empty():
    label = torch.tensor([[[1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]]])
    components = component_map(label > 0)
    p = torch.linspace(0.1, 0.6, 11, dtype=torch.float64).view(1, 1, 11)
    cut = {"label": label[..., 3:10], "components": components[..., 3:10]}  # of the outer ones only the regions
    assert components[..., 3:10].tolist() == [[[-2, -2, 2, -2, -2, -3, -3]]]
    seen, rest = p[0, 0, 3:8], p[0, 0, 8:10]
    loss = {rule: ComponentDiceLoss(lambda_ce=0.0, empty=rule) for rule in ("penalize", "formula", "skip")}
    dice = 1 - 2 * p[0, 0, 5].item() / (seen.sum().item() + 1)
    values = {rule: one(p[..., 3:10], cut).item() for rule, one in loss.items()}
    assert values["skip"] == pytest.approx(dice, abs=1e-5)
    assert values["penalize"] == pytest.approx((dice + rest.mean().item()) / 2, abs=1e-5)
    assert values["formula"] == pytest.approx((dice + 1) / 2, abs=1e-4)


@each_loss
def test_a_small_lesion_that_is_missed_costs_as_much_as_a_large_one(cls):
    label = torch.zeros(1, 1, 30, 30)
    label[..., 2:20, 2:20], label[..., 25:27, 25:27] = 1, 1
    without = {}
    for name, part in (("small", (..., slice(24, 30), slice(24, 30))), ("large", (..., slice(0, 22), slice(0, 22)))):
        p = label.clone()
        p[part] = 0
        without[name] = cls(**({"lambda_ce": 0.0} if cls is ComponentDiceLoss else {}))(p, label).item()
        if name == "small":
            assert SoftDiceLoss()(p, label) < 0.01
    assert without["small"] == pytest.approx(0.5, abs=1e-4)
    assert without["large"] == pytest.approx(0.5, abs=1e-4)


@each_loss
def test_maps_that_do_not_fit(cls):
    x, label = cases.logits(2, 3, 9, 8), blobs(2, 9, 8)
    components = component_map(masks_of(label))
    loss = cls(**MULTI)
    with pytest.raises(AssertionError, match=r"components must have shape \(2, 3, 9, 8\), got \(2, 1, 9, 8\)"):
        loss(x, {"label": label, "components": components[:, :1]})
    with pytest.raises(ValueError, match=r"components must be int16, .* got torch.float32"):
        loss(x, {"label": label, "components": components.float()})
    with pytest.raises(ValueError, match=r"components and label disagree in \d+ voxels"):
        loss(x, {"label": label.flip(2), "components": components})
    assert torch.isfinite(cls(**MULTI, validate="never")(x, {"label": label.flip(2), "components": components}))
    classes = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.isfinite(loss(x, {"label": label, "components": components, "classes": classes}))


def test_too_many_components():
    mask = torch.zeros(1, 1, 2**16 + 2, dtype=torch.bool)
    mask[..., ::2] = True
    with pytest.raises(ValueError, match="a class has 32769 connected components, but at most 32767 can be told apart"):
        component_map(mask)


@every_shape
def test_a_given_skeleton_gives_the_same(spatial):
    x, label = cases.logits(2, 3, *spatial), blobs(2, *spatial)
    target = {"label": label, "skeleton": tubed_skeleton(masks_of(label))}
    loss = SkeletonRecallLoss(**MULTI)
    expected = cases.value_and_gradient(loss, x, label)
    for got, want in zip(cases.value_and_gradient(loss, x, target), expected, strict=True):
        assert torch.equal(got, want)
    with as_on_accelerator():
        found = cases.value_and_gradient(loss, x, target)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_the_skeleton_recall_looks_at_the_tube_alone():
    label = torch.zeros(1, 1, 21, 40)
    label[..., 5:16, 3:37] = 1
    loss = SkeletonRecallLoss()
    thin = tubed_skeleton(label > 0, 2)
    assert 0 < thin.sum() < 0.8 * label.sum()
    assert loss(thin.float(), label) == 0
    assert loss(torch.ones_like(label), label) == 0
    assert loss((label > 0).float() * ~thin, label).item() == pytest.approx(1, abs=1e-5)


def test_calibrated_predictions_cost_nothing_and_sure_ones_that_err_cost_much():
    g = torch.zeros(1, 1, 100)
    g[..., :70] = 1
    calibrated = torch.full_like(g, 0.7)
    sure = torch.full_like(g, 0.99)
    for binning in ("hard", "soft"):
        loss = CalibrationLoss(binning=binning)
        assert loss(calibrated, g).item() == pytest.approx(0, abs=1e-6)
        assert loss(sure, g).item() == pytest.approx(0.29, abs=1e-6)


def test_soft_bins_have_no_jump_where_hard_ones_have():
    g = torch.tensor([[[1.0, 0.0, 0.0, 1.0, 0.0]]], dtype=torch.float64)
    p = torch.tensor([[[0.9, 0.3, 0.1, 0.5, 0.7]]], dtype=torch.float64)
    jumps = {}
    for binning in ("hard", "soft"):
        loss = CalibrationLoss(bins=4, binning=binning)
        left, right = (loss(p + torch.tensor([0, 0, 0, step, 0]), g) for step in (-1e-7, 1e-7))
        jumps[binning] = abs(left - right).item()
    assert jumps["hard"] > 0.05
    assert jumps["soft"] < 1e-5
    with pytest.raises(ValueError, match="bins must be a whole number of at least 2, got 1"):
        CalibrationLoss(bins=1)


def test_terms_of_a_compound_loss():
    x, label = cases.logits(2, 3, 15, 14), blobs(2, 15, 14)
    terms = {
        "whole": DiceCrossEntropyLoss(**MULTI),
        "blob": BlobDiceLoss(**MULTI),
        "sure": CalibrationLoss(**MULTI),
    }
    loss = CompoundLoss(terms, weights={"whole": 2.0})
    expected = 2 * terms["whole"](x, label) + terms["blob"](x, label) + terms["sure"](x, label)
    assert torch.allclose(loss(x, label), expected)


def test_logits_of_exactly_zero_have_a_gradient():
    """The slope of the absolute value is 0 there."""
    _, gradient = cases.value_and_gradient(
        HausdorffCVLoss(sigmoid=True, radii=(1,)), torch.zeros(1, 1, 9, 9), torch.ones(1, 1, 9, 9)
    )
    assert gradient.any()


def test_itk_works_at_as_many_pieces_as_torch_has_threads(monkeypatch):
    """A process that loads data has one: waiting for others takes longer than a small map."""
    import SimpleITK as sitk

    from monai_lossext.losses.engine import components, distances

    seen, threads = [], torch.get_num_threads()

    def watched(kind):
        class Watched(kind):
            def Execute(self, picture):
                seen.append(self.GetNumberOfWorkUnits())
                return super().Execute(picture)

        return Watched

    for name in ("ConnectedComponentImageFilter", "SignedMaurerDistanceMapImageFilter"):
        monkeypatch.setattr(sitk, name, watched(getattr(sitk, name)))
    mask = torch.zeros(1, 1, 5, 6, 7, dtype=torch.bool)
    mask[..., 2:4, 2:4] = True
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            components.component_map(mask)
            distances._depth_by_itk(mask[0, 0], (1.0, 2.0, 3.0), torch.float32)
    finally:
        torch.set_num_threads(threads)
    assert seen == [1, 1, 2, 2]
