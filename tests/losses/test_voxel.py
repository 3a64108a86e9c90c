"""Voxel losses: identities, the oracle's agreement where the contract does not look, peers, errata and mutants."""

from __future__ import annotations

import math
from importlib.metadata import version

import kornia
import monai.losses
import pytest
import torch
from torch.nn import functional as F

from monai_lossext.losses import (
    BalancedCrossEntropyLoss,
    DistanceMapCrossEntropyLoss,
    FocalCrossEntropyLoss,
    ShapeAwareLoss,
    StructuralSimilarityCrossEntropyLoss,
    TopKCrossEntropyLoss,
    VoxelLoss,
    WeightedCrossEntropyLoss,
)
from monai_lossext.losses.paths import plain_path

from . import cases, checks
from .test_worked_examples import EXAMPLES

MULTI = {"softmax": True, "to_onehot_y": True}
x, label = cases.logits(2, 3, 5, 4), cases.indices(2, 3, 5, 4)
z, g = cases.logits(2, 1, 5, 4, seed=3), cases.binary(2, 5, 4).double()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def near(a: torch.Tensor, b: torch.Tensor) -> None:
    """Compare with what was computed in float32."""
    torch.testing.assert_close(a.float(), b.float(), rtol=1e-5, atol=1e-7)


# ------------------------------------------------------------------------------------------------ torch, MONAI, kornia


def test_weighted_cross_entropy_equals_torch():
    close(WeightedCrossEntropyLoss(**MULTI)(x, label), F.cross_entropy(x, label[:, 0]))
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    ours = WeightedCrossEntropyLoss(**MULTI, weight=weight, normalize="weights")
    close(ours(x, label), F.cross_entropy(x, label[:, 0], weight=weight))
    mean_over_voxels = F.cross_entropy(x, label[:, 0], weight=weight, reduction="none").mean()
    close(WeightedCrossEntropyLoss(**MULTI, weight=weight)(x, label), mean_over_voxels)
    expected = F.binary_cross_entropy_with_logits(z, g, pos_weight=torch.tensor(3.0))
    close(WeightedCrossEntropyLoss(sigmoid=True, pos_weight=3.0)(z, g), expected)
    soft = torch.rand(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).softmax(1)
    close(WeightedCrossEntropyLoss(softmax=True)(x, soft), F.cross_entropy(x, soft))
    ignored = label.clone()
    ignored[:, :, 2] = 255
    ours = WeightedCrossEntropyLoss(**MULTI, ignore_index=255)
    close(ours(x, ignored), F.cross_entropy(x, ignored[:, 0], ignore_index=255))


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_equals_monai_and_kornia(gamma):
    ours = FocalCrossEntropyLoss(sigmoid=True, gamma=gamma)
    near(ours(z, g), monai.losses.FocalLoss(gamma=gamma)(z, g))
    ours = FocalCrossEntropyLoss(sigmoid=True, gamma=gamma, alpha=0.25)
    near(ours(z, g), monai.losses.FocalLoss(gamma=gamma, alpha=0.25)(z, g))
    close(ours(z, g), kornia.losses.binary_focal_loss_with_logits(z, g, alpha=0.25, gamma=gamma, reduction="mean"))
    several = FocalCrossEntropyLoss(**MULTI, gamma=gamma)(x, label)
    close(several, kornia.losses.focal_loss(x, label[:, 0], alpha=None, gamma=gamma, reduction="none").sum(1).mean())
    theirs = monai.losses.FocalLoss(gamma=gamma, use_softmax=True, to_onehot_y=True)(x, label)
    near(several, 3 * theirs)  # MONAI's mean also divides by the number of classes


# --------------------------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("options", [{"sigmoid": True, "to_onehot_y": True}, MULTI], ids=["sigmoid", "softmax"])
def test_all_reduce_to_the_cross_entropy(options):
    expected = WeightedCrossEntropyLoss(**options)(x, label)
    for loss in (
        FocalCrossEntropyLoss(**options, gamma=0),
        TopKCrossEntropyLoss(**options, k=100),
        TopKCrossEntropyLoss(**options, threshold=1.0),
    ):
        close(loss(x, label), expected)
    if options != MULTI:  # whose structural loss has the cross-entropy of each channel by itself
        close(StructuralSimilarityCrossEntropyLoss(**options, lambda_ce=1.0)(x, label), expected)
    zero = {"label": label, "distance_map": torch.zeros_like(x)}
    close(DistanceMapCrossEntropyLoss(**options)(x, zero), expected)


