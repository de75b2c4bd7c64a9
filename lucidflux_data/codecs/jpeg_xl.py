"""JPEG XL: what the header says (ISO/IEC 18181-1, annex D), and the samples by libjxl (imagecodecs).

libjxl's samples are in the colour space that the header names, and imagecodecs hands out no profile. So the header is
read here: sRGB, Display P3 and their linear forms are decoded, anything else is refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import imagecodecs
import numpy as np

from lucidflux_data.codecs.icc import from_named
from lucidflux_data.codecs.signatures import read_boxes
from lucidflux_data.codecs.tiff import ASSOCIATED, UNASSOCIATED
from lucidflux_data.errors import ImageError

CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
CODESTREAM = b"\xff\x0a"
HEADER_BYTES = 4096  # far more than a header without extra channels can take
RATIOS = ((1, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height; the first is not used
SIZES = ((1, 9), (1, 13), (1, 18), (1, 30))  # (least value, bits) by a selector of two bits
# Of a preview, in eights of pixels and in pixels.
PREVIEW = (
    ((16, 0), (32, 0), (1, 5), (33, 9)),
    ((1, 6), (65, 8), (321, 10), (1345, 12)),
)
ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))
SPACES = {0: "RGB", 1: "grey", 2: "XYB"}
RGB, GREY = 0, 1
D65, SRGB_PRIMARIES, P3, SRGB_TRANSFER, LINEAR = 1, 1, 11, 13, 8
NAMES = {SRGB_PRIMARIES: 1, P3: 12}  # of primaries in ITU-T H.273
ALPHA = 0  # the kind of an extra channel


class Bits:
    """The bits of a codestream, lowest first. ImageError `truncated` past its end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, bits: int) -> int:
        self._left -= bits
        if self._left < 0:
            raise ImageError("truncated", "the file ends before the picture does")
        value = self._value & ((1 << bits) - 1)
        self._value >>= bits
        return value

    def align(self) -> None:
        """To the next whole byte."""
        self.take(self._left % 8)

    def choose(self, choices: tuple[tuple[int, int], ...]) -> int:
        least, bits = choices[self.take(2)]
        return least + self.take(bits)


