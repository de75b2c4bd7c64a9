"""What the first bytes of a picture say."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from PIL import Image

from lucidflux_data.codecs import pages, signatures
from lucidflux_data.codecs.icc import named_colours
from lucidflux_data.codecs.opening import opened
from lucidflux_data.errors import ImageError

SUPPORTED_MODES = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"} | {"I;16", "RGB;16", "RGBA;16", "LA;16"}
)


@dataclass(frozen=True)
class Header:
    """What the first bytes say. `width` and `height` in pixels, upright: after the orientation is applied."""

    format: str
    width: int
    height: int
    mode: str  # Pillow's mode name, with ";16" where samples have 16 bits
    orientation: int  # EXIF value 1..8
    animated: bool
    transparency: bool
    icc: bytes | None
    page: pages.Page | None = None  # of what Pillow does not read as the file says
    ended: bool = True  # whether a JPEG has its end marker
    colours: tuple[int, int] | None = None  # primaries and transfer function to convert from, as icc.named_colours

    @property
    def is_turned_at_load(self) -> bool:
        """Pillow applies the orientation of a TIFF itself, whatever is asked."""
        return self.format == "tiff" and self.page is None


def is_animated(image: Image.Image) -> bool:
    """Asked without counting the frames: of 200,000 that alone would take minutes."""
    return bool(getattr(image, "is_animated", False))


def mode_with_depth(image: Image.Image, data: bytes) -> str:
    """Pillow opens 16-bit RGB(A) PNG as 8-bit modes and drops the low byte: the header tells."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
        return "I;16"
    if image.format == "PNG" and data[24] == 16:  # IHDR bit depth, PNG specification 11.2.2
        return f"{mode};16"
    return mode


def colours_of(image: Image.Image, data: bytes) -> tuple[bytes | None, tuple[int, int] | None]:
    """(ICC profile, primaries and transfer function that are named by number), of which one at most is there.

    A number goes before a profile in a PNG, and after it in AVIF and HEIC. ImageError `unsupported_mode`.
    """
    icc, name = image.info.get("icc_profile") or None, FORMAT_NAMES.get(str(image.format))
    if icc is None and image.format in ("JPEG", "MPO") and "icc_profile" in image.info:
        icc = b""  # a part of it is missing, or there twice: a profile that does not fit
    if image.format == "BMP":
        icc = signatures.bmp_profile(data)
    if name is None or (icc is not None and name != "PNG"):
        return icc, None
    named = signatures.png_colours(data) if name == "PNG" else signatures.heif_colours(data)
    return (icc, None) if named is None else (None, named_colours(*named, name))


FORMAT_NAMES = {"PNG": "PNG", "AVIF": "AVIF", "HEIF": "HEIC"}  # of those that may name their colours by number


def orientation_of(image: Image.Image, data: bytes) -> int:
    """Of a PNG without decoding it, wherever it stands: Pillow would decode it all to see what stands behind."""
    found = _orientation(image)
    behind = signatures.png_behind(data) if image.format == "PNG" and found == 1 else b""
    if behind:
        with contextlib.suppress(ImageError), opened(behind) as after:
            found = _orientation(after)
    return found


def _orientation(image: Image.Image) -> int:
    try:
        value = Image.Image.getexif(image).get(0x0112, 1)
    except Exception:  # damaged EXIF is common and costs nothing but the orientation
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
