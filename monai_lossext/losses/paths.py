"""Which way a loss is computed: plain, in torch's operations, or fused, part by part, if possible in compiled loops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

_plain: ContextVar[bool] = ContextVar("plain", default=False)
_uncompiled: ContextVar[bool] = ContextVar("uncompiled", default=False)


def fused() -> bool:
    """Return whether to compute in parts: always, but in a graph, under ``torch.func`` and in :func:`plain_path`."""
    if torch.compiler.is_compiling():
        return False
    return not _plain.get() and not torch._C._are_functorch_transforms_active()


@lru_cache(maxsize=1)
def numba_is_installed() -> bool:
    """Return whether the loops of :mod:`.kernels` can be compiled."""
    return find_spec("numba") is not None


def compiled() -> bool:
    """Return whether a fused loss may use compiled loops: where Numba is installed, but in :func:`uncompiled_path`."""
    return not _uncompiled.get() and numba_is_installed()


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


@contextmanager
def uncompiled_path() -> Iterator[None]:
    """Compute fused losses in this block as without Numba, by torch's operations on one part after the other.

    Example:
        >>> from monai_lossext.losses import SoftDiceLoss
        >>> from monai_lossext.losses.paths import uncompiled_path
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> with uncompiled_path():
        ...     round(SoftDiceLoss()(p, g).item(), 4)
        0.2778
    """
    token = _uncompiled.set(True)
    try:
        yield
    finally:
        _uncompiled.reset(token)
