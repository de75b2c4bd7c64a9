"""From the per-image table to the leaderboard: a plain dict (schema.py), which is also leaderboard.json.

A mean over a hole is never ranked, and takes no rank from another: methods are ranked per metric among those that have
every id of the suite, or every id that the user names (columns.py). The others stand below, with what they lack and how
they compare over shared images (partial.py). Overall ranks are made only over a named group of metrics, all of which
are there, among methods ranked in each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa

from benchmarks.leaderboard import partial, statistics
from benchmarks.leaderboard.columns import Column, Rules, read_columns
from benchmarks.leaderboard.draws import Draws
from benchmarks.leaderboard.schema import (
    Board,
    Correlation,
    Group,
    GroupRow,
    MetricRow,
    MetricTable,
    NotShown,
    PairRow,
    ScoreBoard,
)
from benchmarks.metrics.profiles import MetricSpec
from lucidflux_data.errors import InputError
from lucidflux_data.storage.folder import Folder
from lucidflux_data.storage.formats import parse_json

TABLE = "per_image.parquet"
BOARD = "leaderboard.json"


def make_leaderboard(
    table: pa.Table,
    ids: Sequence[str],
    total: int,
    specs: Sequence[MetricSpec],
    groups: dict[str, tuple[str, ...]],
    rules: Rules,
    in_sets: dict[str, int] | None = None,
) -> ScoreBoard:
    """Everything that follows from the scores alone. `total`: images of the suite; `ids`: those that were scored;
    `in_sets`: method -> images that a metric of a set is over, `total` for those that are not named.

    Equal scores give an equal dict.
    """
    columns = read_columns(table, ids, total, specs, rules)
    draws = Draws(rules.resamples)
    given = list(dict.fromkeys(table["method"].to_pylist()))
    hidden = _not_shown(columns, given, len(ids), rules)
    methods = [method for method in given if method not in hidden]
    metrics = {
        spec.name: _set_metric(table, spec, methods, total, in_sets or {})
        if spec.needs == "set"
        else _metric(columns[spec.name], methods, total, draws, rules.test)
        for spec in specs
    }
    gaps = partial.list_gaps(table, ids)
    return {
        "methods": methods,
        "below": _below(metrics, methods),
        "not_shown": hidden,
        "images": {"scored": len(ids), "of": total},
        "statistics": {
            "resamples": rules.resamples,
            "level": statistics.LEVEL,
            "test": rules.test,
            "adjusted": "holm",
        },
        "metrics": metrics,
        "groups": {name: _group(names, columns, draws) for name, names in groups.items()},
        "gaps": {method: gaps[method] for method in methods if method in gaps},
        "common": partial.find_common(columns, ids),
        "correlation": _correlation(columns, methods),
    }


def _not_shown(columns: dict[str, Column], methods: list[str], scored: int, rules: Rules) -> dict[str, NotShown]:
    """Unranked methods with fewer images than the user wants to see."""
    found: dict[str, NotShown] = {}
    parts = [column for column in columns.values() if column.spec.ranked]
    for method in methods:
        rows = [(int(column.there(method).sum()), method in column.chosen) for column in parts]
        if partial.is_hidden(rows, rules):
            most = max((n for n, _ in rows), default=0)
            missing = sum(scored - int(column.there(method).sum()) for column in columns.values())
            found[method] = {"images": most, "scores_missing": missing}
    return found


def _below(metrics: dict[str, MetricTable], methods: list[str]) -> list[str]:
    """Methods that no metric ranks, though it ranks another: they stand below the line."""
    ranked = {method for metric in metrics.values() for method, row in metric["rows"].items() if row["rank"]}
    return [method for method in methods if method not in ranked] if ranked else []


def _metric(column: Column, methods: list[str], total: int, draws: Draws, test: str) -> MetricTable:
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
        "shared": partial.compare_shared(column, methods, draws, test) if spec.ranked else [],
        "win_rate": _win_rates(column, chosen),
        "why_not": column.why_not,
        "no_test": statistics.why_no_test(len(column.subset), len(chosen), test, draws.resamples) if chosen else None,
    }
    if not chosen:
        return result
    means = [float(column.scores(method).mean()) for method in chosen]
    resampled = np.stack([draws.means(column, method) for method in chosen])
    firsts = statistics.first_shares(resampled, spec.sign)
    best = chosen[statistics.ranks(means, spec.sign).index(1)]
    tied = {best} | {(set(p["methods"]) - {best}).pop() for p in pairs if best in p["methods"] and p["p_holm"] >= 0.05}
    for method, rank, first in zip(chosen, statistics.ranks(means, spec.sign), firsts, strict=True):
        rows[method] |= {"rank": rank, "first_share": round(first, 4)}
        if result["no_test"] is None:
            rows[method]["tied_with_best"] = method in tied
    return result


def _row(column: Column, method: str, total: int, draws: Draws) -> MetricRow:
    """Mean and interval over the images that the method has scores for, which are all, the subset, or what is left."""
    values = column.values[method]
    there = np.flatnonzero(column.there(method))
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
        "shared": [],
        "win_rate": {},
        "why_not": None,
        "no_test": None,
    }


def _pairs(column: Column, chosen: list[str], draws: Draws, test: str) -> list[PairRow]:
    """Every pair of ranked methods: difference, interval, p, p adjusted over the pairs of this metric."""
    if len(chosen) < 2 or len(column.subset) < 2:
        return []
    resampled = {method: draws.means(column, method) for method in chosen}
    pairs: list[PairRow] = []
    for first, second in combinations(chosen, 2):
        differences = column.by_image(first) - column.by_image(second)
        low, high = statistics.interval(resampled[first] - resampled[second])
        p = statistics.paired_p(differences, test, draws.resamples)
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


def _group(names: tuple[str, ...], columns: dict[str, Column], draws: Draws) -> Group:
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


def _correlation(columns: dict[str, Column], shown: list[str]) -> Correlation:
    """Spearman's rho between metrics over (method, image), each oriented so that more is better."""
    names = [name for name, column in columns.items() if column.values]
    if len(names) < 2:
        return {"metrics": names, "rho": []}
    methods = [method for method in shown if all(method in columns[name].values for name in names)]
    if not methods:
        return {"metrics": names, "rho": []}
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
        board: Board = parse_json(folder.read(BOARD))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder} is not a results folder: it has no {BOARD}") from None
    return board
