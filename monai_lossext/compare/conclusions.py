"""Say in plain words what a study shows and what it does not."""

from __future__ import annotations

from monai_lossext.compare.metrics import TESTED, metric_name
from monai_lossext.compare.results import Results
from monai_lossext.compare.statistics import ALPHA, Comparison, smallest_p

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
        beaten = {loss: [pair.lower for pair in shown if pair.higher == loss] for loss in results.losses}
        sentences = [
            f"On these cases {loss} has a higher {METRIC} than {', '.join(low)}." for loss, low in beaten.items() if low
        ]
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


def _no_difference(rest: list[Comparison], tested: int) -> str:
    least = format_p(min(pair.p_holm for pair in rest))
    if tested == 1:
        sentence = f"No difference in the {METRIC} between {rest[0].first} and {rest[0].second} was shown (p {least})."
    elif len(rest) == tested:
        sentence = (
            f"For none of the {tested} pairs of losses was a difference in the {METRIC} shown (smallest p {least})."
        )
    else:
        sentence = f"For the other {len(rest)} of {tested} pairs no difference in the {METRIC} was shown."
    return f"{sentence} That is no evidence of equality: these cases just do not tell them apart."


def method(results: Results) -> str:
    """Say which test was used and why."""
    how = " or ".join(sorted({pair.method for pair in results.comparisons}))
    tested = len(results.comparisons)
    correction = f" after Holm's correction for the {tested} pairs tested" if tested > 1 else ""
    return (
        f"Two-sided Wilcoxon signed-rank test of the {METRIC} of every case, p-value by {how}. It is paired, because"
        " all losses are scored on the same cases and some cases are hard for all of them; it uses ranks, because such"
        " scores are bounded and skewed, which a t-test does not allow for. Cases with equal scores are left out of the"
        f" ranks. A difference is called one when p is below {ALPHA}{correction}."
    )


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
    sentences.append(
        f"Only the {METRIC} was tested. The other metrics are for looking at: whoever picks the one that differs most"
        " will find differences that are none."
    )
    sentences.append("This is one data set, one network and one recipe; another may rank the losses differently.")
    return sentences


def format_p(p: float) -> str:
    """Write a p-value with its sign: ``= 0.0123`` or ``< 0.001``; small ones so that they do not round to 0.05."""
    return "< 0.001" if p < 0.001 else f"= {p:.4f}" if p < 0.1 else f"= {p:.2f}"
