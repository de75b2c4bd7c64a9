"""The example from photos to a ranked network, shortened: the loss falls, and the network has a rank beside bicubic."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("spandrel")

from tests.support.paths import ROOT

EPOCHS = 50


@pytest.mark.slow
def test_the_loss_falls_and_the_trained_network_is_ranked(
    photo_paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("train_compact", ROOT / "examples" / "train_compact.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    taken = [path for path in photo_paths if path.stem in ("astronaut", "camera", "coffee", "rocket")]
    monkeypatch.setattr(example, "bundled_photos", lambda: taken)
    monkeypatch.setattr(example, "TILES", 4)
    monkeypatch.setattr(example, "BATCH", 4)
    # A clock that ticks once an epoch: as many steps on a busy machine as on a quiet one.
    monkeypatch.setattr(example, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    shutil.copy(taken[3], tmp_path / "photos" / "astronaut.png")  # the name of another photo
    (tmp_path / "photos" / "broken.jpg").write_bytes(taken[0].read_bytes()[:100])
    example.main(tmp_path / "photos", tmp_path / "out", EPOCHS)

    told = capsys.readouterr().out
    steps = re.search(r"(\d+) steps, loss ([\d.]+) -> ([\d.]+)", told)
    assert steps is not None
    assert float(steps[3]) < 0.98 * float(steps[2])
    board = json.loads((tmp_path / "out" / "bench" / "leaderboard.json").read_text())
    names = sorted(board["methods"])
    assert names[0] == "bicubic"
    assert re.fullmatch(r"compact\[[0-9a-f]{12}\]", names[1])
    for metric in ("psnr", "ssim"):
        assert {row["rank"] for row in board["metrics"][metric]["rows"].values()} == {1, 2}
    # The difference that is told, from the pictures alone.
    gains: dict[str, list[float]] = {}
    for file in sorted((tmp_path / "out" / "hq").iterdir()):
        true = pixels(file)
        assert true.shape == (128, 128, 3)
        made = [pixels(tmp_path / "out" / "outputs" / name / file.name) for name in names]
        bicubic, compact = (10 * np.log10(255**2 / np.mean((one - true) ** 2)) for one in made)
        gains.setdefault(file.name.partition("+")[0], []).append(compact - bicubic)
    assert set(gains) == {f"{place}-{path.stem}" for place, path in enumerate(taken[2:])}
    assert f"{tmp_path / 'photos' / 'broken.jpg'} is left out: " in told
    every = [gain for some in gains.values() for gain in some]
    assert f"{len(every)} pairs: {np.mean(every):+.3f} dB" in told
    assert f"{len(gains)} photos: {np.mean([np.mean(some) for some in gains.values()]):+.3f} dB" in told
    seen = {path.name.partition("+")[0] for path in (tmp_path / "out" / "train-tiles").iterdir()}
    assert seen == {*(f"{place}-{path.stem}" for place, path in enumerate(taken[:2])), "2-astronaut"}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.float64)
