"""The arithmetic of a prediction, by hand."""

from __future__ import annotations

import pytest

from lucidflux_data.config import make_config
from pipelines.plan import Costs, Machines, predict

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
    assert found["bytes_out"] == 1000 * 1e6
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


def test_without_a_metric_every_survivor_is_kept() -> None:
    found = predict(COSTS, 1000, make_config("lucidflux", settings=["iqa.metric=none"]), Machines(num_cpus=2))
    assert found["kept"] == found["survivors"] == 500
    assert found["wall_seconds"]["metric"] == pytest.approx(125 * 0.002, abs=0.1)
