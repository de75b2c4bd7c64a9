"""The memory of a process and of its children while it runs: resident bytes, and bytes on a GPU."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import psutil

from benchmarks.environment import gpu_handles, nvidia_driver

POLL_SECONDS = 0.25


@contextlib.contextmanager
def memory_of(leader: int) -> Iterator[dict[str, int]]:
    """Peak memory in MB of all processes of a session while the block runs: `rss` in all, `gpu` with an NVIDIA
    driver."""
    peak: dict[str, int] = {}
    stop = threading.Event()

    def watch() -> None:
        with nvidia_driver() as driver:
            while not stop.wait(POLL_SECONDS):
                sizes = session_memory(leader)
                if sizes:
                    peak["rss"] = max(peak.get("rss", 0), sum(sizes.values()) // 2**20)
                used = gpu_memory(driver, set(sizes))
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
    """pid -> resident bytes of the processes whose session `leader` leads."""
    found = {}
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == leader:
                found[pid] = psutil.Process(pid).memory_info().rss
    return found


def gpu_memory(driver: Any, pids: set[int]) -> int | None:
    """MB that these processes hold on all GPUs of `nvidia_driver`; None without a driver, or where it does not tell."""
    if driver is None:
        return None
    try:
        running = [driver.nvmlDeviceGetComputeRunningProcesses(handle) for handle in gpu_handles(driver)]
    except driver.NVMLError:
        return None
    return sum((process.usedGpuMemory or 0) // 2**20 for listed in running for process in listed if process.pid in pids)
