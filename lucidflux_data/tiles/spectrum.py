"""`artifacts.spectral_cutoff` by a float32 transform; where rounding could move the answer, the plain one is asked."""

from __future__ import annotations

import functools

import cv2
import numpy as np

from lucidflux_data.measures.artifacts import SPECTRUM_TILES, list_spectrum_tiles, spectral_cutoff

# Of a coefficient of a 256x256 transform in float32, as a share of the root of the mean power; measured: under 3e-7.
TRANSFORM_ERROR = 1e-6
SUM_ERROR = 1e-5  # of the sums of powers, as a share of themselves


def cutoff(luma: np.ndarray) -> float:
    """Of uint8 HxW luma: the value of `artifacts.spectral_cutoff`."""
    side, places = list_spectrum_tiles(luma)
    if not places:
        return 1.0
    if len(places) > SPECTRUM_TILES:
        return spectral_cutoff(luma)
    window, rounding, frequency = _constants(side)
    total, centred, transformed = (np.zeros((side, side), np.float32) for _ in range(3))
    for top, left in places:
        tile = luma[top : top + side, left : left + side]
        cv2.subtract(tile, (cv2.mean(tile)[0], 0, 0, 0), centred, dtype=cv2.CV_32F)
        cv2.multiply(centred, window, centred)
        cv2.dft(centred, transformed)
        cv2.accumulateSquare(transformed, total)
    smaller = _smaller_profile(total, side) / len(places)
    coefficient = TRANSFORM_ERROR * np.sqrt(cv2.mean(total)[0] / len(places))
    error = 2 * np.sqrt(smaller) * coefficient + coefficient**2 + SUM_ERROR * smaller
    weights = frequency**2
    whitened = np.convolve(np.maximum(smaller - rounding, 0) * weights, np.full(5, 0.2), "same")
    doubt = np.convolve(error * weights, np.full(5, 0.2), "same")
    middle = (frequency >= 0.05) & (frequency <= 0.25)
    level = np.median(whitened[middle]) / 10
    level_doubt = doubt[middle].max() / 10 + 1e-9 * level
    above = np.flatnonzero(whitened >= level)
    unsure = np.abs(whitened - level) <= doubt + level_doubt
    if not len(above) or unsure[above[-1] :].any():
        return spectral_cutoff(luma)
    return float(frequency[above[-1]])


@functools.cache
def _constants(side: int) -> tuple[np.ndarray, float, np.ndarray]:
    """(float32 window, power of rounding to levels, float64 frequencies from 0 to 1)."""
    window = np.hanning(side)[:, None] * np.hanning(side)[None]
    half = side // 2
    return window.astype(np.float32), float((window**2).sum() / 12), np.arange(half + 1) / half


def _smaller_profile(squares: np.ndarray, side: int) -> np.ndarray:
    """float64 (half a side + 1): the smaller of the mean powers along rows and along columns, from the squares
    (float32) of a transform of real numbers as OpenCV packs it (each pair of numbers is a coefficient; the first and
    the last column hold those of frequency 0 and of the highest, packed along the column)."""
    half = side // 2
    columns = cv2.reduce(squares, 0, cv2.REDUCE_SUM, dtype=cv2.CV_64F).ravel()
    rows = cv2.reduce(squares, 1, cv2.REDUCE_SUM, dtype=cv2.CV_64F).ravel()
    edges = []
    for column in (squares[:, 0].astype(np.float64), squares[:, -1].astype(np.float64)):
        rows -= column  # what is left is of the frequencies 1..half-1 across
        edges.append(np.concatenate([column[:1], column[1:-1:2] + column[2:-1:2], column[-1:]]))
    ends = [edge[0] + edge[-1] + 2 * edge[1:-1].sum() for edge in edges]
    across = np.concatenate([ends[:1], columns[1:-1:2] + columns[2:-1:2], ends[1:]])
    mirrored = rows[(-np.arange(half + 1)) % side]
    down = edges[0] + edges[1] + rows[: half + 1] + mirrored
    smaller: np.ndarray = np.minimum(across, down) / side
    return smaller
