"""Filter: the measures on one core, the whole job through Ray, NIQE against pyiqa's."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import psutil
import typer

from benchmarks.throughput.timing import (
    Facts,
    Images,
    OutFile,
    core_seconds,
    paired_ratio,
    pin,
    real_photos,
    seconds,
    tell,
)
from lucidflux_data.images import ImageError, decode, luma, probe
from lucidflux_data.iqa.niqe import niqe, parameters
from lucidflux_data.measures.blur_and_flat import measure_bytes, measure_luma
from lucidflux_data.selection.config import make_config
from lucidflux_data.storage.folder import Folder

app = typer.Typer()
PASSES = 3  # over all photos, of which the fastest counts


def plain_measures(pixels: np.ndarray) -> tuple[float, float]:
    """The measures as a script would take them: colour to grey, float64 Laplacian, float64 Sobel patch by patch."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    variance = cv2.Laplacian(grey, cv2.CV_64F).var()
    flat = patches = 0
    for top in range(0, grey.shape[0] - 239, 240):
        for left in range(0, grey.shape[1] - 239, 240):
            patch = grey[top : top + 240, left : left + 240]
            dx = cv2.Sobel(patch, cv2.CV_64F, 1, 0, ksize=3)
            dy = cv2.Sobel(patch, cv2.CV_64F, 0, 1, ksize=3)
            flat += np.sqrt(dx**2 + dy**2).var() < 800
            patches += 1
    return float(variance), flat / max(1, patches)


@app.command("filter")
def filter_command(images: Images, repeats: Annotated[int, typer.Option(min=1)] = 3, out: OutFile = None) -> None:
    """Decode alone, plain script, our measures, from luma and from JPEG bytes: one pinned core."""
    pin()
    times: dict[str, list[float]] = {}
    megapixels = []
    measure_luma(np.zeros((480, 480), np.uint8))  # compile before the clock starts
    for path in real_photos(images):
        data = path.read_bytes()
        try:
            header = probe(data)
            if header.format != "jpeg" or header.mode != "RGB":
                continue
            pixels = decode(data)
        except ImageError:
            continue
        grey = luma(pixels)
        contenders: dict[str, Callable[[], object]] = {
            "colour_decode": lambda: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR),  # noqa: B023
            "plain_measures": lambda: plain_measures(pixels),  # noqa: B023
            "measures_on_luma": lambda: measure_luma(grey),  # noqa: B023
            "measures_from_bytes": lambda: measure_bytes(data),  # noqa: B023
        }
        megapixels.append(grey.size / 1e6)
        for name, call in contenders.items():
            times.setdefault(name, []).append(min(core_seconds(call) for _ in range(repeats)) / megapixels[-1])
    if not megapixels:
        raise typer.BadParameter("no 8-bit JPEG among the images")
    passes = {name: _one_pass(name, images) for name in ("script", "worker", "worker_that_gives_memory_back")}
    result: Facts = {
        "images": len(megapixels),
        "megapixels_median": round(statistics.median(megapixels), 2),
        "ms_per_megapixel": {name: round(statistics.median(values) * 1e3, 3) for name, values in times.items()},
        "plain_measures / measures_on_luma": paired_ratio(times["plain_measures"], times["measures_on_luma"]),
        "measures_from_bytes / colour_decode": paired_ratio(times["measures_from_bytes"], times["colour_decode"]),
        "one_pass": passes,
        "worker's measures_from_bytes / script's colour_decode": round(
            passes["worker"]["ms_per_megapixel"] / passes["script"]["ms_per_megapixel"], 3
        ),
        "opencv": cv2.__version__,
    }
    tell(result, out)


