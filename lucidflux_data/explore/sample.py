"""A stratified sample of candidates, drawn in whole groups of near-duplicates.

Strata are the reasons of the run's own selection, cut into bins of the measure that decided. What other settings keep
is the run's own count, which is exact, plus what they gain and less what they lose, by the sample (a difference
estimator).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lucidflux_data.explore.rows import RULES, Deciding
from lucidflux_data.selection.records import CODE, KEPT

MOST_ROWS = 200_000  # up to here a page has every candidate
LEAST, FEW = 400, 100  # units of a stratum at least, where there are so many; of one that no slider moves
BINS = 16
SEED = 0


@dataclass(frozen=True)
class Sample:
    """`rows`: int64 candidates, those of a unit side by side; `units`: int64, the number of each row's unit in the
    sample; `strata`: int64, the stratum of each row; `sizes`, `drawn`: units of each stratum, and of them in the
    sample; `movable`: bool, whether a slider can move what is in a stratum."""

    rows: np.ndarray
    units: np.ndarray
    strata: np.ndarray
    sizes: np.ndarray
    drawn: np.ndarray
    movable: np.ndarray


def draw_sample(deciding: Deciding, roots: np.ndarray, most: int = MOST_ROWS) -> Sample | None:
    """None where all rows fit. `roots`: as of `rows.find_units`. Equal runs give equal samples."""
    if len(deciding) <= most:
        return None
    strata, movable = _strata(deciding)
    unit_rows = np.flatnonzero(roots == np.arange(len(roots)))
    of_unit = strata[unit_rows]
    sizes = np.bincount(of_unit, minlength=len(movable))
    wanted = _allocate(sizes, movable, most * len(unit_rows) // len(roots))
    order = np.lexsort((np.random.default_rng(SEED).random(len(of_unit)), of_unit))
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.sort(unit_rows[order[within < np.repeat(wanted, sizes)]])
    taken = np.zeros(len(roots), bool)
    taken[chosen] = True
    rows = np.flatnonzero(taken[roots])
    rows = rows[np.argsort(roots[rows], kind="stable")]
    units = np.searchsorted(chosen, roots[rows])
    return Sample(rows, units, strata[roots[rows]], sizes, wanted, movable)


def _strata(deciding: Deciding) -> tuple[np.ndarray, np.ndarray]:
    """(int64 stratum of each row; bool for each stratum, whether sliders can move its rows)."""
    measures = {rule.reason: deciding.measures[rule.measure] for rule in RULES}
    strata, movable = np.zeros(len(deciding), np.int64), list[bool]()
    for code in np.unique(deciding.codes):
        rows = np.flatnonzero(deciding.codes == code)
        reason = next((name for name, number in CODE.items() if number == code), "")
        values = measures.get(reason, deciding.measures.get("score"))
        moves = bool((deciding.fixed[rows] == KEPT).any())
        bins = np.zeros(len(rows), np.int64)
        if moves and values is not None and len(rows) > BINS * LEAST:
            edges = np.nanquantile(values[rows], np.linspace(0, 1, BINS + 1)[1:-1])
            bins = np.searchsorted(edges, values[rows])
        names, bins = np.unique(bins, return_inverse=True)
        strata[rows] = len(movable) + bins
        movable += [moves] * len(names)
    return strata, np.array(movable)


def _allocate(sizes: np.ndarray, movable: np.ndarray, most: int) -> np.ndarray:
    """int64 units to draw of each stratum: a quarter of `most` in equal shares of at most LEAST, the rest in proportion
    to the size among those that move."""
    least = min(LEAST, most // (4 * len(sizes)))
    wanted = np.minimum(sizes, np.where(movable, least, min(FEW, least)))
    left = max(0, most - int(wanted.sum()))
    rest = np.where(movable, sizes - wanted, 0)
    return np.asarray(wanted + rest * left // max(1, int(rest.sum())))
