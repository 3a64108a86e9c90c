"""What a header says about a volume is taken at its word, and what it leaves out is not made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK

from monai_lossext.data import DatalistError, skull_stripping_datalist
from monai_lossext.scripts.transforms import LoadVolumed
from monai_lossext.scripts.volume_files import (
    TWO_AFFINES,
    as_whole,
    find_volumes,
    mask_file,
    read_grid,
    read_voxels,
    write_mask,
)
from tests.data.dicom import ENHANCED_MR, SECONDARY_CAPTURE, write_dicom, write_series
from tests.data.heads import AFFINE, SHAPE, brain, noise, write

TURN = "0.98\\0.2\\0\\-0.2\\0.98\\0"


def load(path: Path) -> Any:
    return LoadVolumed("image")({"image": str(path)})["image"]


def complaint(path: Path) -> str:
    """What loading says, without the name of the file, which it must begin with."""
    with pytest.raises(ValueError, match="cannot be used: ") as caught:
        load(path)
    assert str(caught.value).startswith(f"{path} cannot be used: ")
    return str(caught.value).removeprefix(f"{path} cannot be used: ")


def test_a_dicom_series_lies_where_its_slices_say(tmp_path: Path) -> None:
    """Oblique, files in another order than the slices, unequal pixels, a rescaling of its own for each slice."""
    turn = nibabel.eulerangles.euler2mat(0.2, -0.15, 0.3)
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = turn * (7.0, 8.0, 9.0), (-70.5, 12.25, 30.0)
    for index in range(SHAPE[2]):
        given = {
            "t0020_0032": "\\".join(f"{x:.6f}" for x in (lps @ (0, 0, index, 1))[:3]),
            "t0020_0037": "\\".join(f"{x:.6f}" for x in turn[:, :2].T.ravel()),
            "t0028_0030": "8\\7",
            "t0028_1052": "0",
            "t0028_1053": f"{1 + index / 2:g}",
        }
        write_dicom(tmp_path / "scan" / f"{(index * 7) % SHAPE[2]:02d}.dcm", noise()[..., index].T, **given)
    grid = read_grid(tmp_path / "scan")
    assert grid.shape == SHAPE
    np.testing.assert_allclose(grid.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-4)
    scaled = noise() * (1 + np.arange(SHAPE[2]) / 2)
    np.testing.assert_allclose(read_voxels(tmp_path / "scan"), scaled, rtol=1e-6)
    image = load(tmp_path / "scan")
    np.testing.assert_allclose(image.affine.numpy(), grid.affine)
    np.testing.assert_allclose(image[0].numpy(), scaled, rtol=1e-6)
    target = tmp_path / mask_file(tmp_path / "scan")
    assert target.name == "scan_brainmask.nii.gz"
    write_mask(brain(), tmp_path / "scan", target, grid.affine)
    np.testing.assert_allclose(nibabel.load(target).affine, grid.affine, atol=1e-3)
    np.testing.assert_array_equal(nibabel.load(target).get_fdata(), brain())


def at(scan: Path, index: int, **tags: str | None) -> None:
    """Write one slice anew."""
    given = {"t0020_0032": f"0\\0\\{8 * index:g}"} | tags
    write_dicom(scan / f"{index:03d}.dcm", noise()[..., index].T, **given)


def again(scan: Path, **tags: str | None) -> None:
    """A second volume in the same series."""
    for index in range(SHAPE[2]):
        write_dicom(scan / f"b{index:03d}.dcm", noise()[..., index].T, t0020_0032=f"0\\0\\{8 * index}", **tags)


SERIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "slices missing": (
        lambda scan: [(scan / f"{index:03d}.dcm").unlink() for index in (8, 9, 10)],
        "its slices are uneven: 32 mm between 007.dcm and 011.dcm, 8 mm between others; are some missing?",
    ),
    "slice moved": (lambda scan: at(scan, 9, t0020_0032="0\\0\\73"), "9 mm between 008.dcm and 009.dcm, 8 mm between"),
    "slice twice": (
        lambda scan: write_dicom(scan / "copy.dcm", noise()[..., 4].T, t0020_0032="0\\0\\32"),
        "it holds a slice twice: 004.dcm and copy.dcm have the same position",
    ),
    "slice turned": (
        lambda scan: at(scan, 5, t0020_0037=TURN),
        "slices are turned against each other: 000.dcm and 005",
    ),
    "localizer": (
        lambda scan: at(scan, 0, t0020_0037="0\\1\\0\\0\\0\\-1"),
        "its slices are turned against each other",
    ),
    "tilted gantry": (
        lambda scan: [at(scan, index, t0020_0032=f"0\\{2 * index}\\{8 * index}") for index in range(SHAPE[2])],
        "its slices are shifted against each other (a tilted gantry?): 000.dcm and 001.dcm",
    ),
    "time points": (lambda scan: again(scan, t0020_0100="2"), "it holds several time points: 000.dcm and b000.dcm"),
    "acquisitions": (lambda scan: again(scan, t0020_0012="2"), "it holds several time points"),
    "echoes": (lambda scan: again(scan, t0018_0081="90", t0020_0012="2"), "it holds several echoes"),
    "enhanced": (
        lambda scan: ([file.unlink() for file in scan.iterdir()], enhanced(scan)),
        "all.dcm is an enhanced multi-frame file of 20 frames; expected a file for each slice",
    ),
    "no position": (
        lambda scan: at(scan, 3, t0020_0032=None),
        "it gives no orientation: 003.dcm has no ImagePositionPatient",
    ),
    "no directions": (
        lambda scan: at(scan, 3, t0020_0037=None),
        "it gives no orientation: 003.dcm has no ImageOrientationPatient",
    ),
    "no size": (
        lambda scan: at(scan, 3, t0028_0030=None),
        "it gives no size of its voxels: 003.dcm has no PixelSpacing",
    ),
    "secondary captures": (
        lambda scan: [
            at(scan, index, t0008_0016=SECONDARY_CAPTURE, t0020_0032=None, t0020_0037=None) for index in range(SHAPE[2])
        ],
        "it gives no orientation: 000.dcm has no ImagePositionPatient",
    ),
    "captures at the origin": (
        lambda scan: [at(scan, i, t0008_0016=SECONDARY_CAPTURE, t0020_0032="0\\0\\0") for i in range(SHAPE[2])],
        "it gives no orientation: secondary captures, which all have the same position",
    ),
    "larger pixels": (lambda scan: at(scan, 6, t0028_0030="9\\9"), "its slices differ in size: 000.dcm and 006.dcm"),
    "other size": (
        lambda scan: write_dicom(scan / "006.dcm", noise()[1:, :, 6].T, t0020_0032="0\\0\\48"),
        "its slices differ in size: 000.dcm and 006.dcm",
    ),
    "inverted": (
        lambda scan: [at(scan, index, t0028_0004="MONOCHROME1") for index in range(SHAPE[2])],
        "000.dcm is MONOCHROME1 with 1 values per voxel; expected MONOCHROME2 with one",
    ),
    "one slice": (
        lambda scan: [(scan / f"{index:03d}.dcm").unlink() for index in range(1, SHAPE[2])],
        "it holds one slice, which has no distance to a next one",
    ),
    "two series": (lambda scan: at(scan, 7, t0020_000e="1.9"), "it holds 2 DICOM series; expected one"),
}


def enhanced(scan: Path) -> None:
    frames = np.moveaxis(noise(), 2, 0).transpose(0, 2, 1)
    write_dicom(scan / "all.dcm", frames, t0008_0016=ENHANCED_MR, t0020_0032=None, t0020_0037=None)


@pytest.mark.parametrize("name", SERIES)
def test_a_series_that_is_no_even_stack_is_refused(tmp_path: Path, name: str) -> None:
    spoil, expected = SERIES[name]
    scan = write_series(tmp_path / "scan", noise())
    spoil(scan)
    assert expected in complaint(scan)


def test_a_single_dicom_file_is_no_volume(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "scan", noise())
    assert find_volumes(scan / "000.dcm") == [scan / "000.dcm"]
    assert complaint(scan / "000.dcm").endswith("; name the folder of the series")


def with_unit(path: Path, unit: str | int, mm: float = 1.0) -> Path:
    """A head whose voxels are as large as those of the others, written in another unit of `mm`."""
    affine = AFFINE.copy()
    affine[:3] /= mm
    volume = nibabel.Nifti1Image(noise() if "T1w" in path.name else brain(), affine)
    if isinstance(unit, str):
        volume.header.set_xyzt_units(unit, "sec")
    else:
        volume.header["xyzt_units"] = unit
    nibabel.save(volume, path)
    return path


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("meter", 1000), ("micron", 0.001), ("unknown", 1)])
def test_units_of_length(heads: Path, caplog: pytest.LogCaptureFixture, unit: str, mm: float) -> None:
    image = with_unit(heads / "sub-02_T1w.nii.gz", unit, mm)
    np.testing.assert_allclose(load(image).affine.numpy(), AFFINE, rtol=1e-6)
    np.testing.assert_allclose(read_grid(image).affine, AFFINE, rtol=1e-6)
    assert ("mm is taken" in load(image).meta["notice"]) == (unit == "unknown")
    others = len([*heads.glob("*_T1w.nii.gz")]) - (unit != "unknown")  # which are written without a unit
    skull_stripping_datalist(heads)
    assert f"{others} of 7 images give no unit of length (xyzt_units): mm is taken" in caplog.text


def test_a_mask_in_another_unit_than_its_image_lies_on_the_same_grid(heads: Path) -> None:
    with_unit(heads / "sub-02_brainmask.nii.gz", "meter", 1000)
    assert sum(map(len, skull_stripping_datalist(heads).values())) == 7


@pytest.mark.parametrize(
    ("unit", "mm", "expected"),
    [
        ("meter", 1, "is 2.08e+05 mm long; expected a head of 10 to 3000 mm, so its voxel size is wrong"),
        ("micron", 1, "is 0.208 mm long; expected a head of 10 to 3000 mm"),
        (6, 1, "gives its size in an unknown unit: xyzt_units of its header is 6"),
    ],
)
def test_units_that_cannot_be_true(heads: Path, unit: str | int, mm: float, expected: str) -> None:
    image = with_unit(heads / "sub-02_T1w.nii.gz", unit, mm)
    assert expected in complaint(image)
    with pytest.raises(DatalistError, match="1 of 7 cases cannot be used") as caught:
        skull_stripping_datalist(heads)
    assert f"image {image} {expected}" in str(caught.value)


def test_an_sform_and_a_qform_that_disagree(heads: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sform is taken, which is said; the mask keeps both."""
    path = heads / "sub-02_T1w.nii.gz"
    for moved, disagree in ((0.0, False), (0.05, False), (3.0, True)):
        volume = nibabel.Nifti1Image(noise(), AFFINE)
        volume.set_sform(AFFINE, 1)
        shifted = AFFINE.copy()
        shifted[0, 3] += moved
        volume.set_qform(shifted, 1)
        volume.header.set_xyzt_units("mm")
        nibabel.save(volume, path)
        np.testing.assert_allclose(read_grid(path).affine, AFFINE)
        assert load(path).meta["notice"] == TWO_AFFINES * disagree
    skull_stripping_datalist(heads)
    assert f"1 of 7 images {TWO_AFFINES}" in caplog.text
    write_mask(brain(), path, heads / "mask.nii.gz", AFFINE)
    mask = nibabel.load(heads / "mask.nii.gz")
    np.testing.assert_allclose(mask.header.get_sform(), AFFINE)
    np.testing.assert_allclose(mask.header.get_qform(), shifted)


