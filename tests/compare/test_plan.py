from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from monai_lossext.compare.job import save_state
from monai_lossext.compare.plan import Study, StudyError, choose_losses
from monai_lossext.compare.run import bundle_command, run_study
from monai_lossext.losses import catalogue

from .conftest import Recorder


def test_losses_are_found_by_class_overlay_and_file(bundle: Path, write_overlay: Callable[..., Path]) -> None:
    mine = write_overlay("mine").rename(bundle / "mine.yaml")
    losses = choose_losses(["SoftDiceLoss", "mcc", "monai_dice", str(mine)], bundle)
    assert [(loss.key, loss.label) for loss in losses] == [
        ("soft_dice", "SoftDiceLoss"),
        ("mcc", "MatthewsCorrelationLoss"),
        ("monai_dice", "monai_dice"),
        ("mine", "mine"),
    ]
    assert [loss.overlay for loss in losses][2:] == [bundle / "configs/loss/monai_dice.yaml", mine]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["softdice"], r"no overlay for 'softdice'. Did you mean soft_dice\? Known: SoftDiceLoss, .*monai_dice"),
        (["LogCoshDiceLoss"], "no overlay for 'LogCoshDiceLoss'"),
        (["nowhere/mine.yaml"], "there is no overlay file nowhere/mine.yaml"),
        (["mcc", "MatthewsCorrelationLoss"], "'MatthewsCorrelationLoss' is named twice"),
        ([], "name at least one loss"),
    ],
)
def test_unknown_and_repeated_losses_are_refused(bundle: Path, names: list[str], message: str) -> None:
    with pytest.raises(StudyError, match=f"--losses: .*{message}"):
        choose_losses(names, bundle)


def test_losses_of_the_catalogue_are_found_in_the_real_bundle(bundles_dir: Path) -> None:
    bundle = bundles_dir / "skin_lesion_segmentation"
    overlays = {path.stem for path in (bundle / "configs" / "loss").iterdir()}
    names = [entry.name for entry in catalogue() if entry.overlay in overlays]
    assert {"SoftDiceLoss", "SoftJaccardLoss", "SoftTverskyLoss", "LogCoshDiceLoss"} < set(names)
    assert [loss.label for loss in choose_losses(names, bundle)] == names


def test_commands_are_those_of_monai_bundle(plan: Callable[..., Study], bundle: Path, pictures: Path) -> None:
    protocol = bundle / "protocol.yaml"
    protocol.write_text("learning_rate: 0.5\n", encoding="utf-8")
    study = plan(seeds=(3,), overrides={"learning_rate": "0.2"}, configs=[protocol], skip_bad=True)
    run = study.runs()[1]
    common = [
        f"--bundle_root={bundle}",
        f"--dataset_dir={pictures}",
        f"--output_dir={study.output}/runs/mcc/seed-3",
    ]
    options = ["--skip_bad=True", "--learning_rate=0.2"]
    train, overlay, evaluate = (bundle / "configs" / f"{name}.yaml" for name in ("train", "loss/mcc", "evaluate"))
    assert bundle_command(run, resume=True)[2:] == [
        f'--config_file=["{train}", "{overlay}", "{protocol}"]',
        *common,
        "--epochs=3",
        "--seed=3",
        *options,
        "--resume=True",
    ]
    assert bundle_command(run, evaluate=True)[2:] == [
        f'--config_file=["{train}", "{protocol}", "{evaluate}"]',
        *common,
        "--section=validation",
        *options,
    ]


