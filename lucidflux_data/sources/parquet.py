"""Candidates in Parquet files: a column of encoded images, or a column of uris; the other columns travel beside them.

    image bytes   a binary column (img2dataset's jpg, png, webp; image, bytes, ...), or a struct {bytes, path}, of which
                  the path counts where the bytes are null
    uris          a text column named uri, url, image_url, path, image_path or file_name

One column of images is read, an image a row: other columns that hold images, and lists of them, are named in a warning.

A row of bytes is the candidate `...parquet#row`. Rows of a unit follow each other, so a file is read forward once, some
rows at a time, and not again for every row.
"""

from __future__ import annotations

import functools
import json
import posixpath
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from lucidflux_data.images import ImageError
from lucidflux_data.sources.counts import Counts
from lucidflux_data.sources.ranges import open_object
from lucidflux_data.sources.sides import MAX_SIDE_BYTES
from lucidflux_data.sources.uris import NOT_ALLOWED, escape_text, escape_url, may_be_read, show_name
from lucidflux_data.storage.folder import absolute_url
from lucidflux_data.storage.formats import LISTS, make_portable, to_rows

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
    """How a Parquet file holds images; None where it holds none. Names count in any case, the exact one first."""
    kinds = {field.name: _value_type(field.type) for field in schema}
    plain = [name for name, kind in kinds.items() if _is_plain(kind)]
    by_name = {name.lower(): name for name in reversed(kinds)} | {name: name for name in kinds}
    named = {by_name[name]: None for name in BYTES_COLUMNS if name in by_name}
    for name in [*named, *kinds]:
        kind = kinds[name]
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _may_be_bytes(kind.field("bytes").type):
            return Layout(name, "struct", tuple(plain))
        if _is_bytes(kind) and name in named:
            return Layout(name, "bytes", tuple(other for other in plain if other != name))
    for name in URI_COLUMNS:
        column = by_name.get(name)
        if column is not None and _is_text(kinds[column]):
            return Layout(column, "uri", tuple(other for other in plain if other != column))
    return None


def unread_columns(schema: pa.Schema, found: Layout | None) -> list[str]:
    """The columns with images beside the one that is read: structs of bytes, lists, and what is named as images are."""
    return [
        field.name
        for field in schema
        if (found is None or field.name != found.column) and _holds_images(field.type, field.name.lower())
    ]


def _holds_images(kind: pa.DataType, name: str) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        if place >= 0 and _is_bytes(_value_type(kind.field(place).type)):
            return True
        return any(_holds_images(inner.type, inner.name.lower()) for inner in kind)
    if any(is_list(kind) for is_list in LISTS) or pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type, name)
    if pa.types.is_map(kind):
        return _holds_images(kind.item_type, name)
    return _is_long_bytes(kind) and (name in BYTES_COLUMNS or name.removesuffix("s") in BYTES_COLUMNS)


def _warn_of_unread(url: str, schema: pa.Schema, found: Layout | None, counts: Counts) -> None:
    """One warning for each set of such columns in a source, however many files have it."""
    unread = unread_columns(schema, found)
    if unread and tuple(unread) not in counts.unread:
        counts.unread.add(tuple(unread))
        names = ", ".join(map(show_name, unread))
        read = f"one column of images is read, an image a row (here {found.column})" if found else "an image a row is"
        message = f"images that {names} may hold are not read: {read}"
        counts.warnings.append(f"{show_name(url.removeprefix('file://'))}: {message}")


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    text: bool = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return text


def _is_long_bytes(kind: pa.DataType) -> bool:
    long: bool = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return long


def _is_bytes(kind: pa.DataType) -> bool:
    return _is_long_bytes(kind) or pa.types.is_fixed_size_binary(kind)


def _may_be_bytes(kind: pa.DataType) -> bool:
    """A column in which every row is null has no type."""
    return _is_bytes(_value_type(kind)) or pa.types.is_null(kind)


def _is_plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or _is_long_bytes(kind))


