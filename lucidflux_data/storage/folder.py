"""One folder, local or in an object store, whose files appear only when they are complete.

fsspec's DirFileSystem would join the paths as well. It is not used: a local publish renames real paths, local listings
go by `os.scandir` (29 s for 2.95M files), and every name is checked on its way (`check_inside`).

A file is written to `.tmp/<its writer and random>.part`, flushed to the disk and renamed; in an object store it is one
PUT, or one multipart upload that is completed at the end and discarded on an error. Nothing is ever appended to.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar, cast

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data import errors
from lucidflux_data.config import resolve
from lucidflux_data.errors import ConfigError, CredentialsError, InputError, Interrupted, LucidFluxError, StorageError
from lucidflux_data.process import has_writer, part_name
from lucidflux_data.storage.allowed import find_own_servers, may_lead_inside, public_client
from lucidflux_data.storage.config import SETTINGS, Settings, StorageConfig
from lucidflux_data.storage.formats import parse_table
from lucidflux_data.storage.names import check_inside
from lucidflux_data.storage.refusals import WHEN_REFUSED, raise_refusal, store_of
from lucidflux_data.storage.regular import open_regular, read_whole

Result = TypeVar("Result")
Content = bytes | Iterable[bytes]
READERS = 8  # threads that read unit files
TEMPORARY = ".tmp"
OPENINGS = 100  # of a part whose folder a sweep may take away at the same moment
FOREIGN_PART_S = 3600.0  # without a byte, after which the writer of a part on another machine counts as dead
# Asked, by the url of the folder, before what speaks of a whole folder is published there: see lease.hold.
GUARDS: dict[str, Callable[[], None]] = {}
_opened_with: dict[str, object] = {}
WAIT_S = 0.2  # before the second attempt; four times as long before each further one


def configure(settings: Mapping[str, object]) -> None:
    """Sets SETTINGS in this process; drivers do it from the config, workers from what their driver sends. A value of
    None changes nothing."""
    SETTINGS.update(cast(Settings, {name: value for name, value in settings.items() if value is not None}))
    if dict(SETTINGS) != _opened_with:
        _opened_with.clear()
        _opened_with.update(SETTINGS)
        _opened.cache_clear()


def trust_sources(urls: Iterable[str]) -> None:
    """Notes what the user named as sources, beside those of before, and which of their servers are the user's own."""
    known, urls = set(SETTINGS["sources"]), set(urls)
    if not known.issuperset(urls):
        own = find_own_servers(urls, known).union(SETTINGS["own_servers"])
        configure({"sources": tuple(sorted(known | urls)), "own_servers": tuple(sorted(own))})


def allow_uris(prefixes: Iterable[str]) -> None:
    """Notes prefixes of uris found in tables that may be read, beside those of before. ConfigError for what is none."""
    known, wanted = set(SETTINGS["allow_uris"]), resolve(StorageConfig, {"allow_uris": tuple(prefixes)}).allow_uris
    if not known.issuperset(wanted):
        configure({"allow_uris": tuple(sorted(known.union(wanted)))})


def file_system(url: str) -> fsspec.AbstractFileSystem:
    """The fsspec file system of a url or local path; InputError names the extra of a protocol that is not there."""
    if "://" not in url or url.startswith("file://"):
        return _opened("file://")
    return _opened(store_of(url))  # one a bucket or host


def _options(url: str) -> dict[str, object]:
    protocol, timeout = url.split("://")[0], SETTINGS["timeout_s"]
    if protocol in ("s3", "s3a"):
        client = {"endpoint_url": SETTINGS["endpoint_url"]} if SETTINGS["endpoint_url"] else {}
        retries = {"max_attempts": SETTINGS["attempts"], "mode": "standard"}
        config = {"connect_timeout": timeout, "read_timeout": timeout, "retries": retries}
        # No listing cache: what one process publishes, another must see.
        return {
            "anon": SETTINGS["anonymous"],
            "client_kwargs": client,
            "config_kwargs": config,
            "use_listings_cache": False,
        }
    if protocol in ("http", "https"):
        import aiohttp

        inside = may_lead_inside(url, SETTINGS["own_servers"], SETTINGS["allow_uris"])
        limits = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        return {"client_kwargs": {"timeout": limits}, **({} if inside else {"get_client": public_client})}
    if protocol in ("gs", "gcs"):
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of what it then raises
        # STORAGE_EMULATOR_HOST, where it is set, says which server: the client's own variable.
        token = {"token": "anon"} if SETTINGS["anonymous"] else {}
        return {"requests_timeout": timeout, "use_listings_cache": False, **token}
    return {}


@functools.lru_cache(maxsize=32)
def _opened(url: str) -> fsspec.AbstractFileSystem:
    try:
        return fsspec.core.url_to_fs(url, skip_instance_cache=True, **_options(url))[0]
    except ImportError:
        protocol = url.split("://")[0]
        extra = {"s3": "s3", "gs": "gcs", "gcs": "gcs"}.get(protocol, protocol)
        raise InputError(f"{protocol}:// needs an extra: pip install 'lucidflux[{extra}]'") from None
    except ValueError:
        raise InputError(f"{url.split('://')[0]}:// is not a protocol that is known here") from None


