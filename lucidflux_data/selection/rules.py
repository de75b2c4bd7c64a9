"""The decision, as pure functions of arrays: exact, one reason per image, no files.

    cheap rules -> survivors -> cut by a score -> codes (position in records.REASONS, -1 = kept without a reason)

Everything is positional: row i of every array is candidate i, in the order of the runs and of their inventories.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.errors import ConfigError
from lucidflux_data.measures import near_duplicates as neardup
from lucidflux_data.selection.columns import find_opted_out, gather
from lucidflux_data.selection.config import CutConfig, FilterConfig, RulesConfig
from lucidflux_data.selection.expression import columns_of, matches
from lucidflux_data.selection.pool import Candidates, Pool
from lucidflux_data.selection.records import BASE, CODE, KEPT, is_kept
from lucidflux_data.selection.tiling import find_too_few
from lucidflux_data.vectors.clusters import find_clusters
from lucidflux_data.vectors.duplicates import group_semantic
from lucidflux_data.vectors.limits import balanced, over_quota

HISTORY = "history"
HISTORY_COLUMNS = ("jpeg_quality", "blockiness", "spectral_cutoff", "fixed_sharpness", "noise", "phash")


def apply_rules(candidates: Candidates, rules: RulesConfig, opted_out: np.ndarray | None = None) -> np.ndarray:
    """int16 codes after the failures, opt-outs, exact duplicates and cheap rules; -1 marks the survivors.

    `opted_out`: bool, n rows. Of equal bytes the first in order stays; an included copy stays before any other, one
    of the base before that.
    """
    ladder = [
        ("opted_out", False if opted_out is None else opted_out),
        ("duplicate", later_copies(candidates)),
        (BASE, False if candidates.base is None else candidates.base),
        ("included", candidates.included),
        *((limit.reason, limit.is_outside(getattr(candidates, limit.column))) for limit in basic_limits(rules)),
    ]
    codes = candidates.failed.astype(np.int16).copy()
    for reason, applies in ladder:
        codes[(codes == KEPT) & applies] = CODE[reason]
    return codes


def later_copies(candidates: Candidates) -> np.ndarray:
    """bool: the same key stands earlier, counting readable rows only: those of the base first, then included ones, then
    others."""
    copies = np.zeros(len(candidates), bool)
    rows = np.flatnonzero(candidates.failed == KEPT)
    rows = rows[_repeated(candidates.keys_high[rows])]  # millions are sorted by eight bytes, the few equal by all
    high, low = candidates.keys_high[rows], candidates.keys_low[rows]
    order = np.lexsort((rows, _standing(candidates)[rows], low, high))
    same = (high[order][1:] == high[order][:-1]) & (low[order][1:] == low[order][:-1])
    copies[rows[order[1:][same]]] = True
    return copies if candidates.known is None else copies | candidates.known


def _standing(candidates: Candidates) -> np.ndarray:
    """int8: of copies and near-duplicates those with the least stay: 0 of the base, 1 kept by hand, 2 the others."""
    standing = np.where(candidates.included, 1, 2).astype(np.int8)
    if candidates.base is not None:
        standing[candidates.base] = 0
    return standing


def _repeated(values: np.ndarray) -> np.ndarray:
    """bool: the same value stands elsewhere too."""
    ordered = np.sort(values)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return np.zeros(len(values), bool)
    repeated: np.ndarray = twice[np.minimum(np.searchsorted(twice, values), len(twice) - 1)] == values
    return repeated


def order_scored(scores: np.ndarray, high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Positions of `scores` (finite) in ascending order, equal ones by their key: as `np.lexsort((low, high, scores))`,
    which sorts all three."""
    order = np.argsort(scores)
    same = scores[order][1:] == scores[order][:-1]
    tied = np.zeros(len(order), bool)
    tied[1:] |= same
    tied[:-1] |= same
    some = order[tied]
    order[tied] = some[np.lexsort((low[some], high[some], scores[some]))]
    return order


