"""Semantic duplicates, quotas and balance against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from lucidflux_data.vectors import duplicates
from lucidflux_data.vectors.clusters import find_clusters
from lucidflux_data.vectors.duplicates import group_semantic
from lucidflux_data.vectors.limits import balanced, over_quota


def planted(count: int, size: int, seed: int = 0) -> np.ndarray:
    """float16: random directions, a third of them near copies of others."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, size))
    for row in range(0, count - 3, 3):
        vectors[row + 2] = vectors[row] + rng.normal(size=size) * rng.uniform(0.05, 0.6)
    return vectors.astype(np.float16)


def brute_groups(vectors: np.ndarray, least: float) -> list[int]:
    whole = vectors.astype(np.float64)
    unit = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    found = list(range(len(unit)))
    changed = True
    while changed:
        changed = False
        for one in range(len(unit)):
            for other in np.flatnonzero(unit @ unit[one] >= least):
                least_of = min(found[one], found[other])
                if (found[one], found[other]) != (least_of, least_of):
                    found[one] = found[int(other)] = least_of
                    changed = True
    return found


@pytest.mark.parametrize("least", [0.8, 0.95])
def test_groups_are_those_of_brute_force(least: float) -> None:
    vectors = planted(400, 24)
    groups = group_semantic(vectors, least)
    assert groups.tolist() == brute_groups(vectors, least)
    assert 0 < (groups != np.arange(400)).sum() < 200


def test_a_pair_on_the_limit_is_told_by_the_exact_cosine() -> None:
    vectors = planted(60, 16)
    whole = vectors.astype(np.float64)
    cosine = float(whole[0] @ whole[2] / np.linalg.norm(whole[0]) / np.linalg.norm(whole[2]))
    assert group_semantic(vectors, cosine - 1e-12)[2] == 0
    assert group_semantic(vectors, cosine + 1e-12)[2] == 2


def test_clusters_are_those_of_any_number_of_threads(monkeypatch) -> None:
    pytest.importorskip("faiss")
    vectors = planted(3000, 32)
    monkeypatch.setattr(duplicates, "MOST_TOGETHER", 500)
    monkeypatch.setattr(duplicates, "ROWS_A_CLUSTER", 200)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append((find_clusters(vectors, 15).tolist(), group_semantic(vectors, 0.9).tolist()))
    assert found[0] == found[1]
    clusters, groups = found[0]
    assert len(set(clusters)) == 15
    exact = brute_groups(vectors[:900], 0.9)
    linked = [row for row in range(900) if exact[row] != row]
    missed = sum(groups[row] == row for row in linked)
    assert missed <= 0.2 * len(linked), "of vectors without any clusters, what a border between two hides"
    assert all(clusters[row] == clusters[groups[row]] for row in range(3000))


def test_quotas_keep_the_best_of_each_kind() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        count, most = int(rng.integers(1, 60)), int(rng.integers(1, 6))
        kinds, order = rng.integers(-1, 5, count), rng.permutation(count)[: int(rng.integers(1, count + 1))]
        seen: dict[int, int] = {}
        expected = np.zeros(count, bool)
        for row in order.tolist():
            kind = int(kinds[row])
            seen[kind] = seen.get(kind, 0) + 1
            expected[row] = kind >= 0 and seen[kind] > most
        assert over_quota(order, kinds, most).tolist() == expected.tolist()


def test_balance_takes_as_many_of_each_cluster() -> None:
    rng = np.random.default_rng(2)
    for _ in range(30):
        count = int(rng.integers(5, 80))
        clusters, order = rng.choice(6, count, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]), rng.permutation(count)
        total = int(rng.integers(1, count + 1))
        queues = {kind: [row for row in order.tolist() if clusters[row] == kind] for kind in range(6)}
        place = {row: at for at, row in enumerate(order.tolist())}
        expected: list[int] = []
        while len(expected) < total:  # a round takes the next of each cluster, the best of them first
            heads = sorted((queue.pop(0) for queue in queues.values() if queue), key=lambda row: place[row])
            expected += heads[: total - len(expected)]
        assert balanced(order, clusters, total).tolist() == (sorted(expected) if total < count else order.tolist())
