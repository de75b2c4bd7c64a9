"""Gaussian and Poisson noise of a plan's step: a pure function of (stream, strength, image), one pass, no state.

Random words come from Philox4x32-10 (Salmon et al., 2011) with a block's position as counter. A normal value is one of
65,536 equally probable slices of the normal distribution, at the mean of its slice (so it ends at 4.4 sigma), scaled to
variance 1. A Poisson value comes from an alias table with 256 cells of 2^-32 resolution for each of the 256 levels.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np

from lucidflux_data.jit import compiled

WORDS = 4096  # random words drawn at a time: 1024 blocks of four, lane by lane
CELLS = 256
LUMA_BGR = (0.114, 0.587, 0.2989)  # torchvision's rgb_to_grayscale, which BasicSR calls


def add_gaussian_noise(image: np.ndarray, sigma: float, gray: bool, stream: str) -> None:
    """In place on float32 HxWx3 in grey levels, clipped to 0..255. `sigma` in grey levels, `gray`: one for all."""
    k0, k1 = _key(stream)
    add = _add_gray_normal if gray else _add_normal
    add(image.reshape(-1), np.float32(sigma), normal_slices(), k0, k1)


def add_poisson_noise(image: np.ndarray, scale: float, gray: bool, stream: str) -> None:
    """In place on float32 HxWx3 BGR in grey levels, clipped to 0..255.

    As in BasicSR: levels are the image rounded to 8 bits, `vals` is the power of two that holds the number of different
    levels, the noise is Poisson(level/255 * vals) / vals * 255 - level, times `scale`, on the image as it was.
    """
    k0, k1 = _key(stream)
    levels = np.empty(image.shape[:2] if gray else image.shape, np.uint8)
    if gray:
        _luma_levels(image, np.array(LUMA_BGR, np.float32), levels)
    else:
        _round_levels(image.reshape(-1), levels.reshape(-1))
    values = 2 ** math.ceil(math.log2(_count_levels(levels.reshape(-1))))
    cells, starts = poisson_cells(values)
    unit = np.float32(255 / values)
    _add_poisson(image.reshape(levels.size, -1), levels.reshape(-1), cells, starts, unit, np.float32(scale), k0, k1)


def _key(stream: str) -> tuple[np.uint64, np.uint64]:
    """The two 32-bit Philox keys of a stream: its first 16 hex digits."""
    return np.uint64(int(stream[:8], 16)), np.uint64(int(stream[8:16], 16))


@functools.lru_cache(maxsize=1)
def normal_slices() -> np.ndarray:
    """float32[65536]: mean of the normal distribution within each of its equally probable slices, variance 1 in all."""
    quantile = NormalDist().inv_cdf
    edges = np.array([-np.inf, *(quantile(number / 65536) for number in range(1, 65536)), np.inf])
    density = np.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi)
    means = (density[:-1] - density[1:]) * 65536
    scaled: np.ndarray = (means / means.std()).astype(np.float32)
    return scaled


@functools.lru_cache(maxsize=16)
def poisson_cells(values: int) -> tuple[np.ndarray, np.ndarray]:
    """Alias tables of Poisson(level / 255 * values), level = 0..255: uint32[256, 256] and the first outcome of each.

    A cell holds its own probability in 2^-24 above the outcome that has the rest, both counted from the first outcome.
    """
    cells = np.empty((256, CELLS), np.uint32)
    starts = np.empty(256, np.float32)
    for level in range(256):
        rate = level / 255 * values
        first = max(0, int(rate) - CELLS // 2)
        starts[level] = first
        cells[level] = _alias(_poisson_pmf(rate, first))
    return cells, starts


def _poisson_pmf(rate: float, first: int) -> np.ndarray:
    """Probabilities of first .. first + 255; what lies outside is under 1e-14."""
    if rate == 0:
        certain: np.ndarray = np.eye(1, CELLS)[0]
        return certain
    outcomes = np.arange(first, first + CELLS)
    logs = outcomes * math.log(rate) - rate - np.array([math.lgamma(n + 1) for n in outcomes])
    pmf = np.exp(logs)
    normalised: np.ndarray = pmf / pmf.sum()
    return normalised


def _alias(pmf: np.ndarray) -> np.ndarray:
    """Vose's alias method, packed as above."""
    scaled = (pmf * CELLS).tolist()
    own, other = [1.0] * CELLS, list(range(CELLS))
    small = [i for i, p in enumerate(scaled) if p < 1]
    large = [i for i, p in enumerate(scaled) if p >= 1]
    while small and large:
        less, more = small.pop(), large[-1]
        own[less], other[less] = scaled[less], more
        scaled[more] -= 1 - scaled[less]
        if scaled[more] < 1:
            small.append(large.pop())
    packed = [(min(int(p * 2**24), 2**24 - 1) << 8) | o for p, o in zip(own, other, strict=True)]
    return np.array(packed, np.uint32)


