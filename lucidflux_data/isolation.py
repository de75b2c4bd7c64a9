"""Decoding of strangers' bytes under limits of time and memory: a hang, a crash or a bomb costs one image.

    decode_apart       in a child process, which is replaced when it hangs or dies: where the job must not end with it
    decode_in_worker   in a worker that an executor replaces: here at the first attempt at a unit, then in a child

Nothing inside Python stops a C decoder that hangs. At the first attempt the kernel's alarm ends the worker.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib
import os
import resource
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from lucidflux_data.alarm import hard_limit, let_alarm_end
from lucidflux_data.codecs.header import Header
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import ImageError, Interrupted
from lucidflux_data.images import Decoded, decode_full, probe
from lucidflux_data.messages import UnpackError, receive, send

APART = 2  # an attempt at which decoding is in a child
READ_TWICE = 2  # times the encoded bytes: in the pipe and for the decoder


class Apart:
    """Calls `module:function` with (data, decode, *more) in a child process, which is replaced when it hangs or dies.

    The function raises nothing but ImageError. Threads of a process share the child, one at a time.
    """

    def __init__(self, function: str) -> None:
        self.function = function
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._hung: dict[bytes, float] = {}  # digest of what was not done in time -> the seconds that it was given

    def call(self, data: bytes, decode: DecodeConfig, *more: Any) -> Any:
        """What the function gives or raises. ImageError `decode_timeout` at the limit, and `unreadable` where the
        decoder took the child with it. What hung once is not tried again with as little time: a reader that meets an
        image in each epoch would wait each time."""
        late = ImageError("decode_timeout", f"decoding took longer than {decode.timeout_s:g} s")
        if self._hung and self._hung.get(hashlib.blake2b(data).digest(), 0) >= decode.timeout_s:
            raise late
        with self._lock:
            child, (stdin, stdout) = self._started(), self._pipes()
            try:
                send((data, decode, *more), stdin)
                stdin.flush()
                ready, _, _ = select.select([stdout], [], [], decode.timeout_s)
                if not ready:
                    self.close()
                    self._hung[hashlib.blake2b(data).digest()] = decode.timeout_s
                    raise late
                result = receive(stdout)
            except (EOFError, BrokenPipeError, UnpackError):
                self.close()
                raise ImageError("unreadable", "the decoder crashed or ran out of memory on it") from None
            except BaseException:
                if child.poll() is None:  # an interrupt between a question and its answer
                    self.close()
                raise
        if isinstance(result, ImageError):
            raise result
        return result

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            code = (
                f"import sys; sys.path[:] = {sys.path!r}; from lucidflux_data.isolation import serve; "
                f"serve({self.function!r})"
            )
            # In a group of its own, so that a Ctrl-C is left to this process.
            self._child = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
            try:
                receive(self._pipes()[1])  # ready: loading the libraries is not the image's time
            except (EOFError, UnpackError):
                self.close()
                raise Interrupted("a process to decode in could not be started: is there memory for it?") from None
        return self._child

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        child = self._child
        assert child is not None, "it was started"
        assert child.stdin is not None, "opened as a pipe"
        assert child.stdout is not None, "opened as a pipe"
        return child.stdin, child.stdout

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in self._pipes():
                with contextlib.suppress(OSError):
                    pipe.close()
            self._child = None


def serve(function: str) -> None:
    """The child: (bytes, limits, more) in, a result or an ImageError out, until its parent closes the pipe."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the results
    let_alarm_end()
    module, _, name = function.partition(":")
    work: Callable[..., Any] = getattr(importlib.import_module(module), name)
    if hasattr(sys.modules[module], "warm_up"):
        sys.modules[module].warm_up()
    send("ready", out)
    out.flush()
    while True:
        try:
            data, decode, *more = receive(sys.stdin.buffer)
        except EOFError:
            return
        _limit_memory(decode.max_memory_bytes + READ_TWICE * len(data))
        with hard_limit(2 * decode.timeout_s):  # for a child whose parent is gone
            try:
                result = work(data, decode, *more)
            except ImageError as error:
                result = error
            except MemoryError:
                result = ImageError("out_of_memory", "there is not enough memory for it")
        _limit_memory(None)
        send(result, out)
        out.flush()


def _limit_memory(more: int | None) -> None:
    """This process may grow by so many bytes from now on; None lifts the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = hard
    if more is not None:
        wanted = _address_space() + more
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _address_space() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 40


_own: tuple[int, dict[str, Apart]] = (os.getpid(), {})


def _apart(function: str) -> Apart:
    """The child of this process for a function; after a fork, a new one."""
    global _own
    if _own[0] != os.getpid():
        _own = (os.getpid(), {})
    return _own[1].setdefault(function, Apart(function))


@atexit.register
def _close() -> None:
    if _own[0] == os.getpid():
        for child in _own[1].values():
            child.close()


def call_apart(function: str, data: bytes, *more: Any, decode: DecodeConfig | None = None) -> Any:
    """What `module:function` gives for (data, decode, *more) in a child of this process, as of `Apart.call`."""
    return _apart(function).call(data, decode or DecodeConfig(), *more)


def decode_apart(data: bytes, decode: DecodeConfig | None = None) -> Decoded:
    """As `decode_full`, in a child of this process. ImageError `decode_timeout`, or `unreadable` after a crash, too."""
    decoded: Decoded = _apart(f"{__name__}:decode_here").call(data, decode or DecodeConfig())
    return decoded


def check_apart(data: bytes, decode: DecodeConfig | None = None) -> None:
    """ImageError where `decode_apart` raises one. The pixels stay in the child."""
    _apart(f"{__name__}:check_here").call(data, decode or DecodeConfig())


def pixels_apart(data: bytes, decode: DecodeConfig | None = None) -> np.ndarray:
    """The pixels of `decode_apart`."""
    return decode_apart(data, decode).pixels


def probe_apart(data: bytes, decode: DecodeConfig | None = None) -> Header:
    """As `probe`, in a child of this process."""
    header: Header = _apart(f"{__name__}:probe_here").call(data, decode or DecodeConfig())
    return header


def decode_here(data: bytes, decode: DecodeConfig) -> Decoded:
    return decode_full(data, decode.max_pixels, decode.max_memory_bytes)


def check_here(data: bytes, decode: DecodeConfig) -> None:
    decode_here(data, decode)


def probe_here(data: bytes, decode: DecodeConfig) -> Header:
    return probe(data, decode.max_pixels)


def decode_in_worker(data: bytes, decode: DecodeConfig, attempt: int) -> Decoded:
    """As `decode_full`. `attempt`: of the unit; the first one may end this process."""
    if attempt >= APART:
        return decode_apart(data, decode)
    with hard_limit(decode.timeout_s):
        return decode_here(data, decode)


def probe_in_worker(data: bytes, decode: DecodeConfig, attempt: int) -> Header:
    """As `probe`, likewise."""
    if attempt >= APART:
        return probe_apart(data, decode)
    with hard_limit(decode.timeout_s):
        return probe_here(data, decode)
