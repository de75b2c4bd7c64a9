"""The rules that need more than the basic measures, as codes over a pool: opt-out lists, benchmarks, history, --where.

    failed > opted_out > benchmark_leak > duplicate > included > the cheap rules > jpeg_artifacts > upscaled > soft
    > where_not_met > low_iqa > near_duplicate

Measures are taken of the survivors of the cheap rules only, so a benchmark image that a cheap rule rejects anyway keeps
that rule's reason.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.config import FilterConfig
from lucidflux_data.errors import InputError
from lucidflux_data.measures import near_duplicates as neardup
from lucidflux_data.measures.fingerprints import measure_name
from lucidflux_data.selection import rules as selection
from lucidflux_data.selection.columns import gather, wanted_columns
from lucidflux_data.selection.expression import columns_of, matches
from lucidflux_data.selection.ledger import Pool, concat_rows, whole_measure
from lucidflux_data.selection.rules import CODE, KEPT
from lucidflux_data.storage.folder import Folder

HISTORY = "history"


def needs_history(config: FilterConfig) -> bool:
    """Whether a rule in force uses scores/history."""
    rules = config.rules
    asked = (rules.min_jpeg_quality, rules.max_blockiness, rules.min_spectral_cutoff, rules.min_fixed_sharpness)
    return config.select.near_duplicates is not None or any(rule is not None for rule in asked)


def opted_out(pool: Pool, config: FilterConfig) -> np.ndarray | None:
    """bool: on a list by sha256, key or uri, or a copy of something that is. None without a list."""
    if not config.select.opt_out:
        return None
    listed = pa.array(sorted({entry for place in config.select.opt_out for entry in read_list(place)}), pa.string())
    own = {name: concat_rows(pool, [table[name] for table in pool.tables]) for name in ("sha256", "key", "uri")}
    named = np.zeros(len(pool.arrays), bool)
    for column in own.values():
        named |= pc.is_in(column, listed).to_numpy(zero_copy_only=False)
    keys = pc.drop_null(own["key"].filter(pa.array(named)))
    return named | pc.is_in(own["key"], keys).to_numpy(zero_copy_only=False)


def read_list(place: str) -> list[str]:
    """One sha256, key or uri a line; `#` starts a comment. InputError where the list is not there."""
    folder, _, name = place.rpartition("/")
    try:
        text = Folder(folder or ".").read(name).decode("utf-8", "replace")
    except FileNotFoundError:
        raise InputError(f"the opt-out list {place} is not there") from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def cheap_codes(pool: Pool, config: FilterConfig) -> np.ndarray:
    """int16 codes after failures, opt-outs, duplicates and the rules on the basic measures."""
    return selection.apply_rules(pool.arrays, config.rules, opted_out(pool, config))


def apply_history(codes: np.ndarray, pool: Pool, config: FilterConfig) -> None:
    """Rules on scores/history; a row without it (not measured yet) is not rejected. Changes `codes`."""
    rules = config.rules
    limits = (
        ("jpeg_artifacts", "jpeg_quality", rules.min_jpeg_quality, np.less),
        ("jpeg_artifacts", "blockiness", rules.max_blockiness, np.greater),
        ("upscaled", "spectral_cutoff", rules.min_spectral_cutoff, np.less),
        ("soft", "fixed_sharpness", rules.min_fixed_sharpness, np.less),
    )
    for reason, column, limit, outside in limits:
        if limit is not None:
            values = numbers(pool, HISTORY, column)
            with np.errstate(invalid="ignore"):
                codes[(codes == KEPT) & outside(values, limit)] = CODE[reason]


def apply_leaks(codes: np.ndarray, pool: Pool, measure: str) -> None:
    """Images of a benchmark, by hand or not. Changes `codes`."""
    leaks = column_of(pool, measure, "leak", pa.string())
    found = pc.is_valid(leaks).to_numpy(zero_copy_only=False)
    codes[found & ((codes == KEPT) | (codes == CODE["included"]))] = CODE["benchmark_leak"]


def apply_where(codes: np.ndarray, pool: Pool, config: FilterConfig) -> None:
    """Rows of which the expression is not true. Changes `codes`."""
    if config.select.where:
        table = gather(pool, columns_of(config.select.where), config)
        codes[(codes == KEPT) & ~matches(config.select.where, table).to_numpy(zero_copy_only=False)] = CODE[
            "where_not_met"
        ]


def carried(pool: Pool, config: FilterConfig) -> pa.Table:
    """The columns that the ledger gets beside its own: those of --where and --carry, and the image a leak shows."""
    table = gather(pool, wanted_columns(config), config)
    if not config.select.forbid:
        return table
    leaks = column_of(pool, measure_name(config.select.forbid), "leak", pa.string())
    return pa.table({name: table[name] for name in table.column_names} | {"leak": leaks})


def near_groups(pool: Pool, rows: np.ndarray, radius: int) -> np.ndarray:
    """int64 over the pool: the row with the smallest key of a candidate's near-duplicate group, -1 outside a group.

    Only `rows` take part.
    """
    groups = np.full(len(pool.arrays), -1)
    hashes = column_of(pool, HISTORY, "phash", pa.uint64()).combine_chunks()
    rows = rows[pc.is_valid(hashes).to_numpy(zero_copy_only=False)[rows]]
    order = np.lexsort((pool.arrays.keys_low[rows], pool.arrays.keys_high[rows]))
    rows = rows[order]
    roots = neardup.group_near(pc.fill_null(hashes, 0).to_numpy()[rows], radius)
    members = np.bincount(roots, minlength=len(rows))[roots]
    groups[rows] = np.where(members > 1, rows[roots], -1) if len(rows) else -1
    return groups


def numbers(pool: Pool, measure: str, column: str) -> np.ndarray:
    """float64 of a measure's column over the pool, NaN where there is none."""
    values = column_of(pool, measure, column, pa.float64()).cast(pa.float64())
    return pc.fill_null(values, np.nan).to_numpy()


def column_of(pool: Pool, measure: str, column: str, kind: pa.DataType) -> pa.ChunkedArray:
    """A column of scores/<measure>, a row for each candidate of the pool; null where there is none yet."""
    pieces = []
    for part, table in zip(pool.parts, pool.tables, strict=True):
        whole = whole_measure(part, table["uri"], measure)
        pieces.append(whole[column] if whole is not None else pa.nulls(part.candidates, kind))
    return concat_rows(pool, pieces)
