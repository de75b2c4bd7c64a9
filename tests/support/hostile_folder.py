"""A folder of what strangers may lay, all at once, beside images that are good: pipes, devices, bombs, lies, loops."""

from __future__ import annotations

import os
import socket
import struct
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.bombs import many_pages, many_scans
from tests.support.odd_sources import jpeg, tar_bytes, write

SPARSE = 40 << 30
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
NAMES = ("jpg", "png", "tif", "tar", "parquet")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def large_png(side: int, bits: int, colour: int) -> bytes:
    """A PNG of nothing: a header that says its size, and as many zero rows as a few MB of zlib hold."""
    samples = {0: 1, 2: 3, 6: 4}[colour]
    row = bytes(1 + side * samples * bits // 8)
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """A small PNG with a compressed text of 256 MB."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    data = large_png(16, 8, 2)
    return data[:33] + chunk(b"zTXt", b"Comment\0\0" + packed) + data[33:]


def lying_tar(members: int = 4) -> bytes:
    """A tar of which a member in the middle says that it has 2^60 bytes."""
    data = bytearray(tar_bytes([(f"{n}.jpg", jpeg(100 + n)) for n in range(members)]))
    at = 512 + -(-len(jpeg(100)) // 512) * 512
    about = tarfile.TarInfo("1.jpg")
    about.size = 2**60
    data[at : at + 512] = about.tobuf(tarfile.GNU_FORMAT)
    return bytes(data)


def lay(folder: Path, large: bool = True) -> Path:
    """`large`: with what takes seconds or a GB to decode."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        os.mkfifo(folder / f"pipe.{name}")
        (folder / f"zero.{name}").symlink_to("/dev/zero")
        (folder / f"loop.{name}").symlink_to(f"loop.{name}")
        (folder / f"gone.{name}").symlink_to("/nowhere/at/all")
        os.truncate(write(folder / f"sparse.{name}", b""), SPARSE)
        write(folder / f"empty.{name}", b"")
        (folder / f"folder.{name}").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        listener.bind("socket.jpg")
        os.chdir(here)
    write(folder / "lying.tar", lying_tar())
    write(
        folder / "deep.tar", tar_bytes([("d.json", DEEP), ("d.jpg", jpeg(200)), ("e.json", b"["), ("e.jpg", jpeg(201))])
    )
    write(folder / "packed.tar.gz", b"\x1f\x8b")
    for place, name in (("one", "metadata.jsonl"), ("two", "metadata.csv"), ("three", "metadata.parquet")):
        os.mkfifo(write(folder / place / "a.jpg", jpeg(300 + len(place))).with_name(name))
    write(folder / "four" / "metadata.jsonl", b'{"file_name": "a.jpg", "x": ' + DEEP + b"}")
    os.truncate(write(folder / "five" / "metadata.csv", b"file_name,x\n"), SPARSE)
    lies = [
        "/etc/passwd",
        "http://127.0.0.1:9/x.jpg",
        "nosuch://x/y.jpg",
        "sftp://h/x.jpg",
        "x.parquet#abc",
        "\0",
        "~/x.jpg",
    ]
    good = [f"good{n}.jpg" for n in range(8)]
    for number, name in enumerate(good):
        write(folder / name, jpeg(number, 400, 300))
    pq.write_table(pa.table({"url": lies[:5] + good}), folder / "uris.parquet")
    pq.write_table(pa.table({"image": [jpeg(400), b"", None, b"junk", DEEP]}), folder / "rows.parquet")
    write(folder / "text.png", text_bomb())
    write(folder / "pages.tif", many_pages(200_000 if large else 200))
    if large:
        write(folder / "rgba16.png", large_png(13_000, 16, 6))
        write(folder / "scans.jpg", many_scans(4000))
        write(folder / "budget.png", large_png(20_000, 8, 0))
    return folder
