"""The pictures of a page: for some candidates near each threshold, pieces at 1:1 that show blur and blocking."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from lucidflux_data.codecs.encoding import data_url, shrink
from lucidflux_data.decode_config import DecodeConfig
from lucidflux_data.errors import InputError, StorageError
from lucidflux_data.explore.rows import RULES, Deciding
from lucidflux_data.images import ImageError, luma
from lucidflux_data.isolation import Apart, decode_here
from lucidflux_data.selection import run as runs
from lucidflux_data.selection.records import KEPT
from lucidflux_data.sources.reading import read_known
from lucidflux_data.storage.folder import Folder

CROP_PX = 200
QUALITY = 85  # of WebP: finer than the blocks and the blur that are looked for
QUANTILES, NEAREST, AT_THE_CUT = 8, 40, 12
MOST_PICTURES = 600
AT_A_TIME = 8  # images that are read and decoded
STEP_PX = 8


class Picture(NamedTuple):
    """Data urls of a candidate: its sharpest and its flattest piece of CROP_PX at 1:1, and the whole, made smaller."""

    sharp: str
    flat: str
    whole: str

    def size(self) -> int:
        return sum(map(len, self))


def choose_rows(deciding: Deciding, limits: Mapping[str, Sequence[float]], rows: np.ndarray) -> list[int]:
    """Positions in `rows` (int64 candidates) that are shown, those that matter most first: of each measure the
    AT_THE_CUT on each side of its `limits`, then the NEAREST to each of QUANTILES, in turns."""
    close: list[Iterator[int]] = []
    wide: list[Iterator[int]] = []
    readable = np.flatnonzero(deciding.fixed[rows] == KEPT)
    for name in dict.fromkeys([*(rule.measure for rule in RULES), "score"]):
        if name not in deciding.measures:
            continue
        values = deciding.measures[name][rows][readable]
        some = np.flatnonzero(np.isfinite(values))
        order = some[np.argsort(values[some], kind="stable")]
        if not len(order):
            continue
        sorted_rows, ordered = readable[order], values[order]
        for limit in limits.get(name, ()):
            places = {int(np.searchsorted(ordered, limit, side)) for side in ("left", "right")}
            close += [_outwards(sorted_rows, place, AT_THE_CUT) for place in sorted(places)]
        at = ((np.arange(QUANTILES) + 0.5) / QUANTILES * len(order)).astype(int)
        wide += [_outwards(sorted_rows, int(place), NEAREST // 2) for place in at]
    turns = itertools.chain(
        *([row for turn in itertools.zip_longest(*group) for row in turn] for group in (close, wide))
    )
    return list(dict.fromkeys(int(row) for row in turns if row is not None))


def _outwards(rows: np.ndarray, place: int, each_side: int) -> Iterator[int]:
    """The rows beside a place, the nearest first, in turns from below and above."""
    for step in range(each_side):
        for at in (place - 1 - step, place + step):
            if 0 <= at < len(rows):
                yield int(rows[at])


def take_pictures(
    folder: Folder, rows: Sequence[int], decode: DecodeConfig, budget: int
) -> tuple[dict[int, Picture], int]:
    """Pictures by row of the ledger, in order until `budget` bytes of text or MOST_PICTURES are full, and how many
    images could not be read any more."""
    wanted = list(rows[:MOST_PICTURES])
    table = folder.read_table(runs.LEDGER, ["uri", "key", "offset", "bytes"]).take(pa.array(wanted, pa.int64()))
    found: dict[int, Picture] = {}
    unread = used = 0
    with contextlib.closing(_take_all(table.to_pylist(), decode)) as pictures:
        for row, picture in zip(wanted, pictures, strict=True):
            if picture is None:
                unread += 1
                continue
            used += picture.size()
            if used > budget:
                break
            found[row] = picture
    return found, unread


def _take_all(rows: list[dict[str, Any]], decode: DecodeConfig) -> Generator[Picture | None]:
    """In order, some at a time, each in a child of its own: only what is shown comes back through the pipe."""
    children: queue.SimpleQueue[Apart] = queue.SimpleQueue()
    count = min(AT_A_TIME, os.cpu_count() or 1)
    for _ in range(count):
        children.put(Apart(f"{__name__}:cut_here"))
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(_take, about, decode, children) for about in rows]
        try:
            for one in asked:
                yield one.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for _ in range(count):
                children.get().close()


def _take(about: dict[str, Any], decode: DecodeConfig, children: queue.SimpleQueue[Apart]) -> Picture | None:
    child = children.get()
    try:
        size = about["bytes"] or -1
        data = read_known(about["uri"], about["offset"], size, about["key"], most=decode.max_file_bytes)
        picture: Picture = child.call(data, decode)
        return picture
    except (ImageError, InputError, StorageError):
        return None
    finally:
        children.put(child)


def cut_here(data: bytes, decode: DecodeConfig) -> Picture:
    """Of encoded bytes, in a process that may be lost."""
    return cut_picture(decode_here(data, decode).pixels)


def cut_picture(pixels: np.ndarray) -> Picture:
    """Of uint8 HxWx3 RGB."""
    sharp, flat = find_places(luma(pixels))
    pieces = [pixels[y : y + CROP_PX, x : x + CROP_PX] for y, x in (sharp, flat)]
    return Picture(*(data_url(piece, "webp", QUALITY) for piece in (*pieces, shrink(pixels, CROP_PX))))


def find_places(grey: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """(row, column) of the CROP_PX squares of uint8 luma with most and with least energy of the Laplacian, on a grid of
    STEP_PX; the first of equal ones."""
    height, width = grey.shape
    energy = np.square(cv2.Laplacian(grey, cv2.CV_32F))
    sums = cv2.integral(energy, sdepth=cv2.CV_64F)
    rows = np.arange(0, max(0, height - CROP_PX) + 1, STEP_PX)
    columns = np.arange(0, max(0, width - CROP_PX) + 1, STEP_PX)
    low, right = np.minimum(rows + CROP_PX, height)[:, None], np.minimum(columns + CROP_PX, width)[None]
    total = (
        sums[low, right] - sums[rows[:, None], right] - sums[low, columns[None]] + sums[rows[:, None], columns[None]]
    )
    places = [np.unravel_index(int(pick(total)), total.shape) for pick in (np.argmax, np.argmin)]
    most, least = ((int(rows[y]), int(columns[x])) for y, x in places)
    return most, least
