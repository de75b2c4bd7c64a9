"""Training in the workers of a real Ray Train job: a worker killed, a node drained, the driver signalled."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

import cli
from lucidflux_model.training.checkpoints import PLACE, latest
from pipelines.execution.progress import Progress
from pipelines.training.launch import Request
from pipelines.training.on_ray import train_on_ray
from tests.support import training

STEPS = 24
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("train")
    return training.make_pairs(training.make_photos(root / "photos"), root / "pairs")


@pytest.fixture(scope="module")
def whole(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes without Ray, in one go; and `begun`, of two steps."""
    out = tmp_path_factory.mktemp("whole")
    assert training.in_two(pairs, (out / "begun", "steps=2"), (out / "run", f"steps={STEPS}")) == [0, 0]
    return out / "run"


def steps_of(out: Path) -> int:
    path = out / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def checkpoints(out: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (out / PLACE).glob("step-*"))


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.05)


def drain_the_node() -> None:
    """What the autoscaler of a cloud tells Ray when a spot machine is about to be taken away, in an hour here."""
    import ray
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    (node,) = ray.nodes()
    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, why = client.drain_node(node["NodeID"], reason, "", (time.time_ns() // 10**6) + 3_600_000)
    assert accepted, why


@pytest.mark.slow
def test_a_drained_node_is_saved_for_and_sigterm_at_the_driver_stops_at_a_step(
    pairs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The run was begun without Ray, and is ended without: nothing of it differs from one that was left alone."""
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.1")
    out = training.copy(whole.parent / "begun", tmp_path / "run")
    failed: list[BaseException] = []

    def drain_then_signal() -> None:
        try:
            until(lambda: steps_of(out) >= 3)
            drain_the_node()
            until(lambda: len(checkpoints(out)) == 2)
        except BaseException as error:
            failed.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=drain_then_signal, daemon=True).start()
    settings = [*training.SETTINGS, "steps=1000", "checkpoint_every=1000"]
    arguments = ["train", "--data", str(pairs), "--out", str(out), "--resume", "--launcher", "ray", "--num-cpus", "2"]
    monkeypatch.setattr(sys, "argv", ["lucidflux", *arguments, *(x for s in settings for x in ("--set", s))])
    with pytest.raises(SystemExit) as ended:
        cli.lucidflux_main()
    told = capsys.readouterr().err
    assert not failed
    assert ended.value.code == 5, told
    begun, preempted, stopped = checkpoints(out)
    assert begun == 2
    assert 3 <= preempted < stopped < 1000
    assert latest(out).name == f"step-{stopped:08d}"
    assert f"stopped after step {stopped}" in told.splitlines()[-1]
    assert steps_of(out) == stopped
    last = max(STEPS, stopped + 1)
    longer = training.copy(whole, tmp_path / "longer")
    early = training.copy(out, tmp_path / "early")  # from what was saved for the node
    (early / PLACE / "latest").write_text(f"step-{preempted:08d}")
    assert training.in_two(pairs, *((run, f"steps={last}") for run in (out, longer, early))) == [0, 0]
    for run in (out, early):
        assert training.differing(run, longer) == []
        assert training.lines(run) == training.lines(longer)


def kill_a_worker(out: Path, tag: str, killed: list[int]) -> None:
    """Once step 4 is written: one of the two Ray processes that train."""
    until(lambda: steps_of(out) >= 4)
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("LUCIDFLUX_TEST") == tag
            if ours and "RayTrainWorker" in " ".join(process.cmdline()):
                process.kill()
                killed.append(process.pid)
                return
        except psutil.Error:
            continue


@pytest.mark.slow
def test_ray_train_goes_on_after_a_worker_was_killed(
    pairs: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUCIDFLUX_TEST", str(tmp_path))
    out = tmp_path / "run"
    config = training.config_of(f"steps={STEPS}")
    killed: list[int] = []
    threading.Thread(target=kill_a_worker, args=(out, str(tmp_path), killed), daemon=True).start()
    monkeypatch.chdir(tmp_path)  # relative to the driver's folder, which is not the workers'
    request = Request(config, (os.path.relpath(pairs, tmp_path),), "run", None, False, "auto")
    summary = train_on_ray(request, None, 2, None, Progress(True))
    assert len(killed) == 1
    assert summary["steps"] == STEPS
    assert training.lines(out) == training.lines(whole)
    assert training.differing(out, whole) == []
    assert json.loads((latest(out) / "progress.json").read_text())["step"] == STEPS
    assert (out / "trained.safetensors").exists()
