"""Soft counts: the few sums per sample and class of which every region loss is a function.

:func:`soft_counts` is the only place that walks a volume for a region loss. It takes logits (or probabilities) and
labels, and returns sums in float64; all that comes after it is arithmetic on a few numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function

from .fused import FusedCounts, Recipe
from .paths import fused
from .precision import Activation, accumulator_dtype, probabilities
from .reading import Rules

Extra = Literal["negatives", "squares", "errors"] | None

EXTRA: dict[Extra, tuple[str, ...]] = {
    None: (),
    "negatives": ("tn",),
    "squares": ("pp", "gg"),
    "errors": ("missed", "added"),
}


@dataclass(frozen=True)
class Counts:
    """Soft confusion counts, each of shape (B, C) in float64; voxel weights (masks) are already in them.

    ``n`` is the (weighted) number of voxels, ``g`` the size of the reference; ``tp``, ``fp`` and ``fn`` are the sums of
    p g, p (1 - g) and (1 - p) g for the predicted probabilities p. When asked for, there are ``tn``, the sum of
    (1 - p) (1 - g), or ``pp`` and ``gg``, the sums of squares, or ``missed`` and ``added``, the sums of the squared
    errors (p - g)^2 on g and on 1 - g.
    """

    n: Tensor
    g: Tensor
    tp: Tensor
    fp: Tensor
    fn: Tensor
    tn: Tensor | None = None
    pp: Tensor | None = None
    gg: Tensor | None = None
    missed: Tensor | None = None
    added: Tensor | None = None

    @classmethod
    def of(cls, sums: Tensor, extra: Extra = None) -> Counts:
        """Return the counts of the sums of :func:`soft_counts`, (5 to 7, B, C).

        The number of voxels and the size of the reference have no gradient.
        """
        n, g, *rest = sums.unbind()
        return cls(n.detach(), g.detach(), *rest[:3], **dict(zip(EXTRA[extra], rest[3:], strict=True)))

    @property
    def p(self) -> Tensor:
        """Size of the prediction, sum of p."""
        return self.tp + self.fp

    def size(self, squared: bool) -> Tensor:
        """Return the size of prediction and reference together: sum p + sum g, or sum p^2 + sum g^2."""
        if not squared:
            return self.p + self.g
        assert self.pp is not None
        assert self.gg is not None
        return self.pp + self.gg


def soft_counts(
    input: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    rules: Rules,
    activation: Activation,
    extra: Extra = None,
) -> Tensor:
    """Sum up what region losses need, for all classes, with gradient to ``input``.

    Args:
        input: (B, C, *S) logits, or probabilities when ``activation`` is None; any floating dtype.
        target: (B, 1, *S) class indices 0..C-1 when ``rules.labels`` is True, else (B, C, *S) in [0, 1].
        mask: (B, 1, *S) or (B, C, *S) non-negative voxel weights, or None.
        rules: how to read the values of target and mask.
        activation: what turns ``input`` into probabilities.
        extra: which further sums are wanted: ``"negatives"``, ``"squares"`` or ``"errors"``.

    Returns:
        (5, B, C), (6, B, C) with negatives, (7, B, C) with squares or errors; in float64, in the order of the fields of
        :class:`Counts`.

    Raises:
        ValueError: when a label, a target's value or a voxel weight is out of range.
    """
    plain = partial(plain_counts, rules=rules, activation=activation)
    if not fused() or callable(activation):
        return plain(input, target, mask, extra=extra)
    pair = activation == "softmax" and rules.channels == 2 and rules.labels and not rules.weighs_channels(mask)
    recipe = Recipe(rules, "pair", extra or "negatives") if pair else Recipe(rules, activation, extra)
    sums: Tensor = FusedCounts.apply(input, target, mask, recipe, plain)  # type: ignore[no-untyped-call]
    return both_of_pair(sums, extra) if pair else sums


def both_of_pair(sums: Tensor, extra: Extra) -> Tensor:
    """Return the sums of two classes that exclude each other, (.., B, 2), from those of the second, (.., B, 1)."""
    n, g, tp, fp, fn, *more = sums
    tn = n - g - fp if extra in ("squares", "errors") else more[0]
    of_first = {None: [], "negatives": [tp], "squares": [n - 2 * (tp + fp) + more[0], n - g], "errors": more[::-1]}
    first = [n, n - g, tn, fn, fp, *of_first[extra]]
    return torch.stack([torch.cat(both, 1) for both in zip(first, sums, strict=False)])


def plain_counts(
    input: Tensor, target: Tensor, mask: Tensor | None, *, rules: Rules, activation: Activation, extra: Extra
) -> Tensor:
    """Return :func:`soft_counts` by torch's own operations: in a graph, for second derivatives, and as oracle."""
    input, target, mask = rules.read(input, target, mask)
    p = probabilities(input, activation)
    shape, total_dtype = p.shape[:2], accumulator_dtype(p)
    p = p.flatten(2)
    w = None if mask is None else mask.flatten(2).to(p.dtype)

    def total(x: Tensor) -> Tensor:
        return (x if w is None else x * w).sum(-1, dtype=total_dtype).expand(shape)

    if rules.labels:
        label = target.flatten(2).long()
        w_label = None if w is None else w if w.shape[1] == 1 else w.gather(1, label)

        def inside(x: Tensor) -> Tensor:
            x = x.gather(1, label)
            x = (x if w_label is None else x * w_label).to(total_dtype)
            return torch.zeros(shape, dtype=total_dtype, device=p.device).scatter_add(1, label[:, 0], x[:, 0])

        def outside(x: Tensor) -> Tensor:
            return total(x.scatter(1, label, 0.0))
    else:
        t = target.flatten(2).to(p.dtype)

        def inside(x: Tensor) -> Tensor:
            return total(x * t)

        def outside(x: Tensor) -> Tensor:
            return total(x * (1 - t))

    one = torch.ones_like(p)
    sums = [total(one), inside(one), inside(p), outside(p), inside(1 - p)]
    if extra == "negatives":
        sums += [outside(1 - p)]
    elif extra == "squares":
        sums += [total(p * p), inside(one) if rules.labels else total(t * t)]
    elif extra == "errors":
        missed, added = (1 - p, p) if rules.labels else (p - t, p - t)
        sums += [inside(missed.square()), outside(added.square())]
    return torch.stack(sums)


class SumOverProcesses(Function):
    """Sum over all processes, in both directions.

    Every process computes the loss from the same total. Summing the gradients again makes up for the division by the
    number of processes in DistributedDataParallel, so that N processes train exactly like one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return the total of ``x`` over all processes."""
        x = x.clone()
        torch.distributed.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the total of the gradient over all processes."""
        gradient = gradients[0].clone()
        torch.distributed.all_reduce(gradient)
        return gradient
