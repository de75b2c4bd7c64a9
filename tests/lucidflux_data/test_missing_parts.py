"""Files that lack a part of their picture, or that say odd things of it: a failure or the right pixels, never a picture
that is grey or black where nothing was, and no line on the terminal."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from lucidflux_data.images import ImageError, decode, decode_full, probe
from tests.lucidflux_data.test_images import matrix_profile
from tests.lucidflux_data.test_odd_files import chunk, packed, png
from tests.lucidflux_data.test_tiff_meanings import HEIGHT, P3, PICTURE, by_tags, plain

END = b"\xff\xd9"


def photo(mode: str, **options: object) -> tuple[bytes, int]:
    """A JPEG, and where its scan begins."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image, file = Image.fromarray(noise).resize((161, 120)).convert(mode), io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    data = file.getvalue()
    at = data.index(b"\xff\xda")
    return data, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value.reason


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.97])
def test_a_jpeg_that_lacks_rows_before_its_end_marker_is_truncated(mode: str, share: float) -> None:
    whole, scan = photo(mode)
    at = scan + int(share * (len(whole) - scan))
    assert reason(whole[:at] + END) == "truncated"
    assert reason(whole[:at] + b"\xff" + END) == "truncated"
    assert reason(whole[:at] + bytes(len(whole) - at) + END) == "truncated", "a download that was filled with zeros"
    assert reason(whole[:at] + whole) in ("truncated", "unreadable"), "another picture begins in the middle"
    if share < 0.9:
        assert reason(whole[:at] + whole[at + 300 :]) in ("truncated", "unreadable")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_grey_corner_is_no_missing_row(mode: str) -> None:
    grey = Image.new("RGB", (64, 48), (128, 128, 128)).convert(mode)
    for options in ({}, {"progressive": True}):
        file = io.BytesIO()
        grey.save(file, "JPEG", quality=95, **options)
        for tail in (b"", b"more" * 100, file.getvalue()):
            assert np.array_equal(decode(file.getvalue() + tail), np.asarray(grey.convert("RGB")))


def test_a_jpeg_that_tells_its_height_behind_the_picture_is_named() -> None:
    whole, _ = photo("RGB")
    at = whole.index(b"\xff\xc0") + 5
    data = whole[:at] + b"\0\0" + whole[at + 2 : -2] + b"\xff\xdc\0\4\0\x78" + END
    for read in (decode, probe):
        with pytest.raises(ImageError, match="DNL") as caught:
            read(data)
        assert caught.value.reason == "unsupported_mode"


def test_a_profile_that_lacks_a_part_is_flagged() -> None:
    whole, _ = photo("RGB")
    profile = matrix_profile(P3, 2.2)
    parts = [profile[at : at + 200] for at in range(0, len(profile), 200)]
    segments = []
    for number, part in enumerate(parts, 1):
        body = b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part
        segments.append(b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body)
    plain_pixels = decode(whole)
    in_order = decode_full(whole[:2] + b"".join(segments) + whole[2:])
    backwards = decode_full(whole[:2] + b"".join(segments[::-1]) + whole[2:])
    assert in_order.flags == backwards.flags == ("icc",)
    assert np.array_equal(in_order.pixels, backwards.pixels)
    assert np.abs(in_order.pixels.astype(int) - plain_pixels).max() > 10
    for odd in (segments[:-1], segments * 2):
        image = decode_full(whole[:2] + b"".join(odd) + whole[2:])
        assert image.flags == ("icc_invalid",)
        assert np.array_equal(image.pixels, plain_pixels)


STRIPS = 8  # of 5 rows


def in_strips(deep: bool, sizes: list[int], offsets: list[int] | None = None, **tags: tuple[str, list]) -> bytes:
    samples = PICTURE.astype(np.uint16) * 257 if deep else PICTURE
    size = samples.nbytes // STRIPS
    where = [8 + size * k for k in range(STRIPS)] if offsets is None else offsets
    strips = {"t278": ("I", [5]), "t273": ("I", where), "t279": ("I", [size if n < 0 else n for n in sizes])}
    return by_tags(samples.tobytes(), **plain(2, [16 if deep else 8] * 3) | strips | tags)


