"""What a listing of training data has to say: what it left out, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypedDict


class Listed(TypedDict):
    """`warnings`: a sentence each; `ignored_by`: files, members and rows that are no candidates, by kind
    (sources/counts.py); `left_out`: candidates that are not trained on, by reason."""

    warnings: list[str]
    ignored_by: dict[str, int]
    left_out: dict[str, int]


NOTHING: Listed = {"warnings": [], "ignored_by": {}, "left_out": {}}


def join_listed(parts: Iterable[Listed]) -> Listed:
    """The sum of several."""
    warnings: list[str] = []
    ignored: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for part in parts:
        warnings += [warning for warning in part["warnings"] if warning not in warnings]
        ignored.update(part["ignored_by"])
        left_out.update(part["left_out"])
    return {
        "warnings": warnings,
        "ignored_by": dict(sorted(ignored.items())),
        "left_out": dict(sorted(left_out.items())),
    }


def say_left_out(left_out: dict[str, int]) -> str:
    """`7 images are left out: 4 duplicate, 3 truncated`."""
    counts = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
    return f"{sum(left_out.values()):,} images are left out: {counts}"