def test_weights_and_priors():
    q = g.mean().item()
    balanced = BalancedCrossEntropyLoss(sigmoid=True, beta=1 - q)(z, g)
    close(WeightedCrossEntropyLoss(sigmoid=True, prior=q)(z, g), balanced / (2 * q * (1 - q)))
    halved = FocalCrossEntropyLoss(sigmoid=True, alpha=0.5)(z, g)
    close(2 * halved, FocalCrossEntropyLoss(sigmoid=True)(z, g))
    two = torch.cat([torch.zeros_like(z), z], 1)
    for own in ({"prior": 0.2}, {"pos_weight": 3.0}):
        ours = WeightedCrossEntropyLoss(softmax=True, to_onehot_y=True, **own)(two, g)
        close(ours, WeightedCrossEntropyLoss(sigmoid=True, **own)(z, g))
    a = WeightedCrossEntropyLoss(**MULTI, prior=[0.5, 0.3, 0.2])(x, label)
    near(a, WeightedCrossEntropyLoss(**MULTI, weight=[1 / 1.5, 1 / 0.9, 1 / 0.6])(x, label))


@pytest.mark.usefixtures("kernels_or_plain")
def test_balance_is_finite_where_shares_add_up_to_more_than_the_voxels_that_count():
    x, target = cases.logits(1, 3, 4, 5).softmax(1), torch.full((1, 3, 4, 5), 0.9)
    loss = BalancedCrossEntropyLoss()
    value, gradient = cases.value_and_gradient(loss, x, {"label": target, "classes": cases.partial("100")})
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "cls",
    [BalancedCrossEntropyLoss, FocalCrossEntropyLoss, TopKCrossEntropyLoss, DistanceMapCrossEntropyLoss],
)
def test_two_exclusive_classes_equal_one_channel(cls):
    two = torch.cat([torch.zeros_like(z), z], 1)
    close(cls(softmax=True, to_onehot_y=True)(two, g), cls(sigmoid=True)(z, g))


def test_balanced_is_symmetric_and_silent_on_one_class():
    close(BalancedCrossEntropyLoss(sigmoid=True)(-z, 1 - g), BalancedCrossEntropyLoss(sigmoid=True)(z, g))
    for target in (torch.zeros_like(g), torch.ones_like(g)):
        value, gradient = cases.value_and_gradient(BalancedCrossEntropyLoss(sigmoid=True), z, target)
        assert value == 0
        assert not gradient.any()


def test_top_k_keeps_at_least_one_voxel_and_may_keep_none():
    few = TopKCrossEntropyLoss(sigmoid=True, k=1e-3)(z, g)
    close(few, F.binary_cross_entropy_with_logits(z, g, reduction="none").max())
    value, gradient = cases.value_and_gradient(TopKCrossEntropyLoss(sigmoid=True, threshold=1e-9), z, g)
    assert value == 0
    assert not gradient.any()
    close(TopKCrossEntropyLoss(sigmoid=True, threshold=1e-9, min_kept=1)(z, g), few)


def test_weights_of_the_distance_map_lie_between_one_and_two_and_thin_objects_are_finite():
    thin = torch.zeros(1, 1, 6, 6)
    thin[0, 0, 2, 1:4] = 1
    plain = F.binary_cross_entropy_with_logits(z[:1, :, :1, :1].expand(1, 1, 6, 6), thin.double(), reduction="none")
    weighed = DistanceMapCrossEntropyLoss(sigmoid=True, reduction="none")(z[:1, :, :1, :1].expand(1, 1, 6, 6), thin)
    factor = weighed / plain
    assert factor[thin == 1].unique().tolist() == pytest.approx([2.0])
    assert 1 - 1e-12 <= factor.min() < factor.max() <= 2 + 1e-12


