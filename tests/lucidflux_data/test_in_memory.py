"""Images of Pillow, arrays and tensors become the pixels that `decode` gives of the file, in every format and mode."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from lucidflux_data.images import decode
from lucidflux_data.in_memory import pixels_of
from tests.support.paths import DATA

NOT_OPENED = {"jpeg_12bit.jpg", "png_text_crc.png", "tiff_float16.tif", "tiff_greyalpha16.tif"}  # by Pillow
CASES = [path for path in sorted((DATA / "cases" / "images").iterdir()) if path.name not in NOT_OPENED]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo(photo_paths: list[Path]) -> np.ndarray:
    path = next(path for path in photo_paths if path.stem == "chelsea")
    return np.asarray(Image.open(path).convert("RGB"))[40:104, 100:196]  # 64 x 96


def made(photo: np.ndarray) -> dict[str, bytes]:
    """A file in each mode that Pillow writes, and those that OpenCV writes with 16 bits."""
    rgb = Image.fromarray(photo)
    alpha = Image.linear_gradient("L").resize(rgb.size)
    clear = rgb.convert("RGBA")
    clear.putalpha(alpha)
    grey_alpha = rgb.convert("LA")
    grey_alpha.putalpha(alpha)
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 4), dtype=np.uint16)
    palette = rgb.quantize(32)
    turned = rgb.getexif()
    turned[0x0112] = 6
    files = {
        "1.png": encoded(rgb.convert("1"), "PNG"),
        "1_clear.png": encoded(rgb.convert("1"), "PNG", transparency=0),
        "L.png": encoded(rgb.convert("L"), "PNG"),
        "L_clear.png": encoded(rgb.convert("L"), "PNG", transparency=int(photo[0, 0, 0])),
        "LA.png": encoded(grey_alpha, "PNG"),
        "P.png": encoded(palette, "PNG"),
        "P_clear.png": encoded(palette, "PNG", transparency=3),
        "RGB.png": encoded(rgb, "PNG"),
        "RGB_clear.png": encoded(rgb, "PNG", transparency=tuple(map(int, photo[0, 0]))),
        "RGBA.png": encoded(clear, "PNG"),
        "turned.png": encoded(rgb, "PNG", exif=turned),
        "turned.jpg": encoded(rgb, "JPEG", exif=turned),
        "L.jpg": encoded(rgb.convert("L"), "JPEG"),
        "CMYK.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "CMYK.tif": encoded(rgb.convert("CMYK"), "TIFF"),
        "RGBA.webp": encoded(clear, "WEBP", lossless=True),
        "RGB.avif": encoded(rgb, "AVIF"),
        "P.gif": encoded(palette, "GIF"),
        "P_clear.gif": encoded(palette, "GIF", transparency=3),
        "RGB.bmp": encoded(rgb, "BMP"),
        "RGB.jp2": encoded(rgb, "JPEG2000"),
    }
    for name, samples in {"16_grey": deep[..., 0], "16_rgb": deep[..., :3], "16_rgba": deep}.items():
        files[f"{name}.png"] = cv2.imencode(".png", samples)[1].tobytes()
    return files


def compared(data: bytes, tolerance: int) -> None:
    expected = decode(data)
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(pixels_of(opened)[0], expected), "opened and not loaded"
    loaded = Image.open(io.BytesIO(data))
    loaded.load()
    assert loaded.size[0] * loaded.size[1] == expected.shape[0] * expected.shape[1]
    (pixels,) = pixels_of(loaded)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance, "loaded"
    assert np.array_equal(pixels_of(opened)[0], expected), "asked a second time"


def test_every_mode_of_a_file(photo: np.ndarray) -> None:
    for name, data in made(photo).items():
        try:
            compared(data, 2 if name == "16_rgba.png" else 1)  # Pillow keeps the high byte of 16
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_odd_files_that_people_met(path: Path) -> None:
    with Image.open(path) as image:
        assert np.array_equal(pixels_of(image)[0], decode(path.read_bytes()))


def test_a_profile_is_applied_to_what_is_loaded(photo: np.ndarray) -> None:
    """Against littlecms, for colours and for grey; a profile of another kind is left out, as in decode."""
    data = (DATA / "cases" / "images" / "png_16_grey_icc_linear.png").read_bytes()
    profile = Image.open(io.BytesIO(data)).info["icc_profile"]
    grey = Image.fromarray(photo[..., 0])
    saved = encoded(grey, "PNG", icc_profile=profile)
    compared(saved, 0)
    (pixels,) = pixels_of(Image.open(io.BytesIO(saved)))
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        "L",
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert np.array_equal(pixels, np.asarray(ImageCms.applyTransform(grey, transform)))
    assert np.abs(pixels.astype(int) - photo[..., :1]).max() > 20
    compared(encoded(Image.fromarray(photo), "PNG", icc_profile=profile), 0)


def test_what_was_done_to_an_opened_image_counts(photo: np.ndarray, tmp_path: Path) -> None:
    """Another frame, a draft, a crop, a turn: then the file no longer says what the image is."""
    frames = [Image.fromarray(photo[:, ::-1]).quantize(64), Image.fromarray(photo).quantize(64)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    two = Image.open(tmp_path / "two.gif")
    two.seek(1)
    assert np.array_equal(pixels_of(two)[0], np.asarray(two.convert("RGB")))
    Image.fromarray(np.tile(photo, (8, 8, 1))).save(tmp_path / "large.jpg")
    draft = Image.open(tmp_path / "large.jpg")
    draft.draft("RGB", (96, 64))
    assert pixels_of(draft)[0].shape == (64, 96, 3)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(photo).save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    assert np.array_equal(pixels_of(ImageOps.exif_transpose(turned))[0], photo[::-1, ::-1])
    assert np.array_equal(pixels_of(turned)[0], photo[::-1, ::-1])
    assert np.array_equal(
        pixels_of(Image.open(tmp_path / "turned.png").crop((0, 0, 96, 32)))[0], photo[:32][::-1, ::-1]
    )
    removed = Image.open(tmp_path / "turned.png")
    removed.info["transparency"] = tuple(map(int, photo[0, 0]))
    assert (pixels_of(removed)[0][-1, -1] == 255).all()


def test_modes_that_only_memory_has(photo: np.ndarray) -> None:
    image = Image.fromarray(photo)
    clear = image.convert("RGBA")
    clear.putalpha(128)
    on_white = (photo.astype(int) * 128 + 255 * 127 + 127) // 255
    assert np.array_equal(pixels_of(clear)[0], on_white)
    assert np.abs(pixels_of(clear.convert("RGBa"))[0].astype(int) - on_white).max() <= 2  # Pillow multiplies in 8 bits
    for mode in ("YCbCr", "HSV"):
        assert np.array_equal(pixels_of(image.convert(mode))[0], np.asarray(image.convert(mode).convert("RGB")))
    deep = Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert np.array_equal(pixels_of(deep)[0], np.repeat(photo[..., :1], 3, 2))
    for mode in ("I", "F"):
        with pytest.raises(ValueError, match=f"mode {mode} have no known range"):
            pixels_of(image.convert("L").convert(mode))


ARRAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uint8": lambda pixels: pixels,
    "uint16": lambda pixels: pixels.astype(np.uint16) * 257,
    "float16": lambda pixels: (pixels / 255).astype(np.float16),
    "float32": lambda pixels: (pixels / 255).astype(np.float32),
    "float64": lambda pixels: pixels / 255,
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_and_tensors_of_every_dtype_and_layout(photo: np.ndarray, kind: str, channels: int) -> None:
    torch = pytest.importorskip("torch")
    pixels = np.dstack([photo, np.full(photo.shape[:2], 128, np.uint8)])[..., :channels]
    expected = np.repeat(pixels, 3, 2) if channels == 1 else pixels[..., :3]
    if channels == 4:
        expected = np.rint(255 - (255 - photo.astype(float)) * 128 / 255).astype(int)
    last = ARRAYS[kind](pixels)
    first = np.ascontiguousarray(last.transpose(2, 0, 1))
    for given in (last, first, torch.from_numpy(last.copy()), torch.from_numpy(first)):
        for one in (given, given[None], [given], (one for one in [given])):
            (found,) = pixels_of(one)
            assert found.shape == (64, 96, 3)
            assert np.abs(found.astype(int) - expected).max() <= (channels == 4), (kind, channels)
    if channels == 1:
        assert np.array_equal(pixels_of(last[..., 0])[0], expected)
        assert np.array_equal(pixels_of(torch.from_numpy(first[0]))[0], expected)
    assert len(pixels_of(np.stack([last] * 3))) == 3
    assert len(pixels_of([np.stack([last] * 3), Image.fromarray(photo)])) == 4


def test_bfloat16_and_a_gradient(photo: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(photo.copy()).permute(2, 0, 1)
    halves = (tensor / 255).to(torch.bfloat16).requires_grad_()
    assert np.abs(pixels_of(halves)[0].astype(int) - photo).max() <= 1
    white = pixels_of(tensor)[0]
    assert np.array_equal(white, photo), "uint8 is not taken for floats"


def test_the_order_of_bytes_changes_no_level(photo: np.ndarray) -> None:
    for kind in (">u2", "<u2"):
        assert np.array_equal(pixels_of((photo.astype(np.uint16) * 257).astype(kind))[0], photo)
    assert np.array_equal(pixels_of((photo / 255).astype(">f4"))[0], photo)


def test_what_is_no_image_is_a_sentence(photo: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    floats = photo.astype(np.float32)
    for wrong, told in (
        (floats, r"not float32 of 64x96x3 from \d+ to \d+"),
        (floats / 127.5 - 1, r"from -\d"),
        (np.full((8, 8, 3), np.nan), "from nan to nan"),
        (photo.astype(np.int64), "not int64 of 64x96x3"),
        (photo > 100, "not bool of"),
        (photo[..., :2], "not uint8 of 64x96x2"),
        (photo[:0], "not uint8 of 0x96x3"),
        (photo[0, 0], "not uint8 of 3"),
        (photo[None, None], "not uint8 of 1x1x64x96x3"),
        (torch.zeros(2, 5, 8, 8), "not float32 of 2x5x8x8"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), "not int32 of 3x8x8"),
        (torch.from_numpy(photo.copy()).to_sparse(), "this tensor cannot be read"),
        (torch.empty(3, 8, 8, device="meta"), "this tensor cannot be read"),
        (memoryview(photo), "not a memoryview"),
        ("photo.jpg", "not a str"),
        (["photo.jpg"], "not a str"),
        ([[1, 2], [3, 4]], "not a list"),
        (None, "not a NoneType"),
        (5, "not a int"),
    ):
        with pytest.raises(ValueError, match=rf"an image is one of Pillow's.*uint8.*{told}"):
            pixels_of(wrong)


def test_a_damaged_file_is_its_reason(photo: np.ndarray) -> None:
    data = encoded(Image.fromarray(photo), "PNG")
    with pytest.raises(ValueError, match="the file ends before the picture does"):
        pixels_of(Image.open(io.BytesIO(data[: len(data) // 2])))
    closed = Image.open(io.BytesIO(data))
    closed.close()
    with pytest.raises(ValueError, match="cannot be read"):
        pixels_of(closed)


def test_a_format_that_curation_does_not_read_is_taken_from_pillow(photo: np.ndarray) -> None:
    for kind in ("PPM", "TGA", "PCX"):
        assert np.array_equal(pixels_of(Image.open(io.BytesIO(encoded(Image.fromarray(photo), kind))))[0], photo)
