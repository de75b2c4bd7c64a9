"""`lucidflux restore`: folders, globs and tars of images through the pipeline, here or on the GPUs of a cluster.

    sources -> plan (one name for each image) -> batches -> worker: decode, restore, encode -> OUT/<name>.png
                                                                                            -> OUT/records/<id>.json
    OUT/run.json: settings and weights of this folder, checked when a command is repeated; OUT/manifest.json, last

An image is done when its record is there: repeating the command does the rest, and tries failed ones again. Every image
has the same seed, so that its result depends neither on the others nor on their order.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
from pydantic import Field

from lucidflux_data.codecs.encoding import encode as encode_pixels
from lucidflux_data.config import Section, deciding_values, digest, since
from lucidflux_data.decode_config import DEFAULT_MAX_PIXELS, DecodeConfig
from lucidflux_data.errors import ConfigError
from lucidflux_data.images import EXTENSION_OF, ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.sources.listing import list_sources, sample
from lucidflux_data.sources.reading import read_bytes
from lucidflux_data.storage.claim import claim
from lucidflux_data.storage.folder import Folder, absolute_url
from lucidflux_data.storage.formats import canonical_json
from lucidflux_data.storage.names import safe_name
from lucidflux_data.storage.run_folder import RUN_FILE, read_claim
from lucidflux_model.inference.config import ModelConfig, weights_digest
from pipelines.execution.progress import warn
from pipelines.execution.worker import File, Publish, Unit

MANIFEST = "manifest.json"
RECORDS = "records"
EXTENSION = {"png": "png", "png16": "png", "jpeg": "jpg"}


class RestoreRow(TypedDict):
    """An image to restore: its row of the inventory, and the names that its result and its record get."""

    uri: str
    source_key: str  # its name in the source
    source: int  # position among the inputs
    size: int  # encoded bytes; -1 where the listing does not tell
    offset: int  # of the bytes inside a tar; -1 outside tars
    side: str | None  # the json beside a tar member
    path: str  # source_key as a path that stays in its folder
    changed: bool  # whether that is another than source_key
    stem: str  # `path` without the extension of an image
    id: str  # 20 hex digits of the sha256 of `uri`: the name of the record
    name: str  # of the result, relative to OUT


class RestoreRecord(TypedDict):
    """records/<id>.json."""

    source_key: str
    name: str
    status: Literal["ok", "failed"]
    reason: NotRequired[str]  # of a failure, as of ImageError
    detail: NotRequired[str]
    input_sha256: NotRequired[str]  # of the bytes of the image; since 0.3
    sha256: NotRequired[str]  # of the result, as what follows
    input: NotRequired[list[int]]  # width, height in pixels
    output: NotRequired[list[int]]
    device: NotRequired[str]
    seconds: NotRequired[float]  # an image, of its batch
    peak_memory_bytes: NotRequired[int]


class RestoreSummary(TypedDict):
    images: int  # all that were asked for
    restored: int
    failed: dict[str, int]  # by reason
    seconds_an_image: float | None  # the median of those restored; None for none
    peak_memory_bytes: int  # the largest of those restored; 0 for none


class RestoreConfig(Section):
    """Everything that decides what a restored image is."""

    model: ModelConfig = ModelConfig()
    steps: int = Field(28, ge=1)
    guidance: float = Field(4.0, ge=0)
    upscale: float = Field(4.0, gt=0)
    height: int | None = Field(None, ge=16)  # instead of upscale, for all images
    width: int | None = Field(None, ge=16)
    seed: int = 123456789  # of the published inference
    proxy_strength: float = 1.0
    schedule: Literal["published", "flux"] = "published"
    numerics: Literal["fast", "parity"] = "fast"
    color_fix: Literal["proxy", "lq", "none"] = "proxy"
    tile: int = Field(1024, ge=0)
    overlap: int = Field(128, ge=0)
    batch: int = Field(1, ge=1)
    format: Literal["png", "png16", "jpeg"] = "png"
    jpeg_quality: int = Field(95, ge=1, le=100)
    max_input_pixels: int = Field(DEFAULT_MAX_PIXELS, ge=1)
    max_output_pixels: int = Field(4096 * 4096, ge=256)
    decode: DecodeConfig = Field(DecodeConfig(), json_schema_extra=since("0.3.0"))  # max_input_pixels limits too


class RestoreUnit:
    """Restores the images of a batch and yields file and record of each; the model is loaded once a process."""

    def __init__(self, config: RestoreConfig) -> None:
        self.config = config
        self._pipeline: Any = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pipeline": None}

    def __call__(self, unit: Unit[list[RestoreRow]]) -> Iterator[File]:
        from lucidflux_model.inference.loading import load_pipeline, quiet_libraries

        if self._pipeline is None:
            quiet_libraries()
            self._pipeline = load_pipeline(self.config.model, self.config.numerics)
        pixels: dict[int, np.ndarray] = {}
        hashes: dict[str, str] = {}
        for index, row in enumerate(unit.payload):
            try:
                data = read_bytes(row["uri"], row["offset"], row["size"], self.config.decode.max_file_bytes)
                hashes[row["id"]] = hashlib.sha256(data).hexdigest()
                pixels[index] = self._decode(data)
            except ImageError as error:
                yield encode_failure(row, error)
        while pixels:
            shape = next(iter(pixels.values())).shape
            same = [index for index, image in pixels.items() if image.shape == shape]
            images = [pixels.pop(index) for index in same]
            yield from self._restore([unit.payload[index] for index in same], images, hashes)

    def _decode(self, data: bytes) -> np.ndarray:
        limits = self.config.decode
        limits = limits.model_copy(update={"max_pixels": min(limits.max_pixels, self.config.max_input_pixels)})
        pixels = pixels_apart(data, limits)
        height, width = self._output_size(pixels)
        if height * width > self.config.max_output_pixels:
            raise ImageError(
                "too_many_pixels",
                f"the result, {width}x{height}, is over max_output_pixels: lower --upscale, or raise it",
            )
        return pixels

    def _output_size(self, pixels: np.ndarray) -> tuple[int, int]:
        config = self.config
        height, width = (round(side * config.upscale) for side in pixels.shape[:2])
        return config.height or max(1, height), config.width or max(1, width)

    def _restore(self, rows: list[RestoreRow], images: list[np.ndarray], hashes: Mapping[str, str]) -> Iterator[File]:
        """One call of the pipeline. What goes wrong with it is a failure of these images, not of the run. `hashes`:
        sha256 of each input, by the id of its row."""
        import torch

        config, pipeline = self.config, self._pipeline
        start, device = time.perf_counter(), pipeline._execution_device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        height, width = self._output_size(images[0])
        place = device if config.numerics == "parity" else "cpu"  # where the published code draws its noise
        try:
            restored = pipeline(
                images,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
                height=height,
                width=width,
                generator=[torch.Generator(place).manual_seed(config.seed) for _ in images],
                proxy_strength=config.proxy_strength,
                schedule=config.schedule,
                numerics=config.numerics,
                color_fix=config.color_fix,
                tile=config.tile,
                overlap=config.overlap,
                output_type="np",
            ).images
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            if len(rows) > 1:  # each may fit alone
                for row, image in zip(rows, images, strict=True):
                    yield from self._restore([row], [image], hashes)
                return
            detail = f"{width}x{height} does not fit: a smaller --tile, --quantize, or --offload group"
            yield encode_failure(rows[0], ImageError("out_of_memory", detail))
            return
        about = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "seconds": round((time.perf_counter() - start) / len(rows), 3),
            "peak_memory_bytes": peak_memory(device),
        }
        for row, image, result in zip(rows, images, restored, strict=True):
            if not np.isfinite(result).all():
                yield encode_failure(row, ImageError("not_finite", "the model gave numbers that are not finite"))
                continue
            data = encode(result, config.format, config.jpeg_quality)
            size = {"input": [image.shape[1], image.shape[0]], "output": [width, height]}
            of = {"input_sha256": hashes[row["id"]], "sha256": hashlib.sha256(data).hexdigest()}
            yield row["name"], data
            yield record(row, {"status": "ok", **of, **size, **about})


def is_out_of_memory(error: BaseException) -> bool:
    """On a GPU torch has a type for it; on a CPU it is a plain RuntimeError with the allocator's sentence."""
    import torch

    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def record(row: RestoreRow, content: Mapping[str, object]) -> File:
    return f"{RECORDS}/{row['id']}.json", canonical_json(
        {"source_key": row["source_key"], "name": row["name"], **content}
    )


