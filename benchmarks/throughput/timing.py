"""What the measuring scripts share: real photos, pinned cores, paired ratios."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import cv2
import typer

from lucidflux_data.sources.listing import list_sources

Value = TypeVar("Value")
Facts = dict[str, object]  # what a script found, by name: numbers, texts, and tables of them, as they stand in the JSON
Images = Annotated[Path, typer.Option(help="A folder of real photos.")]
OutFile = Annotated[Path | None, typer.Option(help="Write the JSON here too.")]


def pin() -> None:
    """One core and one thread, as a worker has."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    call()
    return clock() - start


def core_seconds(call: Callable[[], object]) -> float:
    """Processor time: what one thread on one core needs, whatever else the machine does."""
    return seconds(call, time.process_time)


def paired_ratio(above: list[float], below: list[float]) -> float:
    if not above:
        return float("nan")
    return round(statistics.median(a / b for a, b in zip(above, below, strict=True)), 3)


def tell(result: Facts, out: Path | None) -> None:
    """A table on standard error, the JSON on standard output and, where asked for, in a file."""
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in result.items():
        for inner, number in value.items() if isinstance(value, dict) else [("", value)]:
            table.add_row(name, inner, str(number))
    Console(stderr=True).print(table)
    print_json(result, out)


def print_json(result: Mapping[str, object], out: Path | None) -> None:
    """The JSON on standard output and, where asked for, in a file."""
    text = json.dumps(result, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


def real_photos(images: Path) -> list[Path]:
    """Every file once, links followed."""
    uris = list_sources([str(images)]).table["uri"].to_pylist()
    return sorted({Path(os.path.realpath(uri.removeprefix("file://"))) for uri in uris})
