"""Small sources as people have them: images whose bytes tell them apart, tars and Parquet files around them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

Member = tuple[str, bytes]


def jpeg(number: int, width: int = 80, height: int = 60) -> bytes:
    """A JPEG that only this number gives."""
    coarse = np.random.default_rng(number).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def tar_bytes(members: Iterable[Member], **options: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def header_offset(data: bytes, number: int) -> int:
    """Where the header of member `number` of a plain (ustar) tar stands."""
    at = 0
    for _ in range(number):
        at += 512 + -(-int(data[at + 124 : at + 135], 8) // 512) * 512
    return at
