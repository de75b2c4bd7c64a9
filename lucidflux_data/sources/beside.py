"""What stands beside the images of a local folder: img2dataset's `files` output, and Hugging Face's ImageFolder.

00000/000000000.jpg, .json    00000.parquet                  the row of the same `key`, or the json
train/a.jpg                   train/metadata.parquet         the row whose `file_name` names the image, also in a
                              (or .csv, .jsonl)              folder below
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lucidflux_data.sources.counts import Counts
from lucidflux_data.sources.parquet import absolute_uri, side_json, sides_by_key
from lucidflux_data.sources.tars import MAX_SIDE_BYTES, is_image_name
from lucidflux_data.sources.uris import is_special, show_name
from lucidflux_data.storage.formats import to_rows

METADATA = ("metadata.parquet", "metadata.csv", "metadata.jsonl")
NAME_COLUMN = "file_name"


@dataclass
class Beside:
    """`labels`: side json by the uri of an image, of all metadata files met so far. `names`: their source key by uri.
    `used`: the uris of images that were met."""

    counts: Counts
    labels: dict[str, str | None] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def enter(self, folder: str, files: list[str], root: str) -> tuple[list[str], dict[str, str]]:
        """The files of a folder that are sources of their own, and img2dataset's columns by the key of an image."""
        taken = {name for name in METADATA if name in files and self._take_metadata(folder, name, root)}
        sides = _twin_of_folder(folder)
        if sides is not None:
            keys = {os.path.splitext(name)[0] for name in files if is_image_name(name)}
            jsons = {name for name in files if name.endswith(".json") and name[: -len(".json")] in keys}
            for name in jsons - {f"{key}.json" for key in sides}:
                side = _read_side(os.path.join(folder, name))
                if side is not None:
                    sides[name[: -len(".json")]] = side
            taken |= jsons
        for name in files:
            if name.endswith(".parquet") and name not in taken and is_twin(os.path.join(folder, name)):
                self.counts.ignored["other_files"] += 1
                taken.add(name)
        return [name for name in files if name not in taken], sides or {}

    def side(self, uri: str, key: str, sides: dict[str, str]) -> str | None:
        """What stands beside an image; it counts as met."""
        self.used.add(uri)
        return self.labels.get(uri) or sides.get(key)

    def left(self) -> Iterator[tuple[str, str, str | None]]:
        """(uri, source key, side) of the rows whose image was not met: `missing`, where it is not elsewhere."""
        for uri, name in self.names.items():
            if uri not in self.used:
                yield uri, name, self.labels[uri]

    def _take_metadata(self, folder: str, name: str, root: str) -> bool:
        """Whether it is a table of images. A damaged one is counted and told."""
        path = os.path.join(folder, name)
        shown = show_name(os.path.relpath(path, root))
        if not os.path.isfile(path):
            return False
        found = False
        try:
            for row in _metadata_rows(path):
                found = True
                self._take_row(folder, shown, row)
        except (pa.ArrowException, OSError, ValueError, RecursionError):
            self.counts.ignored["damaged_files"] += 1
            self.counts.warnings.append(f"{show_name(path)} is damaged: what stands before the damage is used")
            return True
        return found

    def _take_row(self, folder: str, shown: str, row: dict[str, object]) -> None:
        name = row.pop(NAME_COLUMN)
        if not isinstance(name, str) or not name:
            self.counts.ignored["null_rows"] += 1
            return
        uri = absolute_uri(name, f"file://{os.path.abspath(folder)}")
        if uri in self.labels:
            self.counts.ignored["duplicate_rows"] += 1
            return
        self.labels[uri] = side_json(row)
        self.names[uri] = f"{shown}#{show_name(name)}"


def is_twin(path: str) -> bool:
    """Whether a Parquet file is img2dataset's table of the images in the folder of the same name."""
    folder = os.path.splitext(path)[0]
    if not os.path.isdir(folder) or not os.path.isfile(path):
        return False
    try:
        return {"key", "url"} <= set(pq.read_schema(pa.OSFile(os.fsencode(path), "rb")).names)
    except (pa.ArrowException, OSError):
        return False


def _twin_of_folder(folder: str) -> dict[str, str] | None:
    twin = f"{os.path.abspath(folder)}.parquet"
    if not is_twin(twin):
        return None
    try:
        return sides_by_key(f"file://{twin}")
    except (pa.ArrowException, OSError):
        return {}


def _read_side(path: str) -> str | None:
    if is_special(path) or os.path.getsize(path) > MAX_SIDE_BYTES:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    return text


def _metadata_rows(path: str) -> Iterator[dict[str, object]]:
    """Rows with a `file_name`; none at all where the table has no such column."""
    if path.endswith(".jsonl"):
        with open(path, encoding="utf-8-sig") as file:
            for row in map(json.loads, filter(str.strip, file)):
                if not isinstance(row, dict):
                    raise ValueError("a line is no object")
                if NAME_COLUMN in row:
                    yield row
        return
    with open(path, "rb") as file:
        if path.endswith(".parquet"):
            batches = pq.ParquetFile(file).iter_batches(4096, use_threads=False)  # its threads may abort at exit
        else:
            batches = _csv_batches(file)
        for batch in batches:
            columns = [name for name in batch.schema.names if not pa.types.is_nested(batch.schema.field(name).type)]
            if NAME_COLUMN not in columns:
                return
            yield from to_rows(batch.select(columns))


def _csv_batches(file: Any) -> Iterator[pa.RecordBatch]:
    if not file.read(1):
        return
    file.seek(0)
    options = pyarrow.csv.ConvertOptions(column_types={NAME_COLUMN: pa.string()}, strings_can_be_null=True)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    yield from pyarrow.csv.read_csv(file, convert_options=options, parse_options=parse).to_batches()
