"""report.html of a results folder: one file, no server, no network. Sortable tables, strip plots with intervals, win
rates, the table of images, and a gallery with a slider and one zoom for all methods.

Equal results give equal bytes. page.css and page.js are put into the page; pictures are WebP of at most 1024 pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa
from scipy import stats

from benchmarks.leaderboard.columns import Column, Rules, read_columns
from benchmarks.leaderboard.schema import Board, MetricRow
from benchmarks.methods.submission import Method
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.report import tables
from benchmarks.report.notes import notes
from benchmarks.report.page_tables import list_missing, make_table
from benchmarks.suites.suite import Suite
from lucidflux_data.codecs.encoding import data_url, shrink
from lucidflux_data.escapes import for_html, for_script
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.page import POLICY
from lucidflux_data.sources.reading import read_file

PICTURE_PX = 1024
GALLERY = 8  # images; half are those on which the metrics disagree most, half are evenly spaced


class Entry(TypedDict):
    """An image of the gallery."""

    id: str
    pictures: dict[str, str]  # input, methods and reference -> data url


class PageData(TypedDict):
    """What page.js reads. Lists over images follow `ids`."""

    ids: list[str]  # images with a score
    methods: list[str]  # in the order of the leaderboard
    metrics: dict[str, int]  # metric -> 1 where more is better, else -1
    scores: dict[str, dict[str, list[float | None]]]  # metric -> method -> mean over the seeds
    disagreement: list[float | None]  # how differently the metrics rank the methods on an image
    gallery: list[Entry]


def make_report(
    board: Board,
    table: pa.Table,
    ids: tuple[str, ...],
    specs: list[MetricSpec],
    suite: Suite,
    methods: list[Method],
) -> bytes:
    """The page as UTF-8 bytes. Reads the pictures of the gallery, nothing else."""
    columns = read_columns(table, ids, board["images"]["of"], specs, Rules())
    conflict = disagreement(columns, ids)
    shown = np.flatnonzero(_has_score(columns, len(ids)))
    chosen = _gallery_ids(tuple(ids[k] for k in shown), conflict[shown])
    order = tables.order(board)
    by_name = {method.name: method for method in methods}
    ranked = [by_name[name] for name in order]
    gallery: list[Entry] = [{"id": id_, "pictures": _pictures(id_, suite, ranked)} for id_ in chosen]
    data: PageData = {
        "ids": [ids[k] for k in shown],
        "methods": order,
        "metrics": {name: column.spec.sign for name, column in columns.items()},
        "scores": {name: _scores(column, order, shown) for name, column in columns.items()},
        "disagreement": [_number(value) for value in conflict[shown]],
        "gallery": [entry for entry in gallery if len(entry["pictures"]) > 1],
    }
    return _page(board, columns, data).encode()


def disagreement(columns: dict[str, Column], ids: tuple[str, ...]) -> np.ndarray:
    """(ids,) How far the ranked metrics rank the methods differently on each image: the standard deviation over the
    metrics of a method's rank, averaged over the methods. NaN with fewer than two metrics or methods."""
    ranked = [column for column in columns.values() if column.spec.ranked]
    if len(ranked) < 2 or len(ranked[0].values) < 2:
        return np.full(len(ids), np.nan)
    names = list(ranked[0].values)
    ranks = []
    for column in ranked:
        means = np.stack([column.values[name].mean(axis=0) for name in names])  # (methods, ids)
        complete = np.isfinite(means).all(axis=0)
        rank = stats.rankdata(-column.spec.sign * means, axis=0)
        ranks.append(np.where(complete, rank, np.nan))
    spread: np.ndarray = np.std(np.stack(ranks), axis=0).mean(axis=0)
    return spread


