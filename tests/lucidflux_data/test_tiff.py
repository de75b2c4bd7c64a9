"""TIFF in many layouts against arithmetic on the source array."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import tifffile

from lucidflux_data.images import ImageError, decode_full, probe

HEIGHT, WIDTH = 37, 50
RNG = np.random.default_rng(0)


def encode(samples: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("order", "<")) as out:
        out.write(samples, metadata=None, **options)
    return file.getvalue()


def expected(colours: np.ndarray, alpha: np.ndarray | None, kind: str) -> np.ndarray:
    """Exact rational arithmetic, rounded to nearest: over white at full depth, then to 8 bits."""
    most = np.iinfo(colours.dtype).max
    value = colours.astype(np.float64)
    if kind == "unassalpha":
        share = alpha[..., None] / most
        value = np.floor(value * share + most * (1 - share) + 0.5)
    elif kind == "assocalpha":
        value = np.clip(value + most - alpha[..., None], 0, most)
    eight = np.floor(value * 255 / most + 0.5).astype(np.uint8)
    return np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else eight


LAYOUTS = [
    {},
    {"compression": "zlib", "predictor": True},
    {"compression": "lzw"},
    {"compression": "zstd"},
    {"compression": "lzma"},
    {"tile": (16, 16)},
    {"tile": (32, 16), "compression": "zlib"},
    {"rowsperstrip": 5},
    {"order": ">"},
    {"bigtiff": True},
    {"bigtiff": True, "order": ">", "compression": "zstd"},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_colours_and_alpha(depth: type, planar: str, layout: dict) -> None:
    for count, kind in itertools.product((1, 3), (None, "unspecified", "unassalpha", "assocalpha")):
        if count == 1 and kind is None and planar == "separate":
            continue
        colours = RNG.integers(0, np.iinfo(depth).max + 1, (HEIGHT, WIDTH, count)).astype(depth)
        alpha = RNG.integers(0, np.iinfo(depth).max + 1, (HEIGHT, WIDTH)).astype(depth)
        if kind == "assocalpha":
            colours = (colours.astype(np.uint64) * alpha[..., None] // np.iinfo(depth).max).astype(depth)
        samples = colours if kind is None else np.dstack([colours, alpha])
        stored = np.moveaxis(samples, -1, 0) if planar == "separate" else samples
        stored = stored[..., 0] if samples.shape[2] == 1 else stored
        data = encode(
            stored,
            photometric="rgb" if count == 3 else "minisblack",
            planarconfig=planar if samples.shape[2] > 1 else None,
            extrasamples=[kind] if kind else None,
            **layout,
        )
        image = decode_full(data)
        right = expected(colours, alpha, kind or "")
        assert np.abs(image.pixels.astype(int) - right).max() <= 1, (count, kind)
        assert ("alpha" in image.flags) == (kind in ("unassalpha", "assocalpha"))
        assert ("sixteen_bit" in image.flags) == (depth is np.uint16)
        assert ("grey" in image.flags) == (count == 1)
        assert (probe(data).width, probe(data).height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", [None])
def test_white_is_zero(depth: type, planar: None) -> None:
    grey = RNG.integers(0, np.iinfo(depth).max + 1, (HEIGHT, WIDTH)).astype(depth)
    pixels = decode_full(encode(grey, photometric="miniswhite")).pixels
    right = expected((np.iinfo(depth).max - grey)[..., None].astype(depth), None, "")
    assert np.array_equal(pixels, right)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_palette(depth: type) -> None:
    bits = 8 * np.dtype(depth).itemsize
    indices = RNG.integers(0, min(2**bits, 4000), (HEIGHT, WIDTH)).astype(depth)
    colormap = RNG.integers(0, 65536, (3, 2**bits)).astype(np.uint16)
    image = decode_full(encode(indices, photometric="palette", colormap=colormap))
    right = np.moveaxis(colormap, 0, -1)[indices].astype(float) * 255 / 65535
    assert np.abs(image.pixels - right).max() <= 1
    assert "palette" in image.flags


def test_bilevel() -> None:
    bits = RNG.integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
    for photometric, white in (("minisblack", bits), ("miniswhite", ~bits)):
        pixels = decode_full(encode(bits, photometric=photometric)).pixels
        assert np.array_equal(pixels[..., 0], np.where(white, 255, 0))


def test_the_first_page_at_full_resolution_is_the_picture() -> None:
    large = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as out:
        out.write(large[::4, ::4], subfiletype=1, photometric="rgb", metadata=None)
        out.write(large[::2, ::2], subfiletype=1, photometric="rgb", metadata=None)
        out.write(large, photometric="rgb", metadata=None)
    image = decode_full(file.getvalue())
    assert np.array_equal(image.pixels, large)
    assert "animated" not in image.flags


def test_a_file_of_many_pages_is_looked_into_no_further_than_its_start() -> None:
    page = np.zeros((8, 8), np.uint8)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as out:
        for _ in range(3000):
            out.write(page, metadata=None)
    assert decode_full(file.getvalue()).flags == ("animated", "grey")


@pytest.mark.parametrize("depth", [np.float32, np.float16, np.int16, np.uint32, np.float64, np.int8])
def test_other_samples_are_named(depth: type) -> None:
    data = encode(np.zeros((HEIGHT, WIDTH), depth))
    for read in (decode_full, probe):
        with pytest.raises(ImageError) as caught:
            read(data)
        assert caught.value.reason == "unsupported_mode"


@pytest.mark.parametrize("compression", [None, "zlib", "zstd"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_cut_file_is_no_picture(depth: type, compression: str | None) -> None:
    samples = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(depth)
    data = encode(samples, photometric="rgb", compression=compression, rowsperstrip=4)
    for size in (len(data) - 1, len(data) - 100, len(data) // 2):
        with pytest.raises(ImageError) as caught:
            decode_full(data[:size])
        assert caught.value.reason in ("truncated", "unreadable", "not_an_image")


def test_the_budget_is_looked_at_before_anything_is_allocated() -> None:
    data = encode(np.zeros((2000, 2000), np.uint16), compression="zlib")
    with pytest.raises(ImageError) as caught:
        decode_full(data, 1_000_000)
    assert caught.value.reason == "too_many_pixels"
