"""Opens encoded bytes with Pillow, and says why where it cannot, or where a JPEG lacks rows."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import imagecodecs
import numpy as np
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
# What Pillow says of odd metadata is no news; it gives way to every filter of the user's own, which stand before it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.", append=True)
EMPTY = range(127, 130)  # a sample where libjpeg had no data for its block: the middle, also inverted and as colour


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
    of_none = isinstance(error, UnidentifiedImageError) or data[:2] == b"BM"  # Pillow takes any text that begins so
    if of_none and not signatures.begins_as_read(data):
        return ImageError("not_an_image", "no image format recognises the first bytes")
    return ImageError("unreadable", "the header is damaged")


def why_not(data: bytes) -> ImageError:
    """Tells a file that ends too early from one whose data are damaged, by asking Pillow's decoder."""
    cut = ImageError("truncated", "the file ends before the picture does")
    damaged = ImageError("unreadable", "the picture data are damaged")
    try:
        with opened(data) as image:
            image.load()
    except ImageError as error:
        return error
    except MemoryError:
        raise
    except Exception as error:
        return cut if "truncated" in str(error).lower() else damaged
    return cut if signatures.ends_early(data) else damaged


def add_end(data: bytes) -> bytes:
    """A JPEG without its end marker, with one; ImageError `truncated` where rows or refinements are missing."""
    frame = signatures.jpeg_frame(data)
    if frame is None or (frame.kind == 2 and not frame.refined) or not _has_every_row(data):  # 2: progressive
        raise ImageError("truncated", "the file ends before the picture does")
    return data + END


def check_rows(data: bytes, last: Sequence[int]) -> None:
    """ImageError `truncated` for a JPEG with its end marker whose data end before its last row. `last`: the samples of
    the last pixel as stored, by which nearly every whole picture is known at once."""
    if all(sample in EMPTY for sample in last):
        frame = signatures.jpeg_frame(data)
        if frame is not None and not _has_every_row(data[: frame.end]):
            raise ImageError("truncated", "the picture data end before the last row does")


END = b"\xff\xd9"


def _has_every_row(data: bytes) -> bool:
    """Of a JPEG up to its end marker. What follows the last row is skipped by every decoder, and what stands in the
    place of a missing row is seen: so the picture is whole where different tails give the same pixels."""
    body = data.rstrip(b"\xff")  # which would make a marker of the tail
    first, *others = (imagecodecs.jpeg8_decode(body + tail * 512 + END) for tail in (b"", b"\x5a\xa5", b"\xa5\x5a"))
    return all(np.array_equal(pixels, first) for pixels in others)
