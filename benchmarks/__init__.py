"""Leaderboard and throughput measurements.

The public name is looked up when it is used:

    rank  folders of outputs in, a leaderboard out
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.ranking import rank

__all__ = ["rank"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from benchmarks import ranking

    return getattr(ranking, name)
