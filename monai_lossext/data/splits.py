"""Which case belongs to training, validation and testing. All scans of a subject belong to one of them."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import yaml

from monai_lossext.data.datalists import SECTIONS, Datalist, DatalistError, Item
from monai_lossext.scripts.files import composed

logger = logging.getLogger(__name__)


class Split(NamedTuple):
    """How subjects are divided: by a file, by folds, or at random."""

    split_file: Path | None
    fold: int | None
    folds: int | None
    seed: int
    fractions: tuple[float, float, float]

    def of(self, items: Sequence[Item]) -> Datalist:
        """Divide items; errors as of :func:`split_by_file` and :func:`fold_split`."""
        if self.split_file is not None:
            return split_by_file(items, self.split_file)
        if self.fold is not None:
            return fold_split(items, self.fold, self.folds, self.seed, self.fractions)
        return seeded_split(items, self.seed, self.fractions)


def checked_split(
    split_file: str | os.PathLike[str] | None,
    fold: int | None,
    folds: int | None,
    seed: int,
    fractions: Sequence[float],
) -> Split:
    """Return the split that is asked for; DatalistError where arguments do not go together."""
    shares = checked_fractions(fractions)
    if split_file is not None and fold is not None:
        raise DatalistError("split_file and fold are two ways to split; give one of them")
    if folds is not None and fold is None:
        raise DatalistError(f"folds={folds} needs fold, the number of the one to leave out")
    return Split(None if split_file is None else Path(split_file).expanduser(), fold, folds, seed, shares)


def seeded_split(items: Sequence[Item], seed: int, fractions: Sequence[float]) -> Datalist:
    """Divide subjects at random into training, validation and testing.

    The order comes from a digest of the seed and each subject's name, so it is the same on every platform and for
    every order of the files.

    Args:
        items: items with a "case", and with a "subject" where one subject may have several cases.
        seed: another seed gives another split.
        fractions: three shares of the subjects that add up to 1; none is lost to rounding.

    >>> items = [{"case": str(number)} for number in range(200)]
    >>> [len(section) for section in seeded_split(items, seed=0, fractions=(0.6, 0.1, 0.3)).values()]
    [120, 20, 60]
    """
    scans = _scans(items)
    order = _shuffled(scans, seed)
    first, second = (round(len(order) * share) for share in (fractions[0], fractions[0] + fractions[1]))
    parts = order[:first], order[first:second], order[second:]
    return {section: _joined(scans, part) for section, part in zip(SECTIONS, parts, strict=True)}


def fold_split(items: Sequence[Item], fold: int, folds: int | None, seed: int, fractions: Sequence[float]) -> Datalist:
    """Divide subjects into folds, of which one is for testing; training and validation share the others.

    Args:
        items: as of :func:`seeded_split`.
        fold: the one for testing, from 0.
        folds: how many; None: as many as there are subjects, which leaves out one at a time.
        seed: another seed gives other folds.
        fractions: the first two are the shares of training and validation.

    Raises:
        DatalistError: there is no such fold, or there are more folds than subjects.

    >>> items = [{"case": str(scan), "subject": str(scan // 2)} for scan in range(8)]
    >>> [len(section) for section in fold_split(items, 3, None, seed=0, fractions=(0.6, 0.2, 0.2)).values()]
    [4, 2, 2]
    """
    scans = _scans(items)
    order = _shuffled(scans, seed)
    count = len(order) if folds is None else folds
    if not 2 <= count <= len(order):
        raise DatalistError(f"folds={folds}: expected 2 to {len(order)}, which is the number of subjects")
    if not 0 <= fold < count:
        raise DatalistError(f"fold={fold}: expected 0 to {count - 1}, with {count} folds")
    if sum(fractions[:2]) == 0:
        raise DatalistError(f"fractions={tuple(fractions)}: nothing is left for training and validation")
    testing = order[fold::count]
    logger.info("fold %d of %d leaves out %s", fold, count, ", ".join(testing))
    share = fractions[0] / sum(fractions[:2])
    others = _joined(scans, [subject for subject in order if subject not in testing])
    return seeded_split(others, seed, (share, 1 - share, 0)) | {"testing": _joined(scans, testing)}


def _scans(items: Sequence[Item]) -> dict[str, list[Item]]:
    """The items of each subject; where the data set does not tell, every case is a subject of its own."""
    scans: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        scans[str(item.get("subject", item["case"]))].append(item)
    return dict(scans)


def _shuffled(subjects: Iterable[str], seed: int) -> list[str]:
    return sorted(subjects, key=lambda subject: sha256(f"{seed}/{subject}".encode()).digest())


def _joined(scans: Mapping[str, Sequence[Item]], subjects: Sequence[str]) -> list[Item]:
    return sorted((item for subject in subjects for item in scans[subject]), key=lambda item: item["case"])


def checked_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Raise DatalistError unless `fractions` are three shares that add up to 1, and return them as a tuple."""
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise DatalistError(
            f"fractions={fractions!r}: expected three shares >= 0 that add up to 1, as in (0.6, 0.1, 0.3)"
        )
    return fractions[0], fractions[1], fractions[2]


def split_by_file(items: Sequence[Item], split_file: Path) -> Datalist:
    """Divide items as a YAML or JSON file says: a list of names under "training", "validation" and "testing".

    A name is that of a case, or of a subject for all of its cases. A section may be absent, and a case that the file
    does not name is not used.

    Raises:
        DatalistError: the file cannot be read, or has another section, an unknown case, a case that is named twice or
            a subject with cases in two sections.
    """
    try:
        # BaseLoader leaves every name a string: a case called 0123 would become a number otherwise.
        content = yaml.load(split_file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatalistError(f"split_file {split_file} cannot be read: {error}") from error
    if not isinstance(content, dict) or not content.keys() <= set(SECTIONS):
        found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise DatalistError(f"split_file {split_file}: expected lists under {', '.join(SECTIONS)}, found {found}")
    named = {item["case"]: [item] for item in items} | _scans(items)
    sections: Datalist = {section: [] for section in SECTIONS}
    section_of: dict[str, str] = {}
    problems = []
    for section, cases in content.items():
        if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
            problems.append(f"  {section}: expected a list of case names")
            continue
        for case in map(composed, cases):
            if case not in named:
                problems.append(f"  {case} ({section}): no such case in the data set")
            for item in named.get(case, []):
                if item["case"] in section_of:
                    problems.append(f"  {item['case']}: named in {section_of[item['case']]} and again in {section}")
                else:
                    section_of[item["case"]] = section
                    sections[section].append(item)
    problems += _divided_subjects(sections)
    if problems:
        raise DatalistError("\n".join([f"split_file {split_file} does not fit the data set:", *problems]))
    if unused := len(items) - len(section_of):
        logger.info("%d cases are not named in %s and not used", unused, split_file)
    return {section: sorted(cases, key=lambda item: item["case"]) for section, cases in sections.items()}


def _divided_subjects(sections: Datalist) -> list[str]:
    scans = {section: _scans(items) for section, items in sections.items()}
    problems = []
    for subject in sorted(set().union(*scans.values())):
        parts = {section: of[subject] for section, of in scans.items() if subject in of}
        if len(parts) > 1:
            where = [f"{section} ({', '.join(item['case'] for item in items)})" for section, items in parts.items()]
            problems.append(f"  {subject}: in {' and in '.join(where)}; all scans of a subject belong to one section")
    return problems
