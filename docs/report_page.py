"""Take the report of a study into the documentation.

    python docs/report_page.py STUDY NAME --dataset-dir /data/ISIC2017

writes docs/reports/NAME.md: the report.md of the study without its outlines, which show pictures of the data set, and
with other folders in the place of those of this machine; its figures, in few colours, and the scores of all cases go
into docs/reports/NAME/. STUDY is the folder of a study, whose report is there. Where that is gone it is the study's
file, and the report is written anew from the scores in docs/reports/NAME/; what they do not tell, the learning curves
and how the study was done, stays as it is on the page.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import yaml
from PIL import Image

from monai_lossext.compare.check import plan_study
from monai_lossext.compare.report import NO_OUTLINES, as_markdown, write_report
from monai_lossext.compare.results import NO_METRICS, Results, chosen
from monai_lossext.compare.study_file import read_study_file

ROOT = Path(__file__).resolve().parents[1]
COLOURS = 64
WIDTH = 900  # pixels
FIGURE = re.compile(r"\]\(figures/(?P<name>[^)]+\.png)\)")
DATE = re.compile(r"(?<= · )\d{4}-\d\d-\d\d$", re.MULTILINE)
KEPT = ("## Learning curves\n", "## How it was done\n")  # sections that scores do not tell


def sections(report: str) -> list[str]:
    """Return the parts of a report, each from its heading on."""
    return re.split(r"(?m)^(?=## )", report)


def page(report: str, folders: dict[str, str], name: str) -> str:
    """Return a report for the documentation.

    Args:
        report: contents of report.md.
        folders: what to write in the place of which folder.
        name: of the folder of the figures.
    """
    text = "".join(part for part in sections(report) if not part.startswith("## Pictures"))
    longest_first = sorted(folders.items(), key=lambda pair: -len(pair[0]))  # one may hold others
    for folder, other in longest_first:
        text = text.replace(folder, other).replace(as_markdown(folder), as_markdown(other))
    text = FIGURE.sub(rf"]({name}/\g<name>)", text)
    return re.sub(r"\n{3,}", "\n\n", text)


def report_of_scores(study_file: Path, scores: Path, dataset_dir: str, folder: Path) -> str:
    """Write the report of a study, of which a table of scores is left, into a folder; return its report.md."""
    study = plan_study(**{**read_study_file(study_file), "dataset_dir": dataset_dir, "output": folder}, check=False)
    cases = pd.read_csv(scores, dtype={"case": str}).assign(image="", label="", mask="")
    metrics = chosen([column for column in cases if column not in NO_METRICS], study.metrics, study.primary)
    report = write_report(Results(study, cases, pd.DataFrame(), metrics, []))
    return report.with_suffix(".md").read_text(encoding="utf-8").replace(as_markdown(NO_OUTLINES) + "\n\n", "")


def with_kept_sections(new: str, old: str) -> str:
    """Return a page with the sections of an old one that scores do not tell, and its date."""
    head, *told = (part for part in sections(new) if not part.startswith(KEPT))
    others = iter(told)  # their headings name the primary metric, which may be another one now
    parts = [part if part.startswith(KEPT) else next(others) for part in sections(old)[1:]]
    return "".join([DATE.sub(lambda _: DATE.findall(old)[0], head), *parts, *others])


def again(study_file: Path, name: str, dataset_dir: str, folder: Path) -> str:
    """Return the page of a study anew, from the scores that are kept of it; figures are drawn in a folder."""
    target = ROOT / "docs" / "reports" / name
    report = report_of_scores(study_file, target / "scores.csv.gz", dataset_dir, folder)
    return with_kept_sections(page(report, {}, name), target.with_suffix(".md").read_text(encoding="utf-8"))


def from_study(study_folder: Path, name: str, dataset_dir: str) -> str:
    """Return the page of a study whose folder is there, and keep its scores."""
    study = yaml.safe_load((study_folder / "study.yaml").read_text(encoding="utf-8"))
    folders = {
        study["dataset_dir"]: dataset_dir,
        str(Path(study["output"]).parent): "build",
        str(Path(study["bundle"]).parent): "bundles",
        f"{ROOT}/": "",  # configs that stand elsewhere
    }
    start = Path(study.get("initial_weights", ""))
    if "runs" in start.parts:  # those of another study
        folders[str(Path(*start.parts[: start.parts.index("runs") - 1]))] = "build"
    target = ROOT / "docs" / "reports" / name
    target.mkdir(parents=True, exist_ok=True)
    scores = pd.read_csv(study_folder / "report" / "cases.csv").round(4)
    scores.to_csv(target / "scores.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    return page((study_folder / "report" / "report.md").read_text(encoding="utf-8"), folders, name)


def small(source: Path, target: Path) -> None:
    """Write a figure with fewer pixels and colours."""
    with Image.open(source) as image:
        image.thumbnail((WIDTH, WIDTH * 4), Image.Resampling.LANCZOS)
        image.convert("RGB").quantize(COLOURS).save(target, optimize=True)


def main() -> None:
    """Read the command line and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study's folder, or its file")
    parser.add_argument("name", help="of the page")
    parser.add_argument("--dataset-dir", required=True, help="what to write in the place of the data set's folder")
    arguments = parser.parse_args()
    target = ROOT / "docs" / "reports" / arguments.name
    with TemporaryDirectory() as folder:
        if arguments.study.is_file():
            made = Path(folder)
            text = again(arguments.study, arguments.name, arguments.dataset_dir, made)
        else:
            made = arguments.study
            text = from_study(made, arguments.name, arguments.dataset_dir)
        shown = re.findall(rf"\({re.escape(arguments.name)}/([^)]+\.png)\)", text)
        for old in target.glob("*.png"):
            if old.name not in shown:
                old.unlink()
        for name in shown:
            if (figure := made / "report" / "figures" / name).is_file():
                small(figure, target / name)
    text += f"\n[The scores of all cases of all trainings]({arguments.name}/scores.csv.gz)\n"
    target.with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
