from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_lossext.data import (
    HeadPhantom,
    head_phantom,
    phantoms,
    skull_stripping_datalist,
    write_head_phantoms,
)
from monai_lossext.scripts.volume_files import orientation

COARSE = {"size": (64, 64, 64), "spacing": (4.0, 4.0, 4.0)}  # 256 mm: room for the whole head


@pytest.fixture(scope="module")
def many() -> list[HeadPhantom]:
    return [head_phantom((0, number), **COARSE) for number in range(40)]


def volume_ml(phantom: HeadPhantom) -> float:
    return float(phantom.mask.sum() * abs(np.linalg.det(phantom.affine[:3, :3])) / 1000)


def cut_off(phantom: HeadPhantom) -> bool:
    return bool(phantom.mask[:, :, -1].any())


def test_same_seed_same_head() -> None:
    first, second = head_phantom(5, **COARSE), head_phantom(5, **COARSE)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (head_phantom(6, **COARSE).mask != first.mask).any()
    assert (head_phantom((1, 5), **COARSE).mask != head_phantom((5, 1), **COARSE).mask).any()


def test_the_random_state_of_others_is_left_alone() -> None:
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    head_phantom(1, size=(16, 16, 16), spacing=(12, 12, 12))
    assert np.random.rand() == expected  # noqa: NPY002


@pytest.mark.parametrize(("size", "spacing"), [((40, 50, 60), (4, 4, 4)), ((128, 16, 48), (1.5, 12, 5))])
def test_shape_and_type(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    image, mask, affine = head_phantom(2, size, spacing)
    assert (image.shape, image.dtype) == (size, np.float32)
    assert (mask.shape, mask.dtype) == (size, np.uint8)
    assert np.unique(mask).tolist() == [0, 1]
    assert np.isfinite(image).all()
    assert image.min() >= 0
    np.testing.assert_allclose(affine[:3, :3], np.diag(spacing))


def test_brains_of_adults(many: list[HeadPhantom]) -> None:
    volumes = [volume_ml(phantom) for phantom in many if not cut_off(phantom)]
    assert min(volumes) > 1000
    assert max(volumes) < 1700
    assert max(volumes) - min(volumes) > 300
    assert 1300 < np.mean(volumes) < 1450


def test_some_heads_have_no_top_and_some_no_face(many: list[HeadPhantom]) -> None:
    assert 4 <= sum(map(cut_off, many)) <= 18
    faceless = sum((phantom.image[24:40, -8:, :8] == 0).all() and phantom.image[0].any() for phantom in many)
    assert 2 <= faceless <= 20


def test_heads_differ_in_pose(many: list[HeadPhantom]) -> None:
    whole = [phantom for phantom in many if not cut_off(phantom)]
    middles = np.array([np.argwhere(phantom.mask).mean(axis=0) for phantom in whole]) * 4
    assert (middles.std(axis=0) > 1.5).all()
    assert np.abs(middles - middles.mean(axis=0)).max() < 30


def test_tissues_have_the_order_of_t1(many: list[HeadPhantom]) -> None:
    """Inside the brain white matter is brighter than the folds; around it lies the dark of fluid and bone."""
    rings, scalps, contrasts = [], [], []
    for image, mask, _ in many:
        brain = image[mask > 0]
        grown = dilated(mask, 3)
        ring = image[(dilated(mask, 1) > 0) & (mask == 0)]
        rings.append(np.median(ring) / np.median(brain))
        scalps.append(np.percentile(image[(grown == 0)], 99) / np.median(brain))
        contrasts.append(np.percentile(brain, 90) / np.percentile(brain, 10))
    assert (np.array(rings) < 0.9).mean() > 0.9
    assert np.median(rings) < 0.7
    assert (np.array(scalps) > 2).sum() >= 4  # fat of spin echo
    assert (np.array(scalps) < 1.2).sum() >= 4  # and of inversion recovery
    assert min(contrasts) > 1.15
    assert max(contrasts) > 1.8


def dilated(mask: np.ndarray, rounds: int) -> np.ndarray:
    for _ in range(rounds):
        for axis in range(3):
            mask = np.maximum.reduce([mask, np.roll(mask, 1, axis), np.roll(mask, -1, axis)])
    return mask


def test_the_same_head_at_every_spacing() -> None:
    coarse, fine = head_phantom(3, (64, 64, 64), (4, 4, 4)), head_phantom(3, (128, 128, 128), (2, 2, 2))
    reduced = fine.mask.reshape(64, 2, 64, 2, 64, 2).mean(axis=(1, 3, 5)) >= 0.5
    overlap = 2 * (reduced & (coarse.mask > 0)).sum() / (reduced.sum() + coarse.mask.sum())
    assert overlap > 0.98
    assert volume_ml(fine) == pytest.approx(volume_ml(coarse), rel=0.01)


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAL"])
def test_the_same_head_in_every_orientation(axes: str) -> None:
    plain, turned = head_phantom(4, **COARSE), head_phantom(4, **COARSE, orientation=axes)
    assert (orientation(plain.affine), orientation(turned.affine)) == ("RAS", axes)
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(turned.mask, turned.affine))
    np.testing.assert_allclose(image.affine, plain.affine, atol=1e-9)
    assert (np.asarray(image.dataobj) != plain.mask).mean() < 1e-4  # rounding at the border


