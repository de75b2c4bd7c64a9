"""Alpha: colours over white, and the places where a picture is transparent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from lucidflux_data.codecs import signatures

BLOCK = 1 << 18  # pixels that are blended at a time: 64-bit intermediate values of a whole picture would be large


def blend_on_white(colours: np.ndarray, alpha: np.ndarray, associated: bool = False) -> np.ndarray:
    """uint8 HxWxC of colours (uint8 or uint16) with an alpha of the same depth over white, rounded to nearest."""
    most = np.iinfo(colours.dtype).max
    out = np.empty(colours.shape, np.uint8)
    for block in _blocks(colours):
        some = colours[block].astype(np.int64)
        share = alpha[block][..., None].astype(np.int64)
        blended = some + most - share if associated else (some * share + most * (most - share) + most // 2) // most
        out[block] = (np.clip(blended, 0, most) * 255 + most // 2) // most
    return out


def divide_by_alpha(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """HxWxC of colours (uint8 or uint16) that an alpha of the same depth was multiplied into, without it, rounded; 0
    where nothing is seen."""
    most = np.iinfo(colours.dtype).max
    out = np.empty_like(colours)
    for block in _blocks(colours):
        share = alpha[block][..., None].astype(np.int64)
        whole = (colours[block].astype(np.int64) * most + share // 2) // np.maximum(share, 1)
        out[block] = np.where(share, np.minimum(whole, most), 0)
    return out


def _blocks(samples: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of HxWxC, BLOCK pixels at most at a time, however wide the picture is."""
    height, width = samples.shape[:2]
    across = min(width, BLOCK)
    down = max(1, BLOCK // across)
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield slice(top, top + down), slice(left, left + across)


def scale_to_8(samples: np.ndarray) -> np.ndarray:
    """uint8 of uint8 or uint16 samples, scaled by 255/65535 and rounded."""
    if samples.dtype == np.uint8:
        return samples
    out = np.empty(samples.shape, np.uint8)
    for block in _blocks(samples):
        out[block] = (samples[block].astype(np.uint32) * 255 + 32767) // 65535
    return out


def find_outside(image: Image.Image, data: bytes) -> np.ndarray | None:
    """bool HxW: where the first frame of a GIF or WebP leaves its canvas empty, which is transparent. None for
    nowhere."""
    place = None
    if image.format == "GIF":
        place = getattr(image, "dispose_extent", None)
    elif image.format == "WEBP":
        place = signatures.webp_frame(data)
    left, top, right, bottom = place or (0, 0, *image.size)
    if (left, top, right, bottom) == (0, 0, *image.size):
        return None
    outside = np.ones((image.height, image.width), bool)
    outside[top:bottom, left:right] = False
    return outside


def clear_grey(image: Image.Image, clear: int, bits: int) -> Image.Image:
    """`clear` is a sample at the depth of the file (1 to 8 bits); Pillow scales the samples and not this number."""
    grey = image.convert("L")
    value = clear * 255 // (2**bits - 1)
    transparent = np.asarray(grey) == value
    grey.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return grey


def put_on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Straight alpha over white in 8-bit sRGB values, rounded to nearest (what browsers show)."""
    out = np.empty(colour.shape, np.uint8)
    for block in _blocks(colour):
        weight = alpha[block][..., None].astype(np.uint32)
        out[block] = (colour[block] * weight + 255 * (255 - weight) + 127) // 255
    return out
