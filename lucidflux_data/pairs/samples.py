"""The samples of a folder of pairs: found by key, read from their shard."""

from __future__ import annotations

import bisect
import zlib
from collections.abc import Iterator, Sequence
from typing import TypedDict

from lucidflux_data.errors import InputError
from lucidflux_data.images import ImageError
from lucidflux_data.pairs.pair import PairRecord
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.shard import IndexRow, ShardEntry
from lucidflux_data.sources.reading import read_known
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

FAILED = "failed"  # in an index's metadata: images that turned out not to decode


class FailedImage(TypedDict):
    """An image of a shard that turned out not to decode: its `key`, the `reason` (records.FAILURES), and a `detail`."""

    key: str
    reason: str
    detail: str


def failed_images(folder: Folder, tar_name: str) -> list[FailedImage]:
    """The images of a shard that turned out not to decode."""
    name = shards.index_name(tar_name.removesuffix(".tar"))
    metadata = shards.read_index_metadata(folder, f"shards/{name}")
    failed: list[FailedImage] = parse_json(metadata.get(FAILED, "[]"))
    return failed


def read_sample(folder: Folder, tar_name: str, rows: Sequence[IndexRow]) -> dict[str, bytes]:
    """The members of one sample by extension (`hq.png`, `lq.png`, `json`). `rows`: its rows of the index. InputError
    where the bytes are not those of the index."""
    shard = f"shards/{tar_name.removesuffix('.tar')}"
    found = {}
    for row in rows:
        data = shards.read_member(folder, shard, row["offset"], row["size"])
        if zlib.crc32(data) != row["crc32"]:
            why = "it is damaged, or its shard was written again: `lucidflux-data verify` tells, --repair mends it"
            raise InputError(f"{row['member']} of {folder} has changed: {why}")
        found[row["member"].partition(".")[2]] = data
    return found


def samples_of_index(folder: Folder, tar_name: str) -> dict[str, list[IndexRow]]:
    """The index of a shard by sample key, in key order."""
    name = f"shards/{shards.index_name(tar_name.removesuffix('.tar'))}"
    samples: dict[str, list[IndexRow]] = {}
    for row in folder.read_table(name).to_pylist():
        samples.setdefault(row["key"], []).append(row)
    return samples


def find_sample(folder: Folder, key: str) -> dict[str, bytes]:
    """The members of the sample `key`. InputError where there is none. Reads log2(shards) indices."""
    entries = [entry for entry in shards.read_manifest(folder)["shards"] if entry["samples"]]
    place = bisect.bisect_right(entries, key, key=lambda entry: next(iter(samples_of_index(folder, entry["name"]))))
    if place:
        name = entries[place - 1]["name"]
        rows = samples_of_index(folder, name).get(key)
        if rows is not None:
            return read_sample(folder, name, rows)
    raise InputError(f"{key} is no pair of {folder}: a pair is KEY_VV, like {_example(folder, entries)}")


def _example(folder: Folder, entries: Sequence[ShardEntry]) -> str:
    return next(iter(samples_of_index(folder, entries[0]["name"]))) if entries else "0123456789abcdef0123_00"


def stored_hq(members: dict[str, bytes], record: PairRecord, sources: list[str]) -> bytes:
    """The bytes that the HQ is made of: the member, or with hq=ref the clean image itself. InputError where it is
    gone or is another one."""
    for extension, data in members.items():
        if extension.startswith("hq."):
            return data
    ref = record["hq"]["ref"]
    place = ref["path"] if ref["source"] < 0 else f"{sources[ref['source']]}/{ref['path']}".rstrip("/")
    pointer = f"it was stored as a pointer into {place}"
    uri = place if ref["offset"] < 0 else f"{place}#"
    try:
        return read_known(uri, ref["offset"], ref["size"], crc32=ref["crc32"])
    except ImageError as error:
        what = "has changed" if error.reason == "changed" else "is gone"
        raise InputError(f"the HQ of {record['key']} {what}: {pointer}") from None


def read_records(folder: Folder, tar_name: str, limit: int | None = None) -> Iterator[PairRecord]:
    """The json members of a shard in key order, `limit` of them at most."""
    samples = samples_of_index(folder, tar_name)
    with folder.open(f"shards/{tar_name}") as file:
        for rows in list(samples.values())[:limit]:
            (row,) = [row for row in rows if row["member"].endswith(".json")]
            file.seek(row["offset"])
            yield parse_json(file.read(row["size"]))
