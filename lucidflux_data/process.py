"""The identity of a process that writes, by which others, here or on another machine, see whether it still runs."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

SAME_START_S = 2.0  # within which two readings of one process's start lie
PART = re.compile(r"([0-9a-f]{12})-(\d+)-(\d+)-[0-9a-f]{16}\.part")  # machine, pid, start, random
PART_OF_BEFORE = re.compile(r"[0-9a-f]+\.part")  # of earlier versions


@dataclass(frozen=True)
class Process:
    """`machine`: sha256 of its network addresses, "" where it has none; `boot`: of the kernel, one a boot, "" where the
    system has no such thing; `namespace`: in which `pid` counts; `started`: seconds since 1970."""

    host: str
    machine: str
    boot: str
    namespace: str
    pid: int
    started: float

    def is_here(self) -> bool:
        """Whether `pid` counts here: it is one of this machine, of this boot and of this container."""
        here = this_process()
        if self.boot or here.boot:
            return (self.boot, self.namespace) == (here.boot, here.namespace)
        return self.machine != "" and (self.host, self.machine) == (here.host, here.machine)

    def is_gone(self) -> bool:
        """Whether this process is known to have ended. False where that cannot be found out from here."""
        here = this_process()
        if self.is_here():
            return not is_alive(self.pid, self.started)
        same = self.machine != "" and (self.host, self.machine) == (here.host, here.machine)
        return same and self.boot != here.boot  # the machine was started again since

    @property
    def place(self) -> str:
        """12 hex digits that stand for where `pid` counts."""
        return hashlib.sha256(f"{self.host}/{self.machine}/{self.boot}/{self.namespace}".encode()).hexdigest()[:12]


def this_process() -> Process:
    return _described(os.getpid())


@functools.lru_cache(maxsize=1)  # asked with another pid after a fork
def _described(pid: int) -> Process:
    links = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == psutil.AF_LINK and address.address.strip("0:-")
    }
    machine = hashlib.sha256(" ".join(sorted(links)).encode()).hexdigest()[:16] if links else ""
    started = psutil.Process(pid).create_time()
    return Process(socket.gethostname(), machine, _boot(), _namespace(), pid, started)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that had this pid and start (seconds since 1970) still runs on this machine."""
    try:
        process = psutil.Process(pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - started) < SAME_START_S)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:  # not ours to look at: it is there
        return True


def part_name() -> str:
    """A new name for what this process is about to write."""
    me = this_process()
    return f"{me.place}-{me.pid}-{int(me.started)}-{secrets.token_hex(8)}.part"


def has_writer(name: str) -> bool | None:
    """Whether the writer of a `part_name` still runs; None where it wrote on another machine. Writers of earlier
    versions are gone; a name of no form of ours is of somebody else, who may come back to it."""
    match = PART.fullmatch(name)
    if match is None:
        return PART_OF_BEFORE.fullmatch(name) is None
    if match[1] != this_process().place:
        return None
    return is_alive(int(match[2]), int(match[3]))
