"""From the score tables of one or more runs to the decision ledger: reads tables, asks selection.py, writes one table.

A ledger draws from *parts*: the run itself, or the runs and included runs that run.json names. What several parts list
is a candidate once, of the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.config import FilterConfig
from lucidflux_data.measures import fingerprints
from lucidflux_data.selection import records
from lucidflux_data.selection import rules as selection
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.rules import KEPT, Candidates
from lucidflux_data.selection.run import Part
from lucidflux_data.storage.folder import ROWS_IN_GROUP, Folder, table_chunks

CARRIED = ("source_key", "sha256", "bytes", "format", "width", "height", "flags")
COLUMNS = ("key", "uri", "reason", "laplacian_variance", "flat_fraction", *CARRIED)
REPEATING = ("reason", "group", "format", "flags")  # of the ledger: few values, many rows
NO_KEY = "0" * 20


@dataclass(frozen=True)
class Pool:
    """The candidates of a ledger, part after part.

    `tables[i]`: COLUMNS of all of part i; `rows[i]`: int64 positions in it of the candidates that count.
    """

    parts: list[Part]
    tables: list[pa.Table]
    rows: list[np.ndarray]
    arrays: Candidates

    def of_part(self, values: np.ndarray, number: int) -> np.ndarray:
        """The slice of a pool-wide array that belongs to part `number`."""
        start = sum(len(rows) for rows in self.rows[:number])
        return values[start : start + len(self.rows[number])]

    def group_keys(self, groups: np.ndarray) -> pa.Array:
        """The key of each row's group (`groups`: pool-wide rows, -1 for none) as text, null for none."""
        wanted = np.maximum(groups, 0)
        high, low = self.arrays.keys_high[wanted], self.arrays.keys_low[wanted]
        there = groups >= 0
        if not there.any():
            return pa.nulls(len(groups), pa.string())
        keys = [
            f"{first:016x}{last:04x}" if yes else None
            for first, last, yes in zip(high.tolist(), low.tolist(), there, strict=True)
        ]
        return pa.array(keys, pa.string())


def load_pool(parts: list[Part]) -> Pool:
    """The candidates of every part. InputError where a part is not scored to the end."""
    tables, rows = [], []
    seen: list[pa.ChunkedArray] = []
    for part in parts:
        table = runs.read_basic(part.folder, COLUMNS)
        mine = np.arange(table.num_rows)
        if part.kept_by is not None:
            ledger = part.kept_by.read_table(runs.LEDGER, ["uri", "keep"])
            kept = ledger.filter(pc.field("keep"))["uri"]
            mine = mine[pc.is_in(table["uri"], kept.combine_chunks()).to_numpy()]
        for uris in seen:
            again = pc.is_in(table["uri"], uris.combine_chunks()).to_numpy()
            mine = mine[~again[mine]]
        if len(parts) > 1:
            seen.append(table["uri"])
        tables.append(table)
        rows.append(mine)
    included = np.repeat([part.included for part in parts], [len(mine) for mine in rows])
    deciding = [_taken(table, mine) for table, mine in zip(tables, rows, strict=True)]
    return Pool(parts, tables, rows, load_candidates(pa.concat_tables(deciding), included))


def concat_rows(pool: Pool, pieces: Sequence[Any]) -> pa.ChunkedArray:
    """One column over the pool from one column a part (a row for each candidate of the part)."""
    kinds = {piece.type for piece in pieces}
    kind = max(kinds, key=str) if len(kinds) > 1 else next(iter(kinds))
    chunks: list[Any] = []
    for piece, rows in zip(pieces, pool.rows, strict=True):
        taken = piece if len(rows) == len(piece) else piece.take(pa.array(rows))
        taken = taken.cast(kind)
        chunks += taken.chunks if isinstance(taken, pa.ChunkedArray) else [taken]
    return pa.chunked_array(chunks, kind)


