"""Runs units of work somewhere: on spawned processes, or on Ray. The results are the same; only the place differs.

    run(executor, phase, units, work, folder)   work(unit) yields (name, bytes or chunks), published by the worker
    executor.map(units, job)                    (unit, result) as they end, a bounded number in flight

A worker that dies takes its units with it, a store that does not answer fails them: they are tried again, `ATTEMPTS`
times in all. Any other error that a job raises is not retried: it would be raised again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from lucidflux_data.errors import ConfigError, Interrupted, StorageError
from lucidflux_data.escapes import show
from lucidflux_data.storage.folder import Folder
from pipelines.execution.in_flight import flights
from pipelines.execution.worker import AnyUnit, Events, File, Publish

ATTEMPTS = 3
Job = Callable[[AnyUnit], Any]


class Executor(Protocol):
    """`description` is the first line a run prints. `num_gpus` is how many a job may take."""

    description: str
    num_gpus: int

    def map(
        self,
        units: Iterable[AnyUnit],
        job: Job,
        events: Events | None = None,
        stateful: bool = False,
        gpus_each: float = 1.0,
    ) -> Iterator[tuple[AnyUnit, Any]]:
        """`stateful`: the job loads something, so it stays in a fixed pool of processes, each with `gpus_each` GPUs."""
        ...

    def close(self) -> None: ...


def run(
    executor: Executor,
    phase: str,
    units: Iterable[AnyUnit],
    work: Callable[[AnyUnit], Iterable[File]],
    folder: Folder,
    stateful: bool = False,
    gpus_each: float = 1.0,
) -> Iterator[AnyUnit]:
    """Publishes the files of every unit into `folder`; yields the units as they are done. `phase`: in its events."""
    for unit, _ in executor.map(units, Publish(work, folder), Events(folder, phase), stateful, gpus_each):
        yield unit


def number_of_actors(num_gpus: int, each: float) -> int:
    """How many actors with `each` GPUs there is room for; a fraction never spans two GPUs. ConfigError for none."""
    size = num_gpus * int(1 / each + 1e-9) if each <= 1 else int(num_gpus / each)
    if size == 0:
        raise ConfigError(f"workers.gpus_per_actor={each:g} is more than the {num_gpus} GPUs there are")
    return size


def available_cpus() -> int:
    return len(os.sched_getaffinity(0))


def lost_unit(events: Events | None, unit: AnyUnit, attempt: int, why: str = "") -> tuple[AnyUnit, int]:
    flights.lost(events, unit, attempt, why)
    following = next_attempt(unit, attempt)
    reason = f" ({why})" if why else ""
    sentence = f"{unit.name} lost its worker{reason}: attempt {following} of {ATTEMPTS}"
    print(show(sentence), file=sys.stderr, flush=True)
    return unit, following


def next_attempt(unit: AnyUnit, attempt: int, error: StorageError | None = None) -> int:
    if attempt >= ATTEMPTS and error is not None:
        raise error
    if attempt >= ATTEMPTS:
        raise Interrupted(
            f"{unit.name} lost its worker {ATTEMPTS} times (out of memory, or a decoder that crashes): "
            "see events/, then repeat the command to resume"
        )
    return attempt + 1
