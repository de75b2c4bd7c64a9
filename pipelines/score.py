"""Scoring: CPU tasks measure every candidate; a quality metric then scores the survivors of the cheap rules."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data import records, runs
from lucidflux_data.config import FilterConfig
from lucidflux_data.images import ImageError, decode, decode_full, luma
from lucidflux_data.ledger import survivors
from lucidflux_data.quality import measure_luma
from lucidflux_data.selection import KEPT
from lucidflux_data.sources import read_bytes
from lucidflux_data.storage import Folder, table_bytes
from pipelines.executor import Executor, run
from pipelines.progress import Progress
from pipelines.worker import File, Unit


@dataclass(frozen=True)
class MeasureUnit:
    """Reads, decodes and measures the candidates of a unit; yields its scores/basic file."""

    config: FilterConfig

    def __call__(self, unit: Unit) -> Iterator[File]:
        rows = [self._measure(row) for row in unit.payload]
        yield f"{runs.BASIC}/{unit.name}.parquet", table_bytes(pa.Table.from_pylist(rows, records.BASIC))

    def _measure(self, row: dict[str, Any]) -> dict[str, Any]:
        record = {"uri": row["uri"], "source_key": row["source_key"], "status": "ok"}
        try:
            data = read_bytes(row["uri"], row["offset"], row["size"])
            sha256 = hashlib.sha256(data).hexdigest()
            record |= {"key": sha256[:20], "sha256": sha256, "bytes": len(data)}
            image = decode_full(data, self.config.decode.max_pixels)
            settings = self.config.measures
            measures = measure_luma(luma(image.pixels), settings.patch_px, settings.flat_gradient_variance)
        except ImageError as error:
            return record | {"status": "failed", "reason": error.reason, "detail": error.detail}
        return record | {
            "format": image.header.format,
            "width": image.pixels.shape[1],
            "height": image.pixels.shape[0],
            "mode": image.header.mode,
            "flags": ",".join(image.flags),
            "laplacian_variance": measures.laplacian_variance,
            "flat_fraction": measures.flat_fraction,
        }


class MetricUnit:
    """Scores the rows of a unit with one metric; the model is loaded once a process."""

    def __init__(self, config: FilterConfig, device: str) -> None:
        self.config = config
        self.device = device
        self._scorer: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "device": self.device, "_scorer": None}

    def __call__(self, unit: Unit) -> Iterator[File]:
        from lucidflux_data.iqa import load_metric

        if self._scorer is None:
            self._scorer = load_metric(self.config.iqa.metric, self.device)
        metric = self.config.iqa.metric
        rows = [self._score(row, metric) if row.get("known") is None else row["known"] for row in unit.payload]
        table = pa.Table.from_pylist(rows, records.measure_schema(metric))
        yield f"scores/{metric}/{unit.name}.parquet", table_bytes(table)

    def _score(self, row: dict[str, Any], metric: str) -> dict[str, Any]:
        record = {"uri": row["uri"], "key": row["key"], metric: None, "reason": None}
        try:
            pixels = decode(read_bytes(row["uri"], row["offset"], row["size"]), self.config.decode.max_pixels)
            return record | {metric: self._scorer([pixels])[0]}
        except ImageError as error:
            return record | {"reason": error.reason}


def score_basic(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> None:
    """Publishes the units of scores/basic that are not there yet."""
    inventory = runs.read_inventory(folder)
    size = runs.unit_size(inventory.num_rows)
    there = set(folder.names(runs.BASIC))
    numbers = [n for n in range(-(-inventory.num_rows // size)) if f"{runs.unit_name(n)}.parquet" not in there]
    units = (
        Unit(
            runs.unit_name(n),
            min(size, inventory.num_rows - n * size),
            inventory.slice(n * size, size).to_pylist(),
        )
        for n in numbers
    )
    total = sum(min(size, inventory.num_rows - n * size) for n in numbers)
    with progress.phase("score", total, inventory.num_rows - total) as advance:
        for unit in run(executor, units, MeasureUnit(config), folder):
            advance(unit.size)


def score_metric(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> None:
    """Scores the survivors of the rules in force that have no score yet; a score that is there is kept."""
    metric = config.iqa.metric
    if metric == "none":
        return
    candidates = runs.read_inventory(folder).num_rows
    units = list(_metric_units(folder, candidates, config))
    total = sum(unit.size for unit in units)
    device = "cuda" if executor.num_gpus else "cpu"
    with progress.phase(metric, total, 0) as advance:
        for unit in run(executor, units, MetricUnit(config, device), folder, stateful=True):
            advance(unit.size)


def _metric_units(folder: Folder, candidates: int, config: FilterConfig) -> Iterator[Unit]:
    metric = config.iqa.metric
    basic, _, codes = survivors(folder, candidates, config)
    inventory = runs.read_inventory(folder)
    known = {}
    table = runs.read_measure(folder, metric)
    if table is not None:
        known = {row["uri"]: row for row in table.to_pylist()}
    size = runs.unit_size(candidates)
    wanted: dict[int, list[dict[str, Any]]] = defaultdict(list)
    missing: dict[int, int] = defaultdict(int)
    uris, keys = basic["uri"].to_pylist(), basic["key"].to_pylist()
    offsets, sizes = inventory["offset"].to_pylist(), inventory["size"].to_pylist()
    for row in range(candidates):
        have = known.get(uris[row])
        if codes[row] != KEPT and have is None:
            continue
        missing[row // size] += have is None
        wanted[row // size].append(
            {"uri": uris[row], "key": keys[row], "offset": offsets[row], "size": sizes[row], "known": have}
        )
    for number, count in sorted(missing.items()):
        if count:
            yield Unit(runs.unit_name(number), count, wanted[number])


def failed_share(folder: Folder) -> float:
    """Failed candidates as a share of all, from the ledger."""
    ledger = folder.read_table(runs.LEDGER, ["reason"])
    failed = pc.sum(pc.is_in(ledger["reason"], pa.array(records.FAILURES))).as_py() or 0
    return failed / max(1, ledger.num_rows)
