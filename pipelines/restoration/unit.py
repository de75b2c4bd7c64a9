"""One batch of images through any model: decoded, restored by images of one size, encoded, each with its record."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from PIL import Image

from lucidflux_data.codecs.encoding import encode as encode_pixels
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.sources.reading import read_bytes
from pipelines.execution.counting import count_done, counted
from pipelines.execution.human import human_seconds
from pipelines.execution.worker import File, Unit
from pipelines.restoration.config import NetworkConfig, RestoreConfig
from pipelines.restoration.records import encode_failure, record
from pipelines.restoration.rows import RestoreRow

AnyConfig = RestoreConfig | NetworkConfig


class Restorer(Protocol):
    """A model that is ready, on its device."""

    device: Any  # torch.device
    smaller: str  # what to change where the result is over max_output_pixels
    cheaper: str  # and where it does not fit into memory

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the result of an input of this size."""
        ...

    def restore(self, images: list[np.ndarray]) -> np.ndarray:
        """uint8 height x width x 3 RGB of one size -> float32 n x height x width x 3 in [0, 1]."""
        ...

    def foretell(self, image: np.ndarray) -> float | None:
        """Seconds that this image will take, by a piece of it that is restored first, scaled up. None for one that
        is no larger than such a piece."""
        ...


def load_restorer(config: AnyConfig, say: Callable[[str], None] | None = None) -> Restorer:
    """`say` is called with what takes long. Raises ConfigError or InputError where the model cannot be had."""
    if isinstance(config, NetworkConfig):
        from pipelines.restoration.network import NetworkRestorer

        return NetworkRestorer(config)
    from pipelines.restoration.lucidflux import LucidFluxRestorer

    return LucidFluxRestorer(config, say)


class RestoreUnit:
    """Restores the images of a batch and yields file and record of each; the model is loaded once a process.

    `say` is called, in this process alone, with the time that an image takes: before the first one and during it.
    """

    def __init__(self, config: AnyConfig, say: Callable[[str], None] | None = None) -> None:
        self.config = config
        self.say = say
        self._restorer: Restorer | None = None
        self._told = say is None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_restorer": None, "say": None, "_told": True}

    def __call__(self, unit: Unit[list[RestoreRow]]) -> Iterator[File]:
        if self._restorer is None:
            self._restorer = load_restorer(self.config, self.say)
        pixels: dict[int, np.ndarray] = {}
        hashes: dict[str, str] = {}
        for index, row in enumerate(unit.payload):
            try:
                data = read_bytes(row["uri"], row["offset"], row["size"], self.config.decode.max_file_bytes)
                hashes[row["id"]] = hashlib.sha256(data).hexdigest()
                pixels[index] = self._decode(self._restorer, data)
            except ImageError as error:
                yield encode_failure(row, error)
                count_done()
        while pixels:
            shape = next(iter(pixels.values())).shape
            same = [index for index, image in pixels.items() if image.shape == shape]
            images = [pixels.pop(index) for index in same]
            yield from self._restore(self._restorer, [unit.payload[index] for index in same], images, hashes)

    def _decode(self, restorer: Restorer, data: bytes) -> np.ndarray:
        limits = self.config.decode
        limits = limits.model_copy(update={"max_pixels": min(limits.max_pixels, self.config.max_input_pixels)})
        pixels = pixels_apart(data, limits)
        height, width = restorer.output_size(*pixels.shape[:2])
        if height * width > self.config.max_output_pixels:
            detail = f"the result, {width}x{height}, is over max_output_pixels: {restorer.smaller}"
            raise ImageError("too_many_pixels", detail)
        return pixels

    def _restore(
        self, restorer: Restorer, rows: list[RestoreRow], images: list[np.ndarray], hashes: Mapping[str, str]
    ) -> Iterator[File]:
        """One call of the model. What goes wrong with it is a failure of these images, not of the run. `hashes`:
        sha256 of each input, by the id of its row."""
        import torch

        device = restorer.device
        height, width = restorer.output_size(*images[0].shape[:2])
        try:
            self._foretell(restorer, images[0])
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            start = time.perf_counter()
            restored = restorer.restore(images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            if len(rows) > 1:  # each may fit alone
                for row, image in zip(rows, images, strict=True):
                    yield from self._restore(restorer, [row], [image], hashes)
                return
            detail = f"{width}x{height} does not fit: {restorer.cheaper}"
            yield encode_failure(rows[0], ImageError("out_of_memory", detail))
            count_done()
            return
        about = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "seconds": round((time.perf_counter() - start) / len(rows), 3),
            "peak_memory_bytes": peak_memory(device),
        }
        for row, image, result in counted(zip(rows, images, restored, strict=True)):
            if not np.isfinite(result).all():
                yield encode_failure(row, ImageError("not_finite", "the model gave numbers that are not finite"))
                continue
            data = encode(result, self.config.format, self.config.jpeg_quality)
            size = {"input": [image.shape[1], image.shape[0]], "output": [width, height]}
            of = {"input_sha256": hashes[row["id"]], "sha256": hashlib.sha256(data).hexdigest()}
            yield row["name"], data
            yield record(row, {"status": "ok", **of, **size, **about})

    def _foretell(self, restorer: Restorer, image: np.ndarray) -> None:
        """Says, once, how long the first image will take, before it is begun."""
        if self.say is None or self._told:
            return
        self._told = True
        seconds = restorer.foretell(image)
        if seconds is not None:
            height, width = restorer.output_size(*image.shape[:2])
            self.say(f"{width}x{height}: about {human_seconds(seconds)} an image, by a small piece of it")


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has a type for it; on a CPU it is a plain RuntimeError with the allocator's sentence."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def peak_memory(device: Any) -> int:
    """Bytes: of the allocator on a GPU since the call began, of this process since it began elsewhere."""
    import resource

    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def encode(image: np.ndarray, kind: str, jpeg_quality: int) -> bytes:
    """float32 HxWx3 RGB in [0, 1] as PNG of 8 or 16 bits, or as a JPEG without chroma subsampling."""
    if kind == "jpeg":
        buffer = io.BytesIO()
        eight = Image.fromarray((image * 255).round().astype(np.uint8))
        eight.save(buffer, "JPEG", quality=jpeg_quality, subsampling=0)
        return buffer.getvalue()
    top, dtype = (65535, np.uint16) if kind == "png16" else (255, np.uint8)
    levels = (image.astype(np.float64) * top).round().astype(dtype)
    return encode_pixels(levels)
