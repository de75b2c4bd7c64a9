"""Two methods, or two results folders, image by image: paired differences with intervals and adjusted p values."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from benchmarks.leaderboard import board as leaderboard_board
from benchmarks.leaderboard import statistics
from benchmarks.leaderboard.schema import Board, ComparedRow, Comparison
from benchmarks.leaderboard.statistics import Bootstrap
from lucidflux_data.errors import InputError
from lucidflux_data.storage.folder import Folder

Scores = dict[str, dict[str, dict[str, float]]]  # method -> metric -> id -> mean over the seeds


def compare(first: str, second: str, resamples: int = statistics.RESAMPLES) -> Comparison:
    """`RESULTS` or `RESULTS:method` each. Without methods, those that both have are compared one by one.

    A metric that was computed in two ways is left out and named.
    InputError where there is nothing to compare, or where the images of an id are others in the two.
    """
    (folder_a, method_a), (folder_b, method_b) = _operand(first), _operand(second)
    board_a, board_b = leaderboard_board.read_board(folder_a), leaderboard_board.read_board(folder_b)
    _check_images(board_a, board_b, str(folder_a), str(folder_b))
    scores_a, scores_b = read_scores(folder_a), read_scores(folder_b)
    for method, scores, place in ((method_a, scores_a, folder_a), (method_b, scores_b, folder_b)):
        if method is not None and method not in scores:
            raise InputError(f"{place} has no method {method}: it has {', '.join(scores)}")
    if method_a is None and method_b is None:
        pairs = [(method, method) for method in scores_a if method in scores_b]
    else:
        pairs = [(method_a or method_b or "", method_b or method_a or "")]
    if str(folder_a) == str(folder_b) and all(a == b for a, b in pairs):
        raise InputError(f"{folder_a} compared with itself: name two methods, as RESULTS:METHOD")
    made_a, made_b = _making(board_a), _making(board_b)
    other_ways = sorted(name for name in made_a.keys() & made_b.keys() if made_a[name] != made_b[name])
    rows: list[ComparedRow] = []
    for a, b in pairs:
        for metric in made_a:
            if metric in made_b and metric not in other_ways:
                row = _row(a, b, metric, scores_a, scores_b, board_a["metrics"][metric]["lower_is_better"], resamples)
                rows += [row] if row else []
    if not rows:
        raise InputError(f"{first} and {second} share no method, metric and two images")
    for row, adjusted in zip(rows, statistics.holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return {
        "a": first,
        "b": second,
        "resamples": resamples,
        "rows": rows,
        "computed_in_two_ways": other_ways,
    }


def _check_images(first: Board, second: Board, a: str, b: str) -> None:
    """InputError for two suites, or for an id whose input or reference is another one: equal names are no pair then.
    Results of a version before 0.5 did not record them."""
    if first["suite"] != second["suite"]:
        raise InputError(f"{a} is over {first['suite']}, {b} over {second['suite']}: their images are no pairs")
    pins = [next((part for part in board["signature"].split("|") if part.startswith("pin:")), None)
            for board in (first, second)]  # fmt: skip
    if None not in pins and pins[0] != pins[1]:
        raise InputError(f"{a} and {b} are over other images of {first['suite']} ({pins[0]} and {pins[1]})")
    for role, name in (("lq", "input"), ("gt", "reference")):
        known, others = (board.get("compared_with", {}).get(role, {}) for board in (first, second))
        odd = sorted(id_ for id_ in known.keys() & others.keys() if known[id_] != others[id_])
        if odd:
            raise InputError(
                f"{odd[0]} has another {name} in {a} than in {b} ({len(odd)} such): score both against one"
            )


def _operand(text: str) -> tuple[Folder, str | None]:
    folder = Folder(text)
    if folder.exists(leaderboard_board.BOARD) or ":" not in text:
        return folder, None
    place, _, method = text.rpartition(":")
    return Folder(place), method


def _making(board: Board) -> dict[str, str]:
    """metric -> how it was computed, out of the signature."""
    parts = [part for part in board["signature"].split("|") if part.split(":")[0] in board["metrics"]]
    return dict(part.split(":", 1) for part in parts)


def read_scores(folder: Folder) -> Scores:
    """What per_image.parquet says of single images."""
    seeds: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in folder.read_table(leaderboard_board.TABLE).to_pylist():
        if row["id"]:
            value = row["value"]
            seeds[row["method"], row["metric"], row["id"]].append(np.nan if value is None else value)
    scores: Scores = {}
    for (method, metric, id_), values in seeds.items():
        if np.isfinite(values).all():
            scores.setdefault(method, {}).setdefault(metric, {})[id_] = float(np.mean(values))
    return scores


def _row(
    a: str, b: str, metric: str, scores_a: Scores, scores_b: Scores, lower_is_better: bool, resamples: int
) -> ComparedRow | None:
    first, second = scores_a[a].get(metric, {}), scores_b[b].get(metric, {})
    ids = sorted(first.keys() & second.keys())
    if len(ids) < 2:
        return None
    values = statistics.without_noise(np.array([[first[id_] for id_ in ids], [second[id_] for id_ in ids]]))
    differences = values[0] - values[1]
    low, high = statistics.interval(Bootstrap(len(ids), resamples).means(differences[None]))
    sign = -1 if lower_is_better else 1
    p = statistics.permutation_p(differences, resamples)
    return {
        "methods": [a, b],
        "metric": metric,
        "lower_is_better": lower_is_better,
        "n": len(ids),
        "mean_a": float(values[0].mean()),
        "mean_b": float(values[1].mean()),
        "difference": float(differences.mean()),
        "low": low,
        "high": high,
        "p": p,
        "win_rate": round(statistics.win_rate(values[0], values[1], sign), 4),
        "detectable": statistics.detectable_difference(differences),
        "better": "a" if sign * differences.mean() > 0 else "b" if sign * differences.mean() < 0 else "equal",
        "p_holm": p,  # until all rows are there
    }
