"""The leaderboard as a table: terminal (rich), Markdown, LaTeX (booktabs) and CSV, all from leaderboard.json's dict.

Cell: mean ± half the width of its interval. `#` is the rank. Bold: the best, and what is statistically tied with it.
An unranked mean says over how many images it is; methods that no column ranks stand below a line. The sentences beneath
are in notes.py.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from benchmarks.leaderboard import statistics
from benchmarks.leaderboard.schema import Board, Comparison, Group, MetricRow, MetricTable, PublishedRow
from benchmarks.report.notes import notes
from benchmarks.report.votes import Small, vote_tables
from benchmarks.suites.suite import Suite
from lucidflux_data.escapes import for_csv, for_latex, for_latex_comment, for_markdown, for_markdown_code, show

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

BELOW = "not ranked: images are missing"
ANY_WIDTH = 10_000
HEAD_WIDTH = 22  # of a column of names: what is longer wraps
ARROW = {True: "↓", False: "↑"}
Cost = Literal["seconds_per_image", "peak_gpu_mb"]


def digits(value: float) -> str:
    """Four significant digits for shares, as papers print them: 0.7122, 4.394, 73.01."""
    size = abs(value)
    return f"{value:.4f}" if size < 1 else f"{value:.3f}" if size < 20 else f"{value:.2f}"


def cell(row: MetricRow | None) -> str:
    """`3.674 ±0.041`, with `n=248/250` where the mean is over fewer images than the suite has."""
    if row is None or row["mean"] is None:
        reasons = ", ".join(f"{count} {reason}" for reason, count in (row["reasons"] if row else {}).items())
        return f"- ({reasons})" if reasons else "-"
    text = digits(row["mean"])
    if row["low"] is not None and row["high"] is not None:
        half = (row["high"] - row["low"]) / 2
        text += f" ±{half:.2g}" if half < 10 else f" ±{half:.0f}"
    return text if row["n"] == row["of"] else f"{text} n={row['n']}/{row['of']}"


def order(board: Board) -> list[str]:
    """Methods by the first group that has ranks, else by the first metric that has, else as given; those below the line
    last."""
    key: dict[str, float] = {}
    for group in board["groups"].values():
        if group["rows"] and not key:
            key = {method: row["mean_rank"] for method, row in group["rows"].items()}
    for metric in board["metrics"].values():
        if not key:
            key = {method: row["rank"] for method, row in metric["rows"].items() if row["rank"]}
    return sorted(board["methods"], key=lambda method: (method in board["below"], key.get(method, 1e9)))


def first_below(board: Board) -> str | None:
    """The method that the line stands over, None where there is no line."""
    return next((method for method in order(board) if method in board["below"]), None)


def header(board: Board) -> list[str]:
    names = [f"{name} {ARROW[metric['lower_is_better']]}" for name, metric in board["metrics"].items()]
    return ["method", *names, *(f"rank: {name}" for name in _ranked_groups(board)), *_costs(board), "remarks"]


def _costs(board: Board) -> dict[str, Cost]:
    """Title -> key in method.json of what `bench infer` measured; only what some method has."""
    titles: dict[str, Cost] = {"s/image": "seconds_per_image", "GPU MB": "peak_gpu_mb"}
    runs = board["runs"].values()
    return {title: key for title, key in titles.items() if any(run.get(key) is not None for run in runs)}


def _ranked_groups(board: Board) -> dict[str, Group]:
    return {name: group for name, group in board["groups"].items() if group["rows"]}


def make_body(board: Board, ranks: bool = True) -> list[list[tuple[str, bool]]]:
    """Rows of (text, bold). `ranks`: with `#1` behind the mean of the first of a metric, and so on."""
    lines = []
    for method in order(board):
        line = [(method, False)]
        for metric in board["metrics"].values():
            row = metric["rows"].get(method)
            rank = f" #{row['rank']}" if ranks and row and row["rank"] else ""
            line.append((cell(row) + rank, bool(row and row.get("tied_with_best"))))
        for group in _ranked_groups(board).values():
            placed = group["rows"].get(method)
            text = "-"
            if placed is not None:
                text = f"{placed['rank']} ({placed['mean_rank']:.2f}, first in {placed['first_share']:.0%})"
            sure = all(board["metrics"][name]["no_test"] is None for name in group["metrics"])
            line.append((text, placed is not None and placed["rank"] == 1 and sure))
        for key in _costs(board).values():
            value = board["runs"][method].get(key) if method in board["runs"] else None
            line.append(("-" if value is None else f"{value:.4g}" if value < 1000 else f"{value:.0f}", False))
        line.append(("; ".join(board["flags"].get(method, [])), False))
        lines.append(line)
    return lines


def is_comparable(metric: MetricTable, row: MetricRow) -> bool:
    """Whether a mean may be put in order with the others of its column; one over a hole may not."""
    if metric["ranked"]:
        return row["rank"] is not None
    return row["n"] == max(other["n"] for other in metric["rows"].values())


def markdown(board: Board) -> str:
    names = header(board)
    lines = ["| " + " | ".join(map(for_markdown, names)) + " |", "|" + "---|" * len(names)]
    for row in make_body(board):
        if row[0][0] == first_below(board):
            lines.append("| " + " | ".join([f"_{BELOW}_", *[""] * (len(names) - 1)]) + " |")
        cells = [f"**{for_markdown(text)}**" if bold else for_markdown(text) for text, bold in row]
        lines.append("| " + " | ".join(cells) + " |")
    for paper in board["published"]:
        cells = [f"_{for_markdown(paper['method'])} (published, {for_markdown(paper['source'])})_"]
        cells += [_published(paper["values"].get(name)) for name in board["metrics"]]
        lines.append("| " + " | ".join([*cells, *[""] * (len(names) - len(cells))]) + " |")
    title = for_markdown(f"{board['suite']}, {board['profile']}")
    votes = [_small_markdown(table) for table in vote_tables(board)]
    remarks = [for_markdown(line) for line in notes(board)[:-1]]
    remarks.append(f"Signature: {for_markdown_code(board['signature'])}")
    return "\n\n".join([f"## {title}", "\n".join(lines), *votes, *remarks]) + "\n"


def _small_markdown(table: Small) -> str:
    lines = ["| " + " | ".join(table.header) + " |", "|" + "---|" * len(table.header)]
    for number, row in enumerate(table.rows):
        cells = [for_markdown(cell) for cell in row]
        if number in table.bold:
            cells[0] = f"**{cells[0]}**"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([f"### {table.title}", "", *lines])


def _published(value: float | None) -> str:
    return "" if value is None else f"_{value:g}_"


def latex(board: Board) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    arrows = {"↓": r"$\downarrow$", "↑": r"$\uparrow$"}
    names = header(board)[:-1]
    lines = [r"\begin{tabular}{l" + "r" * (len(names) - 1) + "}", r"\toprule"]
    titles = [for_latex(name[:-1]) + arrows[name[-1]] if name[-1] in arrows else for_latex(name) for name in names]
    lines += [" & ".join(titles) + r" \\", r"\midrule"]
    for row in make_body(board, ranks=False):
        if row[0][0] == first_below(board):
            lines += [r"\midrule", rf"\multicolumn{{{len(names)}}}{{l}}{{\textit{{{for_latex(BELOW)}}}}} \\"]
        cells = [rf"\textbf{{{for_latex(text)}}}" if bold else for_latex(text) for text, bold in row[:-1]]
        lines.append(" & ".join(cells) + r" \\")
    if board["published"]:
        lines.append(r"\midrule")
    for paper in board["published"]:
        cells = [rf"\textit{{{for_latex(paper['method'])}}} ({for_latex(paper['source'])})"]
        cells += [for_latex(_published(paper["values"].get(name)).strip("_")) for name in board["metrics"]]
        lines.append(" & ".join([*cells, *[""] * (len(names) - len(cells))]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*(f"% {for_latex_comment(line)}" for line in notes(board)), *lines]) + "\n"


def csv_text(board: Board) -> str:
    """A row for each method and metric, with plain numbers; published rows have the kind `published`, methods below the
    line `not ranked`, and those of votes `votes` (n: those that it was in). `reasons`: why scores are missing."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(
        ["kind", "method", "metric", "mean", "low", "high", "rank", "n", "of", "tied_with_best", "reasons", "source"]
    )
    for method in order(board):
        kind = "not ranked" if method in board["below"] else "measured"
        for name, metric in board["metrics"].items():
            row = metric["rows"][method]
            values = [row["mean"], row["low"], row["high"], row["rank"], row["n"], row["of"]]
            tied = row.get("tied_with_best", "" if row["rank"] else False)  # empty: nothing to rank
            why = for_csv("; ".join(f"{count} {reason}" for reason, count in row["reasons"].items()))
            writer.writerow([kind, for_csv(method), for_csv(name), *values, tied, why, ""])
    votes = board.get("votes")
    if votes is not None:
        for method, vote in votes["rows"].items():
            numbers = [vote["strength"], vote["low"], vote["high"], vote["rank"], vote["votes"], votes["votes"]]
            writer.writerow(["votes", for_csv(method), "votes", *numbers, vote["tied_with_best"], "", ""])
    for paper in board["published"]:
        for name, value in paper["values"].items():
            text = [for_csv(cell) for cell in (paper["method"], name, paper["source"])]
            writer.writerow(["published", *text[:2], value, "", "", "", "", "", "", "", text[2]])
    return sink.getvalue()


