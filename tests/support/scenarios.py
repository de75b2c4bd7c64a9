"""What the scenarios share: a job whose faults strike when the k-th unit of a run has ended.

So that a fault meets scoring, metric or packing by its seed alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lucidflux_data.selection import ledger
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.storage.folder import SETTINGS, Folder, configure
from pipelines.execution.progress import Progress
from pipelines.filter import job

STEPS = ("score", "select", "pack")
UNITS = 15  # of a quiet run: six each of scoring and metric, three shards
WIDE = ["rules.min_laplacian_variance=1", "rules.max_laplacian_variance=99999", "shards.max_samples=8"]


class Fault(Progress):
    """Calls `strike` once, when `at` units have ended."""

    def __init__(self, at: int, strike: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self.at, self.strike, self.ended, self.struck = at, strike, 0, False

    @contextlib.contextmanager
    def phase(self, name: str, total: int, done_before: int) -> Iterator[Callable[[int], None]]:
        def advance(_: int) -> None:
            self.ended += 1
            if self.ended == self.at:
                self.struck = True
                self.strike()

        yield advance


def run_job(source: str, out: str, executor: Any, progress: Progress, config: FilterConfig) -> None:
    folder = Folder(out)
    job.list_into(folder, [source], config, "demo", None, STEPS, progress)
    job.score(folder, config, executor, progress)
    job.select(folder, config, executor, progress)
    job.pack(folder, config, executor, progress)


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if not name.startswith("events/")}


def tree(run: Path) -> dict[str, str]:
    files = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    return digests(files)


def check(run: Path, quiet: dict[str, str]) -> None:
    """Byte-identical, and every candidate accounted for (`counts` asserts the sum)."""
    made = tree(run)
    assert made == quiet, sorted(dict(made.items() ^ quiet.items()))
    counts = ledger.counts(pq.read_table(run / "selected.parquet"))
    assert counts["candidates"] == 48
    assert sum(counts["failed"].values()) == 2


def kill_worker(run: Path) -> None:
    """SIGKILL to the process that ended a unit last: what the kernel does to one that is over its memory."""
    events = sorted((run / "events").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    for path in reversed(events):
        with contextlib.suppress(KeyError, ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)
            return


def remote_tree(store: Any, name: str) -> dict[str, str]:
    return digests({key.removeprefix(f"{name}/"): data for key, data in store.files("faults", f"{name}/").items()})


@contextlib.contextmanager
def failing(store: Any, share: float, seed: int) -> Iterator[None]:
    store.faults.share, store.faults.seed, store.faults.slow_s = share, seed, 0.3
    try:
        yield
    finally:
        store.faults.share = 0.0


@contextlib.contextmanager
def speaking_to(store: Any) -> Iterator[None]:
    """This process, and what it starts, finds the store."""
    before = dict(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        configure({"endpoint_url": store.url})
        try:
            yield
        finally:
            SETTINGS.update(before)
            configure({})