def _gallery_ids(ids: tuple[str, ...], conflict: np.ndarray) -> list[str]:
    order = np.argsort(-np.nan_to_num(conflict, nan=-1.0), kind="stable")[: GALLERY // 2]
    spaced = np.linspace(0, len(ids) - 1, min(GALLERY, len(ids))).astype(int)
    positions = list(dict.fromkeys([*order.tolist(), *spaced.tolist()]))[:GALLERY]
    return [ids[position] for position in positions]


def _has_score(columns: dict[str, Column], ids: int) -> np.ndarray:
    """(ids,) Whether any method has a score; all, where no metric is of single images."""
    if not columns:
        return np.ones(ids, bool)
    every = [values for column in columns.values() for values in column.values.values()]
    shown: np.ndarray = np.any([np.isfinite(values).any(axis=0) for values in every], axis=0)
    return shown


def _scores(column: Column, methods: list[str], shown: np.ndarray) -> dict[str, list[float | None]]:
    return {method: [_number(v) for v in column.values[method].mean(axis=0)[shown]] for method in methods}


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _pictures(id_: str, suite: Suite, methods: list[Method]) -> dict[str, str]:
    """name -> data url: the input, the methods (first seed), the reference; those that there are."""
    paths: dict[str, Path | None] = {"input": suite.lq.get(id_)}
    for method in methods:
        file = next(iter(method.files.values())).get(id_)
        paths[method.name] = file.path if file else None
    paths["reference"] = suite.gt.get(id_)
    found = {name: picture(path) for name, path in paths.items() if path is not None}
    return {name: url for name, url in found.items() if url is not None}


def picture(path: Path) -> str | None:
    """A data url of WebP (quality 90), shrunk by area to at most PICTURE_PX; None for what is no image."""
    try:
        pixels = pixels_apart(read_file(path))
    except ImageError:
        return None
    return data_url(shrink(pixels, PICTURE_PX), "webp", 90)


def _page(board: Board, columns: dict[str, Column], data: PageData) -> str:
    title = for_html(f"{board['suite']}, {board['profile']}")
    here = Path(__file__).parent
    text = for_script(data)
    sections = [
        f"<h1>{title}</h1><p class=note>{for_html(board['about'])}</p>",
        "<h2>Leaderboard</h2>",
        make_table(board),
        "".join(f"<p class=note>{for_html(line)}</p>" for line in notes(board)[1:-1]),
        f"<p class='note mono'>{for_html(board['signature'])}</p>",
        list_missing(board),
        _plots(board, columns),
        _heat(board),
        _correlation(board),
        _images(data) if columns else "",
        _gallery(data) if data["gallery"] else "",
    ]
    return (
        f'<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=Content-Security-Policy content="{POLICY}">'
        f"<meta name=viewport content='width=device-width'><title>{title}</title>"
        f"<style>{(here / 'page.css').read_text()}</style>{''.join(sections)}"
        f"<script type=application/json id=data>{text}</script>"
        f"<script>{(here / 'page.js').read_text()}</script></html>\n"
    )


def _plots(board: Board, columns: dict[str, Column]) -> str:
    parts = []
    for name, column in columns.items():
        parts.append(f"<div><h3>{for_html(name)} {tables.ARROW[column.spec.lower_is_better]}</h3>")
        parts.append(_strip(column, board["metrics"][name]["rows"], tables.order(board)) + "</div>")
    return f"<h2>Scores of every image</h2><div class=plots>{''.join(parts)}</div>" if parts else ""


def _strip(column: Column, rows: dict[str, MetricRow], order: list[str]) -> str:
    """A row of dots for each method (at most 400, evenly taken), with the mean and its interval above them."""
    values = np.concatenate([scores[np.isfinite(scores)] for scores in column.values.values()])
    if len(values) == 0:
        return ""
    low, high = np.quantile(values, [0.005, 0.995])
    span = (high - low) or 1.0
    width, left, step = 640, 150, 26

    def x(value: float) -> float:
        return left + (width - left - 10) * float(np.clip((value - low) / span, 0, 1))

    lines = []
    for position, method in enumerate(order):
        y = 14 + position * step
        lines.append(f"<text x='0' y='{y + 4}'>{for_html(method[:24])}</text>")
        scores = column.values[method].ravel()
        scores = scores[np.isfinite(scores)]
        for k, value in enumerate(scores[:: max(1, len(scores) // 400)]):
            jitter = (k * 0.618) % 1 * 12 - 6
            lines.append(f"<circle cx='{x(value):.1f}' cy='{y + jitter:.1f}' r='2.4' fill='#2f6aa8' opacity='.5'/>")
        row = rows[method]
        if row["low"] is not None and row["high"] is not None:
            lines.append(
                f"<rect x='{x(row['low']):.1f}' width='{max(1.0, x(row['high']) - x(row['low'])):.1f}' y='{y - 1}' "
                f"height='3' fill='#b3261e'><title>{row['low']:.4g} to {row['high']:.4g}</title></rect>"
            )
        if row["mean"] is not None:
            lines.append(f"<path d='M{x(row['mean']):.1f} {y - 9}v18' stroke='#1c2430' stroke-width='2'/>")
    bottom = 14 + len(order) * step
    lines.append(f"<text x='{left}' y='{bottom}'>{low:.4g}</text>")
    lines.append(f"<text x='{width - 10}' y='{bottom}' text-anchor='end'>{high:.4g}</text>")
    return f"<svg viewBox='0 0 {width} {bottom + 6}' role=img>{''.join(lines)}</svg>"


def _heat(board: Board) -> str:
    """A table for each metric; the page shows one. Bold: significant after Holm."""
    made = []
    for name, metric in board["metrics"].items():
        rates = metric["win_rate"]
        methods = [method for method in tables.order(board) if method in rates]
        if len(rates) < 2:
            continue
        sure = {frozenset(pair["methods"]) for pair in metric["pairs"] if pair["p_holm"] < 0.05}
        head = "".join(f"<th scope=col>{for_html(method)}</th>" for method in methods)
        rows = []
        for first in methods:
            cells = "".join(_heat_cell(rates[first].get(second), {first, second} in sure) for second in methods)
            rows.append(f"<tr><th scope=row>{for_html(first)}</th>{cells}</tr>")
        made.append(
            f"<table class=heat data-metric='{for_html(name)}' hidden><thead><tr><th></th>{head}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table>"
        )
    if not made:
        return ""
    names = [name for name, metric in board["metrics"].items() if len(metric["win_rate"]) >= 2]
    return (
        "<h2>Win rates</h2><p class=note>Share of the images on which the method of the row is better than that of the "
        "column; ties count as half. Bold: the paired difference is significant after Holm's correction.</p>"
        f"<label>Metric {_select('heat-metric', names)}</label><div class=wide>{''.join(made)}</div>"
    )


def _heat_cell(rate: float | None, sure: bool) -> str:
    if rate is None:
        return "<td></td>"
    strength = abs(rate - 0.5) * 1.2
    colour = f"rgba(47,106,168,{strength:.2f})" if rate >= 0.5 else f"rgba(179,38,30,{strength:.2f})"
    text = f"<b>{rate:.0%}</b>" if sure else f"{rate:.0%}"
    return f"<td style='background:{colour}'>{text}</td>"


def _correlation(board: Board) -> str:
    names, rho = board["correlation"]["metrics"], board["correlation"]["rho"]
    if not rho:
        return ""
    head = "".join(f"<th scope=col>{for_html(name)}</th>" for name in names)
    rows = [
        f"<tr><th scope=row>{for_html(name)}</th>"
        + "".join(f"<td>{'' if value is None else f'{value:.2f}'}</td>" for value in line)
        + "</tr>"
        for name, line in zip(names, rho, strict=True)
    ]
    return (
        "<h2>Do the metrics agree?</h2><p class=note>Spearman's rank correlation over all images of all methods, each "
        f"metric turned so that more is better.</p><div class=wide><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _images(data: PageData) -> str:
    methods = data["methods"]
    order = {
        "disagreement": "metrics disagree most",
        "spread": "methods differ most",
        "regression": "A loses most to B",
    }
    choices = "".join(f"<option value={key}>{text}</option>" for key, text in (order | {"id": "as listed"}).items())
    return (
        "<h2>Image by image</h2><p class=note>Disagreement, with two metrics or more: how differently they rank the "
        "methods on an image. "
        "Enter or a click on a row opens the image in the gallery, where it is there.</p>"
        f"<label>Metric {_select('metric', list(data['metrics']))}</label>"
        f"<label>A {_select('method-a', methods)}</label><label>B {_select('method-b', methods[::-1])}</label>"
        f"<label>Order <select id=order>{choices}</select></label><p class=note id=images-note></p>"
        "<div class=wide><table id=images><thead></thead><tbody></tbody></table></div>"
    )


def _gallery(data: PageData) -> str:
    return (
        "<h2 id=gallery>Gallery</h2><p class=note><kbd>n</kbd> <kbd>p</kbd> next and previous image, <kbd>[</kbd> "
        "<kbd>]</kbd> slider, <kbd>+</kbd> <kbd>-</kbd> <kbd>0</kbd> zoom; wheel zooms and dragging moves all pictures "
        f"together. {len(data['gallery'])} of {len(data['ids'])} scored images.</p>"
        "<label>Image <select id=image></select></label><label>Left <select id=left></select></label>"
        "<label>Right <select id=right></select></label><span class=note id=zoom></span>"
        "<div class=viewer id=viewer><img id=right-picture alt=''><div id=clip style='position:absolute;inset:0'>"
        "<img id=left-picture alt=''></div><div id=seam></div><span class='tag left' id=left-tag></span>"
        "<span class='tag right' id=right-tag></span></div>"
        "<input type=range id=slider min=0 max=100 value=50 aria-label='Before and after'>"
        "<div class=tiles id=tiles></div>"
    )


def _select(id_: str, names: list[str]) -> str:
    options = "".join(f"<option>{for_html(name)}</option>" for name in names)
    return f"<select id={id_}>{options}</select>"
