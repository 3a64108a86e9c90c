"""Euclidean distances from the voxels of a mask to its border, which the boundary losses weigh errors with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def checked_spacing(spacing: Sequence[float] | float | None) -> tuple[float, ...] | None:
    """Return the spacing as a tuple of mm per axis; raise ValueError unless all are finite and above 0."""
    if spacing is None:
        return None
    values = (float(spacing),) if isinstance(spacing, (int, float)) else tuple(float(x) for x in spacing)
    if not values or not all(0 < x < float("inf") for x in values):
        raise ValueError(f"spacing must be one number or one a spatial axis, in mm and above 0, got {spacing}.")
    return values


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a graph breaks here
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
        empty or that fills the whole picture, which has no border. Computed on the CPU by SimpleITK.

    Raises:
        ValueError: when the spacing is not above 0 or does not have one number for each spatial axis.

    Example:
        >>> import torch
        >>> from monai_lossext.losses.distances import distance_inside
        >>> distance_inside(torch.tensor([[[0, 1, 1, 1, 0, 0]]]), spacing=2.0)
        tensor([[[0., 2., 4., 2., 0., 0.]]])
    """
    import SimpleITK as sitk  # slow to load, and only these losses need it

    axes = mask.ndim - 2
    sizes = checked_spacing(spacing) or (1.0,)
    sizes = sizes * axes if len(sizes) == 1 else sizes
    if len(sizes) != axes:
        raise ValueError(f"spacing has {len(sizes)} values but there are {axes} spatial dimensions.")
    masks = (mask.detach() != 0).cpu()
    distances = torch.zeros(masks.shape, dtype=torch.float64)
    for one, result in zip(masks.flatten(0, 1), distances.flatten(0, 1), strict=True):
        if not one.any() or one.all():
            continue
        # ITK measures outside of its object to the object; SimpleITK has no pictures of one dimension.
        outside = sitk.GetImageFromArray((~one if axes > 1 else ~one[None]).to(torch.uint8).numpy())
        outside.SetSpacing((sizes if axes > 1 else (1.0, *sizes))[::-1])  # type: ignore[no-untyped-call]
        squares = sitk.SignedMaurerDistanceMap(outside, squaredDistance=True, useImageSpacing=True)  # type: ignore[no-untyped-call]
        found = torch.from_numpy(sitk.GetArrayFromImage(squares)).double()
        result.copy_(torch.where(one, found.reshape(one.shape), 0.0).sqrt())
    return distances.to(mask.device, dtype)
