"""Component losses: every lesion, or every centreline, counts once, however small it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .base import PartsLoss, flag, mean, non_negative, smoothed_ratio
from .engine.components import component_map, tubed_skeleton
from .engine.distances import checked_spacing, class_masks, visible
from .engine.operators import part_sums, voxel_sums
from .engine.plain import FP, TP, Wanted
from .engine.precision import accumulator_dtype
from .engine.reading import Reading
from .paths import waits

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import ClasswiseOptions


class OverlapOfPartsLoss(PartsLoss):
    """Base of losses that are ratios of the overlap with parts of a class.

    Args:
        smooth_nr: added to the numerator of each part's ratio; keep it equal to ``smooth_dr``.
        smooth_dr: added to the denominator.

    Takes also the arguments of :class:`.ClasswiseLoss`. A class is where its share in the target is above one half:
    smoothed labels count as labels.
    """

    def __init__(
        self, *args: Any, smooth_nr: float = 1e-5, smooth_dr: float = 1e-5, **options: Unpack[ClasswiseOptions]
    ) -> None:
        super().__init__(*args, **options)
        self.smooth_nr = non_negative(smooth_nr=smooth_nr)
        self.smooth_dr = non_negative(smooth_dr=smooth_dr)

    def ratio(self, numerator: Tensor, denominator: Tensor) -> Tensor:
        """Return the smoothed ratio; 0 / 0 counts as perfect."""
        return smoothed_ratio(numerator, denominator, self.smooth_nr, self.smooth_dr)


class ComponentLoss(OverlapOfPartsLoss):
    """Base of losses that judge each connected component of a class. A new one defines :meth:`of_parts`.

    Args:
        fully_connected: whether voxels that share an edge or a corner belong together, or those that share a face
            alone. Not used where the target brings ``"components"``.

    Takes also the arguments of :class:`OverlapOfPartsLoss`.

    Components are numbered in the whole image by :class:`.ConnectedComponentsd`, whose map is then cropped and flipped
    with the label: a component that a crop or a mask cuts to pieces stays one, of which what is seen counts. Where the
    loss finds them itself, it sees the crop without what is masked out or ignored, and each piece counts.
    """

    nearest = False  # whether it matters which component is the nearest
    entropy = False  # whether cross-entropies are needed
    spacing: tuple[float, ...] | None = None

    def __init__(self, *args: Any, fully_connected: bool = True, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fully_connected = flag(fully_connected=fully_connected)

    def judged(self, reading: Reading, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return what :meth:`.PartsLoss.judged` says, from the sums of all components."""
        parts = self.parts(reading, first)
        most = most_parts(parts)
        sums = part_sums(reading, parts, most, first, self.nearest, self.entropy)
        n = sums[0].sum(-1)
        absent = ~(sums[0, ..., most + 1 :] > 0).any(-1)
        return self.of_parts(sums, most), n, absent, mean(sums[1].sum(-1), n)

    def parts(self, reading: Reading, first: int) -> Tensor:
        """Return the components, (B, C - first, *S), given or computed: k inside, -k where component k is nearest."""
        given = reading.components
        if given is None:
            masks = class_masks(reading, first=first)
            found: Tensor = component_map(masks, self.spacing, self.fully_connected, self.nearest)
            return found
        if given.dtype not in (torch.int8, torch.int16):
            raise ValueError(f"components must be int16, as ConnectedComponentsd makes them, got {given.dtype}.")
        given = given[:, first:]
        if reading.validate != "never" and not waits(given):
            raise_unless_of_label(given, reading, first)
        return given

    def of_parts(self, sums: Tensor, most: int) -> Tensor:
        """Return the value of each class, (B, C), from the sums of its parts, (2 or 3, B, C, 2 most + 1)."""
        raise NotImplementedError


