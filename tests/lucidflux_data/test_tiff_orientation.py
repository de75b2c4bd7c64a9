"""The orientation of a TIFF is applied once, in every mode, and every table has the upright size."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import decode_full, probe
from lucidflux_data.pairs.job import probe_row

HEIGHT, WIDTH = 24, 36


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    """By the words of TIFF 6.0, tag 274: where the 0th row and the 0th column of the file are seen."""
    row_side, column_side = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    if row_side in ("top", "bottom"):
        seen = stored if row_side == "top" else stored[::-1]
        return seen if column_side == "left" else seen[:, ::-1]
    seen = np.swapaxes(stored, 0, 1)  # rows of the file are columns
    seen = seen if row_side == "left" else seen[:, ::-1]
    return seen if column_side == "top" else seen[::-1]


def picture() -> Image.Image:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return Image.fromarray(np.stack([rows * 9, columns * 6, 255 - rows * 4 - columns * 3], -1).astype(np.uint8))


def eight_bit(mode: str, orientation: int, **options: object) -> bytes:
    file = io.BytesIO()
    picture().convert(mode).save(file, "TIFF", tiffinfo={274: orientation}, **options)
    return file.getvalue()


def sixteen_bit(stored: np.ndarray, orientation: int) -> bytes:
    """An uncompressed little-endian TIFF of one strip, written by hand from TIFF 6.0."""
    samples = stored.shape[2] if stored.ndim == 3 else 1
    data = stored.astype("<u2").tobytes()
    tags = [
        (256, 3, 1, stored.shape[1]), (257, 3, 1, stored.shape[0]), (258, 3, 1, 16), (259, 3, 1, 1),
        (262, 3, 1, 2 if samples == 3 else 1), (273, 4, 1, 8), (274, 3, 1, orientation), (277, 3, 1, samples),
        (278, 3, 1, stored.shape[0]), (279, 4, 1, len(data)),
    ]  # fmt: skip
    after = 8 + len(data)
    if samples == 3:
        data += struct.pack("<3H", 16, 16, 16) + b"\0\0"
        tags[2] = (258, 3, 3, after)
        after += 8
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", after) + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"compression": "tiff_lzw"}),
        ("RGB", {"compression": "jpeg", "quality": 95}),
        ("L", {}),
        ("P", {}),
        ("1", {"compression": "group4"}),
        ("CMYK", {}),
        ("RGBA", {}),
    ],
    ids=str,
)
def test_eight_bits(mode: str, options: dict, orientation: int) -> None:
    data, plain = eight_bit(mode, orientation, **options), eight_bit(mode, 1, **options)
    check(data, turned(decode_full(plain).pixels, orientation), orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("samples", [1, 3])
def test_sixteen_bits(samples: int, orientation: int) -> None:
    stored = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH, samples))
    eight = ((stored * 255 + 32767) // 65535).astype(np.uint8)
    expected = turned(np.repeat(eight, 3, 2) if samples == 1 else eight, orientation)
    check(sixteen_bit(stored if samples == 3 else stored[..., 0], orientation), expected, orientation)


def check(data: bytes, expected: np.ndarray, orientation: int) -> None:
    image = decode_full(data)
    assert np.array_equal(image.pixels, expected)
    assert ("orientation" in image.flags) == (orientation != 1)
    assert (image.header.height, image.header.width) == expected.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["TIFF", "JPEG", "PNG", "WEBP"])
def test_every_table_has_the_upright_size(name: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"x.{name.lower()}"
    picture().save(path, name, exif=exif)
    upright = (HEIGHT, WIDTH) if orientation in (5, 6, 7, 8) else (WIDTH, HEIGHT)
    header = probe(path.read_bytes())
    assert (header.width, header.height) == upright
    row = {"uri": f"file://{path}", "source_key": path.name, "offset": -1, "size": path.stat().st_size, "side": None}
    listed = probe_row(row, DecodeConfig(), 1)
    assert (listed["width"], listed["height"]) == upright
    assert decode_full(path.read_bytes()).pixels.shape[1::-1] == upright


def test_what_opencv_writes_is_turned_as_pillow_turns_it() -> None:
    done, encoded = cv2.imencode(".tif", np.asarray(picture())[..., ::-1].astype(np.uint16) * 257)
    assert done
    assert np.array_equal(decode_full(encoded.tobytes()).pixels, np.asarray(picture()))
