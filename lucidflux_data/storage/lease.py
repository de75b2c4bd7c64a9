"""One writer a folder: whoever writes into FOLDER holds FOLDER/.lease, which is there only meanwhile.

The file says who that is; its time of change is a heartbeat. A holder that is known to have ended (a process of this
machine, or one of before it was started again) is replaced at once, one of which nothing can be known after STALE_S
without a heartbeat. The lease is made and replaced under a lock of the folder (flock), in S3 and Google's storage by
conditional PUTs. As some disks have no such lock, and a command may be stopped for an hour, the holder looks at the
lease again before it publishes what speaks of the whole folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from lucidflux_data.errors import FolderBusy, InputError, Interrupted
from lucidflux_data.escapes import show
from lucidflux_data.process import Process, this_process
from lucidflux_data.storage.folder import GUARDS, TEMPORARY, Folder, retry_call
from lucidflux_data.storage.formats import canonical_json, parse_json
from lucidflux_data.storage.journal import settle
from lucidflux_data.storage.refusals import store_of

NAME = ".lease"
BEAT_S = 10.0
STALE_S = 60.0
LARGEST = 1 << 16  # bytes of a lease; what is larger is none of ours
POLL_S = 0.5
SETTLE_S = 0.2  # before a lease that was taken over is looked at again: two may have seen the same holder gone


@dataclass(frozen=True)
class Seen:
    """A lease that was read. `holder`: None where its content cannot be read; `age_s`: since its last heartbeat;
    `version`: of the object in a store (ETag)."""

    token: str
    command: str
    since: float
    holder: Process | None
    age_s: float
    version: str | None = None

    def may_be_replaced(self) -> bool:
        if self.holder is not None and self.holder.is_gone():
            return True
        if self.holder is not None and self.holder.is_here():
            return False  # it runs: however long it was stopped, it may go on
        return self.age_s > STALE_S

    def __str__(self) -> str:
        who = f"process {self.holder.pid} on {self.holder.host}" if self.holder else "a process that did not say who"
        since = f", which began {max(0.0, time.time() - self.since):.0f} s ago" if self.since else ""
        return f"`{self.command}` ({who}{since}; last heartbeat {max(0.0, self.age_s):.0f} s ago)"


@dataclass
class Lease:
    """What this process holds of a folder. `owner`: the thread that may take it again."""

    folder: Folder
    wait_s: float
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    since: float = field(default_factory=time.time)
    owner: int = field(default_factory=threading.get_ident)
    depth: int = 1
    lost: bool = False
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def content(self) -> bytes:
        about = {"token": self.token, "command": _command(), "since": round(self.since, 3)}
        return canonical_json({**about, "holder": asdict(this_process())})

    def check(self) -> None:
        """Raises FolderBusy where another holds the folder now, or nobody does."""
        seen = _read(self.folder)
        if self.lost or seen is None or seen.token != self.token:
            self.lost = True
            now = f"{seen} writes there now" if seen else f"its {NAME} was removed"
            raise FolderBusy(f"{self.folder} is not held by this command any more: {now}; repeat it later to resume")

    def beat(self) -> None:
        """Until the end: a heartbeat every BEAT_S. What fails of a heartbeat is left to the next one and to `check`."""
        while not self.ended.wait(BEAT_S):
            with contextlib.suppress(Exception):
                if not _renew(self):
                    self.lost = True
                    return


_held: dict[str, Lease] = {}
_unconditional: set[str] = set()  # stores that were found to take no condition: "s3://bucket"


def _command() -> str:
    """The program and its first words, without options: `lucidflux-data forget`."""
    words = [os.path.basename(sys.argv[0] or "python")]
    for word in sys.argv[1:3]:
        if not word.isidentifier():
            break
        words.append(word)
    return " ".join(words)


@contextlib.contextmanager
def hold(folder: Folder, wait_s: float | None = None, new: bool = False) -> Iterator[None]:
    """Around all that writes into `folder`. Raises FolderBusy where another command holds it, after `wait_s` seconds.

    `new`: the folder may be made for it; a folder that is not there is not held otherwise. Held folders may be held
    again by the same thread. What a journal in the folder says is finished first. Without `wait_s` the folder is held
    where this process holds another one, and waited for as long as for that.
    """
    key = os.path.realpath(folder.root) if folder.is_local else folder.url
    lease = _held.get(key)
    if lease is not None and lease.owner == threading.get_ident():
        lease.depth += 1
        try:
            yield
        finally:
            lease.depth -= 1
        return
    no_folder = folder.is_local and not os.path.isdir(folder.root) and (not new or os.path.exists(folder.root))
    if no_folder or (wait_s is None and not _held):
        yield
        return
    if wait_s is None:
        wait_s = next(other.wait_s for other in _held.values())
    made: list[str] = []
    lease = Lease(folder, wait_s)
    try:
        _take(lease, made)
    except BaseException:
        _unmake([*made, folder.path(TEMPORARY)] if folder.is_local else made)
        raise
    _held[key], GUARDS[folder.url] = lease, lease.check
    threading.Thread(target=lease.beat, name="lease", daemon=True).start()
    try:
        settle(folder)
        if folder.is_local:
            folder.sweep()  # what a killed command left may show what was taken out since
        yield
    finally:
        lease.ended.set()
        del _held[key], GUARDS[folder.url]
        with contextlib.suppress(Interrupted, OSError):  # a store that is gone: it falls silent by itself
            _remove(lease)
        _unmake([*made, folder.path(TEMPORARY)] if folder.is_local else made)


def _make(folder: Folder) -> list[str]:
    """Makes a local folder; the paths that were not there, from the top."""
    if not folder.is_local:
        return []
    path = Path(folder.root)
    lacking = [str(place) for place in (path, *path.parents) if not place.exists()][::-1]
    with folder.telling():
        path.mkdir(parents=True, exist_ok=True)
    return lacking


def _unmake(made: list[str]) -> None:
    """Removes those of the folders that are empty: a command that only said what is wrong leaves nothing."""
    for path in reversed(made):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def _take(lease: Lease, made: list[str]) -> None:
    """Returns with the lease, or raises FolderBusy when the time to wait is over. `made`: gets the folders it makes."""
    until, announced = time.monotonic() + lease.wait_s, False
    while True:
        made += _make(lease.folder)  # again, where a holder that made it took it away
        if _create(lease):
            return
        seen = _read(lease.folder)
        if seen is None:
            continue  # it was removed just now
        if seen.token == lease.token:  # the store took it and its answer was lost
            return
        if seen.may_be_replaced():
            if _replace(lease, seen):
                return
            continue
        if time.monotonic() >= until:
            raise FolderBusy(f"{lease.folder} is being written by {seen}: repeat this later, or give --wait SECONDS")
        if not announced:
            print(show(f"waiting for {seen} to leave {lease.folder}"), file=sys.stderr, flush=True)
            announced = True
        time.sleep(min(POLL_S, max(0.01, until - time.monotonic())))


def _read(folder: Folder) -> Seen | None:
    """The lease that is there, None where there is none. InputError for what is no file: a link is not followed."""
    try:
        if folder.is_local:
            about, version = os.lstat(folder.path(NAME)), None
            if not stat.S_ISREG(about.st_mode):
                raise InputError(f"{folder.path(NAME)} is a link, a folder or a pipe, and none of ours: remove it")
            age, size = _now(folder) - about.st_mtime, about.st_size
            age = -age if age < -STALE_S else age  # a time to come is that of a copy, and no heartbeat
        else:
            found = retry_call(lambda: folder.fs.info(folder.path(NAME)), folder.url)
            version, size = found.get("ETag"), int(found.get("size") or 0)
            age = time.time() - folder.fs.modified(folder.path(NAME)).timestamp()
        data = folder.read(NAME) if size <= LARGEST else b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        said = parse_json(data)
        holder = TypeAdapter(Process).validate_python(said["holder"])
        return Seen(str(said["token"]), str(said["command"]), float(said["since"]), holder, age, version)
    except (ValueError, KeyError, TypeError):  # of another version, or damaged: only its silence tells
        return Seen("", "a command", 0.0, None, age, version)


def _now(folder: Folder) -> float:
    """The time by the clock of the disk, which on a network is not ours."""
    try:
        with folder.local_part(b"") as part:
            return part.stat().st_mtime
    except OSError:
        return time.time()


@contextlib.contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """While no other process of this machine changes the lease."""
    descriptor = os.open(folder.root, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a disk that cannot lock folders: see the top
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _create(lease: Lease) -> bool:
    """Makes the lease; False where there is one, or the folder is not there any more."""
    folder = lease.folder
    if not folder.is_local:
        return _create_remote(lease)
    gone = contextlib.suppress(FileNotFoundError)
    with folder.telling(), gone, _alone(folder), folder.local_part(lease.content) as part:
        return _link(part, folder.path(NAME))
    return False


def _link(part: Path, target: str) -> bool:
    try:
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        try:  # a disk without hard links
            with open(target, "xb") as file:
                file.write(part.read_bytes())
        except FileExistsError:
            return False
    return True


def _create_remote(lease: Lease) -> bool:
    folder = lease.folder
    bucket = store_of(folder.url)
    if bucket not in _unconditional:
        made = _put_new(lease)
        if made is False or (made and _put_new(lease) is False):  # the second one must be refused
            return bool(made)
        _unconditional.add(bucket)
        print(
            show(
                f"warning: {bucket} takes no conditional PUT: commands that begin within a second of each other can "
                f"both take {folder}"
            ),
            file=sys.stderr,
        )
    seen = _read(folder)
    if seen is not None and seen.token != lease.token:
        return False
    return _put(lease) and _is_still_ours(lease)


def _put_new(lease: Lease) -> bool | None:
    """Whether the object was made by a conditional PUT, None where the store has none."""

    def call() -> bool | None:
        try:
            lease.folder.fs.pipe_file(lease.folder.path(NAME), lease.content, mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError):
            return None
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return None
            raise
        return True

    with lease.folder.telling():
        return retry_call(call, lease.folder.url)


def _put(lease: Lease, version: str | None = None) -> bool:
    """Writes the object, where `version` is given only over that one. Whether it was written."""
    only = {"IfMatch": version} if version and lease.folder.url.startswith("s3") else {}

    def call() -> bool:
        try:
            lease.folder.fs.pipe_file(lease.folder.path(NAME), lease.content, **only)
        except FileNotFoundError:
            if only:
                return False
            raise
        except OSError as error:
            if only and error.errno == errno.EINVAL:  # what s3fs makes of 412
                return False
            if not only or error.errno != errno.ENOSYS:
                raise
            lease.folder.fs.pipe_file(lease.folder.path(NAME), lease.content)
        return True

    with lease.folder.telling():
        return retry_call(call, lease.folder.url)


def _replace(lease: Lease, seen: Seen) -> bool:
    """Takes the lease of a holder that is gone. Whether it is ours then."""
    folder = lease.folder
    if not folder.is_local:
        return _put(lease, seen.version) and _is_still_ours(lease)
    with folder.telling(), _alone(folder):
        now = _read(folder)
        if now is None or replace(now, age_s=0.0) != replace(seen, age_s=0.0) or not now.may_be_replaced():
            return False
        with folder.local_part(lease.content) as part:
            os.replace(part, folder.path(NAME))
    return _is_still_ours(lease)


def _is_still_ours(lease: Lease) -> bool:
    time.sleep(SETTLE_S)
    return _is_ours(lease)


def _is_ours(lease: Lease) -> bool:
    try:
        return lease.token.encode() in lease.folder.read(NAME)
    except (FileNotFoundError, NotADirectoryError, InputError):  # the last: something else stands in its place
        return False


def _renew(lease: Lease) -> bool:
    """A heartbeat. False where the lease is not ours any more."""
    folder = lease.folder
    if folder.is_local:
        with _alone(folder):
            ours = _is_ours(lease)
            if ours:
                os.utime(folder.path(NAME))
            return ours
    seen = _read(folder)
    return seen is not None and seen.token == lease.token and _put(lease, seen.version)


def _remove(lease: Lease) -> None:
    folder = lease.folder
    with _alone(folder) if folder.is_local else contextlib.nullcontext():
        if _is_ours(lease):
            folder.remove(NAME)