def number_kept(scored: int, cut: CutConfig) -> int:
    """k = max(1, floor(n * f)) with f an exact decimal; 0 where nothing has a score."""
    if scored == 0:
        return 0
    if cut.top_k is not None:
        return min(cut.top_k, scored)
    if cut.top_fraction is None:
        return scored
    share = Fraction(Decimal(cut.top_fraction))
    return max(1, scored * share.numerator // share.denominator)


def apply_cut(
    codes: np.ndarray,
    candidates: Candidates,
    scores: np.ndarray,
    score_failed: np.ndarray,
    lower_is_better: bool,
    cut: CutConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and ranks (int64, 1 = best, 0 = no rank) after the cut by `scores` (float64, n rows).

    `score_failed`: int16 codes of metric failures, -1 elsewhere. Ties are broken by key, so that the order of the
    rows never matters. A survivor without a score and without a failure is a mistake of the caller.
    """
    codes = codes.copy()
    survivors = np.flatnonzero(codes == KEPT)
    codes[survivors] = score_failed[survivors]
    scored = survivors[score_failed[survivors] == KEPT]
    assert np.isfinite(scores[scored]).all(), "every survivor has a score or a reason"
    directed = scores[scored] if lower_is_better else -scores[scored]
    order = order_scored(directed, candidates.keys_high[scored], candidates.keys_low[scored])
    ranks = np.zeros(len(codes), np.int64)
    ranks[scored[order]] = np.arange(1, len(scored) + 1)
    codes[scored[order[number_kept(len(scored), cut) :]]] = CODE["low_iqa"]
    return codes, ranks


def drop_near(
    codes: np.ndarray,
    candidates: Candidates,
    ranks: np.ndarray,
    groups: np.ndarray,
    cut: CutConfig,
    reason: str = "near_duplicate",
) -> np.ndarray:
    """Codes after each near-duplicate group (`groups`: int64, -1 outside) keeps its best member only.

    Best: kept by hand, then the lower rank, without ranks the larger shorter side, then the key. All of the base stay,
    and nothing else of their groups. `top_k` is a final count, so what is dropped makes room for the next; a fraction
    is of the scored survivors and is not filled up.
    """
    codes = codes.copy()
    member = np.flatnonzero(groups >= 0)
    of_base = codes == CODE[BASE]
    by_hand = np.where(of_base[member], 0, np.where(codes[member] == CODE["included"], 1, 2))
    unranked = np.where(ranks[member] > 0, ranks[member], np.iinfo(np.int64).max)
    order = np.lexsort(
        (candidates.keys_low[member], candidates.keys_high[member], -candidates.min_side[member], unranked, by_hand,
         groups[member])
    )  # fmt: skip
    ordered = member[order]
    later = np.zeros(len(codes), bool)
    later[ordered[1:][groups[ordered][1:] == groups[ordered][:-1]]] = True
    later &= ~of_base
    codes[later & (codes == CODE["included"])] = CODE[reason]
    if cut.top_k is not None and (ranks > 0).any():
        scored = np.flatnonzero(ranks > 0)
        scored = scored[np.argsort(ranks[scored])]
        first = scored[~later[scored]][: cut.top_k]
        end = ranks[first[-1]] if len(first) else np.inf  # none: all are near copies of what is kept by hand
        codes[scored] = CODE["low_iqa"]
        codes[scored[(ranks[scored] < end) & later[scored]]] = CODE["near_duplicate"]
        codes[first] = KEPT
        return codes
    codes[later & (codes == KEPT)] = CODE[reason]
    return codes


def find_vectors(pool: Pool, rows: np.ndarray, config: FilterConfig) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the pool that have a vector, their float16 vectors), of `rows`; one that failed in the scorer has none.
    ConfigError where no scorer, or more than one, gave vectors, and where a row was never given to it."""
    there = _vector_columns(pool)
    wanted = config.select.embedding
    found = [place for place in there if wanted in (None, place[1])]
    if len(found) != 1:
        known = ", ".join(sorted({name for _, name in there})) or "none"
        raise ConfigError(f"which vectors? --embedding names a column of a scorer; there are: {known}")
    measure, name = found[0]
    lacking = int((~pool.measured(measure)[rows]).sum())
    if lacking:
        raise ConfigError(f"{lacking:,} images have no {name}: `lucidflux-data score RUN --scorer ...` gives them one")
    kinds = {table.schema.field(name).type for number in range(len(pool.parts))
             if (table := pool.measure(number, measure)) is not None and name in table.column_names}  # fmt: skip
    column = pool.column(measure, name, next(iter(kinds)))
    rows = rows[pc.is_valid(column).to_numpy(zero_copy_only=False)[rows]]
    taken = column.take(pa.array(rows)).combine_chunks()
    size = next(iter(kinds)).list_size
    return rows, taken.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), size)


