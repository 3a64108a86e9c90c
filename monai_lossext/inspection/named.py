"""Losses by the names that users have for them: of the catalogue, of an overlay, or a dotted path as in a config."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from monai.bundle import ConfigComponent
from torch import Tensor

from monai_lossext.losses import LossEntry
from monai_lossext.losses.catalogue import entry_named


@dataclass(frozen=True)
class NamedLoss:
    """A loss that was found by its name.

    Attributes:
        name: of its class.
        config: what makes it, with ``_target_``, as in a config of MONAI.
        loss: called with input (B, 1, H, W) and target of this shape, returns a scalar.
        entry: its entry in the catalogue, if it has one.
    """

    name: str
    config: dict[str, Any]
    loss: Callable[[Tensor, Tensor], Tensor]
    entry: LossEntry | None


def named_loss(name: str, arguments: Mapping[str, Any] | None = None, *, logits: bool = True) -> NamedLoss:
    """Make a loss for one channel.

    Args:
        name: class of the catalogue ("SoftDiceLoss"), overlay ("soft_dice"), or dotted path of any class that can be
            called with input and target, such as "monai.losses.DiceLoss" or a user's own.
        arguments: of the class.
        logits: whether it is to take logits: what ``sigmoid`` is, where the class has such an argument.

    Raises:
        LookupError: there is no such loss; the message names the nearest.
        TypeError: the arguments do not fit.
    """
    try:
        entry: LossEntry | None = entry_named(name)
    except LookupError as error:
        if "." not in name:
            raise LookupError(f"{error}; losses of others are named with their module") from None
        entry = None
    config: dict[str, Any] = {"_target_": entry.target if entry else name}
    try:
        cls: Any = ConfigComponent({**config, "_mode_": "callable"}).instantiate()
    except Exception as error:  # importing somebody's module may end in any way
        raise LookupError(f"{name} cannot be imported: {error}") from error
    activated = "sigmoid" in inspect.signature(cls).parameters and (entry is None or entry.activation)
    config |= {"sigmoid": logits} if activated else {}
    config |= dict(arguments or {})
    try:
        loss = cls(**{key: value for key, value in config.items() if key != "_target_"})
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} does not take {', '.join(config.keys() - {'_target_'})}: {error}") from error
    return NamedLoss(cls.__name__, config, loss, entry)
