"""Fingerprints of benchmark images, and whether a candidate shows one of them: whole, cut out, or degraded.

    luma -> long side 400 px -> scale-space blobs (SIFT's detector) -> a square tile around each -> perceptual hash
    match: tiles within 7 bits, in one of the eight flips and turns, that agree on one scale and one shift

Tiles stand where the picture has something, so they are found again in a crop or after a resize. A fingerprint holds
hashes and positions, no pixels; a file of them can be shared where its images cannot.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lucidflux_data.errors import InputError
from lucidflux_data.jit import compiled
from lucidflux_data.measures.near_duplicates import dihedral, phash
from lucidflux_data.storage.cache import own_cache

VERSION = "1"
LONG_SIDE_PX = 400
TILES = 120  # the strongest blobs; about 2 kB a fingerprint
TILE_OF_BLOB = 5.0  # side of the tile in diameters of the blob
MIN_TILE_PX = 20  # smaller ones do not survive a fourfold reduction
TILE_RADIUS = 7  # bits; one of the eight bytes is then equal (pigeonhole), which is the index
WHOLE_RADIUS, SAME_RADIUS = 10, 3  # bits of the hash of the whole picture: supports a match, or is one
MIN_AGREEING = 3  # tiles on one scale and shift; a near whole picture counts for two

FINGERPRINTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("whole", pa.uint64()),
        pa.field("x", pa.list_(pa.float32())),  # centres, in units of the long side
        pa.field("y", pa.list_(pa.float32())),
        pa.field("size", pa.list_(pa.float32())),
        pa.field("hash", pa.list_(pa.uint64())),
    ]
)


class Fingerprint(NamedTuple):
    """`whole`: hash of the picture, None for one tone. `places`: float32 (n, 3) x, y, size over the long side.

    `hashes`: uint64 (n).
    """

    whole: int | None
    places: np.ndarray
    hashes: np.ndarray


class Match(NamedTuple):
    """`image`: suite/id. `tiles` that agree; `distance` in bits of the whole picture (64 where it has no hash)."""

    image: str
    tiles: int
    distance: int


def known_suites() -> Path:
    """The folder of the user's cache where `bench prepare` puts a fingerprint file for each suite, by its name."""
    return own_cache() / "fingerprints"


