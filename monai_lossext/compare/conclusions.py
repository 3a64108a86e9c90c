"""Say in plain words what a study shows and what it does not."""

from __future__ import annotations

from collections.abc import Sequence

from monai_lossext.compare.metrics import TESTED, metric_name
from monai_lossext.compare.results import Results
from monai_lossext.compare.statistics import ALPHA, RESAMPLES, Comparison, smallest_p

MAX_SENTENCES = 6
METRIC = metric_name(TESTED)


def findings(results: Results) -> list[str]:
    """Say which differences the test shows; one that it does not show is never called a difference."""
    comparisons = results.comparisons
    if not comparisons:
        return ["Fewer than two losses have results on the same cases, so nothing was compared."]
    shown = [pair for pair in comparisons if pair.significant]
    rest = [pair for pair in comparisons if not pair.significant]
    if len(shown) <= MAX_SENTENCES:
        sentences = [_difference(pair) for pair in sorted(shown, key=lambda pair: pair.p_holm)]
    else:
        sentences = _groups(shown, results.losses)
    if shown and len(results.study.seeds) == 1:
        sentences.append("Each loss was trained only once, and two trainings under one loss may differ as much.")
    if rest:
        sentences.append(_no_difference(rest, len(comparisons)))
    cases = max(pair.n for pair in comparisons)
    floor = smallest_p(cases, len(comparisons))
    if floor >= ALPHA:
        sentences.append(
            f"With {cases} cases and {len(comparisons)} tested pair(s) no p-value can be below {floor:.3g}: a study as"
            " small as this cannot show a difference, however large it is."
        )
    return sentences


def _difference(pair: Comparison) -> str:
    favoured = pair.first_higher if pair.direction > 0 else pair.second_higher
    mean = pair.direction * pair.difference
    sentence = (
        f"{pair.higher} has a higher {METRIC} than {pair.lower} on these cases: higher in {favoured} of {pair.n}, mean"
        f" difference {mean:+.4f} ± {pair.standard_error:.4f}, p {format_p(pair.p_holm)}."
    )
    if mean < 0:
        sentence += " Its mean is nevertheless lower: a few cases in which it is much worse outweigh the others."
    return sentence


def _groups(shown: list[Comparison], losses: list[str]) -> list[str]:
    """Say of many differences which losses are above which, losses above the same ones together."""
    above: dict[tuple[str, ...], list[str]] = {}
    for loss in losses:
        lower = [pair.lower for pair in shown if pair.higher == loss]
        if lower:
            above.setdefault(tuple(other for other in losses if other in lower), []).append(loss)
    return [
        f"On these cases {_and(higher)} {'has' if len(higher) == 1 else 'have'} a higher {METRIC} than {_and(lower)}."
        for lower, higher in above.items()
    ]


def _and(names: Sequence[str]) -> str:
    """Put an "and" between names, and semicolons where a name holds a comma."""
    if any("," in name for name in names):
        return "; ".join(names[:-1]) + "; and " * (len(names) > 1) + names[-1]
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]


def _no_difference(rest: list[Comparison], tested: int) -> str:
    least = format_p(min(pair.p_holm for pair in rest))
    if tested == 1:
        sentence = f"No difference in the {METRIC} between {rest[0].first} and {rest[0].second} was shown (p {least})."
    elif len(rest) == tested:
        sentence = (
            f"For none of the {tested} pairs of losses was a difference in the {METRIC} shown (smallest p {least})."
        )
    else:
        pairs = "one other" if len(rest) == 1 else f"other {len(rest)}"
        sentence = f"For the {pairs} of {tested} pairs no difference in the {METRIC} was shown."
    return f"{sentence} That is no evidence of equality: these cases just do not tell them apart."


def ranking(results: Results) -> list[str]:
    """Say how the losses rank on the tested metric, and which of them belong together."""
    tested = next((ranking for ranking in results.rankings if ranking.metric == TESTED), None)
    if tested is None:
        return []
    ranks = ", ".join(f"{loss} {rank:.2f}" for loss, rank in tested.mean_ranks.sort_values(kind="stable").items())
    inferior = f" Inferior to all others: {', '.join(tested.inferior_to_all)}." if tested.inferior_to_all else ""
    sentences = [
        f"Top-ranked group by the mean {METRIC} (the best mean, and every loss that the bootstrap does not find"
        f" inferior to it): {', '.join(tested.top)}.{inferior}",
        f"Mean ranks over the {tested.n} cases, 1 being best: {ranks}.",
    ]
    if len(results.losses) > 2:
        verdict = "The losses do not all rank alike" if tested.p < ALPHA else "No difference in the ranks was shown"
        sentences.append(
            f"{verdict}: Friedman's test, chi-square {tested.statistic:.2f}, p {format_p(tested.p)}; Kendall's W"
            f" {tested.concordance:.2f}, where 1 means that every case ranks the losses in the same order and 0 that"
            " the cases do not agree at all."
        )
    return sentences


