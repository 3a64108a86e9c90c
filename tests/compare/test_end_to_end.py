"""The real bundle, trained for an epoch on a few phantoms."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from monai_lossext.compare.check import plan_study
from monai_lossext.compare.metrics import METRICS
from monai_lossext.compare.report import write_report
from monai_lossext.compare.results import read_results
from monai_lossext.compare.run import run_study
from monai_lossext.data import write_dermoscopy_phantoms

from .conftest import Recorder


@pytest.mark.slow
def test_the_bundle_is_compared(bundles_dir: Path, tmp_path: Path, watcher: Recorder) -> None:
    data = write_dermoscopy_phantoms(tmp_path / "phantoms", 12, progress=False)
    study = plan_study(
        bundles_dir / "skin_lesion_segmentation",
        ["SoftDiceLoss", "monai_dice_ce"],
        data,
        tmp_path / "study",
        epochs=1,
        section="testing",
        overrides={"batch_size": "4"},
    )
    outcomes = run_study(study, watcher)
    assert [outcome.error for outcome in outcomes] == ["", ""]
    results = read_results(study, outcomes)
    assert results.losses == ["SoftDiceLoss", "monai_dice_ce"]
    assert results.metrics == [
        metric for metric in METRICS if not metric.endswith(("_mm", "_ml", "_2mm"))
    ]  # of volumes
    assert list(results.histories["epoch"]) == [1, 1]
    report = write_report(results)
    pictures = len(list(data.glob("ISIC-2017_Test_v2_Data/*.jpg")))
    assert len(pd.read_csv(report.with_name("cases.csv"))) == 2 * pictures
    assert (report.with_name("figures") / "overlay-best.png").is_file()
    assert all(outcome.reused for outcome in run_study(study, watcher))
