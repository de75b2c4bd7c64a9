"""PNG, GIF and JPEG that stock decoders refuse or show differently, and formats that are named and not read."""

from __future__ import annotations

import gzip
import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from lucidflux_data.codecs import opening
from lucidflux_data.images import ImageError, decode, decode_full, probe

RNG = np.random.default_rng(0)


def chunk(kind: bytes, content: bytes, wrong: bool = False) -> bytes:
    crc = zlib.crc32(kind + content) ^ (1 if wrong else 0)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(rows: list[bytes], width: int, bits: int, colour: int, *between: bytes) -> bytes:
    """A PNG of rows that are packed already (PNG specification, 11.2)."""
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), *between, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"".join(parts)


def packed(row: np.ndarray, bits: int) -> bytes:
    if bits == 16:
        return row.astype(">u2").tobytes()
    digits = "".join(f"{value:0{bits}b}" for value in row.tolist())
    digits += "0" * (-len(digits) % 8)
    return int(digits, 2).to_bytes(len(digits) // 8, "big")


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_grey_that_is_declared_transparent_is_white(bits: int) -> None:
    samples = RNG.integers(0, 2**bits, (9, 23))
    clear = int(samples[4, 5])
    data = png([packed(row, bits) for row in samples], 23, bits, 0, chunk(b"tRNS", struct.pack(">H", clear)))
    right = np.where(samples == clear, 255, np.floor(samples * 255 / (2**bits - 1) + 0.5)).astype(np.uint8)
    image = decode_full(data)
    assert np.array_equal(image.pixels, np.repeat(right[..., None], 3, 2))
    assert "alpha" in image.flags
    assert "grey" in image.flags


@pytest.mark.parametrize("bits", [8, 16])
def test_a_colour_that_is_declared_transparent_is_white(bits: int) -> None:
    samples = RNG.integers(0, 2**bits, (9, 23, 3))
    clear = samples[4, 5].tolist()
    rows = [packed(row.ravel(), bits) for row in samples]
    image = decode_full(png(rows, 23, bits, 2, chunk(b"tRNS", struct.pack(">3H", *clear))))
    right = np.floor(samples * 255 / (2**bits - 1) + 0.5).astype(np.uint8)
    right[(samples == clear).all(2)] = 255
    assert np.array_equal(image.pixels, right)


TEXT = b"Comment\0\0" + zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize("colour", [0, 2])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"tEXt", b"Comment\0hello", wrong=True),
        chunk(b"zTXt", TEXT),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(40_000_000))),
        chunk(b"tIME", b"\0", wrong=True),
        chunk(b"pHYs", b"\0" * 9, wrong=True),
        chunk(b"abCd", b"private", wrong=True),
    ],
    ids=["crc", "ztxt", "itxt", "bomb", "time", "phys", "private"],
)
def test_what_is_beside_the_picture_costs_nothing(odd: bytes, bits: int, colour: int) -> None:
    channels = 3 if colour == 2 else 1
    samples = RNG.integers(0, 2**bits, (9, 23 * channels))
    rows = [packed(row, bits) for row in samples]
    assert np.array_equal(decode(png(rows, 23, bits, colour, odd)), decode(png(rows, 23, bits, colour)))


def test_a_wrong_crc_of_the_picture_itself_is_a_failure() -> None:
    rows = [packed(row, 8) for row in RNG.integers(0, 256, (9, 69))]
    whole = png(rows, 23, 8, 2)
    at = whole.index(b"IDAT") + 10
    with pytest.raises(ImageError):
        decode(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])


def test_grey_of_16_bits_with_a_profile_is_as_its_8_bit_twin() -> None:
    samples = RNG.integers(0, 256, (16, 24))
    # The smallest grey profile: one curve of gamma 1, written from ICC.1:2010, 8.3.3.
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, 256)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    name = b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(78)
    tags, body, at = [], b"", 128 + 4 + 12 * 3
    for key, content in ((b"kTRC", curve), (b"wtpt", white), (b"desc", name)):
        content += bytes(-len(content) % 4)
        tags.append(key + struct.pack(">II", at + len(body), len(content)))
        body += content
    head = struct.pack(">I", at + len(body)) + b"lcms" + bytes.fromhex("02100000") + b"mntrGRAYXYZ " + bytes(12)
    head += b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    profile = head.ljust(128, b"\0") + struct.pack(">I", 3) + b"".join(tags) + body
    assert ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space == "GRAY"
    icc = chunk(b"iCCP", b"g\0\0" + zlib.compress(profile))
    low = decode_full(png([packed(row, 8) for row in samples], 24, 8, 0, icc))
    high = decode_full(png([packed(row * 257, 16) for row in samples], 24, 16, 0, icc))
    assert "icc" in low.flags
    assert "icc" in high.flags
    assert np.abs(low.pixels.astype(int) - high.pixels).max() <= 1
    assert np.abs(low.pixels.astype(int)[..., 0] - samples).max() > 40


