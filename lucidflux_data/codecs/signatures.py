"""What encoded bytes are, told from the bytes alone: formats by signature, the parts of a PNG and of a JPEG."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from lucidflux_data.errors import ImageError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What decides pixels, or is asked for; everything else in a PNG is text, times and hints.
PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf"}
    | {b"acTL", b"fcTL", b"fdAT"}
)
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
# Formats that people have and that no decoder here reads: signature at a position, name.
UNREAD = (
    (0, b"8BPS", "Photoshop"),
    (0, b"%PDF", "PDF"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"DDS ", "DDS"),
    (0, b"FUJIFILMCCD-RAW", "Fujifilm raw"),
    (0, b"IIRO", "Olympus raw"),
    (0, b"IIU\0", "Panasonic raw"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"\0\0\x01\0", "ICO"),
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def read_boxes(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """(type, content) of each box of ISO base media, as in JPEG 2000 and JPEG XL files; the last one may be cut.

    ImageError `unreadable` for a box that is shorter than its own header.
    """
    position = 0
    while position + 8 <= len(data):
        size, kind, start = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8], 8
        if size == 1:
            size, start = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        end = position + size if size else len(data)
        if size and size < start:
            raise ImageError("unreadable", "the header is damaged")
        yield bytes(kind), memoryview(data)[position + start : end]
        position = end


def name_unread(data: bytes) -> str | None:
    """The name of a format that is known and not read; None for all others."""
    for position, mark, name in UNREAD:
        if data[position : position + len(mark)] == mark:
            return name
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS and b"avif" not in data[8:40]:
        return "HEIC"
    if data[4:8] == b"ftyp" and data[8:11] == b"crx":
        return "Canon raw"
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return "SVG" if start.startswith((b"<svg", b"<?xml")) and b"<svg" in data[:4096].lower() else None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(type, content, whether its CRC is right) of each chunk of a PNG, up to the end or to the first cut one."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + size]
        crc = data[position + 8 + size : position + 12 + size]
        if len(content) < size or len(crc) < 4:
            return
        yield kind, content, zlib.crc32(kind + content) == int.from_bytes(crc, "big")
        position += 12 + size
        if kind == b"IEND":
            return


def clean_png(data: bytes) -> bytes:
    """A PNG without text, and without ancillary chunks whose CRC is wrong: what libpng reads of it."""
    parts = [PNG_SIGNATURE]
    for kind, content, right in png_chunks(data):
        critical = kind[:1].isupper()
        if kind in PNG_KEPT and (right or critical):
            crc = zlib.crc32(kind + content) if right else zlib.crc32(kind + content) ^ 1
            parts += [len(content).to_bytes(4, "big"), kind, content, crc.to_bytes(4, "big")]
    return b"".join(parts)


def png_transparency(data: bytes) -> tuple[int, ...] | None:
    """The sample values of the colour that a grey or RGB PNG declares transparent (tRNS, at the depth of the file)."""
    for kind, content, right in png_chunks(data):
        if kind == b"tRNS" and right and len(content) in (2, 6):
            return tuple(int.from_bytes(content[k : k + 2], "big") for k in range(0, len(content), 2))
        if kind == b"IDAT":
            return None
    return None


class JpegFrame(NamedTuple):
    """`kind`: the last digit of the SOF marker. `refined`: every coefficient of every component came to full depth."""

    kind: int
    precision: int
    refined: bool


def jpeg_frame(data: bytes) -> JpegFrame | None:
    """The frame header of a JPEG; None where there is none."""
    position, kind, precision = 2, -1, 0
    full: dict[int, set[int]] = {}
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            position = data.find(b"\xff", position)
            if position < 0:
                break
            continue
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xD9:
            break
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            position += 2
            continue
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + size]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(body) >= 6:
            kind, precision = marker & 15, body[0]
            full = {body[6 + 3 * k]: set() for k in range(body[5]) if 6 + 3 * k < len(body)}
        if marker == 0xDA and len(body) >= 2 * body[0] + 4:
            first, last, approximation = body[2 * body[0] + 1 : 2 * body[0] + 4]
            for k in range(body[0]):
                if approximation & 15 == 0:
                    full.setdefault(body[1 + 2 * k], set()).update(range(first, min(last, 63) + 1))
        position += 2 + max(size, 2)
    if kind < 0:
        return None
    return JpegFrame(kind, precision, bool(full) and all(len(done) == 64 for done in full.values()))


JPEG_TAIL = 64 << 10  # bytes in which the end marker is looked for first


def has_jpeg_end(data: bytes) -> bool:
    """Whether the end marker of a JPEG follows its first scan; that of a small picture inside EXIF does not count."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        if data[position + 1] == 0xFF:
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return data.rfind(b"\xff\xd9", max(position, len(data) - JPEG_TAIL)) >= 0 or data.find(b"\xff\xd9", position) >= 0


JPEG_CODINGS = {3: "lossless", 5: "hierarchical", 6: "hierarchical", 7: "lossless", 11: "lossless", 13: "hierarchical"}


def name_unread_jpeg(data: bytes) -> str | None:
    """`lossless JPEG of 16 bits`, for a coding or a depth that is not read; None for others, and what is no JPEG."""
    frame = jpeg_frame(data) if data[:3] == b"\xff\xd8\xff" else None
    if frame is None or (frame.precision == 8 and frame.kind not in JPEG_CODINGS):
        return None
    coding = f"{JPEG_CODINGS[frame.kind]} " if frame.kind in JPEG_CODINGS else ""
    return f"{coding}JPEG of {frame.precision} bits"


def ends_early(data: bytes) -> bool:
    """Whether a file whose header could not be parsed announces more bytes than there are."""
    if data[:3] == b"\xff\xd8\xff":
        return b"\xff\xd9" not in data[-64:]
    if data[:8] == PNG_SIGNATURE:
        return b"IEND" not in data[-64:]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[4:8] == b"ftyp" and (b"avif" in data[8:40] or data[8:12] in HEIF_BRANDS):
        position = 0
        while position + 8 <= len(data):  # ISO base media boxes: 32-bit size, then type
            position += int.from_bytes(data[position : position + 4], "big") or len(data)
        return position != len(data)
    return False
