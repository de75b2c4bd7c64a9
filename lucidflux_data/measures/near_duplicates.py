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


def _flips() -> np.ndarray:
    """uint64 (4): what a flip does to a hash, as bits that change: none, left-right, top-bottom, both."""
    bit = np.arange(64, dtype=np.uint64)
    row, column = bit // 8, bit % 8
    along = np.bitwise_or.reduce(np.where(column % 2 == 0, np.uint64(1) << bit, np.uint64(0)))  # v = column + 1 odd
    down = np.bitwise_or.reduce(np.where(row % 2 == 0, np.uint64(1) << bit, np.uint64(0)))
    return np.array([0, along, down, along ^ down], np.uint64)


_FLIPS = _flips()


def dihedral(hashes: np.ndarray) -> np.ndarray:
    """uint64 (8, n): the hashes (uint64, n) of the eight flips and turns; row 0 is the picture as it is.

    Row 4t + 2a + b: transposed where t, then flipped left-right where b and top-bottom where a.
    """
    return np.concatenate([base ^ _FLIPS[:, None] for base in (hashes, _transposed(hashes))])


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
    m - r whole blocks. Each choice of blocks is one sorting of all rows by what their flips and turns have in common
    there, so that a row is looked at once and not once a flip or turn.
    """
    if not 0 <= radius <= MAX_RADIUS:
        raise ValueError(f"radius must be 0..{MAX_RADIUS}, not {radius}")
    unique, inverse = np.unique(hashes.astype(np.uint64), return_inverse=True)
    parents, turned = np.arange(len(unique)), _transposed(unique)
    for mask in _masks(radius, len(unique)):
        _link(unique, turned, _sorted_rows(unique, turned, mask), _FLIPS, radius, parents)
    roots = _roots(parents)[inverse]
    first = np.full(len(unique), len(hashes))
    np.minimum.at(first, roots, np.arange(len(hashes)))
    groups: np.ndarray = first[roots]
    return groups


def near_pairs(hashes: np.ndarray, radius: int, most: int) -> np.ndarray | None:
    """int64 (m, 2): every pair of rows (i < j) of `hashes` (uint64, n, each once) within `radius` bits in some flip or
    turn, sorted. None where one sorting meets more than `most` of them, those met before counted in."""
    turned, met = _transposed(hashes), np.empty((0, 2), np.int64)
    for mask in _masks(radius, len(hashes)):
        room = np.empty((most - len(met) + 1, 2), np.int64)
        count = _meet(hashes, turned, _sorted_rows(hashes, turned, mask), _FLIPS, radius, room)
        if len(met) + count > most:
            return None
        met = np.unique(np.concatenate([met, room[:count]]), axis=0)
    return met


def _masks(radius: int, n: int) -> list[int]:
    """The bit masks of all choices of whole blocks; how many blocks agree is chosen for the least expected work: a
    sorting of n rows each, and the rows that meet there by chance."""

    def work(agreeing: int) -> float:
        bits = 64 * agreeing // (radius + agreeing)
        expected: float = math.comb(radius + agreeing, agreeing) * (1 + 8 * n / 2**bits)
        return expected

    agreeing = min(range(1, 5), key=work)
    blocks = _blocks(radius + agreeing)
    return [sum(chosen) for chosen in itertools.combinations(blocks, agreeing)]


def _blocks(count: int) -> list[int]:
    """`count` masks of about as many bits that share none, all 64 together. Each is its own transposition: then flips
    and turns of a picture change what stands under a mask, and not where."""
    pairs = [(1 << (8 * row + column)) | (1 << (8 * column + row)) for row in range(8) for column in range(row)]
    diagonal = [1 << (9 * row) for row in range(8)]
    blocks = [0] * count
    for bits in (*pairs, *diagonal):
        smallest = min(range(count), key=lambda block: blocks[block].bit_count())
        blocks[smallest] |= bits
    return blocks


def _sorted_rows(hashes: np.ndarray, turned: np.ndarray, mask: int) -> np.ndarray:
    """uint64 (n), sorted: 32 bits of what a row has under the mask in the least of its flips and turns, then the row.
    Rows that agree there in some flip or turn are neighbours; so are a few others."""
    packed = np.empty(len(hashes), np.uint64)
    _pack(hashes, turned, _FLIPS, np.uint64(mask), packed)
    packed.sort()
    return packed


@compiled
def _pack(hashes: np.ndarray, turned: np.ndarray, flips: np.ndarray, mask: np.uint64, packed: np.ndarray) -> None:
    for i in range(len(hashes)):
        least = hashes[i] & mask
        for flip in flips:
            least = min(least, (hashes[i] ^ flip) & mask, (turned[i] ^ flip) & mask)
        spread = (least * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)  # Knuth, TAOCP 6.4
        packed[i] = (spread << np.uint64(32)) | np.uint64(i)


@compiled
def _is_near(one: np.uint64, turned: np.uint64, other: np.uint64, flips: np.ndarray, radius: int) -> bool:
    """Whether a flip or turn of `one` (`turned`: transposed) differs from `other` in at most `radius` bits."""
    for flip in flips:
        if _count_bits(one ^ flip ^ other) <= radius or _count_bits(turned ^ flip ^ other) <= radius:
            return True
    return False


@compiled
def _count_bits(bits: np.uint64) -> np.uint64:
    """How many are set (Warren, Hacker's Delight 5-1); LLVM makes one instruction of it."""
    bits = bits - ((bits >> np.uint64(1)) & np.uint64(0x5555555555555555))
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def _link(
    hashes: np.ndarray, turned: np.ndarray, packed: np.ndarray, flips: np.ndarray, radius: int, parents: np.ndarray
) -> None:
    low = np.uint64(0xFFFFFFFF)
    for first in range(len(packed)):
        i = np.int64(packed[first] & low)
        for position in range(first + 1, len(packed)):
            if packed[position] >> np.uint64(32) != packed[first] >> np.uint64(32):
                break
            j = np.int64(packed[position] & low)
            if _is_near(hashes[i], turned[i], hashes[j], flips, radius):
                _union(parents, i, j)


@compiled
def _meet(
    hashes: np.ndarray, turned: np.ndarray, packed: np.ndarray, flips: np.ndarray, radius: int, pairs: np.ndarray
) -> int:
    """As `_link`, but writes the pairs down; stops when `pairs` is full."""
    low, count = np.uint64(0xFFFFFFFF), 0
    for first in range(len(packed)):
        i = np.int64(packed[first] & low)
        for position in range(first + 1, len(packed)):
            if packed[position] >> np.uint64(32) != packed[first] >> np.uint64(32):
                break
            j = np.int64(packed[position] & low)
            if _is_near(hashes[i], turned[i], hashes[j], flips, radius):
                pairs[count, 0], pairs[count, 1] = i, j  # of equal keys the rows are in order
                count += 1
                if count == len(pairs):
                    return count
    return count


@compiled
def _find(parents: np.ndarray, row: int | np.int64) -> int | np.int64:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@compiled
def _union(parents: np.ndarray, one: int | np.int64, other: int | np.int64) -> None:
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
