"""Bundles of the model zoo's layout: spleen_ct_segmentation and brats_mri_segmentation in small."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from monai.engines import Workflow
from typer.testing import CliRunner, Result

from monai_lossext.cli import app
from monai_lossext.compare import zoo
from monai_lossext.compare.check import merged_config, plan_study
from monai_lossext.compare.job import read_history
from monai_lossext.compare.plan import Run, StudyError
from monai_lossext.compare.run import bundle_command, write_study
from monai_lossext.compare.trial import verify
from monai_lossext.compare.zoo import case_name, class_scores
from monai_lossext.handlers import RunCheckpoints

from ..bundles.running import results

SIZE = 16


def volumes(folder: Path, cases: int, images: str = "imagesTr", labels: str = "labelsTr") -> None:
    """Write volumes with a cube, bright inside."""
    for case in range(cases):
        generator = np.random.default_rng(case)
        label = np.zeros((SIZE,) * 3, np.uint8)
        x, y, z = generator.integers(2, 8, 3)
        label[x : x + 6, y : y + 6, z : z + 6] = 1
        image = label + generator.normal(0, 0.4, label.shape)
        for name, array in ((images, image.astype(np.float32)), (labels, label)):
            path = folder / name / f"case_{case}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def zoo_config(folder: Path) -> dict[str, Any]:
    """The config of a training with all the keys of the zoo's spleen_ct_segmentation, and its references."""
    both = ["image", "label"]
    scores = {"include_background": False, "output_transform": "$monai.handlers.from_engine(['pred', 'label'])"}
    log = {"tag_name": "train_loss", "output_transform": "$monai.handlers.from_engine(['loss'], first=True)"}
    board = {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir"}
    saver = {"_target_": "CheckpointSaver", "save_dir": "@ckpt_dir", "save_dict": {"model": "@network"}}
    crop = {"_target_": "RandCropByPosNegLabeld", "keys": both, "label_key": "label", "spatial_size": [8, 8, 8]}

    def loader(part: str, cases: str, transform: str, **options: Any) -> dict[str, Any]:
        pairs = f"$[{{'image': i, 'label': l}} for i, l in zip(@images[{cases}], @labels[{cases}])]"
        data = {"_target_": "CacheDataset", "data": pairs, "transform": f"@{part}#preprocessing", "cache_rate": 1.0}
        return {
            "preprocessing": {"_target_": "Compose", "transforms": transform},
            "dataset": data,
            "dataloader": {"_target_": "DataLoader", "dataset": f"@{part}#dataset", **options},
        }

    return {
        "imports": ["$import glob", "$import os", "$import ignite"],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": str(folder),
        "images": "$list(sorted(glob.glob(@dataset_dir + '/imagesTr/*.nii.gz')))",
        "labels": "$list(sorted(glob.glob(@dataset_dir + '/labelsTr/*.nii.gz')))",
        "val_interval": 1,
        "epochs": 9,
        "device": "$torch.device('cpu')",
        "network_def": {
            "_target_": "UNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "channels": [4, 8],
            "strides": [2],
            "norm": "batch",
        },
        "network": "$@network_def.to(@device)",
        "loss": {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True, "batch": True},
        "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.02},
        "lr_scheduler": {
            "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",  # as brats_mri_segmentation has it
            "optimizer": "@optimizer",
            "T_max": "@epochs",
        },
        "train": {
            "deterministic_transforms": [
                {"_target_": "LoadImaged", "keys": both},
                {"_target_": "EnsureChannelFirstd", "keys": both},
                {"_target_": "EnsureTyped", "keys": both},
            ],
            "random_transforms": [crop | {"num_samples": 2}],
            **loader(
                "train",
                ":-3",
                "$@train#deterministic_transforms + @train#random_transforms",
                batch_size=2,
                shuffle=True,
                num_workers=0,
            ),
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                    {
                        "_target_": "AsDiscreted",
                        "keys": ["pred", "label"],
                        "argmax": [True, False],
                        "to_onehot": 2,
                    },
                ],
            },
            "handlers": [
                {"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler", "print_lr": True},
                {
                    "_target_": "ValidationHandler",
                    "validator": "@validate#evaluator",
                    "epoch_level": True,
                    "interval": "@val_interval",
                },
                {"_target_": "StatsHandler", **log},
                board | log,
            ],
            "key_metric": {"train_mean_dice": {"_target_": "MeanDice", **scores}},
            "trainer": {
                "_target_": "SupervisedTrainer",
                "max_epochs": "@epochs",
                "device": "@device",
                "train_data_loader": "@train#dataloader",
                "network": "@network",
                "loss_function": "@loss",
                "optimizer": "@optimizer",
                "inferer": "@train#inferer",
                "postprocessing": "@train#postprocessing",
                "key_train_metric": "@train#key_metric",
                "train_handlers": "@train#handlers",
                "amp": False,
            },
        },
        "validate": {
            **loader("validate", "-3:", "%train#deterministic_transforms", batch_size=1, num_workers=0),
            "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8], "sw_batch_size": 4, "overlap": 0.5},
            "postprocessing": "%train#postprocessing",
            "handlers": [
                {"_target_": "StatsHandler", "iteration_log": False},
                board | {"iteration_log": False},
                saver | {"save_key_metric": True, "key_metric_filename": "model.pt"},
            ],
            "key_metric": {"val_mean_dice": {"_target_": "MeanDice", **scores}},
            "additional_metrics": {"val_mean_iou": {"_target_": "MeanIoUHandler", **scores}},
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "@device",
                "val_data_loader": "@validate#dataloader",
                "network": "@network",
                "inferer": "@validate#inferer",
                "postprocessing": "@validate#postprocessing",
                "key_val_metric": "@validate#key_metric",
                "additional_metrics": "@validate#additional_metrics",
                "val_handlers": "@validate#handlers",
                "amp": False,
            },
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)"],
        "run": ["$@train#trainer.run()"],
    }


