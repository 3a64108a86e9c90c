"""Deep supervision: one loss on the outputs of several levels of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.losses import DeepSupervisionLoss
from torch import Tensor
from torch.nn.functional import interpolate

from .engine.precision import promoted

Target = Tensor | Mapping[str, Any]


class DeepSupervisedLoss(DeepSupervisionLoss):
    r"""Weighted sum of a loss over outputs of different size, each with the target in its own size.

    .. math:: L = \sum_l w_l\,L(p_l, g_l)

    MONAI's ``DeepSupervisionLoss`` that also takes class indices of integer dtypes, target mappings, the stacked
    outputs of MONAI's ``DynUNet`` and a target for each output. One target is resampled to each output's size, label,
    mask and maps by the nearest voxel, so that distances stay those of the full resolution; ``"classes"`` stays as it
    is.

    Args:
        loss: the loss of one output.
        weight_mode: ``"exp"``, weights 1, 1/2, 1/4 .. and at least 1/16; ``"two"``, 1 for the first output and 1/2 for
            all others; ``"same"``, 1.
        weights: one weight an output, in the place of ``weight_mode``.

    Raises:
        ValueError: when there is no input, or there are fewer weights, or another number of targets, than outputs.

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

    def forward(self, input: Tensor | Sequence[Tensor] | None, target: Target | Sequence[Target]) -> Tensor:
        """Compute the loss.

        Args:
            input: the outputs, from the largest on, each (B, C, *S); stacked, (B, L, C, *S), as DynUNet returns them in
                training; or one output (B, C, *S). Half precision is widened to float32.
            target: as for the loss, in the size of the largest output; or one for each output, in its size.

        Returns:
            A scalar, in at least float32.
        """
        values = [weight * self.get_loss(promoted(x), g) for weight, x, g in self.outputs(input, target)]
        return torch.stack(values).sum()

    def outputs(
        self, input: Tensor | Sequence[Tensor] | None, target: Target | Sequence[Target]
    ) -> list[tuple[float, Tensor, Target]]:
        """Return weight, output and target one by one; arguments and errors as for :meth:`forward`."""
        if input is None:
            raise ValueError("input shouldn't be None.")
        each = isinstance(target, (list, tuple))
        targets: list[Any] = list(target) if each else [target]
        single = isinstance(input, Tensor) and not self._stacked(input, targets[0])
        if isinstance(input, Tensor):
            input = [input] if single else input.unbind(1)
        outputs = list(input)
        targets = targets if each else targets * len(outputs)
        if len(targets) != len(outputs):
            raise ValueError(f"there are {len(outputs)} outputs but {len(targets)} targets; give one, or one for each.")
        weights = [1.0] if single else self.get_weights(levels=len(outputs))
        return list(zip(weights, outputs, targets, strict=True))

    def _stacked(self, input: Tensor, target: Target) -> bool:
        """Return whether an input is (B, L, C, *S); for one (B, C, *S), a label (B, *S) has an axis less as well."""
        label: Tensor = target["label"] if isinstance(target, Mapping) else target
        reads_labels = any(getattr(loss, "to_onehot_y", False) for loss in self.loss.modules())
        without_channel = (reads_labels or input.shape[1] == 1) and label.shape[1:] == input.shape[2:]
        return label.ndim < input.ndim and not without_channel

    def get_weights(self, levels: int = 1) -> list[float]:
        """Return the weights of so many outputs, from the largest on."""
        if self.weights is not None and len(self.weights) < levels:
            raise ValueError(f"there are {levels} outputs but {len(self.weights)} weights.")
        weights: list[float] = super().get_weights(levels)
        return weights

    def get_loss(self, input: Tensor, target: Target) -> Tensor:
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
