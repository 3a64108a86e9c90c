"""Options as MONAI's users type them: what works, and what is refused before any work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from monai.inferers import SlidingWindowInferer

Run = Callable[..., ConfigWorkflow]


def command(bundle: Path, config: str, *options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    arguments = ["--config_file", str(bundle / "configs" / config), "--bundle_root", str(bundle), *options]
    run = [sys.executable, "-m", "monai.bundle", "run", *arguments]
    return subprocess.run(run, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ.copy())


@pytest.mark.parametrize(
    ("config", "options", "last"),
    [
        ("train.yaml", ["--batchsize", "12"], "--batchsize is no option; did you mean --batch_size?"),
        ("train.yaml", ["--train#trainr", "1"], "--train#trainr is no option; did you mean --train::trainer?"),
        ("inference.yaml", ["--checkpiont=best.pt"], "--checkpiont is no option; did you mean --checkpoint?"),
    ],
)
def test_a_misspelt_option_is_refused(bundle: Path, tmp_path: Path, config: str, options: list[str], last: str) -> None:
    done = command(bundle, config, "--output_dir", str(tmp_path / "out"), *options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == last
    assert not (tmp_path / "out").exists()


def test_a_loss_by_its_name(bundle: Path, tmp_path: Path) -> None:
    done = command(bundle, "train.yaml", "--output_dir", str(tmp_path / "out"), "--loss", "mcc", cwd=tmp_path)
    assert done.returncode == 1
    assert "loss: name its file after train.yaml: --config_file" in done.stderr.splitlines()[-1]
    assert str(bundle / "configs" / "loss" / "mcc.yaml") in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", ["dataset_dir", "input_dir"])
def test_both_names_of_the_input(infer_skin: Callable[..., None], bundle: Path, tmp_path: Path, name: str) -> None:
    """As typed, which MONAI changes; the default folder of the bundle is never taken for it."""
    from PIL import Image

    (tmp_path / "in #1").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "in #1" / "a.png")
    options = ["--network_def", "$torch.nn.Conv2d(3, 1, 1)", "--checkpoint", "dark.pt", "--output_dir", "out"]
    done = command(bundle, "inference.yaml", f"--{name}", "in #1", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_two_names_for_two_folders(bundle: Path, tmp_path: Path) -> None:
    done = command(bundle, "inference.yaml", "--input_dir", "a", "--dataset_dir", "b", cwd=tmp_path)
    assert done.returncode == 1
    assert "dataset_dir: --input_dir is another name for it; give one of them" in done.stderr


@pytest.mark.parametrize("config", ["train", "inference"])
@pytest.mark.lesions_too
def test_the_device_as_text(skull_bundle: Path, skull_workflow: Run, tmp_path: Path, config: str) -> None:
    made = skull_workflow(config, output_dir=str(tmp_path), device="cpu")
    made.initialize()
    engine = made.parser.get_parsed_content("train::trainer" if config == "train" else "evaluator")
    assert engine.amp is False


def test_network_transforms_and_inferer_are_changed_as_in_the_zoo(
    skull_bundle: Path, skull_workflow: Run, tmp_path: Path
) -> None:
    flat = skull_bundle.name.endswith("2d")
    values: dict[str, Any] = {
        "network_def#dropout": 0.25,
        "train#deterministic_transforms#3#upper": 90,
        "train#crop_transforms#2#num_samples": 3,
        "validate#inferer#roi_size": [24, 24] if flat else [24, 24, 24],
    }
    made = skull_workflow("train", output_dir=str(tmp_path), augmentation=[], **values)
    made.initialize()
    part = made.parser.get_parsed_content
    assert 0.25 in [module.p for module in part("network").modules() if isinstance(module, torch.nn.Dropout)]
    assert len(part("train::dataset")[0]) == 3
    for section in ("train", "validate"):
        assert part(f"{section}::preprocessing").transforms[3].scaler.upper == 90
    inferer = part("validate::inferer")
    assert isinstance(inferer, SlidingWindowInferer)
    assert inferer.roi_size[:2] == [24, 24]
    assert part("preparation")["percentiles"] == [1, 90], "what is stored with the weights is what was done"


def test_a_picture_preparation_is_changed_as_in_the_zoo(workflow: Run, tmp_path: Path) -> None:
    values = {"network_def#dropout": 0.2, "train#preprocessing#transforms#1#spatial_size": [64, 96]}
    values["train#preprocessing#transforms#5#spatial_size"] = [64, 96]
    made = workflow("train", output_dir=str(tmp_path), **values)
    made.initialize()
    assert made.parser.get_parsed_content("train::dataset")[0]["image"].shape == (3, 64, 96)
    assert made.parser.get_parsed_content("preparation")["image_size"] == [64, 96]


def test_the_protocol_for_few_pictures_leaves_the_loss_alone(bundles_dir: Path) -> None:
    """It is read after the loss, in studies too."""
    file = bundles_dir / "skin_lesion_segmentation" / "configs" / "protocol" / "few_pictures.yaml"
    assert set(yaml.safe_load(file.read_text(encoding="utf-8"))) == {"batch_size"}


def test_few_steps_are_warned_about(run_bundle: Run, tmp_path: Path) -> None:
    run_bundle("train", output_dir=str(tmp_path), batch_size=12)
    log = (tmp_path / "train.log").read_text()
    assert "INFO 1 steps an epoch, 1 epochs" in log
    assert "WARNING 1 steps an epoch are few: take a smaller --batch_size" in log


@pytest.mark.lesions_too
def test_weights_of_another_preparation_are_refused(
    skull_bundle: Path, skull_values: dict[str, Any], trained_skull: Path, tmp_path: Path
) -> None:
    """2 mm on a network of 6 mm; with the values of training the same weights are used."""
    names = {"network_def", "spacing", "slice_size", "patch_size"} & skull_values.keys()
    values: dict[str, Any] = {name: skull_values[name] for name in names}
    values |= {
        "bundle_root": str(skull_bundle),
        "input_dir": str(next(Path(skull_values["dataset_dir"]).rglob("*_T1w.nii.gz"))),
    }
    values |= {"checkpoint": str(trained_skull / "models" / "best.pt"), "output_dir": str(tmp_path / "out")}
    for spacing in ([2, 2, values["spacing"][2]], values["spacing"]):
        config = str(skull_bundle / "configs" / "inference.yaml")
        made = ConfigWorkflow(config, workflow_type="infer", logging_file=False, **values | {"spacing": spacing})
        made.initialize()
        if spacing == values["spacing"]:
            made.run()
            break
        with pytest.raises(RuntimeError) as caught:
            made.run()
        assert "was trained otherwise: spacing was [" in str(caught.value.__cause__)
        assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.lesions_too
def test_evaluation_of_another_preparation_is_refused(run_skull: Run, trained_skull: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        run_skull("train", "evaluate", output_dir=str(trained_skull), spacing=[5, 5, 5])
    assert "was trained otherwise: spacing was" in str(caught.value.__cause__)


def test_the_inner_border_has_no_slope(skull_bundle: Path, skull_workflow: Run, tmp_path: Path) -> None:
    """Maps are in mm: foreground that touches the border has no weight, whatever the size of a voxel."""
    if skull_bundle.name.endswith("2d"):
        pytest.skip("the map of a slice is that of its volume, in which the next slice may be nearer than a pixel")
    made = skull_workflow("train", "loss/boundary_distance", output_dir=str(tmp_path), augmentation=[])
    made.initialize()
    part = made.parser.get_parsed_content
    batch = next(iter(part("train::dataloader")))
    _, target = part("train::prepare_batch")(batch)
    logits = torch.zeros_like(target["label"], requires_grad=True)
    part("loss").terms["boundary"](logits, target).backward()
    inside = -target["distance_map"]
    border = (target["label"] > 0) & (inside < 6.5)  # of voxels of 6 mm
    assert border.any()
    assert logits.grad[border].abs().max() < 1e-9 < logits.grad[inside > 7].abs().min()
    assert logits.grad[inside > 0].max() < 1e-9, "nothing inside is pushed out"
