"""What an executor has in flight: how much of it is done, which unit was tried again, which one takes much longer."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lucidflux_data.escapes import show
from pipelines.execution.worker import AnyUnit, Events

STRAGGLER = 3.0  # times the median of the units that have ended
STRAGGLER_S = 10.0  # what takes less is not worth a word
STALL_S = 60.0  # without a word of any unit, a line says which ones are in flight
TICK_S = 1.0  # an executor that waits looks up so often


@dataclass
class _Flight:
    since: float  # of the clock
    size: int  # images
    done: int = 0  # of those, as its job counts


class Flights:
    """The executor of this process reports to it; the progress line shows it. Times are from submission to end.

    `on_tick` is called while the executor waits, every `TICK_S`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.on_tick: Callable[[], None] | None = None
        self.clear()

    def clear(self) -> None:
        self.retried = 0
        self._flying: dict[str, _Flight] = {}
        self._took: list[float] = []
        self._moved = self._ticked = self.clock()

    def started(self, unit: AnyUnit, attempt: int) -> None:
        self.retried += attempt > 1
        self._moved = self.clock()
        self._flying[unit.name] = _Flight(self._moved, unit.size)

    def ended(self, unit: AnyUnit) -> None:
        self._moved = self.clock()
        self._took.append(self._moved - self._flying.pop(unit.name).since)

    def failed(self, unit: AnyUnit) -> None:
        """An attempt that ended without a result: what it has done counts no more."""
        self._flying.pop(unit.name, None)

    def lost(self, events: Events | None, unit: AnyUnit, attempt: int, why: str = "") -> None:
        """An attempt whose worker can no longer note its end."""
        self.failed(unit)
        if events is not None:
            events.write(unit, attempt, "lost", time.time(), **({"why": why} if why else {}))

    def tick(self, events: Events | None, count_each: Callable[[], Mapping[str, int]]) -> None:
        """Called whenever the executor has waited; does something every `TICK_S`. `count_each`: images that are done of
        units in flight, by name."""
        if self.clock() - self._ticked < 0.9 * TICK_S:
            return
        self._ticked = self.clock()
        for name, count in count_each().items():
            flight = self._flying[name]
            if count != flight.done:
                flight.done, self._moved = count, self.clock()
        if self.clock() - self._moved >= STALL_S:
            self.say_stalled(events)
            self._moved = self.clock()
        if self.on_tick is not None:
            self.on_tick()

    def done_inside(self) -> int:
        """Images of the units in flight that are done; the last one of a unit is when the unit has ended."""
        return sum(min(flight.done, max(0, flight.size - 1)) for flight in self._flying.values())

    def stragglers(self) -> list[tuple[str, float]]:
        """(unit, seconds) of those in flight for much longer than the others took, the longest first."""
        if not self._took:
            return []
        limit = max(STRAGGLER_S, STRAGGLER * statistics.median(self._took))
        ages = [(name, self.clock() - flight.since) for name, flight in self._flying.items()]
        return sorted((entry for entry in ages if entry[1] > limit), key=lambda entry: -entry[1])

    def note(self) -> str:
        """What the progress line adds: ", 2 tried again, waiting for unit-000007 (45 s) and 1 more"."""
        slow = self.stragglers()
        text = f", {self.retried} tried again" if self.retried else ""
        if slow:
            text += f", waiting for {slow[0][0]} ({slow[0][1]:.0f} s)"
            text += f" and {len(slow) - 1} more" if slow[1:] else ""
        return text

    def say_stalled(self, events: Events | None) -> None:
        waiting = sorted(self._flying)
        if events is not None:
            events.stalled(waiting, STALL_S)
        more = f" and {len(waiting) - 4} more" if len(waiting) > 4 else ""
        sentence = f"no unit has ended for {STALL_S:.0f} s; in flight: {', '.join(waiting[:4])}{more}"
        print(show(sentence), file=sys.stderr, flush=True)


flights = Flights()