@compiled
def _draw(k0: np.uint64, k1: np.uint64, block: int, words: np.ndarray) -> None:
    """Fills `words` with blocks `block` .. of Philox4x32-10; word j of block i is words[j * blocks + i]."""
    blocks = words.size // 4
    low = np.uint64(0xFFFFFFFF)
    for i in range(blocks):
        c0, c1, c2, c3 = np.uint64(block + i), np.uint64(0), np.uint64(0), np.uint64(0)
        a, b = k0, k1
        for _ in range(10):
            p, q = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
            c0, c1, c2, c3 = (q >> np.uint64(32)) ^ c1 ^ a, q & low, (p >> np.uint64(32)) ^ c3 ^ b, p & low
            a, b = (a + np.uint64(0x9E3779B9)) & low, (b + np.uint64(0xBB67AE85)) & low
        words[i], words[blocks + i] = np.uint32(c0), np.uint32(c1)
        words[2 * blocks + i], words[3 * blocks + i] = np.uint32(c2), np.uint32(c3)


@compiled
def _clipped(value: np.float32) -> np.float32:
    return min(max(value, np.float32(0)), np.float32(255))


@compiled
def _add_normal(flat: np.ndarray, sigma: np.float32, slices: np.ndarray, k0: np.uint64, k1: np.uint64) -> None:
    words = np.empty(4096, np.uint32)
    for start in range(0, flat.size, 8192):
        _draw(k0, k1, start // 8, words)
        part = flat[start : start + 8192]
        count = min(4096, part.size)
        for i in range(count):
            part[i] = _clipped(part[i] + sigma * slices[words[i] & np.uint32(0xFFFF)])
        rest = part[4096:]
        for i in range(part.size - count):
            rest[i] = _clipped(rest[i] + sigma * slices[words[i] >> np.uint32(16)])


@compiled
def _add_gray_normal(flat: np.ndarray, sigma: np.float32, slices: np.ndarray, k0: np.uint64, k1: np.uint64) -> None:
    words = np.empty(4096, np.uint32)
    pixels = flat.size // 3
    for start in range(0, pixels, 8192):
        _draw(k0, k1, start // 8, words)
        for i in range(min(8192, pixels - start)):
            word = words[i] & np.uint32(0xFFFF) if i < 4096 else words[i - 4096] >> np.uint32(16)
            noise = sigma * slices[word]
            at = 3 * (start + i)
            flat[at] = _clipped(flat[at] + noise)
            flat[at + 1] = _clipped(flat[at + 1] + noise)
            flat[at + 2] = _clipped(flat[at + 2] + noise)


@compiled
def _round_levels(flat: np.ndarray, out: np.ndarray) -> None:
    for i in range(flat.size):
        out[i] = np.uint8(np.rint(_clipped(flat[i])))


@compiled
def _luma_levels(image: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    height, width = out.shape
    blue, green, red = weights
    for y in range(height):
        for x in range(width):
            value = red * image[y, x, 2] + green * image[y, x, 1] + blue * image[y, x, 0]
            out[y, x] = np.uint8(np.rint(_clipped(value)))


@compiled
def _count_levels(levels: np.ndarray) -> int:
    seen = np.zeros(256, np.uint8)
    for level in levels:
        seen[level] = 1
    return int(seen.sum())


@compiled
def _add_poisson(
    image: np.ndarray,
    levels: np.ndarray,
    cells: np.ndarray,
    starts: np.ndarray,
    unit: np.float32,
    scale: np.float32,
    k0: np.uint64,
    k1: np.uint64,
) -> None:
    """`image`: (samples, 1) for noise of each colour, (pixels, 3) for gray noise."""
    words = np.empty(4096, np.uint32)
    noise = np.empty(4096, np.float32)
    channels = image.shape[1]
    for start in range(0, levels.size, 4096):
        _draw(k0, k1, start // 4, words)
        count = min(4096, levels.size - start)
        for i in range(count):
            level = levels[start + i]
            cell = words[i] & np.uint32(255)
            packed = cells[level, cell]
            outcome = cell if (words[i] >> np.uint32(8)) < (packed >> np.uint32(8)) else packed & np.uint32(255)
            noise[i] = scale * ((starts[level] + np.float32(outcome)) * unit - np.float32(level))
        for channel in range(channels):
            for i in range(count):
                image[start + i, channel] = _clipped(image[start + i, channel] + noise[i])
