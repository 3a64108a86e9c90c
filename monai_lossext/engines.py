"""What the bundles' engines need beyond MONAI's: batches augmented at once, and a run folder checked beforehand."""

from __future__ import annotations

import logging
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.inferers import SimpleInferer
from monai.networks.layers import AffineTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from monai_lossext.bundle_folders import check_json
from monai_lossext.scripts.files import check_options
from monai_lossext.scripts.weights import check_preparation, read_weights
from monai_lossext.text import did_you_mean

__all__ = [
    "AugmentedBatch",
    "LossInputs",
    "MixedPrecisionInferer",
    "cases_of",
    "check_json",
    "check_loss",
    "check_options",
    "check_precision",
    "compiled",
    "end_with_cause",
    "heads_with_phantoms",
    "is_true",
    "load_initial_weights",
    "load_weights",
    "prepare_run",
    "served_weights",
    "unwrapped",
]

RUN_LOG = "monai_lossext.run_log"
RUN_FILES = ("models", "history.csv", "train.log", "tensorboard", "evaluation")
WRAPPERS = ("Failed to", "applying transform")  # how MONAI begins messages that hide the one that helps
PHANTOM_SEED = 1_000_000  # of phantoms added to a data set, which may itself be phantoms


class AugmentedBatch(PrepareBatch):
    """Hand a trainer its batch of 2D pictures and masks with random flips, rotation, zoom and colour.

    Every picture gets its own parameters, but the whole batch is resampled in one step, mask and picture together:
    transforms that work picture by picture would take longer than a small network. The parameters come from torch's
    global generator on the CPU, so they are the same on every device.

    Args:
        flip_prob: probability of a flip, for each of the two axes, in [0, 1].
        rotate_degrees: angles are drawn from [-rotate_degrees, rotate_degrees].
        zoom: the picture is enlarged by factors drawn from [1 - zoom, 1 + zoom]; in [0, 1).
        brightness: a shift drawn from [-brightness, brightness] is added to the intensities.
        contrast: the distance from the picture's mean is multiplied by factors drawn from [1 - contrast, 1 + contrast].
        padding_mode: what lies outside the picture: "zeros", "border" or "reflection".

    Raises:
        ValueError: a value out of its range.

    >>> batch = {"image": torch.rand(4, 3, 32, 32), "label": torch.ones(4, 1, 32, 32)}
    >>> image, label = AugmentedBatch(rotate_degrees=45)(batch)
    >>> image.shape, label.unique().tolist()
    (torch.Size([4, 3, 32, 32]), [1.0])
    """

    def __init__(
        self,
        flip_prob: float = 0.5,
        rotate_degrees: float = 0.0,
        zoom: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        padding_mode: str = "reflection",
    ) -> None:
        for name, value, highest in (
            ("flip_prob", flip_prob, 1.0),
            ("rotate_degrees", rotate_degrees, 180.0),
            ("zoom", zoom, 0.99),
            ("brightness", brightness, math.inf),
            ("contrast", contrast, math.inf),
        ):
            if not 0 <= value <= highest:
                raise ValueError(f"{name} must be between 0 and {highest}, got {value}")
        self.flip_prob = flip_prob
        self.max_angle = math.radians(rotate_degrees)
        self.zoom = zoom
        self.brightness = brightness
        self.contrast = contrast
        self.resample = AffineTransform(padding_mode=padding_mode, zero_centered=True)

    def __call__(
        self,
        batchdata: dict[str, Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return picture (B, C, H, W) and mask (B, M, H, W), the mask as 0 and 1 in the picture's dtype."""
        image, label = (batchdata[key].to(device, non_blocking=non_blocking, **kwargs) for key in ("image", "label"))
        both = torch.cat([image, label.to(image)], dim=1)
        both = self.resample(both, self._affine(len(both)).to(both))
        image, label = both.split([image.shape[1], label.shape[1]], dim=1)
        mean = image.mean(dim=(1, 2, 3), keepdim=True)
        factor, shift = _uniform(len(image), self.contrast).to(image), _uniform(len(image), self.brightness).to(image)
        image = mean + (image - mean) * (1 + factor[:, None, None, None]) + shift[:, None, None, None]
        return image, (label > 0.5).to(image)

    def _affine(self, batch: int) -> Tensor:
        """Matrices (B, 3, 3) that map a pixel of the new picture, counted from its centre, to one of the old."""
        angle = _uniform(batch, self.max_angle)
        scale = (1 - 2 * (torch.rand(2, batch) < self.flip_prob).float()) / (1 + _uniform(batch, self.zoom))
        affine = torch.zeros(batch, 3, 3)
        affine[:, 0, 0], affine[:, 0, 1] = angle.cos() * scale[0], -angle.sin() * scale[1]
        affine[:, 1, 0], affine[:, 1, 1] = angle.sin() * scale[0], angle.cos() * scale[1]
        affine[:, 2, 2] = 1
        return affine


def _uniform(count: int, limit: float) -> Tensor:
    return (2 * torch.rand(count) - 1) * limit


class LossInputs(PrepareBatch):
    """Hand a trainer the image, and the loss what it needs besides the label: masks, maps, annotated classes.

    MONAI's SupervisedTrainer calls the loss with the prediction and with what this returns second: the mapping that all
    losses of :mod:`monai_lossext.losses` take as target, or the label itself if nothing else is asked for. In a config:

    .. code-block:: yaml

        train#trainer:
          prepare_batch:
            _target_: monai_lossext.engines.LossInputs
            distance_map: distance_map

    The second value also becomes ``engine.state.output["label"]``, where metrics look for the label. So leave an
    evaluator its default ``prepare_batch``, and give handlers and postprocessing of a trainer an ``output_transform``
    that takes the label out of the mapping.

    Args:
        image: key of the image in a batch.
        label: key of the label, (B, 1, *S) or (B, C, *S).
        mask: key of the voxel weights, (B, 1, *S) or (B, C, *S); None leaves it out, here and below.
        distance_map: key of the signed distances, (B, C, *S), as SignedDistanceMapd makes them.
        penalty_map: key of the penalties, (B, 1, *S) or (B, C, *S), as PenaltyDistanceMapd makes them.
        components: key of the components, (B, C, *S), as ConnectedComponentsd makes them.
        skeleton: key of the skeletons, (B, C, *S), as TubedSkeletond makes them.
        classes: key of which classes were annotated in each scan, (B, C) bool.

    Raises:
        KeyError: a key that is not in the batch; the message names it, and what is there.

    >>> batch = {"image": torch.rand(2, 1, 8, 8), "label": torch.ones(2, 1, 8, 8), "weight": torch.ones(2, 1, 8, 8)}
    >>> image, target = LossInputs(mask="weight")(batch)
    >>> sorted(target)
    ['label', 'mask']
    """

    def __init__(
        self,
        image: str = "image",
        label: str = "label",
        *,
        mask: str | None = None,
        distance_map: str | None = None,
        penalty_map: str | None = None,
        components: str | None = None,
        skeleton: str | None = None,
        classes: str | None = None,
    ) -> None:
        self.image = image
        keys = {
            "label": label,
            "mask": mask,
            "distance_map": distance_map,
            "penalty_map": penalty_map,
            "components": components,
            "skeleton": skeleton,
            "classes": classes,
        }
        self.keys = {name: key for name, key in keys.items() if key is not None}

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | dict[str, Tensor]]:
        """Return the image (B, C, *S) and the target, on the device; ``kwargs`` go to ``Tensor.to`` of the image."""

        def value(key: str) -> Tensor:
            if key not in batchdata:
                raise KeyError(f"the batch has no {key!r}, only {', '.join(map(repr, batchdata))}")
            return torch.as_tensor(batchdata[key])

        image = value(self.image).to(device=device, non_blocking=non_blocking, **kwargs)
        target = {name: value(key).to(device=device, non_blocking=non_blocking) for name, key in self.keys.items()}
        return image, target["label"] if len(target) == 1 else target


class MixedPrecisionInferer(SimpleInferer):
    """Run the network with most of its arithmetic in bfloat16, or as it is.

    bfloat16 has the range of float32, so gradients need no scaling. What the network returns becomes float32 before the
    loss sees it, and the weights stay float32. `amp` of MONAI's engines does the like on CUDA alone; this works on
    every device that autocasts, processors included: those with AMX units train faster by it.

    Args:
        precision: "float32" or "bfloat16".

    Raises:
        ValueError: another precision.

    >>> network, image = torch.nn.Conv2d(3, 1, 3), torch.rand(2, 3, 8, 8)
    >>> MixedPrecisionInferer("bfloat16")(image, network).dtype
    torch.float32
    """

    def __init__(self, precision: str = "float32") -> None:
        super().__init__()
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {precision!r}")
        self.precision = precision

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the network's output for `inputs` (B, C, *S)."""
        if self.precision == "float32":
            return super().__call__(inputs, network, *args, **kwargs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = super().__call__(inputs, network, *args, **kwargs)
        return _as_float32(outputs)


def _as_float32(outputs: Any) -> Any:
    """Heads of a network under deep supervision come as a list."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(map(_as_float32, outputs))
    return outputs


def compiled(network: torch.nn.Module, enabled: bool = True) -> torch.nn.Module:
    """Let torch.compile fuse a network's layers, in place: its checkpoints are those of the network as it was.

    The first batch of every shape takes up to a minute; what was compiled is kept on disk for later processes.

    Args:
        network: any network whose forward torch.compile can read.
        enabled: False returns the network untouched.

    Returns:
        The same object.

    Raises:
        ValueError: this machine cannot compile; the message says what torch asks for.

    >>> compiled(torch.nn.Linear(2, 1), enabled=False)
    Linear(in_features=2, out_features=1, bias=True)
    """
    if not enabled:
        return network
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:  # something small: without a compiler, training would end at its first batch, after all pictures were read
        torch.compile(torch.neg)(torch.zeros(2, device=device))
    except Exception as error:  # torch has a dozen types for it, private ones too
        raise ValueError(f"compile: torch cannot compile here: {str(error).strip().splitlines()[0]}") from error
    network.compile(dynamic=False)  # one version for each shape: a batch of any size makes slower ones
    return network


def is_true(argument: str, value: bool | str) -> bool:
    """Read a switch that a command line may have handed over as text.

    Args:
        argument: its name, for the message.
        value: True, False, "true" or "false" in any case.

    Raises:
        ValueError: anything else.

    >>> is_true("resume", "true"), is_true("resume", False)
    (True, False)
    """
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError(f"{argument}: expected true or false, got {value!r}")
    return text == "true"


class _Listed(list[dict[str, str]]):
    """Cases that a loader of this package has listed."""


def cases_of(datalist: Mapping[str, Sequence[dict[str, str]]], section: str) -> Sequence[dict[str, str]]:
    """Return a section of a datalist that must not be empty.

    Args:
        datalist: sections of items, as `monai_lossext.data` returns them.
        section: "training", "validation" or "testing".

    Raises:
        ValueError: there is no such section, or nothing in it; the message says what there is.

    >>> cases_of({"training": [{"case": "a"}], "testing": []}, "training")
    [{'case': 'a'}]
    """
    if not datalist.get(section):
        present = ", ".join(f"{name} ({len(items)} cases)" for name, items in datalist.items() if items)
        raise ValueError(f"the data set has no section {section!r} with cases; it has {present}")
    return _Listed(datalist[section])


def served_weights(
    bundle_root: str | os.PathLike[str], output_dir: str | os.PathLike[str], cases: Sequence[dict[str, str]]
) -> Path | None:
    """Return the file of weights that a run replaces by better ones, beside the run's own: that which inference reads.

    MONAI Label trains a bundle in place: it hands cases over as ``train#dataset#data``, names no folder for the run,
    and expects better weights where it takes them from.

    Args:
        bundle_root: the folder of the bundle.
        output_dir: the folder of the run.
        cases: to train with. Those of the bundle's own `datalist` are of a run of a person, who decides about its
            weights.

    Returns:
        `models/model.pt` of the bundle, or None for a run that leaves it alone.
    """
    own = Path(output_dir).absolute() == Path(bundle_root).absolute() / "output"
    return Path(bundle_root).absolute() / "models" / "model.pt" if own and not isinstance(cases, _Listed) else None


def heads_with_phantoms(
    dataset_dir: str | os.PathLike[str],
    extra_phantoms: int = 0,
    *,
    synthetic_cases: int = 40,
    cache_dir: str | os.PathLike[str] | None = None,
    **options: Any,
) -> dict[str, list[dict[str, str]]]:
    """List heads as skull_stripping_datalist does, with phantoms added to few heads.

    Four fifths of the phantoms are trained with, and the heads are repeated until they are as many. The others take the
    place of the validation if there are too few subjects to have one. The testing section stays as it is.

    Args:
        dataset_dir: folder of the data set, or "synthetic".
        extra_phantoms: how many phantoms to add; 0 or at least 5.
        synthetic_cases: how many phantoms "synthetic" makes.
        cache_dir: where phantoms are kept.
        options: further arguments of :func:`monai_lossext.data.skull_stripping_datalist`.

    Raises:
        ValueError: a number of phantoms between 1 and 4.
        DatalistError: as of that function.

    >>> cache = getfixture("tmp_path")
    >>> heads = heads_with_phantoms("synthetic", extra_phantoms=5, synthetic_cases=4, cache_dir=cache)
    >>> {section: len(items) for section, items in heads.items()}  # two heads twice, and four phantoms
    {'training': 8, 'validation': 1, 'testing': 1}
    """
    from monai_lossext.data import skull_stripping_datalist  # the data of the other bundles need no volumes

    if extra_phantoms < 0 or 0 < extra_phantoms < 5:
        raise ValueError(f"extra_phantoms must be 0 or at least 5, got {extra_phantoms}")
    heads = skull_stripping_datalist(dataset_dir, synthetic_cases=synthetic_cases, cache_dir=cache_dir, **options)
    if not extra_phantoms:
        return heads
    phantoms = skull_stripping_datalist(
        "synthetic",
        synthetic_cases=extra_phantoms,
        seed=PHANTOM_SEED,
        fractions=(0.8, 0.2, 0),
        check=False,
        cache_dir=cache_dir,
    )
    real = heads["training"]
    repeats = max(1, round(len(phantoms["training"]) / max(1, len(real))))
    validation = heads["validation"] or phantoms["validation"]
    return heads | {"training": real * repeats + phantoms["training"], "validation": validation}


def check_loss(loss: Any, bundle_root: str | os.PathLike[str]) -> None:
    """Refuse a loss that is text, as ``--loss mcc`` gives it, and say how it is asked for.

    Args:
        loss: what the config holds.
        bundle_root: the folder of the bundle, with files of losses in `configs/loss`.

    Raises:
        ValueError: the loss cannot be called; the message names the file of the one that was meant.
    """
    if callable(loss):
        return
    folder = Path(bundle_root) / "configs" / "loss"
    overlays = sorted(file.stem for file in folder.glob("*.yaml"))
    name = str(loss).removesuffix(".yaml").removeprefix("loss/")
    if name in overlays:
        raise ValueError(
            f"loss: name its file after train.yaml: --config_file \"['.../train.yaml','{folder / name}.yaml']\""
        )
    raise ValueError(f"loss: {loss!r} is no loss and no file in {folder}{did_you_mean(name, overlays, after='.yaml?')}")


def check_precision(
    precision: str, device: torch.device | str, patch_size: Sequence[int], network_def: torch.nn.Module
) -> None:
    """Refuse bfloat16 on a processor where a network shrinks its patches to fewer than 3 voxels along an axis.

    There PyTorch 2.13.0 has returned gradients of 3 x 3 x 3 kernels that were NaN in some calls.

    Args:
        precision: "float32" or "bfloat16".
        device: what the network is trained on.
        patch_size: voxels along each axis.
        network_def: with ``strides``, as MONAI's UNet and DynUNet have them; nothing is refused of others.

    Raises:
        ValueError: such a patch.
    """
    if precision != "bfloat16" or torch.device(device).type != "cpu":
        return
    steps: Any = getattr(network_def, "strides", ())
    strides = [ensure_tuple_rep(step, len(patch_size)) for step in steps]
    least = min(size // math.prod(step[axis] for step in strides) for axis, size in enumerate(patch_size))
    if least < 3:
        raise ValueError(
            f"precision: bfloat16 on a processor needs patches that leave 3 voxels or more for the last level, and"
            f" patch_size {list(patch_size)} leaves {least}; take float32, or larger patches"
        )


def load_weights(
    network: torch.nn.Module, path: str | os.PathLike[str], preparation: Mapping[str, Any] | None = None
) -> None:
    """Give a network the weights of a run to evaluate it with, if it was trained on images that were prepared alike.

    Args:
        network: also one that is wrapped for several GPUs.
        path: `models/best.pt` of the run.
        preparation: as :func:`monai_lossext.scripts.weights.preparation` describes it; None does not compare.

    Raises:
        ValueError: there is no such file, it holds no weights, or those of another network or preparation.
    """
    if preparation is not None:
        check_preparation(path, preparation)
    _load(unwrapped(network), read_weights(path), f"checkpoint: {path}")


def unwrapped(network: torch.nn.Module) -> torch.nn.Module:
    """Return the network that is wrapped for several GPUs, or the network itself."""
    wrappers = (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    return network.module if isinstance(network, wrappers) else network


def load_initial_weights(network: torch.nn.Module, path: str | os.PathLike[str] | None) -> None:
    """Let a network start from the weights of another run.

    Args:
        network: any network.
        path: a file of its weights alone, such as `models/best.pt`; None leaves the network as it is. It is read with
            `weights_only=True`: a file cannot run code.

    Raises:
        ValueError: the file is absent, holds no weights, or those of another network; the message names what differs.

    >>> small, file = torch.nn.Linear(2, 1), getfixture("tmp_path") / "best.pt"
    >>> torch.save(torch.nn.Linear(2, 3).state_dict(), file)
    >>> load_initial_weights(small, file)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: initial_weights: ... is of another network: weight is (3, 2) in the file and (1, 2) in the network, ...
    """
    if path is None:
        return
    weights = read_weights(path, "initial_weights")
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"initial_weights: {path} holds more than weights; expected a file like models/best.pt")
    _load(network, weights, f"initial_weights: {path}")


def _load(network: torch.nn.Module, weights: Mapping[str, Tensor], named: str) -> None:
    own = network.state_dict()
    differences = [f"{name} is missing" for name in own if name not in weights]
    differences += [f"{name} is unknown" for name in weights if name not in own]
    differences += [
        f"{name} is {tuple(value.shape)} in the file and {tuple(own[name].shape)} in the network"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise ValueError(f"{named} is of another network: {', '.join(differences[:3])}{more}")
    network.load_state_dict(weights)


def prepare_run(
    output_dir: str | os.PathLike[str], resume: bool = False, bundle_root: str | os.PathLike[str] | None = None
) -> None:
    """Make a run's folder, see that it can be written, and log the run to its `train.log` from now on.

    Args:
        output_dir: the folder of the run; made when absent.
        resume: go on in a folder that holds a run. Otherwise such a folder is refused: nothing is overwritten.
        bundle_root: the folder of the bundle. In its own `output` an earlier run is not in the way, but moves to
            `output/round-1` and so on.

    Raises:
        ValueError: the folder cannot be written, or it holds a run and `resume` is False.
    """
    folder = Path(output_dir).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"output_dir: cannot write to {folder}: {error.strerror}") from error
    main = int(os.environ.get("RANK", "0")) == 0  # as torchrun numbers its processes
    rounds = bundle_root is not None and folder == Path(bundle_root).absolute() / "output"
    if (folder / "models" / "last.pt").exists() and not resume and rounds:
        if main:
            _keep_as_round(folder)
    elif (folder / "models" / "last.pt").exists() and not resume:
        raise ValueError(
            f"output_dir: {folder} holds a run already; continue it with --resume true or name another output_dir"
        )
    if not main:  # one process is enough in the log
        return
    root = logging.getLogger()
    for handler in [
        handler for handler in root.handlers if handler.name == RUN_LOG
    ]:  # of an earlier run of this process
        root.removeHandler(handler)
        handler.close()
    log = logging.FileHandler(folder / "train.log", encoding="utf-8", delay=True)
    log.set_name(RUN_LOG)
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(log)
    logging.getLogger("monai_lossext").setLevel(logging.INFO)


def _keep_as_round(folder: Path) -> None:
    """Move what a run has left in its folder, and what others have left there stays."""
    number = 1
    while (folder / f"round-{number}").exists():
        number += 1
    (folder / f"round-{number}").mkdir()
    for name in RUN_FILES:
        if (folder / name).exists():
            (folder / name).rename(folder / f"round-{number}" / name)


def end_with_cause() -> None:
    """Let an error that ends the process say last what caused it.

    MONAI wraps an error in a config into "Failed to instantiate ..." or "applying transform ...", which then stand at
    the end of the output instead of the message that helps. The traceback stays as it is, above.
    """

    def report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, traceback)
        while isinstance(error, RuntimeError) and str(error).startswith(WRAPPERS) and error.__cause__ is not None:
            error = error.__cause__
        if isinstance(error, Exception):
            print(f"\n{type(error).__name__}: {error}", file=sys.stderr)

    sys.excepthook = report
