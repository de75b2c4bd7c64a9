"""How a candidate's uri names a file: names that a uri cannot hold as they are, and the marks `.tar#` and `.parquet#`.

    file:///photos/a.jpg    file:///photos/s.tar#member.jpg    file:///photos/t.parquet#17

In the name of a file or folder, a byte that is not UTF-8, a `#` after `.tar` or `.parquet`, and a backslash that would
read as one of these, are written `\\xNN`. Every other name stands as it is, so that two names never share a uri.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from lucidflux_data.errors import InputError
from lucidflux_data.storage.allowed import is_below
from lucidflux_data.storage.config import SETTINGS
from lucidflux_data.storage.regular import is_special

NOT_ALLOWED = -2  # the offset in the inventory of a uri that a table names and that may not be read

_MARK = re.compile(r"(?<=\.tar)#|(?<=\.parquet)#", re.IGNORECASE)
_LIKE_ESCAPE = re.compile(r"\\(?=x[0-9a-f]{2})")
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
_MEMBER = re.compile(r"(.*?\.tar)#", re.IGNORECASE | re.DOTALL)
_ROW = re.compile(r"(.*\.parquet)#([0-9]{1,18})", re.IGNORECASE | re.DOTALL)


def show_name(name: str) -> str:
    """A name as valid UTF-8: its other bytes (surrogates of the file system's encoding) as \\xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def escape_name(name: str) -> str:
    """A path, or the name of a tar's member, as it stands in a uri; the name itself where nothing needs an escape."""
    return _MARK.sub(r"\\x23", show_name(_LIKE_ESCAPE.sub(r"\\x5c", name)))


def escape_text(path: str) -> str:
    """A path that somebody wrote down, as it stands in a uri: `.parquet#5` in it still names a row."""
    return show_name(_LIKE_ESCAPE.sub(r"\\x5c", path))


def restore_name(name: str) -> str:
    """The name that `escape_name` was given."""
    if "\\x" not in name:
        return name
    data = name.encode("utf-8", "surrogateescape")
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), data).decode("utf-8", "surrogateescape")


def escape_url(url: str) -> str:
    """The uri of a file that a listing found. A web address has no escapes of ours."""
    return url if url.startswith(("http://", "https://")) else escape_name(url)


def restore_url(uri: str) -> str:
    """The url that a file system is asked for. A web address has no escapes of ours."""
    return uri if uri.startswith(("http://", "https://")) else restore_name(uri)


def split_member(uri: str) -> str:
    """The uri of the tar that holds a member."""
    found = _MEMBER.match(uri)
    return found[1] if found else uri


def split_row(uri: str) -> tuple[str, int] | None:
    """(uri of the Parquet file, row); None for a uri that names no row."""
    found = _ROW.fullmatch(uri)
    return (found[1], int(found[2])) if found else None


def local_path(uri: str) -> str | None:
    """The path that a uri names on this machine, None for a store. The path of `local://` is one, too."""
    for protocol in ("file://", "local://"):
        if uri.startswith(protocol):
            return restore_name(uri.removeprefix(protocol))
    return None if "://" in uri else restore_name(uri)


def may_be_read(uri: str, table: str, sources: Iterable[str]) -> bool:
    """Whether a uri that stands in `table` (a url) may be read: it lies below the folder of the table, below the source
    that holds the table, or below a prefix that the user allowed."""
    row = split_row(uri)
    file = row[0] if row is not None else uri  # which may be a link
    return is_below(restore_url(file), [*_places_around(table, tuple(sources)), *SETTINGS["allow_uris"]])


@functools.lru_cache(maxsize=4096)
def _places_around(table: str, sources: tuple[str, ...]) -> list[str]:
    return [table.rsplit("/", 1)[0], *(source for source in sources if is_below(table, [source]))]


def check_regular(url: str) -> None:
    """InputError for a path or url of this machine where a pipe, a socket or a device stands."""
    path = url.removeprefix("file://")
    if is_special(path):
        raise InputError(f"{show_name(path)} is no regular file: a pipe, a socket or a device is not opened")
