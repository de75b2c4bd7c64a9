"""The shards that a new set takes over from the base, and what its manifest says of that."""

from __future__ import annotations

import hashlib

import pyarrow.compute as pc

from lucidflux_data.codecs import version
from lucidflux_data.errors import InputError
from lucidflux_data.growth.part import BASE, OldShard
from lucidflux_data.measures.near_duplicates import HASH_VERSION
from lucidflux_data.selection.run import FilterRun
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.shard import BaseOfSet, MadeBy
from lucidflux_data.storage.folder import Folder


def describe_lineage(run: FilterRun) -> dict[str, object]:
    """What the manifest says of the base: its own version is one more. {} where nothing is added to."""
    if "base" not in run:
        return {}
    base = run["base"]
    of: BaseOfSet = {
        "version": base["version"],
        "content_sha256": base["content_sha256"],
        "samples": base["samples"],
        "shards": base["shards"],
    }
    made_with: MadeBy = {
        "metric": run["config"]["iqa"]["metric"],
        "decoder_version": version.DECODER_VERSION,
        "hash_version": HASH_VERSION,
    }
    return {"version": base["version"] + 1, BASE: of, "made_with": made_with}


def is_taken(folder: Folder, place: str, old: OldShard, names: set[str], gone: frozenset[str]) -> bool:
    """Whether `place` holds a shard of the base, without what was forgotten since. `names`: the files in `place`."""
    index = shards.index_name(old.name)
    if not {index, old.entry["name"]} <= names:
        return False
    size, bytes_ = folder.size(f"{place}/{old.entry['name']}"), old.entry["bytes"]
    if gone.isdisjoint(old.keys):
        whole = hashlib.sha256(folder.read(f"{place}/{index}")).hexdigest() == old.entry["index_sha256"]
        return whole and size == bytes_
    try:
        keys = folder.read_table(f"{place}/{index}", ["key"])["key"]
    except InputError:
        return False
    left = [key for key in old.keys if key not in gone]
    noted = shards.read_index_metadata(folder, f"{place}/{index}")
    return sorted(pc.unique(keys).to_pylist()) == sorted(left) and noted.get("tar_bytes") == str(size)
