"""Overlapping tiles, and the weights that put them together again without a seam.

Tiles are of one size, so that they can be batched and share position tables; their weights rise linearly over the
overlap and are divided by their sum, so that the pieces of an image add up to the image.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Box(NamedTuple):
    top: int
    bottom: int
    left: int
    right: int


def starts(length: int, tile: int, overlap: int, step: int) -> list[int]:
    """First positions, multiples of `step`, of tiles that cover `length` with at least `overlap` between neighbours."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    last = length - tile
    return [last * index // (count - 1) // step * step for index in range(count - 1)] + [last]


def tile_boxes(rows: int, columns: int, tile: int, overlap: int, step: int = 1) -> list[Box]:
    """Boxes row by row. Sides, `tile` and `overlap` are multiples of `step`; overlap < tile."""
    high, wide = min(tile, rows), min(tile, columns)
    return [
        Box(top, top + high, left, left + wide)
        for top in starts(rows, high, overlap, step)
        for left in starts(columns, wide, overlap, step)
    ]


def ramp(length: int, overlap: int, first: bool, last: bool) -> Tensor:
    """Weights of one side of a tile: 1, falling linearly over `overlap` where there is a neighbour."""
    edge = torch.arange(1, overlap + 1, dtype=torch.float32) / (overlap + 1)
    weights = torch.ones(length)
    if not first:
        weights[:overlap] = edge
    if not last:
        weights[length - overlap :] *= edge.flip(0)
    return weights


def blend(tiles: Iterable[Tensor], boxes: list[Box], shape: Iterable[int], overlap: int) -> Tensor:
    """The weighted mean of tiles, ... x h x w each, as ... x H x W, summed in float32; `shape` ends in H and W.

    Each tile is taken from the iterator, added and let go of.
    """
    rows, columns = tuple(shape)[-2:]
    total = weights = None
    for tile, box in zip(tiles, boxes, strict=True):
        if total is None or weights is None:
            total = torch.zeros((*tile.shape[:-2], rows, columns), device=tile.device)
            weights = torch.zeros((rows, columns), device=tile.device)
            dtype = tile.dtype
        down = ramp(box.bottom - box.top, overlap, box.top == 0, box.bottom == rows)
        right = ramp(box.right - box.left, overlap, box.left == 0, box.right == columns)
        weight = (down[:, None] * right).to(tile.device)
        total[..., box.top : box.bottom, box.left : box.right] += weight * tile
        weights[box.top : box.bottom, box.left : box.right] += weight
    assert total is not None
    assert weights is not None
    return (total / weights).to(dtype)


def run_tiled(network: Callable[[Tensor], Tensor], image: Tensor, tile: int, overlap: int, step: int = 1) -> Tensor:
    """`network`, which may enlarge, over B x C x H x W: in tiles where a side is longer than `tile` (0: never).

    `tile` and `overlap` count places of `image` and are multiples of `step`, which every tile starts at one of.
    """
    rows, columns = image.shape[-2:]
    if not tile or max(rows, columns) <= tile:
        return network(image)
    boxes = tile_boxes(rows, columns, tile, overlap, step)
    first = network(_part(image, boxes[0]))
    times = first.shape[-1] // (boxes[0].right - boxes[0].left)
    larger = [Box(*(times * edge for edge in box)) for box in boxes]
    rest = (network(_part(image, box)) for box in boxes[1:])
    return blend(itertools.chain([first], rest), larger, (times * rows, times * columns), times * overlap)


def _part(image: Tensor, box: Box) -> Tensor:
    return image[..., box.top : box.bottom, box.left : box.right]


def pad_reflect(image: Tensor, multiple: int) -> Tensor:
    """Reflects ... x H x W at the right and the bottom up to multiples; as often as it takes for small images."""
    return pad_to(image, -(-image.shape[-2] // multiple) * multiple, -(-image.shape[-1] // multiple) * multiple)


def pad_to(image: Tensor, height: int, width: int) -> Tensor:
    while image.shape[-2] < height or image.shape[-1] < width:
        rows, columns = image.shape[-2:]
        down = min(height - rows, rows - 1)
        right = min(width - columns, columns - 1)
        if min(rows, columns) == 1 and (down, right) == (0, 0):
            return F.pad(image, (0, width - columns, 0, height - rows), mode="replicate")
        image = F.pad(image, (0, right, 0, down), mode="reflect")
    return image
