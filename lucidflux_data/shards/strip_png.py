"""A PNG with nothing but what its decoder uses: each chunk once, in its place and of its size, and what moves where it
moves."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator

from lucidflux_data.codecs.header import Header
from lucidflux_data.errors import ImageError
from lucidflux_data.images import probe
from lucidflux_data.shards.strip_parts import cut_profile, make_exif

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Bytes of the chunks that have a fixed size; decoders pass over one of another length.
BYTES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"pHYs": 9, b"acTL": 8}
# The same by colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha.
BYTES_BY_COLOUR = {
    b"sBIT": {0: 1, 2: 3, 3: 3, 4: 2, 6: 4},
    b"bKGD": {0: 2, 2: 6, 3: 1, 4: 2, 6: 6},
    b"tRNS": {0: 2, 2: 6},
}
PALETTE = 3  # the colour type of a palette, and what it may have of these:
MOST_WITH_PALETTE = {b"PLTE": 768, b"tRNS": 256}
FCTL_BYTES, NUMBER_BYTES = 26, 4  # of a frame's head; of the number before a frame's data
INFLATED = 1 << 20  # bytes at a time in the search for the end of a picture
PROFILE_NAME = b"ICC Profile"
PROFILE_NAMES = frozenset({PROFILE_NAME, b"ICC profile", b"icc", b"ICC", b"Photoshop ICC profile"})


def strip_png(data: bytes, what: Collection[str]) -> bytes:
    """`data` without what no decoder uses. Raises ImageError."""
    header = probe(data, max_pixels=2**62)
    chunks = list(_read_png(data))
    exif = next((body for kind, body, _ in reversed(chunks) if kind == b"eXIf"), b"")
    new = make_exif(header.orientation, exif, what)
    made = _png_chunk(b"eXIf", new) if new else b""
    first = next((k for k, (kind, _, _) in enumerate(chunks) if kind == b"IDAT"), len(chunks))
    ahead = _strip_ahead(chunks[:first], header, data[25])
    return b"".join([PNG_SIGNATURE, *ahead, made, *_strip_pictures(chunks, first, header.animated)])


def _strip_ahead(chunks: list[tuple[bytes, bytes, bool]], header: Header, colour: int) -> Iterator[bytes]:
    """The chunks before the picture that stay. `colour`: the colour type."""
    seen = set()
    profiles = [_strip_profile(body, header.icc) if kind == b"iCCP" and right else b"" for kind, body, right in chunks]
    last = max((k for k, profile in enumerate(profiles) if profile), default=-1)
    for k, (kind, body, right) in enumerate(chunks):
        if kind == b"fcTL" and header.animated and len(body) == FCTL_BYTES:
            stays = right
        elif kind == b"iCCP":
            stays, body = k == last, profiles[k] or body
        else:
            stays = (right or kind in (b"IHDR", b"PLTE", b"cICP")) and _is_of_its_size(kind, len(body), colour)
            stays = stays and (kind != b"acTL" or header.animated)
        if stays and kind not in seen:
            seen.add(kind)
            yield _png_chunk(kind, body)


def _strip_profile(body: bytes, icc: bytes | None) -> bytes:
    """The content of iCCP up to the end of its profile; b"" where that is none, or not `icc`, by which it is decoded.
    The name before it stays where it says nothing."""
    name, found, packed = body.partition(b"\0")
    if not found or packed[:1] != b"\0":
        return b""
    unpack = zlib.decompressobj()
    try:
        whole = unpack.decompress(packed[1:])
    except zlib.error:
        return b""
    profile = cut_profile(whole)
    if profile is None or (icc is not None and whole != icc):
        return b""
    kept = packed[: len(packed) - len(unpack.unused_data)] if profile == whole else b"\0" + zlib.compress(profile)
    return (name if name in PROFILE_NAMES else PROFILE_NAME) + b"\0" + kept


def _is_of_its_size(kind: bytes, size: int, colour: int) -> bool:
    """`colour`: the colour type of the PNG. A palette beside RGB is a hint, and decides no pixel."""
    if colour == PALETTE and kind in MOST_WITH_PALETTE:
        return size <= MOST_WITH_PALETTE[kind]
    if kind in BYTES_BY_COLOUR:
        return BYTES_BY_COLOUR[kind].get(colour) == size
    return kind == b"IHDR" or BYTES.get(kind) == size


def _strip_pictures(chunks: list[tuple[bytes, bytes, bool]], first: int, animated: bool) -> Iterator[bytes]:
    """The picture from chunk `first` on, the frames of one that moves, and the end."""
    frames = int.from_bytes(next((body[:4] for kind, body, _ in chunks if kind == b"acTL"), b""), "big")
    frames -= sum(kind == b"fcTL" for kind, *_ in chunks[:first])
    picture, frame = zlib.decompressobj(), None
    for k, (kind, body, _) in enumerate(chunks[first:]):
        if kind == b"IDAT":
            left = _without_tail(picture, body)
            if left or k == 0 or not body:
                yield _png_chunk(kind, body[:left])
        elif kind == b"fcTL" and animated and len(body) == FCTL_BYTES:
            frames -= 1
            frame = zlib.decompressobj() if frames >= 0 else None
            if frame is not None:
                yield _png_chunk(kind, body)
        elif kind == b"fdAT" and frame is not None:
            try:
                left = _without_tail(frame, body[NUMBER_BYTES:])
            except ImageError:  # a damaged frame is shown by nobody
                frame = None
            else:
                yield _png_chunk(kind, body[: NUMBER_BYTES + left])
    yield _png_chunk(b"IEND", b"")


def _read_png(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """(type, content, whether its CRC is right) of each chunk before IEND."""
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 8 + size
        if kind == b"IEND":
            return
        if end + 4 > len(data):
            raise ImageError("unreadable", f"its PNG chunk at byte {position} does not end")
        yield kind, data[position + 8 : end], data[end : end + 4] == _crc(data[position + 4 : end])
        position = end + 4
    raise ImageError("unreadable", "its PNG chunks end without IEND")


def _crc(named: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(named))


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + _crc(kind + body)


def _without_tail(picture: zlib._Decompress, body: bytes) -> int:
    """How many bytes of the next chunk belong to the picture. ImageError `unreadable` where it is damaged."""
    if picture.eof:
        return 0
    rest = body
    try:
        while rest and not picture.eof:
            picture.decompress(rest, INFLATED)
            rest = picture.unconsumed_tail
    except zlib.error:
        raise ImageError("unreadable", "its picture data are damaged") from None
    return len(body) - len(picture.unused_data)
