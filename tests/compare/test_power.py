from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from monai_lossext.cli import app
from monai_lossext.compare.plan import Study
from monai_lossext.compare.power import Spread, cases_needed, smallest_difference, spread_of, table
from monai_lossext.compare.run import run_study, write_study

from .conftest import Recorder
from .simulation import NOISE, Setting, as_table, run, simulate


@pytest.mark.parametrize(("losses", "seeds", "cases"), [(2, 3, 149), (5, 2, 60), (10, 5, 149)])
def test_the_smallest_difference_is_found_as_often_as_it_says(losses: int, seeds: int, cases: int) -> None:
    spread = Spread(0.005, 0.02, NOISE)
    effect = smallest_difference(spread, cases, seeds, losses)
    verdicts = run(Setting(losses, seeds, 0.005, own=0.02, effect=effect, cases=cases), 1000)
    assert (verdicts.difference[:, 0] > verdicts.half[:, 0]).mean() == pytest.approx(0.8, abs=0.05)


def test_the_spread_of_a_pilot_is_recovered() -> None:
    scores = simulate(Setting(5, 10, 0.02, own=0.04), 3, np.random.default_rng(0))
    for study in scores:
        found = spread_of(as_table(study), "jaccard")
        assert found is not None
        assert (found.trainings, found.own, found.noise) == pytest.approx((0.02, 0.04, NOISE), rel=0.3)
    assert spread_of(as_table(scores[0][:, :1]), "jaccard") is None
    assert spread_of(as_table(scores[0][:1]), "jaccard") is None


def test_more_seeds_and_cases_show_more() -> None:
    numbers = table(Spread(0.005, 0.03), [20, 100, 1000], [2, 3, 10], 3)
    assert (np.diff(numbers, axis=0) < 0).all()
    assert (np.diff(numbers, axis=1) < 0).all()
    assert np.isinf(table(Spread(0.005, 0.03), [100], [1], 3)).all(axis=None)
    needed = cases_needed(Spread(0.005, 0.03), 0.02, 5, 3)
    assert needed is not None
    assert smallest_difference(Spread(0.005, 0.03), needed, 5, 3) <= 0.02
    assert smallest_difference(Spread(0.005, 0.03), needed - 1, 5, 3) > 0.02
    assert cases_needed(Spread(0.02, 0.03), 0.001, 2, 3) is None


def test_the_command_takes_numbers_or_a_pilot(plan: Callable[..., Study], watcher: Recorder, tmp_path: Path) -> None:
    runner = CliRunner()
    options = ["compare", "power", "--spread", "0.005", "--case-sd", "0.07", "--difference", "0.02", "--seeds", "2,5"]
    result = runner.invoke(app, [*options, "--output", str(tmp_path / "power.svg")])
    assert result.exit_code == 0, result.output
    assert "0.02 with 2 seeds: not with 20000 cases" in result.output
    assert (tmp_path / "power.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert "name a finished study as pilot" in runner.invoke(app, ["compare", "power"]).output
    assert "numbers from 2 on" in runner.invoke(app, [*options[:-1], "1,x"]).output
    study = plan("SoftDiceLoss,mcc", seeds=(0, 1))
    write_study(study)
    assert "is finished yet" in runner.invoke(app, ["compare", "power", str(study.output)]).output
    run_study(study, watcher)
    result = runner.invoke(app, ["compare", "power", str(study.output)])
    assert result.exit_code == 0, result.output
    assert "Smallest difference between two of 2 losses" in " ".join(result.output.split())


def test_the_plan_says_what_the_study_can_show(
    plan: Callable[..., Study], bundle: Path, watcher: Recorder, tmp_path: Path
) -> None:
    study = plan("SoftDiceLoss,mcc", seeds=(0, 1, 2))
    assert study.cases == 14
    write_study(study)
    runner = CliRunner()
    output = " ".join(runner.invoke(app, ["compare", "plan", str(study.output)]).output.split())
    assert "With 14 cases, 2 losses and 3 seeds it shows a difference of 0." in output
    assert "as those of docs/isic2017.md" in output
    run_study(study, watcher)
    output = " ".join(runner.invoke(app, ["compare", "plan", str(study.output)]).output.split())
    assert "going by its finished runs" in output
    write_study(plan("SoftDiceLoss,mcc", output=tmp_path / "once"))
    output = " ".join(runner.invoke(app, ["compare", "plan", str(tmp_path / "once")]).output.split())
    assert "With one seed it can compare trained networks, but no losses" in output
