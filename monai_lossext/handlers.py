"""Handlers of the bundles' engines: seeds, history and checkpoints of a run, and scores case by case."""

from __future__ import annotations

import csv
import io
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
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

from monai_lossext.engines import unwrapped
from monai_lossext.files import replace_file
from monai_lossext.losses import CompoundLoss, DeepSupervisedLoss
from monai_lossext.scores import THRESHOLDS, calibration_error, lesion_scores, overlaps
from monai_lossext.scripts.weights import NETWORK_KEYS, not_finite, with_preparation

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
TOLERANCE = 2.0  # pixels or mm, of the normalised surface distance
FEW_STEPS = 10  # of the optimizer in an epoch, below which a training hardly moves, and batch statistics not at all

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
    """Write a CSV file with one row an epoch: epoch, train_loss, the scores (val_dice, val_jaccard), lr and seconds.

    `train_loss` is the mean over the batches, `seconds` the time of the training pass alone, without validation; the
    validation cells are empty in an epoch that was not validated. The loss also becomes the trainer's metric
    "train_loss", for the other loggers. How many steps an epoch has is logged when training starts, as a warning where
    they are few. The file is replaced as a whole, and rows of later epochs, which a killed run
    may have left, are dropped.

    Args:
        path: the file.
        evaluator: validates during training.
        optimizer: its first group's learning rate is written.
        scores: names of the evaluator's metrics; their columns begin with ``val_`` in any case.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        evaluator: Evaluator,
        optimizer: torch.optim.Optimizer,
        scores: Sequence[str] = ("val_dice", "val_jaccard"),
    ) -> None:
        self.scores = scores
        self.path = Path(path)
        self.evaluator = evaluator
        self.optimizer = optimizer
        self.loss = 0.0

    def attach(self, engine: Workflow) -> None:
        """Follow a trainer; attach after the handler that validates and before the one that changes the rate."""
        engine.add_event_handler(Events.STARTED, self._tell)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _tell(self, engine: Workflow) -> None:
        steps, epochs = engine.state.epoch_length or 0, engine.state.max_epochs
        logger.info("%d steps an epoch, %d epochs", steps, epochs)
        if steps < FEW_STEPS and idist.get_rank() == 0:
            logger.warning(
                "%d steps an epoch are few: take a smaller --batch_size or more --epochs, or start from weights that"
                " are there (--initial_weights); see 'Few cases' in docs/README.md",
                steps,
            )

    def _start(self) -> None:
        self.loss = 0.0

    def _add(self, engine: Workflow) -> None:
        output = engine.state.output
        self.loss += float((output[0] if isinstance(output, list) else output)["loss"])

    def _write(self, engine: Workflow) -> None:
        state = engine.state
        loss = idist.all_reduce(self.loss / state.epoch_length) / idist.get_world_size()
        state.metrics["train_loss"] = loss
        validated = self.evaluator.state.metrics if self.evaluator.state.epoch == state.epoch else {}
        row = {
            "epoch": state.epoch,
            "train_loss": loss,
            **{f"val_{name.removeprefix('val_')}": _number(validated.get(name, "")) for name in self.scores},
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


def _number(score: Any) -> Any:
    """The mean of a score's classes."""
    return float(score.double().mean()) if isinstance(score, Tensor) else score


