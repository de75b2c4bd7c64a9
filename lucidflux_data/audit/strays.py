"""Files of ours that belong to nothing any more, and score units that are damaged: what `verify --repair` clears away.

Only names that this project gives count. Whatever else lies in a folder is the user's: it is no problem, and it stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.shards.form import is_shard_file
from lucidflux_data.shards.verify import PLACE, index_of_tar
from lucidflux_data.sources.listing import INVENTORY
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.tiles import table as tiles

STRAY = "stray"  # where `verify --repair` moves them
_UNIT = re.compile(r"unit-(\d{6,})\.parquet")


def find_stray_shards(folder: Folder, tars: Iterable[str]) -> list[str]:
    """Tars and indices below shards/ that are not among `tars` (names with `.tar`), nor their indices."""
    listed = {name for tar in tars for name in (tar, index_of_tar(tar))}
    found = [name for name in folder.names(PLACE) if is_shard_file(name) and name not in listed]
    return [f"{PLACE}/{name}" for name in found]


def find_stray_units(folder: Folder) -> list[str]:
    """Units below scores/ with a number that the candidates do not reach."""
    candidates = runs.read_run(folder)["listed"]["candidates"]
    units = -(-candidates // run_folder.unit_size(candidates))
    return [name for name, number in _units(folder) if number >= units]


def describe_stray(name: str) -> str:
    return f"{name} is in no manifest: `verify --repair` moves it to {STRAY}/"


def move_aside(folder: Folder, names: Iterable[str]) -> None:
    """Moves files to stray/, under their own paths."""
    for name in names:
        folder.move(name, f"{STRAY}/{name}")


def find_damaged_units(folder: Folder) -> list[str]:
    """Units below scores/ that cannot be read, or are not of the candidates that the inventory has in their place.

    InputError where the inventory itself is damaged. A combined run has neither: its parts are looked at by themselves.
    """
    if not folder.exists(run_folder.INVENTORY):
        return []
    uris = run_folder.read_inventory(folder, INVENTORY.names)["uri"]
    size = run_folder.unit_size(len(uris))
    damaged = [
        name
        for name, number in _units(folder)
        if number * size < len(uris) and not _is_whole(folder, name, uris.slice(number * size, size))
    ]
    return damaged or _find_damaged_tiles(folder)


def _find_damaged_tiles(folder: Folder) -> list[str]:
    """Files of tiles that are missing, cannot be read, or have not the tiles of their images, and the units of scores/
    that they belong to: both are made again together."""
    side = runs.read_run(folder)["config"]["measures"].get("tiles", 0)
    found: list[str] = []
    for name, _ in _units(folder) if side else []:
        _, measure, unit = name.split("/")
        if measure != "basic" and not folder.names(f"{tiles.PLACE}/{measure}"):
            continue  # of a measure that has no tiles
        place = f"{tiles.PLACE}/{measure}/{unit}"
        schema = tiles.SCHEMA if measure == "basic" else tiles.metric_schema(measure)
        basic = folder.read_table(f"{runs.BASIC}/{unit}", ["uri", "width", "height", "status"])
        images = {row["uri"]: (row["width"], row["height"]) for row in basic.to_pylist() if row["status"] == "ok"}
        try:
            table = folder.read_table(place)
            whole = tiles.is_whole(table, schema, images, side, measure == "basic")
        except (InputError, FileNotFoundError):
            whole = False
        found += [] if whole else [place, name]
    return found


def _units(folder: Folder) -> list[tuple[str, int]]:
    found = []
    for measure in folder.folders("scores"):
        for name in folder.names(f"scores/{measure}"):
            match = _UNIT.fullmatch(name)
            if match is not None:
                found.append((f"scores/{measure}/{name}", int(match[1])))
    return found


def _is_whole(folder: Folder, name: str, uris: pa.ChunkedArray) -> bool:
    basic = name.startswith(f"{runs.BASIC}/")
    try:
        table = folder.read_table(name)
    except InputError:
        return False
    if "uri" not in table.column_names or (basic and table.column_names != records.BASIC.names):
        return False
    if basic:
        return bool(table["uri"].equals(uris))
    known = pc.is_in(table["uri"], value_set=uris.combine_chunks())
    return bool(pc.all(known, min_count=0).as_py())
