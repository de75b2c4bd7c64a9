"""Near-duplicates: a 64-bit perceptual hash, and all pairs within a Hamming radius without comparing all pairs.

    luma -> 32x32 (area) -> DCT-II -> the 64 coefficients (u, v) in 1..8 -> their signs

The block of coefficients is that of libpHash; the sign takes the place of its median, since then the eight flips and
quarter turns of a picture act on the hash alone: a flip negates odd frequencies, a transposition swaps u and v.
"""

from __future__ import annotations

import functools
import itertools
import math

import cv2
import numpy as np

from lucidflux_data.jit import compiled

HASH_VERSION = 1  # raised whenever `phash` gives other bits
SIDE_PX = 32
FREQUENCIES = 8
MIN_CONTRAST = 1.0  # standard deviation of the 32x32 luma, in levels, under which there is no picture to hash
DEFAULT_RADIUS = 4  # measured: docs/performance.md, near-duplicates
MAX_RADIUS = 16


def phash(luma: np.ndarray) -> int | None:
    """The 64-bit hash of uint8 HxW luma; None for a picture of one tone. Bit 8(u-1)+(v-1) is coefficient (u, v) > 0."""
    small = cv2.resize(luma, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float64)
    if small.std() < MIN_CONTRAST:
        return None
    basis = _dct_rows()
    signs = (basis @ small @ basis.T).ravel() > 0
    return int.from_bytes(np.packbits(signs, bitorder="little").tobytes(), "little")


@functools.cache
def _dct_rows() -> np.ndarray:
    """float64 (8, 32): rows 1..8 of the DCT-II; their length does not matter to a sign."""
    frequency, position = np.arange(1, FREQUENCIES + 1)[:, None], np.arange(SIDE_PX)[None]
    return np.cos(np.pi * frequency * (2 * position + 1) / (2 * SIDE_PX))


def dihedral(hashes: np.ndarray) -> np.ndarray:
    """uint64 (8, n): the hashes (uint64, n) of the eight flips and turns; row 0 is the picture as it is.

    Row 4t + 2a + b: transposed where t, then flipped left-right where b and top-bottom where a.
    """
    bit = np.arange(64, dtype=np.uint64)
    row, column = bit // 8, bit % 8
    along = np.bitwise_or.reduce(np.where(column % 2 == 0, np.uint64(1) << bit, np.uint64(0)))  # v = column + 1 odd
    down = np.bitwise_or.reduce(np.where(row % 2 == 0, np.uint64(1) << bit, np.uint64(0)))
    variants = []
    for base in (hashes, _transposed(hashes)):
        variants += [base, base ^ along, base ^ down, base ^ along ^ down]
    return np.stack(variants)


def _transposed(hashes: np.ndarray) -> np.ndarray:
    """The bit matrix of each hash, transposed."""
    result = np.zeros_like(hashes)
    for row, column in itertools.product(range(8), repeat=2):
        bit = (hashes >> np.uint64(8 * row + column)) & np.uint64(1)
        result |= bit << np.uint64(8 * column + row)
    return result


def group_near(hashes: np.ndarray, radius: int = DEFAULT_RADIUS) -> np.ndarray:
    """int64 (n): for each hash (uint64, n) the smallest row that it is linked with, itself where there is none.

    Two rows are linked when a flip or turn of one is within `radius` bits of the other, or through others that are.
    Exact: the bits are cut into m blocks; a pair within r = radius differs in at most r of them, so it agrees on some
    m - r whole blocks, and each choice of blocks is one table of buckets.
    """
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius must be 0..{MAX_RADIUS}, not {radius}")
    unique, inverse = np.unique(hashes.astype(np.uint64), return_inverse=True)
    parents = np.arange(len(unique))
    variants = dihedral(unique)
    for mask in _masks(radius, len(unique)):
        _link(variants, *_buckets(unique, mask), np.uint64(mask), radius, parents)
    roots = _roots(parents)[inverse]
    first = np.full(len(unique), len(hashes))
    np.minimum.at(first, roots, np.arange(len(hashes)))
    groups: np.ndarray = first[roots]
    return groups


def near_pairs(hashes: np.ndarray, radius: int, most: int) -> np.ndarray | None:
    """int64 (m, 2): every pair of rows (i < j) of `hashes` (uint64, n, each once) within `radius` bits in some flip or
    turn, sorted. None where tables of buckets meet more than `most` of them, the same pair in several tables counted
    again."""
    variants, met = dihedral(hashes), np.empty((0, 2), np.int64)
    for mask in _masks(radius, len(hashes)):
        room = np.empty((most - len(met) + 1, 2), np.int64)
        count = _meet(variants, *_buckets(hashes, mask), np.uint64(mask), radius, room)
        if len(met) + count > most:
            return None
        met = np.unique(np.concatenate([met, room[:count]]), axis=0)
    return met


