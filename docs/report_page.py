"""Take the report of a study into the documentation.

    python docs/report_page.py STUDY NAME --dataset-dir /data/ISIC2017

writes docs/reports/NAME.md: the report.md of the study without its outlines, which show pictures of the data set, and
with other folders in the place of those of this machine; its figures, in few colours, and the scores of all cases go
into docs/reports/NAME/.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pandas as pd
import yaml
from PIL import Image

from monai_lossext.compare.report import as_markdown

ROOT = Path(__file__).resolve().parents[1]
COLOURS = 64
WIDTH = 900  # pixels
FIGURE = re.compile(r"\]\(figures/(?P<name>[^)]+\.png)\)")


def page(report: str, folders: dict[str, str], name: str) -> str:
    """Return a report for the documentation.

    Args:
        report: contents of report.md.
        folders: what to write in the place of which folder.
        name: of the folder of the figures.
    """
    sections = [part for part in re.split(r"(?m)^(?=## )", report) if not part.startswith("## Pictures")]
    text = "".join(sections)
    longest_first = sorted(folders.items(), key=lambda pair: -len(pair[0]))  # one may hold others
    for folder, other in longest_first:
        text = text.replace(folder, other).replace(as_markdown(folder), as_markdown(other))
    text = FIGURE.sub(rf"]({name}/\g<name>)", text)
    return re.sub(r"\n{3,}", "\n\n", text)


def small(source: Path, target: Path) -> None:
    """Write a figure with fewer pixels and colours."""
    with Image.open(source) as image:
        image.thumbnail((WIDTH, WIDTH * 4), Image.Resampling.LANCZOS)
        image.convert("RGB").quantize(COLOURS).save(target, optimize=True)


def main() -> None:
    """Read the command line and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study's folder")
    parser.add_argument("name", help="of the page")
    parser.add_argument("--dataset-dir", required=True, help="what to write in the place of the data set's folder")
    arguments = parser.parse_args()
    study = yaml.safe_load((arguments.study / "study.yaml").read_text(encoding="utf-8"))
    folders = {
        study["dataset_dir"]: arguments.dataset_dir,
        str(Path(study["output"]).parent): "build",
        str(Path(study["bundle"]).parent): "bundles",
    }
    start = Path(study.get("initial_weights", ""))
    if "runs" in start.parts:  # those of another study
        folders[str(Path(*start.parts[: start.parts.index("runs") - 1]))] = "build"
    text = page((arguments.study / "report" / "report.md").read_text(encoding="utf-8"), folders, arguments.name)
    target = ROOT / "docs" / "reports" / arguments.name
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.png"):
        old.unlink()
    for name in re.findall(rf"\({re.escape(arguments.name)}/([^)]+\.png)\)", text):
        small(arguments.study / "report" / "figures" / name, target / name)
    scores = pd.read_csv(arguments.study / "report" / "cases.csv").round(4)
    scores.to_csv(target / "scores.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    text += f"\n[The scores of all cases of all trainings]({arguments.name}/scores.csv.gz)\n"
    target.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
