"""Likelihoods: how improbable a prediction finds each voxel's true class, of which every voxel loss is a function.

:class:`Voxels` is what a voxel loss sees of one call, :class:`Part` what it computes with. Volumes are walked in parts
that stay in the processor's cache, so that nothing of their size is made but the gradient, and the values of the voxels
where a loss asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .compiled import cross_entropy, loops_fit
from .parts import Slices, parts, spread
from .paths import fused, known
from .precision import Activation, accumulator_dtype, promoted
from .reading import Rules
from .walks import WholeSum, each_voxel, everything, sum_and_number, with_halo

LARGEST_GAMMA = 5.0  # of loops: a float32 logarithm times a larger one loses digits
SMALLEST_PROBABILITY = 1e-7  # below it, and above 1 minus it, given probabilities are clamped before the logarithm

Likelihood = Callable[[Tensor], Tensor]
OfPart = Callable[["Part", slice], Tensor]  # a part, and which samples it has -> something of each voxel


@dataclass(frozen=True)
class Part:
    """Some voxels, with all their channels.

    With exclusive classes, every voxel has one class and one value, from the -log p of its own class where the target
    holds labels, from those of all classes by their shares otherwise. Without, every channel is a problem of its own,
    with values from -log p inside of the class and from -log(1 - p) outside.
    """

    z: Tensor  # (B, C, *S) logits, or probabilities without an activation, at least float32
    target: Tensor  # labels (B, 1, *S), or bool or shares of each class, (B, C, *S)
    counted: Tensor | None  # what each voxel and class counts, broadcasts over (B, C, *S); None for all 1
    activation: str | None  # "softmax" or "sigmoid"
    exclusive: bool
    labels: bool  # of exclusive classes

    def losses(self, likelihood: Likelihood, inside: Tensor, outside: Tensor, weighed: bool) -> Tensor:
        """Return each voxel's factor times a function of its negative log-likelihood, (B, 1 or C, *S)."""
        if self.labels:
            value = likelihood(-self.log_p_of_label())
        elif self.activation == "sigmoid" and is_binary(self.target):
            value = likelihood(-F.logsigmoid(self.z * (2 * self.target.to(self.z.dtype) - 1)))
        elif self.exclusive:
            log_p = self.z.log_softmax(1) if self.activation == "softmax" else clamped(self.z).log()
            return (self.shares()[0] * spread(inside, self.z.ndim) * likelihood(-log_p)).sum(1, keepdim=True)
        else:
            inside, outside = (spread(table, self.z.ndim) for table in (inside, outside))
            in_class, beside = likelihood(-self.log_p()), likelihood(-self.log_not_p())
            return mixed(self.target, inside * in_class, outside * beside)
        return value * self.factor(inside, outside) if weighed else value

    def log_p_of_label(self) -> Tensor:
        """Return log p of each voxel's own class, (B, 1, *S)."""
        label = self.target.long()
        return self.z.log_softmax(1).gather(1, label) if self.activation else clamped(self.z.gather(1, label)).log()

    def log_p(self) -> Tensor:
        """Return log p of each channel by itself, (B, C, *S)."""
        return F.logsigmoid(self.z) if self.activation == "sigmoid" else clamped(self.z).log()

    def log_not_p(self) -> Tensor:
        """Return log(1 - p) of each channel by itself, (B, C, *S)."""
        return F.logsigmoid(-self.z) if self.activation == "sigmoid" else torch.log1p(-clamped(self.z))

    def factor(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Return each voxel's factor, (B, 1 or C, *S)."""
        if self.labels:
            return inside.gather(1, self.target.flatten(1).long()).view_as(self.target)
        inside, outside = (spread(table, self.z.ndim) for table in (inside, outside))
        if self.exclusive:
            return (self.shares()[0] * inside).sum(1, keepdim=True)
        target = self.target.to(self.z.dtype)
        return target * inside + (1 - target) * outside

    def weight(self) -> Tensor | None:
        """Return what each voxel counts, (B, 1 or C, *S); None for all 1."""
        counted = self.counted
        if counted is None:
            return None
        if self.exclusive and counted.shape[1] > 1:
            counted = counted.expand_as(self.z).gather(1, self.target.long()) if self.labels else self.shares()[1]
        return counted.expand(-1, 1 if self.exclusive else self.z.shape[1], *self.z.shape[2:])

    def sizes(self) -> tuple[Tensor, Tensor]:
        """Return how many voxels each class of a sample has, and how many there are, both (B, C) in float64."""
        dtype, weight = accumulator_dtype(self.z), self.weight()
        if self.labels:
            label = self.target.flatten(1).long()
            w = torch.ones_like(label, dtype=dtype) if weight is None else weight.flatten(1).to(dtype)
            size = w.new_zeros(self.z.shape[:2]).scatter_add(1, label, w)
            return size, w.sum(1, keepdim=True).expand_as(size)
        target = (self.shares()[0] if self.exclusive else self.target).flatten(2).to(dtype)
        w = torch.ones_like(target[:, :1]) if weight is None else weight.flatten(2).to(dtype)
        return (w * target).sum(2), w.sum(2).expand(self.z.shape[:2])

    def shares(self) -> tuple[Tensor, Tensor]:
        """Return of exclusive classes the shares that count, (B, C, *S), and how far the voxel counts then."""
        target = self.target.to(self.z.dtype)
        counted = torch.ones_like(target[:, :1]) if self.counted is None else self.counted
        if counted.shape[1] == 1:
            return target, counted
        shares = target * counted
        seen = (counted > 0).any(1, keepdim=True)
        weight = (1 - (target - shares).sum(1, keepdim=True)).clamp(min=0) * seen
        return shares / torch.where(weight > 0, weight, 1.0), weight


@dataclass(frozen=True)
class Nearby:
    """Something of each voxel that depends on the voxels around it, with gradient; made part by part, never whole."""

    of_part: OfPart
    halo: int  # how far around a voxel the function looks, in voxels


@dataclass(frozen=True)
class Voxels:
    """What a voxel loss sees of one call."""

    rules: Rules  # how to read target and mask
    input: Tensor  # (B, C, *S) logits, or probabilities without an activation
    raw_target: Tensor  # (B, 1, *S) class indices, or (B, C, *S)
    mask: Tensor | None  # (B, 1, *S) or (B, C, *S) voxel weights
    kept: Tensor | None  # (B, C), the classes that count
    activation: str | None
    exclusive: bool
    first: int  # channel from which on classes have values

    @property
    def classes(self) -> int:
        """Number of classes that have values, or that a voxel may have."""
        return self.input.shape[1] - self.first

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the voxels' values: (B, 1, *S) for exclusive classes, else (B, C, *S)."""
        return (self.input.shape[0], 1 if self.exclusive else self.classes, *self.input.shape[2:])

    @property
    def dtype(self) -> torch.dtype:
        """Type of the voxels' values, at least float32."""
        return torch.promote_types(self.input.dtype, torch.float32)

    @property
    def labels(self) -> bool:
        """Whether :attr:`target` holds labels."""
        return self.exclusive and self.rules.labels

    @property
    def target(self) -> Tensor:
        """Labels (B, 1, *S), or bool or shares of each class, (B, C, *S)."""
        part = self.part(everything(self.input), self.input)
        return part.target if part.labels or not self.exclusive else part.shares()[0]

    @property
    def weight(self) -> Tensor:
        """What each voxel counts in sums, (B, 1 or C, *S)."""
        if self.mask is None and self.kept is None and self.rules.ignore_index is None:
            return torch.ones((), dtype=self.dtype, device=self.input.device).expand(self.shape)

        def weight(part: Part, samples: slice) -> Tensor:
            given = part.weight()
            assert given is not None
            return given

        with torch.no_grad():
            return self.each(weight)

    def per_class(self, foreground: float, background: float) -> tuple[Tensor, Tensor]:
        """Return factors of what is inside and outside of each class, (1, C); exclusive class 0 is the background."""
        inside = torch.full((1, self.classes), foreground, dtype=self.dtype, device=self.input.device)
        if self.exclusive:
            inside[:, 0] = background
        return inside, torch.full_like(inside, background)

    def losses(self, likelihood: Likelihood, inside: Tensor, outside: Tensor) -> Tensor:
        """Return each voxel's factor times a function of its negative log-likelihood, (B, 1 or C, *S).

        Args:
            likelihood: the function, elementwise.
            inside: factor of each class, (B or 1, C).
            outside: factor of what is not of the class, (B or 1, C); not used for exclusive classes.
        """
        return self.each(self._losses(likelihood, inside, outside))

    def factor(self, inside: Tensor, outside: Tensor) -> Tensor:
        """Return each voxel's factor alone, (B, 1 or C, *S); arguments as for :meth:`losses`."""
        inside, outside = (table.expand(self.input.shape[0], -1) for table in (inside, outside))
        with torch.no_grad():
            return self.each(lambda part, samples: part.factor(inside[samples], outside[samples]))

    def total(
        self,
        likelihood: Likelihood,
        inside: Tensor,
        outside: Tensor,
        emphasis: Tensor | Nearby | None = None,
        share: Tensor | None = None,
        mean: bool = True,
        base: float = 0.0,
        gamma: float | None = None,
    ) -> Tensor:
        """Return the weighted mean, or sum, of :meth:`losses`, a number.

        Args:
            likelihood, inside, outside: as for :meth:`losses`.
            emphasis: further factor of each voxel's loss, broadcasts over (B, 1 or C, *S), or what makes it, or None.
            share: factor of each voxel's weight in the divisor of the mean, likewise, a constant.
            mean: whether the mean is wanted.
            base: added to the emphasis, if there is one.
            gamma: what makes the likelihood (1 - p)^gamma times the negative log-likelihood; None if nothing does.
        """
        losses, dtype = self._losses(likelihood, inside, outside), accumulator_dtype(self.input)
        nearby, emphasis = (emphasis, None) if isinstance(emphasis, Nearby) else (None, emphasis)
        simple = gamma is not None and nearby is None
        loops = self._loops(inside, outside, emphasis, share, base, gamma or 0.0) if simple else None
        emphasis, share = (None if x is None else x.expand(self.shape) for x in (emphasis, share))
        exact = None if fused() else dtype  # few numbers need no more than their own
        halo = 0 if nearby is None else nearby.halo

        def sums(where: Slices, input: Tensor, emphasis: Tensor | None) -> tuple[Tensor, Tensor]:
            wide, inner = with_halo(where, self.input.shape, halo)
            part = self.part(wide, input)
            value, weight = losses(part, where[0])[inner], part.weight()
            weight = weight if weight is None else weight[inner]
            emphasis = emphasis if nearby is None else nearby.of_part(part, where[0])[inner]
            counted = product(weight, None if share is None else share[where])
            number = torch.full((), float(value.numel()), dtype=dtype, device=value.device)
            number = number if counted is None else counted.sum(dtype=exact).to(dtype)
            factor = product(weight, emphasis if emphasis is None or not base else emphasis + base)
            return (value if factor is None else value * factor).sum(dtype=exact).to(dtype), number

        size = max(math.prod(self.shape), 1)
        scale = 1 / size if mean else 1.0  # right, unless voxels do not count the same
        total, number = sum_and_number(sums, scale, self.input, emphasis, loops, halo)
        if mean:
            total = total * torch.where(number > 0, size / torch.where(number > 0, number, 1.0), 0.0)
        return total.to(self.dtype)

    def each(self, of_part: OfPart | Nearby) -> Tensor:
        """Return something of all voxels, (B, 1 or C, *S), computed part by part.

        Args:
            of_part: function of a part and of which samples it has.
        """
        of_part, halo = (of_part.of_part, of_part.halo) if isinstance(of_part, Nearby) else (of_part, 0)

        def values(where: Slices, input: Tensor) -> Tensor:
            return of_part(self.part(where, input), where[0])

        return each_voxel(values, self.input, halo)

    def parts(self) -> Iterator[tuple[slice, Part]]:
        """Yield all parts of the voxels, and which samples are in each."""
        for where in parts(self.input) if fused() else [everything(self.input)]:
            yield where[0], self.part(where, self.input[where])

    def part(self, where: Slices, input: Tensor) -> Part:
        """Read some of the voxels, ``input`` being theirs."""
        mask = None if self.mask is None else self.mask[where]
        z, target, counted = self.rules.read(input, self.raw_target[where], mask)
        z, activation = promoted(z), self.activation
        if activation == "softmax" and not self.exclusive:
            z, activation = one_against_the_rest(z), "sigmoid"
        kept = None if self.kept is None else spread(self.kept[where[0]], z.ndim).to(z.dtype)
        counted = product(None if counted is None else counted.to(z.dtype), kept)
        if not self.exclusive:
            channel = torch.arange(z.shape[1], device=z.device)
            target = target == spread(channel, z.ndim - 1) if self.rules.labels else target
            z, target = z[:, self.first :], target[:, self.first :]
            counted = counted if counted is None or counted.shape[1] == 1 else counted[:, self.first :]
        return Part(z, target, counted, activation, self.exclusive, self.labels)

    def _loops(
        self,
        inside: Tensor,
        outside: Tensor,
        emphasis: Tensor | None,
        share: Tensor | None,
        base: float,
        gamma: float,
    ) -> WholeSum | None:
        """Return the compiled loops of the sum of the cross-entropies, where they can compute it."""
        apart = self.activation == "sigmoid" and not self.exclusive and self.first == 0
        fits = apart or (self.activation == "softmax" and self.labels)
        fits = fits and (self.kept is None or known(self.kept)) and (gamma == 0 or 1 <= gamma <= LARGEST_GAMMA)
        if not fits or not fused() or not loops_fit(self.input, self.raw_target, self.mask, self.rules):
            return None
        if emphasis is not None:
            if emphasis.requires_grad:
                return None
            emphasis = emphasis.reshape((1,) * (len(self.shape) - emphasis.ndim) + emphasis.shape)
            emphasis = emphasis.expand(self.shape[0], -1, *self.shape[2:]).to(torch.float32).contiguous()
        inside, outside = (table.expand(self.input.shape[:2]) for table in (inside, outside))

        def loops(scale: float, wanted: bool) -> tuple[float, float, Tensor | None] | None:
            of_voxels = inside, outside, emphasis, 1.0 if emphasis is None else base, gamma
            found = cross_entropy(self.input, self.raw_target, self.rules, self.exclusive, *of_voxels, scale, wanted)
            if found is None:
                return None
            return found[0], math.prod(self.shape) if share is None else total_of(share.expand(self.shape)), found[1]

        return loops

    def _losses(self, likelihood: Likelihood, inside: Tensor, outside: Tensor) -> OfPart:
        inside, outside = (table.expand(self.input.shape[0], -1) for table in (inside, outside))
        weighed = not (all_one(inside) and all_one(outside))
        return lambda part, samples: part.losses(likelihood, inside[samples], outside[samples], weighed)


def read_voxels(
    rules: Rules,
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    activation: Activation,
    exclusive: bool,
    kept: Tensor | None,
    first: int,
) -> Voxels:
    """Gather what a voxel loss sees of a call.

    Args:
        rules: how to read the values of target and mask.
        input: (B, C, *S) logits, or probabilities when ``activation`` is None; any floating dtype.
        target: (B, 1, *S) class indices 0..C-1 when ``rules.labels`` is True, else (B, C, *S) in [0, 1]. Class indices
            are never expanded to one-hot.
        mask: (B, 1, *S) or (B, C, *S) non-negative voxel weights, or None.
        activation: what turns ``input`` into probabilities.
        exclusive: whether the classes of a voxel exclude each other.
        kept: (B, C) bool, the classes that count, or None for all.
        first: channel from which on classes count: 1 leaves out the background. With exclusive classes, voxels of a
            class that does not count are left out; otherwise its channel is.
    """
    if callable(activation):
        input, activation = promoted(activation(promoted(rules.read(input, target, mask)[0]))), None
    if exclusive and first > 0:
        counts = torch.arange(input.shape[1], device=input.device) >= first
        kept = counts.expand(input.shape[:2]) if kept is None else kept & counts
    return Voxels(rules, input, target, mask, kept, activation, exclusive, 0 if exclusive else first)


def product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Return the product of factors of which None is 1."""
    if a is None or b is None:
        return b if a is None else a
    return a * b


def mixed(target: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Return what is inside where the target is 1, what is outside where it is 0, and the mixture between."""
    if target.dtype == torch.bool:
        return torch.where(target, inside, outside)
    target = target.to(inside.dtype)
    return target * inside + (1 - target) * outside


def clamped(p: Tensor) -> Tensor:
    """Return probabilities whose logarithm, and that of their complement, is finite."""
    low, high = SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY
    return torch.where(p < low, low, torch.where(p > high, high, p))


def total_of(x: Tensor) -> float:
    """Return the sum of a volume on the CPU, in float64 and without a copy of it."""
    return float(x.count_nonzero() if x.dtype == torch.bool else sum(part.sum(dtype=torch.float64) for part in x))


def is_binary(target: Tensor) -> bool:
    """Return whether a target in [0, 1] is known to hold nothing but 0 and 1."""
    if not target.is_floating_point():
        return True
    return target.device.type == "cpu" and fused() and torch.equal(target * target, target)


def all_one(factor: Tensor) -> bool:
    """Return whether factors are known to change nothing."""
    return factor.device.type == "cpu" and fused() and bool((factor == 1).all())


def one_against_the_rest(z: Tensor) -> Tensor:
    """Return the logits whose sigmoid is the softmax of z."""
    rest = [torch.cat([z[:, :c], z[:, c + 1 :]], 1).logsumexp(1) for c in range(z.shape[1])]
    return z - torch.stack(rest, 1)
