"""An executor that runs the units of a job in this process: as quick as it gets, for tests of what jobs write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.execution.worker import Unit


class InProcess:
    """Runs the units in order, or the last one first."""

    description = "this process"
    num_gpus = 0

    def __init__(self, backwards: bool = False) -> None:
        self.backwards = backwards

    def map(self, units: Iterable[Unit], job: Any, *_: Any, **options: Any) -> Iterator[tuple[Unit, Any]]:
        for unit in reversed(list(units)) if self.backwards else units:
            yield unit, job(unit)

    def close(self) -> None:
        """Nothing was opened."""
