"""Distance maps made before training: right, in mm, carried along with the label, cached, and what the losses read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, PersistentDataset
from monai.transforms import (
    Compose,
    Flip,
    Flipd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandRotate90d,
    Rotate90,
    SpatialCrop,
)
from scipy.ndimage import distance_transform_edt

from monai_lossext.losses import BoundaryDistanceLoss, DistanceMapCrossEntropyLoss, HausdorffDistanceLoss
from monai_lossext.losses.engine.distances import signed_distance
from monai_lossext.transforms import PenaltyDistanceMap, PenaltyDistanceMapd, SignedDistanceMap, SignedDistanceMapd

from ..losses import cases

SHAPES = [(17,), (9, 14), (7, 6, 9)]
SPACING = (3.0, 0.5, 1.25)
every_shape = pytest.mark.parametrize("spatial", SHAPES, ids=str)
MULTI = {"softmax": True, "to_onehot_y": True}


def label_of(*spatial: int, classes: int = 3, spacing: tuple[float, ...] = SPACING) -> MetaTensor:
    """Return a label (1, *S) of class indices in connected pieces, whose affine has the spacing and a rotation."""
    label = cases.blocks(1, classes, *spatial)[1][0]
    scale = torch.diag(torch.tensor([*spacing[: len(spatial)], *[1.0] * (4 - len(spatial))], dtype=torch.float64))
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    return MetaTensor(label, affine=turn @ scale if len(spatial) > 1 else scale)


def expected_signed(mask: np.ndarray, spacing: tuple[float, ...] | float) -> np.ndarray:
    if mask.all() or not mask.any():
        return np.zeros(mask.shape)
    return distance_transform_edt(~mask, sampling=spacing) - distance_transform_edt(mask, sampling=spacing)


@every_shape
def test_signed_distances_equal_scipy_in_mm_of_the_affine(spatial):
    label = label_of(*spatial)
    got = SignedDistanceMap(num_classes=3)(label)
    assert got.shape == (3, *spatial)
    assert got.dtype == torch.float32
    for c in range(3):
        expected = expected_signed(label[0].numpy() == c, SPACING[: len(spatial)])
        np.testing.assert_allclose(got[c].numpy(), expected, rtol=1e-5)
    channels = cases.one_hot(label.as_tensor()[None], 3)[0]
    torch.testing.assert_close(SignedDistanceMap()(MetaTensor(channels, affine=label.affine)), got)


@every_shape
def test_penalties_equal_their_definition(spatial):
    label = label_of(*spatial)
    distances = SignedDistanceMap(num_classes=3)(label).as_tensor()
    for normalize in (True, False):
        got = PenaltyDistanceMap(num_classes=3, normalize=normalize)(label).as_tensor()
        assert got.shape == (1, *spatial)
        for c in range(3):
            depth = -distances[c][label[0] == c]
            penalty = depth.max() - depth
            torch.testing.assert_close(got[0][label[0] == c], penalty / penalty.max() if normalize else penalty)
    one = label == 1
    two_sided = PenaltyDistanceMap()(one).as_tensor()
    torch.testing.assert_close(two_sided, PenaltyDistanceMap(num_classes=2)(one).as_tensor())


def test_spacing_is_that_of_the_affine_unless_given():
    label = label_of(8, 9)
    plain = label.as_tensor()
    in_voxels = SignedDistanceMap(num_classes=3)(plain)
    assert torch.equal(in_voxels, SignedDistanceMap(num_classes=3)(plain.numpy()))
    torch.testing.assert_close(SignedDistanceMap(num_classes=3, spacing=1.0)(label).as_tensor(), in_voxels.as_tensor())
    scaled = SignedDistanceMap(num_classes=3, spacing=SPACING[:2])(plain)
    torch.testing.assert_close(scaled.as_tensor(), SignedDistanceMap(num_classes=3)(label).as_tensor())
    assert not torch.allclose(scaled, in_voxels)


@pytest.mark.parametrize("transform", [SignedDistanceMap(3), PenaltyDistanceMap(3)], ids=lambda t: type(t).__name__)
def test_the_map_has_the_meta_data_of_the_label_and_no_part_in_it(transform):
    label = Flip(spatial_axis=0)(label_of(8, 9))
    result = transform(label)
    assert torch.equal(result.affine, label.affine)
    assert result.applied_operations == label.applied_operations
    assert len(label.applied_operations) == 1
    flipped = Flip(spatial_axis=1)(result)
    assert len(label.applied_operations) == 1
    assert not torch.equal(flipped.affine, label.affine)
    assert transform(label).equal(result)


@pytest.mark.parametrize("transform", [SignedDistanceMap(3), PenaltyDistanceMap(3)], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize("move", [Flip(0), Flip((0, 1)), Rotate90(1), Rotate90(3)], ids=["0", "01", "90", "270"])
def test_flips_and_rotations_by_90_degrees_carry_the_map_along(transform, move):
    label = label_of(8, 9)
    torch.testing.assert_close(transform(move(label)).as_tensor(), move(transform(label)).as_tensor())


def test_a_crop_of_the_map_knows_the_borders_outside_of_it():
    crop = SpatialCrop(roi_start=(2, 2), roi_end=(6, 7))
    label = label_of(16, 17)
    before, after = crop(SignedDistanceMap(3)(label)), SignedDistanceMap(3)(crop(label))
    assert before.shape == after.shape
    assert not torch.allclose(before, after)
    assert (before < 0).equal(after < 0)


def test_random_transforms_keep_label_and_map_together():
    keys = ["image", "label", "distance_map", "penalty_map"]
    transforms = Compose(
        [
            SignedDistanceMapd("label", num_classes=3),
            PenaltyDistanceMapd("label", num_classes=3),
            RandFlipd(keys, prob=0.5, spatial_axis=0),
            RandRotate90d(keys, prob=0.5),
            RandCropByPosNegLabeld(keys, "label", spatial_size=(6, 6), num_samples=2),
        ]
    )
    transforms.set_random_state(0)
    label = label_of(16, 16)
    for _ in range(5):
        for patch in transforms({"image": label.float(), "label": label}):
            for c in range(3):
                assert torch.equal(patch["distance_map"][c] < 0, patch["label"][0] == c)
            assert (patch["penalty_map"] > 0).any()
            assert patch["distance_map"].affine.equal(patch["label"].affine)


def test_half_precision_saves_memory():
    label = label_of(16, 17)
    half = SignedDistanceMap(3, dtype=torch.float16)(label)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), SignedDistanceMap(3)(label), rtol=5e-4, atol=0)


def test_ignored_voxels_lie_outside_of_every_class():
    label = label_of(8, 9).as_tensor().clone()
    label[:, 3] = 255
    got = SignedDistanceMap(3, ignore_index=255)(label).as_tensor()
    for c in range(3):
        np.testing.assert_allclose(got[c].numpy(), expected_signed(label[0].numpy() == c, 1.0), rtol=1e-6)
    assert (got[:, 3] > 0).all()
    assert not PenaltyDistanceMap(3, ignore_index=255)(label)[:, 3].any()


def test_caches_compute_a_map_once(tmp_path, monkeypatch):
    calls = []

    def counted(*args):
        calls.append(1)
        return signed_distance(*args)

    monkeypatch.setattr("monai_lossext.transforms.distance_maps.signed_distance", counted)
    data = [{"label": label_of(8, 9)}]
    steps = [SignedDistanceMapd("label", num_classes=3), RandFlipd(["label", "distance_map"], prob=1.0, spatial_axis=0)]
    expected = Flipd(["label", "distance_map"], spatial_axis=0)(steps[0](data[0]))
    for dataset in (CacheDataset(data, steps, progress=False), PersistentDataset(data, steps, tmp_path)):
        calls.clear()
        for _ in range(3):
            got = dataset[0]
            torch.testing.assert_close(got["distance_map"].as_tensor(), expected["distance_map"].as_tensor())
        assert len(calls) == (0 if isinstance(dataset, CacheDataset) else 1)  # filled when it was made, at first use


@pytest.mark.parametrize("cls", [SignedDistanceMap, PenaltyDistanceMap, SignedDistanceMapd, PenaltyDistanceMapd])
def test_pickle(cls):
    keys = {"keys": "label"} if cls in (SignedDistanceMapd, PenaltyDistanceMapd) else {}
    transform = cls(**keys, num_classes=3, spacing=2.0)
    data = {"label": label_of(8, 9)} if keys else label_of(8, 9)
    first, second = transform(data), pickle.loads(pickle.dumps(transform))(data)
    for a, b in zip(*((list(d.values()) if keys else [d]) for d in (first, second)), strict=True):
        assert torch.equal(a, b)


# from Python 3.12 on, a process with threads may not be forked without a comment
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_measure_distances_after_the_process_that_forked_them():
    data, transform = {"label": label_of(40, 41)}, SignedDistanceMapd("label", num_classes=3)
    expected = transform(data)["distance_map"]
    for batch in DataLoader(Dataset([data] * 2, transform), batch_size=1, num_workers=2, timeout=60):
        assert batch["distance_map"][0].equal(expected)


# --------------------------------------------------------------------------------------------------------- the losses


@every_shape
@pytest.mark.parametrize("ignore_index", [None, 255])
def test_losses_take_the_maps_or_compute_the_same(spatial, ignore_index):
    x, label = cases.blocks(2, 3, *spatial)
    if ignore_index:
        label[:, :, 3] = ignore_index
    spacing = SPACING[: len(spatial)]
    options = {"num_classes": 3, "spacing": spacing, "ignore_index": ignore_index}
    distances = torch.stack([SignedDistanceMap(**options)(one) for one in label])
    for cls, own in (
        (BoundaryDistanceLoss, {}),
        (BoundaryDistanceLoss, {"inside": "full", "normalize": True}),
        (HausdorffDistanceLoss, {}),
        (HausdorffDistanceLoss, {"one_sided": True}),
        (DistanceMapCrossEntropyLoss, {}),
        (DistanceMapCrossEntropyLoss, {"normalize": False}),
    ):
        target = {"label": label, "distance_map": distances}
        if cls is DistanceMapCrossEntropyLoss:
            penalty = PenaltyDistanceMap(**options, **own)
            target["penalty_map"] = torch.stack([penalty(one) for one in label])
        loss = cls(**MULTI, **own, spacing=spacing, ignore_index=ignore_index)
        for got, want in zip(
            cases.value_and_gradient(loss, x, target), cases.value_and_gradient(loss, x, label), strict=True
        ):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("spatial", SHAPES[1:], ids=str)
def test_channels_have_maps_of_their_own(spatial):
    x, label = cases.blocks(2, 3, *spatial)
    channels = cases.one_hot(label, 3)
    spacing = SPACING[: len(spatial)]
    options = {"sigmoid": True, "spacing": spacing}
    penalties = torch.stack([PenaltyDistanceMap(spacing=spacing)(one) for one in channels])
    distances = torch.stack([SignedDistanceMap(spacing=spacing)(one) for one in channels])
    target = {"label": channels, "distance_map": distances, "penalty_map": penalties}
    for loss in (
        BoundaryDistanceLoss(**options),
        BoundaryDistanceLoss(**options, include_background=False),
        DistanceMapCrossEntropyLoss(**options),
        DistanceMapCrossEntropyLoss(**options, include_background=False),
        DistanceMapCrossEntropyLoss(softmax=True, spacing=spacing),
    ):
        torch.testing.assert_close(loss(x, target), loss(x, channels), rtol=1e-5, atol=0)


# ------------------------------------------------------------------------------------------------------------- errors


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num_classes must be at least 2, or None for channels, got 1"):
        SignedDistanceMap(num_classes=1)
    with pytest.raises(ValueError, match=r"dtype must be a floating dtype, got torch\.int32"):
        PenaltyDistanceMap(dtype=torch.int32)
    with pytest.raises(ValueError, match="spacing must be one number or one a spatial axis"):
        SignedDistanceMap(spacing=0.0)
    with pytest.raises(
        ValueError, match=r"output_keys must name one map for each of \('a', 'b'\), got \('distance_map',"
    ):
        SignedDistanceMapd(["a", "b"])


def test_labels_that_do_not_fit():
    label = label_of(8, 9).as_tensor()
    for transform, data, message in (
        (SignedDistanceMap(2), label, r"label of shape \(1, 8, 9\): target holds 2, expected integer labels 0\.\.1"),
        (SignedDistanceMap(), label, r"target holds 2, expected values in \[0, 1\]"),
        (SignedDistanceMap(3), label[[0, 0]], r"\(2, 8, 9\): expected \(1, \*S\) class indices, as num_classes=3 says"),
        (PenaltyDistanceMap(3), label[0, 0], r"label of shape \(9,\): expected \(C, \*S\) with 1 to 3 spatial"),
        (SignedDistanceMap(3, spacing=(1.0, 1.0, 1.0)), label, "spacing has 3 values but there are 2 spatial"),
    ):
        with pytest.raises(ValueError, match=message):
            transform(data)
    with pytest.raises(ValueError, match=r"organ: label of shape \(1, 8, 9\): target holds 2"):
        SignedDistanceMapd("organ", num_classes=2)({"organ": label})
    with pytest.raises(KeyError, match="Key `organ` of transform `PenaltyDistanceMapd` was missing"):
        PenaltyDistanceMapd("organ", num_classes=2)({"label": label})
    assert PenaltyDistanceMapd("organ", allow_missing_keys=True, num_classes=2)({"label": label}).keys() == {"label"}
    both = SignedDistanceMapd(["a", "b"], ["of_a", "of_b"], num_classes=3)({"a": label, "b": label})
    assert both["of_a"].equal(both["of_b"])
