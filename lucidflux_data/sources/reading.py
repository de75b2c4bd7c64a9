"""The encoded bytes of a candidate, from wherever its uri points."""

from __future__ import annotations

import hashlib
import os

import pyarrow as pa

from lucidflux_data.errors import StorageError
from lucidflux_data.images import ImageError
from lucidflux_data.storage.folder import file_system, tried

PASSING = "the store did not answer, again and again"  # the detail of a failure that can pass


def read_bytes(uri: str, offset: int = -1, size: int = -1) -> bytes:
    """The encoded bytes of a candidate. Raises ImageError `missing`, `truncated` or `unreadable`; errors of a remote
    store that can pass are tried again before they count, and then say so (`PASSING`)."""
    try:
        data = (
            tried(lambda: _read_once(uri, offset, size), uri)
            if not uri.startswith("file://")
            else _local(uri, offset, size)
        )
    except FileNotFoundError:
        raise ImageError("missing", "the file is listed but not there") from None
    except (PermissionError, IsADirectoryError) as error:
        raise ImageError("unreadable", f"the file cannot be opened: {os.strerror(error.errno or 13)}") from None
    except StorageError:
        raise ImageError("unreadable", PASSING) from None
    except (OSError, pa.ArrowInvalid):
        raise ImageError("unreadable", "reading the bytes failed") from None
    if offset >= 0 and len(data) < size:
        raise ImageError("truncated", "the tar ends inside this member")
    return data


def read_known(uri: str, offset: int = -1, size: int = -1, sha256: str | None = None) -> bytes:
    """As `read_bytes`, of a candidate that was read before. `sha256`: its hex digits, or the first ones (a key); other
    bytes are an ImageError `changed`. A store that does not answer now is a StorageError, which is tried again and
    then stops the job, and no failure of the image."""
    try:
        data = read_bytes(uri, offset, size)
    except ImageError as error:
        if error.detail == PASSING:
            raise StorageError(f"{uri} was read before and the store does not answer now: repeat the command") from None
        raise
    if sha256 is not None and not hashlib.sha256(data).hexdigest().startswith(sha256):
        raise ImageError("changed", "the bytes are not those that were read before")
    return data


def _local(uri: str, offset: int, size: int) -> bytes:
    if ".parquet#" in uri:
        return _parquet_row(uri)
    path = uri.removeprefix("file://")
    with open(path.partition(".tar#")[0] + ".tar" if offset >= 0 else path, "rb") as file:
        if offset < 0:
            return file.read()
        file.seek(offset)
        return file.read(size)


def _read_once(uri: str, offset: int, size: int) -> bytes:
    if ".parquet#" in uri:
        return _parquet_row(uri)
    url = uri.partition(".tar#")[0] + ".tar" if offset >= 0 else uri
    fs = file_system(url)
    data = fs.cat_file(url) if offset < 0 else fs.cat_file(url, start=offset, end=offset + size)
    if 0 <= len(data) < size:
        raise OSError("the answer was shorter than the listing says")
    return data


def _parquet_row(uri: str) -> bytes:
    from lucidflux_data.sources.parquet import read_row

    url, _, row = uri.rpartition("#")
    data = read_row(url, int(row))
    if data is None:
        raise ImageError("missing", "the row has no image")
    return data