class RunCheckpoints:
    """Keep a run's best and last state as files, and continue from the last.

    `best.pt` is the state of the network with the highest key metric of the evaluator so far, `last.pt` all that
    training goes on from. Either file is always a complete one, whenever the process is killed. Both load with
    `torch.load(..., weights_only=True)`. Weights that are not finite end the training and are not saved.

    Args:
        save_dir: folder of the two files; made when absent.
        network: what is trained, also when wrapped for several GPUs.
        optimizer: saved in `last.pt`.
        lr_scheduler: saved in `last.pt`; None: there is none.
        evaluator: validates during training; its key metric decides which state is best.
        resume: start from `last.pt` where there is one.
        preparation: of the images, kept in both files, by :func:`monai_lossext.scripts.weights.preparation`.
        serve: a file that becomes a copy of each new `best.pt`, or of the last weights of a run without validation.
            What was there before the run is kept as `served_before.pt`. None: there is no such file.

    Raises:
        ValueError: when training starts, if `last.pt` is of a run of another length.
        FloatingPointError: after an epoch, if a weight is NaN or infinite.
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None,
        evaluator: Evaluator,
        resume: bool = False,
        preparation: Mapping[str, Any] | None = None,
        serve: Path | None = None,
    ) -> None:
        self.folder = Path(save_dir)
        self.serve = serve
        self.evaluator = evaluator
        self.resume = resume
        model = _Prepared(unwrapped(network), preparation)
        self.state: dict[str, Any] = {"model": model, "optimizer": optimizer}
        self.state |= {} if lr_scheduler is None else {"lr_scheduler": lr_scheduler}
        saver = _Replacing(self.folder, require_empty=False)
        self.best = Checkpoint(
            {"model": model}, saver, filename_pattern="best.pt", score_function=lambda _: self._key_metric()
        )
        self.last = Checkpoint(self.state, saver, filename_pattern="last.pt")

    def attach(self, engine: Workflow) -> None:
        """Follow a trainer; attach after the handlers whose work is to be saved."""
        self.state |= {"trainer": engine, "best": self.best}
        scaler = getattr(engine, "scaler", None)  # of mixed precision
        if scaler is not None and scaler.is_enabled():
            self.state["scaler"] = scaler
        if self.resume:
            engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        engine.add_event_handler(Events.COMPLETED, self._serve_last)

    def _key_metric(self) -> Any:
        return self.evaluator.state.metrics[self.evaluator.state.key_metric_name]

    def _save(self, engine: Workflow) -> None:
        if name := not_finite(self.state["model"].state_dict()):
            raise FloatingPointError(
                f"the weights are not finite after epoch {engine.state.epoch}: {name} holds NaN or infinity; files in"
                f" {self.folder} are those of the epochs before. A lower learning rate or float32 may help"
            )
        if self.evaluator.state.epoch == engine.state.epoch:  # validated in this epoch
            before = self._saved_best()
            self.best(engine)
            if self._saved_best() != before:
                self._serve((self.folder / "best.pt").read_bytes)
        self.last(engine)

    def _saved_best(self) -> int:
        path = self.folder / "best.pt"
        return path.stat().st_ino if path.exists() else 0

    def _serve(self, content: Callable[[], bytes]) -> None:
        if self.serve is None or idist.get_rank() > 0:
            return
        kept = self.folder / "served_before.pt"
        if self.serve.exists() and not kept.exists():
            replace_file(kept, self.serve.read_bytes())
        self.serve.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.serve, content())
        logger.info("%s holds the weights of this run; exports beside it do not", self.serve)

    def _serve_last(self) -> None:
        if not self._saved_best():
            self._serve(self._state)

    def _state(self) -> bytes:
        file = io.BytesIO()
        torch.save(self.state["model"].state_dict(), file)
        return file.getvalue()

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
        if NETWORK_KEYS[1] in saved:  # of an earlier version
            saved["model"] = saved.pop(NETWORK_KEYS[1])
        # A run that was saved without mixed precision, or by an earlier version, has no scale to go on from.
        objects = {name: what for name, what in self.state.items() if name != "scaler" or name in saved}
        Checkpoint.load_objects(objects, saved)
        logger.info("continuing %s after epoch %d", path, engine.state.epoch)


class _Prepared:
    """A network whose weights say how its images are prepared."""

    def __init__(self, network: torch.nn.Module, preparation: Mapping[str, Any] | None) -> None:
        self.network = network
        self.preparation = preparation

    def state_dict(self) -> dict[str, Any]:
        return with_preparation(self.network.state_dict(), self.preparation)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state)


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
        As :func:`case_metrics` and :func:`monai_lossext.scores.lesion_scores`; "hausdorff_px" and "hausdorff95_px", the
        larger of the two directed maxima and 95 % quantiles of the distance between outlines; "nsd_2px", the normalised
        surface distance, which is the share of both outlines that lies within 2 pixels of the other; each (B,). A
        distance is 0 when both masks are empty, and the picture's diagonal when one is; the share is 1 and 0.
    """
    longest, most, near = _outline_distances(prediction, target, [1.0] * (target.ndim - 2))
    distances = {"hausdorff_px": longest, "hausdorff95_px": most, "nsd_2px": near}
    return case_metrics(prediction, target) | distances | lesion_scores(prediction, target)


