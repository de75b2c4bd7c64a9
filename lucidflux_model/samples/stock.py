"""Pairs in tars of anyone: WebDataset samples with members hq.* and lq.*, found by going through each tar once.

    RUN/index/<digest of the urls>.parquet    MEMBERS; in its metadata the state and the content of each tar

At every start the tars are looked at again: one in another state is gone through again, new ones are added. The content
of a tar is known by its keys and the crc32 of its images, which are read once; of an object with an etag, by that.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lucidflux_data.config import digest
from lucidflux_data.errors import InputError, StorageError
from lucidflux_data.sources.listing import list_sources
from lucidflux_data.sources.tars import is_image_name
from lucidflux_data.sources.uris import escape_url, restore_url
from lucidflux_data.storage.folder import READERS, Folder, absolute_url, file_system, name_errors, retry_call
from lucidflux_data.storage.formats import checked_bytes, parse_json
from lucidflux_model.samples.own import describe_group
from lucidflux_model.samples.reading import Unreadable, read_range, tar_state
from lucidflux_model.samples.stored import MEMBERS, StockTars

Sample = dict[str, int | str | None]  # a row of MEMBERS, without its crc32


@dataclass(frozen=True)
class Index:
    """`states`: of reading.tar_state by uri; `contents`: a digest of each tar."""

    table: pa.Table
    states: Mapping[str, str]
    contents: Mapping[str, str]


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
    return known.table, StockTars(known.states, known.contents)


def _look(sources: Sequence[str], known: Index | None, read_images: bool) -> Index:
    tars = list(dict.fromkeys(tar for source in sources for tar in list_tars(source)))
    with ThreadPoolExecutor(READERS) as pool:
        states = dict(zip(tars, pool.map(tar_state, tars), strict=True))
    kept = [tar for tar in tars if known and states[tar][0] and known.states.get(tar) == states[tar][0]]
    if known is not None and len(kept) == len(tars) == len(known.states):
        return known
    tables = [known.table.filter(pc.is_in(known.table["shard"], pa.array(kept, pa.string())))] if known else []
    contents = {tar: known.contents[tar] for tar in kept} if known else {}
    samples = {tar: _samples(tar) for tar in tars if tar not in kept}
    if not tables and not any("hq_offset" in sample for found in samples.values() for sample in found.values()):
        raise InputError(f"{sources[0]} holds no pairs: a sample needs the members hq.* and lq.*")
    for tar, found in samples.items():
        state, strong = states[tar]
        table = _table(tar, found, read_images and not strong)
        tables.append(table)
        contents[tar] = digest([table.drop(["shard", "hq_offset", "lq_offset"]).to_pylist(), state if strong else ""])
    whole = pa.concat_tables(tables).sort_by([("shard", "ascending"), ("key", "ascending")])
    return Index(whole, {tar: states[tar][0] for tar in tars}, {tar: contents[tar] for tar in sorted(tars)})


def list_tars(source: str) -> list[str]:
    """Uris of the tars of a folder, a glob or a url, sorted. InputError where there is none, or something else than
    tars; StorageError where the store does not answer."""
    url = absolute_url(source)
    found = sorted(_names(url))
    for name in found:
        if is_image_name(name) or name.lower().endswith(".parquet"):
            raise InputError(f"{name} is not in a tar: --data takes pairs; data.online=realesrgan-x4 makes them")
    tars = [escape_url(name) for name in found if name.lower().endswith(".tar")]
    if not tars:
        raise InputError(f"{source} holds no tars of pairs (.tar; packed ones are not read)")
    return tars


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


def _samples(tar: str) -> dict[str, Sample]:
    """The samples of a tar by key: what shares a name up to its first dot."""
    url = restore_url(tar)
    samples: dict[str, Sample] = {}
    for row in retry_call(lambda: list_sources([url]), url).table.to_pylist():
        member = row["uri"].removeprefix(f"{tar}#")
        folder, _, base = member.rpartition("/")
        stem, _, kind = base.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        sample = samples.setdefault(key, {"shard": tar, "key": key, "group": None})
        name = kind.partition(".")[0].lower()
        if name in ("hq", "lq"):
            sample |= {f"{name}_offset": row["offset"], f"{name}_size": row["size"]}
        sample["group"] = sample["group"] or describe_group(row["side"])
    return samples


def _table(tar: str, samples: Mapping[str, Sample], read_images: bool) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for key, sample in samples.items():
        for name in ("hq", "lq"):
            if f"{name}_offset" not in sample:
                raise InputError(f"{key} of {tar} has no {name.upper()}")
        sums = {f"{name}_crc32": _sum(tar, sample, name) for name in ("hq", "lq")} if read_images else {}
        rows.append({**sample, **sums})
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
    about = {"states": json.dumps(index.states), "contents": json.dumps(index.contents)}
    return checked_bytes(index.table.replace_schema_metadata(about))


def _read(folder: Folder, name: str) -> Index | None:
    """The index that a start before left; None where there is none, or one of a version that looked at names alone."""
    if not folder.exists(name):
        return None
    try:
        table = pq.read_table(pa.BufferReader(folder.read(name)), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, StorageError):
            raise
        return None  # damaged: it is made again
    about = table.schema.metadata or {}
    if b"states" not in about or table.schema.names != MEMBERS.names:
        return None
    return Index(table, parse_json(about[b"states"]), parse_json(about[b"contents"]))