WHEN_REFUSED.append(_opened.cache_clear)


def retry_call(call: Callable[[], Result], what: str) -> Result:
    """`call()`, again after errors of a remote store that can pass. Raises StorageError after the last attempt.

    A file that is not there, or that may not be read, is known at once: FileNotFoundError, PermissionError; and so are
    credentials that no longer hold: CredentialsError.
    """
    for attempt in range(1, SETTINGS["attempts"] + 1):
        try:
            return call()
        except (FileNotFoundError, IsADirectoryError, LucidFluxError, errors.ImageError, MemoryError):
            raise
        except Exception as error:  # each client library has errors of its own, few of them OSError
            raise_refusal(error, what)
            if attempt == SETTINGS["attempts"]:
                break
            time.sleep(WAIT_S * 4 ** (attempt - 1))
    raise StorageError(f"{what} did not answer ({SETTINGS['attempts']} attempts): repeat the command to resume")


@contextlib.contextmanager
def name_errors(url: str) -> Iterator[None]:
    """Around the listing of a remote source: InputError where it cannot be had, StorageError for what can pass."""
    try:
        try:
            yield
        except (LucidFluxError, FileNotFoundError):
            raise
        except Exception as error:
            raise_refusal(error, url)
            raise StorageError(f"{url} did not answer: repeat the command to resume") from None
    except FileNotFoundError:
        raise InputError(f"{url} is not there") from None
    except (PermissionError, CredentialsError):
        raise InputError(f"{url} may not be read with these credentials") from None


def absolute_url(path: str) -> str:
    """`file:///...` for a local path, the url itself otherwise; no trailing slash."""
    if "://" in path and not path.startswith("file://"):
        return path.rstrip("/")
    return "file://" + (os.path.abspath(path.removeprefix("file://")).rstrip("/") or "/")


