"""Whether the codec of an output lost pixels, by what its file says that it did, not by the file's name.

Lossy: JPEG, WebP with a VP8 frame, AVIF in YCbCr, JPEG XL in XYB or by a DCT, JPEG 2000 by the irreversible transform,
and TIFF with any of them inside. Where a file does not tell (a JPEG 2000 may be cut, an AVIF in RGB be quantized), it
may have lost pixels, and that is said too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import tifffile

from lucidflux_data.codecs import jpeg_2000, jpeg_xl, tiff
from lucidflux_data.codecs.signatures import jpeg_frame, read_boxes
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import ImageError
from lucidflux_data.isolation import call_apart

KEPT, LOST, UNTOLD = "kept", "lost", "untold"
NAMES = {
    "jpeg": "JPEG",
    "webp": "WebP",
    "avif": "AVIF",
    "jxl": "JPEG XL",
    "jp2": "JPEG 2000",
    "j2k": "JPEG 2000",
    "heic": "HEIC",
    "tiff": "TIFF",
}
EXACT = frozenset({"png", "bmp", "gif"})  # the mode shows what a palette of GIF loses
LOSSLESS_JPEG = frozenset({3, 7, 11, 15})  # the last digit of the SOF marker (ITU-T T.81, table B.1)
TIFF_EXACT = frozenset({1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000})
# Compression (tag 259) -> what each strip or tile is.
TIFF_INNER = {6: "jpeg", 7: "jpeg", 33007: "jpeg", 34892: "jpeg", 50001: "webp", 50002: "jxl", 52546: "jxl"}
TIFF_INNER |= dict.fromkeys((33003, 33004, 33005, 34712), "jp2")
EXACT_MATRICES = frozenset({0, 16, 17})  # of ITU-T H.273: RGB, and YCgCo that can be turned back
REVERSIBLE = 1  # the 5-3 wavelet (ISO/IEC 15444-1, table A.20)


def remark_of(data: bytes, format_: str) -> str | None:
    """What is to be said of an output's codec, None where it kept every pixel. `format_`: as `probe` names it."""
    if format_ in EXACT:
        return None
    try:
        state = LOST if format_ == "jpeg" else str(call_apart(f"{__name__}:judge_here", data, format_))
    except ImageError:
        state = UNTOLD
    if state == KEPT:
        return None
    name = NAMES.get(format_, format_)
    return f"lossy codec ({name})" if state == LOST else f"codec that may be lossy ({name})"


def judge_here(data: bytes, _: DecodeConfig, format_: str) -> str:
    """KEPT, LOST or UNTOLD; for a damaged file UNTOLD."""
    try:
        return JUDGES[format_](data)
    except Exception:  # a stranger's file may be damaged in any way
        return UNTOLD


def _jpeg(data: bytes) -> str:
    frame = jpeg_frame(data)
    return KEPT if frame is not None and frame.kind in LOSSLESS_JPEG else LOST


def _webp(data: bytes) -> str:
    kinds = {kind for kind, _ in _frames(data[12:])}
    return LOST if b"VP8 " in kinds else KEPT if b"VP8L" in kinds else UNTOLD


def _frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a RIFF file, those inside a frame of an animation (ANMF) in its place."""
    position = 0
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        content = data[position + 8 : position + 8 + size]
        if kind == b"ANMF":
            yield from _frames(content[16:])
        else:
            yield kind, content
        position += 8 + size + size % 2


def _avif(data: bytes) -> str:
    meta = dict(read_boxes(data)).get(b"meta")
    if meta is None:
        return UNTOLD
    properties = dict(read_boxes(bytes(dict(read_boxes(bytes(meta[4:])))[b"iprp"])))[b"ipco"]
    for kind, content in read_boxes(bytes(properties)):
        if kind == b"colr" and bytes(content[:4]) == b"nclx":
            return UNTOLD if int.from_bytes(content[8:10], "big") in EXACT_MATRICES else LOST
    return UNTOLD


def _jpeg_xl(data: bytes) -> str:
    if any(kind == b"jbrd" for kind, _ in read_boxes(data)) and not data.startswith(jpeg_xl.CODESTREAM):
        return LOST  # it holds a JPEG
    exact = jpeg_xl.read_header(data).is_lossless
    return UNTOLD if exact is None else KEPT if exact else LOST


def _jpeg_2000(data: bytes) -> str:
    start = data.find(jpeg_2000.CODESTREAM)
    position = start + 2
    while start >= 0 and data[position : position + 2] not in (jpeg_2000.FIRST_TILE, b""):
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position : position + 2] == jpeg_2000.COMPONENT_TRANSFORM:
            return LOST if data[position + 13] != REVERSIBLE else UNTOLD  # the last byte of SPcod
        position += 2 + max(size, 2)
    return UNTOLD


def _tiff(data: bytes) -> str:
    number = tiff.read_page(data).number
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[number]
        compression = int(page.compression)
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if compression in TIFF_EXACT:
        return KEPT
    if compression not in TIFF_INNER:
        return UNTOLD
    states = {JUDGES[TIFF_INNER[compression]](data[start : start + size]) for start, size in places}
    return LOST if LOST in states else KEPT if states == {KEPT} else UNTOLD


JUDGES = {"jpeg": _jpeg, "webp": _webp, "avif": _avif, "jxl": _jpeg_xl, "tiff": _tiff}
JUDGES |= dict.fromkeys(("jp2", "j2k"), _jpeg_2000)
