"""Count the trainings of a study of which only the report is left.

    python docs/recount.py docs/reports/isic2017_seeds.md

prints, from the numbers of the page, what the report says today of each pair: with several seeds the interval over
cases and trainings, else the spread between trainings that the difference would survive. The printed numbers are
rounded, so each is computed for many values that would have been printed like that, and its range is given.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from monai_lossext.compare.statistics import ALPHA, half_width, pair_variances

DRAWS = 200_000


def tables(page: str) -> list[pd.DataFrame]:
    """Return the tables of a page, with text in all cells."""
    found = []
    for block in re.findall(r"(?m)(?:^\|.*\n)+", page):
        rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.splitlines()]
        found.append(pd.DataFrame(rows[2:], columns=rows[0]))
    return found


def main() -> None:
    """Read the page and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    found = tables(parser.parse_args().page.read_text(encoding="utf-8"))
    pairs = next(table for table in found if "Mean difference ± error over cases" in table)
    difference, error = (
        pairs["Mean difference ± error over cases"].str.split(" ± ", expand=True).astype(float).to_numpy().T
    )
    higher = pairs[["First higher", "Second higher"]].astype(int).sum(axis=1)
    n = int(re.search(r"Mean ranks over the (\d+) cases", parser.parse_args().page.read_text("utf-8"))[1])  # type: ignore[index]
    assert (higher <= n).all()
    generator = np.random.default_rng(0)
    error = error + generator.uniform(-0.00005, 0.00005, (DRAWS, len(pairs)))
    seeds = next((table for table in found if "seed 1" in table), None)
    if seeds is None:
        difference = difference + generator.uniform(-0.00005, 0.00005, (DRAWS, len(pairs)))
        known = difference / stats.norm.isf(ALPHA / len(pairs) / 2)
        survives = np.sqrt(np.maximum(known**2 - error**2, 0) / 2)
        for (first, second), values in zip(pairs[["First", "Second"]].to_numpy(), survives.T, strict=True):
            print(f"{first} | {second} | survives a spread of {values.min():.4f} to {values.max():.4f}")
        return
    losses = list(seeds.iloc[:, 0])
    means = seeds.filter(like="seed ").drop(columns="SD between seeds", errors="ignore").astype(float).to_numpy()
    means = means + generator.uniform(-0.0005, 0.0005, (DRAWS, *means.shape))
    first, second = ([losses.index(loss) for loss in pairs[side]] for side in ("First", "Second"))
    exact = means.mean(axis=-1)
    exact = exact[:, first] - exact[:, second]
    fits = (abs(exact - difference) < 0.00005).all(axis=1)  # draws that give the printed differences
    spreads = means.var(axis=-1, ddof=1)
    trainings, df = pair_variances(spreads, np.full(len(losses), means.shape[-1]), first, second)
    half = half_width(ALPHA / len(pairs), error**2, n, trainings, df)[fits]
    exact = exact[fits]
    print(f"{fits.sum()} of {DRAWS} draws fit the page")
    for loss, values in zip(losses, np.sqrt(spreads[fits]).T, strict=True):
        print(f"{loss}: standard deviation between trainings {values.min():.4f} to {values.max():.4f}")
    for i, names in enumerate(pairs[["First", "Second"]].to_numpy()):
        low, high = exact[:, i] - half[:, i], exact[:, i] + half[:, i]
        shown = ((low > 0) | (high < 0)).mean()
        print(
            f"{names[0]} | {names[1]} | {difference[i]:+.4f} | low {low.min():+.4f} to {low.max():+.4f}"
            f" | high {high.min():+.4f} to {high.max():+.4f} | a difference in {100 * shown:.0f} % of the draws"
        )


if __name__ == "__main__":
    main()
