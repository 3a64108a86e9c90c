from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from monai_lossext.data import DatalistError, skull_stripping_datalist
from tests.data.heads import AFFINE, brain, noise, write


def holes() -> np.ndarray:
    values = noise().astype(np.float32)
    values[3, 4, 5:8] = np.nan
    values[0, 0, 0] = np.inf
    return values


def truncate(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def without_orientation(path: Path) -> None:
    image = nibabel.Nifti1Image(noise(), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, path)


def singular(path: Path) -> None:
    image = nibabel.Nifti1Image(noise(), AFFINE)
    image.header["srow_z"] = 0
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    nibabel.save(nibabel.Nifti1Image(noise(), None, image.header), path)


def moved(offset: tuple[float, float, float], scale: float = 1.0) -> np.ndarray:
    affine = AFFINE.copy()
    affine[:3, :3] *= scale
    affine[:3, 3] += offset
    return affine


def flipped() -> np.ndarray:
    return AFFINE @ np.array([[-1, 0, 0, 23], [0, -1, 0, 25], [0, 0, 1, 0], [0, 0, 0, 1]])


def rotated(degrees: float) -> np.ndarray:
    turn = np.eye(4)
    angle = np.deg2rad(degrees)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


rgb = np.zeros(noise().shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))

BAD: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "image missing": (lambda image, mask: image.unlink(), r"image .*T1w.nii.gz is missing"),
    "mask missing": (lambda image, mask: mask.unlink(), r"mask .*brainmask.nii.gz is missing"),
    "image truncated": (
        lambda image, mask: truncate(image),
        r"image .* \(\d+ bytes\) cannot be read: .*ended before the end-of-stream",
    ),
    "mask truncated": (lambda image, mask: truncate(mask), r"mask .* \(\d+ bytes\) cannot be read: .*ended before"),
    "empty file": (lambda image, mask: image.write_bytes(b""), r"image .* \(0 bytes\) cannot be read: "),
    "no header": (lambda image, mask: image.write_bytes(b"x" * 999), r"image .* \(999 bytes\) cannot be read: "),
    "4D": (
        lambda image, mask: write(image, np.stack([noise()] * 2, axis=-1)),
        r"image .* has 4 dimensions \(24 x 26 x 20 x 2\); expected one volume of 3 dimensions",
    ),
    "2D": (lambda image, mask: write(image, noise()[0]), r"image .* has 2 dimensions \(26 x 20\)"),
    "no orientation": (
        lambda image, mask: without_orientation(image),
        r"image .* gives no orientation: sform_code and qform_code of its header are 0",
    ),
    "singular": (lambda image, mask: singular(image), r"image .* gives no orientation: its affine .* is singular"),
    "other shape": (
        lambda image, mask: write(mask, brain()[:-1]),
        r"mask .* on another grid than its image: image 24 x 26 x 20, mask 23 x 26 x 20 voxels",
    ),
    "other orientation": (
        lambda image, mask: write(mask, brain(), flipped()),
        r"mask .* on another grid than its image: image RAS, mask LPS; reorient",
    ),
    "moved": (
        lambda image, mask: write(mask, brain(), moved((0, 1.0, 0))),
        r"mask .* on another grid than its image: their corners are up to 1.00 mm apart",
    ),
    "other spacing": (lambda image, mask: write(mask, brain(), moved((0, 0, 0), 1.05)), r"up to \d+.\d\d mm apart"),
    "rotated": (lambda image, mask: write(mask, brain(), rotated(2)), r"corners are up to \d+.\d\d mm apart"),
    "NaN in the image": (lambda image, mask: write(image, holes()), r"image .* has 4 voxels that are not finite \(NaN"),
    "NaN in the mask": (
        lambda image, mask: write(mask, np.where(brain() > 0, np.nan, 0).astype(np.float32)),
        r"mask .* has 2548 voxels that are not finite",
    ),
    "mask 0/255": (
        lambda image, mask: write(mask, brain(255)),
        r"mask .* is not binary: it has the values 0, 255; allowed are 0 and 1 \(brain\) only",
    ),
    "labels": (lambda image, mask: write(mask, brain() + brain() * (noise() > 500)), r"the values 0, 1, 2; allowed"),
    "probabilities": (
        lambda image, mask: write(mask, brain() * (noise() / 1000).astype(np.float32)),
        r"the values 0, 0\.\d+, .*, \.\.\.; allowed",
    ),
    "no brain": (lambda image, mask: write(mask, brain(0)), r"shows a brain of 0 ml; expected 300 to 2500 ml"),
    "all brain": (lambda image, mask: write(mask, brain() * 0 + 1), r"shows a brain of 6390 ml; expected 300 to 2500"),
    "colours": (lambda image, mask: write(image, rgb), r"image .* has voxels of type .*; expected one real number"),
    "complex": (
        lambda image, mask: write(image, noise().astype(np.complex64)),
        r"image .* has voxels of type complex64; expected one real number",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_file_is_one_clear_message(heads: Path, name: str) -> None:
    spoil, pattern = BAD[name]
    spoil(heads / "sub-02_T1w.nii.gz", heads / "sub-02_brainmask.nii.gz")
    with pytest.raises(DatalistError, match="1 of 7 cases cannot be used") as caught:
        skull_stripping_datalist(heads)
    line, advice = str(caught.value).splitlines()[1:]
    assert line.startswith("  sub-02: ")
    assert re.search(pattern, line)
    assert "skip_bad=True" in advice


def test_all_bad_files_at_once_or_skipped(heads: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(heads / "sub-02_T1w.nii.gz", holes())
    write(heads / "sub-02_brainmask.nii.gz", brain(255))
    truncate(heads / "sub-05_T1w.nii.gz")
    with pytest.raises(DatalistError, match="2 of 7 cases cannot be used") as caught:
        skull_stripping_datalist(heads)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:-1]] == ["  sub-02", "  sub-02", "  sub-05"]
    with caplog.at_level(logging.WARNING):
        datalist = skull_stripping_datalist(heads, skip_bad=True, fractions=(1, 0, 0))
    assert len(datalist["training"]) == 5
    assert "255" in caplog.text
    with pytest.raises(ValueError, match="skip_bad=True needs check=True"):
        skull_stripping_datalist(heads, skip_bad=True, check=False)
    assert sum(map(len, skull_stripping_datalist(heads, check=False).values())) == 7


