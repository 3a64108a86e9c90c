"""The README and the documentation keep up with the package."""

from __future__ import annotations

import json
import os
import re
import runpy
from pathlib import Path
from pydoc import locate

import pytest
import yaml

import monai_lossext.data
import monai_lossext.engines
import monai_lossext.handlers
import monai_lossext.losses
import monai_lossext.transforms
from monai_lossext.advice.rules import RULES
from monai_lossext.compare.figures import Picture
from monai_lossext.losses import catalogue

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("docs/reports/*.md"),
    *ROOT.glob("bundles/*/docs/*.md"),
]
BLOCKS = re.MULTILINE | re.DOTALL
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))


def test_the_readme_has_the_table_of_the_catalogue():
    assert runpy.run_path(str(ROOT / "docs" / "readme_table.py"))["with_table"](README) == README
    assert all(f"`{entry.name}`" in README for entry in catalogue())
    assert len(README.splitlines()) < 130


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_hold_what_they_show(notebook, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    import run_notebooks

    found = run_notebooks.run(notebook)
    stored = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert [kinds(cell) for cell in found.cells] == [kinds(cell) for cell in stored]
    assert str([kinds(cell) for cell in stored]).count("image/png") >= 2


def kinds(cell):
    """What a cell printed and drew, by its kinds."""
    return [sorted(output.get("data", {output.get("name"): ""})) for output in cell.get("outputs", [])]


# What the blocks of a page take for granted, so that each can run.
PREPARED = """
import torch
logits = torch.randn(2, 4, 96, 96, 96, requires_grad=True)
label = torch.randint(0, 4, (2, 1, 96, 96, 96))
weights, annotated = torch.rand(2, 1, 96, 96, 96), torch.ones(2, 4, dtype=torch.bool)
mask, classes = weights > 0.5, annotated
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_the_pages_runs_and_configs_name_what_there_is(page):
    names: dict[str, object] = {}
    exec(PREPARED, names)
    for language, block in re.findall(r"^```(python|yaml)\n(.*?)^```$", page.read_text(encoding="utf-8"), BLOCKS):
        if language == "python":
            exec(block, names)
        else:
            yaml.safe_load(block)
            for target in re.findall(r"_target_: (monai\S*\.\w+)", block):
                assert locate(target), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("generated/"):  # written when the documentation is built, which fails where one is missing
            continue
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


def test_titles_tell_the_reports_apart():
    """In the site's sidebar and search."""
    titles = [page.read_text(encoding="utf-8").partition("\n")[0] for page in PAGES if page.parent.name == "reports"]
    assert len(titles) == len(set(titles)) == 6


@pytest.mark.parametrize(
    ("study", "name", "data"),
    [
        ("isic2017/five_losses.yaml", "isic2017_five", "/data/ISIC2017_training"),
        ("lesions/empty_patches.yaml", "lesion_empty_patches", "synthetic"),
    ],
)
def test_the_report_is_made_of_the_scores_that_are_kept(tmp_path, monkeypatch, study, name, data):
    """By today's code, of scores that stand beside the page."""
    monkeypatch.setattr(Picture, "png", lambda self: b"")
    monkeypatch.setattr(Picture, "svg", lambda self: b"")
    script = runpy.run_path(str(ROOT / "docs" / "report_page.py"))
    text = script["again"](ROOT / "benchmarks" / study, name, data, tmp_path)
    page = (ROOT / "docs" / "reports" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(text)
    assert page.removeprefix(text).strip().startswith("[The scores of all cases")


def test_every_public_name_is_in_the_reference():
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    families = {entry.name for entry in catalogue()}
    for name in set(monai_lossext.losses.__all__) - families:
        assert re.search(rf"losses\.{name}$", reference, re.MULTILINE), name
    for module in (monai_lossext.data, monai_lossext.engines, monai_lossext.handlers, monai_lossext.transforms):
        assert f"automodule:: {module.__name__}" in reference
        assert module.__all__


def test_every_argument_of_every_loss_has_its_meaning_on_the_losss_page(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import loss_pages

    for entry in catalogue():
        rows = {name: meaning for name, _, meaning in loss_pages.arguments(entry)}
        assert all(len(meaning) > 10 for meaning in rows.values()), (entry.name, rows)
        page = loss_pages.page(entry, {"soft targets": "told"})
        assert all(f"| `{name}` |" in page for name in rows)
        assert "| soft targets | told |" in page


def test_the_picture_of_the_rules_names_all_of_their_losses(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import which_loss

    for rule in RULES:
        for name in (*rule.first, *rule.avoid):
            assert name.removesuffix("Loss") in which_loss.chart()
            assert name.removesuffix("Loss") in which_loss.table()
        assert rule.when.split()[0] in which_loss.chart()
    assert which_loss.table().count("\n") == 2 + len(RULES)
