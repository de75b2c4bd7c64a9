"""From encoded bytes to 8-bit sRGB pixels, the same way everywhere.

    bytes -> probe: format, size, mode (header only) -> pixel budget -> decode -> 16 bit scaled, CMYK, palette
          -> ICC to sRGB -> alpha on white -> EXIF orientation -> uint8 RGB

Every conversion that makes the pixels differ from what a stock reader of the same bytes shows is named in `flags`.
A file that is cut short is a failure, not an image. `decode` raises nothing but `ImageError`.
"""

from __future__ import annotations

import functools
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from lucidflux_data.decode_config import DEFAULT_MAX_PIXELS

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
}
EXTENSION_OF = dict(FORMATS.values())
IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".avif"}
)
SIDEWAYS = frozenset({5, 6, 7, 8})  # orientations that exchange width and height (EXIF 2.3, tag 274)
TURNED_AT_LOAD = frozenset({"tiff"})  # Pillow and OpenCV both apply these files' orientation, whatever is asked
FLAGS = ("alpha", "animated", "cmyk", "grey", "icc", "icc_invalid", "orientation", "palette", "sixteen_bit")
# With one of these, a stock reader that takes 8-bit RGB from the bytes sees other pixels than `decode` gives.
FLAGS_OTHER_PIXELS = frozenset({"alpha", "cmyk", "icc", "orientation", "sixteen_bit"})

cv2.setNumThreads(1)  # parallelism is over images; OpenCV's own threads only fight for the same cores
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # failures are told in our own sentences

_pillow_limit = threading.Lock()


class ImageError(Exception):
    """One image cannot be used. `reason` is one of records.FAILURES, `detail` a sentence of ours."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


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


@dataclass(frozen=True)
class Decoded:
    """`pixels`: uint8 HxWx3 RGB in sRGB, upright. `flags`: sorted names out of FLAGS."""

    pixels: np.ndarray
    header: Header
    flags: tuple[str, ...]


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """The image as uint8 HxWx3 RGB: upright, in sRGB, alpha on white, 16 bit scaled to 8.

    Raises ImageError with reason not_an_image, truncated, too_many_pixels, unsupported_mode or unreadable.
    """
    return decode_full(data, max_pixels).pixels


def decode_full(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Decoded:
    """As `decode`, with the header and the flags of every conversion that was applied."""
    header = probe(data, max_pixels)
    flags = set()
    if header.animated:
        flags.add("animated")
    if header.mode.startswith(("L", "1", "I;16")):
        flags.add("grey")
    if _is_plain(header):
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
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


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

    Raises ImageError: not_an_image (empty, or no format we read), too_many_pixels (width x height > max_pixels),
    unsupported_mode (floating point or 32-bit samples).
    """
    if not data:
        raise ImageError("not_an_image", "the file is empty")
    with _opened(data) as image:
        if image.format not in FORMATS:
            raise ImageError("not_an_image", f"{str(image.format).lower()} is not a format that is read")
        orientation = _orientation(image)
        width, height = image.size
        if orientation in SIDEWAYS and FORMATS[image.format][0] not in TURNED_AT_LOAD:
            width, height = height, width
        if width * height > max_pixels:
            raise ImageError("too_many_pixels", f"{width}x{height} is over the pixel budget of {max_pixels:,} pixels")
        mode = _mode_with_depth(image, data)
        if mode in ("F", "I") or mode not in SUPPORTED_MODES:
            raise ImageError("unsupported_mode", f"samples of mode {mode} are not read")
        return Header(
            format=FORMATS[image.format][0],
            width=width,
            height=height,
            mode=mode,
            orientation=orientation,
            animated=image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
            transparency="A" in mode.split(";")[0] or mode == "La" or "transparency" in image.info,
            icc=image.info.get("icc_profile") or None,
        )


