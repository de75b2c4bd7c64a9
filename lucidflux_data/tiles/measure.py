"""What each tile of an image measures: the plain measures of that crop, in the decode that measures the whole image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.images import luma
from lucidflux_data.measures import basic
from lucidflux_data.measures.basic import BasicRow
from lucidflux_data.measures.blur_and_flat import measure_luma
from lucidflux_data.measures.config import MeasureConfig
from lucidflux_data.tiles.grid import list_boxes
from lucidflux_data.tiles.spectrum import cutoff
from lucidflux_data.tiles.steps import blockiness


class TileRow(NamedTuple):
    """`x`, `y`, `width`, `height`: in pixels, upright; the measures as of measures/blur_and_flat.py and
    measures/artifacts.py."""

    x: int
    y: int
    width: int
    height: int
    laplacian_variance: float
    flat_fraction: float
    blockiness: float
    spectral_cutoff: float


class TiledRow(BasicRow):
    """A row of scores/basic with the tiles of the image; none of one that failed."""

    tiles: list[TileRow]


def measure_tiles(grey: np.ndarray, settings: MeasureConfig) -> list[TileRow]:
    """Of uint8 HxW luma, in the order of `list_boxes`."""
    rows = []
    for x, y, width, height in list_boxes(grey.shape[1], grey.shape[0], settings.tiles).tolist():
        tile = np.ascontiguousarray(grey[y : y + height, x : x + width])
        found = measure_luma(tile, settings.patch_px, settings.flat_gradient_variance)
        rows.append(TileRow(x, y, width, height, *found, blockiness(tile), cutoff(tile)))
    return rows


def measure(data: bytes, decode: DecodeConfig, settings: MeasureConfig) -> TiledRow:
    """As `basic.measure`, with the tiles."""
    tiles: list[TileRow] = []
    row = basic.measure(data, decode, settings, lambda pixels: tiles.extend(measure_tiles(luma(pixels), settings)))
    return {**row, "tiles": tiles if row["status"] == "ok" else []}


def warm_up() -> None:
    """As `basic.warm_up`."""
    basic.warm_up()
    blockiness(np.zeros((64, 64), np.uint8))
