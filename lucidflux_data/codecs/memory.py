"""Memory that decoding takes: estimated from the header, and a lack of it as a failure of one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from lucidflux_data.codecs.header import Header
from lucidflux_data.codecs.tiff import TiffPage
from lucidflux_data.errors import ImageError

# Bytes a pixel at the peak of decoding, beside the encoded bytes; tests/lucidflux_data/test_bounds.py measures them.
PLAIN = 16  # 8-bit colours by OpenCV: decoded and turned; coefficients of a progressive JPEG
OTHER = 32  # palettes, alpha, profiles, 16 bits: samples, colours cut out of them, 8-bit results
WORDS = 16  # four samples of 32 bits, as JPEG XL and JPEG 2000 are decoded
BESIDE = 40 << 20  # of any picture: blocks that are blended, buffers of the libraries
NO_MEMORY = -4  # cv2.Error.StsNoMem


def estimate_memory(header: Header, plain: bool) -> int:
    """Upper end of the bytes that decoding takes at its peak, beside the encoded ones. `plain`: OpenCV's 8 bits."""
    stored = 0
    if header.page is not None:
        stored = header.page.stored_bytes if isinstance(header.page, TiffPage) else WORDS
    return BESIDE + header.width * header.height * (PLAIN if plain else OTHER + stored)


@contextmanager
def within_memory() -> Iterator[None]:
    """Around what is done with one image: where memory does not suffice, that is a failure of this image."""
    try:
        yield
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != NO_MEMORY:
            raise
        raise ImageError("out_of_memory", "there is not enough memory for it") from None


def check_memory(error: cv2.error) -> None:
    """MemoryError where an error of OpenCV's is a lack of memory, and no damage."""
    if error.code == NO_MEMORY:
        raise MemoryError
