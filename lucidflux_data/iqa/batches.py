"""Many images through one metric: batches of one size, too large images by a stated policy, out of memory halved.

The batches of a unit follow from its rows alone (order and sizes), so a score does not depend on who computed it. Only
metrics whose score of an image was shown not to depend on the others of its batch (`lucidflux-data doctor`) get more
than one image at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lucidflux_data.images import ImageError

BatchScorer = Callable[
    [np.ndarray | Sequence[np.ndarray]], Iterable[float]
]  # uint8 NxHxWx3 RGB -> N numbers; raises OutOfMemory


class OutOfMemory(Exception):
    """The device had no room for this batch."""


@dataclass(frozen=True)
class BatchRules:
    """`batch_megapixels`: sum over a batch; `max_megapixels`: an image over it is scored by the policy `oversize`.

    fail       iqa_out_of_memory, by name
    downscale  area-resized to just under max_megapixels: smaller blur, smaller noise, so a milder score
    tile       mean over equal tiles of at most max_megapixels
    """

    batch_megapixels: float = 8.0
    max_batch: int = 32
    max_megapixels: float | None = None
    oversize: str = "fail"


def score_all(
    score: BatchScorer, images: Sequence[np.ndarray], rules: BatchRules, batched: bool
) -> list[float | ImageError]:
    """One float or ImageError (iqa_out_of_memory, iqa_not_finite) an image, in order.

    `batched`: whether an image's score does not depend on the other images of its batch.
    """
    pieces: list[np.ndarray] = []
    owners: list[int] = []
    results: list[float | ImageError | None] = [None] * len(images)
    for position, image in enumerate(images):
        try:
            cut = _pieces(image, rules)
        except ImageError as error:
            results[position] = error
            continue
        pieces += cut
        owners += [position] * len(cut)
    scores: list[float | ImageError] = [math.nan] * len(pieces)
    for batch in batches([piece.shape[:2] for piece in pieces], rules, batched):
        found = _score_batch(score, np.stack([pieces[row] for row in batch]))
        for row, value in zip(batch, found, strict=True):
            scores[row] = value
    for position in range(len(images)):
        if results[position] is None:
            results[position] = _mean([scores[row] for row, owner in enumerate(owners) if owner == position])
    return [result for result in results if result is not None]


def batches(sizes: Sequence[tuple[int, int]], rules: BatchRules, batched: bool) -> Iterator[list[int]]:
    """Positions that go together: one size, in order, at most `batch_megapixels` and `max_batch` of them."""
    open_batches: dict[tuple[int, int], list[int]] = {}
    for position, size in enumerate(sizes):
        room = max(1, int(rules.batch_megapixels * 1e6 // (size[0] * size[1]))) if batched else 1
        batch = open_batches.setdefault(size, [])
        batch.append(position)
        if len(batch) == min(room, rules.max_batch):
            yield open_batches.pop(size)
    yield from open_batches.values()


def _pieces(image: np.ndarray, rules: BatchRules) -> list[np.ndarray]:
    height, width = image.shape[:2]
    limit = math.inf if rules.max_megapixels is None else rules.max_megapixels * 1e6
    if height * width <= limit:
        return [image]
    if rules.oversize == "fail":
        raise ImageError("iqa_out_of_memory", f"{width}x{height} is over iqa.max_megapixels")
    if rules.oversize == "downscale":
        factor = math.sqrt(limit / (height * width))
        size = (max(1, math.floor(width * factor)), max(1, math.floor(height * factor)))
        return [cv2.resize(image, size, interpolation=cv2.INTER_AREA)]
    across, down = _grid(width, height, limit)
    tile_width, tile_height = width // across, height // down  # equal tiles, so that they share a batch
    return [
        image[row * tile_height : (row + 1) * tile_height, column * tile_width : (column + 1) * tile_width]
        for row in range(down)
        for column in range(across)
    ]


def _grid(width: int, height: int, limit: float) -> tuple[int, int]:
    """The fewest cuts after which a tile is within the limit; the longer side of the tile is cut first."""
    across = down = 1
    while (width // across) * (height // down) > limit:
        if width / across >= height / down:
            across += 1
        else:
            down += 1
    return across, down


def _score_batch(score: BatchScorer, batch: np.ndarray) -> list[float | ImageError]:
    """Halves on OutOfMemory down to one image, whose failure is then its own."""
    try:
        return [_finite(float(value)) for value in score(batch)]
    except OutOfMemory:
        if len(batch) == 1:
            return [ImageError("iqa_out_of_memory", "the metric ran out of memory on this image alone")]
        half = len(batch) // 2
        return _score_batch(score, batch[:half]) + _score_batch(score, batch[half:])
    except ImageError as error:
        if len(batch) > 1:
            raise AssertionError("a metric that refuses single images takes them one at a time") from error
        return [error]


def _finite(value: float) -> float | ImageError:
    return value if math.isfinite(value) else ImageError("iqa_not_finite", "the metric gives no finite number")


def _mean(scores: list[float | ImageError]) -> float | ImageError:
    numbers = []
    for score in scores:
        if isinstance(score, ImageError):
            return score
        numbers.append(score)
    return math.fsum(numbers) / len(numbers)
