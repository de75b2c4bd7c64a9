"""Takes everything out of an encoded image that does not make its pixels: JPEG, PNG and WebP.

A list says what stays, and where, so that what nobody thought of goes: the structure of the picture, its colour (ICC
and such), its resolution, and an Exif block made anew that holds the orientation alone; with "gps" and without "author"
the copyright notice too. Text, XMP, IPTC, comments, previews, whatever follows the picture, and parts that no decoder
of the picture reads go. Not a pixel changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypedDict

import pyarrow as pa

from lucidflux_data.errors import ImageError
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.strip_jpeg import SOI, strip_jpeg
from lucidflux_data.shards.strip_png import PNG_SIGNATURE, strip_png
from lucidflux_data.shards.strip_webp import strip_webp
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

# Raised whenever `strip` gives other bytes. 1, of 0.1, had a list of what goes; 2 kept chunks of a wrong length,
# profiles that are none, and what follows the picture inside its own chunks. 3 kept parts that
# may stay where no decoder reads them: reserved JPEG markers, frames of what does not move, what comes twice or late.
STRIP_VERSION = 4
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


def strip(data: bytes, what: Collection[str]) -> bytes:
    """`data` with nothing but what may stay; the very bytes where there is nothing else, and where `what` is empty.

    what: "gps" (the copyright notice in Exif stays), "author" (it goes), or both. Stripping twice changes nothing more.
    Raises ImageError where the format is not looked into, or the structure cannot be followed.
    """
    if not what:
        return data
    if data.startswith(SOI):
        return strip_jpeg(data, what)
    if data.startswith(PNG_SIGNATURE):
        return strip_png(data, what)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return strip_webp(data, what)
    raise ImageError("unreadable", f"--strip looks into {', '.join(FORMATS)} alone")


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
