"""Time and memory of a call.

Extra memory is what exists at the peak of a call beyond what existed before it, its results (for a loss: the gradient)
included. torch's allocator sees tensors alone, to the byte, also those that were never written to; the resident set
sees also what numpy, SciPy, SimpleITK and oneDNN take, in pages that were written to, on Linux with glibc.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Timer

Call = Callable[[], Any]

SHORTEST = 0.05  # seconds of measurement a turn; a faster call is repeated within its turn
BUDGET = 20.0  # seconds of turns, after which no further one begins

# glibc keeps freed blocks below a threshold for itself. It raises its thresholds, up to these numbers, whenever a large
# block is freed, so that times would depend on what ran before.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
HIGHEST = {M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26}
EVERYTHING_RETURNED = {M_MMAP_THRESHOLD: 2**14, M_TRIM_THRESHOLD: 0}


def interleaved(calls: Mapping[str, Call], repeats: int) -> dict[str, list[float]]:
    """Time the calls in turn (A B C A B C ...), each after one run that warms up.

    Returns:
        The seconds of each call, one number a turn; fewer than ``repeats`` where they are slow.
    """
    _set_thresholds(HIGHEST)
    timers = {name: _timer(call) for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for turn in range(repeats):
        if turn > 0 and time.perf_counter() - start > BUDGET:
            break
        for name, timer in timers.items():
            seconds[name].append(timer.blocked_autorange(min_run_time=SHORTEST).median)
    return seconds


def fastest(call: Call) -> float:
    """Return the seconds of the fastest of a few runs, which a busy machine disturbs least."""
    return min(_timer(call).blocked_autorange(min_run_time=SHORTEST).times)


def _timer(call: Call) -> Timer:
    return Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())


def allocated(call: Call) -> int:
    """Return the extra memory of a call in bytes as torch's CPU allocator sees it."""
    with _uncollected(), _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


def resident(call: Call) -> int | None:
    """Return by how many bytes the resident set of this process grows during a call, or None where nobody counts it.

    It is the least of two runs: what else happens in the process can only add to it.
    """
    _set_thresholds(EVERYTHING_RETURNED)  # else what was freed, but not used again, would count
    found = []
    for _ in range(2):
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        except OSError:  # only Linux has it, and not every container allows it
            return None
        before = _status("VmRSS")
        with _uncollected():
            call()
        found.append(max(_status("VmHWM") - before, 0))
    return min(found)


def _set_thresholds(thresholds: Mapping[int, int]) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc
        for name, size in thresholds.items():
            library.mallopt(name, size)
        library.malloc_trim(0)


def _status(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep tensors that wait in cycles, left by what ran before, from being freed during a call."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the profiler from writing to the terminal each time that it starts and stops."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