def encode_failure(row: RestoreRow, error: ImageError) -> File:
    return record(row, {"status": "failed", "reason": error.reason, "detail": error.detail})


def peak_memory(device: Any) -> int:
    """Bytes: of the allocator on a GPU since the call began, of this process since it began elsewhere."""
    import resource

    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def encode(image: np.ndarray, kind: str, jpeg_quality: int) -> bytes:
    """float32 HxWx3 RGB in [0, 1] as PNG of 8 or 16 bits, or as a JPEG without chroma subsampling."""
    import io

    from PIL import Image

    if kind == "jpeg":
        buffer = io.BytesIO()
        eight = Image.fromarray((image * 255).round().astype(np.uint8))
        eight.save(buffer, "JPEG", quality=jpeg_quality, subsampling=0)
        return buffer.getvalue()
    top, dtype = (65535, np.uint16) if kind == "png16" else (255, np.uint8)
    levels = (image.astype(np.float64) * top).round().astype(dtype)
    return encode_pixels(levels)


def make_work_list(table: pa.Table, kind: str, limit: int | None = None) -> list[RestoreRow]:
    """A row for each image, with the name that its result gets: its own with another extension. With `limit`, a
    seeded sample of that many; an image has the same name and the same result in any sample.

    Names that lead out of a folder, or into ours, are changed (`safe_name`). Where two would share a name, both keep
    their extension before the new one (`a.jpg.png`); a changed name, or one that is a folder of others, gets the id of
    its image. ConfigError where that is not enough: the same relative name in two sources.
    """
    rows: list[RestoreRow] = table.to_pylist()
    for row in rows:
        given = _MARK.sub("/", row["source_key"])
        path = PurePosixPath(safe_name(given, (RECORDS,)))
        row["path"], row["changed"] = str(path), str(path) != given
        row["stem"] = str(path.with_suffix("")) if path.suffix[1:].lower() in _EXTENSIONS else str(path)
        row["id"] = hashlib.sha256(row["uri"].encode()).hexdigest()[:20]
    _name_results(rows, EXTENSION[kind])
    chosen = set((table if limit is None else sample(table, limit, seed=0))["uri"].to_pylist())
    return [row for row in rows if row["uri"] in chosen]


