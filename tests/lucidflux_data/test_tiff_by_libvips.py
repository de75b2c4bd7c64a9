"""TIFF against libvips: another library on libtiff, with its own reading of samples, alpha and orientation.

Where it differs by design:
- an extra sample without a meaning (ExtraSamples 0) is alpha to libvips, and to us it is left out: its colours are
  compared;
- it takes the first page, and we the first one at full resolution: it is asked for that page;
- it has no 8 bits of L*a*b* beside its own coding, and its wheel no Zstandard and LZMA: of these the same samples,
  stored without compression, are what it reads;
- it reads no tiles in separate planes, and of grey with alpha in separate planes the first row alone: chunky ones stand
  for them.
"""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile

from lucidflux_data.images import decode_full
from tests.support.paths import DATA

HEIGHT, WIDTH = 37, 50
CASES = sorted((DATA / "cases" / "images").glob("*.tif"))
NOT_READ = {"tiff_float16.tif": "refused here", "tiff_lab.tif": "no 8 bits of L*a*b* in libvips"}


def by_libvips(data: bytes, page: int = 0, leave_out: bool = False) -> np.ndarray:
    """uint8 HxWx3, upright and over white. `leave_out`: what libvips takes for alpha."""
    image = pyvips.Image.new_from_buffer(data, "", page=page, fail_on="error").autorot()
    most = 65535 if image.format == "ushort" else 255
    if image.hasalpha() and leave_out:
        image = image[: image.bands - 1]
    elif image.hasalpha():
        image = image.flatten(background=most, max_alpha=most)
    samples = np.atleast_3d(image.numpy())
    eight = np.floor(samples * (255 / most) + 0.5).astype(np.uint8)
    return np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else eight


def written(samples: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    big, order = options.pop("bigtiff", False), options.pop("order", "<")
    with tifffile.TiffWriter(file, bigtiff=big, byteorder=order) as out:
        out.write(samples, metadata=None, **options)
    return file.getvalue()


LAYOUTS = [
    {},
    {"compression": "zlib", "predictor": True},
    {"compression": "lzw"},
    {"compression": "packbits"},
    {"compression": "zstd"},
    {"compression": "lzma"},
    {"tile": (16, 32)},
    {"tile": (16, 16), "compression": "zlib"},
    {"rowsperstrip": 5},
    {"order": ">"},
    {"bigtiff": True},
    {"bigtiff": True, "order": ">"},
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_what_tifffile_writes(depth: type, layout: dict) -> None:
    most, rng = np.iinfo(depth).max, np.random.default_rng(0)
    kinds = (None, "unspecified", "unassalpha", "assocalpha")
    colours = ("minisblack", "miniswhite", "rgb")
    turns = itertools.cycle(range(1, 9))
    for photometric, kind, planar in itertools.product(colours, kinds, ("contig", "separate")):
        samples = rng.integers(0, most + 1, (HEIGHT, WIDTH, 3 if photometric == "rgb" else 1)).astype(depth)
        if kind is not None:
            alpha = rng.integers(0, most + 1, (HEIGHT, WIDTH)).astype(depth)
            if kind == "assocalpha" and photometric != "miniswhite":
                samples = (samples.astype(np.uint64) * alpha[..., None] // most).astype(depth)
            samples = np.dstack([samples, alpha])
        chunky = samples[..., 0] if samples.shape[2] == 1 else samples
        if photometric == "miniswhite" and kind is not None:
            continue  # to libvips the inverted samples are not those that alpha belongs to
        turn = next(turns)
        about = {"photometric": photometric, "extratags": [(274, "H", 1, turn, True)]}
        about |= {"extrasamples": [kind]} if kind else {}
        if planar == "separate" and samples.shape[2] > 1:
            stored = written(np.moveaxis(samples, -1, 0), **about, planarconfig="separate", **layout)
        else:
            stored = written(chunky, **about, **layout)
        theirs = stored
        if layout.get("compression") in ("zstd", "lzma"):
            theirs = written(chunky, **about)
        elif planar == "separate" and (photometric != "rgb" or "tile" in layout):
            theirs = written(chunky, **about, **layout)
        image = decode_full(stored)
        right = by_libvips(theirs, leave_out=kind == "unspecified")
        assert image.pixels.shape == right.shape, (photometric, kind, planar, turn)
        assert np.abs(image.pixels.astype(int) - right).max() <= 1, (photometric, kind, planar, turn)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_the_cases_of_the_trackers(path: Path) -> None:
    if path.name in NOT_READ:
        pytest.skip(NOT_READ[path.name])
    data = path.read_bytes()
    theirs, page = data, 1 if path.name == "tiff_thumb_first.tif" else 0
    if "zstd" in path.name:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            theirs = written(file.pages[0].asarray(), photometric="rgb")
    right = by_libvips(theirs, page, leave_out=path.name == "tiff_rgbx16.tif")
    assert np.abs(decode_full(data).pixels.astype(int) - right).max() <= 1


def test_palettes_and_bilevel() -> None:
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 2, (HEIGHT, WIDTH)).astype(bool)
    for photometric in ("minisblack", "miniswhite"):
        for compression in (None, "zlib", "packbits"):
            data = written(grey, photometric=photometric, compression=compression)
            assert np.array_equal(decode_full(data).pixels, by_libvips(data))
    colormap = rng.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    data = written(rng.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8), photometric="palette", colormap=colormap)
    assert np.array_equal(decode_full(data).pixels, by_libvips(data))
