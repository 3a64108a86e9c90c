"""The bundles that come with the package: finding them by name, copying them, and their configs in JSON."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

from monai_lossext.files import replace_file
from monai_lossext.text import did_you_mean

NOT_COPIED = ("__pycache__", "output", "masks")
IN_JSON = ("train", "evaluate")


def bundles_dir() -> Path:
    """The folder of all bundles: within an installed package, beside the package in its repository."""
    package = Path(__file__).resolve().parent
    return next((folder for folder in (package / "bundles", package.parent / "bundles") if folder.is_dir()), package)


def bundle_names() -> list[str]:
    """The names of the bundles that come with the package, sorted."""
    return sorted(path.parents[1].name for path in bundles_dir().glob("*/configs/metadata.json"))


def find_bundle(bundle: str | os.PathLike[str]) -> Path:
    """Return the folder of a bundle.

    Args:
        bundle: a folder; or the name of a bundle that comes with the package, where there is no such folder.

    Raises:
        ValueError: it is neither; the message lists the names.

    >>> find_bundle("skull_stripping_3d").name
    'skull_stripping_3d'
    """
    folder = Path(bundle).expanduser()
    if folder.is_dir():
        return folder.absolute()
    names = bundle_names()
    if str(bundle) in names:
        return bundles_dir() / str(bundle)
    hint = did_you_mean(str(bundle), names)
    raise ValueError(f"there is no folder {bundle} and no bundle of that name{hint}; bundles: {', '.join(names)}")


def named_bundle(bundle: str | Path, otherwise: str | Path | None = None) -> str | Path:
    """Return the folder of a bundle of this package that is asked for by name; else what was given, or `otherwise`."""
    if str(bundle) in bundle_names() and not Path(bundle).exists():
        return bundles_dir() / str(bundle)
    return bundle if otherwise is None else otherwise


def copy_bundle(bundle: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Copy a bundle to a new folder, for changes of one's own; weights are copied, results of runs are not.

    Raises:
        ValueError: there is no such bundle, or something is at the folder already.
    """
    source, target = find_bundle(bundle), Path(folder).expanduser().absolute()
    if target.exists():
        raise ValueError(f"{target} is there already; name a new folder")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return target


def pack_weights(checkpoint: str | os.PathLike[str], target: str | os.PathLike[str], notice: str | None = None) -> Path:
    """Write the weights of a run as a small file to ship: in half precision and compressed.

    Vectors keep their precision: they are small, and the variances of a normalisation may be of any size. What kept the
    preparation of images (see :mod:`monai_lossext.scripts.weights`) is kept. `torch.load` reads the file as any other,
    but for its option `mmap`.

    Args:
        checkpoint: file of a run, `models/best.pt` or `models/last.pt`.
        target: the file to write, `models/model.pt` of a bundle.
        notice: what inference and evaluation are to say before they use the weights.

    Raises:
        ValueError: the checkpoint holds no weights, or some that half precision cannot hold.
    """
    import torch

    from monai_lossext.scripts.weights import read_weights

    state = read_weights(checkpoint)
    packed_before: dict[Any, Any] = {}
    for name, values in state.items():
        if values.is_floating_point() and values.ndim > 1:
            place = values.data_ptr(), values.shape, values.stride()  # some networks have a layer under two names
            state[name] = packed_before.setdefault(place, values.half())
            if not state[name].isfinite().all():
                raise ValueError(f"{checkpoint}: {name} has values that half precision cannot hold")
    if notice:
        state._metadata[""]["notice"] = notice  # type: ignore[attr-defined]
    whole, packed, path = io.BytesIO(), io.BytesIO(), Path(target)
    torch.save(state, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w") as new:
        for item in old.infolist():  # with its date, so that the same weights are the same file
            new.writestr(item, old.read(item), zipfile.ZIP_DEFLATED, compresslevel=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, packed.getvalue())
    return path


def as_json(config: Path) -> str:
    """Return a config file in JSON."""
    from monai.bundle import ConfigParser

    return json.dumps(ConfigParser.load_config_file(config), indent=4, ensure_ascii=False) + "\n"


def write_json(bundle: str | os.PathLike[str]) -> list[Path]:
    """Write `train.json` and `evaluate.json` beside the configs that are edited, for tools that know no other names.

    These are `monai.bundle.load` and MonaiAlgo. MONAI Label takes `train.json` where there is one.
    """
    written = []
    for name in IN_JSON:
        config = Path(bundle) / "configs" / f"{name}.yaml"
        written.append(config.with_suffix(".json"))
        written[-1].write_text(as_json(config), encoding="utf-8")
    return written


def check_json(bundle_root: str | os.PathLike[str]) -> None:
    """Refuse a bundle whose `train.json` or `evaluate.json` is not what its YAML says: a tool may read either.

    Raises:
        ValueError: names the file.
    """
    for name in IN_JSON:
        config = Path(bundle_root) / "configs" / f"{name}.yaml"
        copy = config.with_suffix(".json")
        if not (config.is_file() and copy.is_file()):
            continue
        if json.loads(copy.read_text(encoding="utf-8")) != json.loads(as_json(config)):
            raise ValueError(
                f"{copy} is not what {config.name} says: write it anew with `python -m monai_lossext bundle json"
                f" {bundle_root}`, or remove it"
            )
