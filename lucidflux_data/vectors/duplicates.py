"""Semantic duplicates: images whose vectors point the same way, compared exactly within a cluster."""

from __future__ import annotations

import time

import numpy as np

from lucidflux_data.vectors.clusters import ITERATIONS, POINTS_A_CENTRE, find_clusters, normalized

ROWS_A_CLUSTER = 2000  # about as many; up to MOST_TOGETHER all are compared with all
MOST_TOGETHER = 20_000
BLOCK = 512  # rows that are compared at a time with those behind them of a cluster: a smaller one multiplies slower
TIMED = 4000  # rows, by which a prediction times this machine
ROUNDING = 1e-4  # within which of the limit a cosine is computed again in float64


def group_semantic(vectors: np.ndarray, least_cosine: float) -> np.ndarray:
    """int64 (n): for each row of float16 (n, d) the smallest row that it is linked with, itself where there is none.

    Two rows of a cluster are linked when the cosine of their angle is at least `least_cosine`, or through others. Up to
    MOST_TOGETHER rows are one cluster: nothing is missed. Of more, a pair on two sides of a border is."""
    count = count_clusters(len(vectors))
    clusters = find_clusters(vectors, count)
    groups = np.arange(len(vectors))
    order = np.argsort(clusters, kind="stable")
    bounds = np.searchsorted(clusters[order], np.arange(count + 1))
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        rows = order[first:last]
        if len(rows) > 1:
            groups[rows] = rows[_linked(vectors[rows], least_cosine)]
    return groups


def count_clusters(rows: int) -> int:
    return 1 if rows <= MOST_TOGETHER else -(-rows // ROWS_A_CLUSTER)


def count_products(rows: int) -> float:
    """Products of two vectors that `group_semantic` takes of so many: within clusters, of which half are left out, and
    twice that for each row and centre, as k-means and the search of the nearest one do."""
    count = count_clusters(rows)
    if count == 1:
        return float(rows) ** 2
    return float(rows) * ROWS_A_CLUSTER + 2.0 * count * (rows + ITERATIONS * min(rows, POINTS_A_CENTRE * count))


def time_a_product(size: int) -> float:
    """Seconds of one of `count_products` on one core of this machine: of some random rows that are compared."""
    vectors = np.random.default_rng(0).standard_normal((TIMED, size), np.float32).astype(np.float16)
    _linked(vectors[:BLOCK], 0.95)  # libraries that are loaded are not the vectors' time
    start = time.process_time()
    _linked(vectors, 0.95)
    return (time.process_time() - start) / count_products(TIMED)


def _linked(vectors: np.ndarray, least: float) -> np.ndarray:
    """int64: as `group_semantic`, all rows compared with all."""
    unit = normalized(vectors)
    parents = np.arange(len(unit))
    for start in range(0, len(unit), BLOCK):
        cosines = unit[start : start + BLOCK] @ unit[start:].T
        one, other = np.nonzero(cosines >= least - ROUNDING)
        near = cosines[one, other]
        keep = other > one  # each pair once; a row is not its own duplicate
        one, other, near = one[keep] + start, other[keep] + start, near[keep]
        unsure = np.flatnonzero(near < least + ROUNDING)
        sure = np.ones(len(one), bool)
        sure[unsure] = _exact(vectors, one[unsure], other[unsure]) >= least
        for first, second in zip(one[sure].tolist(), other[sure].tolist(), strict=True):
            _join(parents, first, second)
    return np.array([_root(parents, row) for row in range(len(parents))], np.int64)


def _exact(vectors: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """float64 cosines of pairs of rows, the same on any machine: sums in the order of the columns."""
    first, second = vectors[one].astype(np.float64), vectors[other].astype(np.float64)
    lengths = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    products = (first * second).sum(axis=1)
    found: np.ndarray = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return found


def _root(parents: np.ndarray, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def _join(parents: np.ndarray, one: int, other: int) -> None:
    first, second = _root(parents, one), _root(parents, other)
    parents[max(first, second)] = min(first, second)
