"""What a network was trained on, kept in the file of its weights, so that it is used for nothing else."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

logger = logging.getLogger(__name__)
NETWORK_KEYS = ("model", "network")  # of a file that holds more than weights; the latter until version 0.1
WITHOUT_EFFECT = ("Dropout", "Identity")  # layers that do nothing when a network is used


def preparation(network: torch.nn.Module, **values: Any) -> dict[str, Any]:
    """Describe what a network sees: how an image is prepared for it, and the layers that it consists of.

    Args:
        network: whose layers are counted by their names, those for training alone left out. Shapes of weights tell most
            networks apart; ReLU and LeakyReLU have none.
        values: of the preparation, numbers, text and lists of them.

    Returns:
        What JSON holds.

    >>> preparation(torch.nn.Sequential(torch.nn.Conv2d(3, 1, 1), torch.nn.Dropout()), spacing=(1, 1.5))
    {'spacing': [1, 1.5], 'layers': {'Conv2d': 1}}
    """
    leaves = [type(module).__name__ for module in network.modules() if not list(module.children())]
    layers = Counter(name for name in leaves if not name.startswith(WITHOUT_EFFECT))
    described: dict[str, Any] = json.loads(json.dumps({**values, "layers": dict(sorted(layers.items()))}))
    return described


def with_preparation(state: dict[str, Any], described: Mapping[str, Any] | None) -> dict[str, Any]:
    """Put a preparation into the weights of a network, as data about the outermost module, where torch keeps versions.

    The weights stay what everybody can load: a mapping from names to tensors, without another key.

    Args:
        state: as ``state_dict()`` returns it; copies that are plain dictionaries have no room for such data.
        described: as :func:`preparation` returns it; None leaves the weights as they are.
    """
    if described is not None:
        state._metadata[""]["preparation"] = dict(described)  # type: ignore[attr-defined]
    return state


def read_weights(path: str | os.PathLike[str], argument: str = "checkpoint") -> dict[str, Any]:
    """Read the weights of a network, also out of a file that holds more, such as `models/last.pt`.

    Args:
        path: the file, which is read with `weights_only=True`: it cannot run code.
        argument: what named it, for messages.

    Raises:
        ValueError: there is no such file, or it holds no weights.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{argument}: there is no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many kinds, IndexError for a text file
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{argument}: {path} cannot be read as weights: {cause}") from error
    for key in NETWORK_KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(f"{argument}: {path} holds no weights, but {type(state).__name__}")
    return state


def preparation_of(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what :func:`with_preparation` put into weights; None where nothing is."""
    found: dict[str, Any] | None = getattr(state, "_metadata", {}).get("", {}).get("preparation")
    return found


def notice_of(state: Mapping[str, Any]) -> str:
    """Return what whoever packed the weights wants to be said before they are used; "" where there is nothing."""
    found: str = getattr(state, "_metadata", {}).get("", {}).get("notice", "")
    return found


def not_finite(state: Mapping[str, Any]) -> str:
    """Return the name of the first weights that hold NaN or infinity; "" where all are finite.

    >>> not_finite({"a": torch.ones(2), "b": torch.tensor([float("nan")])})
    'b'
    """
    tensors = ((name, values) for name, values in state.items() if isinstance(values, torch.Tensor))
    return next((name for name, values in tensors if not values.isfinite().all()), "")


def check_preparation(path: str | os.PathLike[str], described: Mapping[str, Any]) -> None:
    """Refuse weights that were trained on images prepared in another way, or for another network; log their notice.

    Args:
        path: the file of the weights. Where it says nothing, as files of other programs, that is logged.
        described: how images are prepared now, by :func:`preparation`.

    Raises:
        ValueError: what differs, with both values; or there are no weights.
    """
    state = read_weights(path)
    if notice := notice_of(state):
        logger.warning(f"{path}: {notice}")
    trained = preparation_of(state)
    if trained is None:
        logger.warning(
            f"{path} does not say how images were prepared in training; see that it was as here: {described}"
        )
        return
    differences = [
        f"{name} was {trained.get(name)} in training and is {described.get(name)} here"
        for name in sorted(trained.keys() | described.keys())
        if trained.get(name) != described.get(name)
    ]
    if differences:
        advice = "give the values, or the file in protocol/, that training was given"
        raise ValueError(f"checkpoint: {path} was trained otherwise: {'; '.join(differences)}; {advice}")
