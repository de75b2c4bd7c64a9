"""How many images of a unit are done before it ends: its job counts them, the driver asks once a second.

    job -> count_done() -> memory that local processes share, or Ray's key-value store -> in_flight -> progress line

A count is of one attempt and goes with it. Nothing depends on counts: where none can be sent, none is shown.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing.context import SpawnContext
from typing import Any, Protocol, TypeVar

STORE_S = 2.0  # between two words of a worker to Ray's store, and between two readings of it
MOST = 64  # units in flight that tell through the store
PREFIX = "lucidflux-counts"

Place = int | str | None  # a number in the shared memory, a key of the store, or nowhere
Item = TypeVar("Item")


def count_done(images: int = 1) -> None:
    """A job says that so many further images of its unit are done."""
    if _teller is not None:
        _teller.add(images)


def counted(items: Iterable[Item]) -> Iterator[Item]:
    """`items`, an image each: one is done when the next is asked for."""
    for item in items:
        yield item
        count_done()


class _Teller(Protocol):
    def add(self, images: int) -> None: ...

    def end(self) -> None: ...


_teller: _Teller | None = None
_shared: Any = None  # the array of `SharedCounts`, in a process of its pool


def share(numbers: Any) -> None:
    """First call of a local process."""
    global _shared
    _shared = numbers


@contextlib.contextmanager
def telling(place: Place) -> Iterator[None]:
    """Around a unit in a worker: what its job counts goes to `place`."""
    global _teller
    if place is None:
        yield
        return
    _teller = _InMemory(_shared, place) if isinstance(place, int) else _InStore(place)
    try:
        yield
    finally:
        _teller.end()
        _teller = None


class _InMemory:
    def __init__(self, numbers: Any, place: int) -> None:
        self._numbers, self._place = numbers, place

    def add(self, images: int) -> None:
        self._numbers[self._place] += images

    def end(self) -> None:
        """The driver clears the place when it gives it to another unit."""


class _InStore:
    """A thread tells: the store may take its time, and the job does not wait for it."""

    def __init__(self, key: str) -> None:
        self._key, self._count, self._ended = key, 0, threading.Event()
        threading.Thread(target=self._tell, daemon=True).start()

    def add(self, images: int) -> None:
        self._count += images

    def end(self) -> None:
        self._ended.set()

    def _tell(self) -> None:
        sent = 0
        with contextlib.suppress(Exception):  # Ray promises nothing of its store
            from ray.experimental.internal_kv import _internal_kv_put

            while not self._ended.wait(STORE_S):
                if self._count != sent:
                    sent = self._count
                    _internal_kv_put(self._key, str(sent), overwrite=True, namespace=PREFIX)


class SharedCounts:
    """Memory that the processes of a pool share: a number for each unit in flight, written by one process, no lock."""

    def __init__(self, context: SpawnContext, size: int) -> None:
        self.numbers: Any = context.RawArray("q", size)
        self._free = list(range(size))

    def take(self) -> Place:
        """A place that is nobody's, at 0; None where there is none."""
        if not self._free:
            return None
        place = self._free.pop()
        self.numbers[place] = 0
        return place

    def give_back(self, place: Place) -> None:
        if isinstance(place, int):
            self._free.append(place)

    def read(self, place: Place) -> int:
        return int(self.numbers[place]) if isinstance(place, int) else 0


class StoredCounts:
    """Ray's key-value store: a key for each of at most `MOST` attempts in flight, read no oftener than `STORE_S`."""

    def __init__(self) -> None:
        self._prefix = f"{PREFIX}-{uuid.uuid4().hex}-"
        self._given = 0
        self._counts: dict[str, int] = {}  # of the keys that are in use
        self._answers = True
        self._asked = time.monotonic()

    def take(self) -> Place:
        if len(self._counts) >= MOST or not self._answers:
            return None
        self._given += 1
        key = f"{self._prefix}{self._given}"
        self._counts[key] = 0
        return key

    def give_back(self, place: Place) -> None:
        if isinstance(place, str) and self._counts.pop(place):
            self._call("_internal_kv_del", place)

    def read(self, places: Mapping[str, Place]) -> dict[str, int]:
        """The counts of units, whose places are given, by name; those of the last time where that is not long ago."""
        if time.monotonic() - self._asked >= STORE_S:
            self._asked = time.monotonic()
            for key in self._counts:
                found = self._call("_internal_kv_get", key)
                if found is not None:
                    self._counts[key] = int(found)
        return {name: self._counts[place] for name, place in places.items() if isinstance(place, str)}

    def close(self) -> None:
        """Nothing of this phase stays in the store."""
        self._call("_internal_kv_del", self._prefix, del_by_prefix=True)

    def _call(self, name: str, key: str, **options: Any) -> Any:
        """A store that once gave no answer is asked nothing any more."""
        try:
            from ray.experimental import internal_kv

            return getattr(internal_kv, name)(key, namespace=PREFIX, **options) if self._answers else None
        except Exception:  # it promises nothing
            self._answers = False
            return None
