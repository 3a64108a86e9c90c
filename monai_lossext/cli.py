"""The command line. A command imports what it needs only when it runs, so that help is quick."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

import monai_lossext
from monai_lossext.text import printable

app = typer.Typer(
    help="Segmentation losses for medical imaging, and honest comparisons between them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Phantoms(str, Enum):
    """What can be synthesized."""

    DERMOSCOPY = "dermoscopy"
    HEADS = "heads"


SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out unusable cases instead of stopping.")]


@contextmanager
def _one_line(*errors: type[Exception]) -> Iterator[None]:
    """Show what the user did wrong as a message instead of a traceback."""
    try:
        yield
    except errors as error:
        typer.echo(f"error: {printable(error)}", err=True)
        raise typer.Exit(2) from None


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(monai_lossext.__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def compare(
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle to train.")],
    losses: Annotated[str, typer.Option(help="With commas: class names, overlays of the bundle, or overlay files.")],
    dataset_dir: Annotated[str, typer.Option(help="Folder of the data set, or 'synthetic' for phantoms.")],
    output: Annotated[Path, typer.Option(help="Folder for runs and report. The same command continues a study.")],
    epochs: Annotated[int | None, typer.Option(help="Epochs of every training (default: the bundle's).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per loss, with seeds counted up from --seed.")] = 1,
    section: Annotated[str, typer.Option(help="Cases to compare on: validation or testing.")] = "validation",
    baseline: Annotated[str, typer.Option(help="Loss to compare with (default: soft_dice, or the first).")] = "",
    config: Annotated[
        list[Path] | None, typer.Option(help="Further config file for all losses, such as a protocol. Repeatable.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Config value for all losses. Repeatable.")
    ] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train a bundle under several losses and report which differences between them the data show."""
    from monai_lossext.compare.check import plan_study
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.report import write_report
    from monai_lossext.compare.results import read_results
    from monai_lossext.compare.run import run_study
    from monai_lossext.compare.terminal import TerminalWatcher, summary_table
    from monai_lossext.data import DatalistError

    console = Console()
    pairs = [text.partition("=") for text in override or []]
    with _one_line(StudyError, DatalistError):
        if not all(equals for _, equals, _ in pairs):
            raise StudyError(f"--override: expected KEY=VALUE, got {' '.join(override or [])}")
        console.print("Checking bundle, losses and data set")
        study = plan_study(
            bundle,
            [name.strip() for name in losses.split(",") if name.strip()],
            dataset_dir,
            output,
            epochs=epochs,
            seeds=tuple(range(seed, seed + seeds)),
            section=section,
            baseline=baseline,
            configs=config or [],
            overrides={key: value for key, _, value in pairs},
            skip_bad=skip_bad,
        )
    try:
        with TerminalWatcher(study, console) as watcher:
            outcomes = run_study(study, watcher)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command continues the study", err=True)
        raise typer.Exit(130) from None
    failed = [outcome for outcome in outcomes if outcome.error]
    if len(failed) < len(outcomes):
        with _one_line(StudyError):
            results = read_results(study, outcomes)
        report = write_report(results)
        console.print(summary_table(results))
        console.print(f"Report: {report}", soft_wrap=True, highlight=False, markup=False)
    if failed:
        typer.echo(f"error: {len(failed)} of {len(outcomes)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(1)


@app.command()
def losses(
    name: Annotated[str | None, typer.Argument(help="One loss to show in full, by class name or overlay.")] = None,
) -> None:
    """List the losses of the catalogue, or show one."""
    import yaml

    from monai_lossext.losses import catalogue

    entries = catalogue()
    console = Console()
    if name is None:
        table = Table(Column("Loss", no_wrap=True), "Family", "Good for")
        for entry in entries:
            table.add_row(entry.name, entry.family, escape(entry.good_for))
        console.print(table)
        return
    names = {key.lower(): entry for entry in entries for key in (entry.name, entry.overlay)}
    with _one_line(LookupError):
        if name.lower() not in names:
            close = difflib.get_close_matches(name.lower(), names, n=1)
            hint = f"; did you mean {names[close[0]].name}?" if close else ""
            raise LookupError(f"there is no loss {name} in the catalogue{hint}")
    entry = names[name.lower()]
    table = Table(show_header=False, title=entry.name, title_justify="left")
    fields = ["family", "formula", "range", "good_for", "paper", "monai", "difference", "partner", "without_gradient"]
    for field in [*fields, "arguments", "overlay"]:
        if getattr(entry, field):
            table.add_row(field.replace("_", " "), escape(getattr(entry, field)))
    console.print(table)
    typer.echo(yaml.safe_dump({"loss": entry.config}, sort_keys=False), nl=False)


@app.command()
def datalist(
    dataset_dir: Annotated[str, typer.Argument(help="Folder of a skin-lesion or skull-stripping data set.")],
    output: Annotated[Path | None, typer.Option(help="Write the datalist as JSON, as MONAI reads it.")] = None,
    layout: Annotated[
        str, typer.Option(help="auto, or isic2017, ph2, dermofit, plain; for heads nfbs, bids, volumes.")
    ] = "auto",
    split_file: Annotated[Path | None, typer.Option(help="YAML or JSON with the cases of each part.")] = None,
    fold: Annotated[int | None, typer.Option(help="Heads: the fold of subjects for testing, from 0.")] = None,
    folds: Annotated[int | None, typer.Option(help="Heads: how many folds (default: one per subject).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of a random split, where there is no official one.")] = 0,
    skip_bad: SkipBad = False,
) -> None:
    """Recognise the layout of a data set, check every image and mask, and count the cases of each part."""
    from monai_lossext.data import DatalistError, skin_lesion_datalist, skull_stripping_datalist, write_datalist
    from monai_lossext.data.layouts import read_layout
    from monai_lossext.data.picture_layouts import SKIN_LESION_LAYOUTS
    from monai_lossext.data.volume_layouts import HEAD_LAYOUTS

    with _one_line(ValueError, OSError):
        if dataset_dir not in ("", "synthetic"):
            layouts = SKIN_LESION_LAYOUTS | HEAD_LAYOUTS
            layout, _ = read_layout(Path(dataset_dir).expanduser().absolute(), layouts, layout)
        if layout in HEAD_LAYOUTS:
            parts = skull_stripping_datalist(
                dataset_dir,
                layout=layout,
                split_file=split_file,
                fold=fold,
                folds=folds,
                seed=seed,
                skip_bad=skip_bad,
            )
        elif fold is not None or folds is not None:
            raise DatalistError(f"--fold and --folds are for heads, that is layout {', '.join(HEAD_LAYOUTS)}")
        else:
            parts = skin_lesion_datalist(
                dataset_dir, layout=layout, split_file=split_file, seed=seed, skip_bad=skip_bad
            )
        for section, items in parts.items():
            typer.echo(f"{section}: {len(items)} cases")
        if output is not None:
            typer.echo(f"written: {write_datalist(parts, output)}")


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="An empty or new folder.")],
    kind: Annotated[Phantoms, typer.Option(help="Skin lesions or heads.")] = Phantoms.DERMOSCOPY,
    cases: Annotated[int | None, typer.Option(min=4, help="How many (default: 240 pictures, 40 heads).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same images.")] = 0,
) -> None:
    """Write phantoms with their masks: dermoscopy in the layout of ISIC 2017, heads as NIfTI named as in BIDS."""
    from monai_lossext.data import write_dermoscopy_phantoms, write_head_phantoms

    with _one_line(ValueError, OSError):
        if kind is Phantoms.HEADS:
            written = write_head_phantoms(folder, cases or 40, seed=seed)
        else:
            written = write_dermoscopy_phantoms(folder, cases or 240, seed=seed)
        typer.echo(f"written: {written}")


@app.command()
def recommend(
    datalist: Annotated[Path, typer.Argument(help="Datalist as JSON, or the folder of a data set.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Folder of the bundle to train (default: the nearest of this package).")
    ] = None,
    study: Annotated[Path | None, typer.Option(help="Write the study file here as well.")] = None,
) -> None:
    """Look at the labels of a data set and say which losses to try first and which to avoid, each with its source."""
    from monai_lossext.advice.recommend import recommend as read_and_advise
    from monai_lossext.advice.recommend import study_file
    from monai_lossext.advice.show import show
    from monai_lossext.data import DatalistError
    from monai_lossext.files import replace_file

    with _one_line(DatalistError, OSError):
        if bundle is not None and not (bundle / "configs" / "train.yaml").is_file():
            raise DatalistError(f"--bundle: {bundle} is not a bundle, it has no configs/train.yaml")
        recommendation = read_and_advise(datalist)
        text = study_file(recommendation, datalist, bundle)
        show(recommendation, Console())
        typer.echo(printable(text))
        if study is not None:
            replace_file(study, text)
            typer.echo(f"written: {printable(study)}", err=True)