def _one_pass(name: str, images: Path) -> dict[str, float]:
    """Of a pass over all JPEG photos, each once: processor time, page faults, and the largest resident size, with the
    encoded photos. As a `worker` measures them, with and without what it tells the allocator, or as a `script` decodes
    them; in a process of its own, after a pass that is not counted."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_pass_over, (name, images))


def _pass_over(name: str, images: Path) -> dict[str, float]:
    from pipelines.execution.worker import prepare_process

    cv2.setNumThreads(1)
    if name == "worker":
        prepare_process()
    if name != "script":
        measure_luma(np.zeros((480, 480), np.uint8))
    photos = [data for path in real_photos(images) if (data := path.read_bytes()).startswith(b"\xff\xd8")]
    pixels = sum(probe(data).width * probe(data).height for data in photos)

    def once() -> None:
        for data in photos:
            if name == "script":
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            else:
                measure_bytes(data)

    once()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    taken = min(core_seconds(once) for _ in range(PASSES))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms_per_megapixel": round(taken / (pixels / 1e6) * 1e3, 3),
        "page_faults_a_photo": round((used.ru_minflt - before) / PASSES / len(photos)),
        "peak_mb": used.ru_maxrss // 1024,
    }


@app.command("niqe")
def niqe_command(images: Images, limit: int = 24, out: OutFile = None) -> None:
    """NIQE beside pyiqa's with the same parameters, on the central 1024x1024 of each photo: one pinned core."""
    import pyiqa
    import torch
    from scipy.io import savemat

    pin()
    torch.set_num_threads(1)
    mean, covariance = parameters()[:2]
    with tempfile.NamedTemporaryFile(suffix=".mat") as file:  # pyiqa would download the same numbers
        savemat(file.name, {"mu_prisparam": mean[None], "cov_prisparam": covariance})
        theirs = pyiqa.create_metric("niqe", pretrained_model_path=file.name)
    times: dict[str, list[float]] = {"pyiqa": [], "ours": []}
    differences = []
    for path in real_photos(images):
        try:
            pixels = decode(path.read_bytes())
        except ImageError:
            continue
        top, left = (max(0, (side - 1024) // 2) for side in pixels.shape[:2])
        crop = np.ascontiguousarray(pixels[top : top + 1024, left : left + 1024])
        if min(crop.shape[:2]) < 512:
            continue
        tensor = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
        try:
            differences.append(abs(niqe(crop) - float(theirs(tensor).item())))
        except (ImageError, AssertionError):
            continue  # a flat crop has no finite NIQE in either
        times["ours"].append(min(core_seconds(lambda: niqe(crop)) for _ in range(3)))  # noqa: B023
        times["pyiqa"].append(min(core_seconds(lambda: theirs(tensor)) for _ in range(3)))  # noqa: B023
        if len(differences) == limit:
            break
    result: Facts = {
        "images": len(differences),
        "pyiqa / ours": paired_ratio(times["pyiqa"], times["ours"]),
        "ours_ms": round(statistics.median(times["ours"]) * 1e3, 1),
        "largest_difference": float(f"{max(differences):.2g}"),
    }
    tell(result, out)


@app.command("ray")
def ray_command(images: Images, candidates: int = 2000, rounds: int = 2, out: OutFile = None) -> None:
    """The filter (score and select) through Ray beside a bare loop in as many processes; and the workers' memory.

    The photos are linked under new names until there are `candidates`; both take turns, `rounds` times.
    """
    from pipelines.execution.executor import available_cpus

    cpus = available_cpus()
    times: dict[str, list[float]] = {"bare_loop": [], "ray": []}
    memory: list[list[int]] = []
    with tempfile.TemporaryDirectory() as place:
        photos = _linked(images, Path(place) / "photos", candidates)
        for number in range(rounds):
            times["bare_loop"].append(seconds(lambda: _bare_loop(photos, cpus)))
            run = Path(place) / f"run-{number}"
            with _Watch() as watch:
                times["ray"].append(_through_ray(photos, run, cpus))
            memory.append(watch.largest)
    result: Facts = {
        "candidates": candidates,
        "cpus": cpus,
        "bare_loop / ray": paired_ratio(times["bare_loop"], times["ray"]),
        "images_per_second": {name: round(candidates / min(values), 1) for name, values in times.items()},
        "worker_mb_over_time": memory[-1][:: max(1, len(memory[-1]) // 20)],
        "worker_mb_peak": max(max(samples) for samples in memory),
    }
    tell(result, out)


def _linked(images: Path, folder: Path, candidates: int) -> list[Path]:
    folder.mkdir(parents=True)
    photos = real_photos(images)
    for number in range(candidates):
        photo = photos[number % len(photos)]
        (folder / f"{number:06d}{photo.suffix}").symlink_to(photo)
    return sorted(folder.iterdir())


def _measure(path: Path) -> object:
    try:
        return measure_bytes(path.read_bytes())
    except ImageError as error:
        return error.reason


def _start_bare(names: list[str]) -> None:
    from pipelines.execution.worker import prepare_process, silence_native_stderr

    silence_native_stderr()
    prepare_process()
    measure_luma(np.zeros((480, 480), np.uint8))


def _bare_loop(photos: list[Path], cpus: int) -> None:
    """What a careful script does: a pool, a chunk of paths at a time; its start is not counted out either."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(cpus, _start_bare, ([],)) as pool:
        for _ in pool.imap_unordered(_measure, photos, chunksize=8):
            pass


def _through_ray(photos: list[Path], run: Path, cpus: int) -> float:
    from pipelines.execution.opening import open_executor
    from pipelines.execution.progress import Progress
    from pipelines.filter import job

    config, progress = make_config("lucidflux", settings=["iqa.metric=none"]), Progress(quiet=True)
    folder = Folder(run)
    start = time.perf_counter()
    job.list_into(folder, [str(photos[0].parent)], config, "lucidflux", None, ("score", "select", "pack"), progress)
    with open_executor("ray", cpus, 0, "local") as executor:
        job.score(folder, config, executor, progress)
        job.select(folder, config, executor, progress)
    return time.perf_counter() - start


class _Watch:
    """Resident memory, each second, of the largest Ray worker of this process tree, in MB."""

    def __enter__(self) -> _Watch:
        self.largest: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._stop.wait(1.0):
            found = [_resident(process) for process in psutil.process_iter()]
            if any(found):
                self.largest.append(max(found))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident(process: psutil.Process) -> int:
    try:
        if not "".join(process.cmdline()[:1]).startswith("ray::"):
            return 0
        return int(process.memory_info().rss) // 2**20
    except psutil.Error:
        return 0
