"""What an executor has in flight: which unit was tried again, which one takes much longer than the others."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

from pipelines.execution.worker import AnyUnit, Events

STRAGGLER = 3.0  # times the median of the units that have ended
STRAGGLER_S = 10.0  # what takes less is not worth a word
STALL_S = 60.0  # without an end of any unit, a line says which ones are in flight


class Flights:
    """The executor of this process reports to it; the progress line shows it. Times are from submission to end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.clear()

    def clear(self) -> None:
        self.retried = 0
        self._since: dict[str, float] = {}
        self._took: list[float] = []

    def started(self, unit: AnyUnit, attempt: int) -> None:
        self.retried += attempt > 1
        self._since[unit.name] = self.clock()

    def ended(self, unit: AnyUnit) -> None:
        self._took.append(self.clock() - self._since.pop(unit.name))

    def lost(self, events: Events | None, unit: AnyUnit, attempt: int, why: str = "") -> None:
        """An attempt whose worker can no longer note its end."""
        self._since.pop(unit.name, None)
        if events is not None:
            events.write(unit, attempt, "lost", time.time(), **({"why": why} if why else {}))

    def stragglers(self) -> list[tuple[str, float]]:
        """(unit, seconds) of those in flight for much longer than the others took, the longest first."""
        if not self._took:
            return []
        limit = max(STRAGGLER_S, STRAGGLER * statistics.median(self._took))
        ages = [(name, self.clock() - since) for name, since in self._since.items()]
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
        waiting = sorted(self._since)
        if events is not None:
            events.stalled(waiting, STALL_S)
        more = f" and {len(waiting) - 4} more" if len(waiting) > 4 else ""
        told = f"no unit has ended for {STALL_S:.0f} s; in flight: {', '.join(waiting[:4])}{more}"
        print(told, file=sys.stderr, flush=True)


flights = Flights()
