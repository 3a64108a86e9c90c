"""Errors in the papers and in published code: the tests which show that ours is the corrected form.

=== ===================================== ========== ==================================================================
no. as printed or published               module     test
=== ===================================== ========== ==================================================================
1   MCC Eq. 8: f is root and radicand     errata     neither_reading_of_the_root_gives_the_gradient
2   MCC Eq. 9: divided by N, not by N^2   identities corrected_gradient_of_the_matthews_paper
5   Jadon Eq. 3: beta from y, not its sum voxel      balanced_as_printed_needs_the_number_of_positives
6   Jadon Eq. 7: cross-entropy at gamma 1 voxel      focal_is_the_cross_entropy_at_gamma_zero_not_one
8   Jadon Eq. 11: gamma, not 1 / gamma    region     focal_tversky_as_jadon_prints_it_neglects_nearly_solved_classes
9   Jadon Eq. 12: score, not loss         region     sensitivity_specificity_is_not_the_score_that_jadon_prints
10  Jadon Eq. 15-16: one minus too many   voxel      shape_aware_is_not_negative
10  Jadon Eq. 15-16: average with an index errata     the_shape_error_is_one_number_a_sample
11  Jadon Eq. 17: "y - log", lost minus   errata     combo_cross_entropy_as_printed_rewards_errors
12  Jadon Eq. 18: minus the Dice loss     compound   combo_as_printed_and_as_published
13  Jadon Eq. 20-21: exponents in the log compound   exponents_stand_outside_of_the_logarithms
15  Jadon Eq. 23: directed distance only  errata     hausdorff_losses_see_errors_in_both_directions
15  Jadon Eq. 23: to be maximised         errata     hausdorff_losses_are_to_be_minimised
16  Jadon Eq. 25: keeps the uncorrelated  voxel      structural_drops_what_correlates
20  Ma Eq. 4: threshold on losses         voxel      top_k_threshold_is_a_probability_and_keeps_the_hard_voxels
21  Ma Eq. 6: 1 + phi outside of the sum  voxel      a_given_distance_map_replaces_the_computed_one
23  Ma Eq. 10, 13: index, not loss        region     tversky_and_asymmetric_similarity_are_not_the_index_that_ma_prints
24  Ma Eq. 14: penalty weakens errors     region     the_penalty_that_ma_prints_weakens_errors
26  Ma 4.2: no square on the error        region     the_hausdorff_error_is_squared
27  Ma Eq. 15: bracket after -1/N         errata     combo_cross_entropy_as_printed_rewards_errors
C1  Combo code: sign of the background    compound   combo_as_printed_and_as_published
C2  distance-map code: map not used       voxel      a_given_distance_map_replaces_the_computed_one
C2  distance-map code: NaN if thin        errata     thin_objects_have_weights
C3  generalised Dice code: below -1       errata     published_generalized_dice_is_neither_dice_nor_penalty
C4  exp-log code: linear cross-entropy    errata     the_cross_entropy_of_exponential_logarithmic_has_its_power
C5  Hausdorff code: no gradient           errata     boundary_losses_have_the_gradient_of_their_value
=== ===================================== ========== ==================================================================

Number 18 swaps two columns of a table of results and concerns no loss.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from scipy.spatial.distance import directed_hausdorff
from torch.nn import functional as F

from monai_lossext.losses import (
    BoundaryDistanceLoss,
    ComboLoss,
    DistanceMapCrossEntropyLoss,
    ExponentialLogarithmicLoss,
    HausdorffCVLoss,
    HausdorffDistanceLoss,
    HausdorffERLoss,
    MatthewsCorrelationLoss,
    PenaltyGeneralizedDiceLoss,
    ScaledGeneralizedDiceLoss,
    ShapeAwareLoss,
)

from . import cases

HAUSDORFF = [HausdorffDistanceLoss(), HausdorffERLoss(), HausdorffCVLoss(radii=(1, 2))]
every_hausdorff_loss = pytest.mark.parametrize("loss", HAUSDORFF, ids=lambda loss: type(loss).__name__)
z, g = cases.logits(2, 1, 5, 4), cases.binary(2, 5, 4).double()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_every_test_of_the_table_exists():
    assert __doc__ is not None
    rows = re.findall(r"^(C?\d+) .* (\w+) +(\w+)$", __doc__, re.MULTILINE)
    numbers = " ".join(dict.fromkeys(number for number, _, _ in rows))
    assert numbers == "1 2 5 6 8 9 10 11 12 13 15 16 20 21 23 24 26 27 C1 C2 C3 C4 C5"
    for _, module, name in rows:
        assert f"\ndef test_{name}(" in Path(__file__).with_name(f"test_{module}.py").read_text(), name


def test_neither_reading_of_the_root_gives_the_gradient():
    target = g[:1]
    p = (z[:1] + 3 * target).sigmoid()
    _, gradient = cases.value_and_gradient(MatthewsCorrelationLoss(smooth=0.0), p, target)
    n, size, total = target.numel(), target.sum(), p.sum()
    radicand = total * size * (1 - total / n) * (1 - size / n)
    covariance = (p * target).sum() - total * size / n
    slope = size * (1 - size / n) * (1 - 2 * total / n) / 2

    def with_powers(f: torch.Tensor, first: float, second: float) -> torch.Tensor:
        return covariance * slope / f**first - (target - size / n) / f**second

    close(gradient, with_powers(radicand, 1.5, 0.5))
    close(gradient, with_powers(radicand.sqrt(), 3, 1))
    for printed in (with_powers(radicand, 1.5, 1), with_powers(radicand.sqrt(), 1.5, 1)):
        assert (printed - gradient).abs().max() > 0.5 * gradient.abs().max()


def test_the_shape_error_is_one_number_a_sample():
    x, label = cases.blocks(2, 2, 9, 8)
    logits, target = x[:, 1:], label.double()
    each = ShapeAwareLoss(sigmoid=True, reduction="none")(logits, target)
    factor = each / F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    for k in range(2):
        close(factor[k], factor[k, 0, 0, 0].expand_as(factor[k]))
    assert factor.min() > 1


def test_combo_cross_entropy_as_printed_rewards_errors():
    missed, spilt, right = (torch.full_like(g, -4), torch.full_like(g, 4), 8 * g - 4)

    def printed(logits: torch.Tensor, *, difference: bool, both: bool) -> float:
        p = logits.sigmoid()
        inside = g - p.log() if difference else g * p.log()
        outside = (1 - g) * (1 - p).log()
        return (-0.5 * inside + (-0.5 if both else 0.5) * outside).mean().item()

    ours = ComboLoss(sigmoid=True, alpha=1.0)
    for logits in (missed, spilt, right):
        assert ours(logits, g).item() == pytest.approx(printed(logits, difference=False, both=True))
    assert ours(right, g) < min(ours(missed, g), ours(spilt, g))
    assert printed(missed, difference=True, both=True) < printed(right, difference=True, both=True)
    assert printed(spilt, difference=False, both=False) < printed(right, difference=False, both=False)


def squares(*corners: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(1, 1, 24, 24, dtype=torch.float64)
    for row, column in corners:
        mask[..., row : row + 5, column : column + 5] = 1
    return mask


def directed(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(directed_hausdorff(np.argwhere(a[0, 0].numpy()), np.argwhere(b[0, 0].numpy()))[0])


@every_hausdorff_loss
def test_hausdorff_losses_see_errors_in_both_directions(loss):
    one, two = squares((2, 2)), squares((2, 2), (16, 16))
    assert directed(one, two) == 0 < directed(two, one)
    for prediction, target in ((one, two), (two, one)):
        assert loss(prediction, target) > 0.1


@every_hausdorff_loss
def test_hausdorff_losses_are_to_be_minimised(loss):
    target, near, far = squares((2, 2)), squares((2, 4)), squares((2, 14))
    assert max(directed(near, target), directed(target, near)) < max(directed(far, target), directed(target, far))
    assert loss(target, target) == 0 < loss(near, target) < loss(far, target)


def test_thin_objects_have_weights():
    thin = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    thin[0, 0, 2, 1:4] = 1
    depth = distance_transform_edt(thin[0, 0].numpy())
    reverted = np.where(depth > 0, depth.max() - depth, 0)
    with np.errstate(invalid="ignore"):
        assert np.isnan(reverted / reverted.max()).all()
    value, gradient = cases.value_and_gradient(DistanceMapCrossEntropyLoss(), torch.full_like(thin, 0.3), thin)
    assert torch.isfinite(gradient).all()
    assert value > F.binary_cross_entropy(torch.full_like(thin, 0.3), thin)


def test_published_generalized_dice_is_neither_dice_nor_penalty():
    k, s = 2.5, 1.0

    def published(p: torch.Tensor) -> torch.Tensor:
        return -2 * ((p * g).sum() + s) / (p.sum() + g.sum() + s)

    options = {"batch": True, "smooth_nr": s, "smooth_dr": s}
    p = z.sigmoid()
    ours = ScaledGeneralizedDiceLoss(**options)
    assert published(g) < -1
    assert ours(g, g) == 0
    assert abs(1 + published(p) - ours(p, g)) > 1e-2
    score = 1 - ours(p, g)  # of which the code puts the negative into Ma's Eq. 14
    shifted = 1 - score / (1 + k * (1 + score))
    for form in ("score", "printed"):
        assert abs(shifted - PenaltyGeneralizedDiceLoss(k=k, form=form, **options)(p, g)) > 1e-2
    assert 1 - 1 / (1 + 2 * k) > 0.8  # what it leaves of the loss of a perfect prediction, which is 0
    assert PenaltyGeneralizedDiceLoss(k=k, **options)(g, g) == 0


def test_the_cross_entropy_of_exponential_logarithmic_has_its_power():
    part = ExponentialLogarithmicLoss(sigmoid=True, label_weight=[1.0, 1.0]).parts(z, g)["cross_entropy"]
    nll = F.binary_cross_entropy_with_logits(z, g, reduction="none")
    close(part, nll.pow(0.3).mean())
    assert abs(nll.mean() - part) > 1e-2


@pytest.mark.parametrize(
    "loss",
    # under "minmax" the extremes in an erosion are constants for the gradient
    [
        HausdorffDistanceLoss(),
        HausdorffERLoss(normalize="rescale"),
        HausdorffCVLoss(radii=(1, 2)),
        BoundaryDistanceLoss(),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_boundary_losses_have_the_gradient_of_their_value(loss):
    """The published code computes them in NumPy, which torch refuses or does not see."""
    x, label = cases.blocks(1, 2, 9, 8)
    p = x.softmax(1)[:, 1:]
    with pytest.raises(RuntimeError, match="requires grad"):
        p.clone().requires_grad_().numpy()
    _, gradient = cases.value_and_gradient(loss, p, label)
    step = 1e-6 * gradient / gradient.norm()
    difference = (loss(p + step, label) - loss(p - step, label)) / 2
    torch.testing.assert_close(difference, (gradient * step).sum(), rtol=1e-4, atol=0)
    assert difference > 0
