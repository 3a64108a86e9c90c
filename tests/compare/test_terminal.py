from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO

import numpy as np
import pandas as pd
from rich.console import Console

from monai_lossext.compare.metrics import METRICS
from monai_lossext.compare.plan import Study
from monai_lossext.compare.results import Results
from monai_lossext.compare.run import Outcome, run_study
from monai_lossext.compare.terminal import SHORT_NAMES, TerminalWatcher, summary_table


def console(width: int, terminal: bool) -> Console:
    return Console(file=StringIO(), width=width, force_terminal=terminal, color_system=None)


def shown(console: Console) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())  # type: ignore[attr-defined]


def test_a_terminal_shows_the_newest_epoch_and_a_log_the_ends(
    plan: Callable[..., Study], write_overlay: Callable[..., object]
) -> None:
    write_overlay("mcc", fail="train")
    study = plan()
    for terminal in (True, False):
        out = console(100, terminal)
        with TerminalWatcher(study, out) as watcher:
            run_study(study, watcher)
            watcher.epoch(study.runs()[0], 2, {"epoch": "2", "val_jaccard": "0.75"})
            watcher.epoch(study.runs()[0], 3, {"epoch": "3", "val_jaccard": ""})
            watcher.bar.refresh()
        text = shown(out)
        assert "SoftDiceLoss, seed 0: epoch 3/3, Jaccard index 0.750" in text  # the last one there was
        assert "2/2 MatthewsCorrelationLoss, seed 0: starts" in text or terminal is False
        assert "SoftDiceLoss, seed 0: " + ("finished in" if terminal else "was finished before") in text
        assert "MatthewsCorrelationLoss, seed 0: the training failed: exit code 3, see " in text
        assert "    loss is <nan>" in text


def test_names_are_not_markup(plan: Callable[..., Study], write_overlay: Callable[..., object]) -> None:
    write_overlay("[red]x[")
    study = plan("[red]x[,mcc")
    out = console(100, False)
    with TerminalWatcher(study, out) as watcher:
        watcher.started(study.runs()[0], resumed=True)
        watcher.ended(Outcome(study.runs()[0], error="[bold]broken[/]\nlog \x1b[2J\x1b]0;owned\x07$(rm)\x07"))
    assert "1/2 [red]x[, seed 0: goes on" in shown(out)
    assert "[red]x[, seed 0: [bold]broken[/]\n    log $(rm)\ufffd" in shown(out)
    assert not {"\x1b", "\x07"} & set(out.file.getvalue())  # type: ignore[attr-defined]


def test_the_table_fits_a_terminal_of_eighty_columns(plan: Callable[..., Study]) -> None:
    generator = np.random.default_rng(0)
    cases = pd.concat(
        pd.DataFrame(
            {"loss": loss, "seed": 0, "case": [str(i) for i in range(9)]}
            | {metric: generator.random(9) for metric in METRICS}
        )
        for loss in ("SoftDiceLoss", "MatthewsCorrelationLoss")
    )
    out = console(80, False)
    out.print(summary_table(Results(plan(), cases, pd.DataFrame(), list(METRICS), [])))
    text = shown(out)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert len(re.findall(r"±0\.\d{3}(?!\d)", text)) == 2 * len(SHORT_NAMES)
    assert len(re.findall(r"(?<![\d±])0\.\d{3}(?!\d)", text)) == 2 * len(SHORT_NAMES)
    for name in ("Jaccard", "Dice", "MCC", "Acc.", "Sens.", "Spec."):
        assert name in text