def _vector_columns(pool: Pool) -> list[tuple[str, str]]:
    """(measure, column) of vectors."""
    found = set()
    for number, part in enumerate(pool.parts):
        for measure in sorted(set(part.folder.folders("scores")) - {"basic"}):
            table = pool.measure(number, measure)
            for field in table.schema if table is not None else ():
                if pa.types.is_fixed_size_list(field.type) and pa.types.is_float16(field.type.value_type):
                    found.add((measure, field.name))
    return sorted(found)


def drop_semantic(codes: np.ndarray, pool: Pool, ranks: np.ndarray, config: FilterConfig) -> np.ndarray:
    """Codes after each group of semantic duplicates keeps its best member only, as `drop_near`; what is dropped makes
    room for nothing."""
    least = config.select.semantic_duplicates
    if least is None:
        return codes
    rows, vectors = find_vectors(pool, by_standing(pool.arrays, ranks, np.flatnonzero(is_kept(codes))), config)
    roots = group_semantic(vectors, least)
    groups = np.full(len(codes), -1)
    groups[rows] = rows[roots]
    whole = CutConfig(top_fraction="1")
    return drop_near(codes, pool.arrays, ranks, groups, whole, "semantic_duplicate")


def apply_balance(codes: np.ndarray, pool: Pool, ranks: np.ndarray, config: FilterConfig) -> np.ndarray:
    """Codes after the cut is spread evenly over clusters of vectors. What the cut alone keeps is unbalanced."""
    if config.select.balance is None:
        return codes
    if config.iqa.metric == "none":
        raise ConfigError("--balance spreads the cut by a metric over clusters: there is no cut with --iqa none")
    scored = np.flatnonzero(ranks > 0)
    order, vectors = find_vectors(pool, scored[np.argsort(ranks[scored])], config)
    chosen = balanced(np.arange(len(order)), find_clusters(vectors, config.select.balance),
                      min(number_kept(len(scored), config.cut), len(order)))  # fmt: skip
    codes = codes.copy()
    codes[scored[codes[scored] == KEPT]] = CODE["unbalanced"]
    codes[order[chosen]] = KEPT
    return codes


def apply_quotas(codes: np.ndarray, pool: Pool, ranks: np.ndarray, config: FilterConfig) -> None:
    """Beyond so many images of one value of a column, the worse ones; those of the base and those kept by hand count,
    and stay. A null is no value. Changes `codes`."""
    for one in config.select.quota:
        name, _, most = one.rpartition("=")
        column = gather(pool, [name], config)[name].combine_chunks().dictionary_encode()
        kinds = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        order = by_standing(pool.arrays, ranks, np.flatnonzero(is_kept(codes)))
        codes[over_quota(order, kinds, int(most)) & (codes == KEPT)] = CODE["over_quota"]


