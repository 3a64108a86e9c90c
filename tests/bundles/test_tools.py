"""MONAI's own tools, stock, on the bundles: each test does what the named class does with a bundle, step by step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigItem, ConfigParser, ckpt_export
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_lossext.bundle_folders import write_json
from monai_lossext.data import skin_lesion_datalist, skull_stripping_datalist, white_matter_lesion_datalist

from .conftest import LESIONS, SMALL
from .running import rows

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = sorted(path.name for path in BUNDLES.iterdir())
NETWORKS = {name: yaml.safe_load(text)["network_def"] for name, text in SMALL.items()}
NETWORKS["skin_lesion_segmentation"] = {
    **{"_target_": "UNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 1},
    **{"channels": [4, 8], "strides": [2]},
}


@pytest.fixture(params=NAMES)
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of each bundle, as a tool has it: small networks and voxels stand in its configs."""
    target = tmp_path / request.param
    shutil.copytree(BUNDLES / request.param, target, ignore=shutil.ignore_patterns("__pycache__", "models"))
    small: dict[str, Any] = {"network_def": NETWORKS[request.param]}
    small |= yaml.safe_load(SMALL.get(request.param, "image_size: [32, 48]"))
    for name in ("train", "inference"):
        file = target / "configs" / f"{name}.yaml"
        config = yaml.safe_load(file.read_text(encoding="utf-8")) | small
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    write_json(target)
    return target


@pytest.fixture
def data(copied: Path, phantoms: dict[str, Any], heads: Path, lesions: Path) -> dict[str, Any]:
    """What a config needs to find the data of the bundle."""
    if copied.name.startswith("skin"):
        return phantoms
    return {"dataset_dir": str(lesions if copied.name == LESIONS else heads)}


@pytest.fixture
def cases(copied: Path, data: dict[str, Any]) -> list[dict[str, Any]]:
    """What a datastore hands over: paths of images and labels, nothing else."""
    lists = {"skin_lesion_segmentation": skin_lesion_datalist, LESIONS: white_matter_lesion_datalist}
    parts = lists.get(copied.name, skull_stripping_datalist)(**data)
    return [{"image": item["image"], "label": item["label"]} for item in parts["training"]]


@pytest.fixture(autouse=True)
def own_modules() -> Iterator[None]:
    """Bundles share the name `scripts`; a tool that has several unloads it before it takes another."""
    path, modules = list(sys.path), {name: sys.modules[name] for name in sys.modules if name.startswith("scripts")}
    for name in modules:
        del sys.modules[name]
    yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith("scripts")]:
        del sys.modules[name]
    sys.modules.update(modules)


def first(cases: list[dict[str, Any]]) -> str:
    """The image of a case, or its first channel."""
    image = cases[0]["image"]
    return image[0] if isinstance(image, list) else image


# monailabel 0.8.5: monailabel.tasks.infer.bundle.BundleInferTask


def parser_of(path: Path, name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(path / "configs" / name))
    parser.config.update({"bundle_root": str(path)})
    return parser


# PILReader leaves a picture open that its converter has replaced
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_monai_label_infers(copied: Path, cases: list[dict[str, Any]], device: Any) -> None:
    """BundleInferTask: __init__, _update_device, pre_transforms, inferer, post_transforms; the device as text too."""
    sys.path.insert(0, str(copied))
    parser = parser_of(copied, "inference.yaml")
    network = parser.get_parsed_content("network_def", instantiate=True)
    parser.config.update({"device": device})
    parser.ref_resolver.items["device"] = ConfigItem(config=device, id="device")
    before = parser.get_parsed_content("preprocessing", instantiate=True)
    assert isinstance(before, Compose)
    assert isinstance(before.transforms[0], LoadImaged), "it has a transform of its own in place of this one"
    data = before({"image": cases[0]["image"]})
    inferer = parser.get_parsed_content("inferer", instantiate=True)
    with torch.no_grad():
        data["pred"] = inferer(data["image"][None].to(device), network.eval())[0]
    after = parser.get_parsed_content("postprocessing", instantiate=True)
    pred = after(data)["pred"]
    size = Image.open(cases[0]["image"]).size if copied.name.startswith("skin") else nibabel.load(first(cases)).shape
    assert tuple(pred.shape) == (1, *size)
    assert set(pred.unique().tolist()) <= {0, 1}


# monailabel 0.8.5: monailabel.tasks.train.bundle.BundleTrainTask


