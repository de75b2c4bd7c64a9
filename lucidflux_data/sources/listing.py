"""Where candidates come from: folders, globs, WebDataset tars and Parquet, on any file system that fsspec knows.

    SOURCE... -> listing (INVENTORY rows, sorted by uri within each source) -> read_bytes(uri, offset, size)

Files that are no image by their extension are counted as ignored. In a tar each image member is a candidate and the
json of the same key travels with it. Symbolic links to files are followed, to folders are not.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import ConfigError, InputError
from lucidflux_data.images import IMAGE_EXTENSIONS
from lucidflux_data.sources.beside import Beside
from lucidflux_data.sources.counts import IGNORED, Counts, describe_ignored
from lucidflux_data.sources.ranges import open_object
from lucidflux_data.sources.tars import describe_packed, is_image_name, list_members, sample_key
from lucidflux_data.sources.uris import NOT_ALLOWED, check_regular, escape_url, may_be_read, show_name
from lucidflux_data.storage.allowed import prefixes_to_allow
from lucidflux_data.storage.folder import absolute_url, file_system, name_errors, retry_call, trust_sources
from lucidflux_data.storage.regular import is_special

INVENTORY = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("source_key", pa.string(), nullable=False),  # path relative to its source, or member name
        pa.field("source", pa.int32(), nullable=False),  # position among the SOURCE arguments
        pa.field("size", pa.int64(), nullable=False),  # encoded bytes; -1 where the listing does not tell
        pa.field("offset", pa.int64(), nullable=False),  # of the bytes inside a tar; -1 outside; uris.NOT_ALLOWED
        pa.field("side", pa.string()),  # the json beside a tar member, as it stands there
    ]
)


class Candidate(TypedDict):
    """A row of INVENTORY."""

    uri: str
    source_key: str
    source: int
    size: int
    offset: int
    side: str | None


Row = tuple[str, str, int, int, int, str | None]  # the columns of INVENTORY, as in Candidate


@dataclass
class Listing:
    """`table`: records.INVENTORY. `ignored`: all that is no candidate; `ignored_by`: the same by kind, those that are
    there (`counts.IGNORED`). `damaged_tars`: uris. `warnings`: a sentence each."""

    table: pa.Table
    ignored: int
    damaged_tars: list[str]
    ignored_by: dict[str, int]
    warnings: list[str]

    def all_warnings(self) -> list[str]:
        """Those, and a sentence for each damaged tar."""
        message = "is damaged or breaks off; what can be read of it is used"
        return [*(f"{tar} {message}" for tar in self.damaged_tars), *self.warnings]


def list_sources(sources: list[str]) -> Listing:
    """Every candidate of every source, once. Raises InputError for a source that is not there or holds no image,
    ConfigError where most of them are uris in tables that may not be read (storage/allowed.py)."""
    counts = Counts()
    tables = []
    seen: set[str] = set()
    trust_sources([absolute_url(source) for source in sources])
    for position, source in enumerate(sources):
        url = absolute_url(source)
        if url in seen:
            raise InputError(f"{source} is given twice")
        seen.add(url)
        counts.source = (url,)
        table = _table(_list_source(position, url, counts))
        if table.num_rows == 0:
            raise InputError(_describe_empty(source, counts))
        tables.append(table.sort_by([("uri", "ascending"), ("source_key", "ascending")]))
    table = pa.concat_tables(tables)
    met = table.num_rows
    if pc.count_distinct(table["uri"]).as_py() < met:
        table = _first_of_each_uri(table)
        counts.ignored["duplicate_rows"] += met - table.num_rows
    _check_allowed(table)
    by_kind = {kind: counts.ignored[kind] for kind in IGNORED if counts.ignored[kind]}
    return Listing(table.combine_chunks(), sum(by_kind.values()), counts.damaged_tars, by_kind, counts.warnings)


def _check_allowed(table: pa.Table) -> None:
    refused = table.filter(pc.equal(table["offset"], NOT_ALLOWED))["uri"].to_pylist()
    if 2 * len(refused) > table.num_rows:
        options = " ".join(f"--allow-uris {shlex.quote(prefix)}" for prefix in prefixes_to_allow(refused))
        raise ConfigError(
            f"{len(refused):,} of {table.num_rows:,} candidates are uris in tables that lie outside the source and are "
            f"not read; where you trust the tables, add {options}"
        )


def _describe_empty(source: str, counts: Counts) -> str:
    message = f"{source} holds no images ({describe_ignored(counts.ignored)}): "
    kinds = f"{', '.join(sorted(IMAGE_EXTENSIONS))} and .tar, .parquet are looked for"
    return message + "; ".join([kinds, *counts.warnings[:3]])


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
    """A file reached twice (two sources, or listed in a Parquet file beside it) is one candidate: the first that may
    be read."""
    refused = pc.equal(table["offset"], NOT_ALLOWED).to_numpy()
    seen: dict[str, int] = {}
    for row, uri in enumerate(table["uri"].to_pylist()):
        if uri not in seen or (refused[seen[uri]] and not refused[row]):
            seen[uri] = row
    first = sorted(seen.values())
    return table if len(first) == table.num_rows else table.take(first)


def _list_source(position: int, url: str, counts: Counts) -> Iterator[Row]:
    if any(mark in url for mark in "*?[") and not _exists(url):
        yield from _list_glob(position, url, counts)
    elif url.startswith("file://") and os.path.isdir(url.removeprefix("file://")):
        yield from _list_local(position, url.removeprefix("file://"), counts)
    elif url.lower().endswith(".tar"):
        check_regular(url)
        yield from _list_tar(position, url, url.rsplit("/", 1)[-1], counts, asked_for=True)
    elif url.lower().endswith(".parquet") and not _is_folder(url):
        check_regular(url)
        yield from _list_parquet(position, url, "", counts)
    elif url.startswith("file://"):
        yield from _list_local(position, url.removeprefix("file://"), counts)
    elif url.startswith(("http://", "https://")):
        yield from _list_web(position, url, counts)
    else:
        yield from _list_remote(position, url, counts)


def _is_folder(url: str) -> bool:
    """Whether a store has a folder called ....parquet, as Spark and dask write it."""
    if url.startswith(("file://", "http://", "https://")):
        return False
    with name_errors(url):
        return bool(retry_call(lambda: file_system(url).isdir(url), url))


def _exists(url: str) -> bool:
    return url.startswith("file://") and os.path.exists(url.removeprefix("file://"))


def _list_local(position: int, root: str, counts: Counts) -> Iterator[Row]:
    check_regular(root)
    if os.path.isfile(root):
        yield from _entry(position, f"file://{root}", os.path.basename(root), os.path.getsize(root), counts)
        return
    if not os.path.isdir(root):
        raise InputError(f"{root} is not there")
    beside = Beside(f"file://{root}", counts)
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders.sort()
        counts.ignored["folders"] += sum(os.path.islink(os.path.join(folder, name)) for name in folders)
        names, sides = beside.enter(f"file://{folder}", folders, files)
        for name in names:
            path = os.path.join(folder, name)
            if is_special(path):
                counts.ignored["not_regular"] += 1
                continue
            try:
                size = os.stat(path).st_size
            except OSError:
                size = -1  # a dangling link: listed here, `missing` when it is read
            for row in _entry(position, f"file://{path}", os.path.relpath(path, root), size, counts):
                yield _with_side(row, beside, name, sides)
    yield from _not_met(position, beside)


def _with_side(row: Row, beside: Beside, name: str, sides: dict[str, str]) -> Row:
    """An image of a folder with what stands beside it; one in a tar or a table as it is."""
    if row[5] is not None or row[4] >= 0:
        return row
    return *row[:5], beside.side(row[0], os.path.splitext(name)[0], sides)


def _not_met(position: int, beside: Beside) -> Iterator[Row]:
    for uri, key, side in beside.left():
        table = f"{beside.root}/{key.partition('#')[0]}"
        allowed = may_be_read(uri, table, [beside.root])
        yield uri, key, position, -1, -1 if allowed else NOT_ALLOWED, side


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be listed: {error.strerror}") from None


def _list_remote(position: int, url: str, counts: Counts) -> Iterator[Row]:
    fs = file_system(url)
    root = fs._strip_protocol(url)
    protocol = url.split("://")[0]
    with name_errors(url):
        if fs.isfile(root):
            name = root.rsplit("/", 1)[-1]
            yield from _entry(position, url, name, int(fs.size(root) or -1), counts)
            return
        beside = Beside(url, counts)
        for place, folders, files in fs.walk(root, detail=True, on_error="raise"):
            folder = place if "://" in place else f"{protocol}://{place}"
            names, sides = beside.enter(folder.rstrip("/"), folders, files)
            for name in names:
                path, size = files[name]["name"], int(files[name].get("size") or -1)
                uri = path if "://" in path else f"{protocol}://{path}"
                for row in _entry(position, uri, path.removeprefix(root).lstrip("/"), size, counts):
                    yield _with_side(row, beside, name, sides)
        yield from _not_met(position, beside)


def _list_web(position: int, url: str, counts: Counts) -> Iterator[Row]:
    """An image, or an http folder: the files linked from its index page, and from the pages below it."""
    fs = file_system(url)
    with name_errors(url):
        if is_image_name(url):
            if not retry_call(lambda: fs.exists(url), url):
                raise FileNotFoundError
            yield from _entry(position, url, unquote(url.rsplit("/", 1)[-1]), -1, counts)
            return
        root = url + "/"
        pages, seen = [root], {root}
        while pages:
            page = pages.pop()
            for link in sorted(set(retry_call(lambda at=page: fs.ls(at, detail=False), page))):  # type: ignore[misc]
                if link in seen or "?" in link or "/../" in link:  # a page sorted otherwise, the folder above
                    continue
                seen.add(link)
                if link.endswith("/"):
                    pages.append(link)
                else:
                    yield from _entry(position, link, unquote(link.removeprefix(root)), -1, counts)


def _list_glob(position: int, url: str, counts: Counts) -> Iterator[Row]:
    fs = file_system(url)
    stem = url[: min(url.find(mark) for mark in "*?[" if mark in url)].rsplit("/", 1)[0]
    root = fs._strip_protocol(stem)
    protocol = url.split("://")[0]
    with name_errors(url):
        found = sorted(fs.glob(url, detail=True).items())
    for path, info in found:
        if info["type"] == "directory" or (protocol == "file" and os.path.isdir(path)):  # behind a link, too
            if "**" not in url:  # of `**` each file is met by itself
                counts.ignored["folders"] += 1
                message = "is a folder that the pattern matches, and is not gone into: /** does"
                counts.warnings.append(f"{show_name(path)} {message}")
            continue
        if protocol == "file" and is_special(path):
            counts.ignored["not_regular"] += 1
            continue
        name = path.removeprefix(root).lstrip("/")
        uri = path if "://" in path else f"{protocol}://{path}"
        yield from _entry(position, uri, name, int(info.get("size") or -1), counts)


def _entry(position: int, uri: str, name: str, size: int, counts: Counts) -> Iterator[Row]:
    packed = describe_packed(name)
    if packed:
        counts.ignored["packed_tars"] += 1
        counts.warnings.append(f"{show_name(uri)} {packed}")
    elif name.lower().endswith(".tar"):
        yield from _list_tar(position, uri, name, counts)
    elif name.lower().endswith(".parquet"):
        yield from _list_parquet(position, uri, name, counts)
    elif is_image_name(name):
        yield escape_url(uri), show_name(name), position, size, -1, None
    else:
        counts.ignored["other_files"] += 1


def _list_tar(position: int, uri: str, name: str, counts: Counts, asked_for: bool = False) -> Iterator[Row]:
    """Image members with their byte ranges. A damaged tar gives what can be read of it."""
    shown = escape_url(uri)
    try:
        with open_object(uri) as file:
            members = list_members(file, shown, counts)
    except OSError as error:
        _leave_out(uri, error, asked_for, counts)
        return
    if asked_for and not members and shown in counts.damaged_tars:
        raise InputError(f"{show_name(uri.removeprefix('file://'))} is not a tar")
    sides = _twin_sides(uri) if any(member.side is None for member in members) else {}
    for member in members:
        key = f"{show_name(name)}#{member.name}" if not asked_for else member.name
        side = member.side or sides.get(sample_key(member.name))
        yield f"{shown}#{member.name}", key, position, member.size, member.offset, side


def _list_parquet(position: int, uri: str, name: str, counts: Counts) -> Iterator[Row]:
    """Rows with bytes or uris. Beside a tar of the same name stands img2dataset's twin, which is no source itself."""
    from lucidflux_data.sources.parquet import rows

    tar = os.path.splitext(uri)[0] + ".tar"
    if name and file_system(uri).isfile(tar):
        counts.ignored["other_files"] += 1
        return
    found, null_rows = 0, counts.ignored["null_rows"]
    try:
        for row_uri, row_name, side, offset in rows(uri, counts):
            found += 1
            yield row_uri, f"{show_name(name)}#{row_name}" if name else row_name, position, -1, offset, side
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError | PermissionError) or getattr(error, "errno", None) is not None:
            _leave_out(uri, error, not name and not found, counts)
            return  # an OSError without a number is pyarrow's, of damage
        why = "is encrypted and is not read" if "crypt" in str(error).lower() else "is damaged, or no Parquet file"
        message = f"{show_name(uri.removeprefix('file://'))} {why}"
        if not name and not found:
            raise InputError(message) from None
        counts.ignored["damaged_files"] += 1
        counts.warnings.append(f"{message}; {found:,} rows of it are used")
        return
    counts.ignored["other_files"] += not found and counts.ignored["null_rows"] == null_rows


def _leave_out(uri: str, error: Exception, asked_for: bool, counts: Counts) -> None:
    """A tar or table that is named by a link or a page and not there, or that cannot be read: InputError where the user
    asked for this one. What a store could not do is raised as it is: the file is not at fault."""
    if isinstance(error, FileNotFoundError):
        why = "is not there"
    elif isinstance(error, PermissionError):
        why = "may not be read"
    elif uri.startswith("file://"):
        why = f"cannot be read: {os.strerror(getattr(error, 'errno', None) or errno.EIO)}"
    else:
        raise error
    message = f"{show_name(uri.removeprefix('file://'))} {why}"
    if asked_for:
        raise InputError(message) from None
    counts.ignored["damaged_files"] += 1
    counts.warnings.append(message)


def _twin_sides(uri: str) -> dict[str, str]:
    """What the Parquet file beside a tar of img2dataset says of each key."""
    from lucidflux_data.sources.parquet import sides_by_key

    twin = os.path.splitext(uri)[0] + ".parquet"
    if twin.startswith("file://") and is_special(twin.removeprefix("file://")):
        return {}
    try:
        return sides_by_key(twin)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return {}
