"""Names of files: which of them mean the same, which clash, and how the command line hands them over."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def composed(name: str) -> str:
    """Return a name as Unicode composes it, so that `é` is one character and two that look alike are alike.

    Archives made on macOS hold decomposed names, in which `é` is an `e` and an accent.

    >>> composed("e\\u0301") == "\\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


def clashes(names: Mapping[Path, str]) -> list[str]:
    """List the files that have the name of an earlier one, such as a case or a mask that there can be only one of.

    >>> clashes({Path("a.png"): "a", Path("b.png"): "b", Path("a.jpg"): "a"})
    ['  a: a.png and a.jpg']
    """
    first_of: dict[str, Path] = {}
    lines = []
    for file, name in names.items():
        first = first_of.setdefault(composed(name), file)
        if first != file:
            lines.append(f"  {name}: {first} and {file}")
    return lines


def reason(error: BaseException) -> str:
    """Say in one line what went wrong: MONAI wraps errors, and SimpleITK puts the place in its code ahead of them."""
    while error.__cause__ is not None and not isinstance(error, ValueError):
        error = error.__cause__
    if isinstance(error, MemoryError):
        return f"there is not enough memory. {error}".strip()
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if lines[0].startswith("Exception thrown in SimpleITK") else " ".join(map(str.strip, lines))


def as_typed(**values: Any) -> dict[str, Any]:
    """Return values of options as they were typed: MONAI's command line reads `masks #2` as `masks` and 007 as 7.

    Args:
        values: what arrived, by name of the option. None stays None, and text that nobody typed stays as it is.

    Returns:
        Text by name. Text typed within quotes of its own, as in ``--output_dir "'1'"``, has lost them.

    Raises:
        ValueError: a value that is neither to be found on the command line nor text, or is text that MONAI's config has
            changed.

    >>> as_typed(output_dir="masks", cache_dir=None)
    {'output_dir': 'masks', 'cache_dir': None}
    """
    return {name: _as_typed(name, value) for name, value in values.items()}


def _as_typed(name: str, value: Any) -> Any:
    if value is None:
        return None
    typed = _on_command_line(name)
    if typed is not None and not (len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "'\""):
        return typed
    if isinstance(value, str | os.PathLike) and "::" not in os.fspath(value):
        return os.fspath(value)
    if isinstance(value, str):
        raise ValueError(f"{name}: {value} holds '::', which MONAI makes of '#' in a config; rename the folder")
    raise ValueError(f"{name}: expected text, got {value!r}, which is {type(value).__name__}")


def _on_command_line(name: str) -> str | None:
    """The text behind an option of `python -m monai.bundle`; None in other programs, and where the option is absent."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    if spec is None or not spec.name.startswith("monai.bundle"):
        return None
    found = None  # the last one counts
    for word, following in zip(sys.argv[1:], [*sys.argv[2:], None], strict=True):
        option, equals, text = word.partition("=")
        if option.startswith("-") and option.lstrip("-").replace("-", "_") == name:
            found = text if equals else following
    return found