class BlobDiceLoss(ComponentLoss):
    r"""Mean over the components of a class of one minus the Dice coefficient of that component alone.

    .. math:: L_c = \frac{1}{K} \sum_{k=1}^K 1 - \frac{2 S_k + s}{S_k + S_0 + N_k + s}, \qquad
              S_k = \sum_{i \in k} p_i

    with the sum :math:`S_0` of the probabilities outside of the class, and the size :math:`N_k` of a component: what is
    predicted in other components is masked out. A missed lesion costs 1 / K whatever its size, where Dice hardly
    notices a small one. One pass over the volume for any number of components.

    Args:
        fully_connected: as for :class:`.ComponentLoss`, whose arguments it takes.

    Range: [0, 1]; perfect 0, disjoint 1 (up to smoothing); absent class: the mean predicted probability.

    Source: Kofler et al. 2022, blob loss, arXiv:2205.08209, which adds it to a loss of the whole image:
    ``CompoundLoss({"dice": .., "blob": ..}, weights={"dice": 2.0})``. There, images without a component do not count
    (``empty="skip"``).

    Example:
        >>> import torch
        >>> from monai_lossext.losses import BlobDiceLoss
        >>> p, g = torch.tensor([[[0.9, 0.8, 0.1, 0.4, 0.0]]]), torch.tensor([[[1, 1, 0, 1, 0]]])
        >>> round(BlobDiceLoss()(p, g).item(), 4)
        0.286
    """

    def of_parts(self, sums: Tensor, most: int) -> Tensor:
        """Return the mean over the components, or the Dice of an empty target where there are none."""
        outside = sums[1, ..., most : most + 1]
        size, p = sums[..., most + 1 :]
        present = size > 0
        value = 1 - self.ratio(2 * p, p + outside + size)
        nothing = 1 - self.ratio(torch.zeros_like(outside), outside)
        return mean_of(torch.cat([value, nothing], -1), torch.cat([present, ~present.any(-1, keepdim=True)], -1))


