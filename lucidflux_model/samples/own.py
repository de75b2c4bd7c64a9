"""The pairs of a folder that `synthesize` made, from the indexes of its shards."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.shards import shard as shards
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.storage.run_folder import forgotten_keys
from lucidflux_model.samples.stored import MEMBERS, OwnFolder


def own_pairs(folder: Folder) -> tuple[pa.Table, OwnFolder]:
    """MEMBERS, and where they are from. InputError where the folder holds no pairs, or one lacks its LQ."""
    data = folder.read(shards.MANIFEST)
    entries = shards.read_manifest(folder)["shards"]
    contents = {entry["name"]: entry["sha256"] for entry in entries}
    manifest, forgotten = hashlib.sha256(data).hexdigest(), len(forgotten_keys(folder))
    return _index(folder, list(contents)), OwnFolder(folder, pairs_run.read(folder), manifest, contents, forgotten)


def _index(folder: Folder, tars: list[str]) -> pa.Table:
    names = [name.removesuffix(".tar") for name in tars]
    tables = folder.read_tables(f"shards/{shards.index_name(name)}" for name in names)
    columns = [_joined(f"{folder.url}/shards/{name}.tar", table) for name, table in zip(names, tables, strict=True)]
    if not sum(table.num_rows for table in columns):
        raise InputError(f"{folder} holds no pairs: every image was left out, see `lucidflux-data report`")
    table = pa.concat_tables(columns)
    groups = _groups(folder)
    place = pc.index_in(pc.replace_substring_regex(table["key"], r"(.)_\d+$", r"\1"), groups["key"].combine_chunks())
    found = groups["group"].combine_chunks().take(place.combine_chunks())
    return table.append_column("group", found).select(MEMBERS.names).cast(MEMBERS)


def _groups(folder: Folder) -> pa.Table:
    """key and group of the images of which near duplicates were found."""
    schema = pa.schema([pa.field("key", pa.string()), pa.field("group", pa.string())])
    tables = [schema.empty_table()]
    for name in folder.names(pairs_run.PLACE):
        rows = folder.read_table(f"{pairs_run.PLACE}/{name}", ["key", "group"]).cast(schema)
        tables.append(rows.filter(pc.is_valid(pc.field("key")) & (pc.field("group") != "")))
    return pa.concat_tables(tables)


def _joined(url: str, index: pa.Table) -> pa.Table:
    """One row a sample of an index with one row a member."""
    parts = {}
    for kind in ("hq", "lq", "json"):
        rows = index.filter(pc.match_substring_regex(index["member"], rf"^[^.]*\.{kind}(\.|$)"))
        parts[kind] = rows.rename_columns(["key", "member", *(f"{kind}_{n}" for n in ("offset", "size", "crc32"))])
    keys = parts["json"].select(["key"])
    table = keys.join(parts["hq"].drop(["member"]), "key").join(parts["lq"].drop(["member"]), "key")
    table = table.join(parts["json"].drop(["member", "json_crc32"]), "key").sort_by("key")
    lacking = table.filter(pc.is_null(table["lq_offset"]))["key"].to_pylist()
    if lacking:
        raise InputError(f"{lacking[0]} of {url} has no LQ: see `lucidflux-data verify`")
    return table.append_column("shard", pa.array([url] * table.num_rows, pa.string()))


def describe_group(side: str | None) -> str | None:
    """The group that a json of ours gives a pair: that of near duplicates, else the image that it is a variant of.
    None for a json of anyone: what it calls a group, or how its keys look, says nothing about images that are alike."""
    try:
        record = parse_json(side or "null")
    except ValueError:
        return None
    plan = record.get("plan") if isinstance(record, dict) else None
    if not isinstance(plan, dict) or not isinstance(record.get("versions"), dict):
        return None
    group, image = record.get("group"), plan.get("hq_key")
    return next((name for name in (group, image) if isinstance(name, str) and name), None)
