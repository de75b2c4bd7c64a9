"""JPEG history, upscaling, sharpness and noise: known truths first, then separation on degraded real photos."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from lucidflux_data.measures.artifacts import blockiness, fixed_sharpness, jpeg_quality, noise, spectral_cutoff


@pytest.fixture(scope="module")
def photos(photo_paths) -> list[np.ndarray]:
    """Luma of bundled photographs, halved so that they have detail up to the Nyquist frequency."""
    names = {
        "astronaut",
        "chelsea",
        "coffee",
        "rocket",
        "motorcycle_left",
        "motorcycle_right",
        "retina",
        "grass",
        "gravel",
    }
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in photo_paths if path.stem in names]
    return [cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for image in images]


def separation(clean: list[float], damaged: list[float]) -> float:
    """Area under the ROC: how often a damaged image is lower than a clean one."""
    first, second = np.array(damaged)[:, None], np.array(clean)[None]
    return float((first < second).mean() + 0.5 * (first == second).mean())


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def enlarged(image: np.ndarray, factor: int) -> np.ndarray:
    size = (image.shape[1] // factor, image.shape[0] // factor)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("quality", [25, 40, 50, 75, 90, 95, 100])
def test_the_quality_of_a_jpeg_is_the_one_it_was_saved_with(quality, photos) -> None:
    file = io.BytesIO()
    Image.fromarray(photos[0]).save(file, "JPEG", quality=quality)
    assert abs(jpeg_quality(file.getvalue()) - quality) <= 1


def test_what_is_no_jpeg_has_no_quality(photos) -> None:
    assert jpeg_quality(cv2.imencode(".png", photos[0])[1].tobytes()) is None
    assert jpeg_quality(b"\xff\xd8\xff") is None


def test_blockiness_of_a_known_grid() -> None:
    flat = np.full((256, 256), 100, np.uint8)
    assert blockiness(flat) == 1.0
    blocks = np.random.default_rng(0).integers(90, 110, (32, 32)).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    assert blockiness(blocks) > 20
    assert blockiness(blocks[3:, 5:]) == pytest.approx(blockiness(blocks), rel=0.1), "the grid may be shifted"


@pytest.mark.parametrize("sigma", [2.0, 8.0, 20.0])
def test_noise_of_known_strength(sigma: float) -> None:
    image = 128 + np.random.default_rng(1).normal(0, sigma, (256, 256))
    assert noise(np.clip(np.rint(image), 0, 255).astype(np.uint8)) == pytest.approx(sigma, rel=0.12)  # whole levels


def test_a_band_limited_image_has_the_cutoff_it_was_made_with() -> None:
    rng = np.random.default_rng(2)
    across, down = np.meshgrid(np.fft.fftfreq(512) * 2, np.fft.fftfreq(512) * 2)
    radius = np.maximum(np.abs(across), np.abs(down))
    for limit in (0.3, 0.5, 0.8):
        amplitude = np.where(radius <= limit, 1 / np.maximum(np.hypot(across, down), 0.01), 0)
        image = np.fft.ifft2(amplitude * np.exp(2j * np.pi * rng.random((512, 512)))).real
        image = np.clip(128 + 40 * image / image.std(), 0, 255).astype(np.uint8)
        assert spectral_cutoff(image) == pytest.approx(limit, abs=0.05)


@pytest.mark.parametrize(
    ("measure", "damage", "wanted"),
    [
        (lambda image: -blockiness(image), lambda image: recompressed(image, 50), 0.95),
        (lambda image: -blockiness(image), lambda image: recompressed(image, 50)[3:, 5:], 0.95),
        (spectral_cutoff, lambda image: enlarged(image, 4), 0.95),
        (spectral_cutoff, lambda image: enlarged(image, 2), 0.75),
        (fixed_sharpness, lambda image: cv2.GaussianBlur(image, (0, 0), 3), 0.9),
    ],
    ids=["jpeg50", "jpeg50-shifted", "enlarged4", "enlarged2", "blur"],
)
def test_damaged_photos_are_told_from_clean_ones(
    measure: Callable[[np.ndarray], float], damage: Callable[[np.ndarray], np.ndarray], wanted: float, photos
) -> None:
    assert separation([measure(image) for image in photos], [measure(damage(image)) for image in photos]) >= wanted


def test_noise_does_not_pass_for_sharpness(photos) -> None:
    """Where the raw Laplacian variance takes noise on a blurred photo for detail, ours does not."""
    rng = np.random.default_rng(0)
    blurred = [cv2.GaussianBlur(image, (0, 0), 4) for image in photos]
    noisy = [np.clip(image + rng.normal(0, 10, image.shape), 0, 255).astype(np.uint8) for image in blurred]
    raw = [float(cv2.Laplacian(image, cv2.CV_64F).var()) for image in photos]
    raw_noisy = [float(cv2.Laplacian(image, cv2.CV_64F).var()) for image in noisy]
    ours = separation([fixed_sharpness(image) for image in photos], [fixed_sharpness(image) for image in noisy])
    assert ours > separation(raw, raw_noisy) + 0.2
    assert ours > 0.8
