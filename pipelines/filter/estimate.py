"""What a job will take: a sample is measured here, the rest is arithmetic; afterwards the run says how far off it was.

probe      some candidates, measured: seconds, bytes, megapixels, kept by each rule
predict    a pure function of the probe and of the machines: hours, bytes, memory, shards, money, what saturates
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import InputError
from lucidflux_data.growth.part import has_hashes
from lucidflux_data.growth.published import open_published
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.measures import basic
from lucidflux_data.measures.basic import Isolated
from lucidflux_data.numerics import wilson_interval
from lucidflux_data.selection import records, rules
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.pool import concat_rows, load_candidates, load_pool
from lucidflux_data.selection.records import KEPT
from lucidflux_data.shards import shard as shards
from lucidflux_data.sources.listing import list_sources, sample
from lucidflux_data.sources.reading import read_bytes
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json
from lucidflux_data.tiles import measure as tiling
from lucidflux_data.vectors.duplicates import count_products, time_a_product
from pipelines.execution.progress import warn
from pipelines.filter.measures import HistoryUnit
from pipelines.filter.rows import Columns
from pipelines.filter.scorers import time_scorer

EFFICIENCY = 0.85  # of the bare loop's throughput that a cluster reaches (docs/performance.md)
DRIVER_SECONDS_A_UNIT = 0.002  # 1.1 ms of CPU an empty unit on Ray (1000 units, one machine), doubled
BYTES_A_PIXEL = 8  # held while an image is decoded and measured: RGB, luma, one copy of each
HASHED_A_SECOND = 500e6  # bytes read and compared with their sha256, on one core
SAMPLE_BYTES = 2304  # of a shard beside the image: two headers, a json of two blocks, half a block of padding
WORKER_BYTES = 350e6  # a worker with its libraries, before any image
PLAN_FILE = "events/plan.json"
TIMED = 8  # survivors of the sample that a metric and a scorer are timed on
Z = 1.96  # rather than 1.95996, as in the reports of 0.1: intervals of 95%


@dataclass(frozen=True)
class Costs:
    """Means over a sample. Seconds are of one core; `metric_s` of one GPU, or of one core where `gpu` is false."""

    images: int
    bytes: float
    largest_pixels: float
    read_s: float
    measure_s: float
    history_s: float
    metric_s: float
    survivors: float  # share after the cheap rules
    gpu: bool = False
    survivors_between: tuple[float, float] = (0.0, 1.0)  # 95% interval of the share
    survivor_bytes: float | None = None  # sharp pictures have larger files; None: as all
    scorer_s: float | None = None  # of a scorer, decoding included; None: there is none
    product_s: float | None = None  # of one product of two of its vectors; None: it gives none


@dataclass(frozen=True)
class Machines:
    """`storage_gbps`: what the source gives all nodes together, in gigabytes a second; None for no limit."""

    num_cpus: int
    num_gpus: int = 0
    nodes: int = 1
    storage_gbps: float | None = None
    price_cpu_hour: float = 0.0
    price_gpu_hour: float = 0.0


Shares = dict[str, list[float]]  # by reason: share of the sample, and its 95% interval


class Prediction(TypedDict):
    """What a job will take. Hours and seconds are of the wall unless they are of cores or GPUs."""

    candidates: int
    survivors: int  # of the cheap rules
    survivors_between: list[int]  # 95% interval
    kept: int
    units: int  # of work, in each phase
    wall_hours: float
    wall_seconds: dict[str, float]  # by phase
    saturates_first: dict[str, str]  # by phase: cpu, gpu, storage or driver
    core_hours: float
    gpu_hours: float
    bytes_in: int
    bytes_out: int
    worker_bytes: int  # memory of a worker
    node_bytes: int  # memory of all workers of a node
    shards: int
    money: float  # by the prices of the machines


class Timing(TypedDict):
    """What the events of a run say."""

    wall_hours: float
    core_hours: float
    attempts: int
    lost_attempts: int
    slowest_unit_s: float


class ActualSet(TypedDict):
    """What the tables of a run say, by the names of a Prediction."""

    candidates: int
    survivors: int
    kept: int
    bytes_in: int
    bytes_out: int
    shards: int


class Comparison(TypedDict):
    predicted: dict[str, object]  # what both have, and survivors_between
    actual: dict[str, object]  # of ActualSet and Timing


def probe(sources: list[str], config: FilterConfig, size: int, scorer: str | None = None) -> tuple[Costs, Shares, int]:
    """(costs, share of each reason with a 95% interval, candidates) from a seeded sample. InputError for no image."""
    listing = list_sources(sources)
    for warning in listing.all_warnings():
        warn(warning)
    table = listing.table
    histories: dict[int, Columns] = {}
    rows, seconds, sizes, further = [], {"read": 0.0, "measure": 0.0}, list[int](), list[float]()
    how = tiling if config.measures.tiles else basic
    isolated = Isolated(config.decode, config.measures, f"{how.__name__}:measure")
    for row in sample(table, size, seed=0).to_pylist():
        record = {"uri": row["uri"], "source_key": row["source_key"]}
        start = time.perf_counter()
        try:
            data = read_bytes(row["uri"], row["offset"], row["size"], config.decode.max_file_bytes)
        except ImageError as error:
            rows.append(record | {"status": "failed", "reason": error.reason})
            continue
        middle = time.perf_counter()
        rows.append(record | isolated.measure(data))
        end = time.perf_counter()
        seconds["read"] += middle - start
        seconds["measure"] += end - middle
        sizes.append(len(data))
        if rows[-1]["status"] == "ok" and rules.needs_history(config):
            histories[len(rows) - 1] = HistoryUnit(config.decode).row(data, pixels_apart(data, config.decode))
            further.append(time.perf_counter() - end)
    isolated.close()
    if not sizes:
        raise InputError("no candidate of the sample could be read: nothing can be predicted")
    measured = pa.Table.from_pylist(rows, records.BASIC)
    codes = rules.apply_rules(load_candidates(measured, np.zeros(len(rows), bool)), config.rules)
    _apply_history(codes, histories, config)
    alive = np.flatnonzero(codes == KEPT)
    pixels = [row["width"] * row["height"] for row in rows if row.get("width")]
    n, some = len(sizes), [rows[i]["uri"] for i in alive[:TIMED]]
    costs = Costs(
        images=len(rows),
        bytes=float(np.mean(sizes)),
        largest_pixels=float(max(pixels, default=0)),
        read_s=seconds["read"] / n,
        measure_s=seconds["measure"] / n,
        history_s=float(np.mean(further)) if further else 0.0,
        metric_s=_metric_seconds(some, table, config.iqa.metric, config.decode),
        survivors=len(alive) / len(rows),
        survivors_between=wilson_interval(len(alive), len(rows), Z),
        survivor_bytes=float(np.mean([rows[i]["bytes"] for i in alive])) if len(alive) else None,
    )
    return _with_scorer(costs, some, table, scorer, config.decode), _shares(codes), table.num_rows


def _apply_history(codes: np.ndarray, histories: Mapping[int, Columns], config: FilterConfig) -> None:
    """The rules on what happened to a picture before, by the sample's own rows. Changes `codes`."""
    for number, measured in histories.items():
        for limit in rules.history_limits(config.rules):
            value = measured[limit.column]
            if codes[number] == KEPT and value is not None and limit.is_outside(np.asarray(value, float)):
                codes[number] = records.CODE[limit.reason]


