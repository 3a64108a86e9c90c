"""Reading of input, target and mask: which shapes fit, and what their values mean for each voxel by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

BESIDE_LABEL = ("mask", "distance_map", "penalty_map", "classes")  # what a mapping target may hold


@dataclass(frozen=True)
class Rules:
    """How to read the values of one call's target and mask. They hold for each voxel by itself."""

    labels: bool  # whether the target holds class indices
    channels: int
    ignore_index: int | None
    elementwise: bool  # whether the activation looks at one channel at a time

    def read(
        self, input: Tensor, target: Tensor, mask: Tensor | None, check: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Check values, join mask and ignored labels into voxel weights, and make harmless what weighs nothing.

        Args:
            input: (B, C, *S), not yet activated.
            target: (B, 1, *S) class indices if ``labels``, else (B, C, *S).
            mask: (B, 1, *S) or (B, C, *S) voxel weights, or None.
            check: whether to check values, which may have been done before.

        Returns:
            Input and target, of which voxels without weight are neutral, and the voxel weights or None.

        Raises:
            ValueError: when a label, a target's value or a voxel weight is out of range.
        """
        target, kept = self.without_ignored(target)
        if check:
            self.check(target, mask)
        input, weight = self.weigh(input, mask, kept)
        return input, target, weight

    def weigh(self, input: Tensor, mask: Tensor | None, kept: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the input, of which voxels without weight are neutral, and the voxel weights or None."""
        weight = _joined(mask, kept)
        if weight is not None:
            visible = weight != 0
            if not self.elementwise:  # a softmax needs all channels of a voxel of which any counts
                visible = visible.any(1, keepdim=True)
            input = torch.where(visible, input, torch.zeros_like(input))  # not even NaN gets through
        return input, weight

    def weighs_channels(self, mask: Tensor | None) -> bool:
        """Return whether the channels of one voxel may have different weights."""
        apart = self.ignore_index is not None and not self.labels and not 0 <= self.ignore_index < self.channels
        return self.channels > 1 and (apart or (mask is not None and mask.shape[1] > 1))

    @property
    def ignores_elements(self) -> bool:
        """Whether the ignored label is a value of the target, and not the channel of voxels to leave out."""
        index = self.ignore_index
        return self.labels or self.channels == 1 or index is None or not 0 <= index < self.channels

    def without_ignored(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Replace ignored labels by 0 and return which voxels (or elements) are kept."""
        index = self.ignore_index
        if index is None:
            return target, None
        if self.ignores_elements:
            kept = target != index
            return torch.where(kept, target, torch.zeros_like(target)), kept
        return target, target[:, index : index + 1] <= 0.5

    def ignores_any(self, target: Tensor) -> bool:
        """Return whether there is a voxel (or element) with the ignored label."""
        if self.ignore_index is None:
            return False
        if self.ignores_elements:
            return bool((target == self.ignore_index).any())
        return bool((target[:, self.ignore_index] > 0.5).any())

    def check(self, target: Tensor, mask: Tensor | None) -> float | None:
        """Check that class indices are integers in 0..C-1, targets in channels in [0, 1] and weights finite.

        Args:
            target: as for :meth:`read`, without ignored labels.
            mask: as for :meth:`read`.

        Returns:
            The highest value of the target, or None where nothing was looked at.

        Raises:
            ValueError: when a value is out of range.
        """
        _check_weights(mask)
        if target.dtype == torch.bool or target.numel() == 0:
            return None
        highest = self.channels - 1 if self.labels else 1
        if torch.compiler.is_compiling():  # a graph cannot branch on values, but it can stop
            inside = ((target >= 0) & (target <= highest)).all()
            torch._assert_async(inside, f"target out of range, expected 0..{highest}")
            return None
        low, high = _range(target)
        bad = low if not low >= 0 else high if not high <= highest else None
        if bad is None and self.labels and target.is_floating_point():
            fractional = target[target != target.round()]
            bad = fractional[0].item() if fractional.numel() else None
        if bad is not None:
            expected = f"integer labels 0..{highest}" if self.labels else "values in [0, 1]"
            raise ValueError(f"target holds {bad}, expected {expected} for an input of {self.channels} channel(s).")
        return high


def _check_weights(mask: Tensor | None) -> None:
    """Raise ValueError unless voxel weights are finite and at least 0."""
    if mask is None or mask.dtype == torch.bool or mask.numel() == 0 or torch.compiler.is_compiling():
        return
    low, high = _range(mask)
    if not 0 <= low <= high < float("inf"):
        raise ValueError(f"mask must hold finite weights of at least 0, got {low}..{high}.")


def _range(x: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest value, NaN if there is one."""
    low, high = (x.amin(), x.amax()) if x.is_floating_point() else torch.aminmax(x)  # the faster one of each
    return low.item(), high.item()


def _joined(mask: Tensor | None, kept: Tensor | None) -> Tensor | None:
    """Join the caller's mask and the kept voxels into voxel weights, (B, 1, *S) or (B, C, *S)."""
    return kept if mask is None else mask if kept is None else mask * kept


@dataclass(frozen=True)
class Reading:
    """One call's input and target, of fitting shapes."""

    rules: Rules
    input: Tensor  # (B, C, *S), not yet activated
    target: Tensor  # (B, 1, *S) class indices if labels, else (B, C, *S)
    mask: Tensor | None  # (B, 1, *S) or (B, C, *S) voxel weights
    classes: Tensor | None  # (B, C), which classes were annotated
    distance_map: Tensor | None  # (B, 1, *S) or (B, C, *S), as the caller gave it
    penalty_map: Tensor | None  # likewise

    @property
    def labels(self) -> bool:
        """Whether the target holds class indices."""
        return self.rules.labels

    def checked(self) -> Reading:
        """Return it with checked values, with mask and ignored labels joined and neutral voxels where they are 0."""
        input, target, mask = self.rules.read(self.input, self.target, self.mask)
        return replace(self, input=input, target=target, mask=mask)


def read_shapes(
    input: Tensor,
    target: Tensor | Mapping[str, Any],
    mask: Tensor | None,
    to_onehot_y: bool,
    ignore_index: int | None,
    elementwise: bool,
) -> Reading:
    """Gather what the caller gave, as plain tensors, and check that shapes fit; arguments as for a loss.

    Raises:
        AssertionError: when the shape of target, mask, classes or a map does not fit the input's.
        ValueError: when the number of dimensions is not 3 to 5, or a mapping has unknown keys.
    """
    given: dict[str, Any] = {"label": target, **dict.fromkeys(BESIDE_LABEL)}
    if isinstance(target, Mapping):
        given |= _known(target)
    if mask is not None and given["mask"] is not None:
        raise ValueError("mask is given twice, as an argument and in the target; give it once.")
    given["mask"] = given["mask"] if mask is None else mask
    input, label = _plain(input), _plain(given["label"]).detach()
    if not 3 <= input.ndim <= 5:
        raise ValueError(f"input must be (B, C, *S) with 1 to 3 spatial dimensions, got {tuple(input.shape)}.")
    batch, channels, *space = input.shape
    labels = to_onehot_y and channels > 1
    if to_onehot_y and label.ndim == input.ndim - 1:
        label = label.unsqueeze(1)
    expected = (batch, 1 if labels else channels, *space)
    if label.shape != expected:
        hint = "; class indices need to_onehot_y=True" if label.shape[1:2] == (1,) and not labels else ""
        raise AssertionError(
            f"ground truth has different shape ({tuple(label.shape)}) from input ({tuple(input.shape)}), "
            f"expected {expected}{hint}."
        )
    whole, one = (batch, channels, *space), (batch, 1, *space)
    return Reading(
        Rules(labels, channels, ignore_index, elementwise),
        input,
        label,
        _fitting(given["mask"], "mask", input, one, whole),
        _annotated(given["classes"], input),
        _fitting(given["distance_map"], "distance_map", input, whole, one),
        _fitting(given["penalty_map"], "penalty_map", input, whole, one),
    )


def _known(target: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a mapping target; raise ValueError unless it holds a label and nothing unknown."""
    if "label" not in target or set(target) - {"label", *BESIDE_LABEL}:
        raise ValueError(f"a mapping target needs 'label' and may hold {BESIDE_LABEL}, got keys {list(target)}.")
    return target


def _plain(x: Tensor) -> Tensor:
    """Return MONAI's MetaTensor and other subclasses as a plain tensor."""
    return x if type(x) is Tensor or torch.compiler.is_compiling() else x.as_subclass(Tensor)


def _fitting(given: Any, name: str, input: Tensor, *shapes: tuple[int, ...]) -> Tensor | None:
    """Return what was given for each voxel as a plain tensor; AssertionError unless it has one of the shapes."""
    if given is None:
        return None
    x = _plain(torch.as_tensor(given, device=input.device)).detach()
    if x.shape not in shapes:
        raise AssertionError(f"{name} must have shape {' or '.join(map(str, shapes))}, got {tuple(x.shape)}.")
    return x


def _annotated(given: Any, input: Tensor) -> Tensor | None:
    """Return which classes were annotated, (B, C) bool; AssertionError unless it has this shape."""
    if given is None:
        return None
    classes = _plain(torch.as_tensor(given, device=input.device)).bool()
    if classes.shape != input.shape[:2]:
        raise AssertionError(f"classes must be (B, C) = {tuple(input.shape[:2])}, got {tuple(classes.shape)}.")
    return classes
