"""How losses fare as lesions get fewer: Dice and lesion-wise F1 against the share of the volume that lesions have.

    python benchmarks/lesions/shares.py --output build/shares
    python benchmarks/lesions/shares.py --output build/shares --figure shares.png

The first trains the losses of ``shares.yaml`` on phantoms of each fraction, one study a fraction, and goes on where
it was stopped; further options are those of ``compare`` and hold for all of them. The second draws what is finished,
prints it as a table and says which differences in Dice are shown within each fraction, over cases and trainings. It
keeps the scores of all cases beside the figure, and draws from them where the output folder holds no study. Source of
the question: Eelbode et al. 2020, who find that losses which are sensitive to the metric win at every ratio.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from monai_lossext.compare.statistics import compare_pairs

STUDY = Path(__file__).with_name("shares.yaml")
FRACTIONS = (0.0005, 0.005, 0.05, 0.3)
KEPT = "scores.csv.gz"
SCORES = {"dice": "Dice coefficient", "lesion_f1": "lesion-wise F1"}


def train(output: Path, options: list[str]) -> int:
    """Run the study of each fraction; return the last exit code that was not 0."""
    failed = 0
    for fraction in FRACTIONS:
        command = [sys.executable, "-m", "monai_lossext", "compare", str(STUDY)]
        command += ["--output", str(output / str(fraction))]
        command += ["--override", f"phantoms::fraction=[{fraction},{fraction}]", *options]
        failed = subprocess.run(command, check=False).returncode or failed
    return failed


def scores(output: Path) -> pd.DataFrame:
    """Return the scores of all cases of the studies that have a report, with the fraction."""
    tables = []
    for fraction in FRACTIONS:
        path = output / str(fraction) / "report" / "cases.csv"
        if path.exists():
            tables.append(pd.read_csv(path).assign(fraction=fraction))
    if not tables and (output / KEPT).exists():  # of studies that are gone; those that are there may have gone on
        return pd.read_csv(output / KEPT)
    if not tables:
        raise SystemExit(f"--output: no study in {output} has a report yet")
    return pd.concat(tables)


def draw(cases: pd.DataFrame, path: Path) -> None:
    """Draw the mean over cases of each loss, and each seed as a point, against the fraction."""
    figure = Figure((11, 4.5), layout="constrained")
    for axes, (score, name) in zip(figure.subplots(1, len(SCORES)), SCORES.items(), strict=True):
        for number, (loss, rows) in enumerate(cases.groupby("loss", sort=False)):
            means = rows.groupby(["fraction", "seed"])[score].mean()
            line = means.groupby("fraction").mean()
            colour = f"C{number}"
            axes.plot(line.index, line, "-", color=colour, label=loss, linewidth=1.2)
            axes.plot(means.index.get_level_values("fraction"), means, "o", color=colour, markersize=3)
        axes.set(xscale="log", xlabel="share of the volume that lesions have (%)", ylabel=name, ylim=(0, 1))
        axes.set_xticks(FRACTIONS, [f"{100 * fraction:g}" for fraction in FRACTIONS])
        axes.minorticks_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)


def shown(cases: pd.DataFrame) -> list[str]:
    """Return, for each fraction and loss, which losses are shown to have a lower Dice coefficient."""
    sentences = []
    for fraction, rows in cases.groupby("fraction"):
        pairs = compare_pairs(rows, "dice")
        better = [pair for pair in pairs if pair.significant]
        for loss in rows["loss"].unique():
            if lower := [pair.worse for pair in better if pair.better == loss]:
                sentences.append(f"{fraction}: {loss} above {', '.join(lower)}")
        sentences.append(f"{fraction}: {len(pairs) - len(better)} of {len(pairs)} pairs without a shown difference")
    return sentences


def main() -> int:
    """Train, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("build/shares"))
    parser.add_argument("--figure", type=Path)
    given, options = parser.parse_known_args()
    if given.figure is None:
        return train(given.output, options)
    cases = scores(given.output)
    draw(cases, given.figure)
    cases.round(4).to_csv(given.figure.with_name(KEPT), index=False, compression={"method": "gzip", "mtime": 0})
    table = cases.groupby(["loss", "fraction"], sort=False)[list(SCORES)].mean().unstack("fraction")
    print(table.round(3).to_string(), *shown(cases), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