@pytest.fixture
def data(tmp_path: Path, own_cache: Path) -> Path:
    """A data set of seven cases, of which the last three validate; what is timed is kept beside it."""
    volumes(tmp_path / "data", 7)
    return tmp_path / "data"


def write(folder: Path, config: dict[str, Any], ending: str) -> Path:
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    text = json.dumps(config) if ending == "json" else yaml.safe_dump(config)
    (folder / "configs" / f"train.{ending}").write_text(text, encoding="utf-8")
    return folder


def compare(bundle: Path, data: Path, output: Path, *options: object) -> Result:
    command = ["compare", "--bundle", bundle, "--dataset-dir", data, "--output", output, "--threads", 1, *options]
    return CliRunner().invoke(app, list(map(str, command)))


def test_small_numbers_of_json_are_numbers(tmp_path: Path, data: Path) -> None:
    """1e-05 is one in JSON, as the zoo's bundles write it, and text in YAML, which their own loss would be given."""
    config = zoo_config(data)
    config["loss"]["smooth_nr"] = 1e-05
    bundle = write(tmp_path / "spleen", config, "json")
    assert '"smooth_nr": 1e-05' in (bundle / "configs" / "train.json").read_text(encoding="utf-8")
    (own,) = plan_study(bundle, ["bundle"], data, tmp_path / "study").runs()
    assert merged_config(own)["loss"] == config["loss"]


def test_json_and_yaml_are_trained_alike(tmp_path: Path, data: Path) -> None:
    bundles = [write(tmp_path / ending / "spleen", zoo_config(data), ending) for ending in ("json", "yaml")]
    runs = [plan_study(bundle, ["mcc"], data, tmp_path / "study").runs()[0] for bundle in bundles]
    first, second = (merged_config(run) | {"bundle_root": ""} for run in runs)
    assert first == second
    assert runs[0].settings() == runs[1].settings()


