"""The configs of the skin-lesion bundle: MONAI's checks, overlays, and what is wrong is said before training."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out

from monai_lossext.losses import catalogue

from .conftest import run_to_the_end
from .running import cause, flat

Run = Callable[..., ConfigWorkflow]
CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "skin_lesion_segmentation" / "configs"
OVERLAYS = sorted(file.stem for file in (CONFIGS / "loss").iterdir())
TARGETS = {"monai_dice": "monai.losses.DiceLoss", "monai_dice_ce": "monai.losses.DiceCELoss"}
TARGETS |= {entry.overlay: entry.target for entry in catalogue()}


def test_every_config_is_read(bundle: Path) -> None:
    files = sorted((bundle / "configs").rglob("*.yaml"))
    assert {file.name for file in files} >= {"train.yaml", "evaluate.yaml", "inference.yaml", "multi_gpu_train.yaml"}
    for file in files:
        assert ConfigParser.load_config_file(file)


def test_inference_needs_no_more_than_monai(bundle: Path) -> None:
    for name in ("inference.yaml", "protocol/paper_model.yaml"):
        assert "monai_lossext" not in (bundle / "configs" / name).read_text()


def test_every_loss_of_the_catalogue_has_an_overlay() -> None:
    assert set(OVERLAYS) == set(TARGETS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_epoch_under_each_loss(run_bundle: Run, overlay: str, tmp_path: Path) -> None:
    done = run_bundle("train", f"loss/{overlay}", output_dir=str(tmp_path))
    loss = done.parser.get_parsed_content("loss")
    used = [type(module).__name__ for module in loss.modules()]  # with those that a compound loss is made of
    assert TARGETS[overlay].rpartition(".")[2] in used
    header, row = (tmp_path / "history.csv").read_text().splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert math.isfinite(float(values["train_loss"]))
    assert 0 <= float(values["val_jaccard"]) <= float(values["val_dice"]) <= 1
    assert {file.name for file in (tmp_path / "models").iterdir()} == {"best.pt", "last.pt"}
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1
    assert "epoch 1/1: train_loss" in (tmp_path / "train.log").read_text()


def test_paper_protocol(workflow: Run, tmp_path: Path) -> None:
    made = workflow("train", "loss/mcc", "protocol/paper", output_dir=str(tmp_path), batch_size=40)
    made.initialize()
    part = made.parser.get_parsed_content
    assert part("loss").batch is True
    optimizer = part("optimizer")
    assert isinstance(optimizer, torch.optim.SGD)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (1e-3, 0.9)
    optimizer.step()
    part("lr_scheduler").step()
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert (part("augmentation").flip_prob, part("augmentation").zoom) == (0.5, 0)
    assert part("augmentation").max_angle == pytest.approx(torch.pi / 4)
    widths = [module.out_channels for module in part("network").modules() if isinstance(module, torch.nn.Conv2d)]
    assert widths[:10] == [64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
    resized = [step for step in part("train::preprocessing").transforms if type(step).__name__ == "Resized"]
    assert [step.mode for step in resized] == [("nearest",), ("nearest",)]


def test_pictures_are_prepared_once(workflow: Run, tmp_path: Path) -> None:
    made = workflow("train", output_dir=str(tmp_path))
    made.initialize()
    dataset = made.parser.get_parsed_content("train::dataset")
    first, again = dataset[3], dataset[3]
    assert type(first["image"]) is torch.Tensor
    assert first["image"].shape == (3, 128, 128)
    assert first["label"].shape == (1, 128, 128)
    assert first["image"].dtype == first["label"].dtype == torch.float32
    assert 0 <= first["image"].min() < first["image"].max() <= 1
    assert first["label"].unique().tolist() == [0, 1]
    assert again["image"].data_ptr() == first["image"].data_ptr(), "read from memory, not prepared again"


def test_same_seed_same_weights_for_every_loss(workflow: Run, tmp_path: Path) -> None:
    states = []
    for overlay, seed in (("mcc", 0), ("monai_dice", 0), ("mcc", 1)):
        made = workflow("train", f"loss/{overlay}", output_dir=str(tmp_path), seed=seed)
        made.initialize()
        states.append(torch.cat([value.flatten() for value in made.parser.get_parsed_content("network").parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_run_starts_from_given_weights(workflow: Run, trained: Path, tmp_path: Path) -> None:
    best = trained / "models" / "best.pt"
    made = workflow("train", "loss/mcc", output_dir=str(tmp_path), initial_weights=str(best))
    made.initialize()
    network = made.parser.get_parsed_content("network").state_dict()
    assert flat(dict(network)) == flat(dict(torch.load(best, weights_only=True)))
    assert not made.parser.get_parsed_content("optimizer").state
    wrong = workflow("train", output_dir=str(tmp_path), initial_weights=str(trained / "history.csv"))
    with pytest.raises(RuntimeError) as error:
        wrong.initialize()
    assert "initial_weights: " in cause(error.value)


def test_network_can_be_changed_in_one_place(workflow: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("network_def: {_target_: UNet, spatial_dims: 2, in_channels: 3, out_channels: 1, "
                     "channels: [4, 8], strides: [2]}\nimage_size: [64, 96]\n")  # fmt: skip
    made = workflow("train", str(other), output_dir=str(tmp_path / "run"))
    made.initialize()
    part = made.parser.get_parsed_content
    assert sum(value.numel() for value in part("network").parameters()) < 2000
    item = part("train::dataset")[0]
    assert (item["image"].shape, item["label"].shape) == ((3, 64, 96), (1, 64, 96))


# MONAI's own checks


@pytest.mark.filterwarnings("ignore:No hash value provided")  # the schema is a file of the bundle
def test_metadata_fits_the_specification(bundle: Path) -> None:
    meta, schema = bundle / "configs" / "metadata.json", bundle / "docs" / "metadata_schema.json"
    verify_metadata(meta_file=str(meta), filepath=str(schema))
    assert json.loads(meta.read_text())["schema"].endswith("/meta_schema_20240725.json")


@pytest.mark.filterwarnings("ignore:No hash value provided")
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"authors": None}, "'authors' is a required property"),
        ({"monai_version": 1.6}, "1.6 is not of type 'string'"),
        ({"network_data_format": {"inputs": {}, "outputs": {}}}, "non-empty"),
    ],
)
def test_the_schema_can_refuse(bundle: Path, tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    meta = json.loads((bundle / "configs" / "metadata.json").read_text()) | change
    (tmp_path / "metadata.json").write_text(
        json.dumps({key: value for key, value in meta.items() if value is not None})
    )
    with pytest.raises(ValueError, match=re.escape(complaint)):
        verify_metadata(
            meta_file=str(tmp_path / "metadata.json"), filepath=str(bundle / "docs" / "metadata_schema.json")
        )


@pytest.mark.parametrize("name", ["train", "inference"])
def test_network_fits_metadata(bundle: Path, name: str) -> None:
    verify_net_in_out(
        "network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / f"{name}.yaml"),
        device="cpu",
        bundle_root=str(bundle),
    )


def test_properties(bundle: Path, workflow: Run, tmp_path: Path) -> None:
    train = workflow("train", output_dir=str(tmp_path))
    train.initialize()
    assert train.check_properties() == []
    assert train.max_epochs == 1
    inference = ConfigWorkflow(str(bundle / "configs" / "inference.yaml"), workflow_type="infer", logging_file=False)
    inference.initialize()
    assert inference.check_properties() == []


@pytest.mark.filterwarnings("ignore:.*jit.* is deprecated:DeprecationWarning")
def test_torchscript_export(bundle: Path, trained: Path, tmp_path: Path) -> None:
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "models" / "best.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.yaml"),
    )
    picture = torch.rand(2, 3, 128, 128)
    exported = torch.jit.load(str(tmp_path / "model.ts")).eval()
    torch.testing.assert_close(exported(picture), network(bundle, trained)(picture))


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # of torch.onnx
def test_onnx_export(bundle: Path, trained: Path, tmp_path: Path) -> None:
    onnx_export(
        "network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(trained / "models" / "best.pt"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.yaml"),
    )
    picture = torch.rand(1, 3, 128, 128)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (logits,) = session.run(None, {session.get_inputs()[0].name: picture.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), network(bundle, trained)(picture), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def network(bundle: Path, run: Path) -> torch.nn.Module:
    parser = ConfigParser(ConfigParser.load_config_file(bundle / "configs" / "inference.yaml"))
    made = parser.get_parsed_content("network_def").eval().requires_grad_(False)
    made.load_state_dict(torch.load(run / "models" / "best.pt", weights_only=True))
    return made


# What is wrong is said before training starts


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"loss::smoth": 1e-5}, "unexpected keyword argument 'smoth'"),
        ({"loss::_target_": "monai_lossext.losses.SoftDise"}, "monai_lossext.losses.SoftDise"),
        ({"augmentation::zoom": 2}, "ValueError: zoom must be between 0 and 0.99, got 2"),
        ({"resume": "yes"}, "ValueError: resume: expected true or false, got 'yes'"),
        ({"dataset_dir": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"output_dir": "/dev/null/run"}, "ValueError: output_dir: cannot write to /dev/null/run: Not a directory"),
        ({"loss": "mcc"}, "ValueError: loss: name its file after train.yaml"),
        ({"loss": "tverski"}, "did you mean soft_tversky.yaml?"),
    ],
)
def test_bad_arguments(workflow: Run, tmp_path: Path, overrides: dict[str, Any], complaint: str) -> None:
    made = workflow("train", **({"output_dir": str(tmp_path / "run")} | overrides))
    with pytest.raises((RuntimeError, ModuleNotFoundError, ValueError)) as caught:
        run_to_the_end(made)
    assert complaint in cause(caught.value)
    assert not (tmp_path / "run" / "models").exists()


def test_bad_files_are_found_before_training(
    workflow: Run, phantoms: dict[str, Any], tmp_path: Path, run_bundle: Run
) -> None:
    data = tmp_path / "data"
    (source,) = (Path(phantoms["cache_dir"]) / "phantoms").iterdir()
    shutil.copytree(source, data)
    pictures = sorted((data / "ISIC-2017_Training_Data").glob("*.jpg"))
    pictures[0].write_bytes(pictures[0].read_bytes()[:500])
    made = workflow("train", dataset_dir=str(data), output_dir=str(tmp_path / "run"))
    with pytest.raises(RuntimeError) as caught:
        run_to_the_end(made)
    assert str(pictures[0]) in cause(caught.value)
    assert len(cause(caught.value).splitlines()) <= 4

    done = run_bundle("train", dataset_dir=str(data), output_dir=str(tmp_path / "run"), skip_bad="true")
    assert len(done.parser.get_parsed_content("train::dataset")) == len(pictures) - 1


def test_a_section_without_cases(workflow: Run, trained: Path, tmp_path: Path) -> None:
    made = workflow("train", "evaluate", output_dir=str(trained), section="test")
    with pytest.raises(RuntimeError) as caught:
        run_to_the_end(made)
    assert "no section 'test' with cases; it has training (12 cases)" in cause(caught.value)


def test_evaluation_without_a_checkpoint(workflow: Run, tmp_path: Path) -> None:
    made = workflow("train", "evaluate", output_dir=str(tmp_path))
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run_to_the_end(made)
    assert str(tmp_path / "models" / "best.pt") in cause(caught.value)


def test_on_the_command_line_the_cause_comes_last(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(bundle / "configs" / "train.yaml")]
    options = ["--bundle_root", str(bundle), "--output_dir", str(tmp_path), "--loss::smoth", "1"]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ.copy()
    )
    assert done.returncode == 1
    assert re.match(r"TypeError: .*unexpected keyword argument 'smoth'", done.stderr.splitlines()[-1])
