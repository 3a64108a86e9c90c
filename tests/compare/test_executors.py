"""Runs in several processes of this machine and on a Ray cluster: the same results, wherever and however often."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from monai_lossext.compare import executors, trial
from monai_lossext.compare.check import plan_study
from monai_lossext.compare.executors import LocalExecutor, available_threads
from monai_lossext.compare.job import read_history, read_state
from monai_lossext.compare.plan import Study, StudyError
from monai_lossext.compare.run import run_study

from .conftest import Recorder
from .driving import Driver, gone, tables, wait_for

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs pip install "monai_lossext[ray]"')


class Spans(Recorder):
    """Remembers who was at work at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.running: set[str] = set()
        self.together: list[set[str]] = []

    def started(self, run, resumed):  # type: ignore[no-untyped-def]
        super().started(run, resumed)
        self.running.add(run.loss.key)
        self.together.append(set(self.running))

    def ended(self, outcome):  # type: ignore[no-untyped-def]
        super().ended(outcome)
        self.running.discard(outcome.run.loss.key)


@pytest.fixture
def slow_losses(write_overlay: Callable[..., Path]) -> str:
    for name in ("a", "b", "c"):
        write_overlay(name, skill=1 + ord(name) / 1000, seconds=0.15)
    return "a,b,c"


@pytest.mark.parametrize(("processes", "most"), [(1, 1), (2, 2), (3, 3)])
def test_so_many_runs_at_once(plan: Callable[..., Study], slow_losses: str, processes: int, most: int) -> None:
    watcher = Spans()
    study = plan(slow_losses, executor={"name": "local", "processes": processes})
    outcomes = run_study(study, watcher)
    assert [outcome.error for outcome in outcomes] == [""] * 3
    assert [outcome.run.loss.key for outcome in outcomes] == ["a", "b", "c"]
    assert max(map(len, watcher.together)) == most
    assert watcher.epochs == {"a": 3, "b": 3, "c": 3}


def test_threads_are_divided(plan: Callable[..., Study], watcher: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "available_threads", lambda: 7)
    assert LocalExecutor().environment == {}
    assert LocalExecutor(threads=3).environment == {"OMP_NUM_THREADS": "3"}
    assert LocalExecutor(2).environment == {"OMP_NUM_THREADS": "3"}
    assert LocalExecutor(9).environment == {"OMP_NUM_THREADS": "1"}
    assert LocalExecutor(9, threads=2).environment == {"OMP_NUM_THREADS": "2"}
    study = plan("mcc", executor={"processes": 2})
    run_study(study, watcher)
    entries = json.loads((study.runs()[0].folder / "environment.json").read_text(encoding="utf-8"))
    assert {entry["OMP_NUM_THREADS"] for entry in entries} == {"3"}


def test_available_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert available_threads() == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert available_threads() >= 1


