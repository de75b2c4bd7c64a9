"""The memory of a process and of its children while it runs: resident bytes, and bytes on a GPU."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

POLL_SECONDS = 0.25


@contextlib.contextmanager
def memory_of(leader: int) -> Iterator[dict[str, int]]:
    """Peak memory in MB of all processes of a session while the block runs: `rss` in all, `gpu` with nvidia-smi."""
    peak: dict[str, int] = {}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            sizes = session_memory(leader)
            if sizes:
                peak["rss"] = max(peak.get("rss", 0), sum(sizes.values()) // 2**20)
            used = gpu_memory(set(sizes))
            if used is not None:
                peak["gpu"] = max(peak.get("gpu", 0), used)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def session_memory(leader: int) -> dict[int, int]:
    """pid -> resident bytes of the processes whose session `leader` leads (Linux's /proc)."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError, ProcessLookupError):
            if entry.isdigit() and os.getsid(int(entry)) == leader:
                found[int(entry)] = int(Path("/proc", entry, "statm").read_text().split()[1]) * page
    return found


def gpu_memory(pids: set[int]) -> int | None:
    """MB that these processes hold on all GPUs, None without nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = [line.split(",") for line in listed.splitlines() if line.count(",") == 1]
    return sum(int(used) for pid, used in rows if pid.strip().isdigit() and int(pid) in pids and used.strip().isdigit())