def text_header(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Write a volume with a header of text that is changed afterwards."""
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(write(path.parent / "head.nii", noise()))), str(path))
    path.write_bytes(change(path.read_bytes()))
    return path


def without(field: bytes) -> Callable[[bytes], bytes]:
    return lambda content: b"\n".join(line for line in content.split(b"\n") if not line.startswith(field))


HEADERS: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "no directions": (
        ".nrrd",
        lambda content: without(b"space")(content).replace(b"endian", b"spacings: 2 2 2\nendian"),
        "gives no orientation: its header has no 'space directions'",
    ),
    "no patient": (
        ".nrrd",
        lambda content: content.replace(b"space: left-posterior-superior", b"space dimension: 3"),
        "gives no orientation: the 'space' of its header is nothing, which is not one of a patient",
    ),
    "scanner": (
        ".nrrd",
        lambda content: content.replace(b"left-posterior-superior", b"scanner-xyz"),
        "the 'space' of its header is scanner-xyz",
    ),
    "nrrd in micron": (
        ".nrrd",
        lambda content: content.replace(b"endian", b'space units: "um" "um" "um"\nendian'),
        "gives its size in um; expected mm",
    ),
    "no matrix": (".mha", without(b"TransformMatrix"), "gives no orientation: its header has no TransformMatrix"),
    "no matrix, in two files": (".mhd", without(b"TransformMatrix"), "its header has no TransformMatrix"),
    "no spacing": (".mha", without(b"ElementSpacing"), "gives no size of its voxels: its header has no ElementSpacing"),
    "mha in cm": (
        ".mha",
        lambda content: content.replace(b"DimSize", b"DistanceUnits = cm\nDimSize"),
        "gives its size in cm; expected mm",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_of_text_that_leave_something_out(tmp_path: Path, name: str) -> None:
    suffix, change, expected = HEADERS[name]
    (tmp_path / "images").mkdir()
    path = text_header(tmp_path / "images" / f"a{suffix}", change)
    assert expected in complaint(path)
    (tmp_path / "images" / "head.nii").rename(tmp_path / "head.nii")
    write(tmp_path / "labels" / "a.nii.gz", brain())
    with pytest.raises(DatalistError) as caught:
        skull_stripping_datalist(tmp_path)
    assert f"image {path} {expected.removeprefix('it ')}" in str(caught.value) or expected in str(caught.value)


@pytest.mark.parametrize(
    ("space", "to_ras"),
    [
        (b"RAS", (1, 1, 1)),
        (b"right-anterior-superior", (1, 1, 1)),
        (b"LPS", (-1, -1, 1)),
        (b"Left-Posterior-Superior", (-1, -1, 1)),
        (b"LAS", (-1, 1, 1)),
    ],
)
def test_spaces_of_a_patient(tmp_path: Path, space: bytes, to_ras: tuple[int, int, int]) -> None:
    path = text_header(tmp_path / "a.nrrd", lambda content: content.replace(b"left-posterior-superior", space))
    as_written = np.diag([-1, -1, 1, 1]) @ AFFINE
    np.testing.assert_allclose(read_grid(path).affine, np.diag([*to_ras, 1]) @ as_written)


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_voxels_that_are_no_real_numbers(heads: Path, dtype: Any) -> None:
    path = write(heads / "sub-02_T1w.nii.gz", np.zeros(SHAPE, dtype))
    assert "expected one real number per voxel" in complaint(path)
    with pytest.raises(DatalistError, match=r"cannot be read: it has voxels of type .*; expected one real number"):
        skull_stripping_datalist(heads)


def test_complex_voxels_of_other_formats(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(noise().T.astype(np.complex64))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    assert complaint(tmp_path / "a.mha") == "it has 2 components per voxel"


def test_labels_that_a_header_scales(heads: Path) -> None:
    """255 times the nearest float32 of 1/255 is not exactly 1."""
    (heads / "sub-02_brainmask.nii.gz").unlink()
    path = write(heads / "sub-02_brainmask.nii", brain(255))
    raw = bytearray(path.read_bytes())
    raw[112:116] = np.float32(1 / 255).tobytes()  # scl_slope, which nibabel would not write without scaling as well
    path.write_bytes(raw)
    values = read_voxels(path)
    assert 1.0 < values.max() < 1.0001  # not exactly 1, else this test would show nothing
    assert sum(map(len, skull_stripping_datalist(heads).values())) == 7
    label = LoadVolumed("label", labels=True)({"label": str(path)})["label"]
    np.testing.assert_array_equal(label[0].numpy(), brain())
    raw[112:116] = np.float32(1.01 / 255).tobytes()
    path.write_bytes(raw)
    with pytest.raises(DatalistError, match=r"has the values 0, 1\.0\d+; allowed are 0 and 1"):
        skull_stripping_datalist(heads)


def test_whole_labels() -> None:
    assert as_whole(np.array([3, 4])).dtype == int
    np.testing.assert_array_equal(as_whole(np.array([0.99995, 1.0002, np.nan])), [1, 1.0002, np.nan])


def test_masks_are_named_after_their_volumes(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").mkdir()
    names = {
        "a.b.nii.gz": "a.b_brainmask.nii.gz",
        "a.NRRD": "a_brainmask.nrrd",
        "scan.nii": "scan.nii_brainmask.nii.gz",
    }
    assert {name: mask_file(tmp_path / name) for name in names} == names
