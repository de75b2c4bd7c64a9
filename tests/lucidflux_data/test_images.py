"""The image contract: every mode gives known pixels, every damaged file its reason."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from lucidflux_data.images import ImageError, decode, decode_full, luma
from pipelines.demo import png_of_zeros


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
