"""Synthesis: executors on identical plans and one core, by step and whole; the job through Ray; the torch Dataset."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

import cv2
import numpy as np
import typer

from benchmarks.throughput.timing import Facts, Images, OutFile, Value, paired_ratio, pin, real_photos, tell
from lucidflux_data.degradation import backends as degradation_backends
from lucidflux_data.degradation import convolution as filters
from lucidflux_data.degradation import opencv as degrade_cv2
from lucidflux_data.degradation.config import DegradeConfig, make_degrade_config
from lucidflux_data.degradation.noise import poisson_cells
from lucidflux_data.degradation.plan import Plan, draw_plan
from lucidflux_data.images import Decoded, ImageError, decode, decode_full, probe
from lucidflux_data.pairs import job as pairs_run
from lucidflux_data.pairs import pair as pairs
from lucidflux_data.pairs.config import make_pairs_config, pairs_label
from lucidflux_data.storage.folder import Folder, absolute_url
from pipelines.execution.worker import prepare_process

app = typer.Typer()
Row = dict[str, object]  # of inputs.parquet
PAIRS = 1_370_000  # what the paper's set has
# What pairs of one HQ format cost: processor time and bytes of one, and of PAIRS.
PairCost = TypedDict(
    "PairCost", {"ms_a_pair": float, "bytes_a_pair": int, "core_hours_for_1.37M": float, "TB_for_1.37M": float}
)
HQ_FORMATS = {
    "png": ["hq=png"],
    "png by opencv": ["hq=png", "hq_encoder=opencv"],
    "jxl": ["hq=jxl"],
    "webp": ["hq=webp"],
    "jpeg:95": ["hq=jpeg:95"],
    "ref": ["hq=ref"],
}


def crops(images: Path, size: int, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """(key, uint8 size x size RGB) from the middle of `count` photos that are large enough, spread over the folder."""
    found = []
    for path in real_photos(images):
        with contextlib.suppress(ImageError):
            header = probe(path.read_bytes())
            if min(header.width, header.height) >= size:
                found.append(path)
    if not found:
        raise typer.BadParameter(f"no photo of {size} pixels among the images")
    for number in range(count):
        path = found[number * len(found) // count]
        pixels = decode(path.read_bytes())
        top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
        yield path.name, np.ascontiguousarray(pixels[top : top + size, left : left + size])


def step_names(plan: Plan) -> list[str]:
    """blur1, resize1, noise1, jpeg1, blur2, resize2, noise2, then final_resize, final_sinc, final_jpeg."""
    names, stage = [], 1
    for number, step in enumerate(plan["steps"]):
        kind = "noise" if step["op"].endswith("_noise") else step["op"]
        if stage == 3:
            kind = {"resize": "final_resize", "blur": "final_sinc", "jpeg": "final_jpeg"}[kind]
        names.append(kind if stage == 3 else f"{kind}{stage}")
        if kind == "noise" and stage == 2:
            stage = 3
        elif kind == "jpeg" and number and stage == 1:
            stage = 2
    return names


def by_step(backend: str, hq: np.ndarray, plan: Plan) -> dict[str, float]:
    """Milliseconds of processor time of each step, of taking the HQ in, and of giving the LQ out as PNG.

    One thread does it all, so this is the time on a core of one's own, also where others share the machine.
    """
    from lucidflux_data.degradation import basicsr as degrade_reference
    from lucidflux_data.degradation import on_torch as degrade_torch

    taken: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Value]) -> Value:
        start = time.process_time()
        result = call()
        taken[name] = taken.get(name, 0.0) + (time.process_time() - start) * 1e3
        return result

    module: Any = {"cv2": degrade_cv2, "torch": degrade_torch, "reference": degrade_reference}[backend]
    enter = {
        "cv2": lambda: cv2.cvtColor(hq, cv2.COLOR_RGB2BGR),
        "torch": lambda: degrade_torch.to_tensor(hq, "cpu"),
        "reference": lambda: degrade_reference.to_tensor(hq),
    }[backend]
    image = timed("in", enter)
    for name, step in zip(step_names(plan), plan["steps"], strict=True):
        image = timed(name, lambda: module.apply(step, image, plan))  # noqa: B023
    leave = {
        "cv2": lambda: cv2.cvtColor(degrade_cv2.to_levels(image), cv2.COLOR_BGR2RGB),
        "torch": lambda: degrade_torch.to_pixels(image),
        "reference": lambda: degrade_reference.to_pixels(image),
    }[backend]
    lq = timed("out", leave)
    timed("lq_png", lambda: pairs.encode_lq(lq))
    return taken


def usm_ms(backend: str, hq: np.ndarray) -> float:
    from lucidflux_data.degradation import basicsr as degrade_reference
    from lucidflux_data.degradation import on_torch as degrade_torch

    if backend == "cv2":
        call = functools.partial(filters.usm, hq)
    elif backend == "torch":
        call = functools.partial(degrade_torch.apply, {"op": "usm"}, degrade_torch.to_tensor(hq, "cpu"), {})
    else:
        call = functools.partial(degrade_reference.apply, {"op": "usm"}, degrade_reference.to_tensor(hq), {})
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1e3


@app.command("synthesize")
def synthesize_command(
    images: Images,
    sizes: Annotated[str, typer.Option(help="HQ sides, with commas.")] = "512,1024",
    count: Annotated[int, typer.Option(min=2, help="Plans at each size.")] = 24,
    out: OutFile = None,
) -> None:
    """`reference`, `cv2` and `torch` on identical plans, processor time of one core; no source decode, no HQ encode."""
    import torch

    pin()
    torch.set_num_threads(1)
    result: Facts = {
        "plans": count,
        "preset": "realesrgan-x4, align=reference, jpeg=reference",
        **degradation_backends.versions("reference"),
    }
    for size in map(int, sizes.split(",")):
        result[str(size)] = _compare(images, size, count)
    tell(result, out)


def _compare(images: Path, size: int, count: int) -> Facts:
    # Plans that BasicSR can follow to the letter: its sampling, its JPEG table.
    config = make_degrade_config("realesrgan-x4", [f"size={size}", "align=reference", "jpeg=reference"])
    backends = ("cv2", "reference", "torch")
    steps: dict[str, dict[str, float]] = {backend: defaultdict(float) for backend in backends}
    whole: dict[str, list[float]] = {backend: [] for backend in backends}
    sharpened: dict[str, list[float]] = {backend: [] for backend in backends}
    for number, (key, hq) in enumerate(crops(images, size, count)):
        if number == 0:
            warm_up(hq, config)
        plan = draw_plan(key, number, config)
        for backend in backends:
            taken = by_step(backend, hq, plan)
            for name, value in taken.items():
                steps[backend][name] += value / count
            whole[backend].append(sum(taken.values()))
            sharpened[backend].append(whole[backend][-1] + usm_ms(backend, hq))
    report: Facts = {}
    for backend in backends:
        report[backend] = {
            "ms_a_pair_mean": round(statistics.mean(whole[backend]), 2),
            "ms_a_pair_median": round(statistics.median(whole[backend]), 2),
            "ms_a_pair_max": round(max(whole[backend]), 1),
            "ms_a_pair_mean_with_usm": round(statistics.mean(sharpened[backend]), 2),
            "ms_by_step_over_all_pairs": {name: round(value, 2) for name, value in sorted(steps[backend].items())},
        }
    for backend in ("cv2", "torch"):
        report[f"reference / {backend}"] = {
            "median_paired": paired_ratio(whole["reference"], whole[backend]),
            "of_means": round(sum(whole["reference"]) / sum(whole[backend]), 2),
            "median_paired_with_usm": paired_ratio(sharpened["reference"], sharpened[backend]),
            "of_means_with_usm": round(sum(sharpened["reference"]) / sum(sharpened[backend]), 2),
        }
    return report


def warm_up(hq: np.ndarray, config: DegradeConfig) -> None:
    """Compiles, loads and fills tables before the clock starts."""
    for number in range(40):
        degrade_cv2.degrade(hq[:256, :256].copy(), draw_plan(f"warm{number}", 0, config))
    filters.usm(hq)
    for power in range(9):
        poisson_cells(2**power)
    for backend in ("torch", "reference"):
        by_step(backend, hq[:128, :128].copy(), draw_plan("warm", 0, make_degrade_config(settings=["size=128"])))


@app.command("synthesize-job")
def synthesize_job_command(
    images: Images,
    limit: Annotated[int, typer.Option(min=1, help="Photos; four pairs of each.")] = 40,
    size: Annotated[int, typer.Option()] = 1024,
    num_cpus: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 2,
    out: OutFile = None,
) -> None:
    """The whole job beside a bare loop, through local processes and Ray; one core by HQ format; RealESRGANPairs."""
    result: Facts = {"photos": limit, "pairs": 4 * limit, "size": size, **degradation_backends.versions("cv2")}
    rates: dict[str, list[float]] = {"bare_loop": [], "local": [], "ray": []}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            for kind in ("local", "ray"):
                rates[kind].append(_job(images, Path(scratch) / f"{kind}{number}", limit, size, num_cpus, kind))
            rows = _rows(Path(scratch) / "local0")
            rates["bare_loop"].append(_bare_processes(rows, size, num_cpus))
        pin()
        result["one_core"] = _one_core(rows[:12], size)
        result["dataset_ms_a_sample"] = _dataset(rows[:16], size)
    result["pairs_per_s"] = {name: [round(rate, 2) for rate in found] for name, found in rates.items()}
    for name in ("local", "ray"):
        result[f"{name} / bare_loop"] = paired_ratio(rates[name], rates["bare_loop"])
    tell(result, out)


def _rows(made: Path) -> list[Row]:
    """The photos that a job used."""
    folder = Folder(made)
    rows = pairs_run.read_inputs(folder, pairs_run.read_config(folder)).to_pylist()
    return [row for row in rows if row["reason"] is None]


def _bare_processes(rows: list[Row], size: int, num_cpus: int) -> float:
    """Pairs a second of as many processes that do nothing but make pairs; they have started and compiled before."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(num_cpus, initializer=prepare_process) as pool:
        work = [(row, size) for row in rows]
        pool.map(_pairs_of, [(row, 96) for row in rows[: 4 * num_cpus]], chunksize=1)
        start = time.perf_counter()
        made = sum(pool.map(_pairs_of, work, chunksize=1))
        return made / (time.perf_counter() - start)