@pytest.mark.slow
def test_a_study_of_three_losses(tmp_path: Path, data: Path) -> None:
    """Losses train different networks, each in its own folder, and no file of the bundle is needed for it."""
    bundle = write(tmp_path / "spleen", zoo_config(data), "json")
    before = sorted(bundle.rglob("*"))
    options = ["--epochs", 2, "--processes", 2]
    losses = ["--losses", "bundle,SoftDiceLoss,MatthewsCorrelationLoss"]
    result = compare(bundle, data, tmp_path / "study", *losses, *options)
    assert result.exit_code == 0, result.output
    scores = pd.read_csv(tmp_path / "study" / "report" / "cases.csv")
    assert sorted(scores["case"].unique()) == ["case_4", "case_5", "case_6"]
    assert set(scores["loss"]) == {"bundle", "SoftDiceLoss", "MatthewsCorrelationLoss"}
    means = scores.groupby("loss")["dice"].mean()
    assert means.nunique() == len(means) == 3
    assert sorted(bundle.rglob("*")) == before
    runs = sorted(path.parent for path in (tmp_path / "study" / "runs").rglob("run.json"))
    for run in runs:
        assert (run / "models" / "best.pt").is_file()
        history = pd.read_csv(run / "history.csv")
        assert list(history) == ["epoch", "train_loss", "val_mean_dice", "val_mean_iou", "lr", "seconds"]
        assert history["lr"].tolist() == pytest.approx([0.01, 0])  # the schedule ends with the epochs of the study
        best = history["val_mean_dice"].max()
        name = {"soft_dice": "SoftDiceLoss", "mcc": "MatthewsCorrelationLoss"}.get(run.parent.name, "bundle")
        assert means[name] == pytest.approx(best, abs=1e-5)  # the best epoch's weights


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Train or evaluate a run in this process, as its own would; the folder of the run is returned."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)

    def do(run: Run, *options: str, evaluate: bool = False) -> Path:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_study(run.study)
        command = [*bundle_command(run, evaluate=evaluate), *options]
        monkeypatch.setattr(sys, "argv", command[2:])
        zoo.main()
        return run.folder

    return do


