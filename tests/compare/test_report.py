from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from monai_lossext.compare.figures import COLOURS, box_plot
from monai_lossext.compare.plan import Study, StudyError
from monai_lossext.compare.report import summary_rows, write_report
from monai_lossext.compare.results import Results, read_results
from monai_lossext.compare.run import run_study

from .conftest import CASES, Recorder
from .fake_bundle import METRICS


class Page(HTMLParser):
    """The text, tags and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    @property
    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


@pytest.fixture
def study_results(plan: Callable[..., Study], watcher: Recorder) -> Callable[..., Results]:
    def study_results(losses: str = "SoftDiceLoss,mcc", **options: object) -> Results:
        study = plan(losses, **options)
        return read_results(study, run_study(study, watcher))

    return study_results


def test_the_report_is_one_page_that_needs_no_other_file(study_results: Callable[..., Results]) -> None:
    path = write_report(study_results())
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert len(page.images) == 2 + 2 * len(METRICS) + 4
    for image in page.images:
        kind, _, data = str(image["src"]).partition("base64,")
        assert kind == "data:image/png;"
        assert Image.open(BytesIO(base64.b64decode(data))).width > 500
        assert len(str(image["alt"])) > 40
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "a"})
    assert not any({"href", "srcset", "onload", "style"} & attributes.keys() for _, attributes in page.tags)
    for reference in ("http:", "https:", "url(", "@import"):
        assert reference not in html
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_names_and_messages_are_shown_and_not_obeyed(
    study_results: Callable[..., Results], write_overlay: Callable[..., Path]
) -> None:
    write_overlay("monai_dice", fail="train")
    path = write_report(study_results("SoftDiceLoss,mcc,monai_dice"))
    html, markdown = (path.with_name(name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"b", "nan"})
    assert "loss is <nan>" in page.text
    assert "loss is &lt;nan&gt;" in markdown
    assert "monai_dice, seed 0: the training failed: exit code 3" in page.text
    cases = pd.read_csv(path.with_name("cases.csv"), dtype=str)
    assert "<b>&$a_1$" in set(cases["case"])
    figures = Path(path).with_name("figures")
    assert {file.stem for file in figures.iterdir()} >= {"overlay-best", "overlay-worst", "box-jaccard"}


def test_every_case_name_can_be_drawn(study_results: Callable[..., Results], plan: Callable[..., Study]) -> None:
    results = study_results()
    worst = results.cases["case"] == "<b>&$a_1$"
    results.cases.loc[worst, "jaccard"] = -1.0
    page = Page(write_report(results).read_text(encoding="utf-8"))
    assert "Worst case by the mean over the losses: <b>&$a_1$." in page.text
    assert any("<b>&$a_1$" in str(image["alt"]) for image in page.images)


def test_the_tables_hold_what_was_computed(study_results: Callable[..., Results]) -> None:
    results = study_results(seeds=(0, 1))
    path = write_report(results)
    cases = pd.read_csv(path.with_name("cases.csv"))
    assert list(cases) == ["loss", "seed", "case", *METRICS]
    assert len(cases) == 2 * 2 * CASES
    folder = results.study.runs()[0].folder
    pd.testing.assert_series_equal(
        cases["dice"][:CASES], pd.read_csv(folder / "evaluation" / "cases.csv")["dice"], check_exact=True
    )
    summary = pd.read_csv(path.with_name("summary.csv")).set_index(["loss", "metric"])
    mean = cases.loc[cases["loss"] == "SoftDiceLoss", "dice"].mean()
    assert summary.loc[("SoftDiceLoss", "dice"), "mean"] == pytest.approx(mean)
    (pair,) = results.comparisons
    assert pd.read_csv(path.with_name("comparisons.csv"))["p_holm"].tolist() == [pytest.approx(pair.p_holm)]
    page = Page(path.read_text(encoding="utf-8"))
    assert f"{mean:.3f} ± {summary.loc[('SoftDiceLoss', 'dice'), 'standard_error']:.3f}" in page.text
    assert "Mean Jaccard index of every training: Loss seed 0 seed 1" in page.text


def test_the_report_names_test_number_of_cases_and_limits(study_results: Callable[..., Results]) -> None:
    path = write_report(study_results())
    page = Page(path.read_text(encoding="utf-8"))
    markdown = path.with_name("report.md").read_text(encoding="utf-8")
    for words in (f"{CASES} validation cases", "Wilcoxon signed-rank test", "seed-to-seed variation was not measured"):
        assert words in page.text
        assert words in markdown
    assert "Holm" in page.text
    assert "--config_file=" in page.text


def test_no_difference_is_not_called_one(study_results: Callable[..., Results]) -> None:
    page = Page(write_report(study_results("SoftDiceLoss,monai_dice")).read_text(encoding="utf-8"))
    assert "no difference shown" in page.text
    assert "has a higher" not in page.text


def test_undefined_scores_are_counted(study_results: Callable[..., Results]) -> None:
    results = study_results()
    soft_dice = results.cases["loss"] == "SoftDiceLoss"
    results.cases.loc[soft_dice, "dice"] = [np.nan] * 3 + [0.5] * (CASES - 3)
    results.cases["mcc"] = np.nan
    first, _ = summary_rows(results)
    assert first.cells["dice"] == f"0.500 ± 0.000 (n = {CASES - 3})"
    assert first.cells["mcc"] == "n/a"
    path = write_report(results)
    names = {file.stem for file in path.with_name("figures").iterdir()}
    assert "density-dice" in names
    assert "density-mcc" not in names


def test_the_baseline_is_what_the_others_are_compared_with(study_results: Callable[..., Results]) -> None:
    results = study_results("SoftDiceLoss,mcc,monai_dice", baseline="mcc")
    pairs = {(pair.first, pair.second): pair.p_holm for pair in results.comparisons}
    assert [row.p for row in summary_rows(results)] == [
        pairs["SoftDiceLoss", "MatthewsCorrelationLoss"],
        None,
        pairs["MatthewsCorrelationLoss", "monai_dice"],
    ]


def test_pictures_that_were_moved_cost_only_the_outlines(study_results: Callable[..., Results]) -> None:
    results = study_results()
    results.cases["image"] = "moved.jpg"
    page = Page(write_report(results).read_text(encoding="utf-8"))
    assert "The outlines could not be drawn: [Errno 2] No such file or directory: 'moved.jpg'" in page.text
    assert len(page.images) == 2 + 2 * len(METRICS)


def test_colours_of_losses_do_not_depend_on_which_have_failed(
    study_results: Callable[..., Results], write_overlay: Callable[..., Path]
) -> None:
    write_overlay("soft_dice", fail="train")
    results = study_results("SoftDiceLoss,mcc")
    boxes = box_plot(results, "dice").figure.axes[0].patches
    assert [box.get_facecolor()[:3] for box in boxes] == [to_rgb(COLOURS[1])]


def test_twelve_losses_and_one_case_fit(
    study_results: Callable[..., Results], write_overlay: Callable[..., Path]
) -> None:
    names = [f"a_rather_long_name_of_a_loss_{i}" for i in range(11)] + ["$_{$"]  # broken mathematics, to matplotlib
    for name in names:
        write_overlay(name)
    results = study_results(",".join(names))
    results = replace(results, cases=results.cases[results.cases["case"] == "case_03"])
    page = Page(write_report(results).read_text(encoding="utf-8"))
    assert "1 validation cases" in page.text


def test_a_table_of_cases_without_scores_is_refused(study_results: Callable[..., Results]) -> None:
    results = study_results()
    path = results.study.runs()[0].folder / "evaluation" / "cases.csv"
    pd.read_csv(path).drop(columns="jaccard").to_csv(path, index=False)
    with pytest.raises(StudyError, match=r"cases.csv lacks the columns jaccard"):
        study_results()


def test_case_names_are_kept_as_text(study_results: Callable[..., Results]) -> None:
    results = study_results()
    path = results.study.runs()[0].folder / "evaluation" / "cases.csv"
    table = pd.read_csv(path)
    table["case"] = ["007", "NA", *table["case"][2:]]
    table.to_csv(path, index=False)
    assert list(study_results().cases["case"])[:2] == ["007", "NA"]
