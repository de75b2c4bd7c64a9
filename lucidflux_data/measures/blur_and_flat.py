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
    space = np.empty((2, width), np.int16)
    total = total_squares = flat = 0
    for rows, first, count in _bands(image, patch_px):
        band_total, band_squares = _laplacian_sums(rows, first, count, space[0])
        total += int(band_total)  # Python integers: size * total_squares passes 2^63 from about 90 megapixels on
        total_squares += int(band_squares)
        if count == patch_px:
            flat += _flat_patches(rows[first : first + count], limit, space)
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


def _flat_patches(band: np.ndarray, limit: float, space: np.ndarray) -> int:
    """How many patches of one band are flat. No variance is over the mean of the squares, so a patch whose squares are
    under the limit is flat whatever its magnitudes: no root is taken of it, and most flat patches are such."""
    patch_px = band.shape[0]
    count = patch_px * patch_px
    doubtful = np.flatnonzero(_reach_limit(band, limit, space[0], space[1]))
    flat: int = band.shape[1] // patch_px - len(doubtful)
    for column in doubtful:
        patch = band[:, column * patch_px : (column + 1) * patch_px]
        squares, magnitudes = _gradient_sums(patch, limit, space[0], space[1])
        if squares < 0:
            continue
        mean = magnitudes / (_FIXED * count)
        variance = squares / count - mean**2
        if abs(variance - limit) <= 2 * mean * _MAGNITUDE_ERROR + 1e-6:
            variance = _gradient_magnitude(patch).var()
        flat += bool(variance < limit)
    return flat


@compiled
def _luma(pixels: np.ndarray, out: np.ndarray) -> None:
    """`images.luma` into `out`, equal for all 2^24 colours; a quarter faster than OpenCV where it was measured."""
    for y in range(out.shape[0]):
        row = pixels[y].reshape(pixels.shape[1] * 3)
        for x in range(out.shape[1]):
            red, green, blue = np.int32(row[3 * x]), np.int32(row[3 * x + 1]), np.int32(row[3 * x + 2])
            weighted = np.int32(red * np.int32(9798) + green * np.int32(19235) + blue * np.int32(3735))
            out[y, x] = np.uint8(np.int32(weighted + np.int32(16384)) >> np.int32(15))


# The loops below are short, one result each, and without casts where a sum is stored as int16: LLVM then keeps 16 bits
# to a pixel. A sum that is used twice, or an index that is not a loop's own, costs it two to five times as long.


@compiled
def _laplacian_sums(rows: np.ndarray, first: int, count: int, space: np.ndarray) -> tuple[np.int64, np.int64]:
    """Sum and sum of squares of the Laplacian over rows [first, first + count) of `rows`, exact; `space`: int16[W]."""
    width = rows.shape[1]
    total = np.int64(0)
    squares = np.int64(0)
    for y in range(first, first + count):
        here = rows[y]
        up = rows[1 if y == 0 else y - 1]  # no row above: the edge of the image, reflected
        down = rows[y - 1 if y == rows.shape[0] - 1 else y + 1]
        left, middle, right, above, below = here[: width - 2], here[1:], here[2:], up[1:], down[1:]
        inner = space[1:]
        for x in range(left.size):
            inner[x] = (
                np.int16(left[x])
                + np.int16(right[x])
                + np.int16(above[x])
                + np.int16(below[x])
                - 4 * np.int16(middle[x])
            )
        for edge, inside in ((0, 1), (width - 1, width - 2)):
            along = np.int64(up[edge]) + np.int64(down[edge])
            space[edge] = along + 2 * np.int64(here[inside]) - 4 * np.int64(here[edge])
        for start in range(0, width, 1024):  # 1020^2 x 1024 < 2^31
            values = space[start : min(start + 1024, width)]
            some_total = np.int32(0)
            some_squares = np.int32(0)
            for x in range(values.size):
                value = np.int32(values[x])
                some_total = np.int32(some_total + value)
                some_squares = np.int32(some_squares + np.int32(value * value))
            total += some_total
            squares += some_squares
    return total, squares


@compiled
def _fill_columns(
    above: np.ndarray, here: np.ndarray, below: np.ndarray, smooth: np.ndarray, slope: np.ndarray
) -> None:
    """The vertical halves of Sobel's dx and dy, int16, of three rows of the same width."""
    for x in range(here.size):
        smooth[x] = np.int16(above[x]) + np.int16(below[x]) + 2 * np.int16(here[x])
    for x in range(here.size):
        slope[x] = np.int16(below[x]) - np.int16(above[x])