def _console() -> Console:
    """Standard output; wide where it is no terminal, so that a pipe or a log gets whole tables."""
    import sys

    from rich.console import Console

    return Console(soft_wrap=True, width=None if sys.stdout.isatty() else 240)


def _table(board: Board, columns: Sequence[int], title: Text) -> Table:
    """The methods, and the columns of the header at these positions."""
    from rich.table import Table
    from rich.text import Text

    names = header(board)
    table = Table(title=title, title_justify="left")
    table.add_column("method", overflow="fold")
    for column in columns:
        table.add_column(Text(show(names[column])), justify="right", no_wrap=True)
    for row in make_body(board):
        if row[0][0] == first_below(board):
            table.add_section()
            table.add_row(Text(BELOW, style="italic dim"))
        cells = [row[0], *(row[column] for column in columns)]
        table.add_row(*(Text(show(text), style="bold" if bold else "") for text, bold in cells))
    if board["published"]:
        table.add_section()
    metrics = list(board["metrics"])
    for paper in board["published"]:
        cells_of = [Text(show(f"{paper['method']} ({paper['source']})"), style="italic dim")]
        for name in (metrics[column - 1] for column in columns if column <= len(metrics)):
            value = paper["values"].get(name)
            style = f"italic {paper['colours'].get(name, 'dim')}"
            cells_of.append(Text("" if value is None else f"{value:g}", style=style))
        table.add_row(*cells_of)
    return table


