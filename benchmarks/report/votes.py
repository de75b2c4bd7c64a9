"""The votes as small tables and sentences, which every view of a leaderboard has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.leaderboard.schema import Agreement, Board, RaterRow, VoteRow, VotesTable


@dataclass(frozen=True)
class Small:
    """A table of texts. `bold`: rows whose first cell is the best, or tied with it."""

    title: str
    header: Sequence[str]
    rows: list[list[str]]
    bold: frozenset[int] = frozenset()


def vote_tables(board: Board) -> list[Small]:
    """Methods, raters and metrics; [] without votes."""
    votes = board.get("votes")
    if votes is None:
        return []
    rows = sorted(votes["rows"].items(), key=lambda item: item[1]["rank"] or 0)
    bold = frozenset(k for k, (_, row) in enumerate(rows) if row["tied_with_best"])
    names = ("method", "rank", "strength", "95%", "first in", "won", "shown")
    tables = [Small("Votes", names, [[name, *_method(row)] for name, row in rows], bold)]
    heads = ("rater", "votes", "same answer twice", "left", "with the others' majority")
    tables.append(Small("Raters", heads, [[name, *_rater(row)] for name, row in votes["raters"].items()]))
    agreeing = sorted(votes["metrics"].items(), key=lambda item: -(item[1]["share"] or 0))
    lines = [
        ["raters with each other", *_share(votes["among_raters"])],
        *([name, *_share(row)] for name, row in agreeing),
    ]
    return [*tables, Small("Agreement with the votes", ("metric", "agrees", "95%", "n"), lines)]


def _method(row: VoteRow) -> list[str]:
    if row["strength"] is None:
        return ["-", "-", "-", "-", str(row["wins"]), str(row["votes"])]
    ends = [f"{end:+.2f}" if end is not None else "no end" for end in (row["low"], row["high"])]
    first = f"{row['first_share'] or 0:.0%}"
    return [str(row["rank"]), f"{row['strength']:+.2f}", " to ".join(ends), first, str(row["wins"]), str(row["votes"])]


def _rater(row: RaterRow) -> list[str]:
    same, others = _of(row["same"], row["repeats"]), _of(row["with_others"], row["shared"])
    return [str(row["votes"]), same, f"{row['left']:.0%}", others]


def _share(row: Agreement) -> list[str]:
    if row["share"] is None:
        return ["-", "-", "0"]
    ends = "-" if row["low"] is None or row["high"] is None else f"{row['low']:.0%} to {row['high']:.0%}"
    return [f"{row['share']:.0%}", ends, str(row["n"])]


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}" if whole else "-"


def vote_notes(votes: VotesTable | None) -> list[str]:
    """What a reader of the votes must know, a sentence each."""
    if votes is None:
        return []
    count = len(votes["raters"])
    lines = [
        f"Votes: {votes['votes']:,} of {count} rater{'s' * (count != 1)} on {votes['images']} images, study "
        f"{votes['study']}; strengths of Bradley and Terry in logits, resampled over raters and images."
    ]
    if votes["why_not"]:
        lines.append(f"No rank by votes: {votes['why_not']}.")
    elif votes["unbounded"]:
        lines.append(
            f"In {votes['unbounded']:.1%} of the resamples of votes no finite strengths fit: counted as anything, they "
            "widen every interval."
        )
    return [*lines, *(f"{remark[0].upper()}{remark[1:]}." for remark in votes["remarks"])]