class Folder:
    """A folder by path or url. Names are relative, with forward slashes. It can be sent between processes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.url = absolute_url(os.fspath(path))
        self.is_local = self.url.startswith("file://")
        self.root = self.url.removeprefix("file://")

    def __str__(self) -> str:
        return self.root

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        return file_system(self.url)

    def path(self, name: str) -> str:
        """Where `name` is. VerificationError for a name that leads out of this folder, whoever chose it."""
        check_inside(name, self.root)
        return f"{self.root}/{name}" if name else self.root

    def exists(self, name: str = "") -> bool:
        if self.is_local:
            return os.path.exists(self.path(name))
        return bool(retry_call(lambda: self.fs.exists(self.path(name)), self.url))

    def names(self, folder: str = "") -> list[str]:
        """Names of the files directly in `folder`, sorted; [] where there is no such folder."""
        if self.is_local:
            try:
                with os.scandir(self.path(folder)) as entries:
                    return sorted(entry.name for entry in entries if entry.is_file())
            except (FileNotFoundError, NotADirectoryError):
                return []
        try:
            self.fs.invalidate_cache()
            found = retry_call(lambda: self.fs.ls(self.path(folder), detail=True), self.url)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rsplit("/", 1)[-1] for entry in found if entry["type"] == "file")

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in `folder`, sorted; [] where there is no such folder."""
        if self.is_local:
            try:
                with os.scandir(self.path(folder)) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir())
            except (FileNotFoundError, NotADirectoryError):
                return []
        try:
            found = retry_call(lambda: self.fs.ls(self.path(folder), detail=True), self.url)
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory")

    def size(self, name: str) -> int:
        return os.path.getsize(self.path(name)) if self.is_local else int(self.fs.size(self.path(name)))

    def open(self, name: str) -> IO[bytes]:
        if not self.is_local:
            remote: IO[bytes] = self.fs.open(self.path(name), "rb")
            return remote
        try:
            return open_regular(self.path(name))
        except IsADirectoryError:
            raise InputError(f"{self.path(name)} is a folder, where a file belongs") from None

    def read(self, name: str) -> bytes:
        if not self.is_local:
            data: bytes = retry_call(lambda: self.fs.cat_file(self.path(name)), self.url)
            return data
        with self.open(name) as file:
            return read_whole(file, self.path(name))

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` (not included) of a file, fewer where it ends before: one request of a store."""
        if end <= start:
            return b""
        if not self.is_local:
            data: bytes = retry_call(lambda: self.fs.cat_file(self.path(name), start=start, end=end), self.url)
            return data
        with self.open(name) as file:
            file.seek(start)
            return file.read(end - start)

    def publish(self, name: str, content: Content) -> None:
        """Puts `content` at `name`, whole or not at all. Raises Interrupted when the disk is full or read-only, and
        where `name` speaks of the folder (it lies directly in it) and this process lost the folder's lease."""
        if "/" not in name:
            self.check_held()
        with self.telling():
            if self.is_local:
                self._publish_local(name, content)
            else:
                self._publish_remote(name, content)

    def check_held(self) -> None:
        """Raises Interrupted where this process took the folder's lease and has it no more."""
        guard = GUARDS.get(self.url)
        if guard is not None:
            guard()

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Around a write: what keeps it from being done, as a sentence. Raises Interrupted or ConfigError."""
        try:
            yield
        except OSError as error:
            if not self.is_local and isinstance(error, FileNotFoundError):
                raise ConfigError(f"{self.url} cannot be written to: there is no such bucket") from None
            if not self.is_local and isinstance(error, PermissionError):
                raise Interrupted(
                    f"{self.url} cannot be written to with these credentials: refresh them, then repeat the command"
                ) from None
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Interrupted(
                    f"no space left for {self.root}: free some, then repeat the command to resume"
                ) from None
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EISDIR):
                raise Interrupted(f"{self.root} cannot be written to: {os.strerror(error.errno)}") from None
            raise

    def _publish_local(self, name: str, content: Content) -> None:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.local_part(content) as part:
            os.replace(part, target)

    @contextlib.contextmanager
    def local_part(self, content: Content) -> Iterator[Path]:
        """`content` in a file below .tmp of a local folder, on the disk; gone behind the block unless it was moved."""
        part = Path(self.path(f"{TEMPORARY}/{part_name()}"))
        try:
            with self._new_file(part) as file:
                _write(file, content)
                file.flush()
                os.fsync(file.fileno())
            yield part
        finally:
            part.unlink(missing_ok=True)

    def _new_file(self, part: Path) -> IO[bytes]:
        for _ in range(OPENINGS):
            with contextlib.suppress(FileNotFoundError, FileExistsError):  # swept within or between the two lines
                part.parent.mkdir(parents=True, exist_ok=True)
                return open(part, "xb")
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(part))

    def _publish_remote(self, name: str, content: Content) -> None:
        if isinstance(content, bytes):
            retry_call(lambda: self.fs.pipe_file(self.path(name), content), self.url)
            return
        # A chunk that was taken cannot be taken again here: after an error of the store the whole unit is tried again.
        file = retry_call(lambda: self.fs.open(self.path(name), "wb"), self.url)
        try:
            for chunk in content:
                with _as_storage_error(self.url, name):
                    file.write(chunk)
        except BaseException:
            with contextlib.suppress(Exception):
                file.discard()  # closing would complete the upload
            raise
        with _as_storage_error(self.url, name):
            file.close()

    def remove(self, name: str) -> None:
        """Removes a file or a folder; nothing happens where there is none."""
        with contextlib.suppress(FileNotFoundError):
            if not self.is_local:
                retry_call(lambda: self.fs.rm(self.path(name), recursive=True), self.url)
                return
            try:  # not asked first what it is: it may become a folder between the question and the removal
                os.remove(self.path(name))
            except (IsADirectoryError, PermissionError):
                shutil.rmtree(self.path(name))

    def move(self, name: str, target: str) -> None:
        """A file takes the place of another: by a rename, or in an object store by a copy, whose original then goes."""
        if self.is_local:
            with self.telling():
                os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
                os.replace(self.path(name), self.path(target))
        else:
            retry_call(lambda: self.fs.copy(self.path(name), self.path(target)), self.url)
            self.remove(name)

    def sweep(self) -> None:
        """Removes what writers left that have ended. What is written just now stays, whoever writes it; of writers on
        other machines, whose end cannot be seen from here, what got no byte for an hour."""
        if not self.is_local:
            self.remove(TEMPORARY)  # nothing is written there
            return
        try:
            entries = list(os.scandir(self.path(TEMPORARY)))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                writes = has_writer(entry.name)
                if writes is None:
                    writes = time.time() - entry.stat(follow_symlinks=False).st_mtime < FOREIGN_PART_S
                if not writes:
                    self.remove(f"{TEMPORARY}/{entry.name}")
        with contextlib.suppress(OSError):  # in use, or gone already
            os.rmdir(self.path(TEMPORARY))

    def read_table(self, name: str, columns: list[str] | None = None, where: pc.Expression | None = None) -> pa.Table:
        """A parquet file, or the rows of it for which `where` holds. InputError where it is damaged, naming the file
        and `verify --repair`."""
        return parse_table(self.read(name), self.path(name), columns, where)

    def read_tables(self, names: Iterable[str], columns: list[str] | None = None) -> list[pa.Table]:
        """Many small parquet files, some at a time: an object store answers in a tenth of a second each."""
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda name: self.read_table(name, columns), names))


@contextlib.contextmanager
def _as_storage_error(url: str, name: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, LucidFluxError):
        raise
    except Exception as error:
        raise_refusal(error, url)
        raise StorageError(f"{url} did not take {name}: repeat the command to resume") from None


def _write(file: IO[bytes], content: Content) -> None:
    for chunk in (content,) if isinstance(content, bytes) else content:
        file.write(chunk)
