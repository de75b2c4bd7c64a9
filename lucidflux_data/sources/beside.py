"""What stands beside the images of a folder, on this machine or in a store: img2dataset's `files` output, and Hugging
Face's ImageFolder.

00000/000000000.jpg, .json    00000.parquet                  the row of the same `key`, or the json
train/a.jpg                   train/metadata.parquet         the row whose `file_name` names the image, also in a
                              (or .csv, .jsonl)              folder below
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from lucidflux_data.sources.counts import Counts
from lucidflux_data.sources.parquet import absolute_uri, side_json, sides_by_key
from lucidflux_data.sources.sides import MAX_SIDE_BYTES, is_deep, side_text
from lucidflux_data.sources.tars import is_image_name
from lucidflux_data.sources.uris import show_name
from lucidflux_data.storage.folder import file_system
from lucidflux_data.storage.formats import to_rows

METADATA = ("metadata.parquet", "metadata.csv", "metadata.jsonl")
NAME_COLUMN = "file_name"
# Cells of a csv: a number as JSON has it, also `.5` and `5.`, but no leading zero or plus, which say that it is a name
# (`007`, `+49 30`). Without a decimal point or an exponent it is an integer.
NUMBER = r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|-?(?:inf|Inf|infinity|Infinity)"
TRUE_OR_FALSE = r"(?i)true|false"
NOTHING = ("NaN", "nan", "NA", "N/A", "n/a", "null", "NULL")  # in a column of numbers alone; elsewhere they are text
LONGEST = 20  # characters of an integer of 64 bits
NAMELESS = f"has no column called {NAME_COLUMN}: it gives the images nothing"
UNEVEN = "rows with more or fewer cells than its header: they are left out"
MAX_TABLE_BYTES = 2 << 30  # of metadata.parquet and metadata.csv


@dataclass
class Beside:
    """`root`: url of the source; all other urls are below it. `labels`: side json by the uri of an image, of all
    metadata files met so far. `names`: their source key by uri. `used`: the uris of images that were met. `twins`: urls
    of folders whose table was met."""

    root: str
    counts: Counts
    labels: dict[str, str | None] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    twins: set[str] = field(default_factory=set)

    def enter(self, folder: str, folders: Collection[str], files: Collection[str]) -> tuple[list[str], dict[str, str]]:
        """The files of a folder (a url, with the names in it) that are sources of their own, and img2dataset's columns
        by the key of an image. Sorted, so that warnings come in one order. A folder is entered before those in it."""
        taken = {name for name in METADATA if name in files and self._take_metadata(folder, name)}
        sides = self._sides_of_folder(folder)
        if sides is not None:
            keys = {os.path.splitext(name)[0] for name in files if is_image_name(name)}
            jsons = {name for name in files if name.endswith(".json") and name[: -len(".json")] in keys}
            for name in sorted(jsons - {f"{key}.json" for key in sides}):
                side = _read_side(f"{folder}/{name}")
                if side is not None:
                    sides[name[: -len(".json")]] = side
            taken |= jsons
        for name in files:
            stem, extension = os.path.splitext(name)
            if extension == ".parquet" and stem in folders and name not in taken and is_table(f"{folder}/{name}"):
                self.counts.ignored["other_files"] += 1
                taken.add(name)
                self.twins.add(f"{folder}/{stem}")
        return sorted(set(files) - taken), sides or {}

    def side(self, uri: str, key: str, sides: dict[str, str]) -> str | None:
        """What stands beside an image; it counts as met."""
        self.used.add(uri)
        return self.labels.get(uri) or sides.get(key)

    def left(self) -> Iterator[tuple[str, str, str | None]]:
        """(uri, source key, side) of the rows whose image was not met: `missing`, where it is not elsewhere."""
        for uri, name in self.names.items():
            if uri not in self.used:
                yield uri, name, self.labels[uri]

    def _sides_of_folder(self, folder: str) -> dict[str, str] | None:
        """The columns of img2dataset's table of this folder; None where it has none."""
        table = f"{folder}.parquet"
        if folder not in self.twins and not (folder == self.root and "/" in folder.split("://")[1] and is_table(table)):
            return None
        try:
            return sides_by_key(table)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            _raise_of_store(error, table)
            return {}

    def _take_metadata(self, folder: str, name: str) -> bool:
        """Whether it is a table of images. A damaged one is counted, with a warning."""
        url = f"{folder}/{name}"
        shown = show_name(url.removeprefix(self.root).lstrip("/"))
        if not _is_file(url):
            return False
        found, odd, problem = False, list[str](), ""
        try:
            for row in _metadata_rows(url, odd):
                found = True
                self._take_row(folder, shown, row)
        except (pa.ArrowException, OSError, ValueError, RecursionError, MemoryError) as error:
            _raise_of_store(error, url)
            used = "none of it is used" if name.endswith(".csv") else "what stands before the damage is used"
            problem = f"is damaged: {used}"
        nameless = NAMELESS in odd
        if odd and not nameless and not problem:
            problem = f"has {len(odd):,} {UNEVEN}"
        if nameless or problem:
            self.counts.ignored["damaged_files"] += not nameless
            self.counts.warnings.append(f"{show_name(url.removeprefix('file://'))} {problem or NAMELESS}")
        return found or bool(problem)

    def _take_row(self, folder: str, shown: str, row: dict[str, object]) -> None:
        name = row.pop(NAME_COLUMN)
        if not isinstance(name, str) or not name:
            self.counts.ignored["null_rows"] += 1
            return
        uri = absolute_uri(name, folder)
        if uri in self.labels:
            self.counts.ignored["duplicate_rows"] += 1
            return
        self.labels[uri] = None if is_deep(row) else side_json(row)
        self.names[uri] = f"{shown}#{show_name(name)}"


