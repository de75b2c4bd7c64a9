"""JPEG 2000: what the boxes (ISO/IEC 15444-1, annex I) and the codestream (annex A) say, and the samples by OpenJPEG.

Read are sRGB, grey, and what has an ICC profile of RGB or grey. A codestream without boxes names no colour space: its
three components are red, green and blue where they went through the component transform, which is made for those.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import imagecodecs
import numpy as np

from lucidflux_data.codecs.jpeg_xl import stretch
from lucidflux_data.codecs.signatures import read_boxes
from lucidflux_data.codecs.tiff import ASSOCIATED, UNASSOCIATED
from lucidflux_data.errors import ImageError

BOXES = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"
END = b"\xff\xd9"
COMPONENT_TRANSFORM = b"\xff\x52"  # COD
FIRST_TILE = b"\xff\x90"  # SOT
SRGB, GREY = 16, 17  # EnumCS
SPACES = {0: "black and white", 1: "YCbCr", 12: "CMYK", 14: "CIELab", 18: "sYCC", 20: "e-sRGB", 21: "ROMM-RGB"}
PROFILES = {b"RGB ": 3, b"GRAY": 1}  # colour space of an ICC profile: number of colours


@dataclass(frozen=True)
class Jpeg2000:
    """The header of a JPEG 2000 that is read. `alpha`: its kind as in a TIFF, 0 for none; a last component that is not
    said to be alpha is left out."""

    format: str  # jp2 with boxes, j2k without
    width: int
    height: int
    bits: int
    colours: int
    alpha: int
    icc: bytes | None
    orientation: int = 1
    several: bool = False
    is_plain: bool = False
    flags: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        name = ("L" if self.colours == 1 else "RGB") + ("A" if self.alpha else "")
        return name if self.bits <= 8 else {"L": "I;16"}.get(name, f"{name};16")

    def read_colours(self, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
        """(colours HxWxC, alpha HxW or None): uint8 of up to 8 bits, else uint16."""
        stream = _find_codestream(data)
        if not stream.rstrip(b"\0").endswith(END):
            raise ImageError("truncated", "the file ends before the picture does")
        samples = imagecodecs.jpeg2k_decode(stream, numthreads=1)  # with the boxes it would apply the profile itself
        samples = stretch(samples.reshape(self.height, self.width, -1), self.bits)
        return samples[..., : self.colours], samples[..., self.colours] if self.alpha else None


@dataclass(frozen=True)
class _Size:
    width: int
    height: int
    components: int
    bits: int


def is_jpeg_2000(data: bytes) -> bool:
    return data[:4] == CODESTREAM or data[:12] == BOXES


def read_header(data: bytes) -> Jpeg2000:
    """ImageError: unsupported_mode (another colour space, a palette, components of several sizes or depths),
    truncated, unreadable."""
    if data[20:24] == b"jpm ":
        raise ImageError("unsupported_format", "JPM (JPEG 2000 in layers) is a format that is not read")
    stream = _find_codestream(data)
    size = _read_size(stream)
    if data[:4] == CODESTREAM:
        if size.components != 1 and not (size.components == 3 and _is_transformed(stream)):
            raise _unread("without a colour space")
        return Jpeg2000("j2k", size.width, size.height, size.bits, size.components, 0, None)
    colours, icc, alpha = _read_colour(data)
    if size.components not in (colours, colours + 1):
        raise _unread(f"of {size.components} components for {colours} colours")
    kind = alpha if size.components > colours else 0
    return Jpeg2000("jp2", size.width, size.height, size.bits, colours, kind, icc)


def _unread(what: str) -> ImageError:
    return ImageError("unsupported_mode", f"JPEG 2000 {what} is not read")


def _find_codestream(data: bytes) -> bytes:
    if data[:4] == CODESTREAM:
        return data
    for kind, content in read_boxes(data):
        if kind == b"jp2c":
            return bytes(content)
    raise ImageError("truncated", "the file ends before the picture does")


def _read_size(stream: bytes) -> _Size:
    """The first segment, of the size and the components."""
    if len(stream) < 42:
        raise ImageError("truncated", "the file ends before the picture does")
    if stream[:4] != CODESTREAM:
        raise ImageError("unreadable", "the header is damaged")
    right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
    (count,) = struct.unpack_from(">H", stream, 40)
    if not 1 <= count <= 4:
        raise _unread(f"of {count} components")
    about = {stream[at : at + 3] for at in range(42, 42 + 3 * count, 3)}
    if len(about) > 1 or len(stream) < 42 + 3 * count:
        raise _unread("with components of several sizes or depths")
    depth, across, down = next(iter(about))
    if (across, down) != (1, 1):
        raise _unread("with components smaller than the picture")
    bits = (depth & 127) + 1
    if depth & 128 or bits > 16:
        raise _unread(f"of {bits}-bit {'signed ' if depth & 128 else ''}samples")
    if right <= left or bottom <= top:
        raise ImageError("unreadable", "the header is damaged")
    return _Size(right - left, bottom - top, count, bits)


def _is_transformed(stream: bytes) -> bool:
    """Whether COD, before the first tile, asks for the component transform."""
    position = 2
    while position + 4 <= len(stream) and stream[position : position + 2] != FIRST_TILE:
        if stream[position : position + 2] == COMPONENT_TRANSFORM:
            return stream[position + 8 : position + 9] == b"\1"
        position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
    return False


def _read_colour(data: bytes) -> tuple[int, bytes | None, int]:
    """(number of colours, ICC profile, kind of the alpha that is said to be there) of the jp2h box."""
    header = next((bytes(content) for kind, content in read_boxes(data) if kind == b"jp2h"), b"")
    inner = [(kind, bytes(content)) for kind, content in read_boxes(header)]
    if any(kind == b"pclr" for kind, _ in inner):
        raise _unread("with a palette")
    alpha = next((_alpha(content) for kind, content in inner if kind == b"cdef"), 0)
    for kind, content in inner:
        if kind == b"colr" and content[:1] == b"\1":
            space = int.from_bytes(content[3:7], "big")
            if space not in (SRGB, GREY):
                raise _unread(f"of {SPACES.get(space, f'colour space {space}')}")
            return 3 if space == SRGB else 1, None, alpha
        if kind == b"colr" and content[:1] in (b"\2", b"\3"):
            icc = content[3:]
            if icc[16:20] not in PROFILES:
                raise _unread("with an ICC profile that is of neither RGB nor grey")
            return PROFILES[icc[16:20]], icc, alpha
    raise _unread("without a colour space")


def _alpha(definition: bytes) -> int:
    """The kind of the opacity that a channel definition box names, of the whole picture; 0 for none."""
    (count,) = struct.unpack_from(">H", definition)
    found = 0
    for channel, kind, of in (struct.unpack_from(">3H", definition, 2 + 6 * k) for k in range(count)):
        if kind == 0 and of != channel + 1:
            raise _unread("with colours in another order")
        if kind in (1, 2) and of == 0:
            if channel != count - 1:
                raise _unread("with colours in another order")
            found = UNASSOCIATED if kind == 1 else ASSOCIATED
    return found
