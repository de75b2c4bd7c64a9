"""Progress of long jobs on standard error: a bar on a terminal, a plain line now and then elsewhere.

What was tried again, and which unit keeps the others waiting, stands beside the rate.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from lucidflux_data.escapes import show
from pipelines.execution.human import human_seconds
from pipelines.execution.in_flight import flights

SECONDS_BETWEEN_LINES = 10.0
_warned: dict[str, None] = {}  # what this process warned of and no outcome has said yet, in order, each once


class Progress:
    """`phase` gives a function to call with the number of images that are done."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, line: str) -> None:
        if not self.quiet:
            print(show(line), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def phase(self, name: str, total: int, done_before: int) -> Iterator[Callable[[int], None]]:
        if done_before:
            self.say(f"{name}: {done_before:,} done before, {total:,} to do")
        if total == 0 or self.quiet:
            yield lambda _: None
        elif sys.stderr.isatty():
            with _bar(name, total) as advance:
                yield advance
        else:
            yield _lines(name, total, self.say)


def warn(sentence: str) -> None:
    """Says `warning: SENTENCE` on standard error, once; `take_warnings` gives it to the outcome of the command."""
    if sentence not in _warned:
        _warned[sentence] = None
        print(f"warning: {show(sentence)}", file=sys.stderr, flush=True)


def take_warnings() -> list[str]:
    """The warnings of this process so far, which are then forgotten."""
    taken = list(_warned)
    _warned.clear()
    return taken


@contextlib.contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, rate="")
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            rate = f"{done / max(time.monotonic() - start, 1e-9):.1f} images/s{flights.note()}"
            bar.update(task, completed=done, rate=rate)

        yield advance


def _lines(name: str, total: int, say: Callable[[str], None]) -> Callable[[int], None]:
    start = last = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if done >= total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            rate = done / max(now - start, 1e-9)
            left = f", {human_seconds((total - done) / rate)} left" if done < total else ""
            say(f"{name}: {done:,}/{total:,} ({rate:.1f} images/s{left}{flights.note()})")

    return advance
