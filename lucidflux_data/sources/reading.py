"""The encoded bytes of a candidate, from wherever its uri points."""

from __future__ import annotations

import hashlib
import os
import re
import stat

import pyarrow as pa

from lucidflux_data.errors import InputError, StorageError
from lucidflux_data.images import ImageError
from lucidflux_data.storage.folder import file_system, tried

PARQUET_ROW = re.compile(r"\.parquet#[0-9]+$", re.IGNORECASE)
TAR_END = re.compile(r"\.tar#", re.IGNORECASE)
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
    except MemoryError:
        raise ImageError("out_of_memory", "there is not enough memory for its bytes") from None
    except InputError as error:
        raise ImageError("unreadable", str(error)) from None
    except (ValueError, ImportError):
        raise ImageError("unreadable", "the uri names no place that can be read") from None
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
    if PARQUET_ROW.search(uri):
        return _parquet_row(uri)
    path = uri.removeprefix("file://")
    path = tar_of(path) if offset >= 0 else path
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
        raise ImageError("unreadable", "it is a pipe, a socket or a device, and no file")
    if offset >= 0 and offset + size > about.st_size:
        raise ImageError("truncated", "the tar ends inside this member")
    with open(path, "rb") as file:
        if offset < 0:
            return file.read()
        file.seek(offset)
        return file.read(size)


def tar_of(uri: str) -> str:
    """The tar of a member's uri, which a `#` parts; where folders or members have `.tar#` in their own names, the first
    part that is a file on this machine, else the first part."""
    ends = [match.start() + 4 for match in TAR_END.finditer(uri)]
    parts = [uri[:end] for end in ends]
    there = [part for part in parts if os.path.isfile(part.removeprefix("file://"))] if len(parts) > 1 else []
    return (there or parts or [uri])[0]


def _read_once(uri: str, offset: int, size: int) -> bytes:
    if PARQUET_ROW.search(uri):
        return _parquet_row(uri)
    url = tar_of(uri) if offset >= 0 else uri
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
