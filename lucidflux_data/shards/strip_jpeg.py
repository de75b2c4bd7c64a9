"""A JPEG with nothing but what its decoder uses: one frame, its scans, tables, colour and resolution."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator

from lucidflux_data.errors import ImageError
from lucidflux_data.images import probe
from lucidflux_data.shards.strip_parts import check_pixels, cut_profile, make_exif

SOI, EOI, SOS, DRI, JFIF, ICC = b"\xff\xd8", 0xD9, 0xDA, 0xDD, 0xE0, 0xE2
EXIF_HEAD, ICC_HEAD = b"Exif\0\0", b"ICC_PROFILE\0"
ICC_MOST = 65_519  # bytes of a profile in one segment
JFIF_BYTES, ADOBE_BYTES = 14, 12  # without the preview that may follow in the same segment
ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and RST have no length
TABLES = frozenset({0xC4, 0xCC, 0xDB, DRI})  # DHT, DAC, DQT
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
ONE_PASS = frozenset({0xC0, 0xC1, 0xC9})  # frames whose every component comes in one scan
COMPONENTS = 5  # the byte of a frame that counts them
END_OF_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # FF00 is a coded FF; RST belongs to the scan
END_OF_RESTARTS = re.compile(rb"\xff+[\xc0-\xcf\xd8-\xfe]")  # other markers between RSTs are passed over by decoders


def strip_jpeg(data: bytes, what: Collection[str]) -> bytes:
    """`data` without what no decoder uses. Raises ImageError."""
    header = probe(data, max_pixels=2**62)
    used = _read_used(data)
    first = next((k for k, (marker, _, _) in enumerate(used) if marker == SOS), 0)
    exif = next((body for marker, body, _ in used[:first] if marker == 0xE1 and body.startswith(EXIF_HEAD)), b"")
    new = make_exif(header.orientation, exif, what)
    made = [_segment(0xE1, EXIF_HEAD + new)] if new else []
    ahead = list(_strip_ahead([(marker, body) for marker, body, _ in used[:first]], header.icc))
    jfif, ahead = ahead[: _is_jfif(ahead)], ahead[_is_jfif(ahead) :]
    scans = [_segment(marker, body) + scan for marker, body, scan in used[first:] if marker in {*TABLES, SOS}]
    left = b"".join([SOI, *jfif, *made, *ahead, *scans, b"\xff\xd9" if header.ended else b""])
    if not header.ended:  # whether it is whole is told by what may follow
        check_pixels(data, left)
    return left


def _is_jfif(segments: list[bytes]) -> bool:
    return bool(segments) and segments[0][1] == JFIF


def _read_used(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """The segments up to the last scan, with one frame: tables behind the last scan are of nothing, and of a picture
    that comes in one scan another scan is not read."""
    used: list[tuple[int, bytes, bytes]] = []
    frame, size = b"", 0
    for marker, body, scan in _read_jpeg(data):
        if marker in FRAMES:
            if frame:
                continue
            frame = bytes([marker]) + body
        used.append((marker, body, scan))
        if marker == SOS:
            size = len(used)
            if frame[:1] and frame[0] in ONE_PASS and body[:1] == frame[1 + COMPONENTS : 2 + COMPONENTS]:
                break
    return used[:size]


def _strip_ahead(segments: list[tuple[int, bytes]], icc: bytes | None) -> Iterator[bytes]:
    """What stays before the first scan: frame and tables, JFIF once, the last Adobe segment, the profile `icc`."""
    profile = cut_profile(icc)
    last_adobe = max((k for k, (marker, body) in enumerate(segments) if _is_adobe(marker, body)), default=-1)
    seen = set()
    for k, (marker, body) in enumerate(segments):
        if marker in FRAMES | TABLES:
            yield _segment(marker, body)
        elif marker == JFIF and body.startswith(b"JFIF\0") and len(body) >= JFIF_BYTES and marker not in seen:
            seen.add(marker)
            yield _segment(marker, body[: JFIF_BYTES - 2] + bytes(2))
        elif k == last_adobe:
            yield _segment(marker, body[:ADOBE_BYTES])
        elif marker == ICC and body.startswith(ICC_HEAD) and profile is not None:
            if profile == icc:
                yield _segment(marker, body)
            elif marker not in seen:
                yield from _icc_segments(profile)
            seen.add(marker)


def _is_adobe(marker: int, body: bytes) -> bool:
    return marker == 0xEE and body.startswith(b"Adobe") and len(body) >= ADOBE_BYTES


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _icc_segments(profile: bytes) -> list[bytes]:
    parts = [profile[at : at + ICC_MOST] for at in range(0, len(profile), ICC_MOST)]
    return [_segment(ICC, ICC_HEAD + bytes([n, len(parts)]) + part) for n, part in enumerate(parts, 1)]


def _read_jpeg(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(marker, body, coded data behind it) of each segment up to EOI, over fill and stray bytes."""
    position, restarts = 2, False
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            return
        while data[position : position + 1] == b"\xff":
            position += 1
        if position >= len(data) or data[position] == EOI:
            return
        marker = data[position]
        position += 1
        if marker == 0 or marker in ALONE or marker == SOI[1]:
            continue
        size = int.from_bytes(data[position : position + 2], "big")
        if size < 2 or position + size > len(data):
            raise ImageError("unreadable", f"its JPEG segment at byte {position} does not end")
        body = data[position + 2 : position + size]
        position += size
        scan = b""
        if marker == DRI:
            restarts = any(body)
        if marker == SOS:
            end = _end_of_scan(data, position, restarts)
            scan, position = data[position:end], end
        yield marker, body, scan


def _end_of_scan(data: bytes, start: int, restarts: bool) -> int:
    """Where the coded data that begin at `start` end. `restarts`: a decoder looks for the next RST behind damage."""
    last = start
    if restarts:
        found = END_OF_RESTARTS.search(data, start)
        end = found.start() if found else len(data)
        last = max(start, *(data.rfind(bytes([0xFF, rst]), start, end) for rst in range(0xD0, 0xD8)))
    found = END_OF_SCAN.search(data, last)
    return found.start() if found else len(data)