_MARK = re.compile(r"(?<=\.tar)#|(?<=\.parquet)#|(?<=\.csv)#|(?<=\.jsonl)#", re.IGNORECASE)  # file and what is in it


def _name_results(rows: list[RestoreRow], extension: str) -> None:
    """Gives each row its `name`. Two rows never have one, and none is the folder of another."""
    # case too: some disks take A and a for one
    shared = Counter(row["stem"].lower() for row in rows if not row["changed"])
    folders: set[str] = set()
    for row in rows:
        row["name"] = (
            f"{row['path'] if shared[row['stem'].lower()] > 1 and not row['changed'] else row['stem']}.{extension}"
        )
        folders.update(str(parent).lower() for parent in PurePosixPath(row["name"]).parents)
    taken: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: bool(row["changed"])):
        if row["name"].lower() in folders or (row["changed"] and row["name"].lower() in taken):
            row["name"] = f"{row['name'].removesuffix(f'.{extension}')}.{row['id']}.{extension}"
        before = taken.setdefault(row["name"].lower(), row["uri"])
        if before != row["uri"]:
            raise ConfigError(f"{before} and {row['uri']} would both become {row['name']}: restore them in two runs")


def list_images(sources: list[str]) -> pa.Table:
    """The candidates of the sources; what could not be read as a whole is warned of."""
    listing = list_sources(sources)
    for warning in listing.all_warnings():
        warn(warning)
    return listing.table


_EXTENSIONS = {*EXTENSION_OF.values(), *EXTENSION_OF, "jpe", "jfif", "dib"}