def is_table(url: str) -> bool:
    """Whether a Parquet file is img2dataset's table of the images in the folder of the same name."""
    if not _is_file(url):
        return False
    try:
        with file_system(url).open(url, "rb") as file:
            return {"key", "url"} <= set(pq.read_schema(file).names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        _raise_of_store(error, url)
        return False


def _is_file(url: str) -> bool:
    """No pipe of this machine is opened."""
    path = _local_path(url)
    return os.path.isfile(path) if path is not None else bool(file_system(url).isfile(url))


def _local_path(url: str) -> str | None:
    return url.removeprefix("file://") if url.startswith("file://") else None


def _raise_of_store(error: Exception, url: str) -> None:
    """What a store could not do is no damage of the file."""
    if isinstance(error, OSError) and not isinstance(error, pa.ArrowException) and _local_path(url) is None:
        raise error


def _read_side(url: str) -> str | None:
    if not _is_file(url):
        return None
    try:
        with file_system(url).open(url, "rb") as file:
            return side_text(file.read(MAX_SIDE_BYTES + 1))
    except OSError as error:
        _raise_of_store(error, url)
        return None


def _metadata_rows(url: str, odd: list[str]) -> Iterator[dict[str, object]]:
    """Rows with a `file_name`; none at all where the table has no such column. `odd`: takes NAMELESS where a column
    seems to be meant so, and UNEVEN for each row that is left out."""
    with file_system(url).open(url, "rb") as file:
        if file.seek(0, os.SEEK_END) > MAX_TABLE_BYTES:
            raise ValueError("the table is too large")
        file.seek(0)
        if url.endswith(".jsonl"):
            yield from _json_rows(io.TextIOWrapper(file, "utf-8-sig"))
            return
        if url.endswith(".csv"):
            yield from _csv_rows(file, odd)
            return
        table = pq.ParquetFile(file, page_checksum_verification=True)
        for batch in table.iter_batches(4096, use_threads=False):  # its threads may abort at exit
            columns = [k for k, column in enumerate(batch.schema) if not pa.types.is_nested(column.type)]
            flat = batch.select(columns)  # by number: two columns may have one name, of which the last counts
            if _is_nameless(flat.schema.names, odd):
                return
            yield from to_rows(flat)


def _is_nameless(names: Sequence[str], odd: list[str]) -> bool:
    if NAME_COLUMN in names:
        return False
    odd += [NAMELESS] * any(NAME_COLUMN in name.lower().replace(" ", "_") for name in names)
    return True


def _json_rows(lines: IO[str]) -> Iterator[dict[str, Any]]:
    for row in map(json.loads, filter(str.strip, _lines(lines))):
        if not isinstance(row, dict):
            raise ValueError("a line is no object")
        if NAME_COLUMN in row:
            yield row


def _lines(file: IO[str]) -> Iterator[str]:
    """ValueError for one that is longer than what may stand beside an image."""
    while line := file.readline(MAX_SIDE_BYTES + 1):
        if len(line) > MAX_SIDE_BYTES:
            raise ValueError("a line is too long")
        yield line


def _csv_rows(file: Any, odd: list[str]) -> Iterator[dict[str, object]]:
    """A cell is text as it stands. In a column that holds nothing but numbers it is one, and null where it is empty or
    one of NOTHING; in one of `true` and `false` likewise. An empty cell is null everywhere."""
    if not file.read(1):
        return
    file.seek(0)
    header = io.TextIOWrapper(file, "utf-8-sig", newline="")
    try:
        names = next(filter(None, csv.reader(header)), [])
    except csv.Error as error:
        raise ValueError(str(error)) from None
    header.detach()
    if _is_nameless(names, odd):
        return
    file.seek(0)
    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)

    def leave_out(_: object) -> str:
        odd.append(UNEVEN)
        return "skip"

    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=leave_out)
    table = pyarrow.csv.read_csv(file, convert_options=options, parse_options=parse)
    kinds = [_kind_of(name, column) for name, column in zip(table.schema.names, table.columns, strict=True)]
    for batch in table.to_batches(4096):
        columns = [map(read, column.to_pylist()) for read, column in zip(kinds, batch.columns, strict=True)]
        for row in zip(*columns, strict=True):
            yield dict(zip(table.schema.names, row, strict=True))


def _kind_of(name: str, column: pa.ChunkedArray) -> Callable[[str], object]:
    """How the cells of a column are read."""
    filled = column.filter(pc.invert(pc.is_in(column, pa.array(["", *NOTHING], pa.string()))))
    if name == NAME_COLUMN or not len(filled):
        return _read_text
    for pattern, read in ((NUMBER, _read_number), (TRUE_OR_FALSE, _read_bool)):
        if pc.all(pc.match_substring_regex(filled, rf"\A(?:{pattern})\z")).as_py():
            return read
    return _read_text


def _read_text(cell: str) -> object:
    return cell or None


def _read_number(cell: str) -> object:
    """Of more digits than 64 bits have, the digits stay: `make_portable` would write them so."""
    if cell.lstrip("-").isdigit():
        return int(cell) if len(cell) <= LONGEST else cell
    return None if cell in NOTHING or not cell else float(cell)


def _read_bool(cell: str) -> object:
    return cell.lower() == "true" if cell and cell not in NOTHING else None