def test_epochs_and_baseline_have_defaults(plan: Callable[..., Study]) -> None:
    assert (plan().epochs, plan(epochs=7).epochs) == (3, 7)
    assert plan("mcc,SoftDiceLoss").baseline == "soft_dice"
    assert plan("mcc,monai_dice").baseline == "mcc"
    assert plan("mcc,SoftDiceLoss", baseline="MatthewsCorrelationLoss").baseline == "mcc"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset_dir": "nowhere"}, "--dataset-dir: there is no folder nowhere"),
        ({"epochs": 0}, "--epochs: expected at least 1, got 0"),
        ({"seeds": (1, 1)}, r"--seed: expected different whole numbers from 0 on, got \[1, 1\]"),
        ({"seeds": (-1,)}, "--seed: "),
        ({"section": "train"}, "--section: expected one of validation, testing, got 'train'"),
        ({"baseline": "monai_dice"}, "--baseline: 'monai_dice' is not among the losses SoftDiceLoss"),
        ({"configs": ["absent.yaml"]}, "--config: there is no file .*absent.yaml"),
        ({"overrides": {"lerning_rate": "1"}}, "--override: lerning_rate is not in .* did you mean learning_rate"),
        ({"overrides": {"seed": "1"}}, "--override: seed is set by the study itself"),
    ],
)
def test_bad_options_are_refused_by_name(plan: Callable[..., Study], options: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        plan(**options)


def test_an_output_that_cannot_be_written_is_refused(plan: Callable[..., Study], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"--output: cannot write into .*file"):
        plan(output=tmp_path / "file" / "study")


def test_a_folder_without_configs_is_no_bundle(plan: Callable[..., Study], bundle: Path) -> None:
    (bundle / "configs" / "evaluate.yaml").unlink()
    with pytest.raises(StudyError, match=r"--bundle: .* has no configs/evaluate.yaml"):
        plan()


def test_a_loss_that_cannot_be_built_is_refused(plan: Callable[..., Study], write_overlay: Callable[..., Path]) -> None:
    loss = {"_target_": "monai_lossext.losses.SoftDiceLoss", "sigmoyd": True}
    write_overlay("mcc").write_text(yaml.safe_dump({"loss": loss}), encoding="utf-8")
    with pytest.raises(StudyError, match=r"--losses: .*mcc.yaml does not make a loss: .*sigmoyd"):
        plan()
    write_overlay("mcc").write_text("loss: [", encoding="utf-8")
    with pytest.raises(StudyError, match=r"cannot read the config files .*mcc.yaml"):
        plan()


def test_a_data_set_is_read_before_the_first_training(plan: Callable[..., Study], bundle: Path) -> None:
    path = bundle / "configs" / "train.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["datalist"]["validation"] = []
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(StudyError, match=r"--dataset-dir: .* has no cases in its validation part"):
        plan()
    config["datalist"] = {"_target_": "monai_lossext.data.skin_lesion_datalist", "dataset_dir": "@dataset_dir"}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(StudyError, match=r"--dataset-dir: .* is not recognised"):
        plan()


def test_runs_with_other_settings_are_never_mixed(
    plan: Callable[..., Study], watcher: Recorder, write_overlay: Callable[..., Path], tmp_path: Path
) -> None:
    run_study(plan(), watcher)
    plan(section="testing")  # scores other cases with the same weights
    with pytest.raises(StudyError, match=r"made with other settings \(epochs 3, now 4\)"):
        plan(epochs=4)
    plan(epochs=4, output=tmp_path / "other")
    overlay = write_overlay("mcc", skill=9)
    with pytest.raises(StudyError, match=r"mcc/seed-0 was made with other settings .config_files_sha256"):
        plan()
    overlay.write_text("# a remark changes nothing\nloss: {skill: 0.3, fail: ''}\n", encoding="utf-8")
    plan()


def test_the_metric_of_the_findings_stays(plan: Callable[..., Study], watcher: Recorder) -> None:
    run_study(plan(), watcher)
    with pytest.raises(StudyError, match=r"^--primary: .* was begun with jaccard, now dice: "):
        plan(primary="dice")


def test_a_data_set_that_changed_is_refused(plan: Callable[..., Study], bundle: Path, tmp_path: Path) -> None:
    """By names, sizes and parts of its files, once a run has begun."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a.png", "b.png"):
        (data / name).write_bytes(b"12345")
    train = bundle / "configs" / "train.yaml"
    config = yaml.safe_load(train.read_text(encoding="utf-8"))
    items = [{"image": str(data / "a.png"), "label": "b.png"}, {"image": str(data / "a.png")}]
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"training": items, "validation": items[1:]}), encoding="utf-8")
    config["datalist"] = f"$__import__('json').loads(__import__('pathlib').Path({str(listed)!r}).read_text())"
    train.write_text(yaml.safe_dump(config), encoding="utf-8")
    study = plan(dataset_dir=data)
    (data / "b.png").write_bytes(b"1234567")
    plan(dataset_dir=data)  # nothing was trained yet
    save_state(run_folder(study), {"settings": study.runs()[0].settings(), "trained": False})
    plan(dataset_dir=data)
    listed.write_text(json.dumps({"training": items[1:], "validation": items}), encoding="utf-8")
    with pytest.raises(StudyError, match=r"or in another part, the first of them the division into parts"):
        plan(dataset_dir=data)
    listed.write_text(json.dumps({"training": items, "validation": items[1:]}), encoding="utf-8")
    plan(dataset_dir=data)
    (data / "b.png").write_bytes(b"1")
    with pytest.raises(StudyError, match=r"is not what the runs .* 1 files are new, gone, of another size.*b\.png"):
        plan(dataset_dir=data)


def run_folder(study: Study) -> Path:
    folder = study.runs()[0].folder
    folder.mkdir(parents=True)
    return folder
