"""A tile measures what its crop measures by itself, and crops lie in good tiles, each place as likely as another."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from lucidflux_data.images import decode, luma
from lucidflux_data.measures import artifacts
from lucidflux_data.measures.blur_and_flat import measure_luma_by_definition
from lucidflux_data.measures.config import MeasureConfig
from lucidflux_data.tiles import crops, spectrum, steps
from lucidflux_data.tiles.grid import list_boxes
from lucidflux_data.tiles.measure import measure_tiles


@pytest.fixture(scope="module")
def pictures(photo_paths: list[Path]) -> list[np.ndarray]:
    """Luma of photos, one of them as a bad JPEG, one enlarged, one of noise, one of one tone."""
    wanted = ("astronaut", "coffee", "brick", "text")
    found = [luma(decode(path.read_bytes())) for path in photo_paths if path.stem in wanted]
    bad = cv2.imdecode(cv2.imencode(".jpg", found[0], [cv2.IMWRITE_JPEG_QUALITY, 20])[1], 0)
    large = cv2.resize(found[1], None, fx=1.7, fy=1.9, interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(0).integers(0, 256, (300, 410), np.uint8)
    cuts = [np.ascontiguousarray(each[:560, :600]) for each in (*found, bad, large)]
    return [*cuts, noise, np.full((260, 300), 90, np.uint8)]


@pytest.mark.parametrize("side", [64, 100, 256, 512])
def test_a_tile_measures_what_its_crop_does(side: int, pictures: list[np.ndarray]) -> None:
    for grey in pictures:
        tiles = measure_tiles(grey, MeasureConfig(tiles=side))
        assert [tuple(tile[:4]) for tile in tiles] == [
            tuple(box) for box in list_boxes(grey.shape[1], grey.shape[0], side)
        ]
        for tile in tiles[:: max(1, len(tiles) // 6)]:
            crop = grey[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width].copy()
            plain = measure_luma_by_definition(crop)
            assert tile.laplacian_variance == pytest.approx(plain.laplacian_variance, rel=1e-9)
            assert tile.flat_fraction == plain.flat_fraction
            assert tile.blockiness == artifacts.blockiness(crop)
            assert tile.spectral_cutoff == artifacts.spectral_cutoff(crop)


def test_a_large_tile_has_the_spectrum_of_its_most_detailed_parts(pictures: list[np.ndarray]) -> None:
    large = np.tile(pictures[0], (3, 3))[:1100, :1100].copy()
    assert spectrum.cutoff(large) == artifacts.spectral_cutoff(large)
    assert steps.blockiness(large) == artifacts.blockiness(large)


def test_where_rounding_could_decide_the_plain_measure_is_asked(pictures: list[np.ndarray], monkeypatch) -> None:
    asked = []

    def plain(grey: np.ndarray) -> float:
        asked.append(grey)
        return 0.123

    monkeypatch.setattr(spectrum, "spectral_cutoff", plain)
    assert spectrum.cutoff(np.full((300, 300), 90, np.uint8)) == 0.123
    assert len(asked) == 1
    spectrum.cutoff(pictures[0])
    assert len(asked) == 1, "of a photo the fast one is sure"


@pytest.mark.parametrize(
    ("width", "height", "side", "expected"),
    [
        (1024, 512, 512, [(0, 0, 512, 512), (512, 0, 512, 512)]),
        (1000, 300, 512, [(0, 0, 512, 300), (488, 0, 512, 300)]),
        (100, 90, 512, [(0, 0, 100, 90)]),
    ],
)
def test_the_last_tile_ends_at_the_edge(width: int, height: int, side: int, expected: list[tuple[int, ...]]) -> None:
    assert [tuple(box) for box in list_boxes(width, height, side).tolist()] == expected


def brute_places(width: int, height: int, side: int, tiles: list[tuple[int, ...]]) -> set[tuple[int, int]]:
    """Every place at which all pixels of a crop are in a tile."""
    good = np.zeros((height, width), bool)
    for left, top, wide, high in tiles:
        good[top : top + high, left : left + wide] = True
    places = itertools.product(range(width - side + 1), range(height - side + 1))
    return {(x, y) for x, y in places if good[y : y + side, x : x + side].all()}


def test_crops_lie_in_good_tiles_and_every_place_is_drawn_once() -> None:
    rng = np.random.default_rng(1)
    for _ in range(15):
        width, height = int(rng.integers(9, 22)), int(rng.integers(9, 22))
        boxes = [tuple(box) for box in list_boxes(width, height, int(rng.integers(5, 12))).tolist()]
        tiles = [box for box in boxes if rng.random() < 0.6]
        side = int(rng.integers(2, 9))
        expected = brute_places(width, height, side, tiles)
        assert crops.has_window(width, height, side, tiles) == bool(expected)
        columns = sorted({x for x, _ in expected})
        drawn = set()
        count = len(expected)
        for at in range(count):
            across = (at + 0.5) / count
            for step in range(height):
                place = crops.draw_window(width, height, side, tiles, across, (step + 0.5) / height)
                assert place is not None
                drawn.add((place[0], place[1]))
        assert drawn == expected
        lefts = [crops.draw_window(width, height, side, tiles, (at + 0.5) / count, 0.0) for at in range(count)]
        per_column = [sum(place is not None and place[0] == x for place in lefts) for x in columns]
        assert per_column == [sum(x == other for other, _ in expected) for x in columns]


def test_with_all_tiles_good_a_crop_lies_where_it_did() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        width, height = (int(number) for number in rng.integers(300, 5000, 2))
        side, (across, down) = int(rng.integers(64, 300)), rng.random(2)
        boxes = list_boxes(width, height, 256).tolist()
        place = crops.draw_window(width, height, side, boxes, across, down)
        assert place == (int(across * (width - side + 1)), int(down * (height - side + 1)), side, side)
