"""Candidates for measuring how cost grows: unique small photos cut from real ones, as many as are asked for.

In a thousand of them ten are broken (cut short, or no image), twenty are copies (ten of the same bytes, ten encoded
again), and one is a photo of 24 megapixels. The same seed and photos give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import multiprocessing
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

PHOTO_24MP = (6000, 4000)
A_FOLDER = 1000


class Cutter:
    """Makes candidate `number` out of the photos. Picklable: each process loads the photos once."""

    def __init__(self, photos: Sequence[Path]) -> None:
        self._photos = list(photos)
        self._pixels: list[np.ndarray] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"_photos": self._photos, "_pixels": None}

    def make(self, number: int) -> bytes:
        """The bytes of one candidate: JPEG, quality 80 to 95, 4:2:0, but for the broken ones."""
        kind = number % 1000
        if kind in range(990, 1000):  # a copy of an earlier one, or the same picture encoded again
            return self._cut(number - 500, 0)
        if kind in range(980, 990):
            return self._cut(number - 500, 1)
        data = self._cut(number, 0)
        if kind in range(970, 975):
            return data[: len(data) // 2]
        if kind in range(975, 980):
            return hashlib.sha256(data).digest() * 40
        return data

    def _cut(self, number: int, again: int) -> bytes:
        rng = np.random.default_rng(number)
        photo = self._read()[int(rng.integers(len(self._photos)))]
        if number % 1000 == 7:
            picture = cv2.resize(photo, PHOTO_24MP, interpolation=cv2.INTER_CUBIC)
        else:
            width, height = (int(side) for side in rng.integers(256, 513, 2))
            scale = min(float(rng.uniform(1, 2.5)), photo.shape[1] / width, photo.shape[0] / height)
            across, down = int(width * scale), int(height * scale)
            left = int(rng.integers(photo.shape[1] - across + 1))
            top = int(rng.integers(photo.shape[0] - down + 1))
            picture = cv2.resize(
                photo[top : top + down, left : left + across], (width, height), interpolation=cv2.INTER_AREA
            )
            if rng.random() < 0.5:
                picture = cv2.flip(picture, 1)
        if number % 1000 != 7:  # one level in a corner: no two candidates are equal by chance
            picture[0, 0] = rng.integers(0, 256, 3)
        quality = int(rng.integers(80, 96)) - 3 * again
        return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

    def _read(self) -> list[np.ndarray]:
        if self._pixels is None:
            cv2.setNumThreads(1)
            found = [cv2.imread(str(photo)) for photo in self._photos]
            self._pixels = [pixels for pixels in found if pixels is not None and min(pixels.shape[:2]) >= 512]
            self._photos = self._photos[: len(self._pixels)]
        return self._pixels


_cutter: Cutter | None = None


def _start(photos: list[Path]) -> None:
    global _cutter
    _cutter = Cutter(photos)


def _make(number: int) -> bytes:
    assert _cutter is not None, "the pool was started with photos"
    return _cutter.make(number)


def make_candidates(photos: Sequence[Path], count: int, processes: int) -> Iterator[tuple[str, bytes]]:
    """(relative name, bytes) of each candidate in order, 1,000 to a folder."""
    with multiprocessing.get_context("spawn").Pool(processes, _start, (list(photos),)) as pool:
        for number, data in enumerate(pool.imap(_make, range(count), chunksize=64)):
            yield f"{number // A_FOLDER:04d}/{number:07d}.jpg", data


def write_tree(photos: Sequence[Path], count: int, folder: Path, processes: int) -> int:
    """Writes them as files below `folder`; gives their bytes in all."""
    total = 0
    for name, data in make_candidates(photos, count, processes):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        total += len(data)
    return total


def write_tars(photos: Sequence[Path], count: int, folder: Path, processes: int) -> int:
    """Writes them into tars of 1,000 members; gives the bytes of the images in all."""
    total = 0
    folder.mkdir(parents=True, exist_ok=True)
    made = make_candidates(photos, count, processes)
    for place, members in itertools.groupby(made, lambda named: named[0].split("/")[0]):
        with tarfile.open(folder / f"{place}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in members:
                info = tarfile.TarInfo(name.split("/")[1])
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                total += len(data)
    return total
