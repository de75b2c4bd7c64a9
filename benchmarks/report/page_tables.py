"""The tables of the page: the leaderboard with ranks in words, published rows, win rates, and what its methods lack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from benchmarks.leaderboard.schema import Board, ColouredRow, Gap, MetricTable
from benchmarks.report import tables
from benchmarks.report.notes import in_which

WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


class Cell(TypedDict):
    """`kind`: its class; `value`: what it is sorted by, empty where it stands last; `rank`: in words."""

    text: str
    kind: str
    value: str
    rank: str


class Missing(TypedDict):
    """What a method lacks: (image, why) of each."""

    summary: str
    gaps: list[tuple[str, str]]


class Rate(TypedDict):
    """A share of images; `colour`: behind it; `sure`: the difference is significant."""

    text: str
    colour: str
    sure: bool


class Heat(TypedDict):
    """The win rates of a metric: a row a method, None on the diagonal."""

    metric: str
    methods: list[str]
    rows: list[tuple[str, list[Rate | None]]]


def in_words(rank: int) -> str:
    """`first`, ..., `tenth`, `no. 11`."""
    return WORDS[rank - 1] if rank <= len(WORDS) else f"no. {rank}"


def make_rows(board: Board) -> dict[str, list[Cell]]:
    """Method -> its cells behind the name, in order; those below the line last."""
    return {line[0][0]: list(_cells(board, line)) for line in tables.make_body(board, ranks=False)}


def _cells(board: Board, line: list[tuple[str, bool]]) -> Iterator[Cell]:
    method = line[0][0]
    for (text, bold), metric in zip(line[1:], board["metrics"].values(), strict=False):
        row = metric["rows"][method]
        comparable = row["mean"] is not None and tables.is_comparable(metric, row)
        yield {
            "text": text,
            "kind": "best" if bold else "hole" if row["n"] < row["of"] else "",
            "value": f"{row['mean']:.6g}" if comparable else "",  # without one it stands last, whatever the order
            "rank": _rank(metric, method) if row["rank"] else "",
        }
    at = 1 + len(board["metrics"])
    for group in (group for group in board["groups"].values() if group["rows"]):
        bold, placed = line[at][1], group["rows"].get(method)
        cell: Cell = {"text": "-", "kind": "best" if bold else "", "value": "", "rank": ""}
        if placed is not None:
            cell["text"] = f"{in_words(placed['rank'])} of {len(group['rows'])}"
            cell["rank"] = f"mean {placed['mean_rank']:.2f}, first in {placed['first_share']:.0%}"
            cell["value"] = f"{placed['mean_rank']:.6g}"
        yield cell
        at += 1
    for text, _ in line[at:-1]:
        yield {"text": text, "kind": "", "value": text.strip("-"), "rank": ""}
    yield {"text": line[-1][0], "kind": "text", "value": line[-1][0], "rank": ""}


def _rank(metric: MetricTable, method: str) -> str:
    """`second of 4`. What does not differ surely from the best is marked as the best is, as a note says."""
    ranked = [row for row in metric["rows"].values() if row["rank"]]
    return f"{in_words(metric['rows'][method]['rank'] or 0)} of {len(ranked)}"


def make_published_rows(board: Board) -> list[tuple[str, list[Cell]]]:
    """(method and paper, cells) of each row that a paper printed."""
    columns = len(tables.header(board))
    return [
        (f"{paper['method']} ({paper['source']})", list(_published_cells(paper, list(board["metrics"]), columns)))
        for paper in board["published"]
    ]


def _published_cells(paper: ColouredRow, metrics: list[str], columns: int) -> Iterator[Cell]:
    for name in metrics:
        value = paper["values"].get(name)
        shown = "" if value is None else f"{value:g}"
        yield {"text": shown, "kind": paper["colours"].get(name, "dim"), "value": shown, "rank": ""}
    for _ in range(columns - len(metrics) - 2):
        yield {"text": "", "kind": "", "value": "", "rank": ""}
    yield {"text": paper["reference"].split(" (")[0], "kind": "text", "value": "", "rank": ""}


def list_missing(board: Board) -> list[Missing]:
    """Every image without a score, with its reason, a method each."""
    return [_missing(board, method, board["gaps"][method]) for method in tables.order(board) if method in board["gaps"]]


def _missing(board: Board, method: str, gaps: list[Gap]) -> Missing:
    images = len({gap["id"] for gap in gaps})
    seeds = len({seed for gap in gaps for seed in gap["seeds"]}) > 1
    reasons = [
        (gap["id"], f"{gap['reason']}{in_which(gap, board)}" + (f" (seed {', '.join(gap['seeds'])})" if seeds else ""))
        for gap in gaps
    ]
    return {"summary": f"{method}: {images} of {board['images']['scored']} images", "gaps": reasons}


def list_shared(board: Board) -> list[tuple[str, str, list[str]]]:
    """(metric, methods, numbers) of methods that are not ranked, over the images that both have."""
    return [
        (name, " - ".join(pair["methods"]), [
            str(pair["n"]),
            f"{pair['difference']:+.4g}",
            f"{pair['low']:+.3g} to {pair['high']:+.3g}",
            f"{pair['p_holm']:.2g}",
        ])
        for name, metric in board["metrics"].items()
        for pair in metric["shared"]
    ]  # fmt: skip


def list_win_rates(board: Board) -> list[Heat]:
    """A table for each metric with two methods; the page shows one."""
    made: list[Heat] = []
    for name, metric in board["metrics"].items():
        rates = metric["win_rate"]
        methods = [method for method in tables.order(board) if method in rates]
        if len(rates) < 2:
            continue
        sure = {frozenset(pair["methods"]) for pair in metric["pairs"] if pair["p_holm"] < 0.05}
        rows = [
            (first, [_rate(rates[first].get(second), {first, second} in sure) for second in methods])
            for first in methods
        ]
        made.append({"metric": name, "methods": methods, "rows": rows})
    return made


def _rate(rate: float | None, sure: bool) -> Rate | None:
    if rate is None:
        return None
    strength = abs(rate - 0.5) * 1.2
    colour = f"rgba(47,106,168,{strength:.2f})" if rate >= 0.5 else f"rgba(179,38,30,{strength:.2f})"
    return {"text": f"{rate:.0%}", "colour": colour, "sure": sure}