def by_standing(candidates: Candidates, ranks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`rows` from the one that stays first: of the base, by hand, then the lower rank, without ranks the larger shorter
    side, then the key."""
    unranked = np.where(ranks[rows] > 0, ranks[rows], np.iinfo(np.int64).max)
    keys = (candidates.keys_low[rows], candidates.keys_high[rows])
    ordered: np.ndarray = rows[np.lexsort((*keys, -candidates.min_side[rows], unranked, _standing(candidates)[rows]))]
    return ordered


@dataclass(frozen=True)
class Limit:
    """A rule that compares a measure (`column`) with the `value` of a `setting`, the most or the least that passes."""

    reason: str
    column: str
    setting: str
    value: float
    is_most: bool

    def is_outside(self, values: np.ndarray) -> np.ndarray:
        """bool: not-a-number (not measured) is not outside."""
        with np.errstate(invalid="ignore"):
            outside: np.ndarray = values > self.value if self.is_most else values < self.value
        return outside


def basic_limits(rules: RulesConfig) -> list[Limit]:
    """The rules on scores/basic, in the order in which they give the reason."""
    return [
        Limit("too_small", "min_side", "min_side", rules.min_side, False),
        Limit("too_blurry", "laplacian_variance", "min_laplacian_variance", rules.min_laplacian_variance, False),
        Limit("too_sharp", "laplacian_variance", "max_laplacian_variance", rules.max_laplacian_variance, True),
        Limit("too_flat", "flat_fraction", "max_flat_fraction", rules.max_flat_fraction, True),
    ]


def history_limits(rules: RulesConfig) -> list[Limit]:
    """The rules on scores/history that are in force."""
    found = (
        ("jpeg_artifacts", "jpeg_quality", "min_jpeg_quality", rules.min_jpeg_quality, False),
        ("jpeg_artifacts", "blockiness", "max_blockiness", rules.max_blockiness, True),
        ("upscaled", "spectral_cutoff", "min_spectral_cutoff", rules.min_spectral_cutoff, False),
        ("soft", "fixed_sharpness", "min_fixed_sharpness", rules.min_fixed_sharpness, False),
    )
    return [
        Limit(reason, column, setting, value, is_most)
        for reason, column, setting, value, is_most in found
        if value is not None
    ]


def needs_history(config: FilterConfig) -> bool:
    """Whether a rule in force uses scores/history."""
    return config.select.near_duplicates is not None or bool(history_limits(config.rules))


def cheap_codes(pool: Pool, config: FilterConfig) -> np.ndarray:
    """int16 codes after failures, opt-outs, duplicates and the rules on the basic measures."""
    return apply_rules(pool.arrays, config.rules, find_opted_out(pool, config))


def apply_history(codes: np.ndarray, pool: Pool, config: FilterConfig) -> None:
    """Rules on scores/history; a row without it (not measured yet) is not rejected. Changes `codes`."""
    for limit in history_limits(config.rules):
        codes[(codes == KEPT) & limit.is_outside(pool.numbers(HISTORY, limit.column))] = CODE[limit.reason]


def apply_leaks(codes: np.ndarray, pool: Pool) -> None:
    """Images of a benchmark, by hand or not, where candidates were compared with any. Changes `codes`."""
    if pool.leaks is None:
        return
    leaks = pool.column(pool.leaks, "leak", pa.string())
    found = pc.is_valid(leaks).to_numpy(zero_copy_only=False)
    codes[found & is_kept(codes)] = CODE["benchmark_leak"]


def apply_where(codes: np.ndarray, pool: Pool, config: FilterConfig) -> None:
    """Rows of which the expression is not true. Changes `codes`."""
    if config.select.where:
        table = gather(pool, columns_of(config.select.where), config)
        codes[(codes == KEPT) & ~matches(config.select.where, table).to_numpy(zero_copy_only=False)] = CODE[
            "where_not_met"
        ]


def apply_tiles(codes: np.ndarray, pool: Pool, config: FilterConfig) -> None:
    """Images with too small a share of good tiles, where tiles are asked for. Changes `codes`."""
    if config.select.where_tile:
        codes[(codes == KEPT) & find_too_few(pool, config)] = CODE["too_few_good_tiles"]


def near_groups(pool: Pool, rows: np.ndarray, radius: int) -> np.ndarray:
    """int64 over the pool: the row with the smallest key of a candidate's near-duplicate group, -1 outside a group.

    Only `rows` take part.
    """
    groups = np.full(len(pool.arrays), -1)
    hashes = pool.column(HISTORY, "phash", pa.uint64()).combine_chunks()
    rows = rows[pc.is_valid(hashes).to_numpy(zero_copy_only=False)[rows]]
    order = np.lexsort((pool.arrays.keys_low[rows], pool.arrays.keys_high[rows]))
    rows = rows[order]
    roots = neardup.group_near(pc.fill_null(hashes, 0).to_numpy()[rows], radius)
    members = np.bincount(roots, minlength=len(rows))[roots]
    groups[rows] = np.where(members > 1, rows[roots], -1) if len(rows) else -1
    return groups
