"""The check of every file before training starts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from monai_lossext.data.datalists import Datalist, DatalistError, Item
from monai_lossext.data.parallel import map_in_threads

logger = logging.getLogger(__name__)


class Finding(NamedTuple):
    """What the check of an item found."""

    problems: tuple[str, ...]
    notices: tuple[str, ...] = ()  # such as "masks show no lesion", to be counted


def checked(
    datalist: Datalist,
    check_item: Callable[[Item], Finding],
    kind: str,
    *,
    check: bool = True,
    skip_bad: bool = False,
    progress: bool | None = None,
) -> Datalist:
    """Check every image and mask of a datalist and return the items that can be used.

    Args:
        datalist: sections of items with "case", "image" and "label".
        check_item: reads the files of one item; it is called in threads.
        kind: what the images are called in messages: "pictures", "volumes".
        check: False returns the datalist as it is.
        skip_bad: leave bad items out with a warning instead of raising.
        progress: show a progress bar; None: on a terminal.

    Raises:
        ValueError: `skip_bad` without the check.
        DatalistError: names every bad file and what is wrong with it; with `skip_bad` only if nothing is left of a
            section.
    """
    if not check:
        if skip_bad:
            raise ValueError("skip_bad=True needs check=True: without the check no bad file is found")
        return datalist
    items = [item for section in datalist.values() for item in section]
    logger.info("checking %d %s and their masks", len(items), kind)
    findings = map_in_threads(check_item, items, f"checking {kind}", progress)

    bad = {id(item): finding.problems for item, finding in zip(items, findings, strict=True) if finding.problems}
    if bad:
        lines = [f"  {item['case']}: {problem}" for item in items for problem in bad.get(id(item), ())]
        complaint = f"{len(bad)} of {len(items)} cases cannot be used:"
        if not skip_bad:
            advice = "Repair or remove these files, or go on without them with skip_bad=True."
            raise DatalistError("\n".join([complaint, *lines, advice]))
        logger.warning("\n".join([f"going on without them: {complaint}", *lines]))

    notices = Counter(notice for finding in findings if not finding.problems for notice in finding.notices)
    for notice, count in notices.items():
        logger.warning("%d of %d %s", count, len(items), notice)

    usable = {name: [item for item in section if id(item) not in bad] for name, section in datalist.items()}
    for name, section in datalist.items():
        if section and not usable[name]:
            raise DatalistError(
                f"none of the {len(section)} {name} cases can be used; the first: {bad[id(section[0])][0]}"
            )
    return usable
