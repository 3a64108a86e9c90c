"""What weights say about the preparation of images, whatever saved or loads them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from ignite.handlers import Checkpoint
from monai.networks.utils import copy_model_state

from monai_lossext.scripts.weights import check_preparation, preparation, preparation_of, read_weights, with_preparation


def network(act: type[torch.nn.Module] = torch.nn.ReLU) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), act(), torch.nn.Dropout(0.2))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = network()
    described = preparation(model, spacing=(3.0, 3.0, 3.0), window=[0, 255])
    torch.save(with_preparation(model.state_dict(), described), tmp_path / "best.pt")
    return tmp_path / "best.pt"


def test_weights_are_what_everybody_can_load(saved: Path) -> None:
    weights = torch.load(saved, weights_only=True)
    assert list(weights) == ["0.weight", "0.bias"]
    for load in (
        lambda model: model.load_state_dict(weights),
        lambda model: Checkpoint.load_objects({"model": model}, weights),
        lambda model: copy_model_state(model, weights),
    ):
        other = network()
        load(other)
        assert torch.equal(other[0].weight, weights["0.weight"])


def test_the_same_preparation_is_accepted(saved: Path) -> None:
    check_preparation(saved, preparation(network(), spacing=[3, 3, 3], window=(0.0, 255.0)))
    without_dropout = torch.nn.Sequential(*network()[:2])
    check_preparation(saved, preparation(without_dropout, spacing=[3, 3, 3], window=[0, 255]))


@pytest.mark.parametrize(
    ("values", "act", "complaint"),
    [
        ({"spacing": (2, 2, 2)}, torch.nn.ReLU, r"spacing was \[3.0, 3.0, 3.0\] in training and is \[2, 2, 2\] here"),
        ({"window": (0, 1)}, torch.nn.ReLU, r"window was \[0, 255\] in training and is \[0, 1\] here"),
        ({}, torch.nn.LeakyReLU, r"layers was .*'ReLU': 1.* in training and is .*'LeakyReLU': 1"),
    ],
)
def test_another_one_is_refused(saved: Path, values: dict, act: type[torch.nn.Module], complaint: str) -> None:
    described = preparation(network(act), **{"spacing": (3, 3, 3), "window": (0, 255)} | values)
    with pytest.raises(ValueError, match=f"checkpoint: .*best.pt was trained otherwise: {complaint}"):
        check_preparation(saved, described)


def test_weights_that_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "plain.pt")
    with caplog.at_level(logging.WARNING):
        check_preparation(tmp_path / "plain.pt", {"spacing": [2, 2, 2]})
    assert "plain.pt does not say how images were prepared in training" in caplog.text


@pytest.mark.parametrize("key", ["model", "network"])
def test_the_network_out_of_a_whole_state(tmp_path: Path, saved: Path, key: str) -> None:
    """The latter is the key of files from before version 0.1."""
    torch.save({key: torch.load(saved, weights_only=True), "epoch": 3}, tmp_path / "last.pt")
    assert list(read_weights(tmp_path / "last.pt")) == ["0.weight", "0.bias"]
    assert preparation_of(read_weights(tmp_path / "last.pt"))["window"] == [0, 255]


@pytest.mark.parametrize("content", [b"epoch,loss\n1,2\n", b"", b"not a zip file"])
def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "history.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"^checkpoint: .*history.csv cannot be read as weights: "):
        read_weights(tmp_path / "history.csv")
