"""Writing files so that nobody ever sees half of one, and where those are kept that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return where things are kept that can be made again: `MONAI_LOSSEXT_CACHE`, or a folder in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "monai_lossext"
    return Path(os.environ.get("MONAI_LOSSEXT_CACHE") or default).expanduser()


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file in one step: whoever reads it, also after a kill, finds either the old or the whole new content.

    Args:
        path: the file; its folder must exist.
        content: text (written as UTF-8) or bytes.

    >>> path = getfixture("tmp_path") / "scores.csv"
    >>> replace_file(path, "case,dice\\n")
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('case,dice\\n', ['scores.csv'])
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        os.replace(partial, path)
    except OSError:  # of a full disk, which half a file would fill further
        partial.unlink(missing_ok=True)
        raise
