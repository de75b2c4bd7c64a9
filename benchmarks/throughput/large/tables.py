"""What a driver does with tables of millions of rows: ledger, shard plan, check, report, explain, diff."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.queues import Queue
from typing import Annotated

import typer

from benchmarks.throughput.large.generated import generate_run
from benchmarks.throughput.timing import Facts, OutFile, tell
from lucidflux_data.audit import report
from lucidflux_data.audit import verify as audit_verify
from lucidflux_data.audit.compare import compare
from lucidflux_data.audit.explain import explain
from lucidflux_data.selection import ledger
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import make_config
from lucidflux_data.selection.pool import load_pool
from lucidflux_data.storage.folder import Folder

app = typer.Typer()
SETTINGS = ["iqa.metric=niqe"]


@app.command("selection")
def selection_command(
    rows: Annotated[int, typer.Option(min=256_000, help="Generated candidates.")] = 2_950_000,
    step: Annotated[list[str] | None, typer.Option(help="Which steps; by default all.")] = None,
    run: Annotated[str | None, typer.Option(help="A generated run that is there already, or where to keep it.")] = None,
    out: OutFile = None,
) -> None:
    """A generated run: each step in a process of its own, with its seconds, core-seconds and peak memory."""
    result: Facts = {"rows": rows}
    with tempfile.TemporaryDirectory() as place:
        folder, other = Folder(run or f"{place}/run"), Folder(f"{place}/other")
        if not folder.exists():
            generate_run(folder, rows, len(os.sched_getaffinity(0)))
        for name in step or STEPS:
            result[name] = _apart(name, folder, other)
    tell(result, out)


def _apart(name: str, folder: Folder, other: Folder) -> Facts:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measure, args=(name, folder, other, queue))
    process.start()
    result: Facts = queue.get()
    process.join()
    return result


def _measure(name: str, folder: Folder, other: Folder, queue: Queue[Facts]) -> None:
    start, used = time.perf_counter(), time.process_time()
    STEPS[name](folder, other)
    queue.put(
        {
            "seconds": round(time.perf_counter() - start, 2),
            "core_seconds": round(time.process_time() - used, 2),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
    )


def _select(folder: Folder, _: Folder) -> None:
    config = make_config("lucidflux", settings=SETTINGS)
    ledger.write_ledger(folder, load_pool(runs.parts(folder)), config)


def _select_other(folder: Folder, other: Folder) -> None:
    config = make_config("lucidflux", settings=[*SETTINGS, "cut.top_fraction=0.25"])
    ledger.write_ledger(other, load_pool(runs.parts(folder)), config)


def _plan(folder: Folder, _: Folder) -> None:
    from pipelines.filter.pack import assign_shards

    assign_shards(folder, make_config("lucidflux", settings=SETTINGS).shards)


def _explain(folder: Folder, _: Folder) -> None:
    explain(folder, "photos/00123/000123456.jpg")


STEPS: dict[str, Callable[[Folder, Folder], object]] = {
    "select": _select,
    "plan": _plan,
    "check": lambda folder, _: audit_verify.check_set(folder),
    "report": lambda folder, _: report.make_report(folder),
    "explain": _explain,
    "other": _select_other,
    "diff": compare,
}


if __name__ == "__main__":
    app()