@pytest.mark.slow
def test_a_training_that_broke_off_goes_on_to_the_same_weights(
    tmp_path: Path, data: Path, stage: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third of four epochs, in a schedule and with random crops."""
    bundle = write(tmp_path / "spleen", zoo_config(data), "json")
    study = plan_study(bundle, ["SoftDiceLoss"], data, tmp_path / "study", epochs=4)
    whole, broken = (replace(study, output=tmp_path / name).runs()[0] for name in ("whole", "broken"))
    stage(whole)
    save = RunCheckpoints._save

    def break_off(self: RunCheckpoints, engine: Workflow) -> None:
        if engine.state.epoch == 3:
            raise KeyboardInterrupt
        save(self, engine)

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "_save", break_off)
        with pytest.raises(KeyboardInterrupt):
            stage(broken)
    assert results(broken.folder)[2] != results(whole.folder)[2]
    stage(broken, "--resume=True")
    assert results(broken.folder) == results(whole.folder)
    assert len(read_history(broken.folder)) == 4


@pytest.mark.slow
def test_testing_cases_are_named_by_a_further_config(tmp_path: Path, data: Path, stage: Callable[..., Path]) -> None:
    """They are scored with the weights that are best on the validation cases."""
    bundle = write(tmp_path / "spleen", zoo_config(data), "json")
    options = {"epochs": 1, "section": "testing"}
    with pytest.raises(StudyError, match=r"--section: spleen has no test#dataset#data; name a --config that lists"):
        plan_study(bundle, ["SoftDiceLoss"], data, tmp_path / "study", **options)
    pairs = "$[{'image': i, 'label': l} for i, l in zip(@images[:2], @labels[:2])]"
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"test": {"dataset": {"data": pairs}}}), encoding="utf-8")
    study = plan_study(bundle, ["SoftDiceLoss"], data, tmp_path / "study", configs=[tmp_path / "test.yaml"], **options)
    assert study.cases == 2
    (run,) = study.runs()
    stage(run)
    for section, cases in (("testing", ["case_0", "case_1"]), ("validation", ["case_4", "case_5", "case_6"])):
        (other,) = replace(study, section=section).runs()
        scores = pd.read_csv(stage(other, evaluate=True) / "evaluation" / "cases.csv")
        assert scores["case"].tolist() == cases
    assert scores["dice"].mean() == pytest.approx(float(read_history(run.folder)[0]["val_mean_dice"]), abs=1e-5)


OWN_TRAINER = """
from monai.engines import SupervisedTrainer
from monai.losses import DiceLoss

class Own(SupervisedTrainer):
    def _iteration(self, engine, batch):
        given, self.loss_function = self.loss_function, DiceLoss(to_onehot_y=True, softmax=True)
        try:
            return super()._iteration(engine, batch)
        finally:
            self.loss_function = given
"""


SEEDED_NETWORK = """
import monai

def seeded(**options):
    monai.utils.set_determinism(1)
    return monai.networks.nets.UNet(**options)
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["loss", "seed", "folder"])
def test_a_bundle_that_ignores_loss_seed_or_folder_is_tried_first(tmp_path: Path, data: Path, fault: str) -> None:
    """These only show when a few batches are trained: all keys are in use."""
    config = zoo_config(data)
    options: dict[str, Any] = {"losses": ["SoftDiceLoss"], "seeds": (0,)}
    (tmp_path / "spleen" / "scripts").mkdir(parents=True)
    if fault == "loss":  # it holds the loss that it is given, and trains with its own
        (tmp_path / "spleen" / "scripts" / "__init__.py").write_text(OWN_TRAINER, encoding="utf-8")
        config["train"]["trainer"]["_target_"] = "scripts.Own"
        options["losses"].append("bundle")
        said = "SoftDiceLoss, seed 0 and of bundle, seed 0 are the same to the last digit: the losses of the study"
    elif fault == "seed":  # it seeds itself
        (tmp_path / "spleen" / "scripts" / "__init__.py").write_text(SEEDED_NETWORK, encoding="utf-8")
        config["network_def"]["_target_"] = "scripts.seeded"
        config["train"]["random_transforms"] = []
        config["train"]["dataloader"]["shuffle"] = False
        options["seeds"] = (0, 1)
        said = "of SoftDiceLoss, seed 1 are the same to the last digit: the seeds of the study would change nothing"
    else:
        config["validate"]["handlers"][2]["save_dir"] = "$@bundle_root + '/elsewhere'"
        said = r"spleen writes outside of the run's folder: .*spleen/elsewhere/model\.pt"
    study = plan_study(
        write(tmp_path / "spleen", config, "json"), dataset_dir=data, output=tmp_path / "study", epochs=2, **options
    )
    with pytest.raises(StudyError, match=said):
        verify(study, print)


def test_a_trainer_with_another_loss_is_refused(tmp_path: Path, data: Path) -> None:
    config = zoo_config(data)
    config["criterion"] = config["loss"]
    config["train"]["trainer"]["loss_function"] = "@criterion"
    bundle = write(tmp_path / "other", config, "json")
    with pytest.raises(StudyError, match=r"'@criterion', not '@loss': the losses of the study would change nothing"):
        plan_study(bundle, ["SoftDiceLoss"], tmp_path / "data", tmp_path / "study")


def test_a_trainer_may_take_the_loss_by_another_name(tmp_path: Path, data: Path) -> None:
    config = zoo_config(data)
    config["criterion"], config["train"]["trainer"]["loss_function"] = "$@loss", "@criterion"
    assert plan_study(write(tmp_path / "other", config, "json"), ["SoftDiceLoss"], data, tmp_path / "study").zoo


def test_a_loss_that_only_something_idle_uses_is_refused(bundle: Path, pictures: Path) -> None:
    """@loss stands in the config, but nothing that runs leads to it: its trainer takes @criterion."""
    path = bundle / "configs" / "train.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config |= {"criterion": {}, "idle": "@loss", "trainer": {"loss_function": "@criterion"}}
    config["run"] = ["$(@trainer, @seed, @output_dir)"]
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(StudyError, match=r"nothing that configs/train.yaml of bundle runs uses @loss: the losses of"):
        plan_study(bundle, ["mcc"], pictures, bundle.parent / "study")
    config["trainer"] = {"loss_function": "@idle"}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    plan_study(bundle, ["mcc"], pictures, bundle.parent / "study")


