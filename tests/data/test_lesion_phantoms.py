from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from monai_lossext.data import (
    lesion_phantom,
    phantoms,
    white_matter_lesion_datalist,
    write_lesion_phantoms,
)
from monai_lossext.scripts.volume_files import orientation

EVERYWHERE = np.ones((3, 3, 3))
COARSE = {"size": (36, 42, 36), "spacing": (5.0, 5.0, 5.0)}
INSIDE = {"size": (40, 40, 40)}  # 80 mm, nearly all of it brain


def pieces(mask: np.ndarray) -> np.ndarray:
    """Voxels of each component, also over corners."""
    labels, count = ndimage.label(mask, EVERYWHERE)
    return ndimage.sum_labels(mask, labels, range(1, count + 1))


@pytest.mark.parametrize(
    ("lesions", "fraction", "grid"),
    [
        (3, 0.0001, INSIDE),
        (20, 0.002, COARSE),
        (60, 0.02, COARSE),
        (40, 0.3, INSIDE),
        (6, 0.5, INSIDE),
        (1, 0.05, INSIDE),
    ],
)
def test_number_and_total_are_what_was_asked_for(lesions: int, fraction: float, grid: dict) -> None:
    mask = lesion_phantom(5, **grid, lesions=lesions, fraction=fraction).mask
    assert len(pieces(mask)) == lesions
    assert mask.sum() == round(fraction * mask.size)
    assert set(np.unique(mask)) == {0, 1}


def test_sizes_are_even_or_spread() -> None:
    even, spread = (pieces(lesion_phantom(2, **INSIDE, lesions=12, fraction=0.03, spread=s).mask) for s in (0, 1.2))
    assert np.ptp(even) <= 1
    assert spread.max() > 5 * spread.min()


def test_lesions_are_bright_in_flair_and_dark_in_t1() -> None:
    excess, dark = [], []
    for contrast in (0.2, 1.0):
        flair, t1, mask, _ = lesion_phantom(7, **INSIDE, lesions=5, fraction=0.05, contrast=contrast)
        core, rest = ndimage.binary_erosion(mask), (mask == 0) & (flair > 0)
        excess.append(np.median(flair[core]) / np.median(flair[rest]))
        dark.append(np.median(t1[core]) / np.median(t1[rest]))
    assert dark[1] < 0.8 < dark[0]
    assert 1.05 < excess[0] < 1.6
    assert 1.4 < excess[1] / excess[0] < 1.9  # about 2 / 1.2


def test_brains_without_their_skull() -> None:
    flair, t1, mask, affine = lesion_phantom(4, **COARSE)
    assert (flair.dtype, t1.dtype, mask.dtype) == (np.float32, np.float32, np.uint8)
    brain = flair > 0
    assert 1000 < brain.sum() * 0.125 < 1700  # ml
    assert not brain[[0, -1]].any()
    assert not brain[:, [0, -1]].any()
    assert (brain == (t1 > 0)).mean() > 0.999
    assert not (mask.astype(bool) & ~ndimage.binary_dilation(brain)).any()
    np.testing.assert_allclose(np.diag(affine), [5, 5, 5, 1])


def test_the_seed_decides() -> None:
    first, again, other = (lesion_phantom(seed, **COARSE) for seed in ((1, 2), (1, 2), (1, 3)))
    for mine, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(mine, same)
    assert (first.mask != other.mask).any()
    assert (first.flair != other.flair).any()
    stronger = lesion_phantom((1, 2), **COARSE, contrast=1)
    np.testing.assert_array_equal(stronger.mask, first.mask)


def test_orientation() -> None:
    assert orientation(lesion_phantom(4, **COARSE, orientation="PIR").affine) == "PIR"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.00009}, "fraction=9e-05: expected 0.0001 to 0.5"),
        ({"fraction": 0.51}, "fraction=0.51: expected"),
        ({"fraction": float("nan")}, "fraction=nan: expected"),
        ({"lesions": 0}, "lesions=0: expected 1 to 109"),
        ({"lesions": 110}, "lesions=110: expected 1 to 109, the number of voxels"),
        ({"contrast": 0}, "contrast=0: expected"),
        ({"spread": -1}, "spread=-1"),
        ({"size": (8, 8, 8)}, "size="),
        ({"fraction": 0.4, "lesions": 5}, "5 lesions have no room in this volume beyond a fraction of 0.1"),
        ({"fraction": 0.1, "lesions": 3000}, "3000 lesions have no room in this volume: "),
    ],
)
def test_arguments_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lesion_phantom(0, **COARSE | options)


def test_files_in_a_layout_of_the_loader(tmp_path: Path) -> None:
    folder = write_lesion_phantoms(tmp_path / "lesions", cases=5, seed=4, **COARSE, lesions=4, fraction=(0.001, 0.01))
    datalist = white_matter_lesion_datalist(folder)
    assert [len(items) for items in datalist.values()] == [3, 1, 1]
    masks = []
    for item in (item for items in datalist.values() for item in items):
        masks.append(np.asarray(nibabel.load(item["label"]).dataobj))
        assert len(pieces(masks[-1])) == 4
        assert [Path(path).name for path in item["image"]] == [
            f"{item['case']}_{end}.nii.gz" for end in ("FLAIR", "T1w")
        ]
        assert nibabel.load(item["image"][0]).get_data_dtype() == np.int16
    shares = [mask.mean() for mask in masks]
    assert 0.0009 < min(shares) < max(shares) < 0.011
    assert max(shares) > 1.5 * min(shares)
    again = write_lesion_phantoms(tmp_path / "again", cases=5, seed=4, **COARSE, lesions=4, fraction=(0.001, 0.01))
    for path in folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(FileExistsError, match="holds other files"):
        write_lesion_phantoms(folder, cases=5, seed=4, **COARSE)


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other options, other phantoms."""
    asked: list[Path] = []
    monkeypatch.setattr(
        phantoms.files, "write_lesion_phantoms", lambda folder, *_, **__: asked.append(folder) or folder
    )
    for options in ({}, {"fraction": 0.1}, {"fraction": 0.2}, {"fraction": 0.2}):
        phantoms.cached_lesion_phantoms(4, cache_dir=tmp_path, **options)
    assert len(set(asked)) == 3
    assert all(path.name.startswith("lesions-v") for path in asked)
