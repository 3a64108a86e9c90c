"""inference.yaml on lists of files as people have them: each mask is right, or its file is named with what is wrong."""

from __future__ import annotations

import importlib
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from PIL import Image

from tests.data.dicom import SECONDARY_CAPTURE, write_series
from tests.data.heads import AFFINE, write

Infer = Callable[..., None]
COARSE = {"spacing": [8, 8, -1]}, {"spacing": [8, 8, 8]}
ODD = ["ISIC {2017} (100 %)", 'it\'s "a"', "L\u00e9sion", "Le\u0301sion 病变", "[a]*$x", "a;b&c"]


@pytest.fixture
def as_command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let this process be `python -m monai.bundle run` with some arguments."""

    def typed(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", "run", *arguments])
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("monai.bundle.__main__", None))

    return typed


def bright_box(shape: tuple[int, int, int] = (12, 13, 10), low: int = 20) -> np.ndarray:
    """A head whose brain is an off-centre box of 120 voxels of 8 mm."""
    image = np.full(shape, low, np.int16)
    image[3:8, 4:10, 3:7] = 900
    return image


def coarse(bundle: Path) -> dict[str, Any]:
    return COARSE[0] if bundle.name.endswith("2d") else COARSE[1]


def spot(height: int = 24, width: int = 32) -> np.ndarray:
    """A white picture with a dark, off-centre spot."""
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[height // 3 : 2 * height // 3, width // 2 : 7 * width // 8] = 0
    return picture


def is_spot(mask: Path, height: int = 24, width: int = 32) -> bool:
    found, truth = np.asarray(Image.open(mask)) > 0, spot(height, width)[..., 0] == 0
    return found.shape == truth.shape and (found & truth).sum() / (found | truth).sum() > 0.8


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def failures(infer: Infer, **values: Any) -> list[str]:
    """Run, and return the lines of the error with which it ends."""
    with pytest.raises(ValueError, match=r"_dir: |cannot be used") as caught:
        infer(**values)
    return str(caught.value).splitlines()


@pytest.fixture
def with_bar(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    """Show the progress bar, which is for terminals."""
    module = importlib.import_module("scripts.inference")
    bar = module.tqdm
    monkeypatch.setattr(module, "tqdm", lambda *inputs, **options: bar(*inputs, **options | {"disable": False}))


@pytest.mark.usefixtures("with_bar")
@pytest.mark.filterwarnings("ignore:Divide by zero")  # MONAI says it of volumes of one brightness
def test_forty_volumes_of_which_five_are_bad(
    infer_skull: Infer, skull_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    for number in range(36):
        write(folder / f"{number:02d}.nii", bright_box())
    cut = (folder / "00.nii").read_bytes()
    (folder / "00.nii").write_bytes(cut[: len(cut) // 2])
    write(folder / "01.nii", bright_box().astype(np.complex64))
    lost = nibabel.Nifti1Image(bright_box(), AFFINE)
    lost.header.set_xyzt_units("meter")
    nibabel.save(lost, folder / "02.nii")
    (folder / "37.mha").write_bytes(
        b"ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementSpacing = 2 2 2\n"
        b"ElementDataFile = LOCAL\n" + bytes(24)
    )
    write(folder / "38.nii.gz", np.where(bright_box() > 500, np.nan, 1).astype(np.float32))
    write(folder / "39.nii.gz", bright_box(low=900))  # of one brightness: nothing to be found
    write(folder / "40.nii.gz", bright_box())
    assert len(names(folder)) == 40

    first, *bad = failures(infer_skull, **coarse(skull_bundle))
    assert first == "5 of 40 volumes have no mask:"
    reasons = {
        "00.nii": "Expected",
        "01.nii": "it has voxels of type complex64",
        "02.nii": "it is 1.04e+05 mm long; expected a head",
        "37.mha": "it gives no orientation: its header has no TransformMatrix",
        "38.nii.gz": "voxels that are not finite",
    }
    for line, (name, reason) in zip(bad, reasons.items(), strict=True):
        assert line.startswith(f"{folder / name} cannot be used: ")
        assert reason in line
    masks = names(tmp_path / "out")
    assert len(masks) == 35
    assert not {f"{name.partition('.')[0]}_brainmask" for name in reasons} & {mask.partition(".")[0] for mask in masks}
    for mask in masks:
        found = nibabel.load(tmp_path / "out" / mask).get_fdata() == 1
        assert np.array_equal(found, bright_box() > 500) or (mask.startswith("39") and not found.any())
    out, err = capsys.readouterr()
    said = f"35 masks written to {tmp_path / 'out'}\n1 of them are empty, nothing was found:\n{folder / '39.nii.gz'}\n"
    assert said in out
    assert "35 of 40 volumes give no unit of length (xyzt_units): mm is taken" in out
    assert "volumes: 100%" in err
    assert "40/40" in err


@pytest.mark.usefixtures("with_bar")
def test_forty_pictures_of_which_five_are_bad(
    infer_skin: Infer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    for number in range(35):
        Image.fromarray(spot()).save(folder / f"{number:02d}.png")
    Image.new("RGB", (32, 24), "white").save(folder / "34.png")
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "35.jpg")
    (folder / "35.jpg").write_bytes((folder / "35.jpg").read_bytes()[:5000])
    Image.fromarray(np.full((24, 32), 4000, np.uint16)).save(folder / "36.png")
    Image.fromarray(np.ones((24, 32), np.float32)).save(folder / "37.tif")
    Image.fromarray(spot()).save(folder / "38.tif", tiffinfo={274: 3})
    (folder / "39.bmp").write_bytes(b"")
    first, *bad = failures(infer_skin)
    assert first == "5 of 40 pictures have no mask:"
    reasons = {
        "35.jpg": "truncated",
        "36.png": "it has I;16 pixels; expected 8 bits per channel",
        "37.tif": "it has F pixels; expected 8 bits per channel",
        "38.tif": "its orientation tag is 3; expected a TIFF that is stored upright",
        "39.bmp": "cannot identify",
    }
    for line, (name, reason) in zip(bad, reasons.items(), strict=True):
        assert line.startswith(f"{folder / name} cannot be used: ")
        assert reason in line
    assert names(tmp_path / "out") == [f"{number:02d}.png" for number in range(35)]
    assert all(is_spot(tmp_path / "out" / f"{number:02d}.png") for number in range(34))
    said = f"35 masks written to {tmp_path / 'out'}\n1 of them are empty, nothing was found:\n{folder / '34.png'}\n"
    out, err = capsys.readouterr()
    assert said in out
    assert "pictures: 100%" in err
    assert "40/40" in err


def test_dicom_series_side_by_side(infer_skull: Infer, skull_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("doubled", "fine", "gap", "screenshots"):
        capture = {"t0008_0016": SECONDARY_CAPTURE, "t0020_0032": None} if name == "screenshots" else {}
        write_series(folder / name, bright_box(), **capture)
    for index in (4, 5):
        (folder / "gap" / f"{index:03d}.dcm").unlink()
    series = (folder / "doubled" / "004.dcm").read_bytes()
    (folder / "doubled" / "twice.dcm").write_bytes(series.replace(b"1.2.3.", b"1.2.4."))
    first, *bad = failures(infer_skull, **coarse(skull_bundle))
    assert first == "3 of 4 volumes have no mask:"
    for line, (name, reason) in zip(
        bad,
        {
            "doubled": "it holds a slice twice: 004.dcm and twice.dcm",
            "gap": "its slices are uneven: 24 mm between 003.dcm and 006.dcm, 8 mm between others",
            "screenshots": "it gives no orientation: 000.dcm has no ImagePositionPatient",
        }.items(),
        strict=True,
    ):
        assert line.startswith(f"{folder / name} cannot be used: {reason}")
    mask = nibabel.load(tmp_path / "out" / "fine_brainmask.nii.gz")
    np.testing.assert_array_equal(mask.get_fdata(), bright_box() > 500)
    np.testing.assert_allclose(mask.affine, np.diag([-8, -8, 8, 1]))


def test_units_do_not_change_the_mask(infer_skull: Infer, skull_bundle: Path, tmp_path: Path) -> None:
    for unit, mm in {"mm": 1.0, "meter": 1000.0, "micron": 0.001}.items():
        volume = nibabel.Nifti1Image(bright_box(), np.diag([8 / mm, 8 / mm, 8 / mm, 1]))
        volume.header.set_xyzt_units(unit)
        nibabel.save(volume, tmp_path / "in" / f"{unit}.nii")
    infer_skull(**coarse(skull_bundle))
    for unit in ("mm", "meter", "micron"):
        mask = nibabel.load(tmp_path / "out" / f"{unit}_brainmask.nii")
        np.testing.assert_array_equal(mask.get_fdata(), bright_box() > 500)
        source = nibabel.load(tmp_path / "in" / f"{unit}.nii")
        assert mask.header["xyzt_units"] == source.header["xyzt_units"]
        np.testing.assert_array_equal(mask.affine, source.affine)


def test_failures_after_reading_name_the_file(
    infer_skull: Infer, skull_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of resampling, of the network and of writing."""
    for name in ("a", "b", "c"):
        write(tmp_path / "in" / f"{name}.nii", bright_box())
    first, *bad = failures(infer_skull, spacing=[1e-4] * 3, output_dir=str(tmp_path / "none"))
    assert first == "3 of 3 volumes have no mask:"
    for name, line in zip("abc", bad, strict=True):
        assert line.startswith(f"{tmp_path / 'in' / name}.nii cannot be used: ")
        assert "alloc" in line or "memory" in line or "overflow" in line

    files = importlib.import_module("scripts.volume_files")
    write_mask = files.write_mask

    def disk_full(mask: np.ndarray, source: Path, *others: Any) -> None:
        if source.name == "b.nii":
            others[0].write_bytes(b"half a mask")
            raise OSError(28, "No space left on device")
        write_mask(mask, source, *others)

    monkeypatch.setattr(files, "write_mask", disk_full)
    assert failures(infer_skull, **coarse(skull_bundle)) == [
        "1 of 3 volumes have no mask:",
        f"{tmp_path / 'in' / 'b.nii'} cannot be used: [Errno 28] No space left on device",
    ]
    assert names(tmp_path / "out") == ["a_brainmask.nii", "c_brainmask.nii"]


