"""What a trainer hands to a loss besides the label: the same training step with maps as without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, from_engine
from monai.inferers import SimpleInferer
from monai.transforms import AsDiscreted, Compose

from monai_lossext.engines import LossInputs
from monai_lossext.losses import (
    BoundaryDistanceLoss,
    CompoundLoss,
    DeepSupervisedLoss,
    DiceHausdorffLoss,
    DistanceMapCrossEntropyLoss,
    HausdorffDistanceLoss,
    SoftDiceLoss,
)
from monai_lossext.transforms import PenaltyDistanceMapd, SignedDistanceMapd

from ..losses import cases

MULTI = {"softmax": True, "to_onehot_y": True}
SPACING = (3.0, 0.5, 1.25)
MAPS = {"distance_map": "signed", "penalty_map": "penalty"}


def case(*spatial: int) -> dict[str, MetaTensor]:
    affine = torch.diag(torch.tensor([*SPACING[: len(spatial)], *[1.0] * (4 - len(spatial))], dtype=torch.float64))
    image, label = cases.blocks(1, 3, *spatial)
    data = {"image": MetaTensor(image[0].float(), affine=affine), "label": MetaTensor(label[0], affine=affine)}
    data = SignedDistanceMapd("label", "signed", num_classes=3)(data)
    return PenaltyDistanceMapd("label", "penalty", num_classes=3)(data)


class Levels(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        out = self.network(x)
        return [out, out[..., ::2, ::2]]


def trained(loss: torch.nn.Module, prepare_batch: Any, data: list[dict[str, MetaTensor]], levels: bool = False) -> Any:
    """Return the engine's state and the network's weights after two steps."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d if data[0]["image"].ndim == 3 else torch.nn.Conv3d
    network = convolution(3, 3, 3, padding=1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=Levels(network) if levels else network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=loss,
        prepare_batch=prepare_batch,
    )
    trainer.run()
    return trainer.state, torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.mark.parametrize("spatial", [(9, 14), (7, 6, 9)], ids=str)
@pytest.mark.parametrize(
    "loss",
    [
        BoundaryDistanceLoss,
        HausdorffDistanceLoss,
        DistanceMapCrossEntropyLoss,
        DiceHausdorffLoss,
        lambda **options: CompoundLoss(
            {
                "boundary": BoundaryDistanceLoss(**options),
                "cross_entropy": DistanceMapCrossEntropyLoss(**options),
                "dice": SoftDiceLoss(**MULTI),
            }
        ),
    ],
    ids=["boundary", "hausdorff", "cross_entropy", "dice_hausdorff", "compound"],
)
def test_a_training_step_with_maps_equals_one_that_computes_them(loss, spatial):
    data = [case(*spatial)] * 2
    loss = loss(**MULTI, spacing=SPACING[: len(spatial)])
    state, weights = trained(loss, LossInputs(**MAPS), data)
    expected_state, expected = trained(loss, LossInputs(), data)
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-7)
    assert state.output[0]["loss"] == pytest.approx(expected_state.output[0]["loss"], rel=1e-5)
    assert set(state.output[0]["label"]) == {"label", *MAPS}


def test_deep_supervision_with_maps():
    data = [case(8, 14)] * 2
    terms = {"boundary": BoundaryDistanceLoss(**MULTI), "cross_entropy": DistanceMapCrossEntropyLoss(**MULTI)}
    loss = DeepSupervisedLoss(CompoundLoss(terms), weight_mode="two")
    first, _ = trained(loss, LossInputs(**MAPS), data, levels=True)
    assert torch.isfinite(torch.as_tensor(first.output[0]["loss"]))


def evaluated(prepare_batch: Any) -> float:
    data = [case(9, 14)] * 2
    discrete = Compose([AsDiscreted("pred", argmax=True, to_onehot=3), AsDiscreted("label", to_onehot=3)])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(data), batch_size=2),
        network=torch.nn.Identity(),
        inferer=SimpleInferer(),
        postprocessing=discrete,
        key_val_metric={"dice": MeanDice(output_transform=from_engine(["pred", "label"]))},
        **prepare_batch,
    )
    evaluator.run()
    return evaluator.state.metrics["dice"]


def test_an_evaluator_with_mean_dice_takes_the_default_or_the_label_alone():
    assert evaluated({"prepare_batch": LossInputs()}) == evaluated({})


def test_the_mapping_holds_what_was_asked_for():
    batch = {"image": torch.rand(2, 1, 4, 4), "organ": torch.ones(2, 1, 4, 4), "seen": torch.ones(2, 1, 4, 4).bool()}
    batch["annotated"] = torch.tensor([[True, False], [True, True]])
    image, target = LossInputs(label="organ", mask="seen", classes="annotated")(batch, "cpu", non_blocking=True)
    assert image.equal(batch["image"])
    assert {name: x.dtype for name, x in target.items()} == {
        "label": torch.float32,
        "mask": torch.bool,
        "classes": torch.bool,
    }
    image, label = LossInputs(label="organ")(batch, "meta", dtype=torch.float64)
    assert image.dtype == torch.float64
    assert label.device.type == "meta"
    assert label.dtype == torch.float32


def test_a_missing_key_is_named():
    batch = {"image": torch.rand(2, 1, 4, 4), "label": torch.ones(2, 1, 4, 4)}
    with pytest.raises(KeyError, match="the batch has no 'signed', only 'image', 'label'"):
        LossInputs(distance_map="signed")(batch)


def test_in_a_config():
    parser = ConfigParser({"inputs": {"_target_": "monai_lossext.engines.LossInputs", "distance_map": "signed"}})
    inputs = parser.get_parsed_content("inputs")
    assert inputs.keys == {"label": "label", "distance_map": "signed"}
