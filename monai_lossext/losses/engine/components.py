"""Connected components of classes, what lies nearest to each, and skeletons: maps of a label, made on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .distances import _sizes, by_itk, outside_of_graphs

MOST = torch.iinfo(torch.int16).max  # components of a class, which maps number in int16


@outside_of_graphs
def component_map(
    mask: Tensor,
    spacing: Sequence[float] | float | None = None,
    fully_connected: bool = True,
    regions: bool = True,
) -> Tensor:
    """Number the connected components of masks, and say of each voxel outside which of them is nearest.

    Args:
        mask: (B, C, *S) bool with 1 to 3 spatial dimensions.
        spacing: size of a voxel in mm, one number or one an axis in the order of S; default 1.
        fully_connected: whether voxels that share an edge or a corner touch, or those that share a face alone.
        regions: whether the nearest component is wanted; otherwise all outside is 0.

    Returns:
        (B, C, *S) int16 on the mask's device: k in component k = 1, 2, ..., -k where component k is the nearest one (of
        equally near ones any), and 0 where the mask has no component.

    Raises:
        ValueError: when the spacing does not fit, or a mask has more than 32767 components.

    Example:
        >>> import torch
        >>> from monai_lossext.losses.engine.components import component_map
        >>> component_map(torch.tensor([[[0, 1, 1, 0, 0, 0, 0, 1]]]).bool()).tolist()
        [[[-1, 1, 1, -1, -1, -2, -2, 2]]]
    """
    sizes, found = _sizes(spacing, mask.ndim - 2), torch.zeros(mask.shape, dtype=torch.int16, device=mask.device)
    for index in np.ndindex(*mask.shape[:2]):
        inside = mask[index].cpu().numpy()
        if inside.any():
            numbers = numbered(inside, fully_connected)
            numbers = with_regions(numbers, sizes) if regions else numbers
            found[index] = torch.from_numpy(numbers).to(mask.device)
    return found


def numbered(mask: Any, fully_connected: bool) -> Any:
    """Return the number of the component of each voxel of a mask (*S), 0 outside, as int16."""
    import SimpleITK as sitk  # slow to load, and only these losses need it

    rows = mask[None] if mask.ndim == 1 else mask  # no picture has one dimension
    picture = sitk.GetImageFromArray(np.ascontiguousarray(rows).view(np.uint8))
    connected = sitk.ConnectedComponentImageFilter()  # type: ignore[no-untyped-call]
    connected.SetFullyConnected(fully_connected)  # type: ignore[no-untyped-call]
    found = by_itk(connected, picture)
    numbers = sitk.GetArrayViewFromImage(found)
    most = int(numbers.max())
    if most > MOST:
        raise ValueError(f"a class has {most} connected components, but at most {MOST} can be told apart.")
    return numbers.astype(np.int16).reshape(mask.shape)


def with_regions(numbers: Any, sizes: Sequence[float]) -> Any:
    """Return components (*S) with minus the number of the nearest one outside of them."""
    from scipy.ndimage import distance_transform_edt  # likewise

    outside = numbers == 0
    if numbers.max() == 1:  # nothing is nearer
        return np.where(outside, np.int16(-1), numbers)
    nearest = distance_transform_edt(outside, sampling=sizes, return_distances=False, return_indices=True)
    return np.where(outside, -numbers[tuple(nearest)], numbers)


@outside_of_graphs
def tubed_skeleton(mask: Tensor, tube: int = 2) -> Tensor:
    """Return the skeletons of masks, widened by a number of voxels along the axes but not beyond the mask.

    Args:
        mask: (B, C, *S) bool with 1 to 3 spatial dimensions.
        tube: how often to dilate the skeleton by a voxel along each axis; 0 leaves it one voxel thin.

    Returns:
        (B, C, *S) bool on the mask's device.

    Raises:
        ImportError: when scikit-image is not installed.

    Example:
        >>> import torch
        >>> from monai_lossext.losses.engine.components import tubed_skeleton
        >>> mask = torch.zeros(1, 1, 5, 7, dtype=torch.bool)
        >>> mask[..., 1:4, 1:6] = True
        >>> tubed_skeleton(mask, tube=0)[0, 0].sum().item() < mask.sum().item()
        True
    """
    from scipy.ndimage import binary_dilation

    try:
        from skimage.morphology import skeletonize  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            "skeletons are made by scikit-image, which is not installed: pip install monai_lossext[skeletons]"
        ) from error

    found = torch.zeros(mask.shape, dtype=torch.bool, device=mask.device)
    for index in np.ndindex(*mask.shape[:2]):
        inside = mask[index].cpu().numpy()
        if inside.any():
            thin = skeletonize(inside) > 0 if inside.ndim > 1 else inside  # nothing is thinner than a line
            thin = binary_dilation(thin, iterations=tube) & inside if tube else thin
            found[index] = torch.from_numpy(thin).to(mask.device)
    return found