def _pairs_of(work: tuple[Row, int]) -> int:
    row, size = work
    config = make_pairs_config("realesrgan-x4", settings=[f"degrade.size={size}"])
    clean = _opened(row)
    for variant in range(4):
        pairs.make_pair(*clean, variant, config, degradation_backends.load_backend("cv2"))
    return 4


def _job(images: Path, out: Path, limit: int, size: int, num_cpus: int, kind: str) -> float:
    """Pairs a second of `synthesize`, from listing to manifest; its workers have started and compiled before."""
    from pipelines.execution.opening import open_executor
    from pipelines.execution.progress import Progress
    from pipelines.synthesis.job import synthesize

    config = make_pairs_config("realesrgan-x4", settings=[f"degrade.size={size}"])
    folder = Folder(out)
    with open_executor(kind, num_cpus, 0, None) as executor:
        warm = make_pairs_config("realesrgan-x4", settings=["degrade.size=96", "shards.max_samples=4"])
        about = pairs_run.make_run(warm, "warm", "cv2", [absolute_url(str(images))], 4 * num_cpus)
        pairs_run.start(Folder(f"{out}-warm"), about)
        synthesize(Folder(f"{out}-warm"), about, executor, Progress(quiet=True))
        about = pairs_run.make_run(config, pairs_label("realesrgan-x4", config), "cv2", about["sources"], limit)
        pairs_run.start(folder, about)
        start = time.perf_counter()
        summary = synthesize(folder, about, executor, Progress(quiet=True))
        taken = time.perf_counter() - start
    return float(summary["samples"]) / taken


