"""Pictures that are small as files and long or large for a decoder."""

from __future__ import annotations

import io
import os
import signal
import struct
import time

import numpy as np
from PIL import Image

from lucidflux_data.decode_config import DecodeConfig


def many_scans(count: int, side: int = 2048) -> bytes:
    """A progressive JPEG whose last scan stands there `count` times: each goes over the whole picture."""
    file = io.BytesIO()
    rows, columns = np.mgrid[0:side, 0:side]
    Image.fromarray(((rows + columns) % 256).astype(np.uint8)).save(file, "JPEG", progressive=True, quality=30)
    data = file.getvalue()
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * count + b"\xff\xd9"


def many_pages(count: int, side: int = 64) -> bytes:
    """A TIFF of `count` pages, all of which have the same strip."""
    pixels = bytes(side * side * 3)
    entries = [
        (256, 3, side),
        (257, 3, side),
        (259, 3, 1),
        (262, 3, 2),
        (277, 3, 3),
        (278, 3, side),
        (279, 4, len(pixels)),
    ]
    strip = 8
    first = strip + len(pixels) + 16
    bits = strip + len(pixels)
    tags = sorted([*entries, (258, 0, bits), (273, 4, strip)])
    size = 2 + 12 * len(tags) + 4
    body = b"II*\0" + struct.pack("<I", first) + pixels + struct.pack("<HHH", 8, 8, 8) + bytes(10)
    fields = b"".join(
        struct.pack("<HHII", tag, 3, 3, value) if tag == 258 else struct.pack("<HHII", tag, kind, 1, value)
        for tag, kind, value in tags
    )
    pages = [
        struct.pack("<H", len(tags)) + fields + struct.pack("<I", first + (n + 1) * size if n + 1 < count else 0)
        for n in range(count)
    ]
    return body + b"".join(pages)


def misbehave(data: bytes, decode: DecodeConfig) -> str:
    """What a child that decodes does: a crash, a lack of memory, a delay, an answer."""
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"sleep":
        time.sleep(1.5)
    if data == b"grow":
        np.ones(256 << 20, np.uint8)
    return data.decode()