def print_terminal(board: Board) -> None:
    """The table on standard output; colours where it is a terminal."""
    from rich.text import Text

    console = _console()
    title = Text(show(f"{board['suite']}, {board['profile']}"))
    _print_parts(console, lambda columns: _table(board, columns, title), range(1, len(header(board)) - 1))
    for method in order(board):
        console.print(show(f"{method}: {'; '.join(board['flags'].get(method, []))}"), highlight=False, markup=False)
    for small in vote_tables(board):
        rows = [
            [Text(show(cell), style="bold" if number in small.bold else "") for cell in row]
            for number, row in enumerate(small.rows)
        ]
        _print_parts(console, _plain_table(small.title, small.header, rows, 1), range(1, len(small.header)))
    for line in notes(board):
        console.print(show(line), highlight=False, markup=False)


def _print_parts(console: Console, make: Callable[[Sequence[int]], Table], left: Sequence[int]) -> None:
    """Tables of as many of the columns `left` at a time as the width takes: none is cut."""
    unbounded = console.options.update_width(ANY_WIDTH)  # else a measure is of what fits
    while left:
        count = len(left)
        while count > 1 and console.measure(make(left[:count]), options=unbounded).maximum > console.width:
            count -= 1
        console.print(make(left[:count]))
        left = left[count:]


