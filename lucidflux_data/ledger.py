"""From the score tables of one or more runs to the decision ledger: reads tables, asks selection.py, writes one table.

A ledger draws from *parts*: the run itself, or the runs and included runs that run.json names. What several parts list
is a candidate once, of the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data import records, runs, selection
from lucidflux_data.config import FilterConfig
from lucidflux_data.runs import Part
from lucidflux_data.selection import KEPT, Candidates
from lucidflux_data.storage import ROWS_IN_GROUP, Folder, table_chunks

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


def survivors(pool: Pool, config: FilterConfig) -> np.ndarray:
    """int16 codes of the pool's candidates after the cheap rules."""
    return selection.apply_rules(pool.arrays, config.rules)


def write_ledger(folder: Folder, config: FilterConfig) -> dict[str, Any]:
    """Publishes selected.parquet and returns its counts per reason."""
    pool = load_pool(runs.parts(folder))
    codes, ranks, scores = decide(pool, config)
    folder.publish(runs.LEDGER, table_chunks(_ledger_tables(pool, codes, ranks, scores, config.iqa.metric), REPEATING))
    return _counted(codes)


def _ledger_tables(
    pool: Pool, codes: np.ndarray, ranks: np.ndarray, scores: np.ndarray, metric: str
) -> Iterator[pa.Table]:
    """The ledger, ROWS_IN_GROUP candidates at a time."""
    for number, part in enumerate(pool.parts):
        mine = [pool.of_part(values, number) for values in (codes, ranks, scores)]
        inventory = runs.read_inventory(part.folder, ["offset", "side"])
        for start in range(0, max(1, len(pool.rows[number])), ROWS_IN_GROUP):
            some = slice(start, start + ROWS_IN_GROUP)
            rows = pool.rows[number][some]
            about, place = (_taken(table, rows) for table in (pool.tables[number], inventory))
            yield _ledger_table(about, place, [values[some] for values in mine], metric)


def decide(pool: Pool, config: FilterConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(int16 codes, int64 ranks with 0 for none, float64 scores with NaN for none) of the pool's candidates."""
    codes = survivors(pool, config)
    ranks, scores = np.zeros(len(codes), np.int64), np.full(len(codes), np.nan)
    metric = config.iqa.metric
    if metric == "none":
        return codes, ranks, scores
    from lucidflux_data.iqa import lower_is_better

    failed = np.full(len(codes), KEPT, np.int16)
    for number in range(len(pool.parts)):
        mine = _scores_of_part(pool.parts[number], pool.tables[number]["uri"], metric)
        pool.of_part(scores, number)[:], pool.of_part(failed, number)[:] = (all_[pool.rows[number]] for all_ in mine)
    codes, ranks = selection.apply_cut(codes, pool.arrays, scores, failed, lower_is_better(metric), config.cut)
    return codes, ranks, scores


def _ledger_table(basic: pa.Table, inventory: pa.Table, decided: list[np.ndarray], metric: str) -> pa.Table:
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
    return pa.table(columns | {"offset": inventory["offset"], "side": inventory["side"]})


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
