"""What is built from the repository: the wheel that is installed, and the copy of the source, with everything."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from setuptools import find_packages

import monai_lossext

ROOT = Path(__file__).resolve().parents[1]
BUILD = "import sys, setuptools.build_meta as b; _, to = sys.argv; b.build_wheel(to); b.build_sdist(to)"
NOT_COPIED = (".git", ".venv*", "__pycache__", "_build", "generated", "build", "dist", "*.egg-info", ".*_cache", "demo")


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """The files of the repository, or of the copy of its source that the tests run from."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        pytest.skip("no repository")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and a copy of the source, built from a copy of the repository."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_COPIED))
    (folder / "dist").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder / "dist")],
        cwd=folder / "source",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is absent from the `packages` configuration" not in done.stderr
    return folder / "dist"


def test_the_wheel_holds_package_and_bundles(built: Path, tracked: set[str]) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(ZipFile(wheel).namelist())
    needed = {name for name in tracked if name.startswith("monai_lossext/")}
    needed |= {f"monai_lossext/{name}" for name in tracked if name.startswith("bundles/")}
    assert sorted(needed - names) == []
    assert all(name.startswith(("monai_lossext/", "monai_lossext-")) for name in names)


def test_the_copy_of_the_source_holds_everything(built: Path, tracked: set[str]) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sorted(tracked - names) == []


def test_all_packages_are_installed() -> None:
    """They are listed one by one, because the bundles lie outside of the package in the repository."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = config["options"]["packages"].split()
    assert sorted(listed) == sorted([*find_packages(str(ROOT), include=["monai_lossext*"]), "monai_lossext.bundles"])


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.findall(r"^## (\d\S*) - (\S+)$", changes, re.MULTILINE)[0]
    assert newest == (monai_lossext.__version__, str(citation["date-released"]))
    assert citation["version"] == monai_lossext.__version__
    assert len(citation["references"]) == 4