def _plain_table(title: str, names: Sequence[str], rows: Sequence[Sequence[Text]], heads: int) -> Callable[..., Table]:
    """Makes a table of the first `heads` columns, which are names, and of those at the positions that it is given."""
    from rich.table import Table
    from rich.text import Text

    def make(columns: Sequence[int]) -> Table:
        table = Table(title=Text(show(title)), title_justify="left")
        for column in (*range(heads), *columns):
            name = Text(show(names[column]))
            if column < heads:
                table.add_column(name, overflow="fold", max_width=HEAD_WIDTH)
            else:
                table.add_column(name, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*(row[column] for column in (*range(heads), *columns)))
        return table

    return make


RENDERERS = {"leaderboard.md": markdown, "leaderboard.tex": latex, "leaderboard.csv": csv_text}


def print_comparison(found: Comparison) -> None:
    """A row for each metric; bold where the difference is significant."""
    from rich.text import Text

    names = ("methods", "metric", "n", "A", "B", "A - B", "95%", "p (Holm)", "A wins", "better")
    lines = []
    for row in found["rows"]:
        methods = row["methods"][0] if row["methods"][0] == row["methods"][1] else " / ".join(row["methods"])
        sure = row["p_holm"] < 0.05
        cells = [methods, f"{row['metric']} {ARROW[row['lower_is_better']]}", str(row["n"])]
        cells += [digits(row["mean_a"]), digits(row["mean_b"]), f"{row['difference']:+.4g}"]
        cells += [f"{row['low']:+.3g} to {row['high']:+.3g}", f"{row['p_holm']:.2g}", f"{row['win_rate']:.0%}"]
        can_differ = statistics.least_p(row["n"], len(found["rows"]), resamples=found["resamples"]) < statistics.ALPHA
        cells.append(row["better"].upper() if sure else "tie" if can_differ else "too few images")
        lines.append([Text(show(cell), style="bold" if sure else "") for cell in cells])
    console = _console()
    title = f"A = {found['a']}, B = {found['b']}"
    _print_parts(console, _plain_table(title, names, lines, 2), range(2, len(names)))
    if found["computed_in_two_ways"]:
        twice = f"Left out, computed in two ways: {', '.join(found['computed_in_two_ways'])}."
        console.print(show(twice), highlight=False, markup=False)


def print_published(suite: Suite, rows: Sequence[PublishedRow], tolerances: dict[str, float]) -> None:
    """Published numbers as printed, a table for each paper."""
    from rich.text import Text

    console = _console()
    if not rows:
        console.print(f"No paper that is known here printed numbers for {suite.name}.", highlight=False)
    for source in dict.fromkeys(row["source"] for row in rows):
        mine = [row for row in rows if row["source"] == source]
        metrics = list(dict.fromkeys(name for row in mine for name in row["values"]))
        title = f"{suite.published}, {source}: {mine[0]['reference']}"
        lines = [
            [Text(show(row["method"])), *(Text(f"{row['values'][m]:g}" if m in row["values"] else "") for m in metrics)]
            for row in mine
        ]
        names = ("method", *metrics)
        _print_parts(console, _plain_table(title, names, lines, 1), range(1, len(names)))
    if rows and not suite.same_protocol:
        console.print(f"Not comparable with outputs on {suite.name}: {suite.crop}.", highlight=False)
    elif rows:
        largest = ", ".join(f"{name} {value:g}" for name, value in tolerances.items())
        console.print(f"Largest difference between two papers for one method: {largest}.", highlight=False)
