"""From the per-image table to the leaderboard: a plain dict (schema.py), which is also leaderboard.json.

A mean over a hole is never ranked, and takes no rank from another. Methods are ranked per metric among those that have
every id of the suite; with `allow_partial`, where nobody has, over the ids that all methods have alike, or not at all.
Overall ranks are made only over a named group of metrics, all of which are there, among methods ranked in each.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from benchmarks.leaderboard import statistics
from benchmarks.leaderboard.schema import (
    Board,
    Correlation,
    Group,
    GroupRow,
    MetricRow,
    MetricTable,
    PairRow,
    ScoreBoard,
)
from benchmarks.leaderboard.statistics import Bootstrap
from benchmarks.metrics.profiles import MetricSpec
from lucidflux_data.errors import InputError
from lucidflux_data.storage.folder import Folder

TABLE = "per_image.parquet"
BOARD = "leaderboard.json"


TESTS = ("permutation", "wilcoxon")
NO_REFERENCE = "no_reference"  # the suite's lack, not a method's


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
        means: np.ndarray = self.scores(method).mean(axis=0)
        return means


def make_leaderboard(
    table: pa.Table,
    ids: Sequence[str],
    total: int,
    specs: Sequence[MetricSpec],
    groups: dict[str, tuple[str, ...]],
    allow_partial: bool = False,
    test: str = "permutation",
    resamples: int = statistics.RESAMPLES,
    sampled: bool = False,
    in_sets: dict[str, int] | None = None,
) -> ScoreBoard:
    """Everything that follows from the scores alone. `total`: images of the suite; `ids`: those that were scored.

    `sampled`: `ids` were drawn from the suite's, whatever the methods have; `in_sets`: method -> images that a metric
    of a set is over, `total` for those that are not named.
    Equal scores give an equal dict.
    """
    columns = read_columns(table, ids, total, specs, allow_partial, sampled)
    draws = _Draws(resamples)
    methods = list(dict.fromkeys(table["method"].to_pylist()))
    return {
        "methods": methods,
        "images": {"scored": len(ids), "of": total},
        "statistics": {"resamples": resamples, "level": statistics.LEVEL, "test": test, "adjusted": "holm"},
        "metrics": {
            spec.name: _set_metric(table, spec, methods, total, in_sets or {})
            if spec.needs == "set"
            else _metric(columns[spec.name], methods, total, draws, test)
            for spec in specs
        },
        "groups": {name: _group(names, columns, draws) for name, names in groups.items()},
        "correlation": _correlation(columns),
    }


class _Draws:
    """One Bootstrap for each number of images: all metrics over the same images share it."""

    def __init__(self, resamples: int) -> None:
        self.resamples = resamples
        self._made: dict[int, Bootstrap] = {}
        self._means: dict[tuple[str, str], np.ndarray] = {}

    def over(self, images: int) -> Bootstrap:
        if images not in self._made:
            self._made[images] = Bootstrap(images, self.resamples)
        return self._made[images]

    def means(self, column: Column, method: str) -> np.ndarray:
        """(resamples,) means of a method over the ranked subset of a metric."""
        key = column.spec.name, method
        if key not in self._means:
            self._means[key] = self.over(len(column.subset)).means(column.scores(method))
        return self._means[key]


def read_columns(
    table: pa.Table,
    ids: Sequence[str],
    total: int,
    specs: Sequence[MetricSpec],
    allow_partial: bool,
    sampled: bool = False,
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
        valid = {method: tuple(np.flatnonzero(np.isfinite(v).all(axis=0)).tolist()) for method, v in values.items()}
        every = tuple(k for k in range(len(ids)) if k not in without[spec.name])
        known = sampled or len(ids) == total
        chosen, subset = _ranked(valid, every if known else None, total, allow_partial) if spec.ranked else ((), ())
        wanted = len(every) if known and every and allow_partial else total
        why_not = _why_none(valid, wanted, allow_partial) if spec.ranked and not chosen else None
        columns[spec.name] = Column(spec, values, reasons[spec.name], chosen, np.array(subset, int), why_not)
    return columns


def _ranked(
    valid: dict[str, tuple[int, ...]], every: tuple[int, ...] | None, total: int, allow_partial: bool
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The methods that are ranked, and over which positions. `valid`: method -> the positions that it has scores for;
    `every`: those that a complete method has, None where they are not known. What one method lacks is no other's loss.
    """
    if every and (allow_partial or len(every) == total):
        complete = tuple(method for method, positions in valid.items() if positions == every)
        if complete:
            return complete, every
    alike = set(valid.values())
    if allow_partial and len(alike) == 1 and alike != {()}:
        return tuple(valid), alike.pop()
    return (), ()


