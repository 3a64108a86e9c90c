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


@pytest.mark.parametrize("options", [{}, {"weights": [1.0, 0.3, 0.2]}])
def test_the_stacked_outputs_of_dynunet(options):
    """In training it returns all heads in one size, (B, L, C, *S)."""
    heads = torch.stack([x, cases.logits(2, 3, 12, 16, seed=5, dtype=torch.float32), x.flip(1)], 1)
    for loss, target in (
        (SoftDiceLoss(**MULTI), label),
        (SoftDiceLoss(**MULTI), label[:, 0]),
        (SoftDiceLoss(**MULTI), {"label": label}),
        (SoftDiceLoss(sigmoid=True), cases.one_hot(label, 3)),
        (CompoundLoss({"dice": SoftDiceLoss(**MULTI)}), label),
    ):
        deep = DeepSupervisedLoss(loss, **options)
        torch.testing.assert_close(deep(heads, target), deep(list(heads.unbind(1)), target))


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6), (1, 5, 6), (3, 5, 6)])
def test_one_output_is_not_taken_for_stacked_ones(shape):
    logits, labels = cases.logits(2, 3, *shape), cases.indices(2, 3, *shape)
    loss = SoftDiceLoss(**MULTI)
    for target in (labels, labels[:, 0], {"label": labels[:, 0]}):
        assert DeepSupervisedLoss(loss)(logits, target) == loss(logits, labels)
    one, binary = logits[:, :1], cases.binary(2, *shape)
    loss = SoftDiceLoss(sigmoid=True)
    for target in (binary, binary[:, 0]):
        assert DeepSupervisedLoss(loss)(one, target) == loss(one, binary)


def test_dynunet_itself():
    from monai.networks.nets import DynUNet

    network = DynUNet(2, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], deep_supervision=True, deep_supr_num=1).train()
    output, target = network(torch.rand(2, 1, 16, 16)), cases.indices(2, 3, 16, 16)
    loss = SoftDiceLoss(**MULTI)
    expected = loss(output[:, 0], target) + 0.5 * loss(output[:, 1], target)
    torch.testing.assert_close(DeepSupervisedLoss(loss)(output, target), expected)


def test_a_target_for_each_output():
    """nnU-Net's habit: each in the size of its output."""
    loss, small = SoftDiceLoss(**MULTI), [label, label[..., 1::2, 1::2], label[..., 2::4, 1::3][..., :5]]
    expected = sum(w * loss(output, target) for w, output, target in zip([1, 0.5, 0.25], OUTPUTS, small, strict=True))
    for targets in (small, tuple(small), [{"label": target} for target in small]):
        torch.testing.assert_close(DeepSupervisedLoss(loss)(OUTPUTS, targets), expected)
    with pytest.raises(ValueError, match="there are 3 outputs but 2 targets; give one, or one for each"):
        DeepSupervisedLoss(loss)(OUTPUTS, small[:2])
    with pytest.raises(ValueError, match="there are 1 outputs but 3 targets"):
        DeepSupervisedLoss(loss)(x, small)
    with pytest.raises(ValueError, match="there are 3 outputs but 2 weights"):  # MONAI takes others without a word
        DeepSupervisedLoss(loss, weights=[1.0, 0.5])(OUTPUTS, label)


def test_double_precision_stays():
    outputs = [output.double() for output in OUTPUTS]
    value = DeepSupervisedLoss(SoftDiceLoss(**MULTI), weights=[1.0, 0.1, 0.1])(outputs, label)
    assert value.dtype == torch.float64
    assert DeepSupervisedLoss(SoftDiceLoss(**MULTI))([o.half() for o in OUTPUTS], label).dtype == torch.float32


def test_it_has_a_gradient_and_no_input_is_an_error():
    outputs = [output.clone().requires_grad_() for output in OUTPUTS]
    DeepSupervisedLoss(SoftDiceLoss(**MULTI))(outputs, {"label": label}).backward()
    assert all(output.grad.any() for output in outputs)
    with pytest.raises(ValueError, match="input shouldn't be None"):
        DeepSupervisedLoss(SoftDiceLoss(**MULTI))(None, {"label": label})
