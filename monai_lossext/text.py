"""Text that comes from elsewhere: names of files and cases, and what programs have printed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[@-_])")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """Return text that can be shown without obeying it.

    Terminal escape sequences are left out, so that nothing can recolour the screen, move the cursor or rename the
    window; other control characters, and those that reverse the direction of writing, become a replacement character.
    Lines and tabs stay.

    >>> printable("\\x1b[31mred\\x1b[0m, \\x1b]0;title\\x07bell\\x07")
    'red, bell\\ufffd'
    """
    return CONTROLS.sub("\ufffd", ESCAPES.sub("", str(text)))


def did_you_mean(name: str, known: Iterable[str], before: str = "; ", after: str = "?", cutoff: float = 0.5) -> str:
    """Return the end of a message about an unknown name: the known one that is closest, or "".

    >>> did_you_mean("SoftDise", ["SoftDice", "Combo"])
    '; did you mean SoftDice?'
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    words = "Did" if before == " " else "did"
    return f"{before}{words} you mean {close[0]}{after}" if close else ""
