"""Takes everything out of an encoded image that does not make its pixels: JPEG, PNG and WebP.

A list says what stays, so that what nobody thought of goes: the structure of the picture, its colour (ICC and such),
its resolution, and an Exif block made anew that holds the orientation alone; with "gps" and without "author" the
copyright notice too. Text, XMP, IPTC, comments, previews and whatever follows the picture go. Not a pixel changes.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from typing import TypedDict

import pyarrow as pa
from PIL import Image, ImageCms

from lucidflux_data.codecs.header import Header
from lucidflux_data.images import ImageError, probe
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

# Raised whenever `strip` gives other bytes. 1, of 0.1, had a list of what goes; 2 kept chunks of a wrong length,
# profiles that are none, and what follows the picture inside its own chunks.
STRIP_VERSION = 3
FILE = "stripped.parquet"
VERSION = "strip_version"  # in the metadata of the file
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # of the source
        pa.field("packed_key", pa.string(), nullable=False),
        pa.field("packed_bytes", pa.int64(), nullable=False),
    ]
)
FORMATS = ("jpeg", "png", "webp")  # that are looked into

ORIENTATION, COPYRIGHT = 0x0112, 0x8298  # Exif 2.3
SHORT, ASCII = 3, 2  # types of TIFF 6.0
MAX_COPYRIGHT = 60_000  # bytes; a JPEG segment holds 65,533
EXIF_HEAD = b"Exif\0\0"

SOI, EOI, SOS = b"\xff\xd8", 0xD9, 0xDA
JFIF_BYTES, ADOBE_BYTES = 14, 12  # without the preview that may follow in the same segment
ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and RST have no length
STRUCTURE = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xE0)})  # SOF, DHT, DAC, SOS, DQT, DNL, DRI, DHP, EXP
END_OF_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # FF00 is a coded FF; RST belongs to the scan

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"pHYs"}
    | {b"bKGD", b"acTL", b"fcTL", b"fdAT"}
)
# Bytes of the chunks that have a fixed size, and the most of others; decoders pass over one of another length.
PNG_BYTES = {
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"cICP": 4,
    b"pHYs": 9,
    b"acTL": 8,
    b"fcTL": 26,
    b"IHDR": 13,
    b"IEND": 0,
}
PNG_MOST = {b"sBIT": 4, b"bKGD": 6}
PALETTE, CLEAR_BYTES = 3, {0: 2, 2: 6}  # colour type with a palette; bytes of tRNS by colour type
DNL, DNL_BYTES = 0xDC, 2
INFLATED = 1 << 20  # bytes at a time in the search for the end of a PNG's picture
WEBP_FRAME = frozenset({b"VP8 ", b"VP8L", b"ALPH"})
WEBP_CHUNKS = WEBP_FRAME | {b"VP8X", b"ANIM", b"ANMF", b"ICCP"}
ANMF_HEAD = 16  # bytes of a frame's place and duration before its chunks
HAS_PROFILE, HAS_EXIF, HAS_XMP = 32, 8, 4  # flags of VP8X


def strip(data: bytes, what: Collection[str]) -> bytes:
    """`data` with nothing but what may stay; the very bytes where there is nothing else, and where `what` is empty.

    what: "gps" (the copyright notice in Exif stays), "author" (it goes), or both. Stripping twice changes nothing more.
    Raises ImageError where the format is not looked into, or the structure cannot be followed.
    """
    if not what:
        return data
    if data.startswith(SOI):
        return _strip_jpeg(data, what)
    if data.startswith(PNG_SIGNATURE):
        return _strip_png(data, what)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _strip_webp(data, what)
    raise ImageError("unreadable", f"--strip looks into {', '.join(FORMATS)} alone")


def _has_profile(header: Header) -> bool:
    """Whether what stands as an ICC profile is one; anything can be laid there, and decoders pass over it."""
    if header.icc is None:
        return header.colours is not None  # named by number, before any profile
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(header.icc))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False
    return True


def _make_exif(turned: int, old: bytes, what: Collection[str]) -> bytes:
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


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _strip_jpeg(data: bytes, what: Collection[str]) -> bytes:
    head: list[bytes] = []
    rest: list[bytes] = []
    exif, header = b"", probe(data, max_pixels=2**62)
    profile = _has_profile(header)
    for marker, body, scan in _read_jpeg(data):
        if marker == 0xE1 and body.startswith(EXIF_HEAD) and not exif:
            exif = body
        elif marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= JFIF_BYTES:
            (rest if rest else head).append(_segment(marker, body[: JFIF_BYTES - 2] + bytes(2)))
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= ADOBE_BYTES:
            rest.append(_segment(marker, body[:ADOBE_BYTES]))
        elif marker == DNL and len(body) != DNL_BYTES:
            continue
        elif marker in STRUCTURE or (profile and marker == 0xE2 and body.startswith(b"ICC_PROFILE\0")):
            rest += [_segment(marker, body), scan]
        elif marker == EOI:
            rest.append(b"\xff\xd9")
    new = _make_exif(header.orientation, exif, what)
    head += [_segment(0xE1, EXIF_HEAD + new)] if new else []
    return b"".join([SOI, *head, *rest])


def _read_jpeg(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(marker, body, coded data behind it) of each segment up to and with EOI, over fill and stray bytes."""
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            return
        while data[position : position + 1] == b"\xff":
            position += 1
        if position >= len(data):
            return
        marker = data[position]
        position += 1
        if marker == 0 or marker in ALONE or marker == SOI[1]:
            continue
        if marker == EOI:
            yield marker, b"", b""
            return
        size = int.from_bytes(data[position : position + 2], "big")
        if size < 2 or position + size > len(data):
            raise ImageError("unreadable", f"its JPEG segment at byte {position} does not end")
        body = data[position + 2 : position + size]
        position += size
        scan = b""
        if marker == SOS:
            found = END_OF_SCAN.search(data, position)
            end = found.start() if found else len(data)
            scan, position = data[position:end], end
        yield marker, body, scan