@dataclass(frozen=True)
class JpegXl:
    """The header of a JPEG XL whose colours are known. `alpha`: its kind as in a TIFF, 0 for none."""

    width: int
    height: int
    bits: int
    grey: bool
    alpha: int
    orientation: int
    several: bool
    icc: None = None
    format: str = "jxl"
    is_plain: bool = False
    primaries: int = SRGB_PRIMARIES
    transfer: int = SRGB_TRANSFER
    is_lossless: bool | None = False  # whether the first frame has the samples as they were; None: unknown

    @property
    def flags(self) -> tuple[str, ...]:
        return () if (self.primaries, self.transfer) == (SRGB_PRIMARIES, SRGB_TRANSFER) else ("icc",)

    @property
    def mode(self) -> str:
        name = ("L" if self.grey else "RGB") + ("A" if self.alpha else "")
        return name if self.bits <= 8 else {"L": "I;16"}.get(name, f"{name};16")

    def read_colours(self, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
        """(colours HxWxC, alpha HxW or None) of the first frame, not upright yet: uint8 up to 8 bits, else uint16."""
        try:
            samples = imagecodecs.jpegxl_decode(data, index=0, keeporientation=True, numthreads=1)
        except imagecodecs.JpegxlError as error:
            if "NEED_MORE_INPUT" in str(error):
                raise ImageError("truncated", "the file ends before the picture does") from None
            raise
        samples = stretch(samples.reshape(self.height, self.width, -1), self.bits)
        colours, alpha = samples[..., :1] if self.grey else samples[..., :3], samples[..., -1] if self.alpha else None
        if self.flags:
            colours = from_named(colours, (NAMES[self.primaries], self.transfer))
        return colours, alpha


def stretch(samples: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (up to 8 bits) or uint16 at full range of samples of `bits` bits, rounded."""
    kind, most = (np.uint8, 255) if bits <= 8 else (np.uint16, 65535)
    here = 2**bits - 1
    if here == most:
        return samples.astype(kind, copy=False)
    return np.asarray(((np.minimum(samples, here).astype(np.uint32) * most + here // 2) // here).astype(kind))


def is_jpeg_xl(data: bytes) -> bool:
    return data[:2] == CODESTREAM or data[:12] == CONTAINER


def read_header(data: bytes) -> JpegXl:
    """ImageError: unsupported_mode (another colour space than sRGB, floating point, further channels), truncated."""
    bits = Bits(_codestream(data))
    if bits.take(16) != int.from_bytes(CODESTREAM, "little"):
        raise ImageError("unreadable", "the header is damaged")
    width, height = _size(bits, SIZES)
    if bits.take(1):  # everything at its default: 8 bits, sRGB
        return JpegXl(width, height, 8, False, 0, 1, False)
    has_extra = bits.take(1)
    orientation, several = _extra_fields(bits) if has_extra else (1, False)
    depth = _depth(bits)
    bits.take(1)  # whether 16-bit buffers are enough
    channels = bits.choose(((0, 0), (1, 0), (2, 4), (1, 12)))
    if channels > 1:
        raise _unread("with further channels than alpha")
    alpha = _alpha(bits) if channels else 0
    is_xyb = bits.take(1)  # it comes out as the colour encoding says
    space, primaries, transfer = _colours(bits)
    exact = False if is_xyb else _is_modular(bits, bool(has_extra))
    found = JpegXl(width, height, depth, space == GREY, alpha, orientation, several, primaries=primaries,
                   transfer=transfer, is_lossless=exact)  # fmt: skip
    if found.flags and alpha == ASSOCIATED:
        raise _unread("in other colours than sRGB under an alpha that is multiplied in")
    return found


def _is_modular(bits: Bits, has_extra: bool) -> bool | None:
    """Whether the first frame, without XYB, is coded sample by sample; None where what stands before it is not read."""
    default_tone = bits.take(1) if has_extra else 1
    if not default_tone or bits.take(2) or not bits.take(1):  # tone mapping, extensions, transform at their defaults
        return None
    bits.align()
    if bits.take(1):  # a frame header at its defaults: a DCT
        return False
    bits.take(2)  # the frame's type
    return bool(bits.take(1))


def _unread(what: str) -> ImageError:
    return ImageError("unsupported_mode", f"JPEG XL {what} is not read")


def _codestream(data: bytes) -> bytes:
    """The first bytes of the codestream, which a container may hold in parts."""
    if data[:2] == CODESTREAM:
        return data[:HEADER_BYTES]
    parts = b""
    for kind, content in read_boxes(data):
        if kind in (b"jxlc", b"jxlp"):
            parts += bytes(content[4 if kind == b"jxlp" else 0 :][:HEADER_BYTES])  # a part begins with its number
        if kind == b"jxlc" or len(parts) >= HEADER_BYTES:
            break
    return parts


def _size(bits: Bits, choices: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """(width, height)."""
    small = bits.take(1)
    height = 8 * (1 + bits.take(5)) if small else bits.choose(choices)
    ratio = bits.take(3)
    if ratio:
        return height * RATIOS[ratio][0] // RATIOS[ratio][1], height
    return 8 * (1 + bits.take(5)) if small else bits.choose(choices), height


def _extra_fields(bits: Bits) -> tuple[int, bool]:
    """The orientation, and whether there are several frames."""
    orientation = 1 + bits.take(3)
    if bits.take(1):
        _size(bits, SIZES)  # how large it is to be shown
    if bits.take(1):  # a preview
        choices = PREVIEW[0] if bits.take(1) else PREVIEW[1]
        bits.choose(choices)
        if not bits.take(3):
            bits.choose(choices)
    several = bool(bits.take(1))
    if several:
        bits.choose(((100, 0), (1000, 0), (1, 10), (1, 30)))
        bits.choose(((1, 0), (1001, 0), (1, 8), (1, 10)))
        bits.choose(((0, 0), (0, 3), (0, 16), (0, 32)))
        bits.take(1)
    return orientation, several


def _depth(bits: Bits) -> int:
    if bits.take(1):
        raise _unread("of floating point")
    depth = bits.choose(((8, 0), (10, 0), (12, 0), (1, 6)))
    if depth > 16:
        raise _unread(f"of {depth} bits")
    return depth


def _alpha(bits: Bits) -> int:
    """The kind of the one extra channel."""
    if bits.take(1):
        return UNASSOCIATED
    if bits.choose(ENUM) != ALPHA:
        raise _unread("with another channel than alpha")
    _depth(bits)
    bits.choose(((0, 0), (3, 0), (4, 0), (1, 3)))  # its resolution
    for _ in range(bits.choose(((0, 0), (0, 4), (16, 5), (48, 10)))):
        bits.take(8)  # its name
    return ASSOCIATED if bits.take(1) else UNASSOCIATED


def _colours(bits: Bits) -> tuple[int, int, int]:
    """(colour space, primaries, transfer function) of a colour encoding. ImageError for those that are not read."""
    if bits.take(1):
        return RGB, SRGB_PRIMARIES, SRGB_TRANSFER
    if bits.take(1):
        raise _unread("with an ICC profile, which the decoder does not hand out,")
    space = bits.choose(ENUM)
    if space not in (RGB, GREY):
        raise _unread(f"of {SPACES.get(space, 'an unknown colour space')}")
    white = bits.choose(ENUM)
    primaries = SRGB_PRIMARIES if space == GREY or white != D65 else bits.choose(ENUM)
    known = white == D65 and primaries in (SRGB_PRIMARIES, P3)
    transfer = 0 if not known or bits.take(1) else bits.choose(ENUM)
    if transfer not in (SRGB_TRANSFER, LINEAR):
        raise _unread("in other colours than sRGB or Display P3")
    return space, primaries, transfer
