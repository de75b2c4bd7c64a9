"""The one encoder, against OpenCV with the channels turned by cvtColor, and Pillow as the reader."""

from __future__ import annotations

import base64
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from lucidflux_data.codecs.encoding import data_url, encode, shrink


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
