"""Where candidates come from: folders, globs, WebDataset tars and Parquet, on any file system that fsspec knows.

    SOURCE... -> listing (INVENTORY rows, sorted by uri within each source) -> read_bytes(uri, offset, size)

Files that are no image by their extension are counted as ignored. In a tar each image member is a candidate and the
json of the same key travels with it. Symbolic links to files are followed, to folders are not.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.images import IMAGE_EXTENSIONS
from lucidflux_data.sources.tars import escape_name, is_image_name, list_members, sample_key
from lucidflux_data.storage.folder import absolute_url, file_system, told_of, tried

INVENTORY = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),  # path relative to its source, or member name
        pa.field("source", pa.int32(), nullable=False),  # position among the SOURCE arguments
        pa.field("size", pa.int64(), nullable=False),  # encoded bytes; -1 where the listing does not tell
        pa.field("offset", pa.int64(), nullable=False),  # of the bytes inside a tar; -1 outside tars
        pa.field("side", pa.string()),  # the json beside a tar member, as it stands there
    ]
)


COMPRESSED_TARS = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")  # members of these have no byte ranges

Row = tuple[str, str, int, int, int, str | None]  # the columns of records.INVENTORY


@dataclass
class Listing:
    """`table`: records.INVENTORY. `ignored`: files that are no image. `damaged_tars`: uris of tars and Parquet files
    of which a part or all cannot be read, compressed tars among them."""

    table: pa.Table
    ignored: int
    damaged_tars: list[str]


@dataclass
class _Counts:
    ignored: int
    damaged_tars: list[str]


def list_sources(sources: list[str]) -> Listing:
    """Every candidate of every source, once. Raises InputError for a source that is not there or holds no image."""
    counts = _Counts(0, [])
    tables = []
    seen: set[str] = set()
    for position, source in enumerate(sources):
        url = absolute_url(source)
        if url in seen:
            raise InputError(f"{source} is given twice")
        seen.add(url)
        table = _table(_list_source(position, url, counts))
        if table.num_rows == 0 and counts.damaged_tars:
            broken = counts.damaged_tars[0].removeprefix("file://")
            raise InputError(f"{source} holds no images: {broken} is damaged, or no Parquet file, or a compressed tar")
        if table.num_rows == 0:
            raise InputError(
                f"{source} holds no images ({counts.ignored} other files): "
                f"{', '.join(sorted(IMAGE_EXTENSIONS))} and .tar, .parquet are looked for"
            )
        tables.append(table.sort_by([("uri", "ascending"), ("source_key", "ascending")]))
    table = pa.concat_tables(tables)
    if pc.count_distinct(table["uri"]).as_py() < table.num_rows:
        table = _first_of_each_uri(table)
    return Listing(table.combine_chunks(), counts.ignored, counts.damaged_tars)


def sample(table: pa.Table, limit: int, seed: int) -> pa.Table:
    """`limit` rows, drawn by the hash of (seed, uri): the same rows whatever the order, a subset of a larger limit."""
    if limit >= table.num_rows:
        return table
    digests = [hashlib.sha256(f"{seed}\0{uri}".encode()).digest() for uri in table["uri"].to_pylist()]
    chosen = sorted(sorted(range(len(digests)), key=digests.__getitem__)[:limit])
    return table.take(chosen)


def _table(rows: Iterator[Row]) -> pa.Table:
    """In batches, so that no more than 50,000 rows exist as Python objects."""
    batches = []
    pending: list[Row] = []
    for row in rows:
        pending.append(row)
        if len(pending) == 50_000:
            batches.append(_batch(pending))
            pending = []
    batches.append(_batch(pending))
    return pa.Table.from_batches(batches)


def _batch(rows: list[Row]) -> pa.RecordBatch:
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[]] * len(INVENTORY)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, INVENTORY, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=INVENTORY)


def _first_of_each_uri(table: pa.Table) -> pa.Table:
    """A file reached twice (two sources, or listed in a Parquet file beside it) is one candidate: the first."""
    seen: set[str] = set()
    first = []
    for row, uri in enumerate(table["uri"].to_pylist()):
        if uri not in seen:
            seen.add(uri)
            first.append(row)
    return table if len(first) == table.num_rows else table.take(first)


def _list_source(position: int, url: str, counts: _Counts) -> Iterator[Row]:
    if any(mark in url for mark in "*?[") and not _exists(url):
        yield from _list_glob(position, url, counts)
    elif url.lower().endswith(COMPRESSED_TARS):
        raise InputError(f"{url.removeprefix('file://')} is a compressed tar: unpack it, or write it again as .tar")
    elif url.lower().endswith(".tar"):
        yield from _list_tar(position, url, url.rsplit("/", 1)[-1], counts, asked_for=True)
    elif url.endswith(".parquet") and not _is_folder(url):
        yield from _list_parquet(position, url, "", counts, asked_for=True)
    elif url.startswith("file://"):
        yield from _list_local(position, url.removeprefix("file://"), counts)
    elif url.startswith(("http://", "https://")):
        yield from _list_web(position, url, counts)
    else:
        yield from _list_remote(position, url, counts)


def _is_folder(url: str) -> bool:
    """Spark and Dask write a folder called x.parquet: its files are listed as those of any folder."""
    return file_system(url).isdir(url)


def _exists(url: str) -> bool:
    return url.startswith("file://") and os.path.exists(url.removeprefix("file://"))


def _list_local(position: int, root: str, counts: _Counts) -> Iterator[Row]:
    if os.path.isfile(root):
        yield from _entry(position, f"file://{root}", os.path.basename(root), os.path.getsize(root), counts)
        return
    if not os.path.isdir(root):
        raise InputError(f"{root} is not there")
    for folder, folders, names in os.walk(root, onerror=_refuse):
        folders.sort()
        for name in names:
            path = os.path.join(folder, name)
            try:
                about = os.stat(path)
                size = about.st_size
                if not stat.S_ISREG(about.st_mode):  # a pipe, a socket, a device: opening one may never end
                    counts.ignored += 1
                    continue
            except OSError:
                size = -1  # a dangling link: listed here, `missing` when it is read
            name = escape_name(os.path.relpath(path, root))
            yield from _entry(position, f"file://{escape_name(path)}", name, size, counts)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed: {error.strerror}") from None


def _list_remote(position: int, url: str, counts: _Counts) -> Iterator[Row]:
    fs = file_system(url)
    root = fs._strip_protocol(url)
    protocol = url.split("://")[0]
    with told_of(url):
        if fs.isfile(root):
            name = root.rsplit("/", 1)[-1]
            yield from _entry(position, url, name, int(fs.size(root) or -1), counts)
            return
        for _, _, files in fs.walk(root, detail=True, on_error="raise"):
            for path, info in ((info["name"], info) for info in files.values()):
                name = path.removeprefix(root).lstrip("/")
                uri = path if "://" in path else f"{protocol}://{path}"
                yield from _entry(position, uri, name, int(info.get("size") or -1), counts)


def _list_web(position: int, url: str, counts: _Counts) -> Iterator[Row]:
    """An image, or an http folder: the files linked from its index page, and from the pages below it."""
    fs = file_system(url)
    with told_of(url):
        if is_image_name(url):
            if not tried(lambda: fs.exists(url), url):
                raise FileNotFoundError
            yield from _entry(position, url, unquote(url.rsplit("/", 1)[-1]), -1, counts)
            return
        root = url + "/"
        pages, seen = [root], {root}
        while pages:
            page = pages.pop()
            for link in sorted(set(tried(lambda at=page: fs.ls(at, detail=False), page))):  # type: ignore[misc]
                if link in seen or "?" in link or "/../" in link:  # a page sorted otherwise, the folder above
                    continue
                seen.add(link)
                if link.endswith("/"):
                    pages.append(link)
                else:
                    yield from _entry(position, link, unquote(link.removeprefix(root)), -1, counts)


def _list_glob(position: int, url: str, counts: _Counts) -> Iterator[Row]:
    fs = file_system(url)
    stem = url[: min(url.find(mark) for mark in "*?[" if mark in url)].rsplit("/", 1)[0]
    root = fs._strip_protocol(stem)
    protocol = url.split("://")[0]
    with told_of(url):
        found = sorted(fs.glob(url, detail=True).items())
    for path, info in found:
        if info["type"] == "directory":
            continue
        name = path.removeprefix(root).lstrip("/")
        uri = path if "://" in path else f"{protocol}://{path}"
        yield from _entry(position, uri, name, int(info.get("size") or -1), counts)


def _entry(position: int, uri: str, name: str, size: int, counts: _Counts) -> Iterator[Row]:
    base = name.rpartition("/")[2]
    if base.startswith("._") or (size == 0 and base.lower().endswith((".tar", ".parquet"))):
        counts.ignored += 1  # what macOS puts beside files, and files that were never written
    elif name.lower().endswith(".tar"):
        yield from _list_tar(position, uri, name, counts)
    elif name.lower().endswith(COMPRESSED_TARS):
        counts.ignored += 1
        counts.damaged_tars.append(uri)
    elif name.lower().endswith(".parquet"):
        yield from _list_parquet(position, uri, name, counts)
    elif is_image_name(name):
        yield uri, name, position, size, -1, None
    else:
        counts.ignored += 1


def _list_tar(position: int, uri: str, name: str, counts: _Counts, asked_for: bool = False) -> Iterator[Row]:
    """Image members with their byte ranges. A damaged tar gives what can be read of it, and stands in damaged_tars."""
    try:
        with file_system(uri).open(uri, "rb") as file:
            found = list_members(file)
    except FileNotFoundError:
        raise InputError(f"{uri.removeprefix('file://')} is not there") from None
    counts.ignored += found.ignored
    if found.damaged:
        counts.damaged_tars.append(uri)
    if asked_for and not found.images and found.damaged:
        raise InputError(f"{uri.removeprefix('file://')} is not a tar")
    twins = _twin_sides(uri) if any(side is None for *_, side in found.images) else {}
    for member, offset, size, side in found.images:
        key = f"{name}#{member}" if not asked_for else member
        beside = twins.get(sample_key(member)) if side is None else side
        yield f"{uri}#{member}", key, position, size, offset, beside


def _list_parquet(position: int, uri: str, name: str, counts: _Counts, asked_for: bool = False) -> Iterator[Row]:
    """Rows with bytes or uris. Beside a tar of the same name stands img2dataset's twin, which is no source itself."""
    from lucidflux_data.sources.parquet import rows

    tar = uri.removesuffix(".parquet") + ".tar"
    if not asked_for and file_system(uri).exists(tar):
        counts.ignored += 1
        return
    found = False
    try:
        for row_uri, row_name, side in rows(uri):
            found = True
            yield row_uri, f"{name}#{row_name}" if name else row_name, position, -1, -1, side
    except FileNotFoundError:
        raise InputError(f"{uri.removeprefix('file://')} is not there") from None
    except pa.ArrowInvalid:
        if asked_for:
            raise InputError(f"{uri.removeprefix('file://')} is damaged, or no Parquet file") from None
        counts.damaged_tars.append(uri)
    counts.ignored += not found


def _twin_sides(uri: str) -> dict[str, str]:
    """What the Parquet file beside a tar of img2dataset says of each key."""
    from lucidflux_data.sources.parquet import sides_by_key

    try:
        return sides_by_key(uri.removesuffix(".tar") + ".parquet")
    except (FileNotFoundError, pa.ArrowInvalid):
        return {}
