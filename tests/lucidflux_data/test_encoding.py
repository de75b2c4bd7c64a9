"""The encoders, against OpenCV with the channels turned by cvtColor, and Pillow as the reader."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from lucidflux_data.codecs.encoding import data_url, encode, encode_jpeg_xl, encode_png_by_libdeflate, shrink
from lucidflux_data.images import decode


@pytest.fixture
def pixels() -> np.ndarray:
    """Red to the left, blue to the right, so that turned channels are seen."""
    noise = np.random.default_rng(1).integers(0, 40, (37, 61, 3), dtype=np.uint8)
    noise[:, :30, 0] += 200
    noise[:, 30:, 2] += 200
    return noise


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("png", []),
        ("png", [cv2.IMWRITE_PNG_COMPRESSION, 2]),
        ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, 90]),
        ("webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    ],
)
def test_the_bytes_are_those_of_opencv(kind: str, options: list[int], pixels: np.ndarray) -> None:
    turned = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    assert encode(pixels, kind, options) == cv2.imencode(f".{kind}", turned, options)[1].tobytes()
    assert encode(pixels[:, ::-1], kind, options) == cv2.imencode(f".{kind}", turned[:, ::-1], options)[1].tobytes()


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_another_reader_sees_the_colours(kind: str, pixels: np.ndarray) -> None:
    data = encode(pixels, kind, [cv2.IMWRITE_WEBP_QUALITY, 101] if kind == "webp" else [])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def test_sixteen_bits_stay(pixels: np.ndarray) -> None:
    deep = pixels.astype(np.uint16) * 257 + 3
    read = cv2.imdecode(np.frombuffer(encode(deep), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read[..., ::-1], deep)


def test_a_thumbnail_keeps_its_shape_and_a_small_one_its_pixels(pixels: np.ndarray) -> None:
    assert shrink(pixels, 61) is pixels
    assert shrink(pixels, 30).shape == (18, 30, 3)
    assert shrink(np.zeros((1, 900, 3), np.uint8), 100).shape == (1, 100, 3)
    head, _, text = data_url(pixels, "jpeg", 90).partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert (image.format, image.size) == ("JPEG", (61, 37))


def unfiltered(png: bytes) -> np.ndarray:
    """The samples of an 8-bit RGB PNG whose rows are all of filter 4, read by the specification alone."""
    width, height = struct.unpack(">II", png[16:24])
    position, data = 8, b""
    while position < len(png):
        size, kind = struct.unpack(">I4s", png[position : position + 8])
        content = png[position + 8 : position + 8 + size]
        assert png[position + 8 + size :][:4] == struct.pack(">I", zlib.crc32(kind + content))
        data += content if kind == b"IDAT" else b""
        position += 12 + size
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, 1 + 3 * width)
    assert (rows[:, 0] == 4).all()
    above, samples = [0] * (3 * width), []
    for row in rows[:, 1:].tolist():
        here: list[int] = []
        for x, value in enumerate(row):
            left, corner = (here[x - 3], above[x - 3]) if x >= 3 else (0, 0)
            wanted = left + above[x] - corner
            here.append((value + min((left, above[x], corner), key=lambda known: abs(wanted - known))) % 256)
        above = here
        samples.append(here)
    return np.array(samples, np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (41, 1), (64, 48)])
def test_a_png_by_libdeflate_is_the_picture_for_every_reader(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    whole = rng.integers(0, 256, (*size, 6), np.uint8)
    for pixels in (
        np.ascontiguousarray(whole[..., :3]),
        whole[..., 1:4],
        whole[:, ::-1, 3:],
        np.zeros_like(whole[..., :3]),
    ):
        png = encode_png_by_libdeflate(pixels)
        assert np.array_equal(unfiltered(png), pixels)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), pixels)
        assert np.array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB), pixels)
        assert np.array_equal(decode(png), pixels)


def test_a_png_by_libdeflate_is_no_larger_than_opencvs(photo_paths: list[Path]) -> None:
    for path in photo_paths:
        if path.stem in ("chelsea", "coffee", "astronaut", "rocket"):
            pixels = decode(path.read_bytes())
            by_opencv = encode(pixels, "png", [cv2.IMWRITE_PNG_COMPRESSION, 2])
            assert len(encode_png_by_libdeflate(pixels)) <= 1.002 * len(by_opencv)


def test_a_jpeg_xl_is_the_picture_and_the_same_bytes_from_any_thread(photo_paths: list[Path]) -> None:
    pixels = decode(next(path for path in photo_paths if path.stem == "chelsea").read_bytes())
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(encode_jpeg_xl, [pixels] * 8))
    assert len(set(made)) == 1
    assert np.array_equal(decode(made[0]), pixels)
    assert np.array_equal(imagecodecs.jpegxl_decode(made[0]), pixels)
