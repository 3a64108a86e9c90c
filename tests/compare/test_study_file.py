"""Study files: what they may hold, what is said about mistakes, and that they ask for what options ask for."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from typer.testing import CliRunner, Result

from monai_lossext.cli import app
from monai_lossext.compare.check import plan_study
from monai_lossext.compare.job import read_state
from monai_lossext.compare.plan import Study, StudyError, safe_name
from monai_lossext.compare.report import write_report
from monai_lossext.compare.results import read_results
from monai_lossext.compare.run import bundle_command, run_study, write_study
from monai_lossext.compare.study_file import SCHEMA, read_study_file
from monai_lossext.data import lesion_phantom

from .conftest import CASES, Recorder

LESIONS = Path(__file__).parents[2] / "benchmarks" / "lesions"
TVERSKY = "monai_lossext.losses.SoftTverskyLoss"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def study_file(bundle: Path, pictures: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a study file with the required keys and others; None leaves one out."""

    def write(**values: object) -> Path:
        required = {
            "bundle": "bundle",
            "losses": ["SoftDiceLoss", "mcc"],
            "dataset_dir": str(pictures),
            "output": "out",
        }
        kept = {key: value for key, value in {**required, **values}.items() if value is not None}
        path = tmp_path / "my.yaml"
        path.write_text(yaml.safe_dump(kept), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bundel": "b"}, "unknown key 'bundel'; did you mean bundle?"),
        ({"xyz": 1}, "unknown key 'xyz'; known: bundle, losses,"),
        ({"losses": None}, "losses: is missing; expected a list of losses"),
        ({"output": None}, "output: is missing; expected the folder for runs and report"),
        ({"losses": "mcc"}, "losses: expected a list of losses, each a name or a dictionary, got 'mcc'"),
        ({"losses": []}, "losses: expected a list of losses, each a name or a dictionary, got []"),
        ({"losses": ["mcc", 3]}, "losses[1]: expected the name of a loss, or a dictionary with _target_"),
        ({"losses": ["mc"]}, "losses: bundle has no overlay for 'mc'. Did you mean mcc?"),
        ({"losses": [{"nmae": "x"}]}, "losses: expected a name, a dictionary with _target_ or one with loss and name"),
        ({"losses": [{"loss": "mcc", "nmae": "x"}]}, "losses: unknown key 'nmae' in"),
        ({"losses": [{"loss": "mcc", "learning_rate": "fast"}]}, "losses: learning_rate: expected a number above 0"),
        ({"losses": [{"loss": {"sigmoid": True}, "name": "x"}]}, 'losses: loss: {"sigmoid": true} has no _target_'),
        ({"losses": [{"loss": "mcc", "name": "a\nb"}]}, "losses: name: expected a line of 1 to 100 characters"),
        ({"losses": [{"_target_": "monai.losses.NoLoss"}]}, "losses: 'NoLoss' of the study file does not make a loss"),
        ({"losses": [{"_target_": TVERSKY}] * 2}, "is named twice (as SoftTverskyLoss); give each a name of its own"),
        ({"losses": [{"loss": "mcc", "name": n} for n in "Aa"]}, "is named twice (as A)"),
        ({"epochs": "ten"}, "epochs: expected a number of epochs, at least 1, got 'ten'"),
        ({"epochs": 0}, "epochs: expected a number of epochs, at least 1, got 0"),
        ({"epochs": True}, "epochs: expected a number of epochs, at least 1, got True"),
        (
            {"seeds": [0, -1]},
            "seeds: expected a number of seeds, at least 1, or a list of seeds from 0 on, got",
        ),
        ({"seeds": [1, 1]}, "seeds: expected different whole numbers from 0 on, got [1, 1]"),
        ({"section": "train"}, "section: expected validation or testing, got 'train'"),
        ({"folds": 1}, "folds: expected a number of folds, at least 2, got 1"),
        ({"folds": 2, "section": "validation"}, "section: with folds the cases that each leaves out are scored"),
        ({"folds": 2, "split_file": "my.yaml"}, "folds: a split file divides the cases already"),
        ({"folds": 2, "overrides": {"fold": 1}}, "overrides: fold is set by --folds"),
        ({"split_file": "no.yaml"}, "split_file: there is no file"),
        ({"configs": ["no.yaml"]}, "configs: there is no file"),
        ({"dataset_dir": "nowhere"}, "dataset_dir: there is no folder"),
        ({"bundle": "../nowhere"}, "nowhere is not a bundle that can be compared, it has no configs/train.yaml"),
        ({"skip_bad": "yes please"}, "skip_bad: expected true or false, got 'yes please'"),
        ({"overrides": {"lerning_rate": 1}}, "overrides: lerning_rate is not in the bundle's train.yaml; did you mean"),
        ({"overrides": {"initial_weights": "x"}}, "overrides: initial_weights is set by the study itself"),
        ({"learning_rate": "fast"}, "learning_rate: expected a number above 0, got 'fast'"),
        (
            {"pretraining": {"loss": "mcc"}},
            "pretraining: epochs is missing; expected a dictionary with loss and",
        ),
        ({"pretraining": {"loss": "mc", "epochs": 1}}, "pretraining: bundle has no overlay for 'mc'"),
        ({"pretraining": {"loss": "mcc", "epochs": 1, "epoch": 1}}, "pretraining: unknown key 'epoch'; did you mean"),
        ({"initial_weights": "no.pt"}, "initial_weights: there is no file"),
        (
            {"initial_weights": "my.yaml", "pretraining": {"loss": "mcc", "epochs": 1}},
            "initial_weights: the losses start from a pretraining already",
        ),
        ({"executor": {"name": "ray", "gpu": 1}}, "executor: unknown key 'gpu'; did you mean gpus?"),
        ({"executor": "slurm"}, "executor: expected one of local, ray, got 'slurm'"),
        ({"executor": {"processes": 1.5}}, "executor: processes: expected a number of runs at the same time"),
        ({"baseline": "monai_dice"}, "baseline: 'monai_dice' is not among the losses SoftDiceLoss"),
        ({"output": "a#b"}, "output: MONAI's configs take a # for a separator; rename the folder"),
    ],
)
def test_a_mistake_is_named_by_its_key(
    study_file: Callable[..., Path], values: dict[str, object], message: str
) -> None:
    path = study_file(**values)
    result = call("compare", "plan", path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: {path}: {message}") or message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (path.parent / "out").exists()


def test_every_key_is_an_argument_and_described() -> None:
    for key, schema in SCHEMA["properties"].items():
        assert key in plan_study.__annotations__
        assert schema["description"]
        page = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
        assert f"`{key}`" in page


def test_what_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("losses: [", encoding="utf-8")
    assert (
        f"error: {tmp_path / 'my.yaml'}: cannot be read: while parsing" in call("compare", tmp_path / "my.yaml").stderr
    )
    (tmp_path / "my.yaml").write_text("- mcc", encoding="utf-8")
    assert "my.yaml: expected a dictionary of keys, got ['mcc']" in call("compare", tmp_path / "my.yaml").stderr
    assert "there is no study: no file nowhere" in call("compare", "nowhere").stderr
    assert "holds no study.yaml, it is not the folder of a study" in call("compare", "status", tmp_path).stderr


def test_paths_are_relative_to_the_file(
    study_file: Callable[..., Path], write_overlay: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_overlay("mine").rename(tmp_path / "mine.yaml")
    (tmp_path / "more.yaml").write_text("learning_rate: 1\n", encoding="utf-8")
    losses = ["mine.yaml", {"loss": "mine.yaml", "name": "other"}]
    path = study_file(losses=losses, split_file="more.yaml", configs=["more.yaml"])
    monkeypatch.chdir("/")
    study = plan_study(**read_study_file(path))
    assert (study.output, study.bundle) == (tmp_path / "out", tmp_path / "bundle")
    assert {loss.overlay for loss in study.losses} == {tmp_path / "mine.yaml"}
    assert (study.split_file, study.configs) == (tmp_path / "more.yaml", (tmp_path / "more.yaml",))
    assert f"--split_file={tmp_path / 'more.yaml'}" in bundle_command(study.runs()[0], evaluate=True)


def test_file_and_options_ask_for_the_same(
    study_file: Callable[..., Path], bundle: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies: list[Study] = []
    monkeypatch.setattr("monai_lossext.cli._show_plan", studies.append)
    (tmp_path / "extra.yaml").write_text("learning_rate: 1\n", encoding="utf-8")
    path = study_file(
        epochs=4,
        seeds=[3, 4],
        folds=2,
        baseline="mcc",
        configs=["extra.yaml"],
        overrides={"datalist::x": [1, 2]},
        skip_bad=True,
        metrics=["dice"],
        learning_rate="1e-3",
        pretraining={"loss": "monai_dice", "epochs": 2},
        executor={"name": "ray", "gpus": 0.5, "cpus": 2, "retries": 1, "address": "auto", "threads": 1},
    )
    required = ["--bundle", bundle, "--losses", "SoftDiceLoss,mcc", "--dataset-dir", pictures]
    flags = "--epochs 4 --seed 3 --seeds 2 --folds 2 --baseline mcc --skip-bad --metrics dice --learning-rate 1e-3"
    more = "--pretraining-loss monai_dice --pretraining-epochs 2 --executor ray --gpus 0.5 --cpus 2 --retries 1"
    rest = [
        "--address",
        "auto",
        "--threads",
        1,
        "--config",
        tmp_path / "extra.yaml",
        "--override",
        "datalist::x=[1, 2]",
    ]
    for arguments in (
        [path],
        [*required, "--output", tmp_path / "out", *flags.split(), *more.split(), *rest],
        [path, "--epochs", 9],
        [path, "--executor", "local", "--processes", 2],
        [path, "--gpus", 1],
        [path, "--override", "datalist::y=[2]"],
    ):
        result = call("compare", "plan", *arguments)
        assert result.exit_code == 0, result.stderr
    from_file, from_options, other, local, gpus, added = studies
    assert added.overrides == from_file.overrides | {"datalist::y": "[2]"}  # and not in their place
    assert from_options == from_file
    assert (other.epochs, from_file.epochs) == (9, 4)
    assert (local.execution.name, local.execution.processes, local.execution.threads) == ("local", 2, None)
    assert (gpus.execution.gpus, gpus.execution.cpus) == (1, 2)
    write_study_to = tmp_path / "written"
    write_study_to.mkdir()
    written = write_study_to / "study.yaml"
    written.write_text(yaml.safe_dump(from_file.as_dict()), encoding="utf-8")
    assert plan_study(**read_study_file(written), write=False).runs() == from_file.runs()


def test_options_in_place_of_a_key_are_named_as_options(study_file: Callable[..., Path]) -> None:
    assert call("compare", "plan", study_file(), "--epochs", 0).stderr.startswith(
        "error: --epochs: expected at least 1"
    )


NASTY = [
    "../../etc/passwd",
    "a b; rm -rf $HOME `x`",
    "<script>alert(1)</script>",
    "$_{$",
    "[red]x[",
    "Tversky 0.3/0.7",
    "ß",
]


def test_names_of_losses_do_no_harm(
    plan: Callable[..., Study], watcher: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    items: list[Any] = [{"loss": "mcc", "name": name} for name in NASTY]
    study = plan(items)
    outcomes = run_study(study, watcher)
    assert [outcome.error for outcome in outcomes] == [""] * len(NASTY)
    for name, outcome in zip(NASTY, outcomes, strict=True):
        folder = outcome.run.folder.parent
        assert folder.parent == study.output / "runs"
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", folder.name)
        assert outcome.run.loss.label == name
    assert len({outcome.run.folder for outcome in outcomes}) == len(NASTY)


def test_harmless_names_stay_and_others_stay_apart() -> None:
    assert [safe_name(name) for name in ("soft_dice", "a-1.5")] == ["soft_dice", "a-1.5"]
    others = ["a b", "a/b", "a-b-", ".", "..", "", "x" * 90, "x" * 91]
    assert len({safe_name(name) for name in others}) == len(others)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,70}", safe_name(name)) for name in others)


def test_variants_of_a_loss_are_written_as_overlays(bundles_dir: Path, tmp_path: Path) -> None:
    weights = [(0.3, 0.7), (0.5, 0.5), (0.7, 0.3)]
    items: list[Any] = [
        {"name": f"Tversky {a}/{b}", "_target_": TVERSKY, "sigmoid": True, "alpha": a, "beta": b} for a, b in weights
    ]
    items += [{"_target_": "monai.losses.DiceCELoss", "sigmoid": True, "learning_rate": "1e-4"}]
    bundle = bundles_dir / "skin_lesion_segmentation"
    study = plan_study(bundle, items, "synthetic", tmp_path / "study", check=False, epochs=1)
    study.output.mkdir()
    write_study(study)
    for loss, (alpha, beta) in zip(study.losses, weights, strict=False):
        parser = ConfigParser()
        parser.read_config([bundle / "configs" / "train.yaml", loss.overlay])
        built = parser.get_parsed_content("loss")
        assert (built.alpha, built.beta) == (alpha, beta)
    *_, monai = study.losses
    assert yaml.safe_load(monai.overlay.read_text(encoding="utf-8")) == {
        "loss": {"_target_": "monai.losses.DiceCELoss", "sigmoid": True}
    }
    assert monai.label == "DiceCELoss"
    assert [run.learning_rate for run in study.runs()] == [None, None, None, 1e-4]
    again = plan_study(**read_study_file(study.output / "study.yaml"), check=False)
    assert again == study
    changed: list[Any] = [{**items[0], "alpha": 0.9}, *items[1:]]
    other = plan_study(bundle, changed, "synthetic", tmp_path / "study", check=False, epochs=1)
    assert [a.settings() == b.settings() for a, b in zip(study.runs(), other.runs(), strict=True)] == [False] + [
        True
    ] * 3


def test_a_run_folder_holds_the_merged_config(plan: Callable[..., Study], watcher: Recorder, bundle: Path) -> None:
    protocol = bundle / "protocol.yaml"
    protocol.write_text("+loss: {extra: 1}\n", encoding="utf-8")
    study = plan("mcc", configs=[protocol], overrides={"learning_rate": "0.25"})
    run_study(study, watcher)
    run = study.runs()[0]
    config = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["loss"] == {"skill": 0.3, "fail": "", "extra": 1}
    assert (config["learning_rate"], config["epochs"], config["output_dir"]) == (0.25, 3, str(run.folder))


def test_folds_are_left_out_in_turn_and_pooled(plan: Callable[..., Study], watcher: Recorder, pictures: Path) -> None:
    study = plan(folds=3, seeds=(0, 1))
    assert study.section == "testing"
    outcomes = run_study(study, watcher)
    assert not any(outcome.error for outcome in outcomes)
    assert len(outcomes) == 2 * 3 * 2
    first = study.output / "runs" / "mcc" / "fold-1" / "seed-0"
    calls = [json.loads(line) for line in (first / "calls.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(call["fold"], call["folds"]) for call in calls] == [("1", "3")] * 2
    pooled = [
        pd.read_csv(path)["case"] for path in (study.output / "runs" / "mcc").glob("*/seed-0/evaluation/cases.csv")
    ]
    assert len(pooled) == 3
    assert sorted(pd.concat(pooled)) == sorted(path.stem for path in (pictures / "testing" / "images").iterdir())
    assert outcomes[0].run.name == "SoftDiceLoss, fold 0, seed 0"


def test_folds_of_a_bundle_without_them_are_refused(bundles_dir: Path, tmp_path: Path) -> None:
    bundle = bundles_dir / "skin_lesion_segmentation"
    message = "--folds: the bundle skin_lesion_segmentation has no fold in its configs/train.yaml"
    with pytest.raises(StudyError, match=message):
        plan_study(bundle, ["mcc"], "synthetic", tmp_path / "study", folds=5)


def test_all_losses_start_from_one_pretraining(
    plan: Callable[..., Study], watcher: Recorder, write_overlay: Callable[..., Path]
) -> None:
    write_overlay("ce", skill=1.5)
    pretraining = {"loss": "ce", "epochs": 2, "learning_rate": 0.5}
    losses: list[Any] = ["SoftDiceLoss", {"loss": "mcc", "learning_rate": 0.01}, {"loss": "ce", "name": "ce on"}]
    study = plan(losses, pretraining=pretraining, learning_rate="1e-3", seeds=(0, 1), executor={"processes": 4})
    outcomes = run_study(study, watcher)
    assert not any(outcome.error for outcome in outcomes)
    sentence = "All losses started from the best weights of 2 epochs with ce of the same seed, with a new optimizer."
    assert sentence in write_report(read_results(study, run_study(study, watcher))).read_text(encoding="utf-8")
    order = [outcome.run.name for outcome in watcher.outcomes]
    for seed in (0, 1):
        folder = study.output / "pretraining" / f"seed-{seed}"
        lines = (folder / "calls.jsonl").read_text(encoding="utf-8").splitlines()
        (first,) = [json.loads(line) for line in lines]
        assert (first["epochs"], first["learning_rate"], first["seed"]) == ("2", "0.5", str(seed))
        assert "initial_weights" not in first
        for key, rate in (("soft_dice", "0.001"), ("mcc", "0.01"), ("ce-on-" + safe_name("ce on")[-6:], "0.001")):
            run = study.output / "runs" / key / f"seed-{seed}"
            train, evaluate = map(json.loads, (run / "calls.jsonl").read_text(encoding="utf-8").splitlines())
            assert train["initial_weights"] == str(folder / "models" / "best.pt")
            assert (train["learning_rate"], train["epochs"]) == (rate, "3")
            assert "initial_weights" not in evaluate
        assert order.index(f"pretraining with ce, seed {seed}") < order.index(f"SoftDiceLoss, seed {seed}")
    assert all(outcome.reused for outcome in run_study(study, watcher))
    with pytest.raises(StudyError, match=r"made with other settings \(epochs 2, now 5\)"):
        plan(losses, pretraining={**pretraining, "epochs": 5}, learning_rate="1e-3", seeds=(0, 1))


def test_all_losses_start_from_weights_that_are_there(
    plan: Callable[..., Study], watcher: Recorder, tmp_path: Path
) -> None:
    weights = tmp_path / "best.pt"
    weights.write_text(json.dumps({"skill": 1.0}), encoding="utf-8")
    study = plan(initial_weights=weights)
    assert not any(outcome.error for outcome in run_study(study, watcher))
    for run in study.runs():
        train, evaluate = map(json.loads, (run.folder / "calls.jsonl").read_text(encoding="utf-8").splitlines())
        assert train["initial_weights"] == str(weights)
        assert "initial_weights" not in evaluate
    report = write_report(read_results(study, run_study(study, watcher))).read_text(encoding="utf-8")
    assert f"All losses started from the same weights, those in {weights}" in report
    assert plan_study(**read_study_file(study.output / "study.yaml")).runs() == study.runs()
    weights.write_text(json.dumps({"skill": 2.0}), encoding="utf-8")
    with pytest.raises(StudyError, match=r"made with other settings \(initial_weights_sha256 "):
        plan(initial_weights=weights)


def test_weights_of_another_network_are_found_before_the_study_begins(bundles_dir: Path, tmp_path: Path) -> None:
    weights = tmp_path / "best.pt"
    torch.save(torch.nn.Linear(2, 1).state_dict(), weights)
    bundle = bundles_dir / "skin_lesion_segmentation"
    options: dict[str, Any] = {"overrides": {"synthetic_cases": 10, "cache_dir": tmp_path / "cache"}}
    with pytest.raises(StudyError, match=r"^--initial-weights: .*best\.pt is of another network: "):
        plan_study(bundle, ["mcc"], "synthetic", tmp_path / "study", initial_weights=weights, **options)


def test_a_failed_pretraining_is_told_for_each_of_its_losses(
    plan: Callable[..., Study], watcher: Recorder, write_overlay: Callable[..., Path]
) -> None:
    path = write_overlay("ce", fail="train")
    study = plan(pretraining={"loss": "ce", "epochs": 1}, seeds=(0, 1))
    outcomes = run_study(study, watcher)
    assert len(outcomes) == 4
    for outcome in outcomes:
        begin = f"pretraining with ce, seed {outcome.run.seed}: the training failed: exit code 3"
        assert outcome.error.startswith(begin)
        assert outcome.error.endswith("loss is <nan>")
        assert read_state(outcome.run.folder)["error"] == outcome.error
    path.write_text(yaml.safe_dump({"loss": {"skill": 1.0}}), encoding="utf-8")
    study = plan(pretraining={"loss": "ce", "epochs": 1}, seeds=(0, 1), output=study.output.with_name("other"))
    assert not any(outcome.error for outcome in run_study(study, watcher))


def test_chosen_metrics_are_reported(plan: Callable[..., Study], watcher: Recorder) -> None:
    from monai_lossext.compare.results import read_results

    study = plan(metrics=["dice"])
    outcomes = run_study(study, watcher)
    assert read_results(study, outcomes).metrics == ["jaccard", "dice"], "the tested one is among them always"
    with pytest.raises(StudyError, match=r"--metrics: the scores have no roundness; they have jaccard, dice, mcc"):
        read_results(plan(metrics=["roundness"]), outcomes)


def test_cases_of_folds_count_once(plan: Callable[..., Study], watcher: Recorder) -> None:
    from monai_lossext.compare.results import read_results

    study = plan(folds=2)
    results = read_results(study, run_study(study, watcher))
    assert results.cases.groupby("loss")["case"].nunique().tolist() == [CASES, CASES]


def test_there_is_room_for_lesions_of_each_fraction() -> None:
    """Of those that benchmarks/lesions/shares.py trains with, and as many lesions as its phantoms have."""
    script = runpy.run_path(str(LESIONS / "shares.py"))
    small = yaml.safe_load((LESIONS / "config" / "small.yaml").read_text(encoding="utf-8"))
    for fraction in script["FRACTIONS"]:
        for lesions in small["phantoms::lesions"]:
            mask = lesion_phantom(0, small["phantoms::size"], lesions=lesions, fraction=fraction).mask
            assert mask.mean() == pytest.approx(fraction, rel=0.02)


LESION_STUDIES = sorted(LESIONS.glob("*.yaml"))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("file", LESION_STUDIES, ids=lambda file: file.stem)
def test_studies_of_lesions_can_be_run(file: Path, tmp_path: Path) -> None:
    """All that is checked before the first training, with phantoms that are made in a moment."""
    values = read_study_file(file)
    small = {"synthetic_cases": 5, "phantoms::size": [32, 36, 32], "phantoms::fraction": [0.002, 0.002]}
    small["fractions"] = [0.6, 0.2, 0.2]
    values["overrides"] = {**values.get("overrides", {}), **small, "phantoms::lesions": [2, 3]}
    study = plan_study(**{**values, "output": tmp_path / "study"})
    assert study.cases == 1
    assert len(study.losses) == len(values["losses"])
