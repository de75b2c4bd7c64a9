"""`verify` beside sha256 over the same files as a set grows, and `verify --deep` beside a bare loop that decodes."""

from __future__ import annotations

import hashlib
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer

from benchmarks.throughput.timing import Facts, OutFile, paired_ratio, seconds, tell
from lucidflux_data.images import decode
from lucidflux_data.selection.config import make_config
from lucidflux_data.storage.folder import Folder, absolute_url
from pipelines.execution.local import LocalExecutor
from pipelines.execution.progress import Progress
from pipelines.filter import job
from pipelines.filter.repair import verify_run

app = typer.Typer()
QUIET = Progress(quiet=True)
STEPS = ("score", "select", "pack")
RULES = ["iqa.metric=none", "rules.min_side=1", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=1e12",
         "rules.max_flat_fraction=1"]  # fmt: skip


@app.command("verify")
def verify_command(
    samples: Annotated[list[int] | None, typer.Option(min=1, help="Of sets of one shard.")] = None,
    side: Annotated[int, typer.Option(min=16, help="Of their photos, in pixels; 1024 is 0.9 MB of noise.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    deep: bool = True,
    out: OutFile = None,
) -> None:
    """Sets of one shard: shallow in this process beside sha256, then deep by one worker, by all, and by a bare loop."""
    sizes = sorted(samples or [200, 400, 800])
    result: Facts = {"side": side, "samples": sizes}
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        with closing(LocalExecutor(workers)) as executor:
            for size in sizes:
                _write_photos(photos, size, side)
                run = Path(place) / f"run-{size}"
                _make_run(photos, run, executor)
                result[f"shallow_{size}"] = _measure_shallow(run, rounds)
            if deep:
                result["deep"] = _measure_deep(photos, run, rounds, workers)
    tell(result, out)


def _measure_shallow(run: Path, rounds: int) -> Facts:
    """Seconds of `verify` without workers of its own, beside sha256 of every file of the run; and their ratio."""
    times: dict[str, list[float]] = {"verify": [], "sha256": []}
    for _ in range(rounds):
        times["sha256"].append(seconds(lambda: [_hash(path) for path in run.rglob("*") if path.is_file()]))
        times["verify"].append(seconds(lambda: verify_run(Folder(run), False, False, _InTurn(), QUIET)))
    megabytes = sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) / 1e6
    ratio = paired_ratio(times["verify"], times["sha256"])
    return {"mb": round(megabytes), **_least(times), "verify / sha256": ratio}


def _measure_deep(photos: Path, run: Path, rounds: int, workers: int) -> Facts:
    """Seconds of `verify --deep` by one worker and by all, and of a loop that only decodes, by one and by all; worker
    processes have begun before the clock does."""
    times: dict[str, list[float]] = {}
    paths = sorted(photos.iterdir())
    with (
        closing(LocalExecutor(1)) as one,
        closing(LocalExecutor(workers)) as all_,
        _pool(1) as bare_one,
        _pool(workers) as bare_all,
    ):
        contenders = {
            "deep_1": lambda: verify_run(Folder(run), True, False, one, QUIET),
            "bare_1": lambda: bare_one.map(_decode, paths, 8),
            f"deep_{workers}": lambda: verify_run(Folder(run), True, False, all_, QUIET),
            f"bare_{workers}": lambda: bare_all.map(_decode, paths, 8),
        }
        for executor in (one, all_):
            verify_run(Folder(run), False, False, executor, QUIET)
        for _ in range(rounds):
            for name, call in contenders.items():
                times.setdefault(name, []).append(seconds(call))
    return {
        **_least(times),
        f"deep_1 / deep_{workers}": paired_ratio(times["deep_1"], times[f"deep_{workers}"]),
        "bare_1 / deep_1": paired_ratio(times["bare_1"], times["deep_1"]),
        f"bare_{workers} / deep_{workers}": paired_ratio(times[f"bare_{workers}"], times[f"deep_{workers}"]),
    }


class _InTurn:
    """An executor of this process: what a job costs, without any process being started."""

    description, num_gpus = "this process", 0

    def map(self, units: Iterable[Any], job: Any, *_: Any, **options: Any) -> Iterator[tuple[Any, Any]]:
        for unit in units:
            yield unit, job(unit)

    def close(self) -> None:
        """Nothing was started."""


def _write_photos(folder: Path, count: int, side: int) -> None:
    """Unique photos of noise; those that are there stay."""
    folder.mkdir(exist_ok=True)
    for number in range(len(list(folder.iterdir())), count):
        noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), noise)


def _make_run(photos: Path, run: Path, executor: LocalExecutor) -> None:
    """A packed run of every photo, in one shard."""
    settings = [*RULES, "shards.max_samples=1000000", "shards.max_bytes=1000000000000"]
    folder, config = Folder(run), make_config("lucidflux", settings=settings)
    job.list_into(folder, [absolute_url(str(photos))], config, "lucidflux", None, STEPS, QUIET)
    job.score(folder, config, executor, QUIET)
    job.select(folder, config, executor, QUIET)
    job.pack(folder, config, executor, QUIET)


def _pool(size: int) -> Any:
    return multiprocessing.get_context("spawn").Pool(size, _start)


def _start() -> None:
    from pipelines.execution.worker import prepare_process

    prepare_process()
    decode(cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes())


def _decode(path: Path) -> int:
    return decode(path.read_bytes()).size


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _least(times: dict[str, list[float]]) -> Facts:
    return {f"{name}_seconds": round(min(values), 3) for name, values in times.items()}


if __name__ == "__main__":
    app()
