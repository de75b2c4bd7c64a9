"""Strengths of methods from comparisons in pairs: the model of Bradley and Terry (Biometrika 39, 1952).

P(i is chosen over j) = 1 / (1 + exp(s_j - s_i)); the strengths s, whose mean is 0, are where the likelihood is largest.
A largest one exists if, and only if, in every split of the methods into two parts each part has won against the other
(Ford, Am. Math. Monthly 64, 1957): every method reaches every other along won comparisons. Where that fails there are
no strengths here, not large ones.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csgraph

STEPS = 200
CLOSE = 1e-8  # logits of the last step, of which the next would be the square


def fit_strengths(wins: np.ndarray) -> np.ndarray:
    """(..., K, K) weights of wins, [i, j] those of i over j, to (..., K) strengths in logits; NaN where none exist.

    Newton's method from 0. A step is shortened so that no difference moves by more than 1, within which the likelihood
    of logits grows along it (Bach, Electron. J. Statistics 4, 2010).
    """
    batch = wins.reshape(-1, *wins.shape[-2:]).astype(np.float64)
    found = np.full(batch.shape[:2], np.nan)
    exist = have_strengths(batch)
    if exist.any():
        found[exist] = _maximise(batch[exist])
    return found.reshape(wins.shape[:-1])


def have_strengths(wins: np.ndarray) -> np.ndarray:
    """(B, K, K) -> (B,) whether every method reaches every other along wins."""
    count = wins.shape[-1]
    reach = ((wins > 0) | np.eye(count, dtype=bool)).astype(np.float32)
    for _ in range(max(1, (count - 1).bit_length())):
        reach = (reach @ reach > 0).astype(np.float32)
    return np.asarray(reach.all(axis=(1, 2)))


def _maximise(wins: np.ndarray) -> np.ndarray:
    size = wins.sum(axis=(1, 2), keepdims=True)
    shares = wins / size
    games = shares + shares.swapaxes(1, 2)
    strengths: np.ndarray = np.zeros(wins.shape[:2])
    ones = np.ones(wins.shape[1:])  # the likelihood does not change along it, so that it stands in for the mean of 0
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))
        gradient = (shares - games * chance).sum(axis=2)
        spread = games * chance * (1 - chance)
        curvature = np.eye(wins.shape[1]) * spread.sum(axis=2)[:, :, None] - spread + ones
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        step -= step.mean(axis=1, keepdims=True)
        length = np.ptp(step, axis=1)
        strengths = strengths + step / np.maximum(1, length)[:, None]
        if length.max() < CLOSE:
            return strengths
    strengths[length >= CLOSE] = np.nan
    return strengths


def why_none(wins: np.ndarray, methods: list[str]) -> str | None:
    """Why (K, K) wins give no strengths, as one sentence; None where they do."""
    parts, of = csgraph.connected_components(wins > 0, connection="weak")
    if parts > 1:
        first = ", ".join(method for method, part in zip(methods, of, strict=True) if part == of[0])
        others = ", ".join(method for method, part in zip(methods, of, strict=True) if part != of[0])
        return f"no vote compares {first} with {others}"
    parts, of = csgraph.connected_components(wins > 0, connection="strong")
    if parts == 1:
        return None
    for part in range(parts):
        inside = of == part
        if not wins[~inside][:, inside].any():
            names = ", ".join(method for method, mine in zip(methods, inside, strict=True) if mine)
            never = "never lost" if inside.sum() == 1 else "never lost to another method"
            return f"{names} {never}, so that no finite strength fits: more votes, or more images, are needed"
    raise AssertionError("some part of a split has never lost")
