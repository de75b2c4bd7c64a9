"""Damaged files of every format: a picture or an ImageError, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lucidflux_data.codecs.opening import HEIC_IS_READ
from lucidflux_data.images import ImageError, decode, probe
from tests.support.paths import DATA

MAX_PIXELS = 100_000
EACH = 500  # of 24 files, of which HEIC is read with an extra: 12,000


def picture() -> Image.Image:
    rows, columns = np.mgrid[0:40, 0:56]
    return Image.fromarray(np.stack([rows * 6, columns * 4, 255 - rows * 2 - columns * 2], -1).astype(np.uint8))


def saved(kind: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    picture().convert(mode).save(file, kind, **options)
    return file.getvalue()


def tiff(samples: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, samples, metadata=None, **options)
    return file.getvalue()


def animated(kind: str) -> bytes:
    frames = [picture().rotate(20 * k) for k in range(3)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


DEEP = np.random.default_rng(0).integers(0, 65536, (40, 56, 4), dtype=np.uint16)
FILES = {
    "jpeg": saved("JPEG"),
    "progressive": saved("JPEG", progressive=True),
    "cmyk": saved("JPEG", "CMYK"),
    "png": saved("PNG"),
    "palette": saved("PNG", "P", transparency=3),
    "apng": animated("PNG"),
    "webp": saved("WEBP"),
    "lossless_webp": saved("WEBP", "RGBA", lossless=True),
    "bmp": saved("BMP"),
    "gif": animated("GIF"),
    "avif": saved("AVIF"),
    "tiff": saved("TIFF", compression="tiff_lzw"),
    "tiff_jpeg": saved("TIFF", compression="jpeg"),
    "tiff16": tiff(DEEP[..., :3], photometric="rgb", compression="zlib"),
    "tiff_alpha": tiff(DEEP, photometric="rgb", extrasamples=["assocalpha"], tile=(16, 16)),
    "jxl": imagecodecs.jpegxl_encode(np.asarray(picture()), lossless=True),
    "jxl_lossy": imagecodecs.jpegxl_encode(DEEP[..., :3], lossless=False, distance=1.0),
    "jxl_alpha": imagecodecs.jpegxl_encode(DEEP, lossless=True, usecontainer=True),
    "jp2": saved("JPEG2000"),
    "jp2_16": imagecodecs.jpeg2k_encode(DEEP[..., :3], level=0, codecformat="jp2"),
    "j2k": imagecodecs.jpeg2k_encode(np.asarray(picture()), level=60, codecformat="j2k"),
    "bigtiff": tiff(DEEP[..., :3], photometric="rgb", bigtiff=True, planarconfig="contig", compression="zstd"),
    "no_end": (DATA / "cases" / "images" / "jpeg_no_eoi.jpg").read_bytes(),
}
if HEIC_IS_READ:
    FILES["heic"] = saved("HEIF")
DAMAGES: dict[str, Callable[[bytearray, int, int, bytes], bytearray]] = {
    "flip": lambda data, at, _, junk: data[:at] + bytes([data[at] ^ (junk[0] or 1)]) + data[at + 1 :],
    "cut": lambda data, at, *_: data[:at],
    "insert": lambda data, at, _, junk: data[:at] + junk + data[at:],
    "lose": lambda data, at, size, _: data[:at] + data[at + size :],
    "overwrite": lambda data, at, _, junk: data[:at] + junk + data[at + len(junk) :],
    "swap": lambda data, at, size, _: (
        data[:at] + data[at + size : at + 2 * size] + data[at : at + size] + data[at + 2 * size :]
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_damaged_costs_one_image(name: str) -> None:
    whole = FILES[name]
    assert decode(whole, MAX_PIXELS).shape[2] == 3

    @settings(max_examples=EACH, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(sorted(DAMAGES)),
                st.one_of(st.integers(0, 200), st.integers(0, len(whole) - 1)),
                st.integers(1, 64),
                st.binary(min_size=1, max_size=12),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def damaged(damages: list[tuple[str, int, int, bytes]]) -> None:
        data = bytearray(whole)
        for kind, at, size, junk in damages:
            if data:
                data = bytearray(DAMAGES[kind](data, min(at, len(data) - 1), size, junk))
        for read in (probe, decode):
            try:
                found = read(bytes(data), MAX_PIXELS)
            except ImageError:
                continue
            assert read is probe or found.shape[0] * found.shape[1] <= MAX_PIXELS

    damaged()
