"""report.html of a results folder: one file, no server, no network. Sortable tables, strip plots with intervals, win
rates, the table of images, and a gallery with a slider and one zoom for all methods.

Equal results give equal bytes. Pictures are WebP of at most 1024 pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import numpy as np
import pyarrow as pa

from benchmarks.leaderboard.columns import Column, Rules, read_columns
from benchmarks.leaderboard.schema import Board, MetricRow
from benchmarks.methods.submission import Method
from benchmarks.metrics.profiles import MetricSpec
from benchmarks.report import page_tables, tables
from benchmarks.report.notes import notes
from benchmarks.report.votes import vote_tables
from benchmarks.suites.suite import Suite
from lucidflux_data.codecs.encoding import data_url, shrink
from lucidflux_data.escapes import show
from lucidflux_data.images import ImageError
from lucidflux_data.isolation import pixels_apart
from lucidflux_data.numerics import average_ranks
from lucidflux_data.page.render import CHARTS, render_page
from lucidflux_data.sources.reading import read_file

PICTURE_PX = 1024
GALLERY = 8  # images; half are those on which the metrics disagree most, half are evenly spaced


class Entry(TypedDict):
    """An image of the gallery."""

    id: str
    pictures: dict[str, str]  # input, methods and reference -> data url


class PageData(TypedDict):
    """What page.js reads. Lists over images follow `ids`."""

    ids: list[str]  # images with a score, as they are shown
    methods: list[str]  # in the order of the leaderboard
    metrics: dict[str, int]  # metric -> 1 where more is better, else -1
    scores: dict[str, dict[str, list[float | None]]]  # metric -> method -> mean over the seeds
    means: dict[str, dict[str, list[float | None]]]  # metric -> method -> mean, and the ends of its interval
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
    gallery: list[Entry] = [{"id": show(id_), "pictures": _pictures(id_, suite, ranked)} for id_ in chosen]
    data: PageData = {
        "ids": [show(ids[k]) for k in shown],
        "methods": order,
        "metrics": {name: column.spec.sign for name, column in columns.items()},
        "scores": {name: _scores(column, order, shown) for name, column in columns.items()},
        "means": {name: _means(board["metrics"][name]["rows"]) for name in columns},
        "disagreement": [_number(value) for value in conflict[shown]],
        "gallery": [entry for entry in gallery if len(entry["pictures"]) > 1],
    }
    return render_board(board, data)


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
        rank = average_ranks(-column.spec.sign * means)
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


def _means(rows: dict[str, MetricRow]) -> dict[str, list[float | None]]:
    return {method: [row["mean"], row["low"], row["high"]] for method, row in rows.items()}


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


def render_board(board: Board, data: PageData) -> bytes:
    """The page of a board and of what page.js reads."""
    here = Path(__file__).parent
    names, rho = board["correlation"]["metrics"], board["correlation"]["rho"]
    return render_page(
        here / "page.html.j2",
        data,
        (*CHARTS, here / "page.js"),
        (here / "page.css",),
        board=board,
        header=tables.header(board),
        rows=page_tables.make_rows(board),
        below_the_line=tables.BELOW,
        published=page_tables.make_published_rows(board),
        notes=notes(board)[1:-1],
        missing=page_tables.list_missing(board),
        shared=page_tables.list_shared(board),
        win_rates=page_tables.list_win_rates(board),
        votes=vote_tables(board),
        agreement=list(zip(names, rho, strict=True)) if rho else [],
        plots={name: _describe_plot(name, board) for name in data["scores"]},
        methods=data["methods"],
        metrics=list(data["metrics"]),
        pictures=len(data["gallery"]),
        images=len(data["ids"]),
    )


def _describe_plot(name: str, board: Board) -> dict[str, str]:
    """Title and spoken text of the plot of a metric."""
    metric = board["metrics"][name]
    means = [
        f"{method} {tables.digits(row['mean'])}" for method, row in metric["rows"].items() if row["mean"] is not None
    ]
    better = "lower" if metric["lower_is_better"] else "higher"
    return {"title": name, "note": f"{better} is better", "spoken": f"Means: {', '.join(means) or 'none'}"}
