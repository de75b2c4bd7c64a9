"""Metrics whose answers are drawn: how far a method's mean moves from draw to draw, and whether that leaves a rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.leaderboard import statistics
from benchmarks.leaderboard.schema import Board, MetricTable, ScoreBoard
from benchmarks.methods.submission import Method
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.metrics.score import Key, ScoreRow

Draws = Mapping[str, Sequence[Mapping[Key, ScoreRow]]]  # metric -> draw -> scores


def settle_draws(
    given: Sequence[MetricSpec], draws: Draws, methods: Sequence[Method], board: ScoreBoard
) -> list[MetricSpec]:
    """Puts the spread of every drawn metric into the board; gives the metrics, of which one is no longer ranked whose
    spread is not under half of the smallest difference that is claimed."""
    specs = []
    by_name = {method.name: method for method in methods}
    for spec in given:
        if spec.name in draws:
            table = board["metrics"][spec.name]
            table["spread"] = {name: _spread(draws[spec.name], by_name[name]) for name in board["methods"]}
            if not is_steady(table):
                spec = replace(spec, ranked=False)
        specs.append(spec)
    return specs


def _spread(draws: Sequence[Mapping[Key, ScoreRow]], method: Method) -> float | None:
    """The standard deviation of the means of a method over the draws, of images that every draw has a value for."""
    keys = [(file.sha256, "") for seed in method.files.values() for file in seed.values() if not file.reason]
    values = np.array([[draw[key]["value"] if key in draw else None for key in keys] for draw in draws], float)
    values = values[:, np.isfinite(values).all(axis=0)]
    return float(values.mean(axis=1).std(ddof=1)) if values.size else None


def is_steady(table: MetricTable) -> bool:
    """Whether the largest spread is under half of the smallest difference that is significant; not, where none is."""
    spreads = table.get("spread", {}).values()
    claimed = smallest_claim(table)
    return claimed is not None and all(spread is not None and spread < claimed / 2 for spread in spreads)


def smallest_claim(table: MetricTable) -> float | None:
    """The smallest difference of two methods that is significant, None where none is."""
    sure = [abs(pair["difference"]) for pair in table["pairs"] if pair["p_holm"] < statistics.ALPHA]
    return min(sure, default=None)


def draw_notes(board: Board) -> Sequence[str]:
    """A sentence for each metric that is drawn."""
    lines = []
    for name, table in board["metrics"].items():
        if "spread" not in table:
            continue
        spreads = [spread for spread in table["spread"].values() if spread is not None]
        most = f"{max(spreads):.2g}" if spreads else "unknown"
        end = (
            "" if table["ranked"] else "; not ranked, since that is not under half of the smallest difference it claims"
        )
        lines.append(
            f"{name} is drawn several times: the mean of a method moves by up to {most} (standard deviation){end}."
        )
    return lines
