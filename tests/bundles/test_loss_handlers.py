"""Schedules of a compound loss's weights, and the log of its parts."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.handlers import MLFlowHandler, TensorBoardStatsHandler

from monai_lossext.handlers import LossParts, TermSchedule
from monai_lossext.losses import (
    BoundaryDistanceLoss,
    CompoundLoss,
    DeepSupervisedLoss,
    DiceCrossEntropyLoss,
    SoftDiceLoss,
)


@pytest.fixture
def loss() -> CompoundLoss:
    return CompoundLoss({"dice": SoftDiceLoss(sigmoid=True), "boundary": BoundaryDistanceLoss(sigmoid=True)})


def trainer(loss: torch.nn.Module, handlers: list, epochs: int = 3, network=None) -> SupervisedTrainer:
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1) if network is None else network
    image = torch.randn(4, 1, 8, 8)
    data = [{"image": image[i : i + 2], "label": (image[i : i + 2] > 0).float()} for i in (0, 2)]
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1),
        loss_function=loss,
        train_handlers=handlers,
    )


def test_add_raises_one_weight_each_epoch(loss):
    schedule = TermSchedule(loss, "boundary", step=0.25)
    assert [schedule.weights(epoch) for epoch in (1, 2, 10)] == [{"boundary": w} for w in (0.25, 0.5, 2.5)]
    trainer(loss, [schedule]).run()
    assert loss.weights == {"dice": 1.0, "boundary": 0.75}


def test_steal_moves_weight_down_to_the_floor(loss):
    schedule = TermSchedule(loss, "boundary", mode="steal", step=0.25, floor=0.1)
    assert schedule.weights(1) == {"dice": 1.0, "boundary": 0.0}
    assert schedule.weights(3) == {"dice": 0.5, "boundary": 0.5}
    assert schedule.weights(9) == {"dice": 0.1, "boundary": 0.9}


def test_a_continued_run_has_the_weights_of_its_epoch(loss):
    engine = trainer(loss, [TermSchedule(loss, "boundary", step=0.125)], epochs=5)
    engine.load_state_dict({"epoch": 4, "max_epochs": 5, "epoch_length": 2})
    engine.run()
    assert loss.weights["boundary"] == 0.625


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"term": "bound"}, "term must be one of 'dice', 'boundary', got 'bound'"),
        ({"mode": "swap"}, "mode must be 'add' or 'steal', got 'swap'"),
        ({"step": 0.0}, "step must be above 0"),
        ({"floor": 2.0}, r"floor in \[0, 1\]"),
    ],
)
def test_wrong_schedules(loss, options, message):
    with pytest.raises(ValueError, match=message):
        TermSchedule(loss, **{"term": "boundary", **options})


def test_parts_are_the_means_over_the_batches(loss):
    loss.set_weight("boundary", 0.5)
    engine, seen = trainer(loss, [LossParts(loss)], epochs=2), []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output[0]["loss"]))
    engine.run()
    parts = engine.state.metrics
    assert parts["weight_boundary"] == 0.5
    assert parts["loss_dice"] + 0.5 * parts["loss_boundary"] == pytest.approx(sum(seen[2:]) / 2, rel=1e-5)
    assert not loss.watchers


def test_parts_of_terms_that_share_a_walk():
    loss = DiceCrossEntropyLoss(sigmoid=True)
    assert len(loss.walks()) == 1
    engine, seen = trainer(loss, [LossParts(loss)], epochs=2), []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output[0]["loss"]))
    engine.run()
    parts = engine.state.metrics
    assert parts["loss_dice"] + parts["loss_cross_entropy"] == pytest.approx(sum(seen[2:]) / 2, rel=1e-5)


class Heads(torch.nn.Module):
    """Two outputs, the second of half the size; or stacked ones."""

    def __init__(self, stacked: bool) -> None:
        super().__init__()
        self.heads = torch.nn.ModuleList([torch.nn.Conv2d(1, 1, 3, padding=1) for _ in range(2)])
        self.stacked = stacked

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        large, small = (head(x) for head in self.heads)
        return torch.stack([large, small], 1) if self.stacked else [large, small[..., ::2, ::2]]


@pytest.mark.parametrize("stacked", [False, True])
def test_parts_under_deep_supervision_add_up_to_the_loss(loss, stacked):
    loss.set_weight("boundary", 0.5)
    deep = DeepSupervisedLoss(loss, weights=[1.0, 0.25])
    engine, seen = trainer(deep, [LossParts(deep)], epochs=2, network=Heads(stacked)), []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output[0]["loss"]))
    engine.run()
    parts = engine.state.metrics
    assert parts["loss_dice"] + 0.5 * parts["loss_boundary"] == pytest.approx(sum(seen[2:]) / 2, rel=1e-5)
    assert not deep._forward_pre_hooks


def test_parts_are_logged_by_handlers_that_were_attached_before(loss):
    def logged(engine):
        rows.append(dict(engine.state.metrics))

    class Log:
        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, logged)

    found = []
    for first in (True, False):
        rows: list[dict[str, float]] = []
        schedule = TermSchedule(loss, "boundary", step=0.25)
        trainer(loss, [LossParts(loss), schedule, Log()] if first else [Log(), schedule, LossParts(loss)]).run()
        found.append([{k: v for k, v in row.items() if k.startswith(("loss_", "weight_"))} for row in rows])
    assert found[0] == found[1]
    assert [row["weight_boundary"] for row in found[0]] == [0.25, 0.5, 0.75]


def test_parts_of_an_epoch_that_ends_early(loss):
    engine = trainer(loss, [LossParts(loss)], epochs=1)
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda e: e.terminate_epoch())
    engine.run()
    assert engine.state.metrics["loss_dice"] > 0.1  # of one batch, not of half a batch


def test_parts_of_what_has_none():
    for wrong in (SoftDiceLoss(), DeepSupervisedLoss(SoftDiceLoss())):
        with pytest.raises(TypeError, match="loss must be a CompoundLoss, or a DeepSupervisedLoss of one, got"):
            LossParts(wrong)


# MLflow's own tables use a loader strategy that SQLAlchemy has deprecated
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
def test_parts_reach_tensorboard_and_mlflow(loss, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    board = TensorBoardStatsHandler(log_dir=str(tmp_path / "board"), iteration_log=False)
    trainer(loss, [LossParts(loss), board]).run()
    board.close()
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert len(events.Scalars("loss_dice")) == len(events.Scalars("weight_boundary")) == 3
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = MLFlowHandler(tracking_uri=uri, iteration_log=False, close_on_complete=True)
    trainer(loss, [LossParts(loss), tracker]).run()
    (run,) = mlflow.MlflowClient(uri).search_runs(
        [e.experiment_id for e in mlflow.MlflowClient(uri).search_experiments()]
    )
    assert {"loss_dice", "loss_boundary", "weight_dice"} <= set(run.data.metrics)
