"""Lovasz losses: the convex extension of the Jaccard loss, a weighted sum of the errors sorted by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import ClasswiseLoss, Reading
from .counts import accumulator_dtype, probabilities, promoted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import ClasswiseOptions

COUNTS_IN_FLOAT32 = 2**24  # float32 cannot count further


class LovaszLoss(ClasswiseLoss):
    """Base of the Lovasz losses, which weigh sorted errors. A new one defines :meth:`errors`.

    Args:
        per_image: one value a sample; ``False`` takes the batch as if it were one large image.

    Takes also the arguments of :class:`.ClasswiseLoss`.
    """

    def __init__(self, *args: Any, per_image: bool = True, **options: Unpack[ClasswiseOptions]) -> None:
        super().__init__(*args, **options)
        self.per_image = per_image

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss, with the arguments and errors of :meth:`.RegionLoss.forward`.

        Returns:
            A scalar, or for ``reduction="none"`` (B, C), with ``per_image=False`` (1, C), without the background where
            that is excluded. In the input's dtype, at least float32.
        """
        reading = self.read(input, target, mask)
        weights = reading.mask
        if reading.classes is not None:
            classes = reading.classes.reshape(*reading.classes.shape, *[1] * (reading.input.ndim - 2))
            weights = classes.expand(reading.input.shape) if weights is None else weights * classes
        first = 1 if not self.include_background and reading.input.shape[1] > 1 else 0
        errors, target = self._rows(self.errors(reading), first), self._rows(reading.target, first)
        weights = None if weights is None else self._rows(weights, first)
        slope, n, size = jaccard_slopes(errors, target, weights, first if reading.labels else None)
        if self.empty == "penalize":
            even = 1.0 if weights is None else weights.to(slope.dtype)
            slope = torch.where(size > 0, slope, even / n.clamp(min=1e-30).to(slope.dtype))
        value = (errors * slope).sum(-1, dtype=accumulator_dtype(errors))
        present = size[..., 0] > 0
        counted = torch.where(self.counted(present, first), n[..., 0], 0.0)
        value = self.settled(value, counted, [(~present, value)])
        return value.to(torch.promote_types(reading.input.dtype, torch.float32))

    def _rows(self, x: Tensor, first: int) -> Tensor:
        """Return (B, 1 or C, *S) as (B, 1 or C, N) without excluded classes, or as (1, 1 or C, B N)."""
        x = x.flatten(2) if x.shape[1] == 1 else x.flatten(2)[:, first:]
        return x if self.per_image else x.transpose(0, 1).flatten(1)[None]

    def errors(self, reading: Reading) -> Tensor:
        """Return how wrong the prediction is for each class and voxel, (B, C, *S), at least 0."""
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
        self.classes = classes if isinstance(classes, str) else tuple(classes)
        excluded = 0 if self.include_background else 1
        named = isinstance(classes, str) and classes in ("present", "all")
        if not named and not (self.classes and all(isinstance(c, int) and c >= excluded for c in self.classes)):
            raise ValueError(
                f"classes must be 'present', 'all' or a list of channels from {excluded}, got {classes!r}."
            )

    def errors(self, reading: Reading) -> Tensor:
        """Return the absolute errors of the probabilities, (B, C, *S)."""
        p = probabilities(reading.input, self.activation(reading.input.shape[1]))
        if reading.labels:
            label = reading.target.long()
            return p.scatter(1, label, 1 - p.gather(1, label))
        return (p - reading.target.to(p.dtype)).abs()

    def counted(self, present: Tensor, first: int) -> Tensor:
        """Return which classes count, (B, C) bool."""
        if self.classes == "all":
            return torch.ones_like(present)
        if self.classes == "present":
            return present | ~present.any(1, keepdim=True)
        channels = range(first, first + present.shape[1])
        if not set(self.classes) <= set(channels):
            raise ValueError(f"classes {list(self.classes)} must be among the channels {channels[0]}..{channels[-1]}.")
        return torch.tensor([c in self.classes for c in channels], device=present.device).expand_as(present)


class LovaszHingeLoss(LovaszLoss):
    r"""Lovasz extension of the Jaccard loss over the hinge errors of the logits.

    .. math:: L_c = \sum_k m_{(k)}\,(\Delta_k - \Delta_{k-1}), \qquad m_i = \max(0,\ 1 - z_i\,(2 g_i - 1))

    with the errors sorted and :math:`\Delta` as in :class:`LovaszSoftmaxLoss`. Convex in the logits, and done with a
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
        if reading.labels:
            label = reading.target.long()
            return (1 + z.scatter(1, label, -z.gather(1, label))).relu()
        return (1 - z * (2 * reading.target.to(z.dtype) - 1)).relu()


@torch.no_grad()
def jaccard_slopes(
    errors: Tensor, target: Tensor, weights: Tensor | None, first: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return by how much the Jaccard loss grows as each voxel joins the wrong ones, from the largest error on.

    Args:
        errors: (B, C, N).
        target: (B, 1, N) class indices if ``first`` is given, else (B, C, N) in [0, 1].
        weights: (B, 1, N) or (B, C, N) voxel weights, or None.
        first: class of the first channel.

    Returns:
        The slope of each voxel (B, C, N), 0 where the weight is; the weighted number of voxels and of voxels of the
        class, both (B, C, 1).
    """
    dtype = accumulator_dtype(errors) if errors.shape[-1] >= COUNTS_IN_FLOAT32 else errors.dtype
    order = errors.sort(dim=-1, descending=True, stable=True).indices
    if first is None:
        g = target.expand_as(errors).gather(2, order).to(dtype)
    else:
        channel = torch.arange(first, first + errors.shape[1], device=errors.device, dtype=torch.int16)[:, None]
        g = (target.to(torch.int16).expand_as(errors).gather(2, order) == channel).to(dtype)
    if weights is None:
        w = torch.ones((), dtype=dtype, device=errors.device)
        joined = torch.arange(1, errors.shape[-1] + 1, dtype=dtype, device=errors.device).expand_as(errors)
    else:
        w = weights.expand_as(errors).gather(2, order).to(dtype)
        joined = w.cumsum(-1)
    found = (w * g).cumsum(-1)
    size = found[..., -1:]
    left = size - found
    union = joined + left
    before = union - w * (1 - g)
    # Delta_k - Delta_(k-1) in closed form: the difference of two numbers near 1 would lose all digits of a slope.
    step = torch.where(before > 0, w * (g * union + (1 - g) * left) / (before * union), (w > 0).to(dtype))
    return torch.zeros_like(errors).scatter_(2, order, step.to(errors.dtype)), joined[..., -1:], size