SUPPORTED_MODES = frozenset(
    {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB"} | {"I;16", "RGB;16", "RGBA;16", "LA;16"}
)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Pillow's lazily opened image, with its errors turned into ours and its pixel limit set aside for ours."""
    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            if _ends_early(data):
                raise ImageError("truncated", "the file ends before the picture does") from None
            raise ImageError("not_an_image", "no image format recognises the first bytes") from None
        except Exception:
            if _ends_early(data):
                raise ImageError("truncated", "the file ends before the picture does") from None
            raise ImageError("unreadable", "the header is damaged") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def _ends_early(data: bytes) -> bool:
    """Whether a file whose header could not be parsed announces more bytes than there are."""
    if data[:3] == b"\xff\xd8\xff":
        return b"\xff\xd9" not in data[-64:]
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data[4:8] == b"ftyp" and b"avif" in data[8:40]:
        position = 0
        while position + 8 <= len(data):  # ISO base media boxes: 32-bit size, then type
            position += int.from_bytes(data[position : position + 4], "big") or len(data)
        return position != len(data)
    return False


def _mode_with_depth(image: Image.Image, data: bytes) -> str:
    """Pillow opens 16-bit RGB(A) PNG and TIFF as 8-bit modes and drops the low byte: the header tells."""
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
        return "I;16"
    if image.format == "PNG" and data[24] == 16:  # IHDR bit depth, PNG specification 11.2.2
        return f"{mode};16"
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2").get(258, (8,))  # noqa: B009 - BitsPerSample; only TIFF images have tags
        if max(bits) == 16 and mode in ("RGB", "RGBA", "LA"):
            return f"{mode};16"
    return mode


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF is common and costs nothing but the orientation
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_plain(header: Header) -> bool:
    """Whether OpenCV's 8-bit colour decoder gives exactly the pixels that the contract asks for."""
    return (
        header.format in ("jpeg", "png", "webp")
        and header.mode in ("RGB", "L")
        and not header.transparency
        and not header.animated
        and (header.icc is None or _icc_is_srgb(header.icc))
    )


def _decode_opencv(data: bytes, header: Header) -> np.ndarray:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # OpenCV's own limit of 2^30 pixels, or a codec that gives up
        pixels = None
    if pixels is None:
        raise _why_not(data)
    turned = _upright(pixels, header)
    if turned.shape[:2] != (header.height, header.width):
        raise _why_not(data)
    return turned


def _why_not(data: bytes) -> ImageError:
    """Tells a file that ends too early from one whose data are damaged, by asking Pillow's decoder."""
    try:
        with _opened(data) as image:
            image.load()
    except ImageError as error:
        return error
    except Exception as error:
        if "truncated" in str(error).lower():
            return ImageError("truncated", "the file ends before the picture does")
        return ImageError("unreadable", "the picture data are damaged")
    return ImageError("truncated", "the file ends before the picture does")


def _decode_16bit(data: bytes, header: Header, flags: set[str]) -> np.ndarray:
    """16-bit samples scaled by 255/65535 and rounded (never clipped or cut to the high byte)."""
    flags.add("sixteen_bit")
    read = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        samples = cv2.imdecode(np.frombuffer(data, np.uint8), read)
    except cv2.error:
        samples = None
    if samples is None or samples.dtype != np.uint16:
        raise _why_not(data)
    if samples.ndim == 2:
        samples = samples[..., None]
    channels = samples.shape[2]
    if channels in (2, 4):
        flags.add("alpha")
        alpha = samples[..., -1:].astype(np.uint64)
        colour = samples[..., :-1].astype(np.uint64)
        blended = (colour * alpha + 65535 * (65535 - alpha) + 32767) // 65535
        samples = blended.astype(np.uint16)
    eight = ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    rgb = np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else np.ascontiguousarray(eight[..., ::-1])
    if header.icc is not None and eight.shape[2] == 3:
        rgb = np.asarray(_to_srgb(Image.fromarray(rgb), header.icc, flags))
    return _upright(rgb, header)


def _decode_pillow(data: bytes, header: Header, flags: set[str]) -> np.ndarray:
    with _opened(data) as image:
        try:
            image.load()
        except Exception:
            raise _why_not(data) from None
        if image.mode in ("P", "PA"):
            flags.add("palette")
            image = image.convert("RGBA" if header.transparency else "RGB")
        elif header.transparency and image.mode in ("RGB", "L", "1"):
            image = image.convert("RGBA")  # a single colour declared transparent (tRNS)
        alpha = image.getchannel("A") if "A" in image.getbands() and image.mode != "LAB" else None
        if alpha is not None:
            flags.add("alpha")
            image = image.convert("RGB" if image.mode == "RGBA" else "L")
        if image.mode == "CMYK":
            flags.add("cmyk")
        if header.icc is not None:
            image = _to_srgb(image, header.icc, flags)
        pixels = np.array(image.convert("RGB"))  # a copy: Pillow's own memory is read-only
        if alpha is not None:
            pixels = _on_white(pixels, np.asarray(alpha))
        return _upright(pixels, header)


def _on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Straight alpha over white in 8-bit sRGB values, rounded to nearest (what browsers show)."""
    weight = alpha[..., None].astype(np.uint32)
    return ((colour * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def _upright(pixels: np.ndarray, header: Header) -> np.ndarray:
    """Applies EXIF orientation 1..8 (EXIF 2.3, tag 274) where the library that decoded did not."""
    orientation = 1 if header.format in TURNED_AT_LOAD else header.orientation
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


@functools.lru_cache(maxsize=64)
def _icc_is_srgb(icc: bytes) -> bool:
    """Whether the profile maps an 8-bit RGB cube to sRGB within 2 levels: the many builds of the sRGB profile do."""
    steps = np.linspace(0, 255, 9).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(1, -1, 3)
    try:
        transform = _transform(icc, "RGB")
        mapped = np.asarray(ImageCms.applyTransform(Image.fromarray(cube), transform))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False
    return bool(np.abs(mapped.astype(int) - cube.astype(int)).max() <= 2)


@functools.lru_cache(maxsize=64)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)


def _to_srgb(image: Image.Image, icc: bytes, flags: set[str]) -> Image.Image:
    """Relative colorimetric with black point compensation; a profile that does not fit the pixels is flagged."""
    if image.mode == "RGB" and _icc_is_srgb(icc):
        return image
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    try:
        converted = ImageCms.applyTransform(image, _transform(icc, image.mode))
    except (ImageCms.PyCMSError, OSError, ValueError):
        flags.add("icc_invalid")
        return image
    flags.add("icc")
    assert converted is not None  # None only for in-place transforms
    return converted
