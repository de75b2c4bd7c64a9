"""Ranged reads of samples, and what keeps one from being had: its own trouble, a store that is away, other data.

Unreadable                       a sample's own trouble: the loader counts it and takes another
StorageError, CredentialsError   the tar or its store is away: no sample is at fault, and the run stops
DataChanged                      the tar holds something else than when the run looked at it
"""

from __future__ import annotations

import errno
import os

from lucidflux_data.errors import ConfigError, CredentialsError, StorageError
from lucidflux_data.sources.ranges import fetch_range
from lucidflux_data.sources.uris import local_path, restore_url
from lucidflux_data.storage.folder import file_system, retry_call
from lucidflux_data.storage.regular import open_regular

GO_ON = "--resume --data-changed goes on with what is there"


class Unreadable(Exception):
    """One pair cannot be read; the message says which and why."""


class DataChanged(ConfigError):
    """Data that a run reads are others than those it was begun with; the message names what differs."""


def read_range(url: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of a tar. Unreadable where it ends before, or a disk cannot read them; StorageError or
    CredentialsError where the tar is away, in a store after some attempts."""
    path = local_path(url)
    data = _read_local(path, start, end) if path is not None else _read_remote(restore_url(url), start, end)
    if len(data) < end - start:
        raise Unreadable(f"{url} breaks off before byte {end:,}")
    return data


def _read_local(path: str, start: int, end: int) -> bytes:
    try:
        file = open_regular(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be opened: {os.strerror(error.errno or errno.EIO)}") from None
    with file:
        try:
            there = min(end, os.fstat(file.fileno()).st_size) - start  # a damaged index may claim any size
            file.seek(start)
            return file.read(max(0, there))
        except OSError as error:
            if error.errno == errno.EIO:  # a bad sector; what else can happen here comes from a server of files
                raise Unreadable(f"{path}: {os.strerror(errno.EIO)} at byte {start:,}") from None
            raise StorageError(f"{path} cannot be read: {os.strerror(error.errno or errno.EIO)}") from None


def _read_remote(url: str, start: int, end: int) -> bytes:
    try:
        return retry_call(lambda: fetch_range(url, start, end), url)
    except FileNotFoundError:
        raise StorageError(f"{url} is not there any more") from None
    except PermissionError:
        raise CredentialsError(url) from None


def tar_state(url: str) -> tuple[str, bool]:
    """(what changes with the content of a tar, whether it stands for the content). Of a file size, times, inode: its
    change time follows every write, whatever is done to the other. Of an object its size and etag, else its time.
    StorageError where the tar is away."""
    path = local_path(url)
    if path is not None:
        try:
            about = os.stat(path)
        except OSError as error:
            raise StorageError(f"{path} cannot be looked at: {os.strerror(error.errno or errno.EIO)}") from None
        return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns} {about.st_ino}", False
    where = restore_url(url)
    try:
        info = retry_call(lambda: file_system(where).info(where), where)
    except FileNotFoundError:
        raise StorageError(f"{where} is not there") from None
    except PermissionError:
        raise CredentialsError(where) from None
    found = {name.lower(): value for name, value in info.items()}
    for name in ("etag", "md5hash", "content-md5"):
        if found.get(name):
            return f"{found.get('size')} {found[name]}", True
    names = ("lastmodified", "last-modified", "last_modified", "mtime", "updated", "created")
    times = [str(found[name]) for name in names if found.get(name)]
    return f"{found.get('size')} {times[0]}" if times else "", False
