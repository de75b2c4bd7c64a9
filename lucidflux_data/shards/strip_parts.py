"""What the three formats of `--strip` have in common: the Exif block that is made anew, and what a profile is."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Collection

import numpy as np
from PIL import Image, ImageCms

from lucidflux_data.errors import ImageError
from lucidflux_data.images import decode_full

ORIENTATION, COPYRIGHT = 0x0112, 0x8298  # Exif 2.3
SHORT, ASCII = 3, 2  # types of TIFF 6.0
MAX_COPYRIGHT = 60_000  # bytes; a JPEG segment holds 65,533


def cut_profile(icc: bytes | None) -> bytes | None:
    """An ICC profile up to the size that it says it has. None where it is no profile: anything can be laid there, and
    decoders pass over it."""
    if icc is None:
        return None
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return icc[: int.from_bytes(icc[:4], "big")]


def check_pixels(data: bytes, left: bytes) -> None:
    """Raises ImageError `unreadable` where what is left of `data` shows another picture: that of a damaged file may be
    read from bytes that are no part of it."""
    if data == left:
        return
    with contextlib.suppress(ImageError):
        if np.array_equal(decode_full(data, 2**62).pixels, decode_full(left, 2**62).pixels):
            return
    raise ImageError("unreadable", "its damaged picture is read from bytes that are no part of it")


def make_exif(turned: int, old: bytes, what: Collection[str]) -> bytes:
    """A new Exif block without its `Exif` head, b"" where it would say nothing. `turned`: the orientation as it is
    decoded, whether Exif, XMP or a text says so. `old`: the block of the image."""
    notice = b"" if "author" in what else _read_copyright(old)
    entries, far = [], b""
    if turned != 1:
        entries.append(struct.pack("<HHIHH", ORIENTATION, SHORT, 1, turned, 0))
    if notice:
        here = 8 + 2 + 12 * (len(entries) + 1) + 4
        near = notice.ljust(4, b"\0") if len(notice) <= 4 else struct.pack("<I", here)
        entries.append(struct.pack("<HHI", COPYRIGHT, ASCII, len(notice)) + near)
        far = notice if len(notice) > 4 else b""
    if not entries:
        return b""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + far


def _read_copyright(exif: bytes) -> bytes:
    """The notice with its final 0; b"" where there is none that can be read."""
    block = Image.Exif()
    try:
        block.load(exif)
        text = block.get(COPYRIGHT)
    except Exception:  # damaged Exif has no notice that a reader could show
        return b""
    notice = text.rstrip("\0 ").encode("latin-1", "replace") if isinstance(text, str) else b""
    return notice + b"\0" if notice and len(notice) < MAX_COPYRIGHT else b""
