"""W&B and MLflow without a network: off by default, the figures of metrics.jsonl, one run there for one run here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lucidflux_data.errors import ConfigError
from lucidflux_model.training.progress import trackers
from lucidflux_model.training.progress.log import TrainLog
from lucidflux_model.training.progress.trackers import Trackers, read_ids
from tests.support import training

SETTINGS = {"steps": 3, "optimizer": "adamw", "data.online": None, "betas": [0.9, 0.999]}


def line(step: int, loss: float) -> Any:
    return {"step": step, "loss": loss, "loss_by_sigma": [None, loss], "validation": {"psnr": 20.0 + step}}


def log_steps(run: Path, name: str, *steps: int) -> str:
    """The id of the run in the service."""
    log = TrainLog(run, min(steps) - 1, False, Trackers(run, [name], SETTINGS, print))
    for step in steps:
        log.write(line(step, 1 / step))
    log.close()
    return read_ids(run)[name]


def test_nothing_is_tracked_by_default(tmp_path: Path) -> None:
    assert training.config_of().trackers == ()
    assert "trackers" not in training.config_of("trackers=wandb,mlflow").fixed_settings()
    with pytest.raises(ConfigError, match="trackers"):
        training.config_of("trackers=comet")
    TrainLog(tmp_path, 0, False, Trackers(tmp_path, [], SETTINGS, print)).close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.slow
def test_mlflow_has_the_figures_and_a_run_that_goes_on_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    mlflow.set_tracking_uri(f"file://{tmp_path}/store")
    run = tmp_path / "run"
    run.mkdir()
    first = log_steps(run, "mlflow", 1, 2)
    assert log_steps(run, "mlflow", 3) == first
    client = mlflow.MlflowClient(f"file://{tmp_path}/store")
    history = {metric.step: metric.value for metric in client.get_metric_history(first, "loss")}
    assert history == {1: 1.0, 2: 0.5, 3: pytest.approx(1 / 3)}
    assert client.get_run(first).data.metrics["validation/psnr"] == 23.0
    assert client.get_run(first).data.params["optimizer"] == "adamw"
    assert client.get_run(first).info.run_name == "run"


@pytest.mark.slow
def test_wandb_has_the_figures_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    run.mkdir()
    first = log_steps(run, "wandb", 1, 2)
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert first in folder.name
    (data,) = folder.glob("*.wandb")
    assert b"validation/psnr" in data.read_bytes()
    assert log_steps(run, "wandb", 3) == first


def test_a_tracker_that_is_not_installed_or_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"mlflow is not installed: pip install 'lucidflux\[trackers\]'"):
        Trackers(tmp_path, ["mlflow"], SETTINGS, print)

    def refuse(*_: object) -> None:
        raise RuntimeError("no API key\nTraceback")

    monkeypatch.setitem(trackers.STARTED_BY, "wandb", refuse)
    with pytest.raises(ConfigError, match=r"wandb does not start \(no API key\)"):
        Trackers(tmp_path, ["wandb"], SETTINGS, print)
    assert not (tmp_path / trackers.IDS).exists()


class Gone:
    """A service that takes one line."""

    class run:
        id = "abc"

    def __init__(self) -> None:
        self.lines: list[int] = []

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        assert values["steps"] == 3

    def log(self, values: dict[str, float], step: int) -> None:
        if self.lines:
            raise ConnectionError("the server is gone")
        self.lines.append(step)

    def finish(self) -> None:
        raise AssertionError("it was let go of")


def test_a_service_that_goes_away_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone, said = Gone(), []
    monkeypatch.setitem(trackers.STARTED_BY, "wandb", lambda *_: gone)
    log = TrainLog(tmp_path, 0, False, Trackers(tmp_path, ["wandb"], SETTINGS, said.append))
    for step in (1, 2, 3):
        log.write(line(step, 1.0))
    log.close()
    assert gone.lines == [1]
    assert said == ["warning: wandb takes no more figures (the server is gone): metrics.jsonl has them all"]
    assert [json.loads(text)["step"] for text in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