def test_masks_that_would_replace_each_other_or_older_ones(
    infer_skull: Infer, infer_skin: Infer, skull_bundle: Path, tmp_path: Path
) -> None:
    for folder, infer, first, second, mask in (
        (tmp_path / "in", infer_skull, "head.nii.gz", "head.NII.GZ", "head_brainmask.nii.gz"),
        (tmp_path / "pictures", infer_skin, "head.png", "head.JPG", "head.png"),
    ):
        folder.mkdir(exist_ok=True)
        output = tmp_path / f"masks of {folder.name}"
        for name in (second, first):
            if folder.name == "in":
                write(folder / name.lower(), bright_box()).rename(folder / name)
            else:
                Image.fromarray(spot()).save(folder / name)
        values = {"input_dir": str(folder), "output_dir": str(output)}
        kind = "volumes" if folder.name == "in" else "pictures"
        assert failures(infer, **values) == [
            f"input_dir: several {kind} for one mask; keep one of each:",
            f"  {mask}: {folder / second} and {folder / first}",
        ]
        assert not output.exists()
        (folder / second).unlink()
        options = coarse(skull_bundle) if folder.name == "in" else {}
        infer(**values, **options)
        before = (output / mask).read_bytes()
        (output / mask).write_bytes(b"corrected by hand")
        (line,) = failures(infer, **values)
        assert line.startswith("output_dir: 1 of 1 masks are there already and would be replaced; name another folder")
        assert str(output / mask) in line
        assert (output / mask).read_bytes() == b"corrected by hand" != before


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_pictures(infer_skin: Infer, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "in"
    folder.mkdir(parents=True)
    for stem in (name, f"other {name}.v1"):
        Image.fromarray(spot()).save(folder / f"{stem}.png")
    infer_skin(input_dir=str(folder), output_dir=str(tmp_path / name / "out"))
    assert names(tmp_path / name / "out") == sorted([f"{name}.png", f"other {name}.v1.png"])
    infer_skin(input_dir=str(folder / f"{name}.png"), output_dir=str(tmp_path / name / "one"))
    assert names(tmp_path / name / "one") == [f"{name}.png"]
    assert is_spot(tmp_path / name / "one" / f"{name}.png")


@pytest.mark.parametrize("name", ODD)
def test_odd_names_of_volumes(infer_skull: Infer, skull_bundle: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "in"
    volume = write(folder / f"{name}.nii.gz", bright_box())
    nrrd = folder / f"{name} 2.nrrd"
    write_nrrd(nrrd, volume)
    write_series(tmp_path / name / "dicom" / name, bright_box())
    infer_skull(input_dir=str(folder), output_dir=str(tmp_path / name / "out"), **coarse(skull_bundle))
    assert names(tmp_path / name / "out") == sorted([f"{name}_brainmask.nii.gz", f"{name} 2_brainmask.nrrd"])
    infer_skull(
        input_dir=str(tmp_path / name / "dicom"), output_dir=str(tmp_path / name / "series"), **coarse(skull_bundle)
    )
    mask = nibabel.load(tmp_path / name / "series" / f"{name}_brainmask.nii.gz")
    np.testing.assert_array_equal(mask.get_fdata(), bright_box() > 500)


def write_nrrd(path: Path, like: Path) -> None:
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.ReadImage(str(like)), str(path))


def test_a_number_sign(
    infer_skin: Infer, infer_skull: Infer, skull_bundle: Path, tmp_path: Path, as_command: Callable[..., None]
) -> None:
    """MONAI's configs write `#` as `::`; only the command line still knows what was meant."""
    folder = tmp_path / "scan #1"
    write(folder / "head #1.nii", bright_box())
    Image.fromarray(spot()).save(folder / "spot #1.png")
    for infer, options, mask in (
        (infer_skin, {}, "spot #1.png"),
        (infer_skull, coarse(skull_bundle), "head #1_brainmask.nii"),
    ):
        output = tmp_path / f"masks #{len(mask)}"
        values = {"input_dir": str(folder), "output_dir": str(output)}
        with pytest.raises(RuntimeError) as caught:
            infer(**values, **options)
        assert "holds '::', which MONAI makes of '#' in a config" in str(caught.value.__cause__)
        as_command("--input_dir", str(folder), f"--output_dir={output}")
        infer(**values, **options)
        assert names(output) == [mask]
        as_command()


def test_names_that_look_the_same(infer_skin: Infer, tmp_path: Path) -> None:
    """On Linux two files, on macOS one."""
    for form in ("NFC", "NFD"):
        Image.fromarray(spot()).save(tmp_path / "in" / f"{unicodedata.normalize(form, 'Lésion')}.png")
    lines = failures(infer_skin)
    assert lines[0] == "input_dir: several pictures for one mask; keep one of each:"
    assert len(lines) == 2


def test_the_command_line_of_pictures(infer_skin: Infer, bundle: Path, tmp_path: Path) -> None:
    """`masks #2` stays `masks #2`, a bad picture is named last, and the exit code says so."""
    Image.fromarray(spot()).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"")
    command = [sys.executable, "-m", "monai.bundle", "run", "--bundle_root", str(bundle)]
    command += [
        "--config_file",
        str(bundle / "configs" / "inference.yaml"),
        "--network_def",
        "$torch.nn.Conv2d(3, 1, 1)",
    ]
    command += ["--input_dir", "in", "--output_dir", "masks #2", "--checkpoint", "dark.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    *_, first, last = done.stderr.splitlines()
    assert first == "1 of 2 pictures have no mask:"
    assert last.startswith(f"{tmp_path / 'in' / 'b.png'} cannot be used: ")
    assert names(tmp_path) == ["dark.pt", "in", "masks #2"]
    assert names(tmp_path / "masks #2") == ["a.png"]


def test_the_command_line_of_volumes(
    infer_skull: Infer, skull_bundle: Path, tmp_path: Path, as_command: Callable[..., None], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "in" / "head.nii", bright_box())
    as_command("--input_dir", "in", "--output_dir", "007", "--checkpoint=bright.pt")
    infer_skull(input_dir="in", output_dir=7, checkpoint="bright.pt", **coarse(skull_bundle))
    assert names(tmp_path / "007") == ["head_brainmask.nii"]
    as_command()
    with pytest.raises(RuntimeError) as caught:
        infer_skull(output_dir=7)
    assert "output_dir: expected text, got 7, which is int" in str(caught.value.__cause__)


def test_the_command_line_of_training(
    run_bundle: Callable[..., ConfigWorkflow], tmp_path: Path, as_command: Callable[..., None], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    as_command("--output_dir", "run#1")
    run_bundle("train", output_dir="run", epochs=1)
    assert names(tmp_path) == ["run#1"]
    assert (tmp_path / "run#1" / "models" / "best.pt").is_file()
    run_bundle("train", "evaluate", output_dir="run")
    assert (tmp_path / "run#1" / "evaluation" / "cases.csv").is_file()
    assert names(tmp_path) == ["run#1"]