def test_brain_volume_can_be_overridden(heads: Path) -> None:
    with pytest.raises(DatalistError, match=r"shows a brain of 1305 ml; expected 100 to 900 ml \(brain_ml\)"):
        skull_stripping_datalist(heads, brain_ml=(100, 900))
    write(heads / "sub-02_brainmask.nii.gz", brain(0))
    assert sum(map(len, skull_stripping_datalist(heads, brain_ml=None).values())) == 7


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        (noise()[..., None], brain()),
        (noise(), brain()[..., None, None]),
        (noise().astype(np.float32), brain(dtype=np.float64)),
        (noise(), brain(dtype=np.int16)),
        (noise() - np.int16(500), brain()),
    ],
    ids=["axis of length 1", "two such axes", "floats", "int16", "negative values"],
)
def test_what_is_fine(heads: Path, image: np.ndarray, mask: np.ndarray) -> None:
    write(heads / "sub-02_T1w.nii.gz", image)
    write(heads / "sub-02_brainmask.nii.gz", mask)
    assert sum(map(len, skull_stripping_datalist(heads).values())) == 7


@pytest.mark.parametrize("affine", [flipped(), rotated(20), rotated(200)])
def test_any_orientation_will_do_for_both_files(heads: Path, affine: np.ndarray) -> None:
    write(heads / "sub-02_T1w.nii.gz", noise(), affine)
    write(heads / "sub-02_brainmask.nii.gz", brain(), affine)
    assert sum(map(len, skull_stripping_datalist(heads).values())) == 7


def test_the_tolerance_is_a_tenth_of_a_voxel(heads: Path) -> None:
    write(heads / "sub-02_brainmask.nii.gz", brain(), moved((0, 0.79, 0)))
    assert sum(map(len, skull_stripping_datalist(heads).values())) == 7
    write(heads / "sub-02_brainmask.nii.gz", brain(), moved((0, 0.81, 0)))
    with pytest.raises(DatalistError, match=r"up to 0\.81 mm apart"):
        skull_stripping_datalist(heads)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_other_formats(tmp_path: Path, suffix: str) -> None:
    nifti = SimpleITK.ReadImage(str(write(tmp_path / "head.nii.gz", noise(), rotated(20))))
    (tmp_path / "images").mkdir()
    SimpleITK.WriteImage(nifti, str(tmp_path / "images" / f"a{suffix}"), useCompression=True)
    label = write(tmp_path / "labels" / "a.nii.gz", brain(), rotated(20))
    datalist = skull_stripping_datalist(tmp_path, fractions=(1, 0, 0))
    assert datalist["training"][0]["image"] == str(tmp_path / "images" / f"a{suffix}")
    write(label, brain(), rotated(22))
    with pytest.raises(DatalistError, match="mm apart"):
        skull_stripping_datalist(tmp_path, fractions=(1, 0, 0))
    write(label, brain(), rotated(20))
    truncate(tmp_path / "images" / f"a{suffix}")
    with pytest.raises(DatalistError, match=rf"image .*a{suffix} \(\d+ bytes\) cannot be read"):
        skull_stripping_datalist(tmp_path, fractions=(1, 0, 0))


def test_other_formats_of_other_dimensions(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write(tmp_path / "labels" / "a.nii.gz", brain())
    stack = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(noise())] * 2)
    SimpleITK.WriteImage(stack, str(tmp_path / "images" / "a.nrrd"))
    with pytest.raises(DatalistError, match=r"has 4 dimensions \(20 x 26 x 24 x 2\)"):
        skull_stripping_datalist(tmp_path, fractions=(1, 0, 0))
    colours = SimpleITK.GetImageFromArray(np.stack([noise().T] * 3, axis=-1), isVector=True)
    colours.SetSpacing((8, 8, 8))
    colours.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    colours.SetOrigin((90, 100, -80))
    SimpleITK.WriteImage(colours, str(tmp_path / "images" / "a.nrrd"))
    with pytest.raises(DatalistError, match="cannot be read: it has 3 components per voxel"):
        skull_stripping_datalist(tmp_path, fractions=(1, 0, 0))


def test_progress_bar(heads: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skull_stripping_datalist(heads, progress=True)
    assert "checking volumes: 100%" in capsys.readouterr().err
