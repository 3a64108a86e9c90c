"""The command line. A command imports what it needs only when it runs, so that help is quick."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from typer.core import TyperGroup

import monai_lossext
from monai_lossext.text import printable

if TYPE_CHECKING:
    from monai_lossext.compare.plan import Study
    from monai_lossext.compare.run import Outcome

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


class _RunByDefault(TyperGroup):
    """Takes ``compare STUDY`` and ``compare --bundle ...`` for ``compare run ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the missing command before the arguments."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


comparison = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Train a bundle under several losses and report which differences between them the data show."
    " 'compare STUDY' and 'compare --bundle ...' mean 'compare run ...'.",
)
app.add_typer(comparison, name="compare")
StudyArgument = Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (YAML), or the folder of a study.")]


@comparison.command("plan", help="Show what 'compare run' would do, what is finished already, and how long it takes.")
@comparison.command("run", help="Do the runs of a study and write its report; goes on with a study that was stopped.")
def _plan_or_run(
    ctx: typer.Context,
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="A study file (YAML), or the folder of a study.")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle to train.")] = None,
    losses: Annotated[
        str | None, typer.Option(help="With commas: class names, overlays of the bundle, or overlay files.")
    ] = None,
    dataset_dir: Annotated[
        str | None, typer.Option(help="Folder of the data set, or 'synthetic' for phantoms.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for runs and report. The same command continues a study.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every training (default: the bundle's).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the training (default: 0).")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings per loss, with seeds counted up from --seed (default: 1).")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Leave out each of so many folds once; for heads.")] = None,
    split_file: Annotated[Path | None, typer.Option(help="YAML or JSON with the cases of each part.")] = None,
    section: Annotated[
        str | None, typer.Option(help="Cases to compare on: validation (default) or testing (default with folds).")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Loss to compare with (default: soft_dice, or the first).")
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="Further config file for all losses, such as a protocol. Repeatable.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Config value for all losses. Repeatable.")
    ] = None,
    skip_bad: Annotated[
        bool | None, typer.Option("--skip-bad", help="Leave out unusable cases instead of stopping.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="With commas: scores to report (default: all).")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the trainings to compare (default: the bundle's).")
    ] = None,
    pretraining_loss: Annotated[
        str | None, typer.Option(help="Train with this loss first; all losses start from its best weights.")
    ] = None,
    pretraining_epochs: Annotated[int | None, typer.Option(help="Epochs of that training.")] = None,
    initial_weights: Annotated[
        Path | None, typer.Option(help="Weights that all losses start from, such as models/best.pt of another run.")
    ] = None,
    executor: Annotated[str | None, typer.Option(help="local (default) or ray.")] = None,
    processes: Annotated[int | None, typer.Option(help="local: runs at the same time (default: 1).")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of each run (default: all, divided).")] = None,
    address: Annotated[
        str | None, typer.Option(help="ray: address of a running cluster (default: starts one here).")
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="ray: processors of each run (default: 1).")] = None,
    gpus: Annotated[float | None, typer.Option(help="ray: GPUs of each run, or a fraction (default: 0).")] = None,
    retries: Annotated[
        int | None, typer.Option(help="ray: how often a lost run goes on elsewhere (default: 3).")
    ] = None,
) -> None:
    import monai_lossext.compare.terminal  # noqa: F401 - what a study needs at its end is missed before it begins
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.data import DatalistError

    pairs = [text.partition("=") for text in override or []]
    asked: dict[str, Any] = {
        "bundle": bundle,
        "losses": _names(losses),
        "dataset_dir": dataset_dir,
        "output": output,
        "epochs": epochs,
        "seeds": None if seed is None and seeds is None else [*range(seed or 0, (seed or 0) + (seeds or 1))],
        "folds": folds,
        "split_file": split_file,
        "section": section,
        "baseline": baseline,
        "configs": config,
        "overrides": {key: value for key, _, value in pairs} or None,
        "skip_bad": skip_bad,
        "metrics": _names(metrics),
        "learning_rate": learning_rate,
        "initial_weights": initial_weights,
    }
    pretraining = {"loss": pretraining_loss, "epochs": pretraining_epochs}
    options = {
        "processes": processes,
        "threads": threads,
        "address": address,
        "cpus": cpus,
        "gpus": gpus,
        "retries": retries,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    for key, values in (("pretraining", pretraining), ("executor", {"name": executor, **options})):
        given = {name: value for name, value in values.items() if value is not None}
        if given:
            asked[key] = given
    with _one_line(StudyError, DatalistError):
        if not all(equals for _, equals, _ in pairs):
            raise StudyError(f"--override: expected KEY=VALUE, got {' '.join(override or [])}")
        study = _study(study_file, asked, write=ctx.info_name == "run")
    if ctx.info_name == "run":
        _run(study)
    else:
        _show_plan(study)


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _study(path: Path | None, asked: dict[str, Any], *, check: bool = True, write: bool = True) -> Study:
    """Return the study of a file, of options, or of a file with options in place of some of its keys."""
    from monai_lossext.compare.check import plan_study
    from monai_lossext.compare.locks import in_use
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.study_file import find_study, in_file, missing_key, read_study_file

    values: dict[str, Any] = {}
    if path is not None:
        path = find_study(path)
        values = read_study_file(path)
    executor = values.get("executor", {})
    given = executor if isinstance(executor, dict) else {"name": executor}
    merged = {**values, **asked}
    if "executor" in asked:  # its options are one by one in place of the file's, unless it is another executor
        same = asked["executor"].get("name") in (None, given.get("name", "local"))
        merged["executor"] = {**(given if same else {}), **asked["executor"]}
    if "pretraining" in asked:
        merged["pretraining"] = {**values.get("pretraining", {}), **asked["pretraining"]}
    try:
        if message := missing_key(merged):
            raise StudyError(message)
        if check and write:
            if message := in_use(Path(merged["output"])):  # before the data set is read
                raise StudyError(message)
            Console().print("Checking bundle, losses and data set")
        return plan_study(**merged, check=check, write=write)
    except StudyError as error:
        if path is None:
            raise
        raise StudyError(in_file(str(error), path, {*asked, *asked.get("executor", {})})) from error


def _run(study: Study) -> None:
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.run import run_study
    from monai_lossext.compare.terminal import TerminalWatcher

    console = Console()
    try:
        with _one_line(StudyError), TerminalWatcher(study, console) as watcher:
            outcomes = run_study(study, watcher)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command continues the study", err=True)
        raise typer.Exit(130) from None
    failed = [outcome for outcome in outcomes if outcome.error]
    if len(failed) < len(outcomes):
        _report(study, outcomes, console)
    if failed:
        typer.echo(f"error: {len(failed)} of {len(outcomes)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(1)


def _report(study: Study, outcomes: list[Outcome], console: Console) -> None:
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.report import write_report
    from monai_lossext.compare.results import read_results
    from monai_lossext.compare.terminal import summary_table

    with _one_line(StudyError):
        results = read_results(study, outcomes)
    report = write_report(results)
    console.print(summary_table(results))
    console.print(f"Report: {report}", soft_wrap=True, highlight=False, markup=False)


def _show_plan(study: Study) -> None:
    from monai_lossext.compare.status import running_at_once, seconds_left, standings
    from monai_lossext.compare.terminal import duration, status_table

    console = Console()
    found = standings(study)
    console.print(status_table(found))
    left = [there for there in found if there.state != "finished"]
    console.print(f"{len(found)} runs, {len(found) - len(left)} finished; {running_at_once(study)}.", highlight=False)
    if left:
        seconds = seconds_left(study)
        console.print(
            "How long the rest takes is unknown until its first run has trained for an epoch."
            if seconds is None
            else f"The rest takes about {duration(seconds)}, going by what has been done of this study.",
            highlight=False,
        )


@comparison.command("status")
def _status(study_file: StudyArgument) -> None:
    """Show which runs of a study are finished, running, failed or still to come."""
    from monai_lossext.compare.locks import in_use
    from monai_lossext.compare.plan import StudyError

    with _one_line(StudyError):
        study = _study(study_file, {}, check=False)
    _show_plan(study)
    if message := in_use(study.output):
        typer.echo(message.partition(": ")[2].partition(". ")[0] + ".")


@comparison.command("report")
def _rewrite_report(study_file: StudyArgument) -> None:
    """Write the report of a study anew, with the runs that are finished so far."""
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.status import outcomes

    with _one_line(StudyError):
        study = _study(study_file, {}, check=False)
        found = outcomes(study)
        if all(outcome.error for outcome in found):
            raise StudyError(f"no run of the study in {study.output} is finished yet")
    _report(study, found, Console())


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
