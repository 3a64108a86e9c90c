"""The configs of the skull-stripping bundles: MONAI's checks, overlays, and what is wrong is said before training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out

from monai_lossext.losses import catalogue

from .conftest import LESIONS, run_to_the_end
from .running import cause, rows

Run = Callable[..., ConfigWorkflow]
BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
OVERLAYS = {entry.overlay: entry.name for entry in catalogue()} | {"cross_entropy": "WeightedCrossEntropyLoss"}
# The nine losses of Jadon's Table III, and three more.
EXPECTED = {
    *("cross_entropy", "weighted_cross_entropy", "focal_cross_entropy", "soft_dice", "soft_tversky"),
    *("focal_tversky", "sensitivity_specificity", "exponential_logarithmic", "log_cosh_dice"),
    *("mcc", "boundary_distance", "distance_map_cross_entropy"),
}


@pytest.mark.lesions_too
def test_every_config_is_read(skull_bundle: Path) -> None:
    files = sorted((skull_bundle / "configs").rglob("*.yaml"))
    assert {file.name for file in files} >= {"train.yaml", "evaluate.yaml", "inference.yaml", "multi_gpu_train.yaml"}
    for file in files:
        assert ConfigParser.load_config_file(file)


@pytest.mark.lesions_too
def test_inference_needs_no_more_than_monai(skull_bundle: Path) -> None:
    files = [skull_bundle / "configs" / "inference.yaml", *(skull_bundle / "configs").glob("protocol/*model.yaml")]
    for file in [*files, *(skull_bundle / "scripts").glob("*.py")]:
        assert "monai_lossext" not in file.read_text()


def test_what_both_bundles_carry_is_the_same() -> None:
    """Each bundle can be copied away alone, so both hold these files; they must not drift apart."""
    first, second = sorted(BUNDLES.glob("skull_stripping_*"))
    shared = ["LICENSE", "configs/logging.conf", "configs/evaluate.yaml", "configs/multi_gpu_train.yaml"]
    shared += ["docs/metadata_schema.json", "docs/data_license.txt"]
    for name in shared:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for name in set(shared) - {"configs/evaluate.yaml", "docs/data_license.txt"}:
        assert (first / name).read_bytes() == (BUNDLES / LESIONS / name).read_bytes(), name


def test_overlays(skull_bundle: Path) -> None:
    files = {file.stem: file for file in (skull_bundle / "configs" / "loss").iterdir()}
    assert set(files) == EXPECTED
    assert max(len(file.read_text().splitlines()) for file in files.values()) <= 8


@pytest.mark.parametrize("overlay", sorted(EXPECTED))
def test_one_epoch_under_each_loss(run_skull: Run, overlay: str, tmp_path: Path) -> None:
    done = run_skull("train", f"loss/{overlay}", output_dir=str(tmp_path))
    loss = done.parser.get_parsed_content("loss")
    assert OVERLAYS[overlay] in [type(module).__name__ for module in loss.modules()]
    (row,) = rows(tmp_path / "history.csv")
    assert math.isfinite(float(row["train_loss"]))
    assert 0 <= float(row["val_jaccard"]) <= float(row["val_dice"]) <= 1
    assert {file.name for file in (tmp_path / "models").iterdir()} == {"best.pt", "last.pt"}
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize(
    ("overlay", "key"), [("boundary_distance", "distance_map"), ("distance_map_cross_entropy", "penalty_map")]
)
def test_maps_are_those_of_the_whole_head(skull_workflow: Run, overlay: str, key: str, tmp_path: Path) -> None:
    """The loss gets the cached map: another map, another value."""
    made = skull_workflow("train", f"loss/{overlay}", output_dir=str(tmp_path), augmentation=[])
    made.initialize()
    part = made.parser.get_parsed_content
    batch = next(iter(part("train::dataloader")))
    _, target = part("train::prepare_batch")(batch)
    assert set(target) == {"label", key}
    assert target[key].shape == target["label"].shape
    loss, logits = part("loss"), torch.randn_like(target["label"], generator=torch.Generator().manual_seed(0))
    assert loss(logits, target) != loss(logits, target | {key: target[key] + 1})
    if key == "distance_map":
        inside = target["label"] > 0
        assert target[key][inside].max() < 0 < target[key].max()
        assert target[key].min() < -12, "millimetres from the border, not voxels of a crop"


def test_region_losses_of_slices_are_those_of_the_batch(bundles_dir: Path) -> None:
    """The Dice of a slice says nothing where the slice is empty; patches have a Dice each."""
    for overlay in EXPECTED - {"boundary_distance"}:
        losses = []
        for bundle in ("skull_stripping_2d", "skull_stripping_3d"):
            parser = ConfigParser(ConfigParser.load_config_file(bundles_dir / bundle / f"configs/loss/{overlay}.yaml"))
            losses.append(parser.get("loss"))
        slices, patches = losses
        assert slices == patches | ({} if "cross_entropy" in overlay else {"batch": True})


def test_boundary_schedule(run_skull: Run, tmp_path: Path) -> None:
    done = run_skull("train", "loss/boundary_distance", output_dir=str(tmp_path), epochs=3)
    assert done.parser.get_parsed_content("loss").weights == pytest.approx({"dice": 0.98, "boundary": 0.02})


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        ({"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 2}, [0.005, 0.0025, 0]),
        ({"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0, "threshold": 9}, [5e-3, 5e-4, 5e-5]),
    ],
)
def test_learning_rate_schedules(
    skull_bundle: Path, run_skull: Run, tmp_path: Path, scheduler: dict[str, Any], rates: list[float]
) -> None:
    """Only a plateau's scheduler is told the loss; others would take it for the number of the epoch."""
    if skull_bundle.name.endswith("3d") and "patience" in scheduler:
        pytest.skip("the rate of the bundle for 3D falls with the epochs")
    run_skull("train", output_dir=str(tmp_path), epochs=3, lr_scheduler=scheduler | {"optimizer": "@optimizer"})
    assert [float(row["lr"]) for row in rows(tmp_path / "history.csv")] == pytest.approx(rates)