def fingerprint(luma: np.ndarray) -> Fingerprint:
    """Of uint8 HxW luma."""
    factor = LONG_SIDE_PX / max(luma.shape)
    size = (max(1, round(luma.shape[1] * factor)), max(1, round(luma.shape[0] * factor)))
    image = cv2.resize(luma, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    detector = cv2.SIFT.create(contrastThreshold=0.005, edgeThreshold=10, sigma=1.6)
    strongest: dict[tuple[int, int, int], cv2.KeyPoint] = {}  # a blob comes once for each of its orientations
    for point in sorted(detector.detect(image, None), key=lambda p: (-p.response, p.pt, p.size)):
        strongest.setdefault((round(point.pt[0]), round(point.pt[1]), round(10 * point.size)), point)
    places, hashes = [], []
    for point in strongest.values():
        tile = _tile(image, point)
        value = phash(tile) if tile is not None else None
        if value is None:
            continue
        places.append((*point.pt, point.size))
        hashes.append(value)
        if len(hashes) == TILES:
            break
    return Fingerprint(
        phash(luma), np.array(places, np.float32).reshape(-1, 3) / LONG_SIDE_PX, np.array(hashes, np.uint64)
    )


def _tile(image: np.ndarray, point: cv2.KeyPoint) -> np.ndarray | None:
    """The square around a blob; None where it is too small or leaves the picture."""
    side = point.size * TILE_OF_BLOB
    left, top = point.pt[0] - side / 2, point.pt[1] - side / 2
    if side < MIN_TILE_PX or left < 0 or top < 0 or left + side > image.shape[1] or top + side > image.shape[0]:
        return None
    whole = round(side)
    return image[round(top) : round(top) + whole, round(left) : round(left) + whole]


def fingerprint_file(
    images: Iterable[tuple[str, bytes, np.ndarray]], suite: str, listed: int | None = None, source: str = ""
) -> bytes:
    """The parquet bytes of a suite's fingerprints. `images`: (id, encoded bytes, uint8 HxW luma), one held at a time;
    `listed`: how many images the suite has, where they are more than these; `source`: sha256 of what they were made of.
    """
    rows = []
    for identity, data, luma in images:
        print_ = fingerprint(luma)
        x, y, size = print_.places.T.tolist()
        rows.append(
            {
                "id": identity,
                "sha256": hashlib.sha256(data).hexdigest(),
                "whole": print_.whole,
                "x": x,
                "y": y,
                "size": size,
                "hash": print_.hashes.tolist(),
            }
        )
    rows.sort(key=lambda row: row["id"])
    sink = io.BytesIO()
    metadata = {"suite": suite, "fingerprint_version": VERSION, "source": source}
    metadata["listed"] = str(len(rows) if listed is None else listed)
    pq.write_table(
        pa.Table.from_pylist(rows, FINGERPRINTS.with_metadata(metadata)),
        sink,
        compression="zstd",
        write_page_checksum=True,
    )
    return sink.getvalue()


@dataclass
class Firewall:
    """The fingerprints of some suites, indexed by each byte of their tiles' hashes."""

    images: list[str]  # suite/id
    sha256s: dict[str, int]
    wholes: np.ndarray  # uint64, one an image; those without a hash are listed in `without`
    without: np.ndarray  # bool
    owners: np.ndarray  # int32: the image of a tile
    places: np.ndarray  # float32 (tiles, 3)
    hashes: np.ndarray  # uint64 (tiles)
    order: np.ndarray  # int32 (8, tiles): tiles by the value of byte b
    starts: np.ndarray  # int32 (8, 257)

    def match(self, sha256: str, candidate: Fingerprint) -> Match | None:
        """The benchmark image that the candidate shows, the best supported one; None where it shows none."""
        if sha256 in self.sha256s:
            return Match(self.images[self.sha256s[sha256]], len(candidate.hashes), 0)
        distances = self._whole_distances(candidate.whole)
        tiles = self._agreeing(candidate)
        support = tiles + 2 * (distances <= WHOLE_RADIUS)
        hit = (support >= MIN_AGREEING) | (distances <= SAME_RADIUS)
        if not hit.any():
            return None
        best = min(np.flatnonzero(hit), key=lambda image: (-support[image], distances[image], self.images[image]))
        return Match(self.images[best], int(tiles[best]), int(distances[best]))

    def _whole_distances(self, whole: int | None) -> np.ndarray:
        if whole is None or not self.images:
            return np.full(len(self.images), 64)
        turned = dihedral(np.array([whole], np.uint64))
        distances = np.bitwise_count(turned ^ self.wholes[None]).min(axis=0).astype(np.int64)
        return np.where(self.without, 64, distances)

    def _agreeing(self, candidate: Fingerprint) -> np.ndarray:
        """int64, one an image: the largest number of tile pairs that one flip, scale and shift explains."""
        counts = np.zeros(len(self.images), np.int64)
        if len(candidate.hashes) == 0 or len(self.hashes) == 0:
            return counts
        pairs = _near_tiles(dihedral(candidate.hashes), self.hashes, self.order, self.starts)
        if len(pairs) == 0:
            return counts
        owner = self.owners[pairs[:, 2]]
        for image in np.flatnonzero(np.bincount(owner, minlength=len(counts))):
            mine = pairs[owner == image]
            counts[image] = _largest_agreement(mine, candidate.places, self.places)
        return counts


def read_file(data: bytes) -> pa.Table:
    """The rows of a fingerprint file. InputError for a file of another version or of something else."""
    try:
        # without threads: Arrow's may abort a command that ends right after
        table = pq.read_table(pa.BufferReader(data), use_threads=False, pre_buffer=False)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise InputError("a fingerprint file is damaged: make it again with `lucidflux-data fingerprint`") from None
    metadata = table.schema.metadata or {}
    if metadata.get(b"fingerprint_version", b"").decode() != VERSION:
        raise InputError("a fingerprint file is of another version: make it again with `lucidflux-data fingerprint`")
    return table


def count_images(data: bytes) -> tuple[int, int | None]:
    """(images with a fingerprint, images of the suite) of a fingerprint file; None where it does not say, as those of
    versions before 0.1.1. InputError as of `read_file`."""
    table = read_file(data)
    listed = table.schema.metadata.get(b"listed")
    return table.num_rows, None if listed is None else int(listed)


def make_firewall(files: Sequence[bytes]) -> Firewall:
    """Of the bytes of fingerprint files. InputError for a file of another version or of something else."""
    images: list[str] = []
    sha256s: dict[str, int] = {}
    wholes, owners, places, hashes = [], [], [], []
    for data in files:
        table = read_file(data)
        suite = table.schema.metadata[b"suite"].decode()
        for row in table.to_pylist():
            sha256s.setdefault(row["sha256"], len(images))
            owners += [len(images)] * len(row["hash"])
            images.append(f"{suite}/{row['id']}")
            wholes.append(row["whole"])
            places += list(zip(row["x"], row["y"], row["size"], strict=True))
            hashes += row["hash"]
    tiles = np.array(hashes, np.uint64)
    order, starts = _byte_index(tiles)
    return Firewall(
        images,
        sha256s,
        np.array([whole or 0 for whole in wholes], np.uint64),
        np.array([whole is None for whole in wholes], bool),
        np.array(owners, np.int32),
        np.array(places, np.float32).reshape(-1, 3),
        tiles,
        order,
        starts,
    )


def _byte_index(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.zeros((8, len(hashes)), np.int32)
    starts = np.zeros((8, 257), np.int32)
    for byte in range(8):
        values = (hashes >> np.uint64(8 * byte)).astype(np.uint8)
        order[byte] = np.argsort(values, kind="stable")
        starts[byte, 1:] = np.cumsum(np.bincount(values, minlength=256))
    return order, starts


@compiled
def _near_tiles(turned: np.ndarray, hashes: np.ndarray, order: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """int64 (m, 3): (turn, candidate tile, benchmark tile) within TILE_RADIUS bits, each once.

    Seven differing bits leave one of eight bytes equal; a pair is reported by its first equal byte.
    """
    found = []
    for turn in range(8):
        for tile in range(turned.shape[1]):
            wanted = turned[turn, tile]
            for byte in range(8):
                value = np.int64((wanted >> np.uint64(8 * byte)) & np.uint64(255))
                for position in range(starts[byte, value], starts[byte, value + 1]):
                    other = order[byte, position]
                    difference = wanted ^ hashes[other]
                    bits = difference
                    distance = 0
                    while bits != 0 and distance <= TILE_RADIUS:
                        bits &= bits - np.uint64(1)
                        distance += 1
                    if distance > TILE_RADIUS:
                        continue
                    first = 0
                    while (difference >> np.uint64(8 * first)) & np.uint64(255) != 0:
                        first += 1
                    if first == byte:
                        found.append((turn, tile, np.int64(other)))
    pairs = np.zeros((len(found), 3), np.int64)
    for row in range(len(found)):
        pairs[row, 0], pairs[row, 1], pairs[row, 2] = found[row]
    return pairs


# The action on positions of row t of `neardup.dihedral`.
_FLIPS = np.array([[1, 1], [-1, 1], [1, -1], [-1, -1]], np.float32)
_TURNS = np.concatenate([np.stack([np.diag(f) for f in _FLIPS]), np.stack([np.diag(f)[:, ::-1] for f in _FLIPS])])


def _largest_agreement(pairs: np.ndarray, places: np.ndarray, others: np.ndarray) -> int:
    """Each pair proposes a turn, a scale and a shift; how many distinct tiles at most fit one proposal."""
    turn, here, there = pairs[:, 0], places[pairs[:, 1]], others[pairs[:, 2]]
    scale = there[:, 2] / here[:, 2]
    turned = np.einsum("nij,nj->ni", _TURNS[turn], here[:, :2])
    shift = there[:, :2] - scale[:, None] * turned
    best = 0
    for proposal in range(len(pairs)):
        fits = (turn == turn[proposal]) & (np.abs(np.log(scale / scale[proposal])) < 0.25)
        miss = np.abs(scale[proposal] * turned + shift[proposal] - there[:, :2]).max(axis=1)
        fits &= miss < np.maximum(there[:, 2], 0.01)
        best = max(best, min(len(set(pairs[fits, 1])), len(set(pairs[fits, 2]))))
    return best