def not_predicted(config: FilterConfig) -> list[str]:
    """The settings that reject images and that a sample says nothing of: lists, joined columns, other images."""
    names = ("opt_out", "forbid", "where", "where_tile", "near_duplicates", "semantic_duplicates", "quota", "balance")
    return [f"select.{name}" for name in names if getattr(config.select, name) not in (None, (), "")]


def _metric_seconds(uris: list[str], table: pa.Table, metric: str, limits: DecodeConfig) -> float:
    """Seconds an image of the quality metric on this machine's CPU; 0 for none."""
    if metric == "none" or not uris:
        return 0.0
    from lucidflux_data.iqa.metrics import load_metric

    score = load_metric(metric)
    images = [pixels_apart(data, limits) for data in _read_again(uris, table, limits)]
    list(score([images[0]]))  # loading and compiling are not the images' time
    start = time.perf_counter()
    for image in images:
        try:
            list(score([image]))
        except ImageError:
            continue
    return (time.perf_counter() - start) / len(images)


def _read_again(uris: list[str], table: pa.Table, limits: DecodeConfig) -> list[bytes]:
    where = {row["uri"]: row for row in table.select(["uri", "offset", "size"]).to_pylist()}
    return [read_bytes(uri, where[uri]["offset"], where[uri]["size"], limits.max_file_bytes) for uri in uris]


