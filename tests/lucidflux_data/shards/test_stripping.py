"""Location and author go, everything else stays: pixels, orientation, copyright; read back by Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from lucidflux_data.images import decode_full
from lucidflux_data.shards.stripping import strip


def encoded(kind: str, exif: Image.Exif, **options: object) -> bytes:
    import skimage.data

    file = io.BytesIO()
    Image.fromarray(skimage.data.chelsea()).save(file, kind, exif=exif.tobytes(), **options)
    return file.getvalue()


@pytest.fixture
def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x013B], tags[0x8298], tags[0x010F] = 6, "A. Person", "CC BY 4.0", "Camera"
    tags.get_ifd(0x8825)[1] = "N"
    tags.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)
    tags.get_ifd(0x8769)[0xA430] = "A. Person"
    return tags


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("what", [("gps",), ("author",), ("gps", "author")])
def test_only_what_was_asked_goes(kind: str, what: tuple[str, ...], exif: Image.Exif) -> None:
    data = encoded(kind, exif)
    stripped = strip(data, what)
    tags = Image.open(io.BytesIO(stripped)).getexif()
    assert (0x8825 in tags) == ("gps" not in what)
    assert (0x013B in tags) == ("author" not in what)
    assert (0xA430 in tags.get_ifd(0x8769)) == ("author" not in what)
    assert (tags[0x0112], tags[0x8298], tags[0x010F]) == (6, "CC BY 4.0", "Camera")
    assert (b"A. Person" in stripped) == ("author" not in what)
    before, after = decode_full(data), decode_full(stripped)
    assert np.array_equal(before.pixels, after.pixels)
    assert after.flags == before.flags == ("orientation",)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_an_xmp_block_that_names_somebody_goes_whole(kind: str) -> None:
    person = b"<x:xmpmeta><dc:creator>A. Person</dc:creator></x:xmpmeta>"
    data = encoded(kind, Image.Exif(), xmp=person)
    assert b"A. Person" in strip(data, ("gps",))
    stripped = strip(data, ("author",))
    assert b"A. Person" not in stripped
    assert np.array_equal(decode_full(data).pixels, decode_full(stripped).pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_an_image_without_such_tags_keeps_its_bytes(kind: str) -> None:
    data = encoded(kind, Image.Exif())
    assert strip(data, ("gps", "author")) == data


def test_damaged_exif_does_not_hide_a_place(exif: Image.Exif) -> None:
    data = encoded("JPEG", exif)
    damaged = data.replace(b"Exif\0\0II*\0", b"Exif\0\0II*\x07", 1).replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\x07*", 1)
    assert damaged != data
    assert b"A. Person" not in strip(damaged, ("gps",))