def test_an_interrupted_study_ends_all_its_runs(plan: Callable[..., Study], slow_losses: str) -> None:
    study = plan(slow_losses, executor={"processes": 3}, epochs=1000)

    class Impatient(Recorder):
        def epoch(self, *_: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(study, Impatient())
    done = [len(read_history(run.folder)) for run in study.runs()]
    time.sleep(0.5)
    assert [len(read_history(run.folder)) for run in study.runs()] == done
    assert not any(read_state(run.folder).get("error") for run in study.runs())


@pytest.mark.parametrize(
    ("executor", "message"),
    [
        ("slurm", "--executor: expected one of local, ray, got 'slurm'"),
        ({"name": "local", "gpus": 1}, "--executor: local has no gpus; it has processes, threads"),
        ({"name": "ray", "processes": 2}, "--executor: ray has no processes; it has address, cpus, gpus, retries"),
        ({"processes": 0}, "--processes: expected at least 1, got 0"),
        ({"name": "ray", "retries": -1}, "--retries: expected 0 or more, got -1"),
        ({"name": "ray", "cpus": 0}, "--cpus: expected a number above 0, got 0"),
        ({"proceses": 2}, r"--executor: unknown key 'proceses'; did you mean processes\?"),
    ],
)
def test_bad_executors_are_refused(plan: Callable[..., Study], executor: object, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        plan(executor=executor)


def test_an_absent_ray_names_the_extra(
    plan: Callable[..., Study], watcher: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(StudyError, match=r'--executor: ray is not installed: pip install "monai_lossext\[ray\]"'):
        run_study(plan(executor="ray"), watcher)


@pytest.fixture
def driver(bundle: Path, pictures: Path, tmp_path: Path) -> Callable[..., Driver]:
    """Make a driver of a study of two losses: name of its folder, and further options."""

    def make(output: str, *more: object) -> Driver:
        common = ("--bundle", bundle, "--losses", "SoftDiceLoss,mcc", "--dataset-dir", pictures)
        return Driver("run", *common, "--output", tmp_path / output, *more)

    return make


@needs_ray
@pytest.mark.slow
def test_ray_gives_the_same_tables_though_the_driver_was_killed(
    driver: Callable[..., Driver], write_overlay: Callable[..., Path], tmp_path: Path
) -> None:
    write_overlay("mcc", skill=0.3, seconds=0.3)
    epochs = ("--epochs", 20)
    assert driver("local", *epochs).run().returncode == 0
    run = tmp_path / "ray" / "runs" / "mcc" / "seed-0"
    children = driver("ray", *epochs, "--executor", "ray", "--cpus", 1).kill_when(lambda: len(read_history(run)) == 2)
    wait_for(lambda: gone(children), 15)
    assert len(read_history(run)) < 20
    finished = driver("ray", *epochs, "--executor", "ray", "--cpus", 0.5).run()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert read_state(run)["resumed"] is True
    assert tables(tmp_path / "ray") == tables(tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_a_bundle_is_tried_where_ray_will_train_it(plan: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(run: object) -> dict[str, object]:
        return {"written": [f"process-{os.getpid()}"], "losses": []}

    def broken(run: object) -> dict[str, object]:
        raise StudyError("--bundle: a batch failed")

    monkeypatch.setattr(trial, "has_engines", lambda bundle: True)
    study = plan(executor={"name": "ray"})
    for attempt, said in ((elsewhere, "writes outside of the run's folder: process-"), (broken, "a batch failed")):
        monkeypatch.setattr(trial, "try_run", attempt)
        with pytest.raises(StudyError, match=said) as caught:
            trial.verify(study, print)
        assert f"process-{os.getpid()}" not in str(caught.value)


@needs_ray
@pytest.mark.slow
def test_a_run_goes_on_when_its_ray_worker_is_killed_but_not_for_ever(
    driver: Callable[..., Driver], write_overlay: Callable[..., Path], tmp_path: Path
) -> None:
    assert driver("local").run().returncode == 0
    write_overlay("mcc", skill=0.3, fail="worker")
    finished = driver("ray", "--executor", "ray", "--retries", 1).run()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    run = tmp_path / "ray" / "runs" / "mcc" / "seed-0"
    stages = [entry["stage"] for entry in json.loads((run / "environment.json").read_text(encoding="utf-8"))]
    assert stages == ["training", "training", "evaluation"]
    assert tables(tmp_path / "ray") == tables(tmp_path / "local")
    lost = driver("lost", "--executor", "ray", "--retries", 0).run()
    assert lost.returncode == 1
    assert "1 of 2 runs failed" in lost.stderr
    assert "MatthewsCorrelationLoss, seed 0: WorkerCrashedError: " in lost.stdout
    assert "WorkerCrashedError" in read_state(tmp_path / "lost" / "runs" / "mcc" / "seed-0")["error"]


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_there_is_used_and_may_lose_a_machine(
    driver: Callable[..., Driver], write_overlay: Callable[..., Path], tmp_path: Path
) -> None:
    from ray.cluster_utils import Cluster

    for loss, skill in (("soft_dice", 0.5), ("mcc", 0.3)):
        write_overlay(loss, skill=skill, seconds=0.3)
    epochs = ("--epochs", 20)
    assert driver("local", *epochs).run().returncode == 0
    folders = [tmp_path / "ray" / "runs" / loss / "seed-0" for loss in ("soft_dice", "mcc")]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        other = cluster.add_node(num_cpus=1)
        with ThreadPoolExecutor() as pool:
            future = pool.submit(driver("ray", *epochs, "--executor", "ray", "--address", cluster.address).run)
            wait_for(lambda: future.done() or all(len(read_history(folder)) >= 2 for folder in folders), 90)
            assert not future.done(), future.result().stderr
            cluster.remove_node(other, allow_graceful=False)
            finished = future.result()
    finally:
        cluster.shutdown()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert sorted(read_state(folder)["resumed"] for folder in folders) == [False, True]
    assert tables(tmp_path / "ray") == tables(tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_what_ray_cannot_give_is_refused(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    write = ("--bundle", bundle, "--losses", "mcc", "--dataset-dir", pictures, "--output", tmp_path / "study")
    refused = Driver("run", *write, "--executor", "ray", "--gpus", 1000).run()
    assert refused.returncode == 2
    assert "error: --gpus: expected at most " in refused.stderr
    refused = Driver("run", *write, "--executor", "ray", "--address", "127.0.0.1:1").run()
    assert refused.returncode == 2
    assert "error: --address: cannot use the Ray cluster 127.0.0.1:1" in refused.stderr


def test_the_executor_decides_nothing_else(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    def settings(executor: object) -> object:
        study = plan_study(bundle, ["mcc"], pictures, tmp_path / "study", executor=executor)  # type: ignore[arg-type]
        return study.runs()[0].settings()

    assert settings("local") == settings({"name": "ray", "gpus": 0.5})
