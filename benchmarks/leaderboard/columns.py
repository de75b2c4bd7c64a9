"""The per-image table as arrays, one column a metric, and who of it is ranked over which images.

What one method lacks is no other's loss: a complete method is ranked whatever the others have, one with a gap is not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from benchmarks.leaderboard import statistics
from benchmarks.metrics.profiles import MetricSpec

NO_REFERENCE = "no_reference"  # the suite's lack, not a method's


@dataclass(frozen=True)
class Rules:
    """Who is ranked, and how differences are tested.

    `named`: the user named the ids, so that they are all that a complete method has. `sampled`: the ids were drawn from
    the suite's, whatever the methods have. `min_images`: unranked methods with fewer images are not shown.
    """

    allow_partial: bool = False
    named: bool = False
    sampled: bool = False
    min_images: int = 0
    test: str = "permutation"
    resamples: int = statistics.RESAMPLES


@dataclass(frozen=True)
class Column:
    """The scores of one metric. `values`: method -> (seeds, ids), NaN where there is a reason. `chosen`: methods that
    are ranked, over the positions `subset` of the ids. `why_not`: where none is ranked that could be."""

    spec: MetricSpec
    values: dict[str, np.ndarray]
    reasons: dict[str, Counter[str]]
    chosen: tuple[str, ...]
    subset: np.ndarray
    why_not: str | None = None

    def scores(self, method: str) -> np.ndarray:
        """(seeds, images) of the ranked subset."""
        return self.values[method][:, self.subset]

    def by_image(self, method: str) -> np.ndarray:
        """(images,) of the ranked subset: the mean over the seeds."""
        means: np.ndarray = self.over_seeds(method)[self.subset]
        return means

    def over_seeds(self, method: str) -> np.ndarray:
        """(ids,) the mean over the seeds: of seeds that are equal, what one of them alone gives."""
        return statistics.without_noise(self.values[method].mean(axis=0))

    def there(self, method: str) -> np.ndarray:
        """(ids,) Whether a method has a score of every seed."""
        found: np.ndarray = np.isfinite(self.values[method]).all(axis=0)
        return found


def read_columns(
    table: pa.Table, ids: Sequence[str], total: int, specs: Sequence[MetricSpec], rules: Rules
) -> dict[str, Column]:
    """Per metric of single images, the scores as arrays and what is ranked. Arguments as of `make_leaderboard`."""
    position = {id_: k for k, id_ in enumerate(ids)}
    found: dict[str, dict[str, dict[str, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    reasons: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    without: dict[str, set[int]] = defaultdict(set)  # positions that the suite has no reference for
    for row in table.to_pylist():
        seeds = found[row["metric"]][row["method"]]
        scores = seeds.setdefault(row["seed"], np.full(max(1, len(ids)), np.nan))
        if row["value"] is not None:
            scores[position.get(row["id"], 0)] = row["value"]
        elif row["reason"]:
            reasons[row["metric"]][row["method"]][row["reason"]] += 1
        if row["reason"] == NO_REFERENCE:
            without[row["metric"]].add(position[row["id"]])
    columns = {}
    for spec in specs:
        if spec.needs == "set":
            continue
        values = {method: np.stack(list(seeds.values())) for method, seeds in found[spec.name].items()}
        every = tuple(k for k in range(len(ids)) if k not in without[spec.name])
        chosen, subset, why_not = _choose(values, every, len(ids), total, rules) if spec.ranked else ((), (), None)
        columns[spec.name] = Column(spec, values, reasons[spec.name], chosen, np.array(subset, int), why_not)
    return columns


def _choose(
    values: dict[str, np.ndarray], every: tuple[int, ...], scored: int, total: int, rules: Rules
) -> tuple[tuple[str, ...], tuple[int, ...], str | None]:
    """The methods that are ranked, over which positions, and why there are none.

    `every`: the positions that have a reference; `scored`: all of them. A part of the suite's ids counts as all of
    them where the user has named it, or has drawn it and allows a part.
    """
    valid = {method: tuple(np.flatnonzero(np.isfinite(v).all(axis=0)).tolist()) for method, v in values.items()}
    whole = scored == total or rules.named  # these ids are what a complete method has
    known = bool(every) and (whole or rules.sampled)
    if known and (rules.allow_partial or (whole and len(every) == scored)):
        complete = tuple(method for method, positions in valid.items() if positions == every)
        if complete:
            return complete, every, None
    alike = set(valid.values())
    if rules.allow_partial and len(alike) == 1 and alike != {()}:
        return tuple(valid), alike.pop(), None
    wanted = len(every) if known and rules.allow_partial else scored if rules.named else total
    return (), (), _why_none(valid, wanted, rules.allow_partial)


def _why_none(valid: dict[str, tuple[int, ...]], wanted: int, allow_partial: bool) -> str:
    """Why no method is ranked, with how many images each has."""
    counts = ", ".join(f"{method} {len(positions)}" for method, positions in valid.items())
    rest = ", nor have all the same images" if allow_partial else "; --allow-partial ranks methods with the same images"
    return f"no method has all {wanted} images{rest if any(valid.values()) else ''} ({counts})"
