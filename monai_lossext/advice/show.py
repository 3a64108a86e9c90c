"""A recommendation on the terminal."""

from __future__ import annotations

from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from monai_lossext.advice.profile import Profile
from monai_lossext.advice.recommend import Advice, Recommendation
from monai_lossext.advice.rules import percent
from monai_lossext.text import printable

CAUTION = (
    "This is where to begin, not what is best: published results rarely carry over to other data, and few of them were"
    " tested. The study below decides it on yours."
)
FEW = 50
UNSTABLE = (
    "quantiles and shares change from one choice of cases to the next, and with them what is to be left for later."
)


def show(recommendation: Recommendation, console: Console) -> None:
    """Print what was measured, the losses to try first and to avoid, with reasons and sources."""
    part = f", its {recommendation.labels.part} part" if recommendation.labels.part else ""
    profile = recommendation.profile
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0), title_justify="left")
    for name, value in described(profile):
        table.add_row(name, value)
    console.print(f"[bold]{profile.cases} labels{part}[/]", highlight=False)
    console.print(table)
    _list("Try first", recommendation.first, console)
    _list("Leave for later", recommendation.avoid, console)
    if profile.cases < FEW:
        console.print(f"\nOnly {profile.cases} labels were read: with fewer than {FEW}, {UNSTABLE}", highlight=False)
    console.print(f"\n{CAUTION}\n", highlight=False)


def described(profile: Profile) -> list[tuple[str, str]]:
    """Return the properties of a data set in words."""
    unit = "mm³" if profile.volumes else "pixels"
    low, high = percent(profile.foreground_low), percent(profile.foreground_high)
    rows = [
        ("classes", ", ".join(profile.colours or map(str, profile.classes))),
        ("objects fill", f"{percent(profile.foreground)} of the image (median; 10 to 90 % quantile {low} to {high})"),
        ("all voxels", f"{percent(profile.prior)} are objects"),
        ("empty, full cases", f"{percent(profile.empty)}, {percent(profile.full)}"),
        ("objects a case", f"{profile.objects:.0f} (median); {percent(profile.several)} of the cases have several"),
        ("size of an object", f"{profile.object_voxels:.0f} voxels, {profile.object_size:.4g} {unit} (median)"),
        ("on the border", f"{percent(profile.border)} of an object's voxels (median)"),
    ]
    if profile.ignored is not None:
        rows.append(("left out", f"voxels of the label {profile.ignored}, which stands beside other classes"))
    if len(profile.classes) > 1:
        rows.append(("largest to rarest class", f"{profile.class_ratio:.3g} : 1"))
    if profile.volumes:
        rows.append(("spacing", f"{' x '.join(f'{mm:g}' for mm in profile.spacing)} mm (median)"))
    return rows


def _list(title: str, advice: list[Advice], console: Console) -> None:
    if advice:
        console.print(f"\n[bold]{title}[/]")
    # Losses that the same property speaks for or against stand together.
    for _, group in groupby(advice, key=lambda item: id(item.rule)):
        items = list(group)
        lines = Table.grid(padding=(0, 1), pad_edge=True)
        lines.add_row("measured:", escape(printable(items[0].property)))
        lines.add_row("why:", escape(items[0].rule.reason))
        lines.add_row("source:", escape(items[0].rule.source))
        console.print(f"• {', '.join(item.loss for item in items)}", highlight=False)
        console.print(lines)
