"""NIQE, written from the paper's formulas: Mittal, Soundararajan, Bovik, "Making a completely blind image quality
analyzer", IEEE SPL 2013; AGGD estimation after Lasmar, Stitou, Berthoumieu, ICIP 2009. Lower is better.

    luma -> two scales -> locally normalised coefficients -> 36 features a block -> distance to pristine statistics

Parameters (mean, covariance) are those that BasicSR ships, see NOTICE.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import cv2
import numpy as np

from lucidflux_data.images import ImageError
from lucidflux_data.jit import compiled

BLOCK_PX = 96
# The common implementations hold the 7x7 window in single precision, where its sum is 1 + 1.135e-8. In a region of one
# colour that alone decides that every coefficient counts as negative; with an exact sum, rounding noise would decide.
WINDOW_EXCESS = 1.135e-8
# Antialiased bicubic (a = -0.5) at scale 1/2: the eight taps at distances 3.5, 2.5, 1.5, 0.5 | 0.5, ... of a pixel.
_DISTANCES = np.abs(np.arange(8) - 3.5) / 2


def niqe(pixels: np.ndarray) -> float:
    """NIQE of uint8 HxWx3 RGB, 96x96 blocks, on BT.601 luma rounded to whole levels.

    Raises ImageError iqa_not_finite for a side under 96 px, and where the image gives no finite number.
    """
    if min(pixels.shape[:2]) < BLOCK_PX:
        raise ImageError("iqa_not_finite", f"NIQE needs at least {BLOCK_PX} pixels on each side")
    luma = _luma(pixels)
    rows, columns = luma.shape[0] // BLOCK_PX, luma.shape[1] // BLOCK_PX
    luma = np.ascontiguousarray(luma[: rows * BLOCK_PX, : columns * BLOCK_PX])
    features = np.hstack([_features(luma, BLOCK_PX), _features(_half(luma), BLOCK_PX // 2)])
    score = _distance(features)
    if not math.isfinite(score):
        raise ImageError("iqa_not_finite", "NIQE gives no finite number for this image")
    return score


def _luma(pixels: np.ndarray) -> np.ndarray:
    """float64 HxW whole levels. In float32 of the 0..1 range, since that decides how exact halves are rounded (one
    pixel in a thousand), and published scores were made so."""
    red, green, blue = (channel.astype(np.float32) / np.float32(255) for channel in cv2.split(pixels))
    mixed = red * np.float32(0.299) + green * np.float32(0.587) + blue * np.float32(0.114)
    levels: np.ndarray = np.rint(mixed * np.float32(255)).astype(np.float64)
    return levels


def _half(luma: np.ndarray) -> np.ndarray:
    near = 1.5 * _DISTANCES**3 - 2.5 * _DISTANCES**2 + 1
    far = -0.5 * _DISTANCES**3 + 2.5 * _DISTANCES**2 - 4 * _DISTANCES + 2
    taps = np.where(_DISTANCES <= 1, near, far)
    taps /= taps.sum()
    padded = np.pad(luma, 4, mode="symmetric")
    smooth = cv2.sepFilter2D(padded, cv2.CV_64F, taps, taps, anchor=(3, 3))
    return np.ascontiguousarray(smooth[4:-4:2, 4:-4:2])


def _features(luma: np.ndarray, block: int) -> np.ndarray:
    """float64 (blocks, 18): two of the coefficients, four of each of the four products."""
    window = parameters()[2]
    mean = cv2.sepFilter2D(luma, cv2.CV_64F, window, window, borderType=cv2.BORDER_REPLICATE)
    square = cv2.sepFilter2D(luma * luma, cv2.CV_64F, window, window, borderType=cv2.BORDER_REPLICATE)
    normalised = (luma - mean) / (np.sqrt(np.abs(square - mean * mean)) + 1)
    moments = _block_moments(np.ascontiguousarray(normalised), block)  # (blocks, 5, 5)
    with np.errstate(divide="ignore", invalid="ignore"):
        shape, left, right = _aggd(moments, block * block)
        skew = (right - left) * _gamma_ratio(shape)
    first = np.stack([shape[:, 0], (left[:, 0] + right[:, 0]) / 2], axis=1)
    rest = np.stack([shape[:, 1:], skew[:, 1:], left[:, 1:], right[:, 1:]], axis=2)
    return np.hstack([first, rest.reshape(len(first), -1)])


@compiled
def _block_moments(values: np.ndarray, block: int) -> np.ndarray:
    """Per block, for the values and each shifted product (shifts wrap inside the block): the sum of squares of the
    negative part, its count, the same of the positive part, and the sum of magnitudes."""
    # (rows, columns): the values themselves, then their products along, down and on both diagonals
    shifts = ((0, 0), (0, 1), (1, 0), (1, 1), (1, -1))
    rows, columns = values.shape[0] // block, values.shape[1] // block
    moments = np.zeros((rows * columns, 5, 5))
    for number in range(rows * columns):
        top, left = number // columns * block, number % columns * block
        for kind in range(5):
            down, across = shifts[kind]
            negative = positive = magnitude = 0.0
            below = above = 0
            for y in range(block):
                other = top + (y - down) % block
                for x in range(block):
                    value = values[top + y, left + x]
                    if kind > 0:
                        value *= values[other, left + (x - across) % block]
                    if value < 0:
                        negative += value * value
                        below += 1
                    elif value > 0:
                        positive += value * value
                        above += 1
                    magnitude += abs(value)
            moments[number, kind, 0] = negative
            moments[number, kind, 1] = below
            moments[number, kind, 2] = positive
            moments[number, kind, 3] = above
            moments[number, kind, 4] = magnitude
    return moments


def _aggd(moments: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape and the two scales of an asymmetric generalized Gaussian, each (blocks, 5). Where a block has no value on
    one side, its scale is not-a-number and the shape the smallest."""
    left = np.sqrt(moments[..., 0] / moments[..., 1])
    right = np.sqrt(moments[..., 2] / moments[..., 3])
    ratio = left / right
    energy = (moments[..., 0] + moments[..., 2]) / count
    spread = (moments[..., 4] / count) ** 2 / energy
    wanted = spread * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes, ratios, scales, _ = _gamma_tables()
    nearest = np.clip(np.searchsorted(ratios, wanted), 1, len(ratios) - 1)
    nearest -= np.abs(wanted - ratios[nearest - 1]) <= np.abs(wanted - ratios[nearest])
    nearest[np.isnan(wanted)] = 0  # as the published code, whose minimum over nothing but NaN is the first shape
    return shapes[nearest], left * scales[nearest], right * scales[nearest]


