"""Fixtures shared by the whole suite."""

from __future__ import annotations

import locale
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REAL_DATA = Path(os.environ.get("MONAI_LOSSEXT_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(autouse=True)
def _same_locale() -> Iterator[None]:
    """Undo the "C" locale that writing DICOM with SimpleITK leaves behind: it decides how text files are read."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture(scope="session")
def bundles_dir() -> Path:
    """The folder that holds the bundles."""
    return ROOT / "bundles"


@pytest.fixture(scope="session")
def isic2017() -> Path:
    """Real dermoscopy pictures in the official ISIC 2017 layout; skips where they are absent."""
    folder = REAL_DATA / "isic2017"
    if not folder.is_dir():
        pytest.skip(f"real ISIC 2017 pictures not found at {folder}; set MONAI_LOSSEXT_TEST_DATA to the data folder")
    return folder
