"""The executor of a Ray cluster: tasks for what has no state, pools of actors for models."""

from __future__ import annotations

import os
import socket
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from lucidflux_data.errors import ConfigError, StorageError
from lucidflux_data.messages import pack
from pipelines.execution import worker
from pipelines.execution.counting import Place, StoredCounts
from pipelines.execution.executor import Job, available_cpus, lost_unit, next_attempt
from pipelines.execution.in_flight import TICK_S, flights
from pipelines.execution.worker import AnyUnit, Events, Unit


class RayExecutor:
    """Ray Core: tasks for jobs without state, a fixed pool of actors for jobs that load a model."""

    def __init__(self, num_cpus: int | None, num_gpus: int | None, address: str) -> None:
        import logging

        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the announced default of Ray
        # Read when ray is imported: what the cluster reports of lost nodes and killed workers goes, whole dumps of it,
        # to standard output; we say it in a line of our own.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")
        import ray

        options: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
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
        units: Iterable[AnyUnit],
        job: Job,
        events: Events | None = None,
        stateful: bool = False,
        gpus_each: float = 1.0,
    ) -> Iterator[tuple[AnyUnit, Any]]:
        import ray
        from ray.exceptions import RayTaskError

        from pipelines.execution.ray_pools import WORKER_LOST, make_pool, why_lost

        flights.clear()
        gpus = (self.num_gpus, gpus_each)
        pool = make_pool(pack(job), events, stateful, self.num_cpus, gpus, own_path())
        waiting = ((unit, 1) for unit in units)
        again: deque[tuple[AnyUnit, int]] = deque()
        flying: dict[Any, tuple[AnyUnit, int, Place]] = {}
        counts = StoredCounts()
        try:
            while True:
                exhausted = False
                while pool.has_room(len(flying)) and not exhausted:
                    item = again.popleft() if again else next(waiting, None)
                    exhausted = item is None
                    if item is not None:
                        place = counts.take()
                        flying[pool.submit(*item, place)] = (*item, place)
                        flights.started(*item)
                if exhausted and not flying:
                    return
                ended, _ = ray.wait([*flying, *pool.starting()], num_returns=1, timeout=TICK_S)
                flights.tick(events, lambda: counts.read({unit.name: place for unit, _, place in flying.values()}))
                if not ended:
                    continue
                (reference,) = ended
                if reference not in flying:
                    pool.started(reference)
                    continue
                unit, attempt, place = flying.pop(reference)
                counts.give_back(place)
                try:
                    result = ray.get(reference)
                    pool.ended(reference, lost=False)
                    flights.ended(unit)
                    yield unit, result
                except WORKER_LOST as error:
                    pool.ended(reference, lost=True)
                    again.append(lost_unit(events, unit, attempt, why_lost(error)))
                except RayTaskError as error:
                    pool.ended(reference, lost=False)
                    again.append(_after_failure(unit, attempt, error))
        finally:
            pool.close()
            counts.close()

    def each_node(self, job: Job) -> list[Any]:
        """`job` once on every node of a joined cluster that can run a unit, in order of the nodes' ids; [] on a private
        one. A node without CPUs, as a head may be, runs none. ConfigError where all are so."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from pipelines.execution.ray_pools import TaskPool

        if not self.joined:
            return []
        able = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        if not able:
            raise ConfigError("no node of the Ray cluster has a CPU: `ray start --address HEAD:PORT` adds one that has")
        nodes = sorted(node["NodeID"] for node in able)
        pool = TaskPool(pack(job), None, self.num_cpus, own_path())
        placed = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        named = [Unit(f"node-{node[:12]}", 0, None) for node in nodes]
        asked = zip(named, placed, strict=True)
        answers: list[Any] = ray.get([pool.submit(unit, 1, scheduling_strategy=place) for unit, place in asked])
        return answers

    def close(self) -> None:
        import ray

        ray.shutdown()


def _after_failure(unit: AnyUnit, attempt: int, error: Any) -> tuple[AnyUnit, int]:
    """The next attempt, where a store gave no answer. Raises what else the job raised. `error`: Ray's RayTaskError."""
    if isinstance(error.cause, StorageError):
        flights.failed(unit)
        return unit, next_attempt(unit, attempt, error.cause)
    raise error.as_instanceof_cause() if error.cause is None else error.cause from None


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
