"""Candidates in Parquet files: a column of encoded images, or a column of uris; the other columns travel beside them.

    image bytes   a binary column (img2dataset's jpg, png, webp; image, bytes, ...), or a struct {bytes, path}
    uris          a text column named uri, url, image_url, path, image_path or file_name

A row of bytes is the candidate `...parquet#row`. Rows of a unit follow each other, so a file is read forward once, some
rows at a time, and not again for every row.
"""

from __future__ import annotations

import base64
import datetime
import functools
import json
import math
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lucidflux_data.storage.folder import absolute_url, file_system

BYTES_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "img", "content", "data")
URI_COLUMNS = ("uri", "url", "image_url", "path", "image_path", "file_name")
ROWS_AT_A_TIME = 16  # encoded images of a batch
BATCHES_KEPT = 4  # of the last ones read: threads that decode ahead ask for rows a little out of order


@dataclass(frozen=True)
class Layout:
    """Where the images are: `column`, `kind` bytes | struct | uri; `others`: the columns that travel."""

    column: str
    kind: str
    others: tuple[str, ...]


def layout(schema: pa.Schema) -> Layout | None:
    """How a Parquet file holds images; None where it holds none."""
    kinds = {field.name: field.type for field in schema}
    others = tuple(name for name, kind in kinds.items() if _is_plain(kind))
    for name in [*BYTES_COLUMNS, *kinds]:
        kind = kinds.get(name)
        if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return Layout(name, "struct", others)
        if kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) and name in BYTES_COLUMNS:
            return Layout(name, "bytes", others)
    for name in URI_COLUMNS:
        if name in kinds and (pa.types.is_string(kinds[name]) or pa.types.is_large_string(kinds[name])):
            return Layout(name, "uri", tuple(other for other in others if other != name))
    return None


def _is_plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def rows(url: str) -> Iterator[tuple[str, str, str | None]]:
    """(uri, name, side json) of every row that has an image; nothing at all where the file holds none.

    A relative uri is relative to the folder of the Parquet file. pa.ArrowInvalid for a damaged file.
    """
    with file_system(url).open(url, "rb") as file:
        table = pq.ParquetFile(file)
        found = layout(table.schema_arrow)
        if found is None:
            return
        folder = url.rsplit("/", 1)[0]
        wanted = [*found.others, *([found.column] if found.kind == "uri" else [])]
        number = 0
        for batch in table.iter_batches(batch_size=4096, columns=wanted):
            if not wanted:
                break
            for row in batch.to_pylist():
                uri = row.pop(found.column) if found.kind == "uri" else f"{url}#{number}"
                side = _side(row)
                if found.kind != "uri":
                    yield uri, f"{number:09d}", side
                elif uri:
                    local = uri if uri.startswith("/") else f"{folder}/{uri}"
                    absolute = uri if "://" in uri else absolute_url(local)
                    yield absolute, uri, side
                number += 1
        if not wanted:
            yield from ((f"{url}#{row}", f"{row:09d}", None) for row in range(table.metadata.num_rows))


def _side(row: dict[str, Any]) -> str | None:
    kept = {name: _plain(value) for name, value in row.items() if value is not None}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False) if kept else None


def _plain(value: Any) -> Any:
    """What JSON has no word for, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, (datetime.date, datetime.datetime, datetime.time)):
        return value.isoformat()
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def sides_by_key(url: str) -> dict[str, str]:
    """img2dataset's Parquet twin of a tar: the side json of each `key`. {} for a file without that column."""
    with file_system(url).open(url, "rb") as file:
        table = pq.ParquetFile(file)
        names = [field.name for field in table.schema_arrow if _is_plain(field.type)]
        if "key" not in names:
            return {}
        sides = {}
        for batch in table.iter_batches(batch_size=4096, columns=names):
            for row in batch.to_pylist():
                sides[str(row["key"])] = _side(row) or "{}"
        return sides


class _Cursor:
    """Reads one Parquet file forward, for all threads of a process: one at a time. A row before those that are kept
    starts its row group again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.file = file_system(url).open(url, "rb")
        self.table = pq.ParquetFile(self.file)
        found = layout(self.table.schema_arrow)
        assert found is not None, "only files that hold images are listed"
        self.layout = found
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, pa.RecordBatch]] = deque(maxlen=BATCHES_KEPT)  # number of its first row, batch
        self._end = 0  # the row after the last one read
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def read(self, row: int) -> bytes | None:
        with self._lock:
            first = self._kept[0][0] if self._kept else self._end
            if row < first or row >= self._end + 64 * ROWS_AT_A_TIME or not self._kept:
                self._seek(row)
            while row >= self._end:
                batch = next(self._batches)
                self._kept.append((self._end, batch))
                self._end += len(batch)
            start, batch = next(kept for kept in reversed(self._kept) if kept[0] <= row)
            value = batch.column(0)[row - start].as_py()
        return value["bytes"] if isinstance(value, dict) else value

    def _seek(self, row: int) -> None:
        """To the start of the row group that holds `row`."""
        first, group = 0, 0
        sizes = [self.table.metadata.row_group(i).num_rows for i in range(self.table.num_row_groups)]
        while row >= first + sizes[group]:
            first, group = first + sizes[group], group + 1
        self._kept.clear()
        self._end = first
        self._batches = self.table.iter_batches(
            ROWS_AT_A_TIME, row_groups=list(range(group, len(sizes))), columns=[self.layout.column]
        )


@functools.lru_cache(maxsize=2)
def _cursor(url: str) -> _Cursor:
    return _Cursor(url)


def read_row(url: str, row: int) -> bytes | None:
    """The encoded bytes in a row; None where the row has no image. An error lets go of the open file."""
    try:
        return _cursor(url).read(row)
    except Exception:
        _cursor.cache_clear()
        raise
