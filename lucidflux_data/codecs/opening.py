"""Opens encoded bytes with Pillow, and says why where it cannot."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from lucidflux_data.codecs import signatures
from lucidflux_data.errors import ImageError

PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20  # an ICC profile or a text over Pillow's 1 MB is no reason to refuse a picture
try:  # the extra `formats`; without it HEIC is named as not read
    from pillow_heif import register_heif_opener
except ImportError:
    HEIC_IS_READ = False
else:
    register_heif_opener(thumbnails=False)
    HEIC_IS_READ = True
_pillow_limit = threading.Lock()


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Pillow's lazily opened image, with its errors turned into ours and its pixel limit set aside for ours."""
    image = _open(data)
    with image:
        yield image


def _open(data: bytes) -> Image.Image:
    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data))
        except MemoryError:
            raise
        except Exception as error:
            if data[:8] == signatures.PNG_SIGNATURE:
                cleaned = signatures.clean_png(data)
                if cleaned != data:
                    with contextlib.suppress(Exception):
                        return Image.open(io.BytesIO(cleaned))
            raise _why_not_opened(data, error) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _why_not_opened(data: bytes, error: Exception) -> ImageError:
    name = signatures.name_unread(data)
    if name == "HEIC" and not HEIC_IS_READ:
        return ImageError("unsupported_format", "HEIC is read with the extra: pip install 'lucidflux[formats]'")
    if name is not None and name != "HEIC":
        return ImageError("unsupported_format", f"{name} is a format that is not read")
    if str(error).startswith("Unsupported BMP"):
        return ImageError("unsupported_mode", f"{str(error).removeprefix('Unsupported ')} of this kind is not read")
    if signatures.ends_early(data):
        return ImageError("truncated", "the file ends before the picture does")
    unidentified = isinstance(error, UnidentifiedImageError)
    if unidentified and data[:8] != signatures.PNG_SIGNATURE and data[:3] != b"\xff\xd8\xff":
        return ImageError("not_an_image", "no image format recognises the first bytes")
    return ImageError("unreadable", "the header is damaged")
