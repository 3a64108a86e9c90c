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


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own for all but compiled loops, which take long to make."""
    from monai_lossext.losses.engine.cpu.runtime import cache_folder, digest_of_sources

    loops, folder = cache_folder() / digest_of_sources(), tmp_path / "cache"
    for made in (loops, folder):
        made.mkdir(parents=True, exist_ok=True)
    (folder / loops.name).symlink_to(loops)
    monkeypatch.setenv("MONAI_LOSSEXT_CACHE", str(folder))
    return folder


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
