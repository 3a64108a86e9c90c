"""Which of two ways a loss is computed: the plain one in torch's operations, or the fused one, part by part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_plain: ContextVar[bool] = ContextVar("plain", default=False)


def fused() -> bool:
    """Return whether to compute in parts: always, but in a graph, under ``torch.func`` and in :func:`plain_path`."""
    if torch.compiler.is_compiling():
        return False
    return not _plain.get() and not torch._C._are_functorch_transforms_active()


def known(condition: Tensor) -> bool:
    """Return whether a condition is known to hold everywhere, which spares the arithmetic for where it does not.

    It is only looked at where that is cheap: on a CPU, and where :func:`fused` allows to branch on values.
    """
    return condition.device.type == "cpu" and fused() and bool(condition.all())


@contextmanager
def plain_path() -> Iterator[None]:
    """Compute all losses in this block in torch's own operations, which is the oracle of the fused computation.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import SoftDiceLoss
        >>> from monai_lossext.losses.paths import plain_path
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> with plain_path():
        ...     round(SoftDiceLoss()(p, g).item(), 4)
        0.2778
    """
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