def _with_scorer(costs: Costs, uris: list[str], table: pa.Table, scorer: str | None, limits: DecodeConfig) -> Costs:
    """The costs of a scorer too, by some survivors. Errors as of `time_scorer`."""
    if scorer is None or not uris:
        return costs
    files = _read_again(uris, table, limits)
    pixels_apart(files[0], limits)  # the child that decodes is started outside the clock
    start = time.perf_counter()
    images = [pixels_apart(data, limits) for data in files]
    decode_s = (time.perf_counter() - start) / len(files)
    each, size = time_scorer(scorer, os.getcwd(), images)
    return replace(costs, scorer_s=decode_s + each, product_s=time_a_product(size) if size else None)


def _shares(codes: np.ndarray) -> Shares:
    shares = {}
    for code in np.unique(codes):
        count = int((codes == code).sum())
        name = "survives the cheap rules" if code == KEPT else records.REASONS[code]
        shares[name] = [round(value, 4) for value in (count / len(codes), *wilson_interval(count, len(codes), Z))]
    return shares


@dataclass(frozen=True)
class BaseCosts:
    """Of a set that is added to: `bytes` of its shards, which are read once; `images`: of which hashes are taken."""

    bytes: int
    images: int


def cost_of_base(place: str, config: FilterConfig) -> BaseCosts:
    """Errors as of `open_published`."""
    published = open_published(place)
    hashed = config.select.near_duplicates is None or has_hashes(published)
    return BaseCosts(published.manifest["bytes"], 0 if hashed else published.manifest["samples"])


def _where_asked(
    costs: Costs, config: FilterConfig, survivors: float, kept: int, base: BaseCosts | None
) -> dict[str, tuple[float, float]]:
    """(bytes that are read, core seconds) of the phases that not every job has."""
    found: dict[str, tuple[float, float]] = {}
    if base is not None:
        hashed = base.images * (costs.read_s + costs.measure_s + costs.history_s)
        found["base"] = base.bytes, hashed + base.bytes / HASHED_A_SECOND
    if costs.scorer_s is not None:
        each = costs.survivor_bytes or costs.bytes
        found["scorer"] = survivors * each, survivors * (costs.read_s + costs.scorer_s)
    if costs.product_s is not None and config.select.semantic_duplicates is not None:
        found["vectors"] = 0.0, costs.product_s * count_products(kept)
    return found


