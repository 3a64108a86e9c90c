"""inference.yaml: pictures of any size and kind in, masks of their own size out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from .conftest import run_or_raise_the_cause

Infer = Callable[..., None]


@pytest.fixture
def infer(bundle: Path, trained: Path, tmp_path: Path) -> Infer:
    def run(**overrides: Any) -> None:
        values = {
            "bundle_root": str(bundle),
            "input_dir": str(tmp_path / "pictures"),
            "output_dir": str(tmp_path / "masks"),
            "checkpoint": str(trained / "models" / "best.pt"),
        }
        config = str(bundle / "configs" / "inference.yaml")
        workflow = ConfigWorkflow(config, workflow_type="infer", logging_file=False, **values | overrides)
        workflow.initialize()
        run_or_raise_the_cause(workflow)

    (tmp_path / "pictures").mkdir()
    return run


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(height).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(values if mode == "RGBA" else values[..., :3]).convert(mode)


def test_odd_sizes_and_modes(infer: Infer, tmp_path: Path) -> None:
    sizes = {"a.png": (31, 47, "RGBA"), "b.bmp": (97, 301, "L"), "c.JPG": (300, 200, "RGB"), "d.png": (64, 64, "P")}
    for name, (height, width, mode) in sizes.items():
        picture(height, width, mode).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "notes.csv").write_text("not a picture")
    picture(10, 10).save(tmp_path / "pictures" / "a_superpixels.png")
    infer()
    assert sorted(file.name for file in (tmp_path / "masks").iterdir()) == ["a.png", "b.png", "c.png", "d.png"]
    for name, (height, width, _) in sizes.items():
        mask = Image.open((tmp_path / "masks" / name).with_suffix(".png"))
        assert mask.mode == "L"
        assert mask.size == (width, height)
        assert set(np.unique(np.asarray(mask))) <= {0, 255}


def test_the_mask_lies_where_the_lesion_is(infer: Infer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that calls dark pixels lesion gives the dark spot back, upright and in its place."""
    network = "$torch.nn.Conv2d(3, 1, 1)"
    weights = tmp_path / "dark.pt"
    torch.save({"weight": torch.full((1, 3, 1, 1), -10.0), "bias": torch.tensor([15.0])}, weights)
    spot = np.full((150, 400, 3), 255, dtype=np.uint8)
    spot[20:60, 250:390] = 0
    Image.fromarray(spot).save(tmp_path / "pictures" / "spot.png")
    infer(network_def=network, checkpoint=str(weights))
    mask = np.asarray(Image.open(tmp_path / "masks" / "spot.png")) > 0
    truth = spot[..., 0] == 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_input_errors(infer: Infer, tmp_path: Path, extension: str) -> None:
    pictures = tmp_path / "pictures"
    with pytest.raises(ValueError, match=r"input_dir: there is no picture \(.*\.jpg, .*\) in .*pictures"):
        infer()
    with pytest.raises(ValueError, match=r"input_dir: .*nowhere"):
        infer(input_dir=str(tmp_path / "nowhere"))
    picture(20, 20).save(pictures / f"a.{extension}")
    with pytest.raises(ValueError, match=r"checkpoint: there is no file .*absent\.pt"):
        infer(checkpoint=str(tmp_path / "absent.pt"))
    with pytest.raises(ValueError, match="output_dir: name another folder"):
        infer(output_dir=str(pictures))
    picture(20, 20).save(pictures / "a.bmp")
    with pytest.raises(
        ValueError, match=r"several pictures for one mask; keep one of each:\n  a\.png: .*a\.bmp and .*"
    ):
        infer()
    assert not (tmp_path / "masks").exists()
