"""How outputs are made here: through a function of pixels, or by the batches of `lucidflux restore`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from benchmarks.methods import run as infer
from benchmarks.methods.method_file import RunRecord
from benchmarks.methods.prompts import Prompts
from benchmarks.methods.staging import stage
from lucidflux_data.codecs.encoding import encode
from lucidflux_data.errors import needs_extra
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.sources.reading import read_file
from lucidflux_data.storage.folder import Folder
from pipelines.execution.progress import Progress
from pipelines.restoration.records import RestoreRecord
from pipelines.restoration.unit import AnyConfig

Upscale = Callable[[np.ndarray, int, int], np.ndarray]  # pixels, height, width


@dataclass(frozen=True)
class Place:
    """Where and how a method runs: `repo` and `python` for adapters, the model's options for what runs here."""

    repo: Path | None = None
    python: str = "python"
    timeout_s: float | None = None
    model: str | None = None
    weights: str | None = None
    trained: str | None = None
    extra_archs: bool = False
    device: str = "auto"
    wait_s: float = 0.0  # as of lease.hold
    prompts: Prompts | None = None  # of an adapter that takes them


# inputs by id, the method's folder, the folder of a seed, the seed, progress -> the run, None where nothing was left
Make = Callable[[dict[str, Path], Path, Path, int, Progress], RunRecord | None]


def resize_all(
    upscale: Upscale, scale: int, inputs: dict[str, Path], _folder: Path, target: Path, _seed: int, progress: Progress
) -> RunRecord | None:
    """Every image that is not there, through a function of pixels, as PNG."""
    left = {id_: path for id_, path in inputs.items() if id_ not in infer.done_ids(target)}
    target.mkdir(parents=True, exist_ok=True)
    start, missing = time.monotonic(), {}
    with progress.phase("infer", len(left), len(inputs) - len(left)) as advance:
        for id_, path in left.items():
            try:
                pixels = pixels_apart(read_file(path))
                result = upscale(pixels, pixels.shape[0] * scale, pixels.shape[1] * scale)
                Folder(target).publish(f"{id_}.png", encode(result))
            except ImageError as error:
                missing[id_] = str(error)
            advance(1)
    Folder(target).sweep()
    return record_run(len(left), missing, time.monotonic() - start, None) if left else None


def restore_all(
    configure: Callable[[int], AnyConfig],
    device: str,
    inputs: dict[str, Path],
    folder: Path,
    target: Path,
    seed: int,
    progress: Progress,
) -> RunRecord | None:
    """Every image that is not there, through the batches of `lucidflux restore` with the settings of the seed; what an
    interrupted run has made is kept."""
    with needs_extra("model"):
        from pipelines.restoration import job as restore
        from pipelines.restoration.records import list_remaining, read_records
        from pipelines.restoration.unit import RestoreUnit

    left = {id_: path for id_, path in inputs.items() if id_ not in infer.done_ids(target)}
    if not left:
        return None
    start = time.monotonic()
    work = folder / f".restore-{seed}"
    shutil.rmtree(work / "inputs", ignore_errors=True)
    stage(left, work / "inputs", "link")
    config, made = configure(seed), Folder(work / "outputs")
    rows = restore.start(made, [str(work / "inputs")], config)
    units = list_remaining(made, rows, config.batch)
    with progress.phase("infer", sum(unit.size for unit in units), len(rows) - len(units)) as advance:
        for unit in restore.run_here(made, units, RestoreUnit(config)):
            advance(unit.size)
    summary = restore.finish(made, rows)
    target.mkdir(parents=True, exist_ok=True)
    records = read_records(made)
    failed = {PurePosixPath(row["source_key"]).stem: _reason(records.get(row["id"])) for row in rows}
    for row in rows:
        if Path(made.path(row["name"])).exists():
            shutil.move(made.path(row["name"]), target / f"{PurePosixPath(row['source_key']).stem}.png")
    shutil.rmtree(work)
    missing = {id_: failed.get(id_, "not made") for id_ in left.keys() - infer.done_ids(target)}
    peak = summary["peak_memory_bytes"] // 2**20 if is_on_gpu(device) else None
    return record_run(len(left), missing, time.monotonic() - start, peak)


def _reason(record: RestoreRecord | None) -> str:
    if record is None or record["status"] == "ok":
        return "not made"
    return f"{record['reason']}: {record['detail']}"


def is_on_gpu(device: str) -> bool:
    from lucidflux_model.network.device import pick_device

    return str(pick_device(device).type) == "cuda"


def record_run(asked: int, missing: Mapping[str, str], seconds: float, peak_gpu_mb: int | None) -> RunRecord:
    """`missing`: id -> why its image was not made."""
    return {
        "exit_code": 0,
        "timed_out": False,
        "wall_seconds": round(seconds, 3),
        "peak_gpu_mb": peak_gpu_mb,
        "images": asked - len(missing),
        "missing": sorted(missing),
        "wrong_size": [],
        "remarks": dict(missing),
    }
