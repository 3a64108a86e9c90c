"""Deep supervision: one loss on the outputs of several levels of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.losses import DeepSupervisionLoss
from torch import Tensor
from torch.nn.functional import interpolate


class DeepSupervisedLoss(DeepSupervisionLoss):
    r"""Weighted sum of a loss over outputs of different size, each with the target in its own size.

    .. math:: L = \sum_l w_l\,L(p_l, g_l)

    MONAI's ``DeepSupervisionLoss`` that also takes class indices of integer dtypes and target mappings: label, mask and
    maps are resampled to each output's size by the nearest voxel, so that distances stay those of the full resolution;
    ``"classes"`` stays as it is.

    Args:
        loss: the loss of one output.
        weight_mode: ``"exp"``, weights 1, 1/2, 1/4 .. and at least 1/16; ``"two"``, 1 for the first output and 1/2 for
            all others; ``"same"``, 1.
        weights: one weight an output, in the place of ``weight_mode``.

    Raises:
        ValueError: when there is no input.

    Range: that of the loss times the sum of the weights.

    Source: MONAI.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import DeepSupervisedLoss, SoftDiceLoss
        >>> loss = DeepSupervisedLoss(SoftDiceLoss(softmax=True, to_onehot_y=True))
        >>> label = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
        >>> label[..., 2:6, 2:6] = 1
        >>> outputs = [torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4)]
        >>> round(loss(outputs, {"label": label, "mask": torch.ones(1, 1, 8, 8)}).item(), 4)
        0.8
    """

    def forward(self, input: Tensor | Sequence[Tensor] | None, target: Tensor | Mapping[str, Any]) -> Tensor:
        """Compute the loss.

        Args:
            input: the outputs, from the largest on, each (B, C, *S), or one output. They are widened to float32.
            target: as for the loss, in the size of the largest output.

        Returns:
            A scalar in float32.
        """
        if isinstance(input, (list, tuple)) and isinstance(target, Mapping):
            pairs = zip(self.get_weights(levels=len(input)), input, strict=True)
            return torch.stack([weight * self.get_loss(output.float(), target) for weight, output in pairs]).sum()
        value: Tensor = super().forward(input, target)  # type: ignore[arg-type]
        return value

    def get_loss(self, input: Tensor, target: Tensor | Mapping[str, Any]) -> Tensor:
        """Return the loss of one output, with the target resampled to its size."""
        if isinstance(target, Mapping):
            target = {key: x if key == "classes" or x is None else self.resized(x, input) for key, x in target.items()}
        else:
            target = self.resized(target, input)
        value: Tensor = self.loss(input, target)
        return value

    def resized(self, x: Tensor, input: Tensor) -> Tensor:
        """Return (B, C, *S), or (B, *S), in the size of an input (B, C, *s), by the nearest voxel, in its own dtype."""
        if x.shape[-(input.ndim - 2) :] == input.shape[2:]:
            return x
        channels = x if x.ndim == input.ndim else x.unsqueeze(1)
        values = channels if channels.is_floating_point() else channels.double()  # in which all labels are exact
        values = interpolate(values, size=input.shape[2:], mode=self.interp_mode).to(x.dtype)
        return values if x.ndim == input.ndim else values.squeeze(1)
