"""Blur and flat-region measures of the LucidFlux filter (arXiv 2509.22414, section on data curation).

    laplacian_variance   variance over the whole image of the 4-neighbour Laplacian (cv2.Laplacian, ksize 1,
                         border reflected without repeating the edge), native size, 8-bit luma
    flat_fraction        share of whole, non-overlapping 240x240 patches from the top left whose Sobel 3x3 gradient
                         magnitude has a variance under 800; the border is reflected inside each patch; no whole
                         patch gives 0

`measure_luma_by_definition` reads like those two sentences; `measure_luma` and `measure_bytes` give the same in one
pass over the image, a band of one row of patches at a time: what is measured is still in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lucidflux_data.decode_config import DEFAULT_MAX_PIXELS
from lucidflux_data.images import decode, luma
from lucidflux_data.jit import compiled
from lucidflux_data.measures.config import FLAT_GRADIENT_VARIANCE, MAX_PATCH_PX, PATCH_PX

_FIXED = 4096.0  # gradient magnitudes are summed as integers in units of 1/4096
# A float32 root is off by at most 6e-8 of itself (1443 at most), its fixed-point value by 1/8192.
_MAGNITUDE_ERROR = 1.3e-4 + 1e-4


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
    return _measure(decode(data, max_pixels), patch_px, flat_gradient_variance)


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
    return _measure(np.ascontiguousarray(image), patch_px, flat_gradient_variance)


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
    laplacian: np.ndarray = p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * p[1:-1, 1:-1]
    return laplacian


def _gradient_magnitude(patch: np.ndarray) -> np.ndarray:
    p = _reflected(patch)
    smooth = p[:-2] + 2 * p[1:-1] + p[2:]
    dx = smooth[:, 2:] - smooth[:, :-2]
    slope = p[2:] - p[:-2]
    dy = slope[:, :-2] + 2 * slope[:, 1:-1] + slope[:, 2:]
    magnitude: np.ndarray = np.sqrt(dx**2 + dy**2)
    return magnitude


def _measure(image: np.ndarray, patch_px: int, limit: float) -> Measures:
    """Both measures of contiguous uint8 HxW luma or HxWx3 RGB."""
    height, width = image.shape[:2]
    if min(height, width) < 3:
        return measure_luma_by_definition(luma(image) if image.ndim == 3 else image, patch_px, limit)
    total = total_squares = flat = 0
    for rows, first, count in _bands(image, patch_px):
        band_total, band_squares, squares, magnitudes, decided = _sums(rows, first, count, patch_px, limit)
        total += int(band_total)  # Python integers: size * total_squares passes 2^63 from about 90 megapixels on
        total_squares += int(band_squares)
        if count == patch_px:
            flat += _flat_patches(rows[first : first + count], limit, squares, magnitudes, ~decided)
    size, patches = height * width, (height // patch_px) * (width // patch_px)
    variance = (size * total_squares - total**2) / size**2
    return Measures(variance, flat / patches if patches else 0.0)


def _bands(image: np.ndarray, patch_px: int) -> Iterator[tuple[np.ndarray, int, int]]:
    """Luma a row of patches at a time: (rows, index of the band's first row in them, rows of the band). `rows` has one
    row more above and below, except at the edges of the image; the next band overwrites it."""
    height, width = image.shape[:2]
    space = np.empty((patch_px + 2, width), np.uint8) if image.ndim == 3 else None
    for top in range(0, height, patch_px):
        start, stop = max(0, top - 1), min(height, top + patch_px + 1)
        rows = image[start:stop]
        if space is not None:
            rows = space[: stop - start]
            _luma(image[start:stop], rows)
        yield rows, top - start, min(patch_px, height - top)


def _flat_patches(
    band: np.ndarray, limit: float, squares: np.ndarray, magnitudes: np.ndarray, undecided: np.ndarray
) -> int:
    """How many patches of one band are flat, from the sums of those that were not left early."""
    patch_px = band.shape[0]
    count = patch_px * patch_px
    mean = magnitudes / (_FIXED * count)
    variance = squares / count - mean**2
    flat = undecided & (variance < limit)
    unsure = undecided & (np.abs(variance - limit) <= 2 * mean * _MAGNITUDE_ERROR + 1e-6)
    for column in np.flatnonzero(unsure):
        patch = band[:, column * patch_px : (column + 1) * patch_px]
        flat[column] = _gradient_magnitude(patch).var() < limit
    return int(flat.sum())


@compiled
def _luma(pixels: np.ndarray, out: np.ndarray) -> None:
    """`images.luma` into `out`, equal for all 2^24 colours; a quarter faster than OpenCV where it was measured."""
    for y in range(out.shape[0]):
        row = pixels[y].reshape(pixels.shape[1] * 3)
        for x in range(out.shape[1]):
            red, green, blue = np.int32(row[3 * x]), np.int32(row[3 * x + 1]), np.int32(row[3 * x + 2])
            weighted = np.int32(red * np.int32(9798) + green * np.int32(19235) + blue * np.int32(3735))
            out[y, x] = np.uint8(np.int32(weighted + np.int32(16384)) >> np.int32(15))


@compiled
def _sums(
    rows: np.ndarray, first: int, count: int, patch: int, limit: float
) -> tuple[np.int64, np.int64, np.ndarray, np.ndarray, np.ndarray]:
    """Rows [first, first + count) of `rows`: sum and sum of squares of the Laplacian; per patch the sum of
    dx^2 + dy^2, the sum of magnitudes in 1/4096, and whether the patch was left early because it is surely not flat.

    All sums are int64 and exact. The squared deviations of some rows from their own mean are no more than those of
    all rows from the mean of all, so a patch whose rows so far have enough of them needs no further ones.
    """
    columns = rows.shape[1] // patch if count == patch else 0
    squares = np.zeros(columns, np.int64)
    magnitudes = np.zeros(columns, np.int64)
    decided = np.zeros(columns, np.bool_)
    smooth = np.empty(patch + 2, np.int16)
    slope = np.empty(patch + 2, np.int16)
    total = total_squares = np.int64(0)
    for inside in range(count):
        y = first + inside
        up = rows[1 if y == 0 else y - 1]  # no row above: the edge of the image, reflected
        down = rows[y - 1 if y == rows.shape[0] - 1 else y + 1]
        row_total, row_squares = _laplacian_row(up, rows[y], down)
        total += row_total
        total_squares += row_squares
        above = down if inside == 0 else up
        below = up if inside == patch - 1 else down
        _gradient_row(above, rows[y], below, patch, smooth, slope, decided, squares, magnitudes)
        if inside % 16 == 15:
            seen = (inside + 1) * patch
            for column in range(columns):
                mean = magnitudes[column] / (_FIXED * seen)
                surely = squares[column] / seen - mean * mean - 2 * mean * _MAGNITUDE_ERROR - 1e-6
                decided[column] |= surely * seen >= limit * patch * patch
    return total, total_squares, squares, magnitudes, decided


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
    decided: np.ndarray,
    squares: np.ndarray,
    magnitudes: np.ndarray,
) -> None:
    """Adds one row of each undecided patch to `squares` and `magnitudes`; `smooth`, `slope`: int16 space, patch + 2."""
    for column in range(squares.size):
        if decided[column]:
            continue
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
