"""Blur and flat-region measures of the LucidFlux filter (arXiv 2509.22414, section on data curation).

    laplacian_variance   variance over the whole image of the 4-neighbour Laplacian (cv2.Laplacian, ksize 1,
                         border reflected without repeating the edge), native size, 8-bit luma
    flat_fraction        share of whole, non-overlapping 240x240 patches from the top left whose Sobel 3x3 gradient
                         magnitude has a variance under 800; the border is reflected inside each patch; no whole
                         patch gives 0

`measure_luma_by_definition` reads like those two sentences; `measure_luma` gives the same in one pass over the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lucidflux_data.images import DEFAULT_MAX_PIXELS, decode, luma
from lucidflux_data.jit import compiled

PATCH_PX = 240
FLAT_GRADIENT_VARIANCE = 800.0
MAX_PATCH_PX = 360  # the sum of one patch row's magnitudes in 1/4096 then stays below 2^31
_FIXED = 4096.0  # gradient magnitudes are summed as integers in units of 1/4096


class Measures(NamedTuple):
    laplacian_variance: float
    flat_fraction: float


def measure_bytes(
    data: bytes,
    patch_px: int = PATCH_PX,
    flat_gradient_variance: float = FLAT_GRADIENT_VARIANCE,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Measures:
    """Both measures of an encoded image, after everything `decode` does. Raises ImageError."""
    return measure_luma(luma(decode(data, max_pixels)), patch_px, flat_gradient_variance)


def measure_luma(
    image: np.ndarray,
    patch_px: int = PATCH_PX,
    flat_gradient_variance: float = FLAT_GRADIENT_VARIANCE,
) -> Measures:
    """Both measures of a uint8 HxW luma image.

    laplacian_variance is exact up to its last rounding; the flat patches are the definition's own, since a patch
    whose variance is nearer to the limit than the fixed-point sums can tell is computed again in float64.
    Raises ValueError for another dtype, shape or patch size.
    """
    _check(image, patch_px)
    if min(image.shape) < 3:
        return measure_luma_by_definition(image, patch_px, flat_gradient_variance)
    image = np.ascontiguousarray(image)
    total, total_squares, squares, magnitudes = _sums(image, patch_px)
    count = image.size
    # Python integers: count * total_squares passes 2^63 from about 90 megapixels on
    variance = (count * int(total_squares) - int(total) ** 2) / count**2
    return Measures(variance, _flat_fraction(image, patch_px, flat_gradient_variance, squares, magnitudes))


def measure_luma_by_definition(
    image: np.ndarray,
    patch_px: int = PATCH_PX,
    flat_gradient_variance: float = FLAT_GRADIENT_VARIANCE,
) -> Measures:
    """The slow version in float64, for reading and as the oracle of the tests. Same arguments as `measure_luma`."""
    _check(image, patch_px)
    laplacian = _laplacian(image)
    rows, columns = image.shape[0] // patch_px, image.shape[1] // patch_px
    flat = 0
    for row in range(rows):
        for column in range(columns):
            top, left = row * patch_px, column * patch_px
            patch = image[top : top + patch_px, left : left + patch_px]
            flat += bool(_gradient_magnitude(patch).var() < flat_gradient_variance)
    return Measures(float(laplacian.var()), flat / (rows * columns) if rows * columns else 0.0)


def _check(image: np.ndarray, patch_px: int) -> None:
    if image.dtype != np.uint8 or image.ndim != 2 or image.size == 0:
        raise ValueError(f"a uint8 HxW image is measured, not {image.dtype} {image.shape}")
    if not 3 <= patch_px <= MAX_PATCH_PX:
        raise ValueError(f"patch_px must be 3..{MAX_PATCH_PX}, not {patch_px}")


def _reflected(image: np.ndarray) -> np.ndarray:
    """float64, one pixel larger on each side, reflected without repeating the edge (a side of 1 repeats it)."""
    for axis in (0, 1):
        widths = [(1, 1) if axis == other else (0, 0) for other in (0, 1)]
        image = np.pad(image, widths, mode="reflect") if image.shape[axis] > 1 else np.pad(image, widths, mode="edge")
    return image.astype(np.float64)


def _laplacian(image: np.ndarray) -> np.ndarray:
    p = _reflected(image)
    return p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * p[1:-1, 1:-1]


def _gradient_magnitude(patch: np.ndarray) -> np.ndarray:
    p = _reflected(patch)
    smooth = p[:-2] + 2 * p[1:-1] + p[2:]
    dx = smooth[:, 2:] - smooth[:, :-2]
    slope = p[2:] - p[:-2]
    dy = slope[:, :-2] + 2 * slope[:, 1:-1] + slope[:, 2:]
    return np.sqrt(dx**2 + dy**2)


def _flat_fraction(
    image: np.ndarray, patch_px: int, limit: float, squares: np.ndarray, magnitudes: np.ndarray
) -> float:
    """Share of flat patches from the fixed-point sums of each patch."""
    if squares.size == 0:
        return 0.0
    count = patch_px * patch_px
    mean = magnitudes / (_FIXED * count)
    variance = squares / count - mean**2
    flat = variance < limit
    # A float32 root is off by at most 6e-8 of itself (1443 at most), its fixed-point value by 1/8192.
    unsure = np.abs(variance - limit) <= 2 * mean * (1.3e-4 + 1e-4) + 1e-6
    for row, column in np.argwhere(unsure):
        top, left = row * patch_px, column * patch_px
        patch = image[top : top + patch_px, left : left + patch_px]
        flat[row, column] = _gradient_magnitude(patch).var() < limit
    return int(flat.sum()) / flat.size


@compiled
def _sums(image: np.ndarray, patch: int) -> tuple[np.int64, np.int64, np.ndarray, np.ndarray]:
    """One pass over the rows: sum and sum of squares of the Laplacian over the image; per whole patch the sum of
    dx^2 + dy^2 and the sum of magnitudes in 1/4096. All int64 and exact sums."""
    height, width = image.shape
    rows, columns = height // patch, width // patch
    squares = np.zeros((rows, columns), np.int64)
    magnitudes = np.zeros((rows, columns), np.int64)
    smooth = np.empty(patch + 2, np.int16)
    slope = np.empty(patch + 2, np.int16)
    total = total_squares = np.int64(0)
    for y in range(height):
        here = image[y]
        up = image[1 if y == 0 else y - 1]
        down = image[height - 2 if y == height - 1 else y + 1]
        row_total, row_squares = _laplacian_row(up, here, down)
        total += row_total
        total_squares += row_squares
        if y < rows * patch:
            inside = y % patch
            above = down if inside == 0 else up
            below = up if inside == patch - 1 else down
            _gradient_row(above, here, below, patch, smooth, slope, squares[y // patch], magnitudes[y // patch])
    return total, total_squares, squares, magnitudes


@compiled
def _laplacian_row(up: np.ndarray, here: np.ndarray, down: np.ndarray) -> tuple[np.int64, np.int64]:
    """In int32 within 1024 columns: 1020^2 x 1024 < 2^31."""
    width = here.size
    total = np.int64(0)
    squares = np.int64(0)
    for edge, inner in ((0, 1), (width - 1, width - 2)):
        value = np.int64(up[edge]) + np.int64(down[edge]) + 2 * np.int64(here[inner]) - 4 * np.int64(here[edge])
        total += value
        squares += value * value
    for start in range(0, width - 2, 1024):
        count = min(1024, width - 2 - start)
        left, middle, right = here[start:], here[start + 1 :], here[start + 2 :]
        above, below = up[start + 1 :], down[start + 1 :]
        some_total = np.int32(0)
        some_squares = np.int32(0)
        for x in range(count):
            across = np.int32(np.int32(left[x]) + np.int32(right[x]))
            along = np.int32(np.int32(above[x]) + np.int32(below[x]))
            centre = np.int32(np.int32(4) * np.int32(middle[x]))
            laplacian = np.int32(np.int32(across + along) - centre)
            some_total = np.int32(some_total + laplacian)
            some_squares = np.int32(some_squares + np.int32(laplacian * laplacian))
        total += some_total
        squares += some_squares
    return total, squares


@compiled
def _gradient_row(
    up: np.ndarray,
    here: np.ndarray,
    down: np.ndarray,
    patch: int,
    smooth: np.ndarray,
    slope: np.ndarray,
    squares: np.ndarray,
    magnitudes: np.ndarray,
) -> None:
    """Adds one row of each patch to `squares` and `magnitudes`; `smooth` and `slope`: int16 space for patch + 2."""
    for column in range(squares.size):
        left = column * patch
        for x in range(patch):
            above, below = np.int32(up[left + x]), np.int32(down[left + x])
            smooth[x + 1] = np.int16(above + below + 2 * np.int32(here[left + x]))
            slope[x + 1] = np.int16(below - above)
        smooth[0], smooth[patch + 1] = smooth[2], smooth[patch - 1]
        slope[0], slope[patch + 1] = slope[2], slope[patch - 1]
        row_squares = np.int32(0)
        row_magnitudes = np.int32(0)
        for x in range(patch):
            dx = np.int32(np.int32(smooth[x + 2]) - np.int32(smooth[x]))
            dy = np.int32(np.int32(slope[x]) + np.int32(slope[x + 2]) + 2 * np.int32(slope[x + 1]))
            square = np.int32(np.int32(dx * dx) + np.int32(dy * dy))
            row_squares = np.int32(row_squares + square)
            root = np.sqrt(np.float32(square))
            row_magnitudes = np.int32(row_magnitudes + np.int32(root * np.float32(4096.0) + np.float32(0.5)))
        squares[column] += row_squares
        magnitudes[column] += row_magnitudes
