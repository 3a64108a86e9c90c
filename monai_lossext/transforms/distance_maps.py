"""Distance maps of a whole label, made before it is cropped and carried along with it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_tensor, ensure_tuple
from torch import Tensor

from ..losses.engine.checks import checked
from ..losses.engine.distances import border_penalty, checked_spacing, class_masks, penalty_regions, signed_distance
from ..losses.engine.reading import Reading, Rules, held_by


class DistanceMap(Transform):
    """Base of the maps of a label. A new one defines :meth:`of_reading`.

    Apply it after the label was resampled to the spacing of the training and before it is cropped: the map of a crop
    knows nothing of borders outside of it. Then treat it like the label. Flips, rotations by 90 degrees, crops and
    padding keep it right; under scaling, elastic deformation and rotation by other angles it is an approximation, for
    which distances are neither stretched nor turned. It is deterministic and pickles, so that MONAI's CacheDataset and
    PersistentDataset keep its result.

    Args:
        num_classes: number of classes, at least 2, where the label holds class indices, (1, *S). Default: the label has
            a channel a class, (C, *S), with values in [0, 1].
        spacing: size of a voxel in mm, one number or one an axis. Default: that of the label's affine, if it is a
            MetaTensor, otherwise 1. Give a loss that computes its maps itself, or shifts them, the same.
        ignore_index: label of voxels that lie outside of every class, as for the losses.
        dtype: floating dtype of the map; ``torch.float16`` halves the memory, with distances right to 0.05 %.

    Raises:
        ValueError: when an argument or the label does not fit.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012  # as MONAI's transforms have it

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        spacing: Sequence[float] | float | None = None,
        ignore_index: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if num_classes is not None and num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, or None for channels, got {num_classes}.")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating dtype, got {dtype}.")
        self.num_classes = num_classes
        self.spacing = checked_spacing(spacing)
        self.ignore_index = ignore_index
        self.dtype = dtype

    def __call__(self, img: NdarrayOrTensor) -> Tensor:
        """Return the map of a label, with the label's affine and other meta data.

        Args:
            img: label (1, *S) or (C, *S) with 1 to 3 spatial dimensions, of any dtype.
        """
        label = convert_to_tensor(img, track_meta=get_track_meta())
        plain = label.as_tensor() if isinstance(label, MetaTensor) else label
        spacing = self.spacing
        if spacing is None and isinstance(label, MetaTensor):
            spacing = tuple(float(size) for size in affine_to_spacing(label.affine, r=label.ndim - 1))
        try:
            result = self.of_reading(self.reading(plain), spacing, torch.promote_types(self.dtype, torch.float32))
        except ValueError as error:
            raise ValueError(f"label of shape {tuple(plain.shape)}: {error}") from error
        result = result[0].to(self.dtype)
        return MetaTensor(result).copy_meta_from(label) if isinstance(label, MetaTensor) else result

    def of_reading(self, reading: Reading, spacing: tuple[float, ...] | None, dtype: torch.dtype) -> Tensor:
        """Return the map, (1, C, *S), of a label that was read as losses read it."""
        raise NotImplementedError

    def reading(self, label: Tensor) -> Reading:
        """Read a plain label, (1, *S) or (C, *S), as losses do, with no prediction."""
        if not 2 <= label.ndim <= 4:
            raise ValueError("expected (C, *S) with 1 to 3 spatial dimensions.")
        if self.num_classes is not None and label.shape[0] != 1:
            raise ValueError(f"expected (1, *S) class indices, as num_classes={self.num_classes} says.")
        channels = self.num_classes or label.shape[0]
        nothing = torch.zeros((), device=label.device).expand(1, channels, *label.shape[1:])
        ignored = held_by(label.dtype, self.ignore_index)
        rules = Rules(self.num_classes is not None, channels, ignored, activation="sigmoid")
        return checked(Reading(rules, nothing, label[None], None, None, None, None, "now"))[0]


