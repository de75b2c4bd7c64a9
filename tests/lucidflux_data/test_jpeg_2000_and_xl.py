"""JPEG 2000 and JPEG XL: the right pixels where their colours are known or a profile says them, else a reason.

Oracles: the source arrays (lossless files), littlecms through Pillow, arithmetic. Colour spaces that no encoder here
writes are made by writing the header again, bit by bit; libjxl itself must then read it.
"""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms

from lucidflux_data.images import ImageError, decode_full, probe
from tests.support.paths import DATA

ROWS, COLUMNS = np.mgrid[0:37, 0:52]
PICTURE = np.stack([ROWS * 6, COLUMNS * 4, 255 - ROWS * 2 - COLUMNS * 2], -1).astype(np.uint8)
ALPHA = np.where(COLUMNS < 20, 0, np.minimum(255, COLUMNS * 5)).astype(np.uint8)
DEEP = (PICTURE.astype(np.uint16) << 8) + np.arange(37 * 52 * 3, dtype=np.uint16).reshape(37, 52, 3) % 256
RGBA = np.dstack([PICTURE, ALPHA])


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint((colours * alpha[..., None].astype(float) + 255 * (255.0 - alpha[..., None])) / 255).astype(np.uint8)


def scaled(samples: np.ndarray, bits: int) -> np.ndarray:
    return np.rint(samples * 255.0 / (2**bits - 1)).astype(np.uint8)


def from_light(light: np.ndarray) -> np.ndarray:
    """Of linear light in 0..1, as imagecodecs labels what has more than 8 bits."""
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)).astype(
        np.uint8
    )


def jp2(samples: np.ndarray, **options: object) -> bytes:
    return imagecodecs.jpeg2k_encode(samples, level=0, reversible=True, **{"codecformat": "jp2", **options})


def jxl(samples: np.ndarray, **options: object) -> bytes:
    return imagecodecs.jpegxl_encode(samples, lossless=True, **options)


def saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG2000", irreversible=False)
    return file.getvalue()


