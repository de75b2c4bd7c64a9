"""A small run of JPEG and PNG with licences beside them, and pairs of it, in this process."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from tests.support.here import run_filter, run_synthesize

LICENCES = {"astronaut": "CC0-1.0", "chelsea": "https://creativecommons.org/licenses/by/4.0/", "coffee": "",
            "hubble_deep_field": "Own | <b>terms</b>"}  # fmt: skip
RULES = ("iqa.metric=none", "rules.min_laplacian_variance=10", "rules.max_flat_fraction=1", "shards.max_samples=2")


@pytest.fixture(scope="session")
def photos(photo_paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos of 256 px, two of them JPEG, one grey square, and metadata.csv with the licence of each."""
    folder = tmp_path_factory.mktemp("publish") / "photos"
    folder.mkdir()
    names = {}
    for number, path in enumerate(path for path in photo_paths if path.stem in LICENCES):
        names[path.stem] = f"{path.stem}{('.jpg', '.png')[number % 2]}"
        cv2.imwrite(str(folder / names[path.stem]), cv2.imread(str(path))[:256, :256])
    cv2.imwrite(str(folder / "grey.png"), cv2.blur(cv2.imread(str(photo_paths[0])), (99, 99))[:256, :256])
    with (folder / "metadata.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file_name", "licence"])
        rows.writerows([names[stem], licence] for stem, licence in LICENCES.items())
    return folder


@pytest.fixture(scope="session")
def made_run(photos: Path) -> Path:
    run = photos.parent / "run"
    run_filter(photos, run, *RULES)
    return run


@pytest.fixture(scope="session")
def made_pairs(made_run: Path) -> Path:
    pairs = made_run.parent / "pairs"
    run_synthesize(made_run, pairs, "degrade.size=96", "variants=2")
    return pairs


@pytest.fixture(scope="session")
def croissant_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """mlcroissant keeps what it unpacks by the address of a tar alone, so that two sets with equal names are one to it:
    asked for before it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROISSANT_CACHE", str(tmp_path_factory.mktemp("croissant")))
        yield
