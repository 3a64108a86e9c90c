"""Two processes on one study, and processes that are killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from monai_lossext.cli import app
from monai_lossext.compare.check import plan_study
from monai_lossext.compare.job import read_history, read_state
from monai_lossext.compare.locks import in_use, study_lock
from monai_lossext.compare.plan import Study, StudyError
from monai_lossext.compare.run import run_study, write_study
from monai_lossext.data import write_dermoscopy_phantoms

from .conftest import Recorder
from .driving import Driver, gone, tables, trainings, wait_for

HOLD = """
import sys, time
from pathlib import Path
from monai_lossext.compare.locks import study_lock
with study_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_study_is_run_by_one_process_at_a_time(
    plan: Callable[..., Study], watcher: Recorder, bundle: Path, pictures: Path
) -> None:
    study = plan()
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(study.output)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    message = rf"--output: .*study is being worked on by process {holder.pid} on .* since .*compare status, plan and"
    with pytest.raises(StudyError, match=message):
        run_study(study, watcher)
    arguments = ["--bundle", bundle, "--losses", "mcc", "--dataset-dir", pictures, "--output", study.output]
    arguments = list(map(str, arguments))
    refused = CliRunner().invoke(app, ["compare", "run", *arguments])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert f"is being worked on by process {holder.pid} on" in refused.stderr
    planned = CliRunner().invoke(app, ["compare", "plan", *arguments])
    assert "1 runs, 0 finished" in planned.stdout, planned.stderr
    holder.kill()  # the system gives the lock back
    holder.communicate()
    assert in_use(study.output) == ""
    assert not any(outcome.error for outcome in run_study(study, watcher))


def test_a_lock_whose_holder_is_not_known_yet(tmp_path: Path) -> None:
    with study_lock(tmp_path):
        (tmp_path / ".lock.json").write_text("{", encoding="utf-8")
        assert "is being worked on by another process" in in_use(tmp_path)


@pytest.mark.slow
def test_a_killed_study_leaves_no_training_and_goes_on_to_the_same_result(
    plan: Callable[..., Study], write_overlay: Callable[..., Path], bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    write_overlay("mcc", skill=0.3, seconds=0.3)

    def driver(output: Path) -> Driver:
        common = ("--losses", "SoftDiceLoss,mcc", "--dataset-dir", pictures, "--epochs", 4, "--processes", 2)
        return Driver("--bundle", bundle, "--output", output, *common)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert driver(whole).run().returncode == 0
    run = killed / "runs" / "mcc" / "seed-0"
    children = driver(killed).kill_when(lambda: len(read_history(run)) == 2)
    wait_for(lambda: gone(children), 5)
    rows = read_history(run)
    assert len(rows) < 4, "nobody went on"
    assert read_state(run)["trained"] is False
    assert driver(killed).run().returncode == 0
    assert read_state(run)["resumed"] is True
    assert tables(killed) == tables(whole)


def test_a_process_that_still_lives_is_waited_for(
    plan: Callable[..., Study], watcher: Recorder, tmp_path: Path
) -> None:
    """A stopped process cannot notice that its parent has gone; nobody may train in its folder meanwhile."""
    study = plan("mcc")
    folder = study.runs()[0].folder
    folder.mkdir(parents=True)
    script = tmp_path / "old.py"
    script.write_text("import time\nprint('begun', flush=True)\ntime.sleep(1.5)\n", encoding="utf-8")
    command = [sys.executable, "-m", "monai_lossext.compare.child", str(folder), "training", str(script)]
    old = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert old.stdout is not None
    assert old.stdout.readline() == b"begun\n"

    class Looking(Recorder):
        def epoch(self, *arguments: object) -> None:
            assert old.poll() is not None

    (outcome,) = run_study(study, Looking())
    assert not outcome.error
    old.communicate()


def test_a_process_that_never_ends_is_named(
    tmp_path: Path,
) -> None:
    code = "import sys, monai_lossext.compare.child as child; child.LOCK_SECONDS = 0.2; child.main()"
    script = tmp_path / "old.py"
    script.write_text("print('begun', flush=True)\nimport time\ntime.sleep(60)\n", encoding="utf-8")
    commands = [sys.executable, "-c", code, str(tmp_path), "training", str(script)]
    old = subprocess.Popen(commands, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert old.stdout is not None
    assert old.stdout.readline() == b"begun\n"
    new = subprocess.Popen(commands, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert new.stderr is not None
    assert f"another process has been at work in {tmp_path} for the last 0.2 seconds" in new.stderr.read()
    new.communicate()
    assert new.returncode == 1
    old.communicate()  # closes its standard input, which ends it
    assert old.returncode == 1


def test_every_attempt_records_what_it_ran_with(plan: Callable[..., Study], watcher: Recorder) -> None:
    study = plan("mcc")
    run_study(study, watcher)
    entries = json.loads((study.runs()[0].folder / "environment.json").read_text(encoding="utf-8"))
    assert [entry["stage"] for entry in entries] == ["training", "evaluation"]
    for entry in entries:
        assert entry["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
        assert entry["pid"] != os.getpid()


@pytest.mark.slow
def test_the_real_bundle_goes_on_to_the_same_result(bundles_dir: Path, tmp_path: Path, watcher: Recorder) -> None:
    data = write_dermoscopy_phantoms(tmp_path / "phantoms", 12, progress=False)
    bundle = bundles_dir / "skin_lesion_segmentation"

    def study(output: str) -> Study:
        values = {"epochs": 3, "section": "testing", "overrides": {"batch_size": 4}, "executor": {"threads": 1}}
        return plan_study(bundle, ["mcc"], data, tmp_path / output, **values)  # type: ignore[arg-type]

    whole, killed = study("whole"), study("killed")
    (uninterrupted,) = run_study(whole, watcher)
    assert not uninterrupted.error
    code = """
import sys
from pathlib import Path
from monai_lossext.cli import app
app(["compare", "run", sys.argv[1]])
"""
    write_study(killed)
    run = killed.runs()[0].folder
    with subprocess.Popen([sys.executable, "-c", code, str(killed.output)]) as process:
        wait_for(lambda: len(read_history(run)) == 2, 60)
        children = trainings(process.pid)
        process.kill()
    assert children
    wait_for(lambda: gone(children), 5)
    assert not read_state(run)["trained"]
    (outcome,) = run_study(killed, watcher)
    assert not outcome.error
    assert watcher.resumed == {"mcc": True}
    other = whole.runs()[0].folder
    assert (run / "evaluation" / "cases.csv").read_bytes() == (other / "evaluation" / "cases.csv").read_bytes()
    ours, theirs = (
        [{key: value for key, value in row.items() if key != "seconds"} for row in read_history(folder)]
        for folder in (run, other)
    )
    assert ours == theirs