def rows(url: str, counts: Counts) -> Iterator[tuple[str, str, str | None, int]]:
    """(uri, name, side json, offset: -1, or NOT_ALLOWED) of every row that has an image; nothing at
    all where the file holds none.

    A relative uri is relative to the folder of the Parquet file. Rows without a uri are counted. pa.ArrowException or
    OSError for a damaged file.
    """
    with open_object(url) as file:
        table = pq.ParquetFile(file, page_checksum_verification=True)
        found = layout(table.schema_arrow)
        _warn_of_unread(url, table.schema_arrow, found, counts)
        if found is None:
            return
        folder = url.rsplit("/", 1)[0]
        wanted = [*found.others, *([found.column] if found.kind == "uri" else [])]
        number = 0
        for batch in table.iter_batches(batch_size=4096, columns=wanted, use_threads=False):
            if not wanted:
                break
            for row in to_rows(batch):
                uri = row.pop(found.column) if found.kind == "uri" else f"{escape_url(url)}#{number}"
                side = side_json(row)
                if found.kind != "uri":
                    yield uri, f"{number:09d}", side, -1
                elif uri:
                    named = absolute_uri(uri, folder)
                    yield named, show_name(uri), side, -1 if may_be_read(named, url, counts.source) else NOT_ALLOWED
                else:
                    counts.ignored["null_rows"] += 1
                number += 1
        if not wanted:
            yield from ((f"{escape_url(url)}#{row}", f"{row:09d}", None, -1) for row in range(table.metadata.num_rows))


def absolute_uri(uri: str, folder: str) -> str:
    """A uri as it stands, a path as the uri it has seen from the folder of the Parquet file."""
    if "://" in uri:
        return uri
    local = escape_text(uri)
    protocol, _, place = escape_url(folder).partition("://")
    if protocol not in ("file", "http", "https") and {".", ".."} & set(local.split("/")):  # a store has no such folders
        return f"{protocol}://{posixpath.normpath(f'{place}/{local}')}"
    return absolute_url(local if local.startswith("/") else f"{escape_url(folder)}/{local}")


def side_json(row: dict[str, object]) -> str | None:
    """The columns of a row that hold something, as json; None where none does, or they are too large for side data."""
    kept = {name: make_portable(value) for name, value in row.items() if value is not None}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False) if kept else None
    return text if text is None or len(text) <= MAX_SIDE_BYTES else None


def sides_by_key(url: str) -> dict[str, str]:
    """img2dataset's Parquet twin of a tar: the side json of each `key`. {} for a file without that column."""
    with open_object(url) as file:
        table = pq.ParquetFile(file, page_checksum_verification=True)
        names = [field.name for field in table.schema_arrow if _is_plain(_value_type(field.type))]
        if "key" not in names:
            return {}
        sides = {}
        for batch in table.iter_batches(batch_size=4096, columns=names, use_threads=False):
            for row in to_rows(batch):
                sides[str(row["key"])] = side_json(row) or "{}"
        return sides


class _Cursor:
    """Reads one Parquet file forward, for all threads of a process: one at a time. A row before those that are kept
    starts its row group again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.file = open_object(url)
        self.table = pq.ParquetFile(self.file, page_checksum_verification=True)
        found = layout(self.table.schema_arrow)
        if found is None or found.kind == "uri":  # a file of another time, or a uri that somebody wrote down
            raise ImageError("unreadable", "the Parquet file has no column of images")
        self.layout = found
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, pa.RecordBatch]] = deque(maxlen=BATCHES_KEPT)  # number of its first row, batch
        self._end = 0  # the row after the last one read
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def read(self, row: int) -> bytes | str | None:
        if row >= self.table.metadata.num_rows:
            raise ImageError("missing", "the Parquet file has no such row")
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
        if isinstance(value, dict):
            return value["bytes"] if value["bytes"] is not None else value.get("path")
        plain: bytes | str | None = value
        return plain

    def _seek(self, row: int) -> None:
        """To the start of the row group that holds `row`."""
        first, group = 0, 0
        sizes = [self.table.metadata.row_group(i).num_rows for i in range(self.table.num_row_groups)]
        while row >= first + sizes[group]:
            first, group = first + sizes[group], group + 1
        self._kept.clear()
        self._end = first
        self._batches = self.table.iter_batches(
            ROWS_AT_A_TIME,
            row_groups=list(range(group, len(sizes))),
            columns=[self.layout.column],
            use_threads=False,
        )


@functools.lru_cache(maxsize=2)
def _cursor(url: str) -> _Cursor:
    return _Cursor(url)


def read_row(url: str, row: int) -> bytes | str | None:
    """The encoded bytes in a row; where a struct has only a path, that; None where the row has no image. An error lets
    go of the open file."""
    try:
        return _cursor(url).read(row)
    except Exception:
        _cursor.cache_clear()
        raise
