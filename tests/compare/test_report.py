from __future__ import annotations

import base64
import re
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

from monai_lossext.compare.figures import COLOURS, box_plot, forest_plot, object_size, overlays, significance_matrix
from monai_lossext.compare.plan import Study, StudyError
from monai_lossext.compare.report import secondary_rows, summary_rows, write_report
from monai_lossext.compare.report import title as report_title
from monai_lossext.compare.results import Results, read_results
from monai_lossext.compare.run import Outcome, run_study

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
    assert len(page.images) == 4 + 2 * len(METRICS) + 4
    for image in page.images:
        kind, _, data = str(image["src"]).partition("base64,")
        assert kind == "data:image/png;"
        assert Image.open(BytesIO(base64.b64decode(data))).width > 500
        assert len(str(image["alt"])) > 40
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert not any({"srcset", "onload", "style"} & attributes.keys() for _, attributes in page.tags)
    vectors = [str(attributes["href"]) for _, attributes in page.tags if "href" in attributes]
    assert len(vectors) == 4
    for vector in vectors:
        kind, _, data = vector.partition("base64,")
        assert kind == "data:image/svg+xml;"
        assert b"<svg" in base64.b64decode(data)
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


HOSTILE = "<script>alert(1)</script> $(rm -rf ~) `id`; \x1b[31m\x1b]0;owned\x07 | **b** [x](javascript:y)\n# heading"


def test_hostile_names_and_messages_do_no_harm(study_results: Callable[..., Results]) -> None:
    """Names of cases and columns, and the lines of a log, in the page, in Markdown and in the names of files."""
    results = study_results("SoftDiceLoss,mcc")
    renamed = {"mcc": "../../<img src=x onerror=y>|`"}
    cases = results.cases.rename(columns=renamed)
    cases["case"] = cases["case"].replace("case_03", HOSTILE)
    cases.loc[cases["case"] == HOSTILE, "jaccard"] = -1.0
    failed = [Outcome(results.study.runs()[0], f"the training failed: exit code 1\n{HOSTILE}")]
    results = replace(results, cases=cases, metrics=["jaccard", "dice", *renamed.values()], failed=failed)
    path = write_report(results)
    page = Page(path.read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "b"})
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "<script>alert(1)</script> $(rm -rf ~) `id`;" in page.text
    assert sum("<script>" in str(image["alt"]) for image in page.images) == 1
    markdown = path.with_name("report.md").read_text(encoding="utf-8")
    for text in (path.read_text(encoding="utf-8"), markdown):
        assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)
        assert "owned" not in text
    assert "<script" not in markdown
    assert not re.search(r"^# heading", markdown, re.MULTILINE)
    assert r"\[x\](javascript:y)" in markdown
    assert "](javascript" not in markdown.replace(r"\](", "")
    assert r"\*\*b\*\*" in markdown
    assert r"\`id\`" in markdown
    figures = path.with_name("figures")
    assert {file.parent for file in path.parents[1].rglob("*.png") if "runs" not in file.parts} == {figures}
    assert (figures / "box-.._.._img_src_x_onerror_y_.png").is_file()


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
    tests = pd.read_csv(path.with_name("comparisons.csv"))
    assert list(tests["metric"]) == list(METRICS)
    assert tests[["p", "p_holm"]].loc[0].tolist() == pytest.approx([pair.p, pair.p_holm])
    page = Page(path.read_text(encoding="utf-8"))
    assert f"{mean:.3f} ± {summary.loc[('SoftDiceLoss', 'dice'), 'standard_error']:.3f}" in page.text
    assert "Mean Jaccard index of every training: Loss seed 0 seed 1 SD between seeds" in page.text
    markdown = path.with_name("report.md").read_text(encoding="utf-8")
    assert "SD between seeds |\n|---|---|---|---|\n| SoftDiceLoss |" in markdown