def start(folder: Folder, sources: list[str], config: RestoreConfig, limit: int | None = None) -> list[RestoreRow]:
    """Checks that OUT is new or was made by the same settings and weights. Gives the plan."""
    for source in sources:
        if f"{folder.url}/".startswith(f"{absolute_url(source)}/"):
            raise ConfigError(f"{folder} lies inside {source}, whose images would then be restored again: move --out")
    rows = make_work_list(list_images(sources), config.format, limit)
    settings: dict[str, Any] = {**deciding_values(config), "weights_sha256": weights_digest(config.model)}
    settings["model"] = {name: value for name, value in settings["model"].items() if name not in _PATHS}
    run = {"schema_version": 1, "kind": "restored images", "settings": settings, "digest": digest(settings)}

    def resume(before: dict[str, Any]) -> bool:
        if before.get("digest") == run["digest"]:
            return False
        if not folder.names(RECORDS):
            return True  # nothing was restored with the other ones
        changed = [name for name, value in settings.items() if before.get("settings", {}).get(name) != value]
        raise ConfigError(f"{folder} was restored with another {', '.join(changed) or 'version'}: choose another --out")

    claim(folder, run, "is not empty and holds no restored images", resume)
    return rows


_PATHS = ("weights", "trained")  # where the weights lie says nothing about them; their hash does


def read_records(folder: Folder) -> dict[str, RestoreRecord]:
    """The records by the id of their image. What else an earlier version put there is no record."""
    names = [name for name in folder.names(RECORDS) if _RECORD.fullmatch(name)]
    return {name.removesuffix(".json"): json.loads(folder.read(f"{RECORDS}/{name}")) for name in names}


_RECORD = re.compile(r"[0-9a-f]{20}\.json")


def list_remaining(folder: Folder, rows: list[RestoreRow], batch: int) -> list[Unit[list[RestoreRow]]]:
    """Batches, in order, of the images that have no result yet, or one that is gone or other bytes now, or whose input
    is another now. Inputs and results are read for it: that is little beside restoring them."""
    records = read_records(folder)
    left = [row for row in rows if not _is_restored(folder, row, records.get(row["id"]))]
    return [
        Unit(f"batch-{index:06d}", len(left[index : index + batch]), left[index : index + batch])
        for index in range(0, len(left), batch)
    ]


def _is_restored(folder: Folder, row: RestoreRow, found: RestoreRecord | None) -> bool:
    if found is None or found["status"] != "ok":
        return False
    try:
        if hashlib.sha256(folder.read(found["name"])).hexdigest() != found["sha256"]:
            return False
        wanted = found.get("input_sha256")  # a version before 0.3 did not record it
        data = b"" if wanted is None else read_bytes(row["uri"], row["offset"], row["size"])
        return wanted is None or hashlib.sha256(data).hexdigest() == wanted
    except (FileNotFoundError, ImageError):
        return False


def run_here(
    folder: Folder, units: list[Unit[list[RestoreRow]]], work: RestoreUnit
) -> Iterator[Unit[list[RestoreRow]]]:
    """In this process, with all its cores: what one model on one device needs."""
    publish = Publish(work, folder)
    for unit in units:
        publish(unit)
        yield unit


def finish(folder: Folder, rows: list[RestoreRow]) -> RestoreSummary:
    """Publishes the manifest; gives the counts."""
    records = read_records(folder)
    images = [records[row["id"]] for row in rows if row["id"] in records]
    counts = Counter(image["status"] for image in images)
    reasons = Counter(image["reason"] for image in images if image["status"] == "failed")
    seconds = sorted(image["seconds"] for image in images if image["status"] == "ok")
    summary: RestoreSummary = {
        "images": len(rows),
        "restored": counts["ok"],
        "failed": dict(reasons),
        "seconds_an_image": seconds[len(seconds) // 2] if seconds else None,
        "peak_memory_bytes": max(
            (image["peak_memory_bytes"] for image in images if image["status"] == "ok"), default=0
        ),
    }
    run = read_claim(folder, RUN_FILE)
    versions = {package: version(package) for package in ("torch", "diffusers", "transformers")}
    folder.publish(MANIFEST, canonical_json({**run, "versions": versions, **summary, "records": images}))
    return summary