@compiled
def _reach_limit(band: np.ndarray, limit: float, smooth: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """bool[patches]: whether the mean of dx^2 + dy^2 over the patch is at least `limit`, or over so many rows of it
    that looking at its magnitudes, row by row from the top, is the shorter way. `smooth`, `slope`: int16[W] space."""
    patch = band.shape[0]
    columns = band.shape[1] // patch
    squares = np.zeros(columns, np.int64)
    reached = np.zeros(columns, np.bool_)
    for y in range(patch):
        above = band[1 if y == 0 else y - 1]
        below = band[patch - 2 if y == patch - 1 else y + 1]
        low, high = 0, columns
        while low < high and reached[low]:
            low += 1
        while low < high and reached[high - 1]:
            high -= 1
        if low == high:
            break
        start, stop = low * patch, high * patch
        _fill_columns(above[start:stop], band[y, start:stop], below[start:stop], smooth[start:], slope[start:])
        for column in range(low, high):
            if not reached[column]:
                left, right = column * patch, (column + 1) * patch
                squares[column] += _row_squares(smooth[left:right], slope[left:right])
                # asked of 16 rows at a time, and of all at the end
                reached[column] = (y % 16 == 15 or y == patch - 1) and squares[column] >= limit * patch * (y + 1)
    return reached


@compiled
def _row_squares(smooth: np.ndarray, slope: np.ndarray) -> np.int64:
    """Sum of dx^2 + dy^2 along one row of a patch. At both ends the reflected neighbours make dx 0."""
    last = smooth.size - 1
    total = np.int64(0)
    for edge, inside in ((0, 1), (last, last - 1)):
        down = 2 * (np.int64(slope[edge]) + np.int64(slope[inside]))
        total = np.int64(total + down * down)
    right, middle, after = smooth[2:], slope[1:], slope[2:]
    inner = np.int32(0)  # 2 x 1020^2 x 358 < 2^31
    for x in range(right.size):
        dx = np.int32(np.int16(right[x] - smooth[x]))
        dy = np.int32(np.int16(np.int16(slope[x] + after[x]) + np.int16(middle[x] + middle[x])))
        inner = np.int32(inner + np.int32(np.int32(dx * dx) + np.int32(dy * dy)))
    return np.int64(total + inner)


@compiled
def _row_magnitudes(smooth: np.ndarray, slope: np.ndarray) -> np.int64:
    """Sum of sqrt(dx^2 + dy^2) in 1/4096 along one row of a patch, each rounded from float32."""
    last = smooth.size - 1
    total = np.int64(0)
    for edge, inside in ((0, 1), (last, last - 1)):
        down = 2 * (np.int64(slope[edge]) + np.int64(slope[inside]))
        total = np.int64(total + np.int64(abs(down)) * 4096)
    right, middle, after = smooth[2:], slope[1:], slope[2:]
    inner = np.int32(0)  # 1443 x 4096 x 358 < 2^31
    for x in range(right.size):
        dx = np.int32(np.int16(right[x] - smooth[x]))
        dy = np.int32(np.int16(np.int16(slope[x] + after[x]) + np.int16(middle[x] + middle[x])))
        root = np.sqrt(np.float32(np.int32(np.int32(dx * dx) + np.int32(dy * dy))))
        inner = np.int32(inner + np.int32(root * np.float32(4096.0) + np.float32(0.5)))
    return np.int64(total + inner)


@compiled
def _gradient_sums(patch: np.ndarray, limit: float, smooth: np.ndarray, slope: np.ndarray) -> tuple[np.int64, np.int64]:
    """(sum of dx^2 + dy^2, sum of magnitudes in 1/4096) of one patch, exact integers; (-1, 0) as soon as it is surely
    not flat. The squared deviations of some rows from their own mean are no more than those of all rows from the mean
    of all, so a patch whose rows so far have enough of them needs no further ones."""
    side = patch.shape[0]
    squares = np.int64(0)
    magnitudes = np.int64(0)
    for y in range(side):
        above = patch[1 if y == 0 else y - 1]
        below = patch[side - 2 if y == side - 1 else y + 1]
        _fill_columns(above, patch[y], below, smooth, slope)
        squares += _row_squares(smooth[:side], slope[:side])
        magnitudes += _row_magnitudes(smooth[:side], slope[:side])
        if y % 16 == 15:
            seen = (y + 1) * side
            mean = magnitudes / (_FIXED * seen)
            surely = squares / seen - mean * mean - 2 * mean * _MAGNITUDE_ERROR - 1e-6
            if surely * seen >= limit * side * side:
                return np.int64(-1), np.int64(0)
    return squares, magnitudes