class ComponentDiceLoss(ComponentLoss):
    r"""Mean over the components of a class of Dice and cross-entropy in the region nearest to each.

    .. math:: L_c = \frac{1}{K} \sum_{k=1}^K \lambda_{dice} \Bigl(1 - \frac{2 S_k + s}{S_k + F_k + N_k + s}\Bigr) +
              \frac{\lambda_{ce}}{|R_k|} \sum_{i \in R_k} -g_i \log p_i - (1 - g_i) \log(1 - p_i)

    with the region :math:`R_k` of the voxels that are nearer to component k than to others, the sum :math:`S_k` of the
    probabilities in the component, :math:`F_k` in the rest of its region, and the size :math:`N_k` of the component. As
    with :class:`BlobDiceLoss` a missed lesion costs as much as any other; a false one costs the lesion that it lies
    next to. One pass over the volume for any number of components, which :class:`.ConnectedComponentsd` finds once a
    case.

    Args:
        lambda_dice: factor of the Dice, at least 0.
        lambda_ce: factor of the cross-entropy, at least 0.
        spacing: size of a voxel in mm, one number or one an axis, where the loss finds the nearest components itself.

    Takes also the arguments of :class:`.ComponentLoss`. Each class is judged against all others together, also in the
    cross-entropy.

    Regions of which a crop or a mask hides the component, and voxels where a map was padded with 0, are taken together
    as one more region without any, in which ``empty="penalize"`` counts the mean predicted probability, ``"formula"``
    the formula with nothing to find, and ``"skip"`` nothing. A class that is absent is such a region.

    Range: [0, inf); perfect 0; absent class: the mean predicted probability.

    Source: Bouteille et al. 2025, CC-DiceCE, arXiv:2511.17146, which adds it to the Dice and cross-entropy of the whole
    image, as in ``CompoundLoss({"whole": DiceCrossEntropyLoss(..), "each": ComponentDiceLoss(..)})``, and does without
    smoothing; Kundu et al. 2026, arXiv:2604.24276 (several classes); the regions of Jaus et al. 2024,
    arXiv:2410.18684.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import ComponentDiceLoss
        >>> p, g = torch.tensor([[[0.9, 0.8, 0.1, 0.0, 0.4, 0.0]]]), torch.tensor([[[1, 1, 0, 0, 1, 0]]])
        >>> round(ComponentDiceLoss(lambda_ce=0.0)(p, g).item(), 4)
        0.2669
    """

    nearest = True
    entropy = True

    def __init__(
        self,
        *args: Any,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        spacing: Sequence[float] | float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.lambda_dice = non_negative(lambda_dice=lambda_dice)
        self.lambda_ce = non_negative(lambda_ce=lambda_ce)
        self.entropy = self.lambda_ce > 0
        self.spacing = checked_spacing(spacing)

    def of_parts(self, sums: Tensor, most: int) -> Tensor:
        """Return the mean over the regions of the components, and of the rest if it counts."""
        none, inside, outside = sums[..., most], sums[..., most + 1 :], sums[..., :most].flip(-1)
        present = inside[0] > 0
        value = self.of_regions(inside, outside)
        rest = torch.where(present, 0.0, outside).sum(-1) + none
        formula = self.empty == "formula"
        alone = self.of_regions(torch.zeros_like(rest), rest) if formula else mean(rest[1], rest[0])
        counts = rest[0] > 0 if self.empty != "skip" else torch.zeros_like(rest[0] > 0)
        return mean_of(torch.cat([value, alone[..., None]], -1), torch.cat([present, counts[..., None]], -1))

    def of_regions(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Return the value of regions, from the sums in a component and around it, (2 or 3, B, C, ...)."""
        value = self.lambda_dice * (1 - self.ratio(2 * inside[1], inside[1] + outside[1] + inside[0]))
        if self.entropy:
            value = value + self.lambda_ce * mean(inside[2] + outside[2], inside[0] + outside[0])
        return value


class SkeletonRecallLoss(OverlapOfPartsLoss):
    r"""One minus the recall of the predicted probabilities on a tube around the skeleton of the target.

    .. math:: L_c = 1 - \frac{\sum_i t_i\,p_i + s}{\sum_i t_i + s}

    with the skeleton of a class, widened by ``tube`` voxels but not beyond the class, t. For vessels, airways, roads
    and other thin structures: it keeps them connected, since a gap costs as much where they are thin as where they are
    thick, and nothing has to be thinned that has a gradient. False positives cost nothing, so combine it with a loss
    that sees them.

    Args:
        tube: how often the skeleton is dilated by a voxel along each axis. Not used where the target brings
            ``"skeleton"``, (B, C, *S) bool or weights, as :class:`.TubedSkeletond` makes it.

    Takes also the arguments of :class:`.OverlapOfPartsLoss`. Needs scikit-image where no skeleton is given.

    Range: [0, 1]; perfect 0, nothing found 1 (up to smoothing); absent class: the mean predicted probability.

    Source: Kirchhoff et al. 2024, arXiv:2404.03010, which adds it to Dice and cross-entropy. There it is minus the
    recall, which has the same gradient; the background does not count (``include_background=False``); and several
    classes have the skeleton of their union, each the part of it that it holds. Here each class has its own, which
    differs where classes touch.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import SkeletonRecallLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> skeleton = torch.tensor([[[1, 1, 0, 0]]]).bool()
        >>> round(SkeletonRecallLoss()(p, {"label": g, "skeleton": skeleton}).item(), 4)
        0.35
    """

    def __init__(self, *args: Any, tube: int = 2, **options: Any) -> None:
        super().__init__(*args, **options)
        if not isinstance(tube, int) or isinstance(tube, bool) or tube < 0:
            raise ValueError(f"tube must be a whole number of at least 0, got {tube!r}.")
        self.tube = tube

    def judged(self, reading: Reading, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the recall of each class; where there is no skeleton, the mean probability everywhere."""
        given = reading.skeleton
        given = tubed_skeleton(class_masks(reading, first=first), self.tube) if given is None else given[:, first:]
        seen = reading.weights(first)
        weight = torch.where(seen > 0, given.to(seen.dtype) * seen, 0.0)
        axes = list(range(2, weight.ndim))
        absent = ~(weight > 0).flatten(2).any(-1)
        weight = torch.where(absent.view(*absent.shape, *[1] * len(axes)), seen, weight)
        n = weight.sum(axes, dtype=accumulator_dtype(weight))
        if first:
            weight = torch.cat([torch.zeros_like(weight[:, :1]), weight], 1)
        sums, _ = voxel_sums(reading.weighed_by(weight), Wanted(counts=True))
        total = (sums[TP] + sums[FP])[:, first:]  # type: ignore[operator]
        value = 1 - self.ratio(total, n)
        return torch.where(absent, 0.0, value), n, absent, mean(total, n)


def raise_unless_of_label(parts: Tensor, reading: Reading, first: int) -> None:
    """Raise ValueError if components lie elsewhere than the classes: those of another label, or cropped alone."""
    masks, seen = class_masks(reading, first=first), visible(reading, first=first)
    differs = masks != parts.clamp(min=0).to(torch.bool)  # many at once, unlike ``>``
    differs = differs if seen is None else differs & seen
    if reading.classes is not None:  # others are part of the background, of which the map does not know
        known = reading.classes.clone()
        known[:, 0] &= not reading.merges
        differs = differs & known[:, first:].view(*differs.shape[:2], *[1] * (differs.ndim - 2))
    if differs.view(torch.uint8).amax():
        raise ValueError(
            f"components and label disagree in {int(differs.sum())} voxels; make the components of this label, and "
            "crop and flip both alike."
        )


def most_parts(parts: Tensor) -> int:
    """Return a number that no part's exceeds: the largest, or where to look at it waits, that of the dtype."""
    if waits(parts):
        return -torch.iinfo(parts.dtype).min
    low, high = parts.aminmax()
    return max(-int(low), int(high), 1)


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """Return the mean over the last axis of the values that count, 0 where none does."""
    return torch.where(counted, values, 0.0).sum(-1) / counted.sum(-1).clamp(min=1)
