"""Takes location and author tags out of an encoded image without touching a pixel: JPEG, PNG and WebP.

Exif tags are removed one by one (orientation and colour stay as they are); an XMP or IPTC block that names a place or a
person is removed whole. Other formats come back as they are.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from typing import Any

import pyarrow as pa
from PIL import Image

from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder

FILE = "stripped.parquet"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # of the source
        pa.field("packed_key", pa.string(), nullable=False),
        pa.field("packed_bytes", pa.int64(), nullable=False),
    ]
)


GPS_IFD, EXIF_IFD = 0x8825, 0x8769
AUTHOR_TAGS = (0x013B, 0x9C9D)  # Artist, XPAuthor; the copyright notice stays: a licence may ask for it
OWNER_TAGS = (0xA430, 0xA431)  # CameraOwnerName, BodySerialNumber
FORMATS = ("jpeg", "png", "webp")  # that are looked into
XMP = b"http://ns.adobe.com/xap/1.0/\0"
WORDS = {
    "gps": (b"exif:GPS", b"GPSLatitude"),
    "author": (b"dc:creator", b"photoshop:AuthorsPosition", b"aux:OwnerName"),
}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def strip(data: bytes, what: Collection[str]) -> bytes:
    """`data` without the tags of `what` ("gps", "author"); the very bytes where it has none of them."""
    if data[:2] == b"\xff\xd8":
        return _strip_jpeg(data, what)
    if data.startswith(PNG_SIGNATURE):
        return _strip_png(data, what)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _strip_webp(data, what)
    return data


def _exif(payload: bytes, what: Collection[str]) -> bytes | None:
    """The Exif block without the tags, None where it had none of them. One that cannot be read is emptied."""
    exif = Image.Exif()
    try:
        exif.load(payload)
        found = "gps" in what and GPS_IFD in exif
        if found:
            del exif[GPS_IFD]
        if "author" in what:
            inner = exif.get_ifd(EXIF_IFD)
            for block, tags in ((exif, AUTHOR_TAGS), (inner, OWNER_TAGS)):
                for tag in tags:
                    if tag in block:
                        del block[tag]
                        found = True
        return exif.tobytes() if found else None
    except Exception:  # damaged Exif may hide what was asked to be gone
        return Image.Exif().tobytes()


def _names_one(block: bytes, what: Collection[str]) -> bool:
    return any(word in block for name in what for word in WORDS[name])


def _strip_jpeg(data: bytes, what: Collection[str]) -> bytes:
    """APP1 (Exif, XMP) and APP13 (IPTC) segments before the first scan."""
    parts, position = [data[:2]], 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xDA:
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        marker, body = data[position + 1], data[position + 4 : position + 2 + size]
        segment = data[position : position + 2 + size]
        position += 2 + size
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            changed = _exif(body, what)
            if changed is not None:
                segment = b"\xff\xe1" + struct.pack(">H", len(changed) + 2) + changed
        elif marker == 0xE1 and body.startswith(XMP):
            segment = b"" if _names_one(body, what) else segment
        elif marker == 0xED and "author" in what and b"8BIM\x04\x04" in body:
            segment = b""
        parts.append(segment)
    return b"".join([*parts, data[position:]])


def _strip_png(data: bytes, what: Collection[str]) -> bytes:
    parts, position = [PNG_SIGNATURE], 8
    while position + 12 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        body, chunk = data[position + 8 : position + 8 + size], data[position : position + 12 + size]
        position += 12 + size
        if kind == b"eXIf":
            changed = _exif(b"Exif\0\0" + body, what)
            if changed is not None:
                body = changed.removeprefix(b"Exif\0\0")
                chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        elif (
            kind == b"iTXt"
            and body.startswith(b"XML:com.adobe.xmp\0")
            and (body[18:19] == b"\1" or _names_one(body, what))
        ):
            continue  # a compressed one is not looked into
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and "author" in what and body.split(b"\0")[0] == b"Author":
            continue
        parts.append(chunk)
    return b"".join([*parts, data[position:]])


def _strip_webp(data: bytes, what: Collection[str]) -> bytes:
    parts, position, without_xmp = [], 12, False
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        body = data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
        if kind == b"EXIF":
            changed = _exif(body if body.startswith(b"Exif\0\0") else b"Exif\0\0" + body, what)
            body = body if changed is None else changed.removeprefix(b"Exif\0\0")
        elif kind == b"XMP " and _names_one(body, what):
            without_xmp = True
            continue
        parts.append((kind, body))
    if without_xmp:  # the extended header says which chunks follow: bit 2 is XMP
        parts = [(kind, bytes([body[0] & ~4]) + body[1:] if kind == b"VP8X" else body) for kind, body in parts]
    chunks = b"".join(kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for kind, body in parts)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def read_stripped(folder: Folder) -> dict[str, dict[str, Any]]:
    """The rows by the source's key; {} where packing changes nothing."""
    if not folder.exists(FILE):
        return {}
    return {row["key"]: row for row in folder.read_table(FILE).to_pylist()}


def packed_keys(folder: Folder) -> dict[str, str]:
    """The new key of each image that has one, by its source's key."""
    return {key: row["packed_key"] for key, row in read_stripped(folder).items()}


def is_of(folder: Folder, made_of: str) -> bool:
    """Whether the file is there and was made of this ledger and these tags."""
    return folder.exists(FILE) and shards.read_index_metadata(folder, FILE).get("made_of") == made_of
