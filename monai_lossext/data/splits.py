"""Which case belongs to training, validation and testing."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import yaml

from monai_lossext.data.datalists import SECTIONS, Datalist, DatalistError, Item

logger = logging.getLogger(__name__)


def seeded_split(items: Sequence[Item], seed: int, fractions: Sequence[float]) -> Datalist:
    """Divide items at random into training, validation and testing.

    The order comes from a digest of the seed and each case's name, so it is the same on every platform and for every
    order of the files.

    Args:
        items: items with a "case".
        seed: another seed gives another split.
        fractions: three shares that add up to 1; no item is lost to rounding.

    >>> items = [{"case": str(number)} for number in range(200)]
    >>> [len(section) for section in seeded_split(items, seed=0, fractions=(0.6, 0.1, 0.3)).values()]
    [120, 20, 60]
    """
    order = sorted(items, key=lambda item: sha256(f"{seed}/{item['case']}".encode()).digest())
    first, second = (round(len(order) * share) for share in (fractions[0], fractions[0] + fractions[1]))
    parts = order[:first], order[first:second], order[second:]
    return {section: sorted(part, key=lambda item: item["case"]) for section, part in zip(SECTIONS, parts, strict=True)}


def checked_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Raise DatalistError unless `fractions` are three shares that add up to 1, and return them as a tuple."""
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise DatalistError(
            f"fractions={fractions!r}: expected three shares >= 0 that add up to 1, as in (0.6, 0.1, 0.3)"
        )
    return fractions[0], fractions[1], fractions[2]


def split_by_file(items: Sequence[Item], split_file: Path) -> Datalist:
    """Divide items as a YAML or JSON file says: a list of case names under "training", "validation" and "testing".

    A section may be absent, and a case that the file does not name is not used.

    Raises:
        DatalistError: the file cannot be read, or has another section, an unknown case or a case that is named twice.
    """
    try:
        # BaseLoader leaves every name a string: a case called 0123 would become a number otherwise.
        content = yaml.load(split_file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatalistError(f"split_file {split_file} cannot be read: {error}") from error
    if not isinstance(content, dict) or not content.keys() <= set(SECTIONS):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DatalistError(f"split_file {split_file}: expected lists under {', '.join(SECTIONS)}, found {found}")
    known = {item["case"]: item for item in items}
    sections: Datalist = {section: [] for section in SECTIONS}
    section_of: dict[str, str] = {}
    problems = []
    for section, cases in content.items():
        if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
            problems.append(f"  {section}: expected a list of case names")
            continue
        for case in cases:
            if case not in known:
                problems.append(f"  {case} ({section}): no such case in the data set")
            elif case in section_of:
                problems.append(f"  {case}: named in {section_of[case]} and again in {section}")
            else:
                section_of[case] = section
                sections[section].append(known[case])
    if problems:
        raise DatalistError("\n".join([f"split_file {split_file} does not fit the data set:", *problems]))
    if unused := len(known) - len(section_of):
        logger.info("%d cases are not named in %s and not used", unused, split_file)
    return {section: sorted(cases, key=lambda item: item["case"]) for section, cases in sections.items()}