def test_oblique() -> None:
    straight, oblique = head_phantom(4, **COARSE), head_phantom(4, **COARSE, oblique=True)
    cosines = oblique.affine[:3, :3] / 4
    np.testing.assert_allclose(cosines @ cosines.T, np.eye(3), atol=1e-9)
    assert np.rad2deg(np.arccos(np.diag(cosines))).min() > 8
    assert volume_ml(oblique) == pytest.approx(volume_ml(straight), rel=0.02)  # the head itself has not changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (15, 64, 64)}, r"size=\(15, 64, 64\): expected three numbers of voxels, each at least 16"),
        ({"size": (64, 64)}, "expected three numbers"),
        ({"spacing": (1, 1, 0)}, r"spacing=\(1, 1, 0\): expected three positive lengths in mm"),
        ({"spacing": (1, 1, float("nan"))}, "expected three positive"),
        ({"orientation": "RAP"}, "orientation='RAP': expected one of R/L, A/P and S/I each"),
        ({"orientation": "RA"}, "expected one of"),
        ({"orientation": "xyz"}, "expected one of"),
    ],
)
def test_arguments_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head_phantom(0, **options)


SMALL = {"size": (24, 24, 24), "spacing": (9.0, 9.0, 9.0)}


def test_files_named_as_in_bids(tmp_path: Path) -> None:
    folder = write_head_phantoms(tmp_path / "heads", cases=5, seed=4, **SMALL, orientation="LPS")
    datalist = skull_stripping_datalist(folder)
    assert [len(items) for items in datalist.values()] == [3, 1, 1]
    expected = head_phantom((4, 2), **SMALL, orientation="LPS")
    for ending, values in (("T1w", np.round(expected.image)), ("brainmask", expected.mask)):
        volume = nibabel.load(folder / f"sub-0002_{ending}.nii.gz")
        np.testing.assert_array_equal(volume.dataobj, values)
        for affine in (volume.affine, volume.get_qform()):
            np.testing.assert_allclose(affine, expected.affine, atol=1e-4)
        assert volume.header.get_data_dtype() == (np.int16 if ending == "T1w" else np.uint8)
    again = write_head_phantoms(tmp_path / "again", cases=5, seed=4, **SMALL, orientation="LPS")
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_complete_phantoms_are_reused_and_others_left_alone(tmp_path: Path) -> None:
    folder = write_head_phantoms(tmp_path / "heads", cases=4, **SMALL)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_head_phantoms(folder, cases=4, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(FileExistsError, match="holds other files or incomplete phantoms"):
        write_head_phantoms(folder, cases=4, **SMALL, orientation="LPS")
    next(folder.glob("*_T1w.nii.gz")).unlink()
    with pytest.raises(FileExistsError, match="holds other files or incomplete phantoms"):
        write_head_phantoms(folder, cases=4, **SMALL)
    with pytest.raises(ValueError, match="cases=3: expected at least 4"):
        write_head_phantoms(tmp_path / "few", cases=3)
    with pytest.raises(ValueError, match="spacing="):
        write_head_phantoms(tmp_path / "wrong", cases=4, spacing=(0, 1, 1))
    assert not (tmp_path / "wrong").exists()


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(phantoms.files, "write_head_phantoms", lambda folder, *_, **__: asked.append(folder) or folder)
    phantoms.cached_head_phantoms(4, cache_dir=tmp_path)
    phantoms.cached_head_phantoms(4, seed=1, cache_dir=tmp_path)
    assert [path.parent for path in asked] == [tmp_path / "phantoms"] * 2
    assert len(set(asked)) == 2
    assert all(path.name.startswith("heads-v") for path in asked)
