"""Where the tiles of an image lie."""

from __future__ import annotations

import numpy as np


def list_boxes(width: int, height: int, side: int) -> np.ndarray:
    """int32 (n, 4): left, top, width, height in pixels of each tile, row by row from the top left.

    Tiles are `side` x `side` and follow one another; the last of a row or column ends at the edge of the image, and so
    lies over a part of the one before it. An image that is smaller than a tile in a direction has tiles as large as it
    is. Every pixel is in a tile.
    """
    lefts, tops = _starts(width, side), _starts(height, side)
    wide, high = min(side, width), min(side, height)
    return np.array([(left, top, wide, high) for top in tops for left in lefts], np.int32).reshape(-1, 4)


def _starts(length: int, side: int) -> list[int]:
    if length <= side:
        return [0]
    whole = list(range(0, length - side + 1, side))
    return whole if whole[-1] == length - side else [*whole, length - side]