def boxed(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def with_colour(data: bytes, *boxes: bytes) -> bytes:
    """A JP2 whose colour box is replaced by `boxes`."""
    start = data.index(b"jp2h") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    header = data[start + 8 : start + 22 + 8] + b"".join(boxes)
    return data[:start] + boxed(b"jp2h", header) + data[start + size :]


def enumerated(space: int) -> bytes:
    return boxed(b"colr", b"\1\0\0" + space.to_bytes(4, "big"))


def refused(data: bytes, reason: str, what: str) -> None:
    for read in (probe, decode_full):
        with pytest.raises(ImageError) as caught:
            read(data)
        assert (caught.value.reason, what in caught.value.detail) == (reason, True), caught.value


GREYS = np.repeat(PICTURE[..., 1:2], 3, 2)
READ = {
    "jp2": (jp2(PICTURE), PICTURE, "jp2", "RGB", ""),
    "jp2_by_pillow": (saved(Image.fromarray(PICTURE)), PICTURE, "jp2", "RGB", ""),
    "jp2_grey": (jp2(PICTURE[..., 1]), GREYS, "jp2", "L", "grey"),
    "jp2_alpha": (saved(Image.fromarray(RGBA, "RGBA")), over_white(PICTURE, ALPHA), "jp2", "RGBA", "alpha"),
    "jp2_no_alpha": (jp2(RGBA), PICTURE, "jp2", "RGB", ""),
    "jp2_grey_alpha": (
        saved(Image.fromarray(RGBA[..., [1, 3]], "LA")), over_white(GREYS, ALPHA), "jp2", "LA", "alpha,grey",
    ),
    "jp2_16": (jp2(DEEP), scaled(DEEP, 16), "jp2", "RGB;16", "sixteen_bit"),
    "jp2_12": (jp2(DEEP >> 4, bitspersample=12), scaled(DEEP >> 4, 12), "jp2", "RGB;16", "sixteen_bit"),
    "j2k": (jp2(PICTURE, codecformat="j2k"), PICTURE, "j2k", "RGB", ""),
    "j2k_grey": (jp2(PICTURE[..., 1], codecformat="j2k"), GREYS, "j2k", "L", "grey"),
    "jxl": (jxl(PICTURE), PICTURE, "jxl", "RGB", ""),
    "jxl_container": (jxl(PICTURE, usecontainer=True), PICTURE, "jxl", "RGB", ""),
    "jxl_grey": (jxl(PICTURE[..., 1]), GREYS, "jxl", "L", "grey"),
    "jxl_alpha": (jxl(RGBA), over_white(PICTURE, ALPHA), "jxl", "RGBA", "alpha"),
    "jxl_grey_alpha": (jxl(RGBA[..., [1, 3]]), over_white(GREYS, ALPHA), "jxl", "LA", "alpha,grey"),
    "jxl_linear_16": (jxl(DEEP), from_light(DEEP / 65535), "jxl", "RGB;16", "icc,sixteen_bit"),
    "jxl_linear_10": (
        jxl(DEEP >> 6, bitspersample=10), from_light((DEEP >> 6) / 1023), "jxl", "RGB;16", "icc,sixteen_bit",
    ),
    "jxl_animated": (jxl(np.stack([PICTURE, PICTURE[::-1]]), photometric="rgb"), PICTURE, "jxl", "RGB", "animated"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_the_right_pixels(name: str) -> None:
    data, expected, format_, mode, flags = READ[name]
    image = decode_full(data)
    assert (image.header.format, image.header.mode, ",".join(image.flags)) == (format_, mode, flags)
    apart = np.abs(image.pixels.astype(int) - expected)
    assert apart.max() <= ("icc" in flags), "rounded at 16 bits and then at 8"
    assert np.mean(apart > 0) < 0.01
    assert probe(data) == image.header


@pytest.mark.parametrize("name", READ)
def test_a_cut_file_is_truncated(name: str) -> None:
    data = READ[name][0]
    ends = (len(data) - 1, len(data) - 20, len(data) * 2 // 3)
    for end in (len(data) // 4,) if "animated" in name else ends:
        with pytest.raises(ImageError) as caught:
            decode_full(data[:end])
        assert caught.value.reason in ("truncated", "unreadable"), name
    assert caught.value.reason == "truncated"
    with pytest.raises(ImageError, match="too_many_pixels: 52x37"):
        probe(data, 37 * 52 - 1)


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (64, 256), (1, 1), (7, 300), (520, 3), (96, 128), (144, 256)])
def test_sizes_of_jpeg_xl(size: tuple[int, int]) -> None:
    """In eights, as a ratio, and in full: each has its own form in the header."""
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    np.testing.assert_array_equal(decode_full(jxl(picture)).pixels, picture)


def test_a_lossy_jpeg_xl_and_one_made_of_a_jpeg() -> None:
    lossy = imagecodecs.jpegxl_encode(PICTURE, lossless=False, distance=1.0)
    assert np.abs(decode_full(lossy).pixels.astype(int) - PICTURE).mean() < 3
    jpeg = (DATA / "cases" / "images" / "jpeg_plain.jpg").read_bytes()
    again = imagecodecs.jpegxl_encode_jpeg(jpeg)
    apart = decode_full(again).pixels.astype(int) - decode_full(jpeg).pixels
    assert np.abs(apart).mean() < 1, "libjxl smooths the chroma otherwise than libjpeg-turbo"


def test_a_profile_of_a_jpeg_2000_is_applied() -> None:
    icc = (DATA / "cases" / "images" / "png_16_grey_icc_linear.png").read_bytes()
    linear = Image.open(io.BytesIO(icc)).info["icc_profile"]
    data = with_colour(jp2(PICTURE[..., 1]), boxed(b"colr", b"\2\0\0" + linear))
    file = io.BytesIO()
    Image.fromarray(PICTURE[..., 1]).save(file, "PNG", icc_profile=linear)
    image = decode_full(data)
    assert image.flags == ("grey", "icc")
    np.testing.assert_array_equal(image.pixels, decode_full(file.getvalue()).pixels)
    assert np.abs(image.pixels.astype(int) - GREYS).max() > 30
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = with_colour(jp2(PICTURE), boxed(b"colr", b"\2\0\0" + srgb))
    np.testing.assert_array_equal(decode_full(data).pixels, PICTURE)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    refused(with_colour(jp2(PICTURE), boxed(b"colr", b"\3\0\0" + lab)), "unsupported_mode", "of neither RGB nor grey")
    refused(with_colour(jp2(PICTURE), boxed(b"colr", b"\2\0\0" + linear)), "unsupported_mode", "3 components")


def test_premultiplied_alpha_of_a_jpeg_2000() -> None:
    multiplied = np.rint(PICTURE * (ALPHA[..., None] / 255)).astype(np.uint8)
    entries = b"".join(np.array([k, 2 * (k == 3), (k + 1) % 4], ">u2").tobytes() for k in range(4))
    data = with_colour(jp2(np.dstack([multiplied, ALPHA])), enumerated(16), boxed(b"cdef", b"\0\4" + entries))
    expected = multiplied + (255 - ALPHA[..., None])
    np.testing.assert_array_equal(decode_full(data).pixels, expected)


def test_colours_that_are_not_known_are_refused_by_name() -> None:
    for space, name in ((18, "sYCC"), (12, "CMYK"), (14, "CIELab"), (21, "ROMM-RGB"), (99, "colour space 99")):
        refused(with_colour(jp2(PICTURE), enumerated(space)), "unsupported_mode", name)
    refused(with_colour(jp2(PICTURE)), "unsupported_mode", "without a colour space")
    refused(with_colour(jp2(PICTURE), boxed(b"pclr", b""), enumerated(16)), "unsupported_mode", "palette")
    refused(jp2(PICTURE, codecformat="j2k", mct=False), "unsupported_mode", "without a colour space")
    refused(jp2(RGBA, codecformat="j2k"), "unsupported_mode", "without a colour space")
    signed = jp2(PICTURE)
    at = signed.index(b"\xff\x4f\xff\x51") + 42
    refused(signed[:at] + b"\x87\1\1" * 3 + signed[at + 9 :], "unsupported_mode", "signed")
    refused(signed[:at] + b"\7\1\1\7\2\2\7\2\2" + signed[at + 9 :], "unsupported_mode", "several sizes")
    refused(jxl(PICTURE.astype(np.float32) / 255), "unsupported_mode", "floating point")


class Writer:
    """The bits of a JPEG XL header, lowest first."""

    def __init__(self) -> None:
        self.value, self.size = 0, 0

    def put(self, *fields: tuple[int, int]) -> Writer:
        for value, bits in fields:
            self.value |= value << self.size
            self.size += bits
        return self

    def enum(self, value: int) -> Writer:
        if value < 2:
            return self.put((value, 2))
        return self.put((2, 2), (value - 2, 4)) if value < 18 else self.put((3, 2), (value - 18, 6))

    def data(self) -> bytes:
        return self.value.to_bytes(-(-self.size // 8), "little")


def header(colours: Writer | None, orientation: int = 1, **changes: int) -> bytes:
    """52x37, three channels of 8 bits without XYB; `colours`: a colour encoding that is not at its default."""
    bits = Writer().put((0x0AFF, 16), (0, 1), (0, 2), (36, 9), (0, 3), (0, 2), (51, 9), (0, 1))
    bits.put((int(orientation > 1), 1))
    if orientation > 1:
        bits.put((orientation - 1, 3), (0, 1), (0, 1), (0, 1))  # no other size, no preview, no animation
    bits.put((0, 1), (0, 2), (1, 1), (0, 2), (0, 1))  # 8 bits, 16-bit buffers, no further channel, no XYB
    if colours is None:
        bits.put((1, 1))
    else:
        bits.put((0, 1)).put((colours.value, colours.size))
    if orientation > 1:
        bits.put((1, 1))  # tone mapping at its default
    return bits.put((0, 2), (1, 1)).data()  # no extensions, the transform at its default


def encoding(space: int = 0, white: int = 1, primaries: int = 1, transfer: int = 13) -> Writer:
    bits = Writer().put((0, 1)).enum(space).enum(white)
    if space == 0:
        bits.enum(primaries)
    return bits.put((0, 1)).enum(transfer).enum(1)


def rewritten(colours: Writer | None, orientation: int = 1) -> bytes:
    plain = jxl(PICTURE)
    assert plain.startswith(header(None)), "the encoder's header is the one that is written here"
    return header(colours, orientation) + plain[len(header(None)) :]


def test_the_colour_encoding_of_a_jpeg_xl() -> None:
    for data in (rewritten(None), rewritten(encoding())):
        np.testing.assert_array_equal(imagecodecs.jpegxl_decode(data), PICTURE)
        np.testing.assert_array_equal(decode_full(data).pixels, PICTURE)
    for other in (encoding(primaries=9), encoding(primaries=9, transfer=16), encoding(transfer=1), encoding(white=11)):
        data = rewritten(other)
        assert imagecodecs.jpegxl_decode(data).shape == PICTURE.shape, "libjxl reads this header, and does not say more"
        refused(data, "unsupported_mode", "other colours than sRGB")
    gamma = Writer().put((0, 1)).enum(0).enum(1).enum(1).put((1, 1), (4545455, 24)).enum(1)
    assert imagecodecs.jpegxl_decode(rewritten(gamma)).shape == PICTURE.shape
    refused(rewritten(gamma), "unsupported_mode", "other colours than sRGB")
    profile = Writer().put((1, 1)).enum(0)
    refused(header(profile) + bytes(200), "unsupported_mode", "ICC profile")


def test_display_p3_and_linear_light_of_a_jpeg_xl() -> None:
    light = PICTURE / 255
    linear = decode_full(rewritten(encoding(transfer=8)))
    assert linear.flags == ("icc",)
    np.testing.assert_array_equal(linear.pixels, from_light(light))
    to_linear = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    xyz = {"p3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), "srgb": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))}
    to_xyz = {}
    for name, corners in xyz.items():
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in corners]).T
        white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
        to_xyz[name] = columns * np.linalg.solve(columns, white)
    matrix = np.linalg.inv(to_xyz["srgb"]) @ to_xyz["p3"]
    image = decode_full(rewritten(encoding(primaries=11)))
    expected = from_light(np.clip(to_linear @ matrix.T, 0, 1))
    assert image.flags == ("icc",)
    assert np.abs(image.pixels.astype(int) - expected).max() <= 1
    assert np.abs(image.pixels.astype(int) - PICTURE).max() > 20


@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_orientation_of_a_jpeg_xl(orientation: int) -> None:
    """libjxl turns by itself where it is not told otherwise: the oracle."""
    data = rewritten(None, orientation)
    image = decode_full(data)
    np.testing.assert_array_equal(image.pixels, imagecodecs.jpegxl_decode(data))
    assert (image.header.height, image.header.width) == image.pixels.shape[:2]
    assert image.flags == ("orientation",)