def test_the_report_names_test_number_of_cases_and_limits(study_results: Callable[..., Results]) -> None:
    path = write_report(study_results())
    page = Page(path.read_text(encoding="utf-8"))
    markdown = path.with_name("report.md").read_text(encoding="utf-8")
    for words in (
        f"{CASES} validation cases",
        "Wilcoxon signed-rank test",
        "so no loss is marked",
    ):
        assert words in page.text
        assert words in markdown
    assert "Holm" in page.text
    assert "--config_file=" in page.text


def test_no_difference_is_not_called_one(study_results: Callable[..., Results]) -> None:
    page = Page(write_report(study_results("SoftDiceLoss,monai_dice")).read_text(encoding="utf-8"))
    assert "no difference shown" in page.text
    assert "has a higher" not in page.text


def test_the_matrix_shows_what_the_tests_say(study_results: Callable[..., Results]) -> None:
    results = study_results("SoftDiceLoss,mcc,monai_dice", seeds=(0, 1, 2))
    picture = significance_matrix(results)
    axes = picture.figure.axes[0]
    verdicts = np.asarray(axes.images[0].get_array())
    for pair in results.comparisons:
        row, column = (results.losses.index(loss) for loss in (pair.first, pair.second))
        expected = (1 if pair.better == pair.first else -1) if pair.significant else 0
        assert (verdicts[row, column], verdicts[column, row]) == (expected, -expected)
    assert sorted(verdicts.ravel()) == [-1, -1, 0, 0, 0, 0, 0, 1, 1]
    assert "MatthewsCorrelationLoss better than SoftDiceLoss" in picture.alt
    assert "monai_dice better" not in picture.alt


def test_undefined_scores_are_counted(study_results: Callable[..., Results]) -> None:
    results = study_results()
    soft_dice = results.cases["loss"] == "SoftDiceLoss"
    results.cases.loc[soft_dice, "dice"] = [np.nan] * 3 + [0.5] * (CASES - 3)
    results.cases["mcc"] = np.nan
    first, _ = summary_rows(results)
    assert first.cells["dice"] == f"0.500 ± 0.000 (n = {CASES - 3})"
    assert first.cells["mcc"] == "n/a"
    path = write_report(results)
    page = Page(path.read_text(encoding="utf-8"))
    told = re.search(r"undefined and left out: (.+?)\. A sens", page.text)
    assert told is not None
    assert told[1] == "Dice coefficient (F1) SoftDiceLoss 3, MatthewsCorrelationLoss 0; Matthews correlation 14"
    names = {file.stem for file in path.with_name("figures").iterdir()}
    assert "density-dice" in names
    assert "density-mcc" not in names


def test_the_baseline_is_what_the_others_are_compared_with(study_results: Callable[..., Results]) -> None:
    results = study_results("SoftDiceLoss,mcc,monai_dice", baseline="mcc", seeds=(0, 1))
    pairs = {(pair.first, pair.second): pair.p for pair in results.comparisons}
    assert [row.p for row in summary_rows(results)] == [
        pairs["SoftDiceLoss", "MatthewsCorrelationLoss"],
        None,
        pairs["MatthewsCorrelationLoss", "monai_dice"],
    ]


def test_pictures_that_were_moved_cost_only_the_outlines(study_results: Callable[..., Results]) -> None:
    results = study_results()
    results.cases["image"] = "moved.jpg"
    page = Page(write_report(results).read_text(encoding="utf-8"))
    assert re.search(
        r"The outlines could not be drawn: \[Errno 2\] No such file or directory: '.*moved.jpg'", page.text
    )
    assert len(page.images) == 4 + 2 * len(METRICS)


def test_pictures_that_the_bundle_does_not_name_are_no_error(study_results: Callable[..., Results]) -> None:
    """As those of the model zoo's layout, which say nowhere where a case lies."""
    results = study_results()
    page = Page(write_report(replace(results, cases=results.cases.assign(image="", label=""))).read_text("utf-8"))
    assert "Outlines are not drawn: the evaluation of this bundle does not tell where the pictures are." in page.text
    assert "Errno" not in page.text


