"""Handlers of the bundles' engines: seeds, history and checkpoints of a run, and scores case by case."""

from __future__ import annotations

import csv
import functools
import io
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, MetaTensor
from monai.data.utils import affine_to_spacing, set_rnd
from monai.engines import Evaluator, Workflow
from monai.metrics import (
    compute_confusion_matrix_metric,
    compute_dice,
    compute_iou,
    get_confusion_matrix,
)
from monai.metrics.utils import get_edge_surface_distance
from monai.utils import set_determinism
from torch import Tensor

from monai_lossext.files import replace_file
from monai_lossext.losses import CompoundLoss

try:
    import ignite.distributed as idist
    from ignite.engine import Events
    from ignite.handlers import Checkpoint, DiskSaver
    from PIL import Image
except ImportError as error:
    raise ImportError(f'monai_lossext.handlers needs {error.name}: pip install "monai_lossext[bundles]"') from error

__all__ = [
    "CaseTable",
    "EpochSeed",
    "LossParts",
    "RunCheckpoints",
    "RunHistory",
    "TermSchedule",
    "VolumeTable",
    "case_metrics",
    "picture_metrics",
    "volume_metrics",
]

logger = logging.getLogger(__name__)

METRICS = {
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "mcc": "matthews correlation coefficient",
}


class EpochSeed:
    """Seed every epoch anew from the run's seed and the epoch's number.

    Order and augmentation of an epoch then do not depend on what was drawn before it, so a run that is continued from
    a checkpoint repeats what the uninterrupted run would have done.

    Args:
        seed: of the run; any integer from 0 up.
        dataset: its random transforms are seeded as well; each of them has a generator of its own.
    """

    def __init__(self, seed: int, dataset: Dataset | None = None) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Workflow) -> None:
        """Seed at the start of each of the engine's epochs, differently in each process of a distributed run."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Seed Python, numpy, torch and the dataset's transforms."""
        entropy = np.random.SeedSequence([self.seed, engine.state.epoch, idist.get_rank()])
        seed = int(entropy.generate_state(1)[0])
        set_determinism(seed)
        if self.dataset is not None:
            set_rnd(self.dataset, seed)


class RunHistory:
    """Write a CSV file with one row an epoch: epoch, train_loss, val_dice, val_jaccard, lr and seconds.

    `train_loss` is the mean over the batches, `seconds` the time of the training pass alone, without validation; the
    validation cells are empty in an epoch that was not validated. The loss also becomes the trainer's metric
    "train_loss", for the other loggers. The file is replaced as a whole, and rows of later epochs, which a killed run
    may have left, are dropped.

    Args:
        path: the file.
        evaluator: validates during training, with the metrics "val_dice" and "val_jaccard".
        optimizer: its first group's learning rate is written.
    """

    def __init__(self, path: str | os.PathLike[str], evaluator: Evaluator, optimizer: torch.optim.Optimizer) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self.optimizer = optimizer
        self.loss = 0.0

    def attach(self, engine: Workflow) -> None:
        """Follow a trainer; attach after the handler that validates and before the one that changes the rate."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _start(self) -> None:
        self.loss = 0.0

    def _add(self, engine: Workflow) -> None:
        self.loss += engine.state.output[0]["loss"]

    def _write(self, engine: Workflow) -> None:
        state = engine.state
        loss = idist.all_reduce(self.loss / state.epoch_length) / idist.get_world_size()
        state.metrics["train_loss"] = loss
        validated = self.evaluator.state.metrics if self.evaluator.state.epoch == state.epoch else {}
        row = {
            "epoch": state.epoch,
            "train_loss": loss,
            "val_dice": validated.get("val_dice", ""),
            "val_jaccard": validated.get("val_jaccard", ""),
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": round(state.times["EPOCH_COMPLETED"], 3),
        }
        if idist.get_rank() > 0:
            return
        rows: list[Mapping[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [earlier for earlier in csv.DictReader(file) if int(earlier["epoch"]) < state.epoch]
        _write_table(self.path, [*rows, row])
        values = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch" and value != "")
        logger.info("epoch %d/%d: %s", state.epoch, state.max_epochs, values)


class RunCheckpoints:
    """Keep a run's best and last state as files, and continue from the last.

    `best.pt` is the state of the network with the highest key metric of the evaluator so far, `last.pt` all that
    training goes on from. Either file is always a complete one, whenever the process is killed. Both load with
    `torch.load(..., weights_only=True)`.

    Args:
        save_dir: folder of the two files; made when absent.
        network: what is trained, also when wrapped for several GPUs.
        optimizer: saved in `last.pt`.
        lr_scheduler: saved in `last.pt`.
        evaluator: validates during training; its key metric decides which state is best.
        resume: start from `last.pt` where there is one.

    Raises:
        ValueError: when training starts, if `last.pt` is of a run of another length.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
        evaluator: Evaluator,
        resume: bool = False,
    ) -> None:
        self.folder = Path(save_dir)
        self.evaluator = evaluator
        self.resume = resume
        self.state = {"network": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
        saver = _Replacing(self.folder, require_empty=False)
        self.best = Checkpoint(
            {"network": network}, saver, filename_pattern="best.pt", score_function=lambda _: self._key_metric()
        )
        self.last = Checkpoint(self.state, saver, filename_pattern="last.pt")

    def attach(self, engine: Workflow) -> None:
        """Follow a trainer; attach after the handlers whose work is to be saved."""
        self.state |= {"trainer": engine, "best": self.best}
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)

    def _key_metric(self) -> Any:
        return self.evaluator.state.metrics[self.evaluator.state.key_metric_name]

    def _save(self, engine: Workflow) -> None:
        if self.evaluator.state.epoch == engine.state.epoch:  # validated in this epoch
            self.best(engine)
        self.last(engine)

    def _load(self, engine: Workflow) -> None:
        path = self.folder / "last.pt"
        if not path.exists():
            logger.info("no %s to continue from; starting at the first epoch", path)
            return
        saved = torch.load(path, map_location=engine.state.device, weights_only=True)
        for name, what in (("max_epochs", "epochs"), ("epoch_length", "batches an epoch")):
            before, now = saved["trainer"][name], getattr(engine.state, name)
            if before != now:
                raise ValueError(f"resume: {path} is of a run of {before} {what}; this one has {now}")
        Checkpoint.load_objects(self.state, saved)
        logger.info("continuing %s after epoch %d", path, engine.state.epoch)


