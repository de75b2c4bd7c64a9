"""Encoding of pixels, in the one place that turns RGB into the order of OpenCV's codecs; thumbnails and data urls."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np

QUALITY = {"jpeg": cv2.IMWRITE_JPEG_QUALITY, "webp": cv2.IMWRITE_WEBP_QUALITY}


def encode(pixels: np.ndarray, kind: str = "png", options: Sequence[int] = ()) -> bytes:
    """Bytes of HxWx3 RGB as png (uint8 or uint16), jpeg or webp (uint8). `options`: of cv2.imencode; OpenCV's defaults
    without. Equal pixels and options give equal bytes on one version of OpenCV."""
    extension = ".jpg" if kind == "jpeg" else f".{kind}"
    done, data = cv2.imencode(extension, np.ascontiguousarray(pixels[..., ::-1]), options)
    assert done, f"{kind} takes any image of this type and size"
    return data.tobytes()


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