def method(results: Results) -> list[str]:
    """Say which tests were used and why."""
    how = " or ".join(sorted({pair.method for pair in results.comparisons}))
    tested = len(results.comparisons)
    correction = f" after Holm's correction for the {tested} pairs tested" if tested > 1 else ""
    return [
        f"Two-sided Wilcoxon signed-rank test of the {METRIC} of every case, p-value by {how}. It is paired, because"
        " all losses are scored on the same cases and some cases are hard for all of them; it uses ranks, because such"
        " scores are bounded and skewed, which a t-test does not allow for. Cases with equal scores are left out of the"
        f" ranks. A difference is called one when p is below {ALPHA}{correction}.",
        "How large a difference is: the median difference over the cases with its 95 % confidence interval (order"
        " statistics), and the rank-biserial correlation r, from -1 (the second loss is always higher) over 0 to 1 (the"
        " first is always higher).",
        f"The ranking is that of Eelbode et al. 2020: the cases are drawn anew {RESAMPLES:,} times with replacement,"
        " the same cases for all losses, and a loss is inferior to another when fewer than 5 % of the mean differences"
        " say otherwise. It compares means, where the Wilcoxon test compares ranks, and it is not corrected for the"
        " number of losses: it orders them, and is no proof of a difference.",
    ]


def limits(results: Results) -> list[str]:
    """Say what the numbers of the study do not show, whatever they are."""
    study = results.study
    sentences = []
    if study.dataset_dir == "synthetic":
        sentences.append(
            "The pictures are synthetic phantoms: the numbers show that everything works, and say nothing about"
            " pictures of patients."
        )
    if len(study.seeds) == 1:
        sentences.append(
            f"Every loss was trained once (seed {study.seeds[0]}), so seed-to-seed variation was not measured. A"
            " difference between these trained networks is not yet one between the losses: another seed may reverse it."
        )
    else:
        sentences.append(
            f"Every loss was trained with {len(study.seeds)} seeds, and each case counts once, with its mean over them."
            " The test asks whether a difference would hold for other cases; whether it would hold for other seeds is"
            " to be judged by the spread of the means per seed."
        )
    if study.section == "validation":
        sentences.append(
            "The weights were chosen by their score on these same validation cases, so all scores are somewhat too"
            " good. Compare on held-out cases (--section testing) for their true level."
        )
    if "fold" in results.cases:
        sentences.append(
            f"The cases of {results.cases['fold'].nunique()} folds are pooled, and those of one fold share a trained"
            " network: they are less independent than the test takes them to be."
        )
    sentences += _missing_runs(results)
    sentences.append(
        f"The findings rest on the {METRIC} alone, which was chosen beforehand. Each other metric is corrected by"
        " itself only: whoever picks the one that differs most will find differences that are none."
    )
    sentences += _undefined(results)
    sentences.append("This is one data set, one network and one recipe; another may rank the losses differently.")
    return sentences


def _missing_runs(results: Results) -> list[str]:
    runs = results.cases.groupby("loss")[results.runs].apply(lambda rows: len(rows.drop_duplicates()))
    fewer = [loss for loss in results.losses if runs[loss] < runs.max()]
    if not fewer:
        return []
    counts = ", ".join(f"{loss} {runs[loss]}" for loss in fewer)
    return [f"Fewer trainings than of the other losses ({runs.max()}) have results: {counts}. Compare those with care."]


def _undefined(results: Results) -> list[str]:
    """Tell of cases that a metric leaves out, which can favour the loss that causes them."""
    undefined = results.cases.groupby("loss")[results.metrics].agg(lambda column: int(column.isna().sum()))
    told = []
    for metric in results.metrics:
        counts = [undefined.loc[loss, metric] for loss in results.losses]
        if any(counts):
            each = [f"{loss} {count}" for loss, count in zip(results.losses, counts, strict=True)]
            told.append(f"{metric_name(metric)} {counts[0] if len(set(counts)) == 1 else ', '.join(each)}")
    if not told:
        return []
    return [
        f"Scores that are undefined and left out: {'; '.join(told)}. A sensitivity is undefined without an object, a"
        " specificity without background, a correlation where either mask is empty or full: where the numbers differ,"
        " a loss whose masks are empty in hard cases looks better than it is."
    ]


def format_p(p: float) -> str:
    """Write a p-value with its sign: ``= 0.0123`` or ``< 0.001``; small ones so that they do not round to 0.05."""
    return "< 0.001" if p < 0.001 else f"= {p:.4f}" if p < 0.1 else f"= {p:.2f}"