def _why_none(valid: dict[str, tuple[int, ...]], wanted: int, allow_partial: bool) -> str:
    """Why no method is ranked, with how many images each has."""
    counts = ", ".join(f"{method} {len(positions)}" for method, positions in valid.items())
    rest = ", nor have all the same images" if allow_partial else "; --allow-partial ranks methods with the same images"
    return f"no method has all {wanted} images{rest if any(valid.values()) else ''} ({counts})"


def _metric(column: Column, methods: list[str], total: int, draws: _Draws, test: str) -> MetricTable:
    spec = column.spec
    chosen = [method for method in methods if method in column.chosen]
    pairs = _pairs(column, chosen, draws, test)
    rows = {method: _row(column, method, total, draws) for method in methods}
    result: MetricTable = {
        "lower_is_better": spec.lower_is_better,
        "ranked": spec.ranked,
        "n": len(column.subset),
        "of": total,
        "rows": rows,
        "pairs": pairs,
        "win_rate": _win_rates(column, chosen),
        "why_not": column.why_not,
    }
    if not chosen:
        return result
    means = [float(column.scores(method).mean()) for method in chosen]
    resampled = np.stack([draws.means(column, method) for method in chosen])
    firsts = statistics.first_shares(resampled, spec.sign)
    best = chosen[int(np.argmax(spec.sign * np.array(means)))]
    tied = {best} | {(set(p["methods"]) - {best}).pop() for p in pairs if best in p["methods"] and p["p_holm"] >= 0.05}
    for method, rank, first in zip(chosen, statistics.ranks(means, spec.sign), firsts, strict=True):
        rows[method] |= {"rank": rank, "first_share": round(first, 4), "tied_with_best": method in tied}
    return result


def _row(column: Column, method: str, total: int, draws: _Draws) -> MetricRow:
    """Mean and interval over the images that the method has scores for, which are all, the subset, or what is left."""
    values = column.values[method]
    there = np.flatnonzero(np.isfinite(values).all(axis=0))
    row: MetricRow = {
        "n": len(there),
        "of": total,
        "seeds": len(values),
        "mean": None,
        "low": None,
        "high": None,
        "rank": None,
        "reasons": dict(sorted(column.reasons.get(method, Counter()).items())),
    }
    if len(there) == 0:
        return row
    row["mean"] = float(values[:, there].mean())
    if len(there) > 1:
        ranked = method in column.chosen
        means = draws.means(column, method) if ranked else draws.over(len(there)).means(values[:, there])
        row["low"], row["high"] = statistics.interval(means)
    return row


def _set_metric(
    table: pa.Table, spec: MetricSpec, methods: list[str], total: int, images: dict[str, int]
) -> MetricTable:
    """A metric of a whole set: one number a seed, no interval, never ranked (it has no images to resample)."""
    rows: dict[str, MetricRow] = {}
    for method in methods:
        mine = [row for row in table.to_pylist() if row["metric"] == spec.name and row["method"] == method]
        values = [row["value"] for row in mine if row["value"] is not None]
        reasons = Counter(row["reason"] for row in mine if row["reason"])
        n = images.get(method, total) if values else 0
        rows[method] = {
            "n": n,
            "of": total,
            "seeds": len(mine),
            "low": None,
            "high": None,
            "mean": float(np.mean(values)) if values else None,
            "rank": None,
            "reasons": dict(reasons),
        }
    return {
        "lower_is_better": spec.lower_is_better,
        "ranked": False,
        "n": 0,
        "of": total,
        "rows": rows,
        "pairs": [],
        "win_rate": {},
        "why_not": None,
    }


