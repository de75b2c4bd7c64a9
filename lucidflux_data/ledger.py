"""From the score tables of a run to the decision ledger: reads tables, asks selection.py, writes one table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data import records, runs, selection
from lucidflux_data.config import FilterConfig
from lucidflux_data.selection import KEPT, Candidates
from lucidflux_data.storage import Folder, table_bytes

CARRIED = ("source_key", "sha256", "bytes", "format", "width", "height", "flags")
NO_KEY = "0" * 20


def load_candidates(basic: pa.Table) -> Candidates:
    """The columns that decide, as arrays."""
    keys = pc.fill_null(basic["key"], NO_KEY).combine_chunks()
    high, low = selection.split_keys("".join(keys.to_pylist()).encode())
    return Candidates(
        keys_high=high,
        keys_low=low,
        failed=_codes(basic["reason"]),
        min_side=_numbers(pc.min_element_wise(basic["width"], basic["height"]), -1).astype(np.int32),
        laplacian_variance=_numbers(basic["laplacian_variance"], np.nan),
        flat_fraction=_numbers(basic["flat_fraction"], np.nan),
        included=np.zeros(basic.num_rows, bool),
    )


def _codes(reasons: pa.ChunkedArray) -> np.ndarray:
    """int16 positions in records.REASONS, -1 for null."""
    return pc.fill_null(pc.index_in(reasons, pa.array(records.REASONS)), KEPT).to_numpy().astype(np.int16)


def _numbers(column: pa.ChunkedArray, missing: float) -> np.ndarray:
    return pc.fill_null(column.cast(pa.float64()), missing).to_numpy()


def survivors(folder: Folder, candidates: int, config: FilterConfig) -> tuple[pa.Table, Candidates, np.ndarray]:
    """(scores/basic, arrays, codes after the cheap rules) of a scored run."""
    basic = runs.read_basic(folder, candidates)
    arrays = load_candidates(basic)
    return basic, arrays, selection.apply_rules(arrays, config.rules)


def write_ledger(folder: Folder, candidates: int, config: FilterConfig) -> dict[str, Any]:
    """Publishes selected.parquet and returns its counts per reason."""
    basic, arrays, codes = survivors(folder, candidates, config)
    ranks = np.zeros(len(arrays), np.int64)
    metric = config.iqa.metric
    columns: dict[str, pa.Array] = {}
    if metric != "none":
        from lucidflux_data.iqa import lower_is_better

        scores, failed = _scores_by_row(folder, metric, basic)
        codes, ranks = selection.apply_cut(codes, arrays, scores, failed, lower_is_better(metric), config.cut)
        columns[metric] = pa.array(scores, pa.float64(), from_pandas=True)
    kept = selection.is_kept(codes)
    names = pa.array(records.REASONS).take(pa.array(codes, pa.int16(), mask=codes == KEPT))
    head = {
        "uri": basic["uri"],
        "key": basic["key"],
        "keep": pa.array(kept),
        "reason": names,
        "rank": pa.array(ranks, pa.int64(), mask=ranks == 0),
        "group": pa.nulls(len(codes), pa.string()),
    }
    measures = {name: basic[name] for name in ("laplacian_variance", "flat_fraction")}
    carried = {name: basic[name] for name in CARRIED}
    inventory = runs.read_inventory(folder)
    place = {"offset": inventory["offset"], "side": inventory["side"]}
    table = pa.table({**head, **measures, **columns, **carried, **place})
    folder.publish(runs.LEDGER, table_bytes(table))
    return counts(table)


def _scores_by_row(folder: Folder, metric: str, basic: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Scores (NaN where none) and failure codes of a measure, aligned with the rows of `basic`."""
    scores = np.full(basic.num_rows, np.nan)
    failed = np.full(basic.num_rows, KEPT, np.int16)
    table = runs.read_measure(folder, metric)
    if table is not None:
        rows = pc.index_in(table["uri"], basic["uri"].combine_chunks()).to_numpy()
        scores[rows] = _numbers(table[metric], np.nan)
        failed[rows] = _codes(table["reason"])
    return scores, failed


def counts(ledger: pa.Table) -> dict[str, Any]:
    """candidates = kept + rejected per reason + failed per reason; the sum is checked."""
    codes = _codes(ledger["reason"])
    agree = selection.is_kept(codes) == ledger["keep"].to_numpy()
    assert agree.all(), "a row is kept exactly when no rule speaks against it"
    tally = dict(
        zip(records.REASONS, np.bincount(codes + 1, minlength=len(records.REASONS) + 1)[1:].tolist(), strict=True)
    )
    result = {
        "candidates": ledger.num_rows,
        "kept": int(pc.sum(ledger["keep"]).as_py() or 0),
        "included": tally[records.INCLUDED],
        "rejected": {reason: tally[reason] for reason in records.REJECTIONS if tally[reason]},
        "failed": {reason: tally[reason] for reason in records.FAILURES if tally[reason]},
    }
    gone = sum(result["rejected"].values()) + sum(result["failed"].values())
    assert result["candidates"] == result["kept"] + gone, "every candidate is accounted for"
    return result
