"""Colours to sRGB: of an ICC profile, relative colorimetric with black point compensation; of primaries and a transfer
function that a file names by number (ITU-T H.273, tables 2 and 3: PNG's cICP, the nclx box of AVIF and HEIC)."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

from lucidflux_data.errors import ImageError

# Corners (x, y) of red, green and blue by their number, all with the white of D65. 1 is sRGB's own, 2 is not said.
PRIMARIES = {
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    5: ((0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
SRGB, NOT_SAID, LINEAR = 1, 2, 8
D65 = (0.3127, 0.3290)
LIKE_SRGB = frozenset({1, 2, 6, 13, 14, 15})  # transfer functions; those of video are shown as sRGB everywhere
BRIGHTER = {16: "PQ", 18: "HLG"}  # light above the white of a page
BAND = 256  # rows that are converted at a time


def named_colours(primaries: int, transfer: int, what: str) -> tuple[int, int] | None:
    """The two numbers where they call for a conversion, None where the samples are as good as sRGB. ImageError
    `unsupported_mode` for those that are not read."""
    if transfer not in (*LIKE_SRGB, LINEAR) or primaries not in (*PRIMARIES, NOT_SAID):
        name = BRIGHTER.get(transfer, f"primaries {primaries} and transfer function {transfer}")
        raise ImageError("unsupported_mode", f"{what} in {name} (ITU-T H.273) is not read")
    found = (SRGB if primaries == NOT_SAID else primaries, LINEAR if transfer == LINEAR else 13)
    return None if found == (SRGB, 13) else found


def from_named(samples: np.ndarray, colours: tuple[int, int]) -> np.ndarray:
    """HxWxC (1 or 3, uint8 or uint16) in sRGB (IEC 61966-2-1) at the same depth, of `named_colours`: relative
    colorimetric, what is out of gamut is clipped."""
    primaries, transfer = colours
    most = np.iinfo(samples.dtype).max
    light = np.arange(most + 1, dtype=np.float32) / most
    if transfer != LINEAR:
        light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4).astype(np.float32)
    matrix = _to_srgb(primaries) if primaries != SRGB and samples.shape[2] == 3 else None
    out = np.empty_like(samples)
    for top in range(0, len(samples), BAND):
        band = light[samples[top : top + BAND]]
        if matrix is not None:
            band = np.clip(band @ matrix.T, 0, 1)
        curved = np.where(band <= 0.0031308, band * 12.92, 1.055 * band ** (1 / 2.4) - 0.055)
        out[top : top + BAND] = np.rint(curved * most)
    return out


@functools.cache
def _to_srgb(primaries: int) -> np.ndarray:
    """3x3 float32: linear light of these primaries to that of sRGB (SMPTE RP 177)."""
    to_xyz = {}
    for number in (primaries, SRGB):
        corners = np.array([[x / y, 1, (1 - x - y) / y] for x, y in PRIMARIES[number]]).T
        x, y = D65
        to_xyz[number] = corners * np.linalg.solve(corners, np.array([x / y, 1, (1 - x - y) / y]))
    return np.asarray(np.linalg.solve(to_xyz[SRGB], to_xyz[primaries]), np.float32)


@functools.lru_cache(maxsize=64)
def is_srgb(icc: bytes) -> bool:
    """Whether the profile maps an 8-bit RGB cube to sRGB within 2 levels: the many builds of the sRGB profile do."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(1, -1, 3)
    try:
        transform = make_transform(icc, "RGB")
        mapped = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False
    return bool(np.abs(mapped.astype(int) - cube.astype(int)).max() <= 2)


@functools.lru_cache(maxsize=64)
def make_transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)


def convert_to_srgb(image: Image.Image, icc: bytes, flags: set[str]) -> Image.Image:
    """Relative colorimetric with black point compensation; a profile that does not fit the pixels is flagged."""
    if image.mode == "RGB" and is_srgb(icc):
        return image
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    try:
        converted = ImageCms.applyTransform(image, make_transform(icc, image.mode))
    except (ImageCms.PyCMSError, OSError, ValueError):
        flags.add("icc_invalid")
        return image
    flags.add("icc")
    assert converted is not None  # None only for in-place transforms
    return converted


def convert_lab(image: Image.Image) -> Image.Image:
    """RGB of CIE L*a*b* at D50, each pixel by itself: the tables that littlecms makes for speed are 30 levels off."""
    found = ImageCms.applyTransform(image, _lab_transform())
    assert found is not None  # None only for in-place transforms
    return found


@functools.cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    flags = ImageCms.Flags.NOOPTIMIZE
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)