class _Replacing(DiskSaver):
    """Saves over a file in one step; ignite removes the old file first, and a kill in between would leave none."""

    def remove(self, filename: str) -> None:
        """Leave the file to be replaced."""


def case_metrics(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Score every picture of a batch by itself.

    Args:
        prediction: masks of 0 and 1, (B, 1, *S).
        target: the true masks, likewise.

    Returns:
        "dice", "jaccard", "accuracy", "sensitivity", "specificity" and "mcc", each (B,). Dice and Jaccard are 1 when
        both masks are empty and 0 when one is; a ratio whose denominator is 0 is NaN: the sensitivity without a lesion,
        the specificity without background, the correlation (mcc) where one of the masks is empty or full.

    >>> lesion, nothing = torch.tensor([[[[1.0, 0.0]]]]), torch.zeros(1, 1, 1, 2)
    >>> {name: value.item() for name, value in case_metrics(nothing, lesion).items()}
    {'dice': 0.0, 'jaccard': 0.0, 'accuracy': 0.5, 'sensitivity': 0.0, 'specificity': 1.0, 'mcc': nan}
    """
    confusion = get_confusion_matrix(prediction, target)
    overlap = {
        "dice": compute_dice(prediction, target, ignore_empty=False),
        "jaccard": compute_iou(prediction, target, ignore_empty=False),
    }
    ratios = {name: compute_confusion_matrix_metric(metric, confusion) for name, metric in METRICS.items()}
    return {name: values[:, 0] for name, values in (overlap | ratios).items()}


def picture_metrics(prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Score every picture of a batch by itself, with distances in pixels.

    Args:
        prediction: masks of 0 and 1, (B, 1, W, H).
        target: the true masks, likewise.

    Returns:
        As :func:`case_metrics`, and "hausdorff_px" and "hausdorff95_px", the larger of the two directed maxima and 95 %
        quantiles of the distance between outlines; each (B,). A distance is 0 when both masks are empty, and the
        picture's diagonal when one is.
    """
    longest, most = _outline_distances(prediction, target, [1.0] * (target.ndim - 2))
    return case_metrics(prediction, target) | {"hausdorff_px": longest, "hausdorff95_px": most}


def volume_metrics(prediction: Tensor, target: Tensor, spacing: Sequence[float]) -> dict[str, Tensor]:
    """Score every volume of a batch by itself, with what millimetres are needed for.

    Args:
        prediction: masks of 0 and 1, (B, 1, X, Y, Z).
        target: the true masks, likewise.
        spacing: of the voxels, in mm.

    Returns:
        As :func:`case_metrics`; "hausdorff_mm" and "hausdorff95_mm", the larger of the two directed maxima and 95 %
        quantiles of the distance between surfaces; "volume_difference_ml", the absolute one; each (B,). A distance is 0
        when both masks are empty, and the volume's diagonal when one is.

    >>> ball, other = torch.zeros(2, 1, 1, 9, 9, 9)
    >>> ball[..., 2:5, 2:5, 2:5] = other[..., 4:7, 2:5, 2:5] = 1
    >>> scores = volume_metrics(ball, other, spacing=(2, 1, 1))
    >>> [scores[name].item() for name in ("hausdorff_mm", "hausdorff95_mm", "volume_difference_ml")]
    [4.0, 4.0, 0.0]
    """
    longest, most = _outline_distances(prediction, target, spacing)
    sizes = [mask.flatten(1).sum(1, dtype=torch.float64) for mask in (prediction, target)]
    difference = (sizes[0] - sizes[1]).abs() * torch.as_tensor(spacing, dtype=torch.float64).prod() / 1000
    distances = {"hausdorff_mm": longest, "hausdorff95_mm": most}
    return case_metrics(prediction, target) | distances | {"volume_difference_ml": difference}


def _outline_distances(prediction: Tensor, target: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The Hausdorff distance and its 95 % variant, (B,) each, from one measurement of the surfaces.

    MONAI's compute_hausdorff_distance would measure them twice, and has no number for an empty mask.
    """
    mm = torch.as_tensor(spacing, dtype=torch.float64)
    inside = [mask.flatten(1).any(1) for mask in (prediction, target)]
    longest, most = torch.zeros(2, len(target), dtype=torch.float64)
    longest[inside[0] != inside[1]] = most[inside[0] != inside[1]] = (mm * torch.tensor(target.shape[2:])).norm()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of MONAI, to itself
        for index in (inside[0] & inside[1]).nonzero()[:, 0].tolist():
            masks = prediction[index, 0].float(), target[index, 0].float()
            distances = get_edge_surface_distance(*masks, spacing=mm.tolist(), symmetric=True)[1]
            longest[index] = max(directed.max() for directed in distances)
            most[index] = max(torch.quantile(directed, 0.95) for directed in distances)
    return longest, most


class CaseTable:
    """Write the scores of every case to `cases.csv`, and its predicted mask to `masks/<case>.png`.

    The columns are case, image, label, foreground (the share of the pixels that the label marks) and those of
    :func:`picture_metrics`; an undefined score is an empty cell. The folder appears when all is evaluated, in place of
    an earlier one. For evaluators whose batches have "case", in one process.

    Args:
        folder: of the table and the masks.
        items: the evaluated datalist: "case", "image" and "label" of each item are written.
    """

    def __init__(self, folder: str | os.PathLike[str], items: Iterable[Mapping[str, str]]) -> None:
        self.folder = Path(folder)
        self.partial = self.folder.with_name(self.folder.name + ".partial")
        self.items = {item["case"]: item for item in items}
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Workflow) -> None:
        """Follow an evaluator whose output holds "pred" and "label", both of 0 and 1."""
        if idist.get_world_size() > 1:
            raise ValueError("CaseTable works in one process; evaluate without torchrun")
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self) -> None:
        self.rows = []
        shutil.rmtree(self.partial, ignore_errors=True)
        (self.partial / "masks").mkdir(parents=True)

    def _add(self, engine: Workflow) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            case = item["case"]
            values = {name: value.item() for name, value in self.scores(output["pred"], output["label"]).items()}
            defined = {name: "" if np.isnan(value) else value for name, value in values.items()}
            names = {key: self.items[case][key] for key in ("case", "image", "label")}
            self.rows.append(names | {"foreground": output["label"].double().mean().item()} | defined)
            self.save_mask(output["pred"], self.partial / "masks" / case)

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the scores of one picture, from its masks (1, W, H)."""
        return picture_metrics(torch.as_tensor(prediction.cpu())[None], torch.as_tensor(target.cpu())[None])

    def save_mask(self, prediction: Tensor, path: Path) -> None:
        """Write a mask (1, W, H); the path has no suffix yet."""
        # MONAI's readers put the horizontal axis first, Pillow the vertical one.
        Image.fromarray(prediction[0].T.mul(255).byte().cpu().numpy()).save(f"{path}.png")

    def _finish(self) -> None:
        _write_table(self.partial / "cases.csv", self.rows)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.replace(self.partial, self.folder)
        means = {name: np.mean([row[name] for row in self.rows]) for name in ("dice", "jaccard")}
        logger.info("%d cases in %s: mean Dice %.4f, mean Jaccard %.4f", len(self.rows), self.folder, *means.values())


class VolumeTable(CaseTable):
    """Write the scores of every volume to `cases.csv`, and its predicted mask to `masks/<case>.nii.gz`.

    The columns are case, image, label, foreground and those of :func:`volume_metrics`. Takes the arguments of
    :class:`CaseTable`, and follows an evaluator whose "pred" and "label" are MetaTensors, which know their affine.
    """

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the scores of one volume, from its masks (1, X, Y, Z)."""
        assert isinstance(prediction, MetaTensor)
        spacing = affine_to_spacing(prediction.affine).tolist()
        return volume_metrics(torch.as_tensor(prediction.cpu())[None], torch.as_tensor(target.cpu())[None], spacing)

    def save_mask(self, prediction: Tensor, path: Path) -> None:
        """Write a mask as NIfTI."""
        import nibabel

        assert isinstance(prediction, MetaTensor)
        mask = prediction[0].byte().cpu().numpy()
        nibabel.save(nibabel.Nifti1Image(mask, prediction.affine.cpu().numpy()), f"{path}.nii.gz")


class TermSchedule:
    """Set the weight of a compound loss's term at the start of every epoch, as boundary losses want it.

    The weights depend on the number of the epoch alone, so that a continued run goes on where it was.

    Args:
        loss: the compound loss; each of its terms keeps weights that this does not set.
        term: name of the term whose weight grows from epoch to epoch.
        mode: ``"add"``, the weight is ``step`` in epoch 1, twice that in epoch 2 and so on; the other terms keep
            theirs. ``"steal"``, the weight is 1 - a and that of the others a, which falls from 1 by ``step`` an epoch.
        step: change from one epoch to the next, above 0.
        floor: least a of ``"steal"``, in [0, 1].

    Raises:
        ValueError: when there is no such term or mode, or a number is out of range.

    >>> from monai_lossext.losses import BoundaryDistanceLoss, CompoundLoss, SoftDiceLoss
    >>> loss = CompoundLoss({"dice": SoftDiceLoss(), "boundary": BoundaryDistanceLoss()})
    >>> TermSchedule(loss, "boundary", mode="steal").weights(epoch=26)
    {'dice': 0.75, 'boundary': 0.25}
    """

    def __init__(
        self, loss: CompoundLoss, term: str, mode: str = "add", step: float = 0.01, floor: float = 0.01
    ) -> None:
        if term not in loss.terms:
            raise ValueError(f"term must be one of {', '.join(map(repr, loss.terms))}, got {term!r}.")
        if mode not in ("add", "steal"):
            raise ValueError(f"mode must be 'add' or 'steal', got {mode!r}.")
        if not step > 0 or not 0 <= floor <= 1:
            raise ValueError(f"step must be above 0 and floor in [0, 1], got {step} and {floor}.")
        self.loss, self.term, self.mode, self.step, self.floor = loss, term, mode, step, floor

    def attach(self, engine: Workflow) -> None:
        """Set the weights at the start of each of the engine's epochs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Set the weights of the engine's epoch."""
        for name, weight in self.weights(engine.state.epoch).items():
            self.loss.set_weight(name, weight)

    def weights(self, epoch: int) -> dict[str, float]:
        """Return the weights that change, by name of the term, in an epoch counted from 1."""
        if self.mode == "add":
            return {self.term: self.step * epoch}
        rest = max(1 - self.step * (epoch - 1), self.floor)
        return {name: 1 - rest if name == self.term else rest for name in self.loss.terms}


class LossParts:
    """Put the mean of each term of a compound loss, and its weight, among a trainer's metrics after every epoch.

    They are called ``loss_`` and ``weight_`` with the name of the term. MONAI's StatsHandler, TensorBoardStatsHandler
    and MLFlowHandler log them as they do all metrics. The values are taken as the loss computes them.

    Args:
        loss: the compound loss, as the trainer calls it.
    """

    def __init__(self, loss: CompoundLoss) -> None:
        self.loss = loss
        self.totals: dict[str, Tensor] = {}
        self.hooks: list[Any] = []

    def attach(self, engine: Workflow) -> None:
        """Follow a trainer; attach before the handlers that log."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self) -> None:
        self._unhook()
        self.totals = {}
        self.hooks = [
            term.register_forward_hook(functools.partial(self._add, name)) for name, term in self.loss.terms.items()
        ]

    def _add(self, name: str, term: torch.nn.Module, inputs: Any, value: Tensor) -> None:
        self.totals[name] = self.totals.get(name, 0.0) + value.detach()

    def _unhook(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def _finish(self, engine: Workflow) -> None:
        self._unhook()
        for name, total in self.totals.items():
            mean = idist.all_reduce(total.item() / engine.state.epoch_length) / idist.get_world_size()
            engine.state.metrics |= {f"loss_{name}": mean, f"weight_{name}": self.loss.weights[name]}


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a CSV file in one step."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    replace_file(path, text.getvalue())
