"""The ablation of the filter, shortened: which photos and tiles are in which set, beside the ledgers; what it tells,
beside the pictures that it wrote."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("spandrel")

from lucidflux_data.errors import InputError
from lucidflux_data.pairs.dataset import as_tensor
from tests.support.paths import ROOT

SETS = ("kept", "random", "rejected", "all-but-worst-fifth")
SEEDS = (1, 2)
SIZE = 3
STEPS = 3


@pytest.fixture(scope="module")
def example() -> Iterator[ModuleType]:
    """With few, small tiles; what it imports from its own folder is found there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        import ablate_filter
        import train_compact

        for name, value in {"SIZE": SIZE, "SEEDS": SEEDS, "MOST": 5, "HELD_MOST": 2}.items():
            patch.setattr(ablate_filter, name, value)
        patch.setattr(train_compact, "BATCH", 3)
        patch.setattr(train_compact, "WORKERS", 0)
        yield ablate_filter
        for module in ("ablate_filter", "train_compact"):
            del sys.modules[module]


@pytest.fixture(scope="module")
def photos(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos, one of them twice (smaller, mirrored), one that does not open, one under the side of a tile."""
    folder = tmp_path_factory.mktemp("photos")
    for path in photo_paths:
        if path.stem in ("astronaut", "brick", "coffee", "gravel", "moon", "rocket", "page"):
            (folder / path.name).write_bytes(path.read_bytes())
    with Image.open(folder / "coffee.png") as coffee:
        coffee.resize((480, 320)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "again.png")
    (folder / "broken.png").write_bytes((folder / "brick.png").read_bytes()[:1000])
    return folder


@pytest.fixture(scope="module")
def out(example: ModuleType, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder before the first training, which is left in it: the current one."""
    folder = tmp_path_factory.mktemp("ablation")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        example.prepare(photos, folder / "out")
        yield folder / "out"


def test_half_of_the_photos_is_held_out_in_order_of_their_bytes(out: Path, photos: Path) -> None:
    """No photo stands on both sides, nor does one that shows the same."""
    order = sorted(photos.iterdir(), key=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    stems = [path.stem for path in order if path.stem not in ("broken", "page")]
    stems.remove(max("again", "coffee", key=stems.index))
    assert photos_of(out / "held") == set(stems[:3])
    assert photos_of(out / "candidates") == set(stems[3:])
    assert {path.name for path in (out / "held").iterdir()} == {path.name for path in (out / "hq").iterdir()}


def test_sets_have_one_size_and_are_what_the_ledger_says(example: ModuleType, out: Path) -> None:
    """A set is the first tiles of its pool by the hash of seed and key; its pool is read off pixels and scores."""
    pools = example.pools()  # again: nothing is measured anew
    ledger = {row["source_key"]: row for row in pq.read_table(out / "run" / "selected.parquet").to_pylist()}
    fifth = {row["source_key"]: row for row in pq.read_table(out / "fifth" / "selected.parquet").to_pylist()}
    tiles = sorted(path.name for path in (out / "candidates").iterdir())
    assert sorted(ledger) == sorted(fifth) == tiles
    sharp, scored = [], []
    for name in tiles:
        if 150 <= laplacian_variance(pixels(out / "candidates" / name)) <= 8000:
            sharp.append(name)
        if fifth[name]["niqe"] is not None:
            scored.append(name)

    def best(names: list[str], count: int) -> list[str]:
        return sorted(names, key=lambda name: (fifth[name]["niqe"], fifth[name]["key"]))[:count]

    kept = best(sharp, len(sharp) // 2)
    pool = {
        "kept": kept,
        "random": tiles,
        "rejected": [name for name in tiles if name not in kept],
        "all-but-worst-fifth": best(scored, len(scored) * 4 // 5),
    }
    assert [name for name in tiles if ledger[name]["keep"]] == sorted(kept)
    for name in SETS:
        for seed in SEEDS:
            drawn = []
            for tile in pool[name]:
                key = hashlib.sha256((out / "candidates" / tile).read_bytes()).hexdigest()[:20]
                drawn.append((hashlib.sha256(f"{seed} {key}".encode()).hexdigest(), tile))
            expected = sorted(tile for _, tile in sorted(drawn)[:SIZE])
            assert example.draw(pools[name], seed) == expected
        assert sorted(pools[name].values()) == sorted(pool[name])
    assert list(pools) == list(SETS)


@pytest.mark.slow
def test_what_is_told_is_in_the_pictures(
    example: ModuleType, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    example.main(photos, out, STEPS)
    for folder in (out / "sets").glob("*/*"):
        assert len(list(folder.iterdir())) == SIZE
        assert photos_of(folder) & photos_of(out / "held") == set()
    told = json.loads((out / "ablation.json").read_text())
    means: dict[tuple[str, int], dict[str, float]] = {}
    sharp = set()
    for file in sorted((out / "hq").iterdir()):
        true, given = pixels(file), pixels(out / "lq" / file.name)
        assert (true.shape, given.shape) == ((128, 128, 3), (32, 32, 3))
        if laplacian_variance(true) >= 150:
            sharp.add(file.name)
        for name, seed in itertools.product(SETS, SEEDS):
            made = pixels(out / "outputs" / name / f"seed-{seed}" / file.name)
            psnr = -10 * np.log10(np.mean(((made - true) / 255) ** 2) + 1e-8)
            means.setdefault((name, seed), {})[file.name] = psnr
    every = set(means["kept", 1])
    assert (told["photos to train on"], told["steps"], told["tiles in a set"]) == (3, STEPS, SIZE)
    for part, tiles in {"all": every, "sharp": sharp, "smooth": every - sharp}.items():
        photos_in = sorted({tile.partition("+")[0] for tile in tiles})
        assert (told[part]["tiles"], told[part]["photos"]) == (len(tiles), len(photos_in))
        for pair, by_metric in told[part]["differences"].items():
            one, other = pair.split(" - ")
            rows = [{tile: means[one, seed][tile] - means[other, seed][tile] for tile in tiles} for seed in SEEDS]
            check_difference(by_metric["psnr"], np.array([over_photos(row, photos_in) for row in rows]))
    assert set(told["all"]["differences"]) == {
        f"{one} - {other}" for one, other in [*((name, "random") for name in SETS if name != "random"), SETS[::2]]
    }


def over_photos(gains: dict[str, float], photos: list[str]) -> list[float]:
    """The mean gain of each photo's tiles."""
    return [np.mean([gain for tile, gain in gains.items() if tile.startswith(f"{photo}+")]) for photo in photos]


def check_difference(told: list[float], differences: np.ndarray) -> None:
    """(seeds, photos), resampled one by one: seeds and photos with replacement."""
    mean, low, high, better = told
    assert mean == pytest.approx(differences.mean(), abs=1e-6)
    by_photo = differences.mean(axis=0)
    assert better == pytest.approx(np.mean((by_photo > 0) + 0.5 * (by_photo == 0)))  # a tie is half a win
    rng, (seeds, photos) = np.random.default_rng(5), differences.shape
    drawn = [
        differences[np.ix_(rng.integers(0, seeds, seeds), rng.integers(0, photos, photos))].mean() for _ in range(4000)
    ]
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.1 * np.ptp(differences) + 1e-9)


def test_equal_seeds_give_equal_pictures(example: ModuleType, out: Path) -> None:
    """A set is trained on twice under one seed and once under another; the folder of the set has its tiles alone."""
    files = sorted(path.name for path in (out / "candidates").iterdir())[:SIZE]
    held = [(path.name, as_tensor(np.array(Image.open(path)))) for path in sorted((out / "lq").iterdir())]
    for name, seed in (("one", 1), ("again", 1), ("one", 2)):
        network = example.fit(name, seed, files, STEPS)
        example.restore(network, held, out / "outputs" / f"{name}-{seed}")
        assert sorted(path.name for path in (out / "sets" / name / f"seed-{seed}").iterdir()) == files
    for name, _ in held:
        one, again, other = ((out / "outputs" / which / name).read_bytes() for which in ("one-1", "again-1", "one-2"))
        assert one == again
        assert one != other


def test_a_pool_under_the_size_of_a_set_ends_it_with_a_sentence(example: ModuleType) -> None:
    with pytest.raises(InputError, match="a set of 3 tiles is to be drawn from 2: give more photos"):
        example.draw({"a": "a.png", "b": "b.png"}, 1)


def photos_of(folder: Path) -> set[str]:
    return {path.name.partition("+")[0].partition("-")[2] for path in folder.iterdir()}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.float64)


def laplacian_variance(rgb: np.ndarray) -> float:
    """By the definition: luma in whole levels, four neighbours less four times the middle, mirrored at the edges."""
    luma = np.floor(rgb @ [0.299, 0.587, 0.114] + 0.5)
    wide = np.pad(luma, 1, mode="reflect")
    return float((wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * luma).var())
