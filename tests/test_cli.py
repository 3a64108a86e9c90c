from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from monai.bundle import ConfigParser
from typer.testing import CliRunner, Result

import monai_lossext
from monai_lossext.cli import app
from monai_lossext.losses import catalogue

from .compare.conftest import bundle, pictures, write_overlay

__all__ = ["bundle", "pictures", "write_overlay"]  # fixtures


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "150"})


def module(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m monai_lossext`` in a process of its own after some code."""
    run = f"{code}; import runpy; runpy.run_module('monai_lossext', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", run, *arguments], capture_output=True, text=True, check=False)


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.output.strip()) == (0, monai_lossext.__version__)


def test_losses_are_listed_and_shown_in_full() -> None:
    listed = call("losses")
    assert listed.exit_code == 0
    for entry in catalogue():
        assert entry.name in listed.output
        for name in (entry.name, entry.overlay, entry.name.lower()):
            shown = call("losses", name)
            assert shown.exit_code == 0
            assert entry.target in shown.output
            assert entry.paper.split(",")[0] in shown.output
        config = yaml.safe_load(shown.output[shown.output.index("loss:") :])
        built = ConfigParser(config).get_parsed_content("loss")
        assert entry.name in [type(module).__name__ for module in built.modules()]


def test_an_unknown_loss_gets_a_hint() -> None:
    result = call("losses", "SoftDise")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: there is no loss SoftDise in the catalogue; did you mean SoftDiceLoss?\n"


def test_phantoms_are_written_and_listed(tmp_path: Path) -> None:
    folder, output = tmp_path / "phantoms", tmp_path / "datalist.json"
    result = call("synthesize", folder, "--cases", 5, "--seed", 1)
    assert (result.exit_code, result.output.strip()) == (0, f"written: {folder}")
    result = call("datalist", folder, "--output", output)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "training: 3 cases",
        "validation: 1 cases",
        "testing: 1 cases",
        f"written: {output}",
    ]
    assert len(json.loads(output.read_text(encoding="utf-8"))["training"]) == 3
    masks = "ISIC-2017_Training_Part1_GroundTruth/{case}_segmentation.png"
    result = call("datalist", folder, "--image-pattern", "ISIC-2017_*_Data/{case}.jpg", "--label-pattern", masks)
    assert result.stderr.count("no label by label_pattern") == 2  # of the other parts
    result = call("datalist", folder, "--image-pattern", "ISIC-2017_Training_Data/{case}.jpg", "--label-pattern", masks)
    assert result.stdout.splitlines() == ["training: 2 cases", "validation: 0 cases", "testing: 1 cases"]


def test_heads_are_written_and_listed(tmp_path: Path) -> None:
    folder, output = tmp_path / "heads", tmp_path / "datalist.json"
    result = call("synthesize", folder, "--kind", "heads", "--cases", 5, "--seed", 1)
    assert (result.exit_code, result.output.strip()) == (0, f"written: {folder}")
    assert sum(1 for _ in folder.glob("*.nii.gz")) == 10
    result = call("datalist", folder, "--output", output)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:3] == ["training: 3 cases", "validation: 1 cases", "testing: 1 cases"]
    assert json.loads(output.read_text(encoding="utf-8"))["testing"][0]["subject"].startswith("sub-000")
    result = call("datalist", folder, "--layout", "bids", "--fold", 1, "--folds", 2)
    assert result.stdout.splitlines() == ["training: 2 cases", "validation: 1 cases", "testing: 2 cases"]
    result = call(
        "datalist", folder, "--image-pattern", "{case}_T1w.nii.gz", "--label-pattern", "{case}_brainmask.nii.gz"
    )
    assert result.stdout.splitlines() == ["training: 3 cases", "validation: 1 cases", "testing: 1 cases"]
    result = call("datalist", folder, "--fold", 5)
    assert (result.exit_code, result.stderr) == (2, "error: fold=5: expected 0 to 4, with 5 folds\n")
    assert call("synthesize", folder, "--cases", 5).exit_code == 2
    assert "Invalid value" in call("synthesize", tmp_path / "new", "--kind", "hands").stderr


def test_lesions_are_written_listed_and_measured(tmp_path: Path) -> None:
    folder = tmp_path / "lesions"
    result = call("synthesize", folder, "--kind", "lesions", "--cases", 4, "--lesions", 3, "--fraction", 0.001)
    assert (result.exit_code, result.stdout) == (0, f"written: {folder}\n")
    result = call("datalist", folder, "--intensities", "--output", tmp_path / "list.json")
    assert result.exit_code == 0, result.output
    lines = dict(line.split(": ", 1) for line in result.stdout.splitlines())
    items = json.loads((tmp_path / "list.json").read_text(encoding="utf-8"))["training"]
    flair = np.concatenate([nibabel.load(tmp_path / item["image"][0]).get_fdata().ravel() for item in items])
    assert [len(json.loads(lines[name])) for name in ("intensity_mean", "intensity_std")] == [2, 2]
    assert json.loads(lines["intensity_mean"])[0] == pytest.approx(flair[flair != 0].mean(), rel=1e-4)
    assert json.loads(lines["intensity_std"])[0] == pytest.approx(flair[flair != 0].std(), rel=1e-4)
    assert "for --kind lesions alone" in call("synthesize", tmp_path / "new", "--lesions", 3).stderr
    call("synthesize", tmp_path / "heads", "--kind", "heads", "--cases", 4)
    assert "--intensities is for layout wmh" in call("datalist", tmp_path / "heads", "--intensities").stderr


def test_a_bad_data_set_is_one_message(tmp_path: Path) -> None:
    call("synthesize", tmp_path / "phantoms", "--cases", 5)
    picture = next((tmp_path / "phantoms" / "ISIC-2017_Training_Data").glob("*.jpg"))
    picture.write_bytes(picture.read_bytes()[:999])
    result = call("datalist", tmp_path / "phantoms")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert picture.name in result.stderr
    assert "Traceback" not in result.stderr
    result = call("datalist", tmp_path / "phantoms", "--skip-bad")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "training: 2 cases")
    assert call("datalist", tmp_path / "nowhere").exit_code == 2
    result = call("datalist", tmp_path / "phantoms", "--fold", 0)
    assert (
        result.stderr
        == "error: --fold and --folds are for volumes, that is layout nfbs, bids, volumes, wmh, channels, lesions\n"
    )
    assert "expected a folder" in call("datalist", "").stderr
    result = call("datalist", tmp_path)
    assert all(name in result.stderr for name in ("isic2017:", "nfbs:", "bids:", "did you mean"))


def test_phantoms_are_not_written_over_other_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = call("synthesize", tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path}")


def test_compare_prints_the_table_and_where_the_report_is(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "study"
    arguments = ("compare", "--bundle", bundle, "--losses", "SoftDiceLoss, mcc", "--dataset-dir", pictures)
    result = call(*arguments, "--output", output, "--epochs", 2, "--seed", 5, "--override", "learning_rate=0.3")
    assert result.exit_code == 0, result.output
    assert "SoftDiceLoss, seed 5: finished in 0:00:0" in result.output
    assert f"Report: {output}/report/report.html" in result.output
    assert (output / "report" / "report.html").is_file()
    table = [line.split() for line in result.output.splitlines() if " ±" in line]
    assert [(row[0][:8], " ".join(row).count("±")) for row in table[1:]] == [("SoftDice", 3), ("Matthews", 3)]
    calls = (output / "runs" / "mcc" / "seed-5" / "calls.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["learning_rate"] for line in calls] == ["0.3", "0.3"]


def test_a_failed_run_is_told_and_the_report_is_written(
    bundle: Path, pictures: Path, tmp_path: Path, write_overlay: object
) -> None:
    write_overlay("mcc", fail="train")  # type: ignore[operator]
    arguments = ("compare", "--bundle", bundle, "--dataset-dir", pictures, "--output", tmp_path / "study")
    result = call(*arguments, "--losses", "SoftDiceLoss,mcc")
    assert result.exit_code == 1
    assert "the training failed: exit code 3" in result.output
    assert "loss is <nan>" in result.output
    assert "error: 1 of 2 runs failed" in result.stderr
    assert (tmp_path / "study" / "report" / "report.html").is_file()
    result = call(*arguments[:-1], tmp_path / "other", "--losses", "mcc")
    assert (result.exit_code, (tmp_path / "other" / "report").exists()) == (1, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--losses", "SoftDise"), "error: --losses: bundle has no overlay for 'SoftDise'"),
        (("--losses", "mcc", "--override", "epochs"), "error: --override: expected KEY=VALUE, got epochs"),
        (("--losses", "mcc", "--section", "train"), "error: --section: expected one of validation, testing"),
        ((), "error: --losses: is missing; expected a list of losses"),
    ],
)
def test_compare_refuses_in_one_message(
    bundle: Path, pictures: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = call("compare", "--bundle", bundle, "--dataset-dir", pictures, "--output", tmp_path / "study", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("library", ["typer", "pandas"])
def test_an_absent_library_names_the_extra(library: str, tmp_path: Path) -> None:
    compare = ("compare", "--bundle", "b", "--losses", "l", "--dataset-dir", "d", "--output", str(tmp_path))
    result = module(f"import sys; sys.modules[{library!r}] = None", *compare)
    assert result.returncode == 1
    assert result.stderr == f'error: this command needs {library}: pip install "monai_lossext[compare]"\n'


def test_the_data_commands_need_less(tmp_path: Path) -> None:
    result = module("import sys; sys.modules['PIL'] = None", "datalist", str(tmp_path))
    assert result.returncode == 1
    assert result.stderr == 'error: monai_lossext.data needs PIL: pip install "monai_lossext[bundles]"\n'


def test_the_losses_and_the_help_stay_light() -> None:
    heavy = {"pandas", "matplotlib", "sklearn", "ignite", "SimpleITK"}
    code = f"import sys, monai_lossext.losses, monai_lossext.cli; print({heavy}.intersection(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "set()"