def _strip_png(data: bytes, what: Collection[str]) -> bytes:
    parts, position, exif, first = [PNG_SIGNATURE], 8, b"", 0
    header, picture = probe(data, max_pixels=2**62), zlib.decompressobj()
    profile = _has_profile(header)
    while position + 12 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        if position + 12 + size > len(data):
            raise ImageError("unreadable", f"its PNG chunk at byte {position} does not end")
        body = data[position + 8 : position + 8 + size]
        if kind == b"IDAT" and not first:
            first = len(parts)
        if kind == b"eXIf":
            exif = body
        elif kind == b"IDAT":
            left = _without_tail(picture, body)
            parts.append(data[position : position + 12 + size] if left == size else _png_chunk(kind, body[:left]))
        elif kind == b"IEND":
            parts.append(_png_chunk(kind, b""))
        elif kind in PNG_CHUNKS and (profile or kind != b"iCCP") and _is_of_its_size(kind, size, data[25]):
            parts.append(data[position : position + 12 + size])
        position += 12 + size
        if kind == b"IEND":
            break
    else:
        raise ImageError("unreadable", "its PNG chunks end without IEND")
    new = _make_exif(header.orientation, exif, what)
    if new:
        parts.insert(first, _png_chunk(b"eXIf", new))
    return b"".join(parts)


def _is_of_its_size(kind: bytes, size: int, colour: int) -> bool:
    """`colour`: the colour type of the PNG. A palette beside RGB is a hint, and decides no pixel."""
    if kind in (b"PLTE", b"tRNS") and colour == PALETTE:
        return size <= (768 if kind == b"PLTE" else 256)
    if kind == b"PLTE":
        return False
    wanted = CLEAR_BYTES.get(colour, 0) if kind == b"tRNS" else PNG_BYTES.get(kind, size)
    return wanted == size <= PNG_MOST.get(kind, size)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _without_tail(picture: zlib._Decompress, body: bytes) -> int:
    """How many bytes of the next IDAT chunk belong to the picture. ImageError `unreadable` where it is damaged."""
    if picture.eof:
        return 0
    rest = body
    try:
        while rest and not picture.eof:
            picture.decompress(rest, INFLATED)
            rest = picture.unconsumed_tail
    except zlib.error:
        raise ImageError("unreadable", "its picture data are damaged") from None
    return len(body) - len(picture.unused_data)


def _strip_webp(data: bytes, what: Collection[str]) -> bytes:
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    chunks = list(_read_riff(data[12:end]))
    exif = next((body for kind, body in chunks if kind == b"EXIF"), b"")
    header = probe(data, max_pixels=2**62)
    profile = _has_profile(header)
    new = _make_exif(header.orientation, exif, what) if any(kind == b"VP8X" for kind, _ in chunks) else b""
    parts = []
    for kind, body in chunks:
        if kind not in WEBP_CHUNKS or (kind == b"ICCP" and not profile):
            continue
        if kind == b"VP8X" and body:
            gone = HAS_EXIF | HAS_XMP | (0 if profile else HAS_PROFILE)
            body = bytes([body[0] & ~gone | (HAS_EXIF if new else 0)]) + body[1:]
        elif kind == b"ANMF":
            inside = [(name, part) for name, part in _read_riff(body[ANMF_HEAD:]) if name in WEBP_FRAME]
            body = body[:ANMF_HEAD] + b"".join(_chunk(name, part) for name, part in inside)
        parts.append(_chunk(kind, body))
    content = b"".join(parts) + (_chunk(b"EXIF", new) if new else b"")
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content


def _read_riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + size > len(data):
            raise ImageError("unreadable", f"its WebP chunk at byte {position} does not end")
        yield kind, data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


class StrippedRow(TypedDict):
    """A row of SCHEMA: an image that packing changes. `key`: of the source; `packed_key`, `packed_bytes`: the key and
    the size in bytes of what is packed."""

    key: str
    packed_key: str
    packed_bytes: int


def read_stripped(folder: Folder, name: str = FILE) -> dict[str, StrippedRow]:
    """The rows by the source's key; {} where packing changes nothing. `name`: another file of this kind."""
    if not folder.exists(name):
        return {}
    return {row["key"]: row for row in folder.read_table(name).to_pylist()}


def packed_keys(folder: Folder) -> dict[str, str]:
    """The new key of each image that has one, by its source's key."""
    return {key: row["packed_key"] for key, row in read_stripped(folder).items()}


def is_of(folder: Folder, made_of: str) -> bool:
    """Whether the file is there and was made of this ledger and these tags."""
    return folder.exists(FILE) and shards.read_index_metadata(folder, FILE).get("made_of") == made_of


def read_version(folder: Folder) -> int | None:
    """The STRIP_VERSION that made what is in the folder, None where nothing is stripped there."""
    if folder.exists(FILE):
        return int(shards.read_index_metadata(folder, FILE).get(VERSION, 1))
    if folder.exists(shards.MANIFEST):
        stripped = parse_json(folder.read(shards.MANIFEST)).get("stripped")
        return stripped.get("version", 1) if stripped else None
    return None


def is_dropped(row: Mapping[str, object], manifest: shards.Manifest) -> bool:
    """Whether a kept row of the ledger (format) was left out of the shards, by the manifest's own words."""
    card = manifest.get("stripped")
    return card is not None and card.get("unsupported") == "drop" and row["format"] not in FORMATS
