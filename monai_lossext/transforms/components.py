"""Connected components and skeletons of a whole label, made before it is cropped and carried along with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..losses.engine.components import component_map, tubed_skeleton
from ..losses.engine.distances import class_masks
from ..losses.engine.reading import Reading
from .distance_maps import DistanceMap, DistanceMapd


class ConnectedComponents(DistanceMap):
    """Number of the component that each voxel belongs to or is nearest to: what component losses take as
    ``"components"``.

    k in the k-th connected component of a class, -k outside of the class where that component is the nearest one, and 0
    where the class has none. The numbers say nothing but what belongs together.

    Apply it before the label is cropped, so that a component that a crop cuts to pieces stays one, and treat it like
    the label: flips, rotations by 90 degrees, crops and padding keep it right. Under scaling, elastic deformation and
    rotation by other angles, with the nearest voxel, regions are approximations, and a component may lose voxels to the
    label; losses then say so.

    Args:
        num_classes: number of classes, at least 2, where the label holds class indices, (1, *S). Default: the label has
            a channel a class, (C, *S), with values in [0, 1], of which those above one half count.
        spacing: size of a voxel in mm, one number or one an axis. Default: that of the label's affine, if it is a
            MetaTensor, otherwise 1.
        ignore_index: label of voxels that lie outside of every class, as for the losses.
        fully_connected: whether voxels that share an edge or a corner touch, or those that share a face alone.

    Returns (num_classes, *S), or a channel for each of the label's, in int16.

    Raises:
        ValueError: when an argument or the label does not fit, or a class has more than 32767 components.

    Example:
        >>> import torch
        >>> from monai_lossext.transforms import ConnectedComponents
        >>> ConnectedComponents()(torch.tensor([[0, 1, 1, 0, 0, 0, 0, 1]])).tolist()
        [[-1, 1, 1, -1, -1, -2, -2, 2]]
    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        spacing: Sequence[float] | float | None = None,
        ignore_index: int | None = None,
        fully_connected: bool = True,
    ) -> None:
        super().__init__(num_classes, spacing=spacing, ignore_index=ignore_index)
        self.dtype = torch.int16
        self.fully_connected = fully_connected

    def of_reading(self, reading: Reading, spacing: tuple[float, ...] | None, dtype: torch.dtype) -> Tensor:
        """Return the components of all classes."""
        found: Tensor = component_map(class_masks(reading), spacing, self.fully_connected)
        return found


class TubedSkeleton(DistanceMap):
    """Skeleton of each class, widened but not beyond the class: what :class:`.SkeletonRecallLoss` takes as
    ``"skeleton"``.

    Apply it before the label is cropped: the skeleton of a crop ends elsewhere. Then treat it like the label. Needs
    scikit-image.

    Args:
        num_classes: as for :class:`ConnectedComponents`.
        tube: how often the skeleton is dilated by a voxel along each axis.
        ignore_index: label of voxels that lie outside of every class, as for the losses.

    Returns (num_classes, *S), or a channel for each of the label's, in uint8.

    Raises:
        ValueError: when an argument or the label does not fit.
        ImportError: when scikit-image is not installed.

    Example:
        >>> import torch
        >>> from monai_lossext.transforms import TubedSkeleton
        >>> TubedSkeleton(tube=0)(torch.tensor([[[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]])).sum().item()
        3
    """

    def __init__(self, num_classes: int | None = None, *, tube: int = 2, ignore_index: int | None = None) -> None:
        super().__init__(num_classes, ignore_index=ignore_index)
        if tube < 0:
            raise ValueError(f"tube must be a whole number of at least 0, got {tube}.")
        self.dtype = torch.uint8
        self.tube = tube

    def of_reading(self, reading: Reading, spacing: tuple[float, ...] | None, dtype: torch.dtype) -> Tensor:
        """Return the skeletons of all classes."""
        found: Tensor = tubed_skeleton(class_masks(reading), self.tube)
        return found


class ConnectedComponentsd(DistanceMapd):
    """Dictionary version of :class:`ConnectedComponents`.

    Takes the arguments of :class:`.DistanceMapd` and, as options, those of :class:`ConnectedComponents`.
    The key of the map is ``"components"`` by default.

    Example:
        >>> import torch
        >>> from monai_lossext.transforms import ConnectedComponentsd
        >>> ConnectedComponentsd("label")({"label": torch.tensor([[0, 1, 1]])})["components"].tolist()
        [[-1, 1, 1]]
    """

    of, named = ConnectedComponents, "components"


class TubedSkeletond(DistanceMapd):
    """Dictionary version of :class:`TubedSkeleton`.

    Takes the arguments of :class:`.DistanceMapd` and, as options, those of :class:`TubedSkeleton`.
    The key of the map is ``"skeleton"`` by default.

    Example:
        >>> import torch
        >>> from monai_lossext.transforms import TubedSkeletond
        >>> label = torch.tensor([[[0, 0, 0, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]])
        >>> TubedSkeletond("label", tube=0)({"label": label})["skeleton"].sum().item()
        3
    """

    of, named = TubedSkeleton, "skeleton"
