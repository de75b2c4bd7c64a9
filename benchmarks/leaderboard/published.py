"""Numbers as papers printed them. They stand beside ours; they are never ranked and never tested against.

Three papers printed RealLQ250 scores of the same methods. The largest difference between two of them, per metric, is
the only measure there is of how far a faithful reproduction may be off; it colours the published cells on that suite.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TypedDict

from benchmarks.leaderboard.schema import MetricTable, PublishedRow
from benchmarks.suites.suite import Suite

FOLDER = Path(__file__).with_name("published_scores")
TOLERANCE_BENCHMARK = "RealLQ250"  # elsewhere the tables differ by protocol, not by chance
OTHER_RELEASE = frozenset({"DiffBIR"})  # the papers ran different releases of it: no measure of reproducibility


class Paper(TypedDict):
    """A file of published_scores/: the tables of one paper."""

    source: str  # the paper's name
    reference: str  # where in it
    benchmarks: dict[str, dict[str, dict[str, float]]]  # benchmark -> method -> metric -> value


def read_published() -> list[Paper]:
    """Every paper, the latest name first."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"), reverse=True)]


def published_rows(suite: Suite, metrics: list[str] | None = None) -> list[PublishedRow]:
    """Rows of the suite's benchmark; `metrics` None: all that were published."""
    rows: list[PublishedRow] = []
    for paper in read_published():
        for method, values in paper["benchmarks"].get(suite.published or "", {}).items():
            wanted = {name: value for name, value in values.items() if metrics is None or name in metrics}
            if wanted:
                source, reference = paper["source"], paper["reference"]
                rows.append({"method": method, "source": source, "reference": reference, "values": wanted})
    return rows


def tolerances() -> dict[str, float]:
    """metric -> largest difference of two papers for one method on RealLQ250."""
    printed: dict[tuple[str, str], list[float]] = {}
    for paper in read_published():
        for method, values in paper["benchmarks"].get(TOLERANCE_BENCHMARK, {}).items():
            for metric, value in values.items() if method not in OTHER_RELEASE else ():
                printed.setdefault((metric, method), []).append(value)
    largest: dict[str, float] = {}
    for (metric, _), found in sorted(printed.items()):
        if len(found) > 1:
            largest[metric] = round(max(largest.get(metric, 0.0), max(found) - min(found)), 6)
    return largest


def base_name(method: str) -> str:
    """`lucidflux[published,20]` -> `lucidflux`; case, spaces and hyphens do not count."""
    return re.sub(r"[\s_-]", "", method.split("[")[0].lower())


def colours(row: PublishedRow, suite: Suite, metrics: dict[str, MetricTable]) -> dict[str, str]:
    """metric -> green (ours is within the largest inter-lab difference), yellow (within twice that), red, or dim where
    nothing can be said: another protocol, no second laboratory, no complete measurement of this method."""
    limits = tolerances() if suite.published == TOLERANCE_BENCHMARK and suite.same_protocol else {}
    result = {}
    for name, value in row["values"].items():
        ours = [
            measured["mean"]
            for method, measured in (metrics[name]["rows"] if name in metrics else {}).items()
            if base_name(method) == base_name(row["method"]) and measured["n"] == measured["of"]
        ]
        result[name] = "dim"
        if name in limits and len(ours) == 1 and ours[0] is not None:
            off = abs(ours[0] - value)
            result[name] = "green" if off <= limits[name] else "yellow" if off <= 2 * limits[name] else "red"
    return result
