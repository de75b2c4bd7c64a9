"""The firewall on real photos: planted copies are found, other photos are not; tile matching against brute force."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lucidflux_data.errors import InputError
from lucidflux_data.measures.fingerprints import (
    Firewall,
    _byte_index,
    _near_tiles,
    fingerprint,
    fingerprint_file,
    make_firewall,
)
from lucidflux_data.measures.near_duplicates import dihedral


@pytest.fixture(scope="module")
def photos(photo_paths) -> dict[str, np.ndarray]:
    """Bundled photos of 256 px and more that show something; the stereo pair is one scene."""
    drawn = {"color", "page", "text", "logo", "phantom", "horse", "chessboard_GRAY", "chessboard_RGB"}
    paths = {path.stem: path for path in photo_paths if path.stem not in drawn}
    images = {name: cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for name, path in paths.items()}
    return {
        name: image
        for name, image in images.items()
        if image is not None and min(image.shape) >= 256 and image.std() > 20
    }


@pytest.fixture(scope="module")
def firewall(photos) -> Firewall:
    half = sorted(photos)[::2]
    return make_firewall([fingerprint_file([(name, name.encode(), photos[name]) for name in half], "suite")])


def recompressed(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def crop(image: np.ndarray, share: float) -> np.ndarray:
    height, width = round(image.shape[0] * share), round(image.shape[1] * share)
    top, left = (image.shape[0] - height) // 3, 2 * (image.shape[1] - width) // 3
    return image[top : top + height, left : left + width]


def degraded(image: np.ndarray) -> np.ndarray:
    """Fourfold smaller, blurred, noisy, JPEG 50: the order of a Real-ESRGAN x4 partner."""
    small = cv2.resize(cv2.GaussianBlur(image, (0, 0), 1.5), None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    noisy = small + np.random.default_rng(0).normal(0, 8, small.shape)
    return recompressed(np.clip(noisy, 0, 255).astype(np.uint8), 50)


COPIES = {
    "resize": (lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 0.95),
    "jpeg30": (lambda image: recompressed(image, 30), 0.95),
    "flip": (lambda image: np.ascontiguousarray(image[:, ::-1]), 0.95),
    "turn": (lambda image: np.ascontiguousarray(np.rot90(image)), 0.95),
    "crop80": (lambda image: crop(image, 0.8), 0.8),
    "crop60": (lambda image: crop(image, 0.6), 0.7),
    "degraded": (degraded, 0.8),
}


@pytest.mark.parametrize("kind", COPIES)
def test_planted_copies_are_found(kind, photos, firewall) -> None:
    change, wanted = COPIES[kind]
    names = [image.removeprefix("suite/") for image in firewall.images]
    matches = {name: firewall.match("", fingerprint(change(photos[name]))) for name in names}
    right = [name for name, match in matches.items() if match is not None and match.image == f"suite/{name}"]
    assert len(right) / len(names) >= wanted, sorted(set(names) - set(right))


def test_other_photos_are_not_found(photos, firewall) -> None:
    """Except the other half of the stereo pair: a second photo of one scene counts as the scene."""
    others = sorted(set(photos) - {image.removeprefix("suite/") for image in firewall.images})
    assert len(others) >= 8
    hits = [name for name in others if firewall.match("", fingerprint(photos[name])) is not None]
    assert set(hits) <= {"motorcycle_left", "motorcycle_right"}


def test_equal_bytes_are_found_without_a_tile(firewall) -> None:
    grey = fingerprint(np.full((300, 300), 50, np.uint8))
    assert grey.whole is None
    assert firewall.match("", grey) is None
    row = next(iter(firewall.sha256s))
    assert firewall.match(row, grey).image == firewall.images[firewall.sha256s[row]]


def test_tile_pairs_equal_brute_force() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 300, dtype=np.uint64)
    tiles = np.concatenate([hashes[:60], rng.integers(0, 2**64, 40, dtype=np.uint64)])
    for row in range(60):
        for bit in rng.choice(64, row % 12, replace=False):
            tiles[row] ^= np.uint64(1) << np.uint64(bit)
    turned = dihedral(tiles)
    expected = np.argwhere(np.bitwise_count(turned[:, :, None] ^ hashes[None, None]) <= 7)
    found = _near_tiles(turned, hashes, *_byte_index(hashes))
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))
    assert len(expected) >= 40


def test_a_damaged_file_is_one_sentence() -> None:
    with pytest.raises(InputError, match="lucidflux-data fingerprint"):
        make_firewall([b"no parquet"])
