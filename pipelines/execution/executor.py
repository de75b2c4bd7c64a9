"""Runs units of work somewhere: on spawned processes, or on Ray. The results are the same; only the place differs.

    run(executor, phase, units, work, folder)   work(unit) yields (name, bytes or chunks), published by the worker
    executor.map(units, job)                    (unit, result) as they end, a bounded number in flight

A worker that dies takes its units with it, a store that does not answer fails them: they are tried again, `ATTEMPTS`
times in all. Any other error that a job raises is not retried: it would be raised again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from lucidflux_data.errors import ConfigError, Interrupted, StorageError
from lucidflux_data.storage.folder import SETTINGS, Folder
from pipelines.execution import worker
from pipelines.execution.in_flight import STALL_S, flights
from pipelines.execution.worker import Events, File, Publish, Unit

ATTEMPTS = 3
Job = Callable[[Unit], Any]


class Executor(Protocol):
    """`description` is the first line a run prints. `num_gpus` is how many a job may take."""

    description: str
    num_gpus: int

    def map(
        self,
        units: Iterable[Unit],
        job: Job,
        events: Events | None = None,
        stateful: bool = False,
        gpus_each: float = 1.0,
    ) -> Iterator[tuple[Unit, Any]]:
        """`stateful`: the job loads something, so it stays in a fixed pool of actors, each with `gpus_each` GPUs."""
        ...

    def close(self) -> None: ...


def run(
    executor: Executor,
    phase: str,
    units: Iterable[Unit],
    work: Callable[[Unit], Iterable[File]],
    folder: Folder,
    stateful: bool = False,
    gpus_each: float = 1.0,
) -> Iterator[Unit]:
    """Publishes the files of every unit into `folder`; yields the units as they are done. `phase`: in its events."""
    for unit, _ in executor.map(units, Publish(work, folder), Events(folder, phase), stateful, gpus_each):
        yield unit


@contextlib.contextmanager
def open_executor(kind: str, num_cpus: int | None, num_gpus: int | None, address: str | None) -> Iterator[Executor]:
    """`kind`: ray or local. Ray joins `address`, else RAY_ADDRESS, else starts a private cluster for this run."""
    executor: Executor
    if kind == "ray":
        executor = RayExecutor(num_cpus, num_gpus, address or os.environ.get("RAY_ADDRESS") or "local")
    elif kind == "local":
        executor = LocalExecutor(num_cpus or available_cpus(), num_gpus or 0)
    else:
        raise ConfigError(f"--executor is ray or local, not {kind}")
    try:
        yield executor
    except KeyboardInterrupt:
        raise Interrupted("interrupted: repeat the command to resume") from None
    finally:
        executor.close()


def available_cpus() -> int:
    return len(os.sched_getaffinity(0))


class LocalExecutor:
    """Spawned processes of this machine, no Ray: what one debugs with."""

    def __init__(self, num_cpus: int, num_gpus: int = 0) -> None:
        self.num_cpus = num_cpus
        self.num_gpus = num_gpus
        self.description = f"local processes, {num_cpus} CPUs" + (f", {num_gpus} GPUs" if num_gpus else "")
        self._pool: ProcessPoolExecutor | None = None

    def map(
        self,
        units: Iterable[Unit],
        job: Job,
        events: Events | None = None,
        stateful: bool = False,
        gpus_each: float = 1.0,
    ) -> Iterator[tuple[Unit, Any]]:
        flights.clear()
        blob = pickle.dumps(job)
        waiting = ((unit, 1) for unit in units)
        again: deque[tuple[Unit, int]] = deque()
        flying: dict[Future[Any], tuple[Unit, int]] = {}
        while True:
            self._fill(flying, again, waiting, blob, events)
            if not flying:
                return
            ended, _ = wait(flying, STALL_S, return_when=FIRST_COMPLETED)
            if not ended:
                flights.say_stalled(events)
            broken = False
            for future in ended:
                unit, attempt = flying.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    broken = True
                    again.append(_lost(events, unit, attempt))
                    continue
                except StorageError as error:
                    again.append((unit, _next_attempt(unit, attempt, error)))
                    continue
                flights.ended(unit)
                yield unit, result
            if broken:
                # One dead process breaks the whole pool: everything in flight goes into a new one.
                again.extend(_lost(events, unit, attempt) for unit, attempt in flying.values())
                flying.clear()
                self.close()

    def _fill(
        self,
        flying: dict[Future[Any], tuple[Unit, int]],
        again: deque[tuple[Unit, int]],
        waiting: Iterator[tuple[Unit, int]],
        blob: bytes,
        events: Events | None,
    ) -> None:
        while len(flying) < 2 * self.num_cpus:
            if flying and (again or any(attempt > 1 for _, attempt in flying.values())):
                return  # what was lost once runs alone: another unit's end must not take it along
            item = again.popleft() if again else next(waiting, None)
            if item is None:
                return
            unit, attempt = item
            try:
                future = self._started().submit(worker.handle, blob, unit, events, attempt, dict(SETTINGS))
            except BrokenProcessPool:  # died between two units, taking nothing with it
                again.appendleft(item)
                self.close()
                continue
            flying[future] = (unit, attempt)
            flights.started(unit, attempt)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            for variable in worker.THREAD_VARIABLES:  # read by libraries when a child loads them
                os.environ.setdefault(variable, "1")
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(
                self.num_cpus, context, initializer=worker.start_local, initargs=(os.getpid(),)
            )
        return self._pool

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
            self._pool = None


def _lost(events: Events | None, unit: Unit, attempt: int, why: str = "") -> tuple[Unit, int]:
    flights.lost(events, unit, attempt, why)
    following = _next_attempt(unit, attempt)
    reason = f" ({why})" if why else ""
    print(f"{unit.name} lost its worker{reason}: attempt {following} of {ATTEMPTS}", file=sys.stderr, flush=True)
    return unit, following


def _next_attempt(unit: Unit, attempt: int, error: StorageError | None = None) -> int:
    if attempt >= ATTEMPTS and error is not None:
        raise error
    if attempt >= ATTEMPTS:
        raise Interrupted(
            f"{unit.name} lost its worker {ATTEMPTS} times (out of memory, or a decoder that crashes): "
            "see events/, then repeat the command to resume"
        )
    return attempt + 1


class RayExecutor:
    """Ray Core: tasks for jobs without state, a fixed pool of actors for jobs that load a model."""

    def __init__(self, num_cpus: int | None, num_gpus: int | None, address: str) -> None:
        import logging

        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the announced default of Ray
        # Read when ray is imported: what the cluster reports of lost nodes and killed workers goes, whole dumps of it,
        # to standard output; we say it in a line of our own.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
        import ray

        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            for variable in worker.THREAD_VARIABLES:
                os.environ.setdefault(variable, "1")
            # Only encoded results pass through the object store: it need not take a third of the memory.
            options |= {
                "num_cpus": num_cpus or available_cpus(),
                "num_gpus": num_gpus,
                "include_dashboard": False,
                "object_store_memory": 200 * 1024 * 1024,
            }
        _check_reachable(address)
        if address != "local" and "://" not in address:
            from pipelines.execution.ray_pools import check_token

            check_token(address)
        try:
            ray.init(address=address, **options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no Ray cluster could be joined at {address}: {str(error).splitlines()[0]}") from None
        self.joined = address != "local"
        total = ray.cluster_resources()
        nodes = sum(node["Alive"] for node in ray.nodes())
        self.num_cpus = num_cpus or int(total.get("CPU", 1))
        self.num_gpus = int(total.get("GPU", 0)) if num_gpus is None else num_gpus
        kind = "private Ray cluster" if address == "local" else f"Ray cluster at {address}"
        self.description = (
            f"{kind}: {nodes} node{'s' * (nodes != 1)}, {int(total.get('CPU', 0))} CPUs, "
            f"{int(total.get('GPU', 0))} GPUs"
        )

    def map(
        self,
        units: Iterable[Unit],
        job: Job,
        events: Events | None = None,
        stateful: bool = False,
        gpus_each: float = 1.0,
    ) -> Iterator[tuple[Unit, Any]]:
        import ray
        from ray.exceptions import RayTaskError

        from pipelines.execution.ray_pools import WORKER_LOST, make_pool, why_lost

        flights.clear()
        gpus = (self.num_gpus, gpus_each)
        pool = make_pool(pickle.dumps(job), events, stateful, self.num_cpus, gpus, own_path())
        waiting = ((unit, 1) for unit in units)
        again: deque[tuple[Unit, int]] = deque()
        flying: dict[Any, tuple[Unit, int]] = {}
        try:
            while True:
                exhausted = False
                while pool.has_room(len(flying)) and not exhausted:
                    item = again.popleft() if again else next(waiting, None)
                    exhausted = item is None
                    if item is not None:
                        flying[pool.submit(*item)] = item
                        flights.started(*item)
                if exhausted and not flying:
                    return
                ended, _ = ray.wait([*flying, *pool.starting()], num_returns=1, timeout=STALL_S)
                if not ended:
                    flights.say_stalled(events)
                    continue
                (reference,) = ended
                if reference not in flying:
                    pool.started(reference)
                    continue
                unit, attempt = flying.pop(reference)
                try:
                    result = ray.get(reference)
                    pool.ended(reference, lost=False)
                    flights.ended(unit)
                    yield unit, result
                except WORKER_LOST as error:
                    pool.ended(reference, lost=True)
                    again.append(_lost(events, unit, attempt, why_lost(error)))
                except RayTaskError as error:
                    pool.ended(reference, lost=False)
                    if isinstance(error.cause, StorageError):
                        again.append((unit, _next_attempt(unit, attempt, error.cause)))
                        continue
                    raise error.as_instanceof_cause() if error.cause is None else error.cause from None
        finally:
            pool.close()

    def each_node(self, job: Job) -> list[Any]:
        """`job` once on every node of a joined cluster, in order of the nodes' ids; [] on a private one."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from pipelines.execution.ray_pools import TaskPool

        if not self.joined:
            return []
        nodes = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        pool = TaskPool(pickle.dumps(job), None, self.num_cpus, own_path())
        placed = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        named = [Unit(f"node-{node[:12]}", 0, None) for node in nodes]
        asked = zip(named, placed, strict=True)
        return ray.get([pool.submit(unit, 1, scheduling_strategy=place) for unit, place in asked])

    def close(self) -> None:
        import ray

        ray.shutdown()


def _check_reachable(address: str) -> None:
    """ConfigError at once where nothing listens at host:port; ray.init would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "/" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        why = error.strerror or "no answer"
        raise ConfigError(f"no Ray cluster could be joined at {address}: {why.lower()}") from None


def own_path() -> list[str]:
    """The import path of this process without the working folder that Ray puts first on its workers' path."""
    return [entry for entry in sys.path if entry]
