"""One thread: several processes whose threads wait for each other by spinning take 50 times as long on two cores."""

from pathlib import Path

import pytest
import torch

from tests.support import training

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def train_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.make_photos(tmp_path_factory.mktemp("train") / "photos")


@pytest.fixture(scope="session")
def train_pairs(train_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 pairs of 96x96 in three shards."""
    return training.make_pairs(train_photos, tmp_path_factory.mktemp("train") / "pairs")
