"""Nothing but what makes the pixels is left, wherever the tag stood: read back by Pillow and from the bytes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from lucidflux_data.images import ImageError, decode_full
from lucidflux_data.shards.strip_png import PNG_SIGNATURE
from lucidflux_data.shards.stripping import strip

SECRET = b"A. Person, 48.858 N"
ORIENTATION, ARTIST, COPYRIGHT, GPS, EXIF = 0x0112, 0x013B, 0x8298, 0x8825, 0x8769
BOTH = ("gps", "author")
KINDS = ["JPEG", "PNG", "WEBP"]


def photo() -> Image.Image:
    import skimage.data

    return Image.fromarray(skimage.data.chelsea()[:120, :160])


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or photo()).save(file, kind, **options)
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def tags(orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION], exif[ARTIST], exif[COPYRIGHT], exif[0x010F] = orientation, SECRET.decode(), "CC BY 4.0", "Camera"
    exif.get_ifd(GPS)[1] = "N"
    exif.get_ifd(GPS)[2] = (48.0, 51.0, 29.0)
    exif.get_ifd(EXIF)[0xA430] = SECRET.decode()
    return exif.tobytes()


def check_clean(data: bytes, what: tuple[str, ...] = BOTH) -> bytes:
    """The stripped image: same pixels, flags and colour profile, no secret, and nothing more to strip."""
    left = strip(data, what)
    before, after = decode_full(data), decode_full(left)
    assert np.array_equal(before.pixels, after.pixels)
    assert before.flags == after.flags
    assert before.header.icc == after.header.icc
    assert SECRET not in left
    assert b"Person" not in left
    assert strip(left, what) == left
    return left


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", [("gps",), ("author",), BOTH])
def test_exif_is_made_anew_with_the_orientation_alone(kind: str, what: tuple[str, ...]) -> None:
    left = check_clean(encoded(kind, exif=tags()), what)
    found = Image.open(io.BytesIO(left)).getexif()
    notice = {COPYRIGHT: "CC BY 4.0"} if what == ("gps",) else {}
    assert dict(found) == {ORIENTATION: 6, **notice}
    assert decode_full(left).flags == ("orientation",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_kept(kind: str, orientation: int) -> None:
    left = check_clean(encoded(kind, exif=tags(orientation)))
    assert Image.open(io.BytesIO(left)).getexif().get(ORIENTATION, 1) == orientation
    assert (b"Exif" in left or b"eXIf" in left or b"EXIF" in left) == (orientation != 1)


@pytest.mark.parametrize("kind", [*KINDS])
def test_an_orientation_that_xmp_tells_is_kept_and_the_xmp_goes(kind: str) -> None:
    xmp = b"<x:xmpmeta><dc:creator>" + SECRET + b'</dc:creator><a tiff:Orientation="8"/></x:xmpmeta>'
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        data = encoded(kind, pnginfo=info)
    else:
        data = encoded(kind, xmp=xmp)
    assert decode_full(data).header.orientation == 8
    assert b"xmpmeta" not in check_clean(data)


APP1, APP2, APP13, COM = 0xE1, 0xE2, 0xED, 0xFE
XMP_MORE = b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)
JPEG_HEADS = {
    "xmp": segment(APP1, b"http://ns.adobe.com/xap/1.0/\0<exif:GPSLatitude>" + SECRET),
    "extended xmp": segment(APP1, XMP_MORE + SECRET),
    "exif behind a fill byte": b"\xff" + segment(APP1, tags(1)),
    "exif behind many fill bytes": b"\xff" * 7 + segment(APP1, tags(1)),
    "two exifs": segment(APP1, tags(1)) + segment(APP1, b"Exif\0\0" + SECRET),
    "exif without a form": segment(APP1, b"Exif\0\0MM\x07*" + SECRET),
    "comment": segment(COM, SECRET),
    "iptc": segment(APP13, b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\x1a\x1c\x02\x50" + SECRET),
    "index of pictures": segment(APP2, b"MPF\0" + SECRET),
    "flashpix": segment(APP2, b"FPXR\0" + SECRET),
    "jfif preview": segment(0xE0, b"JFXX\0\x10" + SECRET),
    "any other": segment(0xE5, SECRET) + segment(0xEF, SECRET),
}


@pytest.mark.parametrize("name", JPEG_HEADS)
@pytest.mark.parametrize("what", [("gps",), ("author",), BOTH])
@pytest.mark.parametrize("progressive", [False, True])
def test_what_stands_before_a_jpeg_goes(name: str, what: tuple[str, ...], progressive: bool) -> None:
    plain = encoded("JPEG", quality=90, progressive=progressive)
    after_jfif = 2 + 18
    data = plain[:after_jfif] + JPEG_HEADS[name] + plain[after_jfif:]
    expected = plain
    if "exif" in name and what == ("gps",) and "form" not in name:
        assert b"CC BY 4.0" in (left := check_clean(data, what))
        assert len(left) < len(plain) + 80
    else:
        assert check_clean(data, what) == expected


def test_what_stands_behind_or_between_the_scans_of_a_jpeg_goes() -> None:
    plain = encoded("JPEG", quality=90, progressive=True)
    second = plain.index(b"\xff\xda", plain.index(b"\xff\xda") + 2)
    tables = plain.rindex(b"\xff\xc4", 0, second)
    between = plain[:tables] + segment(COM, SECRET) + b"\xff" + segment(APP1, tags()) + plain[tables:]
    assert SECRET in between
    left = strip(between, BOTH)
    assert SECRET not in left
    assert np.array_equal(decode_full(left).pixels, decode_full(between).pixels)
    assert check_clean(plain + SECRET) == plain
    assert check_clean(plain + encoded("JPEG", exif=tags())) == plain


def test_restart_markers_stay() -> None:
    plain = encoded("JPEG", photo().crop((0, 0, 37, 51)), quality=95, restart_marker_blocks=1)
    assert b"\xff\xd0" in plain
    assert check_clean(plain) == plain


def test_the_second_picture_of_an_mpo_goes() -> None:
    other = Image.fromarray(np.asarray(photo())[::-1].copy())
    data = encoded("MPO", save_all=True, append_images=[other], exif=tags(1))
    assert Image.open(io.BytesIO(data)).n_frames == 2
    left = check_clean(data)
    assert Image.open(io.BytesIO(left)).format == "JPEG"
    assert left.count(b"\xff\xd8\xff") == 1
    assert len(left) < 0.7 * len(data)


def test_a_motion_photo_loses_its_film() -> None:
    plain = encoded("JPEG")
    assert check_clean(plain + b"\0\0\0\x18ftypmp42" + SECRET * 50) == plain


def test_a_preview_in_jfif_goes() -> None:
    plain = encoded("JPEG")
    body = plain[6:20][:12] + bytes([2, 2]) + SECRET[:12]
    data = plain[:2] + segment(0xE0, body) + plain[20:]
    assert check_clean(data) == plain


def test_cmyk_and_profile_keep_their_colours() -> None:
    assert b"Adobe" in check_clean(encoded("JPEG", photo().convert("CMYK"), exif=tags()))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for kind in KINDS:
        assert decode_full(check_clean(encoded(kind, icc_profile=profile, exif=tags()))).header.icc == profile


def raw_profile(name: bytes) -> bytes:
    body = tags(3)
    text = b"\nexif\n%8d\n" % len(body) + body.hex().encode() + b"\n"
    return chunk(b"zTXt", b"Raw profile type " + name + b"\0\0" + zlib.compress(text))


PNG_PARTS = {
    "exif in text": chunk(b"tEXt", b"exif:GPSLatitude\0" + SECRET),
    "artist": chunk(b"tEXt", b"Artist\0" + SECRET),
    "author": chunk(b"iTXt", b"Author\0\0\0\0\0" + SECRET),
    "raw profile": raw_profile(b"APP1"),
    "raw profile of exif": raw_profile(b"exif"),
    "raw profile of iptc": raw_profile(b"iptc"),
    "packed xmp": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(SECRET)),
    "time": chunk(b"tIME", bytes(7)),
    "private": chunk(b"prVt", SECRET),
    "unknown": chunk(b"caBX", SECRET),
}


@pytest.mark.parametrize("name", PNG_PARTS)
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("what", [("gps",), ("author",), BOTH])
def test_texts_of_a_png_go_before_and_behind_the_picture(name: str, behind: bool, what: tuple[str, ...]) -> None:
    plain = encoded("PNG")
    at = len(plain) - 12 if behind else 8 + 25
    data = plain[:at] + PNG_PARTS[name] + plain[at:] + SECRET
    left = check_clean(data, what)
    kinds = [kind for kind in (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"prVt", b"caBX") if kind in left]
    assert kinds == []
    if decode_full(data).header.orientation == 1:
        assert left == plain


def test_a_png_keeps_what_makes_its_pixels() -> None:
    palette = photo().quantize(16)
    data = encoded("PNG", palette, transparency=3, dpi=(300, 300), exif=tags())
    left = check_clean(data)
    assert all(kind in left for kind in (b"PLTE", b"tRNS", b"pHYs", b"eXIf"))
    head = chunk(b"gAMA", struct.pack(">I", 45455)) + chunk(b"sRGB", b"\0") + chunk(b"bKGD", bytes(6))
    plain = encoded("PNG")
    data = plain[:33] + head + plain[33:]
    assert check_clean(data) == data
    frames = encoded("PNG", save_all=True, append_images=[photo().rotate(180)], duration=100)
    assert check_clean(frames) == frames
    assert Image.open(io.BytesIO(frames)).n_frames == 2


@pytest.mark.parametrize("lossless", [False, True])
def test_flags_of_a_webp_say_what_is_in_it(lossless: bool) -> None:
    alpha = photo().convert("RGBA")
    alpha.putalpha(128)
    data = encoded("WEBP", alpha, lossless=lossless, exif=tags(1), xmp=SECRET)
    left = check_clean(data)
    assert left[12:16] == b"VP8X"
    assert left[20] == data[20] & ~(4 | 8)
    assert len(left) == 8 + int.from_bytes(left[4:8], "little")
    turned = check_clean(encoded("WEBP", alpha, lossless=lossless, exif=tags(5), xmp=SECRET))
    assert turned[20] & (4 | 8) == 8
    assert b"XMP " not in turned


def test_frames_and_strange_chunks_of_a_webp() -> None:
    frames = encoded("WEBP", save_all=True, append_images=[photo().rotate(180)], exif=tags(1), quality=80)
    at = frames.index(b"ANMF")
    size = int.from_bytes(frames[at + 4 : at + 8], "little")
    inside = b"note" + struct.pack("<I", len(SECRET)) + SECRET + bytes(len(SECRET) % 2)
    frame = b"ANMF" + struct.pack("<I", size + len(inside)) + frames[at + 8 : at + 8 + size] + inside
    body = frames[12:at] + frame + frames[at + 8 + size :] + b"priv" + inside[4:]
    data = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body + SECRET
    left = check_clean(data)
    assert Image.open(io.BytesIO(left)).n_frames == 2
    assert left == strip(frames, BOTH)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_without_anything_else_keeps_its_bytes(kind: str) -> None:
    data = encoded(kind)
    assert strip(data, BOTH) == data
    assert strip(encoded(kind, exif=tags()), ()) == encoded(kind, exif=tags())


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "AVIF"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="jpeg, png, webp alone"):
        strip(encoded(kind), BOTH)


def test_real_photos_keep_their_pixels(photo_paths: list[Path]) -> None:
    seen = set()
    for path in photo_paths:
        data = path.read_bytes()
        if data.startswith((b"\xff\xd8", PNG_SIGNATURE)):
            check_clean(data)
            seen.add(data[:2])
    assert seen == {b"\xff\xd8", PNG_SIGNATURE[:2]}


def test_a_structure_that_ends_early_is_no_success() -> None:
    png = encoded("PNG", exif=tags())
    with pytest.raises(ImageError):
        strip(png[:-12], BOTH)
    jpeg = encoded("JPEG", exif=tags())
    with pytest.raises(ImageError):
        strip(jpeg[:60], BOTH)


def test_what_hides_in_the_jpeg_segments_that_stay_goes() -> None:
    plain = encoded("JPEG", quality=90)
    for head in (
        segment(0xDC, SECRET),
        segment(APP2, b"ICC_PROFILE\0\1\1" + SECRET),
        segment(APP2, b"ICC_PROFILE\0\9\1" + SECRET),
    ):
        data = plain[:20] + head + plain[20:]
        left = strip(data, BOTH)
        assert SECRET not in left
        assert np.array_equal(decode_full(left).pixels, decode_full(data).pixels)
        assert strip(left, BOTH) == left


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_what_hides_in_the_png_chunks_that_stay_goes(mode: str) -> None:
    plain = encoded("PNG", photo().convert(mode))
    head, end, picture = 33, len(plain) - 12, plain.index(b"IDAT") - 4
    size = int.from_bytes(plain[picture : picture + 4], "big")
    tailed = chunk(b"IDAT", plain[picture + 8 : picture + 8 + size] + SECRET)
    odd = {
        kind: plain[:head] + chunk(kind, SECRET) + plain[head:]
        for kind in (b"gAMA", b"sRGB", b"sBIT", b"pHYs", b"acTL")
    }
    odd |= {
        kind: plain[:picture] + chunk(kind, SECRET) + plain[picture:] for kind in (b"tRNS", b"PLTE") if mode == "RGB"
    }
    odd[b"iCCP"] = plain[:head] + chunk(b"iCCP", b"n\0\0" + zlib.compress(b"x") + SECRET) + plain[head:]
    odd[b"IEND"] = plain[:end] + chunk(b"IEND", SECRET)
    odd[b"IDAT"] = plain[:end] + chunk(b"IDAT", SECRET) + plain[end:]
    if plain[picture + 12 + size :] == plain[end:]:
        odd[b"tail"] = plain[:picture] + tailed + plain[end:]
    for kind, data in odd.items():
        left = strip(data, BOTH)
        assert SECRET not in left, kind
        assert np.array_equal(decode_full(left).pixels, decode_full(plain).pixels), kind
        assert strip(left, BOTH) == left
    assert strip(plain, BOTH) == plain


def test_a_webp_profile_that_is_none_goes() -> None:
    data = encoded("WEBP", lossless=True, icc_profile=SECRET * 3)
    left = strip(data, BOTH)
    assert SECRET not in left
    assert np.array_equal(decode_full(left).pixels, decode_full(data).pixels)
