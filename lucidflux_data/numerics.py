"""What a few lines of NumPy compute of special functions and rank statistics; tests hold each to SciPy's value."""

from __future__ import annotations

import math

import numpy as np

EXACT_DIFFERENCES = 50  # up to here the signed-rank test goes through all 2^n patterns of signs


def bessel_j1(x: np.ndarray) -> np.ndarray:
    """J1 of float64 values 0 <= x < 200 of any shape, to 5e-15.

    J1(x) = 1/pi integral of sin(t) sin(x sin t) over 0..pi (Bessel's integral, NIST DLMF 10.9.2, turned by pi/2) by the
    midpoint rule, whose error for a periodic integrand is J of the order of the number of nodes: nil from a few dozen
    more than x on. The integrand is the same on both sides of pi/2.
    """
    nodes = int(x.max(initial=0)) // 2 + 20
    sines = np.sin((np.arange(nodes) + 0.5) * (math.pi / 2 / nodes))
    found: np.ndarray = (np.sin(x[..., None] * sines) * sines).mean(axis=-1)
    return found


def chi_square_tail(statistic: float, degrees: int) -> float:
    """P(X >= statistic) of chi-square with `degrees` of freedom, 1 or more; statistic >= 0.

    Q(a + 1, y) = Q(a, y) + y^a e^-y / Gamma(a + 1) with y = statistic / 2 (NIST DLMF 8.8.6), from Q(1/2, y) =
    erfc(sqrt y) or Q(1, y) = e^-y up to a = degrees / 2.
    """
    y = statistic / 2
    if y == 0:
        return 1.0
    a = 0.5 if degrees % 2 else 1.0
    tail = math.erfc(math.sqrt(y)) if degrees % 2 else math.exp(-y)
    while a < degrees / 2:
        tail += math.exp(a * math.log(y) - y - math.lgamma(a + 1))
        a += 1
    return min(1.0, tail)


def wilson_interval(count: int, n: int, z: float) -> tuple[float, float]:
    """The interval of a share, from `count` of `n` > 0, z standard deviations to each side (Wilson, JASA 1927)."""
    share = count / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return (centre - half if count else 0.0, centre + half if count < n else 1.0)


def largest_gap(first: np.ndarray, second: np.ndarray) -> float:
    """The largest distance of two empirical distribution functions, 0..1 (Kolmogorov, Smirnov), of sorted values."""
    values = np.concatenate([first, second])
    shares = (np.searchsorted(each, values, side="right") / len(each) for each in (first, second))
    return float(np.abs(np.subtract(*shares)).max())


def average_ranks(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """float64 ranks along an axis, 1 for the smallest; equal values share the mean of theirs. NaN along a line that has
    one."""
    lines = np.moveaxis(np.asarray(values, np.float64), axis, -1)
    order = np.argsort(lines, axis=-1, kind="stable")
    ordered = np.take_along_axis(lines, order, -1)
    place = np.arange(lines.shape[-1])
    differs = ordered[..., 1:] != ordered[..., :-1]
    edge = np.ones((*lines.shape[:-1], 1), bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, differs], -1), place, 0), -1)
    last = np.where(np.concatenate([differs, edge], -1), place, len(place))
    last = np.minimum.accumulate(last[..., ::-1], -1)[..., ::-1]
    ranks = np.empty(lines.shape)
    np.put_along_axis(ranks, order, (first + last) / 2 + 1, -1)
    ranks[np.isnan(lines).any(-1)] = np.nan
    return np.moveaxis(ranks, -1, axis)


def signed_rank_p(differences: np.ndarray) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (Biometrics 1945) of float64 (n,); zeros are left out. 1 of nothing.

    Exact, ties included, up to EXACT_DIFFERENCES; beyond, the normal approximation corrected for ties.
    """
    left = differences[differences != 0]
    n = len(left)
    twice = np.rint(2 * average_ranks(np.abs(left))).astype(int)  # ranks of ties are halves
    positive, total = int(twice[left > 0].sum()), n * (n + 1)
    if n <= EXACT_DIFFERENCES:
        patterns = np.zeros(total + 1)  # of signs, by twice the sum of the positive ranks
        patterns[0] = 1
        for rank in twice:
            patterns[rank:] += patterns[: total + 1 - rank].copy()
        return float(min(1.0, 2 * patterns[: min(positive, total - positive) + 1].sum() / 2.0**n))
    ties = np.unique(twice, return_counts=True)[1].astype(float)
    spread = math.sqrt((n * (n + 1) * (2 * n + 1) - (ties**3 - ties).sum() / 2) / 24)
    return math.erfc(abs(positive / 2 - total / 4) / spread / math.sqrt(2))
