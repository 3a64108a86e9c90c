"""A list of files that is worked through to its end, whatever is wrong with some of them."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Transform
from torch.utils.data import IterableDataset
from tqdm import tqdm

from .files import clashes, reason
from .transforms import SaveMaskd


class InferenceFiles(IterableDataset):
    """Prepare files one after the other, with a progress bar, and go on without those that cannot be used.

    Give :meth:`predict` to the evaluator as its `iteration_update`, call :meth:`check` before it runs and
    :meth:`report` afterwards. Loaders must not read ahead: `num_workers` stays 0.

    Args:
        files: paths.
        transform: prepares ``{"image": path}``.
        kind: what a file is called in messages: "picture", "volume".
    """

    def __init__(self, files: Sequence[Path], transform: Transform, kind: str) -> None:
        self.files = files
        self.transform = transform
        self.kind = kind
        self.failed: list[str] = []
        self.notices: Counter[str] = Counter()
        self.current = Path()

    def __iter__(self) -> Iterator[Any]:
        """Yield the prepared items."""
        self.failed, self.notices = [], Counter()
        for file in tqdm(self.files, desc=f"{self.kind}s", unit=self.kind, disable=None):
            self.current = file
            try:
                prepared: Any = self.transform({"image": str(file)})
            except Exception as error:  # a transform may raise anything
                self._fail(error)
                continue
            if notice := prepared["image"].meta.get("notice"):
                self.notices[notice] += 1
            yield prepared

    def predict(self, engine: Any, batchdata: Any) -> Any:
        """Do what the engine does with a file, and go on where that fails: for want of memory, space or rights."""
        try:
            return engine._iteration(engine, batchdata)
        except Exception as error:  # networks, transforms and writers may raise anything
            self._fail(error)
            return {}

    def _fail(self, error: Exception) -> None:
        message = reason(error)
        named = message.startswith(f"{self.current} ")
        self.failed.append(message if named else f"{self.current} cannot be used: {message}")

    def check(self, checkpoint: str, input_dir: str, save: SaveMaskd) -> None:
        """Make the folder of the masks, or exit with what stands in the way before any work is done.

        Args:
            checkpoint: the file of the weights.
            input_dir: where the files were looked for.
            save: writes the masks.
        """
        targets = {file: save.target(file) for file in self.files}
        there = [target for target in targets.values() if os.path.lexists(target)]
        doubled = clashes({file: target.name for file, target in targets.items()})
        if not os.path.isfile(checkpoint):
            sys.exit(f"checkpoint: there is no file {checkpoint}")
        if not self.files:
            sys.exit(f"input_dir: there is no {self.kind} ({save.files.LOOKED_FOR}) in {input_dir}")
        if os.path.realpath(save.folder) == os.path.realpath(input_dir):
            sys.exit(f"output_dir: name another folder than that of the {self.kind}s: {save.folder}")
        if doubled:
            sys.exit("\n".join([f"input_dir: several {self.kind}s for one mask; keep one of each:", *doubled]))
        if there:
            some = f"{len(there)} of {len(targets)} masks are there already"
            sys.exit(f"output_dir: {some} and would be replaced; name another folder or move them away: {there[0]}")
        save.folder.mkdir(parents=True, exist_ok=True)

    def report(self, save: SaveMaskd) -> None:
        """Say how many masks there are, which of them are empty, and what was assumed; exit with what went wrong."""
        print(f"{len(self.files) - len(self.failed)} masks written to {save.folder}")
        if save.empty:
            print("\n".join([f"{len(save.empty)} of them are empty, nothing was found:", *map(str, save.empty)]))
        for notice, count in self.notices.items():
            print(f"{count} of {len(self.files)} {self.kind}s {notice}")
        if self.failed:
            sys.exit("\n".join([f"{len(self.failed)} of {len(self.files)} {self.kind}s have no mask:", *self.failed]))
