"""Progress of long jobs on standard error: a bar on a terminal, a plain line now and then elsewhere.

It moves while units are in flight, too, and says how long is left. What was tried again, and which unit keeps the
others waiting, stands beside the rate.
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
            return
        with _bar(name, total) if sys.stderr.isatty() else _lines(name, total, self.say) as draw:
            count = _Count(draw)
            flights.on_tick = count.draw
            try:
                yield count.advance
            finally:
                flights.on_tick = None


Draw = Callable[[int, float], None]  # images that are done, seconds since the phase began


class _Count:
    """Images of the units that have ended; drawn with those that are done inside of units in flight."""

    def __init__(self, draw: Draw) -> None:
        self._draw, self._start, self._ended = draw, time.monotonic(), 0

    def advance(self, count: int) -> None:
        self._ended += count
        self.draw()

    def draw(self) -> None:
        self._draw(self._ended + flights.done_inside(), time.monotonic() - self._start)


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
def _bar(name: str, total: int) -> Iterator[Draw]:
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
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=total, rate="")

        def draw(done: int, seconds: float) -> None:
            bar.update(task, completed=done, rate=f"{done / max(seconds, 1e-9):.1f} images/s{flights.note()}")

        yield draw


@contextlib.contextmanager
def _lines(name: str, total: int, say: Callable[[str], None]) -> Iterator[Draw]:
    """A line at the end, and every `SECONDS_BETWEEN_LINES` where something has moved since the last one."""
    said, said_at = 0, 0.0

    def draw(done: int, seconds: float) -> None:
        nonlocal said, said_at
        if done >= total or (done != said and seconds - said_at >= SECONDS_BETWEEN_LINES):
            said, said_at = done, seconds
            rate = done / max(seconds, 1e-9)
            left = f", {human_seconds((total - done) / rate)} left" if 0 < done < total else ""
            say(f"{name}: {done:,}/{total:,} ({rate:.1f} images/s{left}{flights.note()})")

    yield draw