def whole_measure(part: Part, uris: pa.ChunkedArray, measure: str) -> pa.Table | None:
    """All columns of scores/<measure> with a row for each candidate of the part (null where there is none yet)."""
    size = runs.unit_size(part.candidates)
    tables = []
    found = runs.read_measure(part.folder, measure)
    if not found:
        return None
    schema = pa.unify_schemas([table.schema for table in found.values()], promote_options="permissive")
    empty = schema.empty_table()
    for number in range(-(-part.candidates // size)):
        own = uris.slice(number * size, size).combine_chunks()
        table = pa.concat_tables([found.get(number, empty), empty], promote_options="permissive").select(schema.names)
        rows = pc.index_in(own, table["uri"].combine_chunks().cast(own.type))
        tables.append(table.combine_chunks().take(rows))
    return pa.concat_tables(tables)


def _taken(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """`table.take(rows)`, without a copy where the rows follow one another."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return table.slice(int(rows[0]), len(rows))
    return table.take(rows)


def load_candidates(basic: pa.Table, included: np.ndarray) -> Candidates:
    """The columns that decide, as arrays. `included`: bool, a row each."""
    high, low = selection.split_keys(_joined(pc.fill_null(basic["key"], NO_KEY)))
    return Candidates(
        keys_high=high,
        keys_low=low,
        failed=_codes(basic["reason"]),
        min_side=_numbers(pc.min_element_wise(basic["width"], basic["height"]), -1).astype(np.int32),
        laplacian_variance=_numbers(basic["laplacian_variance"], np.nan),
        flat_fraction=_numbers(basic["flat_fraction"], np.nan),
        included=included,
    )


def _joined(strings: pa.ChunkedArray) -> bytes:
    """The bytes of all strings one after the other, without a Python object for each."""
    joined = []
    for chunk in strings.chunks:
        _, ends, data = chunk.buffers()
        bounds = np.frombuffer(ends, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        joined.append(data[int(bounds[0]) : int(bounds[-1])].to_pybytes() if len(chunk) else b"")
    return b"".join(joined)


def _codes(reasons: pa.ChunkedArray) -> np.ndarray:
    """int16 positions in records.REASONS, -1 for null."""
    return pc.fill_null(pc.index_in(reasons, pa.array(records.REASONS)), KEPT).to_numpy().astype(np.int16)


def _numbers(column: pa.ChunkedArray, missing: float) -> np.ndarray:
    return pc.fill_null(column.cast(pa.float64()), missing).to_numpy()


def survivors(pool: Pool, config: FilterConfig, scored: bool = True) -> np.ndarray:
    """int16 codes of the pool's candidates before the cut. Measures that rules need and rows lack reject nothing.

    `scored`: whether the quality metric is there; before it is, a --where that names it waits.
    """
    from lucidflux_data.selection import more_rules

    codes = more_rules.cheap_codes(pool, config)
    if config.select.forbid:
        more_rules.apply_leaks(codes, pool, fingerprints.measure_name(config.select.forbid))
    if more_rules.needs_history(config):
        more_rules.apply_history(codes, pool, config)
    if scored or config.iqa.metric not in more_rules.columns_of(config.select.where or "true"):
        more_rules.apply_where(codes, pool, config)
    return codes


def write_ledger(folder: Folder, config: FilterConfig) -> dict[str, Any]:
    """Publishes selected.parquet and returns its counts per reason."""
    from lucidflux_data.selection import more_rules

    pool = load_pool(runs.parts(folder))
    codes, ranks, scores, groups = decide(pool, config)
    further = more_rules.carried(pool, config)
    tables = _ledger_tables(pool, (codes, ranks, scores, groups), further, config.iqa.metric)
    folder.publish(runs.LEDGER, table_chunks(tables, REPEATING))
    return _counted(codes)


def _ledger_tables(pool: Pool, decided: tuple[np.ndarray, ...], further: pa.Table, metric: str) -> Iterator[pa.Table]:
    """The ledger, ROWS_IN_GROUP candidates at a time. `further`: columns of the whole pool that go along."""
    first = 0
    for number, part in enumerate(pool.parts):
        mine = [pool.of_part(values, number) for values in decided]
        inventory = runs.read_inventory(part.folder, ["offset", "side"])
        for start in range(0, max(1, len(pool.rows[number])), ROWS_IN_GROUP):
            some = slice(start, start + ROWS_IN_GROUP)
            rows = pool.rows[number][some]
            about, place = (_taken(table, rows) for table in (pool.tables[number], inventory))
            columns = _ledger_columns(about, place, [values[some] for values in mine[:3]], metric)
            columns["group"] = pool.group_keys(mine[3][some])
            own = further.slice(first + start, len(rows))
            columns |= {name: own[name] for name in own.column_names if name not in columns}
            yield pa.table(columns)
        first += len(pool.rows[number])


def decide(pool: Pool, config: FilterConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(int16 codes, int64 ranks with 0 for none, float64 scores with NaN for none, int64 near-duplicate groups as
    rows of their smallest key, -1 for none) of the pool's candidates."""
    codes = survivors(pool, config)
    ranks, scores = np.zeros(len(codes), np.int64), np.full(len(codes), np.nan)
    groups = np.full(len(codes), -1)
    metric = config.iqa.metric
    alive = np.flatnonzero(selection.is_kept(codes))
    if metric != "none":
        from lucidflux_data.iqa.metrics import lower_is_better

        failed = np.full(len(codes), KEPT, np.int16)
        for number in range(len(pool.parts)):
            mine = _scores_of_part(pool.parts[number], pool.tables[number]["uri"], metric)
            pool.of_part(scores, number)[:], pool.of_part(failed, number)[:] = (
                all_[pool.rows[number]] for all_ in mine
            )
        codes, ranks = selection.apply_cut(codes, pool.arrays, scores, failed, lower_is_better(metric), config.cut)
        alive = alive[(ranks[alive] > 0) | selection.is_kept(codes)[alive]]
    if config.select.near_duplicates is not None:
        from lucidflux_data.selection import more_rules

        groups = more_rules.near_groups(pool, alive, config.select.near_duplicates)
        codes = selection.drop_near(codes, pool.arrays, ranks, groups, config.cut)
    return codes, ranks, scores, groups


def _ledger_columns(basic: pa.Table, inventory: pa.Table, decided: list[np.ndarray], metric: str) -> dict[str, Any]:
    codes, ranks, scores = decided
    columns = {
        "uri": basic["uri"],
        "key": basic["key"],
        "keep": pa.array(selection.is_kept(codes)),
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


def _scores_of_part(part: Part, uris: pa.ChunkedArray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores (NaN where none) and failure codes of a measure, a row for each candidate of the part."""
    scores = np.full(part.candidates, np.nan)
    failed = np.full(part.candidates, KEPT, np.int16)
    size = runs.unit_size(part.candidates)
    for number, table in runs.read_measure(part.folder, metric).items():
        own = uris.slice(number * size, size).combine_chunks()
        rows = number * size + pc.index_in(table["uri"], own).to_numpy()
        scores[rows] = _numbers(table[metric], np.nan)
        failed[rows] = _codes(table["reason"])
    return scores, failed


def counts(ledger: pa.Table) -> dict[str, Any]:
    """candidates = kept + rejected per reason + failed per reason; the sum is checked. Needs `keep` and `reason`."""
    codes = _codes(ledger["reason"])
    agree = selection.is_kept(codes) == ledger["keep"].to_numpy()
    assert agree.all(), "a row is kept exactly when no rule speaks against it"
    return _counted(codes)


def _counted(codes: np.ndarray) -> dict[str, Any]:
    found = np.bincount(codes + 1, minlength=len(records.REASONS) + 1).tolist()
    tally = dict(zip(records.REASONS, found[1:], strict=True))
    result = {
        "candidates": len(codes),
        "kept": found[0] + tally[records.INCLUDED],
        "included": tally[records.INCLUDED],
        "rejected": {reason: tally[reason] for reason in records.REJECTIONS if tally[reason]},
        "failed": {reason: tally[reason] for reason in records.FAILURES if tally[reason]},
    }
    gone = sum(result["rejected"].values()) + sum(result["failed"].values())
    assert result["candidates"] == result["kept"] + gone, "every candidate is accounted for"
    return result
