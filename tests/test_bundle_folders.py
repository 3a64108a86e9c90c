"""Bundles by name, copies of them, and their configs in JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from monai_lossext import bundle_folders
from monai_lossext.bundle_folders import (
    bundle_names,
    check_json,
    copy_bundle,
    find_bundle,
    pack_weights,
    write_json,
)
from monai_lossext.cli import app
from monai_lossext.predict import OUTLINE, write_overlays
from monai_lossext.scripts.weights import check_preparation, preparation_of, read_weights, with_preparation

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["skin_lesion_segmentation", "skull_stripping_2d", "skull_stripping_3d", "white_matter_lesion_3d"]


def test_bundles_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle_names() == NAMES
    assert find_bundle("skull_stripping_2d") == ROOT / "bundles" / "skull_stripping_2d"
    (tmp_path / "skull_stripping_2d").mkdir()
    assert find_bundle("skull_stripping_2d") == tmp_path / "skull_stripping_2d", "a folder that is there comes first"
    with pytest.raises(ValueError, match="no bundle of that name; did you mean skull_stripping_3d"):
        find_bundle("skull_striping_3d")


def test_an_installed_package_has_them_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundles" / "one" / "configs").mkdir(parents=True)
    (tmp_path / "bundles" / "one" / "configs" / "metadata.json").touch()
    monkeypatch.setattr(bundle_folders, "__file__", str(tmp_path / "bundle_folders.py"))
    assert bundle_names() == ["one"]


def test_a_copy(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bundle", "copy", NAMES[0], str(tmp_path / "mine")])
    assert done.exit_code == 0, done.output
    files = {path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert {Path("configs/train.yaml"), Path("configs/loss/mcc.yaml"), Path("scripts/files.py")} <= files
    assert not any("__pycache__" in path.parts for path in files)
    with pytest.raises(ValueError, match="is there already"):
        copy_bundle(NAMES[0], tmp_path / "mine")


@pytest.mark.parametrize("name", NAMES)
def test_json_says_what_yaml_says(name: str) -> None:
    """`make configs` writes the files."""
    folder = ROOT / "bundles" / name
    assert {path.name for path in (folder / "configs").glob("*.json")} >= {"train.json", "evaluate.json"}
    check_json(folder)


def test_json_that_is_left_behind_is_refused(tmp_path: Path) -> None:
    copied = copy_bundle(NAMES[0], tmp_path / "mine")
    config = copied / "configs" / "train.yaml"
    config.write_text(config.read_text().replace("batch_size: 40", "batch_size: 6"))
    with pytest.raises(ValueError, match=r"train\.json is not what train\.yaml says: write it anew with"):
        check_json(copied)
    write_json(copied)
    check_json(copied)
    assert json.loads((copied / "configs" / "train.json").read_text())["batch_size"] == 6


def test_packed_weights_are_small_and_keep_the_preparation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = torch.nn.Conv2d(64, 64, 3)
    state = with_preparation(network.state_dict(), {"spacing": [1, 2]})
    torch.save({"model": state, "optimizer": {}}, tmp_path / "last.pt")
    target = tmp_path / "bundle" / "models" / "model.pt"
    done = CliRunner().invoke(app, ["bundle", "pack", str(tmp_path / "last.pt"), str(target)])
    assert done.exit_code == 0, done.output
    assert sha256(target.read_bytes()).hexdigest() in done.output.replace("\n", "")
    assert target.stat().st_size < 0.6 * (tmp_path / "last.pt").stat().st_size
    assert [path.name for path in target.parent.iterdir()] == ["model.pt"]
    again = pack_weights(tmp_path / "last.pt", tmp_path / "again.pt")
    assert again.read_bytes() == target.read_bytes()
    found = read_weights(target)
    assert preparation_of(found) == {"spacing": [1, 2]}
    before = network.weight.detach().clone()
    network.load_state_dict(found)
    torch.testing.assert_close(network.weight.detach(), before, atol=1e-4, rtol=1e-3)
    assert torch.equal(found["bias"], state["bias"]), "vectors keep their precision"
    torch.save({**state, "again.weight": state["weight"]}, tmp_path / "twice.pt")
    assert pack_weights(tmp_path / "twice.pt", tmp_path / "once.pt").stat().st_size < 1.05 * target.stat().st_size
    noted = pack_weights(tmp_path / "last.pt", tmp_path / "noted.pt", "of phantoms alone")
    assert preparation_of(read_weights(noted)) == {"spacing": [1, 2]}
    check_preparation(noted, {"spacing": [1, 2]})
    assert f"{noted}: of phantoms alone" in caplog.text
    caplog.clear()
    check_preparation(target, {"spacing": [1, 2]})
    assert not caplog.text
    state["weight"][0] = 1e6
    torch.save(state, tmp_path / "large.pt")
    with pytest.raises(ValueError, match="weight has values that half precision cannot hold"):
        pack_weights(tmp_path / "large.pt", target)


@pytest.mark.parametrize("command", [["bundle", "list"], ["predict", "--help"]])
def test_the_extra_for_bundles_is_enough(command: list[str]) -> None:
    """Nothing that only `compare` installs is imported."""
    block = "import sys; sys.modules.update(dict.fromkeys(('pandas', 'matplotlib', 'sklearn', 'jinja2', 'filelock')))"
    run = f"{block}; sys.argv = ['monai_lossext', *{command!r}]; from monai_lossext.cli import app; app()"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_predict_without_weights(tmp_path: Path) -> None:
    copied = copy_bundle(NAMES[0], tmp_path / "mine")
    (tmp_path / "in").mkdir()
    for file in (copied / "models").glob("*"):
        file.unlink()
    done = CliRunner().invoke(app, ["predict", str(copied), str(tmp_path / "in"), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "the bundle mine holds no weights yet" in done.output
    assert not (tmp_path / "out").exists()


def test_predict_for_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["predict", "skin_lesions", str(tmp_path), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "did you mean skin_lesion_segmentation?" in done.output


def test_predict_writes_masks_and_drawings(tmp_path: Path) -> None:
    """A network that calls dark pixels lesion stands in for the bundle's; the command is that of MONAI."""
    (tmp_path / "in").mkdir()
    picture = np.full((60, 80, 3), 255, np.uint8)
    picture[20:40, 30:60] = 0
    Image.fromarray(picture).save(tmp_path / "in" / "spot.png")
    torch.save({"weight": torch.full((1, 3, 1, 1), -10.0), "bias": torch.tensor([15.0])}, tmp_path / "dark.pt")
    (tmp_path / "dark.yaml").write_text("network_def: $torch.nn.Conv2d(3, 1, 1)\n")
    arguments = ["predict", "skin_lesion_segmentation", "in", "out", "--checkpoint", "dark.pt", "--config", "dark.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "monai_lossext", *arguments, "--overlays", "drawings", "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found, truth = np.asarray(Image.open(tmp_path / "out" / "spot.png")) > 0, picture[..., 0] == 0
    assert (found & truth).sum() / (found | truth).sum() > 0.9
    drawn = np.asarray(Image.open(tmp_path / "drawings" / "spot.png.png"))
    outlined = (drawn == OUTLINE).all(-1)
    assert 60 < outlined.sum() < 140
    assert not (outlined & ~found).any()
    assert (tmp_path / "drawings" / "contact_sheet.png").is_file()


def test_drawings_of_a_volume(tmp_path: Path) -> None:
    """Three slices side by side, each through the mask, whatever the order of the volume's axes."""
    for name in ("in", "masks"):
        (tmp_path / name).mkdir()
    values = np.random.default_rng(0).integers(0, 100, (20, 30, 24)).astype(np.int16)
    brain = np.zeros(values.shape, np.uint8)
    brain[6:14, 8:22, 5:19] = 1
    affine = np.array([[0, 0, 5.0, 0], [-5.0, 0, 0, 0], [0, 5.0, 0, 0], [0, 0, 0, 1]])
    for array, name in ((values, "in/head.nii.gz"), (brain, "masks/head_brainmask.nii.gz")):
        volume = nibabel.Nifti1Image(array, affine)
        volume.header.set_xyzt_units("mm")
        nibabel.save(volume, tmp_path / name)
    drawing, sheet = write_overlays(tmp_path / "in", tmp_path / "masks", tmp_path / "out")
    # right 24, front 20, head 30 voxels of 5 mm, two pixels a mm
    drawn = np.asarray(Image.open(drawing))
    assert drawn.shape == (300, 200 + 240 + 240, 3)
    yellow = (drawn == OUTLINE).all(-1)
    for start, stop in ((0, 200), (200, 440), (440, 680)):
        assert yellow[:, start:stop].sum() > 100
    assert sheet.name == "contact_sheet.png"
