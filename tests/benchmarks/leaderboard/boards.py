"""Small boards whose answers are known by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.leaderboard.board import make_leaderboard
from benchmarks.leaderboard.columns import Rules
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.metrics.score import PER_IMAGE

IDS = [f"{k:03d}" for k in range(40)]


def table(scores: dict[str, dict[str, np.ndarray]], ids: list[str] = IDS) -> pa.Table:
    """scores[metric][method]: (images,) or (seeds, images); NaN becomes a failure."""
    rows = []
    for metric, methods in scores.items():
        for method, values in methods.items():
            for seed, line in enumerate(np.atleast_2d(values)):
                for id_, value in zip(ids, line, strict=True):
                    failed = bool(np.isnan(value))
                    rows.append({"suite": "s", "method": method, "seed": str(seed), "id": id_, "metric": metric,
                                 "value": None if failed else float(value), "seconds": 0.1,
                                 "reason": "iqa_not_finite" if failed else None})  # fmt: skip
    return pa.Table.from_pylist(rows, PER_IMAGE)


def board(scores: dict[str, dict[str, Any]], ids: list[str] = IDS, total: int = 40, **options: Any) -> dict[str, Any]:
    specs = [MetricSpec(name) for name in scores]
    rules = Rules(**{"resamples": 2000} | {k: v for k, v in options.items() if k != "groups"})
    return make_leaderboard(table(scores, ids), ids, total, specs, options.get("groups", {}), rules)


def complete(made: dict[str, Any]) -> dict[str, Any]:
    """The board with what stands around the scores."""
    return made | {"suite": "s", "profile": "p", "about": "About.", "flags": {}, "runs": {}, "footnotes": [],
                   "not_computed": {}, "published": [], "signature": "s"}  # fmt: skip


def cut(values: np.ndarray, images: int) -> np.ndarray:
    return np.where(np.arange(values.shape[-1]) < images, values, np.nan)
