"""How a unit reaches a Ray worker: as a task, or as a call of an actor in a fixed pool.

Ray puts the driver's working folder first on the import path of its workers, where a `cli.py` or `pipelines/` of the
user would stand before ours. `_enter` is sent by value, imports nothing of ours before it has dropped that entry, and
so never meets them.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    AuthenticationError,
    NodeDiedError,
    OutOfMemoryError,
    WorkerCrashedError,
)

from lucidflux_data.errors import ConfigError
from lucidflux_data.messages import pack
from lucidflux_data.storage.config import SETTINGS
from pipelines.execution.counting import Place
from pipelines.execution.executor import number_of_actors
from pipelines.execution.worker import AnyUnit, Events

WORKER_LOST = (WorkerCrashedError, OutOfMemoryError, NodeDiedError, ActorDiedError, ActorUnavailableError)


def check_token(address: str) -> None:
    """ConfigError where the cluster asks for a token that is not there, or has another one.

    ray.init would try for twenty seconds, print a line each time, and then say that it could not connect.
    """
    try:
        import grpc
        from ray._private.grpc_utils import init_grpc_channel
        from ray._private.services import canonicalize_bootstrap_address
        from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    except ImportError:  # Ray without its extras, or with other insides: ray.init will say what it says
        return
    token = "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token) to that of the cluster"
    try:
        place = canonicalize_bootstrap_address(address)
        if place is not None:
            channel = init_grpc_channel(place)
            stub = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            stub.CheckAlive(gcs_service_pb2.CheckAliveRequest(), timeout=10)
            channel.close()
    except ConnectionError:  # nothing runs here, where the address is `auto`: ray.init says so
        return
    except AuthenticationError:
        raise ConfigError(f"RAY_AUTH_MODE is token and there is no token: set {token}") from None
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise ConfigError(f"the Ray cluster at {address} asks for its token: set {token}") from None


def why_lost(error: Exception) -> str:
    """What Ray says of a lost worker, in our words; "" where it does not know."""
    if isinstance(error, OutOfMemoryError):
        return "its node ran out of memory"
    return "its node is gone" if isinstance(error, NodeDiedError) else ""


def _enter(job: bytes, call: bytes, keep: list[str], folder: str) -> Any:
    """`folder`: the driver's working folder; `keep`: what the driver itself imports from."""
    import os
    import sys

    if folder not in keep:
        sys.path[:] = [entry for entry in sys.path if entry and os.path.abspath(entry) != folder]
    worker = __import__("pipelines.execution.worker", fromlist=["handle"])
    return worker.handle(job, *worker.unpack(call))


_enter.__module__ = "__main__"  # cloudpickle sends functions of __main__ by value


class _Host:
    """An actor: one process that keeps what its job has loaded."""

    def enter(self, job: bytes, call: bytes, keep: list[str], folder: str) -> Any:
        return _enter(job, call, keep, folder)

    def is_there(self) -> None:
        return None


_Host.is_there.__module__ = "__main__"
_Host.__module__ = _Host.enter.__module__ = "__main__"


class TaskPool:
    """Any idle worker takes the next unit."""

    def __init__(self, job: bytes, events: Events | None, num_cpus: int, keep: list[str]) -> None:
        self._room = 2 * num_cpus
        self._events = events
        self._job = ray.put(job)
        self._rest = (keep, os.getcwd())
        self._enter = ray.remote(_enter)

    def submit(self, unit: AnyUnit, attempt: int, place: Place = None, **where: Any) -> Any:
        """`place`: for what the job counts."""
        enter = self._enter.options(num_cpus=1, max_retries=0, **where)
        return enter.remote(self._job, pack((unit, self._events, attempt, dict(SETTINGS), place)), *self._rest)

    def has_room(self, flying: int) -> bool:
        return flying < self._room

    def starting(self) -> list[Any]:
        """A task needs nobody in particular."""
        return []

    def started(self, reference: Any) -> None:
        """See `starting`."""

    def ended(self, reference: Any, lost: bool) -> None:
        """Nothing is held for a task."""

    def close(self) -> None:
        """Tasks end with their units."""


class ActorPool:
    """Up to a fixed number of actors, two units in flight on each so that none waits for the driver.

    `gpus`: how many there are, and how many of them an actor has. A fraction shares one GPU among actors.

    Units go to actors that have answered. After a node is lost, an actor may wait for a place that never comes: the
    others do its work.
    """

    def __init__(
        self, job: bytes, events: Events | None, num_cpus: int, gpus: tuple[int, float], keep: list[str]
    ) -> None:
        num_gpus, each = gpus
        size = number_of_actors(num_gpus, each) if num_gpus else num_cpus
        self._events = events
        self._job = ray.put(job)
        self._rest = (keep, os.getcwd())
        options = {"num_cpus": 1, "num_gpus": each if num_gpus else 0, "max_restarts": -1, "max_task_retries": 0}
        self._actors = [ray.remote(_Host).options(**options).remote() for _ in range(size)]
        self._starting = {actor.is_there.remote(): actor for actor in self._actors}
        self._free: deque[Any] = deque()
        self._busy: dict[Any, Any] = {}

    def has_room(self, flying: int) -> bool:
        return bool(self._free)

    def starting(self) -> list[Any]:
        """References that end when an actor is there (again)."""
        return list(self._starting)

    def started(self, reference: Any) -> None:
        actor = self._starting.pop(reference)
        try:
            ray.get(reference)
        except WORKER_LOST:
            self._starting[actor.is_there.remote()] = actor
            return
        self._free.extend([actor, actor])

    def submit(self, unit: AnyUnit, attempt: int, place: Place = None) -> Any:
        """`place`: for what the job counts."""
        actor = self._free.popleft()
        call = pack((unit, self._events, attempt, dict(SETTINGS), place))
        reference = actor.enter.remote(self._job, call, *self._rest)
        self._busy[reference] = actor
        return reference

    def ended(self, reference: Any, lost: bool) -> None:
        actor = self._busy.pop(reference)
        if actor is None:  # submitted before its actor was lost: that actor's places were given anew
            return
        if not lost:
            self._free.append(actor)
            return
        self._free = deque(free for free in self._free if free is not actor)
        self._busy = {flying: None if by is actor else by for flying, by in self._busy.items()}
        self._starting[actor.is_there.remote()] = actor

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)


def make_pool(
    job: bytes, events: Events | None, stateful: bool, num_cpus: int, gpus: tuple[int, float], keep: list[str]
) -> TaskPool | ActorPool:
    if stateful:
        return ActorPool(job, events, num_cpus, gpus, keep)
    return TaskPool(job, events, num_cpus, keep)
