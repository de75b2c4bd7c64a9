"""The arithmetic of a prediction, by hand; and a prediction against the run that follows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from lucidflux_data.selection.config import make_config
from lucidflux_data.vectors.duplicates import count_products
from pipelines.filter.estimate import Costs, Machines, predict

COSTS = Costs(
    images=10, bytes=1e6, largest_pixels=24e6, read_s=0.01, measure_s=0.04, history_s=0, metric_s=0.5, survivors=0.5
)


def test_time_is_that_of_the_busiest_resource() -> None:
    config = make_config("lucidflux", settings=["cut.top_fraction=0.2", "shards.max_samples=100"])
    found = predict(COSTS, 10_000, config, Machines(num_cpus=10))
    assert found["survivors"] == 5000
    assert found["kept"] == 1000
    assert found["units"] == 250  # 40 images each
    assert found["wall_seconds"]["score"] == pytest.approx(10_000 * 0.05 / 8.5, abs=0.1)
    assert found["wall_seconds"]["metric"] == pytest.approx(5000 * 0.5 / 8.5, abs=0.1)
    assert found["saturates_first"]["metric"] == "cpu"
    assert found["shards"] == 10
    assert found["bytes_out"] == 1000 * (1e6 + 2304)
    assert found["bytes_in"] == (10_000 + 5000 + 1000) * 1e6
    assert found["gpu_hours"] == 0
    assert found["worker_bytes"] == 350e6 + 8 * 24e6
    assert predict(COSTS, 100, config, Machines(num_cpus=10, nodes=3))["node_bytes"] == 4 * found["worker_bytes"]
    slow = predict(COSTS, 10_000, config, Machines(num_cpus=10, storage_gbps=0.1))
    assert slow["saturates_first"] == {"score": "storage", "metric": "cpu", "pack": "storage"}
    assert slow["wall_seconds"]["score"] == 100.0


def test_gpus_take_the_metric_and_cost_their_price() -> None:
    costs = Costs(**{**COSTS.__dict__, "metric_s": 1.0, "gpu": True})
    machines = Machines(num_cpus=1000, num_gpus=2, price_cpu_hour=0.0, price_gpu_hour=3.0)
    found = predict(costs, 10_000, make_config("lucidflux"), machines)
    assert found["saturates_first"]["metric"] == "gpu"
    assert found["wall_seconds"]["metric"] == 2500.0
    assert found["gpu_hours"] == pytest.approx(5000 / 3600, abs=0.01)
    assert found["money"] == pytest.approx(found["wall_hours"] * 2 * 3, abs=0.02)


def test_a_scorer_and_the_comparing_of_its_vectors_cost_time() -> None:
    costs = replace(COSTS, scorer_s=0.2, product_s=1e-8)
    config = make_config("lucidflux", settings=["cut.top_fraction=0.5", "select.semantic_duplicates=0.9"])
    found = predict(costs, 1_000_000, config, Machines(num_cpus=10))
    assert found["wall_seconds"]["scorer"] == pytest.approx(500_000 * (0.01 + 0.2) / 8.5, abs=0.1)
    within, centres = 250_000 * 2000, 125  # pairs of rows, half of which are left out; all with centres, which cost two
    expected = within + 2 * centres * (250_000 + 10 * 64 * centres)
    assert found["wall_seconds"]["vectors"] == pytest.approx(1e-8 * expected, abs=0.1), "on one core"
    assert found["saturates_first"]["vectors"] == "cpu"
    assert count_products(20_000) == 20_000**2, "all with all"
    without = predict(costs, 10_000, make_config("lucidflux"), Machines(num_cpus=10))
    assert set(without["wall_seconds"]) == {"score", "metric", "pack", "scorer"}
    assert set(predict(COSTS, 10_000, config, Machines(num_cpus=10))["wall_seconds"]) == {"score", "metric", "pack"}


def test_plan_times_a_scorer_on_the_sample(tmp_path: Path, photo_paths: list[Path], data_command, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for path in photo_paths[:4]:
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "of_plan.py").write_text(
        "import numpy as np\n\n"
        "def embed(images):\n    return {'v': np.stack([image[0, :8, 0] for image in images]).astype(float)}\n\n"
        "def plain(images):\n    return {'n': [1.0] * len(images)}\n\n"
        "def broken(images):\n    raise RuntimeError('no weights')\n"
    )
    plan = [
        "plan",
        "photos",
        "--iqa",
        "none",
        "--num-cpus",
        1,
        "--set",
        "select.semantic_duplicates=0.9",
        "--min-side",
        8,
    ]
    plan += ["--set", "rules.min_laplacian_variance=0", "--set", "rules.max_flat_fraction=1", "--json"]
    done = data_command(*plan, "--scorer", "of_plan:embed")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["wall_seconds"]) == {"score", "metric", "pack", "scorer", "vectors"}
    assert found["costs"]["scorer_s"] > 0 < found["costs"]["product_s"]
    assert found["bytes_in"] > json.loads(data_command(*plan).stdout)["bytes_in"], "survivors are read once more"
    found = json.loads(data_command(*plan, "--scorer", "of_plan:plain").stdout)
    assert set(found["wall_seconds"]) == {"score", "metric", "pack", "scorer"}
    for scorer, sentence in (("of_plan:broken", "failed: RuntimeError: no weights"), ("sscd=nowhere", "sscd needs")):
        done = data_command(*plan, "--scorer", scorer)
        assert done.returncode == 2
        assert sentence in done.stderr


def test_without_a_metric_every_survivor_is_kept() -> None:
    found = predict(COSTS, 1000, make_config("lucidflux", settings=["iqa.metric=none"]), Machines(num_cpus=2))
    assert found["kept"] == found["survivors"] == 500
    assert found["wall_seconds"]["metric"] == pytest.approx(125 * 0.002, abs=0.1)


def test_a_run_is_what_was_predicted_of_it(tmp_path: Path, photo_paths: list[Path], data_command) -> None:
    """Counts lie in the interval of the sample, bytes within a quarter; what is arithmetic is exact."""
    folder, run = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    images = [cv2.imread(str(path)) for path in photo_paths if path.stem in ("astronaut", "chelsea", "coffee")]
    rng = np.random.default_rng(0)
    for number in range(80):
        image = images[number % 3]
        top, left = (int(rng.integers(0, side - 180)) for side in image.shape[:2])
        cut = image[top : top + 180, left : left + 180]
        cut = cv2.GaussianBlur(cut, (0, 0), 3) if number % 4 == 0 else cut
        (folder / f"{number:02d}.jpg").write_bytes(cv2.imencode(".jpg", cut, [1, 90])[1].tobytes())
    (folder / "80.jpg").write_bytes(b"no image")
    options = ["--iqa", "none", "--set", "shards.max_samples=20"]
    done = data_command("plan", folder, "--num-cpus", 1, "--sample", 60, "--out", run, *options, "--json")
    assert done.returncode == 0, done.stderr
    done = data_command("filter", folder, "--out", run, *options, "--executor", "local", "--num-cpus", 1, "--json")
    assert done.returncode == 0, done.stderr
    predicted, actual = (json.loads(done.stdout)[name] for name in ("predicted", "actual"))
    assert predicted["candidates"] == actual["candidates"] == 81
    low, high = predicted["survivors_between"]
    assert high - low < 30, "an interval that says something"
    assert low <= actual["survivors"] <= high
    assert actual["survivors"] == actual["kept"] == json.loads(done.stdout)["kept"]
    for name in ("bytes_in", "bytes_out"):
        assert 0.75 < predicted[name] / actual[name] < 1.3, name
    assert abs(predicted["shards"] - actual["shards"]) <= 1
    assert actual["bytes_out"] == sum(path.stat().st_size for path in (run / "shards").glob("*.tar"))
    assert set(actual) >= {"wall_hours", "core_hours", "slowest_unit_s"}
