"""Which way a loss is computed: by compiled loops or kernels where there are such for the device, or in torch's
operations.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

import torch
from torch import Tensor

NUMBA_IS_INSTALLED = find_spec("numba") is not None
TRITON_IS_INSTALLED = find_spec("triton") is not None
OLDEST_CARD = (8, 0)  # NVIDIA's compute capability that Triton supports
_plain: ContextVar[bool] = ContextVar("plain", default=False)
_accelerator: ContextVar[bool] = ContextVar("accelerator", default=False)
_triton: ContextVar[bool] = ContextVar("triton", default=False)
_broken: list[str] = []  # why loops cannot be compiled, once that was tried
_broken_triton: list[str] = []
_supported: dict[torch.device, bool] = {}


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


def triton_available(x: Tensor) -> bool:
    """Return whether there are Triton kernels for the device of a tensor, outside of :func:`plain_path`."""
    gpu = x.device.type == "cuda"  # which AMD's are called too
    if torch.compiler.is_compiling():
        return TRITON_IS_INSTALLED and gpu
    if _plain.get():
        return False
    if _triton.get():
        return gpu or is_interpreted()
    return gpu and TRITON_IS_INSTALLED and not (_accelerator.get() or _broken_triton) and is_supported(x.device)


def is_interpreted() -> bool:
    """Return whether Triton's kernels run in its interpreter, on the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def is_supported(device: torch.device) -> bool:
    """Return whether a card is there, and not older than those that Triton supports."""
    if device not in _supported:
        there = torch.cuda.is_available()  # a fake tensor may be on a device that is not
        amd = torch.version.hip is not None
        _supported[device] = there and (amd or torch.cuda.get_device_capability(device) >= OLDEST_CARD)
    return _supported[device]


def triton_is_broken(error: BaseException) -> None:
    """Remember that kernels cannot be compiled here, and say so once; raise the error within :func:`triton_path`."""
    if _triton.get():
        raise error
    if not _broken_triton:
        _broken_triton.append(repr(error))
        warnings.warn(
            f"Triton cannot compile here, losses take the slower way in torch's operations: {error!r}",
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
    """Compute all losses in this block in torch's own operations, as without Numba and Triton.

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
    """Compute all losses in this block as on a device without kernels, where nothing may wait for a value.

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
    token, inner = _accelerator.set(True), _triton.set(False)
    try:
        yield
    finally:
        _accelerator.reset(token)
        _triton.reset(inner)


@contextmanager
def triton_path() -> Iterator[None]:
    """Compute all losses in this block by Triton's kernels, and raise what keeps them from being compiled.

    GPUs take them anyway, as far as there are such: up to 256 channels, in float32 or less. On a CPU they run in
    Triton's interpreter, slowly, for tests; set ``TRITON_INTERPRET=1`` before Python starts. As on a GPU, nothing
    waits for a value then, and ``backward`` belongs into the block.

    Raises:
        RuntimeError: when Triton is not installed, or there is neither a GPU nor the interpreter.
    """
    if not TRITON_IS_INSTALLED:
        raise RuntimeError("Triton is not installed; it comes with PyTorch for GPUs, or by pip install triton.")
    if not (torch.cuda.is_available() or is_interpreted()):
        raise RuntimeError("there is no GPU; Triton's kernels run on a CPU with TRITON_INTERPRET=1 in the environment.")
    tokens = _triton.set(True), _accelerator.set(True), _plain.set(False)
    try:
        yield
    finally:
        for variable, token in zip((_triton, _accelerator, _plain), tokens, strict=True):
            variable.reset(token)