def test_titles_tell_reports_apart(study_results: Callable[..., Results], tmp_path: Path) -> None:
    results = study_results("SoftDiceLoss,mcc,monai_dice", seeds=(0, 1))
    path = write_report(results)
    html = path.read_text(encoding="utf-8")
    title = "Which loss? bundle: 3 losses, 2 seeds, 3 epochs"
    assert f"<title>{title}</title>" in html
    assert f"<h1>{title}</h1>" in html
    assert path.with_suffix(".md").read_text(encoding="utf-8").startswith(f"# {title}\n")
    assert title != report_title(study_results("SoftDiceLoss", output=tmp_path / "other"))


def test_marks_are_those_of_the_rankings(study_results: Callable[..., Results]) -> None:
    results = study_results("SoftDiceLoss,mcc,monai_dice", seeds=(0, 1, 2))
    for row in summary_rows(results):
        for ranked in results.rankings:
            assert (row.marks[ranked.metric] == "top") == (row.loss in ranked.top)
            if row.marks[ranked.metric] == "inferior":
                assert row.loss in ranked.inferior_to_all
    path = write_report(results)
    page = Page(path.read_text(encoding="utf-8"))
    assert "Top group by the mean Jaccard index" in page.text
    assert "MatthewsCorrelationLoss. Mean ranks over the 14 cases" in page.text
    assert sum(attributes.get("class") == "top" for tag, attributes in page.tags if tag == "td") == len(METRICS)
    rankings = pd.read_csv(path.with_name("rankings.csv"))
    assert rankings.groupby("metric")["top_ranked"].sum().tolist() == [1] * len(METRICS)
    assert [(row.n, row.best, row.top, row.pairs) for row in secondary_rows(results)] == [
        (CASES, "MatthewsCorrelationLoss", 1, 3)
    ] * 2


def test_scores_by_object_size_are_drawn_where_sizes_are_known(study_results: Callable[..., Results]) -> None:
    results = study_results()
    page = Page(write_report(results).read_text(encoding="utf-8"))
    assert "does not tell the sizes" in page.text
    few = replace(results, cases=results.cases.assign(foreground=0.1))
    assert "takes 20 cases or more" in Page(write_report(few).read_text(encoding="utf-8")).text
    many = pd.concat([few.cases.assign(case=few.cases["case"] + str(i), foreground=0.1 + i / 10) for i in range(3)])
    page = Page(write_report(replace(results, cases=many)).read_text(encoding="utf-8"))
    (alt,) = [str(image["alt"]) for image in page.images if "by object size" in str(image["alt"])]
    for loss, score in few.cases.groupby("loss")["dice"].mean().items():
        assert f"{loss} {score:.3f} to {score:.3f}" in alt


def test_sizes_of_very_different_objects_have_a_readable_axis(study_results: Callable[..., Results]) -> None:
    """On a logarithmic axis matplotlib writes mathematics, which here would stand as it is."""
    results = study_results()
    sizes = results.cases.groupby("loss").cumcount().map(lambda i: 0.001 * 1.6**i)
    axes = object_size(replace(results, cases=results.cases.assign(foreground=sizes)), "dice").figure.axes[0]
    axes.figure.canvas.draw()
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    shown = [label for label in axes.get_xticklabels(which="both") if low <= label.get_position()[0] <= high]
    assert 3 <= len([label for label in shown if label.get_text()]) <= 10
    assert all(re.fullmatch(r"[0-9.]*", label.get_text()) for label in shown)


def test_distances_are_marked_as_lower_is_better(study_results: Callable[..., Results]) -> None:
    results = study_results()
    cases = results.cases.rename(columns={"dice": "hausdorff95_px"})
    page = Page(write_report(replace(results, cases=cases, metrics=["jaccard", "hausdorff95_px"])).read_text("utf-8"))
    assert "95 % Hausdorff distance (pixels) ↓" in page.text
    (row,) = secondary_rows(replace(results, cases=cases, metrics=["jaccard", "hausdorff95_px"]))
    assert row.best == "SoftDiceLoss"  # whose values, here really its Dice coefficients, are lower