@pytest.mark.parametrize("transparent", [False, True])
def test_a_gif_frame_in_a_larger_canvas(transparent: bool) -> None:
    indices = RNG.integers(0, 4, (6, 8)).astype(np.uint8)
    frame = Image.fromarray(indices, "P")
    frame.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    file = io.BytesIO()
    frame.save(file, "GIF", **({"transparency": 1} if transparent else {}))
    data = bytearray(file.getvalue())
    data[6:10] = struct.pack("<2H", 20, 15)  # the logical screen
    at = data.index(b",")
    data[at + 1 : at + 5] = struct.pack("<2H", 3, 2)  # where the frame stands in it
    pixels = decode(bytes(data))
    right = np.full((15, 20, 3), 255, np.uint8)
    palette = np.array([[255, 0, 0], [255] * 3 if transparent else [0, 255, 0], [0, 0, 255], [10, 20, 30]], np.uint8)
    right[2:8, 3:11] = palette[indices]
    assert np.array_equal(pixels, right)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_end_marker(mode: str, options: dict) -> None:
    rows, columns = np.mgrid[0:61, 0:83]
    image = np.stack([rows * 4, columns * 3, RNG.integers(0, 256, rows.shape)], -1).astype(np.uint8)
    file = io.BytesIO()
    exif = Image.Exif()
    exif[270] = "a thumbnail has an end marker of its own: \u00ff\u00d9"
    Image.fromarray(image).convert(mode).save(file, "JPEG", quality=90, exif=exif, **options)
    whole = file.getvalue()
    assert whole.endswith(b"\xff\xd9")
    found = decode_full(whole[:-2])
    assert "no_end" in found.flags
    assert np.array_equal(found.pixels, decode(whole))
    for size in (len(whole) // 2, len(whole) * 9 // 10):
        with pytest.raises(ImageError) as caught:
            decode(whole[:size])
        assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"8BPS" + bytes(100), "Photoshop"),
        (b"%PDF-1.7" + bytes(100), "PDF"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    ],
)
def test_a_format_that_is_not_read_is_named(data: bytes, name: str) -> None:
    for read in (decode, probe):
        with pytest.raises(ImageError) as caught:
            read(data)
        assert caught.value.reason == "unsupported_format"
        assert name in caught.value.detail


def test_formats_that_pillow_alone_knows_are_named() -> None:
    for kind in ("ICO", "PPM", "TGA", "PCX"):
        file = io.BytesIO()
        Image.new("RGB", (32, 32)).save(file, kind)
        with pytest.raises(ImageError) as caught:
            decode(file.getvalue())
        assert caught.value.reason == "unsupported_format"


def test_what_is_no_image_is_that() -> None:
    for data in (b"hello", b"<html></html>", bytes(100), b"{}"):
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert caught.value.reason == "not_an_image"


def test_text_of_a_png_may_be_long_and_is_read_by_nobody() -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("Comment", "x" * 5_000_000, zip=True)
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(file, "PNG", pnginfo=about)
    assert decode(file.getvalue())[0, 0].tolist() == [1, 2, 3]


def test_heic_is_read_with_its_extra_and_named_without(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pillow_heif")
    rows, columns = np.mgrid[0:64, 0:96]
    picture = np.stack([rows * 3, columns * 2, 200 - rows], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "HEIF", quality=95)
    image = decode_full(file.getvalue())
    assert image.header.format == "heic"
    assert np.abs(image.pixels.astype(int) - picture).mean() < 3
    with pytest.raises(ImageError) as caught:
        decode(file.getvalue()[:200])
    assert caught.value.reason == "truncated"
    monkeypatch.setattr(opening, "HEIC_IS_READ", False)
    with pytest.raises(ImageError, match=r"lucidflux\[formats\]"):
        decode(file.getvalue()[:200])


def of_raw_profile(exif: bytes) -> bytes:
    """Exif as ImageMagick writes it into a text of a PNG."""
    return b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(exif), exif.hex().encode()))


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_orientation_of_a_png_wherever_it_stands(bits: int, behind: bool) -> None:
    samples = RNG.integers(0, 2**bits, (9, 69))
    whole = png([packed(row, bits) for row in samples], 23, bits, 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    at = len(whole) - 12 if behind else 33
    for note in (chunk(b"eXIf", exif.tobytes()[6:]), chunk(b"zTXt", of_raw_profile(exif.tobytes()))):
        image = decode_full(whole[:at] + note + whole[at:])
        assert image.header.orientation == 6
        assert np.array_equal(image.pixels, np.rot90(decode(whole), -1))


def test_the_header_of_a_png_is_read_without_its_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [packed(row, 8) for row in RNG.integers(0, 256, (9, 69))]
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: pytest.fail("the picture was decoded"))
    assert probe(png(rows, 23, 8, 2)).width == 23
    with pytest.raises(ImageError, match="too_many_pixels"):
        probe(png(rows, 23, 8, 2), 100)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("apart", [False, True], ids=["first_frame", "apart"])
