"""inference.yaml of the skull-stripping bundles: heads of any geometry in, masks of the same geometry out."""

from __future__ import annotations

import locale
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

Infer = Callable[..., None]
TILT = nibabel.eulerangles.euler2mat(0.2, -0.15, 0.3)
GEOMETRIES = {  # directions of the axes, and size of the voxels in mm
    "ras": (np.eye(3), (5.0, 5.0, 5.0)),
    "lps": (np.diag([-1.0, -1.0, 1.0]), (5.0, 5.0, 5.0)),
    "pir": (np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), (4.0, 5.0, 6.0)),
    "oblique": (TILT, (5.0, 4.0, 5.0)),
}
THICK = {f"thick_{name}": (GEOMETRIES[name][0], (0.9, 0.9, 3.0)) for name in ("ras", "lps", "oblique")}


@pytest.fixture
def infer(infer_skull: Infer) -> Infer:
    return infer_skull


def head(geometry: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A volume with one bright, lopsided ellipsoid; where that is; and the affine."""
    direction, spacing = (GEOMETRIES | THICK)[geometry]
    shape = (41, 36, 30)
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = (-71.5, 33.25, -12.0)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    inside = (((grid - (16, 20, 12)) / (11, 9, 8)) ** 2).sum(-1) < 1
    image = np.where(inside, 900, 60) + np.random.default_rng(0).integers(0, 40, shape)
    image[inside & (np.abs(grid - (16, 20, 12)).sum(-1) < 3)] = 60  # a hole, which is to be filled
    image[36:39, 30:33, 25:28] = 900  # bright as well, but not the largest piece
    return image.astype(np.int16), inside, affine


def write(path: Path, image: np.ndarray, affine: np.ndarray) -> None:
    if path.name.endswith((".nii", ".nii.gz")):
        volume = nibabel.Nifti1Image(image, affine)
        volume.set_qform(affine, code=1)
        volume.set_sform(affine, code=2)
        volume.header.set_xyzt_units("mm", "sec")
        volume.header["descrip"] = b"a head"
        nibabel.save(volume, path)
    else:
        sitk.WriteImage(itk_image(image, affine), str(path))


def itk_image(image: np.ndarray, affine: np.ndarray) -> sitk.Image:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    volume = sitk.GetImageFromArray(image.T)
    volume.SetSpacing(spacing.tolist())
    volume.SetDirection((lps[:3, :3] / spacing).flatten().tolist())
    volume.SetOrigin(lps[:3, 3].tolist())
    return volume


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    return 2 * (mask & truth).sum() / (mask.sum() + truth.sum())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(("geometries", "mm"), [(GEOMETRIES, 4), (THICK, 0.8)], ids=["any", "thick"])
def test_the_mask_has_the_geometry_of_its_volume(
    infer: Infer, skull_bundle: Path, tmp_path: Path, suffix: str, geometries: dict[str, Any], mm: float
) -> None:
    truth = {}
    for name in geometries:
        image, truth[name], affine = head(name)
        write(tmp_path / "in" / f"{name}{suffix}", image, affine)
    infer(spacing=[mm, mm, -1 if skull_bundle.name.endswith("2d") else mm])
    assert len(list((tmp_path / "out").iterdir())) == len(geometries)
    for name, inside in truth.items():
        values = mask_like(tmp_path / "in" / f"{name}{suffix}", tmp_path / "out" / f"{name}_brainmask{suffix}")
        assert values.shape == inside.shape
        assert set(np.unique(values)) == {0, 1}
        assert overlap(values == 1, inside) > 0.93, name


def mask_like(source: Path, target: Path) -> np.ndarray:
    """Read a mask, whose header must have the geometry of the volume it belongs to."""
    if source.name.endswith((".nii", ".nii.gz")):
        volume, mask = nibabel.load(source), nibabel.load(target)
        for field in ("dim", "pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
            np.testing.assert_array_equal(mask.header[field], volume.header[field], field)
        for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "descrip"):
            np.testing.assert_array_equal(mask.header[field], volume.header[field], field)
        np.testing.assert_array_equal(mask.affine, volume.affine)
        assert nibabel.aff2axcodes(mask.affine) == nibabel.aff2axcodes(volume.affine)
        assert mask.get_data_dtype() == np.uint8
        return np.asarray(mask.dataobj)
    image, found = sitk.ReadImage(str(source)), sitk.ReadImage(str(target))
    assert found.GetSize() == image.GetSize()
    for read in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        assert read(found) == pytest.approx(read(image), abs=1e-12)
    assert found.GetPixelID() == sitk.sitkUInt8
    return sitk.GetArrayFromImage(found).T


def test_slices_of_any_size(infer: Infer, skull_bundle: Path, tmp_path: Path) -> None:
    """Heads smaller and larger than what the network sees at once."""
    if not skull_bundle.name.endswith("2d"):
        pytest.skip("patches are smaller than heads in the other tests")
    image, inside, affine = head("ras")
    write(tmp_path / "in" / "head.nii.gz", image, affine)
    infer(slice_size=[32, 32])
    assert overlap(nibabel.load(tmp_path / "out" / "head_brainmask.nii.gz").get_fdata() == 1, inside) > 0.93


def test_one_volume_and_a_dicom_series(infer: Infer, skull_bundle: Path, tmp_path: Path) -> None:
    before = locale.setlocale(locale.LC_ALL)
    image, inside, affine = head("thick_oblique")
    volume = itk_image(image, affine)
    folder = tmp_path / "in" / "series"
    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(volume.GetDepth()):
        piece = volume[:, :, index]
        position = volume.TransformIndexToPhysicalPoint((0, 0, index))
        for key, value in {
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|0032": "\\".join(map(str, position)),
            "0020|0037": "\\".join(map(str, [*volume.GetDirection()[::3], *volume.GetDirection()[1::3]])),
            "0020|0013": str(index),
            "0008|0060": "MR",
            "0018|0050": str(volume.GetSpacing()[2]),
        }.items():
            piece.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{index:03d}.dcm"))
        writer.Execute(piece)
    locale.setlocale(locale.LC_ALL, before)  # writing positions leaves "C" behind, which decides how text is read
    infer(spacing=[0.8, 0.8, -1] if skull_bundle.name.endswith("2d") else [0.8] * 3)
    assert locale.setlocale(locale.LC_ALL) == before, "reading leaves the locale as it is"
    mask = nibabel.load(tmp_path / "out" / "series_brainmask.nii.gz")
    assert mask.shape == inside.shape
    np.testing.assert_allclose(mask.affine, affine, atol=1e-4)
    assert overlap(mask.get_fdata() == 1, inside) > 0.93

    write(tmp_path / "in" / "head.nii.gz", image, affine)
    infer(input_dir=str(tmp_path / "in" / "head.nii.gz"), output_dir=str(tmp_path / "one"))
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["head_brainmask.nii.gz"]


def test_broken_volumes_do_not_stop_the_others(
    infer: Infer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    image, _, affine = head("ras")
    for name in ("a", "m", "z"):
        write(folder / f"{name}_T1w.nii.gz", image, affine)
    (folder / "cut.nii.gz").write_bytes((folder / "a_T1w.nii.gz").read_bytes()[:6000])
    (folder / "text.nrrd").write_text("no volume")
    write(folder / "series.nii", np.stack([image, image], axis=-1), affine)
    write(folder / "nan.nii", np.where(image > 500, np.nan, image).astype(np.float32), affine)
    nibabel.save(nibabel.Nifti1Image(image, None), folder / "lost.nii")
    write(folder / "a_T1w_brainmask.nii.gz", (image > 500).astype(np.int16), affine)
    with pytest.raises(ValueError, match="have no mask") as caught:
        infer()
    first, *problems = str(caught.value).splitlines()
    assert first == "5 of 8 volumes have no mask:"
    expected = {
        "cut.nii.gz": "Compressed file ended",
        "lost.nii": "it gives no orientation",
        "nan.nii": "voxels that are not finite",
        "series.nii": "it has 4 dimensions (41 x 36 x 30 x 2); expected one volume of 3 dimensions",
        "text.nrrd": "",
    }
    for problem, (name, reason) in zip(problems, expected.items(), strict=True):
        assert problem.startswith(f"{folder / name} cannot be used: ")
        assert reason in problem
    masks = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert masks == [f"{name}_T1w_brainmask.nii.gz" for name in ("a", "m", "z")]
    assert f"3 masks written to {tmp_path / 'out'}" in capsys.readouterr().out


def test_no_volume_can_be_used(infer: Infer, tmp_path: Path) -> None:
    (tmp_path / "in" / "text.nrrd").write_text("no volume")
    with pytest.raises(ValueError, match="1 of 1 volumes have no mask"):
        infer()


def test_input_errors(infer: Infer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"input_dir: there is no volume \(\.nii\.gz, .* and DICOM series\) in .*in$"):
        infer()
    with pytest.raises(ValueError, match=r"input_dir: .*nowhere"):
        infer(input_dir=str(tmp_path / "nowhere"))
    image, _, affine = head("ras")
    write(tmp_path / "in" / "head.nii", image, affine)
    with pytest.raises(ValueError, match=r"checkpoint: there is no file .*absent\.pt"):
        infer(checkpoint=str(tmp_path / "absent.pt"))
    with pytest.raises(ValueError, match="output_dir: name another folder"):
        infer(output_dir=str(tmp_path / "in"))
    assert not (tmp_path / "out").exists()


MEASURED = """
import resource, sys
import nibabel, numpy as np, torch
from monai.bundle import ConfigParser, ConfigWorkflow

bundle, folder = sys.argv[1:]
sys.path.insert(0, bundle)
config = f"{bundle}/configs/inference.yaml"
network = ConfigParser(ConfigParser.load_config_file(config)).get_parsed_content("network_def")
optimizer = torch.optim.Adam(network.parameters())
image = torch.rand(32, 1, 128, 128) if bundle.endswith("2d") else torch.rand(1, 1, 96, 96, 96)
torch.nn.functional.binary_cross_entropy_with_logits(network(image), image.round()).backward()
optimizer.step()
torch.save(network.state_dict(), f"{folder}/trained.pt")

image = np.random.default_rng(0).integers(0, 900, (256, 256, 192), dtype=np.int16)
nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), f"{folder}/in/head.nii")
options = {"bundle_root": bundle, "input_dir": f"{folder}/in", "output_dir": f"{folder}/out"}
workflow = ConfigWorkflow(
    config, workflow_type="infer", logging_file=False, checkpoint=f"{folder}/trained.pt", **options
)
workflow.initialize()
workflow.run()
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)
"""


@pytest.mark.slow
def test_memory(skull_bundle: Path, tmp_path: Path) -> None:
    """A training step of 96^3 voxels (32 slices in 2D) and a head of 256 x 256 x 192 take less than 6 GB."""
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-c", MEASURED, str(skull_bundle), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.rpartition("peak")[2]) < 6
    assert nibabel.load(tmp_path / "out" / "head_brainmask.nii").shape == (256, 256, 192)
