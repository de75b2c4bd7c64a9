"""An image through a network tile by tile, so that memory is that of one tile and of the result.

Tiles share `overlap` pixels with their neighbours. A quarter of it at each inner border is context and thrown away,
over the half between them the mean goes linearly from one tile to the next: where the network sees no further than a
quarter of `overlap`, the tiled result is the whole one up to rounding. An image that one tile covers is not cut.
Memory: what one tile takes, and 28 bytes a pixel of the result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lucidflux_model.network.tiling import Box, blend, tile_boxes


def restore_tiled(
    pixels: np.ndarray, tile: int, overlap: int, scale: int, run: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """uint8 height x width x 3 -> float32, `scale` times the size. `tile`, `overlap`: pixels of the input; a tile of 0
    is the whole. `run`: uint8 3 x height x width -> float32 3 x (scale height) x (scale width), on the CPU."""
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    height, width = pixels.shape[:2]
    boxes = tile_boxes(height, width, tile or max(height, width), overlap)
    context = overlap // 4
    inner = [_without_context(box, context, height, width) for box in boxes]
    results = (_run_box(run, image, box, part, scale) for box, part in zip(boxes, inner, strict=True))
    larger = [Box(*(side * scale for side in part)) for part in inner]
    whole = blend(results, larger, (3, height * scale, width * scale), (overlap - 2 * context) * scale)
    return np.asarray(whole.permute(1, 2, 0).numpy())


def _run_box(run: Callable[[Tensor], Tensor], image: Tensor, box: Box, inner: Box, scale: int) -> Tensor:
    """The result of the tile `box`, cut to that of `inner`."""
    result = run(image[:, box.top : box.bottom, box.left : box.right])
    top, bottom = ((side - box.top) * scale for side in (inner.top, inner.bottom))
    left, right = ((side - box.left) * scale for side in (inner.left, inner.right))
    return result[:, top:bottom, left:right]


def _without_context(box: Box, context: int, rows: int, columns: int) -> Box:
    """A box without `context` pixels at the borders that are not the image's."""
    return Box(
        box.top + context * (box.top > 0),
        box.bottom - context * (box.bottom < rows),
        box.left + context * (box.left > 0),
        box.right - context * (box.right < columns),
    )
