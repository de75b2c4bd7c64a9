"""Blur and area resize of interleaved colour images in float32, faster than OpenCV's where it is slow or different.

OpenCV's `filter2D` goes through a Fourier transform from 13 taps on; the loops here take rows of the image as vectors.
Area means over the source exactly under each pixel, up and down; OpenCV's is that only downwards, torch's never.
"""

from __future__ import annotations

import cv2
import numpy as np

from lucidflux_data.degradation.kernels import is_mirrored, separated, trimmed
from lucidflux_data.jit import compiled, fused

CHANNELS = 3
GROUP = 7  # taps that are added before the sum is stored again
BLOCK = 1024  # floats of a row that are summed while they stay in the first-level cache


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlation of an HxWx3 image (uint8 or float32) with an odd square kernel, border reflected without the edge.

    Returns float32. Equals cv2.filter2D with BORDER_REFLECT_101 to float32 rounding.
    """
    kernel = trimmed(kernel)
    size = len(kernel)
    radius, groups = size // 2, -(-size // GROUP)
    height, width = image.shape[:2]
    spare = groups * GROUP - size  # columns on the right that only taps of zero see
    padded = cv2.copyMakeBorder(image, radius, radius, radius, radius + spare, cv2.BORDER_REFLECT_101)
    rows = padded.astype(np.float32, copy=False).reshape(padded.shape[0], -1)
    out = np.empty((height, width * CHANNELS), np.float32)
    parts, mirrored = separated(kernel), is_mirrored(kernel)
    if parts is not None and mirrored:
        column, row = (part.astype(np.float32) for part in parts)
        _correlate_separable(rows, column, np.pad(row, (0, spare)), out)
    else:
        taps = np.pad(kernel, ((0, 0), (0, spare))).astype(np.float32)
        if mirrored:
            _correlate_mirrored(rows, taps, out)
        else:
            _correlate(rows, taps, out)
    return out.reshape(height, width, CHANNELS)


@fused
def _add_row(row: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    """out[x] += sum of taps[i] * row[x + 3 i]; the number of taps is a multiple of GROUP."""
    count = out.size
    for first in range(0, taps.size, 7):
        t0, t1, t2, t3 = taps[first], taps[first + 1], taps[first + 2], taps[first + 3]
        t4, t5, t6 = taps[first + 4], taps[first + 5], taps[first + 6]
        r0, r1, r2 = row[3 * first :], row[3 * first + 3 :], row[3 * first + 6 :]
        r3, r4, r5, r6 = row[3 * first + 9 :], row[3 * first + 12 :], row[3 * first + 15 :], row[3 * first + 18 :]
        for x in range(count):
            one = t0 * r0[x] + t1 * r1[x] + t2 * r2[x] + t3 * r3[x]
            out[x] += one + (t4 * r4[x] + t5 * r5[x] + t6 * r6[x])


@fused
def _correlate(rows: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    height, width = out.shape
    for y in range(height):
        for start in range(0, width, 1024):
            sums = out[y, start : min(start + 1024, width)]
            sums[:] = np.float32(0)
            for dy in range(taps.shape[0]):
                _add_row(rows[y + dy, start:], taps[dy], sums)


@fused
def _correlate_mirrored(rows: np.ndarray, taps: np.ndarray, out: np.ndarray) -> None:
    height, width = out.shape
    size = taps.shape[0]
    reach = 3 * (taps.shape[1] - 1)
    both = np.empty(1024 + reach, np.float32)
    for y in range(height):
        for start in range(0, width, 1024):
            count = min(1024, width - start)
            sums = out[y, start : start + count]
            sums[:] = np.float32(0)
            _add_row(rows[y + size // 2, start:], taps[size // 2], sums)
            for dy in range(size // 2):
                above, below = rows[y + dy, start:], rows[y + size - 1 - dy, start:]
                for x in range(count + reach):
                    both[x] = above[x] + below[x]
                _add_row(both, taps[dy], sums)


@fused
def _correlate_separable(rows: np.ndarray, column: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
    height, width = out.shape
    size = column.size
    line = np.empty(rows.shape[1], np.float32)
    for y in range(height):
        middle = column[size // 2]
        here = rows[y + size // 2]
        for x in range(line.size):
            line[x] = middle * here[x]
        for dy in range(size // 2):  # the column is its own mirror image
            above, below, tap = rows[y + dy], rows[y + size - 1 - dy], column[dy]
            for x in range(line.size):
                line[x] += tap * (above[x] + below[x])
        for start in range(0, width, 1024):
            sums = out[y, start : min(start + 1024, width)]
            sums[:] = np.float32(0)
            _add_row(line[start:], row, sums)


def resize_area(image: np.ndarray, height: int, width: int, whole_pixels: bool = False) -> np.ndarray:
    """float32 means of an HxWx3 image (uint8 or float32) over the boxes i n/m .. (i+1) n/m of each axis.

    With `whole_pixels` a pixel that a box touches counts in full: torch's adaptive pooling, which is what BasicSR's
    `area` is. Its boxes lie up to half a pixel off their place, in a pattern that drifts over the image.
    """
    out = np.empty((height, width, CHANNELS), np.float32)
    rows = _boxes(image.shape[0], height, whole_pixels)
    columns = _boxes(image.shape[1], width, whole_pixels)
    _mean_of_boxes(image, *rows, *columns, out)
    return out


def _boxes(count: int, boxes: int, whole_pixels: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First pixel, pixel after the last, and float32 (boxes, 2) weights of those two; between them weights are 1."""
    number = np.arange(boxes, dtype=np.int64)
    first, stop = number * count // boxes, -(-(number + 1) * count // boxes)
    weights = np.ones((boxes, 2))
    if not whole_pixels:
        start, end = number * count / boxes, (number + 1) * count / boxes
        weights[:, 0] = np.minimum(first + 1, end) - start
        weights[:, 1] = np.where(stop - first > 1, end - (stop - 1), 0)
    return first, stop, weights.astype(np.float32)