def test_scans_are_repeated_among_phantoms(skull_workflow: Run, heads: Path, tmp_path: Path) -> None:
    """Leave-one-subject-out with phantoms: 9 heads to train with and to validate, and the left-out one for testing."""
    values = {"fold": 0, "extra_phantoms": 5, "cache_dir": str(tmp_path / "cache")}
    made = skull_workflow("train", output_dir=str(tmp_path), **values)
    made.initialize()
    datalist = made.parser.get_parsed_content("datalist")
    real = {section: [item for item in items if str(heads) in item["image"]] for section, items in datalist.items()}
    assert {section: len(items) for section, items in real.items()} == {"training": 7, "validation": 2, "testing": 1}
    assert len(datalist["training"]) == 7 + 4


def test_a_volume_is_prepared_once(skull_workflow: Run, tmp_path: Path) -> None:
    made = skull_workflow("train", output_dir=str(tmp_path), augmentation=[])
    made.initialize()
    dataset = made.parser.get_parsed_content("train::dataset")
    samples = dataset[0]
    assert {type(sample["image"]) for sample in samples} == {torch.Tensor}
    assert {sample["image"].shape for sample in samples} == {samples[0]["label"].shape}
    assert dataset.cache_num == len(dataset) == 6
    for sample in samples:
        assert sample["image"].dtype == sample["label"].dtype == torch.float32
        assert 0 <= sample["image"].min() <= sample["image"].max() <= 1
        assert set(sample["label"].unique().tolist()) <= {0, 1}


def convolutions(network: torch.nn.Module, kind: type[torch.nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kind)]


def test_network_of_the_survey(bundles_dir: Path) -> None:
    """Ten encoder convolutions of 3 x 3 in the default network and in that of the paper, transposed ones upwards."""
    configs = bundles_dir / "skull_stripping_2d" / "configs"
    for files in (["inference.yaml"], ["inference.yaml", "protocol/paper_model.yaml"]):
        parser = ConfigParser()
        parser.read_config([configs / name for name in files])
        network = parser.get_parsed_content("network_def")
        down = [
            layer
            for name, layer in network.named_modules()
            if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (3, 3)
            if "upcat" not in name and "residual" not in name and "model.2" not in name and "submodule.2" not in name
        ]
        assert len(down) == 10, [name for name, _ in network.named_modules()]
        assert len(convolutions(network, torch.nn.ConvTranspose2d)) == 4
    widths = [layer.out_channels for layer in down]
    assert widths == [32, 32, 64, 64, 128, 128, 256, 256, 512, 512]


def test_paper_protocol(bundles_dir: Path, heads: Path, tmp_path: Path) -> None:
    bundle = bundles_dir / "skull_stripping_2d"
    files = [str(bundle / "configs" / name) for name in ("train.yaml", "protocol/paper.yaml")]
    made = ConfigWorkflow(
        files, logging_file=False, bundle_root=str(bundle), dataset_dir=str(heads), output_dir=str(tmp_path)
    )
    made.initialize()
    part = made.parser.get_parsed_content
    assert (part("batch_size") * part("slices"), part("augmentation")) == (32, [])
    assert (part("optimizer").defaults["lr"], part("lr_scheduler").min_lrs) == (1e-3, [1e-8])
    assert part("slice_size") == [256, 256]