def label_trains(path: Path, cases: list[dict[str, Any]], max_epochs: int = 2) -> None:
    """BundleTrainTask: _load_bundle_config, __call__ with _load_checkpoint, run_single_gpu."""
    parser = parser_of(path, "train.yaml")
    handlers = parser.get("train#handlers", [])
    weights = path / "models" / "model.pt"
    if weights.exists():
        loader = {"_target_": "CheckpointLoader", "load_path": str(weights), "load_dict": {"model": "$@network"}}
        handlers.insert(0, loader | {"strict": False})
    overrides = {
        "bundle_root": str(path),
        "train#trainer#max_epochs": max_epochs,
        "train#dataset#data": cases[2:],
        "device": torch.device("cpu"),
        "train#handlers": handlers,
        "validate#dataset#data": cases[:2],
    }
    sys.path.insert(0, str(path))
    monai.bundle.run(
        run_id="run",
        init_id=None,
        final_id=None,
        meta_file=str(path / "configs" / "metadata.json"),
        config_file=str(path / "configs" / "train.yaml"),
        **overrides,
    )
    sys.path.remove(str(path))


@pytest.mark.filterwarnings("ignore::UserWarning")  # MONAI announces the advisory about configs that run code
def test_monai_label_trains_twice(copied: Path, cases: list[dict[str, Any]], phantoms: dict[str, Any]) -> None:
    """The second round starts from what the first has served, serves better weights, and leaves the first's files."""
    weights = copied / "models" / "model.pt"
    label_trains(copied, cases)
    first = torch.load(weights, weights_only=True)
    best = torch.load(copied / "output" / "models" / "best.pt", weights_only=True)
    assert all(torch.equal(first[name], best[name]) for name in first)
    label_trains(copied, cases)
    second = torch.load(weights, weights_only=True)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    before = torch.load(copied / "output" / "models" / "served_before.pt", weights_only=True)
    assert all(torch.equal(first[name], before[name]) for name in first)
    assert len(rows(copied / "output" / "round-1" / "history.csv")) == 2
    losses = [float(rows(copied / "output" / name / "history.csv")[-1]["train_loss"]) for name in ("round-1", ".")]
    assert losses[1] < losses[0], "it went on"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_of_ones_own_does_not_touch_the_served_weights(
    copied: Path, cases: list[dict[str, Any]], data: dict[str, Any]
) -> None:
    values = {"bundle_root": str(copied), "epochs": 1, "val_interval": 1, **data}
    for _ in range(2):  # the default folder, in which runs are rounds
        monai.bundle.run(config_file=str(copied / "configs" / "train.yaml"), **values)
    assert (copied / "output" / "round-1" / "models" / "best.pt").is_file()
    assert not (copied / "models").exists()


# monai-deploy-app-sdk 4.0.0: monai.deploy.operators.monai_bundle_inference_operator.MonaiBundleInferenceOperator

OPERATOR = """
import json, sys, tempfile, zipfile
from pathlib import Path
import numpy as np, torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils.misc import first

archive_path, array_path, meta_path, out_path = map(Path, sys.argv[1:])

# get_bundle_config: metadata and configs out of the TorchScript archive
parser = ConfigParser()
with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive_path) as archive:
    parser.read_meta(json.loads(archive.read(f"{archive_path.stem}/extra/metadata.json")))
    name = f"{archive_path.stem}/extra/inference.json"
    archive.extractall(members=[name], path=folder)
    parser.read_config([Path(folder, name)])
parser.parse()

def without_files(compose):  # filter_compose with DISALLOW_LOAD_SAVE
    names = ("LoadImage", "SaveImage")
    compose.transforms = tuple(t for t in compose.transforms if not any(n in type(t).__name__ for n in names))
    return compose

# _init_config
device = parser.get_parsed_content("device")
inferer = parser.get_parsed_content("inferer")
before, after = (without_files(parser.get_parsed_content(name)) for name in ("preprocessing", "postprocessing"))
assert isinstance(first(before.transforms), MapTransform) and isinstance(first(after.transforms), MapTransform)

# compute
network = torch.jit.load(archive_path, map_location=device).eval()
meta = json.loads(meta_path.read_text())
meta |= {key: np.asarray(value) for key, value in meta.items() if isinstance(value, list)}
with torch.no_grad():
    value = MetaTensor.ensure_torch_and_prune_meta(np.load(array_path), meta)
    inputs = before({"image": value})
    image = inputs["image"]
    outputs = inferer(inputs=image[None].to(device), network=network)
    result = after({"pred": tuple(outputs)[0], **inputs})
np.save(out_path, result["pred"].cpu().numpy())
"""


