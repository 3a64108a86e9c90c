"""Names of files: which of them mean the same, which clash, and how the command line hands them over."""

from __future__ import annotations

import ast
import difflib
import inspect
import os
import re
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

SAME = {"input_dir": "dataset_dir"}  # the latter is the name that MONAI's tools know


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
            changed; with ``--tracking``, also one that differs from what was typed: MONAI has written to it by then.

    >>> as_typed(output_dir="masks", cache_dir=None)
    {'output_dir': 'masks', 'cache_dir': None}
    """
    return {name: _as_typed(name, value) for name, value in values.items()}


def _as_typed(name: str, value: Any) -> Any:
    if value is None:
        return None
    typed = _on_command_line(name)
    if name in SAME and (same := _on_command_line(SAME[name])) is not None:
        if typed is not None and typed != same:
            raise ValueError(f"{SAME[name]}: --{name} is another name for it; give one of them")
        typed = same
    if typed is not None and not (len(typed) > 1 and typed[0] == typed[-1] and typed[0] in "'\""):
        if name == "output_dir" and typed != str(value) and _on_command_line("tracking") is not None:
            raise ValueError(f"output_dir: --tracking reads {typed} as {value}; name another folder, or do not track")
        return typed
    if isinstance(value, str | os.PathLike) and "::" not in os.fspath(value):
        return os.fspath(value)
    if isinstance(value, str):
        raise ValueError(f"{name}: {value} holds '::', which MONAI makes of '#' in a config; rename the folder")
    raise ValueError(f"{name}: expected text, got {value!r}, which is {type(value).__name__}")


def _on_command_line(name: str) -> str | None:
    """The text behind an option of `python -m monai.bundle`; None in other programs, and where the option is absent."""
    return options_typed().get(name)  # of several the last one counts


def is_own_process() -> bool:
    """Whether this process does nothing but what `python -m monai.bundle` was asked for."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.startswith("monai.bundle")


def stop(message: str) -> NoReturn:
    """End a command with a message; a program that runs a bundle within itself gets ValueError."""
    if is_own_process():
        sys.exit(message)
    raise ValueError(message)


def options_typed() -> dict[str, str | None]:
    """The options of `python -m monai.bundle ...` as they were typed, by name; none in other programs."""
    if not is_own_process():
        return {}
    typed: dict[str, str | None] = {}
    words = iter(sys.argv[1:])
    following = next(words, None)
    while following is not None:
        word, following = following, next(words, None)
        option, equals, text = word.partition("=")
        if not re.match("--?[A-Za-z_+]", option):
            continue
        name = option.lstrip("-").replace("-", "_")
        typed[name] = text if equals else following
        if not equals and following is not None and not re.match("--?[A-Za-z_+]", following):
            following = next(words, None)
    return typed


def check_options() -> None:
    """Refuse options of the command line that no config has: MONAI takes a misspelt one without a word.

    Raises:
        ValueError: names them, each with the nearest that is known.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow, run, run_workflow  # what reads files alone does without
    from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

    typed = options_typed()
    if arguments := typed.get("args_file"):
        typed = {**dict.fromkeys(ConfigParser.load_config_file(arguments)), **typed}
    text = typed.get("config_file")
    if text is None:
        return  # it stands in the file of arguments, or another command was given
    config = ConfigParser.load_config_files(ast.literal_eval(text) if text.startswith(("[", "(")) else text)
    known = {name for command in (run, run_workflow, ConfigWorkflow) for name in inspect.signature(command).parameters}
    if typed.get("tracking"):
        settings: Any = DEFAULT_EXP_MGMT_SETTINGS["mlflow"]
        known.update(settings["configs"])
    parser = ConfigParser(config)
    wrong = []
    for name in typed:
        outer, _, last = name.replace("#", "::").rpartition("::")
        place = parser.get(outer) if outer else {**config, **dict.fromkeys(known)}
        if outer.startswith("_meta_") or name == "_meta_" or not isinstance(place, dict):
            continue
        if last not in place and "_target_" not in place:  # a component refuses what it does not know
            close = difflib.get_close_matches(last, place, n=1)
            prefix = f"{outer}::" if outer else ""
            wrong.append(f"--{name} is no option" + (f"; did you mean --{prefix}{close[0]}?" if close else ""))
    if wrong:
        stop("\n".join(wrong))
