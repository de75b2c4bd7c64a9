"""Batches: what goes together, what happens out of memory, and images over the limit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lucidflux_data.images import ImageError
from lucidflux_data.iqa.batches import BatchRules, OutOfMemory, batches, score_all


def brightness(batch: np.ndarray) -> list[float]:
    return [float(image.mean()) for image in batch]


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [(100, 80), (60, 90), (100, 80), (100, 80), (60, 90), (30, 30), (100, 80)]
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def test_batches_hold_one_size_in_order_and_a_bounded_number(images) -> None:
    sizes = [image.shape[:2] for image in images]
    rules = BatchRules(batch_megapixels=0.0165, max_batch=3)
    assert sorted(batches(sizes, rules, True)) == [[0, 2], [1, 4], [3, 6], [5]]
    assert sorted(batches(sizes, rules, False)) == [[row] for row in range(7)]
    assert [len(b) for b in batches([(1, 1)] * 7, rules, True)] == [3, 3, 1]


def test_scores_come_back_in_order_of_the_images(images) -> None:
    assert score_all(brightness, images, BatchRules(), True) == [float(image.mean()) for image in images]


def test_out_of_memory_is_halved_down_to_the_image_that_is_too_large(images) -> None:
    seen: list[int] = []

    def small_device(batch: np.ndarray) -> list[float]:
        seen.append(len(batch))
        if batch.size > 2 * 100 * 80 * 3 or batch.shape[1:3] == (60, 90):
            raise OutOfMemory
        return brightness(batch)

    scores = score_all(small_device, images, BatchRules(), True)
    assert seen[:3] == [4, 2, 2]
    for row, image in enumerate(images):
        if image.shape[:2] == (60, 90):
            assert isinstance(scores[row], ImageError)
            assert scores[row].reason == "iqa_out_of_memory"
        else:
            assert scores[row] == float(image.mean())


def test_what_is_not_finite_fails_alone(images) -> None:
    scores = score_all(
        lambda batch: [np.nan if image[0, 0, 0] > 200 else 1.0 for image in batch], images, BatchRules(), True
    )
    for score, image in zip(scores, images, strict=True):
        assert (score == 1.0) if image[0, 0, 0] <= 200 else score.reason == "iqa_not_finite"


def test_images_over_the_limit(images) -> None:
    rules = {name: BatchRules(max_megapixels=0.0055, oversize=name) for name in ("fail", "downscale", "tile")}
    large = images[0]
    assert score_all(brightness, [large], rules["fail"], True)[0].reason == "iqa_out_of_memory"
    small = cv2.resize(large, (66, 82), interpolation=cv2.INTER_AREA)  # sqrt(5500 / 8000) of 80x100, rounded down
    assert score_all(brightness, [large], rules["downscale"], True) == [float(small.mean())]
    halves = [large[:50], large[50:]]
    assert score_all(brightness, [large], rules["tile"], True)[0] == pytest.approx(np.mean([h.mean() for h in halves]))
    shapes: list[tuple[int, ...]] = []

    def note(batch: np.ndarray) -> list[float]:
        shapes.append(batch.shape)
        return brightness(batch)

    score_all(note, [np.zeros((1000, 10, 3), np.uint8)], rules["tile"], True)
    assert shapes == [(2, 500, 10, 3)]