@pytest.mark.filterwarnings("ignore:.*jit.* is deprecated:DeprecationWarning")
def test_monai_deploy(copied: Path, cases: list[dict[str, Any]], tmp_path: Path) -> None:
    """An archive of ckpt_export, in a process that has nothing but MONAI, on an array in memory with its affine."""
    network = ConfigParser({"network_def": NETWORKS[copied.name]}).get_parsed_content("network_def")
    torch.save(network.state_dict(), tmp_path / "best.pt")
    files = {"meta_file": str(copied / "configs" / "metadata.json"), "ckpt_file": str(tmp_path / "best.pt")}
    files["config_file"] = str(copied / "configs" / "inference.yaml")
    ckpt_export("network_def", filepath=str(tmp_path / "model.ts"), **files)
    if copied.name.startswith("skin"):
        values = np.asarray(Image.open(cases[0]["image"]).convert("RGB")).transpose(1, 0, 2)
        meta: dict[str, Any] = {}
        size = values.shape[:2]
    else:
        volume = nibabel.load(first(cases))
        values, size = volume.get_fdata().astype(np.float32), volume.shape
        # what _convert_from_image_dicom_source makes of a series
        affine = volume.affine.tolist()
        meta = {"affine": affine, "original_affine": affine, "space": "RAS"}
        meta |= {"spatial_shape": list(size), "original_channel_dim": "no_channel"}
        if copied.name == LESIONS:
            values, meta["original_channel_dim"] = np.stack([values, values]), 0
    np.save(tmp_path / "image.npy", values)
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "operator.py").write_text(OPERATOR)
    arguments = [str(tmp_path / name) for name in ("model.ts", "image.npy", "meta.json", "out.npy")]
    done = subprocess.run(
        [sys.executable, "-I", str(tmp_path / "operator.py"), *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    mask = np.load(tmp_path / "out.npy")
    assert mask.shape == (1, *size)
    assert set(np.unique(mask)) <= {0, 1}


# monai 1.6.1: monai.fl.client.MonaiAlgo


@pytest.mark.filterwarnings("ignore:executing the bundle config")
def test_federated_learning(
    copied: Path, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round of training, and one of evaluation with weights from elsewhere; there is no checkpoint to load."""
    monkeypatch.chdir(tmp_path)
    values = {**data, "device": "cpu"}
    algo = MonaiAlgo(
        bundle_root=copied.name,
        local_epochs=1,
        send_weight_diff=False,
        train_kwargs=dict(values),
        eval_kwargs=dict(values),
    )
    algo.initialize({ExtraItems.CLIENT_NAME: "here", ExtraItems.APP_ROOT: str(tmp_path)})
    start = {name: value.clone() for name, value in algo.get_weights().weights.items()}
    algo.train(ExchangeObject(weights=start))
    trained = algo.get_weights().weights
    assert any(not torch.equal(start[name], trained[name]) for name in start)
    zeros = {name: torch.zeros_like(value) for name, value in trained.items()}
    scores = [algo.evaluate(ExchangeObject(weights=weights)).metrics for weights in (trained, zeros)]
    assert all({"val_jaccard", "val_dice"} <= score.keys() for score in scores)
    network = algo.evaluator.network.state_dict()
    assert all(not value.any() for name, value in network.items()), "the weights it was given, no checkpoint's"
    algo.finalize()


# monai 1.6.1: monai.bundle.load

LOADED = """
import sys, torch, monai.bundle
network = monai.bundle.load(sys.argv[1], bundle_dir=sys.argv[2], device="cpu", source="github", repo="none/none/none")
print(type(network).__name__, sum(float(value.double().sum()) for value in network.state_dict().values()))
"""


def test_bundle_load(copied: Path, tmp_path: Path) -> None:
    """By its default names: a network with the weights in models/model.pt; it makes no phantoms and no folder."""
    network = ConfigParser({"network_def": NETWORKS[copied.name]}).get_parsed_content("network_def")
    (copied / "models").mkdir()
    torch.save(network.state_dict(), copied / "models" / "model.pt")
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOADED, copied.name, str(tmp_path)],
        **{"cwd": tmp_path / "elsewhere", "capture_output": True, "text": True},
        env=os.environ | {"MONAI_LOSSEXT_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    kind, total = done.stdout.splitlines()[-1].split()
    assert kind == "UNet"
    assert float(total) == pytest.approx(sum(float(value.double().sum()) for value in network.state_dict().values()))
    assert not list((tmp_path / "elsewhere").iterdir())
    assert not (tmp_path / "cache").exists()
