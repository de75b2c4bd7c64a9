"""A set that is added to, as it was published: a packed run, or its shards with manifest.json, local or in a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.codecs import version
from lucidflux_data.config import describe_changes
from lucidflux_data.errors import ConfigError, InputError, VerificationError
from lucidflux_data.measures.near_duplicates import HASH_VERSION
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.run import FilterRun
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards import stripping
from lucidflux_data.shards.shard import IndexRow, Manifest
from lucidflux_data.shards.verify import PLACE, check_manifest, read_record
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import canonical_json, make_portable, to_rows
from lucidflux_data.storage.run_folder import RUN_FILE

READERS = 32  # ranged reads of a store at a time
NOT_TOLD = ("keep", "rank", "reason", "scored_as", "offset")  # columns of a ledger that say nothing of an image


@dataclass(frozen=True)
class Published:
    """`sha256`: of manifest.json; `run`: where the set is a run folder, else None."""

    folder: Folder
    manifest: Manifest
    sha256: str
    run: FilterRun | None

    @property
    def version(self) -> int:
        """Of the manifest: 1 for a set that was added to no other."""
        return self.manifest.get("version", 1)


@dataclass(frozen=True)
class PublishedImage:
    """`shard`: name of the tar; `row`: of the image in its index; `sha256`: of the bytes there; `record`: what the set
    says of it, as the json of its sample does."""

    shard: str
    row: IndexRow
    sha256: str
    record: Mapping[str, Any]


def open_published(place: str) -> Published:
    """The set, looked at as far as its manifest and indices go. InputError for what is no set of clean images;
    VerificationError for one that is not whole; ConfigError for one of a newer version than is known here."""
    folder = Folder(place)
    manifest = shards.read_manifest(folder)
    names = [entry["name"] for entry in manifest["shards"]]
    if not names or names != [f"hq-{number:06d}.tar" for number in range(len(names))]:
        raise InputError(f"{folder} holds no shards of clean images, numbered from hq-000000.tar on: nothing to add to")
    problems = [problem for entry in manifest["shards"] for problem in _check_files(folder, entry)]
    problems = problems or check_manifest(folder, manifest)
    run = runs.read_run(folder) if folder.exists(RUN_FILE) else None
    if run is not None and not problems and runs.ledger_sha256(folder) != manifest["digests"].get("ledger"):
        problems.append(f"{PLACE}/ was packed from another ledger: `lucidflux-data pack` packs it again")
    if problems:
        raise VerificationError(f"{folder} cannot be added to: {'; '.join(problems[:5])}")
    made_with = manifest.get("made_with", {})
    decoder = runs.decoder_version(run) if run is not None else made_with.get("decoder_version", version.FIRST)
    if decoder > version.DECODER_VERSION or made_with.get("hash_version", 1) > HASH_VERSION:
        raise ConfigError(f"{folder} was made by a newer version of lucidflux than this one: update it")
    return Published(folder, manifest, hashlib.sha256(folder.read(shards.MANIFEST)).hexdigest(), run)


def _check_files(folder: Folder, entry: shards.ShardEntry) -> Iterator[str]:
    """The index against the manifest, and the size of the tar, whose content is looked at where it is taken over."""
    index = shards.index_name(entry["name"].removesuffix(".tar"))
    try:
        if hashlib.sha256(folder.read(f"{PLACE}/{index}")).hexdigest() != entry["index_sha256"]:
            yield f"{PLACE}/{index} does not have the sha256 of the manifest"
        if folder.size(f"{PLACE}/{entry['name']}") != entry["bytes"]:
            yield f"{PLACE}/{entry['name']} does not have the size of the manifest"
    except FileNotFoundError as error:
        yield f"{error.filename or index} is missing"


def describe_differences(published: Published, config: FilterConfig) -> list[str]:
    """A sentence for each thing that the base was made with otherwise, or does not tell: nothing of it is measured
    again."""
    found, made_with = [], published.manifest.get("made_with", {})
    metric: str | None
    decoder: int | None
    if published.run is not None:
        other = FilterConfig.model_validate(published.run["config"])
        metric, decoder = other.iqa.metric, runs.decoder_version(published.run)
        changes = describe_changes("", config, other)
        if changes:
            found.append(f"the base was selected by other settings{changes}")
    else:
        metric, decoder = made_with.get("metric"), made_with.get("decoder_version")
        if metric is None:
            found.append("the base does not tell its metric and decoders: its run.json is not there")
    if metric is not None and metric != config.iqa.metric:
        found.append(f"the base was cut by {metric}, what is added by {config.iqa.metric}: the scores do not compare")
    if decoder is not None and decoder != version.DECODER_VERSION:
        found.append(f"the base was measured by decoder {decoder}, what is added by {version.DECODER_VERSION}")
    if "stripped" in published.manifest and not published.folder.exists(stripping.FILE):
        found.append("the base was stripped and does not tell the keys of before: equal pixels alone are known again")
    return found


def read_images(published: Published) -> Iterator[PublishedImage]:
    """Every image of the set in the order of its shards. VerificationError where a sample says nothing of itself."""
    told = _read_ledger(published) if published.run is not None else None
    for entry in published.manifest["shards"]:
        name = entry["name"].removesuffix(".tar")
        index = f"{PLACE}/{shards.index_name(name)}"
        rows: list[IndexRow] = published.folder.read_table(index).to_pylist()
        noted = shards.read_index_metadata(published.folder, index)["sha256s"].split()
        images = [row for row in rows if not row["member"].endswith(".json")]
        sums = dict(zip(sorted({row["key"] for row in rows}), noted, strict=True))
        jsons = {row["key"]: row for row in rows if row["member"].endswith(".json")}
        records = _read_records(published.folder, name, jsons) if told is None else told
        for row in images:
            record = records.get(row["key"])
            if record is None:
                raise VerificationError(f"{published.folder}/{PLACE}/{name}.tar says nothing of {row['key']}")
            yield PublishedImage(entry["name"], row, sums[row["key"]], record)


def _read_ledger(published: Published) -> dict[str, Mapping[str, Any]]:
    """What the ledger says of each kept image, by the key that it has in the shards, as the json of a sample has it."""
    packed = stripping.packed_keys(published.folder)
    found: dict[str, Mapping[str, Any]] = {}
    for row in to_rows(runs.read_ledger(published.folder, where=pc.field("keep")).sort_by("key")):
        record = make_portable({name: row[name] for name in row if name not in NOT_TOLD and row[name] is not None})
        found.setdefault(packed.get(row["key"], row["key"]), record)
    return found


def _read_records(folder: Folder, name: str, jsons: Mapping[str, IndexRow]) -> dict[str, Mapping[str, Any]]:
    def one(row: IndexRow) -> dict[str, Any] | None:
        return read_record(shards.read_member(folder, f"{PLACE}/{name}", row["offset"], row["size"]))

    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(jsons, pool.map(one, jsons.values()), strict=True))
    records: dict[str, Mapping[str, Any]] = {}
    for key, record in found.items():
        if record is not None:
            side = {"side": canonical_json(record["side"]).decode()} if "side" in record else {}
            records[key] = {**record, **side, "flags": ",".join(record.get("flags", []))}
    return records


def original_keys(published: Published) -> pa.Table:
    """Keys before --strip beside those in the shards (stripping.SCHEMA); empty where nobody tells them."""
    if not published.folder.exists(stripping.FILE):
        return stripping.SCHEMA.empty_table()
    return published.folder.read_table(stripping.FILE).select(stripping.SCHEMA.names)
