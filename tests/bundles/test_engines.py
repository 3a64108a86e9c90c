"""Augmented batches, and the checks before a run."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from monai_lossext.engines import (
    AugmentedBatch,
    MixedPrecisionInferer,
    cases_of,
    compiled,
    end_with_cause,
    is_true,
    load_initial_weights,
    prepare_run,
)

from .running import needs_compiler


def batch(count: int = 16, height: int = 32, width: int = 48) -> dict[str, torch.Tensor]:
    image = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))
    return {"image": image, "label": (image[:, :1] > 0.5).float()}


def disc(height: int, width: int, radius: float, row: float | None = None, column: float | None = None) -> torch.Tensor:
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    row, column = (height - 1) / 2 if row is None else row, (width - 1) / 2 if column is None else column
    return (((rows - row) ** 2 + (columns - column) ** 2) <= radius**2).float()


def test_without_augmentation_the_batch_stays() -> None:
    data = batch()
    image, label = AugmentedBatch(flip_prob=0)(data)
    torch.testing.assert_close(image, data["image"], rtol=0, atol=1e-4)
    assert torch.equal(label, data["label"])


def test_a_certain_flip_turns_both_axes() -> None:
    data = batch()
    image, label = AugmentedBatch(flip_prob=1)(data)
    torch.testing.assert_close(image, data["image"].flip(2, 3), rtol=0, atol=1e-4)
    assert torch.equal(label, data["label"].flip(2, 3))


def test_every_picture_is_flipped_by_itself() -> None:
    torch.manual_seed(0)
    data = batch(64)
    label = AugmentedBatch(flip_prob=0.5)(data)[1]
    flips = ((), (2,), (3,), (2, 3))
    matches = torch.stack([(label == data["label"].flip(flip)).flatten(1).all(1) for flip in flips])
    assert matches.sum(0).eq(1).all()
    assert (matches.sum(1) > 4).all(), "each of the four flips is expected about 16 times"


def test_rotation_keeps_shapes_and_centre() -> None:
    """A disc in the middle stays where it is, whatever the angle, also in a picture that is not square."""
    torch.manual_seed(0)
    middle = disc(48, 80, 18).expand(32, 1, 48, 80)
    label = AugmentedBatch(flip_prob=0, rotate_degrees=180, padding_mode="zeros")({"image": middle, "label": middle})[1]
    wrong = (label != middle).flatten(1).float().mean(1)
    assert wrong.max() < 0.02


def test_angles_fill_their_range() -> None:
    torch.manual_seed(0)
    radius = 20
    aside = disc(65, 65, 3, row=32, column=32 + radius).expand(400, 1, 65, 65)
    augment = AugmentedBatch(flip_prob=0, rotate_degrees=45, padding_mode="zeros")  # a mirrored disc would count too
    label = augment({"image": aside, "label": aside})[1][:, 0]
    area = label.sum((1, 2))
    rows = (label * torch.arange(65.0)[:, None]).sum((1, 2)) / area - 32
    columns = (label * torch.arange(65.0)).sum((1, 2)) / area - 32
    torch.testing.assert_close(rows.hypot(columns), torch.full((400,), float(radius)), rtol=0, atol=0.5)
    degrees = torch.rad2deg(torch.atan2(rows, columns))
    assert degrees.abs().max() < 46
    assert degrees.max() > 40
    assert degrees.min() < -40
    assert degrees.mean().abs() < 4


def test_zoom_changes_the_area() -> None:
    torch.manual_seed(0)
    middle = disc(65, 65, 15).expand(200, 1, 65, 65)
    label = AugmentedBatch(flip_prob=0, zoom=0.2)({"image": middle, "label": middle})[1]
    radius = (label.sum((1, 2, 3)) / middle[0].sum()).sqrt()
    assert 0.78 < radius.min() < 0.84
    assert 1.16 < radius.max() < 1.22


def test_colour_leaves_shape_and_mask() -> None:
    torch.manual_seed(0)
    data = batch()
    for augment in (AugmentedBatch(flip_prob=0, brightness=0.3), AugmentedBatch(flip_prob=0, contrast=0.3)):
        image, label = augment(data)
        assert torch.equal(label, data["label"])
        moved, spread = image - data["image"], image.flatten(1).std(1) / data["image"].flatten(1).std(1)
        if augment.brightness:
            torch.testing.assert_close(moved, moved.mean((1, 2, 3), keepdim=True).expand_as(moved), rtol=0, atol=1e-4)
            assert 0.1 < moved.mean((1, 2, 3)).abs().max() <= 0.3
            torch.testing.assert_close(spread, torch.ones(16), rtol=0, atol=1e-3)
        else:
            torch.testing.assert_close(image.mean((1, 2, 3)), data["image"].mean((1, 2, 3)), rtol=0, atol=1e-4)
            assert 0.1 < (spread - 1).abs().max() <= 0.301


def test_mask_follows_the_picture() -> None:
    torch.manual_seed(0)
    spots = torch.nn.functional.interpolate(torch.rand(8, 1, 6, 6), size=64, mode="bilinear")
    everything = AugmentedBatch(0.5, 45, 0.2)
    image, label = everything({"image": spots, "label": (spots > 0.5).float()})
    assert ((image > 0.5) != label.bool()).float().mean() < 0.03


def test_same_seed_same_batch() -> None:
    augment = AugmentedBatch(0.5, 45, 0.1, 0.1, 0.1)
    results = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        results.append(augment(batch())[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    ("name", "value"), [("flip_prob", 1.5), ("rotate_degrees", -1), ("zoom", 1), ("brightness", -0.1), ("contrast", -1)]
)
def test_values_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be between 0 and .*, got {value}"):
        AugmentedBatch(**{name: value})


def test_mixed_precision_computes_in_bfloat16_and_returns_float32() -> None:
    seen = []

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 1, 3)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            y = self.layer(x)
            seen.append(y.dtype)
            return [y, y[..., ::2, ::2]]

    network, image = Network(), torch.rand(2, 3, 8, 8)
    whole = MixedPrecisionInferer()(image, network)
    half = MixedPrecisionInferer("bfloat16")(image, network)
    assert seen == [torch.float32, torch.bfloat16]
    for exact, rounded in zip(whole, half, strict=True):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded, exact, rtol=2e-2, atol=2e-2)
    half[0].sum().backward()
    assert network.layer.weight.grad is not None
    assert network.layer.weight.grad.dtype == torch.float32


def test_mixed_precision_names_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="precision must be float32 or bfloat16, got 'float16'"):
        MixedPrecisionInferer("float16")


def test_is_true_names_the_argument() -> None:
    assert [is_true("resume", value) for value in (True, "True", "false", False)] == [True, True, False, False]
    with pytest.raises(ValueError, match="resume: expected true or false, got 'yes'"):
        is_true("resume", "yes")


def test_cases_of_names_what_there_is() -> None:
    datalist = {"training": [{"case": "a"}, {"case": "b"}], "validation": [], "testing": []}
    for section in ("validation", "test"):
        with pytest.raises(ValueError, match=rf"no section '{section}' with cases; it has training \(2 cases\)"):
            cases_of(datalist, section)


@pytest.mark.parametrize(
    ("saved", "complaint"),
    [
        (torch.nn.Linear(2, 3), r"weight is \(3, 2\) in the file and \(1, 2\) in the network, bias is"),
        (torch.nn.Linear(2, 1, bias=False), "of another network: bias is missing$"),
        (
            torch.nn.Sequential(torch.nn.Linear(2, 1)),
            "bias is missing, 0.weight is unknown and 1 more",
        ),
        ({"weights": {}, "epoch": 3}, "holds more than weights; expected a file like models/best.pt"),
        ([torch.ones(1)], "holds no weights, but list"),
        (Path("x"), "cannot be read as weights: Weights only load failed"),
        (None, "there is no file"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, saved: object, complaint: str) -> None:
    network, file = torch.nn.Linear(2, 1), tmp_path / "best.pt"
    before = network.weight.clone()
    if saved is not None:
        torch.save(saved.state_dict() if isinstance(saved, torch.nn.Module) else saved, file)
    with pytest.raises(ValueError, match=f"initial_weights: .*{complaint}"):
        load_initial_weights(network, file)
    assert torch.equal(network.weight, before)


def test_a_broken_file_of_weights(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"not a zip file")
    with pytest.raises(ValueError, match=r"initial_weights: .*best.pt cannot be read as weights"):
        load_initial_weights(torch.nn.Linear(2, 1), tmp_path / "best.pt")


def test_weights_are_loaded(tmp_path: Path) -> None:
    network, other = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    torch.save(other.state_dict(), tmp_path / "best.pt")
    load_initial_weights(network, None)
    assert not torch.equal(network.weight, other.weight)
    load_initial_weights(network, tmp_path / "best.pt")
    assert torch.equal(network.weight, other.weight)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    prepare_run(tmp_path / "new" / "run")
    prepare_run(tmp_path / "new" / "run")  # nothing was computed in it
    (tmp_path / "new" / "run" / "models").mkdir()
    (tmp_path / "new" / "run" / "models" / "last.pt").touch()
    prepare_run(tmp_path / "new" / "run", resume=True)
    with pytest.raises(ValueError, match=r"output_dir: .*run holds a run already; continue it with --resume true"):
        prepare_run(tmp_path / "new" / "run")


def test_unwritable_output_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"output_dir: cannot write to .*file/run: Not a directory"):
        prepare_run(tmp_path / "file" / "run")


def test_the_log_moves_with_the_run(tmp_path: Path) -> None:
    logger = logging.getLogger("tests.run")
    for name in ("first", "second"):
        prepare_run(tmp_path / name)
        logger.warning("this is %s", name)
    assert (tmp_path / "first" / "train.log").read_text().endswith("WARNING this is first\n")
    assert "first" not in (tmp_path / "second" / "train.log").read_text()


def test_other_ranks_do_not_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    prepare_run(tmp_path)
    logging.getLogger("tests.run").warning("unheard")
    assert not (tmp_path / "train.log").exists()


def test_an_error_ends_with_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    end_with_cause()
    try:
        try:
            try:
                int("x")
            except ValueError as error:
                raise OSError("cannot read the number") from error
        except OSError as error:
            raise RuntimeError("Failed to instantiate component") from error
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert printed.splitlines()[-1] == "OSError: cannot read the number"
    assert "RuntimeError: Failed to instantiate component" in printed


@needs_compiler
def test_compiling_changes_neither_keys_nor_results() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU())
    keys, image = list(network.state_dict()), torch.rand(2, 1, 8, 8)
    plain = network(image)
    assert compiled(network) is network
    assert list(network.state_dict()) == keys
    torch.testing.assert_close(network(image), plain)


def test_a_machine_that_cannot_compile_is_found_before_training(monkeypatch) -> None:
    def no_compiler(function: object) -> None:
        raise RuntimeError("no C++ compiler\nmore lines")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(ValueError, match=r"^compile: torch cannot compile here: no C\+\+ compiler$"):
        compiled(torch.nn.Linear(2, 1))
    assert compiled(torch.nn.Linear(2, 1), enabled=False)
