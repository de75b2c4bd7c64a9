"""What is said of an output's codec, against the pixels: what came back other than it was is never called exact."""

from __future__ import annotations

import io
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from benchmarks.methods import losses
from lucidflux_data.images import decode, probe

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
JPEG = imagecodecs.jpeg8_encode(PIXELS, 90)


def pillow(kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(PIXELS).save(sink, kind, **options)
    return sink.getvalue()


def animated(**options: object) -> bytes:
    return pillow("WEBP", save_all=True, append_images=[Image.fromarray(PIXELS[::-1])], **options)


def tiff(**options: object) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, PIXELS, **options)
    return sink.getvalue()


# name -> (a file, what is said of it)
FILES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "png": (lambda: pillow("PNG"), None),
    "bmp": (lambda: pillow("BMP"), None),
    "jpeg": (lambda: JPEG, "lossy codec (JPEG)"),
    "webp": (lambda: pillow("WEBP", quality=80), "lossy codec (WebP)"),
    "webp, lossless": (lambda: pillow("WEBP", lossless=True), None),
    "webp, lossless behind a long profile (VP8X)": (
        lambda: pillow("WEBP", lossless=True, icc_profile=b"x" * 999),
        None,
    ),
    "webp whose profile says VP8L": (
        lambda: pillow("WEBP", quality=80, icc_profile=b"VP8L" * 9),
        "lossy codec (WebP)",
    ),
    "webp, animated": (lambda: animated(quality=80), "lossy codec (WebP)"),
    "webp, animated and lossless": (lambda: animated(lossless=True), None),
    "avif": (lambda: pillow("AVIF", quality=90), "lossy codec (AVIF)"),
    "avif of the best quality": (lambda: pillow("AVIF", quality=100, subsampling="4:4:4"), "lossy codec (AVIF)"),
    "avif in RGB": (lambda: imagecodecs.avif_encode(PIXELS, level=100), "codec that may be lossy (AVIF)"),
    "jpeg xl": (lambda: imagecodecs.jpegxl_encode(PIXELS, distance=1.0), "lossy codec (JPEG XL)"),
    "jpeg xl, lossless": (lambda: imagecodecs.jpegxl_encode(PIXELS, lossless=True), None),
    "jpeg xl, lossless in a container": (
        lambda: imagecodecs.jpegxl_encode(PIXELS, lossless=True, usecontainer=True),
        None,
    ),
    "jpeg xl of a jpeg": (lambda: imagecodecs.jpegxl_encode_jpeg(JPEG), "lossy codec (JPEG XL)"),
    "jpeg 2000": (
        lambda: imagecodecs.jpeg2k_encode(PIXELS, level=30, reversible=False),
        "lossy codec (JPEG 2000)",
    ),
    "jpeg 2000, reversible": (
        lambda: imagecodecs.jpeg2k_encode(PIXELS, reversible=True),
        "codec that may be lossy (JPEG 2000)",
    ),
    "jpeg 2000, reversible and cut": (
        lambda: pillow("JPEG2000", quality_mode="rates", quality_layers=[20], irreversible=False),
        "codec that may be lossy (JPEG 2000)",
    ),
    "jpeg 2000 without boxes": (
        lambda: imagecodecs.jpeg2k_encode(PIXELS, level=30, codecformat="j2k", reversible=False),
        "lossy codec (JPEG 2000)",
    ),
    "tiff": (lambda: tiff(), None),
    "tiff, lzw": (lambda: tiff(compression="lzw"), None),
    "tiff, zstd": (lambda: tiff(compression="zstd"), None),
    "tiff of jpeg": (lambda: tiff(compression="jpeg"), "lossy codec (TIFF)"),
    "tiff of jpeg, by libtiff": (lambda: pillow("TIFF", compression="jpeg"), "lossy codec (TIFF)"),
    "tiff of webp": (
        lambda: tiff(compression="webp", compressionargs={"lossless": False, "level": 50}),
        "lossy codec (TIFF)",
    ),
    "tiff of webp, lossless": (lambda: tiff(compression="webp", compressionargs={"lossless": True}), None),
    "tiff of jpeg xl": (lambda: tiff(compression="jpegxl", compressionargs={"distance": 2.0}), "lossy codec (TIFF)"),
    "tiff of jpeg 2000": (lambda: tiff(compression="jpeg2000"), "codec that may be lossy (TIFF)"),
    "tiff of lerc": (lambda: tiff(compression="lerc"), "codec that may be lossy (TIFF)"),
}


@pytest.mark.parametrize("name", list(FILES))
def test_lossy_by_what_the_codec_did(name: str) -> None:
    make, said = FILES[name]
    data = make()
    exact = np.array_equal(decode(data), PIXELS)
    found = losses.remark_of(data, probe(data).format)
    assert found == said
    if found is None:
        assert exact
    elif found.startswith("lossy"):
        assert not exact


@pytest.mark.parametrize("name", ["webp", "avif", "jpeg xl", "jpeg 2000", "tiff of jpeg"])
def test_a_damaged_file_is_never_called_exact(name: str) -> None:
    data = FILES[name][0]()
    format_ = probe(data).format
    for keep in (13, 40, len(data) // 3, len(data) - 7):
        assert losses.remark_of(data[:keep], format_) is not None
