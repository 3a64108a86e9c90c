"""Deep supervision: MONAI's values for tensors, and mappings in the size of each output."""

from __future__ import annotations

import monai.losses
import pytest
import torch

from monai_lossext.losses import BoundaryDistanceLoss, CompoundLoss, DeepSupervisedLoss, SoftDiceLoss
from monai_lossext.losses.engine.distances import signed_distance

from . import cases

MULTI = {"softmax": True, "to_onehot_y": True}
x, label = cases.logits(2, 3, 12, 16, dtype=torch.float32), cases.indices(2, 3, 12, 16)
OUTPUTS = [x, cases.logits(2, 3, 6, 8, dtype=torch.float32), cases.logits(2, 3, 3, 5, dtype=torch.float32)]


@pytest.mark.parametrize("options", [{}, {"weight_mode": "two"}, {"weight_mode": "same"}, {"weights": [1.0, 0.3, 0.2]}])
def test_equals_monai_for_tensors(options):
    loss = SoftDiceLoss(**MULTI)
    expected = monai.losses.DeepSupervisionLoss(loss, **options)(OUTPUTS, label.float())
    ours = DeepSupervisedLoss(loss, **options)
    for target in (label.float(), label, label.to(torch.uint8), label[:, 0], {"label": label}, {"label": label[:, 0]}):
        torch.testing.assert_close(ours(OUTPUTS, target), expected)
    torch.testing.assert_close(ours(tuple(OUTPUTS), {"label": label, "mask": None}), expected)
    assert torch.equal(ours(x, {"label": label}), loss(x, label))


def test_every_entry_has_the_size_of_its_output():
    mask = torch.rand(2, 1, 12, 16, generator=torch.Generator().manual_seed(3)) > 0.3
    target = {
        "label": label,
        "mask": mask,
        "distance_map": signed_distance(cases.one_hot(label, 3) > 0),
        "classes": torch.tensor([[True, True, False], [True, True, True]]),
    }
    loss = CompoundLoss({"dice": SoftDiceLoss(**MULTI), "boundary": BoundaryDistanceLoss(**MULTI)})
    value = DeepSupervisedLoss(loss, weights=[1.0, 0.5])(OUTPUTS[:2], target)
    small = {key: entry if key == "classes" else entry[..., 1::2, 1::2] for key, entry in target.items()}
    torch.testing.assert_close(value, loss(x, target) + 0.5 * loss(OUTPUTS[1], small))
    assert loss(OUTPUTS[1], small) != loss(OUTPUTS[1], {**small, "mask": torch.ones(2, 1, 6, 8)})


def test_it_has_a_gradient_and_no_input_is_an_error():
    outputs = [output.clone().requires_grad_() for output in OUTPUTS]
    DeepSupervisedLoss(SoftDiceLoss(**MULTI))(outputs, {"label": label}).backward()
    assert all(output.grad.any() for output in outputs)
    with pytest.raises(ValueError, match="input shouldn't be None"):
        DeepSupervisedLoss(SoftDiceLoss(**MULTI))(None, {"label": label})
