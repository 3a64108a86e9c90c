"""Euclidean distances from the voxels of a mask to its border, and the maps that losses weigh errors with."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import torch
from torch import Tensor

from .precision import probabilities

if TYPE_CHECKING:
    from .precision import Activation
    from .reading import Reading

P = ParamSpec("P")
Place = tuple[int | slice, ...]
# Voxels that are no deeper along the axes are measured step by step where they abound: noise, thin and small objects.
# There a distance transform takes up to ten times longer.
REACH = 2
MOST_STEPS = 15  # of very unequal axes the steps would take longer
MUCH = 1.25  # times as many voxels as are near to the depths: then there is noise that only hampers a transform
SLAB = 2**17  # voxels of a picture that are worked on at a time


def checked_spacing(spacing: Sequence[float] | float | None) -> tuple[float, ...] | None:
    """Return the spacing as a tuple of mm per axis; raise ValueError unless all are finite and above 0."""
    if spacing is None:
        return None
    values = (float(spacing),) if isinstance(spacing, (int, float)) else tuple(float(x) for x in spacing)
    if not values or not all(0 < x < float("inf") for x in values):
        raise ValueError(f"spacing must be one number or one a spatial axis, in mm and above 0, got {spacing}.")
    return values


# ---------------------------------------------------------------------------------------------------- maps of a mask


def outside_of_graphs(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Let graphs break at a function. Other than ``torch.compiler.disable`` it does not load the compiler at import."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if torch.compiler.is_compiling():
            outside: Callable[P, Tensor] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
            return outside(*args, **kwargs)
        return function(*args, **kwargs)

    return call


@outside_of_graphs
def distance_inside(
    mask: Tensor, spacing: Sequence[float] | float | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return how far every voxel of a mask is from the nearest voxel outside of it.

    Args:
        mask: (B, C, *S) with 1 to 3 spatial dimensions; voxels that are not 0 belong to the mask.
        spacing: size of a voxel in mm, one number or one an axis in the order of S; default 1, distances in voxels.
        dtype: floating dtype of the result.

    Returns:
        (B, C, *S) on the mask's device, without gradient: 0 outside of the mask, and 0 everywhere for a mask that is
        empty or that fills the whole picture, which has no border. Computed on the CPU by SimpleITK, or on the GPU
        where the mask is there and cuCIM is installed.

    Raises:
        ValueError: when the spacing is not above 0 or does not have one number for each spatial axis.

    Example:
        >>> import torch
        >>> from monai_lossext.losses.engine.distances import distance_inside
        >>> distance_inside(torch.tensor([[[0, 1, 1, 1, 0, 0]]]), spacing=2.0)
        tensor([[[0., 2., 4., 2., 0., 0.]]])
    """
    distances = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    for place, _, depth in depths(mask.detach() != 0, spacing, dtype):
        distances[place] = depth.to(distances)
    return distances


