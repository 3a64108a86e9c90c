"""The command line. A command imports what it needs only when it runs, so that help is quick."""

from __future__ import annotations

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
    LESIONS = "lesions"


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
    bundle: Annotated[Path | None, typer.Option(help="Bundle to train: name ('bundle list') or folder.")] = None,
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
    primary: Annotated[
        str | None, typer.Option(help="Score that the findings rest on, chosen beforehand (default: jaccard).")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Differences of that score up to this count as none (default: not said).")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="With commas: scores to report (default: all).")] = None,
    keep_checkpoints: Annotated[
        bool | None, typer.Option("--keep-checkpoints", help="Keep models/last.pt of finished runs.")
    ] = None,
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
    futility_epochs: Annotated[
        int | None, typer.Option(help="Stop a training as hopeless whose best validation score in so many epochs is")
    ] = None,
    futility_below: Annotated[
        float | None, typer.Option(help="below this; its loss is compared no more (default: none is stopped).")
    ] = None,
    futility_score: Annotated[
        str | None, typer.Option(help="That score, in history.csv (default: val_ and the primary one).")
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
        "primary": primary,
        "margin": margin,
        "metrics": _names(metrics),
        "keep_checkpoints": keep_checkpoints,
        "learning_rate": learning_rate,
        "initial_weights": initial_weights,
    }
    pretraining = {"loss": pretraining_loss, "epochs": pretraining_epochs}
    futility = {"epochs": futility_epochs, "below": futility_below, "score": futility_score}
    options = {
        "processes": processes,
        "threads": threads,
        "address": address,
        "cpus": cpus,
        "gpus": gpus,
        "retries": retries,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    groups: dict[str, dict[str, Any]] = {
        "pretraining": pretraining,
        "futility": futility,
        "executor": {"name": executor, **options},
    }
    for key, values in groups.items():
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
    for key in ("pretraining", "futility", "overrides"):
        if key in asked:
            merged[key] = {**values.get(key, {}), **asked[key]}
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
    from monai_lossext.bundle_folders import bundles_dir
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.run import run_study
    from monai_lossext.compare.terminal import TerminalWatcher
    from monai_lossext.compare.trial import verify

    console = Console()
    if not study.bundle.is_relative_to(bundles_dir()):  # whose own are tested
        with _one_line(StudyError):
            verify(study, console.print)
    try:
        with _one_line(StudyError, OSError), TerminalWatcher(study, console) as watcher:
            outcomes = run_study(study, watcher)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command continues the study", err=True)
        raise typer.Exit(130) from None
    failed = [outcome for outcome in outcomes if outcome.error and not outcome.futile]
    if not all(outcome.error for outcome in outcomes):
        _report(study, outcomes, console)
    if failed:
        typer.echo(f"error: {len(failed)} of {len(outcomes)} runs failed; the same command tries them again", err=True)
        raise typer.Exit(1)


def _report(study: Study, outcomes: list[Outcome], console: Console) -> None:
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.report import write_report
    from monai_lossext.compare.results import read_results
    from monai_lossext.compare.terminal import summary_table

    with _one_line(StudyError, OSError):
        results = read_results(study, outcomes)
        report = write_report(results)
    console.print(summary_table(results))
    console.print(f"Report: {report}", soft_wrap=True, highlight=False, markup=False)


def _show_plan(study: Study, timed: bool = True) -> None:
    from monai_lossext.compare.plan import has_engines
    from monai_lossext.compare.status import running_at_once, seconds_left, standings
    from monai_lossext.compare.terminal import duration, status_table

    console = Console()
    found = standings(study)
    console.print(status_table(found))
    states = [there.state for there in found]
    left = len(found) - states.count("finished") - states.count("stopped")
    stopped = f"{states.count('stopped')} stopped as hopeless, " if "stopped" in states else ""
    console.print(
        f"{len(found)} runs, {stopped}{states.count('finished')} finished; {running_at_once(study)}.", highlight=False
    )
    if left:
        seconds, source = seconds_left(study), "what has been done of this study."
        if seconds is None and timed and has_engines(study.bundle) and study.execution.name == "local":
            seconds, source = _timed(study, console)
        console.print(
            "How long the rest takes is unknown until its first run has trained for an epoch."
            if seconds is None
            else f"The rest takes about {duration(seconds)}, going by {source}",
            highlight=False,
            soft_wrap=True,
        )
    if study.cases and len(study.losses) > 1:
        console.print(_what_it_can_show(study), highlight=False)


def _timed(study: Study, console: Console) -> tuple[float | None, str]:
    """Return how long a study takes that nobody has begun, and what that was measured by."""
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.status import seconds_left
    from monai_lossext.compare.trial import BATCHES, time_epochs

    console.print("Nothing was trained yet: timing a few batches")
    try:
        timed = time_epochs(study)
    except StudyError as error:
        console.print(printable(error).partition(": ")[2], markup=False, highlight=False, soft_wrap=True)
        return None, ""
    labels = ", ".join(loss.label for loss in study.losses if loss.key in timed)
    rest = len(study.losses) - len(timed)
    others = f"; the other {rest} are taken for their mean" if rest else ""
    return seconds_left(study, timed), (
        f"{BATCHES} batches of training and one of validation on this machine ({printable(labels)}{others}). Reading"
        " the data and scoring the cases come on top."
    )


def _what_it_can_show(study: Study) -> str:
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.power import EXAMPLE, smallest_difference, spread_of
    from monai_lossext.compare.results import read_results
    from monai_lossext.compare.status import outcomes

    losses, seeds = len(study.losses), len(study.seeds)
    if seeds < 2:
        return "With one seed it can compare trained networks, but no losses: that takes --seeds 2, better 3 or more."
    spread, source = EXAMPLE, "if scores spread as those of docs/isic2017.md ('compare power' takes other numbers)"
    found = outcomes(study)
    if not all(outcome.error for outcome in found):
        try:
            measured = spread_of(read_results(study, found).cases, study.primary)
        except StudyError:
            measured = None
        if measured is not None:
            spread, source = measured, "going by its finished runs"
    least = smallest_difference(spread, study.cases, seeds, losses)
    return (
        f"With {study.cases} cases, {losses} losses and {seeds} seeds it shows a difference of {least:.3f} between two"
        f" losses with 80 % probability, {source}."
    )


@comparison.command("status")
def _status(study_file: StudyArgument) -> None:
    """Show which runs of a study are finished, running, failed or still to come."""
    from monai_lossext.compare.locks import in_use
    from monai_lossext.compare.plan import StudyError

    with _one_line(StudyError):
        study = _study(study_file, {}, check=False)
    _show_plan(study, timed=False)
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


@comparison.command("check")
def _check(
    bundle: Annotated[Path, typer.Argument(help="Name or folder of a bundle.")],
    dataset_dir: Annotated[str, typer.Option(help="Folder of its data set, or 'synthetic'.")] = "synthetic",
    losses: Annotated[
        str | None, typer.Option(help="With commas, as of 'compare run' (default: the bundle's).")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Config value for all losses. Repeatable.")
    ] = None,
) -> None:
    """Say whether a bundle can be compared, by a few batches, and how long an epoch takes.

    It can where loss and seed change what is trained, and all is written into the folder of the run.
    """
    from tempfile import TemporaryDirectory

    from monai_lossext.bundle_folders import named_bundle
    from monai_lossext.compare.check import plan_study
    from monai_lossext.compare.plan import StudyError, is_zoo
    from monai_lossext.compare.terminal import duration
    from monai_lossext.compare.trial import try_run, verify
    from monai_lossext.data import DatalistError

    console = Console()
    bundle = Path(named_bundle(bundle))
    with _one_line(StudyError, DatalistError), TemporaryDirectory() as folder:
        overlays = sorted((bundle / "configs" / "loss").glob("*.yaml"))
        chosen = _names(losses) or (["bundle"] if is_zoo(bundle) else [path.stem for path in overlays[:1]])
        values = {key: value for key, _, value in (text.partition("=") for text in override or [])}
        study = plan_study(bundle, chosen, dataset_dir, folder, seeds=(0, 1), overrides=values, write=False)
        console.print(f"{len(chosen)} losses, {study.cases} cases to score, {study.epochs} epochs", highlight=False)
        tried = {}
        for run in study.runs()[: len(chosen)]:
            found = tried[run.name] = try_run(run)
            epoch = duration(found["epoch"])
            console.print(
                f"{printable(run.loss.label)}: {found['batch']:.2f} s a batch, {found['batches']} batches, so about"
                f" {epoch} an epoch; validates {', '.join(found['scores'])}",
                highlight=False,
                markup=False,
            )
        verify(study, console.print, tried)
    console.print("The bundle can be compared.")


@comparison.command("power")
def _power(
    study_file: Annotated[
        Path | None, typer.Argument(metavar="[PILOT]", help="A study that is done with two seeds or more.")
    ] = None,
    spread: Annotated[
        float | None, typer.Option(help="In place of a pilot: standard deviation between trainings of one loss.")
    ] = None,
    case_sd: Annotated[
        float | None, typer.Option(help="and over the cases, of the difference between two trained networks.")
    ] = None,
    difference: Annotated[float | None, typer.Option(help="That is to be seen.")] = None,
    losses: Annotated[int, typer.Option(min=2, help="Losses in the study.")] = 2,
    cases: Annotated[str, typer.Option(help="With commas: numbers of cases.")] = "25,50,100,200,500",
    seeds: Annotated[str, typer.Option(help="With commas: numbers of seeds.")] = "2,3,5,10",
    power: Annotated[float, typer.Option(min=0.5, max=0.99, help="Probability of seeing it.")] = 0.8,
    output: Annotated[Path | None, typer.Option(help="Write the figure here: .svg, .pdf or .png.")] = None,
) -> None:
    """Say how many cases and seeds it takes to see a difference, from a pilot or from numbers."""
    from monai_lossext.compare.plan import StudyError
    from monai_lossext.compare.power import MOST_CASES, Spread, cases_needed, figure, spread_of, table
    from monai_lossext.compare.results import read_results
    from monai_lossext.compare.status import outcomes

    console = Console()
    with _one_line(StudyError):
        counts = {name: _counts(text, f"--{name}") for name, text in (("cases", cases), ("seeds", seeds))}
        for name, value in (("spread", spread), ("case-sd", case_sd), ("difference", difference)):
            if value is not None and not 0 < value < float("inf"):
                raise StudyError(f"--{name}: expected a number above 0, got {value}")
        if study_file is not None:
            pilot = _study(study_file, {}, check=False)
            found = outcomes(pilot)
            if all(outcome.error for outcome in found):
                raise StudyError(f"no run of the study in {pilot.output} is finished yet")
            measured = spread_of(read_results(pilot, found).cases, pilot.primary)
            if measured is None:
                raise StudyError(f"the study in {pilot.output} has no two losses of which one is trained twice")
        elif spread is None or case_sd is None:
            raise StudyError("--spread: name a finished study as pilot, or give --spread and --case-sd")
        else:
            measured = Spread(spread, case_sd / 2**0.5)
    console.print(
        f"Standard deviations: {measured.trainings:.4f} between trainings of one loss, {measured.own:.4f} between cases"
        f" for one loss, {measured.noise:.4f} of single scores beside that.",
        highlight=False,
    )
    numbers = table(measured, counts["cases"], counts["seeds"], losses, power)
    shown = Table(
        "seeds",
        *(f"{n} cases" for n in numbers.columns),
        title=f"Smallest difference between two of {losses} losses that is shown with {100 * power:g} % probability",
    )
    for count, row in numbers.iterrows():
        shown.add_row(str(count), *(f"{value:.4f}" for value in row))
    console.print(shown)
    if difference is not None:
        for count in counts["seeds"]:
            needed = cases_needed(measured, difference, count, losses, power)
            many = f"not with {MOST_CASES} cases" if needed is None else f"{needed} cases"
            console.print(f"{difference:g} with {count} seeds: {many}", highlight=False)
    if output is not None:
        with _one_line(OSError, ValueError):
            figure(measured, counts["seeds"], losses, difference, power).savefig(output)
        console.print(f"written: {output}", soft_wrap=True, highlight=False, markup=False)


def _counts(text: str, option: str) -> list[int]:
    from monai_lossext.compare.plan import StudyError

    if not all(part.strip().isdigit() and int(part) > 1 for part in text.split(",")):
        raise StudyError(f"{option}: expected numbers from 2 on with commas, got {text!r}")
    return [int(part) for part in text.split(",")]


@app.command(name="predict")
def _predict(
    bundle: Annotated[str, typer.Argument(help="Name of a bundle of this package ('bundle list'), or a folder.")],
    input_dir: Annotated[Path, typer.Argument(help="A picture or volume, or a folder of them.")],
    output_dir: Annotated[Path, typer.Argument(help="Folder for the masks.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Weights (default: the bundle's).")] = None,
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:1 (default: a GPU, if any).")] = None,
    overlays: Annotated[
        Path | None, typer.Option(help="Folder for pictures with outlines, and a sheet of all.")
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option(help="Config read after inference.yaml, such as protocol/paper_model.yaml.")
    ] = None,
) -> None:
    """Write the masks of pictures or volumes, with the weights of a bundle."""
    from monai_lossext.predict import inference_command, predict, write_overlays

    with _one_line(ValueError, OSError, ImportError):
        code = predict(inference_command(bundle, input_dir, output_dir, checkpoint, device, config or ()))
        if overlays is not None and output_dir.is_dir() and (drawn := write_overlays(input_dir, output_dir, overlays)):
            typer.echo(f"written: {printable(drawn[-1])}")
    raise typer.Exit(code)


bundles = typer.Typer(no_args_is_help=True, help="The bundles that come with this package.")
app.add_typer(bundles, name="bundle")


@bundles.command("list")
def _list_bundles() -> None:
    """Name the bundles, say what they do and where they lie."""
    import json

    from monai_lossext.bundle_folders import bundle_names, find_bundle

    table = Table(Column("Bundle", no_wrap=True), "Does", "Weights", Column("Folder", overflow="fold"))
    for name in bundle_names():
        folder = find_bundle(name)
        task = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))["task"]
        table.add_row(name, task, "yes" if (folder / "models" / "model.pt").is_file() else "no", str(folder))
    Console().print(table)


