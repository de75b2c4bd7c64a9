"""Measures against OpenCV's own operators and against the definition, on real photos and generated images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lucidflux_data.images import decode, luma
from lucidflux_data.measures import blur_and_flat as quality
from lucidflux_data.measures.blur_and_flat import Measures, measure_bytes, measure_luma, measure_luma_by_definition


def by_opencv(image: np.ndarray) -> Measures:
    """The published script's operations: float64 Laplacian, Sobel inside each 240x240 patch."""
    flat = patches = 0
    for top in range(0, image.shape[0] - 239, 240):
        for left in range(0, image.shape[1] - 239, 240):
            patch = image[top : top + 240, left : left + 240]
            dx = cv2.Sobel(patch, cv2.CV_64F, 1, 0, ksize=3)
            dy = cv2.Sobel(patch, cv2.CV_64F, 0, 1, ksize=3)
            flat += np.sqrt(dx**2 + dy**2).var() < 800
            patches += 1
    return Measures(float(cv2.Laplacian(image, cv2.CV_64F).var()), flat / patches if patches else 0.0)


def test_real_photos_equal_opencv_and_the_definition(photo_paths) -> None:
    checked = 0
    for path in photo_paths:
        try:
            image = luma(decode(path.read_bytes()))
        except Exception:
            continue
        fast = measure_luma(image)
        for slow in (by_opencv(image), measure_luma_by_definition(image)):
            assert fast.laplacian_variance == pytest.approx(slow.laplacian_variance, rel=1e-9, abs=1e-9)
            assert fast.flat_fraction == slow.flat_fraction
        checked += 1
    assert checked >= 15


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 500), (3, 3), (239, 240), (240, 240), (481, 1300), (1000, 2)])
def test_any_shape(shape) -> None:
    image = np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)
    fast, slow = measure_luma(image), measure_luma_by_definition(image)
    assert fast.laplacian_variance == pytest.approx(slow.laplacian_variance, rel=1e-9)
    assert fast.flat_fraction == slow.flat_fraction


def test_patches_next_to_the_limit_are_decided_exactly() -> None:
    """The limit is put on the very variance of a patch: strictly under it is flat, on it is not."""
    image = np.random.default_rng(5).integers(100, 140, (240, 240), dtype=np.uint8)
    dx = cv2.Sobel(image, cv2.CV_64F, 1, 0, ksize=3)
    dy = cv2.Sobel(image, cv2.CV_64F, 0, 1, ksize=3)
    variance = np.sqrt(dx**2 + dy**2).var()
    assert measure_luma(image, flat_gradient_variance=variance * (1 - 1e-9)).flat_fraction == 0
    assert measure_luma(image, flat_gradient_variance=variance * (1 + 1e-9)).flat_fraction == 1


def test_extremes_do_not_overflow() -> None:
    board = (np.indices((720, 3000)).sum(axis=0) % 2 * 255).astype(np.uint8)
    assert measure_luma(board) == by_opencv(board)
    assert measure_luma(np.zeros((300, 300), np.uint8)) == Measures(0.0, 1.0)


def test_every_colour_has_the_luma_of_opencv() -> None:
    levels = np.arange(256, dtype=np.uint8)
    for red in range(256):
        plane = np.stack(np.broadcast_arrays(np.uint8(red), levels[:, None], levels[None]), axis=-1)
        ours = np.empty((256, 256), np.uint8)
        quality._luma(np.ascontiguousarray(plane), ours)
        assert np.array_equal(ours, cv2.cvtColor(plane, cv2.COLOR_RGB2GRAY)), red


@pytest.mark.parametrize("shape", [(1, 9), (2, 2), (3, 5), (240, 240), (241, 481), (479, 723), (721, 240)])
def test_bytes_of_any_shape_measure_as_their_luma(shape) -> None:
    """Noise on the left and a soft ramp on the right: some patches are left early, others not at all."""
    image = np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image[:, shape[1] // 2 :] = (np.arange(shape[1] - shape[1] // 2) % 256)[None, :, None]
    data = cv2.imencode(".png", image)[1].tobytes()
    assert measure_bytes(data) == measure_luma(luma(decode(data)))
    slow = measure_luma_by_definition(luma(decode(data)))
    assert measure_bytes(data) == pytest.approx(slow, rel=1e-9)


def test_bytes_and_wrong_input(photo_paths) -> None:
    data = next(path for path in photo_paths if path.stem == "coffee").read_bytes()
    assert measure_bytes(data) == measure_luma(luma(decode(data)))
    for wrong in (np.zeros((4, 4), np.float32), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="uint8 HxW"):
            measure_luma(wrong)


def test_limits_at_the_mean_square_and_at_the_variance_itself() -> None:
    """Where a patch is taken for flat without its magnitudes, where rows are left early, and around both."""
    rng = np.random.default_rng(5)
    for contrast in (1, 4, 12, 40, 120):
        image = np.clip(rng.normal(128, contrast, (48, 72)), 0, 255).astype(np.uint8)
        magnitudes = [quality._gradient_magnitude(image[y : y + 24, x : x + 24]) for y in (0, 24) for x in (0, 24, 48)]
        for magnitude in magnitudes:
            mean_square = float((magnitude**2).mean())
            for centre in (mean_square, float(magnitude.var()), mean_square / 2):
                for limit in (np.nextafter(centre, 0), centre, np.nextafter(centre, np.inf), centre + 0.01):
                    ours = measure_luma(image, 24, float(limit)).flat_fraction
                    assert ours == measure_luma_by_definition(image, 24, float(limit)).flat_fraction
