"""What runs inside a worker process, of either executor: one thread, one loaded job, files published by it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from lucidflux_data.alarm import let_alarm_end
from lucidflux_data.messages import unpack
from lucidflux_data.storage.folder import Content, Folder, configure
from pipelines.execution.counting import Place, telling

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

File = tuple[str, Content]  # name in the output folder, bytes or an iterable of chunks


Payload = TypeVar("Payload")


@dataclass(frozen=True)
class Unit(Generic[Payload]):
    """An immutable piece of work. `name` is unique in its phase, `size` is its number of images.

    `payload`: what the job of its phase is given. `attempt`: over 1 after a worker was lost with it; a job may then be
    more careful.
    """

    name: str
    size: int
    payload: Payload
    attempt: int = 1


AnyUnit = Unit[Any]  # for what carries units and does not look into them


@dataclass(frozen=True)
class Events:
    """Where the attempts of a phase are noted: units of two phases may have the same name."""

    folder: Folder
    phase: str

    def write(self, unit: AnyUnit, attempt: int, outcome: str, start: float, **more: Any) -> None:
        line = {"unit": unit.name, "attempt": attempt, "outcome": outcome, "images": unit.size}
        self._publish(f"{unit.name}.{attempt}", line | {"start": round(start, 3), **more})

    def stalled(self, names: list[str], seconds: float) -> None:
        """No unit has ended for so long; `names` are in flight."""
        line = {"outcome": "stalled", "in_flight": names, "without_an_end_s": seconds, "at": round(time.time(), 3)}
        self._publish(f"stalled.{time.time():.0f}", line)

    def _publish(self, name: str, line: Mapping[str, object]) -> None:
        """Events are for people: a full disk must not turn a finished unit into a failed one."""
        with contextlib.suppress(Exception):
            content = (json.dumps({"phase": self.phase, **line}) + "\n").encode()
            self.folder.publish(f"events/{self.phase}-{name}.jsonl", content)


@dataclass(frozen=True)
class Publish:
    """Runs `work(unit)` and publishes the files that it yields, in order; the last one marks the unit as done."""

    work: Callable[[AnyUnit], Iterable[File]]
    folder: Folder

    def __call__(self, unit: AnyUnit) -> None:
        for name, content in self.work(unit):
            self.folder.publish(name, content)


_loaded: tuple[bytes, Callable[[AnyUnit], Any]] | None = None


def handle(
    job: bytes, unit: AnyUnit, events: Events | None, attempt: int, settings: dict[str, object], place: Place = None
) -> Any:
    """Runs a pickled job on a unit. The job is unpickled once a process, so what it loads is loaded once.

    `settings`: how the driver speaks to stores. `place`: where it looks for what the job counts.
    """
    global _loaded
    configure(settings)
    if _loaded is None or _loaded[0] != job:
        prepare_process()
        let_alarm_end()
        _loaded = (job, unpack(job))
    start = time.time()
    outcome = "killed"
    try:
        with telling(place):
            result = _loaded[1](replace(unit, attempt=attempt))
        outcome = "done"
        return result
    except BaseException as error:
        outcome = type(error).__name__
        raise
    finally:
        if events is not None:
            events.write(unit, attempt, outcome, start, seconds=round(time.time() - start, 3), pid=os.getpid())


def prepare_process() -> None:
    """One thread: parallelism is over units. Covers OpenCV, BLAS and, where it is loaded later, torch.

    Memory that is freed stays with the process (docs/decisions/0074-freed-memory-stays-with-a-worker.md).
    """
    import cv2
    from threadpoolctl import threadpool_limits

    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    cv2.setNumThreads(1)
    threadpool_limits(1)
    _keep_freed_memory()


# Parameters of glibc's mallopt(3), and what is given to them, in bytes. Arrays of more than MAPPED are rare.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MAPPED, HELD, AHEAD = 256 << 20, 512 << 20, 16 << 20


def _keep_freed_memory() -> None:
    """The arrays of an image take the place of those of the one before, up to HELD bytes at the top of the heap. By
    default the allocator gives them back and has the system clear new pages for each image."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # of glibc; other C libraries have none
    if mallopt is not None:
        for parameter, value in ((MMAP_THRESHOLD, MAPPED), (TRIM_THRESHOLD, HELD), (TOP_PAD, AHEAD)):
            mallopt(parameter, value)


def start_local(parent: int) -> None:
    """First call of a spawned process: Ctrl-C is the driver's to handle, and no driver means no worker."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence_native_stderr()

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    prepare_process()


def silence_native_stderr() -> None:
    """Image libraries print complaints about damaged files straight to descriptor 2; we report them as reasons."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