def _masks(radius: int, n: int) -> list[int]:
    """The bit masks of all choices of whole blocks; how many blocks agree is chosen for the least expected work."""

    def work(agreeing: int) -> float:
        bits = 64 * agreeing // (radius + agreeing)
        expected: float = math.comb(radius + agreeing, agreeing) * (1 + n / 2**bits)
        return expected

    agreeing = min(range(1, 5), key=work)
    edges = [64 * i // (radius + agreeing) for i in range(radius + agreeing + 1)]
    blocks = [(1 << high) - (1 << low) for low, high in itertools.pairwise(edges)]
    return [sum(chosen) for chosen in itertools.combinations(blocks, agreeing)]


def _buckets(hashes: np.ndarray, mask: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows in order of bucket, their hashes, start of each bucket): about as many buckets as hashes."""
    bits = max(1, min(26, len(hashes).bit_length()))
    buckets = _bucket_of(hashes & np.uint64(mask), bits)
    starts = np.zeros((1 << bits) + 1, np.int32)
    starts[1:] = np.cumsum(np.bincount(buckets, minlength=1 << bits))
    order = np.argsort(buckets, kind="stable").astype(np.int32)
    return order, hashes[order], starts


@compiled
def _bucket_of(masked: np.ndarray, bits: int) -> np.ndarray:
    """Multiplicative hashing (Knuth, TAOCP 6.4) of the masked bits; equal bits share a bucket, others may."""
    buckets = np.empty(len(masked), np.int64)
    for i in range(len(masked)):
        buckets[i] = np.int64((masked[i] * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))
    return buckets


@compiled
def _is_within(difference: np.uint64, radius: int) -> bool:
    """Whether at most `radius` bits are set."""
    distance = 0
    while difference != 0 and distance <= radius:
        difference &= difference - np.uint64(1)
        distance += 1
    return distance <= radius


@compiled
def _link(
    variants: np.ndarray,
    order: np.ndarray,
    ordered: np.ndarray,
    starts: np.ndarray,
    mask: np.uint64,
    radius: int,
    parents: np.ndarray,
) -> None:
    bits = 0
    while (1 << bits) < len(starts) - 1:
        bits += 1
    for variant in range(8):
        for i in range(len(order)):
            wanted = variants[variant, i]
            masked = wanted & mask
            bucket = np.int64((masked * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))
            for position in range(starts[bucket], starts[bucket + 1]):
                difference = wanted ^ ordered[position]
                if difference & mask != 0:
                    continue
                j = order[position]
                if j <= i:  # the pair is met from the other side, by the inverse flip or turn
                    continue
                if _is_within(difference, radius):
                    _union(parents, i, j)


@compiled
def _meet(
    variants: np.ndarray,
    order: np.ndarray,
    ordered: np.ndarray,
    starts: np.ndarray,
    mask: np.uint64,
    radius: int,
    pairs: np.ndarray,
) -> int:
    """As `_link`, but writes the pairs down; stops when `pairs` is full."""
    bits = 0
    while (1 << bits) < len(starts) - 1:
        bits += 1
    count = 0
    for variant in range(8):
        for i in range(len(order)):
            wanted = variants[variant, i]
            masked = wanted & mask
            bucket = np.int64((masked * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))
            for position in range(starts[bucket], starts[bucket + 1]):
                difference = wanted ^ ordered[position]
                if difference & mask != 0 or order[position] <= i:
                    continue
                if _is_within(difference, radius):
                    pairs[count, 0], pairs[count, 1] = i, order[position]
                    count += 1
                    if count == len(pairs):
                        return count
    return count


@compiled
def _find(parents: np.ndarray, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@compiled
def _union(parents: np.ndarray, one: int, other: int) -> None:
    """The smaller root stays, so that the result does not depend on the order of the pairs."""
    first, second = _find(parents, one), _find(parents, other)
    if first < second:
        parents[second] = first
    else:
        parents[first] = second


@compiled
def _roots(parents: np.ndarray) -> np.ndarray:
    roots = np.empty(len(parents), np.int64)
    for row in range(len(parents)):
        roots[row] = _find(parents, row)
    return roots
