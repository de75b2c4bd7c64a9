"""The encoded bytes of a candidate, from wherever its uri points."""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import zlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.decode_config import DEFAULT_MAX_FILE_BYTES
from lucidflux_data.errors import CredentialsError, InputError, StorageError
from lucidflux_data.images import ImageError
from lucidflux_data.sources.ranges import WEB_BYTES, fetch_range
from lucidflux_data.sources.uris import NOT_ALLOWED, local_path, may_be_read, restore_url, split_member, split_row
from lucidflux_data.storage.allowed import NotAllowed
from lucidflux_data.storage.config import SETTINGS
from lucidflux_data.storage.folder import file_system, retry_call
from lucidflux_data.storage.refusals import find_readable, note_read, store_of
from lucidflux_data.storage.regular import NOT_REGULAR, check_size, is_special, read_regular

# The details of failures that can pass: `retry` reads those candidates again.
PASSING = "the store did not answer, again and again"
REFUSED = "the store refuses this object to who asks (401 or 403)"
CHANGED = "the bytes are not those that were read before"
HEADER = tarfile.BLOCKSIZE  # bytes before a member of a tar, which say how long it is


def read_bytes(uri: str, offset: int = -1, size: int = -1, most: int = DEFAULT_MAX_FILE_BYTES) -> bytes:
    """The encoded bytes of a candidate, `most` at most. Raises ImageError `missing`, `truncated`, `too_many_bytes`,
    `out_of_memory` or `unreadable`; errors of a remote store that can pass are tried again before they count, and then
    say so (`PASSING`). A uri that cannot be read at all here (an unknown protocol, no credentials) is `unreadable`,
    too: one odd row costs one row. So is an object that its store refuses (`REFUSED`), unless the store refuses
    everything now: CredentialsError, and no image is at fault."""
    try:
        return _read(uri, offset, size, most)
    except InputError as error:
        raise ImageError("unreadable", f"the uri cannot be read: {error}") from None


def read_file(path: str | os.PathLike[str], most: int = DEFAULT_MAX_FILE_BYTES) -> bytes:
    """The bytes of an image file of this machine, by its path. ImageError `missing`, `unreadable` (what is no regular
    file is never opened), `too_many_bytes` or `out_of_memory`."""
    try:
        return read_regular(path, most)
    except FileNotFoundError:
        raise ImageError("missing", "the file is listed but not there") from None
    except (OSError, ValueError) as error:
        why = os.strerror(getattr(error, "errno", None) or 22)
        raise ImageError("unreadable", f"the file cannot be read: {why}") from None


def _read(uri: str, offset: int, size: int, most: int) -> bytes:
    """As `read_bytes`; InputError where the store cannot be spoken to."""
    if offset == NOT_ALLOWED:
        raise ImageError("not_allowed", "a table names it, and it lies outside the source and --allow-uris")
    try:
        return _read_allowed(uri, offset, size, most)
    except NotAllowed as error:
        raise ImageError("not_allowed", str(error)) from None


def _read_allowed(uri: str, offset: int, size: int, most: int) -> bytes:
    """As `_read`; NotAllowed for a private address that a table led to."""
    row = split_row(uri) if offset < 0 else None
    container = split_member(uri) if offset >= 0 else row[0] if row is not None else None
    path = local_path(container or uri)
    try:
        data = _fetch(uri, row, path, (offset, size, most))
        if path is None:
            note_read(restore_url(container or uri))
    except MemoryError:
        raise ImageError("out_of_memory", "there is not enough memory to read it") from None
    except FileNotFoundError:
        if offset < 0 and ".parquet#" in uri:
            raise ImageError("unreadable", "what stands after .parquet# is no number of a row") from None
        raise ImageError("missing", "the file is listed but not there") from None
    except PermissionError as error:
        if path is None:
            _check_store(restore_url(container or uri), container is not None)
            raise ImageError("unreadable", REFUSED) from None
        raise ImageError("unreadable", f"the file cannot be opened: {os.strerror(error.errno or 13)}") from None
    except IsADirectoryError as error:
        raise ImageError("unreadable", f"the file cannot be opened: {os.strerror(error.errno or 13)}") from None
    except StorageError:
        raise ImageError("unreadable", PASSING) from None
    except (OSError, ValueError, pa.ArrowException):  # ValueError: a path with a NUL; pa.ArrowInvalid is one
        raise ImageError("unreadable", "reading the bytes failed") from None
    return check_member(data, size) if offset >= 0 else data


def check_member(data: bytes, size: int) -> bytes:
    """A member of a tar, of which its header, `size` bytes and, where there is more, one more were read.

    ImageError `truncated`: its header says more, and the tar ends behind those that were listed, as it did then.
    `changed`: its header is that of no member of `size` bytes, or the tar ends before: another one lies there now."""
    header, content = data[:HEADER], data[HEADER : HEADER + size]
    try:
        stated = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
    except (tarfile.HeaderError, ValueError):
        stated = -1
    if stated > size == len(data) - HEADER:
        raise ImageError("truncated", "the tar ends inside this member")
    if stated != size or len(content) < size:
        raise ImageError("changed", "the tar is not the one that was listed")
    return content


