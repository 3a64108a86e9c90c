"""A page for every loss: what the catalogue says, all arguments in one place, curves and behaviour.

`write(folder)` is called before each build of the documentation. Curves and behaviour are measured by calling the loss,
by the same code as `python -m monai_lossext inspect LOSS`, and kept until the package's code changes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from inspect import cleandoc
from pathlib import Path

import torch
from sphinx.ext.napoleon import Config, GoogleDocstring

import monai_lossext.losses
from monai_lossext.inspection import Findings, inspect, named_loss
from monai_lossext.inspection.show import described, figure
from monai_lossext.losses import LossEntry
from monai_lossext.losses.catalogue import FAMILIES, catalogue

ELSEWHERE = re.compile(r"as for :class:`[.~]*(\w+)`\.?\s*(.*)")
PARAMETER = re.compile(r":param (\w+): (.*?)(?=\n:|\n\n|\Z)", re.DOTALL)


def write(folder: Path) -> None:
    """Write a page for each family and each of its losses, with figures, and a table of all, into a folder."""
    folder.mkdir(exist_ok=True)
    tables = []
    for family, judges in FAMILIES.items():
        entries = [entry for entry in catalogue() if entry.family == family]
        names = "\n".join(entry.overlay for entry in entries)
        tree = f"```{{toctree}}\n:hidden:\n\n{names}\n```"
        title = f"# {family.capitalize()} losses\n\nThey judge {judges}."
        (folder / f"{family}.md").write_text(f"{title}\n\n{tree}\n\n{table(entries)}", encoding="utf-8")
        tables.append(f"**{family.capitalize()} losses** judge {judges}.\n\n{table(entries, 'generated/')}")
        for entry in entries:  # where a family has one loss of its name, this is the page of both
            (folder / f"{entry.overlay}.md").write_text(page(entry, measured(entry, folder)), encoding="utf-8")
    (folder / "losses-table.md").write_text("\n".join(tables), encoding="utf-8")


def table(entries: Sequence[LossEntry], folder: str = "") -> str:
    """Return a table of losses, with links to their pages in a folder."""
    rows = ["| Loss | Good for | MONAI 1.6.1 has |", "|---|---|---|"]
    for entry in entries:
        nearest = "–" if entry.monai == "none" else f"`{entry.monai}`"
        rows.append(f"| [{entry.name}]({folder}{entry.overlay}.md) | {entry.good_for} | {nearest} |")
    return "\n".join(rows) + "\n"


def page(entry: LossEntry, behaviour: dict[str, str]) -> str:
    """Return the page of a loss."""
    facts = {
        "Formula": f"`{entry.formula}`",
        "Good for": entry.good_for,
        "Range": entry.range,
        "Source": entry.paper,
        "Nearest in MONAI": f"{entry.monai}: {entry.difference}",
        "Combine with": entry.partner,
        "Without gradient": entry.without_gradient,
        "Compiles into one graph": "yes" if entry.graph else "no: maps are computed on the CPU",
    }
    return "\n".join(
        [
            f"# {entry.name}",
            "",
            *(f"- **{name}** {text}" for name, text in facts.items() if text),
            "",
            "```{eval-rst}",
            f".. autoclass:: {entry.target}",
            "   :show-inheritance:",
            "```",
            "",
            "## All arguments",
            "",
            "| Argument | Default | Meaning |",
            "|---|---|---|",
            *(f"| `{name}` | `{default}` | {meaning} |" for name, default, meaning in arguments(entry)),
            "",
            "## What it does",
            "",
            f"    python -m monai_lossext inspect {entry.overlay}",
            "",
            f"![Value and slope of {entry.name} against the probability of true and false voxels, slope against the"
            f" size of the object, and where it is least for soft targets and uncertain labels]({entry.overlay}.svg)",
            "",
            "Measured by calling the loss with one channel on pictures of 16 × 16; slopes are those of a voxel's logit"
            " times the number of voxels.",
            "",
            "|  |  |",
            "|---|---|",
            *(f"| {name} | {text} |" for name, text in behaviour.items()),
            "",
        ]
    )


def arguments(entry: LossEntry) -> Iterator[tuple[str, str, str]]:
    """Yield name, default and meaning of every argument, inherited ones too, in the order of the call."""
    for name, parameter in entry.cls.__signature__.parameters.items():
        yield name, repr(parameter.default), _as_markdown(meaning(entry.cls, name))


def meaning(cls: type, name: str) -> str:
    """Return what the docstring of a class, or of the nearest base that tells it, says of an argument."""
    for base in cls.__mro__:
        text = str(GoogleDocstring(cleandoc(base.__doc__ or ""), Config(napoleon_use_param=True)))
        for found, told in PARAMETER.findall(text):
            if found == name:
                told = " ".join(told.split())
                elsewhere = ELSEWHERE.match(told)
                if elsewhere is None:
                    return told
                named = {base.__name__: base for base in cls.__mro__}.get(elsewhere[1])
                of = named or getattr(monai_lossext.losses, elsewhere[1])
                return f"{meaning(of, name)} {elsewhere[2]}".strip()
    raise LookupError(f"no docstring of {cls.__name__} or its bases tells what {name} is")


def _as_markdown(text: str) -> str:
    text = re.sub(r":(?:class|func|meth|mod):`[~.]*([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r":math:`([^`]+)`", r"$\1$", text).replace("|", r"\|")


def measured(entry: LossEntry, folder: Path) -> dict[str, str]:
    """Draw the curves of a loss and return its behaviour in words; from the last build where no code has changed."""
    kept = folder / f"{entry.overlay}.json"
    key = digest()
    if kept.exists() and (found := json.loads(kept.read_text(encoding="utf-8")))["code"] == key:
        return found["behaviour"]
    torch.set_num_threads(1)  # pictures of 256 voxels
    findings = inspect(named_loss(entry.overlay).loss)
    figure(entry.name, findings).savefig(folder / f"{entry.overlay}.svg", transparent=False)
    behaviour = {**described(findings), **_cases(findings)}
    kept.write_text(json.dumps({"code": key, "behaviour": behaviour}), encoding="utf-8")
    return behaviour


def _cases(findings: Findings) -> dict[str, str]:
    return {name: f"value {outcome}" for name, outcome in findings.cases.items()}


def digest() -> str:
    """Return a digest of the code that the curves depend on."""
    root = Path(monai_lossext.losses.__file__).parents[1]
    files = sorted([*(root / "losses").rglob("*.py"), *(root / "inspection").rglob("*.py")])
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
