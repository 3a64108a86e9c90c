"""Lovasz losses: the convex extension of the Jaccard loss, a weighted sum of the errors sorted by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import ClasswiseLoss, flag
from .engine import plain
from .engine.checks import check
from .engine.operators import lovasz_slopes, voxel_sums
from .engine.plain import FN, FP, INSIDE, OUTSIDE, Wanted
from .engine.precision import computing_dtype, probabilities, promoted
from .engine.reading import Reading, spread
from .paths import known

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import ClasswiseOptions


class LovaszLoss(ClasswiseLoss):
    """Base of the Lovasz losses, which weigh sorted errors. A new one defines :meth:`errors` and :meth:`value`.

    Args:
        per_image: one value a sample; ``False`` takes the batch as if it were one large image.

    Takes also the arguments of :class:`.ClasswiseLoss`.
    """

    def __init__(self, *args: Any, per_image: bool = True, **options: Unpack[ClasswiseOptions]) -> None:
        if "distributed" in options or "group" in options:
            raise TypeError(
                "a Lovasz loss takes no distributed= or group=: the errors of all voxels are sorted together, which no "
                "sum over processes can do; each process judges its own images."
            )
        super().__init__(*args, **options)
        self.per_image = flag(per_image=per_image)

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss, with the arguments and errors of :meth:`.RegionLoss.forward`.

        Returns:
            A scalar, or for ``reduction="none"`` (B, C), with ``per_image=False`` (1, C), without the background where
            that is excluded. In the input's dtype, at least float32.
        """
        reading = self.read(input, target, mask).activated()
        if reading.input.numel() == 0:
            return self.of_nothing(reading)
        bad = check(reading, probabilities=self.of_probabilities)
        first = 1 if not self.include_background and reading.channels > 1 else 0
        with torch.no_grad():
            slopes, n, size = self.slopes(reading, first)
        value = self.value(replace(reading, mask=slopes, classes=self.merging(reading), validate="never"))
        value = (value if self.per_image else value.sum(0, keepdim=True))[:, first:]
        present = size > 0
        value = self.settled(value, torch.where(self.counted(present, first), n, 0.0), [(~present, lambda: value)])
        value = value if bad is None else torch.where(bad, torch.nan, value)
        return value.to(computing_dtype(reading.input))

    def slopes(self, reading: Reading, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return by how much the Jaccard loss grows with each error, and the numbers of voxels and of the class's.

        Returns:
            Slopes (B, C, *S), 0 for classes before the first; numbers, (B, C - first) or (1, C - first).
        """
        neutral = reading.neutral()
        weights = neutral.mask
        if reading.classes is not None:
            classes = spread(reading.classes, reading.input.ndim)
            weights = classes.expand(reading.input.shape) if weights is None else weights * classes
        if weights is not None and known(weights == 1):  # an option that is not used changes no bit
            weights = None
        weights = weights if weights is None or weights.shape[1] == 1 else weights[:, first:]
        errors = self.errors(neutral)[:, first:]
        target = neutral.target if reading.labels else neutral.target[:, first:]
        found, numbers = lovasz_slopes(
            self.rows(errors),
            self.rows(target),
            None if weights is None else self.rows(weights),
            reading.labels,
            first,
            self.empty == "penalize",
        )
        if not self.per_image:
            found = found[0].unflatten(1, (len(errors), errors[0, 0].numel())).transpose(0, 1)
        found = found.reshape(errors.shape)
        if first:
            found = torch.cat([torch.zeros_like(found[:, :first]), found], 1)
        return found, numbers[..., 1], numbers[..., 2]

    of_probabilities = True  # whether the input or what the activation makes of it are probabilities

    def merging(self, reading: Reading) -> Tensor | None:
        """Return which classes were annotated, where others are part of the background."""
        return reading.classes if reading.merges else None

    def rows(self, x: Tensor) -> Tensor:
        """Return (B, 1 or C, *S) as (B, 1 or C, N), or as (1, 1 or C, B N)."""
        return x.flatten(2) if self.per_image else x.flatten(2).transpose(0, 1).flatten(1)[None]

    def errors(self, reading: Reading) -> Tensor:
        """Return how wrong the prediction is for each class and voxel, (B, C, *S), at least 0; without gradient."""
        raise NotImplementedError

    def value(self, reading: Reading) -> Tensor:
        """Return the sum of the errors times the slopes, which stand in the mask's place, (B, C), with gradient."""
        raise NotImplementedError

    def counted(self, present: Tensor, first: int) -> Tensor:
        """Return which of the classes ``first``, ``first + 1``, ... count, (B, C) bool."""
        return torch.ones_like(present)


class LovaszSoftmaxLoss(LovaszLoss):
    r"""Lovasz extension of the Jaccard loss over the errors of the predicted probabilities (sigmoid or softmax).

    .. math:: L_c = \sum_k m_{(k)}\,(\Delta_k - \Delta_{k-1}), \qquad m_i = |g_i - p_i|, \qquad
              \Delta_k = 1 - \frac{G - \sum_{j \le k} g_{(j)}}{G + \sum_{j \le k} (1 - g_{(j)})}

    with the errors sorted from the largest to the smallest. Trains for the Jaccard index more directly than its soft
    form, best after a start with cross-entropy. Takes about the time and memory of sorting all voxels per class.

    Args:
        classes: which classes count: ``"present"``, those in the target of the sample; ``"all"``; a list of channels.
            A sample in which no class is present is judged by ``empty`` in all three.
        per_image: one value a sample; ``False`` takes the batch as if it were one large image.

    Takes also the arguments of :class:`.ClasswiseLoss`. By the formula, an absent class costs its largest error.

    Range: [0, 1]; perfect 0, disjoint 1, for binary predictions one minus the Jaccard index; absent class, if it
    counts: the mean predicted probability.

    Raises:
        ValueError: when ``classes`` names a channel that the input does not have or that is excluded.

    Source: Berman et al. 2018, arXiv:1705.08790; Eelbode et al. 2020, doi:10.1109/TMI.2020.3002417 (binary, sigmoid).
    Voxel weights and ignored voxels act as if a voxel stood there as often as its weight says.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import LovaszSoftmaxLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(LovaszSoftmaxLoss()(p, g).item(), 4)
        0.3667
    """

    def __init__(
        self,
        *args: Any,
        classes: str | Sequence[int] = "present",
        per_image: bool = True,
        **options: Unpack[ClasswiseOptions],
    ) -> None:
        super().__init__(*args, per_image=per_image, **options)
        self.classes = checked_classes(classes, 0 if self.include_background else 1)

    def errors(self, reading: Reading) -> Tensor:
        """Return the absolute errors of the probabilities, (B, C, *S)."""
        p = probabilities(reading.input, reading.rules.activation)
        g = plain.shares(reading.rules, reading.target, p)
        return p.sub(g.to(p.dtype)).abs_()

    def value(self, reading: Reading) -> Tensor:
        """Return false positives and false negatives in which slopes weigh the voxels: they are the errors."""
        sums, _ = voxel_sums(reading, Wanted(counts=True))
        return sums[FP] + sums[FN]  # type: ignore[operator]

    def counted(self, present: Tensor, first: int) -> Tensor:
        """Return which classes count, (B, C) bool."""
        return counted_classes(self.classes, present, first)


class LovaszHingeLoss(LovaszLoss):
    r"""Lovasz extension of the Jaccard loss over the hinge errors of the logits.

    .. math:: L_c = \sum_k m_{(k)}\,(\Delta_k - \Delta_{k-1}), \qquad m_i = \max(0,\ 1 - z_i\,(2 g_i - 1))

    with the errors sorted and :math:`\Delta` as in :class:`LovaszSoftmaxLoss`; a share g of a class costs the mixture
    :math:`g \max(0, 1 - z) + (1 - g) \max(0, 1 + z)`. Convex in the logits, and done with a
    voxel whose logit is beyond 1 on the right side. For one class or several that may overlap.

    Args:
        per_image: one value a sample; ``False`` takes the batch as if it were one large image.

    Takes also the arguments of :class:`.ClasswiseLoss`, without an activation. ``empty="penalize"`` takes the mean
    error, ``"formula"`` the largest.

    Range: [0, inf); 0 when all logits are beyond 1 on the right side; disjoint at least 1; absent class: the mean
    hinge error.

    Raises:
        ValueError: when an activation is asked for.

    Source: Berman et al. 2018, arXiv:1705.08790; Jadon 2020, arXiv:2006.14822, mentions it.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import LovaszHingeLoss
        >>> z, g = torch.tensor([[[2.0, -0.5, -1.5, 0.3]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(LovaszHingeLoss()(z, g).item(), 4)
        0.9667
    """

    of_probabilities = False

    def __init__(self, *args: Any, per_image: bool = True, **options: Unpack[ClasswiseOptions]) -> None:
        super().__init__(*args, per_image=per_image, **options)
        if self.sigmoid or self.softmax or self.other_act is not None:
            raise ValueError(
                "the hinge works on logits and takes no activation, got "
                f"sigmoid={self.sigmoid}, softmax={self.softmax}, other_act={self.other_act}."
            )

    def errors(self, reading: Reading) -> Tensor:
        """Return the hinge errors, (B, C, *S)."""
        z = promoted(reading.input)
        g = plain.shares(reading.rules, reading.target, z).to(z.dtype)
        if reading.labels:  # infinity is finite on the other side
            return (1 - 2 * g).mul_(z).add_(1).relu_()
        inside, outside = (1 - z).relu_().mul_(g), (1 + z).relu_()
        return inside.add_(outside.addcmul_(outside, g, value=-1))

    def value(self, reading: Reading) -> Tensor:
        """Return the hinge errors times the slopes, (B, C)."""
        sums, _ = voxel_sums(reading, Wanted(likelihood="hinge"))
        return sums[INSIDE] + sums[OUTSIDE]  # type: ignore[operator]


def checked_classes(classes: str | Sequence[int], lowest: int) -> str | tuple[int, ...]:
    """Return which classes count; raise ValueError unless it is a name that means some or a list of channels."""
    if isinstance(classes, str) and classes in ("present", "all"):
        return classes
    channels = tuple(classes)
    if isinstance(classes, str) or not channels or not all(isinstance(c, int) and c >= lowest for c in channels):
        raise ValueError(f"classes must be 'present', 'all' or a list of channels from {lowest}, got {classes!r}.")
    return tuple(c for c in classes if isinstance(c, int))


def counted_classes(classes: str | Sequence[int], present: Tensor, first: int) -> Tensor:
    """Return which of the classes ``first``, ``first + 1``, ... count, (B, C) bool like ``present``."""
    if classes == "all":
        return torch.ones_like(present)
    if classes == "present":
        return present | ~present.any(1, keepdim=True)
    channels = range(first, first + present.shape[1])
    if not set(classes) <= set(channels):
        raise ValueError(f"classes {list(classes)} must be among the channels {channels[0]}..{channels[-1]}.")
    return torch.tensor([c in classes for c in channels], device=present.device).expand_as(present)
