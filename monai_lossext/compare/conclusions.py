"""Say in plain words what a study shows and what it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai_lossext.compare.metrics import metric_name
from monai_lossext.compare.results import Results
from monai_lossext.compare.statistics import ALPHA, Comparison, smallest_p

MAX_SENTENCES = 6


def findings(results: Results) -> list[str]:
    """Say which differences are shown; with one training each, of these networks alone and never of the losses."""
    pairs = results.comparisons
    if not pairs:
        return ["Fewer than two losses have results on the same cases, so nothing was compared."]
    if max(pair.n for pair in pairs) < 2:
        return ["The losses have one case in common, from which nothing can be said about others."]
    metric = metric_name(results.primary)
    counted = [pair for pair in pairs if pair.counts_trainings]
    single = [pair for pair in pairs if not pair.counts_trainings]
    sentences = []
    if counted and results.study.margin is not None:
        sentences += _by_margin(counted, metric, results.study.margin)
    elif counted:
        sentences += _of_losses(counted, metric, results.losses)
    if single:
        sentences += _of_networks(single, metric, results.losses, among=len(pairs))
    return sentences


def _of_losses(pairs: list[Comparison], metric: str, losses: list[str]) -> list[str]:
    shown = sorted((pair for pair in pairs if pair.significant), key=lambda pair: pair.p)
    if len(shown) > MAX_SENTENCES:
        sentences = _groups([(pair.higher, pair.lower) for pair in shown], losses, metric)
    else:
        sentences = [
            f"{pair.higher} has a higher {metric} than {pair.lower}: mean difference {interval(pair, pair.higher)},"
            f" p {format_p(pair.p)}."
            for pair in shown
        ]
    rest = [pair for pair in pairs if not pair.significant]
    if not rest:
        return sentences
    if len(rest) <= 3:
        return sentences + [
            f"No difference in the {metric} between {pair.first} and {pair.second} was shown; at most"
            f" {pair.at_most:.3f} either way: {interval(pair)}."
            for pair in rest
        ]
    closest, widest = (choose(rest, key=lambda pair: pair.at_most) for choose in (min, max))
    if len(rest) == len(pairs):
        sentence = f"For none of the {len(pairs)} pairs of losses was a difference in the {metric} shown"
    else:
        sentence = f"For {len(rest)} of the {len(pairs)} pairs no difference in the {metric} was shown"
    return [
        *sentences,
        f"{sentence}; it is at most {closest.at_most:.3f} either way for {closest.first} and {closest.second}, and at"
        f" most {widest.at_most:.3f} for {widest.first} and {widest.second}. That is no evidence of equality.",
    ]


def _by_margin(pairs: list[Comparison], metric: str, margin: float) -> list[str]:
    """Say of every pair what its interval says about a margin within which losses count as equivalent."""
    verdicts: dict[str, list[str]] = {}
    for pair in sorted(pairs, key=lambda pair: -abs(pair.difference)):
        verdicts.setdefault(margin_verdict(pair, margin), []).append(
            f"{pair.better} against {pair.worse}, {interval(pair, pair.better)}"
        )
    settled = [f"better by more than {margin:g}", f"equivalent within {margin:g}"]
    order = sorted(verdicts, key=lambda verdict: (verdict not in settled, verdict not in settled[:1]))
    return [f"By the {metric}, {verdict}: {'; '.join(verdicts[verdict])}." for verdict in order]


def margin_verdict(pair: Comparison, margin: float) -> str:
    """Say whether two losses are equivalent within a margin, one is better by more, or it is undecided."""
    nearest = 0.0 if pair.low <= 0 <= pair.high else min(abs(pair.low), abs(pair.high))
    if nearest > margin:
        return f"better by more than {margin:g}"
    if pair.at_most < margin:
        return f"equivalent within {margin:g}"
    if pair.significant:
        return f"better, undecided whether by more than {margin:g}"
    return f"undecided at a margin of {margin:g}"


def interval(pair: Comparison, first: str = "") -> str:
    """Write the mean difference of a pair with its interval, as first - second or as that of `first` over the other."""
    sign = -1 if first == pair.second else 1
    return with_interval(sign * pair.difference, sign * pair.low, sign * pair.high)


def with_interval(value: float, *ends: float) -> str:
    """Write a difference with its interval, whichever end is the lower one; without it where it is NaN.

    >>> with_interval(0.01, 0.03, -0.01), with_interval(0.01, float("nan"), float("nan"))
    ('+0.0100 (-0.0100 to +0.0300)', '+0.0100')
    """
    low, high = sorted(ends)
    digits = 2 if max(abs(low), abs(high)) >= 1 else 4
    return f"{value:+.{digits}f}" + ("" if math.isnan(low) else f" ({low:+.{digits}f} to {high:+.{digits}f})")


def number(value: float, form: str = ".4f") -> str:
    """Write a number; one that is unknown as a dash.

    >>> number(0.5), number(float("nan"))
    ('0.5000', '–')
    """
    return "–" if math.isnan(value) else format(value, form)


def _of_networks(pairs: list[Comparison], metric: str, losses: list[str], among: int) -> list[str]:
    """Say what is shown of networks that were trained once each, and how little that says of their losses."""
    sentences = [
        "A loss was trained only once, so nothing is said about it as a loss: what follows is about these trained"
        " networks, and another training may reverse it."
    ]
    shown = [pair for pair in pairs if pair.networks_differ]
    if len(shown) > MAX_SENTENCES:
        named = [(pair.network_higher, _other(pair, pair.network_higher)) for pair in shown]
        sentences += _groups(named, losses, metric, "the network of ")
        lasting = max(shown, key=lambda pair: pair.survives)
        sentences.append(
            f"As a difference between losses the one between {lasting.higher} and {lasting.lower} would survive the"
            f" largest standard deviation between trainings of one loss, {lasting.survives:.4f}; the table has that of"
            " every pair."
        )
    else:
        sentences += [_network_sentence(pair, metric) for pair in sorted(shown, key=lambda pair: pair.p_holm)]
    rest = [pair for pair in pairs if not pair.networks_differ]
    if rest:
        least = format_p(min(pair.p_holm for pair in rest))
        between = f"{rest[0].first} and {rest[0].second}" if len(rest) == 1 else f"{len(rest)} of {among} pairs"
        sentences.append(
            f"Between the networks of {between} no difference in the {metric} was shown (smallest p {least}). That is"
            " no evidence of equality."
        )
    floor = smallest_p(max(pair.n for pair in pairs), among)
    if floor >= ALPHA:
        sentences.append(
            f"With {max(pair.n for pair in pairs)} cases and {among} tested pair(s) no p-value can be below"
            f" {floor:.3g}: a study as small as this cannot show a difference, however large it is."
        )
    return sentences


def _network_sentence(pair: Comparison, metric: str) -> str:
    above = pair.network_higher
    favoured = pair.first_higher if above == pair.first else pair.second_higher
    mean = pair.difference if above == pair.first else -pair.difference
    survives = (
        f"would survive a standard deviation between trainings of up to {pair.survives:.4f}"
        if pair.survives
        else "would not survive any spread between trainings"
    )
    sentence = (
        f"The network trained with {above} has a higher {metric} than that trained with {_other(pair, above)}: higher"
        f" in {favoured} of {pair.n} cases, mean difference {mean:+.4f} ± {pair.error_cases:.4f}, p"
        f" {format_p(pair.p_holm)}. As a difference between the losses it {survives}."
    )
    if mean < 0:
        sentence += " Its mean is nevertheless lower: a few cases in which it is much worse outweigh the others."
    return sentence


def _other(pair: Comparison, loss: str) -> str:
    return pair.second if loss == pair.first else pair.first


def _groups(shown: list[tuple[str, str]], losses: list[str], metric: str, network_of: str = "") -> list[str]:
    """Say of many differences which losses are above which, losses above the same ones together."""
    above: dict[tuple[str, ...], list[str]] = {}
    for loss in losses:
        lower = [low for high, low in shown if high == loss]
        if lower:
            above.setdefault(tuple(other for other in losses if other in lower), []).append(loss)
    sentences = []
    for lower_ones, higher in above.items():
        first, second = (_and([network_of + loss for loss in group]) for group in (higher, lower_ones))
        first = first.replace("the", "The", 1) if network_of else first
        sentences.append(f"{first} {'has' if len(higher) == 1 else 'have'} a higher {metric} than {second}.")
    return sentences


def _and(names: Sequence[str]) -> str:
    """Put an "and" between names, and semicolons where a name holds a comma."""
    if any("," in name for name in names):
        return "; ".join(names[:-1]) + "; and " * (len(names) > 1) + names[-1]
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]


def ranking(results: Results) -> list[str]:
    """Say how the losses rank on the primary metric, and which of them belong together."""
    ranked = next((ranking for ranking in results.rankings if ranking.metric == results.primary), None)
    if ranked is None:
        return []
    metric = metric_name(results.primary)
    sentences = []
    if ranked.top:
        inferior = f" Worse than all others: {', '.join(ranked.inferior_to_all)}." if ranked.inferior_to_all else ""
        sentences.append(
            f"Top group by the mean {metric} (the best mean, and every loss that is not shown to be worse than it):"
            f" {', '.join(ranked.top)}.{inferior}"
        )
    ranks = ", ".join(f"{loss} {rank:.2f}" for loss, rank in ranked.mean_ranks.sort_values(kind="stable").items())
    sentences.append(f"Mean ranks over the {ranked.n} cases, 1 being best: {ranks}.")
    if len(results.losses) > 2:
        verdict = "The networks do not all rank alike" if ranked.p < ALPHA else "No difference in the ranks was shown"
        sentences.append(
            f"{verdict} on these cases: Friedman's test, chi-square {ranked.statistic:.2f}, p {format_p(ranked.p)};"
            f" Kendall's W {ranked.concordance:.2f}, where 1 means that every case ranks them in the same order and 0"
            " that the cases do not agree at all. Like Wilcoxon's it does not ask about other trainings."
        )
    return sentences


def method(results: Results) -> list[str]:
    """Say which tests were used and why."""
    metric, pairs = metric_name(results.primary), results.comparisons
    how = " or ".join(sorted({pair.method for pair in pairs}))
    of_losses = (
        f"Losses are compared by the mean difference of the {metric}, which another draw of cases would change and"
        " another training too. Its interval counts both: its half-widths over the cases and over the trainings (one a"
        " seed, with the spread of all losses together or the pair's own where that is larger), each by Student's t,"
        f" are added in squares. All {len(pairs)} pairs together are held to 95 % (Bonferroni). A loss is called better"
        f" where the interval leaves out 0, that is where p, corrected, is below {ALPHA}; the top group and the marks"
        " in the tables follow from the same intervals."
        if any(pair.counts_trainings for pair in pairs)
        else "Losses are not compared, because the spread between trainings is unknown when each was trained once."
        " How large it may be for a difference to survive stands beside it: it is compared with 1.4 times that spread"
        f" and its standard error over the cases, added in squares, at a level of {ALPHA} for all pairs together."
    )
    return [
        of_losses,
        f"The trained networks are compared by the two-sided Wilcoxon signed-rank test of the {metric} of every case,"
        f" averaged over seeds (p-value by {how}, Holm's correction). It asks whether these same networks would differ"
        " on other cases too, not whether other trainings would. It is paired, because some cases are hard for all, and"
        " uses ranks, because such scores are bounded and skewed. Beside it stand the Hodges-Lehmann estimate of the"
        " shift, with the interval that belongs to the test, and the rank-biserial correlation r, from -1 (the second"
        " is always higher) over 0 to 1 (the first is always higher).",
    ]


def limits(results: Results) -> list[str]:
    """Say what the numbers of the study do not show, whatever they are."""
    study, metric = results.study, metric_name(results.primary)
    sentences = []
    if study.dataset_dir == "synthetic":
        sentences.append(
            "The pictures are synthetic phantoms: the numbers show that everything works, and say nothing about"
            " pictures of patients."
        )
    seeds = trainings(results)
    if min(seeds.values()) < 2:
        sentences.append(
            f"Trained once: {', '.join(loss for loss, count in seeds.items() if count < 2)}. The spread between"
            " trainings of one loss was not measured there."
        )
    if max(seeds.values()) > 1:
        sentences.append(
            f"The spread between trainings is estimated from {' to '.join(map(str, sorted({*seeds.values()})))}"
            " trainings of a loss. They differ in their seed alone: other training cases, another network or other"
            " settings are not counted."
        )
    if study.initial_weights is not None and max(seeds.values()) > 1:
        sentences.append("All trainings started from the same weights: what another start would change is not counted.")
    if study.section == "validation":
        sentences.append(
            "The weights were chosen by their score on these same validation cases, so all scores are somewhat too"
            " good. Compare on held-out cases (--section testing) for their true level."
        )
    if "fold" in results.cases:
        sentences.append(
            f"The cases of {results.cases['fold'].nunique()} folds are pooled. Those of one fold share their training"
            " cases, which all seeds share too: what other training cases would change is not counted."
        )
    sentences += _missing_runs(results)
    sentences += stopped_runs(results)
    sentences.append(
        f"The findings rest on the {metric} alone, which was chosen beforehand. Each other metric is corrected by"
        " itself only: whoever picks the one that differs most will find differences that are none."
    )
    sentences += _undefined(results)
    sentences.append("This is one data set, one network and one recipe; another may rank the losses differently.")
    return sentences


def trainings(results: Results) -> dict[str, int]:
    """Return how many seeds of every loss have results."""
    return {loss: results.cases.loc[results.cases["loss"] == loss, "seed"].nunique() for loss in results.losses}


def _missing_runs(results: Results) -> list[str]:
    runs = results.cases.groupby("loss")[results.runs].apply(lambda rows: len(rows.drop_duplicates()))
    fewer = [loss for loss in results.losses if runs[loss] < runs.max()]
    if not fewer:
        return []
    counts = ", ".join(f"{loss} {runs[loss]}" for loss in fewer)
    return [f"Fewer trainings than of the other losses ({runs.max()}) have results: {counts}. Compare those with care."]


def stopped_runs(results: Results) -> list[str]:
    """Tell which runs were stopped as hopeless, when and by which rule, and that their losses are out."""
    rule = results.study.futility
    if rule is None:
        return []
    sentence = (
        f"By a rule of the study, a training whose best {rule.score} in its first {rule.epochs} epochs was below"
        f" {rule.below:g} was stopped as hopeless"
    )
    if not results.stopped:
        return [f"{sentence}; none was."]
    which = "; ".join(f"{outcome.run.name} ({outcome.error.rpartition(': ')[2]})" for outcome in results.stopped)
    losses = ", ".join(dict.fromkeys(outcome.run.loss.label for outcome in results.stopped))
    return [
        f"{sentence}: {which}. Nothing is said about {losses}: such a loss takes no part in any comparison, nor do its"
        " other trainings, which alone would speak too well of it; with more epochs it might have recovered."
    ]


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
