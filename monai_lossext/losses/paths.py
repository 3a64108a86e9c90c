"""Which way a loss is computed: by compiled loops where there are such for the device, or in torch's operations."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

import torch
from torch import Tensor

NUMBA_IS_INSTALLED = find_spec("numba") is not None
_plain: ContextVar[bool] = ContextVar("plain", default=False)
_accelerator: ContextVar[bool] = ContextVar("accelerator", default=False)
_broken: list[str] = []  # why loops cannot be compiled, once that was tried


def kernels_available() -> bool:
    """Return whether there are compiled loops for CPUs: Numba is installed and works, outside of :func:`plain_path`."""
    if torch.compiler.is_compiling():
        return NUMBA_IS_INSTALLED
    return NUMBA_IS_INSTALLED and not _broken and not _plain.get() and not _accelerator.get()


def kernels_are_broken(error: BaseException) -> None:
    """Remember that loops cannot be compiled here, and say so once."""
    if not _broken:
        _broken.append(repr(error))
        warnings.warn(
            f"Numba cannot compile here, losses take the slower way in torch's operations: {error!r}",
            RuntimeWarning,
            stacklevel=2,
        )


def transformed() -> bool:
    """Return whether torch itself looks at each operation: under ``torch.func`` and while it traces."""
    return torch._C._are_functorch_transforms_active() or torch.jit.is_tracing()  # type: ignore[attr-defined]


def is_fake(x: Tensor) -> bool:
    """Return whether a tensor has a shape but no values."""
    return getattr(x, "fake_mode", None) is not None


def waits(x: Tensor) -> bool:
    """Return whether to look at a value of a tensor makes the processor wait for a device, and is to be avoided."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return True
    return _accelerator.get() or transformed() or is_fake(x)


def known(condition: Tensor) -> bool:
    """Return whether a condition is known to hold everywhere, which spares the arithmetic for where it does not."""
    return not waits(condition) and bool(condition.all())


@contextmanager
def plain_path() -> Iterator[None]:
    """Compute all losses in this block in torch's own operations, as without Numba.

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
def as_on_accelerator() -> Iterator[None]:
    """Compute all losses in this block as on a device without compiled loops, where nothing may wait for a value.

    For tests on machines without such a device.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import SoftDiceLoss
        >>> from monai_lossext.losses.paths import as_on_accelerator
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> with as_on_accelerator():
        ...     round(SoftDiceLoss()(p, g).item(), 4)
        0.2778
    """
    token = _accelerator.set(True)
    try:
        yield
    finally:
        _accelerator.reset(token)