def test_structural_error_of_the_target_itself_and_under_affine_change():
    assert StructuralSimilarityCrossEntropyLoss()(g, g).item() == pytest.approx(0, abs=1e-6)
    p = z.sigmoid()
    for same in (0.3 * p + 0.1, 0.5 * p):
        each = StructuralSimilarityCrossEntropyLoss(c4=0.0, reduction="none")(p, same)
        assert each.abs().max() < 1e-6
    assert StructuralSimilarityCrossEntropyLoss(c4=0.0)(p, 1 - p) > 0.1


# ------------------------------------------------------------------------------------------------------------ errata


def test_a_given_distance_map_replaces_the_computed_one():
    case = next(e for e in EXAMPLES if e["formula_id"] == "CE.DISTMAP")
    p, target, phi = (torch.tensor(case[key], dtype=torch.float64) for key in ("p", "g", "phi"))
    phi = phi.view_as(p)
    given = DistanceMapCrossEntropyLoss()(p, {"label": target, "distance_map": phi})
    assert given.item() == pytest.approx(case["expected"], abs=1e-7)
    # Ma 2020, Eq. 6 has (1 + phi) outside of the sum; its code returns the mean without it
    plain = F.binary_cross_entropy(p, target, reduction="none")
    for wrong in (((1 + phi).mean() * plain.mean()), plain.mean()):
        assert abs(wrong - given) > 1e-3


