"""Scoring: CPU tasks measure every candidate; a quality metric then scores the survivors of the cheap rules."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.alarm import hard_limit
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import ImageError, decode
from lucidflux_data.iqa.batches import BatchRules, BatchScorer, score_all
from lucidflux_data.iqa.config import IQAConfig
from lucidflux_data.measures import basic
from lucidflux_data.measures.basic import Isolated
from lucidflux_data.measures.config import MeasureConfig
from lucidflux_data.selection import records
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig, WorkersConfig
from lucidflux_data.selection.ledger import find_survivors
from lucidflux_data.selection.pool import Pool
from lucidflux_data.selection.records import KEPT
from lucidflux_data.sources.reading import check_sources, read_bytes, read_known
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import checked_bytes
from lucidflux_data.storage.lease import hold
from lucidflux_data.tiles import measure as tiling
from lucidflux_data.tiles import table as tile_table
from lucidflux_data.tiles.grid import list_boxes
from pipelines.execution.counting import count_done
from pipelines.execution.executor import Executor, run
from pipelines.execution.progress import Progress
from pipelines.execution.worker import File, Unit
from pipelines.filter.rows import Columns, MeasureRow, MetricTable

DECODE_THREADS = 4  # in front of a GPU, which takes images faster than one core decodes them


class CandidateRow(TypedDict):
    """A row of the inventory that is measured for the first time, or again."""

    uri: str
    source_key: str  # path relative to its source, or member name
    source: int  # position among the sources
    size: int  # encoded bytes; -1 where the listing does not tell
    offset: int  # of the bytes inside a tar; -1 outside tars
    side: str | None  # the json beside a tar member
    known: NotRequired[Columns | None]  # by `retry`: the row of scores/basic that stays as it is
    sha256: NotRequired[str | None]  # by `retry`: of the bytes, where they must still be those


@dataclass(frozen=True)
class MeasureUnit:
    """Reads, decodes and measures the candidates of a unit; yields the file of their tiles, where tiles are asked for,
    and its scores/basic file. A row with `known` is taken as it is, its tiles from the file in `folder`; the bytes of
    one with `sha256` must still be those."""

    limits: DecodeConfig
    measures: MeasureConfig
    folder: Folder

    def __call__(self, unit: Unit[list[CandidateRow]]) -> Iterator[File]:
        how = tiling if self.measures.tiles else basic
        isolated = Isolated(self.limits, self.measures, f"{how.__name__}:measure") if unit.attempt > 1 else None
        how.warm_up()
        try:
            rows = [row.get("known") or self._measure(row, isolated) for row in unit.payload]
        finally:
            if isolated is not None:
                isolated.close()
        if self.measures.tiles:
            yield f"{tile_table.BASIC}/{unit.name}.parquet", checked_bytes(self._tiles(unit, rows))
        yield f"{runs.BASIC}/{unit.name}.parquet", checked_bytes(pa.Table.from_pylist(rows, records.BASIC))

    def _tiles(self, unit: Unit[list[CandidateRow]], rows: list[Mapping[str, Any]]) -> pa.Table:
        """The tiles of a unit in the order of its rows."""
        table = tile_table.make_table((row["uri"], row["key"], row.get("tiles", [])) for row in rows if row.get("key"))
        known = [row["uri"] for row in unit.payload if row.get("known")]
        before = tile_table.read_known(self.folder, "basic", unit.name, known)
        if before is None:
            return table
        return tile_table.order_by(pa.concat_tables([table, before]), [row["uri"] for row in rows])

    def _measure(self, row: CandidateRow, isolated: Isolated | None) -> Mapping[str, object]:
        record = self._take(row, isolated)
        count_done()
        return record

    def _take(self, row: CandidateRow, isolated: Isolated | None) -> Mapping[str, object]:
        record: Columns = {"uri": row["uri"], "source_key": row["source_key"]}
        try:
            most = self.limits.max_file_bytes
            if known := row.get("sha256"):
                data = read_known(row["uri"], row["offset"], row["size"], known, most=most)
            else:
                data = read_bytes(row["uri"], row["offset"], row["size"], most)
        except ImageError as error:
            return record | {"status": "failed", "reason": error.reason, "detail": error.detail}
        if isolated is not None:
            return {**record, **isolated.measure(data)}
        with hard_limit(self.limits.timeout_s):
            take = tiling.measure if self.measures.tiles else basic.measure
            return {**record, **take(data, self.limits, self.measures)}


TileScores = list[tuple[tuple[int, int], float | ImageError]]  # left and top in pixels, the score or why there is none


class MetricUnit:
    """Scores the rows of a unit with one metric; the model is loaded once a process. `tiles`: side of the tiles that
    are scored too, in the same decode, 0 for none; those of known rows are taken from the file in `folder`."""

    def __init__(
        self,
        iqa: IQAConfig,
        limits: DecodeConfig,
        device: str,
        decode_threads: int = 0,
        tiles: int = 0,
        folder: Folder | None = None,
    ) -> None:
        self.iqa, self.limits = iqa, limits
        self.tiles, self.folder = tiles, folder
        self.device, self.decode_threads = device, decode_threads
        self._scorer: Any = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_scorer": None}

    def __call__(self, unit: Unit[list[MeasureRow]]) -> Iterator[File]:
        from lucidflux_data.iqa.metrics import load_metric

        if self._scorer is None:
            self._scorer = load_metric(self.iqa.metric, self.device)
        metric = self.iqa.metric
        todo, tiled = [row for row in unit.payload if row["known"] is None], list[TileScores]()
        scores = self._scores(todo, tiled)
        rows = [row["known"] or _metric_record(row, metric, next(scores)) for row in unit.payload]
        table = pa.Table.from_pylist(rows, records.measure_schema(metric))
        if self.tiles:
            yield f"{tile_table.PLACE}/{metric}/{unit.name}.parquet", checked_bytes(self._tile_table(unit, todo, tiled))
        yield f"scores/{metric}/{unit.name}.parquet", checked_bytes(table)

    def _tile_table(self, unit: Unit[list[MeasureRow]], todo: list[MeasureRow], tiled: list[TileScores]) -> pa.Table:
        metric = self.iqa.metric
        rows: list[Columns] = []
        for row, tiles in zip(todo, tiled, strict=True):
            for (x, y), score in tiles:
                record = _metric_record(row, metric, score)
                rows.append({"uri": row["uri"], "key": row["key"], "x": x, "y": y, **record})
        table = pa.Table.from_pylist(rows, tile_table.metric_schema(metric))
        known = [row["uri"] for row in unit.payload if row["known"] is not None]
        assert self.folder is not None, "tiles are of a run"
        before = tile_table.read_known(self.folder, metric, unit.name, known)
        if before is None:
            return table
        return tile_table.order_by(pa.concat_tables([table, before]), [row["uri"] for row in unit.payload])

    def _scores(self, rows: list[MeasureRow], tiled: list[TileScores]) -> Iterator[float | ImageError]:
        """In windows of some batches' pixels, from the rows alone: what is decoded at a time is bounded. The scores of
        the tiles of each row, none where it has no pixels, are added to `tiled`."""
        from lucidflux_data.iqa.metrics import metric

        settings = self.iqa
        rules = BatchRules(settings.batch_megapixels, 32, settings.max_megapixels, settings.oversize)
        batched = metric(settings.metric).batched
        images: list[np.ndarray | ImageError] = []
        pixels = 0
        for image in decode_rows(rows, self.limits, self.decode_threads):
            images.append(image)
            pixels += 0 if isinstance(image, ImageError) else image.size // 3
            if pixels >= 4e6 * settings.batch_megapixels:
                tiled += self._score_tiles(images, rules, batched)
                yield from _in_place(self._scorer, images, rules, batched)
                images, pixels = [], 0
        tiled += self._score_tiles(images, rules, batched)
        yield from _in_place(self._scorer, images, rules, batched)

    def _score_tiles(
        self, images: list[np.ndarray | ImageError], rules: BatchRules, batched: bool
    ) -> Iterator[TileScores]:
        for image in images:
            if isinstance(image, ImageError) or not self.tiles:
                yield []
                continue
            boxes = list_boxes(image.shape[1], image.shape[0], self.tiles).tolist()
            crops = [np.ascontiguousarray(image[y : y + high, x : x + wide]) for x, y, wide, high in boxes]
            scores = score_all(self._scorer, crops, rules, batched)
            yield [((x, y), score) for (x, y, *_), score in zip(boxes, scores, strict=True)]


def count_decode_threads(workers: WorkersConfig, on_gpu: bool) -> int:
    """As many as the config says, else some where a GPU waits."""
    if workers.decode_threads is not None:
        return workers.decode_threads
    return DECODE_THREADS if on_gpu else 0


def decode_rows(rows: list[MeasureRow], limits: DecodeConfig, threads: int) -> Iterator[np.ndarray | ImageError]:
    """The pixels of rows, in order, or why there are none. `threads` read and decode some ahead; with 0 none do."""

    def one(row: MeasureRow) -> np.ndarray | ImageError:
        try:
            data = read_known(row["uri"], row["offset"], row["size"], row["sha256"], most=limits.max_file_bytes)
            return decode(data, limits.max_pixels)
        except ImageError as error:
            return error

    if threads == 0:
        yield from map(one, rows)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead = deque(pool.submit(one, row) for row in rows[: 2 * threads])
        for position in range(len(rows)):
            image = ahead.popleft().result()
            if position + 2 * threads < len(rows):
                ahead.append(pool.submit(one, rows[position + 2 * threads]))
            yield image


def _in_place(
    score: BatchScorer, images: list[np.ndarray | ImageError], rules: BatchRules, batched: bool
) -> Iterator[float | ImageError]:
    counted = 0

    def scored(batch: np.ndarray | Sequence[np.ndarray]) -> list[float]:
        nonlocal counted
        found = list(score(batch))
        if rules.oversize != "tile":  # of which an image has several
            counted += len(found)
            count_done(len(found))
        return found

    scores = iter(score_all(scored, [image for image in images if isinstance(image, np.ndarray)], rules, batched))
    count_done(len(images) - counted)
    for image in images:
        yield image if isinstance(image, ImageError) else next(scores)


def _metric_record(row: MeasureRow, metric: str, score: float | ImageError) -> Columns:
    record: Columns = {"uri": row["uri"], "key": row["key"], metric: None, "reason": None}
    return record | ({"reason": score.reason} if isinstance(score, ImageError) else {metric: score})


def score_basic(folder: Folder, config: FilterConfig, executor: Executor, progress: Progress) -> None:
    """Publishes the units of scores/basic that are not there yet."""
    inventory = run_folder.read_inventory(folder)
    size = run_folder.unit_size(inventory.num_rows)
    there = set(folder.names(runs.BASIC))
    numbers = [n for n in range(-(-inventory.num_rows // size)) if f"{run_folder.unit_name(n)}.parquet" not in there]
    units = (
        Unit(
            run_folder.unit_name(n),
            min(size, inventory.num_rows - n * size),
            inventory.slice(n * size, size).to_pylist(),
        )
        for n in numbers
    )
    total = sum(min(size, inventory.num_rows - n * size) for n in numbers)
    if numbers:
        check_sources(runs.read_run(folder)["listed"]["sources"], inventory)
    with progress.phase("score", total, inventory.num_rows - total) as advance:
        for unit in run(executor, "score", units, MeasureUnit(config.decode, config.measures, folder), folder):
            advance(unit.size)


def score_metric(pool: Pool, config: FilterConfig, executor: Executor, progress: Progress) -> None:
    """Scores the survivors of the rules in force that have no score yet; a score that is there is kept."""
    metric = config.iqa.metric
    device = "cuda" if executor.num_gpus else "cpu"
    each = config.workers.gpus_per_actor
    threads, tiles = count_decode_threads(config.workers, device != "cpu"), config.measures.tiles
    for number, scores in enumerate(_metric_tables(pool, config)):
        place = scores.part.folder
        job = MetricUnit(config.iqa, config.decode, device, threads, tiles, place)
        held = hold(place) if scores.missing else contextlib.nullcontext()
        with held, progress.phase(metric, scores.missing, 0) as advance:
            for unit in run(executor, metric, scores.units(), job, place, True, each):
                advance(unit.size)
        if scores.missing:
            pool.renew(number, metric)


def missing_scores(pool: Pool, config: FilterConfig) -> int:
    """How many survivors of the rules have no score of the metric yet, nor a reason why there is none."""
    return sum(scores.missing for scores in _metric_tables(pool, config))


def _metric_tables(pool: Pool, config: FilterConfig) -> Iterator[MetricTable]:
    if config.iqa.metric == "none":
        return
    codes = find_survivors(pool, config, scored=False)
    for number, part in enumerate(pool.parts):
        wanted = np.zeros(part.candidates, bool)
        wanted[pool.rows[number][pool.of_part(codes, number) == KEPT]] = True
        yield MetricTable(pool, number, config.iqa.metric, wanted)


def count_failed(folder: Folder) -> tuple[int, int]:
    """(failed candidates, all of them): by the ledger or, where nothing was selected yet, by the measures."""
    selected = folder.exists(runs.LEDGER)
    table = folder.read_table(runs.LEDGER, ["reason"]) if selected else runs.read_basic(folder, ["reason"])
    failed = pc.sum(pc.is_in(table["reason"], pa.array(records.FAILURES))).as_py() or 0
    return failed, table.num_rows