def volume_metrics(prediction: Tensor, target: Tensor, spacing: Sequence[float]) -> dict[str, Tensor]:
    """Score every volume of a batch by itself, with what millimetres are needed for.

    Args:
        prediction: masks of 0 and 1, (B, 1, X, Y, Z).
        target: the true masks, likewise.
        spacing: of the voxels, in mm.

    Returns:
        As :func:`case_metrics` and :func:`monai_lossext.scores.lesion_scores`; "hausdorff_mm" and "hausdorff95_mm", the
        larger of the two directed maxima and 95 % quantiles of the distance between surfaces; "nsd_2mm", the normalised
        surface distance, which is the share of both surfaces that lies within 2 mm of the other;
        "volume_difference_ml", the absolute one; each (B,). A distance is 0 when both masks are empty, and the
        volume's diagonal when one is; the share is 1 and 0.

    >>> ball, other = torch.zeros(2, 1, 1, 9, 9, 9)
    >>> ball[..., 2:5, 2:5, 2:5] = other[..., 4:7, 2:5, 2:5] = 1
    >>> scores = volume_metrics(ball, other, spacing=(2, 1, 1))
    >>> [scores[name].item() for name in ("hausdorff_mm", "hausdorff95_mm", "volume_difference_ml")]
    [4.0, 4.0, 0.0]
    """
    longest, most, near = _outline_distances(prediction, target, spacing)
    sizes = [mask.flatten(1).sum(1, dtype=torch.float64) for mask in (prediction, target)]
    difference = (sizes[0] - sizes[1]).abs() * torch.as_tensor(spacing, dtype=torch.float64).prod() / 1000
    distances = {"hausdorff_mm": longest, "hausdorff95_mm": most, "nsd_2mm": near, "volume_difference_ml": difference}
    return case_metrics(prediction, target) | distances | lesion_scores(prediction, target)


