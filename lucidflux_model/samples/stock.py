"""Pairs in tars of anyone: WebDataset samples with members hq.* and lq.*, found by going through each tar once.

    RUN/index/<digest of the urls>.parquet    MEMBERS; in its metadata the state and the content of each tar

At every start the tars are looked at again: one in another state is gone through again, new ones are added. A tar of
a folder or a pattern that cannot be used costs a warning; one that was named itself ends the command. Of a damaged
tar the samples that lack a member are left out; of a whole one they are a mistake of who made it. The content of a
tar is known by its keys and the crc32 of its images, which are read once; of an object with an etag, by that.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lucidflux_data.config import digest
from lucidflux_data.errors import InputError, StorageError
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.tars import describe_packed, is_image_name
from lucidflux_data.sources.uris import escape_url, restore_url, show_name
from lucidflux_data.storage.folder import READERS, Folder, absolute_url, file_system, name_errors, retry_call
from lucidflux_data.storage.formats import checked_bytes, parse_json
from lucidflux_model.samples.listed import NOTHING, Listed, join_listed
from lucidflux_model.samples.own import describe_group
from lucidflux_model.samples.reading import Unreadable, read_range, tar_state
from lucidflux_model.samples.stored import MEMBERS, StockTars

Sample = dict[str, int | str | None]  # a row of MEMBERS, without its crc32


@dataclass(frozen=True)
class Index:
    """`states`: of reading.tar_state by uri; `contents`: a digest of each tar; `listed`: of each tar, and of
    each source what it holds beside tars."""

    table: pa.Table
    states: Mapping[str, str]
    contents: Mapping[str, str]
    listed: Mapping[str, Listed]


@dataclass
class Samples:
    """Of one tar: its samples by key, and what its listing said. `damaged`: it breaks off, or parts cannot be read."""

    by_key: dict[str, Sample]
    listed: Listed
    damaged: bool


def stock_pairs(
    sources: Sequence[str], folder: Folder, look: bool = True, keep: bool = True
) -> tuple[pa.Table, StockTars]:
    """MEMBERS, and what is known of the tars. `look`: whether they are looked at, or an index that is there is
    believed; `keep`: whether the index is written into `folder`: where it is not, and none is there, no image is read.
    InputError where there are no pairs, or one lacks a member; StorageError where a tar is away."""
    name = f"index/{digest([absolute_url(source) for source in sources])[:20]}.parquet"
    known = _read(folder, name)
    if known is None or look:
        found = _look(sources, known, read_images=keep or known is not None)
        if keep and found is not known:
            folder.publish(name, _encode(found))
        known = found
    listed = join_listed(known.listed[name] for name in sorted(known.listed))
    return known.table, StockTars(known.states, known.contents, listed)


def _look(sources: Sequence[str], known: Index | None, read_images: bool) -> Index:
    tars: dict[str, bool] = {}
    beside = {}
    for source in sources:
        found, beside[absolute_url(source)] = list_tars(source)
        tars |= {tar: tars.get(tar, False) or restore_url(tar) == absolute_url(source) for tar in found}
    with ThreadPoolExecutor(READERS) as pool:
        states = dict(zip(tars, pool.map(tar_state, tars), strict=True))
    kept = [tar for tar in tars if known and states[tar][0] and known.states.get(tar) == states[tar][0]]
    if known is not None and len(kept) == len(tars) == len(known.states):
        listed = {tar: known.listed[tar] for tar in kept if tar in known.listed} | beside
        return known if listed == known.listed else replace(known, listed=listed)
    samples = {tar: _samples(tar, named) for tar, named in tars.items() if tar not in kept}
    if not kept and not any("hq_offset" in row for of_tar in samples.values() for row in of_tar.by_key.values()):
        detail = "; ".join(["a sample needs the members hq.* and lq.*", *_first_warnings(samples, beside)])
        raise InputError(f"{sources[0]} holds no pairs: {detail}")
    return _index(known, kept, samples, states, beside, read_images)


def _first_warnings(samples: Mapping[str, Samples], beside: Mapping[str, Listed]) -> list[str]:
    return join_listed([*(found.listed for found in samples.values()), *beside.values()])["warnings"][:3]


def _index(
    known: Index | None,
    kept: Sequence[str],
    samples: Mapping[str, Samples],
    states: Mapping[str, tuple[str, bool]],
    beside: Mapping[str, Listed],
    read_images: bool,
) -> Index:
    """What is known of the tars that are `kept`, and of others what was found in them."""
    tables, contents, listed = [], {}, dict(beside)
    if known is not None:
        tables.append(known.table.filter(pc.is_in(known.table["shard"], pa.array(kept, pa.string()))))
        contents = {tar: known.contents[tar] for tar in kept}
        listed |= {tar: known.listed[tar] for tar in kept if tar in known.listed}
    for tar, found in samples.items():
        state, strong = states[tar]
        table = _table(tar, found, read_images and not strong)
        tables.append(table)
        listed[tar] = found.listed
        contents[tar] = digest([table.drop(["shard", "hq_offset", "lq_offset"]).to_pylist(), state if strong else ""])
    whole = pa.concat_tables(tables).sort_by([("shard", "ascending"), ("key", "ascending")])
    in_order = {tar: contents[tar] for tar in sorted(states)}
    return Index(whole, {tar: state for tar, (state, _) in states.items()}, in_order, listed)


def list_tars(source: str) -> tuple[list[str], Listed]:
    """Uris of the tars of a folder, a glob or a url, sorted, and what stands beside them. InputError where there is
    none, or something else than tars; StorageError where the store does not answer."""
    url = absolute_url(source)
    found = sorted(_names(url))
    for name in found:
        if is_image_name(name) or name.lower().endswith(".parquet"):
            shown = name.removeprefix("file://")
            raise InputError(f"{shown} is not in a tar: --data takes pairs; data.online=realesrgan-x4 makes them")
    tars = [escape_url(name) for name in found if name.lower().endswith(".tar")]
    if not tars:
        raise InputError(f"{source} holds no tars of pairs (.tar; packed ones are not read)")
    packed = [name for name in found if describe_packed(name)]
    counts = {"packed_tars": len(packed), "other_files": len(found) - len(tars) - len(packed)}
    ignored = {kind: count for kind, count in counts.items() if count}
    return tars, {
        **NOTHING,
        "warnings": [f"{_shown(name)} {describe_packed(name)}" for name in packed],
        "ignored_by": ignored,
    }


def _shown(url: str) -> str:
    return show_name(url.removeprefix("file://"))


def _names(url: str) -> Iterator[str]:
    """Urls of the files that a source names."""
    protocol, _, path = url.partition("://")
    if protocol == "file" and os.path.isdir(path):
        yield from (f"file://{folder}/{name}" for folder, _, names in os.walk(path) for name in names)
        return
    if protocol == "file" and os.path.exists(path):
        yield url
        return
    if protocol in ("http", "https"):
        yield from [url] if url.lower().endswith(".tar") else _of_pages(url)
        return
    fs = file_system(url)
    with name_errors(url):
        if any(mark in url for mark in "*?["):
            found = retry_call(lambda: fs.glob(url), url)
        else:
            found = [url] if retry_call(lambda: fs.isfile(url), url) else retry_call(lambda: fs.find(url), url)
        if not found:
            raise FileNotFoundError
    yield from (name if "://" in name else f"{protocol}://{name}" for name in found)


def _of_pages(url: str) -> list[str]:
    uris = list_sources([url]).table["uri"].to_pylist()
    return list(dict.fromkeys(uri.partition(".tar#")[0] + ".tar" if ".tar#" in uri else uri for uri in uris))


def _samples(tar: str, named: bool) -> Samples:
    """The samples of a tar by key: what shares a name up to its first dot. InputError for a tar that the user `named`
    and that holds nothing that can be read."""
    url = restore_url(tar)
    try:
        listing = retry_call(lambda: list_sources([url]), url)
    except InputError as error:
        if named:
            raise
        return Samples({}, {**NOTHING, "warnings": [str(error)], "ignored_by": {"damaged_files": 1}}, True)
    samples: dict[str, Sample] = {}
    for row in listing.table.to_pylist():
        member = row["uri"].removeprefix(f"{tar}#")
        folder, _, base = member.rpartition("/")
        stem, _, kind = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        sample = samples.setdefault(key, {"shard": tar, "key": key, "group": None})
        name = kind.partition(".")[0].lower()
        if name in ("hq", "lq"):
            sample |= {f"{name}_offset": row["offset"], f"{name}_size": row["size"]}
        sample["group"] = sample["group"] or describe_group(row["side"])
    listed: Listed = {**NOTHING, "warnings": listing.all_warnings(), "ignored_by": listing.ignored_by}
    return Samples(samples, listed, bool(listing.damaged_tars))


def _table(tar: str, samples: Samples, read_images: bool) -> pa.Table:
    """MEMBERS. InputError for a sample of a whole tar that lacks a member; one of a damaged tar is counted."""
    rows: list[dict[str, Any]] = []
    lacking = 0
    for key, sample in samples.by_key.items():
        missing = [name for name in ("hq", "lq") if f"{name}_offset" not in sample]
        if missing and not samples.damaged:
            raise InputError(f"{key} of {tar} has no {missing[0].upper()}")
        if missing:
            lacking += 1
            continue
        sums = {f"{name}_crc32": _sum(tar, sample, name) for name in ("hq", "lq")} if read_images else {}
        rows.append({**sample, **sums})
    if lacking:
        samples.listed = {**samples.listed, "left_out": {"incomplete": lacking}}
    return pa.Table.from_pylist(rows, MEMBERS)


def _sum(tar: str, sample: Sample, name: str) -> int:
    """crc32 of a member; 0 where the tar breaks off in it, which the run will find as well."""
    start, size = sample[f"{name}_offset"], sample[f"{name}_size"]
    assert isinstance(start, int), "offsets are integers"
    assert isinstance(size, int), "sizes are integers"
    try:
        return zlib.crc32(read_range(tar, start, start + size))
    except Unreadable:
        return 0


def _encode(index: Index) -> bytes:
    about = {name: json.dumps(getattr(index, name)) for name in ("states", "contents", "listed")}
    return checked_bytes(index.table.replace_schema_metadata(about))


def _read(folder: Folder, name: str) -> Index | None:
    """The index that a start before left; None where there is none, or one of a version that looked at names alone."""
    if not folder.exists(name):
        return None
    try:
        table = pq.read_table(pa.BufferReader(folder.read(name)), page_checksum_verification=True)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, StorageError):
            raise
        return None  # damaged: it is made again
    about = table.schema.metadata or {}
    if b"states" not in about or table.schema.names != MEMBERS.names:
        return None
    parsed = (parse_json(about.get(name, b"{}")) for name in (b"states", b"contents", b"listed"))  # listed: since 0.5
    return Index(table, *parsed)
