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
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("docs/reports/*.md"),
    *ROOT.glob("bundles/*/docs/*.md"),
]


def test_the_readme_has_the_table_of_the_catalogue():
    assert runpy.run_path(str(ROOT / "docs" / "readme_table.py"))["with_table"](README) == README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} points at {target}"


def test_a_report_comes_into_the_docs_without_outlines_and_folders_of_this_machine():
    page = runpy.run_path(str(ROOT / "docs" / "report_page.py"))["page"]
    report = (
        "# Which loss?\n\n149 cases of /data/my\\_set\n\n## Scores\n\n![box](figures/box.png)\n\n## Pictures\n\n"
        "![case](figures/case.png)\n\n## How it was done\n\n    python --dataset_dir=/data/my_set --output=/data/my\n"
    )
    assert page(report, {"/data/my": "build", "/data/my_set": "/data/ISIC2017"}, "isic") == (
        "# Which loss?\n\n149 cases of /data/ISIC2017\n\n## Scores\n\n![box](isic/box.png)\n\n"
        "## How it was done\n\n    python --dataset_dir=/data/ISIC2017 --output=build\n"
    )


def test_every_public_name_is_in_the_reference():
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    families = {entry.name for entry in catalogue()}
    for name in set(monai_lossext.losses.__all__) - families:
        assert re.search(rf"losses\.{name}$", reference, re.MULTILINE), name
    for module in (monai_lossext.data, monai_lossext.engines, monai_lossext.handlers, monai_lossext.transforms):
        assert f"automodule:: {module.__name__}" in reference
        assert module.__all__
