"""The bytes of what is published: Parquet tables and canonical JSON. Equal content gives equal bytes.

A value that travels beside an image has one form in JSON, made by `make_portable` (docs/curation.md has the table):

    null, true, false, text          themselves; lone surrogates of a text as \\udNNN
    integers of 64 bits, signed      numbers; larger ones their digits as text
    floating point                   numbers; not-a-number and infinity are null
    decimals                         text
    dates, times                     ISO 8601 text, to the microsecond; a duration its seconds
    lists, structs, maps             lists and objects of the same; a map is a list of [key, value]
    bytes                            base64 text beside an image; no form as a column of the ledger
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import IO, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lucidflux_data.errors import InputError

ROWS_IN_GROUP = 1 << 17  # rows of a large table that are written or filtered at a time


def table_bytes(table: pa.Table) -> bytes:
    """Parquet bytes, equal for equal tables on one pyarrow version."""
    return _write_table(table, False)


def checked_bytes(table: pa.Table) -> bytes:
    """As `table_bytes`, with a checksum for each page, which readers compare: for files whose sha256 stands nowhere
    else (the inventory, units of scores and of inputs)."""
    return _write_table(table, True)


def _write_table(table: pa.Table, checksums: bool) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=checksums)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def parse_table(
    data: bytes, path: str, columns: list[str] | None = None, where: pc.Expression | None = None
) -> pa.Table:
    """The table of parquet bytes, or the rows of it for which `where` holds. InputError where they are damaged or lack
    a column, naming the file, `path`, and `verify --repair`."""
    # From memory and without read-ahead: arrow's I/O threads must never hold a Python file, which they would let
    # go of after the interpreter has begun to shut down (an abort, now and then, at the end of a good run).
    try:
        file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False, page_checksum_verification=True)
        if columns is not None and not set(columns) <= set(file.schema_arrow.names):
            raise pa.ArrowInvalid("a column is not there")
        if where is None:
            return file.read(columns, use_threads=False)
        batches = file.iter_batches(ROWS_IN_GROUP, columns=columns, use_threads=False)
        some = [pa.Table.from_batches([batch]).filter(where) for batch in batches]
        return pa.concat_tables(some) if some else file.read(columns)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise InputError(f"{path} is damaged: `lucidflux-data verify --repair` rebuilds it") from None


def read_schema(file: IO[bytes], path: str) -> pa.Schema:
    """The columns of a parquet file. Errors as of `parse_table`."""
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise InputError(f"{path} is damaged: `lucidflux-data verify --repair` rebuilds it") from None


def table_groups(file: IO[bytes], path: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of a parquet file, one of which is held at a time; nothing else of the file is read. Errors as of
    `parse_table`."""
    try:
        whole = pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
        if columns is not None and not set(columns) <= set(whole.schema_arrow.names):
            raise pa.ArrowInvalid("a column is not there")
        for number in range(whole.num_row_groups):
            yield whole.read_row_group(number, columns, use_threads=False)
        if whole.num_row_groups == 0:
            yield whole.read(columns, use_threads=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise InputError(f"{path} is damaged: `lucidflux-data verify --repair` rebuilds it") from None


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
    """A value in the form that it has in JSON (the table above); lists and dicts likewise."""
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
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def to_rows(table: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """As `to_pylist`, of whatever a file holds: nanoseconds are cut to microseconds, and a time that Python has no date
    for (year 10000, an unknown zone) is None."""
    names = table.schema.names
    columns = [_python_values(column) for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _python_values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)
    elif pa.types.is_duration(kind) and kind.unit == "ns":
        column = column.cast(pa.duration("us"), safe=False)
    try:
        values: list[Any] = column.to_pylist()
        return values
    except (OverflowError, ValueError, pa.ArrowException):
        return [_python_value(scalar) for scalar in column]


def _python_value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError, pa.ArrowException):
        return None


def find_unportable(kind: pa.DataType) -> str | None:
    """The type, the column's own or one inside it, that has no form in the json of a sample; None where all have."""
    if pa.types.is_dictionary(kind):
        return find_unportable(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return find_unportable(kind.storage_type)
    if pa.types.is_map(kind):
        return find_unportable(kind.key_type) or find_unportable(kind.item_type)
    if pa.types.is_struct(kind):
        return next(filter(None, (find_unportable(field.type) for field in kind)), None)
    if any(is_list(kind) for is_list in LISTS):
        return find_unportable(kind.value_type)
    return None if any(is_one(kind) for is_one in _PORTABLE) else str(kind)


LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_PORTABLE = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_temporal,
    pa.types.is_string,
    pa.types.is_large_string,
)


def canonical_json(content: Any) -> bytes:
    """Equal bytes for equal content: sorted names, UTF-8, one closing newline. Not-a-number is refused."""
    return (json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def indented_json(content: Any) -> bytes:
    """JSON for people to read: keys in their order, ASCII alone."""
    return (json.dumps(content, indent=1) + "\n").encode()


def parse_json(text: str | bytes) -> Any:
    """A JSON document of anybody. ValueError where it is none, or nests deeper than Python's parser goes."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def fits_type(value: object, kind: Any) -> bool:
    """Whether JSON has the form of a type: of a TypedDict, with all of its keys that are required and whatever further
    ones, or of what stands in one. For files that a stranger may have written."""
    if kind is Any or kind is object:
        return True
    if is_typeddict(kind):
        return isinstance(value, dict) and all(
            fits_type(value[name], of) if name in value else get_origin(of) is NotRequired
            for name, of in get_type_hints(kind, include_extras=True).items()
        )
    origin, inner = get_origin(kind), get_args(kind)
    if origin is NotRequired:
        return fits_type(value, inner[0])
    if origin in (Union, UnionType):
        return any(fits_type(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(fits_type(one, inner[1]) for one in value.values())
    if origin in (list, Sequence):
        return isinstance(value, list) and all(fits_type(one, inner[0]) for one in value)
    if kind in (int, float):
        return isinstance(value, (int,) if kind is int else (int, float)) and not isinstance(value, bool)
    return value is None if kind in (None, NoneType) else isinstance(value, kind)
