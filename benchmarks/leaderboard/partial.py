"""Methods that lack images: what they lack, how they compare over the images that they share with others, and the ids
that most methods have in common. Nothing here makes a rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa

from benchmarks.leaderboard import statistics
from benchmarks.leaderboard.columns import NO_REFERENCE, Column, Rules
from benchmarks.leaderboard.draws import Draws
from benchmarks.leaderboard.schema import CommonIds, Gap, SharedPair

EVERY_SET = 10  # methods; of more, not every set is tried


def list_gaps(table: pa.Table, ids: Sequence[str]) -> dict[str, list[Gap]]:
    """method -> why its images have no score, in the order of the ids; only methods that lack one. What the suite has
    no reference for is no gap of a method."""
    found: dict[str, dict[tuple[str, str], Gap]] = {}
    for row in table.to_pylist():
        reason = row["reason"]
        if row["value"] is not None or not reason or reason == NO_REFERENCE or not row["id"]:
            continue
        new: Gap = {"id": row["id"], "reason": reason, "metrics": [], "seeds": []}
        gap = found.setdefault(row["method"], {}).setdefault((row["id"], reason), new)
        for name, values in (("metric", gap["metrics"]), ("seed", gap["seeds"])):
            if row[name] not in values:
                values.append(row[name])
    place = {id_: k for k, id_ in enumerate(ids)}
    return {method: sorted(gaps.values(), key=lambda gap: place[gap["id"]]) for method, gaps in found.items()}


def compare_shared(column: Column, methods: Sequence[str], draws: Draws, test: str) -> list[SharedPair]:
    """Every pair of `methods` of which one is not ranked, over the images that both have; p adjusted over these."""
    pairs: list[SharedPair] = []
    for first, second in combinations([method for method in methods if method in column.values], 2):
        shared = column.there(first) & column.there(second)
        if (first in column.chosen and second in column.chosen) or np.count_nonzero(shared) < 2:
            continue
        by_image = [column.over_seeds(method)[shared] for method in (first, second)]
        differences = by_image[0] - by_image[1]
        low, high = statistics.interval(draws.over(len(differences)).means(differences[None]))
        p = statistics.paired_p(differences, test, draws.resamples)
        pair: SharedPair = {"methods": [first, second], "n": len(differences), "difference": float(differences.mean()),
                            "low": low, "high": high, "p": p, "p_holm": p}  # fmt: skip
        pairs.append(pair)
    for pair, adjusted in zip(pairs, statistics.holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = adjusted
    return pairs


def find_common(columns: dict[str, Column], ids: Sequence[str]) -> CommonIds | None:
    """The ids that most methods have in common, where a metric ranks nobody; None where none are shared.

    Of the sets of more than half of the methods the one with the most scores (methods times ids); without one that
    shares an id, of the sets of at least two.
    """
    unranked = [column for column in columns.values() if column.why_not]
    if not unranked:
        return None
    held = {
        method: np.logical_and.reduce([column.there(method) for column in unranked])
        for method in unranked[0].values
        if all(method in column.values for column in unranked)
    }
    best, key = None, (False, 0, 0)
    for methods in _sets_of_methods(held):
        shared = np.logical_and.reduce([held[method] for method in methods])
        count = int(shared.sum())
        mine = 2 * len(methods) > len(held), len(methods) * count, len(methods)
        if count and mine > key:
            best, key = CommonIds(methods=list(methods), ids=[ids[k] for k in np.flatnonzero(shared).tolist()]), mine
    return best


def _sets_of_methods(held: dict[str, np.ndarray]) -> Iterator[tuple[str, ...]]:
    """Every set of two or more; of many methods those that are left when the one that costs most ids goes, again and
    again."""
    left = [method for method in held if held[method].any()]
    if len(left) <= EVERY_SET:
        for count in range(2, len(left) + 1):
            yield from combinations(left, count)
        return
    while len(left) > 1:
        yield tuple(left)
        left.remove(max(left, key=lambda out: _shared_without(out, left, held)))


def _shared_without(out: str, left: list[str], held: dict[str, np.ndarray]) -> tuple[int, int]:
    """How many ids the others share without one; of equals, the one with the fewest ids goes."""
    rest = np.logical_and.reduce([held[method] for method in left if method != out])
    return int(rest.sum()), -int(held[out].sum())


def is_hidden(rows: Sequence[tuple[int, bool]], rules: Rules) -> bool:
    """Whether a method is not shown: (images, ranked) of it in each metric."""
    return not any(ranked for _, ranked in rows) and max((n for n, _ in rows), default=0) < rules.min_images