@pytest.mark.parametrize("deep", [False, True])
def test_a_tiff_that_lacks_a_strip_is_truncated(deep: bool) -> None:
    assert np.array_equal(decode(in_strips(deep, [-1] * STRIPS)), PICTURE)
    assert reason(in_strips(deep, [-1] * 7, [8 + 840 * (1 + deep) * k for k in range(7)])) == "truncated"
    assert reason(in_strips(deep, [-1, -1, 0, *[-1] * 5], [8 * (1 + k) for k in range(STRIPS)])) == "truncated"
    packed_strips = [zlib.compress(PICTURE[k : k + 5].tobytes()) for k in range(0, HEIGHT, 5)]
    sizes = [len(strip) for strip in packed_strips]
    offsets = [8 + sum(sizes[:k]) for k in range(STRIPS)]
    tags = plain(2, [8] * 3) | {"t259": ("H", [8]), "t278": ("I", [5])}
    for kept in (STRIPS, 7):
        told = tags | {"t273": ("I", offsets[:kept]), "t279": ("I", sizes[:kept])}
        data = by_tags(b"".join(packed_strips), **told)
        if kept == STRIPS:
            assert np.array_equal(decode(data), PICTURE)
        else:
            assert reason(data) == "truncated"


@pytest.mark.parametrize("deep", [False, True])
def test_odd_numbers_in_a_tiff_of_one_strip_cost_nothing(deep: bool) -> None:
    samples = PICTURE.astype(np.uint16) * 257 if deep else PICTURE
    tags = plain(2, [16 if deep else 8] * 3)
    for odd in (
        {"t279": ("I", [0])},
        {"t279": ("I", [2**31])},
        {"t278": ("I", [0])},
        {"t339": ("H", [4, 4, 4])},
        {"t338": ("H", [2])},  # an extra sample that is not there
    ):
        assert np.array_equal(decode(by_tags(samples.tobytes(), **tags | odd)), PICTURE), odd
    turned = decode_full(by_tags(samples.tobytes(), **tags | {"t274": ("H", [3, 1])}))
    assert np.array_equal(turned.pixels, PICTURE[::-1, ::-1])
    assert turned.header.orientation == 3


def test_a_palette_that_is_not_there_is_no_picture() -> None:
    rows = [bytes([0, 1, 2, 3])]
    assert reason(png(rows, 4, 8, 3)) == "unreadable"
    palette = bytes(range(12))
    assert decode(png(rows, 4, 8, 3, chunk(b"PLTE", palette))).ravel().tolist() == list(palette)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_bits_over_the_depth_of_a_transparent_grey_do_not_count(bits: int) -> None:
    samples = np.random.default_rng(0).integers(0, 2**bits, (9, 23))
    clear = int(samples[4, 5])
    rows = [packed(row, bits) for row in samples]
    one, other = (png(rows, 23, bits, 0, chunk(b"tRNS", struct.pack(">H", value))) for value in (clear, clear | 0x700))
    assert np.array_equal(decode(one), decode(other))


def test_a_damaged_file_of_a_format_that_is_read_is_an_image() -> None:
    for start in (b"GIF89a\4\0\4\0\0\0\0;", b"II*\0\xff\0\0\0", b"RIFF\x10\0\0\0WEBP"):
        assert reason(start + bytes(40)) in ("unreadable", "truncated")
    assert reason(b"BMW and other cars") == "not_an_image"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"IIRS\x08\0\0\0", "Olympus raw"),
        (b"MMOR\0\0\0\x08", "Olympus raw"),
        (b"\0\0\0\x0cJXS \r\n\x87\n", "JPEG XS"),
        (b"FORM\0\0\1\0ILBMBMHD", "ILBM"),
        (b"/* XPM */\nstatic char", "XPM"),
        (b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN"><svg/>', "SVG"),
        ('<?xml version="1.0"?><svg/>'.encode("utf-16"), "SVG"),
    ],
    ids=["iirs", "mmor", "jxs", "ilbm", "xpm", "doctype", "utf16"],
)
def test_more_formats_that_are_not_read_are_named(data: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=name) as caught:
        probe(data + bytes(60))
    assert caught.value.reason == "unsupported_format"


def test_libraries_say_nothing_of_odd_metadata(capfd: pytest.CaptureFixture[str]) -> None:
    tags = plain(2, [8] * 3) | {"t274": ("H", [9, 1]), "t338": ("H", [77])}
    data = by_tags(PICTURE.tobytes(), **tags)
    cut = data[:4] + struct.pack("<I", 2**31) + data[8:]
    with warnings.catch_warnings(record=True) as told:
        decode(data)
        assert reason(cut) in ("truncated", "unreadable")
    assert told == []
    assert "".join(capfd.readouterr()) == ""
