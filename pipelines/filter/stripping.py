"""Before shards are planned with `--strip`: which images have the tags, and what their bytes are called without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.selection import run as runs
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripped
from lucidflux_data.shards.stripping import strip
from lucidflux_data.sources.listing import read_known
from lucidflux_data.storage.folder import Folder, table_bytes
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress
from pipelines.execution.worker import File, Unit

PLACE = ".next/stripped"


def read_source(row: dict[str, Any]) -> bytes:
    """The bytes that were scored. InputError where they are gone, or are others now."""
    try:
        return read_known(row["uri"], row["offset"], row["bytes"] if row["offset"] >= 0 else -1, row["sha256"])
    except ImageError as error:
        if error.reason == "changed":
            raise InputError(f"{row['uri']} has changed since it was scored: score into a new run") from None
        raise InputError(f"{row['uri']} was scored but cannot be packed: {error.detail}") from None


@dataclass(frozen=True)
class StripUnit:
    """The rows of stripped.parquet for the kept images of a unit."""

    what: tuple[str, ...]
    place: str

    def __call__(self, unit: Unit) -> Iterator[File]:
        rows = []
        for row in unit.payload:
            data = read_source(row)
            left = strip(data, self.what)
            if left != data:
                key = hashlib.sha256(left).hexdigest()[:20]
                rows.append({"key": row["key"], "packed_key": key, "packed_bytes": len(left)})
        yield f"{self.place}/{unit.name}.parquet", table_bytes(pa.Table.from_pylist(rows, stripped.SCHEMA))


def find_stripped(
    folder: Folder, kept: list[dict[str, Any]], what: tuple[str, ...], made_of: str, executor: Executor, bar: Progress
) -> None:
    """Publishes stripped.parquet, or removes one that is of no use any more. `kept`: ledger rows in key order;
    `made_of`: a digest of the ledger and the tags."""
    if stripped.is_of(folder, made_of) or not (what or folder.exists(stripped.FILE)):
        return
    folder.remove(shards.MANIFEST)  # what there is of shards has other keys
    if not what:
        folder.remove(stripped.FILE)
        return
    place, size = f"{PLACE}-{made_of[:16]}", runs.unit_size(len(kept))
    there = set(folder.names(place))
    slices = [kept[start : start + size] for start in range(0, len(kept), size)]
    units = [Unit(runs.unit_name(number), len(rows), rows) for number, rows in enumerate(slices)]
    todo = [unit for unit in units if f"{unit.name}.parquet" not in there]
    with bar.phase("strip", sum(unit.size for unit in todo), 0) as advance:
        for unit in run(executor, "strip", todo, StripUnit(what, place), folder):
            advance(unit.size)
    tables = [folder.read_table(f"{place}/{unit.name}.parquet") for unit in units]
    table = pa.concat_tables([stripped.SCHEMA.empty_table(), *tables])
    folder.publish(stripped.FILE, table_bytes(table.replace_schema_metadata({"made_of": made_of})))
    folder.remove(place)
