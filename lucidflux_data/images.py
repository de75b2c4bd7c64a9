"""From encoded bytes to 8-bit sRGB pixels, the same way everywhere.

    bytes -> probe: format, size, mode (header only) -> pixel budget -> decode -> 16 bit scaled, CMYK, palette
          -> ICC to sRGB -> alpha on white -> EXIF orientation -> uint8 RGB

Every conversion that makes the pixels differ from what a stock reader of the same bytes shows is named in `flags`.
A file that is cut short is a failure, not an image. `decode` raises nothing but `ImageError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from lucidflux_data.codecs import alpha as alphas
from lucidflux_data.codecs import icc, pages, signatures, tiff
from lucidflux_data.codecs.alpha import clear_grey, find_outside, put_on_white
from lucidflux_data.codecs.header import (
    SUPPORTED_MODES,
    Header,
    colours_of,
    is_animated,
    mode_with_depth,
    orientation_of,
)
from lucidflux_data.codecs.memory import check_memory, estimate_memory, within_memory
from lucidflux_data.codecs.opening import add_end, check_rows, opened, why_not
from lucidflux_data.decode_config import DEFAULT_MAX_MEMORY_BYTES, DEFAULT_MAX_PIXELS
from lucidflux_data.errors import ImageError as ImageError  # read from here too

# Formats that are read, by Pillow's name: the name in our tables and the file extension by content.
FORMATS = {
    "JPEG": ("jpeg", "jpg"),
    "MPO": ("jpeg", "jpg"),  # a JPEG with further pictures behind it; every reader shows the first one
    "PNG": ("png", "png"),
    "WEBP": ("webp", "webp"),
    "BMP": ("bmp", "bmp"),
    "DIB": ("bmp", "bmp"),
    "TIFF": ("tiff", "tif"),
    "GIF": ("gif", "gif"),
    "AVIF": ("avif", "avif"),
    "HEIF": ("heic", "heic"),  # where the extra `formats` is installed
    "JXL": ("jxl", "jxl"),
    "JPEG2000": ("jp2", "jp2"),
    "J2K": ("j2k", "j2k"),  # a codestream of JPEG 2000 without boxes
}
EXTENSION_OF = dict(FORMATS.values())
IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif"}
    | {".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"}
    | {".mpo", ".jif", ".apng", ".avifs", ".heics"}
)
SIDEWAYS = frozenset({5, 6, 7, 8})  # orientations that exchange width and height (EXIF 2.3, tag 274)
FLAGS = ("alpha", "animated", "cmyk", "grey", "icc", "icc_invalid", "no_end", "orientation", "palette", "sixteen_bit")
# With one of these, a stock reader that takes 8-bit RGB from the bytes sees other pixels than `decode` gives.
FLAGS_OTHER_PIXELS = frozenset({"alpha", "cmyk", "icc", "no_end", "orientation", "sixteen_bit"})

cv2.setNumThreads(1)  # parallelism is over images; OpenCV's own threads only fight for the same cores
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a failure has a sentence of our own


@dataclass(frozen=True)
class Decoded:
    """`pixels`: uint8 HxWx3 RGB in sRGB, upright. `flags`: sorted names out of FLAGS."""

    pixels: np.ndarray
    header: Header
    flags: tuple[str, ...]


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """The image as uint8 HxWx3 RGB: upright, in sRGB, alpha on white, 16 bit scaled to 8.

    Raises ImageError with reason not_an_image, truncated, too_many_pixels, out_of_memory, unsupported_mode or
    unreadable.
    """
    return decode_full(data, max_pixels).pixels


def decode_full(
    data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES
) -> Decoded:
    """As `decode`, with the header and the flags of every conversion that was applied. Out of memory is also what the
    header says would take more than `max_memory_bytes`."""
    with _only_image_errors():
        header = _probe(data, max_pixels)
        needed = estimate_memory(header, _is_plain(header))
        if needed > max_memory_bytes:
            message = (
                f"decoding it would take {needed:,} bytes, more than decode.max_memory_bytes ({max_memory_bytes:,})"
            )
            raise ImageError("out_of_memory", message)
        return _decode(data, header)


@contextmanager
def _only_image_errors() -> Iterator[None]:
    """Whatever a library raises on damaged bytes costs this image alone."""
    try:
        with within_memory():
            yield
    except ImageError:
        raise
    except Exception:
        raise ImageError("unreadable", "the picture data are damaged") from None


def _decode(data: bytes, header: Header) -> Decoded:
    flags = set()
    if header.animated:
        flags.add("animated")
    if header.mode.split(";")[0] in ("L", "LA", "La", "1", "I"):
        flags.add("grey")
    if not header.ended:
        data = add_end(data)
        flags.add("no_end")
    if header.page is not None:
        pixels = _decode_page(data, header, header.page, flags)
    elif _is_plain(header):
        pixels = _decode_opencv(data, header)
    elif header.mode.endswith(";16"):
        pixels = _decode_16bit(data, header, flags)
    else:
        pixels = _decode_pillow(data, header, flags)
    if header.orientation != 1:
        flags.add("orientation")
    if pixels.shape[:2] != (header.height, header.width):
        raise ImageError("unreadable", "the picture does not have the size that its header says")
    return Decoded(pixels, header, tuple(sorted(flags)))


def luma(pixels: np.ndarray) -> np.ndarray:
    """uint8 HxW luma of uint8 HxWx3 RGB: OpenCV's BT.601 grey in 15-bit fixed point (equal to BGR2GRAY of BGR)."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))


