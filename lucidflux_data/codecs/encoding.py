"""Encoding of pixels, in the one place that turns RGB into the order of OpenCV's codecs; thumbnails and data urls."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import cv2
import imagecodecs
import numpy as np

from lucidflux_data.jit import compiled

QUALITY = {"jpeg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY}


def encode(pixels: np.ndarray, kind: str = "png", options: Sequence[int] = ()) -> bytes:
    """Bytes of HxWx3 RGB as png (uint8 or uint16), jpeg or webp (uint8). `options`: of cv2.imencode; OpenCV's defaults
    without. Equal pixels and options give equal bytes on one version of OpenCV."""
    extension = ".jpg" if kind == "jpeg" else f".{kind}"
    done, data = cv2.imencode(extension, np.ascontiguousarray(pixels[..., ::-1]), options)
    assert done, f"{kind} takes any image of this type and size"
    return data.tobytes()


def encode_png_by_libdeflate(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 HxWx3 RGB: rows predicted by Paeth's filter, compressed by libdeflate at its level 1.

    A third of the time of OpenCV's level 2 and no larger (docs/performance.md, pairs). The container is that of the PNG
    specification, 5.3 and 11.2. Equal pixels give equal bytes on one version of imagecodecs.
    """
    height, width = pixels.shape[:2]
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    _filter_rows(np.ascontiguousarray(pixels).reshape(height, 3 * width), rows)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB, not interlaced
    data = imagecodecs.deflate_encode(rows.tobytes(), level=1)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    )


@compiled
def _filter_rows(samples: np.ndarray, rows: np.ndarray) -> None:
    """Filter 4 of the PNG specification, 9.4: each sample (uint8, HxN) less what its neighbours to the left, above and
    above left predict. `rows`: uint8 Hx(1+N), the number of the filter first."""
    height, count = samples.shape
    empty = np.zeros(count, np.uint8)
    for y in range(height):
        here, above, row = samples[y], samples[y - 1] if y > 0 else empty, rows[y]
        row[0] = 4
        for x in range(3):
            row[1 + x] = here[x] - above[x]
        for x in range(3, count):
            left, up, corner = np.int16(here[x - 3]), np.int16(above[x]), np.int16(above[x - 3])
            by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - corner - corner)
            nearest = up if by_up <= by_corner else corner
            nearest = left if by_left <= by_up and by_left <= by_corner else nearest
            row[1 + x] = here[x] - nearest


def encode_jpeg_xl(pixels: np.ndarray) -> bytes:
    """A lossless JPEG XL of uint8 HxWx3 RGB, at libjxl's fastest effort, on one thread."""
    return bytes(imagecodecs.jpegxl_encode(pixels, lossless=True, effort=1, numthreads=1))


def shrink(pixels: np.ndarray, longest: int) -> np.ndarray:
    """The pixels, averaged by area to at most `longest` on the longer side."""
    scale = longest / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def data_url(pixels: np.ndarray, kind: str, quality: int) -> str:
    """The picture (uint8 HxWx3 RGB) as a `data:` url of a page: jpeg or webp of a quality in 1..100;
    webp of 101 keeps every pixel."""
    text = base64.b64encode(encode(pixels, kind, [QUALITY[kind], quality])).decode()
    return f"data:image/{kind};base64,{text}"
