"""What decides about each candidate, as arrays: what sliders cannot change is one code, what they can is a measure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import InputError
from lucidflux_data.measures.near_duplicates import group_near, near_pairs
from lucidflux_data.selection import ledger, records, rules
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.columns import gather
from lucidflux_data.selection.config import FilterConfig, make_config
from lucidflux_data.selection.expression import columns_of, matches
from lucidflux_data.selection.pool import Pool, reason_codes
from lucidflux_data.selection.records import KEPT
from lucidflux_data.storage.folder import Folder

# Bits of `waits` and `flags`: what is known of a candidate beside its measures.
LEAK, LEAK_UNKNOWN, WHERE_NOT, WHERE_WAITS, WHERE_WAITS_FOR_HISTORY, HISTORY_UNKNOWN, SCORE_UNKNOWN = (
    1 << bit for bit in range(7)
)
MOST_PAIRS = 2_000_000  # near-duplicates that a page follows: 16 MB as the browser holds them


@dataclass(frozen=True)
class Rule:
    """A setting of `rules`, and the measure that it bounds. `sense`: `min` or `max` of what is kept; `log`: the measure
    is shown on a logarithmic axis; `whole`: it is a whole number; `history`: it is in scores/history."""

    setting: str
    measure: str
    sense: str
    reason: str
    title: str
    unit: str = ""
    log: bool = False
    whole: bool = False
    history: bool = False


# In the order in which `selection.rules` asks them.
RULES = (
    Rule("min_side", "min_side", "min", "too_small", "Shorter side ≥", "px", log=True, whole=True),
    Rule("min_laplacian_variance", "laplacian_variance", "min", "too_blurry", "Blur: variance ≥", log=True),
    Rule("max_laplacian_variance", "laplacian_variance", "max", "too_sharp", "Noise: variance ≤", log=True),
    Rule("max_flat_fraction", "flat_fraction", "max", "too_flat", "Flat patches ≤"),
    Rule("min_jpeg_quality", "jpeg_quality", "min", "jpeg_artifacts", "JPEG quality ≥", whole=True, history=True),
    Rule("max_blockiness", "blockiness", "max", "jpeg_artifacts", "Blocking ≤", history=True),
    Rule("min_spectral_cutoff", "spectral_cutoff", "min", "upscaled", "Frequencies used ≥", history=True),
    Rule("min_fixed_sharpness", "fixed_sharpness", "min", "soft", "Sharp at 512 px ≥", history=True),
)


@dataclass(frozen=True)
class Deciding:
    """n candidates, in the order of the ledger.

    `fixed`: int16 code of what no slider changes (a failure, an opt-out, a copy, kept by hand), -1 for the others;
    `flags`: uint8, the bits above; `failed`: int16 code of a failure of the metric, -1 elsewhere; `measures`: float64
    by name, NaN where there is none, the score under `score`; `order`: int64 place by score and key, 0 the best, -1
    without a score; `codes`: int16, what the run decides; `hashes`: uint64 and `hashed`: bool, where near-duplicates
    are dropped.
    """

    fixed: np.ndarray
    flags: np.ndarray
    failed: np.ndarray
    measures: dict[str, np.ndarray]
    order: np.ndarray
    codes: np.ndarray
    ranked: int  # scored survivors
    by_key: np.ndarray  # int64: place by key
    hashes: np.ndarray | None
    hashed: np.ndarray | None

    def __len__(self) -> int:
        return len(self.fixed)


def read_deciding(folder: Folder, pool: Pool, config: FilterConfig) -> Deciding:
    """Of the ledger in force. InputError where it is older than the scores, so that it is not what `select` gives."""
    missing = ledger.find_unscored(pool, config)
    if len(missing):
        raise InputError(f"{len(missing)} candidates lack a score: `lucidflux-data select {folder}` first")
    codes, ranks, *_ = ledger.decide(pool, config)
    table = runs.read_ledger(folder, ["reason", "uri"])
    if len(codes) != table.num_rows or not np.array_equal(codes, reason_codes(table["reason"])):
        raise InputError(
            f"the ledger of {folder} is not what its scores give now: `lucidflux-data select {folder}` decides again"
        )
    candidates = pool.arrays
    fixed = rules.cheap_codes(pool, config.model_copy(update={"rules": _loosest(config)}))
    measures = {
        "min_side": candidates.min_side.astype(np.float64),
        "laplacian_variance": candidates.laplacian_variance,
        "flat_fraction": candidates.flat_fraction,
    }
    measures |= {rule.measure: pool.numbers(rules.HISTORY, rule.measure) for rule in RULES if rule.history}
    failed, order = np.full(len(fixed), KEPT, np.int16), np.full(len(fixed), -1)
    by_key = _places(np.lexsort((candidates.keys_low, candidates.keys_high)), len(fixed))
    metric = config.iqa.metric
    if metric != "none":
        from lucidflux_data.iqa.metrics import lower_is_better

        scores = pool.numbers(metric, metric)
        failed = reason_codes(pool.column(metric, "reason", pa.string()))
        measures["score"] = scores
        scored = np.flatnonzero(np.isfinite(scores))
        directed = scores[scored] if lower_is_better(metric) else -scores[scored]
        order = _places(scored[np.lexsort((by_key[scored], directed))], len(fixed))
    hashes = hashed = None
    if config.select.near_duplicates is not None:
        column = pool.column(rules.HISTORY, "phash", pa.uint64()).combine_chunks()
        hashes, hashed = pc.fill_null(column, 0).to_numpy(), pc.is_valid(column).to_numpy(zero_copy_only=False)
    flags = _flags(pool, config)
    return Deciding(fixed, flags, failed, measures, order, codes, int((ranks > 0).sum()), by_key, hashes, hashed)


def _loosest(config: FilterConfig) -> object:
    """Rules that reject nothing by a measure."""
    settings = ["rules.min_side=0", "rules.min_laplacian_variance=0", "rules.max_laplacian_variance=1e308",
                "rules.max_flat_fraction=1"]  # fmt: skip
    return make_config(settings=settings, base=config).rules


def _places(order: np.ndarray, count: int) -> np.ndarray:
    """int64 (count): the position of each row in `order`, -1 for rows that are not in it."""
    places = np.full(count, -1)
    places[order] = np.arange(len(order))
    return places


def _flags(pool: Pool, config: FilterConfig) -> np.ndarray:
    flags, metric = np.zeros(len(pool.arrays), np.uint8), config.iqa.metric
    history = pool.measured(rules.HISTORY)
    flags[~history] |= HISTORY_UNKNOWN
    if pool.leaks is not None:
        leaks = pc.is_valid(pool.column(pool.leaks, "leak", pa.string())).to_numpy(zero_copy_only=False)
        flags[leaks] |= LEAK
        flags[~pool.measured(pool.leaks)] |= LEAK_UNKNOWN
    scored = np.ones(len(flags), bool)
    if metric != "none":
        scored = pool.measured(metric)
        flags[~scored] |= SCORE_UNKNOWN
    where = config.select.where
    if where:
        names = columns_of(where)
        true = matches(where, gather(pool, names, config)).to_numpy(zero_copy_only=False)
        flags[~true] |= WHERE_NOT
        if metric in names:
            flags[~true & ~scored] |= WHERE_WAITS
        if set(names) & set(rules.HISTORY_COLUMNS):
            flags[~true & ~history] |= WHERE_WAITS_FOR_HISTORY
    return flags


@dataclass(frozen=True)
class Near:
    """Candidates with a near-duplicate among those given. `rows`: int64 positions; `nodes`: int64, equal for equal
    hashes; `pairs`: int64 (m, 2) nodes within the radius."""

    rows: np.ndarray
    nodes: np.ndarray
    pairs: np.ndarray


def find_near(deciding: Deciding, rows: np.ndarray, radius: int) -> Near | None:
    """Among `rows`; None where there are more than MOST_PAIRS pairs."""
    assert deciding.hashes is not None, "near-duplicates are in force"
    assert deciding.hashed is not None, "near-duplicates are in force"
    mine = np.flatnonzero(deciding.hashed[rows])
    unique, nodes, counts = np.unique(deciding.hashes[rows][mine], return_inverse=True, return_counts=True)
    pairs = near_pairs(unique, radius, MOST_PAIRS)
    if pairs is None:
        return None
    linked = counts > 1
    linked[pairs.ravel()] = True
    some = linked[nodes]
    return Near(mine[some], nodes[some], pairs)


def find_units(deciding: Deciding, radius: int | None) -> np.ndarray:
    """int64 (n): the first row of those that are linked as near-duplicates, each its own where none are dropped."""
    units = np.arange(len(deciding))
    if radius is not None and deciding.hashes is not None and deciding.hashed is not None:
        mine = np.flatnonzero(deciding.hashed)
        units[mine] = mine[group_near(deciding.hashes[mine], radius)] if len(mine) else mine
    return units


def describe_reasons() -> list[tuple[str, str]]:
    """Each reason that a page knows, in the order of its code, and what it means."""
    shown = records.REASONS[: records.CODE[records.INCLUDED] + 1]
    return [(reason, records.WHAT_IT_MEANS[reason]) for reason in shown]
