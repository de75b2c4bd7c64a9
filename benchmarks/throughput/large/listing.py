"""Listing as many files as a full run has candidates."""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
from multiprocessing.queues import Queue
from pathlib import Path

import typer

from benchmarks.throughput.timing import Facts, OutFile, seconds, tell
from lucidflux_data.sources.listing import list_sources

app = typer.Typer()


@app.command("listing")
def listing_command(files: int = 2_950_000, out: OutFile = None) -> None:
    """Lists `files` files of a local disk, hard links in folders of 1,000, in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        _make_links(Path(place), files)
        context = multiprocessing.get_context("spawn")
        queue = context.Queue()
        process = context.Process(target=_list, args=(place, queue))
        process.start()
        result = queue.get()
        process.join()
    tell(result, out)


def _make_links(place: Path, files: int) -> None:
    for number in range(files):
        folder = place / f"{number // 1000:05d}"
        if number % 1000 == 0:
            folder.mkdir()
        if number % 60_000 == 0:  # ext4 takes 65,000 links of one file
            first = folder / f"{number:07d}.jpg"
            first.write_bytes(b"\xff\xd8\xff")
        else:
            os.link(first, folder / f"{number:07d}.jpg")


def _list(place: str, queue: Queue[Facts]) -> None:
    found: list[int] = []
    took = seconds(lambda: found.append(list_sources([place]).table.num_rows))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    queue.put({"files": found[0], "listing_seconds": round(took, 1), "peak_mb": peak})
