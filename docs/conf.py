"""Sphinx configuration. The pages of the losses are written before each build, see loss_pages.py and which_loss.py."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import loss_pages  # noqa: E402
import which_loss  # noqa: E402

import monai_lossext  # noqa: E402

project = "monai_lossext"
copyright = "2026, the authors of monai_lossext; Apache-2.0"
version = release = monai_lossext.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
]
html_math_renderer = "mathml"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks hold their outputs: run_notebooks.py
exclude_patterns = ["_build", "generated/*-table.md"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"monai_lossext {version}"
autodoc_typehints = "none"
autodoc_member_order = "bysource"


def write_pages(app: Sphinx) -> None:
    """Write a page for every loss, from the catalogue and by calling it, and the rules of the advice."""
    loss_pages.write(HERE / "generated")
    which_loss.write(HERE / "generated")


def escape_axes(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep the ``*S`` of shapes from being read as the start of emphasis."""
    lines[:] = [line.replace(" *S", r" \*S") for line in lines]


def setup(app: Sphinx) -> None:
    """Register what is done before the build and to each docstring."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", escape_axes)