def _pairs(column: Column, chosen: list[str], draws: _Draws, test: str) -> list[PairRow]:
    """Every pair of ranked methods: difference, interval, p, p adjusted over the pairs of this metric."""
    if len(chosen) < 2 or len(column.subset) < 2:
        return []
    resampled = {method: draws.means(column, method) for method in chosen}
    pairs: list[PairRow] = []
    for first, second in combinations(chosen, 2):
        differences = column.by_image(first) - column.by_image(second)
        low, high = statistics.interval(resampled[first] - resampled[second])
        p = statistics.wilcoxon_p(differences) if test == "wilcoxon" else statistics.permutation_p(differences)
        pairs.append(
            {
                "methods": [first, second],
                "difference": float(differences.mean()),
                "low": low,
                "high": high,
                "p": p,
                "detectable": statistics.detectable_difference(differences),
                "p_holm": p,  # until all pairs are there
            }
        )
    for pair, adjusted in zip(pairs, statistics.holm([pair["p"] for pair in pairs]), strict=True):
        pair["p_holm"] = adjusted
    return pairs


def _win_rates(column: Column, chosen: list[str]) -> dict[str, dict[str, float]]:
    """win_rate[a][b]: share of images on which a is better than b."""
    scores = {method: column.by_image(method) for method in chosen}
    return {
        first: {
            second: round(statistics.win_rate(scores[first], scores[second], column.spec.sign), 4)
            for second in chosen
            if second != first
        }
        for first in chosen
    }


def _group(names: tuple[str, ...], columns: dict[str, Column], draws: _Draws) -> Group:
    """Mean rank over the metrics of a group, for the methods that are ranked in all of them over the same images."""
    absent = [name for name in names if name not in columns]
    if absent:
        return {"metrics": list(names), "rows": {}, "why_not": f"not computed: {', '.join(absent)}"}
    parts = [columns[name] for name in names]
    methods = [method for method in parts[0].chosen if all(method in part.chosen for part in parts)]
    alone = len(parts[0].values) < 2
    if not methods or alone or any(not np.array_equal(part.subset, parts[0].subset) for part in parts):
        why_not = "there is one method" if alone else "no method is ranked in all metrics over the same images"
        return {"metrics": list(names), "rows": {}, "why_not": why_not}
    means = np.array([[[part.by_image(method).mean()] for method in methods] for part in parts])
    signs = [part.spec.sign for part in parts]
    resampled = np.array([[draws.means(part, method) for method in methods] for part in parts])
    observed = statistics.mean_ranks(means, signs)[:, 0]
    spread = statistics.mean_ranks(resampled, signs)
    firsts = statistics.first_shares(spread, -1)
    rows: dict[str, GroupRow] = {}
    for k, method in enumerate(methods):
        low, high = statistics.interval(spread[k])
        rank, share = statistics.ranks(observed.tolist(), -1)[k], round(firsts[k], 4)
        rows[method] = {"rank": rank, "mean_rank": float(observed[k]), "low": low, "high": high, "first_share": share}
    return {"metrics": list(names), "rows": rows, "why_not": None}


def _correlation(columns: dict[str, Column]) -> Correlation:
    """Spearman's rho between metrics over (method, image), each oriented so that more is better."""
    names = [name for name, column in columns.items() if column.values]
    if len(names) < 2:
        return {"metrics": names, "rho": []}
    methods = [method for method in columns[names[0]].values if all(method in columns[name].values for name in names)]
    stacked = np.array(
        [
            np.concatenate([columns[name].spec.sign * columns[name].values[method].mean(axis=0) for method in methods])
            for name in names
        ]
    )
    complete = stacked[:, np.isfinite(stacked).all(axis=0)]
    if complete.shape[1] < 3:
        return {"metrics": names, "rho": []}
    rho = statistics.correlation(complete.T)
    return {"metrics": names, "rho": [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in rho]}


def read_board(folder: Folder) -> Board:
    """leaderboard.json. InputError where a folder has none."""
    try:
        board: Board = json.loads(folder.read(BOARD))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a results folder: it has no {BOARD}") from None
    return board
