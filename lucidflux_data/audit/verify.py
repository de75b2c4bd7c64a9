"""Checks the tables of a run against each other and against the manifest; every problem is one sentence."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit.forgotten import find_left
from lucidflux_data.errors import LucidFluxError
from lucidflux_data.selection import ledger
from lucidflux_data.selection import pool as selection_pool
from lucidflux_data.selection import run as runs
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripping
from lucidflux_data.shards.verify import PLACE, index_of_tar
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder


def check_set(folder: Folder) -> list[str]:
    """The run's tables against each other and against the manifest; no shard is opened."""
    try:
        pool = selection_pool.load_pool(runs.parts(folder))
        table = folder.read_table(runs.LEDGER, ["uri", "key", "keep", "reason", "format"])
        manifest = shards.read_manifest(folder)
    except FileNotFoundError:
        return [f"{runs.LEDGER} is missing"]
    except LucidFluxError as error:
        return [str(error)]
    problems = []
    for part, scored in zip(pool.parts, pool.tables, strict=True):
        problems += _check_part(part, scored.num_rows)
    if not problems and not _uris(pool).equals(table["uri"]):
        problems.append(f"{runs.LEDGER} does not have the candidates of {runs.BASIC}")
    kept = ledger.counts(table)["kept"]
    keys = set(pc.drop_null(table.filter(pc.field("keep"))["key"]).to_pylist())
    packed = stripping.packed_keys(folder)
    there = table.filter(pc.field("keep")).select(["key", "format"]).to_pylist()
    distinct = len({packed.get(row["key"], row["key"]) for row in there if not stripping.is_dropped(row, manifest)})
    if manifest["samples"] != distinct:
        problems.append(f"the ledger keeps {distinct} images, the manifest has {manifest['samples']}")
    if manifest["digests"]["ledger"] != runs.ledger_sha256(folder):
        problems.append(f"{PLACE}/ was packed from another ledger: run `lucidflux-data pack` again")
    if len(keys) != kept:
        problems.append("a key is kept twice")
    problems += find_left(folder, [entry["name"].removesuffix(".tar") for entry in manifest["shards"]])
    expected = {name for entry in manifest["shards"] for name in (entry["name"], index_of_tar(entry["name"]))}
    for name in sorted(set(folder.names(PLACE)) - expected):
        problems.append(f"{PLACE}/{name} is not in the manifest")
    return problems


def _check_part(part: runs.Part, scored: int) -> list[str]:
    rows = {run_folder.read_inventory(part.folder, ["uri"]).num_rows, scored, part.candidates}
    if len(rows) > 1:
        return [f"inventory, scores and run.json of {part.folder} do not have the same number of candidates"]
    return []


def _uris(pool: selection_pool.Pool) -> pa.ChunkedArray:
    tables = [table.select(["uri"]).take(rows) for table, rows in zip(pool.tables, pool.rows, strict=True)]
    return pa.concat_tables(tables)["uri"]