def _fetch(uri: str, row: tuple[str, int] | None, path: str | None, span: tuple[int, int, int]) -> bytes:
    """`path`: of what is opened, None in a store; `span`: offset, size, and how much is read at most. Of a member of a
    tar, its header, what it holds, and the byte behind."""
    offset, size, most = span
    if offset < 0:
        check_size(size, most)  # as the listing has it
    else:
        check_size(size, most)
        offset, size, most = offset - HEADER, HEADER + size + 1, most + HEADER + 1
    if row is not None:
        return _parquet_row(*row, most) if path is not None else retry_call(lambda: _parquet_row(*row, most), uri)
    if path is not None:
        return read_regular(path, most, offset, size)
    return retry_call(lambda: _read_once(uri, offset, size, most), uri)


def read_known(
    uri: str,
    offset: int = -1,
    size: int = -1,
    sha256: str | None = None,
    crc32: int | None = None,
    most: int = DEFAULT_MAX_FILE_BYTES,
) -> bytes:
    """As `read_bytes`, of a candidate that was read before. `sha256`: its hex digits, or the first ones (a key);
    `crc32`: of its bytes, where an index has that. Other bytes are an ImageError `changed`. A store that does not
    answer now is a StorageError, which is tried again and then stops the job, and no failure of the image; one that
    refuses it now is a CredentialsError. So is an InputError, a store that cannot be spoken to any more."""
    try:
        data = _read(uri, offset, size, most)
    except ImageError as error:
        if error.reason == "truncated" and not (sha256 is None and crc32 is None):
            raise ImageError("changed", CHANGED) from None  # it was whole
        if error.detail == REFUSED:
            raise CredentialsError(uri) from None
        if error.detail == PASSING:
            raise StorageError(f"{uri} was read before and the store does not answer now: repeat the command") from None
        raise
    other = sha256 is not None and not hashlib.sha256(data).hexdigest().startswith(sha256)
    if other or (crc32 is not None and zlib.crc32(data) != crc32):
        raise ImageError("changed", CHANGED)
    return data


ASKED_FIRST = 3  # objects of each source: one of them may be refused for a reason of its own


def check_sources(sources: list[str], inventory: pa.Table) -> None:
    """CredentialsError where the first candidates of a remote source are all refused now, though they were listed.

    `sources`: the urls of the run, in order; `inventory`: uri, source, size, offset. Candidates that a table names
    elsewhere are not asked for: they may never have been readable.
    """
    for number, source in enumerate(sources):
        if local_path(source) is not None or source.startswith(("http://", "https://")):
            continue
        rows = inventory.filter(pc.equal(inventory["source"], number)).slice(0, ASKED_FIRST).to_pylist()
        below = [row for row in rows if row["uri"].startswith(re.split(r"[*?[]", source)[0])]
        if below and all(_is_refused(row["uri"], row["offset"], row["size"]) for row in below):
            raise CredentialsError(source)


def _is_refused(uri: str, offset: int, size: int) -> bool:
    try:
        read_bytes(uri, offset, size)
    except ImageError as error:
        return error.detail == REFUSED
    return False


def _check_store(url: str, read_before: bool) -> None:
    """CredentialsError where a store refuses what it gave before (a tar or table that was listed, another object), or
    names who asks as the reason: only an answer with a body does, and the first request of a file has none."""
    if read_before:
        raise CredentialsError(url)
    known = find_readable(url)
    if known is None and url.startswith(("http://", "https://")):
        return
    fs = file_system(url)
    try:
        retry_call(lambda: fs.cat_file(known, start=0, end=1) if known else fs.ls(url.rsplit("/", 1)[0]), known or url)
    except PermissionError:
        if known is not None:
            raise CredentialsError(store_of(url)) from None
    except (StorageError, OSError):
        return  # it says nothing about who asks


def _read_once(uri: str, offset: int, size: int, most: int) -> bytes:
    url = restore_url(split_member(uri) if offset >= 0 else uri)
    fs = file_system(url)
    if offset >= 0:
        check_size(size, most)
        return fetch_range(url, offset, offset + size)
    if url.startswith(("http://", "https://")):
        data = _read_web(fs, url, most)
    else:
        if size < 0:
            check_size(int(fs.info(url).get("size") or 0), most)
        data = fs.cat_file(url)
        if len(data) < size and int(fs.info(url).get("size") or 0) != len(data):  # else it is another one now, whole
            raise OSError("the answer was shorter than the listing says")
    check_size(len(data), most)
    whole: bytes = data
    return whole


def _read_web(fs: Any, url: str, most: int) -> bytes:
    """One request, of which no more than `most` bytes are taken: a server may send for ever."""
    parts, total = [], 0
    with fs.open(url, block_size=0, size=1) as file:  # a size: otherwise it is asked for first
        while part := file.read(WEB_BYTES):
            total += len(part)
            check_size(total, most)
            parts.append(part)
    return b"".join(parts)


def _parquet_row(url: str, row: int, most: int) -> bytes:
    from lucidflux_data.sources.parquet import absolute_uri, read_row

    path = local_path(url)
    if path is not None and is_special(path):
        raise ImageError("unreadable", NOT_REGULAR)
    data = read_row(restore_url(url), row)
    if not data:
        raise ImageError("missing", "the row has no image")
    if isinstance(data, bytes):
        check_size(len(data), most)
        return data
    named = absolute_uri(data, restore_url(url).rsplit("/", 1)[0])
    if split_row(named) is not None:  # rows that name each other would never end
        raise ImageError("unreadable", "the row names a row of a Parquet file")
    if not SETTINGS["paths_anywhere"] and not may_be_read(named, restore_url(url), SETTINGS["sources"]):
        raise ImageError("not_allowed", "a row of a table names it, and it lies outside the source and --allow-uris")
    return _read(named, -1, -1, most)
