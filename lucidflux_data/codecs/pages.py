"""The header of what neither Pillow nor OpenCV reads as the file says: TIFF, JPEG XL, JPEG 2000."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lucidflux_data.codecs import jpeg_2000, jpeg_xl, signatures, tiff

ASSOCIATED = tiff.ASSOCIATED


class Page(Protocol):
    """`width` and `height` as stored; `alpha`: 0, or its kind (tiff.ASSOCIATED, tiff.UNASSOCIATED); `several`: another
    picture follows; `is_plain`: Pillow reads it as the file says; `flags`: of conversions inside `read_colours`."""

    @property
    def format(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def mode(self) -> str: ...
    @property
    def alpha(self) -> int: ...
    @property
    def orientation(self) -> int: ...
    @property
    def icc(self) -> bytes | None: ...
    @property
    def several(self) -> bool: ...
    @property
    def is_plain(self) -> bool: ...
    @property
    def flags(self) -> tuple[str, ...]: ...
    def read_colours(self, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
        """(colours HxWxC, alpha HxW or None), uint8 of up to 8 bits, else uint16, not yet upright."""


def read_page(data: bytes) -> Page | None:
    """None for other formats. Raises ImageError as `images.probe`."""
    if data[:4] in signatures.TIFF_SIGNATURES:
        return tiff.read_page(data)
    if jpeg_xl.is_jpeg_xl(data):
        return jpeg_xl.read_header(data)
    if jpeg_2000.is_jpeg_2000(data):
        return jpeg_2000.read_header(data)
    return None
