"""The bytes of what is published: Parquet tables and canonical JSON. Equal content gives equal bytes."""

from __future__ import annotations

import datetime
import io
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_IN_GROUP = 1 << 17  # rows of a large table that are written or filtered at a time


def table_bytes(table: pa.Table) -> bytes:
    """Parquet bytes, equal for equal tables on one pyarrow version."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def table_chunks(tables: Iterable[pa.Table], repeating: Iterable[str]) -> Iterator[bytes]:
    """A parquet file of many rows, a row group for each table, of which one is held at a time.

    `repeating`: the columns that are worth a dictionary.
    """
    sink, writer = _Chunks(), None
    for table in tables:
        if writer is None:
            writer = pq.ParquetWriter(sink, table.schema, compression="zstd", use_dictionary=list(repeating))
        writer.write_table(table)
        yield from sink.taken()
    if writer is not None:
        writer.close()
    yield from sink.taken()


class _Chunks(io.RawIOBase):
    """A file to write to, whose content is taken away as it grows."""

    def __init__(self) -> None:
        super().__init__()
        self._position = 0
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._chunks.append(bytes(data))
        self._position += len(self._chunks[-1])
        return len(self._chunks[-1])

    def tell(self) -> int:
        return self._position

    def taken(self) -> list[bytes]:
        taken, self._chunks = self._chunks, []
        return taken


def make_portable(value: Any) -> Any:
    """A value in the form that it has in JSON and in tables: not-a-number and infinity are null, integers beyond 64
    bits and decimals are text, times ISO 8601, lone surrogates escaped; lists and dicts likewise."""
    if isinstance(value, dict):
        return {make_portable(str(name)): make_portable(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [make_portable(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, (datetime.date, datetime.datetime, datetime.time)):
        return value.isoformat()
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def canonical_json(content: Any) -> bytes:
    """Equal bytes for equal content: sorted names, UTF-8, one closing newline. Not-a-number is refused."""
    return (json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()
