"""What a study costs beside the same training and evaluation called by hand, in turn on the same phantoms.

    python benchmarks/compare_overhead.py --rounds 3 --epochs 2

By hand: `python -m monai.bundle run` with train.yaml and a loss, then with evaluate.yaml, one process each. The study:
the same run handed to `run_study`, as `python -m monai_lossext compare` does it. What a study does once, whatever its
number of runs (its own start, the check of the data set, the report), is not in the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from monai_lossext.compare.check import plan_study
from monai_lossext.compare.plan import Run, Study
from monai_lossext.compare.run import Outcome, bundle_command, run_study
from monai_lossext.data import write_dermoscopy_phantoms

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "skin_lesion_segmentation"


class Silent:
    """A watcher that is not interested."""

    def started(self, run: Run, resumed: bool) -> None:
        """Be told that a run begins."""

    def epoch(self, run: Run, done: int, row: dict[str, str]) -> None:
        """Be told of an epoch."""

    def ended(self, outcome: Outcome) -> None:
        """Stop at a failure: its time says nothing."""
        if outcome.error:
            sys.exit(outcome.error)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--cases", type=int, default=24, help="phantoms")
    options = arguments.parse_args()

    hand: list[float] = []
    study: list[float] = []
    checks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        data = write_dermoscopy_phantoms(Path(folder) / "phantoms", options.cases, progress=False)

        def plan(name: str) -> Study:
            output = Path(folder) / name
            return plan_study(BUNDLE, ["SoftDiceLoss"], data, output, epochs=options.epochs, section="testing")

        for number in range(options.rounds):
            begin = time.perf_counter()
            planned = plan(f"study-{number}")
            checks.append(time.perf_counter() - begin)
            (by_hand,) = plan(f"hand-{number}").runs()
            # The one that comes first has colder caches.
            order = [("hand", by_hand), ("study", planned)]
            for kind, what in order if number % 2 else reversed(order):
                begin = time.perf_counter()
                if kind == "hand":
                    for evaluate in (False, True):
                        subprocess.run(bundle_command(what, evaluate=evaluate), check=True, capture_output=True)
                    hand.append(time.perf_counter() - begin)
                else:
                    run_study(what, Silent())
                    study.append(time.perf_counter() - begin)
            print(f"round {number + 1}: by hand {hand[-1]:.2f} s, in a study {study[-1]:.2f} s", flush=True)
    ratios = [one / other for one, other in zip(study, hand, strict=True)]
    print(f"a run by hand {statistics.median(hand):.2f} s, in a study {statistics.median(study):.2f} s")
    print(f"ratio {statistics.median(ratios):.3f} (median), {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"once for a study: check of bundle, loss and {options.cases} pictures {statistics.median(checks):.2f} s")


if __name__ == "__main__":
    main()
