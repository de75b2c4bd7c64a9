"""Where a picture has been before: JPEG history, upscaling, and a sharpness that size and noise do not fake.

    jpeg_quality      of the file's own quantisation table (JPEG files; libjpeg's scale 1..100)
    blockiness        how much larger the steps on some 8x8 grid are than beside it; 1 = none; works on any file
    spectral_cutoff   share of the frequency range that the picture uses; an image enlarged s times uses about 1/s
    fixed_sharpness   noise-corrected Laplacian variance of the sharper quarter at a short side of 512 px
    noise             standard deviation of the noise in levels, on native pixels

All but the first are functions of uint8 HxW luma, upright. None decides anything; the rules of `strict` do.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

SHARPNESS_SIDE_PX = 512
SHARPNESS_TILE_PX = 64
FLATTEST_TENTH = 0.839  # the 10th percentile of what 16x16 tiles of white noise give, over its variance (simulated)
NOISE_OF_LAPLACIAN = 23.0  # its squared weights sum to 20; noise that was shrunk is not quite white
SPECTRUM_PX = 256
SPECTRUM_TILES = 12
# Annex K of ITU-T T.81, luminance, zigzag does not matter to a ratio of sums: its sum is 3688.
_ANNEX_K_SUM = 3688


def jpeg_quality(data: bytes) -> int | None:
    """The libjpeg quality whose scaled Annex K table has the sum of this file's luminance table; None for no JPEG.

    quality >= 50: scale = 200 - 2 q percent, below: 5000 / q (jcparam.c). A table of another encoder gets the quality
    of equal coarseness.
    """
    if data[:2] != b"\xff\xd8":
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            table = getattr(image, "quantization", {}).get(0)
    except Exception:  # what is wrong with the file is said by decoding it
        return None
    if not table:
        return None
    scale = 100 * sum(table) / _ANNEX_K_SUM
    return int(np.clip(round((200 - scale) / 2 if scale <= 100 else 5000 / scale), 1, 100))


def blockiness(luma: np.ndarray) -> float:
    """The larger of both directions' ratios: mean step on the strongest of eight 8-pixel grids / median of the others.

    Steps are second differences of neighbouring columns, so that slopes do not count; steps of strong edges are cut
    off at 32 levels.
    """
    return max(_grid_ratio(luma), _grid_ratio(luma.T))


def _grid_ratio(luma: np.ndarray) -> float:
    if luma.shape[1] < 64:
        return 1.0
    step = np.diff(luma.astype(np.int16), axis=1)
    excess = np.abs(2 * step[:, 1:-1] - step[:, :-2] - step[:, 2:])
    columns = np.minimum(excess, 32).mean(axis=0)
    phases = np.array([columns[phase::8].mean() for phase in range(8)])
    strongest = int(phases.argmax())
    rest = np.median(np.delete(phases, [(strongest - 1) % 8, strongest, (strongest + 1) % 8]))
    return float((phases[strongest] + 0.05) / (rest + 0.05))


def noise(luma: np.ndarray) -> float:
    """Standard deviation of white noise in levels: median of |diagonal Haar coefficients| / 0.6745 (Donoho,
    Johnstone, Biometrika 1994)."""
    even = luma[: luma.shape[0] // 2 * 2, : luma.shape[1] // 2 * 2].astype(np.float32)
    diagonal = (even[::2, ::2] - even[::2, 1::2] - even[1::2, ::2] + even[1::2, 1::2]) / 2
    return float(np.median(np.abs(diagonal)) / 0.6745) if diagonal.size else 0.0


def fixed_sharpness(luma: np.ndarray) -> float:
    """75th percentile over 64x64 tiles, short side 512 px, of Laplacian variance less what noise gives it.

    An image with a shorter side under 512 px is measured as it is: enlarging adds nothing.
    """
    factor = min(1.0, SHARPNESS_SIDE_PX / min(luma.shape))
    size = (max(1, round(luma.shape[1] * factor)), max(1, round(luma.shape[0] * factor)))
    image = cv2.resize(luma, size, interpolation=cv2.INTER_AREA) if factor < 1 else luma
    sigma = _flat_noise(image)
    laplacian = cv2.Laplacian(image, cv2.CV_32F)
    tile = min(SHARPNESS_TILE_PX, *image.shape)
    rows, columns = image.shape[0] // tile, image.shape[1] // tile
    tiles = laplacian[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile)
    corrected = np.maximum(tiles.var(axis=(1, 3)) - NOISE_OF_LAPLACIAN * sigma**2, 0)
    return float(np.percentile(corrected, 75))


def _flat_noise(image: np.ndarray) -> float:
    """Noise of the flattest tenth of 16x16 tiles, where detail hides least: from their diagonal differences."""
    even = image.astype(np.float32)
    diagonal = (even[:-1, :-1] - even[:-1, 1:] - even[1:, :-1] + even[1:, 1:]) / 2
    rows, columns = diagonal.shape[0] // 16, diagonal.shape[1] // 16
    if rows * columns < 10:
        return noise(image)
    tiles = diagonal[: rows * 16, : columns * 16].reshape(rows, 16, columns, 16)
    return float(np.sqrt(np.percentile((tiles**2).mean(axis=(1, 3)), 10) / FLATTEST_TENTH))


def spectral_cutoff(luma: np.ndarray) -> float:
    """0..1 of the Nyquist frequency: where the radial power spectrum falls under what a picture that fills it has.

    The most detailed 256x256 tiles are windowed, their power averaged, the power of rounding to levels subtracted.
    Natural spectra fall as f^-2; the cut-off is the highest frequency whose power x f^2 is over a tenth of the median
    between 0.05 and 0.25. 1 for an image too small to tell.
    """
    power = _mean_spectrum(luma)
    if power is None:
        return 1.0
    frequency = np.arange(len(power)) / (len(power) - 1)
    whitened = np.convolve(power * frequency**2, np.full(5, 0.2), "same")
    level = np.median(whitened[(frequency >= 0.05) & (frequency <= 0.25)])
    filled = np.flatnonzero(whitened >= level / 10)
    return float(frequency[filled[-1]]) if len(filled) else 0.0


def list_spectrum_tiles(luma: np.ndarray) -> tuple[int, list[tuple[int, int]]]:
    """(side, the top and left of all whole tiles of that side) in pixels: SPECTRUM_PX, or the largest half, quarter ...
    of it that the picture has; none under 64 px."""
    side = SPECTRUM_PX
    while side > min(luma.shape):
        side //= 2
    if side < 64:
        return side, []
    tops, lefts = range(0, luma.shape[0] - side + 1, side), range(0, luma.shape[1] - side + 1, side)
    return side, [(top, left) for top in tops for left in lefts]


def choose_spectrum_tiles(luma: np.ndarray) -> tuple[int, list[tuple[int, int]]] | None:
    """(side, the top and left of the most detailed tiles of that side), SPECTRUM_TILES at most, in pixels; None with no
    whole tile of 64 px or more."""
    side, places = list_spectrum_tiles(luma)
    if not places:
        return None
    detail = cv2.absdiff(luma, cv2.blur(luma, (5, 5)))
    energy = [float(detail[top : top + side, left : left + side].mean()) for top, left in places]
    best = sorted(range(len(places)), key=lambda i: (-energy[i], i))[:SPECTRUM_TILES]
    return side, [places[i] for i in best]


def _mean_spectrum(luma: np.ndarray) -> np.ndarray | None:
    """float64 (half a tile + 1): mean power of a tile at each frequency, the smaller of along rows and along columns.

    The smaller, since an image can be enlarged in one direction only. None with no whole tile of 64 px or more.
    """
    chosen = choose_spectrum_tiles(luma)
    if chosen is None:
        return None
    side, best = chosen
    window = np.hanning(side)[:, None] * np.hanning(side)[None]
    total = np.zeros((side, side))
    for top, left in best:
        tile = luma[top : top + side, left : left + side].astype(np.float64)
        total += np.abs(np.fft.fft2((tile - tile.mean()) * window)) ** 2
    half = side // 2
    rounding = (window**2).sum() / 12  # white noise of variance 1/12
    smaller = np.minimum(total[:, : half + 1].mean(axis=0), total[: half + 1].mean(axis=1))
    spectrum: np.ndarray = np.maximum(smaller / len(best) - rounding, 0)
    return spectrum
