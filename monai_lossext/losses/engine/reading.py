"""Reading of input, target and mask: which shapes fit, and what their values mean for each voxel by itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..paths import transformed, waits
from .distributed import is_spread, know_shards
from .precision import Activation, computing_dtype, promoted

# What a mapping target may hold.
BESIDE_LABEL = ("mask", "distance_map", "penalty_map", "components", "skeleton", "classes")
WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
FAR_BELOW = -1e30  # a logit of which no probability is left
NO_GRADIENT = "the target asks for a gradient, which losses do not give: it is taken for a constant."
_said: set[str] = set()  # what is said once in a process


@dataclass(frozen=True)
class Rules:
    """How to read the values of one call's input, target and mask. They hold for each voxel by itself."""

    labels: bool  # whether the target holds class indices
    channels: int
    ignore_index: int | None  # one that the target's type can hold
    activation: Activation
    signed: bool = False  # whether weights may be below 0, and 0 hides nothing

    @property
    def ignores_values(self) -> bool:
        """Whether the ignored label is a value of the target, and not the channel of voxels to leave out."""
        index = self.ignore_index
        return index is not None and (self.labels or self.channels == 1 or not 0 <= index < self.channels)

    def weighs_channels(self, mask: Tensor | None) -> bool:
        """Return whether the channels of one voxel may have different weights."""
        apart = self.ignores_values and not self.labels
        return self.channels > 1 and (apart or (mask is not None and mask.shape[1] > 1))

    def without_ignored(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """Replace ignored labels by 0 and return which voxels (or elements) are kept."""
        if self.ignore_index is None:
            return target, None
        if self.ignores_values:
            if target.is_floating_point() and not waits(target):  # torch does this to many numbers at once
                kept = target.clone().ne_(self.ignore_index)
                return target * kept, kept
            kept = target != self.ignore_index
            return torch.where(kept, target, torch.zeros_like(target)), kept
        return target, target[:, self.ignore_index : self.ignore_index + 1] <= 0.5

    def weigh(self, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the target without ignored labels, and the weights of voxels or None, mask and those joined."""
        target, kept = self.without_ignored(target)
        return target, kept if mask is None else mask if kept is None else mask * kept

    def neutral(
        self, input: Tensor, target: Tensor, mask: Tensor | None, classes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Join mask and ignored labels into voxel weights, and make harmless what weighs nothing.

        Args:
            input: (B, C, *S), not yet activated.
            target: (B, 1, *S) class indices if ``labels``, else (B, C, *S).
            mask: (B, 1, *S) or (B, C, *S) voxel weights, or None.
            classes: (B, C) bool, which classes were annotated, or None. Under a softmax, a class that was not is part
                of the background: its probability, and its share of the target.

        Returns:
            Input and target, of which voxels without weight are neutral, and the voxel weights or None.
        """
        target, weight = self.weigh(target, mask)
        if weight is not None and not self.signed:
            visible = weight != 0
            if self.activation not in ("sigmoid", None):  # a softmax needs all channels of a voxel of which any counts
                visible = visible.any(1, keepdim=True)
            input = torch.where(visible, input, torch.zeros_like(input))  # not even NaN gets through
        if classes is not None and self.activation == "softmax":
            input, target = self.merged(promoted(input), target, classes)
        return input, target, weight

    def merged(self, z: Tensor, target: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and target in which classes that were not annotated are part of the background."""
        merged = spread(~classes[:, 1:], z.ndim)
        background = torch.cat([z[:, :1], z[:, 1:].masked_fill(~merged, -torch.inf)], 1).logsumexp(1, keepdim=True)
        z = torch.cat([background, z[:, 1:].masked_fill(merged, FAR_BELOW)], 1)
        return z, self.merged_target(target, classes)

    def merged_target(self, target: Tensor, classes: Tensor) -> Tensor:
        """Return a target in which classes that were not annotated are part of the background."""
        if self.labels:
            merged = torch.cat([torch.zeros_like(classes[:, :1]), ~classes[:, 1:]], 1)
            label = target.flatten(1).long().clamp(0, self.channels - 1)
            return target.masked_fill(merged.gather(1, label).view(target.shape), 0)
        merged = spread(~classes[:, 1:], target.ndim)
        target = promoted(target)
        added = (target[:, 1:] * merged).sum(1, keepdim=True)
        background = (target[:, :1] + added).clamp(max=1)  # shares may add up to more
        return torch.cat([background, target[:, 1:].masked_fill(merged, 0)], 1)


@dataclass(frozen=True)
class Reading:
    """One call's input and target, of fitting shapes."""

    rules: Rules
    input: Tensor  # (B, C, *S), not yet activated
    target: Tensor  # (B, 1, *S) class indices if labels, else (B, C, *S)
    mask: Tensor | None  # (B, 1, *S) or (B, C, *S) voxel weights
    classes: Tensor | None  # (B, C) bool, which classes were annotated
    distance_map: Tensor | None  # (B, 1, *S) or (B, C, *S), as the caller gave it
    penalty_map: Tensor | None  # likewise
    validate: str  # "auto", "now" or "never"
    components: Tensor | None = None  # (B, C, *S), as the caller gave it
    skeleton: Tensor | None = None  # likewise

    @property
    def labels(self) -> bool:
        """Whether the target holds class indices."""
        return self.rules.labels

    @property
    def channels(self) -> int:
        """Number of channels of the input."""
        return self.rules.channels

    @property
    def merges(self) -> bool:
        """Whether classes that were not annotated are part of the background."""
        return self.classes is not None and self.rules.activation == "softmax"

    def neutral(self) -> Reading:
        """Return it with mask and ignored labels joined, and with neutral voxels where they are 0."""
        input, target, mask = self.rules.neutral(self.input, self.target, self.mask, self.classes)
        return replace(self, rules=replace(self.rules, ignore_index=None), input=input, target=target, mask=mask)

    def weights(self, first: int = 0) -> Tensor:
        """Return what each voxel of each class from the first on weighs by the mask, (B, C - first, *S)."""
        dtype = computing_dtype(self.input)
        weight = torch.ones((), dtype=dtype, device=self.input.device) if self.mask is None else self.mask.to(dtype)
        return weight.expand(self.input.shape)[:, first:]

    def weighed(self) -> Reading:
        """Return it with mask and ignored labels joined, and with the input as it is."""
        target, mask = self.rules.weigh(self.target, self.mask)
        return replace(self, rules=replace(self.rules, ignore_index=None), target=target, mask=mask)

    def weighed_by(self, slopes: Tensor) -> Reading:
        """Return it, of which voxels without weight are neutral already, with factors of any sign as weights."""
        return replace(self, rules=replace(self.rules, signed=True), mask=slopes, classes=None, validate="never")

    def activated(self) -> Reading:
        """Return it with probabilities as input, where a function of the caller's own makes them."""
        activation = self.rules.activation
        if not callable(activation):
            return self
        input = promoted(self.rules.neutral(self.input, self.target, self.mask, None)[0])
        return replace(self, rules=replace(self.rules, activation=None), input=promoted(activation(input)))


def spread(x: Tensor, ndim: int) -> Tensor:
    """Append axes of size 1 until there are ``ndim``."""
    return x.reshape(x.shape + (1,) * (ndim - x.ndim))


def read_shapes(
    input: Tensor,
    target: Tensor | Mapping[str, Any],
    mask: Tensor | None,
    *,
    to_onehot_y: bool,
    ignore_index: int | None,
    activation: Activation,
    validate: str,
) -> Reading:
    """Gather what the caller gave, as plain tensors, and check that shapes fit; arguments as for a loss.

    Raises:
        AssertionError: when the shape of target, mask, classes or a map does not fit the input's.
        ValueError: when the number of dimensions is not 3 to 5, a mapping has unknown keys, or something lies on
            another device than the input.
    """
    given: dict[str, Any] = {"label": target, **dict.fromkeys(BESIDE_LABEL)}
    if isinstance(target, Mapping):
        given |= _known(target)
    if mask is not None and given["mask"] is not None:
        raise ValueError("mask is given twice, as an argument and in the target; give it once.")
    given["mask"] = given["mask"] if mask is None else mask
    refuse_forward_mode(input)
    input, label = _plain(input), _plain(given["label"])
    if is_spread(input):
        know_shards()
    if label.requires_grad:
        if not torch.compiler.is_compiling() and NO_GRADIENT not in _said:
            _said.add(NO_GRADIENT)
            warnings.warn(NO_GRADIENT, stacklevel=4)
        label = label.detach()
    if label.dtype in WIDER:
        label = label.to(WIDER[label.dtype])  # torch can do little with the others
    if not 3 <= input.ndim <= 5:
        raise ValueError(f"input must be (B, C, *S) with 1 to 3 spatial dimensions, got {tuple(input.shape)}.")
    _on_one_device(label, "target", input)
    if not torch.compiler.is_compiling() and not transformed():
        _with_memory(input, "input")
        _with_memory(label, "target")
    batch, channels, *space = input.shape
    labels = to_onehot_y and channels > 1
    if (to_onehot_y or channels == 1) and label.ndim == input.ndim - 1:
        label = label.unsqueeze(1)
    expected = (batch, 1 if labels else channels, *space)
    if label.shape != expected:
        hint = ""
        if labels and label.shape == input.shape:
            hint = "; a target in channels (one-hot) needs to_onehot_y=False"
        elif not labels and label.shape in ((batch, 1, *space), (batch, *space)):
            hint = "; class indices need to_onehot_y=True"
        raise AssertionError(
            f"ground truth has different shape ({tuple(label.shape)}) from input ({tuple(input.shape)}), "
            f"expected {expected}{hint}."
        )
    whole, one = (batch, channels, *space), (batch, 1, *space)
    return Reading(
        Rules(labels, channels, held_by(label.dtype, ignore_index), activation),
        input,
        label,
        _fitting(_for_each_sample(given["mask"], batch), "mask", input, one, whole),
        _annotated(given["classes"], input),
        _fitting(given["distance_map"], "distance_map", input, whole, one),
        _fitting(given["penalty_map"], "penalty_map", input, whole, one),
        validate,
        _fitting(given["components"], "components", input, whole),
        _fitting(given["skeleton"], "skeleton", input, whole),
    )


def held_by(dtype: torch.dtype, index: int | None) -> int | None:
    """Return a label that a type can hold, or None: another one is nowhere, and comparing would wrap it around."""
    if index is None or dtype.is_floating_point:
        return index
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return index if low <= index <= high else None


def _known(target: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a mapping target; raise ValueError unless it holds a label and nothing unknown."""
    if "label" not in target or set(target) - {"label", *BESIDE_LABEL}:
        raise ValueError(f"a mapping target needs 'label' and may hold {BESIDE_LABEL}, got keys {list(target)}.")
    return target


def _plain(x: Tensor) -> Tensor:
    """Return MONAI's MetaTensor and other subclasses that have memory of their own as a plain tensor."""
    if type(x) is Tensor or torch.compiler.is_compiling() or hasattr(type(x), "__tensor_flatten__"):
        return x
    return x if type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__ else x.as_subclass(Tensor)


def _with_memory(x: Tensor, name: str) -> None:
    """Raise RuntimeError if the memory of a tensor was freed, which torch itself would read all the same."""
    if x.numel() == 0 or type(x) is not Tensor or x.device.type != "cpu" or x.layout != torch.strided:
        return
    last = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    if x.untyped_storage().nbytes() < x.element_size() * (x.storage_offset() + last + 1):
        raise RuntimeError(f"{name} has no memory any more: its storage was resized.")


def _on_one_device(x: Tensor, name: str, input: Tensor) -> None:
    """Raise ValueError unless something is on the input's device."""
    if x.device != input.device:
        raise ValueError(f"{name} is on {x.device} but the input is on {input.device}; move it there.")


def _fitting(given: Any, name: str, input: Tensor, *shapes: tuple[int, ...]) -> Tensor | None:
    """Return what was given for each voxel as a plain tensor; AssertionError unless it has one of the shapes."""
    if given is None:
        return None
    x = _plain(given if isinstance(given, Tensor) else torch.as_tensor(given, device=input.device)).detach()
    _on_one_device(x, name, input)
    if not torch.compiler.is_compiling() and not transformed():
        _with_memory(x, name)
    if x.shape not in shapes:
        raise AssertionError(f"{name} must have shape {' or '.join(map(str, shapes))}, got {tuple(x.shape)}.")
    return x


def _for_each_sample(mask: Any, batch: int) -> Any:
    """Return a mask (1, ...) that holds for all samples as one of each, without copies of it."""
    shared = isinstance(mask, Tensor) and mask.ndim > 1 and mask.shape[0] == 1 != batch
    return mask.expand(batch, *mask.shape[1:]) if shared else mask


def _annotated(given: Any, input: Tensor) -> Tensor | None:
    """Return which classes were annotated, (B, C) bool; AssertionError unless it has this shape."""
    if given is None:
        return None
    classes = _plain(torch.as_tensor(given, device=input.device)).bool()
    if classes.shape != input.shape[:2]:
        raise AssertionError(f"classes must be (B, C) = {tuple(input.shape[:2])}, got {tuple(classes.shape)}.")
    return classes


def refuse_forward_mode(input: Tensor) -> None:
    """Raise NotImplementedError under forward-mode differentiation, which the operators do not know."""
    level = torch.autograd.forward_ad._current_level
    within = level >= 0 and not torch.compiler.is_compiling()
    if within and torch.autograd.forward_ad.unpack_dual(input).tangent is not None:
        raise NotImplementedError(
            "losses are differentiated backwards only: forward-mode derivatives (torch.func.jvp, dual tensors) are not "
            "available."
        )
