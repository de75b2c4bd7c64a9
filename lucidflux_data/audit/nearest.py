"""The images nearest to a limit: those that a small change of it would move to its other side."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NEAR_FACTOR, NEAR_SHARE = 1.5, 0.1
NEAR_IN_WORDS = {
    "laplacian_variance": f"a factor of {NEAR_FACTOR:g} of it",
    "flat_fraction": f"{NEAR_SHARE:g} of it",
}


def find_nearest(table: pa.Table, score: str, limit: float, count: int) -> pa.Table:
    """Those that are near the limit, `count` at most, half from each side as far as there are so many, in order of the
    column `score`. `table`: with a column `row`, by which equal scores are ordered."""
    low, high = _near(score, limit)
    near = (pc.field(score) >= low) & (pc.field(score) <= high)
    rows = table.filter(near).sort_by([(score, "ascending"), ("row", "ascending")])
    at = int(np.searchsorted(rows[score].to_numpy(), limit))
    return rows.slice(max(0, min(at - count // 2, rows.num_rows - count)), count)


def describe_none_near(table: pa.Table, score: str, limit: float) -> str:
    """A phrase for a limit that no image is near; empty where no image has the score."""
    values = pc.drop_null(table[score]).to_numpy()
    if not len(values):
        return ""
    nearest = values[np.argmin(np.abs(values - limit))]
    return f"none within {NEAR_IN_WORDS[score]}; the nearest is {nearest:.4g}"


def _near(score: str, limit: float) -> tuple[float, float]:
    """What is called near. Of another score than those of the rules, whatever is next to the limit."""
    if score == "laplacian_variance":
        return limit / NEAR_FACTOR, max(1.0, limit * NEAR_FACTOR)
    return (limit - NEAR_SHARE, limit + NEAR_SHARE) if score == "flat_fraction" else (-np.inf, np.inf)
