"""Jobs around a set: failures measured again, metrics examined."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.config import FilterConfig
from lucidflux_data.errors import ConfigError
from lucidflux_data.images import decode
from lucidflux_data.iqa.checks import SIDE_PX, device_drift, examine
from lucidflux_data.iqa.metrics import load_metric, lower_is_better
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.sources.listing import PASSING, list_sources, read_bytes
from lucidflux_data.storage.folder import Folder, configure, table_bytes
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress
from pipelines.execution.worker import Unit
from pipelines.filter.score import MeasureUnit

PASSING_REASONS = ("decode_timeout", "iqa_out_of_memory")  # may be gone on another machine, whatever the detail says


def retry(folder: Folder, statuses: list[str], executor: Executor, progress: Progress) -> dict[str, Any]:
    """Measures again what failed for one of `statuses`; without any, what a store did not give and what took too long.

    Rows that are well keep their bytes; a unit's file is replaced by one rename. Scores of metrics that failed so are
    dropped, and `select` computes them again. ConfigError for a word that is no failure.
    """
    for status in statuses:
        if status not in records.FAILURES:
            raise ConfigError(f"--status {status} is no failure: choose among {', '.join(records.FAILURES)}")
    run_ = runs.read_run(folder)
    config, size = FilterConfig.model_validate(run_["config"]), runs.unit_size(run_["listed"]["candidates"])
    configure(config.storage.model_dump())
    basic, inventory = runs.read_basic(folder), runs.read_inventory(folder)
    again = _again(basic, statuses)
    units = []
    for number in np.unique(np.flatnonzero(again) // size).tolist():
        rows = inventory.slice(number * size, size).to_pylist()
        known = basic.slice(number * size, size).to_pylist()
        mine = again[number * size : (number + 1) * size]
        payload = [row | {"known": None if now else old} for row, old, now in zip(rows, known, mine, strict=True)]
        units.append(Unit(runs.unit_name(number), int(mine.sum()), payload))
    with progress.phase("retry", int(again.sum()), 0) as advance:
        for unit in run(executor, "retry", units, MeasureUnit(config), folder):
            advance(unit.size)
    after = runs.read_basic(folder, ["status"])["status"].to_numpy(zero_copy_only=False)
    dropped = _drop_scores(folder, config.iqa.metric, statuses or list(PASSING_REASONS))
    recovered = int((after[again] == "ok").sum())
    return {"tried": int(again.sum()), "recovered": recovered, "scores_dropped": dropped}


def _again(basic: pa.Table, statuses: list[str]) -> np.ndarray:
    if statuses:
        return pc.is_in(basic["reason"], pa.array(statuses)).to_numpy()
    passing = pc.or_kleene(pc.equal(basic["detail"], PASSING), pc.is_in(basic["reason"], pa.array(PASSING_REASONS)))
    return pc.fill_null(passing, False).to_numpy(zero_copy_only=False)


def _drop_scores(folder: Folder, metric: str, reasons: list[str]) -> int:
    dropped = 0
    for number, table in runs.read_measure(folder, metric).items():
        failed = pc.fill_null(pc.is_in(table["reason"], pa.array(reasons)), False)
        count = int(pc.sum(failed).as_py() or 0)
        if count:
            left = table.filter(pc.invert(failed))
            folder.publish(f"scores/{metric}/{runs.unit_name(number)}.parquet", table_bytes(left))
        dropped += count
    return dropped


def examine_metrics(names: list[str], folder: Path | None) -> dict[str, dict[str, Any]]:
    """The card of each metric on real photos. ConfigError where a metric cannot be loaded or there are no photos."""
    if folder is None:
        from pipelines.demo.data import bundled_photos

        uris = [f"file://{path}" for path in bundled_photos()]
    else:
        uris = list_sources([str(folder)]).table["uri"].to_pylist()
    images = []
    for uri in uris:
        try:
            pixels = decode(read_bytes(uri))
        except Exception:  # what is no image is of no use here
            continue
        if min(pixels.shape[:2]) >= SIDE_PX and pixels.std() > 20:
            images.append(pixels)
    images = images[:12]
    if len(images) < 3:
        raise ConfigError("a metric is examined on three photos of 256 px or more: give --images")
    cards = {}
    for name in names:
        cards[name] = examine(load_metric(name), lower_is_better(name), images)
        devices = _devices()
        if len(devices) == 2:
            cards[name]["device_drift"] = device_drift(
                functools.partial(load_metric, name), (devices[0], devices[1]), images
            )
    return cards


def _devices() -> tuple[str, ...]:
    try:
        import torch
    except ImportError:
        return ("cpu",)
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