def test_a_small_error_has_digits_that_tell_losses_apart(study_results: Callable[..., Results]) -> None:
    results = study_results()
    cases = results.cases.rename(columns={"dice": "ece"}).assign(hausdorff_px=12.3456)
    first, _ = summary_rows(replace(results, cases=cases, metrics=["jaccard", "ece", "hausdorff_px"]))
    assert re.fullmatch(r"0\.\d{3} ± 0\.\d{3}", first.cells["ece"])
    assert first.cells["hausdorff_px"] == "12.35 ± 0.00"


def test_folds_are_told_apart(study_results: Callable[..., Results]) -> None:
    results = study_results()
    fold = results.cases.groupby("loss").cumcount() % 2
    histories = pd.concat([results.histories.assign(fold=number) for number in (0, 1)])
    results = replace(results, cases=results.cases.assign(fold=fold), histories=histories)
    path = write_report(results)
    page = Page(path.read_text(encoding="utf-8"))
    assert "Mean Jaccard index of every training: Loss fold 0, seed 0 fold 1, seed 0 SD between seeds" in page.text
    assert "The cases of 2 folds are pooled" in page.text
    assert list(pd.read_csv(path.with_name("cases.csv")))[:4] == ["loss", "fold", "seed", "case"]
    assert f"{CASES} validation cases" in page.text


def test_the_outlines_have_the_score_that_they_had(study_results: Callable[..., Results]) -> None:
    results = study_results(seeds=(0, 1))
    drawn = next(overlays(results))
    case = re.search(r"losses: (.+?)\. Reference", drawn.caption)
    assert case is not None
    rows = results.cases[(results.cases["case"] == case[1]) & (results.cases["seed"] == 0)].set_index("loss")
    titles = [axes.get_title() for axes in drawn.figure.axes if axes.get_title()]
    assert titles[1:] == [f"{loss}\n{rows.loc[loss, 'jaccard']:.3f}" for loss in results.losses]
    assert "first training is shown" in drawn.caption


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
        write_overlay(name, skill=1.0 + names.index(name) / 10)
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


def test_the_answer_comes_first_and_the_settings_are_told(study_results: Callable[..., Results]) -> None:
    results = study_results("SoftDiceLoss,mcc,monai_dice", seeds=(0, 1, 2), margin=0.01)
    path = write_report(results)
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert str(page.images[0]["alt"]).startswith("Differences of pairs: MatthewsCorrelationLoss over SoftDiceLoss +")
    assert html.index("<img") < html.index("<table")
    assert "@media screen and (prefers-color-scheme: dark)" in html  # paper is never dark
    assert (
        "@media print { :root { color-scheme: light; } details::details-content { content-visibility: visible;" in html
    )
    assert [tag for tag, _ in page.tags].count("details") == 5
    markdown = path.with_name("report.md").read_text(encoding="utf-8").replace("\\", "")
    for text in (page.text, " ".join(markdown.split())):
        assert "trained under 3 losses (SoftDiceLoss, MatthewsCorrelationLoss, monai_dice)" in text
        assert "with 3 seeds each, and scored by the Jaccard index on 14 validation cases" in text
        assert "Losses whose interval lay within 0.01 were called equivalent." in text
        assert "pages = {1693--1702}" in text
        assert "skill=2.05" in text
    assert (path.parent / "figures" / "differences.svg").read_text(encoding="utf-8").count("<svg") == 1


def test_the_forest_draws_the_intervals(study_results: Callable[..., Results]) -> None:
    results = study_results("SoftDiceLoss,mcc,monai_dice", seeds=(0, 1, 2))
    axes = forest_plot(results).figure.axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 2]
    largest_first = sorted(results.comparisons, key=lambda pair: -abs(pair.difference))
    for pair, line in zip(largest_first, lines, strict=True):
        sign = 1 if pair.better == pair.first else -1
        assert sorted(line.get_xdata()) == pytest.approx(sorted([sign * pair.low, sign * pair.high]))
    points = [line for line in axes.lines if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in points] == [3, 3, 3]
