from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_lossext.data import DatalistError, binary_mask, skin_lesion_datalist
from tests.data.masks import lesion


def labels() -> np.ndarray:
    values = np.zeros((24, 32), np.uint8)
    values[:12, 16:], values[12:, :16], values[12:, 16:] = 1, 2, 3
    return values


def spoil(plain: Path) -> dict[str, str]:
    """Make one case bad in each way; the regular expression that the complaint must contain, by case."""
    images, masks = plain / "images", plain / "masks"
    (images / "case01.png").unlink()
    noise = np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images / "case01.jpg")
    whole = (images / "case01.jpg").read_bytes()
    (images / "case01.jpg").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(lesion(192, 256)).save(masks / "case01.png")
    Image.fromarray(lesion(32, 24)).save(masks / "case02.png")
    Image.fromarray(labels()).save(masks / "case03.png")
    (masks / "case04.png").unlink()
    (images / "case05.png").unlink()
    (images / "case06.png").write_bytes(b"")
    Image.fromarray(85 * labels()).save(masks / "case07.png")
    Image.fromarray(np.full((24, 32), 4000, np.uint16)).save(images / "case08.png")
    Image.fromarray(lesion() // 2 + 100).save(masks / "case09.png")
    # 0 = skin, 1 = lesion, 255 = undecided border: half of the maximum would turn the lesion into background
    undecided = lesion(value=1)
    undecided[3, 6:20] = 255
    Image.fromarray(undecided).save(masks / "case10.png")
    return {
        "case01": r"picture .*case01.jpg \(\d+ bytes\) cannot be read: .*truncated",
        "case02": r"mask .*another size than its picture \(picture 32 x 24, mask 24 x 32, width x height\)",
        "case03": r"mask .*not binary: it has 4 values \(0, 1, 2, 3\); expected 0 and 1, or 0 and 255",
        "case04": r"mask .*masks.case04.png is missing",
        "case05": r"picture .*images.case05.png is missing",
        "case06": r"picture .*case06.png \(0 bytes\) cannot be read",
        "case07": r"mask .*not binary: it has 4 values \(0, 85, 170, 255\)",
        "case08": r"picture .*I;16 pixels; expected 8 bits per channel",
        "case09": r"mask .*not binary: it has 2 values \(100, 227\)",
        "case10": r"mask .*not binary: it has 3 values \(0, 1, 255\)",
    }


def test_every_bad_file_is_named_at_once(plain: Path) -> None:
    expected = spoil(plain)
    with pytest.raises(DatalistError, match="10 of 20 cases cannot be used") as caught:
        skin_lesion_datalist(plain)
    lines = str(caught.value).splitlines()
    assert "skip_bad=True" in lines[-1]
    for case, pattern in expected.items():
        (line,) = [line for line in lines if line.startswith(f"  {case}: ")]
        assert re.search(pattern, line)


def test_skip_bad_goes_on_with_the_good_ones(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = spoil(plain)
    with caplog.at_level(logging.WARNING):
        datalist = skin_lesion_datalist(plain, skip_bad=True, fractions=(1, 0, 0))
    kept = {item["case"] for items in datalist.values() for item in items}
    assert kept == {f"case{number:02d}" for number in range(20)} - bad.keys()
    for case in bad:
        assert case in caplog.text


def test_nothing_left_is_an_error_even_with_skip_bad(plain: Path) -> None:
    for path in (plain / "masks").iterdir():
        path.unlink()
    with pytest.raises(DatalistError, match=r"none of the 12 training cases can be used; the first: mask .*is missing"):
        skin_lesion_datalist(plain, skip_bad=True)


def soft_border() -> np.ndarray:
    """A disc drawn four times larger and reduced, as an image editor does."""
    y, x = np.mgrid[:96, :128]
    disc = np.hypot(y - 40, x - 60) < 30
    return np.asarray(Image.fromarray(np.where(disc, 255, 0).astype(np.uint8)).reduce(4))


@pytest.mark.parametrize(
    ("name", "mask", "foreground"),
    [
        ("a.png", lesion(), 98),
        ("a.png", lesion(value=1), 98),
        ("a.png", lesion() > 0, 98),  # one bit per pixel
        ("a.bmp", lesion() > 0, 98),
        ("a.tif", lesion().astype(np.uint16) * 257, 98),
        ("a.png", lesion()[..., None].repeat(3, axis=2), 98),
        ("a.png", np.dstack([lesion()] * 3 + [np.full_like(lesion(), 255)]), 98),
        ("a.png", lesion(value=0), 0),
        ("a.png", np.full((24, 32), 255, np.uint8), 24 * 32),
        ("a.png", np.full((24, 32), 1, np.uint8), 24 * 32),
        ("a.png", soft_border(), int((soft_border() > 127).sum())),
    ],
    ids=["0/255", "0/1", "1 bit", "1 bit bmp", "16 bit", "rgb", "rgba", "empty", "full", "full 0/1", "soft"],
)
def test_masks_that_are_read_alike(tmp_path: Path, write_pair, name: str, mask: np.ndarray, foreground: int) -> None:
    write_pair(tmp_path / "images" / "a.png", tmp_path / "masks" / name, mask)
    datalist = skin_lesion_datalist(tmp_path, fractions=(1, 0, 0))
    with Image.open(datalist["training"][0]["label"]) as picture:
        values = np.asarray(binary_mask(picture))
    assert set(np.unique(values)) <= {0, 1}
    assert values.sum() == foreground


def test_palette_mask_is_read_as_seen(plain: Path) -> None:
    palette = Image.fromarray(lesion(value=1))
    palette.putpalette([0, 0, 0, 128, 0, 0])  # black and dark red, as the Pascal VOC tools write
    assert palette.mode == "P"
    palette.save(plain / "masks" / "case00.png")
    skin_lesion_datalist(plain)
    with Image.open(plain / "masks" / "case00.png") as picture:
        np.testing.assert_array_equal(binary_mask(picture), lesion(value=1))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_pictures_of_other_modes_pass(plain: Path, mode: str) -> None:
    suffix = ".tif" if mode == "CMYK" else ".png"
    path = plain / "images" / "case00.png"
    with Image.open(path) as picture:
        other = picture.convert("L").convert(mode) if mode == "LA" else picture.convert(mode)
    path.unlink()
    other.save(path.with_suffix(suffix))
    assert sum(map(len, skin_lesion_datalist(plain).values())) == 20


def test_notice_counts_soft_empty_and_full_masks(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    for case, mask in {
        3: soft_border(),
        4: soft_border(),
        5: lesion(value=0),
        6: np.full((24, 32), 255, np.uint8),
    }.items():
        Image.fromarray(mask).save(plain / "masks" / f"case{case:02d}.png")
    with caplog.at_level(logging.WARNING):
        skin_lesion_datalist(plain)
    assert "2 of 20 masks have a soft (anti-aliased) border" in caplog.text
    assert "1 of 20 masks show no lesion" in caplog.text
    assert "1 of 20 masks show no background" in caplog.text


def test_jpeg_mask_is_a_soft_one(tmp_path: Path, write_pair, caplog: pytest.LogCaptureFixture) -> None:
    y, x = np.mgrid[:96, :128]
    disc = np.where(np.hypot(y - 40, x - 60) < 30, 255, 0).astype(np.uint8)
    write_pair(tmp_path / "images" / "a.png", tmp_path / "masks" / "a.jpg", disc)
    Image.new("RGB", (128, 96)).save(tmp_path / "images" / "a.png")
    with Image.open(tmp_path / "masks" / "a.jpg") as picture:
        assert len(np.unique(np.asarray(picture))) > 2  # else this test would show nothing
    with caplog.at_level(logging.WARNING):
        skin_lesion_datalist(tmp_path, fractions=(1, 0, 0))
    assert "1 of 1 masks have a soft" in caplog.text


def test_labels_beside_an_edge_are_no_soft_border(plain: Path) -> None:
    values = lesion(value=3)
    values[3, 6:20] = 1
    Image.fromarray(values).save(plain / "masks" / "case00.png")
    with pytest.raises(DatalistError, match=r"not binary: it has 3 values \(0, 1, 3\)"):
        skin_lesion_datalist(plain)


def test_border_of_an_enlarged_mask_may_be_wider(tmp_path: Path, write_pair) -> None:
    disc = Image.fromarray(soft_border()).resize((1200, 900), Image.Resampling.NEAREST)
    smooth = np.asarray(disc.resize((400, 300)).resize((1200, 900), Image.Resampling.BILINEAR))
    write_pair(tmp_path / "images" / "a.png", tmp_path / "masks" / "a.png", smooth)
    Image.new("RGB", (1200, 900)).save(tmp_path / "images" / "a.png")
    with pytest.raises(DatalistError, match="not binary"):  # its grey squares are 38 pixels wide
        skin_lesion_datalist(tmp_path, fractions=(1, 0, 0))
    binary = Image.fromarray(np.where(np.asarray(disc) > 127, 255, 0).astype(np.uint8))
    enlarged = binary.resize((400, 300)).resize((1200, 900), Image.Resampling.BILINEAR)
    enlarged.save(tmp_path / "masks" / "a.png")
    assert len(skin_lesion_datalist(tmp_path, fractions=(1, 0, 0))["training"]) == 1


def test_blurred_mask_is_not_binary(plain: Path) -> None:
    ramp = np.linspace(0, 255, 32).astype(np.uint8)[None].repeat(24, axis=0)
    Image.fromarray(ramp).save(plain / "masks" / "case00.png")
    with pytest.raises(
        DatalistError, match=r"case00.png is not binary: it has 32 values \(0, 8, 16, 24, 32, 41, \.\.\.\)"
    ):
        skin_lesion_datalist(plain)


def test_progress_bar_on_demand_only(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skin_lesion_datalist(plain)
    assert capsys.readouterr().err == ""  # not a terminal
    skin_lesion_datalist(plain, progress=True)
    assert "checking pictures: 100%" in capsys.readouterr().err


def with_palette(indices: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    picture = Image.fromarray(indices)
    picture.putpalette([channel for colour in colours for channel in colour])
    return picture


def two_areas() -> np.ndarray:
    values = lesion(value=1)
    values[8:11, 10:20] = 2
    return values


@pytest.mark.parametrize(
    "colours", [[(128, 0, 0), (0, 128, 0)], [(255, 0, 0), (255, 255, 0)], [(0, 0, 255), (255, 0, 0)]]
)
def test_palettes_of_several_classes_are_no_soft_borders(plain: Path, colours: list[tuple[int, int, int]]) -> None:
    """Their brightness has nothing to say: a dark class around a bright one looks like a border."""
    with_palette(two_areas(), (0, 0, 0), *colours).save(plain / "masks" / "case00.png")
    with pytest.raises(DatalistError, match=r"case00.png is not binary: it has 3 values \(0, 1, 2\)"):
        skin_lesion_datalist(plain)


def test_colours_that_are_equally_bright_are_told_apart(plain: Path) -> None:
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 130, 0]], np.uint8)
    assert len(np.unique(np.asarray(Image.fromarray(colours[None]).convert("L")))) == 2
    Image.fromarray(colours[two_areas()]).save(plain / "masks" / "case00.png")
    with pytest.raises(DatalistError, match=r"case00.png is not binary: it has 3 values \(0, 1, 2\)"):
        skin_lesion_datalist(plain)


def test_a_palette_whose_indices_and_brightness_disagree_is_refused(plain: Path) -> None:
    path = plain / "masks" / "case00.png"
    with_palette(lesion(value=1), (255, 0, 0), (0, 0, 0)).save(path)
    with pytest.raises(
        DatalistError, match=r"case00.png .*: index 0 of its palette is the brighter one, \(255, 0, 0\)"
    ):
        skin_lesion_datalist(plain)
    with_palette(1 - lesion(value=1), (255, 255, 255), (0, 0, 0)).save(path)  # black and white, as one sees it
    assert sum(map(len, skin_lesion_datalist(plain).values())) == 20
    with Image.open(path) as picture:
        np.testing.assert_array_equal(binary_mask(picture), lesion(value=1))


def test_masks_of_floating_numbers(plain: Path) -> None:
    (plain / "masks" / "case00.png").unlink()
    path = plain / "masks" / "case00.tif"
    Image.fromarray(lesion(value=1) * np.float32(1.0000001)).save(path)
    assert sum(map(len, skin_lesion_datalist(plain).values())) == 20
    Image.fromarray(np.where(lesion(), np.float32(np.nan), 0).astype(np.float32)).save(path)
    with pytest.raises(DatalistError, match=r"case00.tif .*: it has pixels that are not finite"):
        skin_lesion_datalist(plain)
