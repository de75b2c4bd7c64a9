"""ICC profiles: colours to sRGB, relative colorimetric with black point compensation."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms


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