def _gamma_ratio(shape: np.ndarray) -> np.ndarray:
    shapes, _, _, gammas = _gamma_tables()
    ratio: np.ndarray = gammas[np.rint((shape - shapes[0]) / 0.001).astype(int)]
    return ratio


@functools.cache
def _gamma_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Over shapes 0.2, 0.201 .. 10: the moment ratio that identifies a shape (increasing), standard deviation to
    scale, and Gamma(2/a) / Gamma(1/a)."""
    shapes = np.arange(0.2, 10.001, 0.001)
    one, two, three = (np.array([math.lgamma(n / shape) for shape in shapes]) for n in (1, 2, 3))
    return shapes, np.exp(2 * two - one - three), np.exp((one - three) / 2), np.exp(two - one)


@functools.cache
def parameters() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pristine mean (36,), covariance (36, 36), and the 7-tap Gaussian (sigma 7/6) of the local statistics."""
    with np.load(Path(__file__).with_name("niqe_parameters.npz")) as file:
        mean, covariance = file["mu_pris_param"].ravel(), file["cov_pris_param"]
    window = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    return mean, covariance, window / window.sum() * math.sqrt(1 + WINDOW_EXCESS)


def _distance(features: np.ndarray) -> float:
    """Distance between two Gaussians with the mean of their covariances; blocks with holes count for the mean only."""
    mean, covariance, _ = parameters()
    whole = features[np.isfinite(features).all(axis=1)]
    if len(whole) < 2:
        return math.nan
    difference = mean - np.nanmean(features, axis=0)
    inverse = np.linalg.pinv((covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(difference @ inverse @ difference))
