"""Strengths against the likelihood itself: maximised by scipy, in closed form, and by every split of the methods."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import optimize

from benchmarks.votes.strengths import fit_strengths, have_strengths, why_none

NAMES = list("abcdefgh")


def most_likely(wins: np.ndarray) -> np.ndarray:
    """By minimising -log L over all but the first strength, with no gradient of ours."""

    def loss(free: np.ndarray) -> float:
        s = np.concatenate([[0.0], free])
        return float((wins * np.logaddexp(0, s[None, :] - s[:, None])).sum())

    found = optimize.minimize(loss, np.zeros(len(wins) - 1), method="BFGS", options={"gtol": 1e-9})
    s = np.concatenate([[0.0], found.x])
    return s - s.mean()


def exist(wins: np.ndarray) -> bool:
    """Ford's condition, by every split in two."""
    every = range(len(wins))
    parts = [set(part) for size in range(1, len(wins)) for part in combinations(every, size)]
    return all(any(wins[i, j] > 0 for i in part for j in set(every) - part) for part in parts)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_they_are_where_the_likelihood_is_largest(count: int) -> None:
    rng = np.random.default_rng(count)
    wins = rng.integers(0, 12, (count, count)) + np.eye(count, k=1) + np.eye(count, k=1 - count)
    np.fill_diagonal(wins, 0)
    assert exist(wins)
    assert fit_strengths(wins) == pytest.approx(most_likely(wins), abs=2e-5)


def test_two_methods_have_the_logarithm_of_the_odds_and_weights_may_be_any() -> None:
    wins = np.array([[[0, 30.0], [10, 0]], [[0, 0.3], [0.1, 0]], [[0, 1e6], [1, 0]]])
    gaps = fit_strengths(wins)[:, 0] - fit_strengths(wins)[:, 1]
    assert gaps == pytest.approx([np.log(3), np.log(3), np.log(1e6)], abs=1e-6)


def test_known_strengths_are_found_again() -> None:
    truth = np.array([1.2, 0.4, -0.1, -1.5])
    chance = 1 / (1 + np.exp(truth[None, :] - truth[:, None]))
    np.fill_diagonal(chance, 0)
    assert fit_strengths(1000 * chance) == pytest.approx(truth - truth.mean(), abs=1e-7)
    drawn = np.zeros((4, 4))
    rng = np.random.default_rng(0)
    for i, j in combinations(range(4), 2):
        drawn[i, j] = rng.binomial(4000, chance[i, j])
        drawn[j, i] = 4000 - drawn[i, j]
    assert fit_strengths(drawn) == pytest.approx(truth - truth.mean(), abs=0.1)


def test_they_exist_where_every_split_has_wins_both_ways_and_nowhere_else() -> None:
    """1,000 sparse tables of 2 to 5 methods, all in one batch and alone; a reason stands exactly where none exist."""
    rng = np.random.default_rng(1)
    seen = {True: 0, False: 0}
    for count in (2, 3, 4, 5):
        batch = rng.poisson(0.7, (250, count, count)).astype(float) * (1 - np.eye(count))
        truth = np.array([exist(wins) for wins in batch])
        assert have_strengths(batch).tolist() == truth.tolist()
        strengths = fit_strengths(batch)
        assert np.isfinite(strengths).all(axis=1).tolist() == truth.tolist()
        assert [why_none(wins, NAMES[:count]) is None for wins in batch] == truth.tolist()
        for wins, found in zip(batch[truth][:5], strengths[truth][:5], strict=True):
            assert found == pytest.approx(most_likely(wins), abs=1e-4)
        seen[True] += truth.sum()
        seen[False] += (~truth).sum()
    assert min(seen.values()) > 100


def test_what_is_wrong_is_said() -> None:
    apart = np.zeros((4, 4))
    apart[0, 1] = apart[1, 0] = apart[2, 3] = apart[3, 2] = 1
    assert why_none(apart, NAMES[:4]) == "no vote compares a, b with c, d"
    never = np.array([[0, 3, 2], [0, 0, 4], [0, 5, 0]])
    assert "a never lost" in str(why_none(never, NAMES[:3]))
    block = np.array([[0, 3, 2, 1], [1, 0, 4, 1], [0, 0, 0, 3], [0, 0, 2, 0]])
    assert "a, b never lost to another method" in str(why_none(block, NAMES[:4]))
