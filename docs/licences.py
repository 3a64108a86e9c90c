"""Write docs/licences.md: the licences of all packages that the extras bring, from what is installed.

python docs/licences.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PAGE = Path(__file__).resolve().with_suffix(".md")
PACKAGE = "monai_lossext"
# What is needed to use the package comes first; the others are tools of its development.
EXTRAS = ("", "bundles", "compare", "fast", "skeletons", "ray", "mlflow", "export", "docs", "dev")
CLASSIFIER = "License :: OSI Approved :: "
FAMILIES = {  # of texts that stand where a name should
    "Apache-2.0": "Apache License",
    "MIT": "Permission is hereby granted, free of charge",
    "BSD": "Redistribution and use in source and binary forms",
}


def licence(found: Distribution) -> str:
    """Return the licence that a distribution names: by its expression, its classifiers or a text that is well known."""
    data = found.metadata
    classifiers = data.get_all("Classifier", [])
    classified = [text.removeprefix(CLASSIFIER) for text in classifiers if text.startswith(CLASSIFIER)]
    text = (data.get("License") or "").strip()
    files = [path for path in found.files or () if path.name.upper().startswith(("LICENSE", "LICENCE"))]
    text = text or next((path.read_text() for path in files), "")
    whole = next((name for name, words in FAMILIES.items() if words in text), text.partition("\n")[0])
    return data.get("License-Expression") or " and ".join(classified) or whole or "not named"


def needed(name: str, extras: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield name and extras of what a distribution needs here; none where it is not installed."""
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield normal(requirement.name), tuple(sorted(requirement.extras))


def normal(name: str) -> str:
    """Return the name of a package as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def brought(extra: str) -> tuple[set[str], set[str]]:
    """Return what an extra brings, directly and in all, without what is not installed."""
    own = {normal(PACKAGE)}
    direct: set[str] = set()
    seen: set[tuple[str, tuple[str, ...]]] = set()
    todo = [(PACKAGE, (extra,) if extra else ())]
    while todo:
        name, extras = todo.pop()
        try:
            new = set(needed(name, extras)) - seen
        except PackageNotFoundError:
            continue
        seen |= new
        todo += new
        direct |= {other for other, _ in new} if normal(name) in own else set()
    installed = {name for name, _ in seen if is_installed(name)} - own
    return direct & installed, installed


def is_installed(name: str) -> bool:
    """Tell whether a package is here."""
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def page() -> str:
    """Return the page."""
    listed: set[str] = set()
    lines = [
        "# Licences of the dependencies",
        "",
        "The package itself is under Apache-2.0. What it needs, directly or for something else, and what each extra",
        "adds to that, as the installed packages name their licences; written by `python docs/licences.py`.",
        "",
    ]
    for extra in EXTRAS:
        direct, installed = brought(extra)
        rows = [(name, distribution(name)) for name in sorted(installed - listed)]
        listed |= installed
        lines += [
            f"## {'Extra ' + extra if extra else 'Always'}",
            "",
            "| Package | Version | Licence |",
            "|---|---|---|",
        ]
        for name, found in rows:
            shown = f"**{name}**" if name in direct else name
            lines.append(f"| {shown} | {found.version} | {licence(found).replace('|', '/')} |")
        lines.append("")
    lines.append("**Bold**: named by this package; the others are needed by those.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
