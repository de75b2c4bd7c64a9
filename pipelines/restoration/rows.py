"""What `lucidflux restore` is asked for: one row for each image, with the name that its result gets."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import PurePosixPath
from typing import TypedDict

import pyarrow as pa

from lucidflux_data.errors import ConfigError
from lucidflux_data.images import EXTENSION_OF
from lucidflux_data.sources.listing import list_sources, sample
from lucidflux_data.storage.names import safe_name
from pipelines.execution.progress import warn

RECORDS = "records"  # a folder of OUT, which no result may lead into
EXTENSION = {"png": "png", "png16": "png", "jpeg": "jpg"}


class RestoreRow(TypedDict):
    """An image to restore: its row of the inventory, and the names that its result and its record get."""

    uri: str
    source_key: str  # its name in the source
    source: int  # position among the inputs
    size: int  # encoded bytes; -1 where the listing does not tell
    offset: int  # of the bytes inside a tar; -1 outside tars
    side: str | None  # the json beside a tar member
    path: str  # source_key as a path that stays in its folder
    changed: bool  # whether that is another than source_key
    stem: str  # `path` without the extension of an image
    id: str  # 20 hex digits of the sha256 of `uri`: the name of the record
    name: str  # of the result, relative to OUT


def make_work_list(table: pa.Table, kind: str, limit: int | None = None) -> list[RestoreRow]:
    """A row for each image, with the name that its result gets: its own with another extension. With `limit`, a
    seeded sample of that many; an image has the same name and the same result in any sample.

    Names that lead out of a folder, or into ours, are changed (`safe_name`). Where two would share a name, both keep
    their extension before the new one (`a.jpg.png`); a changed name, or one that is a folder of others, gets the id of
    its image. ConfigError where that is not enough: the same relative name in two sources.
    """
    rows: list[RestoreRow] = table.to_pylist()
    for row in rows:
        given = _MARK.sub("/", row["source_key"])
        path = PurePosixPath(safe_name(given, (RECORDS,)))
        row["path"], row["changed"] = str(path), str(path) != given
        row["stem"] = str(path.with_suffix("")) if path.suffix[1:].lower() in _EXTENSIONS else str(path)
        row["id"] = hashlib.sha256(row["uri"].encode()).hexdigest()[:20]
    _name_results(rows, EXTENSION[kind])
    chosen = set((table if limit is None else sample(table, limit, seed=0))["uri"].to_pylist())
    return [row for row in rows if row["uri"] in chosen]


_MARK = re.compile(r"(?<=\.tar)#|(?<=\.parquet)#|(?<=\.csv)#|(?<=\.jsonl)#", re.IGNORECASE)  # file and what is in it


def _name_results(rows: list[RestoreRow], extension: str) -> None:
    """Gives each row its `name`. Two rows never have one, and none is the folder of another."""
    # case too: some disks take A and a for one
    shared = Counter(row["stem"].lower() for row in rows if not row["changed"])
    folders: set[str] = set()
    for row in rows:
        row["name"] = (
            f"{row['path'] if shared[row['stem'].lower()] > 1 and not row['changed'] else row['stem']}.{extension}"
        )
        folders.update(str(parent).lower() for parent in PurePosixPath(row["name"]).parents)
    taken: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: bool(row["changed"])):
        if row["name"].lower() in folders or (row["changed"] and row["name"].lower() in taken):
            row["name"] = f"{row['name'].removesuffix(f'.{extension}')}.{row['id']}.{extension}"
        before = taken.setdefault(row["name"].lower(), row["uri"])
        if before != row["uri"]:
            raise ConfigError(f"{before} and {row['uri']} would both become {row['name']}: restore them in two runs")


def list_images(sources: list[str]) -> pa.Table:
    """The candidates of the sources; what could not be read as a whole is warned of."""
    listing = list_sources(sources)
    for warning in listing.all_warnings():
        warn(warning)
    return listing.table


_EXTENSIONS = {*EXTENSION_OF.values(), *EXTENSION_OF, "jpe", "jfif", "dib"}
