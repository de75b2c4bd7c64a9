"""The image contract for what is in memory already: pictures of Pillow, numpy arrays, torch tensors.

    Pillow, opened and not loaded  -> its bytes through `decode`: exactly the pixels of the command line
    Pillow, loaded or made         -> ICC to sRGB, alpha on white, 16 bit scaled, EXIF orientation
    arrays and tensors             -> levels by dtype, channels by shape, alpha on white

Tensors are known by what they can do, so that torch is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from lucidflux_data.codecs import icc
from lucidflux_data.codecs.alpha import find_outside
from lucidflux_data.codecs.header import Header, orientation_of
from lucidflux_data.codecs.opening import opened
from lucidflux_data.errors import ImageError, WrongImage
from lucidflux_data.images import decode, finish

CHANNELS = (1, 3, 4)  # grey, RGB, RGB with alpha
HALF_A_LEVEL = 0.5 / 255  # floats that far outside [0, 1] still round to a level
EXPECTED = (
    "an image is one of Pillow's, or an array or tensor of HxW, HxWxC, CxHxW or a batch of those (C is 1, 3 or 4): "
    "uint8 in 0..255, uint16 in 0..65535, or floats in [0, 1]"
)


def pixels_of(images: object) -> list[np.ndarray]:
    """Each picture as uint8 HxWx3 RGB, upright, in sRGB: what `decode` gives of a file.

    `images`: a picture of Pillow, an array, a tensor, or an iterable of them; 4 axes are a batch. Where a shape can be
    read both ways, arrays have their channels last, tensors first. Raises WrongImage that says what is expected.
    """
    if isinstance(images, Image.Image):
        return [_of_pillow(images)]
    if isinstance(images, np.ndarray) or _is_tensor(images):
        return list(_of_samples(images))
    if isinstance(images, Iterable) and not isinstance(images, str | bytes | dict | memoryview):
        return [pixels for image in images for pixels in _of_one_kind(image)]
    raise WrongImage(f"{EXPECTED}; not a {type(images).__name__}")


def each_picture(images: object, read: Callable[[Path], np.ndarray]) -> Iterator[np.ndarray]:
    """As `pixels_of`, one after the other; a path, or each of several, is a file that `read` gives the pixels of."""
    if isinstance(images, str | os.PathLike):
        yield read(Path(images))
    elif isinstance(images, Image.Image | np.ndarray | bytes | dict) or _is_tensor(images):
        yield from pixels_of(images)
    elif isinstance(images, Iterable):
        for image in images:
            yield from [read(Path(image))] if isinstance(image, str | os.PathLike) else pixels_of([image])
    else:
        yield from pixels_of(images)


def _of_one_kind(image: object) -> list[np.ndarray]:
    if isinstance(image, Image.Image | np.ndarray) or _is_tensor(image):
        return pixels_of(image)
    raise WrongImage(f"{EXPECTED}; not a {type(image).__name__}")


def _is_tensor(image: object) -> bool:
    return hasattr(image, "detach") and hasattr(image, "is_floating_point")


def _of_pillow(image: Image.Image) -> np.ndarray:
    data = _bytes_behind(image)
    if data is None:
        return _of_loaded(image)
    try:
        return decode(data)
    except ImageError as error:
        if error.reason == "unsupported_format":  # of the files that are curated; Pillow has read it
            return _of_loaded(image)
        raise WrongImage(f"the picture cannot be used: {error.detail}") from None


def _bytes_behind(image: Image.Image) -> bytes | None:
    """The file of an image that was opened and not touched since: nothing loaded, no other frame, no draft. Pillow cuts
    16-bit colours to 8 bits and leaves colour profiles to the caller, so the file says more than the image."""
    if not isinstance(image, ImageFile.ImageFile) or image._im is not None or image.fp is None:
        return None
    try:
        position = image.fp.tell()
        image.fp.seek(0)
        data = image.fp.read()
        image.fp.seek(position)
        with opened(data) as fresh:
            return data if _state(fresh) == _state(image) else None
    except (OSError, ValueError, ImageError):
        return None


def _state(image: Image.Image) -> tuple[object, ...]:
    return image.format, image.size, image.mode, image.tell(), image.info


def _of_loaded(image: Image.Image) -> np.ndarray:
    """Of the samples that Pillow has. Raises WrongImage for a mode without a known range (I, F)."""
    try:
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise WrongImage(f"the picture cannot be read: {error}") from None
    if image.mode in ("I", "F"):
        raise WrongImage(f"samples of Pillow's mode {image.mode} have no known range: convert to L or RGB first")
    profile = image.info.get("icc_profile") or None
    if image.mode == "LAB":
        colours, alpha, profile = np.array(icc.convert_lab(image)), None, None
    elif image.mode.startswith("I;16"):
        colours = np.asarray(image).astype(np.uint16)[..., None]
        clear = image.info.get("transparency")
        alpha = None if clear is None else np.where(colours[..., 0] == clear, 0, 65535).astype(np.uint16)
    else:
        colours, alpha = _split(image)
    outside = find_outside(image, b"")
    if outside is not None:
        alpha = np.where(outside, 0, 255 if alpha is None else alpha).astype(np.uint8)
    return finish(colours, alpha, _header(colours, orientation_of(image, b""), profile), set())


def _split(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """HxWxC colours of 8 bits, and alpha: also of a palette, or of one transparent colour."""
    if image.mode in ("LA", "La"):
        mode = "LA"
    elif image.has_transparency_data:
        mode = "RGBA"
    else:
        mode = {"1": "L", "L": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    samples = np.array(image if image.mode == mode else image.convert(mode))
    samples = samples[..., None] if samples.ndim == 2 else samples
    return (samples[..., :-1], samples[..., -1]) if mode.endswith("A") else (samples, None)


def _header(colours: np.ndarray, orientation: int = 1, profile: bytes | None = None) -> Header:
    """What `finish` reads of one, for samples that stand as they lie in memory."""
    turned = orientation in (5, 6, 7, 8)
    height, width = colours.shape[1::-1] if turned else colours.shape[:2]
    return Header("png", width, height, "RGB", orientation, False, False, profile)


def _of_samples(image: Any) -> Iterator[np.ndarray]:
    tensor = _is_tensor(image)
    if tensor:
        image = _of_tensor(image)
    what = f"{image.dtype} of {'x'.join(map(str, image.shape)) or 'no axes'}"
    axes = (1, 3) if tensor else (3, 1)
    batch = image[None, :, :, None] if image.ndim == 2 else image[None] if image.ndim == 3 else image
    axis = next((axis for axis in axes if batch.ndim == 4 and batch.shape[axis] in CHANNELS), None)
    if axis is None or 0 in batch.shape:
        raise WrongImage(f"{EXPECTED}; not {what}")
    for samples in np.moveaxis(batch, axis, 3):
        yield _levels(samples, what)


def _of_tensor(tensor: Any) -> np.ndarray:
    """Raises WrongImage for one whose numbers torch does not give away: sparse, quantised, or on no device."""
    try:
        dense = tensor.detach().cpu()
        return np.asarray((dense.float() if dense.is_floating_point() else dense).numpy())
    except (TypeError, RuntimeError) as error:
        raise WrongImage(f"{EXPECTED}; this tensor cannot be read: {str(error).splitlines()[0]}") from None


def _levels(samples: np.ndarray, what: str) -> np.ndarray:
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if samples.dtype in (np.uint8, np.uint16):
        samples = np.ascontiguousarray(samples)
    elif np.issubdtype(samples.dtype, np.floating):
        low, high = float(samples.min()), float(samples.max())
        if not -HALF_A_LEVEL <= low <= high <= 1 + HALF_A_LEVEL:  # not-a-number too
            raise WrongImage(f"{EXPECTED}; not {what} from {low:g} to {high:g}")
        unit = samples.astype(np.float64).clip(0, 1)
        if unit.shape[2] == 4:
            unit = unit[..., :3] * unit[..., 3:] + 1 - unit[..., 3:]
        samples = (unit * 255).round().astype(np.uint8)
    else:
        raise WrongImage(f"{EXPECTED}; not {what}")
    colours, alpha = (samples[..., :3], samples[..., 3]) if samples.shape[2] == 4 else (samples, None)
    return finish(colours, alpha, _header(colours), set())
