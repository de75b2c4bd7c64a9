"""Checks that what is on disk is what the manifest and the ledger say; every problem is one sentence."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import imagecodecs

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import check_apart
from lucidflux_data.shards import shard as shards
from lucidflux_data.shards.shard import IndexRow, Manifest, ShardEntry
from lucidflux_data.shards.tar_reading import TarReader
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json, parse_table

CheckSample = Callable[[str, dict[str, bytes]], list[str]]
PLACE = "shards"
NAME_BYTES = 100  # of a tar header
MOST_PARTS = 256  # of a shard
KEY_DIGITS = 20  # an image's name: of the sha256 of its bytes; a pair's name has its variant behind it


@dataclass(frozen=True)
class Part:
    """Samples `first` to `last` (not included) of a shard, in key order. The one that begins with its first sample
    compares the whole tar with the sha256 of the manifest."""

    entry: ShardEntry
    first: int
    last: int

    @property
    def name(self) -> str:
        return f"{self.entry['name']} from {self.first}" if self.first else self.entry["name"]


@dataclass(frozen=True)
class Checked:
    """What is wrong with a part. `unfit`: its shard is not the one of the manifest, which is then all that is said."""

    problems: list[str]
    unfit: bool = False


def split_shards(entries: Iterable[ShardEntry], size: int) -> list[Part]:
    """Parts of `size` samples, of more where a shard claims so many that it would have over MOST_PARTS of them. A shard
    of no sample has one, too."""
    parts = []
    for entry in entries:
        step = max(size, -(-entry["samples"] // MOST_PARTS))
        firsts = range(0, max(1, entry["samples"]), step)
        parts += [Part(entry, first, min(entry["samples"], first + step)) for first in firsts]
    return parts


def check_part(
    folder: Folder,
    part: Part,
    contents: bool,
    check_sample: CheckSample | None = None,
    count: Callable[[], None] = lambda: None,
) -> Checked:
    """One part of a shard against its line of the manifest, and its index against the tar; the tar is read once.

    `contents` compares each sample with the sha256 that its index notes, and an image with its name: where `forget` has
    been, which once wrote other bytes under a name, with an index that agrees. `check_sample`: what is to be looked
    into of a sample (its key, its members by extension) that is where the index says. `count` is called after each
    sample.
    """
    entry, is_first = part.entry, part.first == 0
    name, index_name = f"{PLACE}/{entry['name']}", f"{PLACE}/{index_of_tar(entry['name'])}"
    with contextlib.ExitStack() as opened:
        try:
            tar = opened.enter_context(contextlib.closing(TarReader(folder, name))) if is_first else None
            index = folder.read(index_name)
            is_index = hashlib.sha256(index).hexdigest() == entry["index_sha256"]
            rows: list[IndexRow] = parse_table(index, folder.path(index_name)).to_pylist() if is_index else []
            samples = [(key, list(mine)) for key, mine in groupby(rows, key=lambda row: row["key"])]
            mine = samples[part.first : part.last]
            if tar is None:
                tar = opened.enter_context(contextlib.closing(TarReader(folder, name, _span_of(mine))))
        except FileNotFoundError as error:
            return Checked([f"{error.filename or name} is missing"], True)
        noted = shards.parse_index_metadata(index).get("sha256s", "").split() if contents and is_index else None
        problems = []
        if noted is not None and len(noted) != len(samples):
            problems = [f"the index notes {len(noted)} sha256s of {len(samples)} samples"] * is_first
            noted = None
        sums = [None] * len(mine) if noted is None else noted[part.first : part.last]
        for (key, its_rows), sha256 in zip(mine, sums, strict=True):
            problems += _check_sample(tar, key, its_rows, sha256, check_sample)
            count()
        if is_first and tar.finish() != entry["sha256"]:
            return Checked([f"{name} does not have the sha256 of the manifest"], True)
    if not is_index:
        return Checked([f"{index_name} does not have the sha256 of the manifest"], True)
    if is_first and len({row["key"] for row in rows}) != entry["samples"]:
        problems.append(f"has not {entry['samples']} samples")
    return Checked([f"{name}: {problem}" for problem in problems])


def gather_checked(found: Iterable[tuple[Part, Checked]]) -> tuple[list[str], list[str]]:
    """(problems, names of the tars that have one) of parts in any order. Of a shard that is not the one of the manifest
    no more is said than that."""
    by_shard: dict[str, list[Checked]] = {}
    for part, checked in found:
        if checked.problems:
            by_shard.setdefault(part.entry["name"], []).append(checked)
    problems: list[str] = []
    for parts in by_shard.values():
        told = [one for one in parts if one.unfit] or parts
        problems += sorted({problem for one in told for problem in one.problems})
    return problems, sorted(by_shard)


def _span_of(samples: list[tuple[str, list[IndexRow]]]) -> tuple[int, int]:
    """Where in the tar these samples lie, with their headers."""
    rows = [row for _, mine in samples for row in mine]
    start = min((row["offset"] for row in rows), default=0) - shards.BLOCK
    return max(0, start), max((row["offset"] + row["size"] for row in rows), default=0)


def _check_sample(
    tar: TarReader, key: str, rows: list[IndexRow], sha256: str | None, check_sample: CheckSample | None
) -> list[str]:
    """One sample; `sha256`: what the index notes of it, None where that is not asked."""
    problems, members = [], {}
    for row in rows:
        start = max(0, row["offset"] - shards.BLOCK)
        taken = tar.take(start, row["offset"] + row["size"])
        data, header = taken[row["offset"] - start :], bytes(taken[:NAME_BYTES]).rstrip(b"\0")
        # libdeflate's: a third of the time of zlib's, beside a sha256 of the same bytes.
        if imagecodecs.deflate_crc32(cast(bytes, data)) != row["crc32"] or header != row["member"].encode():
            problems.append(f"the index does not point at {row['member']}")
        elif sha256 is not None or check_sample is not None:
            members[row["member"].removeprefix(f"{key}.")] = bytes(data)
    if problems:
        return problems
    problems += [] if sha256 is None else _check_contents(key, members, sha256)
    return problems + ([] if check_sample is None else check_sample(key, members))


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


def _check_contents(key: str, members: dict[str, bytes], sha256: str) -> list[str]:
    """Whether a sample is what it was when it was written."""
    if shards.sample_sha256(members) != sha256:
        return [f"{key} has other bytes than its sha256 in the index says"]
    if len(key) == KEY_DIGITS and sha256[:KEY_DIGITS] != key and not _is_normalized(members):
        return [f"{key} is the name of other bytes"]
    return []


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


def check_image(key: str, members: dict[str, bytes], max_pixels: int) -> list[str]:
    """A sample of a filtered set: whether its json is its own, and its image decodes."""
    problems = []
    for extension, data in members.items():
        if extension == "json":
            record = read_record(data)
            problems += [] if record and record.get("key") == key else [f"{key}.json is of another image"]
            continue
        try:
            check_apart(data, DecodeConfig(max_pixels=max_pixels))
        except ImageError as error:
            problems.append(f"{key}.{extension} does not decode: {error.detail}")
    return problems


def index_of_tar(tar_name: str) -> str:
    return shards.index_name(tar_name.removesuffix(".tar"))
