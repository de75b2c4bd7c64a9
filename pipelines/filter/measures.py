"""Measures beside the basic ones and the quality metric: history and hashes, benchmark leaks, users' own scorers.

Each is a job over the rows of a unit that are asked for and not there yet; `scores/<measure>/unit-*.parquet` has them.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pyarrow as pa

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import luma
from lucidflux_data.measures import artifacts as history
from lucidflux_data.measures import near_duplicates as neardup
from lucidflux_data.measures.firewall import Compared, measure_name
from lucidflux_data.selection import rules
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.pool import Pool, load_pool
from lucidflux_data.selection.records import is_kept
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.lease import hold
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress
from pipelines.filter.firewall import FirewallUnit
from pipelines.filter.forbidden import take_suites
from pipelines.filter.rows import HEAD, REASON, Columns, MetricTable, _Rows

HISTORY_SCHEMA = pa.schema(
    [
        *HEAD,
        pa.field("jpeg_quality", pa.int32()),
        pa.field("blockiness", pa.float64()),
        pa.field("spectral_cutoff", pa.float64()),
        pa.field("fixed_sharpness", pa.float64()),
        pa.field("noise", pa.float64()),
        pa.field("phash", pa.uint64()),
        REASON,
    ]
)


class HistoryUnit(_Rows):
    """scores/history: what happened to the picture before, and its perceptual hash."""

    measure = rules.HISTORY
    schema = HISTORY_SCHEMA

    def __init__(self, limits: DecodeConfig) -> None:
        self.limits = limits

    def row(self, data: bytes, pixels: np.ndarray) -> Columns:
        grey = luma(pixels)
        return {
            "jpeg_quality": history.jpeg_quality(data),
            "blockiness": history.blockiness(grey),
            "spectral_cutoff": history.spectral_cutoff(grey),
            "fixed_sharpness": history.fixed_sharpness(grey),
            "noise": history.noise(grey),
            "phash": neardup.phash(grey),
        }


def prepare(
    folder: Folder, config: FilterConfig, executor: Executor, progress: Progress
) -> tuple[Pool, dict[str, Compared]]:
    """Takes the measures that the rules in force need and the survivors of the cheap rules lack. Returns the pool of
    candidates, and what they are compared with of the suites that are forbidden."""
    jobs: list[tuple[str, Any]] = []
    suites = take_suites(folder, config.select, config.decode)
    compared = {item: suite.compared for item, suite in suites.items()}
    name = measure_name(compared)
    if name is not None:
        jobs.append((name, FirewallUnit(config.decode, name, sorted({suite.data for suite in suites.values()}))))
    if rules.needs_history(config):
        jobs.append((rules.HISTORY, HistoryUnit(config.decode)))
    pool = load_pool(runs.parts(folder), name)
    for measure, job in jobs:
        run_measure(pool, config, measure, job, executor, progress)
    return pool, compared


def run_measure(
    pool: Pool,
    config: FilterConfig,
    measure: str,
    job: Any,
    executor: Executor,
    progress: Progress,
    stateful: bool = False,
) -> None:
    """A job over the survivors of the cheap rules of every part."""
    alive = is_kept(rules.cheap_codes(pool, config))
    each = config.workers.gpus_per_actor
    for number, part in enumerate(pool.parts):
        wanted = np.zeros(part.candidates, bool)
        wanted[pool.rows[number][pool.of_part(alive, number)]] = True
        scores = MetricTable(pool, number, measure, wanted)
        held = hold(part.folder) if scores.missing else contextlib.nullcontext()
        with held, progress.phase(measure, scores.missing, 0) as advance:
            for unit in run(executor, measure, scores.units(), job, part.folder, stateful, each):
                advance(unit.size)
        if scores.missing:
            pool.renew(number, measure)
