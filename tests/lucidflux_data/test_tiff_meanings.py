"""TIFF whose samples mean something else than they seem to: what is read has the right colours, the rest is named.

Oracles: arithmetic on the source arrays, littlecms for L*a*b*, libjpeg through Pillow for YCbCr.
"""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from lucidflux_data.images import ImageError, decode_full, probe
from tests.lucidflux_data.test_images import encoded, matrix_profile

ROWS, COLUMNS = np.mgrid[0:40, 0:56]
PICTURE = np.stack([ROWS * 2 + 90, COLUMNS + 90, 170 - ROWS - COLUMNS], -1).astype(np.uint8)  # inside every gamut
ALPHA = (40 + COLUMNS * 3).astype(np.uint8)
HEIGHT, WIDTH = ROWS.shape
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint((colours * (alpha[..., None] / 255)) + 255 - alpha[..., None])


def written(*pages: tuple[np.ndarray, dict]) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as out:
        for samples, options in pages:
            out.write(samples, metadata=None, **options)
    return file.getvalue()


def by_tags(strip: bytes, **tags: tuple[str, list]) -> bytes:
    """A TIFF of one strip; a tag is `t262=("H", [1])`: letters of struct (two for fractions), values."""
    where = {273: ("I", [8]), 279: ("I", [len(strip)]), 256: ("I", [WIDTH]), 257: ("I", [HEIGHT]), 278: ("I", [HEIGHT])}
    entries = where | {int(name[1:]): value for name, value in tags.items()}
    at = 8 + len(strip) + len(strip) % 2
    body, behind = b"", at + 2 + 12 * len(entries) + 4
    far = b""
    for tag, (letter, values) in sorted(entries.items()):
        content = struct.pack(f"<{len(values)}{letter[0]}", *values)
        near = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", behind + len(far))
        far += content if len(content) > 4 else b""
        body += struct.pack("<HHI", tag, {"H": 3, "I": 4, "B": 1, "II": 5}[letter], len(values) // len(letter)) + near
    head = b"II*\0" + struct.pack("<I", at) + strip.ljust(at - 8, b"\0")
    return head + struct.pack("<H", len(entries)) + body + bytes(4) + far


def plain(photometric: int, bits: list[int], **more: tuple[str, list]) -> dict[str, tuple[str, list]]:
    one = {"t258": ("H", bits), "t259": ("H", [1]), "t262": ("H", [photometric]), "t277": ("H", [len(bits)])}
    return one | more


def refused(data: bytes, reason: str, what: str) -> None:
    for read in (decode_full, probe):
        with pytest.raises(ImageError) as caught:
            read(data)
        assert (caught.value.reason, what in caught.value.detail) == (reason, True), caught.value


def stored_lab() -> np.ndarray:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    flags, intent = ImageCms.Flags.NOOPTIMIZE, ImageCms.Intent.RELATIVE_COLORIMETRIC
    convert = ImageCms.buildTransform(srgb, lab, "RGB", "LAB", intent, flags)
    image = ImageCms.applyTransform(Image.fromarray(PICTURE), convert)
    with tifffile.TiffFile(io.BytesIO(encoded(image, "TIFF"))) as file:
        return np.asarray(file.pages[0].asarray())


def test_lab_in_every_layout() -> None:
    lab, kind = stored_lab(), {"photometric": "cielab"}
    small = (PICTURE[::4, ::4], {"photometric": "rgb", "subfiletype": 1})
    layouts = [
        written((lab, kind | {"compression": "zlib"})),
        written((lab, kind | {"compression": "zstd"})),
        written(small, (lab, kind)),
        written((np.moveaxis(lab, -1, 0), kind | {"planarconfig": "separate"})),
    ]
    for data in layouts:
        image = decode_full(data)
        assert np.abs(image.pixels.astype(int) - PICTURE).max() <= 4, "8 bits of L*a*b*"
        assert image.flags == ()
    clear = written((np.dstack([lab, ALPHA]), kind | {"extrasamples": ["unassalpha"]}))
    assert np.abs(decode_full(clear).pixels - over_white(PICTURE, ALPHA)).max() <= 4
    refused(written((lab.astype(np.uint16) * 257, kind)), "unsupported_mode", "CIELAB of 16 bits")


def test_ycbcr_behind_a_small_copy() -> None:
    jpeg = imagecodecs.jpeg8_encode(PICTURE, level=95, subsampling="420")
    tags = plain(6, [8, 8, 8], t530=("H", [2, 2])) | {"t259": ("H", [7])}
    alone = by_tags(jpeg, **tags)
    right = np.asarray(Image.open(io.BytesIO(jpeg)))
    small = by_tags(jpeg, **tags, t254=("I", [1]))
    offset = len(small) + len(small) % 2
    chained = bytearray(small.ljust(offset, b"\0"))  # the second page is a copy of the file, its offsets moved
    at = int.from_bytes(alone[4:8], "little")
    count = int.from_bytes(alone[at : at + 2], "little")
    moved = bytearray(alone)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, letter, number = struct.unpack_from("<HHI", alone, entry)
        if tag == 273 or number * {1: 1, 3: 2, 4: 4}[letter] > 4:
            struct.pack_into("<I", moved, entry + 8, struct.unpack_from("<I", alone, entry + 8)[0] + offset)
    first = int.from_bytes(small[4:8], "little")
    entries = int.from_bytes(small[first : first + 2], "little")
    struct.pack_into("<I", chained, first + 2 + 12 * entries, at + offset)
    for data in (alone, bytes(chained + moved)):
        assert np.abs(decode_full(data).pixels.astype(int) - right).max() <= 8, "chroma is smoothed or not"
    raw = np.asarray(Image.fromarray(PICTURE).convert("YCbCr"))
    zstd = plain(6, [8, 8, 8], t530=("H", [1, 1])) | {"t259": ("H", [50000])}
    refused(by_tags(imagecodecs.zstd_encode(raw.tobytes()), **zstd), "unsupported_mode", "YCBCR")
    halved = np.concatenate([raw[:, ::2, 0:1], raw[:, 1::2, 0:1], raw[:, ::2, 1:]], 2).tobytes()
    refused(by_tags(halved, **plain(6, [8, 8, 8], t530=("H", [2, 1]))), "unsupported_mode", "YCBCR")
    full, narrow = (0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1), (16, 1, 235, 1, 128, 1, 240, 1, 128, 1, 240, 1)
    for levels in (full, narrow):
        data = by_tags(raw.tobytes(), **plain(6, [8, 8, 8], t530=("H", [1, 1]), t532=("II", levels)))
        if levels is full:
            assert np.abs(decode_full(data).pixels.astype(int) - PICTURE).max() <= 4
        else:
            refused(data, "unsupported_mode", "YCBCR")
    deep = written((np.repeat(PICTURE.astype(np.uint16), 1, 2), {"photometric": "ycbcr"}))
    refused(deep, "unsupported_mode", "YCBCR of 16 bits")


@pytest.mark.parametrize("packed", [None, "zstd"])
@pytest.mark.parametrize("levels", ["copied", "shifted", "eight"])
def test_palettes_as_programs_write_them(levels: str, packed: str | None) -> None:
    eight = np.random.default_rng(0).integers(0, 256, (3, 256))
    eight[:, 0] = 255
    colormap = {"copied": eight * 257, "shifted": eight << 8, "eight": eight}[levels]
    strip = PICTURE[..., 0].tobytes()
    coding = {"t259": ("H", [50000 if packed else 1])}
    tags = plain(3, [8], t320=("H", colormap.ravel().tolist())) | coding
    image = decode_full(by_tags(imagecodecs.zstd_encode(strip) if packed else strip, **tags))
    assert np.array_equal(image.pixels, np.moveaxis(eight, 0, -1)[PICTURE[..., 0]])
    assert image.flags == ("palette",)


@pytest.mark.parametrize("scale", [1, 257])
@pytest.mark.parametrize("profile", ["p3", "srgb"])
def test_premultiplied_alpha_with_a_profile(profile: str, scale: int) -> None:
    icc = (
        matrix_profile(P3, 2.2)
        if profile == "p3"
        else ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    opaque = decode_full(encoded(Image.fromarray(PICTURE), "PNG", icc_profile=icc)).pixels
    multiplied = np.rint(PICTURE * (ALPHA[..., None] / 255.0) * scale)
    samples = np.dstack([multiplied, ALPHA.astype(int) * scale]).astype(np.uint8 if scale == 1 else np.uint16)
    data = written((samples, {"photometric": "rgb", "extrasamples": ["assocalpha"], "iccprofile": icc}))
    assert np.abs(decode_full(data).pixels - over_white(opaque, ALPHA)).max() <= (4 if scale == 1 else 2)


def test_a_fourth_sample_that_nothing_explains_is_left_out() -> None:
    for scale, depth in ((1, np.uint8), (257, np.uint16)):
        samples = (np.dstack([PICTURE, ALPHA]).astype(int) * scale).astype(depth)
        data = by_tags(samples.tobytes(), **plain(2, [8 if scale == 1 else 16] * 4))
        assert np.array_equal(decode_full(data).pixels, PICTURE)
    grey = np.dstack([ALPHA, PICTURE[..., 0]])
    assert np.array_equal(decode_full(by_tags(grey.tobytes(), **plain(1, [8, 8]))).pixels[..., 0], ALPHA)


def test_alpha_beside_inverted_grey_and_cmyk() -> None:
    inverted = {"photometric": "miniswhite", "extrasamples": ["unassalpha"]}
    data = written((np.dstack([255 - PICTURE[..., 0], ALPHA]), inverted))
    assert np.abs(decode_full(data).pixels - over_white(PICTURE[..., :1], ALPHA)).max() <= 1
    inks = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    rgb = np.asarray(Image.fromarray(inks, "CMYK").convert("RGB"))
    options = {"photometric": "separated", "extrasamples": ["unassalpha"]}
    assert np.abs(decode_full(written((np.dstack([inks, ALPHA]), options))).pixels - over_white(rgb, ALPHA)).max() <= 1
    options["extrasamples"] = ["assocalpha"]
    refused(written((np.dstack([inks, ALPHA]), options)), "unsupported_mode", "multiplied in")


def test_four_bits_of_a_colour() -> None:
    low = PICTURE >> 4
    flat = low.reshape(HEIGHT, -1)
    data = by_tags((flat[:, ::2] << 4 | flat[:, 1::2]).tobytes(), **plain(2, [4, 4, 4]))
    assert np.array_equal(decode_full(data).pixels, low * 17)


def test_which_page_is_the_picture() -> None:
    small = {"photometric": "rgb", "subfiletype": 1}
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as out:
        out.write(PICTURE[::4, ::4], subifds=1, metadata=None, **small)
        out.write(PICTURE, photometric="rgb", metadata=None)
    assert np.array_equal(decode_full(file.getvalue()).pixels, PICTURE), "below a small copy (SubIFDs)"
    mask, full = (ALPHA > 90, {"photometric": "minisblack", "subfiletype": 4}), (PICTURE, {"photometric": "rgb"})
    for pages in ((mask, full), (full, mask), (full, (PICTURE[::2, ::2], small))):
        image = decode_full(written(*pages))
        assert np.array_equal(image.pixels, PICTURE)
        assert image.flags == (), "a mask or a small copy is no further picture"


def test_what_is_not_known_is_named() -> None:
    data, rgb = PICTURE.tobytes(), plain(2, [8, 8, 8])
    refused(by_tags(data, **rgb, t50706=("B", [1, 4, 0, 0])), "unsupported_format", "camera raw")
    refused(by_tags(data[: HEIGHT * WIDTH], **plain(32803, [8])), "unsupported_format", "camera raw")
    refused(b"II*\0\x10\0\0\0CR\2\0" + bytes(100), "unsupported_format", "Canon raw")
    refused(by_tags(data, **plain(5, [8, 8, 8, 8], t332=("H", [2]))), "unsupported_mode", "other inks")
    refused(by_tags(data, **plain(5, [8, 8, 8])), "unsupported_mode", "3 samples for 4 colours")
    refused(by_tags(data, **plain(2, [8])), "unsupported_mode", "1 samples for 3 colours")
    refused(by_tags(data, **plain(2, [5, 6, 5])), "unsupported_mode", "several kinds")
    refused(by_tags(data, **plain(9, [8, 8, 8])), "unsupported_mode", "photometric 9")
    for coding in (32809, 34661):
        refused(by_tags(data, **rgb | {"t259": ("H", [coding])}), "unsupported_mode", f"compression {coding}")
    refused(
        by_tags(data, **{name: tag for name, tag in rgb.items() if name != "t262"}), "unsupported_mode", "Photometric"
    )
    refused(by_tags(data, **plain(3, [8])), "unreadable", "palette is missing")
    refused(by_tags(data, **rgb | {"t259": ("H", [6])}), "unsupported_mode", "YCBCR in this coding")
    volume = io.BytesIO()
    stack = np.repeat(PICTURE[None, ..., 0], 16, 0)
    tifffile.imwrite(volume, stack, photometric="minisblack", volumetric=True, tile=(16, 16, 16), metadata=None)
    refused(volume.getvalue(), "unsupported_mode", "volume")
