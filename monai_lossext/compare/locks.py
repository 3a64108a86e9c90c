"""Locks of a study's folder, held by the operating system: they are gone when their process is, however it ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from monai_lossext.compare.plan import StudyError
from monai_lossext.files import replace_file

STUDY_LOCK = ".lock"
HOLDER = ".lock.json"  # not the locked file itself, which some systems do not let others read


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from running the study of that folder meanwhile.

    Raises:
        StudyError: another process runs it; the message names the process.
    """
    lock = FileLock(folder / STUDY_LOCK)
    try:
        lock.acquire(timeout=1)  # whoever only looks whether it is locked holds it for a moment
    except Timeout:
        raise StudyError(in_use(folder)) from None
    try:
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": started}
        replace_file(folder / HOLDER, json.dumps(holder) + "\n")
        yield
    finally:
        lock.release()


def in_use(folder: Path) -> str:
    """Return a message that names the process which runs the study of that folder; "" if there is none."""
    if not is_locked(folder / STUDY_LOCK):
        return ""
    try:
        holder = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError):  # it has just begun
        who = "another process"
    return (
        f"--output: {folder} is being worked on by {who}. Wait for it, or name another folder; compare status, plan and"
        " report work meanwhile."
    )


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock; False as well where a lock cannot be asked for."""
    if not path.is_file():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except OSError:  # a folder that can only be read
        return False
    lock.release()
    return False
