"""A list of files that is worked through to its end, whatever is wrong with some of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from torch.utils.data import IterableDataset
from tqdm import tqdm

from .files import clashes, reason, stop
from .transforms import SaveMaskd
from .weights import check_preparation


class InferenceFiles(IterableDataset):
    """Prepare files one after the other, with a progress bar, and go on without those that cannot be used.

    Give :meth:`predict` to the evaluator as its `iteration_update`, call :meth:`check` before it runs and
    :meth:`report` afterwards. Loaders must not read ahead: `num_workers` stays 0.

    Args:
        files: a path, or the paths of all channels, of each.
        transform: prepares what LoadImaged and EnsureChannelFirstd make of ``{"image": path}``.
        loader: used in place of these two, which other tools take: they read files that a loader of ours refuses.
        kind: what a file is called in messages: "picture", "volume".
    """

    def __init__(
        self, files: Sequence[Path | tuple[Path, ...]], transform: Compose, loader: Callable[..., Any], kind: str
    ) -> None:
        self.files = files
        loading = (LoadImaged, EnsureChannelFirstd)
        self.transform = Compose([loader, *(step for step in transform.transforms if not isinstance(step, loading))])
        self.kind = kind
        self.failed: list[str] = []
        self.notices: Counter[str] = Counter()
        self.current: tuple[Path, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        """Yield the prepared items."""
        self.failed, self.notices = [], Counter()
        for file in tqdm(self.files, desc=f"{self.kind}s", unit=self.kind, disable=None):
            self.current = file if isinstance(file, tuple) else (file,)
            try:
                paths: Any = [*map(str, file)] if isinstance(file, tuple) else str(file)
                prepared: Any = self.transform({"image": paths})
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
        named = message.startswith(tuple(f"{path} " for path in self.current))
        self.failed.append(message if named else f"{self.current[0]} cannot be used: {message}")

    def check(self, checkpoint: str, input_dir: str, save: SaveMaskd, preparation: Mapping[str, Any]) -> None:
        """Make the folder of the masks, or end with what stands in the way before any work is done.

        Args:
            checkpoint: the file of the weights.
            input_dir: where the files were looked for.
            save: writes the masks.
            preparation: of the files, by :func:`weights.preparation`: the weights must have been trained with the same.

        Raises:
            ValueError: what stands in the way; on the command line of MONAI the process ends with it.
        """
        targets = {file: save.target(file) for file in map(_first, self.files)}
        there = [target for target in targets.values() if os.path.lexists(target)]
        doubled = clashes({file: target.name for file, target in targets.items()})
        if not os.path.isfile(checkpoint):
            stop(f"checkpoint: there is no file {checkpoint}; train first, or name the weights of a run")
        if not self.files:
            stop(f"input_dir: there is no {self.kind} ({save.looked_for}) in {input_dir}")
        if os.path.realpath(save.folder) == os.path.realpath(input_dir):
            stop(f"output_dir: name another folder than that of the {self.kind}s: {save.folder}")
        if doubled:
            stop("\n".join([f"input_dir: several {self.kind}s for one mask; keep one of each:", *doubled]))
        if there:
            some = f"{len(there)} of {len(targets)} masks are there already"
            stop(f"output_dir: {some} and would be replaced; name another folder or move them away: {there[0]}")
        try:
            check_preparation(checkpoint, preparation)
        except ValueError as error:
            stop(str(error))
        save.folder.mkdir(parents=True, exist_ok=True)

    def report(self, save: SaveMaskd) -> None:
        """Say how many masks there are, which are empty, and what was assumed; end with what went wrong, as `check`."""
        print(f"{len(self.files) - len(self.failed)} masks written to {save.folder}")
        if save.empty:
            print("\n".join([f"{len(save.empty)} of them are empty, nothing was found:", *map(str, save.empty)]))
        for notice, count in self.notices.items():
            print(f"{count} of {len(self.files)} {self.kind}s {notice}")
        if self.failed:
            stop("\n".join([f"{len(self.failed)} of {len(self.files)} {self.kind}s have no mask:", *self.failed]))


def _first(file: Path | tuple[Path, ...]) -> Path:
    """The file that a mask is named after."""
    return file[0] if isinstance(file, tuple) else file