def test_short_protocol(skull_bundle: Path, heads: Path, tmp_path: Path) -> None:
    """Read before evaluate.yaml too, it trains and scores; the rate falls to 0 and a patch in 3D holds a whole head."""
    values = {"bundle_root": str(skull_bundle), "dataset_dir": str(heads), "output_dir": str(tmp_path), "epochs": 2}
    for last in ("protocol/short.yaml", "evaluate.yaml"):
        files = [
            str(skull_bundle / "configs" / name) for name in dict.fromkeys(["train.yaml", "protocol/short.yaml", last])
        ]
        done = ConfigWorkflow(files, logging_file=False, **values | {"val_interval": 1})
        done.initialize()
        done.run()
        done.finalize()
    part = done.parser.get_parsed_content
    assert [float(row["lr"]) for row in rows(tmp_path / "history.csv")] == pytest.approx([0.005, 0.0025])
    assert len(rows(tmp_path / "evaluation" / "cases.csv")) == 2
    if skull_bundle.name.endswith("2d"):
        assert part("batch_size") * part("slices") == 16
    else:
        sizes = zip(part("patch_size"), part("spacing"), strict=True)
        assert min(voxels * mm for voxels, mm in sizes) >= 190


@pytest.mark.filterwarnings("ignore:No hash value provided")  # the schema is a file of the bundle
@pytest.mark.lesions_too
def test_metadata_fits_the_specification(skull_bundle: Path) -> None:
    meta, schema = skull_bundle / "configs" / "metadata.json", skull_bundle / "docs" / "metadata_schema.json"
    verify_metadata(meta_file=str(meta), filepath=str(schema))


@pytest.mark.parametrize("name", ["train", "inference"])
@pytest.mark.lesions_too
def test_network_fits_metadata(skull_bundle: Path, name: str) -> None:
    configs = skull_bundle / "configs"
    verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / f"{name}.yaml"),
        device="cpu",
        bundle_root=str(skull_bundle),
    )


@pytest.mark.lesions_too
def test_properties(skull_bundle: Path, skull_workflow: Run, tmp_path: Path) -> None:
    train = skull_workflow("train", output_dir=str(tmp_path))
    train.initialize()
    assert train.check_properties() == []
    config = str(skull_bundle / "configs" / "inference.yaml")
    inference = ConfigWorkflow(config, workflow_type="infer", logging_file=False)
    inference.initialize()
    assert inference.check_properties() == []


@pytest.mark.filterwarnings("ignore:.*jit.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # of torch.onnx
@pytest.mark.lesions_too
def test_exports(skull_bundle: Path, tmp_path: Path) -> None:
    configs = skull_bundle / "configs"
    parser = ConfigParser(ConfigParser.load_config_file(configs / "inference.yaml"))
    network = parser.get_parsed_content("network_def").eval().requires_grad_(False)
    torch.save(network.state_dict(), tmp_path / "best.pt")
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.yaml")}
    files["ckpt_file"] = str(tmp_path / "best.pt")
    dims, channels = (parser.get("network_def")[name] for name in ("spatial_dims", "in_channels"))
    sizes = [64] * dims if channels == 1 else [54] * dims
    image = torch.rand(1, channels, *sizes)
    ckpt_export("network_def", filepath=str(tmp_path / "model.ts"), **files)
    exported = torch.jit.load(str(tmp_path / "model.ts")).eval()
    torch.testing.assert_close(exported(image), network(image))
    image = torch.rand(1, channels, *([128, 128] if dims == 2 else sizes))
    onnx_export("network_def", filepath=str(tmp_path / "model.onnx"), **files)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), network(image), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"loss::smoth": 1e-5}, "unexpected keyword argument 'smoth'"),
        ({"resume": "yes"}, "ValueError: resume: expected true or false, got 'yes'"),
        ({"dataset_dir": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"fold": 10}, "DatalistError: fold=10: expected 0 to 9, with 10 folds"),
        ({"extra_phantoms": 3}, "ValueError: extra_phantoms must be 0 or at least 5, got 3"),
        ({"output_dir": "/dev/null/run"}, "ValueError: output_dir: cannot write to /dev/null/run: Not a directory"),
    ],
)
def test_bad_arguments(skull_workflow: Run, tmp_path: Path, overrides: dict[str, Any], complaint: str) -> None:
    made = skull_workflow("train", **({"output_dir": str(tmp_path / "run")} | overrides))
    with pytest.raises((RuntimeError, ValueError)) as caught:
        run_to_the_end(made)
    assert complaint in cause(caught.value)
    assert not (tmp_path / "run" / "models").exists()