def _outline_distances(prediction: Tensor, target: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """The Hausdorff distance, its 95 % variant and the share within TOLERANCE, (B,) each, of one measurement.

    MONAI's compute_hausdorff_distance would measure them twice, and has no number for an empty mask.
    """
    mm = torch.as_tensor(spacing, dtype=torch.float64)
    inside = [mask.flatten(1).any(1) for mask in (prediction, target)]
    longest, most, near = torch.zeros(3, len(target), dtype=torch.float64)
    near[~inside[0] & ~inside[1]] = 1
    longest[inside[0] != inside[1]] = most[inside[0] != inside[1]] = (mm * torch.tensor(target.shape[2:])).norm()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of MONAI, to itself
        for index in (inside[0] & inside[1]).nonzero()[:, 0].tolist():
            masks = prediction[index, 0].float(), target[index, 0].float()
            distances = get_edge_surface_distance(*masks, spacing=mm.tolist(), symmetric=True)[1]
            longest[index] = max(directed.max() for directed in distances)
            most[index] = max(torch.quantile(directed, 0.95) for directed in distances)
            near[index] = (torch.cat([directed.flatten() for directed in distances]) <= TOLERANCE).double().mean()
    return longest, most, near


class BestThreshold:
    """Find the threshold of the probability with the best mean Jaccard index, which losses move away from 0.5.

    Follows an evaluator whose output holds "probability" (from 0 to 1) and "label". Of equally good ones it is the one
    that is nearest to 0.5.

    Args:
        clean: what is done to masks before they are scored: a dictionary transform of "pred".
    """

    def __init__(self, clean: Callable[[dict[str, Any]], Mapping[Any, Any]] | None = None) -> None:
        self.clean = clean
        self.jaccard: list[Tensor] = []

    def attach(self, engine: Workflow) -> None:
        """Follow an evaluator of the validation cases."""
        engine.add_event_handler(Events.STARTED, self.jaccard.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)

    def _add(self, engine: Workflow) -> None:
        for output in engine.state.output:
            pair = (torch.as_tensor(output[key].cpu()) for key in ("probability", "label"))
            self.jaccard.append(self.overlaps(*pair).mean(0))

    def overlaps(self, probability: Tensor, target: Tensor, thresholds: Tensor = THRESHOLDS) -> Tensor:
        """Return the Jaccard index (C, T) of the channels of a case (C, *S) at every threshold."""
        if self.clean is None:
            return overlaps(probability[:, None], target[:, None], thresholds)
        masks = [self.clean({"pred": (probability > threshold).float()})["pred"] for threshold in thresholds.tolist()]
        columns = [compute_iou(mask[:, None], target[:, None], ignore_empty=False)[:, 0].double() for mask in masks]
        return torch.stack(columns, dim=1)

    @property
    def value(self) -> float:
        """The best threshold."""
        if not self.jaccard:
            raise ValueError("the evaluator of the validation cases has not run yet, so there is no best threshold")
        means = torch.stack(self.jaccard).mean(0)
        nearest = (THRESHOLDS - 0.5).abs().double()
        return float(THRESHOLDS[(means - 1e-9 * nearest).argmax()])


class CaseTable:
    """Write the scores of every case to `cases.csv`, and its predicted mask to `masks/<case>.png`.

    The columns are case, image, label, foreground (the share of the pixels that the label marks) and those of
    :func:`picture_metrics`; where the evaluator's output has "probability" too, "ece"
    (:func:`monai_lossext.scores.calibration_error`), and with a threshold "jaccard_tuned", "dice_tuned" and
    "threshold". An undefined score is an empty cell. The folder appears when all is evaluated, in place of an earlier
    one. For evaluators whose batches have "case", in one process.

    Args:
        folder: of the table and the masks.
        items: the evaluated datalist: "case", "image" and "label" of each item are written.
        threshold: the best one on the validation cases, whose evaluator has run before.
        regions: names of the channels of masks, where there are several: a score of a case is then the mean over them,
            and each has columns such as "dice_WT" for its own. The mask that is written counts the regions of a voxel.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        items: Iterable[Mapping[str, Any]],
        threshold: BestThreshold | None = None,
        regions: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.regions = regions
        self.threshold = threshold
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
            values = self.scores(output["pred"], output["label"])
            if "probability" in output:
                values |= self._of_probability(output["probability"], output["label"])
            columns = {name: value.nanmean().item() for name, value in values.items()}
            for index, region in enumerate(self.regions):
                columns |= {f"{name}_{region}": value[index].item() for name, value in values.items() if len(value) > 1}
            defined = {name: "" if np.isnan(value) else value for name, value in columns.items()}
            names = {key: _first(self.items[case][key]) for key in ("case", "image", "label")}
            self.rows.append(names | {"foreground": output["label"].double().mean().item()} | defined)
            self.save_mask(output["pred"], self.partial / "masks" / case)

    def _of_probability(self, probability: Tensor, target: Tensor) -> dict[str, Tensor]:
        probability, target = (torch.as_tensor(volume.cpu()) for volume in (probability, target))
        values = {"ece": calibration_error(probability[:, None], target[:, None])}
        if self.threshold is not None and self.threshold.jaccard:  # federated learning runs this evaluator alone
            threshold = torch.tensor([self.threshold.value])
            jaccard = self.threshold.overlaps(probability, target, threshold)[:, 0]
            values |= {"jaccard_tuned": jaccard, "dice_tuned": 2 * jaccard / (1 + jaccard), "threshold": threshold}
        return values

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the scores (C,) of one picture, from its masks (C, W, H)."""
        return picture_metrics(torch.as_tensor(prediction.cpu())[:, None], torch.as_tensor(target.cpu())[:, None])

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

    The columns are those of :class:`CaseTable` with the scores of :func:`volume_metrics`. Takes its arguments, and
    follows an evaluator whose "pred" and "label" are MetaTensors, which know their affine.
    """

    def scores(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the scores (C,) of one volume, from its masks (C, X, Y, Z)."""
        assert isinstance(prediction, MetaTensor)
        spacing = affine_to_spacing(prediction.affine).tolist()
        predicted, true = (torch.as_tensor(mask.cpu())[:, None] for mask in (prediction, target))
        return volume_metrics(predicted, true, spacing)

    def save_mask(self, prediction: Tensor, path: Path) -> None:
        """Write a mask as NIfTI."""
        import nibabel

        assert isinstance(prediction, MetaTensor)
        mask = prediction.sum(0).byte().cpu().numpy()
        volume = nibabel.Nifti1Image(mask, prediction.affine.cpu().numpy())
        volume.header.set_xyzt_units("mm")
        nibabel.save(volume, f"{path}.nii.gz")


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
    and MLFlowHandler log them as they do all metrics, also those attached before. The values are taken as the loss
    computes them; of a loss under deep supervision, they are summed over the outputs as the loss itself is.

    Args:
        loss: the compound loss, as the trainer calls it, or a :class:`.DeepSupervisedLoss` of one.

    Raises:
        TypeError: there is no compound loss in it.
    """

    def __init__(self, loss: CompoundLoss | DeepSupervisedLoss) -> None:
        compound = loss.loss if isinstance(loss, DeepSupervisedLoss) else loss
        if not isinstance(compound, CompoundLoss):
            raise TypeError(f"loss must be a CompoundLoss, or a DeepSupervisedLoss of one, got {loss!r}.")
        self.loss = compound
        self.deep = loss if isinstance(loss, DeepSupervisedLoss) else None
        self.levels: list[float] = []  # weights of the outputs that are still to come
        self.totals: dict[str, Tensor] = {}
        self.iterations = 0
        self.hooks: list[Any] = []

    def attach(self, engine: Workflow) -> None:
        """Follow a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)  # of an epoch that ended early

    def _start(self) -> None:
        self._stop()
        self.totals, self.iterations = {}, 0
        self.loss.watchers.append(self._add)
        if self.deep is not None:
            self.hooks = [self.deep.register_forward_pre_hook(self._weigh, with_kwargs=True)]

    def _weigh(self, deep: DeepSupervisedLoss, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.levels = [weight for weight, *_ in deep.outputs(*args, **kwargs)]

    def _add(self, parts: Mapping[str, Tensor]) -> None:
        weight = self.levels.pop(0) if self.levels else 1.0
        for name, value in parts.items():
            self.totals[name] = self.totals.get(name, 0.0) + weight * value.detach()

    def _count(self, engine: Workflow) -> None:
        self.iterations += 1
        if engine.state.iteration == engine.state.epoch * (engine.state.epoch_length or 0):
            self._finish(engine)  # before any handler of EPOCH_COMPLETED, which may log

    def _stop(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        if self._add in self.loss.watchers:
            self.loss.watchers.remove(self._add)

    def _finish(self, engine: Workflow) -> None:
        self._stop()
        for name, total in self.totals.items():
            mean = idist.all_reduce(total.item() / self.iterations) / idist.get_world_size()
            engine.state.metrics |= {f"loss_{name}": mean, f"weight_{name}": self.loss.weights[name]}
        self.totals = {}


def _first(value: Any) -> Any:
    """The first channel of an image with several."""
    return value[0] if isinstance(value, list) else value


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a CSV file in one step."""
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    replace_file(path, text.getvalue())
