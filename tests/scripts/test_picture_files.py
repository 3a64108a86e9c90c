"""Pictures are read as they are stored, and what does not say how bright its white is, is not read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_lossext.data import DatalistError, binary_mask, skin_lesion_datalist
from monai_lossext.scripts.transforms import LoadPictured
from tests.data.masks import lesion

PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def load(path: Path) -> Any:
    return LoadPictured("image")({"image": str(path)})["image"]


def complaint(path: Path) -> str:
    """What loading says, without the name of the file, which it must begin with."""
    with pytest.raises(ValueError, match="cannot be used: ") as caught:
        load(path)
    assert str(caught.value).startswith(f"{path} cannot be used: ")
    return str(caught.value).removeprefix(f"{path} cannot be used: ")


def deep_png(path: Path, colour_type: int, channels: int) -> None:
    """A PNG of 16 bits per channel, of which Pillow writes grey ones only."""
    values = np.random.default_rng(0).integers(0, 1 << 16, (24, 32, channels)).astype(">u2")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + line.tobytes() for line in values)
    header = struct.pack(">IIBBBBB", 32, 24, 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def deep_tiff(path: Path, bits: int) -> None:
    """An uncompressed grey TIFF of so many bits per pixel."""
    values = (np.arange(24 * 32) % (1 << bits)).astype(np.uint16)
    if bits == 12:  # two pixels in three bytes
        pairs = values.reshape(-1, 2).astype(np.uint32)
        packed = (pairs[:, 0] << 12) | pairs[:, 1]
        data = np.stack([packed >> 16, (packed >> 8) & 255, packed & 255], axis=1).astype(np.uint8).tobytes()
    else:
        data = values.astype("<u2").tobytes()
    entries = {256: 32, 257: 24, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 24, 279: len(data)}
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4))


def save(path: Path, kind: str) -> None:
    if kind.startswith("PNG"):
        colour_type = {"PNG RGB": 2, "PNG RGBA": 6, "PNG LA": 4}[kind]
        deep_png(path, colour_type, {2: 3, 6: 4, 4: 2}[colour_type])
    elif kind.startswith("TIFF"):
        deep_tiff(path, int(kind[4:]))
    else:
        grey = PHOTO[..., 0]
        Image.fromarray(
            {"I;16": grey.astype(np.uint16) * 257, "F": grey / np.float32(255), "I": grey.astype(np.int32)}[kind]
        ).save(path)


DEEP = {
    "a.png": {"I;16": "I;16 pixels", "PNG RGB": "RGB pixels of 16 bits", "PNG RGBA": "RGBA pixels of 16 bits"},
    "b.png": {"PNG LA": "RGBA pixels of 16 bits"},
    "a.tif": {
        "I;16": "I;16 pixels",
        "F": "F pixels",
        "I": "I pixels",
        "TIFF12": "I;16 pixels",
        "TIFF16": "I;16 pixels",
    },
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in DEEP.items() for kind in kinds])
def test_pictures_of_more_than_8_bits_are_refused_alike(plain: Path, name: str, kind: str) -> None:
    (plain / "images" / "case03.png").unlink()
    path = plain / "images" / f"case03{Path(name).suffix}"
    save(path, kind)
    expected = f"it has {DEEP[name][kind]}; expected 8 bits per channel"
    assert complaint(path) == expected
    with pytest.raises(DatalistError, match="1 of 20 cases cannot be used") as caught:
        skin_lesion_datalist(plain)
    assert f"picture {path} (" in str(caught.value)
    assert "expected 8 bits per channel" in str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "CMYK", "LA"])
def test_pictures_of_8_bits_or_less(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture = (
        Image.fromarray(PHOTO).convert("L").convert(mode) if mode == "LA" else Image.fromarray(PHOTO).convert(mode)
    )
    picture.save(path)
    image = load(path)
    np.testing.assert_array_equal(image.numpy(), np.asarray(picture.convert("RGB"), np.float32).transpose(2, 1, 0))
    assert image.meta["notice"] == ""


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("tag", [2, 3, 6])
def test_a_tiff_that_a_tag_wants_turned_is_refused(plain: Path, tag: int, compression: str | None) -> None:
    """Pillow turns it, other readers do not, and the mask knows nothing of it."""
    for folder, pixels in (("images", PHOTO), ("masks", lesion())):
        (plain / folder / "case03.png").unlink()
        path = plain / folder / "case03.tif"
        Image.fromarray(pixels).save(path, tiffinfo={274: tag}, compression=compression)
        with pytest.raises(DatalistError, match=rf"case03\.tif .*: its orientation tag is {tag}; expected a TIFF that"):
            skin_lesion_datalist(plain)
        if folder == "images":
            assert complaint(path).startswith(f"its orientation tag is {tag}")
        else:
            with Image.open(path) as mask, pytest.raises(ValueError, match="orientation tag"):
                binary_mask(mask)
        Image.fromarray(pixels).save(path, tiffinfo={274: 1}, compression=compression)
        assert sum(map(len, skin_lesion_datalist(plain).values())) == 20


def test_a_jpeg_is_read_as_it_is_stored(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    (plain / "images" / "case03.png").unlink()
    path = plain / "images" / "case03.jpg"
    Image.fromarray(PHOTO).save(path)
    stored = load(path).numpy()
    exif = Image.Exif()
    exif[274] = 3
    Image.fromarray(PHOTO).save(path, exif=exif)
    image = load(path)
    np.testing.assert_array_equal(image.numpy(), stored)
    assert image.meta["notice"].startswith("have an orientation tag, which is not followed")
    assert sum(map(len, skin_lesion_datalist(plain).values())) == 20
    assert "1 of 20 pictures have an orientation tag, which is not followed: masks belong to" in caplog.text


def test_damaged_pictures(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (192, 256, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:5000])
    assert "truncated" in complaint(path)
    path.write_text("no picture")
    assert "cannot identify" in complaint(path)


def test_one_picture_of_several_is_refused(plain: Path) -> None:
    """Readers take the first page and say nothing."""
    pages = [Image.fromarray(PHOTO), Image.fromarray(255 - PHOTO)]
    for folder, suffix in (("images", ".tif"), ("masks", ".tif"), ("images", ".png")):
        case = plain / folder / "case03.png"
        before = case.read_bytes()
        case.unlink()
        path = case.with_suffix(suffix)
        pages[0].save(path, save_all=True, append_images=pages[1:])
        if folder == "images":
            assert complaint(path) == "it holds 2 pictures (pages or frames); expected one"
        with pytest.raises(DatalistError) as caught:
            skin_lesion_datalist(plain)
        assert "it holds 2 pictures (pages or frames); expected one" in str(caught.value)
        assert str(path) in str(caught.value)
        path.unlink()
        case.write_bytes(before)
    pages[0].save(plain / "images" / "case03.jpg", "MPO", save_all=True, append_images=pages[1:])
    assert load(plain / "images" / "case03.jpg").shape == (3, *PHOTO.shape[1::-1])
