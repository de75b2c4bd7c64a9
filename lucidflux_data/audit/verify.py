"""Checks the tables of a run against each other and against the manifest; every problem is one sentence."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit import strays
from lucidflux_data.audit.forgotten import find_left
from lucidflux_data.errors import LucidFluxError, VerificationError
from lucidflux_data.selection import ledger
from lucidflux_data.selection import pool as selection_pool
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripping
from lucidflux_data.shards.verify import PLACE
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder


def check_set(folder: Folder) -> list[str]:
    """The run's tables against each other and against the manifest; no shard is opened."""
    try:
        damaged = strays.find_damaged_units(folder)
        if damaged:
            return [f"{name} is damaged: `verify --repair` measures its candidates again" for name in damaged]
        pool = selection_pool.load_pool(runs.parts(folder))
        table = folder.read_table(runs.LEDGER, ["uri", "key", "keep", "reason", "format"])
        manifest = shards.read_manifest(folder)
    except FileNotFoundError as error:
        missing = (error.filename or runs.LEDGER).removeprefix(f"{folder.root}/")
        return [f"{missing} is missing"]
    except LucidFluxError as error:
        return [str(error)]
    problems = check_digests(folder)
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
    names = strays.find_stray_shards(folder, [entry["name"] for entry in manifest["shards"]])
    return problems + [strays.describe_stray(name) for name in names + strays.find_stray_units(folder)]


def check_digests(folder: Folder) -> list[str]:
    """Whether run.json fits the digests that it has of itself, which a file without a seal has, too."""
    run = runs.read_run(folder)
    config = FilterConfig.model_validate(run["config"])
    made = runs.make_run(config, run["listed"], run["preset"], run["runs"], run["included"], run["inputs"])["digests"]
    wrong = [step for step in ("score", "pack") if made[step] != run["digests"].get(step)]
    return [f"{run_folder.RUN_FILE} does not fit its own digests ({', '.join(wrong)})"] if wrong else []


def refuse_unfit(folder: Folder, wrong: list[str]) -> None:
    """VerificationError where run.json is not what it was: what is made again from it would be something else."""
    if wrong:
        raise VerificationError(f"{folder}: {'; '.join(wrong)}: put it back from a copy; nothing was repaired")


def describe_unsealed(folder: Folder) -> list[str]:
    """What a folder of an earlier version has no record of, so that it could not be compared."""
    if run_folder.is_sealed(folder):
        return []
    return [f"{run_folder.RUN_FILE} and the tables: their checksums were not recorded before this version"]


def _check_part(part: runs.Part, scored: int) -> list[str]:
    rows = {run_folder.read_inventory(part.folder, ["uri"]).num_rows, scored, part.candidates}
    if len(rows) > 1:
        return [f"inventory, scores and run.json of {part.folder} do not have the same number of candidates"]
    return []


def _uris(pool: selection_pool.Pool) -> pa.ChunkedArray:
    tables = [table.select(["uri"]).take(rows) for table, rows in zip(pool.tables, pool.rows, strict=True)]
    return pa.concat_tables(tables)["uri"]
