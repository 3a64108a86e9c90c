"""The README and the documentation keep up with the package."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import monai_lossext.data
import monai_lossext.engines
import monai_lossext.handlers
import monai_lossext.losses
import monai_lossext.transforms
from monai_lossext.losses import catalogue

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bundles/*/docs/*.md")]


def test_the_readme_has_the_table_of_the_catalogue():
    assert runpy.run_path(str(ROOT / "docs" / "readme_table.py"))["with_table"](README) == README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} points at {target}"


def test_every_public_name_is_in_the_reference():
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    families = {entry.name for entry in catalogue()}
    for name in set(monai_lossext.losses.__all__) - families:
        assert re.search(rf"losses\.{name}$", reference, re.MULTILINE), name
    for module in (monai_lossext.data, monai_lossext.engines, monai_lossext.handlers, monai_lossext.transforms):
        assert f"automodule:: {module.__name__}" in reference
        assert module.__all__