@outside_of_graphs
def signed_distance(
    mask: Tensor, spacing: Sequence[float] | float | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the distance of voxels outside of a mask to it, and minus the distance of voxels inside to the rest.

    Args:
        mask: (B, C, *S) bool with 1 to 3 spatial dimensions.
        spacing: size of a voxel in mm, one number or one an axis in the order of S; default 1, distances in voxels.
        dtype: floating dtype of the result.

    Returns:
        (B, C, *S) on the mask's device: 0 everywhere for a mask that is empty or full, and nowhere else.

    Raises:
        ValueError: as for :func:`distance_inside`.

    Example:
        >>> import torch
        >>> from monai_lossext.losses.engine.distances import signed_distance
        >>> signed_distance(torch.tensor([[[0, 1, 1, 1, 0, 0]]]).bool())
        tensor([[[ 1., -1., -2., -1.,  1.,  2.]]])
    """
    if mask.shape[1] == 2 and torch.equal(mask[:, 0], ~mask[:, 1]):  # what is inside of one is outside of the other
        first: Tensor = signed_distance(mask[:, :1], spacing, dtype)
        return torch.cat([first, -first], 1)
    distances = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    for place, _, depth in depths(~mask, spacing, dtype):
        distances[place] += depth.to(distances)
    for place, _, depth in depths(mask, spacing, dtype):
        distances[place] -= depth.to(distances)
    return distances


@outside_of_graphs
def border_penalty(
    regions: Sequence[Tensor],
    spacing: Sequence[float] | float | None = None,
    dtype: torch.dtype = torch.float32,
    normalize: bool = True,
) -> Tensor:
    """Return how much nearer each voxel of a region is to its border than the deepest one.

    Args:
        regions: masks (B, C, *S), bool, of which no two share a voxel.
        spacing: size of a voxel in mm, one number or one an axis in the order of S; default 1.
        dtype: floating dtype of the result.
        normalize: scale it to 1 at the border and 0 at the deepest voxel of each region.

    Returns:
        (B, C, *S) on the masks' device, at least 0; 0 where no region is, and in those without a border.

    Raises:
        ValueError: as for :func:`distance_inside`.

    Example:
        >>> import torch
        >>> from monai_lossext.losses.engine.distances import border_penalty
        >>> border_penalty([torch.tensor([[[0, 1, 1, 1, 0, 0]]]).bool()])
        tensor([[[0., 1., 0., 1., 0., 0.]]])
    """
    penalty = torch.zeros(regions[0].shape, dtype=dtype, device=regions[0].device)
    for region in regions:
        for place, inside, depth in depths(region, spacing, dtype):
            deepest = depth.max()
            value = depth.neg_().add_(deepest).masked_fill_(~inside, 0.0)
            if normalize:
                span = value.max()
                value = value.div_(span) if span > 0 else inside
            penalty[place] += value.to(penalty)
            del depth, value  # before the next ones are made
    return penalty


@outside_of_graphs
def mean_distance(
    mask: Tensor, other: Tensor, spacing: Sequence[float] | float | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the mean distance from the voxels of a mask to the nearest voxels of another, (B, C), 0 if one is empty.

    Args:
        mask: (B, C, *S) bool with 1 to 3 spatial dimensions.
        other: likewise.
        spacing: size of a voxel in mm, one number or one an axis in the order of S; default 1, distances in voxels.
        dtype: floating dtype of the result.
    """
    sizes = _sizes(spacing, mask.ndim - 2)
    result = torch.zeros(mask.shape[:2], dtype=dtype, device=mask.device)
    for index in np.ndindex(*mask.shape[:2]):
        starts, ends = mask[index], other[index]
        if not (_bytes(starts).amax() and _bytes(ends).amax()):
            continue
        box = _bounding_box(starts | ends, [0] * starts.ndim)
        starts, ends = starts[box], ends[box]
        if not _bytes(ends).amin():
            result[index] = _depth(~ends, sizes, dtype).masked_fill_(~starts, 0.0).sum() / torch.count_nonzero(starts)
    return result


def depths(
    mask: Tensor, spacing: Sequence[float] | float | None, dtype: torch.dtype
) -> Iterator[tuple[Place, Tensor, Tensor]]:
    """Yield for each mask of (B, C, *S) that has a border the box around it, and the mask and its depth there.

    The depth of a voxel is its distance to the nearest voxel outside, 0 for those outside, in at least float32.
    """
    sizes = _sizes(spacing, mask.ndim - 2)
    for index in np.ndindex(*mask.shape[:2]):
        one = mask[index]
        if _bytes(one).amax():
            box = _bounding_box(one, [1] * one.ndim)  # the nearest voxel outside touches the box of what is inside
            if not _bytes(one[box]).amin():
                yield (*index, *box), one[box], _depth(one[box], sizes, dtype)


def _sizes(spacing: Sequence[float] | float | None, axes: int) -> tuple[float, ...]:
    sizes = checked_spacing(spacing) or (1.0,)
    sizes = sizes * axes if len(sizes) == 1 else sizes
    if len(sizes) != axes:
        raise ValueError(f"spacing has {len(sizes)} values but there are {axes} spatial dimensions.")
    return sizes


def _bytes(mask: Tensor) -> Tensor:
    """Return a bool tensor as numbers, whose extremes are found twenty times faster than any() and all()."""
    return mask.view(torch.uint8)


def _bounding_box(mask: Tensor, margins: Sequence[int]) -> tuple[slice, ...]:
    """Return the slices of the smallest box around what is in a mask (*S), with margins inside of the picture."""
    box = []
    for axis, margin in enumerate(margins):
        others = [other for other in range(mask.ndim) if other != axis]
        hit = _bytes(mask).amax(others) if others else mask
        found = hit.nonzero()
        box.append(slice(max(int(found[0]) - margin, 0), int(found[-1]) + 1 + margin))
    return tuple(box)


def _depth(mask: Tensor, sizes: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    """Return the distance of each voxel of a mask (*S), neither empty nor full, to the nearest outside; 0 outside."""
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    if measured_on_gpu(mask):
        return _depth_by_monai(mask, sizes, dtype)
    device, mask = mask.device, mask.cpu()
    steps = _steps(REACH, sizes)
    if sum(steps) > MOST_STEPS:
        return _depth_by_itk(mask, sizes, dtype).to(device)
    core = _eroded(mask, [REACH] * mask.ndim)  # no voxel outside of it is deeper than the steps
    if not _bytes(core).amax():
        return _depth_of_shallow(mask, sizes, steps, dtype).to(device)
    # Whatever is nearer to a voxel of the core than the nearest voxel outside is this near to the core.
    near = mask & ~_eroded(~core, _steps(REACH + 1, sizes))
    box = _bounding_box(near, [1] * mask.ndim)
    if 2 * near[box].numel() > mask.numel() and torch.count_nonzero(mask) < MUCH * torch.count_nonzero(near):
        del core, near
        return _depth_by_itk(mask, sizes, dtype).to(device)
    depth = _depth_of_shallow(mask, sizes, steps, dtype)
    depth[box] = torch.where(core[box], _depth_by_itk(near[box], sizes, dtype), depth[box])
    return depth.to(device)


def _steps(voxels: int, sizes: tuple[float, ...]) -> list[int]:
    """Return how many voxels along each axis the diagonal of a box of so many is long."""
    return [int(voxels * math.hypot(*sizes) / size) for size in sizes]


def _eroded(mask: Tensor, steps: list[int]) -> Tensor:
    """Return the voxels of a mask (*S) around which a box, up to so many steps along each axis, is in the mask.

    What is outside of the picture does not matter.
    """
    inside = _bytes(mask)
    for axis, count in enumerate(steps):
        for _ in range(count):
            before, inside, rest = inside, inside.clone(), mask.shape[axis] - 1
            inside.narrow(axis, 1, rest).bitwise_and_(before.narrow(axis, 0, rest))
            inside.narrow(axis, 0, rest).bitwise_and_(before.narrow(axis, 1, rest))
    return inside.view(torch.bool)


def _depth_of_shallow(mask: Tensor, sizes: tuple[float, ...], steps: list[int], dtype: torch.dtype) -> Tensor:
    """Return the depth where the nearest voxel outside is at most so many steps away along each axis."""
    squares = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, torch.inf)
    for axis, (size, reach) in enumerate(zip(sizes, steps, strict=True)):
        for some in _slabs(squares, axis):
            before, sums, length = some.clone(), torch.empty_like(some), some.shape[axis]
            for step in range(1, min(reach, length - 1) + 1):
                rest = length - step
                for here, there in ((0, step), (step, 0)):
                    beside, nearer = before.narrow(axis, there, rest), some.narrow(axis, here, rest)
                    beside = torch.add(beside, (step * size) ** 2, out=sums.narrow(axis, 0, rest))
                    torch.minimum(nearer, beside, out=nearer)
    return squares.sqrt_()


def _slabs(x: Tensor, axis: int) -> Iterator[Tensor]:
    """Yield views that cut (*S) across another axis than this one, so that what is made of one stays in the cache."""
    across = 1 if axis == 0 else 0
    if across == x.ndim:
        yield x
    else:
        yield from torch.split(x, max(1, SLAB * x.shape[across] // x.numel()), across)


def by_itk(filter: Any, picture: Any) -> Any:
    """Return what a filter of SimpleITK makes of a picture, in as many pieces at once as torch has threads.

    That is one in a process that loads data, where others would wait for cores that train.
    """
    filter.SetNumberOfWorkUnits(torch.get_num_threads())
    return filter.Execute(picture)


def _depth_by_itk(mask: Tensor, sizes: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    import SimpleITK as sitk  # slow to load, and only these losses need it

    shape, even = mask.shape, len(set(sizes)) == 1
    if mask.ndim == 1:  # no picture has one dimension
        mask, sizes = mask[None], sizes * 2
    # ITK measures outside of its object to the object, and gives what is inside a negative sign.
    outside = sitk.GetImageFromArray(_bytes((~mask).contiguous()).numpy())
    outside.SetSpacing(sizes[::-1])  # type: ignore[no-untyped-call]
    maurer = sitk.SignedMaurerDistanceMapImageFilter()  # type: ignore[no-untyped-call]
    maurer.SetSquaredDistance(True)  # type: ignore[no-untyped-call]
    maurer.SetUseImageSpacing(not even)  # type: ignore[no-untyped-call]
    squares = by_itk(maurer, outside)
    result = torch.empty(mask.shape, dtype=dtype, device="cpu")
    np.maximum(sitk.GetArrayViewFromImage(squares), 0, out=result.numpy())  # a view of squares, which lives on
    return result.sqrt_().mul_(sizes[0] if even else 1.0).reshape(shape)


def _depth_by_monai(mask: Tensor, sizes: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    from monai.transforms.utils import distance_transform_edt

    shape = mask.shape
    if mask.ndim == 1:  # no picture has one dimension
        mask, sizes = mask[None], sizes * 2
    picture, exact = mask[None].to(torch.uint8), dtype == torch.float64
    found = distance_transform_edt(picture, sampling=list(sizes), float64_distances=exact)
    assert isinstance(found, Tensor)
    return found.to(mask.device, dtype).reshape(shape)


def measured_on_gpu(mask: Tensor) -> bool:
    """Return whether distances are measured where the mask is; without cuCIM, MONAI's function would copy and leak."""
    return mask.is_cuda and _cucim_is_installed()


@functools.cache
def _cucim_is_installed() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("cucim", "cupy"))


# ------------------------------------------------------------------------------------------------ masks of a reading


def class_masks(reading: Reading, exclusive: bool = False, first: int = 0) -> Tensor:
    """Return which voxels belong to each class from the first on, (B, C, *S) bool.

    Those that are masked out or ignored belong to none. Shares of a class count from above one half, or where classes
    are to be ``exclusive``, the largest share.
    """
    masks, seen = one_hot(reading, exclusive)[:, first:], visible(reading, exclusive, first)
    return masks if seen is None else masks & seen


def one_hot(reading: Reading, exclusive: bool = False) -> Tensor:
    """Return where each class is, (B, C, *S) bool, as in :func:`class_masks`, whether or not it is visible."""
    target, channels = reading.target, reading.channels
    if target.dtype == torch.bool:
        target = _bytes(target) != 0  # whose bytes may be more than 1
    if not reading.labels and not exclusive:
        return target > 0.5 if target.is_floating_point() else target.to(torch.bool)  # many at once, unlike ``>``
    target = target.to(torch.uint8) if target.dtype == torch.bool else target
    label = target if reading.labels else target.argmax(1, keepdim=True)
    space = (1,) * (target.ndim - 2)
    return label == torch.arange(channels, device=label.device, dtype=label.dtype).view(1, channels, *space)


def visible(reading: Reading, exclusive: bool = False, first: int = 0) -> Tensor | None:
    """Return which voxels are not masked out or ignored, (B, 1 or C, *S); None if all are."""
    if reading.mask is None:
        return None
    if exclusive:
        return (reading.mask != 0).any(1, keepdim=True)
    return reading.mask != 0 if reading.mask.shape[1] == 1 else reading.mask[:, first:] != 0


def penalty_regions(reading: Reading, exclusive: bool, first: int = 0) -> list[Tensor]:
    """Return the masks that have a border of their own: the classes, or foreground and background of each channel."""
    masks = class_masks(reading, exclusive, first)
    if exclusive:
        return list(masks.chunk(masks.shape[1], 1))
    seen = visible(reading, exclusive, first)
    return [masks, ~masks if seen is None else ~masks & seen]


def above(input: Tensor, activation: Activation, threshold: float = 0.5) -> Tensor:
    """Return where the probability is above a threshold, (B, C, *S) bool."""
    input = input.detach()
    if activation == "sigmoid" and threshold == 0.5:
        return input > 0
    return probabilities(input, activation) > threshold
