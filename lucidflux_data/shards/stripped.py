"""The names of images whose bytes packing changes: a key is of the bytes that a shard holds.

RUN/stripped.parquet has a row for each such image. The ledger keeps the keys of the sources; the shards, and pairs made
of them, have the new ones and say nothing of the old.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

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
