"""From the score tables of one or more runs to the decision ledger: reads tables, asks rules.py, writes one table.

A ledger draws from *parts*: the run itself, or the runs and included runs that run.json names. An image
that several parts list counts once, as the first part's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import InputError, VerificationError
from lucidflux_data.selection import columns as selection_columns
from lucidflux_data.selection import records, rules
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.config import FilterConfig
from lucidflux_data.selection.expression import columns_of
from lucidflux_data.selection.pool import CARRIED, Pool, ahead, concat_rows, float_column, reason_codes, take_rows
from lucidflux_data.selection.records import KEPT
from lucidflux_data.selection.tiling import COLUMN, list_good, waits_for_metric
from lucidflux_data.storage import run_folder
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import ROWS_IN_GROUP, table_chunks
from lucidflux_data.tiles import table as tile_table

COLUMNS = ("key", "uri", "laplacian_variance", "flat_fraction", *CARRIED)  # of scores/basic, in the ledger
REPEATING = ("reason", "group", "format", "flags")  # of the ledger: few values, many rows


def find_survivors(pool: Pool, config: FilterConfig, scored: bool = True) -> np.ndarray:
    """int16 codes of the pool's candidates before the cut. Measures that rules need and rows lack reject nothing.

    `scored`: whether the quality metric is there; before it is, a --where that names it waits.
    """
    codes = rules.cheap_codes(pool, config)
    rules.apply_leaks(codes, pool)
    if rules.needs_history(config):
        rules.apply_history(codes, pool, config)
    if scored or config.iqa.metric not in columns_of(config.select.where or "true"):
        rules.apply_where(codes, pool, config)
    if scored or not waits_for_metric(config):
        rules.apply_tiles(codes, pool, config)
    return codes


def find_unscored(pool: Pool, config: FilterConfig) -> np.ndarray:
    """int64 rows of the pool: survivors of the rules that have neither a score of the metric nor a reason why not."""
    if config.iqa.metric == "none":
        return np.zeros(0, np.int64)
    waiting = (find_survivors(pool, config, scored=False) == KEPT) & ~pool.measured(config.iqa.metric)
    return np.flatnonzero(waiting)


class Counts(TypedDict):
    """candidates = kept + rejected per reason + failed per reason. `included`: of the kept, those by hand; `in_base`:
    those of the published set that is added to."""

    candidates: int
    kept: int
    included: int
    rejected: dict[str, int]
    failed: dict[str, int]
    in_base: NotRequired[int]


def write_ledger(folder: Folder, pool: Pool, config: FilterConfig) -> Counts:
    """Publishes selected.parquet of the pool's candidates and returns its counts per reason."""
    decided = decide(pool, config)
    check_base(pool, decided[0], run_folder.forgotten_keys(folder))
    folder.publish(runs.LEDGER, table_chunks(make_tables(pool, config, decided), REPEATING))
    return count_codes(decided[0])


def check_base(pool: Pool, codes: np.ndarray, forgotten: frozenset[str]) -> None:
    """InputError where an image of the base would not stay: its shards are not written again but by `forget`."""
    if pool.arrays.base is None:
        return
    gone = np.flatnonzero(pool.arrays.base & (codes != records.CODE[records.BASE]))
    keys = concat_rows(pool, [basic["key"] for basic in pool.basics]).take(pa.array(gone)).to_pylist()
    lost = [(key, records.REASONS[code]) for key, code in zip(keys, codes[gone], strict=True) if key not in forgotten]
    if lost:
        raise InputError(
            f"{len(lost)} images of the base would not stay ({lost[0][0]}: {lost[0][1]}): its shards are not written "
            "again; `lucidflux-data forget` takes images out of the base, then select with it once more"
        )


def make_tables(pool: Pool, config: FilterConfig, decided: tuple[np.ndarray, ...]) -> Iterator[pa.Table]:
    """The ledger of what `decide` gave, ROWS_IN_GROUP candidates at a time."""
    further, metric = selection_columns.read_carried(pool, config), config.iqa.metric
    first = 0
    for number, part in enumerate(pool.parts):
        mine = [pool.of_part(values, number) for values in decided]
        inventory = run_folder.read_inventory(part.folder, ["offset", "side"])
        good = _good_tiles(pool, number, mine[0], config)
        pieces = [slice(start, start + ROWS_IN_GROUP) for start in range(0, max(1, len(mine[0])), ROWS_IN_GROUP)]
        abouts = ahead(partial(pool.basics[number].take, COLUMNS, pool.rows[number][some]) for some in pieces)
        for some, about in zip(pieces, abouts, strict=True):
            start, rows = some.start, pool.rows[number][some]
            place = take_rows(inventory, rows)
            columns = _ledger_columns(about, place, [values[some] for values in mine[:3]], metric)
            columns["group"] = pool.group_keys(mine[3][some])
            if part.base:
                columns["group"] = pc.coalesce(
                    _published(pool, number, "group").slice(start, len(rows)), columns["group"]
                )
            if good is not None:
                columns[COLUMN] = good.slice(start, len(rows))
            own = further.slice(first + start, len(rows))
            columns |= {name: own[name] for name in own.column_names if name not in columns}
            yield pa.table(columns)
        first += len(pool.rows[number])


