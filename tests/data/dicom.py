"""DICOM files that the tests write, byte by byte: libraries fill in what a test wants to leave out."""

from __future__ import annotations

import struct
from pathlib import Path
from zlib import crc32

import numpy as np

MR, ENHANCED_MR, SECONDARY_CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("4", "4.1", "7"))
KINDS = {  # value representations of the tags that are used here
    "UI": ("0008|0016", "0008|0018", "0020|000d", "0020|000e"),
    "CS": ("0008|0060", "0028|0004"),
    "DS": ("0018|0050", "0018|0081", "0020|0032", "0020|0037", "0028|0030", "0028|1052", "0028|1053"),
    "IS": ("0020|0012", "0020|0013", "0020|0100", "0028|0008"),
    "US": ("0028|0002", "0028|0010", "0028|0011", "0028|0100", "0028|0101", "0028|0102", "0028|0103"),
}
KIND = {tag: kind for kind, tags in KINDS.items() for tag in tags}


def element(tag: str, kind: str, value: bytes) -> bytes:
    group, number = (int(part, 16) for part in tag.split("|"))
    value += (b"\0" if kind in ("UI", "OW", "OB") else b" ") * (len(value) % 2)
    length = struct.pack("<HI", 0, len(value)) if kind in ("OW", "OB") else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind.encode() + length + value


def write_dicom(path: Path, pixels: np.ndarray, **tags: str | None) -> None:
    """Write a file in explicit little endian; `pixels` (rows, columns) or (frames, rows, columns), 16 bits.

    Tags are named like `t0020_0032`; None leaves one out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = pixels.shape[-2:]
    values: dict[str, str | int | None] = {
        "0008|0016": MR,
        "0008|0018": f"1.2.3.{crc32(path.name.encode())}",
        "0008|0060": "MR",
        "0020|000d": "1.2",
        "0020|000e": "1.2.3",
        "0020|0032": "0\\0\\0",
        "0020|0037": "1\\0\\0\\0\\1\\0",
        "0028|0002": 1,
        "0028|0004": "MONOCHROME2",
        "0028|0008": str(len(pixels)) if pixels.ndim == 3 else None,
        "0028|0010": rows,
        "0028|0011": columns,
        "0028|0030": "8\\8",
        "0028|0100": 16,
        "0028|0101": 16,
        "0028|0102": 15,
        "0028|0103": 0,
    }
    values |= {name[1:].replace("_", "|"): value for name, value in tags.items()}
    body = b"".join(
        element(tag, KIND[tag], struct.pack("<H", value) if isinstance(value, int) else value.encode())
        for tag, value in sorted(values.items())
        if value is not None
    )
    meta = element("0002|0002", "UI", str(values["0008|0016"]).encode())
    meta += element("0002|0003", "UI", str(values["0008|0018"]).encode())
    meta += element("0002|0010", "UI", b"1.2.840.10008.1.2.1")
    length = element("0002|0000", "UL", struct.pack("<I", len(meta)))
    data = element("7fe0|0010", "OW", pixels.astype("<u2").tobytes())
    path.write_bytes(bytes(128) + b"DICM" + length + meta + body + data)


def write_series(folder: Path, volume: np.ndarray, spacing: float = 8.0, **tags: str | None) -> Path:
    """Write a volume (X, Y, Z) as axial slices `000.dcm`, `001.dcm`, ...; `spacing` in mm between them."""
    for index in range(volume.shape[2]):
        given = {"t0020_0032": f"0\\0\\{spacing * index:g}", "t0020_0013": str(index)} | tags
        write_dicom(folder / f"{index:03d}.dcm", volume[..., index].T, **given)
    return folder
