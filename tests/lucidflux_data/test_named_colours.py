"""Colours that a file names by number (PNG's cICP, the nclx box of AVIF and HEIC), and the profile inside a BMP."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from lucidflux_data.images import ImageError, decode_full, probe
from tests.lucidflux_data.test_images import encoded, matrix_profile
from tests.lucidflux_data.test_odd_files import chunk
from tests.lucidflux_data.test_tiff_meanings import P3, PICTURE

WHITE = (0.3127, 0.3290)
CORNERS = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


def to_xyz(number: int) -> np.ndarray:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in CORNERS[number]]).T
    x, y = WHITE
    return columns * np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y]))


def expected(samples: np.ndarray, primaries: int, transfer: int) -> np.ndarray:
    """By IEC 61966-2-1 and the chromaticities; 0..255, not rounded."""
    value = samples / np.iinfo(samples.dtype).max
    light = value if transfer == 8 else np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = np.clip(light @ (np.linalg.inv(to_xyz(1)) @ to_xyz(primaries)).T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def png_with(samples: np.ndarray, primaries: int, transfer: int) -> bytes:
    data = cv2.imencode(".png", samples[..., ::-1])[1].tobytes()
    return data[:33] + chunk(b"cICP", bytes([primaries, transfer, 0, 1])) + data[33:]


def with_nclx(data: bytes, primaries: int, transfer: int) -> bytes:
    at = data.index(b"nclx") + 4
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


READ = [(12, 13), (9, 1), (1, 8), (12, 8)]
UNREAD = {(9, 16): "PQ", (9, 18): "HLG", (10, 13): "primaries 10"}


@pytest.mark.parametrize("codes", READ, ids=str)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_png_is_converted_at_its_own_depth(depth: type, codes: tuple[int, int]) -> None:
    samples = PICTURE.astype(depth) * depth(np.iinfo(depth).max // 255)
    image = decode_full(png_with(samples, *codes))
    assert "icc" in image.flags
    assert np.abs(image.pixels - expected(samples, *codes)).max() <= 0.51
    assert np.abs(image.pixels.astype(int) - PICTURE).max() > 8
    clear = png_with(np.dstack([samples[..., 2:], samples[..., 1::-1], samples[..., :1] * 0]), *codes)
    assert decode_full(clear).pixels.shape == PICTURE.shape


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_avif_and_heic_as_their_primary_item_says(kind: str) -> None:
    options = {"quality": 100} | ({"subsampling": "4:4:4"} if kind == "AVIF" else {})
    if kind == "HEIF":
        pytest.importorskip("pillow_heif")
    plain = encoded(Image.fromarray(PICTURE), kind, **options)
    base = decode_full(plain)
    assert base.flags == ()
    for codes in READ:
        image = decode_full(with_nclx(plain, *codes))
        assert image.flags == ("icc",)
        assert np.abs(image.pixels - expected(base.pixels, *codes)).max() <= 0.51
    for codes in ((1, 1), (2, 2), (1, 13)):
        assert np.array_equal(decode_full(with_nclx(plain, *codes)).pixels, base.pixels), "SDR video is shown as sRGB"
    for codes, name in UNREAD.items():
        refused(with_nclx(plain, *codes), name)
    profiled = encoded(Image.fromarray(PICTURE), kind, icc_profile=matrix_profile(P3, 2.2), **options)
    if b"nclx" in profiled:
        assert decode_full(with_nclx(profiled, 9, 16)).flags == ("icc",), "a profile goes before"


def test_a_png_in_light_above_white_is_refused() -> None:
    for codes, name in UNREAD.items():
        refused(png_with(PICTURE, *codes), name)


def refused(data: bytes, what: str) -> None:
    for read in (decode_full, probe):
        with pytest.raises(ImageError) as caught:
            read(data)
        assert caught.value.reason == "unsupported_mode"
        assert what in caught.value.detail


def test_the_profile_inside_a_bmp() -> None:
    profile = matrix_profile(P3, 2.2)
    right = decode_full(encoded(Image.fromarray(PICTURE), "PNG", icc_profile=profile)).pixels
    rows = np.ascontiguousarray(PICTURE[::-1, :, ::-1]).tobytes()
    height, width = PICTURE.shape[:2]
    head = struct.pack("<IiiHHIIiiII", 124, width, height, 1, 24, 0, len(rows), 2835, 2835, 0, 0) + bytes(16)
    head += b"DEBM" + bytes(48) + struct.pack("<4I", 4, 124 + len(rows), len(profile), 0)
    data = b"BM" + struct.pack("<IHHI", 138 + len(rows) + len(profile), 0, 0, 138) + head + rows + profile
    image = decode_full(data)
    assert image.flags == ("icc",)
    assert np.array_equal(image.pixels, right)


def test_the_profile_of_a_png_gives_way_to_its_numbers() -> None:
    profile = chunk(b"iCCP", b"p\0\0" + zlib.compress(matrix_profile(P3, 2.2)))
    data = png_with(PICTURE, 1, 13)
    assert np.array_equal(decode_full(data[:33] + profile + data[33:]).pixels, PICTURE)
