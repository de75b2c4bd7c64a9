"""A WebP with nothing but what its decoder uses: one picture with its alpha, or the frames of one that moves."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from lucidflux_data.errors import ImageError
from lucidflux_data.images import probe
from lucidflux_data.shards.strip_parts import check_pixels, cut_profile, make_exif

PICTURES = (b"VP8 ", b"VP8L")
VP8X_BYTES, ANIM_BYTES, ANMF_HEAD = 10, 6, 16  # the last: a frame's place and duration before its chunks
HAS_PROFILE, HAS_ALPHA, HAS_EXIF, HAS_XMP, MOVES = 32, 16, 8, 4, 2  # flags of VP8X; the others are reserved


def strip_webp(data: bytes, what: Collection[str]) -> bytes:
    """`data` without what no decoder uses. Raises ImageError."""
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    chunks = list(_read_riff(data[12:end]))
    if not chunks:
        raise ImageError("unreadable", "it has no WebP chunk")
    left = _strip_extended(data, chunks, what) if chunks[0][0] == b"VP8X" else _riff(_chunk(*chunks[0]))
    if end < len(data):  # decoders read a damaged picture beyond its chunk
        check_pixels(data, left)
    return left


def _strip_extended(data: bytes, chunks: list[tuple[bytes, bytes]], what: Collection[str]) -> bytes:
    """Of a file that begins with VP8X, which says what is in it."""
    header = probe(data, max_pixels=2**62)
    exif = next((body for kind, body in chunks if kind == b"EXIF"), b"")
    new = make_exif(header.orientation, exif, what)
    profile = cut_profile(header.icc)
    head = chunks[0][1][:VP8X_BYTES]
    flags = head[0] & (HAS_ALPHA | MOVES) | (HAS_EXIF if new else 0) | (HAS_PROFILE if profile is not None else 0)
    parts = [_chunk(b"VP8X", bytes([flags]) + bytes(3) + head[4:])]
    parts += [_chunk(b"ICCP", profile)] if profile is not None else []
    parts += (_strip_frames if flags & MOVES else _strip_picture)(chunks, bool(flags & HAS_ALPHA))
    return _riff(b"".join(parts) + (_chunk(b"EXIF", new) if new else b""))


def _strip_frames(chunks: list[tuple[bytes, bytes]], has_alpha: bool) -> Iterator[bytes]:
    """What says how the picture moves, once, and its frames."""
    moves = next((body for kind, body in chunks if kind == b"ANIM"), None)
    if moves is not None:
        yield _chunk(b"ANIM", moves[:ANIM_BYTES])
    for kind, body in chunks:
        if kind == b"ANMF":
            inside = b"".join(_strip_picture(list(_read_riff(body[ANMF_HEAD:])), has_alpha))
            if inside:
                yield _chunk(kind, body[:ANMF_HEAD] + inside)


def _strip_picture(chunks: list[tuple[bytes, bytes]], has_alpha: bool) -> Iterator[bytes]:
    """The first picture and, before one that has none inside, its alpha, which is passed over where VP8X names none."""
    at = next((k for k, (kind, _) in enumerate(chunks) if kind in PICTURES), None)
    if at is None:
        return
    alpha = next((body for kind, body in chunks[:at] if kind == b"ALPH"), None)
    if alpha is not None and has_alpha and chunks[at][0] == b"VP8 ":
        yield _chunk(b"ALPH", alpha[: 1 + _count_pixels(chunks[at][1])] if alpha[:1] and not alpha[0] & 3 else alpha)
    yield _chunk(*chunks[at])


def _count_pixels(picture: bytes) -> int:
    """Of a lossy picture (RFC 6386, 9.1): what alpha that is not compressed has bytes."""
    width, height = (int.from_bytes(picture[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width * height


def _read_riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + size > len(data):
            raise ImageError("unreadable", f"its WebP chunk at byte {position} does not end")
        yield kind, data[position + 8 : position + 8 + size]
        position += 8 + size + size % 2


def _riff(content: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(content)) + b"WEBP" + content


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