def _one_core(rows: list[Row], size: int) -> dict[str, PairCost]:
    """Processor time and bytes of a pair by HQ format: decode (shared by four variants), cut, degrade, encode."""
    degrade = degradation_backends.load_backend("cv2")
    report: dict[str, PairCost] = {}
    for name, settings in HQ_FORMATS.items():
        config = make_pairs_config("realesrgan-x4", settings=[f"degrade.size={size}", *settings])
        pairs.make_pair(*_opened(rows[0]), 0, config, degrade)  # compiled before the clock starts
        taken = data_bytes = count = 0.0
        for row in rows:
            start = time.process_time()
            clean = _opened(row)
            for variant in range(4):
                pair = pairs.make_pair(*clean, variant, config, degrade)
                data_bytes += sum(map(len, pair.members.values()))
                count += 1
            taken += time.process_time() - start
        time_ms, size_bytes = round(taken / count * 1e3, 2), round(data_bytes / count)
        report[name] = {
            "ms_a_pair": time_ms,
            "bytes_a_pair": size_bytes,
            "core_hours_for_1.37M": round(time_ms * PAIRS / 3.6e6, 1),
            "TB_for_1.37M": round(size_bytes * PAIRS / 1e12, 3),
        }
    return report


def _opened(row: Row) -> tuple[bytes, Decoded, pairs.CleanImage]:
    """What `make_pair` takes of an image: bytes, pixels, and what its json tells."""
    data = Path(str(row["uri"]).removeprefix("file://")).read_bytes()
    known = {name: row[name] for name in ("key", "source_key", "group", "carried")}
    return data, decode_full(data), cast(pairs.CleanImage, known | {"versions": {}, "ref": {}})


def _dataset(rows: list[Row], size: int) -> float:
    """Processor time of `RealESRGANPairs[i]`, decode of the source included, in one process."""
    from lucidflux_data import RealESRGANPairs

    with tempfile.TemporaryDirectory() as photos:
        for number, row in enumerate(rows):
            path = str(row["uri"]).removeprefix("file://")
            os.symlink(path, f"{photos}/{number:03d}{Path(path).suffix}")
        dataset = RealESRGANPairs(photos, settings=[f"size={size}"])
        dataset[0]
        start = time.process_time()
        for number in range(len(dataset)):
            dataset[number]
        return round((time.process_time() - start) / len(dataset) * 1e3, 1)
