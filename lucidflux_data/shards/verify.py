"""Checks that what is on disk is what the manifest and the ledger say; every problem is one sentence."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from itertools import groupby

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import decode_apart
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.shard import IndexRow, Manifest, ShardEntry
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

PLACE = "shards"
NAME_BYTES = 100  # of a tar header
KEY_DIGITS = 20  # an image's name: of the sha256 of its bytes; a pair's name has its variant behind it


def check_shard(
    folder: Folder,
    entry: ShardEntry,
    deep: bool,
    max_pixels: int,
    contents: bool = False,
    count: Callable[[], None] = lambda: None,
) -> list[str]:
    """One shard against its line of the manifest, and its index against the tar.

    `deep` decodes every image of a filtered set. `contents`, which `deep` includes, compares each sample with the
    sha256 that its index notes, and an image with its name; so it is where `forget` has been, which once wrote other
    bytes under a name, with an index that agrees. `count` is called after each image that is decoded.
    """
    name = f"{PLACE}/{entry['name']}"
    try:
        tar, index = folder.read(name), folder.read(f"{PLACE}/{index_of_tar(entry['name'])}")
    except FileNotFoundError as error:
        return [f"{error.filename or name} is missing"]
    if hashlib.sha256(tar).hexdigest() != entry["sha256"]:
        return [f"{name} does not have the sha256 of the manifest"]
    if hashlib.sha256(index).hexdigest() != entry["index_sha256"]:
        return [f"{PLACE}/{index_of_tar(entry['name'])} does not have the sha256 of the manifest"]
    problems = []
    rows: list[IndexRow] = folder.read_table(f"{PLACE}/{index_of_tar(entry['name'])}").to_pylist()
    for row in rows:
        data = tar[row["offset"] : row["offset"] + row["size"]]
        start = max(0, row["offset"] - shards.BLOCK)
        header = tar[start : start + NAME_BYTES].rstrip(b"\0")
        if zlib.crc32(data) != row["crc32"] or header != row["member"].encode():
            problems.append(f"{name}: the index does not point at {row['member']}")
        elif deep:
            problems += [f"{name}: {problem}" for problem in _check_member(row, data, max_pixels)]
            if not row["member"].endswith(".json"):
                count()
    if contents or deep or folder.exists(run_folder.FORGOTTEN):
        noted = shards.read_index_metadata(folder, f"{PLACE}/{index_of_tar(entry['name'])}").get("sha256s", "").split()
        problems += [f"{name}: {problem}" for problem in _check_contents(tar, rows, noted)]
    if len({row["key"] for row in rows}) != entry["samples"]:
        problems.append(f"{name} has not {entry['samples']} samples")
    return problems


def check_manifest(folder: Folder, manifest: Manifest) -> list[str]:
    """What the manifest says of its shards against their indices, which `check_shard` has compared with the tars."""
    names = [entry["name"].removesuffix(".tar") for entry in manifest["shards"]]
    made = parse_json(shards.make_manifest(folder, PLACE, names, manifest["digests"]))
    wrong = sorted(name for name in made if name != run_folder.SEAL and manifest.get(name) != made[name])
    return [f"{shards.MANIFEST} does not fit its shards ({', '.join(wrong)})"] if wrong else []


def find_unfit(folder: Folder) -> list[str]:
    """Tars (names) below shards/ that do not have the sha256 that their own index notes, or that have no whole index:
    what is left to go by without a manifest."""
    names, unfit = folder.names(PLACE), []
    for name in names:
        if name.endswith(".tar"):
            index = index_of_tar(name)
            noted = shards.read_index_metadata(folder, f"{PLACE}/{index}") if index in names else {}
            if noted.get("tar_sha256") != hashlib.sha256(folder.read(f"{PLACE}/{name}")).hexdigest():
                unfit.append(name)
    return unfit


def _check_contents(tar: bytes, rows: list[IndexRow], noted: list[str]) -> list[str]:
    """Samples that are not what they were when they were written. `noted`: their sha256s, in key order."""
    samples = [(key, list(mine)) for key, mine in groupby(rows, key=lambda row: row["key"])]
    if len(samples) != len(noted):
        return [f"the index notes {len(noted)} sha256s of {len(samples)} samples"]
    problems = []
    for (key, mine), sha256 in zip(samples, noted, strict=True):
        parts = {row["member"].removeprefix(f"{key}."): (row["offset"], row["size"]) for row in mine}
        members = {extension: tar[offset : offset + size] for extension, (offset, size) in parts.items()}
        if shards.sample_sha256(members) != sha256:
            problems.append(f"{key} has other bytes than its sha256 in the index says")
        elif len(key) == KEY_DIGITS and sha256[:KEY_DIGITS] != key and not _is_normalized(members):
            problems.append(f"{key} is the name of other bytes")
    return problems


def _is_normalized(members: dict[str, bytes]) -> bool:
    """Whether an image was encoded again on packing: it keeps the name of its source."""
    record = read_record(members.get("json", b""))
    return record is not None and record.get("normalized") is True


def read_record(data: bytes) -> dict[str, object] | None:
    """The content of a json member; None for bytes that are something else."""
    try:
        record = parse_json(data)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _check_member(row: IndexRow, data: bytes, max_pixels: int) -> list[str]:
    if row["member"].endswith(".json"):
        record = read_record(data)
        return [] if record and record.get("key") == row["key"] else [f"{row['member']} is of another image"]
    try:
        decode_apart(data, DecodeConfig(max_pixels=max_pixels))
    except ImageError as error:
        return [f"{row['member']} does not decode: {error.detail}"]
    return []


def index_of_tar(tar_name: str) -> str:
    return shards.index_name(tar_name.removesuffix(".tar"))
