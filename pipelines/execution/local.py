"""The executor of one machine: spawned processes, no Ray. Same bytes as on a cluster, and easier to debug."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from lucidflux_data.errors import ConfigError, StorageError
from lucidflux_data.messages import pack
from lucidflux_data.storage.config import SETTINGS
from pipelines.execution import counting, worker
from pipelines.execution.counting import Place, SharedCounts
from pipelines.execution.executor import Job, lost_unit, next_attempt, number_of_actors
from pipelines.execution.in_flight import TICK_S, flights
from pipelines.execution.worker import AnyUnit, Events

CLOSE_S = 10.0  # for the pool to see that its processes are gone


VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class _Attempt:
    """`place`: of what it counts, among the counts of its pool."""

    unit: AnyUnit
    number: int
    counts: SharedCounts
    place: Place

    def count(self) -> int:
        return self.counts.read(self.place)

    def end(self, _: object = None) -> None:
        self.counts.give_back(self.place)


class LocalExecutor:
    """Spawned processes of this machine, no Ray: what one debugs with. A job that loads a model has a process for each
    share of a GPU, which sees that one alone; every other job has a process for each CPU."""

    def __init__(self, num_cpus: int, num_gpus: int = 0) -> None:
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.description = f"local processes, {num_cpus} CPUs" + (f", {num_gpus} GPUs" if num_gpus else "")
        self._pool: tuple[ProcessPoolExecutor, SharedCounts] | None = None
        self._devices: list[str] = []  # of the pool that runs, a process each; none where GPUs do not matter

    def map(
        self,
        units: Iterable[AnyUnit],
        job: Job,
        events: Events | None = None,
        stateful: bool = False,
        gpus_each: float = 1.0,
    ) -> Iterator[tuple[AnyUnit, Any]]:
        flights.clear()
        self._place(share_devices(self.num_gpus, gpus_each) if stateful else [])
        blob = pack(job)
        waiting = ((unit, 1) for unit in units)
        again: deque[tuple[AnyUnit, int]] = deque()
        flying: dict[Future[Any], _Attempt] = {}
        try:
            while True:
                self._fill(flying, again, waiting, blob, events)
                if not flying:
                    return
                ended, _ = wait(flying, TICK_S, return_when=FIRST_COMPLETED)
                flights.tick(events, lambda: {each.unit.name: each.count() for each in flying.values()})
                broken = False
                for future in ended:
                    one = flying.pop(future)
                    one.end()
                    unit, attempt = one.unit, one.number
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        broken = True
                        again.append(lost_unit(events, unit, attempt))
                        continue
                    except StorageError as error:
                        flights.failed(unit)
                        again.append((unit, next_attempt(unit, attempt, error)))
                        continue
                    flights.ended(unit)
                    yield unit, result
                if broken:
                    # One dead process breaks the whole pool: everything in flight goes into a new one.
                    again.extend(lost_unit(events, each.unit, each.number) for each in flying.values())
                    flying.clear()
                    self.close()
        finally:
            for future, each in flying.items():  # left behind: they go on counting until they end
                future.add_done_callback(each.end)

    def _fill(
        self,
        flying: dict[Future[Any], _Attempt],
        again: deque[tuple[AnyUnit, int]],
        waiting: Iterator[tuple[AnyUnit, int]],
        blob: bytes,
        events: Events | None,
    ) -> None:
        while len(flying) < 2 * (len(self._devices) or self.num_cpus):
            if flying and (again or any(each.number > 1 for each in flying.values())):
                return  # what was lost once runs alone: another unit's end must not take it along
            item = again.popleft() if again else next(waiting, None)
            if item is None:
                return
            unit, attempt = item
            pool, counts = self._started()
            place = counts.take()
            try:
                future = pool.submit(worker.handle, blob, unit, events, attempt, dict(SETTINGS), place)
            except BrokenProcessPool:  # died between two units, taking nothing with it
                again.appendleft(item)
                self.close()
                continue
            flying[future] = _Attempt(unit, attempt, counts, place)
            flights.started(unit, attempt)

    def _place(self, devices: list[str]) -> None:
        """A process keeps its GPU for life: for other ones the pool begins anew."""
        if devices != self._devices:
            self.close()
            self._devices = devices

    def _started(self) -> tuple[ProcessPoolExecutor, SharedCounts]:
        if self._pool is None:
            for variable in worker.THREAD_VARIABLES:  # read by libraries when a child loads them
                os.environ.setdefault(variable, "1")
            context = multiprocessing.get_context("spawn")
            free = context.SimpleQueue()
            for device in self._devices:
                free.put(device)
            size = len(self._devices) or self.num_cpus
            counts = SharedCounts(context, 4 * size)  # twice what is in flight: some may be left behind
            arguments = (os.getpid(), free if self._devices else None, counts.numbers)
            pool = ProcessPoolExecutor(size, context, initializer=_start, initargs=arguments)
            self._pool = pool, counts
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            (pool, _), self._pool = self._pool, None
            manager: Any = pool._executor_manager_thread
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            if manager is not None:  # it would complain of closed pipes when the interpreter ends before it
                manager.join(CLOSE_S)


def _start(parent: int, free: Any, numbers: Any) -> None:
    """First call of a spawned process; `free` has the devices that no other process of the pool has taken, `numbers`
    what all of them count into."""
    if free is not None:
        os.environ[VISIBLE] = free.get()  # before any library looks at the GPUs
    counting.share(numbers)
    worker.start_local(parent)


def share_devices(num_gpus: int, each: float) -> list[str]:
    """What each process of a pool sees, as CUDA_VISIBLE_DEVICES: a fraction shares a GPU, over 1 takes several.

    Out of those that this process may see. ConfigError where those are fewer.
    """
    if not num_gpus:
        return []
    visible = os.environ.get(VISIBLE)
    devices = [str(number) for number in range(num_gpus)] if visible is None else list(filter(None, visible.split(",")))
    if len(devices) < num_gpus:
        raise ConfigError(f"{VISIBLE} names {len(devices)} GPUs, --num-gpus asks for {num_gpus}")
    count = number_of_actors(num_gpus, each)
    if each <= 1:
        return [devices[process * num_gpus // count] for process in range(count)]
    return [",".join(devices[process * int(each) : (process + 1) * int(each)]) for process in range(count)]