@pytest.mark.parametrize("key", ["loss", "seed", "output_dir"])
def test_a_bundle_that_ignores_what_a_study_changes_is_refused(bundle: Path, pictures: Path, key: str) -> None:
    train = bundle / "configs" / "train.yaml"
    config = yaml.safe_load(train.read_text(encoding="utf-8"))
    config["run"] = [expression.replace(f"@{key}", "None") for expression in config["run"]]
    train.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(StudyError, match=rf"--bundle: nothing that configs/train.yaml of bundle runs uses @{key}:"):
        plan_study(bundle, ["mcc"], pictures, bundle.parent / "study")


def test_what_is_no_bundle_at_all_is_told(tmp_path: Path) -> None:
    bundle = write(tmp_path / "other", {"train": {}}, "json")
    with pytest.raises(StudyError, match=r"nor has it the layout of the model zoo, train#trainer and validate#eval"):
        plan_study(bundle, ["SoftDiceLoss"], "synthetic", tmp_path / "study")
    zoo = write(tmp_path / "zoo", zoo_config(tmp_path), "json")
    with pytest.raises(StudyError, match=r"the model zoo's layout has no folds, pretraining and initial weights"):
        plan_study(zoo, ["SoftDiceLoss"], "synthetic", tmp_path / "study", folds=2)


def test_classes_are_scored_each_and_in_the_mean() -> None:
    labels = torch.zeros(1, 8, 8, 8)
    labels[0, 1:4, 1:4, 1:4], labels[0, 5:7, 5:7, 5:7] = 1, 2
    prediction = labels.clone()
    prediction[labels == 2] = 0
    scores = class_scores(prediction, labels)
    assert (scores["dice"], scores["dice_1"], scores["dice_2"], scores["jaccard_2"]) == (0.5, 1, 0, 0)
    onehot = [torch.cat([(volume == number).float() for number in range(3)]) for volume in (prediction, labels)]
    assert class_scores(*onehot) == pytest.approx(scores, nan_ok=True)
    whole = torch.cat([labels > 0, labels == 2]).float()  # classes that overlap, as in BraTS: no background
    assert [class_scores(whole, whole)[f"dice_{number}"] for number in (1, 2)] == [1, 1]
    picture = torch.zeros(1, 8, 8)
    picture[0, 2:5, 2:5] = 1
    assert class_scores(picture, picture)["nsd_2px"] == 1
    with pytest.raises(ValueError, match="must give both the same channels"):
        class_scores(labels, whole)
    with pytest.raises(ValueError, match="must make masks of its output"):
        class_scores(labels * 0.5, labels)


def test_cases_are_named_by_their_files() -> None:
    assert case_name({"image": ["/a/b_0000.nii.gz"], "label": "/a/b.nii.gz"}) == "b"
    assert case_name({"image": ["/a/b_0000.nii.gz"]}) == "b_0000"


@pytest.mark.slow
def test_a_bundle_is_checked_by_a_few_batches(tmp_path: Path, data: Path) -> None:
    bundle = write(tmp_path / "spleen", zoo_config(data), "json")
    arguments = ["compare", "check", str(bundle), "--dataset-dir", str(tmp_path / "data")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "1 losses, 3 cases to score, 9 epochs" in text
    assert "2 batches, so about 0:0" in text
    assert "validates val_mean_dice, val_mean_iou" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "spleen"]
    config = zoo_config(data)
    config["loss"] = {"_target_": "torch.nn.CrossEntropyLoss"}  # takes no channel of class numbers
    result = CliRunner().invoke(app, [*arguments[:2], str(write(tmp_path / "broken", config, "json")), *arguments[3:]])
    assert result.exit_code == 2
    assert "a batch of training and validation failed" in result.output
