"""Sphinx configuration. The table of losses is written from the catalogue before each build."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import monai_lossext  # noqa: E402
from monai_lossext.losses import catalogue  # noqa: E402

project = "monai_lossext"
version = release = monai_lossext.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"monai_lossext {version}"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
FAMILIES = {
    "voxel": "Voxel losses",
    "region": "Region losses",
    "boundary": "Boundary losses",
    "compound": "Compound losses",
}


def write_family_pages(app: Sphinx) -> None:
    """Write one page a family of losses, from the catalogue."""
    folder = HERE / "generated"
    folder.mkdir(exist_ok=True)
    for family, title in FAMILIES.items():
        entries = [entry for entry in catalogue() if entry.family == family]
        lines = [f"# {title}", "", "Written from `monai_lossext.losses.catalogue()`.", ""]
        for entry in entries:
            lines += [
                f"## {entry.name}",
                "",
                f"- **Formula** `{entry.formula}`",
                f"- **Good for** {entry.good_for}",
                f"- **Range** {entry.range}",
                f"- **Source** {entry.paper}",
                f"- **Nearest in MONAI** {entry.monai}: {entry.difference}",
                *([f"- **Combine with** {entry.partner}"] if entry.partner else []),
                *([f"- **Without gradient** {entry.without_gradient}"] if entry.without_gradient else []),
                f"- **Compiles into one graph** {'yes' if entry.graph else 'no: distances are computed on the CPU'}",
                "",
                "```{eval-rst}",
                f".. autoclass:: {entry.target}",
                "   :show-inheritance:",
                "```",
                "",
            ]
        if entries:
            (folder / f"{family}.md").write_text("\n".join(lines), encoding="utf-8")


def escape_axes(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep the ``*S`` of shapes from being read as the start of emphasis."""
    lines[:] = [line.replace(" *S", r" \*S") for line in lines]


def setup(app: Sphinx) -> None:
    """Register what is done before the build and to each docstring."""
    app.connect("builder-inited", write_family_pages)
    app.connect("autodoc-process-docstring", escape_axes)