def upsample_lq(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """An LQ image at the size it is restored at: uint8 height x width x 3 of uint8 HxWx3, Pillow's bicubic.

    What the published inference and the published loader do; the one function for training pairs, on-line synthesis
    and inference. Bicubic in 8 bits, antialiased where the target is smaller.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def probe(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Header:
    """Reads the header only; nothing the size of the image is allocated.

    Raises ImageError: not_an_image (empty, or no format that is known), unsupported_format (a known one that is not
    read), too_many_pixels (width x height > max_pixels), unsupported_mode (a depth or coding that is not read),
    truncated, unreadable.
    """
    with _only_image_errors():
        return _probe(data, max_pixels)


def _probe(data: bytes, max_pixels: int) -> Header:
    if not data:
        raise ImageError("not_an_image", "the file is empty")
    page = pages.read_page(data)
    if page is not None:
        _check_budget(page.width, page.height, max_pixels)
        if isinstance(page, tiff.TiffPage):
            _check_budget(*page.tile, max_pixels)
        if not page.is_plain:
            return _header_of_page(page)
    coding = signatures.name_unread_coding(data)
    if coding is not None:
        raise ImageError("unsupported_mode", f"{coding} is not read")
    with opened(data) as image:
        if image.format not in FORMATS:
            name = str(image.format)
            raise ImageError("unsupported_format", f"{name} is a format that is not read")
        orientation = orientation_of(image, data)
        width, height = image.size
        if orientation in SIDEWAYS and image.format != "TIFF":
            width, height = height, width
        _check_budget(width, height, max_pixels)
        mode = mode_with_depth(image, data)
        profile, colours = colours_of(image, data)
        if mode in ("F", "I") or mode not in SUPPORTED_MODES:
            raise ImageError("unsupported_mode", f"samples of mode {mode} are not read")
        return Header(
            format=FORMATS[image.format][0],
            width=width,
            height=height,
            mode=mode,
            orientation=orientation,
            animated=page.several if page is not None else image.format != "MPO" and is_animated(image),
            transparency="A" in mode.split(";")[0] or "transparency" in image.info or _leaves_canvas(image, data),
            icc=profile,
            ended=image.format not in ("JPEG", "MPO") or signatures.has_jpeg_end(data),
            colours=colours,
        )


def _leaves_canvas(image: Image.Image, data: bytes) -> bool:
    """Whether the first frame of a WebP is smaller than its canvas."""
    return image.format == "WEBP" and signatures.webp_frame(data) not in (None, (0, 0, *image.size))


def _check_budget(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"{width}x{height} is over the pixel budget of {max_pixels:,} pixels")


def _header_of_page(page: pages.Page) -> Header:
    width, height = (page.height, page.width) if page.orientation in SIDEWAYS else (page.width, page.height)
    return Header(
        page.format, width, height, page.mode, page.orientation, page.several, bool(page.alpha), page.icc, page
    )


def _is_plain(header: Header) -> bool:
    """Whether OpenCV's 8-bit colour decoder gives exactly the pixels that the contract asks for."""
    return (
        header.format in ("jpeg", "png", "webp")
        and header.mode in ("RGB", "L")
        and not header.transparency
        and not header.animated
        and header.colours is None
        and (header.icc is None or icc.is_srgb(header.icc))
    )


def _decode_opencv(data: bytes, header: Header) -> np.ndarray:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # OpenCV's own limit of 2^30 pixels, or a codec that gives up
        check_memory(error)
        pixels = None
    if pixels is None:
        raise why_not(data)
    if header.format == "jpeg":
        check_rows(data, pixels[-1, -1].tolist())
    turned = _upright(pixels, header)
    if turned.shape[:2] != (header.height, header.width):
        raise why_not(data)
    return turned


def _decode_16bit(data: bytes, header: Header, flags: set[str]) -> np.ndarray:
    """A PNG of 16 bits: samples scaled by 255/65535 and rounded (never clipped or cut to the high byte)."""
    read = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        samples = cv2.imdecode(np.frombuffer(signatures.still_png(data), np.uint8), read)
    except cv2.error as error:
        check_memory(error)
        samples = None
    if samples is None or samples.dtype != np.uint16:
        raise why_not(data)
    if samples.ndim == 2:
        samples = samples[..., None]
    alpha = samples[..., -1] if samples.shape[2] in (2, 4) else None
    colours = samples if alpha is None else samples[..., :-1]
    if colours.shape[2] == 3:
        colours = colours[..., ::-1]
        if header.mode in ("I;16", "LA;16"):  # OpenCV repeats grey where there is alpha
            colours = colours[..., :1]
    clear = signatures.png_transparency(data)
    if alpha is None and clear is not None and len(clear) == colours.shape[2]:
        alpha = np.where((colours == np.array(clear, np.uint16)).all(axis=2), 0, 65535).astype(np.uint16)
    return finish(np.ascontiguousarray(colours), alpha, header, flags)


def _decode_page(data: bytes, header: Header, page: pages.Page, flags: set[str]) -> np.ndarray:
    colours, alpha = page.read_colours(data)
    flags.update(page.flags)
    return finish(colours, alpha, header, flags, page.alpha == pages.ASSOCIATED)


def finish(
    colours: np.ndarray, alpha: np.ndarray | None, header: Header, flags: set[str], associated: bool = False
) -> np.ndarray:
    """uint8 HxWx3 of decoded samples (uint8 or uint16, HxW with 1, 3 or 4 colours), upright.

    Without a profile alpha is blended at full depth; with one the colours are converted at 8 bits first.
    """
    if header.mode.endswith(";16"):
        flags.add("sixteen_bit")
    if alpha is not None:
        flags.add("alpha")
    if header.colours is not None:
        colours = icc.from_named(colours, header.colours)
        flags.add("icc")
    convert = header.icc is not None or colours.shape[2] == 4
    if alpha is not None and associated and convert:
        colours = alphas.divide_by_alpha(colours, alpha)
    if alpha is not None and not convert:
        eight = alphas.blend_on_white(colours, alpha, associated)
    else:
        eight = alphas.scale_to_8(colours)
    if colours.shape[2] == 4:
        flags.add("cmyk")
    if convert:
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[colours.shape[2]]
        image = Image.fromarray(eight[..., 0] if mode == "L" else eight, mode)
        if header.icc is not None:
            image = icc.convert_to_srgb(image, header.icc, flags)
        eight = np.array(image.convert("RGB"))
        if alpha is not None:
            eight = put_on_white(eight, alphas.scale_to_8(alpha[..., None])[..., 0])
    rgb = np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else np.ascontiguousarray(eight)
    return _upright(rgb, header)


def _load(image: Image.Image, data: bytes, header: Header) -> None:
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:
        raise why_not(data) from None
    if header.format == "jpeg":
        check_rows(data, np.asarray(image.crop((image.width - 1, image.height - 1, *image.size))).ravel().tolist())
    if image.mode == "P" and not image.getpalette():
        raise ImageError("unreadable", "the palette is missing")


def _decode_pillow(data: bytes, header: Header, flags: set[str]) -> np.ndarray:
    with opened(data) as image:
        outside = find_outside(image, data)
        _load(image, data, header)
        clear = signatures.png_transparency(data) if header.format == "png" and header.mode in ("1", "L") else None
        if image.mode in ("P", "PA"):
            flags.add("palette")
            image = image.convert("RGBA" if header.transparency else "RGB")
        elif clear is not None and len(clear) == 1:
            image = clear_grey(image, clear[0], data[24])
        elif header.transparency and image.mode in ("RGB", "L", "1"):
            image = image.convert("RGBA")  # a single colour declared transparent (tRNS)
        alpha = np.asarray(image.getchannel("A")) if "A" in image.getbands() and image.mode != "LAB" else None
        if alpha is not None:
            image = image.convert("RGB" if image.mode == "RGBA" else "L")
        if outside is not None:
            alpha = np.where(outside, 0, 255 if alpha is None else alpha).astype(np.uint8)
        if alpha is not None:
            flags.add("alpha")
        if image.mode == "CMYK":
            flags.add("cmyk")
        if image.mode == "LAB":
            image = icc.convert_lab(image)
        elif header.icc is not None:
            image = icc.convert_to_srgb(image, header.icc, flags)
        pixels = np.array(image.convert("RGB"))  # a copy: Pillow's own memory is read-only
        if header.colours is not None:
            pixels = icc.from_named(pixels, header.colours)
            flags.add("icc")
        if alpha is not None:
            pixels = put_on_white(pixels, alpha)
        return _upright(pixels, header)


def _upright(pixels: np.ndarray, header: Header) -> np.ndarray:
    """Applies EXIF orientation 1..8 (EXIF 2.3, tag 274) where the library that decoded did not."""
    orientation = 1 if header.is_turned_at_load else header.orientation
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