def test_an_animated_png_is_the_picture_that_stands_in_it(apart: bool, bits: int) -> None:
    samples = RNG.integers(0, 2**bits, (2, 9, 69))
    still, moving = (zlib.compress(b"".join(b"\0" + packed(row, bits) for row in frame)) for frame in samples)
    head = struct.pack(">IIBBBBB", 23, 9, bits, 2, 0, 0, 0)
    frame = struct.pack(">4IHHBB", 23, 9, 0, 0, 1, 10, 0, 0)
    shown = [] if apart else [chunk(b"fcTL", struct.pack(">I", 0) + frame)]
    number = len(shown)
    parts = [chunk(b"IHDR", head), chunk(b"acTL", struct.pack(">II", 2 - apart, 0)), *shown, chunk(b"IDAT", still)]
    parts += [chunk(b"fcTL", struct.pack(">I", number) + frame), chunk(b"fdAT", struct.pack(">I", number + 1) + moving)]
    image = decode_full(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    right = np.floor(samples[0].reshape(9, 23, 3) * 255 / (2**bits - 1) + 0.5)
    assert np.array_equal(image.pixels, right)
    assert "animated" in image.flags


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_webp_frame_in_a_larger_canvas(frames: int, alpha: bool) -> None:
    picture = RNG.integers(0, 256, (24, 32, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", lossless=True)

    def riff(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body

    def three(*values: int) -> bytes:
        return b"".join(struct.pack("<I", value)[:3] for value in values)

    head = riff(b"VP8X", bytes([2 | 16 * alpha, 0, 0, 0]) + three(95, 63)) + riff(b"ANIM", b"\xff\0\0\xff\0\0")
    body = head + riff(b"ANMF", three(4, 3, 31, 23, 100) + b"\0" + file.getvalue()[12:]) * frames
    image = decode_full(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body)
    right = np.full((64, 96, 3), 255, np.uint8)
    right[6:30, 8:40] = picture
    assert np.array_equal(image.pixels, right)


def test_codings_that_are_not_read_are_named() -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    whole = file.getvalue()
    rows = (RNG.integers(0, 256, (16, 16, 3)) & 255).astype(np.uint8)
    bitfields = b"BM" + struct.pack("<IHHI", 66 + rows.nbytes, 0, 0, 66)
    bitfields += struct.pack("<IiiHHIIiiII", 40, 12, 16, 1, 32, 3, rows.nbytes, 1, 1, 0, 0) + struct.pack(
        "<3I", 1, 2, 4
    )
    jpeg = bytearray(imagecodecs.jpeg8_encode(rows))
    at = jpeg.index(b"\xff\xc0")
    lossless = imagecodecs.ljpeg_encode(rows[..., 0], bitspersample=8)
    for data, reason, name in (
        (whole[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + whole[8:], "unsupported_mode", "CgBI"),
        (lossless, "unsupported_mode", "lossless JPEG of 8 bits"),
        (bytes(jpeg[: at + 9]) + b"\2" + bytes(jpeg[at + 10 :]), "unsupported_mode", "JPEG of 2 components"),
        (bitfields + rows.tobytes(), "unsupported_mode", "BMP bitfields"),
        (imagecodecs.jpegls_encode(rows), "unsupported_format", "JPEG-LS"),
        (imagecodecs.qoi_encode(rows), "unsupported_format", "QOI"),
        (gzip.compress(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "unsupported_format", "SVG"),
        (b"<?xml version='1.0'?><!--" + b"x" * 9000 + b"--><svg/>", "unsupported_format", "SVG"),
        (bytes(128) + b"DICM" + bytes(50), "unsupported_format", "DICOM"),
        (b"\0\0\0\x18ftypavci\0\0\0\0mif1avci" + bytes(40), "unsupported_format", "H.264"),
    ):
        for read in (decode, probe):
            with pytest.raises(ImageError) as caught:
                read(data)
            assert (caught.value.reason, name in caught.value.detail) == (reason, True), caught.value
