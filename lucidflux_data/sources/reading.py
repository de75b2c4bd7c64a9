"""The encoded bytes of a candidate, from wherever its uri points."""

from __future__ import annotations

import hashlib
import os
import zlib

import pyarrow as pa

from lucidflux_data.errors import InputError, StorageError
from lucidflux_data.images import ImageError
from lucidflux_data.sources.uris import is_special, local_path, restore_url, split_member, split_row
from lucidflux_data.storage.folder import file_system, tried

PASSING = "the store did not answer, again and again"  # the detail of a failure that can pass


def read_bytes(uri: str, offset: int = -1, size: int = -1) -> bytes:
    """The encoded bytes of a candidate. Raises ImageError `missing`, `truncated` or `unreadable`; errors of a remote
    store that can pass are tried again before they count, and then say so (`PASSING`). A uri that cannot be read at all
    here (an unknown protocol, no credentials) is `unreadable`, too: one odd row costs one row."""
    try:
        return _read(uri, offset, size)
    except InputError as error:
        raise ImageError("unreadable", f"the uri cannot be read: {error}") from None


def _read(uri: str, offset: int, size: int) -> bytes:
    """As `read_bytes`; InputError where the store cannot be spoken to."""
    try:
        path = local_path(split_member(uri) if offset >= 0 else uri)
        row = split_row(uri) if offset < 0 else None
        if row is not None:
            data = _parquet_row(*row) if path is not None else tried(lambda: _parquet_row(*row), uri)
        elif path is not None:
            data = _local(path, offset, size)
        else:
            data = tried(lambda: _read_once(uri, offset, size), uri)
    except FileNotFoundError:
        if offset < 0 and ".parquet#" in uri:
            raise ImageError("unreadable", "what stands after .parquet# is no number of a row") from None
        raise ImageError("missing", "the file is listed but not there") from None
    except (PermissionError, IsADirectoryError) as error:
        raise ImageError("unreadable", f"the file cannot be opened: {os.strerror(error.errno or 13)}") from None
    except StorageError:
        raise ImageError("unreadable", PASSING) from None
    except (OSError, ValueError, pa.ArrowException):  # ValueError: a path with a NUL; pa.ArrowInvalid is one
        raise ImageError("unreadable", "reading the bytes failed") from None
    if offset >= 0 and len(data) < size:
        raise ImageError("truncated", "the tar ends inside this member")
    return data


def read_known(
    uri: str, offset: int = -1, size: int = -1, sha256: str | None = None, crc32: int | None = None
) -> bytes:
    """As `read_bytes`, of a candidate that was read before. `sha256`: its hex digits, or the first ones (a key);
    `crc32`: of its bytes, where an index has that. Other bytes are an ImageError `changed`. A store that does not
    answer now is a StorageError, which is tried again and then stops the job, and no failure of the image; so is an
    InputError, one that cannot be spoken to any more."""
    try:
        data = _read(uri, offset, size)
    except ImageError as error:
        if error.detail == PASSING:
            raise StorageError(f"{uri} was read before and the store does not answer now: repeat the command") from None
        raise
    other = sha256 is not None and not hashlib.sha256(data).hexdigest().startswith(sha256)
    if other or (crc32 is not None and zlib.crc32(data) != crc32):
        raise ImageError("changed", "the bytes are not those that were read before")
    return data


def _local(path: str, offset: int, size: int) -> bytes:
    if is_special(path):
        raise ImageError("unreadable", "it is no regular file: a pipe, a socket or a device is not opened")
    with open(path, "rb") as file:
        if offset < 0:
            return file.read()
        left = os.fstat(file.fileno()).st_size - offset
        file.seek(offset)
        return file.read(max(0, min(size, left)))  # a damaged header may claim any size


def _read_once(uri: str, offset: int, size: int) -> bytes:
    url = restore_url(split_member(uri) if offset >= 0 else uri)
    fs = file_system(url)
    data = fs.cat_file(url) if offset < 0 else fs.cat_file(url, start=offset, end=offset + size)
    if 0 <= len(data) < size:
        raise OSError("the answer was shorter than the listing says")
    whole: bytes = data
    return whole


def _parquet_row(url: str, row: int) -> bytes:
    from lucidflux_data.sources.parquet import absolute_uri, read_row

    path = local_path(url)
    if path is not None and is_special(path):
        raise ImageError("unreadable", "it is no regular file: a pipe, a socket or a device is not opened")
    data = read_row(restore_url(url), row)
    if not data:
        raise ImageError("missing", "the row has no image")
    if isinstance(data, bytes):
        return data
    named = absolute_uri(data, restore_url(url).rsplit("/", 1)[0])
    if split_row(named) is not None:  # rows that name each other would never end
        raise ImageError("unreadable", "the row names a row of a Parquet file")
    return _read(named, -1, -1)
