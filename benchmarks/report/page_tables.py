"""The leaderboard of the page, with ranks in words and published rows that fold, and what its methods lack."""

from __future__ import annotations

from benchmarks.leaderboard.schema import Board, ColouredRow, Gap, MetricTable
from benchmarks.report import tables
from benchmarks.report.notes import in_which
from lucidflux_data.escapes import for_html

WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def in_words(rank: int) -> str:
    """`first`, ..., `tenth`, `no. 11`."""
    return WORDS[rank - 1] if rank <= len(WORDS) else f"no. {rank}"


def make_table(board: Board) -> str:
    """The table: ranked methods, those below the line, and published rows, which a button shows."""
    names = tables.header(board)
    head = "".join(f"<th scope=col>{for_html(name)}</th>" for name in names)
    lines = {line[0][0]: _line(board, line) for line in tables.make_body(board, ranks=False)}
    above = "".join(text for method, text in lines.items() if method not in board["below"])
    below = "".join(text for method, text in lines.items() if method in board["below"])
    bodies = [f"<tbody>{above}</tbody>"]
    if below:
        bodies.append(f"<tbody class=line><tr><th scope=rowgroup colspan={len(names)}>{tables.BELOW}</th></tr></tbody>")
        bodies.append(f"<tbody class=below>{below}</tbody>")
    fold = ""
    if board["published"]:
        rows = "".join(_published_line(paper, list(board["metrics"]), len(names)) for paper in board["published"])
        bodies.append(f"<tbody id=published hidden>{rows}</tbody>")
        fold = (
            "<button type=button id=fold aria-expanded=false aria-controls=published>"
            f"{len(board['published'])} rows of published numbers</button>"
        )
    return (
        f"<div class=wide><table class=sortable id=leaderboard><thead><tr>{head}</tr></thead>{''.join(bodies)}</table>"
        f"</div>{fold}"
    )


def _line(board: Board, line: list[tuple[str, bool]]) -> str:
    method = line[0][0]
    cells = [f"<td>{for_html(method)}</td>"]
    for (text, bold), metric in zip(line[1:], board["metrics"].values(), strict=False):
        row = metric["rows"][method]
        kind = "best" if bold else "hole" if row["n"] < row["of"] else ""
        comparable = row["mean"] is not None and tables.is_comparable(metric, row)
        value = f"{row['mean']:.6g}" if comparable else ""  # without one it stands last, whatever the order
        words = f" <span class=rank>{_rank(metric, method)}</span>" if row["rank"] else ""
        cells.append(f"<td class='{kind}' data-value='{value}'>{for_html(text)}{words}</td>")
    for group in (group for group in board["groups"].values() if group["rows"]):
        bold, placed = line[len(cells)][1], group["rows"].get(method)
        text = "-"
        if placed is not None:
            text = f"{in_words(placed['rank'])} of {len(group['rows'])}, mean rank {placed['mean_rank']:.2f}, "
            text += f"first in {placed['first_share']:.0%} of the resamples"
        value = f"{placed['mean_rank']:.6g}" if placed else ""
        cells.append(f"<td class='{'best' if bold else ''}' data-value='{value}'>{text}</td>")
    for text, _ in line[len(cells) : -1]:
        cells.append(f"<td data-value='{text.strip('-')}'>{for_html(text)}</td>")
    cells.append(f"<td class=text>{for_html(line[-1][0])}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _rank(metric: MetricTable, method: str) -> str:
    """`second of 4`, and whether it can be told from the best."""
    ranked = [row for row in metric["rows"].values() if row["rank"]]
    row = metric["rows"][method]
    tied = ", not told from the best" if row.get("tied_with_best") and row["rank"] != 1 else ""
    return f"{in_words(row['rank'] or 0)} of {len(ranked)}{tied}"


def _published_line(paper: ColouredRow, metrics: list[str], columns: int) -> str:
    cells = [f"<td>{for_html(paper['method'])} ({for_html(paper['source'])})</td>"]
    for name in metrics:
        value = paper["values"].get(name)
        shown = "" if value is None else f"{value:g}"
        cells.append(f"<td class='{paper['colours'].get(name, 'dim')}' data-value='{shown}'>{shown}</td>")
    cells += ["<td data-value=''></td>"] * (columns - len(cells) - 1)
    source = for_html(paper["reference"])
    cells.append(f"<td class=text title='{source}'>{source.split(' (')[0]}</td>")
    return f"<tr class=published>{''.join(cells)}</tr>"


def list_missing(board: Board) -> str:
    """Every image without a score, with its reason, and how methods that are not ranked compare over shared images."""
    parts = [
        _missing(board, method, board["gaps"][method]) for method in tables.order(board) if method in board["gaps"]
    ]
    shared = _shared(board)
    if not parts and not shared:
        return ""
    return f"<h2>What is missing</h2>{''.join(parts)}{shared}"


def _missing(board: Board, method: str, gaps: list[Gap]) -> str:
    images = len({gap["id"] for gap in gaps})
    seeds = len({seed for gap in gaps for seed in gap["seeds"]}) > 1
    lines = []
    for gap in gaps:
        of_seeds = f" (seed {', '.join(gap['seeds'])})" if seeds else ""
        text = for_html(f"{gap['reason']}{in_which(gap, board)}{of_seeds}")
        lines.append(f"<tr><th scope=row>{for_html(gap['id'])}</th><td class=text>{text}</td></tr>")
    summary = for_html(f"{method}: {images} of {board['images']['scored']} images")
    return (
        f"<details class=missing><summary>{summary}</summary><div class=wide><table><thead><tr><th scope=col>image</th>"
        f"<th scope=col>why it has no score</th></tr></thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _shared(board: Board) -> str:
    rows = []
    for name, metric in board["metrics"].items():
        for pair in metric["shared"]:
            first, second = pair["methods"]
            numbers = (
                f"{pair['difference']:+.4g}",
                f"{pair['low']:+.3g} to {pair['high']:+.3g}",
                f"{pair['p_holm']:.2g}",
            )
            cells = "".join(f"<td>{text}</td>" for text in (str(pair["n"]), *numbers))
            head = f"<th scope=row>{for_html(name)}</th><td class=text>{for_html(f'{first} - {second}')}</td>"
            rows.append(f"<tr>{head}{cells}</tr>")
    if not rows:
        return ""
    titles = ("metric", "methods", "images", "difference", "95%", "p (Holm)")
    head = "".join(f"<th scope=col>{title}</th>" for title in titles)
    return (
        "<details class=shared><summary>Methods that are not ranked, over the images that both have</summary>"
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )
