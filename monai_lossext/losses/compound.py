"""Compound losses: weighted sums of named losses, whose weights can be scheduled and whose parts can be logged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from .base import SumsLoss, fraction, non_negative, one_of, positive, safe_ratio, sums_for
from .boundary import HausdorffDistanceLoss
from .engine.checks import OneCall
from .engine.plain import Wanted, safe_pow
from .engine.precision import SMALLEST_PROBABILITY, held, promoted
from .lovasz import LovaszHingeLoss
from .region import Counts, OverlapLoss, SoftDiceLoss
from .voxel import BalancedCrossEntropyLoss, Factors, Sizes, TopKCrossEntropyLoss, VoxelLoss, WeightedCrossEntropyLoss

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .base import LossOptions
    from .region import OverlapOptions, RegionOptions

ACTIVATIONS = ("sigmoid", "softmax", "other_act")
READING = (*ACTIVATIONS, "to_onehot_y", "ignore_index", "validate")  # options that say how to read input and target


class CompoundLoss(_Loss):
    r"""Weighted sum of losses that see the same prediction.

    .. math:: L = \sum_k w_k L_k

    For a boundary loss beside the region loss that it needs, or for several aims at once.

    Args:
        terms: name -> loss, of this package or another; each has its own options. From a config, name -> its
            ``_target_`` and arguments. All get the same input, so the activations must agree, as far as a term or a
            loss inside of it tells them by ``sigmoid``, ``softmax`` and ``other_act``. A term that does not tell, such
            as ``torch.nn.BCEWithLogitsLoss``, MONAI's ``FocalLoss`` or :class:`LovaszHingeLoss`, takes the input as it
            is: the logits, beside terms that have an activation.
        weights: name -> factor of at least 0; 1 where a name is missing. :meth:`set_weight` changes one.
        balance: ``"ratio"`` scales each further term to the value of the first, without gradient through the scale.

    Range: that of the terms, weighed and added.

    Raises:
        ValueError: when there is no term, a weight is of no term or negative, the activations differ, one term takes
            probabilities and another logits, or a term returns no scalar (``reduction="none"``).

    Source: Ma 2020, section 5, arXiv:2005.13449; the ratio of Karimi and Salcudean 2019, arXiv:1904.10030, taken at
    every step.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import CompoundLoss, FocalCrossEntropyLoss, SoftDiceLoss
        >>> loss = CompoundLoss({"dice": SoftDiceLoss(), "focal": FocalCrossEntropyLoss()}, weights={"focal": 2.0})
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> {name: round(part.item(), 4) for name, part in loss.parts(p, g).items()}
        {'dice': 0.2778, 'focal': 0.0852}
        >>> round(loss(p, g).item(), 4)
        0.4482
    """

    def __init__(
        self, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None, balance: str | None = None
    ) -> None:
        super().__init__()
        if not terms:
            raise ValueError("terms must hold at least one loss, got none.")
        self.terms = nn.ModuleDict(terms)
        self.weights = dict.fromkeys(terms, 1.0)
        for name, value in (weights or {}).items():
            self.set_weight(name, value)
        self.balance = None if balance is None else one_of(("ratio",), balance=balance)
        self.watchers: list[Callable[[Mapping[str, Tensor]], None]] = []
        check_activations(terms)
        for name, term in terms.items():
            if getattr(term, "reduction", "mean") == "none":
                raise ValueError(f"terms are added as scalars, but {name} has reduction='none'; use 'mean' or 'sum'.")

    def set_weight(self, name: str, value: float) -> None:
        """Change the factor of a term; raise ValueError unless there is one of that name and the factor is >= 0."""
        if name not in self.terms:
            raise ValueError(f"there is no term {name!r} to weigh, only {', '.join(map(repr, self.terms))}.")
        self.weights[name] = non_negative(**{f"weight of {name}": value})

    def extra_repr(self) -> str:
        """Return weights and balance."""
        return f"weights={self.weights}, balance={self.balance!r}"

    def parts(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return the value of each term by name, before its weight; arguments as for :meth:`forward`."""
        if torch.compiler.is_compiling():
            return self._parts(input, target, mask)
        with OneCall():
            return self._parts(input, target, mask)

    def _parts(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None) -> dict[str, Tensor]:
        rest = () if mask is None else (mask,)  # losses of other packages take two arguments
        groups = self.walks()
        if len(groups) > 1:
            input = promoted(input)  # so that the gradients of the terms add up before they are rounded
        found: dict[str, Tensor] = {}
        for names in groups:
            terms: list[Any] = [self.terms[name] for name in names]
            if len(terms) > 1:
                reading = terms[0].read(input, target, mask)
                sums = sums_for(terms, reading)
                found |= {name: sums.into(term, reading) for name, term in zip(names, terms, strict=True)}
            else:
                found[names[0]] = terms[0](input, target, *rest)
        return {name: found[name] for name in self.terms}

    def walks(self) -> list[list[str]]:
        """Return the names of the terms, those together whose sums one walk through the volume can find."""
        groups: list[list[str]] = []
        for name in self.terms:
            for group in groups:
                if fit_together(self.terms[other] for other in [*group, name]):
                    group.append(name)
                    break
            else:
                groups.append([name])
        return groups

    def forward(self, input: Tensor, target: Tensor | Mapping[str, Any], mask: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            input: (B, C, *S), logits or probabilities, as the terms want them.
            target: labels or a mapping, as the terms want it.
            mask: (B, 1, *S) or (B, C, *S) voxel weights, for terms that take them.

        Returns:
            A scalar.
        """
        parts = self.parts(input, target, mask)
        for watch in self.watchers:
            watch(parts)
        first, total = next(iter(parts.values())), None
        for name, part in parts.items():
            part = self.ratio(first, part) * part if self.balance and part is not first else part
            if torch.compiler.is_compiling():  # a graph for any weight, since handlers schedule them
                part = self.weights[name] * part
                total = part if total is None else total + part
            elif total is None:
                total = part if self.weights[name] == 1 else self.weights[name] * part
            else:
                total = torch.add(total, part, alpha=self.weights[name])
        assert total is not None
        return total

    def ratio(self, first: Tensor, other: Tensor) -> Tensor:
        """Return what scales ``other`` to the size of ``first``; 1 where either is 0 and has nothing to compare."""
        first, other = first.detach().abs(), other.detach().abs()  # a negative scale would turn the gradient around
        return torch.where(first == 0, torch.ones_like(first), safe_ratio(first, other, otherwise=1.0))


def check_activations(terms: Mapping[str, nn.Module]) -> None:
    """Raise ValueError unless one input can be right for all terms."""
    acts = {name: sorted(activations(term), key=str) for name, term in terms.items()}
    told = {act for found in acts.values() for act in found}
    if len(told) > 1:
        each = "; ".join(
            f"{name} has {' and '.join(str(dict(zip(ACTIVATIONS, act, strict=True))) for act in found)}"
            for name, found in acts.items()
            if found
        )
        raise ValueError(f"all terms must have the same activation: {each}.")
    logits = [name for name, term in terms.items() if takes_logits(term)]
    if logits and told == {(False, False, None)}:
        others = ", ".join(name for name, found in acts.items() if found)
        raise ValueError(
            f"{', '.join(logits)} takes logits, but {others} has no activation and takes probabilities; give it "
            "sigmoid=True or softmax=True."
        )


def activations(term: nn.Module) -> set[tuple[Any, ...]]:
    """Return the activations of a loss, or of those inside of it, as far as they are told."""
    if isinstance(term, LovaszHingeLoss):
        return set()
    before = "pre_" if hasattr(term, "pre_sigmoid") else ""  # MONAI's MaskedDiceLoss, whose base then has none
    act = tuple(getattr(term, before + name, None) for name in ACTIVATIONS)
    if isinstance(act[0], int) and isinstance(act[1], int):  # not a layer of that name
        return {act}
    return {act for child in term.children() for act in activations(child)}


def takes_logits(term: nn.Module) -> bool:
    """Return whether a loss is known to take logits, whatever it makes of them."""
    known = (nn.BCEWithLogitsLoss, nn.CrossEntropyLoss, LovaszHingeLoss)
    return isinstance(term, known) or hasattr(term, "use_softmax")  # which MONAI's FocalLoss has


def fit_together(terms: Iterable[nn.Module]) -> bool:
    """Return whether losses read their input alike, and one walk can find the sums of all."""
    wanted, readings = Wanted(), set()
    for term in terms:
        if not isinstance(term, SumsLoss) or not term.shares_walk():
            return False
        together = wanted | term.wanted()
        if together is None:
            return False
        wanted = together
        readings.add(tuple(getattr(term, name) for name in READING))
    return len(readings) == 1


class JointLoss(CompoundLoss):
    """Base of compound losses whose terms are fixed and share their activation and options.

    Args:
        include_background: as for :class:`.SegmentationLoss`. The background is left out of Dice and Hausdorff terms
            only: without it a cross-entropy could not see false alarms.
        to_onehot_y, sigmoid, softmax, other_act: as for :class:`.SegmentationLoss`.
        reduction: of each term, ``"mean"`` or ``"sum"``.
        weight: as for :class:`.OverlapLoss`. In a cross-entropy a background that is left out elsewhere has weight 1.
        ignore_index, validate, batch, empty, distributed, group, soft_label, smooth_nr, smooth_dr: as for
            :class:`.OverlapLoss`.
    """

    __signature__: inspect.Signature

    def __init__(
        self, terms: Mapping[str, nn.Module], weights: Mapping[str, float] | None = None, balance: str | None = None
    ) -> None:
        super().__init__(terms, weights, balance)
        partial = not all(getattr(term, "include_background", True) for term in terms.values())
        for term in terms.values():
            if isinstance(term, VoxelLoss):
                term.pads_weight = partial  # by cross_entropy_options

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show users the whole signature, in which ``*args`` and ``**options`` are spelt out."""
        super().__init_subclass__(**kwargs)
        own = {n: p for n, p in inspect.signature(cls.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY}
        named = {**SoftDiceLoss.__signature__.parameters, **own}
        del named["squared_pred"]
        cls.__signature__ = inspect.Signature(sorted(named.values(), key=lambda parameter: parameter.kind))


def common_options(args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return by name those of a compound loss's arguments that every loss takes."""
    names = VoxelLoss.__signature__.parameters  # which takes these only
    given = {**dict(zip(names, args, strict=False)), **options}
    return {name: value for name, value in given.items() if name in names}


def cross_entropy_options(args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the common options of a cross-entropy that sees the background though another term does not."""
    given = common_options(args, options)
    weight = given.get("weight")
    if not given.pop("include_background", True) and weight is not None and torch.as_tensor(weight).ndim == 1:
        given["weight"] = torch.nn.functional.pad(torch.as_tensor(weight, dtype=torch.float64), (1, 0), value=1)
    return given


class DiceCrossEntropyLoss(JointLoss):
    r"""Soft Dice loss plus cross-entropy, what most people train with.

    .. math:: L = \lambda_D \left( 1 - \frac{2\,TP + s}{2\,TP + FP + FN + s} \right)
              + \lambda_C \operatorname{mean}_i -\left( g_i \log p_i + (1 - g_i) \log (1 - p_i) \right)

    and with exclusive classes :math:`-\log p_{i,l(i)}` for the cross-entropy. Dice for the score, the other for a
    gradient in every voxel from the start. Both are found in one walk through the volume.

    Args:
        lambda_dice: weight of the Dice term, at least 0.
        lambda_ce: weight of the cross-entropy, at least 0.

    Takes also the arguments of :class:`.JointLoss`. Terms: ``"dice"``, ``"cross_entropy"``.

    Range: [0, inf); perfect 0; absent class: the mean predicted probability and the cross-entropy, weighed.

    Source: Isensee et al. 2021, doi:10.1038/s41592-020-01008-z, whose Dice term is a score with a minus: the same
    gradient, the value is lambda_dice less; MONAI's ``DiceCELoss``.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import DiceCrossEntropyLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(DiceCrossEntropyLoss()(p, g).item(), 4)
        0.6153
    """

    def __init__(
        self, *args: Any, lambda_dice: float = 1.0, lambda_ce: float = 1.0, **options: Unpack[OverlapOptions]
    ) -> None:
        terms = {
            "dice": SoftDiceLoss(*args, **options),
            "cross_entropy": WeightedCrossEntropyLoss(**cross_entropy_options(args, options)),
        }
        super().__init__(terms, weights={"dice": lambda_dice, "cross_entropy": lambda_ce})


class ComboLoss(JointLoss):
    r"""Soft Dice loss and a cross-entropy that weighs missed foreground and false alarms apart.

    .. math:: L = \alpha \operatorname{mean}_i -\left( \beta\,g_i \log p_i + (1 - \beta)(1 - g_i) \log (1 - p_i) \right)
              + (1 - \alpha) \left( 1 - \frac{2\,TP + s}{2\,TP + FP + FN + s} \right)

    For organs of very different size, with a choice between missed voxels and false alarms.

    Args:
        alpha: share of the cross-entropy in the loss, in [0, 1].
        beta: weight of the foreground in [0, 1], the background has the rest: above 0.5 punishes missed foreground.
        smooth_nr: added to the numerator of Dice.
        smooth_dr: added to its denominator.

    Takes also the arguments of :class:`.JointLoss`. Terms: ``"dice"``, ``"cross_entropy"``.

    Range: [0, inf); perfect 0; absent class: the mean predicted probability and the cross-entropy, weighed.

    Source: Jadon 2020, Eq. 17-18, arXiv:2006.14822, and Ma 2020, Eq. 15, arXiv:2005.13449, which subtract a Dice score:
    the same gradient, the value is 1 - alpha less. The printed and the published forms have wrong signs.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import ComboLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(ComboLoss()(p, g).item(), 4)
        0.1931
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 0.5,
        beta: float = 0.5,
        smooth_nr: float = 1.0,
        smooth_dr: float = 1.0,
        **options: Unpack[RegionOptions],
    ) -> None:
        alpha = fraction(alpha=alpha)
        terms = {
            "dice": SoftDiceLoss(*args, smooth_nr=smooth_nr, smooth_dr=smooth_dr, **options),
            "cross_entropy": BalancedCrossEntropyLoss(beta=fraction(beta=beta), **cross_entropy_options(args, options)),
        }
        super().__init__(terms, weights={"dice": 1 - alpha, "cross_entropy": alpha})


class ExponentialLogarithmicLoss(JointLoss):
    r"""Powers of the logarithms of Dice and of the likelihood, with rare labels raised.

    .. math:: L = w_D \operatorname{mean}_c (-\ln D_c)^{\gamma_D}
              + w_C \operatorname{mean}_i w_{l(i)} (-\ln p_{i,l(i)})^{\gamma_C}, \qquad w_l = \sqrt{1 / f_l}

    For many labels of very different size. :math:`\gamma < 1` keeps a gradient where the prediction is nearly right.

    Args:
        w_dice: weight of the Dice term, at least 0.
        w_ce: weight of the cross-entropy term, at least 0.
        gamma_dice: exponent of the Dice term, above 0.
        gamma_ce: exponent of the cross-entropy term, above 0.
        label_weight: the weights w of the labels, one a class; (background, foreground) where channels are problems of
            their own. Default: from the frequencies f of the labels in the batch; a label that is absent has 1.

    Takes also the arguments of :class:`.JointLoss`. Terms: ``"dice"``, ``"cross_entropy"``.

    Range: [0, inf); perfect 0; absent class: the mean predicted probability and the cross-entropy, weighed.

    Source: Jadon 2020, Eq. 19-21, arXiv:2006.14822, which prints the exponents inside of the logarithms; Ma 2020,
    Eq. 16, arXiv:2005.13449. Below 1e-6 the powers go on as straight lines, whose slope is finite.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import ExponentialLogarithmicLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(ExponentialLogarithmicLoss()(p, g).item(), 4)
        0.7572
    """

    def __init__(
        self,
        *args: Any,
        w_dice: float = 0.8,
        w_ce: float = 0.2,
        gamma_dice: float = 0.3,
        gamma_ce: float = 0.3,
        label_weight: Sequence[float] | None = None,
        **options: Unpack[OverlapOptions],
    ) -> None:
        common = cross_entropy_options(args, options)
        terms = {
            "dice": PowerOfLogDice(*args, gamma=positive(gamma_dice=gamma_dice), **options),
            "cross_entropy": PowerOfLogLikelihood(
                gamma=positive(gamma_ce=gamma_ce), label_weight=label_weight, **common
            ),
        }
        super().__init__(terms, weights={"dice": w_dice, "cross_entropy": w_ce})


class PowerOfLogDice(OverlapLoss):
    """The Dice term of :class:`ExponentialLogarithmicLoss`."""

    def __init__(self, *args: Any, gamma: float, **options: Unpack[OverlapOptions]) -> None:
        super().__init__(*args, **options)
        self.gamma = gamma

    def per_class(self, counts: Counts) -> Tensor:
        """Return (-log Dice)^gamma, (B, C)."""
        dice = held(self.ratio(2 * counts.tp, counts.size(False)), SMALLEST_PROBABILITY)
        wrong = -dice.log()
        return safe_pow(torch.where(wrong < 0, 0.0, wrong), self.gamma)  # below 0 if smooth_nr exceeds smooth_dr


class PowerOfLogLikelihood(VoxelLoss):
    """The cross-entropy term of :class:`ExponentialLogarithmicLoss`."""

    def __init__(
        self, *args: Any, gamma: float, label_weight: Sequence[float] | None, **options: Unpack[LossOptions]
    ) -> None:
        super().__init__(*args, **options)
        self.gamma = gamma
        self.label_weight = None if label_weight is None else tuple(non_negative(label_weight=w) for w in label_weight)

    likelihood = "power"

    def balance(self, sizes: Sizes) -> Factors:
        """Return the weights of the labels, (1, C)."""
        if self.label_weight is None:
            share = safe_ratio(sizes.size.sum(0, keepdim=True), sizes.number.sum(0, keepdim=True), otherwise=0.0)
            return _root_of_inverse(share), _root_of_inverse(1 - share)
        expected = sizes.channels if sizes.exclusive else 2
        if len(self.label_weight) != expected:
            raise ValueError(f"label_weight has {len(self.label_weight)} values, expected {expected}.")
        if sizes.exclusive:
            factors = torch.tensor([self.label_weight], dtype=sizes.size.dtype).to(sizes.size.device)
            return factors, factors
        return sizes.per_class(self.label_weight[1], self.label_weight[0])


def _root_of_inverse(share: Tensor) -> Tensor:
    return torch.where(share > 0, safe_ratio(torch.ones_like(share), share, otherwise=1.0), 1.0).sqrt()


class DiceTopKLoss(JointLoss):
    r"""Soft Dice loss plus the cross-entropy of the hardest voxels.

    .. math:: L = \left( 1 - \frac{2\,TP + s}{2\,TP + FP + FN + s} \right) + \frac{1}{|K|} \sum_{i \in K} CE_i

    A strong default for small lesions in large images; both terms have the same weight.

    Args:
        k: percentage of the batch's voxels that are kept, in (0, 100].

    Takes also the arguments of :class:`.JointLoss`. Terms: ``"dice"``, ``"cross_entropy"``.

    Range: [0, inf); perfect 0; absent class: the mean predicted probability plus the cross-entropy.

    Source: Ma 2020, section 5 and code, arXiv:2005.13449, with ``include_background=False``.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import DiceTopKLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(DiceTopKLoss(k=50)(p, g).item(), 4)
        0.8475
    """

    def __init__(self, *args: Any, k: float = 10.0, **options: Unpack[OverlapOptions]) -> None:
        common = cross_entropy_options(args, options)
        super().__init__({"dice": SoftDiceLoss(*args, **options), "cross_entropy": TopKCrossEntropyLoss(k=k, **common)})


class DiceHausdorffLoss(JointLoss):
    r"""Hausdorff distance loss plus a soft Dice loss of the same size.

    .. math:: L = L_{HD} + \lambda\,L_{Dice}, \qquad \lambda = L_{HD} / L_{Dice}

    For outlines without far outliers: alone, the Hausdorff loss has no gradient on empty targets.

    Args:
        balance: ``"ratio"``, :math:`\lambda` from the values at every step, without gradient; 1 where the Hausdorff
            loss is 0. Or a fixed :math:`\lambda` of at least 0.
        alpha: exponent of the distances, above 0.
        one_sided: use distances from the target's border only.
        spacing: size of a voxel in mm, one number or one an axis; default 1.

    Takes also the arguments of :class:`.JointLoss`. Terms: ``"hausdorff"``, ``"dice"``.

    Range: [0, inf); perfect 0; absent class: see :class:`.HausdorffDistanceLoss` and :class:`.SoftDiceLoss`.

    Source: Karimi and Salcudean 2019, arXiv:1904.10030, with the ratio of every epoch; Ma 2020, section 4.2,
    arXiv:2005.13449.

    Example:
        >>> import torch
        >>> from monai_lossext.losses import DiceHausdorffLoss
        >>> p, g = torch.tensor([[[0.9, 0.4, 0.2, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
        >>> round(DiceHausdorffLoss(balance=1.0)(p, g).item(), 4)
        0.5528
    """

    def __init__(
        self,
        *args: Any,
        balance: str | float = "ratio",
        alpha: float = 2.0,
        one_sided: bool = False,
        spacing: Sequence[float] | float | None = None,
        **options: Unpack[OverlapOptions],
    ) -> None:
        common = common_options(args, options)
        terms = {
            "hausdorff": HausdorffDistanceLoss(alpha=alpha, one_sided=one_sided, spacing=spacing, **common),
            "dice": SoftDiceLoss(*args, **options),
        }
        if isinstance(balance, str):
            super().__init__(terms, balance=balance)
        else:
            super().__init__(terms, weights={"dice": balance})