@pytest.mark.parametrize("key", ["distance_map", "penalty_map"])
def test_penalties_are_read_from_either_key_in_one_channel_or_all(key):
    phi = torch.rand(2, 1, 5, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    loss = DistanceMapCrossEntropyLoss(**MULTI)
    expected = ((1 + phi[:, 0]) * F.cross_entropy(x, label[:, 0], reduction="none")).mean()
    close(loss(x, {"label": label, key: phi}), expected)
    own = torch.where(torch.arange(3).view(1, 3, 1, 1) == label, phi, 7.0)  # what other classes have does not matter
    close(loss(x, {"label": label, key: own}), expected)
    close(DistanceMapCrossEntropyLoss(softmax=True)(x, {"label": own < 7, key: own}), expected)
    both = {"label": label, "penalty_map": phi, "distance_map": -phi}
    close(loss(x, both), expected)
    mask = torch.ones(2, 1, 5, 4)
    mask[..., 1] = 0
    masked = loss(x, {"label": label, key: torch.where(mask == 0, torch.nan, phi), "mask": mask})
    close(masked, loss(x, {"label": label, key: phi, "mask": mask}))


@pytest.mark.parametrize("key", ["distance_map", "penalty_map"])
def test_wrong_penalties(key):
    loss = DistanceMapCrossEntropyLoss(**MULTI)
    signed = torch.ones(2, 3, 5, 4)
    signed[1, 2, 0, 0] = -2
    with pytest.raises(ValueError, match=f"{key} must hold penalties of at least 0, as .* got -2.0: signed distances"):
        loss(x, {"label": label, key: signed})
    with pytest.raises(AssertionError, match=rf"{key} must have shape \(2, 3, 5, 4\) or"):
        loss(x, {"label": label, key: signed[:, :2]})
    with pytest.raises(AssertionError, match=rf"{key} must have the input's shape \(2, 3, 5, 4\) unless"):
        DistanceMapCrossEntropyLoss(sigmoid=True, to_onehot_y=True)(x, {"label": label, key: signed[:, :1]})


@pytest.mark.parametrize("channels", [1, 3])
def test_with_a_map_the_cross_entropy_compiles_into_one_graph(channels):
    torch.compiler.reset()
    phi = torch.rand(2, channels, 5, 4, generator=torch.Generator().manual_seed(4))
    loss = DistanceMapCrossEntropyLoss(**MULTI)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    target = {"label": label, "penalty_map": phi}
    for got, want in zip(
        cases.value_and_gradient(compiled, x, target), cases.value_and_gradient(loss, x, target), strict=True
    ):
        close(got, want)
    with pytest.raises(RuntimeError, match="penalty_map holds a negative penalty"):
        compiled(x, {"label": label, "penalty_map": -phi})


def test_balanced_as_printed_needs_the_number_of_positives():
    """Jadon 2020, Eq. 3 prints beta = 1 - y / (H W) with the value of a voxel for y."""
    beta = 1 - g / g[0].numel()
    nll, nll_not = -F.logsigmoid(z), -F.logsigmoid(-z)
    printed = (beta * g * nll + (1 - beta) * (1 - g) * nll_not).mean()
    share = 1 - g.mean((2, 3), keepdim=True)
    ours = BalancedCrossEntropyLoss(sigmoid=True)(z, g)
    close(ours, (share * g * nll + (1 - share) * (1 - g) * nll_not).mean())
    assert abs(printed - ours) > 1e-2


def test_focal_is_the_cross_entropy_at_gamma_zero_not_one():
    """Jadon 2020, text of Eq. 7, says gamma = 1."""
    plain = F.binary_cross_entropy_with_logits(z, g)
    close(FocalCrossEntropyLoss(sigmoid=True, gamma=0)(z, g), plain)
    assert abs(FocalCrossEntropyLoss(sigmoid=True, gamma=1)(z, g) - plain) > 0.1


def test_top_k_threshold_is_a_probability_and_keeps_the_hard_voxels():
    """Ma 2020, Eq. 4: the text drops losses below t."""
    p = torch.tensor([[[0.9, 0.6, 0.2]]], dtype=torch.float64)
    value = TopKCrossEntropyLoss(threshold=0.5)(p, torch.ones(1, 1, 3))
    assert value.item() == pytest.approx(-math.log(0.2))
    losses = -p.log()
    assert losses[losses >= 0.5].mean().item() != pytest.approx(value.item(), abs=0.1)


def test_shape_aware_is_not_negative():
    """Jadon 2020, Eq. 15 has one minus too many: wrong predictions would be rewarded."""
    wrong, right = ShapeAwareLoss(sigmoid=True)(6 - 12 * g, g), ShapeAwareLoss(sigmoid=True)(12 * g - 6, g)
    assert wrong > right > 0


def test_structural_drops_what_correlates():
    """Jadon 2020, text of Eq. 25, says the reverse."""
    target = torch.zeros(1, 1, 12, dtype=torch.float64)
    target[..., 2:4] = target[..., 8:10] = 1
    logits = 4 * target - 2
    logits[..., 7:11] *= -1
    _, gradient = cases.value_and_gradient(StructuralSimilarityCrossEntropyLoss(sigmoid=True, beta=0.5), logits, target)
    assert not gradient[..., :5].any()
    assert gradient[..., 7:11].any()


# ----------------------------------------------------------------------------------------------------------- mutants


class SwappedSides(WeightedCrossEntropyLoss):
    def forward(self, input, target, mask=None):
        return super().forward(-input, 1 - target, mask)


class FocalWithTheWrongProbability(FocalCrossEntropyLoss):
    def forward(self, input, target, mask=None):
        nll = F.binary_cross_entropy_with_logits(input, target, reduction="none")
        return (torch.exp(-self.gamma * nll) * nll).mean()


class MapOutsideOfTheSum(DistanceMapCrossEntropyLoss):
    def forward(self, input, target, mask=None):
        nll = F.binary_cross_entropy_with_logits(input, target, reduction="none")
        each = DistanceMapCrossEntropyLoss(sigmoid=True, reduction="none")(input, target)
        return (each / nll).mean().detach() * nll.mean()


class AveragedOverAllVoxels(TopKCrossEntropyLoss):
    def forward(self, input, target, mask=None):
        return self.k / 100 * super().forward(input, target, mask)


class DetachedFactor(FocalCrossEntropyLoss):
    def forward(self, input, target, mask=None):
        nll = F.binary_cross_entropy_with_logits(input, target, reduction="none")
        return ((-torch.expm1(-nll.detach())) ** self.gamma * nll).mean()


@pytest.mark.parametrize(
    ("mutant", "options"),
    [
        (SwappedSides, {"sigmoid": True, "pos_weight": 2.0}),
        (FocalWithTheWrongProbability, {"sigmoid": True}),
        (MapOutsideOfTheSum, {"sigmoid": True}),
        (AveragedOverAllVoxels, {"sigmoid": True}),
        (DetachedFactor, {"sigmoid": True}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_oracle_rejects_the_mutant_and_accepts_the_original(mutant, options):
    original = mutant.__bases__[0]
    checks.equals_oracle(original, options, z, g)
    with pytest.raises(AssertionError):
        checks.equals_oracle(mutant, options, z, g, name=original.__name__)


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (WeightedCrossEntropyLoss, {"pos_weight": -1.0}, "pos_weight must be a finite number of at least 0"),
        (WeightedCrossEntropyLoss, {"prior": 1.0}, r"prior must be in \(0, 1\), a share of the voxels, got 1.0"),
        (WeightedCrossEntropyLoss, {"prior": 0.5, "pos_weight": 1.0}, "pos_weight and prior exclude each other"),
        (WeightedCrossEntropyLoss, {"normalize": "mean"}, "normalize must be one of 'voxels', 'weights'"),
        (BalancedCrossEntropyLoss, {"beta": 1.5}, r"beta must lie in \[0, 1\], got 1.5"),
        (FocalCrossEntropyLoss, {"alpha": -0.1}, r"alpha must lie in \[0, 1\]"),
        (FocalCrossEntropyLoss, {"gamma": -1.0}, "gamma must be a finite number"),
        (TopKCrossEntropyLoss, {"k": 0.0}, r"k must be a percentage in \(0, 100\]"),
        (TopKCrossEntropyLoss, {"threshold": 0.0}, r"threshold must be a probability in \(0, 1\]"),
        (TopKCrossEntropyLoss, {"min_kept": 5}, "min_kept needs a threshold"),
        (DistanceMapCrossEntropyLoss, {"spacing": 0.0}, "spacing must be"),
        (ShapeAwareLoss, {"region": "some"}, "region must be one of 'all', 'mismatch'"),
        (StructuralSimilarityCrossEntropyLoss, {"window": 4}, "window must be odd"),
    ],
)
def test_wrong_arguments(cls, options, message):
    with pytest.raises(ValueError, match=message):
        cls(**options)


def test_priors_are_one_a_class():
    with pytest.raises(ValueError, match="prior has 2 values but 3 classes are used"):
        WeightedCrossEntropyLoss(**MULTI, prior=[0.5, 0.5])(x, label)


# ------------------------------------------------------------------------------------------------- kernels and plain

VOXEL_LOSSES = pytest.mark.parametrize(
    "cls", [cls for cls in cases.CLASSES if issubclass(cls, VoxelLoss)], ids=lambda cls: cls.__name__
)
SHARED = {
    "softmax": MULTI,
    "sigmoid": {"sigmoid": True, "to_onehot_y": True},
    "probabilities": {"to_onehot_y": True},
    "other_act": {"other_act": torch.sigmoid, "to_onehot_y": True},
    "one-hot": {"softmax": True},
    "soft": {"softmax": True},
    "soft sigmoid": {"sigmoid": True},
    "ignored": {**MULTI, "ignore_index": 2},
    "ignored sigmoid": {"sigmoid": True, "to_onehot_y": True, "ignore_index": 2},
    "weighted": {**MULTI, "include_background": False, "weight": [1.0, 0.5]},
    "sum": {**MULTI, "reduction": "sum"},
    "none": {**MULTI, "reduction": "none"},
}


def both_ways(loss, x, *rest):
    """Return value and gradient by kernels, and those of torch's own operations."""
    by_kernels = cases.value_and_gradient(loss, x, *rest)
    with plain_path():
        return by_kernels, cases.value_and_gradient(loss, x, *rest)


NUMBA = tuple(int(part) for part in version("numba").split(".")[:2])
ROUNDING = 3e-6 if NUMBA < (0, 62) else 1e-6  # 0.61 rounds sums otherwise: 2e-6 of the largest were seen


@VOXEL_LOSSES
@pytest.mark.parametrize("kind", SHARED)
def test_kernels_equal_the_plain_way(cls, kind):
    x, label = (t.clone() for t in cases.blocks(3, 3, 9, 8, 7))
    x = (x.sigmoid() if kind == "probabilities" else x).float()
    target = label
    if kind in ("one-hot", "soft", "soft sigmoid"):
        target = cases.one_hot(label, 3)
    if kind in ("soft", "soft sigmoid"):
        target = 0.8 * target + 0.1 if kind == "soft sigmoid" else 0.7 * target + 0.1
    mask = torch.rand(3, 3, 9, 8, 7, generator=torch.Generator().manual_seed(4))
    mask[mask < 0.2] = 0
    classes = cases.partial("110", "111", "010")
    own_options = ({}, *cases.row_of(cls).variants) if kind in ("softmax", "sigmoid") else ({},)
    for own in own_options:
        loss = cases.make(cls, **SHARED[kind], **own)
        for rest in ((target,), (target, mask[:, :1]), (target, mask), ({"label": target, "classes": classes},)):
            for got, want in zip(*both_ways(loss, x, *rest), strict=True):
                torch.testing.assert_close(got, want, rtol=1e-6, atol=ROUNDING * want.abs().max().item())


def test_structure_takes_no_rounding_for_a_difference():
    target = (torch.arange(16) < 8).float()[None, None]
    p = torch.where(target > 0, 0.9, 0.1).double()
    p[..., 12] = 0.45
    near = StructuralSimilarityCrossEntropyLoss(beta=1e-6)(p, target)
    close(StructuralSimilarityCrossEntropyLoss(beta=0.0)(p, target), near)


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_of_half_precision_are_rounded_once(dtype):
    x, label = cases.logits(2, 3, 24, 10, dtype=dtype), cases.indices(2, 3, 24, 10)
    for factor in (1.0, 1e-5, 1000.0):

        def loss(z, f=factor):
            return f * FocalCrossEntropyLoss(**MULTI)(z, label)

        value, gradient = cases.value_and_gradient(loss, x)
        exact, slope = cases.value_and_gradient(loss, x.double())
        torch.testing.assert_close(value.double(), exact, rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient.double(), slope, rtol=torch.finfo(dtype).eps, atol=6e-8)
        assert gradient.all()


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_retained_graph_gives_the_gradient_again(dtype):
    start = cases.logits(2, 3, 24, 10, dtype=dtype).requires_grad_()
    value = 3 * FocalCrossEntropyLoss(**MULTI)(start, cases.indices(2, 3, 24, 10))
    first, second = (torch.autograd.grad(value, start, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    (scaled,) = torch.autograd.grad(value, start, torch.full_like(value, 2.0))
    torch.testing.assert_close(scaled, 2 * first, rtol=1e-2 if dtype == torch.float16 else 1e-6, atol=1e-7)


@pytest.mark.usefixtures("kernels_or_plain")
@pytest.mark.parametrize(
    ("weights", "k", "kept"),
    [
        ([1, 1, 1, 1, 1, 1], 50.0, [1, 0, 1, 1, 0, 0]),
        ([2, 1, 1, 0, 1, 1], 50.0, [2, 0, 1, 0, 0, 0]),
        ([2, 1, 1, 0, 1, 1], 17.0, [1, 0, 0, 0, 0, 0]),
        ([1, 1, 1, 0, 1, 1], 40.0, [1, 0, 1, 0, 0, 0]),
    ],
)
def test_hardest_voxels_without_and_with_weights(weights, k, kept):
    """Of equally hard ones the first are kept; of the last one only a part, if all of it were too much."""
    p = torch.tensor([0.1, 0.7, 0.1, 0.05, 0.5, 0.1]).view(1, 1, 6)
    mask = torch.tensor(weights, dtype=torch.float32).view(1, 1, 6)
    each = TopKCrossEntropyLoss(k=k, reduction="none")(p, torch.ones(1, 1, 6), mask)
    torch.testing.assert_close(each / -p.log(), torch.tensor(kept, dtype=torch.float32).view(1, 1, 6))
