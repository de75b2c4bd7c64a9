"""A run folder: run.json, the inventory, the units, and the digests that say whether a command may go on in it."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from lucidflux_data.config import FilterConfig, digest
from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.shards import canonical_json
from lucidflux_data.storage import Folder, table_bytes

RUN_FILE = "run.json"
INVENTORY = "inventory.parquet"
LEDGER = "selected.parquet"
BASIC = "scores/basic"


def unit_size(candidates: int) -> int:
    """Images in a unit: clamp(ceil(n/256), 8, 1000), from the number of candidates alone."""
    return min(1000, max(8, -(-candidates // 256)))


def unit_name(number: int) -> str:
    return f"unit-{number:06d}"


def make_run(config: FilterConfig, listed: dict[str, Any], label: str) -> dict[str, Any]:
    """The content of run.json. `listed`: sources, limit, seed, candidates, ignored."""
    asked = {name: listed[name] for name in ("sources", "limit", "seed")}
    return {
        "schema_version": 1,
        "label": label,
        "listed": listed,
        "config": config.model_dump(),
        "digests": {
            "score": digest({"asked": asked, **config.score_part()}),
            "select": digest(config.select_part()),
            "pack": digest(config.pack_part()),
        },
    }


def read_run(folder: Folder) -> dict[str, Any]:
    """run.json of an existing run. InputError where there is none."""
    try:
        return json.loads(folder.read(RUN_FILE))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a run folder: it has no {RUN_FILE}") from None
    except ValueError:
        raise InputError(f"{folder}/{RUN_FILE} is damaged") from None


def start_run(folder: Folder, run: dict[str, Any], steps: tuple[str, ...] = ("score", "select", "pack")) -> None:
    """Writes run.json, or checks that the one that is there asks for the same. Raises ConfigError."""
    if not folder.exists(RUN_FILE):
        if folder.exists() and [name for name in folder.names() if not name.startswith(".")]:
            raise ConfigError(f"{folder} is not empty and is not a run: choose another --out")
        folder.publish(RUN_FILE, canonical_json(run))
        return
    before = read_run(folder)["digests"]
    if before["score"] != run["digests"]["score"]:
        raise ConfigError(f"{folder} holds another run (other sources, sample or measures): choose another --out")
    for step in ("select", "pack"):
        if step in steps and before[step] != run["digests"][step]:
            raise ConfigError(
                f"{folder} was made with other {'rules' if step == 'select' else 'shard limits'}: "
                f"change them with `lucidflux-data {step} {folder} --set ...`"
            )


def read_inventory(folder: Folder) -> pa.Table:
    return folder.read_table(INVENTORY)


def write_inventory(folder: Folder, table: pa.Table) -> None:
    folder.publish(INVENTORY, table_bytes(table))


def unit_files(folder: Folder, candidates: int, place: str = BASIC) -> list[str]:
    """Names of all unit files of a measure that a complete run has."""
    size = unit_size(candidates)
    return [f"{place}/{unit_name(number)}.parquet" for number in range(-(-candidates // size))]


def read_basic(folder: Folder, candidates: int, columns: list[str] | None = None) -> pa.Table:
    """All of scores/basic in inventory order. InputError where units are missing."""
    wanted = unit_files(folder, candidates)
    there = set(folder.names(BASIC))
    missing = [name for name in wanted if name.rsplit("/", 1)[1] not in there]
    if missing:
        raise InputError(f"{folder} is not scored to the end ({len(missing)} units missing): repeat the command")
    return pa.concat_tables([folder.read_table(name, columns) for name in wanted]).combine_chunks()


def read_measure(folder: Folder, measure: str) -> pa.Table | None:
    """All rows of scores/<measure> so far, None where there are none."""
    place = f"scores/{measure}"
    tables = [folder.read_table(f"{place}/{name}") for name in folder.names(place) if name.startswith("unit-")]
    return pa.concat_tables(tables) if tables else None