def predict(
    costs: Costs, candidates: int, config: FilterConfig, machines: Machines, base: BaseCosts | None = None
) -> Prediction:
    """Hours, bytes, memory, shards and money of `filter` on these machines, and what is busiest.

    Each resource's time is computed alone: cores (over EFFICIENCY), GPUs, storage, driver. A phase lasts as long as its
    busiest resource; scoring, metric and packing follow each other.
    """
    survivors = candidates * costs.survivors
    low, high = costs.survivors_between
    metric = config.iqa.metric != "none"
    kept = rules.number_kept(round(survivors), config.cut) if metric else round(survivors)
    units = -(-candidates // run_folder.unit_size(candidates))
    cores = machines.num_cpus * EFFICIENCY
    on_gpu = costs.gpu and machines.num_gpus > 0
    each = costs.survivor_bytes or costs.bytes
    bytes_of = {"score": candidates * costs.bytes, "metric": survivors * each * metric, "pack": kept * each}
    core_s = {
        "score": candidates * (costs.read_s + costs.measure_s) + survivors * costs.history_s,
        "metric": survivors * (0 if on_gpu else costs.metric_s) * metric,
        "pack": kept * (costs.read_s + each / 200e6),
    }
    for phase, (read, busy) in _where_asked(costs, config, survivors, kept, base).items():
        bytes_of[phase], core_s[phase] = read, busy
    gpu_s = survivors * costs.metric_s * metric if on_gpu else 0.0
    wall, busiest = {}, {}
    for phase in core_s:
        times = {"cpu": core_s[phase] / cores, "driver": units * DRIVER_SECONDS_A_UNIT}
        if phase == "vectors":  # are compared by the driver, on one core
            times = {"cpu": core_s[phase]}
        if phase == "metric" and on_gpu:
            times["gpu"] = gpu_s / machines.num_gpus
        if machines.storage_gbps:
            times["storage"] = bytes_of[phase] * (2 if phase == "pack" else 1) / (machines.storage_gbps * 1e9)
        busiest[phase] = max(times, key=lambda name: times[name])
        wall[phase] = times[busiest[phase]]
    hours = sum(wall.values()) / 3600
    worker_bytes = WORKER_BYTES + BYTES_A_PIXEL * costs.largest_pixels
    tars = max(math.ceil(kept / config.shards.max_samples), math.ceil(bytes_of["pack"] / config.shards.max_bytes))
    return {
        "candidates": candidates,
        "survivors": round(survivors),
        "survivors_between": [math.floor(low * candidates), math.ceil(high * candidates)],
        "kept": kept,
        "units": units,
        "wall_hours": round(hours, 5),
        "wall_seconds": {phase: round(value, 1) for phase, value in wall.items()},
        "saturates_first": busiest,
        "core_hours": round(sum(core_s.values()) / 3600, 4),
        "gpu_hours": round(gpu_s / 3600, 4),
        "bytes_in": round(sum(bytes_of.values())),
        "bytes_out": round(bytes_of["pack"] + kept * SAMPLE_BYTES),
        "worker_bytes": round(worker_bytes),
        "node_bytes": round(worker_bytes * math.ceil(machines.num_cpus / machines.nodes)),
        "shards": tars,
        "money": round(
            hours * (machines.num_cpus * machines.price_cpu_hour + machines.num_gpus * machines.price_gpu_hour), 2
        ),
    }


def read_timing(folder: Folder) -> Timing | None:
    """What the events of a run say: wall seconds from the first start to the last end, core hours of all attempts.
    None where no unit has ended."""
    lines = []
    for name in folder.names("events"):
        if name.endswith(".jsonl"):
            lines += [parse_json(line) for line in folder.read(f"events/{name}").decode().splitlines()]
    lines = [line for line in lines if "attempt" in line]
    done = [line for line in lines if "seconds" in line]
    if not done:
        return None
    start, end = min(line["start"] for line in done), max(line["start"] + line["seconds"] for line in done)
    return {
        "wall_hours": round((end - start) / 3600, 5),
        "core_hours": round(sum(line["seconds"] for line in done) / 3600, 4),
        "attempts": len(lines),
        "lost_attempts": sum(line["outcome"] == "lost" for line in lines),
        "slowest_unit_s": round(max(line["seconds"] for line in done), 1),
    }


def read_set(folder: Folder) -> ActualSet:
    """What the tables of a packed run say, by the names of a prediction."""
    config = FilterConfig.model_validate(runs.read_run(folder)["config"])
    pool = load_pool(runs.parts(folder))
    alive = records.is_kept(rules.cheap_codes(pool, config))
    sizes = pc.fill_null(concat_rows(pool, [basic["bytes"] for basic in pool.basics]), 0).to_numpy()
    kept = folder.read_table(runs.LEDGER, ["keep"])["keep"].to_numpy()
    manifest = shards.read_manifest(folder)
    bytes_in = int(sizes.sum()) + int(sizes[kept].sum())
    return {
        "candidates": len(alive),
        "survivors": int(alive.sum()),
        "kept": int(kept.sum()),
        "bytes_in": bytes_in + (int(sizes[alive].sum()) if config.iqa.metric != "none" else 0),
        "bytes_out": manifest["bytes"],
        "shards": len(manifest["shards"]),
    }


def compare_with_run(folder: Folder) -> Comparison | None:
    """Predicted against actual, where `plan --out RUN` was called before the run; None otherwise."""
    if not folder.exists(PLAN_FILE):
        return None
    planned = parse_json(folder.read(PLAN_FILE))
    found: dict[str, object] = {**read_set(folder), **(read_timing(folder) or {})}
    both = [name for name in planned if name in found or name == "survivors_between"]
    return {"predicted": {name: planned[name] for name in both}, "actual": found}