@bundles.command("copy")
def _copy_bundle(
    bundle: Annotated[str, typer.Argument(help="Name of a bundle of this package, or a folder.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Copy a bundle to a folder of one's own, to change its configs or to train it in place."""
    from monai_lossext.bundle_folders import copy_bundle

    with _one_line(ValueError, OSError):
        typer.echo(f"written: {printable(copy_bundle(bundle, folder))}")


@bundles.command("pack")
def _pack_weights(
    checkpoint: Annotated[Path, typer.Argument(help="models/best.pt or models/last.pt of a run.")],
    target: Annotated[Path, typer.Argument(help="File to write: models/model.pt of a bundle.")],
    notice: Annotated[str | None, typer.Option(help="What is to be said whenever the weights are used.")] = None,
) -> None:
    """Write the weights of a run in half precision and compressed, to ship them with a bundle."""
    from hashlib import sha256

    from monai_lossext.bundle_folders import pack_weights

    with _one_line(ValueError, OSError):
        path = pack_weights(checkpoint, target, notice)
        content = path.read_bytes()
        typer.echo(f"written: {printable(path)}, {len(content) / 1e6:.1f} MB, SHA-256 {sha256(content).hexdigest()}")


@bundles.command("json")
def _write_json(folder: Annotated[list[Path], typer.Argument(help="Folders of bundles.")]) -> None:
    """Write train.json and evaluate.json anew from the YAML beside them, for tools that know no other names."""
    from monai_lossext.bundle_folders import write_json

    with _one_line(ValueError, OSError):
        for bundle in folder:
            for path in write_json(bundle):
                typer.echo(f"written: {printable(path)}")


@app.command()
def losses(
    name: Annotated[str | None, typer.Argument(help="One loss to show in full, by class name or overlay.")] = None,
) -> None:
    """List the losses of the catalogue, or show one."""
    import yaml

    from monai_lossext.losses.catalogue import FAMILIES, catalogue, entry_named

    console = Console()
    if name is None:
        table = Table(Column("Loss", no_wrap=True), "Good for")
        for family, judges in FAMILIES.items():
            table.add_section()
            table.add_row(f"[bold]{family}[/]", f"[bold]{judges}[/]")
            for entry in catalogue():
                if entry.family == family:
                    table.add_row(entry.name, escape(entry.good_for))
        console.print(table)
        return
    with _one_line(LookupError):
        entry = entry_named(name)
    table = Table(show_header=False, title=entry.name, title_justify="left")
    fields = ["family", "formula", "range", "good_for", "paper", "monai", "difference", "partner", "without_gradient"]
    for field in [*fields, "arguments", "overlay"]:
        if getattr(entry, field):
            table.add_row(field.replace("_", " "), escape(getattr(entry, field)))
    console.print(table)
    typer.echo(yaml.safe_dump({"loss": entry.config}, sort_keys=False), nl=False)


@app.command("inspect")
def _inspect(
    name: Annotated[
        str, typer.Argument(metavar="LOSS", help="Class of the catalogue, overlay, or dotted path of any class.")
    ],
    argument: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Argument of the class. Repeatable.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="It takes probabilities (default: logits).")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the figure here: .svg, .pdf or .png.")] = None,
) -> None:
    """Say what a loss of one channel does: to soft targets, to uncertain voxels, to the volume, in hard cases."""
    import yaml

    from monai_lossext.inspection import inspect, named_loss
    from monai_lossext.inspection.show import figure, show

    with _one_line(LookupError, TypeError, ValueError, OSError):
        pairs = (text.partition("=") for text in argument or [])
        arguments = {key: yaml.safe_load(value) for key, _, value in pairs}
        named = named_loss(name, arguments, logits=not probabilities)
        found = inspect(named.loss, logits=not probabilities)
        show(named.name, found, Console())
        if output is not None:
            figure(named.name, found).savefig(output)
            typer.echo(f"written: {printable(output)}")


@app.command()
def datalist(
    dataset_dir: Annotated[
        str, typer.Argument(help="Folder of a data set: skin lesions, heads, or lesions in scans of several channels.")
    ],
    output: Annotated[Path | None, typer.Option(help="Write the datalist as JSON, as MONAI reads it.")] = None,
    layout: Annotated[
        str,
        typer.Option(
            help="auto, or isic2017, ph2, dermofit, plain; for heads nfbs, bids, volumes;"
            " for lesions wmh, channels, lesions."
        ),
    ] = "auto",
    image_pattern: Annotated[
        str | None,
        typer.Option(
            help="Names of your own: 'photos/{case} derm.jpg'; a volume's ending means heads, {channel} lesions."
        ),
    ] = None,
    label_pattern: Annotated[str | None, typer.Option(help="The same for the masks.")] = None,
    split_file: Annotated[Path | None, typer.Option(help="YAML or JSON with the cases of each part.")] = None,
    fold: Annotated[int | None, typer.Option(help="Volumes: the fold of subjects for testing, from 0.")] = None,
    folds: Annotated[int | None, typer.Option(help="Volumes: how many folds (default: one per subject).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of a random split, where there is no official one.")] = 0,
    skip_bad: SkipBad = False,
    intensities: Annotated[
        bool, typer.Option("--intensities", help="Lesions: mean and deviation of each channel in the training part.")
    ] = False,
) -> None:
    """Recognise the layout of a data set, check every image and mask, and count the cases of each part."""
    from monai_lossext.data import (
        DatalistError,
        channel_intensities,
        skin_lesion_datalist,
        skull_stripping_datalist,
        white_matter_lesion_datalist,
        write_datalist,
    )
    from monai_lossext.data.layouts import read_layout
    from monai_lossext.data.lesion_layouts import LESION_LAYOUTS
    from monai_lossext.data.picture_layouts import SKIN_LESION_LAYOUTS
    from monai_lossext.data.volume_layouts import HEAD_LAYOUTS
    from monai_lossext.scripts.volume_files import suffix_of

    with _one_line(ValueError, OSError):
        patterns: dict[str, Any] = {"image_pattern": image_pattern, "label_pattern": label_pattern}
        if image_pattern is None and label_pattern is None and dataset_dir not in ("", "synthetic"):
            layouts = SKIN_LESION_LAYOUTS | LESION_LAYOUTS | HEAD_LAYOUTS
            layout, _ = read_layout(Path(dataset_dir).expanduser().absolute(), layouts, layout)
        lesions = layout in LESION_LAYOUTS or "{channel}" in (image_pattern or "")
        if intensities and not lesions:
            raise DatalistError(f"--intensities is for layout {', '.join(LESION_LAYOUTS)}")
        if lesions or layout in HEAD_LAYOUTS or (image_pattern is not None and suffix_of(Path(image_pattern))):
            list_volumes = white_matter_lesion_datalist if lesions else skull_stripping_datalist
            parts = list_volumes(
                dataset_dir,
                layout=layout,
                **patterns,
                split_file=split_file,
                fold=fold,
                folds=folds,
                seed=seed,
                skip_bad=skip_bad,
            )
        elif fold is not None or folds is not None:
            raise DatalistError(
                f"--fold and --folds are for volumes, that is layout {', '.join(HEAD_LAYOUTS | LESION_LAYOUTS)}"
            )
        else:
            parts = skin_lesion_datalist(
                dataset_dir, layout=layout, **patterns, split_file=split_file, seed=seed, skip_bad=skip_bad
            )
        for section, items in parts.items():
            typer.echo(f"{section}: {len(items)} cases")
        if intensities:
            for name, values in zip(("mean", "std"), channel_intensities(parts["training"]), strict=True):
                typer.echo(f"intensity_{name}: [{', '.join(f'{value:.6g}' for value in values)}]")
        if output is not None:
            typer.echo(f"written: {write_datalist(parts, output)}")


@app.command()
def synthesize(
    folder: Annotated[Path, typer.Argument(help="An empty or new folder.")],
    kind: Annotated[Phantoms, typer.Option(help="Skin lesions, heads, or brains with lesions.")] = Phantoms.DERMOSCOPY,
    cases: Annotated[int | None, typer.Option(min=4, help="How many (default: 240 pictures, 40 volumes).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same images.")] = 0,
    lesions: Annotated[int | None, typer.Option(help="Lesions of a brain (default: 5 to 40).")] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Of the voxels that lesions have, 0.0001 to 0.5 (default: 0.0005 to 0.01).")
    ] = None,
) -> None:
    """Write phantoms with their masks: dermoscopy in the layout of ISIC 2017, volumes as NIfTI named as in BIDS."""
    from monai_lossext.data import write_dermoscopy_phantoms, write_head_phantoms, write_lesion_phantoms

    options: dict[str, Any] = {
        name: value for name, value in (("lesions", lesions), ("fraction", fraction)) if value is not None
    }
    with _one_line(ValueError, OSError):
        if options and kind is not Phantoms.LESIONS:
            raise ValueError(f"--{' and --'.join(options)}: for --kind lesions alone")
        if kind is Phantoms.LESIONS:
            written = write_lesion_phantoms(folder, cases or 40, seed=seed, **options)
        elif kind is Phantoms.HEADS:
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
