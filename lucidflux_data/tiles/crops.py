"""Crops that lie in good tiles: their places, as even as the places of any crop are.

A crop may lie where each of its pixels is in a good tile. The places of its top left corner are those of the image
less, for each stretch that no good tile covers, a rectangle around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Box = Sequence[int]  # left, top, width, height in pixels


def draw_window(width: int, height: int, side: int, tiles: Sequence[Box], across: float, down: float) -> Box | None:
    """Left, top, side, side of a crop inside `tiles` of an image, from two numbers in [0, 1), each place as likely as
    any other; None where there is no place. Where the tiles cover the image it is int(across * (width - side + 1)) and
    int(down * (height - side + 1)), as without tiles."""
    xs, ys, free = _free_places(width, height, side, tiles)
    wide, high = np.diff(xs), np.diff(ys)
    per_column = (free * high[:, None]).sum(axis=0)  # places in each column of a stretch
    ends = np.cumsum(per_column * wide)
    if not len(ends) or ends[-1] == 0:
        return None
    at = int(across * ends[-1])
    stretch = int(np.searchsorted(ends, at, side="right"))
    before = int(ends[stretch - 1]) if stretch else 0
    left = int(xs[stretch]) + (at - before) // int(per_column[stretch])
    tops = np.cumsum(free[:, stretch] * high)
    row = int(down * tops[-1])
    part = int(np.searchsorted(tops, row, side="right"))
    top = int(ys[part]) + row - (int(tops[part - 1]) if part else 0)
    return left, top, side, side


def has_window(width: int, height: int, side: int, tiles: Sequence[Box]) -> bool:
    """Whether a crop of that side lies inside the tiles."""
    return draw_window(width, height, side, tiles, 0.0, 0.0) is not None


def _free_places(width: int, height: int, side: int, tiles: Sequence[Box]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(int64 bounds of stretches across, down, bool [down, across]: a crop may begin in it)."""
    across, down = width - side + 1, height - side + 1
    if across < 1 or down < 1:
        return np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((0, 0), bool)
    boxes = np.array(tiles, np.int64).reshape(-1, 4)
    lefts, tops, rights, bottoms = boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3]
    edges_x, edges_y = (_bounds(low, high, end) for low, high, end in ((lefts, rights, width), (tops, bottoms, height)))
    covered = np.zeros((len(edges_y) - 1, len(edges_x) - 1), bool)
    for left, top, right, bottom in zip(lefts, tops, rights, bottoms, strict=True):
        rows, columns = np.searchsorted(edges_y, (top, bottom)), np.searchsorted(edges_x, (left, right))
        covered[rows[0] : rows[1], columns[0] : columns[1]] = True
    bad_y, bad_x = np.nonzero(~covered)
    x0, x1 = np.maximum(edges_x[bad_x] - side + 1, 0), np.minimum(edges_x[bad_x + 1], across)
    y0, y1 = np.maximum(edges_y[bad_y] - side + 1, 0), np.minimum(edges_y[bad_y + 1], down)
    xs, ys = _bounds(x0, x1, across), _bounds(y0, y1, down)
    free = np.ones((len(ys) - 1, len(xs) - 1), bool)
    places = zip(
        *(np.searchsorted(bounds, edge) for bounds, edge in ((xs, x0), (xs, x1), (ys, y0), (ys, y1))), strict=True
    )
    for first_x, last_x, first_y, last_y in places:
        free[first_y:last_y, first_x:last_x] = False
    return xs, ys, free


def _bounds(low: np.ndarray, high: np.ndarray, end: int) -> np.ndarray:
    """int64: 0, `end`, and the edges between them, once each and in order."""
    edges = np.clip(np.concatenate([low, high, [0, end]]), 0, end)
    bounds: np.ndarray = np.unique(edges)
    return bounds