def _good_tiles(pool: Pool, number: int, codes: np.ndarray, config: FilterConfig) -> pa.ChunkedArray | None:
    """The good tiles of each kept candidate of a part; None where no tiles are asked for."""
    if not config.select.where_tile:
        return None
    part, rows = pool.parts[number], pool.rows[number]
    if part.base:
        return _published(pool, number, COLUMN)
    kept = pool.basics[number]["uri"].take(pa.array(rows)).filter(pa.array(records.is_kept(codes)))
    tiled = bool(part.folder.names(tile_table.BASIC)) or not part.included
    good = list_good(part, kept.combine_chunks(), config) if tiled else {}
    uris = pool.basics[number]["uri"].take(pa.array(rows)).to_pylist()
    return pa.chunked_array([pa.array([good.get(uri) for uri in uris], pa.string())])


def _published(pool: Pool, number: int, name: str) -> pa.ChunkedArray:
    """What a published set tells of its images. Its groups stay: by them validation sets are split."""
    told = pool.measure(number, selection_columns.OF_BASE)
    there = told is not None and name in told.column_names
    empty = pa.chunked_array([pa.nulls(pool.parts[number].candidates, pa.string())])
    column = told[name] if told is not None and there else empty
    return column.take(pa.array(pool.rows[number])).cast(pa.string())


def decide(pool: Pool, config: FilterConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(int16 codes, int64 ranks with 0 for none, float64 scores with NaN for none, int64 near-duplicate groups as
    rows of their smallest key, -1 for none) of the pool's candidates."""
    codes = find_survivors(pool, config)
    ranks, scores = np.zeros(len(codes), np.int64), np.full(len(codes), np.nan)
    groups = np.full(len(codes), -1)
    metric = config.iqa.metric
    alive = np.flatnonzero(records.is_kept(codes))
    if metric != "none":
        from lucidflux_data.iqa.metrics import lower_is_better

        failed = np.full(len(codes), KEPT, np.int16)
        for number in range(len(pool.parts)):
            mine = _scores_of_part(pool, number, metric)
            pool.of_part(scores, number)[:], pool.of_part(failed, number)[:] = (
                all_[pool.rows[number]] for all_ in mine
            )
        codes, ranks = rules.apply_cut(codes, pool.arrays, scores, failed, lower_is_better(metric), config.cut)
        alive = alive[(ranks[alive] > 0) | records.is_kept(codes)[alive]]
    codes = rules.apply_balance(codes, pool, ranks, config)
    if config.select.near_duplicates is not None:
        groups = rules.near_groups(pool, alive, config.select.near_duplicates)
        codes = rules.drop_near(codes, pool.arrays, ranks, groups, config.cut)
    codes = rules.drop_semantic(codes, pool, ranks, config)
    rules.apply_quotas(codes, pool, ranks, config)
    return codes, ranks, scores, groups


def _ledger_columns(
    basic: pa.Table, inventory: pa.Table, decided: list[np.ndarray], metric: str
) -> dict[str, pa.Array]:
    codes, ranks, scores = decided
    columns = {
        "uri": basic["uri"],
        "key": basic["key"],
        "keep": pa.array(records.is_kept(codes)),
        "reason": pa.array(records.REASONS).take(pa.array(codes, pa.int16(), mask=codes == KEPT)),
        "rank": pa.array(ranks, pa.int64(), mask=ranks == 0),
        "group": pa.nulls(len(codes), pa.string()),
        "laplacian_variance": basic["laplacian_variance"],
        "flat_fraction": basic["flat_fraction"],
    }
    if metric != "none":
        columns[metric] = pa.array(scores, pa.float64(), from_pandas=True)
    columns |= {name: basic[name] for name in CARRIED}
    return columns | {"offset": inventory["offset"], "side": inventory["side"]}


def _scores_of_part(pool: Pool, number: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores (NaN where none) and failure codes of a measure, a row for each candidate of the part."""
    candidates = pool.parts[number].candidates
    table = pool.measure(number, metric)
    if table is None:
        return np.full(candidates, np.nan), np.full(candidates, KEPT, np.int16)
    return float_column(table[metric], np.nan), reason_codes(table["reason"])


def counts(ledger: pa.Table) -> Counts:
    """The sum is checked. Needs `keep` and `reason`. VerificationError where they do not agree."""
    codes = reason_codes(ledger["reason"])
    known = np.array_equal(codes == KEPT, ledger["reason"].is_null().to_numpy())
    if not known or not np.array_equal(records.is_kept(codes), ledger["keep"].to_numpy(zero_copy_only=False)):
        raise VerificationError(
            f"{runs.LEDGER} is damaged, `keep` and `reason` of a row do not agree: `verify --repair` makes it again"
        )
    return count_codes(codes)


def count_codes(codes: np.ndarray) -> Counts:
    """Of int16 codes, one a candidate, as `decide` gives them."""
    found = np.bincount(codes + 1, minlength=len(records.REASONS) + 1).tolist()
    tally = dict(zip(records.REASONS, found[1:], strict=True))
    result: Counts = {
        "candidates": len(codes),
        "kept": found[0] + tally[records.INCLUDED] + tally[records.BASE],
        "included": tally[records.INCLUDED],
        "rejected": {reason: tally[reason] for reason in records.REJECTIONS if tally[reason]},
        "failed": {reason: tally[reason] for reason in records.FAILURES if tally[reason]},
    }
    if tally[records.BASE]:
        result["in_base"] = tally[records.BASE]
    gone = sum(result["rejected"].values()) + sum(result["failed"].values())
    assert result["candidates"] == result["kept"] + gone, "every candidate is accounted for"
    return result
