"""Values, gradients and minima of a loss on small pictures, by calling it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
Numbers = np.ndarray

SIDE = 16
OBJECT = slice(4, 12)  # 64 of 256 voxels
SURE = 0.9  # probability of what is predicted rightly, 1 - SURE on the background
PROBABILITIES = np.linspace(0.01, 0.99, 25)
SHARES = np.linspace(0.1, 0.9, 9)
CANDIDATES = np.linspace(0.0, 1.0, 21)
DRAWS = 20  # of which each voxel is of the object in as many as its share says
VOXELS = (0, 0, 5, 5), (0, 0, 1, 1)  # one of the object, one of the background
CORNERS = (0, 0, 0, 0), (0, 0, SIDE - 1, SIDE - 1)
STEEP = 20.0  # the logit of a probability of 0 or 1: beyond it, float32 has no other


@dataclass(frozen=True)
class Findings:
    """What was found, each by calling the loss on pictures of 16 x 16 with an object of 8 x 8.

    Attributes:
        logits: whether the loss takes logits; else it takes probabilities.
        probability: (25,), of the voxels that are looked at.
        value_true, value_false: (25,), the loss when all voxels of the object, or all of the background, have it.
        slope_true, slope_false: (25,), derivative by the logit of one voxel of the object, or of the background, that
            has it, all others being right with 0.9; times the number of voxels.
        size: (n,), shares of the picture that the object takes.
        slope_by_size_true, slope_by_size_false: (n,), derivative by the logit of one undecided voxel (p = 0.5) of the
            object, or of the background, for these sizes; times the number of voxels.
        share: (9,), 0.1 to 0.9.
        best_for_soft_target: (9,), where the loss is least when a quarter of the picture has the soft target ``share``,
            beside an object that is sure.
        best_for_uncertain: (9,), where its mean over hard targets is least, in which each of these voxels belongs to
            the object with the probability ``share``; a proper loss is least at p = share.
        volume: (9,), volume of the prediction at that minimum over the expected volume.
        cases: what happened in hard cases, by their names.
    """

    logits: bool
    probability: Numbers
    value_true: Numbers
    value_false: Numbers
    slope_true: Numbers
    slope_false: Numbers
    size: Numbers
    slope_by_size_true: Numbers
    slope_by_size_false: Numbers
    share: Numbers
    best_for_soft_target: Numbers
    best_for_uncertain: Numbers
    volume: Numbers
    cases: dict[str, str]


def inspect(loss: Loss, *, logits: bool = True) -> Findings:
    """Measure a loss of one channel.

    Args:
        loss: called with input (B, 1, 16, 16) in float32 and target of this shape in [0, 1]; returns a scalar.
        logits: whether it takes logits; else probabilities.

    Raises:
        ValueError: the loss does not return a scalar for such a call.
    """
    call = _Call(loss, logits)
    target = _picture(OBJECT)
    right = SURE * target + (1 - SURE) * (1 - target)
    value = call.value(right, target)
    if value.ndim:
        raise ValueError(f"the loss must return a scalar, got the shape {tuple(value.shape)}")
    slopes = [[call.slope(_with(right, at, p), target, at) for p in PROBABILITIES] for at in VOXELS]
    sizes = [n**2 for n in range(1, SIDE)]
    by_size = [_slopes_by_size(call, n) for n in range(1, SIDE)]
    soft, uncertain = _best(call, soft=True), _best(call, soft=False)
    return Findings(
        logits,
        PROBABILITIES,
        np.array([call.value(torch.where(target > 0, p, right), target).item() for p in PROBABILITIES]),
        np.array([call.value(torch.where(target > 0, right, p), target).item() for p in PROBABILITIES]),
        np.array(slopes[0]),
        np.array(slopes[1]),
        np.array(sizes) / SIDE**2,
        np.array([pair[0] for pair in by_size]),
        np.array([pair[1] for pair in by_size]),
        SHARES,
        soft,
        uncertain,
        (1 + uncertain) / (1 + SHARES),  # the sure part and the other one are of the same size
        {name: _outcome(call, z, g) for name, (z, g) in _hard_cases().items()},
    )


@dataclass(frozen=True)
class _Call:
    """Calls a loss with probabilities, whatever it takes."""

    loss: Loss
    logits: bool

    def input_for(self, p: Tensor) -> Tensor:
        return torch.logit(p.double()).clamp(-STEEP, STEEP).float() if self.logits else p.clone()

    @torch.no_grad()
    def value(self, p: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.input_for(p), target)

    def slope(self, p: Tensor, target: Tensor, at: tuple[int, ...]) -> float:
        """Return the derivative by the logit of a voxel, times the number of voxels."""
        x = self.input_for(p).requires_grad_()
        self.loss(x, target).backward()
        assert x.grad is not None
        by_logit = x.grad if self.logits else x.grad * p * (1 - p)
        return by_logit[at].item() * target.numel()


def _picture(rows: slice, columns: slice | None = None) -> Tensor:
    target = torch.zeros(1, 1, SIDE, SIDE)
    target[..., rows, rows if columns is None else columns] = 1
    return target


def _with(picture: Tensor, at: tuple[int, ...], value: float) -> Tensor:
    changed = picture.clone()
    changed[at] = value
    return changed


def _slopes_by_size(call: _Call, side: int) -> tuple[float, float]:
    """Return the slopes of an undecided voxel inside and outside of an object of some side, at the corner."""
    target = _picture(slice(0, side))
    right = SURE * target + (1 - SURE) * (1 - target)
    first, second = (call.slope(_with(right, at, 0.5), target, at) for at in CORNERS)
    return first, second


def _best(call: _Call, soft: bool) -> Numbers:
    """Return for each share the probability of the unsure voxels at which the loss is least."""
    sure, unsure = _picture(slice(0, 8)), _picture(slice(0, 8), slice(8, 16))
    random = torch.Generator().manual_seed(0)
    strata = torch.rand(DRAWS, 1, SIDE, SIDE, generator=random).argsort(0)
    drawn = (strata + 0.5) / DRAWS
    found = []
    for share in SHARES:
        target = sure + unsure * (float(share) if soft else (drawn < share).float())
        values = [call.value((sure + unsure * float(p)).expand(target.shape), target).item() for p in CANDIDATES]
        found.append(CANDIDATES[int(np.argmin(values))])
    return np.array(found)


def _hard_cases() -> dict[str, tuple[Tensor, Tensor]]:
    """Return logits and targets that losses break on."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(2, 1, SIDE, SIDE, generator=random)
    target = _picture(OBJECT).expand(2, 1, SIDE, SIDE).clone()
    one = torch.zeros_like(target)
    one[..., 0, 0] = 1
    wrong = 60 * (1 - 2 * target)
    return {
        "no object": (z, torch.zeros_like(z)),
        "object everywhere": (z, torch.ones_like(z)),
        "object of one voxel": (z, one),
        "perfect, logits of 20": (20 * (2 * target - 1), target),
        "all wrong, logits of 60": (wrong, target),
        "all wrong, float16": (wrong.half(), target.half()),
        "all wrong, bfloat16": (wrong.bfloat16(), target.bfloat16()),
    }


def _outcome(call: _Call, z: Tensor, target: Tensor) -> str:
    """Return value and gradient in words."""
    x = (z if call.logits else z.sigmoid()).requires_grad_()
    try:
        value = call.loss(x, target)
        value.backward()
    except Exception as error:  # whatever somebody's loss raises is what is to be told
        return f"{type(error).__name__}: {error}".splitlines()[0]
    assert x.grad is not None
    if not torch.isfinite(x.grad).all():
        told = "gradient NaN or infinite"
    elif not x.grad.any():
        told = "no gradient"
    else:
        told = f"gradient {x.grad.abs().max().item():.2g} at most"
    return f"{value.item():.4g}, {told}"
