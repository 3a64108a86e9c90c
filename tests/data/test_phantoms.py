from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_lossext.data import dermoscopy_phantom, phantoms, skin_lesion_datalist, write_dermoscopy_phantoms


@pytest.fixture(scope="module")
def many() -> list[tuple[np.ndarray, np.ndarray]]:
    return [dermoscopy_phantom((0, number), (96, 128)) for number in range(200)]


def test_same_seed_same_picture() -> None:
    for first, second in zip(dermoscopy_phantom(5), dermoscopy_phantom(5), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (dermoscopy_phantom(5)[0] != dermoscopy_phantom(6)[0]).mean() > 0.5
    assert (dermoscopy_phantom((0, 1))[1] != dermoscopy_phantom((1, 0))[1]).any()


@pytest.mark.parametrize("size", [(192, 256), (33, 32), (100, 260), (301, 200)])
def test_shape_and_type(size: tuple[int, int]) -> None:
    picture, mask = dermoscopy_phantom(1, size)
    assert (picture.shape, picture.dtype) == ((*size, 3), np.uint8)
    assert (mask.shape, mask.dtype) == (size, np.uint8)
    assert np.unique(mask).tolist() == [0, 255]


def test_the_same_lesion_at_every_size() -> None:
    small, large = (dermoscopy_phantom(3, size)[1] for size in ((96, 128), (288, 384)))
    reduced = np.asarray(Image.fromarray(large).reduce(3)) > 127
    agreement = (reduced & (small > 0)).sum() / (reduced | (small > 0)).sum()
    assert agreement > 0.95


def test_lesions_from_below_one_to_above_sixty_percent(many: list[tuple[np.ndarray, np.ndarray]]) -> None:
    shares = np.array([(mask > 0).mean() for _, mask in many])
    assert shares.min() < 0.01
    assert shares.max() > 0.6
    assert shares.min() > 0.003
    assert 0.1 < np.median(shares) < 0.2


def test_contrast_from_pale_to_dark(many: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Luminance of lesion over that of the skin around it: always darker on the whole, sometimes hardly."""
    ratios = []
    for picture, mask in many:
        grey = picture.mean(axis=2)
        lit = grey > 20  # not the dark corners
        ratios.append(np.median(grey[(mask > 0) & lit]) / np.median(grey[(mask == 0) & lit]))
    ratios = np.array(ratios)
    assert (ratios < 0.97).mean() > 0.98
    assert (ratios > 0.85).sum() >= 10
    assert (ratios < 0.5).sum() >= 10


def test_skins_and_artefacts_differ(many: list[tuple[np.ndarray, np.ndarray]]) -> None:
    skin = np.array([np.median(picture[mask == 0], axis=0) for picture, mask in many])
    assert skin.std(axis=0).min() > 15
    corners = np.array([picture[[0, 0, -1, -1], [0, -1, 0, -1]].max() for picture, _ in many])
    assert 10 <= (corners < 60).sum() <= 100  # dark corners in some, not in most
    touching = [mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any() for _, mask in many]
    assert 10 <= sum(touching) <= 100


def test_no_lesion_in_the_dark_corners(many: list[tuple[np.ndarray, np.ndarray]]) -> None:
    overlaps = []
    for picture, mask in many:
        brightest = picture.max(axis=2)
        if brightest[[0, 0, -1, -1], [0, -1, 0, -1]].max() < 30:
            overlaps.append((mask[brightest < 20] > 0).sum())
    assert len(overlaps) >= 10
    assert max(overlaps) <= 24  # of 12288 pixels; a black lesion has some as dark


def test_too_small() -> None:
    with pytest.raises(ValueError, match=r"size=\(31, 64\): expected \(height, width\) of at least 32"):
        dermoscopy_phantom(0, (31, 64))


def digest(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.*")
        if path.is_file()
    }


def test_files_in_the_layout_of_isic(tmp_path: Path) -> None:
    folder = write_dermoscopy_phantoms(tmp_path / "phantoms", cases=20, seed=4, size=(48, 64))
    datalist = skin_lesion_datalist(folder)
    assert [len(items) for items in datalist.values()] == [12, 2, 6]
    with Image.open(datalist["testing"][0]["label"]) as mask, Image.open(datalist["testing"][0]["image"]) as picture:
        expected = dermoscopy_phantom((4, 14), (48, 64))
        np.testing.assert_array_equal(mask, expected[1])
        assert np.abs(np.asarray(picture, float) - expected[0]).mean() < 6  # what JPEG changes
    assert digest(write_dermoscopy_phantoms(tmp_path / "again", cases=20, seed=4, size=(48, 64))) == digest(folder)


def test_complete_phantoms_are_reused_and_others_left_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = write_dermoscopy_phantoms(tmp_path / "empty", cases=4, size=(32, 32))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_dermoscopy_phantoms(folder, cases=4, size=(32, 32))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with pytest.raises(FileExistsError, match="holds other files or incomplete phantoms"):
        write_dermoscopy_phantoms(folder, cases=5, size=(32, 32))
    next(folder.rglob("*.jpg")).unlink()
    with pytest.raises(FileExistsError, match="holds other files or incomplete phantoms"):
        write_dermoscopy_phantoms(folder, cases=4, size=(32, 32))
    with pytest.raises(ValueError, match="cases=3: expected at least 4"):
        write_dermoscopy_phantoms(tmp_path / "few", cases=3)


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seed: tuple[int, int], size: tuple[int, int]) -> None:
        raise RuntimeError("no more ink")

    monkeypatch.setattr(phantoms.files, "dermoscopy_phantom", fail)
    with pytest.raises(RuntimeError, match="no more ink"):
        write_dermoscopy_phantoms(tmp_path / "phantoms", cases=4)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(write_dermoscopy_phantoms, tmp_path / "p", cases=6, size=(32, 32)) for _ in range(2)]
    assert {job.result() for job in jobs} == {tmp_path / "p"}
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert json.loads((tmp_path / "p" / "phantoms.json").read_text())["cases"] == 6


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONAI_LOSSEXT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    cached = phantoms.cached_dermoscopy_phantoms
    assert cached(4).is_relative_to(tmp_path / "xdg" / "monai_lossext" / "phantoms")
    monkeypatch.setenv("MONAI_LOSSEXT_CACHE", str(tmp_path / "variable"))
    assert cached(4).is_relative_to(tmp_path / "variable")
    assert cached(4, cache_dir=tmp_path / "argument").is_relative_to(tmp_path / "argument")
    assert cached(4, seed=1) != cached(4)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"phantoms cannot be kept in .*file.*cache_dir or .*MONAI_LOSSEXT_CACHE"):
        cached(4, cache_dir=tmp_path / "file")
