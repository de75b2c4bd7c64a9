"""The image contract: every mode gives known pixels, every damaged file its reason."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from lucidflux_data.images import ImageError, decode, decode_full, luma
from pipelines.demo.data import png_of_zeros


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    import skimage.data

    return skimage.data.chelsea()


def reason(data: bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels(kind, photo) -> None:
    assert np.array_equal(decode(encoded(Image.fromarray(photo), kind)), photo)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF", "AVIF"])
def test_lossy_formats_equal_pillow(kind, photo) -> None:
    data = encoded(Image.fromarray(photo), kind)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_luma_is_bgr2gray(photo) -> None:
    assert np.array_equal(luma(photo), cv2.cvtColor(photo[..., ::-1].copy(), cv2.COLOR_BGR2GRAY))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_cut_short_is_truncated(kind, share, photo) -> None:
    data = encoded(Image.fromarray(photo), kind)
    assert reason(data[: int(len(data) * share)]) == "truncated"


def test_what_is_no_image() -> None:
    assert reason(b"") == "not_an_image"
    assert reason(b"A text file that calls itself a photo.") == "not_an_image"
    assert reason(png_of_zeros(60000, 60000)) == "too_many_pixels"
    assert reason(png_of_zeros(100, 100), max_pixels=9999) == "too_many_pixels"
    floats = Image.fromarray(np.zeros((8, 8), np.float32))
    assert reason(encoded(floats, "TIFF")) == "unsupported_mode"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_is_scaled_not_clipped(channels) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    samples = ramp if channels == 1 else np.repeat(ramp[..., None], channels, axis=2)
    if channels == 4:
        samples[..., 3] = 65535
    image = decode_full(cv2.imencode(".png", samples)[1].tobytes())
    expected = np.rint(ramp * (255 / 65535)).astype(np.uint8)
    assert np.array_equal(image.pixels, np.repeat(expected[..., None], 3, axis=2))
    assert "sixteen_bit" in image.flags


def test_alpha_is_put_on_white(photo) -> None:
    alpha = np.linspace(0, 255, photo.shape[1]).astype(np.uint8)[None].repeat(photo.shape[0], axis=0)
    image = decode_full(encoded(Image.fromarray(np.dstack([photo, alpha])), "PNG"))
    weight = alpha[..., None] / 255
    assert np.abs(image.pixels - (photo * weight + 255 * (1 - weight))).max() <= 0.51
    assert image.flags == ("alpha",)


def test_palette_grey_cmyk_and_animated_are_flagged(photo) -> None:
    picture = Image.fromarray(photo)
    assert decode_full(encoded(picture.quantize(16), "PNG")).flags == ("palette",)
    assert decode_full(encoded(picture.convert("L"), "JPEG")).flags == ("grey",)
    assert decode_full(encoded(picture.convert("CMYK"), "JPEG")).flags == ("cmyk",)
    frames = encoded(picture, "GIF", save_all=True, append_images=[picture.rotate(180)])
    assert "animated" in decode_full(frames).flags
    assert np.array_equal(decode(frames), np.asarray(Image.open(io.BytesIO(frames)).convert("RGB")))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_equals_pillow(orientation, photo) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(photo), "JPEG", exif=exif.tobytes())
    image = decode_full(data)
    assert np.array_equal(image.pixels, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data)))))
    assert image.flags == ("orientation",)


def test_icc_is_converted_unless_it_is_srgb(photo) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = decode_full(encoded(Image.fromarray(photo), "PNG", icc_profile=srgb))
    assert plain.flags == ()
    assert np.array_equal(plain.pixels, photo)
    broken = decode_full(encoded(Image.fromarray(photo), "PNG", icc_profile=b"no profile at all"))
    assert broken.flags == ("icc_invalid",)
    assert np.array_equal(broken.pixels, photo)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert decode_full(encoded(Image.fromarray(photo), "PNG", icc_profile=lab)).flags == ("icc_invalid",)


def test_a_wide_gamut_profile_is_converted_to_srgb(photo) -> None:
    """Display P3 primaries with a gamma of 2.2, against the matrices written out (D50, as ICC profiles are)."""
    p3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
    srgb = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
    muted = (photo // 2 + 64).astype(np.uint8)  # inside both gamuts
    image = decode_full(encoded(Image.fromarray(muted), "PNG", icc_profile=matrix_profile(p3, 2.2)))
    assert image.flags == ("icc",)
    linear = (muted / 255) ** 2.2 @ (np.linalg.inv(srgb) @ p3).T
    assert linear.min() > 0
    assert linear.max() < 1
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(image.pixels - expected).max() <= 2
    assert np.abs(image.pixels.astype(int) - muted).max() > 8, "the conversion is one that shows"


def matrix_profile(to_xyz: np.ndarray, gamma: float) -> bytes:
    """A minimal ICC 2.1 display profile: three colorants (columns of `to_xyz`, D50) and one tone curve."""
    import struct

    def fixed(values) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    def xyz(values) -> bytes:
        return b"XYZ " + bytes(4) + fixed(values)

    curve = b"curv" + bytes(4) + struct.pack(">IHxx", 1, round(gamma * 256))
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = [(b"desc", text + bytes(-len(text) % 4)), (b"cprt", b"text" + bytes(4) + b"CC0\0")]
    tags += [(b"wtpt", xyz((0.9642, 1.0, 0.8249)))]
    tags += [(name, xyz(column)) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), to_xyz.T, strict=True)]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += name + struct.pack(">II", 128 + 4 + 12 * len(tags) + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", 128 + len(table) + len(body), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed((0.9642, 1.0, 0.8249))
    return head.ljust(128, b"\0") + table + body
