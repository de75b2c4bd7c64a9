"""The perceptual hash against SciPy's DCT, and the groups against all pairs compared one by one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lucidflux_data.images import luma
from lucidflux_data.measures.near_duplicates import (
    MAX_RADIUS,
    _masks,
    dihedral,
    group_near,
    near_pairs,
    phash,
)

TURNS = [
    lambda image: image,
    lambda image: image[:, ::-1],
    lambda image: image[::-1],
    lambda image: image[::-1, ::-1],
    lambda image: image.T,
    lambda image: image.T[:, ::-1],
    lambda image: image.T[::-1],
    lambda image: image.T[::-1, ::-1],
]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    import skimage.data

    return luma(skimage.data.astronaut())


def test_the_hash_is_the_signs_of_the_dct(photo) -> None:
    small = cv2.resize(photo, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float64)
    coefficients = dctn(small, norm="ortho")[1:9, 1:9]
    bits = "".join("1" if value > 0 else "0" for value in coefficients.ravel()[::-1])
    assert phash(photo) == int(bits, 2)
    assert phash(np.full((64, 64), 93, np.uint8)) is None


@pytest.mark.parametrize("turn", range(8))
def test_flips_and_turns_act_on_the_hash_alone(turn, photo) -> None:
    square = cv2.resize(photo, (512, 512), interpolation=cv2.INTER_AREA)
    turned = np.ascontiguousarray(TURNS[turn](square))
    variants = dihedral(np.array([phash(square)], np.uint64))[:, 0]
    assert int(variants[turn]) == phash(turned)


def all_pairs(hashes: np.ndarray, radius: int) -> np.ndarray:
    """The definition: every pair compared in all eight variants, then connected components."""
    distance = np.bitwise_count(dihedral(hashes)[:, :, None] ^ hashes[None, None]).min(axis=0)
    rows, columns = np.nonzero(distance <= radius)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(hashes), len(hashes)))
    labels = connected_components(graph, directed=False)[1]
    first = {label: row for row, label in reversed(list(enumerate(labels)))}
    return np.array([first[label] for label in labels])


@pytest.mark.parametrize("radius", [0, 1, 4, 7, 12])
def test_groups_equal_all_pairs(radius: int) -> None:
    rng = np.random.default_rng(radius)
    hashes = rng.integers(0, 2**64, 400, dtype=np.uint64)
    planted = dihedral(hashes[:200])[rng.integers(0, 8, 200), np.arange(200)]
    for row in range(200):  # 0 to radius + 2 flipped bits: some pairs just inside, some just outside
        for bit in rng.choice(64, rng.integers(0, radius + 3), replace=False):
            planted[row] ^= np.uint64(1) << np.uint64(bit)
    everything = rng.permutation(np.concatenate([hashes, planted, hashes[:20]]))
    groups = group_near(everything, radius)
    assert np.array_equal(groups, all_pairs(everything, radius))
    linked = int((groups != np.arange(len(groups))).sum())
    assert linked >= 20
    assert linked < 260, "what is outside the radius is not linked"
    once = np.unique(everything)
    near = np.argwhere(np.bitwise_count(dihedral(once)[:, :, None] ^ once[None, None]).min(axis=0) <= radius)
    apart = near[near[:, 0] < near[:, 1]]
    pairs = near_pairs(once, radius, 100_000)
    assert pairs is not None
    assert np.array_equal(pairs, apart)
    assert near_pairs(once, radius, len(apart) - 1) is None


@pytest.mark.parametrize("n", [1, 1000, 3_000_000, 100_000_000])
@pytest.mark.parametrize("radius", range(MAX_RADIUS + 1))
def test_no_pair_within_the_radius_differs_under_every_mask(radius: int, n: int) -> None:
    """And a flip or turn changes what is under a mask, not where: the masks are their own transpositions."""
    rng, masks = np.random.default_rng(radius), np.array(_masks(radius, n), np.uint64)
    square = np.unpackbits(masks.view(np.uint8).reshape(-1, 8, 1), axis=2, bitorder="little")
    assert np.array_equal(square, square.transpose(0, 2, 1))
    for _ in range(200):
        difference = np.bitwise_or.reduce(np.uint64(1) << rng.choice(64, radius, replace=False).astype(np.uint64))
        assert (masks & difference == 0).any()


def test_planted_copies_among_many_are_linked_and_nothing_else_is() -> None:
    rng, n, copies = np.random.default_rng(1), 120_000, 12_000
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)  # two of them within 4 bits: once in 100 such draws
    planted = dihedral(hashes[:copies])[rng.integers(0, 8, copies), np.arange(copies)]
    for _ in range(4):
        planted ^= np.uint64(1) << rng.integers(0, 64, copies, dtype=np.uint64)
    groups = group_near(np.concatenate([hashes, planted]), 4)
    assert np.array_equal(groups, np.concatenate([np.arange(n), np.arange(copies)]))


def test_groups_do_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 2**20, 3000, dtype=np.uint64)  # few bits: long chains
    order = rng.permutation(len(hashes))
    straight, shuffled = group_near(hashes, 1), group_near(hashes[order], 1)
    sets = {frozenset(np.flatnonzero(straight == root)) for root in np.unique(straight)}
    assert sets == {frozenset(order[np.flatnonzero(shuffled == root)]) for root in np.unique(shuffled)}


def test_recompressed_resized_and_flipped_photos_are_near_and_others_are_not(photo_paths) -> None:
    photos = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in photo_paths]
    photos = [image for image in photos if image is not None and min(image.shape) >= 256 and image.std() > 20]
    hashes = [phash(image) for image in photos]
    originals = np.array(hashes, np.uint64)
    copies = []
    for image in photos:
        small = cv2.resize(image[:, ::-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        copies.append(phash(cv2.imdecode(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0)))
    groups = group_near(np.concatenate([originals, np.array(copies, np.uint64)]))
    n = len(photos)
    found = groups[n:] == groups[:n]
    assert found.mean() >= 0.9
    distinct = {int(root) for root in groups[:n]}
    assert len(distinct) >= n - 2, "the two halves of the stereo pair may be near; nothing else is"
