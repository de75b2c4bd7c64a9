"""What changed between two runs: images added and removed by reason, and how the scores moved."""

from __future__ import annotations

from collections import Counter
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lucidflux_data.growth.part import read_originals
from lucidflux_data.numerics import largest_gap
from lucidflux_data.selection import run as runs
from lucidflux_data.storage.folder import Folder


class Comparison(TypedDict):
    """`kept`: images of the first run, of the second and of both; `added`, `removed`: by reason; `changed`: images;
    `scores`: means and the Kolmogorov-Smirnov distance (`ks`) by the name of the score."""

    kept: dict[str, int]
    added: dict[str, int]
    removed: dict[str, int]
    changed: int
    scores: dict[str, dict[str, float]]


def compare(first: Folder, second: Folder) -> Comparison:
    """What the second run's set has more, less and other than the first's, by reason, and how the scores moved.

    added: kept in the second only, by why the first does not have it; removed: the other way round; changed: the same
    uri with other bytes. Scores are compared over the kept images: means, and the Kolmogorov-Smirnov distance.
    """
    before, after = (runs.read_ledger(folder) for folder in (first, second))
    kept_before, kept_after = _kept_keys(before), _by_their_first_names(second, before, _kept_keys(after))
    shas = {row["uri"]: row["sha256"] for row in before.select(["uri", "sha256"]).to_pylist()}
    changed = sum(
        shas.get(row["uri"]) not in (None, row["sha256"])
        for row in after.select(["uri", "sha256"]).to_pylist()
        if row["sha256"]
    )
    shift = {}
    for name in sorted(set(before.column_names) & set(after.column_names)):
        if pa.types.is_floating(before.schema.field(name).type):
            shift[name] = _shift(before, after, name)
    return {
        "kept": {"first": len(kept_before), "second": len(kept_after), "both": len(kept_before & kept_after)},
        "added": _by_reason(kept_after - kept_before, before),
        "removed": _by_reason(kept_before - kept_after, after),
        "changed": changed,
        "scores": {name: moved for name, moved in shift.items() if moved},
    }


def _by_their_first_names(folder: Folder, before: pa.Table, keys: set[str]) -> set[str]:
    """`keys` of a set that adds to one which was stripped: as the ledger of that one names its images."""
    names = {packed: key for key, packed in read_originals(folder).items()}
    if not names:
        return keys
    known = set(before["key"].to_pylist())
    return {names[key] if names.get(key) in known else key for key in keys}


def _kept_keys(ledger: pa.Table) -> set[str]:
    return set(ledger.filter(pc.field("keep"))["key"].to_pylist())


def _by_reason(keys: set[str], other: pa.Table) -> dict[str, int]:
    """Why the other ledger does not keep these keys."""
    reasons = {
        row["key"]: row["reason"]
        for row in other.select(["key", "reason"]).to_pylist()
        if row["key"] in keys and row["reason"] != "duplicate"
    }
    return dict(sorted(Counter(reasons.get(key) or "not_a_candidate" for key in keys).items()))


def _shift(before: pa.Table, after: pa.Table, name: str) -> dict[str, float] | None:
    first, second = (
        np.sort(pc.drop_null(table.filter(pc.field("keep"))[name]).to_numpy()) for table in (before, after)
    )
    if len(first) == 0 or len(second) == 0:
        return None
    return {
        "mean_first": float(first.mean()),
        "mean_second": float(second.mean()),
        "ks": largest_gap(first, second),
    }