class SignedDistanceMap(DistanceMap):
    """Signed distance of every voxel from the border of each class: what boundary losses take as ``"distance_map"``.

    The distance of a voxel outside of the class to the nearest one inside, and minus the distance of a voxel inside to
    the nearest one outside, in mm; 0 only for a class that is absent or fills the picture.

    Takes the arguments of :class:`DistanceMap`. Returns (num_classes, *S), or a channel for each of the label's.

    Example:
        >>> import torch
        >>> from monai_lossext.transforms import SignedDistanceMap
        >>> SignedDistanceMap(num_classes=2)(torch.tensor([[0, 0, 1, 1, 1]])).tolist()
        [[-2.0, -1.0, 1.0, 2.0, 3.0], [2.0, 1.0, -1.0, -2.0, -3.0]]
    """

    def of_reading(self, reading: Reading, spacing: tuple[float, ...] | None, dtype: torch.dtype) -> Tensor:
        """Return the signed distances of all classes."""
        distances: Tensor = signed_distance(class_masks(reading), spacing, dtype)
        return distances


class PenaltyDistanceMap(DistanceMap):
    """Penalty of :class:`.DistanceMapCrossEntropyLoss` for each voxel, which it takes as ``"penalty_map"``.

    1 at the border of a region and 0 at its deepest voxel. The regions are the classes of class indices, and
    foreground and background of each channel otherwise; those without a border have the penalty 0.

    Args:
        normalize: without it, the penalty is the distance to the border that the deepest voxel has more, in mm.

    Takes also the arguments of :class:`DistanceMap`. Returns (1, *S) for class indices, for a loss whose classes
    exclude each other: each voxel reads the penalty of its own. Otherwise a channel for each of the label's.

    Example:
        >>> import torch
        >>> from monai_lossext.transforms import PenaltyDistanceMap
        >>> PenaltyDistanceMap(num_classes=2)(torch.tensor([[0, 0, 1, 1, 1]])).tolist()
        [[0.0, 1.0, 1.0, 0.5, 0.0]]
    """

    def __init__(self, num_classes: int | None = None, *, normalize: bool = True, **options: Any) -> None:
        super().__init__(num_classes, **options)
        self.normalize = normalize

    def of_reading(self, reading: Reading, spacing: tuple[float, ...] | None, dtype: torch.dtype) -> Tensor:
        """Return the penalties."""
        penalty: Tensor = border_penalty(penalty_regions(reading, reading.labels), spacing, dtype, self.normalize)
        return penalty


class DistanceMapd(MapTransform):
    """Base of the dictionary versions. A new one names the transform of a label, and the key of its map.

    Args:
        keys: keys of the labels.
        output_keys: keys of the maps, one for each label; default: the one that losses look for.
        allow_missing_keys: whether a label may be missing.
        options: arguments of the transform.

    Raises:
        KeyError: when a label is missing.
        ValueError: when an argument or a label does not fit, with the label's key.
    """

    backend = DistanceMap.backend
    of: type[DistanceMap]
    named: str

    def __init__(
        self,
        keys: KeysCollection,
        output_keys: KeysCollection | None = None,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_keys: tuple[Hashable, ...] = ensure_tuple(self.named if output_keys is None else output_keys)
        if len(self.output_keys) != len(self.keys):
            raise ValueError(f"output_keys must name one map for each of {tuple(self.keys)}, got {self.output_keys}.")
        self.transform = self.of(**options)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Return the data with the maps."""
        found = dict(data)
        for key, output_key in self.key_iterator(found, self.output_keys):
            try:
                found[output_key] = self.transform(data[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        return found


class SignedDistanceMapd(DistanceMapd):
    """Dictionary version of :class:`SignedDistanceMap`.

    Takes the arguments of :class:`DistanceMapd` and, as options, those of :class:`SignedDistanceMap`.
    The key of the map is ``"distance_map"`` by default.

    Example:
        >>> import torch
        >>> from monai_lossext.transforms import SignedDistanceMapd
        >>> SignedDistanceMapd("label", num_classes=2)({"label": torch.tensor([[0, 1, 1]])})["distance_map"].tolist()
        [[-1.0, 1.0, 2.0], [1.0, -1.0, -2.0]]
    """

    of, named = SignedDistanceMap, "distance_map"


class PenaltyDistanceMapd(DistanceMapd):
    """Dictionary version of :class:`PenaltyDistanceMap`.

    Takes the arguments of :class:`DistanceMapd` and, as options, those of :class:`PenaltyDistanceMap`.
    The key of the map is ``"penalty_map"`` by default.

    Example:
        >>> import torch
        >>> from monai_lossext.transforms import PenaltyDistanceMapd
        >>> PenaltyDistanceMapd("label", num_classes=2)({"label": torch.tensor([[0, 1, 1]])})["penalty_map"].tolist()
        [[1.0, 1.0, 0.0]]
    """

    of, named = PenaltyDistanceMap, "penalty_map"
