"""Parts that may stay go where no decoder of the picture reads them: read back by decoding and from the bytes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from lucidflux_data.images import ImageError, decode_full, probe
from lucidflux_data.shards.stripping import strip
from tests.lucidflux_data.shards.test_stripping import BOTH, SECRET, chunk, encoded, photo, segment

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()


def check_gone(data: bytes, plain: bytes | None = None) -> bytes:
    """What is left: the same pixels and flags, no secret, `plain` where given, and nothing more to strip."""
    left, before = strip(data, BOTH), decode_full(data)
    after = decode_full(left)
    assert np.array_equal(before.pixels, after.pixels)
    assert before.flags == after.flags
    assert SECRET not in left
    assert strip(left, BOTH) == left
    assert plain is None or left == plain
    return left


def riff(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def webp(*parts: bytes) -> bytes:
    content = b"".join(parts)
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content


ODD_SEGMENTS = {
    **{f"marker {marker:02X}": segment(marker, SECRET) for marker in (0x02, 0xBF, 0xC8, 0xDC, 0xDE, 0xDF, 0xF0, 0xFD)},
    "application": segment(0xE1, b"Exif\0\0" + SECRET) + segment(0xE2, b"ICC_PROFILE\0\1\1" + SECRET),
    "jfif again": segment(0xE0, b"JFIF\0\1\1" + SECRET),
    "adobe again": segment(0xEE, b"Adobe" + SECRET),
    "another frame": segment(0xC0, SECRET),
    "tables": segment(0xDB, b"\3" + SECRET.ljust(64)) + segment(0xC4, b"\x13" + bytes(15) + b"\x13" + SECRET),
    "another scan": segment(0xDA, b"\1\1\0\0\x3f\0") + SECRET,
    "another picture": b"\xff\xd8" + segment(0xFE, SECRET) + b"\xff\xd9",
}


@pytest.mark.parametrize("name", ODD_SEGMENTS)
def test_behind_the_last_scan_of_a_jpeg_nothing_stays(name: str) -> None:
    for options in ({}, {"restart_marker_blocks": 3}):
        plain = encoded("JPEG", quality=80, **options)
        check_gone(plain[:-2] + ODD_SEGMENTS[name] + plain[-2:], plain)


def test_between_the_scans_of_a_jpeg_only_tables_stay() -> None:
    plain = encoded("JPEG", quality=80, progressive=True)
    second = plain.index(b"\xff\xda", plain.index(b"\xff\xda") + 2)
    tables = plain.rindex(b"\xff\xc4", 0, second)
    for name in ("application", "jfif again", "adobe again"):
        check_gone(plain[:tables] + ODD_SEGMENTS[name] + plain[tables:], plain)
    check_gone(plain[:-2] + ODD_SEGMENTS["tables"] + plain[-2:], plain)
    assert strip(plain, BOTH) == plain


def test_what_comes_twice_before_a_jpeg_stays_once() -> None:
    plain = encoded("JPEG", photo().convert("CMYK"))
    adobe = plain[plain.index(b"\xff\xee") :][:16]
    check_gone(plain[:2] + adobe[:9] + b"Person\0"[:7] + plain[2:], plain)
    plain = encoded("JPEG")
    check_gone(plain[:20] + segment(0xE0, b"JFIF\0" + b"Person\0\0\0"[:9]) + plain[20:], plain)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_profile_ends_where_it_says(kind: str) -> None:
    plain = encoded(kind, icc_profile=PROFILE)
    left = check_gone(encoded(kind, icc_profile=PROFILE + SECRET * 9))
    assert decode_full(left).header.icc == PROFILE
    assert left == plain
    assert strip(plain, BOTH) == plain


def parts(png: bytes) -> tuple[bytes, bytes, bytes]:
    """(signature and IHDR, picture, IEND) of a PNG that has nothing else."""
    return png[:33], png[33:-12], png[-12:]


FRAME = struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 10, 0, 0)
WHOLE = struct.pack(">IIIIIHHBB", 0, 160, 120, 0, 0, 1, 10, 0, 0)
STILL = {
    "data of a frame": (b"", chunk(b"fdAT", bytes(4) + SECRET)),
    "a frame": (chunk(b"fcTL", FRAME), chunk(b"fcTL", FRAME) + chunk(b"fdAT", bytes(4) + SECRET)),
    "one frame": (chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(b"fcTL", WHOLE), chunk(b"fdAT", bytes(4) + SECRET)),
    "late head": (b"", chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fdAT", bytes(4) + SECRET)),
    "colours behind": (b"", chunk(b"cHRM", SECRET[:16] * 2) + chunk(b"gAMA", b"Pers") + chunk(b"bKGD", SECRET[:6])),
    "profile behind": (b"", chunk(b"iCCP", b"A. Person\0\0" + zlib.compress(PROFILE))),
}


@pytest.mark.parametrize("name", STILL)
def test_a_still_png_keeps_nothing_that_moves_or_stands_behind(name: str) -> None:
    plain = encoded("PNG")
    head, picture, end = parts(plain)
    before, behind = STILL[name]
    check_gone(head + before + picture + behind + end + SECRET, plain)


def test_chunks_of_a_png_stay_once_and_with_a_right_checksum() -> None:
    head, picture, end = parts(encoded("PNG"))
    gamma, tone = chunk(b"gAMA", struct.pack(">I", 45455)), chunk(b"cHRM", bytes(32))
    check_gone(
        head + gamma + tone + chunk(b"cHRM", SECRET[:16] * 2) * 3 + picture + end, head + gamma + tone + picture + end
    )
    broken = chunk(b"pHYs", SECRET[:9])[:-1] + b"?"
    check_gone(head + broken + picture + end, head + picture + end)
    for size in (1, 2):  # a background of RGB has six bytes, significant bits three
        odd = chunk(b"bKGD", SECRET[:size]) + chunk(b"sBIT", SECRET[:size])
        check_gone(head + odd + picture + end, head + picture + end)


def test_the_name_of_a_png_profile_says_nothing() -> None:
    plain = encoded("PNG", icc_profile=PROFILE)
    head, _, _ = parts(plain)
    packed = zlib.compress(PROFILE)
    rest = plain[plain.index(b"IDAT") - 4 :]
    clean = head + chunk(b"iCCP", b"ICC Profile\0\0" + packed) + rest
    check_gone(head + chunk(b"iCCP", SECRET + b"\0\0" + packed) + rest, clean)
    check_gone(
        head + chunk(b"iCCP", b"icc\0\0" + packed + SECRET) + rest, head + chunk(b"iCCP", b"icc\0\0" + packed) + rest
    )
    named = chunk(b"cICP", bytes([12, 13, 0, 1]))
    check_gone(head + named + chunk(b"iCCP", b"icc\0\0" + zlib.compress(SECRET * 9)) + rest, head + named + rest)


def test_a_png_that_moves_keeps_its_frames_and_nothing_else() -> None:
    frames = encoded("PNG", save_all=True, append_images=[photo().rotate(180)], duration=100)
    last = frames.rindex(b"fdAT") - 4
    size = int.from_bytes(frames[last : last + 4], "big")
    tailed = frames[:last] + chunk(b"fdAT", frames[last + 8 : last + 8 + size] + SECRET) + frames[-12:]
    more = chunk(b"fcTL", FRAME) + chunk(b"fdAT", bytes(4) + zlib.compress(SECRET))
    for data in (tailed, frames[:-12] + chunk(b"fdAT", bytes(4) + SECRET) + more + frames[-12:]):
        left = check_gone(data)
        assert Image.open(io.BytesIO(left)).n_frames == 2
        assert left.startswith(frames[:-12])
        assert len(left) <= len(frames) + 16  # a chunk that nothing is left of
    assert strip(frames, BOTH) == frames


def test_a_still_webp_keeps_one_picture() -> None:
    plain = encoded("WEBP", quality=80)
    odd = [riff(kind, SECRET) for kind in (b"ALPH", b"ANIM", b"ANMF", b"VP8X", b"VP8 ", b"VP8L", b"ICCP")]
    check_gone(webp(plain[12:], *odd) + SECRET, plain)
    head = riff(b"VP8X", bytes(4) + SIZE)
    clean = webp(head, plain[12:])
    assert strip(clean, BOTH) == clean
    check_gone(webp(head, riff(b"ICCP", SECRET), plain[12:], riff(b"ANIM", SECRET)) + SECRET, clean)
    for flag in (4, 8, 32):  # XMP, Exif, a profile
        check_gone(webp(riff(b"VP8X", bytes([flag]) + b"per" + SIZE), plain[12:]), clean)
    lossless = encoded("WEBP", lossless=True)
    assert strip(lossless, BOTH) == lossless


SIZE = (159).to_bytes(3, "little") + (119).to_bytes(3, "little")


def test_alpha_of_a_webp_stays_where_it_is_seen() -> None:
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    for lossless in (False, True):
        plain = encoded("WEBP", image, lossless=lossless)
        assert strip(plain, BOTH) == plain
    picture, values = encoded("WEBP", quality=80)[12:], bytes(1) + np.asarray(image)[..., 3].tobytes()
    seen = riff(b"VP8X", bytes([16, 0, 0, 0]) + SIZE)
    check_gone(webp(seen, riff(b"ALPH", values + SECRET), picture), webp(seen, riff(b"ALPH", values), picture))
    unseen = riff(b"VP8X", bytes(4) + SIZE)
    for alpha in (SECRET, values + SECRET):
        hidden = webp(unseen, riff(b"ALPH", alpha), picture)
        assert strip(hidden, BOTH) == webp(unseen, picture)
        assert np.array_equal(decode_full(hidden).pixels, decode_full(webp(unseen, picture)).pixels)
    frames = encoded("WEBP", image, save_all=True, append_images=[image.rotate(180)], quality=80)
    assert strip(frames, BOTH) == frames
    check_gone(webp(frames[12:], riff(b"ANIM", SECRET)), frames)


def test_a_picture_that_is_read_from_its_tail_is_refused() -> None:
    """A partition of a WebP that says it is longer than the chunk is read on behind it."""
    plain = encoded("WEBP", quality=80)
    longer = bytearray(plain)
    first = int.from_bytes(plain[20:23], "little") + (40 << 5)  # bytes of the first partition: 19 bits behind 5 flags
    longer[20:23] = first.to_bytes(3, "little")
    with pytest.raises(ImageError):
        strip(bytes(longer[:-100]) + SECRET * 9, BOTH)
    assert probe(plain).ended
