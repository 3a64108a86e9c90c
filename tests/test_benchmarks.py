"""The tables that the documentation quotes: our side of the hard cases must be without a fault."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

HARD_CASES = Path(__file__).resolve().parents[1] / "benchmarks" / "hard_cases.py"


@pytest.mark.filterwarnings("ignore:single channel prediction")
def test_hard_cases_are_all_right_here_and_not_all_right_in_monai():
    rows = runpy.run_path(str(HARD_CASES))["table"]()
    ours = [value for row in rows for column, value in row.items() if column.startswith("our ")]
    theirs = [value for row in rows for column, value in row.items() if column.startswith("MONAI ")]
    assert set(ours) == {"ok"}
    assert len(set(theirs)) > 1