@compiled
def _mean_of_boxes(
    image: np.ndarray,
    tops: np.ndarray,
    bottoms: np.ndarray,
    row_weights: np.ndarray,
    lefts: np.ndarray,
    rights: np.ndarray,
    column_weights: np.ndarray,
    out: np.ndarray,
) -> None:
    flat = image.reshape(image.shape[0], image.shape[1] * 3)
    line = np.empty(flat.shape[1], np.float32)
    for y in range(tops.size):
        top, bottom = tops[y], bottoms[y]
        height = row_weights[y, 0]
        first = flat[top]
        for x in range(line.size):
            line[x] = height * np.float32(first[x])
        for row in range(top + 1, bottom):
            weight = row_weights[y, 1] if row == bottom - 1 else np.float32(1)
            height += weight
            more = flat[row]
            for x in range(line.size):
                line[x] += weight * np.float32(more[x])
        for x in range(lefts.size):
            left, right = lefts[x], rights[x]
            width = column_weights[x, 0]
            blue, green, red = width * line[3 * left], width * line[3 * left + 1], width * line[3 * left + 2]
            for column in range(left + 1, right):
                weight = column_weights[x, 1] if column == right - 1 else np.float32(1)
                width += weight
                blue += weight * line[3 * column]
                green += weight * line[3 * column + 1]
                red += weight * line[3 * column + 2]
            share = np.float32(1) / (height * width)
            out[y, x, 0], out[y, x, 1], out[y, x, 2] = blue * share, green * share, red * share


def usm(image: np.ndarray) -> np.ndarray:
    """Real-ESRGAN's unsharp mask of an HxWx3 image in 0..255 (uint8 or float32); float32 in 0..255.

    Gaussian of 51 taps (sigma 8, OpenCV's rule), weight 0.5, where |residual| is over 10 grey levels, that mask blurred
    by the same Gaussian.
    """
    column = cv2.getGaussianKernel(USM_TAPS, 0)[:, 0]
    gaussian = np.outer(column, column)
    soft = np.empty(image.shape, np.float32)
    blurred = blur(image, gaussian)
    _over_threshold(image, blurred, soft)
    _blend(image, blurred, blur(soft, gaussian))
    return blurred


USM_TAPS = 51


@compiled
def _over_threshold(image: np.ndarray, blurred: np.ndarray, out: np.ndarray) -> None:
    one, flat, low = image.reshape(-1), out.reshape(-1), blurred.reshape(-1)
    for i in range(flat.size):
        flat[i] = np.float32(1) if abs(np.float32(one[i]) - low[i]) > np.float32(10) else np.float32(0)


@compiled
def _blend(image: np.ndarray, blurred: np.ndarray, soft: np.ndarray) -> None:
    """Leaves the sharpened image in `blurred`."""
    one, low, mask = image.reshape(-1), blurred.reshape(-1), soft.reshape(-1)
    for i in range(low.size):
        value = np.float32(one[i])
        sharp = value + np.float32(0.5) * (value - low[i])
        sharp = min(max(sharp, np.float32(0)), np.float32(255))
        low[i] = mask[i] * sharp + (np.float32(1) - mask[i]) * value
