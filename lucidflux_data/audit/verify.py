"""Checks the tables of a run against each other and against the manifest; every problem is one sentence."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.audit import strays
from lucidflux_data.audit.forgotten import find_left
from lucidflux_data.errors import InputError, LucidFluxError, VerificationError
from lucidflux_data.growth.part import read_old_shards
from lucidflux_data.growth.shards import is_taken
from lucidflux_data.measures import firewall
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
    unfit = find_unfit_tables(folder)
    if unfit:
        return [f"{name} is not what it was, or is missing: `verify --repair` makes it again" for name in unfit]
    try:
        damaged = strays.find_damaged_units(folder)
        if damaged:
            return [f"{name} is damaged: `verify --repair` measures its candidates again" for name in damaged]
        pool = selection_pool.load_pool(runs.parts(folder))
        table = folder.read_table(runs.LEDGER, ["uri", "key", "keep", "reason", "format"])
        kept = ledger.counts(table)["kept"]
        manifest = shards.read_manifest(folder)
    except FileNotFoundError as error:
        missing = (error.filename or runs.LEDGER).removeprefix(f"{folder.root}/")
        return [f"{missing} is missing"]
    except LucidFluxError as error:
        return [str(error)]
    problems = check_digests(folder)
    for part in pool.parts:
        problems += _check_part(part)
    if not problems and not _uris(pool).equals(table["uri"]):
        problems.append(f"{runs.LEDGER} does not have the candidates of {runs.BASIC}")
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
    tars = [entry["name"].removesuffix(".tar") for entry in manifest["shards"]]
    problems += find_left(folder, tars) + check_list(folder) + check_base(folder, manifest)
    names = strays.find_stray_shards(folder, [entry["name"] for entry in manifest["shards"]])
    return problems + [strays.describe_stray(name) for name in names + strays.find_stray_units(folder)]


def check_base(folder: Folder, manifest: shards.Manifest) -> list[str]:
    """Whether the set begins with the shards of the base, as they were, but for what was forgotten since."""
    run = runs.read_run(folder)
    noted, told = run["base"]["content_sha256"] if "base" in run else None, manifest.get("base", {})
    if noted != told.get("content_sha256"):
        return [f"{PLACE}/ was packed from another base: run `lucidflux-data pack` again"]
    try:
        names, gone = set(folder.names(PLACE)), run_folder.forgotten_keys(folder)
        old = [one for one in read_old_shards(folder) if not is_taken(folder, PLACE, one, names, gone)]
    except LucidFluxError as error:
        return [str(error)]
    return [f"{PLACE}/{one.entry['name']} is not the one of the base" for one in old]


def check_list(folder: Folder) -> list[str]:
    """Whether the list of forgotten images of a run is the one that run.json was made with."""
    lists = {place: sha for place, sha in runs.read_run(folder)["inputs"].items() if place.endswith("/forgotten.txt")}
    place = folder.path(run_folder.FORGOTTEN) if folder.is_local else f"{folder.url}/{run_folder.FORGOTTEN}"
    noted = lists.get(place)
    if noted is None and folder.exists(run_folder.FORGOTTEN) and lists:  # the folder was moved
        mine = run_folder.describe_forgotten(folder)[run_folder.FORGOTTEN_SUM]
        noted = mine if mine in lists.values() else min(lists.values())
    try:
        manifest = shards.read_manifest(folder)
        return check_forgotten(folder, noted, [entry["name"].removesuffix(".tar") for entry in manifest["shards"]])
    except (InputError, VerificationError):  # another check names it
        return []


def check_digests(folder: Folder) -> list[str]:
    """Whether run.json fits the digests that it has of itself, which a file without a seal has, too."""
    run = runs.read_run(folder)
    config = FilterConfig.model_validate(run["config"])
    made = runs.make_run(config, run["listed"], run["preset"], run["runs"], run["included"], run["inputs"])["digests"]
    wrong = [step for step in ("score", "pack") if made[step] != run["digests"].get(step)]
    return [f"{run_folder.RUN_FILE} does not fit its own digests ({', '.join(wrong)})"] if wrong else []


def check_forgotten(folder: Folder, noted: str | None, names: Iterable[str]) -> list[str]:
    """Whether the list of forgotten images is the one whose sha256 was `noted`. `names`: of the shards; one that a
    `forget` was not through with is named by `find_left`."""
    if noted is None or run_folder.describe_forgotten(folder).get(run_folder.FORGOTTEN_SUM) == noted:
        return []
    if folder.exists(run_folder.FORGOTTEN) and find_left(folder, names):
        return []
    what = "is not what it was" if folder.exists(run_folder.FORGOTTEN) else "is missing"
    mend = "put it back from a copy, or repeat `lucidflux-data forget` where that was stopped"
    return [f"{run_folder.FORGOTTEN} {what}, and what was taken out could come back: {mend}"]


def find_unfit_tables(folder: Folder) -> list[str]:
    """Files of a run whose sha256 is noted and is another now, and that can be made again: copies of fingerprints, and
    what `--strip` made of the images."""
    wrong = []
    for item, compared in runs.read_run(folder).get(firewall.FIELD, {}).items():
        name = f"{firewall.PLACE}/{hashlib.sha256(item.encode()).hexdigest()[:12]}.parquet"
        if not folder.exists(name) or hash_file(folder, name) != compared["sha256"]:
            wrong.append(name)
    try:
        card = shards.read_manifest(folder, halfway=True).get("stripped")
    except VerificationError:
        card = None
    noted = card.get("sha256") if card is not None else None
    if noted is not None and noted != (hash_file(folder, stripping.FILE) if folder.exists(stripping.FILE) else ""):
        wrong.append(stripping.FILE)
    return wrong


def hash_file(folder: Folder, name: str) -> str:
    """sha256 (hex) of a file of the folder."""
    return hashlib.sha256(folder.read(name)).hexdigest()


def refuse_unfit(folder: Folder, wrong: list[str]) -> None:
    """VerificationError where run.json, or the list of forgotten images, is not what it was: what is made again from it
    would be something else."""
    if wrong:
        raise VerificationError(f"{folder}: {'; '.join(wrong)}: put it back from a copy; nothing was repaired")


def describe_unsealed(folder: Folder) -> list[str]:
    """What a folder of an earlier version has no record of, so that it could not be compared."""
    if run_folder.is_sealed(folder):
        return []
    return [f"{run_folder.RUN_FILE} and the tables: their checksums were not recorded before this version"]


def _check_part(part: runs.Part) -> list[str]:
    if run_folder.read_inventory(part.folder, ["offset"]).num_rows != part.candidates:
        return [f"inventory, scores and run.json of {part.folder} do not have the same number of candidates"]
    return []


def _uris(pool: selection_pool.Pool) -> pa.ChunkedArray:
    return selection_pool.concat_rows(pool, [basic["uri"] for basic in pool.basics])
