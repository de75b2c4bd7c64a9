"""How many of each kind are kept: at most so many of a value, or as many of each cluster as far as it has them."""

from __future__ import annotations

import numpy as np


def over_quota(order: np.ndarray, kinds: np.ndarray, most: int) -> np.ndarray:
    """bool (n): rows behind the first `most` of their kind. `order`: int64 rows from the best on; `kinds`: int64 (n),
    -1 for rows that no quota is for. Rows that are not in `order` are not over it."""
    over = np.zeros(len(kinds), bool)
    mine = order[kinds[order] >= 0]
    by_kind = np.argsort(kinds[mine], kind="stable")
    sorted_ = kinds[mine][by_kind]
    starts = np.flatnonzero(np.r_[True, sorted_[1:] != sorted_[:-1]]) if len(sorted_) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(sorted_)])
    place = np.arange(len(sorted_)) - np.repeat(starts, lengths)
    over[mine[by_kind[place >= most]]] = True
    return over


def balanced(order: np.ndarray, clusters: np.ndarray, total: int) -> np.ndarray:
    """int64: `total` rows of `order` (from the best on), as many of each cluster as far as it has them; what is left
    over goes to the best. So rare clusters stay whole."""
    if total >= len(order):
        return order
    sizes = np.bincount(clusters[order])
    low, high = 0, int(sizes.max())
    while low < high:  # the largest number of each cluster with which there are not too many
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(sizes, middle).sum()) <= total else (low, middle - 1)
    over = over_quota(order, clusters, low)
    kept = order[~over[order]]
    rest = order[over_quota(order, clusters, low)[order] & ~over_quota(order, clusters, low + 1)[order]]
    return np.sort(np.r_[kept, rest[: total - len(kept)]])
