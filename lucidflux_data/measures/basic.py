"""From encoded bytes to a row of scores/basic, in this process under a hard limit of time, or isolated in a child.

A decoder that hangs or crashes cannot be stopped from inside. On the first attempt at a unit a watchdog in C ends the
whole process at the limit; on a further attempt each image goes through a child process, whose end costs one image.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import NotRequired, TypedDict

import numpy as np

from lucidflux_data.codecs.memory import within_memory
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import ImageError, decode_full, luma
from lucidflux_data.isolation import Apart
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


def measure(
    data: bytes, decode: DecodeConfig, settings: MeasureConfig, look: Callable[[np.ndarray], object] | None = None
) -> BasicRow:
    """The columns of scores/basic that the bytes decide. A failure is in them as reason and detail. `look` is given the
    pixels, uint8 HxWx3 RGB."""
    try:
        image = decode_full(data, decode.max_pixels, decode.max_memory_bytes)
        with within_memory():
            measures = measure_luma(luma(image.pixels), settings.patch_px, settings.flat_gradient_variance)
            if look is not None:
                look(image.pixels)
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


class Isolated:
    """Measures in a child process, which is replaced when it hangs or dies. `function`: module:name of one that takes
    and gives what `measure` does."""

    def __init__(self, decode: DecodeConfig, settings: MeasureConfig, function: str = f"{__name__}:measure") -> None:
        self.decode, self.settings = decode, settings
        self._apart = Apart(function)

    def measure(self, data: bytes) -> BasicRow:
        """As `measure`; failures decode_timeout, and unreadable where the decoder took the child with it."""
        try:
            record: BasicRow = self._apart.call(data, self.decode, self.settings)
            return record
        except ImageError as error:
            return _failed(data, error.reason, error.detail)

    def close(self) -> None:
        self._apart.close()
