"""From encoded bytes to a row of scores/basic, in this process under a hard limit of time, or isolated in a child.

A decoder that hangs or crashes cannot be stopped from inside. On the first attempt at a unit a watchdog in C ends the
whole process at the limit; on a further attempt each image goes through a child process, whose end costs one image.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import hashlib
import os
import pickle
import select
import subprocess
import sys
from collections.abc import Iterator
from typing import IO, NotRequired, TypedDict

import numpy as np

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import ImageError, decode_full, luma
from lucidflux_data.measures.blur_and_flat import measure_luma
from lucidflux_data.measures.config import MeasureConfig


class BasicRow(TypedDict):
    """What the bytes decide of a row of scores/basic; selection/records.py has the schema.

    `key`: the first 20 digits of `sha256`; `bytes`: encoded; `status`: ok, or failed for a `reason` with a `detail`;
    of what is ok, `format`, `width` and `height` in pixels, upright, `mode`, `flags` joined by a comma, the variance of
    the Laplacian and the share of flat patches (0..1).
    """

    key: str
    sha256: str
    bytes: int
    status: str
    reason: NotRequired[str]
    detail: NotRequired[str]
    format: NotRequired[str]
    width: NotRequired[int]
    height: NotRequired[int]
    mode: NotRequired[str]
    flags: NotRequired[str]
    laplacian_variance: NotRequired[float]
    flat_fraction: NotRequired[float]


def measure(data: bytes, decode: DecodeConfig, settings: MeasureConfig) -> BasicRow:
    """The columns of scores/basic that the bytes decide. A failure is in them as reason and detail."""
    try:
        image = decode_full(data, decode.max_pixels)
        measures = measure_luma(luma(image.pixels), settings.patch_px, settings.flat_gradient_variance)
    except ImageError as error:
        return _failed(data, error.reason, error.detail)
    sha256 = hashlib.sha256(data).hexdigest()
    return {
        "key": sha256[:20],
        "sha256": sha256,
        "bytes": len(data),
        "status": "ok",
        "format": image.header.format,
        "width": image.pixels.shape[1],
        "height": image.pixels.shape[0],
        "mode": image.header.mode,
        "flags": ",".join(image.flags),
        "laplacian_variance": measures.laplacian_variance,
        "flat_fraction": measures.flat_fraction,
    }


def _failed(data: bytes, reason: str, detail: str) -> BasicRow:
    sha256 = hashlib.sha256(data).hexdigest()
    about: BasicRow = {"key": sha256[:20], "sha256": sha256, "bytes": len(data), "status": "failed"}
    return {**about, "reason": reason, "detail": detail}


@functools.cache
def warm_up() -> None:
    """Loads what the first image would wait for (compiled functions, codecs), once a process."""
    measure_luma(np.zeros((480, 480), np.uint8))


@contextlib.contextmanager
def hard_limit(seconds: float) -> Iterator[None]:
    """Ends this process when the block takes longer, whatever it hangs in: the watchdog needs no Python to run."""
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


class Isolated:
    """Measures in a child process, which is replaced when it hangs or dies."""

    def __init__(self, decode: DecodeConfig, settings: MeasureConfig) -> None:
        self.decode, self.settings = decode, settings
        self._child: subprocess.Popen[bytes] | None = None

    def measure(self, data: bytes) -> BasicRow:
        """As `measure`; failures decode_timeout, and unreadable where the decoder took the child with it."""
        child = self._started()
        assert child.stdin is not None, "opened as a pipe"
        assert child.stdout is not None, "opened as a pipe"
        try:
            pickle.dump((data, self.decode, self.settings), child.stdin)
            child.stdin.flush()
            ready, _, _ = select.select([child.stdout], [], [], self.decode.timeout_s)
            if ready:
                record: BasicRow = pickle.load(child.stdout)
                return record
            reason = ("decode_timeout", f"decoding took longer than {self.decode.timeout_s:g} s")
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            reason = ("unreadable", "the decoder crashed or ran out of memory on it")
        self.close()
        return _failed(data, *reason)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            code = f"import sys; sys.path[:] = {sys.path!r}; from lucidflux_data.measures.basic import serve; serve()"
            self._child = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            pickle.load(_pipe(self._child.stdout))  # ready: loading the libraries is not the image's time
        return self._child

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "opened as a pipe"
    return stream


def serve() -> None:
    """The child: (bytes, settings) in, a record out, until its parent closes the pipe."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the records
    warm_up()
    pickle.dump("ready", out)
    out.flush()
    while True:
        try:
            data, decode, settings = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(measure(data, decode, settings), out)
        out.flush()
