"""What a listing leaves out, by kind, and what it has to warn of: candidates + ignored is everything it met."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

IGNORED = {
    "other_files": "other files",  # by their name no image, and tables that hold none
    "not_regular": "pipes, sockets or devices",
    "links": "links in tars",
    "folders": "folders behind links, or that a pattern matches",
    "duplicate_members": "members replaced by a later one of the same name",
    "duplicate_rows": "listed twice",
    "null_rows": "rows without an image",
    "damaged_tails": "damaged parts of tars",
    "damaged_files": "damaged or empty files",
    "packed_tars": "packed tars and archives",
    "not_drawn": "left out by --limit",
    "of_other_runs": "in several of the runs, or not kept by one that is included",
}


@dataclass
class Counts:
    """`ignored`: how many of each kind of IGNORED. `damaged_tars`: their uris. `warnings`: a sentence each. `source`:
    the url that is being listed. `unread`: columns of tables whose images are not read, each with a warning."""

    ignored: Counter[str] = field(default_factory=Counter)
    damaged_tars: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    source: tuple[str, ...] = ()
    unread: set[tuple[str, ...]] = field(default_factory=set)


def describe_ignored(ignored: dict[str, int]) -> str:
    """`3 ignored (2 other files, 1 links in tars)`: the kinds that are there, in the order of IGNORED."""
    parts = [f"{ignored[kind]:,} {words}" for kind, words in IGNORED.items() if ignored.get(kind)]
    return f"{sum(ignored.values()):,} ignored" + (f" ({', '.join(parts)})" if parts else "")
