"""Strengths of methods from comparisons in pairs: the model of Bradley and Terry (Biometrika 39, 1952).

P(i is chosen over j) = 1 / (1 + exp(s_j - s_i)); the strengths s, whose mean is 0, are where the likelihood is largest.
A largest one exists if, and only if, in every split of the methods into two parts each part has won against the other
(Ford, Am. Math. Monthly 64, 1957): every method reaches every other along won comparisons. Where that fails there are
no strengths here, not large ones.
"""

from __future__ import annotations

import numpy as np

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
    return np.asarray(_reach(wins > 0).all(axis=(1, 2)))


def _reach(steps: np.ndarray) -> np.ndarray:
    """(B, K, K) of single steps -> of ways of any number of steps, none included."""
    count = steps.shape[-1]
    reach = (steps | np.eye(count, dtype=bool)).astype(np.float32)
    for _ in range(max(1, (count - 1).bit_length())):
        reach = (reach @ reach > 0).astype(np.float32)
    return np.asarray(reach > 0)


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
    met = _reach((wins + wins.T > 0)[None])[0, 0]
    if not met.all():
        first, others = (", ".join(_those(methods, part)) for part in (met, ~met))
        return f"no vote compares {first} with {others}"
    reach = _reach((wins > 0)[None])[0]
    if reach.all():
        return None
    first_of = next(k for k in range(len(methods)) if reach[k][reach[:, k]].all())  # it reaches all that reach it
    names = _those(methods, reach[:, first_of])
    never = "never lost" if len(names) == 1 else "never lost to another method"
    return f"{', '.join(names)} {never}, so that no finite strength fits: more votes, or more images, are needed"


def _those(methods: list[str], chosen: np.ndarray) -> list[str]:
    return [method for method, there in zip(methods, chosen, strict=True) if there]
